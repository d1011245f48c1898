//! Chat templates against transformers: rendered texts and refusals.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout, reason = "tests")]

mod common;

use serde_json::Value;
use text::{ChatTemplate, Message, RenderOptions, TokenizerConfig};

const ADDED: [&str; 12] = [
    "<｜begin▁of▁sentence｜>",
    "<｜end▁of▁sentence｜>",
    "<｜User｜>",
    "<｜Assistant｜>",
    "<think>",
    "</think>",
    "<|im_start|>",
    "<|im_end|>",
    "<|endoftext|>",
    "<tool_call>",
    "</tool_call>",
    "<｜tool▁calls▁begin｜>",
];

#[test]
fn every_rendering_equals_the_oracle() {
    let document = common::json(&common::fixture("chat_templates.json"));
    // Whatever the vocabulary marks as tokens, the text is the same.
    for added in [&ADDED[..], &[]] {
        let tokenizer = common::bytes_and(added);
        let (mut n_equal, mut n_refused) = (0, 0);
        for case in document["cases"].as_array().unwrap() {
            let template = &document["templates"][case["template"].as_str().unwrap()];
            let config = TokenizerConfig {
                bos_token: template["bos_token"].as_str().map(str::to_owned),
                eos_token: template["eos_token"].as_str().map(str::to_owned),
                chat_template: template["template"].as_str().map(str::to_owned),
                ..TokenizerConfig::default()
            };
            let compiled = ChatTemplate::new(&config, &tokenizer).unwrap().unwrap();
            let messages: Vec<Message> = serde_json::from_value(case["messages"].clone()).unwrap();
            let options = RenderOptions {
                add_generation_prompt: case["add_generation_prompt"].as_bool().unwrap(),
                tools: case["tools"].as_array().cloned(),
                ..RenderOptions::default()
            };
            match (compiled.render(&messages, &options), case.get("text").and_then(Value::as_str)) {
                (Ok(rendered), Some(text)) => {
                    assert_eq!(rendered.text(), text, "{case}");
                    // Nobody spells tokens here but the template, so plain matching gives the same ids.
                    let ids = tokenizer.encode_rendered(&rendered).unwrap();
                    assert_eq!(ids, tokenizer.encode(text).unwrap(), "{case}");
                    n_equal += 1;
                }
                (Err(_), None) => n_refused += 1,
                (Ok(rendered), None) => panic!("{case}: expected an error, found {:?}", rendered.text()),
                (Err(error), Some(_)) => panic!("{case}: {error}"),
            }
        }
        println!("{n_equal} renderings and {n_refused} refusals equal");
        assert_eq!(n_equal + n_refused, 52);
    }
}

/// Where the engine departs from Jinja2, in features that no chat template of this family uses: floats from 1e16 on
/// as text, Python's `%` operator for strings, and a global that makes filler text.
const KNOWN_DIFFERENT: [&str; 3] = ["{{ 1e20 }}", "'%s-%d' % (", "lipsum"];

/// Features of Jinja one by one, and whole templates, against Jinja2 itself.
#[test]
fn the_engine_equals_jinja2() {
    let document = common::json(&common::fixture("jinja_cases.json"));
    let tokenizer = common::bytes_and(&ADDED);
    let mut n_equal = 0;
    let mut different = Vec::new();
    for case in document["cases"].as_array().unwrap() {
        let source = document["templates"][case["template"].as_u64().unwrap() as usize].as_str().unwrap();
        let context = &case["context"];
        let config = TokenizerConfig {
            bos_token: context["bos_token"].as_str().map(str::to_owned),
            eos_token: context["eos_token"].as_str().map(str::to_owned),
            ..TokenizerConfig::default()
        };
        let mut extra = context.as_object().unwrap().clone();
        extra.retain(|key, _| key == "enable_thinking");
        let options = RenderOptions {
            add_generation_prompt: context["add_generation_prompt"].as_bool().unwrap(),
            tools: context["tools"].as_array().cloned(),
            extra,
            ..RenderOptions::default()
        };
        let messages: Vec<Message> = serde_json::from_value(context["messages"].clone()).unwrap();
        let ours = ChatTemplate::compile(source, &config, &tokenizer)
            .and_then(|template| template.render(&messages, &options))
            .map(|rendered| rendered.text());
        match (ours, case.get("text").and_then(Value::as_str)) {
            (Ok(ours), Some(theirs)) if ours == theirs => n_equal += 1,
            (Err(_), None) => n_equal += 1,
            _ if KNOWN_DIFFERENT.iter().any(|known| source.contains(known)) => {}
            (ours, theirs) => different.push(format!("{source}\n  ours   {ours:?}\n  theirs {theirs:?}")),
        }
    }
    println!("{n_equal} cases equal");
    assert!(different.is_empty(), "{} differ:\n{}", different.len(), different.join("\n"));
}
