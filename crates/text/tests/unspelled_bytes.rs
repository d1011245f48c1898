//! A vocabulary that cannot spell every byte (SmolLM2's lacks eight): the bytes it lacks are left out, as the
//! reference implementation does, and everything else is encoded as before.
#![allow(clippy::unwrap_used, reason = "tests")]

use text::{GgufVocab, Tokenizer};

/// A vocabulary of the printable ASCII characters alone.
fn ascii() -> Tokenizer {
    let tokens: Vec<String> = ('!'..='~').map(String::from).chain(["Ġ".to_owned(), "Ċ".to_owned()]).collect();
    let vocab = GgufVocab { model: "gpt2".into(), pre: "smollm".into(), tokens, ..GgufVocab::default() };
    Tokenizer::from_gguf(&vocab).unwrap()
}

#[test]
fn bytes_without_a_token_are_left_out() {
    let tokenizer = ascii();
    let ids = tokenizer.encode_plain("a\u{4} b\u{f1}é\n").unwrap();
    assert_eq!(tokenizer.decode(&ids, false).unwrap(), "a b\n");
    assert!(ids.iter().all(|id| (*id as usize) < tokenizer.vocab_size()));
    assert!(tokenizer.encode_plain("\u{4}\u{6}").unwrap().is_empty());
}
