"""anthropic, litellm, langchain-openai, instructor, pydantic-ai and llm against a server.

    python peers/clients/others.py URL NAME…

URL is that of `cargo run -p server --example scripted`, whose model says what it is told; a NAME is one of the tests
below without its `test_`. Each imports its own package: they disagree about the version of `openai`, so that some need an
environment of their own.
"""

import asyncio
import os
import subprocess
import sys
import tempfile
from typing import Literal

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"

from pydantic import BaseModel

URL = sys.argv[1]
os.environ["OPENAI_API_KEY"] = os.environ["ANTHROPIC_API_KEY"] = "none"
CALLS = "<｜tool▁calls▁begin｜>{}<｜tool▁calls▁end｜>"
CALL = CALLS.format('<｜tool▁call▁begin｜>weather<｜tool▁sep｜>{"city": "Paris"}<｜tool▁call▁end｜>')
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}


class Answer(BaseModel):
    city: str
    mood: Literal["good", "bad"]


def user(text):
    return [{"role": "user", "content": text}]


def test_anthropic():
    import anthropic

    client = anthropic.Anthropic(base_url=URL, max_retries=0)
    ask = dict(model="any", max_tokens=200)
    message = client.messages.create(messages=user("hello"), system="Be kind.", **ask)
    assert message.content[0].text == "You said: hello" and message.stop_reason == "end_turn"
    n = client.messages.count_tokens(model="any", messages=user("hello"), system="Be kind.").input_tokens
    assert n == message.usage.input_tokens + message.usage.cache_read_input_tokens
    with client.messages.stream(messages=user("count 20"), **ask) as stream:
        assert "".join(stream.text_stream) == " ".join(str(n) for n in range(1, 21))
        assert stream.get_final_message().usage.output_tokens > 20
    tools = [{"name": "weather", "description": "d", "input_schema": SCHEMA}]
    thinking = {"type": "enabled", "budget_tokens": 1024}
    text = f"say: hm\n</think>\n\n{CALL}"
    message = client.messages.create(messages=user(text), tools=tools, thinking=thinking, **ask)
    assert [block.type for block in message.content] == ["thinking", "tool_use"]
    assert message.content[1].input == {"city": "Paris"} and message.stop_reason == "tool_use"
    with client.messages.stream(messages=user(text), tools=tools, thinking=thinking, **ask) as stream:
        final = stream.get_final_message()
    assert [block.type for block in final.content] == ["thinking", "tool_use"]
    assert final.content[0].thinking == "hm" and final.content[1].input == {"city": "Paris"}
    result = [{"type": "tool_result", "tool_use_id": message.content[1].id, "content": "rain"}]
    history = user(text) + [{"role": "assistant", "content": message.content}, {"role": "user", "content": result}]
    assert client.messages.create(messages=history, tools=tools, **ask).content
    # What only Anthropic's own models do is ignored, and what this one cannot do is refused.
    cached = [{"type": "text", "text": "hello", "cache_control": {"type": "ephemeral"}}]
    assert client.messages.create(messages=user(cached), system=cached, **ask).content[0].text == "You said: hello"
    blocks = [{"type": "tool_result", "tool_use_id": "x", "content": [{"type": "text", "text": "rain"}], "is_error": True}]
    history = user(text) + [{"role": "assistant", "content": message.content}, {"role": "user", "content": blocks}]
    assert client.messages.create(messages=history, tools=tools, **ask).content
    image = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "aGk="}}
    try:
        client.messages.create(messages=user([image]), **ask)
    except anthropic.BadRequestError as error:
        assert "image" in str(error)
    else:
        raise AssertionError("an image was read")
    models = list(client.models.list())
    assert [model.id for model in models] == [client.models.retrieve(models[0].id).id] and models[0].display_name
    assert client.beta.messages.create(messages=user("hello"), betas=["x-2025-01-01"], **ask).content
    forced = client.messages.create(messages=user("no"), tools=tools, tool_choice={"type": "any"}, **ask)
    assert forced.content[0].type == "tool_use"
    try:
        client.messages.create(messages=user("x"), model="any", max_tokens=5, extra_body={"temperature": 99})
    except anthropic.BadRequestError as error:
        assert "temperature" in str(error)
    else:
        raise AssertionError("accepted")


def test_litellm():
    import litellm

    ask = dict(model="openai/any", api_base=URL + "/v1", api_key="none")
    assert litellm.completion(messages=user("hello"), **ask).choices[0].message.content == "You said: hello"
    chunks = litellm.completion(messages=user("count 9"), stream=True, **ask)
    assert "".join(c.choices[0].delta.content or "" for c in chunks) == "1 2 3 4 5 6 7 8 9"
    tools = [{"type": "function", "function": {"name": "weather", "parameters": SCHEMA}}]
    call = litellm.completion(messages=user("say: " + CALL), tools=tools, **ask).choices[0].message.tool_calls[0]
    assert call.function.arguments == '{"city": "Paris"}'
    thought = litellm.completion(messages=user("say: hm\n</think>\n\nyes"), extra_body={"thinking": {"type": "enabled"}}, **ask)
    assert thought.choices[0].message.reasoning_content == "hm"
    ask = dict(model="anthropic/any", api_base=URL, api_key="none", max_tokens=50)
    assert litellm.completion(messages=user("hello"), **ask).choices[0].message.content == "You said: hello"
    ask = dict(model="deepseek/any", api_base=URL + "/v1", api_key="none")
    assert litellm.completion(messages=user("hello"), **ask).choices[0].message.content == "You said: hello"


