//! Structured output: what is accepted is enforced, what cannot be enforced is refused by place, and hostile
//! specifications cost little.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout, reason = "tests")]

mod common;
#[path = "common/walk.rs"]
mod walk;

use std::sync::{Arc, LazyLock};

use serde_json::{Value, json};
use text::{
    ArmedGrammar, Delta, Grammar, GrammarError, GrammarFactory, GrammarSpec, ThinkTokens, Tokenizer, Tool, ToolChoice,
    ToolFormat, ToolParser,
};
use walk::{Outcome, Random};

const END: &str = "<｜end▁of▁sentence｜>";

struct Model {
    tokenizer: Arc<Tokenizer>,
    factory: GrammarFactory,
    end: u32,
}

impl Model {
    fn new(tokenizer: Tokenizer) -> Self {
        let tokenizer = Arc::new(tokenizer);
        let end = tokenizer.added_token_id(END).unwrap();
        let factory = GrammarFactory::new(&tokenizer, &[end]).unwrap();
        Self { tokenizer, factory, end }
    }

    fn schema(&self, schema: Value) -> Result<Grammar, GrammarError> {
        self.factory.compile(&GrammarSpec::JsonSchema(schema))
    }

    fn walk(&self, grammar: &Grammar, seed: u64) -> Outcome {
        let mut masks = Vec::new();
        walk::walk(&mut grammar.clone(), &self.tokenizer, self.end, 300, &mut Random::new(seed), &mut masks)
    }

    fn accepts(&self, grammar: &Grammar, text: &str) -> bool {
        walk::accepts(grammar, &self.tokenizer, text)
    }
}

/// A small trained vocabulary with DeepSeek's special tokens.
static TINY: LazyLock<Model> =
    LazyLock::new(|| Model::new(Tokenizer::from_json(&common::read(&common::tiny("dsv3", "tokenizer.json"))).unwrap()));

/// Bytes, and the special tokens of all formats.
static BYTES: LazyLock<Model> = LazyLock::new(|| {
    Model::new(common::bytes_and(&[
        END,
        "<think>",
        "</think>",
        "<｜tool▁calls▁begin｜>",
        "<｜tool▁calls▁end｜>",
        "<｜tool▁call▁begin｜>",
        "<｜tool▁call▁end｜>",
        "<｜tool▁sep｜>",
        "<tool_call>",
        "</tool_call>",
        "｜DSML｜",
    ]))
});

/// The official suite: no invalid value is accepted, almost every valid one is, and what random weights write is valid.
#[test]
fn schemas_of_the_official_suite_are_enforced() {
    let document = common::json(&common::fixture("json_schema_suite.json"));
    let (mut n_compiled, mut n_positive, mut n_accepted, mut n_finished) = (0, 0, 0, 0);
    let groups = document["groups"].as_array().unwrap();
    for (seed, group) in groups.iter().enumerate() {
        let schema = &group["schema"];
        let Ok(grammar) = TINY.schema(schema.clone()) else { continue };
        n_compiled += 1;
        for test in group["tests"].as_array().unwrap() {
            let is_valid = test[1] == true;
            let is_accepted = TINY.accepts(&grammar, &test[0].to_string());
            assert!(is_valid || !is_accepted, "{schema} accepts {}", test[0]);
            n_positive += usize::from(is_valid);
            n_accepted += usize::from(is_accepted);
        }
        let validator = jsonschema::options().should_validate_formats(false).build(schema).unwrap();
        for walk in 0..2 {
            match TINY.walk(&grammar, seed as u64 * 2 + walk) {
                Outcome::Finished(text) => {
                    let value: Value = serde_json::from_slice(&text).unwrap();
                    assert!(validator.is_valid(&value), "{schema} wrote {value}");
                    n_finished += 1;
                }
                Outcome::Unfinished => {}
                Outcome::Stuck(error) => panic!("{schema}: {error}"),
            }
        }
    }
    println!(
        "{n_compiled} of {} compiled; {n_accepted} of {n_positive} valid values accepted; {n_finished} walks finished",
        groups.len()
    );
    assert!(n_compiled * 10 >= groups.len() * 7, "{n_compiled} of {} compiled", groups.len());
    assert!(n_accepted * 10 >= n_positive * 9, "{n_accepted} of {n_positive} valid values accepted");
    assert!(n_finished * 10 >= n_compiled * 19, "{n_finished} of {} walks finished", 2 * n_compiled);
}

