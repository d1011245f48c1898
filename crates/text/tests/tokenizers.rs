//! Ids and texts against Hugging Face's: the tiny tokenizers always, the real ones where they were fetched.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout, reason = "tests")]

mod common;

use std::path::Path;

use text::Tokenizer;

/// Every case of `oracle`, both ways, from the file itself and from the GGUF metadata made of it.
fn check(tokenizer_json: &Path, oracle: &Path, pre: &str) {
    let direct = Tokenizer::from_json(&common::read(tokenizer_json)).unwrap();
    let gguf = Tokenizer::from_gguf(&common::gguf_vocab(&common::json(tokenizer_json), pre)).unwrap();
    let cases = common::cases(oracle);
    assert!(!cases.is_empty());
    for (text, ids, decoded) in &cases {
        assert_eq!(&direct.encode(text).unwrap(), ids, "{text:?}");
        assert_eq!(&gguf.encode(text).unwrap(), ids, "GGUF, {text:?}");
        assert_eq!(&direct.decode(ids, false).unwrap(), decoded, "{text:?}");
        assert_eq!(&gguf.decode(ids, false).unwrap(), decoded, "GGUF, {text:?}");
    }
    println!("{}: {} cases equal, from JSON and from GGUF", tokenizer_json.display(), cases.len());
}

#[test]
fn tiny_tokenizers_equal_the_oracle() {
    for (model, pre) in common::TINY {
        check(&common::tiny(model, "tokenizer.json"), &common::tiny(model, "tokenizer_cases.json"), pre);
    }
}

#[test]
fn real_tokenizers_equal_the_oracle() {
    for (folder, oracle, pre) in common::REAL {
        let Some(path) = common::real(folder) else { continue };
        check(&path, &common::fixture(oracle), pre);
        skip_special(&path, &common::fixture(oracle));
    }
}

fn skip_special(tokenizer_json: &Path, oracle: &Path) {
    let tokenizer = Tokenizer::from_json(&common::read(tokenizer_json)).unwrap();
    for case in common::json(oracle)["cases"].as_array().unwrap() {
        let ids: Vec<u32> = case["ids"].as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect();
        assert_eq!(tokenizer.decode(&ids, true).unwrap(), case["decoded_skip_special"].as_str().unwrap());
    }
}