def test_langchain():
    from langchain_core.messages import HumanMessage, ToolMessage
    from langchain_core.tools import tool
    from langchain_openai import ChatOpenAI

    model = ChatOpenAI(model="any", base_url=URL + "/v1", api_key="none")
    assert model.invoke("hello").content == "You said: hello"
    assert "".join(chunk.content for chunk in model.stream("count 9")) == "1 2 3 4 5 6 7 8 9"

    @tool
    def weather(city: str) -> str:
        """The weather in a city."""
        return "rain in " + city

    with_tools = model.bind_tools([weather])
    answer = with_tools.invoke("say: " + CALL)
    assert answer.tool_calls[0]["args"] == {"city": "Paris"}
    result = ToolMessage(weather.invoke(answer.tool_calls[0]["args"]), tool_call_id=answer.tool_calls[0]["id"])
    assert with_tools.invoke([HumanMessage("weather?"), answer, result]).content
    for method in ["json_schema", "function_calling"]:
        answer = model.with_structured_output(Answer, method=method).invoke('say: {"city": "Rome", "mood": "good"}')
        assert isinstance(answer, Answer), method
    responses = ChatOpenAI(model="any", base_url=URL + "/v1", api_key="none", use_responses_api=True)
    assert responses.invoke("hello").text == "You said: hello"
    assert len(model.batch([f"say: {i}" for i in range(20)])) == 20


def test_instructor():
    import instructor
    import openai

    for mode in [instructor.Mode.TOOLS, instructor.Mode.JSON, instructor.Mode.JSON_SCHEMA, instructor.Mode.TOOLS_STRICT]:
        client = instructor.from_openai(openai.OpenAI(base_url=URL + "/v1", api_key="none"), mode=mode)
        text = 'say: {"city": "Rome", "mood": "good"}'
        answer = client.chat.completions.create(model="any", messages=user(text), response_model=Answer, max_retries=0)
        assert isinstance(answer, Answer), mode


def test_pydantic_ai():
    from pydantic_ai import Agent, NativeOutput, PromptedOutput
    from pydantic_ai.models.anthropic import AnthropicModel
    from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
    from pydantic_ai.providers.anthropic import AnthropicProvider
    from pydantic_ai.providers.openai import OpenAIProvider

    provider = OpenAIProvider(base_url=URL + "/v1", api_key="none")
    theirs = AnthropicProvider(base_url=URL, api_key="none")
    chat = OpenAIChatModel("any", provider=provider)
    models = [chat, OpenAIResponsesModel("any", provider=provider), AnthropicModel("any", provider=theirs)]
    for model in models:
        assert Agent(model, instructions="Be kind.").run_sync("hello").output == "You said: hello", model
        # The package takes markers out of what people say, so the script cannot be told to call; its answers can.
        agent = Agent(model)

        async def streamed():
            async with agent.run_stream("count 9") as result:
                return [part async for part in result.stream_text(delta=True)]

        assert "".join(asyncio.run(streamed())) == "1 2 3 4 5 6 7 8 9", model
        assert isinstance(Agent(model, output_type=Answer).run_sync("no").output, Answer), model
    text = 'say: {"city": "Rome", "mood": "good"}'
    for output in [NativeOutput(Answer), PromptedOutput(Answer)]:
        assert Agent(chat, output_type=output).run_sync(text).output == Answer(city="Rome", mood="good")


def test_llm():
    with tempfile.TemporaryDirectory() as folder:
        with open(os.path.join(folder, "extra-openai-models.yaml"), "w") as file:
            file.write(f"- model_id: ours\n  model_name: any\n  api_base: {URL}/v1\n  supports_schema: true\n")
            file.write(f"- model_id: older\n  model_name: any\n  api_base: {URL}/v1\n  completion: true\n")
        run = lambda *args: subprocess.run(
            [sys.executable, "-m", "llm", *args], env={**os.environ, "LLM_USER_PATH": folder, "OPENAI_API_KEY": "none"},
            check=True, capture_output=True, text=True, stdin=subprocess.DEVNULL,
        ).stdout.strip()
        for more in [[], ["--no-stream"], ["-s", "Be kind."], ["-o", "temperature", "0.5", "-o", "seed", "1"]]:
            assert run("-m", "ours", "hello", *more) == "You said: hello", more
        assert run("-c", "again") == "You said: again"
        shaped = run("-m", "ours", "--schema", "city, mood", 'say: {"city": "Rome", "mood": "good"}')
        assert shaped == '{"city": "Rome", "mood": "good"}'
        assert run("-m", "older", "abc", "--no-stream").startswith("def")


for name, test in list(globals().items()):
    if name.startswith("test_") and name.removeprefix("test_") in sys.argv[2:]:
        test()
        print(name, "ok")
