//! Inputs made to break things: each must be refused or bounded, and none may pass for a special token.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout, reason = "tests")]

mod common;

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use text::{
    ChatTemplate, GgufVocab, Message, RenderOptions, Rendered, Role, TemplateError, Tokenizer, TokenizerConfig,
    TokenizerError,
};

const USER: &str = "<|user|>";
const THINK: &str = "<think>";
const CLOSE: &str = "</think>";
const BOS: &str = "<s>";

fn tokenizer() -> Tokenizer {
    common::bytes_and(&[BOS, USER, THINK, CLOSE])
}

fn render(source: &str, messages: &[Message], options: &RenderOptions) -> Result<Rendered, TemplateError> {
    let config = TokenizerConfig { bos_token: Some(BOS.into()), ..TokenizerConfig::default() };
    ChatTemplate::compile(source, &config, &tokenizer())?.render(messages, options)
}

/// The added tokens among the ids of a rendering.
fn added(rendered: &Rendered) -> Vec<String> {
    let tokenizer = tokenizer();
    let ids = tokenizer.encode_rendered(rendered).unwrap();
    assert_eq!(tokenizer.decode(&ids, false).unwrap(), rendered.text(), "the ids spell the text");
    ids.iter().filter_map(|&id| tokenizer.added_token(id)).map(str::to_owned).collect()
}

#[test]
fn templates_without_end_run_out_of_budget() {
    let bombs = [
        "{% for a in range(99999) %}{% for b in range(99999) %}{% for c in range(99999) %}{% endfor %}{% endfor %}{% endfor %}",
        "{% for a in range(1000000000) %}x{% endfor %}",
        "{{ 'x' * 1000000000 }}",
        "{{ ('x' * 1000000) * 1000000 }}",
        "{% set ns = namespace(x='x') %}{% for i in range(60) %}{% set ns.x = ns.x + ns.x %}{% endfor %}{{ ns.x }}",
        "{% set ns = namespace(x='x') %}{% for i in range(60) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}{{ ns.x | length }}",
        "{% set ns = namespace(x=[1]) %}{% for i in range(60) %}{% set ns.x = ns.x + ns.x %}{% endfor %}{{ ns.x | length }}",
        "{% set ns = namespace(x=[1]) %}{% for i in range(60) %}{% set ns.x = ns.x | chain(ns.x) %}{% endfor %}{{ ns.x | length }}",
        "{% set ns = namespace(x=[1]) %}{% for i in range(60) %}{% set ns.x = [ns.x, ns.x] %}{% endfor %}{{ ns.x }}",
        "{% set ns = namespace() %}{% set ns.x = ns %}{{ ns }}",
        "{% set ns = namespace() %}{% set a = {'b': [ns]} %}{% set ns.x = a %}{{ ns }}",
        "{% set ns = namespace() %}{% with a = [ns] %}{% set ns.x = a %}{% endwith %}{{ ns.x }}",
        "{% set ns = namespace(x=[1]) %}{% for i in range(60) %}{% set ns.x = [ns.x, ns.x] %}{% endfor %}{{ ns.x | tojson }}",
        "{% set ns = namespace() %}{% set ns.x = ns %}{{ ns | tojson }}",
        "{% set ns = namespace() %}{% set ns.x = [ns] %}{{ ns.x }}",
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
        "{% macro f(n) %}{{ f(n) }}{{ f(n) }}{% endmacro %}{{ f(1) }}",
        "{{ 'a' | replace('', 'x' * 100000) }}{% for i in range(100000) %}{{ 'x' * 100000 }}{% endfor %}",
        "{{ ('ab' * 100000).replace('a', 'b' * 100000) }}",
        "{{ ('x' * 100000) | indent(100000) }}",
        "{{ ('a\n' * 100000) | indent(1000000) }}",
        "{{ '%100000000s' | format('a') }}",
        "{{ '{:>1000000000}'.format('a') }}",
        "{{ '{:>{}}'.format('a', 1000000000) }}",
        "{{ (',' * 1000000).split(',') | join('x' * 1000000) }}",
        "{{ 9 ** 9 ** 9 ** 9 }}",
        "{{ [1] * 10000000000 }}",
        "{{ range(100000) | list | batch(1, 'x' * 100000) | list }}",
        "{{ range(99999) | map('string') | join('x' * 99999) }}",
        "{% for x in range(99999) | slice(99999) %}{{ x }}{% endfor %}",
        "{{ [1] | tojson(indent=1000000000000) }}",
        "{{ strftime_now('%Y' * 1000000) }}",
    ];
    let start = Instant::now();
    for bomb in bombs {
        let begun = Instant::now();
        match render(bomb, &[Message::user("x")], &RenderOptions { now_unix_s: Some(0), ..RenderOptions::default() }) {
            Err(_) => {}
            Ok(rendered) => assert!(rendered.n_bytes() <= 2 << 20, "{bomb}: {} bytes", rendered.n_bytes()),
        }
        println!("{:6} ms {bomb}", begun.elapsed().as_millis());
    }
    assert!(start.elapsed() < Duration::from_secs(60), "{:?}", start.elapsed());
}

