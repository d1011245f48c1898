//! Ids and texts against Hugging Face's: the tiny tokenizers always, the real ones where they were fetched.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout, reason = "tests")]

mod common;

use std::path::Path;

use text::{GgufVocab, Tokenizer, TokenizerConfig};

/// Every case of `oracle`, both ways, from the file itself and from the GGUF metadata made of it.
fn check(tokenizer_json: &Path, oracle: &Path, pre: &str) {
    let direct = Tokenizer::from_json(&common::read(tokenizer_json)).unwrap();
    let gguf = Tokenizer::from_gguf(&common::gguf_vocab(&common::json(tokenizer_json), pre)).unwrap();
    let config = std::fs::read(tokenizer_json.with_file_name("tokenizer_config.json"));
    let config = config.map_or_else(|_| TokenizerConfig::default(), |json| TokenizerConfig::from_json(&json).unwrap());
    // Written in the other form, and in the first again.
    let vocab = GgufVocab::from_files(&common::read(tokenizer_json), &config, direct.vocab_size() + 3).unwrap();
    assert_eq!((vocab.pre.as_str(), vocab.tokens.len()), (pre, direct.vocab_size() + 3));
    let [json, config_json] = vocab.to_files().unwrap();
    let config_again = TokenizerConfig::from_json(&config_json).unwrap();
    assert_eq!(config_again.chat_template, config.chat_template);
    assert_eq!(config_again.eos_id(&direct), config.eos_id(&direct));
    let exported = Tokenizer::from_gguf(&vocab).unwrap();
    let again = Tokenizer::from_json(&json).unwrap();
    let cases = common::cases(oracle);
    assert!(!cases.is_empty());
    for (form, tokenizer) in [("JSON", direct), ("GGUF", gguf), ("GGUF written", exported), ("JSON written", again)] {
        for (text, ids, decoded) in &cases {
            assert_eq!(&tokenizer.encode(text).unwrap(), ids, "{form}, {text:?}");
            assert_eq!(&tokenizer.decode(ids, false).unwrap(), decoded, "{form}, {text:?}");
        }
    }
    println!("{}: {} cases equal in four forms", tokenizer_json.display(), cases.len());
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
