//! Real files, damaged at random: each must load, or fail with an error. The fuzz targets' twin.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

mod common;
mod exercise;

use proptest::prelude::*;

/// `bytes` with some ranges overwritten, cut out or doubled.
fn damaged(mut bytes: Vec<u8>, damage: &[(prop::sample::Index, u8, u8)]) -> Vec<u8> {
    for (index, kind, byte) in damage {
        if bytes.is_empty() {
            break;
        }
        let at = index.index(bytes.len());
        let end = (at + usize::from(*byte) / 8 + 1).min(bytes.len());
        match kind % 4 {
            0 => bytes[at] = *byte,
            1 => drop(bytes.drain(at..end)),
            2 => bytes.insert(at, *byte),
            _ => {
                let copy = bytes[at..end].to_vec();
                bytes.splice(at..at, copy);
            }
        }
    }
    bytes
}

fn damage() -> impl Strategy<Value = Vec<(prop::sample::Index, u8, u8)>> {
    proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>(), any::<u8>()), 1..6)
}

/// Templates with most of Jinja in them.
fn templates() -> Vec<Vec<u8>> {
    let document = common::json(&common::fixture("jinja_cases.json"));
    document["templates"]
        .as_array()
        .unwrap()
        .iter()
        .map(|source| source.as_str().unwrap().as_bytes().to_vec())
        .collect()
}

const VOCABULARY: &str = "\u{1}mt h\nmth e\nm1 2\nc<think>\nc</think>\nu<tool>\nnzz\nthe <think>the 12 <tool> zz\n";

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn tokenizer_files(model in 0usize..3, damage in damage()) {
        let bytes = common::read(&common::tiny(common::TINY[model].0, "tokenizer.json"));
        exercise::tokenizer_json(&damaged(bytes, &damage));
    }

    #[test]
    fn tool_calls(format: u8, cut: u8, damage in damage()) {
        const CALLS: &str = "Ok\n<tool_call>\n{\"name\": \"f\", \"arguments\": {\"a\": [1, \"é\"]}}\n</tool_call><｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>f\n```json\n{\"a\": {}}\n```<｜tool▁call▁end｜><｜tool▁calls▁end｜><｜DSML｜tool_calls>\n<｜DSML｜invoke name=\"f\">\n<｜DSML｜parameter name=\"a\" string=\"true\">b</｜DSML｜parameter>\n</｜DSML｜invoke>\n</｜DSML｜tool_calls>";
        let mut bytes = damaged(CALLS.as_bytes().to_vec(), &damage);
        bytes.splice(0..0, [format, cut]);
        exercise::tool_calls(&bytes);
    }

    #[test]
    fn vocabularies(damage in damage(), choice: u8) {
        let mut bytes = damaged(VOCABULARY.as_bytes().to_vec(), &damage);
        bytes.insert(0, choice);
        exercise::vocabulary(&bytes);
    }

    #[test]
    fn chat_templates(which in any::<prop::sample::Index>(), damage in damage()) {
        let templates = templates();
        exercise::template(&damaged(templates[which.index(templates.len())].clone(), &damage));
    }
}