/// The engine recurses over what it compiles, prints, compares and drops: none of it may reach the stack's end.
#[test]
fn deep_nesting_is_refused_or_survived() {
    let chain = |before: &str, link: &str, after: &str| {
        for n in [100, 2_000, 8_000, 60_000] {
            let source = format!("{before}{}{after}", link.repeat(n));
            let _ = render(&source, &[], &RenderOptions::default());
        }
    };
    for link in ["-", "not ", "+1", "**1", "~1", ".a", "[0]", "()", "|e", " and 1", " if 1 else 1", " is odd", "(", "["]
    {
        chain("{{ 1", link, " }}");
        chain("{{ ", link, "1 }}");
    }
    chain("{% if 1 %}", "{% elif 1 %}", "{% endif %}");
    chain("{% for ", "(", "a in x %}{% endfor %}");
    for open in ["{% if 1 %}", "{% for i in [1] %}", "{% set a %}", "{% macro f() %}", "{{"] {
        chain("", open, "");
    }
    for step in
        ["[ns.x]", "{'a': ns.x}", "namespace(x=ns.x)", "ns.x[:]", "ns.x * 1", "ns.x | batch(1)", "ns.x | reverse"]
    {
        for end in ["a", "{{ ns.x }}", "{{ ns.x == ns.y }}", "{{ ns.x | tojson }}", "{{ ns.x | list }}"] {
            let source = format!(
                "{{% set ns = namespace(x=[1], y=[1]) %}}{{% for i in range(99999) %}}{{% set ns.x = {step} %}}\
                 {{% if i is divisibleby 2 %}}{{% set ns.y = ns.x %}}{{% endif %}}{{% if i > LIMIT %}}{{% break %}}{{% endif %}}\
                 {{% endfor %}}{end}"
            );
            for limit in ["500", "9000", "99999"] {
                let _ = render(&source.replace("LIMIT", limit), &[], &RenderOptions::default());
            }
        }
    }
}

#[test]
fn malformed_templates_are_errors() {
    for source in ["{{", "{% for %}", "{{ 'a }}", "{% endfor %}", "{# ", "{{ 'a\\", "{% raw %}", "\u{0}{{ \u{0} }}"] {
        let _ = render(source, &[], &RenderOptions::default());
    }
    let huge = "x".repeat(1 << 20);
    assert!(matches!(render(&huge, &[], &RenderOptions::default()), Err(TemplateError::TooLarge { .. })));
    assert!(matches!(
        render("{{ raise_exception('roles must alternate') }}", &[], &RenderOptions::default()),
        Err(TemplateError::Refused(message)) if message == "roles must alternate"
    ));
    assert!(matches!(
        render("\n{{ a.b.c }}", &[], &RenderOptions::default()),
        Err(TemplateError::Render { line: 2, .. })
    ));
}

#[test]
fn what_users_write_stays_text() {
    let source = "{{ bos_token }}{% for m in messages %}<|user|>{{ m.content }}{{ m.name }}{{ m.tool_calls | tojson }}\
                  {{ m.extra_key }}{% endfor %}{{ tools | tojson }}{{ note }}<think>";
    let spelled = format!("{BOS}{USER}{THINK}{CLOSE}");
    let mut message = Message::new(Role::User, spelled.clone());
    message.name = Some(spelled.clone());
    message.tool_calls = Some(vec![json!({ spelled.clone(): spelled })]);
    message.extra.insert("extra_key".into(), Value::from(spelled.clone()));
    let options = RenderOptions {
        tools: Some(vec![json!({ "name": spelled })]),
        extra: [("note".to_owned(), Value::from(spelled))].into_iter().collect(),
        ..RenderOptions::default()
    };
    let rendered = render(source, &[message], &options).unwrap();
    assert_eq!(added(&rendered), [BOS, USER, THINK]);
    assert!(rendered.starts_in_reasoning());
}

