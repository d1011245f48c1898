//! The other languages over a real socket: completions, responses, Anthropic's messages.
#![allow(clippy::unwrap_used, reason = "a test fails where it unwraps")]

mod common;

use common::http::{get, post, send};
use common::scripted::Size;
use common::{Served, options, serve};
use serde_json::{Value, json};

const CALL: &str = "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>weather<｜tool▁sep｜>{\"city\": \"Paris\"}<｜tool▁call▁end｜>\
                    <｜tool▁calls▁end｜>";

fn server() -> Served {
    serve(Size::default(), options())
}

fn ok(served: &Served, path: &str, request: &Value) -> Value {
    let answer = post(served.addr, path, request);
    assert_eq!(answer.status, 200, "{request}: {}", answer.body);
    answer.json()
}

fn schema() -> Value {
    json!({ "type": "object", "properties": { "city": { "type": "string" } }, "required": ["city"] })
}

fn refused(served: &Served, path: &str, request: &Value, word: &str) {
    let answer = post(served.addr, path, request);
    assert_eq!(answer.status, 400, "{request}: {}", answer.body);
    assert!(answer.json()["error"]["message"].as_str().unwrap().contains(word), "{word}: {}", answer.body);
}

#[test]
fn completions_continue_texts_and_tokens() {
    let served = server();
    let path = "/v1/completions";
    let one = ok(&served, path, &json!({ "prompt": "abc", "max_tokens": 4 }));
    assert_eq!((one["object"].as_str(), one["choices"][0]["text"].as_str()), (Some("text_completion"), Some("defg")));
    assert_eq!(one["choices"][0]["finish_reason"], "length");
    let all = ok(&served, path, &json!({ "prompt": ["xy", "y"], "n": 2, "max_tokens": 9 }));
    let texts: Vec<&str> = all["choices"].as_array().unwrap().iter().map(|c| c["text"].as_str().unwrap()).collect();
    assert_eq!(texts, ["z", "z", "z", "z"]);
    assert_eq!(all["choices"][3]["index"], 3);
    let tokens = ok(&served, "/tokenize", &json!({ "prompt": "abc" }))["tokens"].clone();
    for prompt in [tokens.clone(), json!([tokens])] {
        assert_eq!(ok(&served, path, &json!({ "prompt": prompt, "max_tokens": 2 }))["choices"][0]["text"], "de");
    }
    let stopped = ok(&served, path, &json!({ "prompt": "a", "stop": "ef", "max_tokens": 50 }));
    assert_eq!(stopped["choices"][0]["text"], "bcd");
    let streamed = post(served.addr, path, &json!({ "prompt": "abc", "max_tokens": 4, "stream": true, "echo": true }));
    let text: String = streamed.events().iter().map(|e| e["choices"][0]["text"].as_str().unwrap().to_owned()).collect();
    assert_eq!(text, "abcdefg");
    for (request, word) in [
        (json!({ "prompt": [] }), "prompt"),
        (json!({ "prompt": {} }), "prompt"),
        (json!({ "prompt": "a", "max_tokens": 0 }), "max_tokens"),
        (json!({ "prompt": "a", "suffix": "b" }), "suffix"),
        (json!({ "prompt": [99999] }), "prompt"),
        (json!({ "prompt": "a", "logprobs": 99 }), "logprobs"),
    ] {
        refused(&served, path, &request, word);
    }
}

