//! Tool calls in output: what each format's text means, that how it is cut makes no difference, and that nothing is
//! lost of text that is no call.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

mod common;

use proptest::prelude::*;
use serde_json::{Value, json};
use text::{
    ChatTemplate, Delta, Message, OutputStream, RenderOptions, StopStrings, TokenizerConfig, ToolFormat, ToolParser,
};

const FORMATS: [ToolFormat; 7] = [
    ToolFormat::DeepSeekFenced,
    ToolFormat::DeepSeek,
    ToolFormat::DsmlFunctionCalls,
    ToolFormat::DsmlToolCalls,
    ToolFormat::DsmlCalls,
    ToolFormat::Hermes,
    ToolFormat::Llama,
];

/// What a stream gives, with neighbours joined.
fn joined(deltas: Vec<Delta>) -> Vec<Delta> {
    let mut out: Vec<Delta> = Vec::new();
    for delta in deltas {
        match (out.last_mut(), &delta) {
            (Some(Delta::Content(last)), Delta::Content(text)) => last.push_str(text),
            (
                Some(Delta::ToolCallArguments { fragment: last, index }),
                Delta::ToolCallArguments { fragment, index: at },
            ) if index == at => last.push_str(fragment),
            _ => out.push(delta),
        }
    }
    out
}

fn parse(format: ToolFormat, pieces: &[&str]) -> Vec<Delta> {
    let mut parser = ToolParser::new(format);
    let mut out: Vec<Delta> = pieces.iter().flat_map(|piece| parser.push(piece)).collect();
    out.extend(parser.finish());
    joined(out)
}

/// A call that is whole, and one that broke off.
fn call(index: usize, name: &str, arguments: &str) -> Vec<Delta> {
    broken(index, name, arguments, true)
}

fn broken(index: usize, name: &str, arguments: &str, complete: bool) -> Vec<Delta> {
    vec![
        Delta::ToolCallStart { index, name: name.into() },
        Delta::ToolCallArguments { index, fragment: arguments.into() },
        Delta::ToolCallEnd { index, complete },
    ]
}

fn content(text: &str) -> Vec<Delta> {
    vec![Delta::Content(text.into())]
}

/// `(format, text, events)`.
fn cases() -> Vec<(ToolFormat, &'static str, Vec<Delta>)> {
    [marker_cases(), json_cases(), dsml_cases()].concat()
}

const ARGS: &str = r#"{"city": "Köln 漢", "n": [1, {"a": null}]}"#;

fn marker_cases() -> Vec<(ToolFormat, &'static str, Vec<Delta>)> {
    use ToolFormat::{DeepSeek, DeepSeekFenced};
    vec![
        (
            DeepSeekFenced,
            "Let me see.<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>get_weather\n```json\n{\"city\": \"Köln 漢\", \"n\": [1, {\"a\": null}]}\n```<｜tool▁call▁end｜>\n<｜tool▁call▁begin｜>function<｜tool▁sep｜>now\n```json\n{}\n```<｜tool▁call▁end｜><｜tool▁calls▁end｜>",
            [content("Let me see."), call(0, "get_weather", ARGS), call(1, "now", "{}")].concat(),
        ),
        (
            DeepSeek,
            "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>get_weather<｜tool▁sep｜>{\"city\": \"Köln 漢\", \"n\": [1, {\"a\": null}]}<｜tool▁call▁end｜><｜tool▁call▁begin｜>now<｜tool▁sep｜>{}<｜tool▁call▁end｜><｜tool▁calls▁end｜>",
            [call(0, "get_weather", ARGS), call(1, "now", "{}")].concat(),
        ),
        // Either style is read whatever the template says, and a missing block or closing markers are no harm.
        (
            DeepSeek,
            "Hm.\n\n<｜tool▁call▁begin｜>function<｜tool▁sep｜>now\n```json\n{}\n```",
            [content("Hm."), call(0, "now", "{}")].concat(),
        ),
        (
            DeepSeek,
            "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>now<｜tool▁sep｜>{\"a\": 1<｜tool▁call▁end｜> and so on",
            [broken(0, "now", "{\"a\": 1", false), content("<｜tool▁call▁end｜> and so on")].concat(),
        ),
        (
            DeepSeek,
            "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>now<｜tool▁sep｜>{\"a\": \"b",
            broken(0, "now", "{\"a\": \"b", false),
        ),
        (DeepSeek, "a <｜tool▁calls▁begin｜> is a marker", content("a <｜tool▁calls▁begin｜> is a marker")),
        (
            DeepSeek,
            "<｜tool▁calls▁begin｜><｜tool▁calls▁end｜>x",
            content("<｜tool▁calls▁begin｜><｜tool▁calls▁end｜>x"),
        ),
    ]
}