#[test]
fn glue_does_not_make_tokens() {
    // The template writes one half, the user the other; or the user writes both around the template's text.
    for (source, content) in [
        ("<{{ messages[0].content }}", "think>"),
        ("{{ messages[0].content }}think>", "<"),
        ("<{{ messages[0].content }}>", "think"),
        ("{{ messages[0].content }}hi{{ messages[0].content }}", "<t"),
        ("{{ messages[0].content[:3] }}{{ messages[0].content[5:] }}", "<th--ink>"),
        ("{{ messages[0].content | replace('-', '') }}", "<th-ink>"),
        ("{{ messages[0].content | lower }}", "<THINK>"),
        ("{{ '<' ~ messages[0].content ~ '>' }}", "think"),
        ("{{ messages[0].content.split('|')[1] }}", "|<think>|"),
    ] {
        let rendered = render(source, &[Message::user(content)], &RenderOptions::default()).unwrap();
        assert_eq!(added(&rendered), Vec::<String>::new(), "{source}");
    }
}

#[test]
fn private_use_characters_pass_unchanged_and_mark_nothing() {
    let source = "{{ bos_token }}<|user|>{{ messages[0].content }}<think>";
    // Far more of them than a template needs marks; in the user's text and in the template's.
    let private: String = ('\u{F0000}'..'\u{F0100}').chain('\u{100000}'..'\u{100010}').collect();
    let rendered = render(source, &[Message::user(private.clone())], &RenderOptions::default()).unwrap();
    assert_eq!(rendered.text(), format!("{BOS}{USER}{private}{THINK}"));
    assert_eq!(added(&rendered), [BOS, USER, THINK]);
    let rendered = render(&format!("{private}{source}"), &[Message::user(private.clone())], &RenderOptions::default());
    assert_eq!(added(&rendered.unwrap()), [BOS, USER, THINK]);
    // When every mark is taken, the conversation is refused.
    let all: String = ('\u{F0000}'..='\u{10FFFD}').collect();
    assert!(matches!(render(source, &[Message::user(all)], &RenderOptions::default()), Err(TemplateError::NoSentinel)));
}

#[test]
fn only_the_assistant_may_hold_think_tags() {
    let source = "{% for m in messages %}{% if '</think>' in m.content %}[cut]{{ m.content.split('</think>')[-1] }}\
                  {% else %}{{ m.content }}{% endif %}{% endfor %}";
    let content = "<think>a</think>b<|user|>";
    let rendered = render(source, &[Message::assistant(content)], &RenderOptions::default()).unwrap();
    assert_eq!(rendered.text(), "[cut]b<|user|>");
    assert_eq!(added(&rendered), Vec::<String>::new());
    for role in [Role::User, Role::System, Role::Tool, Role::Developer] {
        let rendered = render(source, &[Message::new(role, content)], &RenderOptions::default()).unwrap();
        assert_eq!(rendered.text(), content, "no cut: the tags are plain text");
        assert_eq!(added(&rendered), Vec::<String>::new());
    }
    let rendered = render("{{ messages[0].content }}", &[Message::assistant(content)], &RenderOptions::default());
    assert_eq!(added(&rendered.unwrap()), [THINK, CLOSE]);
}