#[test]
fn a_prompt_comes_back_with_the_probability_of_each_of_its_tokens() {
    let served = server();
    let ask = |more: Value| {
        let mut request = json!({ "prompt": "abcabc", "echo": true, "logprobs": 2 });
        request.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        ok(&served, "/v1/completions", &request)["choices"][0].clone()
    };
    let alone = ask(json!({ "max_tokens": 0 }));
    assert_eq!(alone["text"], "abcabc");
    let told = &alone["logprobs"];
    let list = |key: &str| told[key].as_array().unwrap().clone();
    let tokens: String = list("tokens").iter().map(|t| t.as_str().unwrap()).collect();
    assert_eq!(tokens, "abcabc");
    let n = list("tokens").len();
    assert_eq!([list("token_logprobs").len(), list("top_logprobs").len(), list("text_offset").len()], [n; 3]);
    // The script goes on with the alphabet: the letter behind the one before is all but certain, and others are not.
    for ((token, logprob), offset) in list("tokens").iter().zip(list("token_logprobs")).zip(list("text_offset")) {
        let (logprob, offset) = (logprob.as_f64().unwrap(), offset.as_u64().unwrap() as usize);
        let before = offset.checked_sub(1).map(|at| "abcabc".as_bytes()[at]);
        let likely = before.is_some_and(|before| token.as_str().unwrap().as_bytes() == [before + 1]);
        assert_eq!(logprob > -0.1, likely, "{token} at {offset}: {logprob}");
    }
    let longer = ask(json!({ "max_tokens": 2 }));
    assert_eq!(longer["text"], "abcabcde");
    assert_eq!(longer["logprobs"]["tokens"].as_array().unwrap().len(), n + 2);
    assert_eq!(longer["logprobs"]["text_offset"][n], 6);
}

#[test]
fn every_token_of_a_completion_is_told_of_even_the_one_that_ends_it() {
    let served = server();
    // Evaluations ask for one token more than they need, and leave the last one out.
    let request = json!({ "prompt": "xyz", "echo": true, "logprobs": 1, "max_tokens": 1 });
    let whole = ok(&served, "/v1/completions", &request)["choices"][0].clone();
    assert_eq!((whole["text"].as_str(), whole["finish_reason"].as_str()), (Some("xyz"), Some("stop")));
    let list = |key: &str| whole["logprobs"][key].as_array().unwrap().clone();
    assert_eq!(list("tokens").len(), 4);
    assert_eq!(list("tokens").last().unwrap(), "<｜end▁of▁sentence｜>");
    assert!(list("token_logprobs").last().unwrap().as_f64().unwrap() > -0.1);
    let request = json!({ "prompt": "y", "logprobs": 1, "max_tokens": 9, "stream": true });
    let events = post(served.addr, "/v1/completions", &request).events();
    let told: Vec<&Value> =
        events.iter().flat_map(|e| e["choices"][0]["logprobs"]["tokens"].as_array()).flatten().collect();
    assert_eq!(told, ["z", "<｜end▁of▁sentence｜>"]);
    // Bytes that are no text on their own have names of their own.
    let tokens = ok(&served, "/tokenize", &json!({ "prompt": "😀" }))["tokens"].clone();
    assert!(tokens.as_array().unwrap().len() > 1, "a tokenizer without this character");
    let request = json!({ "prompt": tokens, "echo": true, "logprobs": 0, "max_tokens": 0 });
    let told = ok(&served, "/v1/completions", &request)["choices"][0]["logprobs"]["tokens"].clone();
    assert!(told[0].as_str().unwrap().starts_with("bytes:\\xf0"), "{told}");
}

