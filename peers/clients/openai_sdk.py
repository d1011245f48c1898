"""The `openai` package against a server: chat, streams, tools, parsing, responses, errors.

    python peers/clients/openai_sdk.py URL

URL is that of `cargo run -p server --example scripted`, whose model says what it is told. Ends with an assertion where
something is not as the package's own types have it.
"""

import asyncio
import sys

import openai
from pydantic import BaseModel

URL = sys.argv[1] + "/v1"
client = openai.OpenAI(base_url=URL, api_key="none", max_retries=0)
CALLS = "<｜tool▁calls▁begin｜>{}<｜tool▁calls▁end｜>"
CALL = '<｜tool▁call▁begin｜>weather<｜tool▁sep｜>{"city": "Paris"}<｜tool▁call▁end｜>'
TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather in a city.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}},
            "required": ["city"],
            "additionalProperties": False,
        },
        "strict": True,
    },
}


class Answer(BaseModel):
    city: str
    warm: bool


def user(text):
    return [{"role": "user", "content": text}]


def chat(text, **more):
    return client.chat.completions.create(model="any", messages=user(text), **more)


def test_models():
    models = client.models.list().data
    assert [model.id for model in models] == ["scripted"]
    assert client.models.retrieve("scripted").id == "scripted"


def test_chat():
    answer = chat("hello", seed=1, user="me", metadata={"a": "b"}, temperature=0.5, top_p=0.9)
    choice = answer.choices[0]
    assert choice.message.content == "You said: hello" and choice.finish_reason == "stop"
    assert choice.message.tool_calls is None and choice.logprobs is None
    usage = answer.usage
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens
    assert usage.prompt_tokens_details.cached_tokens <= usage.prompt_tokens
    assert usage.completion_tokens_details.reasoning_tokens == 0
    assert len(chat("hello", n=3).choices) == 3


def test_stream():
    stream = chat("count 20", stream=True, stream_options={"include_usage": True})
    chunks = list(stream)
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert text == " ".join(str(n) for n in range(1, 21))
    assert chunks[-1].usage.completion_tokens > 20 and not chunks[-1].choices
    assert len({chunk.id for chunk in chunks}) == 1
    # One that is left early does no harm.
    with chat("count 500", stream=True) as stream:
        next(iter(stream))
    with client.chat.completions.stream(model="any", messages=user("hello")) as stream:
        stream.until_done()
        assert stream.get_final_completion().choices[0].message.content == "You said: hello"


def test_reasoning():
    on = {"thinking": {"type": "enabled"}}
    answer = chat("say: hm\n</think>\n\nyes", extra_body=on)
    assert answer.choices[0].message.reasoning_content == "hm"
    assert answer.choices[0].message.content == "yes"
    assert answer.usage.completion_tokens_details.reasoning_tokens > 0
    chunks = list(chat("say: hm\n</think>\n\nyes", extra_body=on, stream=True))
    deltas = [chunk.choices[0].delta for chunk in chunks]
    assert "".join(getattr(delta, "reasoning_content", None) or "" for delta in deltas) == "hm"
    back = user("x") + [{"role": "assistant", "content": "yes", "reasoning_content": "hm"}] + user("again")
    answer = client.chat.completions.create(model="any", messages=back, reasoning_effort="high")
    assert answer.choices[0].message.reasoning_content or answer.choices[0].message.content


def test_tools():
    answer = chat("say: " + CALLS.format(CALL + CALL), tools=[TOOL])
    message = answer.choices[0].message
    assert answer.choices[0].finish_reason == "tool_calls" and message.content is None
    assert [call.function.arguments for call in message.tool_calls] == ['{"city": "Paris"}'] * 2
    assert len({call.id for call in message.tool_calls}) == 2
    messages = user("weather?") + [message]
    messages += [{"role": "tool", "tool_call_id": call.id, "content": "rain"} for call in message.tool_calls]
    assert client.chat.completions.create(model="any", messages=messages, tools=[TOOL]).choices[0].message.content
    for choice in ["required", {"type": "function", "function": {"name": "weather"}}]:
        forced = chat("no", tools=[TOOL], tool_choice=choice, parallel_tool_calls=False).choices[0]
        assert len(forced.message.tool_calls) == 1 and forced.finish_reason == "tool_calls"
    assert chat("no", tools=[TOOL], tool_choice="none").choices[0].message.tool_calls is None
    with client.chat.completions.stream(model="any", messages=user("say: " + CALLS.format(CALL)), tools=[TOOL]) as stream:
        kinds = [event.type for event in stream]
        assert "tool_calls.function.arguments.done" in kinds
        call = stream.get_final_completion().choices[0].message.tool_calls[0]
        assert call.function.name == "weather" and call.function.parsed_arguments == {"city": "Paris"}


