//! What the test files share: fixtures, and vocabularies derived from tokenizer.json.
#![allow(dead_code, reason = "each test binary uses its own part")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout, reason = "tests")]

use std::path::{Path, PathBuf};

use serde_json::Value;
use text::{GgufVocab, Tokenizer};

/// The tiny tokenizers that ship with the repository: folder of the model, pre-tokenizer name in GGUF.
pub(crate) const TINY: [(&str, &str); 3] = [("dsv3", "deepseek-v3"), ("qwen2", "qwen2"), ("llama3", "llama-bpe")];

/// Real tokenizers, too large for the repository: folder, oracle file, pre-tokenizer name in GGUF.
pub(crate) const REAL: [(&str, &str, &str); 3] = [
    ("deepseek_v2", "deepseek_v2.json", "deepseek-llm"),
    ("deepseek_r1_v3", "deepseek_r1_v3.json", "deepseek-v3"),
    ("qwen3", "qwen3.json", "qwen2"),
];

/// A file of this crate's fixtures.
pub(crate) fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

/// A file of a tiny model.
pub(crate) fn tiny(model: &str, name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../testkit/fixtures/oracles").join(model).join(name)
}

/// A file of a real tokenizer, or `None`, with a word about it, where they were not fetched.
pub(crate) fn real(folder: &str) -> Option<PathBuf> {
    let Some(dir) = std::env::var_os("MINKE_TOKENIZERS") else {
        println!("skipped {folder}: MINKE_TOKENIZERS is not set (tests/fetch_tokenizers.sh fills a folder)");
        return None;
    };
    Some(Path::new(&dir).join(folder).join("tokenizer.json"))
}

pub(crate) fn read(path: &Path) -> Vec<u8> {
    std::fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

pub(crate) fn json(path: &Path) -> Value {
    serde_json::from_slice(&read(path)).unwrap()
}

/// `(text, ids, decoded)` of an oracle file.
pub(crate) fn cases(path: &Path) -> Vec<(String, Vec<u32>, String)> {
    let document = json(path);
    let cases = document["cases"].as_array().unwrap().iter();
    cases
        .map(|case| {
            let ids = case["ids"].as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect();
            (case["text"].as_str().unwrap().into(), ids, case["decoded"].as_str().unwrap().into())
        })
        .collect()
}

/// The GGUF metadata that a converter would write for a tokenizer.json.
pub(crate) fn gguf_vocab(tokenizer: &Value, pre: &str) -> GgufVocab {
    let mut tokens: Vec<(String, i32)> = Vec::new();
    let mut put = |id: u64, text: &str, kind: i32| {
        let id = id as usize;
        while tokens.len() <= id {
            tokens.push((format!("[PAD{}]", tokens.len()), 5));
        }
        tokens[id] = (text.into(), kind);
    };
    for (text, id) in tokenizer["model"]["vocab"].as_object().unwrap() {
        put(id.as_u64().unwrap(), text, 1);
    }
    for token in tokenizer["added_tokens"].as_array().unwrap() {
        let kind = if token["special"].as_bool().unwrap() { 3 } else { 4 };
        put(token["id"].as_u64().unwrap(), token["content"].as_str().unwrap(), kind);
    }
    let merges = tokenizer["model"]["merges"].as_array().unwrap().iter().map(|merge| match merge {
        Value::String(line) => line.clone(),
        pair => format!("{} {}", pair[0].as_str().unwrap(), pair[1].as_str().unwrap()),
    });
    let (tokens, types) = tokens.into_iter().unzip();
    GgufVocab {
        model: "gpt2".into(),
        pre: pre.into(),
        tokens,
        token_types: Some(types),
        merges: merges.collect(),
        ..GgufVocab::default()
    }
}

/// A tokenizer of the 256 bytes and `added`, whose ids start at 256.
pub(crate) fn bytes_and(added: &[&str]) -> Tokenizer {
    Tokenizer::from_gguf(&bytes_vocab(added)).unwrap()
}

pub(crate) fn bytes_vocab(added: &[&str]) -> GgufVocab {
    let mut n_shifted = 0;
    let mut tokens: Vec<String> = (0..=255u32)
        .map(|byte| {
            let printable = matches!(byte, 33..=126 | 161..=172 | 174..=255);
            n_shifted += u32::from(!printable);
            char::from_u32(if printable { byte } else { 255 + n_shifted }).unwrap().to_string()
        })
        .collect();
    tokens.extend(added.iter().map(|&text| text.to_owned()));
    let token_types = Some((0..tokens.len()).map(|id| if id < 256 { 1 } else { 3 }).collect());
    GgufVocab { model: "gpt2".into(), pre: "gpt-2".into(), tokens, token_types, ..GgufVocab::default() }
}