#[test]
fn messages_answer_think_call_and_stream() {
    let served = server();
    let path = "/v1/messages";
    let mut request = json!({ "model": "x", "max_tokens": 100, "system": [{ "type": "text", "text": "Be kind." }],
                              "messages": [{ "role": "user", "content": [{ "type": "text", "text": "hello" }] }] });
    let answer = ok(&served, path, &request);
    assert_eq!((answer["type"].as_str(), answer["role"].as_str()), (Some("message"), Some("assistant")));
    assert_eq!(answer["content"], json!([{ "type": "text", "text": "You said: hello" }]));
    assert_eq!((answer["stop_reason"].as_str(), &answer["stop_sequence"]), (Some("end_turn"), &Value::Null));
    let counted = ok(&served, "/v1/messages/count_tokens", &request)["input_tokens"].as_u64().unwrap();
    let usage = &answer["usage"];
    assert_eq!(counted, usage["input_tokens"].as_u64().unwrap() + usage["cache_read_input_tokens"].as_u64().unwrap());
    request["messages"][0]["content"] = format!("say: why\n</think>\n\nso: {CALL}").into();
    request["thinking"] = json!({ "type": "enabled", "budget_tokens": 1024 });
    request["tools"] = json!([{ "name": "weather", "description": "d", "input_schema": schema() }]);
    let called = ok(&served, path, &request);
    let content = called["content"].as_array().unwrap();
    assert_eq!(content[0], json!({ "type": "thinking", "thinking": "why", "signature": "" }));
    assert_eq!(content[1], json!({ "type": "text", "text": "so: " }));
    assert_eq!((content[2]["name"].as_str(), &content[2]["input"]), (Some("weather"), &json!({ "city": "Paris" })));
    assert_eq!(called["stop_reason"], "tool_use");
    // The same as events, in Anthropic's order.
    request["stream"] = true.into();
    let events = post(served.addr, path, &request).events();
    let kinds: Vec<&str> = events.iter().map(|e| e["type"].as_str().unwrap()).collect();
    assert_eq!(
        (kinds[0], kinds[kinds.len() - 2], kinds[kinds.len() - 1]),
        ("message_start", "message_delta", "message_stop")
    );
    let blocks: Vec<&Value> = events.iter().filter(|e| e["type"] == "content_block_start").collect();
    let started: Vec<&str> = blocks.iter().map(|e| e["content_block"]["type"].as_str().unwrap()).collect();
    assert_eq!(started, ["thinking", "text", "tool_use"]);
    assert_eq!(kinds.iter().filter(|kind| **kind == "content_block_stop").count(), 3);
    let part = |key: &str| events.iter().filter_map(|e| e["delta"][key].as_str()).collect::<String>();
    assert_eq!(
        (part("thinking"), part("text"), part("partial_json")),
        ("why".into(), "so: ".into(), "{\"city\": \"Paris\"}".into())
    );
    assert_eq!(events[events.len() - 2]["delta"]["stop_reason"], "tool_use");
    // The call and its result go back.
    request["stream"] = false.into();
    request["messages"] = json!([request["messages"][0], { "role": "assistant", "content": content },
        { "role": "user", "content": [{ "type": "tool_result", "tool_use_id": "t", "content": [{ "type": "text", "text": "rain" }] },
                                      { "type": "text", "text": "thanks" }] }]);
    request["thinking"] = json!({ "type": "disabled" });
    assert_eq!(ok(&served, path, &request)["content"][0]["text"], "You said: thanks");
}

#[test]
fn messages_go_on_stop_choose_and_refuse_in_their_own_shape() {
    let served = server();
    let path = "/v1/messages";
    let ask = |messages: Value, more: Value| {
        let mut request = json!({ "max_tokens": 50, "messages": messages });
        request.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        request
    };
    let user = |text: &str| json!([{ "role": "user", "content": text }]);
    let begun = json!([{ "role": "user", "content": "count 9" }, { "role": "assistant", "content": "1 2 3" }]);
    assert_eq!(ok(&served, path, &ask(begun, json!({})))["content"][0]["text"], " 4 5 6 7 8 9");
    let stopped = ok(&served, path, &ask(user("count 9"), json!({ "stop_sequences": ["x", "4"] })));
    assert_eq!(
        (stopped["stop_reason"].as_str(), stopped["stop_sequence"].as_str()),
        (Some("stop_sequence"), Some("4"))
    );
    let cut = ok(&served, path, &ask(user("count 99"), json!({})));
    assert_eq!(cut["stop_reason"], "max_tokens");
    let tools = json!([{ "name": "weather", "input_schema": schema() }]);
    for choice in [json!({ "type": "any" }), json!({ "type": "tool", "name": "weather" })] {
        let called = ok(&served, path, &ask(user("say: no"), json!({ "tools": tools, "tool_choice": choice })));
        assert_eq!(called["stop_reason"], "tool_use");
    }
    for (request, word) in [
        (json!({ "messages": user("x") }), "max_tokens"),
        (ask(json!([]), json!({})), "messages"),
        (
            ask(json!([{ "role": "user", "content": [{ "type": "image", "source": {} }] }]), json!({})),
            "messages[0].content",
        ),
        (ask(user("x"), json!({ "tool_choice": { "type": "any" } })), "tool_choice"),
        (ask(user("x"), json!({ "temperature": -1 })), "temperature"),
        (ask(user(&"long ".repeat(3000)), json!({})), "2048"),
    ] {
        let answer = post(served.addr, path, &request);
        assert_eq!((answer.status, answer.json()["type"].as_str()), (400, Some("error")), "{}", answer.body);
        assert_eq!(answer.json()["error"]["type"], "invalid_request_error");
        assert!(answer.json()["error"]["message"].as_str().unwrap().contains(word), "{word}: {}", answer.body);
    }
}