def test_parse():
    answer = client.chat.completions.parse(
        model="any", messages=user('say: {"city": "Rome", "warm": true}'), response_format=Answer
    )
    assert answer.choices[0].message.parsed == Answer(city="Rome", warm=True)
    answer = client.chat.completions.parse(model="any", messages=user("say: no"), response_format=Answer)
    assert isinstance(answer.choices[0].message.parsed, Answer)
    tool = openai.pydantic_function_tool(Answer)
    answer = client.chat.completions.parse(model="any", messages=user("x"), tools=[tool], tool_choice="required")
    assert isinstance(answer.choices[0].message.tool_calls[0].function.parsed_arguments, Answer)


def test_logprobs():
    tokens = chat("say: abc", logprobs=True, top_logprobs=2).choices[0].logprobs.content
    assert "".join(token.token for token in tokens) == "abc"
    assert all(len(token.top_logprobs) == 2 and token.logprob <= 0 for token in tokens)
    answer = client.completions.create(model="any", prompt="abc", echo=True, logprobs=1, max_tokens=2)
    assert answer.choices[0].text == "abcde"
    assert len(answer.choices[0].logprobs.tokens) == len(answer.choices[0].logprobs.token_logprobs)


def test_completions():
    assert client.completions.create(model="any", prompt="abc", max_tokens=3).choices[0].text == "def"
    chunks = client.completions.create(model="any", prompt="abc", max_tokens=3, stream=True)
    assert "".join(chunk.choices[0].text for chunk in chunks) == "def"


def test_responses():
    first = client.responses.create(model="any", input="hello", instructions="Be kind.")
    assert first.output_text == "You said: hello" and first.status == "completed"
    assert first.usage.total_tokens == first.usage.input_tokens + first.usage.output_tokens
    second = client.responses.create(model="any", input="again", previous_response_id=first.id)
    assert second.output_text == "You said: again" and second.usage.input_tokens > first.usage.input_tokens
    tool = {"type": "function", **TOOL["function"]}
    called = client.responses.create(model="any", input="say: " + CALLS.format(CALL), tools=[tool])
    call = called.output[-1]
    assert call.type == "function_call" and call.arguments == '{"city": "Paris"}'
    output = {"type": "function_call_output", "call_id": call.call_id, "output": "rain"}
    after = client.responses.create(model="any", input=[output], previous_response_id=called.id, tools=[tool])
    assert after.output
    with client.responses.stream(model="any", input="say: hm\n</think>\n\nyes", reasoning={"effort": "high"}) as stream:
        kinds = [event.type for event in stream]
        final = stream.get_final_response()
    assert "response.reasoning_text.delta" in kinds and kinds[-1] == "response.completed"
    assert final.output_text == "yes" and final.output[0].content[0].text == "hm"
    parsed = client.responses.parse(model="any", input='say: {"city": "Rome", "warm": true}', text_format=Answer)
    assert parsed.output_parsed == Answer(city="Rome", warm=True)


def test_errors():
    for more, field in [({"temperature": 99}, "temperature"), ({"n": 0}, "n"), ({"stop": [1]}, "stop[0]")]:
        try:
            chat("x", **more)
        except openai.BadRequestError as error:
            assert error.param == field and error.type == "invalid_request_error" and field in error.message
        else:
            raise AssertionError(f"{more} was accepted")
    try:
        chat("word " * 20000)
    except openai.BadRequestError as error:
        assert error.code == "context_length_exceeded" and "8192" in error.message
    else:
        raise AssertionError("a prompt that is too long was accepted")
    try:
        client.models.retrieve("none")
    except openai.NotFoundError as error:
        assert "none" in error.message
    else:
        raise AssertionError("a model that is not there was found")


def test_async():
    async def all_of_them():
        many = openai.AsyncOpenAI(base_url=URL, api_key="none")
        ask = lambda i: many.chat.completions.create(model="any", messages=user(f"say: {i}"))
        answers = await asyncio.gather(*(ask(i) for i in range(40)))
        assert [answer.choices[0].message.content for answer in answers] == [str(i) for i in range(40)]

    asyncio.run(all_of_them())


for name, test in list(globals().items()):
    if name.startswith("test_"):
        test()
        print(name, "ok")
print(f"openai {openai.__version__}: all ok")