/// What applications send: Pydantic's shapes, with references and optional fields.
#[test]
fn schemas_of_applications_are_enforced() {
    let schema = json!({
        "type": "object",
        "properties": {
            "name": {"type": "string", "minLength": 1, "maxLength": 40},
            "kind": {"enum": ["a", "b", null]},
            "when": {"type": "string", "format": "date"},
            "colour": {"type": "string", "format": "color"},
            "tags": {"type": "array", "items": {"type": "string", "pattern": "^[a-z]+$"}, "maxItems": 3},
            "next": {"anyOf": [{"$ref": "#/$defs/Node"}, {"type": "null"}]},
            "score": {"type": "number", "minimum": 0, "exclusiveMaximum": 1},
        },
        "required": ["name", "kind"],
        "additionalProperties": false,
        "$defs": {"Node": {"type": "object", "properties": {"value": {"type": "integer"}, "next": {"$ref": "#/$defs/Node"}}, "required": ["value"], "additionalProperties": false}},
        "$schema": "https://json-schema.org/draft-07/schema",
    });
    let grammar = TINY.schema(schema.clone()).unwrap();
    let mut original = schema.clone();
    original.as_object_mut().unwrap().remove("$schema");
    let validator = jsonschema::options().should_validate_formats(false).build(&original).unwrap();
    let mut n_finished = 0;
    for seed in 0..30 {
        if let Outcome::Finished(text) = TINY.walk(&grammar, seed) {
            let value: Value = serde_json::from_slice(&text).unwrap();
            assert!(validator.is_valid(&value), "{value}");
            n_finished += 1;
        }
    }
    assert!(n_finished > 10);
    assert!(TINY.accepts(&grammar, r#"{"name": "x", "kind": null, "next": {"value": 3, "next": {"value": 4}}}"#));
    assert!(TINY.accepts(&grammar, "{\n  \"name\": \"x\",\n  \"kind\": \"a\"\n}"));
    assert!(!TINY.accepts(&grammar, r#"{"name": "x", "kind": "c"}"#));
    assert!(!TINY.accepts(&grammar, r#"{"name": "x", "kind": "a", "n\u0061me": 1}"#));
}

/// An additional property cannot repeat a named one under another spelling.
#[test]
fn names_have_one_spelling() {
    let grammar = BYTES.schema(json!({"properties": {"a": {"type": "integer"}}, "required": ["a"]})).unwrap();
    assert!(BYTES.accepts(&grammar, r#"{"a":1,"b":"\n"}"#));
    for text in [r#"{"a":1,"\u0061":"x"}"#, r#"{"a":1,"a":"x"}"#] {
        assert!(!BYTES.accepts(&grammar, text), "{text}");
    }
}

#[test]
fn what_cannot_be_enforced_is_refused_by_place() {
    for (schema, path) in [
        (json!({"properties": {"a/b": {"items": {"uniqueItems": true}}}}), "#/properties/a~1b/items/uniqueItems"),
        (json!({"allOf": [{}, {"not": {}}]}), "#/allOf/1/not"),
        (json!({"$defs": {"x": {"if": {}}}, "$ref": "#/$defs/x"}), "#/$defs/x/if"),
        (json!({"components": {"x": {"contains": {}}}, "$ref": "#/components/x"}), "#/components/x/contains"),
        (json!({"$ref": "https://example.org/s.json"}), "#/$ref"),
        (json!({"$ref": "#/nowhere"}), "#/nowhere"),
        (json!({"properties": {"a": {"oneOf": [{"minimum": 1}, {"maximum": 2}]}}}), "#/properties/a/oneOf"),
        (json!({"const": 9_007_199_254_740_993_u64}), "#/const"),
        (json!({"items": {"enum": ["a", "b\u{0}c"]}}), "#/items/enum"),
        (json!({"minProperties": 2}), "#/minProperties"),
        (json!({"prefixItems": [{}], "additionalItems": false}), "#/additionalItems"),
        (json!({"pattern": "\\bx"}), "#/pattern"),
        (json!({"properties": []}), "#/properties"),
        (json!({"items": 3}), "#/items"),
        (json!({"minLength": 1_000_000}), "#/minLength"),
        (json!({"minLength": -1}), "#/minLength"),
        (json!("string"), "#"),
    ] {
        match TINY.schema(schema.clone()) {
            Err(GrammarError::Schema { path: found, .. }) => assert_eq!(found, path, "{schema}"),
            other => panic!("{schema}: {other:?}"),
        }
    }
    // What only annotates, and what holds of everything, is no reason.
    TINY.schema(json!({"uniqueItems": false, "format": "made-up", "x-foo": {"not": {}}, "title": "T"})).unwrap();
    for unsatisfiable in [json!(false), json!({"type": "object", "required": ["a"], "properties": {"a": false}})] {
        assert!(matches!(TINY.schema(unsatisfiable), Err(GrammarError::Compile(_))));
    }
}

/// The library reads options from a schema; a client's must not reach it.
#[test]
fn clients_cannot_set_the_librarys_options() {
    let schema = json!({"type": "object", "x-guidance": {"lenient": true, "whitespace_pattern": "x*"}});
    let grammar = TINY.schema(schema).unwrap();
    assert!(!TINY.accepts(&grammar, "{x}"));
    assert!(TINY.accepts(&grammar, "{ }"));
}

fn ands(n: usize) -> String {
    (0..=n).map(|n| format!("/(.|\\n)*a{{{n},}}b(.|\\n)*/")).collect::<Vec<_>>().join(" & ")
}

fn nested(depth: usize) -> Value {
    (0..depth).fold(json!({}), |inner, _| json!({ "items": inner }))
}

/// Each of these is refused, or compiled and walked, in bounded time and memory and without a panic.
#[test]
fn hostile_specifications_are_survived() {
    let chain: Value = (0..8_001)
        .map(|n| (format!("d{n}"), json!({"items": {"$ref": format!("#/$defs/d{}", (n + 1) % 8_001)}})))
        .collect::<serde_json::Map<_, _>>()
        .into();
    let wide: Value = (0..3_000)
        .map(|n| (format!("property_{n}"), json!({"type": "integer"})))
        .collect::<serde_json::Map<_, _>>()
        .into();
    let texts: Vec<String> = (0..5_000).map(|n| format!("value {n}")).collect();
    let patterns: Vec<Value> = (0..90).map(|n| json!({"pattern": format!("a{{{n},}}b")})).collect();
    let schemas = [
        nested(60),
        nested(100),
        json!({"$ref": "#/$defs/d0", "$defs": chain}),
        json!({"properties": wide}),
        json!({"enum": texts}),
        json!({"allOf": [{"enum": texts}, {"enum": texts}]}),
        json!({"allOf": patterns}),
        json!({"allOf": [{"pattern": "(a|b)*a(a|b){40}$"}, {"pattern": "^(a|b)*b(a|b){41}$"}]}),
        json!({"pattern": "^(a|b)*a(a|b){40}$", "maxLength": 900, "format": "email"}),
        json!({"type": "string", "pattern": "(a|b)*a(a|b){40}c"}),
        json!({"type": "string", "pattern": "((a{0,100}){0,100}){0,100}b"}),
        json!({"type": "string", "pattern": format!("{}a{}", "(".repeat(5_000), ")*".repeat(5_000))}),
        json!({"type": "string", "minLength": 9_000, "maxLength": 1_000_000_000}),
        json!({"type": "array", "minItems": 10_000, "maxItems": 4_000_000_000_u64}),
        json!({"anyOf": [{"$ref": "#"}, {"$ref": "#"}]}),
        json!({"allOf": [{"$ref": "#"}]}),
        json!({"$ref": "#"}),
        json!({"$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"}),
        json!({"properties": {"a": {"allOf": [{"$ref": "#"}, {"required": ["b"]}]}}}),
        json!({"patternProperties": {"^a": {}, "a$": {}}}),
        json!({"type": "é".repeat(99)}),
        json!({"minimum": "é".repeat(99)}),
        json!({"multipleOf": 0}),
        json!({"multipleOf": 1e-300, "minimum": 0.1, "maximum": 0.2}),
        json!({"type": "number", "minimum": 1, "maximum": 0}),
    ];
    for schema in schemas {
        let Ok(grammar) = TINY.schema(schema) else { continue };
        TINY.walk(&grammar, 1);
    }
    let others = [
        GrammarSpec::Regex("(".into()),
        GrammarSpec::Regex("(a|b)*a(a|b){60}".into()),
        GrammarSpec::Regex("x".repeat(100_000)),
        GrammarSpec::Regex("(?=a)b".into()),
        GrammarSpec::Regex("[^\u{0}]*".into()),
        GrammarSpec::Lark(String::new()),
        GrammarSpec::Lark("start: start".into()),
        GrammarSpec::Lark("start: start start | \"a\"".into()),
        GrammarSpec::Lark(format!("start: {}", "(".repeat(20_000))),
        GrammarSpec::Lark("start: \"a\"~1000000000".into()),
        GrammarSpec::Lark("start: a{1000000}\na: b{1000000}\nb: \"x\"?".into()),
        GrammarSpec::Lark("start: %json {\"$ref\": \"http://localhost:1/x\"}".into()),
        GrammarSpec::Lark(format!("start: T\nT: {}", ands(8))),
        GrammarSpec::Lark(format!("start: T\nT: {}", ands(90))),
        GrammarSpec::Lark("%import common.NOTHING\nstart: NOTHING".into()),
    ];
    for spec in others {
        let Ok(grammar) = TINY.factory.compile(&spec) else { continue };
        TINY.walk(&grammar, 1);
    }
}

#[test]
fn regular_expressions_and_lark_match_as_a_whole() {
    let regex = BYTES.factory.compile(&GrammarSpec::Regex("(yes|no)( [0-9]{2}/)?".into())).unwrap();
    for (text, is_match) in [("yes", true), ("no 07/", true), ("no 7/", false), ("ye", false), ("yess", false)] {
        assert_eq!(BYTES.accepts(&regex, text), is_match, "{text}");
    }
    let source = "start: expr\nexpr: NUM | \"(\" expr \"+\" expr \")\"\nNUM: /[0-9]+/";
    let lark = BYTES.factory.compile(&GrammarSpec::Lark(source.into())).unwrap();
    for (text, is_match) in [("(1+(22+3))", true), ("1", true), ("(1+2", false), ("1+2", false)] {
        assert_eq!(BYTES.accepts(&lark, text), is_match, "{text}");
    }
}

/// Whatever a client's grammar names, special tokens stay out, and no text becomes one.
#[test]
fn special_tokens_stay_out() {
    let think = BYTES.tokenizer.added_token_id("<think>").unwrap();
    let any = BYTES.factory.compile(&GrammarSpec::Regex("(?s:.*)".into())).unwrap();
    let mut bits = vec![u32::MAX; 64];
    any.clone().allowed(&mut bits).unwrap();
    for (id, text) in BYTES.tokenizer.added_tokens() {
        assert_eq!(bits[id as usize / 32] >> (id % 32) & 1 == 1, id == BYTES.end, "{text}");
    }
    assert!(bits[BYTES.tokenizer.vocab_size().div_ceil(32)..].iter().all(|&word| word == 0));
    assert!(any.clone().accept(think).is_err());
    assert!(BYTES.accepts(&any, "<think>"), "spelled, it is text");
    for source in ["start: <think> \"a\"", "start: <[257]> \"a\"", "start: <[*]>"] {
        let Ok(mut grammar) = BYTES.factory.compile(&GrammarSpec::Lark(source.into())) else { continue };
        assert!(grammar.accept(think).is_err(), "{source}");
        if grammar.allowed(&mut bits).is_ok() {
            assert_eq!(bits[think as usize / 32] >> (think % 32) & 1, 0, "{source}");
        }
    }
}

/// A refused token changes nothing, and what is forced is what the tokenizer would write.
#[test]
fn forced_tokens_are_canonical() {
    let schema = json!({"type": "object", "properties": {"the_only_name": {"const": "and its value"}}, "required": ["the_only_name"], "additionalProperties": false});
    let lark = format!("start: %json {}", json!({"const": "x"}));
    assert!(TINY.factory.compile(&GrammarSpec::Lark(lark)).is_ok());
    let mut grammar = TINY.schema(schema).unwrap();
    let mut ids = Vec::new();
    let mut bits = vec![0; TINY.tokenizer.vocab_size().div_ceil(32)];
    while !grammar.is_complete() {
        assert!(matches!(grammar.accept(TINY.end), Err(GrammarError::NotAllowed { .. })));
        let mut forced = Vec::new();
        grammar.forced(&mut forced);
        if forced.is_empty() {
            grammar.allowed(&mut bits).unwrap();
            // Of the white space and the continuations, the continuation.
            let wanted = TINY.tokenizer.encode_plain("{\"the_only_name\":\"and its value\"}").unwrap();
            forced.push(wanted[ids.len()]);
        }
        for id in forced {
            grammar.accept(id).unwrap();
            ids.push(id);
        }
    }
    assert_eq!(TINY.tokenizer.decode(&ids, false).unwrap(), "{\"the_only_name\":\"and its value\"}");
}

#[test]
fn a_grammar_waits_for_the_end_of_reasoning() {
    let think = ThinkTokens::of(&BYTES.tokenizer).unwrap();
    let grammar = BYTES.schema(json!({"type": "boolean"})).unwrap();
    let mut bits = vec![0; 16];
    let feed = |armed: &mut ArmedGrammar, text: &str| {
        text.bytes()
            .all(|byte| armed.accept(BYTES.tokenizer.encode_plain(&char::from(byte).to_string()).unwrap()[0]).is_ok())
    };
    let mut armed = ArmedGrammar::new(grammar.clone(), true, Some(think));
    assert!(feed(&mut armed, "not true }") && !armed.allowed(&mut bits).unwrap());
    armed.accept(think.close).unwrap();
    assert!(armed.is_armed() && armed.allowed(&mut bits).unwrap());
    let newline = BYTES.tokenizer.encode_plain("\n").unwrap()[0];
    assert_eq!(bits[newline as usize / 32] >> (newline % 32) & 1, 1);
    assert!(feed(&mut armed, "\n\n") && !feed(&mut armed, "\n") && !feed(&mut armed, "x") && feed(&mut armed, "true"));
    assert!(armed.is_complete() && armed.accept(BYTES.end).is_ok());

    // Without the tag as a token, the reasoning parser says when.
    let mut armed = ArmedGrammar::new(grammar.clone(), true, None);
    assert!(feed(&mut armed, "hm</think>") && !armed.is_armed());
    armed.arm();
    assert!(!feed(&mut armed.clone(), "hm") && feed(&mut armed, "\nfalse"));

    let mut armed = ArmedGrammar::new(grammar, false, Some(think));
    assert!(!feed(&mut armed, "\n") && feed(&mut armed, "true"));
}

fn tools() -> Vec<Tool> {
    Tool::from_openai(&[
        json!({"type": "function", "function": {"name": "get_weather", "parameters": {
            "type": "object",
            "properties": {
                "city": {"type": "string", "description": "where"},
                "unit": {"enum": ["C", "F"]},
                "days": {"anyOf": [{"$ref": "#/$defs/n"}, {"type": "null"}]},
            },
            "required": ["city", "unit"],
            "additionalProperties": false,
            "$defs": {"n": {"type": "integer", "minimum": 1, "maximum": 14}},
        }}}),
        json!({"type": "function", "function": {"name": "now"}}),
    ])
    .unwrap()
}

/// Forced calls come out of the parser whole, with arguments that are valid, in every format, whether its markers are
/// tokens or spelled.
#[test]
fn forced_calls_are_calls() {
    use ToolFormat::{DeepSeek, DeepSeekFenced, DsmlCalls, DsmlFunctionCalls, DsmlToolCalls, Hermes, Llama};
    let tools = tools();
    let validator = jsonschema::validator_for(&tools[0].parameters).unwrap();
    for model in [&*TINY, &*BYTES] {
        for format in [DeepSeekFenced, DeepSeek, DsmlFunctionCalls, DsmlToolCalls, DsmlCalls, Hermes, Llama] {
            for (choice, parallel) in [
                (ToolChoice::Required, true),
                (ToolChoice::Required, false),
                (ToolChoice::Named("get_weather".into()), false),
            ] {
                let named = choice != ToolChoice::Required;
                let spec = GrammarSpec::ToolCalls { format, tools: tools.clone(), choice, parallel };
                let grammar = model.factory.compile(&spec).unwrap_or_else(|error| panic!("{format:?}: {error}"));
                let mut n_finished = 0;
                for seed in 0..6 {
                    let text = match model.walk(&grammar, seed) {
                        Outcome::Finished(text) => String::from_utf8_lossy(&text).into_owned(),
                        Outcome::Unfinished => continue,
                        Outcome::Stuck(error) => panic!("{format:?}: {error}"),
                    };
                    n_finished += 1;
                    let mut parser = ToolParser::new(format);
                    let mut events = parser.push(&text);
                    events.extend(parser.finish());
                    let (mut n_calls, mut name, mut arguments) = (0, String::new(), String::new());
                    for event in events {
                        match event {
                            Delta::ToolCallStart { name: found, .. } => (name, arguments) = (found, String::new()),
                            Delta::ToolCallArguments { fragment, .. } => arguments.push_str(&fragment),
                            Delta::ToolCallEnd { complete, .. } => {
                                assert!(complete, "{format:?} {text}");
                                let value: Value = serde_json::from_str(&arguments).unwrap();
                                assert!(
                                    name == "now" && !named || name == "get_weather" && validator.is_valid(&value),
                                    "{text}"
                                );
                                n_calls += 1;
                            }
                            other => panic!("{format:?} {text}: {other:?}"),
                        }
                    }
                    assert!(n_calls == 1 || parallel && n_calls > 1, "{format:?} {text}");
                }
                // Chance hardly ever spells the end of a DSML text.
                assert!(n_finished > 0 || format_is_dsml(format), "{format:?}");
            }
        }
    }
}

fn format_is_dsml(format: ToolFormat) -> bool {
    matches!(format, ToolFormat::DsmlFunctionCalls | ToolFormat::DsmlToolCalls | ToolFormat::DsmlCalls)
}

/// What models write in each format is what the grammar lets them write.
#[test]
fn forced_calls_are_in_the_models_own_words() {
    let arguments = r#"{"city":"Köln","unit":"C","days":3}"#;
    let dsml = |block: &str, space: &str| {
        format!(
            "\n\n<｜DSML｜{block}>\n<｜DSML｜{space}invoke name=\"get_weather\">\n<｜DSML｜{space}parameter name=\"city\" string=\"true\">Köln < 3\n</｜DSML｜{space}parameter>\n<｜DSML｜{space}parameter name=\"unit\" string=\"false\">\"C\"</｜DSML｜{space}parameter>\n<｜DSML｜{space}parameter name=\"days\" string=\"false\">3</｜DSML｜{space}parameter>\n</｜DSML｜{space}invoke>\n</｜DSML｜{block}>"
        )
    };
    for (format, text) in [
        (
            ToolFormat::DeepSeekFenced,
            format!(
                "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>get_weather\n```json\n{arguments}\n```<｜tool▁call▁end｜><｜tool▁calls▁end｜>"
            ),
        ),
        (
            ToolFormat::DeepSeek,
            format!(
                "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>now<｜tool▁sep｜>{{}}<｜tool▁call▁end｜><｜tool▁call▁begin｜>get_weather<｜tool▁sep｜>{arguments}<｜tool▁call▁end｜><｜tool▁calls▁end｜>"
            ),
        ),
        (
            ToolFormat::Hermes,
            format!("<tool_call>\n{{\"name\": \"get_weather\", \"arguments\": {arguments}}}\n</tool_call>"),
        ),
        (ToolFormat::Llama, format!("{{\"name\": \"get_weather\", \"parameters\": {arguments}}}")),
        (ToolFormat::DsmlFunctionCalls, dsml("function_calls", "")),
        (ToolFormat::DsmlToolCalls, dsml("tool_calls", "")),
        (ToolFormat::DsmlCalls, dsml(" calls", " ")),
    ] {
        for model in [&*TINY, &*BYTES] {
            let spec = GrammarSpec::ToolCalls { format, tools: tools(), choice: ToolChoice::Required, parallel: true };
            let grammar = model.factory.compile(&spec).unwrap();
            let accepts = |text: &str| {
                let mut grammar = grammar.clone();
                let ids = model.tokenizer.encode(text).unwrap();
                ids.iter().all(|&id| grammar.accept(id).is_ok()) && grammar.may_end().unwrap()
            };
            assert!(accepts(&text), "{format:?} {text}");
            assert!(!accepts(&text.replace("get_weather", "get_whether")), "{format:?}");
            assert!(!accepts(&text.replace('3', "30").replace("< 30", "< 3")), "{format:?}");
            assert!(!accepts(&format!("Hello {text}")), "{format:?}");
        }
    }
}

#[test]
fn tools_that_cannot_be_forced_are_refused() {
    for (tools, problem) in [
        (json!([{"type": "web_search"}]), "[0]: expected {type: function"),
        (json!([{"type": "function", "function": {"name": "a b"}}]), "[0].function.name"),
        (
            json!([{"type": "function", "function": {"name": "a"}}, {"type": "function", "function": {"name": "a"}}]),
            "twice",
        ),
    ] {
        let error = Tool::from_openai(tools.as_array().unwrap()).unwrap_err().to_string();
        assert!(error.contains(problem), "{error}");
    }
    let compile = |tools: Vec<Tool>, choice| {
        let spec = GrammarSpec::ToolCalls { format: ToolFormat::Hermes, tools, choice, parallel: true };
        TINY.factory.compile(&spec).unwrap_err().to_string()
    };
    assert!(compile(tools(), ToolChoice::Named("nope".into())).contains("none of the name \"nope\""));
    assert!(compile(vec![], ToolChoice::Required).contains("there are none"));
    let bad = Tool { name: "f".into(), parameters: json!({"not": {}}) };
    assert!(compile(vec![bad], ToolChoice::Required).contains("tool f: #/not"));
}

#[test]
fn vocabularies_are_checked() {
    let tokenizer = Arc::new(common::bytes_and(&[END]));
    assert!(matches!(GrammarFactory::new(&tokenizer, &[]), Err(GrammarError::Vocabulary(_))));
    assert!(matches!(GrammarFactory::new(&tokenizer, &[99_999]), Err(GrammarError::Vocabulary(_))));
    fn is_send<T: Send>() {}
    is_send::<Grammar>();
    is_send::<GrammarFactory>();
}