#[test]
fn responses_answer_call_stream_and_follow_one_another() {
    let served = server();
    let path = "/v1/responses";
    let first = ok(&served, path, &json!({ "model": "x", "input": "hello", "instructions": "Be kind." }));
    assert_eq!((first["object"].as_str(), first["status"].as_str()), (Some("response"), Some("completed")));
    assert_eq!(first["output"][0]["content"][0]["text"], "You said: hello");
    assert!(first["usage"]["input_tokens"].as_u64().unwrap() > 4);
    let second = json!({ "input": "again", "previous_response_id": first["id"] });
    let second = ok(&served, path, &second);
    assert_eq!(second["output"][0]["content"][0]["text"], "You said: again");
    let longer = second["usage"]["input_tokens"].as_u64().unwrap();
    assert!(longer > first["usage"]["input_tokens"].as_u64().unwrap() + 5, "the first turn is part of it");
    refused(&served, path, &json!({ "input": "x", "previous_response_id": "resp_none" }), "resp_none");
    let tools = json!([{ "type": "function", "name": "weather", "parameters": schema(), "strict": false }]);
    let mut request = json!({ "input": [{ "role": "user", "content": [{ "type": "input_text",
        "text": format!("say: why\n</think>\n\nso: {CALL}") }] }], "tools": tools, "reasoning": { "effort": "high" } });
    let called = ok(&served, path, &request);
    let kinds = |output: &Value| {
        output.as_array().unwrap().iter().map(|i| i["type"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(kinds(&called["output"]), ["reasoning", "message", "function_call"]);
    assert_eq!(called["output"][2]["arguments"], "{\"city\": \"Paris\"}");
    request["stream"] = true.into();
    let events = post(served.addr, path, &request).events();
    let last = events.last().unwrap();
    assert_eq!(
        (events[0]["type"].as_str(), last["type"].as_str()),
        (Some("response.created"), Some("response.completed"))
    );
    assert!(events.iter().enumerate().all(|(i, e)| e["sequence_number"] == i));
    assert_eq!(kinds(&last["response"]["output"]), ["reasoning", "message", "function_call"]);
    let text: String = events
        .iter()
        .filter(|e| e["type"] == "response.output_text.delta")
        .filter_map(|e| e["delta"].as_str())
        .collect();
    assert_eq!(text, "so: ");
    // All of it goes back with the function's output.
    let mut input = request["input"].as_array().unwrap().clone();
    input.extend(called["output"].as_array().unwrap().clone());
    input.push(json!({ "type": "function_call_output", "call_id": "c", "output": "rain" }));
    input.push(json!({ "role": "user", "content": "thanks" }));
    let thanked = ok(&served, path, &json!({ "input": input, "tools": tools }));
    assert_eq!(thanked["output"][0]["content"][0]["text"], "You said: thanks");
    let format = json!({ "type": "json_schema", "name": "x", "schema": schema() });
    let shaped = ok(&served, path, &json!({ "input": "say: no", "text": { "format": format } }));
    let text = shaped["output"][0]["content"][0]["text"].as_str().unwrap();
    assert!(serde_json::from_str::<Value>(text).unwrap()["city"].is_string());
    let cut = ok(&served, path, &json!({ "input": "count 99", "max_output_tokens": 5 }));
    assert_eq!(
        (cut["status"].as_str(), cut["incomplete_details"]["reason"].as_str()),
        (Some("incomplete"), Some("max_output_tokens"))
    );
    for (request, word) in [
        (json!({}), "input"),
        (json!({ "input": [] }), "messages"),
        (json!({ "input": [{ "type": "image" }] }), "input[0].type"),
        (json!({ "input": "x", "tools": [{ "type": "web_search", "name": "w" }] }), "tools[0].type"),
        (json!({ "input": "x", "reasoning": { "effort": "huge" } }), "reasoning.effort"),
    ] {
        refused(&served, path, &request, word);
    }
}

#[test]
fn a_stored_response_is_given_again_until_it_is_forgotten() {
    let served = server();
    let first = ok(&served, "/v1/responses", &json!({ "input": "hello", "metadata": { "a": "b" } }));
    let path = format!("/v1/responses/{}", first["id"].as_str().unwrap());
    assert_eq!(get(served.addr, &path).json(), first);
    let gone = send(served.addr, "DELETE", &path, &[], "").answer().json();
    assert_eq!(gone, json!({ "id": first["id"], "object": "response", "deleted": true }));
    assert_eq!(get(served.addr, &path).status, 404);
    assert_eq!(send(served.addr, "DELETE", &path, &[], "").answer().status, 404);
    refused(&served, "/v1/responses", &json!({ "input": "x", "previous_response_id": first["id"] }), "resp_");
    let streamed = post(served.addr, "/v1/responses", &json!({ "input": "hello", "stream": true })).events();
    let last = &streamed.last().unwrap()["response"];
    assert_eq!(&get(served.addr, &format!("/v1/responses/{}", last["id"].as_str().unwrap())).json(), last);
    let unkept = ok(&served, "/v1/responses", &json!({ "input": "hello", "store": false }));
    assert_eq!(get(served.addr, &format!("/v1/responses/{}", unkept["id"].as_str().unwrap())).status, 404);
}

#[test]
fn fields_that_clients_leave_empty_are_not_given() {
    let served = server();
    let call = json!({ "id": null, "type": null, "function": { "name": "weather", "arguments": null } });
    let messages = json!([{ "role": "user", "content": "x", "name": null },
                          { "role": "assistant", "content": null, "reasoning_content": null, "tool_calls": [call] },
                          { "role": "tool", "content": "rain", "tool_call_id": null },
                          { "role": "assistant", "content": "rain", "tool_calls": null },
                          { "role": "user", "content": [{ "type": "text", "text": "hello" }] }]);
    let request = json!({ "messages": messages, "stop": null, "tools": null, "tool_choice": null, "top_k": -1,
                          "stream_options": null, "response_format": null, "logit_bias": null, "thinking": null });
    let answer = ok(&served, "/v1/chat/completions", &request);
    assert_eq!(answer["choices"][0]["message"]["content"], "You said: hello");
    let thought = json!([{ "type": "thinking", "thinking": "hm", "signature": null }, { "type": "text", "text": "a" }]);
    let turn =
        json!([{ "type": "text", "text": "hello", "citations": null, "cache_control": { "type": "ephemeral" } }]);
    let messages = json!([{ "role": "user", "content": "x" }, { "role": "assistant", "content": thought },
                          { "role": "user", "content": turn }]);
    let request = json!({ "messages": messages, "max_tokens": 50, "system": null, "tools": null, "tool_choice": null,
                          "thinking": null, "stop_sequences": null, "top_k": null, "metadata": { "user_id": null } });
    assert_eq!(ok(&served, "/v1/messages", &request)["content"][0]["text"], "You said: hello");
    let search = json!({ "input": "x", "tools": [{ "type": "web_search" }] });
    refused(&served, "/v1/responses", &search, "tools[0].type");
}