fn json_cases() -> Vec<(ToolFormat, &'static str, Vec<Delta>)> {
    use ToolFormat::{Hermes, Llama};
    vec![
        (
            Hermes,
            "Sure.\n<tool_call>\n{\"name\": \"get_weather\", \"arguments\": {\"city\": \"Köln 漢\", \"n\": [1, {\"a\": null}]}}\n</tool_call>\n<tool_call>\n{\"arguments\": {}, \"name\": \"now\"}\n</tool_call>",
            [content("Sure."), call(0, "get_weather", ARGS), call(1, "now", "{}")].concat(),
        ),
        (
            Hermes,
            "<tool_call>{\"name\": \"f\", \"arguments\": \"{\\\"a\\\": 1}\"}</tool_call> done",
            [call(0, "f", "{\"a\": 1}"), content("done")].concat(),
        ),
        (Hermes, "<tool_call>{\"name\": \"f\", \"arguments\": {\"a\": \"x\ny\"}}", call(0, "f", "{\"a\": \"x\\ny\"}")),
        (
            Hermes,
            "<tool_call>{\"city\": 1}</tool_call>\n<tool_call>{\"name\": \"f\", \"arguments\": {}}</tool_call>",
            [content("<tool_call>{\"city\": 1}</tool_call>"), call(0, "f", "{}")].concat(),
        ),
        (
            Llama,
            " {\"name\": \"get_weather\", \"parameters\": {\"city\": \"Köln 漢\", \"n\": [1, {\"a\": null}]}}",
            call(0, "get_weather", ARGS),
        ),
        (
            Llama,
            "<|python_tag|>{\"type\": \"function\", \"name\": \"f\", \"parameters\": {}}; {\"name\": \"g\", \"parameters\": {}}",
            [call(0, "f", "{}"), call(1, "g", "{}")].concat(),
        ),
        (Llama, "{\"name\": \"Ada\", \"born\": 1815}", content("{\"name\": \"Ada\", \"born\": 1815}")),
        (Llama, "See {\"name\": \"f\", \"parameters\": {}}", content("See {\"name\": \"f\", \"parameters\": {}}")),
    ]
}