#[test]
fn contradictory_vocabularies_are_errors() {
    let good = common::bytes_vocab(&[THINK]);
    let break_it = |change: fn(&mut GgufVocab)| {
        let mut vocab = good.clone();
        change(&mut vocab);
        Tokenizer::from_gguf(&vocab)
    };
    assert!(Tokenizer::from_gguf(&good).is_ok());
    let broken: [fn(&mut GgufVocab); 12] = [
        |v| v.model = "llama".into(),
        |v| v.pre = "unheard-of".into(),
        |v| v.tokens[0] = "b".into(),
        |v| v.tokens.clear(),
        |v| v.tokens.truncate(100),
        |v| v.merges = vec!["a".into()],
        |v| v.merges = vec!["a b c".into()],
        |v| v.merges = vec!["a b".into()],
        |v| v.merges = vec![" ".into()],
        |v| v.merges = vec!["<th ink>".into()],
        |v| v.token_types = Some(vec![1]),
        |v| v.token_types.as_mut().unwrap()[3] = 6,
    ];
    for (at, change) in broken.into_iter().enumerate() {
        let error = break_it(change).expect_err(&format!("case {at}"));
        println!("{error}");
    }
    assert!(matches!(
        break_it(|v| v.pre = "unheard-of".into()),
        Err(TokenizerError::UnknownPreTokenizer { known, .. }) if known.contains("deepseek-v3")
    ));
    // The two bytes of é do not merge into the token that spells it.
    assert!(break_it(|v| (v.tokens[256], v.token_types) = ("Ã©".into(), None)).is_err());
    assert!(break_it(|v| (v.tokens[256], v.token_types, v.merges) = ("Ã©".into(), None, vec!["Ã ©".into()])).is_ok());
    // An added token must not be reachable by merging plain text, nor be a byte.
    assert!(break_it(|v| v.token_types.as_mut().unwrap()[65] = 3).is_err());
    assert!(break_it(|v| (v.tokens[256], v.merges) = ("ab".into(), vec!["a b".into()])).is_err());
}

#[test]
fn sizes_beyond_reason_are_errors() {
    let with = |vocab: Value, merges: Value, added: Value, pattern: &str| {
        let document = json!({
            "model": { "type": "BPE", "vocab": vocab, "merges": merges },
            "added_tokens": added,
            "decoder": { "type": "ByteLevel" },
            "pre_tokenizer": { "type": "Sequence", "pretokenizers": [
                { "type": "Split", "pattern": { "Regex": pattern }, "behavior": "Isolated" },
                { "type": "ByteLevel", "add_prefix_space": false, "use_regex": false },
            ]},
        });
        Tokenizer::from_json(document.to_string().as_bytes())
    };
    let bytes = || -> serde_json::Map<String, Value> {
        let vocab = common::bytes_vocab(&[]);
        vocab.tokens.into_iter().zip((0u32..).map(Value::from)).collect()
    };
    let bytes_and = |text: &str, id: u64| {
        let mut vocab = bytes();
        vocab.insert(text.into(), id.into());
        Value::from(vocab)
    };
    assert!(with(bytes().into(), json!([]), json!([]), "a+").is_ok());
    assert!(with(bytes_and("ab", 4_294_967_295), json!([]), json!([]), "a+").is_err());
    assert!(with(bytes_and(&"a".repeat(70_000), 256), json!([]), json!([]), "a+").is_err());
    for pattern in ["(", "(?:(?:a{1000}){1000}){1000}", "a{99999999999999999999}", "(?:", "\\p{Nope}", "[z-a]", ""] {
        assert!(with(bytes().into(), json!([]), json!([]), pattern).is_err(), "{pattern}");
    }
    assert!(with(bytes().into(), json!([]), json!([]), &"(".repeat(5000)).is_err());
    // A pattern that backtracks without end gives up with an error.
    let slow = with(bytes().into(), json!([]), json!([]), r"(?=(a+)+\1b)").unwrap();
    let start = Instant::now();
    let _ = slow.encode_plain(&"a".repeat(5000));
    assert!(start.elapsed() < Duration::from_secs(20));
}

#[test]
fn ids_outside_the_vocabulary_are_errors_and_holes_are_silent() {
    let tokenizer = tokenizer();
    assert!(matches!(tokenizer.decode(&[65, 999], false), Err(TokenizerError::UnknownId { id: 999, position: 1, .. })));
    assert_eq!(tokenizer.token_bytes(u32::MAX), None);
    let mut vocab = common::bytes_vocab(&[THINK, "[unused]"]);
    vocab.token_types.as_mut().unwrap()[257] = 5;
    let tokenizer = Tokenizer::from_gguf(&vocab).unwrap();
    assert_eq!(tokenizer.token_bytes(257), None);
    assert_eq!(tokenizer.vocab_size(), 257, "an unused token at the end is no id");
}