fn dsml_cases() -> Vec<(ToolFormat, &'static str, Vec<Delta>)> {
    use ToolFormat::{DsmlCalls, DsmlFunctionCalls, DsmlToolCalls};
    vec![
        (
            DsmlFunctionCalls,
            "Ok\n\n<｜DSML｜function_calls>\n<｜DSML｜invoke name=\"get_weather\">\n<｜DSML｜parameter name=\"city\" string=\"true\">Köln \"漢\"\n</｜DSML｜parameter>\n<｜DSML｜parameter name=\"n\" string=\"false\">[1, {\"a\": null}]</｜DSML｜parameter>\n</｜DSML｜invoke>\n<｜DSML｜invoke name=\"now\">\n</｜DSML｜invoke>\n</｜DSML｜function_calls>",
            [
                content("Ok"),
                call(0, "get_weather", r#"{"city": "Köln \"漢\"\n", "n": [1, {"a": null}]}"#),
                call(1, "now", "{}"),
            ]
            .concat(),
        ),
        (
            DsmlToolCalls,
            "<｜DSML｜tool_calls>\n<｜DSML｜invoke name=\"f\">\n<｜DSML｜parameter name=\"a\" string=\"false\">not json</｜DSML｜parameter>\n<｜DSML｜parameter name=\"b\" string=\"true\">x </｜DSML｜para y",
            broken(0, "f", r#"{"a": "not json", "b": "x </｜DSML｜para y"#, false),
        ),
        (
            DsmlCalls,
            "<｜DSML｜ calls>\n<｜DSML｜ invoke name=\"f\">\n<｜DSML｜ parameter name=\"a\" string=\"true\">1</｜DSML｜ parameter>\n</｜DSML｜ invoke>\n</｜DSML｜ calls>",
            call(0, "f", r#"{"a": "1"}"#),
        ),
        (DsmlToolCalls, "The tag <｜DSML｜invoke > is none", content("The tag <｜DSML｜invoke > is none")),
        (
            DsmlToolCalls,
            "<｜DSML｜invoke name=\"f\">\n<｜DSML｜invoke name=\"g\">\n</｜DSML｜invoke>",
            [broken(0, "f", "{", false), call(1, "g", "{}")].concat(),
        ),
    ]
}

#[test]
fn each_format_means_what_it_says_at_every_cut() {
    for (format, text, events) in cases() {
        assert_eq!(parse(format, &[text]), events, "{format:?} {text}");
        for (at, _) in text.char_indices() {
            assert_eq!(parse(format, &[&text[..at], &text[at..]]), events, "{format:?} {text} cut at {at}");
        }
        let single: Vec<&str> = text.split("").collect();
        assert_eq!(parse(format, &single), events, "{format:?} {text} in characters");
    }
}

/// Arguments of complete calls are JSON objects, whatever came before.
fn assert_consistent(deltas: &[Delta]) {
    let (mut open, mut n_calls, mut arguments) = (None, 0, String::new());
    for delta in deltas {
        match delta {
            Delta::ToolCallStart { index, name } => {
                assert!(open.is_none() && *index == n_calls && !name.is_empty());
                (open, n_calls) = (Some(*index), n_calls + 1);
                arguments.clear();
            }
            Delta::ToolCallArguments { index, fragment } => {
                assert_eq!(open, Some(*index));
                arguments.push_str(fragment);
            }
            Delta::ToolCallEnd { index, complete } => {
                assert_eq!(open.take(), Some(*index));
                if *complete {
                    // A lone surrogate, which JSON can spell and Rust cannot hold, is the one exception.
                    let parsed = serde_json::from_str::<Value>(&arguments);
                    assert!(parsed.is_ok_and(|value| value.is_object()) || arguments.contains("\\u"), "{arguments}");
                }
            }
            Delta::Content(text) => assert!(open.is_none() && !text.is_empty()),
            Delta::Reasoning(_) => panic!("tool parsers know no reasoning"),
        }
    }
    assert!(open.is_none(), "a call is left open");
}

/// Text rich in pieces of markup.
fn tricky_text() -> impl Strategy<Value = String> {
    const PIECES: &[&str] = &[
        "<｜tool▁calls▁begin｜>",
        "<｜tool▁calls▁end｜>",
        "<｜tool▁call▁begin｜>",
        "<｜tool▁call▁end｜>",
        "<｜tool▁sep｜>",
        "function",
        "\n```json\n",
        "\n```",
        "<tool_call>",
        "</tool_call>",
        "{\"name\": \"f\", \"arguments\": {}}",
        "{\"name\": \"f\", \"parameters\": {\"a\": 1}}",
        "\"arguments\": ",
        "{\"a\": \"b\"}",
        "{\"a\": [tru",
        "<|python_tag|>",
        "<｜DSML｜function_calls>",
        "<｜DSML｜tool_calls>",
        "</｜DSML｜tool_calls>",
        "<｜DSML｜ calls>",
        "<｜DSML｜invoke name=\"f\">",
        "</｜DSML｜invoke>",
        "<｜DSML｜parameter name=\"k\" string=\"true\">",
        "<｜DSML｜parameter name=\"l\" string=\"false\">",
        "</｜DSML｜parameter>",
        "\n",
        "\n\n",
        " ",
        "{",
        "}",
        "\"",
        ",",
        ";",
        "<",
        "\u{0}\u{1f}",
        "漢😀",
        "\\ud800",
    ];
    let piece = prop_oneof![
        8 => proptest::sample::select(PIECES).prop_map(str::to_owned),
        1 => any::<char>().prop_map(String::from),
    ];
    proptest::collection::vec(piece, 0..20).prop_map(|pieces| pieces.concat())
}

proptest! {
    #[test]
    fn how_text_is_cut_makes_no_difference(
        text in tricky_text(),
        format in proptest::sample::select(&FORMATS[..]),
        at in proptest::collection::vec(any::<prop::sample::Index>(), 0..8),
    ) {
        let whole = parse(format, &[&text]);
        assert_consistent(&whole);
        let mut cuts: Vec<usize> = at.iter().map(|index| index.index(text.len() + 1)).collect();
        cuts.retain(|&cut| text.is_char_boundary(cut));
        cuts.extend([0, text.len()]);
        cuts.sort_unstable();
        let pieces: Vec<&str> = cuts.windows(2).map(|pair| &text[pair[0]..pair[1]]).collect();
        prop_assert_eq!(&parse(format, &pieces), &whole);
        let single: Vec<String> = text.chars().map(String::from).collect();
        prop_assert_eq!(&parse(format, &single.iter().map(String::as_str).collect::<Vec<_>>()), &whole);
    }

    /// Without a call, the content is the text.
    #[test]
    fn text_without_calls_is_untouched(text in tricky_text(), format in proptest::sample::select(&FORMATS[..])) {
        let events = parse(format, &[&text]);
        if !events.iter().any(|delta| matches!(delta, Delta::ToolCallStart { .. })) {
            prop_assert_eq!(events, if text.is_empty() { vec![] } else { content(&text) });
        }
    }

    /// A call made of any name and arguments comes back, in every format.
    #[test]
    fn calls_round_trip(name in "[a-zA-Z0-9_.-]{1,40}", key in "[a-z\"\\\\]{1,8}", text in any::<String>(), n in any::<i64>()) {
        let arguments = json!({ &key: &text, "n": n, "list": [null, true, { &key: &text }] });
        for format in FORMATS {
            if format as usize >= ToolFormat::DsmlFunctionCalls as usize && key.contains('"') {
                continue;
            }
            let written = write_call(format, &name, &arguments);
            let events = parse(format, &[&written]);
            prop_assert_eq!(events.len(), 3, "{:?} {} {:?}", format, written, events);
            let Delta::ToolCallArguments { fragment, .. } = &events[1] else { panic!("{events:?}") };
            prop_assert_eq!(&events[0], &Delta::ToolCallStart { index: 0, name: name.clone() });
            prop_assert_eq!(&serde_json::from_str::<Value>(fragment).unwrap(), &arguments);
            prop_assert_eq!(&events[2], &Delta::ToolCallEnd { index: 0, complete: true });
        }
    }
}

fn write_call(format: ToolFormat, name: &str, arguments: &Value) -> String {
    let dsml = |block: &str, space: &str| {
        let parameters: String = arguments.as_object().unwrap().iter().fold(String::new(), |mut all, (key, value)| {
            let (string, text) = match value {
                Value::String(text) => (true, text.clone()),
                other => (false, other.to_string()),
            };
            all.push_str(&format!(
                "<｜DSML｜{space}parameter name=\"{key}\" string=\"{string}\">{text}</｜DSML｜{space}parameter>\n"
            ));
            all
        });
        format!(
            "\n\n<｜DSML｜{block}>\n<｜DSML｜{space}invoke name=\"{name}\">\n{parameters}</｜DSML｜{space}invoke>\n</｜DSML｜{block}>"
        )
    };
    match format {
        ToolFormat::DeepSeekFenced => format!(
            "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>{name}\n```json\n{arguments:#}\n```<｜tool▁call▁end｜><｜tool▁calls▁end｜>"
        ),
        ToolFormat::DeepSeek => format!(
            "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>{name}<｜tool▁sep｜>{arguments}<｜tool▁call▁end｜><｜tool▁calls▁end｜>"
        ),
        ToolFormat::Hermes => {
            format!("<tool_call>\n{{\"name\": \"{name}\", \"arguments\": {arguments}}}\n</tool_call>")
        }
        ToolFormat::Llama => format!("{{\"name\": \"{name}\", \"parameters\": {arguments}}}"),
        ToolFormat::DsmlFunctionCalls => dsml("function_calls", ""),
        ToolFormat::DsmlToolCalls => dsml("tool_calls", ""),
        _ => dsml(" calls", " "),
    }
}

/// Heads, names and values without end are given up, not kept; and nothing is lost of them.
#[test]
fn what_never_ends_is_given_up() {
    let long = "x".repeat(3_000);
    let deep = "[".repeat(10_000);
    for (format, text) in [
        (ToolFormat::DeepSeek, format!("<｜tool▁call▁begin｜>{long}<｜tool▁sep｜>{{}}")),
        (ToolFormat::DeepSeekFenced, format!("<｜tool▁call▁begin｜>function<｜tool▁sep｜>f\n{long}\n{{}}")),
        (ToolFormat::DsmlToolCalls, format!("<｜DSML｜invoke name=\"{long}\">")),
        (ToolFormat::Hermes, format!("<tool_call>{{\"{long}\": 1}}")),
        (ToolFormat::Hermes, format!("<tool_call>{{\"arguments\": {{\"a\": {deep}")),
        (ToolFormat::Hermes, format!("<tool_call>{{\"arguments\": {{\"a\": \"{}", "y".repeat(2 << 20))),
        (ToolFormat::Llama, format!("{{\"name\": \"{long}\", \"parameters\": {{}}}}")),
    ] {
        let events = parse(format, &[&text]);
        assert!(events == content(&text), "{format:?}: {} events", events.len());
        let pieces: Vec<&str> =
            text.as_bytes().chunks(4_096).map(|chunk| std::str::from_utf8(chunk).unwrap_or("")).collect();
        if pieces.concat() == text {
            assert!(parse(format, &pieces) == content(&text));
        }
    }
}

/// The whole stream: reasoning first, markers that are special tokens, stop strings that spare calls.
#[test]
fn streams_join_reasoning_calls_and_stops() {
    let added = [
        "<think>",
        "</think>",
        "<｜tool▁calls▁begin｜>",
        "<｜tool▁call▁begin｜>",
        "<｜tool▁sep｜>",
        "<｜tool▁call▁end｜>",
        "<｜tool▁calls▁end｜>",
        "<s>",
    ];
    let tokenizer = std::sync::Arc::new(common::bytes_and(&added));
    let stop = std::sync::Arc::new(StopStrings::new(&["STOP", "\"a\""]).unwrap());
    let run = |text: &str, tools: bool| {
        let mut stream = OutputStream::new(tokenizer.clone(), true, stop.clone());
        if tools {
            stream = stream.with_tools(ToolFormat::DeepSeek);
        }
        let mut out: Vec<Delta> = tokenizer.encode(text).unwrap().into_iter().flat_map(|id| stream.push(id)).collect();
        out.extend(stream.finish());
        joined(out).into_iter().filter(|delta| !matches!(delta, Delta::Reasoning(_))).collect::<Vec<_>>()
    };
    let text = "<｜tool▁calls▁begin｜> hm</think>\n\nIt is ST<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>f<｜tool▁sep｜>{\"a\": \"STOP\"}<｜tool▁call▁end｜><s><｜tool▁calls▁end｜>";
    let events = [content("It is ST"), call(0, "f", "{\"a\": \"STOP\"}")].concat();
    assert_eq!(run(text, true), events);
    // Where no tools are offered, markers are left out as special tokens are.
    assert_eq!(run(text, false), content("It is STf{"));
    let after = format!("{text} and STOP <｜tool▁call▁begin｜>g<｜tool▁sep｜>{{}}");
    assert_eq!(run(&after, true), [events, content("and ")].concat());
}

#[test]
fn formats_are_told_from_templates() {
    let document = common::json(&common::fixture("chat_templates.json"));
    let tokenizer = common::bytes_and(&[]);
    let of = |name: &str| ToolFormat::of(document["templates"][name]["template"].as_str(), &tokenizer);
    assert_eq!(of("deepseek_r1_distill_qwen"), Some(ToolFormat::DeepSeekFenced));
    assert_eq!(of("qwen2.5_coder"), Some(ToolFormat::Hermes));
    assert_eq!(of("smollm2"), None);
    let v31 = "{{'<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>' + tool.name + '<｜tool▁sep｜>' + tool.arguments}}";
    assert_eq!(ToolFormat::of(Some(v31), &tokenizer), Some(ToolFormat::DeepSeek));
    assert_eq!(ToolFormat::of(None, &tokenizer), None);
    assert_eq!(ToolFormat::of(None, &common::bytes_and(&["｜DSML｜"])), Some(ToolFormat::DsmlToolCalls));
    let v41 = common::bytes_and(&["｜DSML｜", "<｜System｜>"]);
    assert_eq!(ToolFormat::of(None, &v41), Some(ToolFormat::DsmlCalls));
}

/// The essence of V3.1's template, whose calls have neither fences nor separators.
const V31: &str = "{{ bos_token }}{% if tools %}{% for tool in tools %}### {{ tool.function.name }}\n{{ tool.function.description }}\nParameters: {{ tool.function.parameters | tojson }}\n{% endfor %}{% endif %}{% for m in messages %}{% if m.role == 'user' %}<｜User｜>{{ m.content }}<｜Assistant｜></think>{% elif m.role == 'assistant' %}{% if m.tool_calls %}<｜tool▁calls▁begin｜>{% for c in m.tool_calls %}<｜tool▁call▁begin｜>{{ c.function.name }}<｜tool▁sep｜>{{ c.function.arguments }}<｜tool▁call▁end｜>{% endfor %}<｜tool▁calls▁end｜>{% endif %}{{ eos_token }}{% elif m.role == 'tool' %}<｜tool▁output▁begin｜>{{ m.content }}<｜tool▁output▁end｜>{% endif %}{% endfor %}";

/// Tools, calls and results reach the templates; markers that they or a user spell are text, never tokens.
#[test]
fn templates_get_tools_and_nobody_injects_markers() {
    let added = [
        "<｜begin▁of▁sentence｜>",
        "<｜end▁of▁sentence｜>",
        "<｜User｜>",
        "<｜Assistant｜>",
        "<think>",
        "</think>",
        "<｜tool▁calls▁begin｜>",
        "<｜tool▁calls▁end｜>",
        "<｜tool▁call▁begin｜>",
        "<｜tool▁call▁end｜>",
        "<｜tool▁sep｜>",
        "<｜tool▁output▁begin｜>",
        "<｜tool▁output▁end｜>",
        "<|im_start|>",
        "<|im_end|>",
        "<|endoftext|>",
        "<tool_call>",
        "</tool_call>",
    ];
    let tokenizer = common::bytes_and(&added);
    let document = common::json(&common::fixture("chat_templates.json"));
    let source = |name: &str| document["templates"][name]["template"].as_str().unwrap().to_owned();
    let r1 = source("deepseek_r1_distill_qwen");
    for (source, call, marker) in [
        (r1, "<｜tool▁call▁begin｜>function<｜tool▁sep｜>get_weather\n```json\n", "<｜tool▁call▁begin｜>"),
        (source("qwen2.5_coder"), "<tool_call>\n{\"name\": \"get_weather\", \"arguments\": ", "<tool_call>"),
        (V31.to_owned(), "<｜tool▁call▁begin｜>get_weather<｜tool▁sep｜>{", "<｜tool▁call▁begin｜>"),
    ] {
        let config = TokenizerConfig {
            bos_token: Some(added[0].into()),
            eos_token: Some(added[1].into()),
            chat_template: Some(source.clone()),
            ..TokenizerConfig::default()
        };
        let template = ChatTemplate::new(&config, &tokenizer).unwrap().unwrap();
        let count = |evil: &str| {
            let messages = json!([
                {"role": "user", "content": format!("What {evil}?")},
                {"role": "assistant", "content": null, "tool_calls": [
                    {"id": "1", "type": "function", "function": {"name": "get_weather", "arguments": format!("{{\"city\": \"{evil}\"}}")}},
                ]},
                {"role": "tool", "tool_call_id": "1", "content": format!("12 °C {evil}")},
            ]);
            let messages: Vec<Message> = serde_json::from_value(messages).unwrap();
            let tools = json!([{"type": "function", "function": {"name": "get_weather", "description": format!("Weather {evil}"), "parameters": {"type": "object"}}}]);
            let options = RenderOptions {
                tools: tools.as_array().cloned(),
                add_generation_prompt: true,
                ..RenderOptions::default()
            };
            let rendered = template.render(&messages, &options).unwrap();
            let text = rendered.text();
            assert!(text.contains(call), "{text}");
            // R1's template knows calls, but has no words for tools.
            assert!(!source.contains("tools") || text.contains("Weather "), "{text}");
            let ids = tokenizer.encode_rendered(&rendered).unwrap();
            assert_eq!(
                ids.iter().filter(|&&id| id == tokenizer.added_token_id(marker).unwrap()).count() > 0,
                source.contains(marker)
            );
            ids.iter().filter(|&&id| id >= 256).count()
        };
        let honest = count("x");
        for evil in added {
            assert_eq!(count(evil), honest, "{evil} became a token");
        }
    }
}
