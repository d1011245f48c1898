//! A trained tokenizer in the reader that serves it: round trips, digits apart, special tokens, the chat template.
#![allow(clippy::unwrap_used, reason = "a test stops where something fails")]

use std::sync::OnceLock;

use proptest::prelude::*;
use text::{ChatTemplate, Message, RenderOptions, Tokenizer, TokenizerConfig};
use train::bpe::{BpeError, SPECIAL_TOKENS, TokenizerFiles, VOCAB_SIZE_MIN, train};
use train::split::Split;
use train::tasks::{NAMES, Questions};

const VOCAB_SIZE: usize = 600;

fn corpus() -> impl Iterator<Item = String> + Send {
    let prose = "It was the best of times, it was the worst of times. Größe, été, 中文字符。\n";
    let questions = NAMES.iter().flat_map(|name| {
        let questions = Questions::new(name, &toml::Table::new(), 1, 0.0).unwrap();
        (0..40).map(move |i| questions.get(Split::Train, i).unwrap().question)
    });
    questions.chain((0..30).map(|_| prose.to_owned())).collect::<Vec<_>>().into_iter()
}

fn trained() -> &'static (TokenizerFiles, Tokenizer) {
    static TRAINED: OnceLock<(TokenizerFiles, Tokenizer)> = OnceLock::new();
    TRAINED.get_or_init(|| {
        let files = train(corpus(), VOCAB_SIZE).unwrap();
        let tokenizer = Tokenizer::from_json(&files.tokenizer).unwrap();
        (files, tokenizer)
    })
}

proptest! {
    #[test]
    fn every_text_comes_back(text in "\\PC{0,80}|[0-9+*/ ()=-]{0,60}|\\w{1,20}[\r\n\t ]{0,4}") {
        let tokenizer = &trained().1;
        let ids = tokenizer.encode_plain(&text).unwrap();
        prop_assert!(ids.iter().all(|id| *id as usize >= SPECIAL_TOKENS.len() && (*id as usize) < VOCAB_SIZE));
        prop_assert_eq!(tokenizer.decode(&ids, false).unwrap(), text);
    }

    #[test]
    fn digits_stand_apart(number: u64) {
        let text = number.to_string();
        prop_assert_eq!(trained().1.encode_plain(&text).unwrap().len(), text.len());
    }
}

#[test]
fn the_vocabulary_is_as_ordered() {
    let (files, tokenizer) = trained();
    assert_eq!(tokenizer.vocab_size(), VOCAB_SIZE);
    for (id, text) in SPECIAL_TOKENS.iter().enumerate() {
        assert_eq!(tokenizer.added_token_id(text), Some(id as u32));
        assert_eq!(tokenizer.encode(text).unwrap(), [id as u32]);
        assert!(!tokenizer.encode_plain(text).unwrap().contains(&(id as u32)), "text spelled {text}");
    }
    assert!(tokenizer.encode_plain(" the worst of times").unwrap().len() < 12, "nothing was merged");
    assert_eq!(&train(corpus(), VOCAB_SIZE).unwrap(), files, "the same text gives the same files");
    let bytes_alone = train(std::iter::empty(), VOCAB_SIZE_MIN).unwrap();
    assert_eq!(Tokenizer::from_json(&bytes_alone.tokenizer).unwrap().encode_plain("añ").unwrap().len(), 3);
}

#[test]
fn sizes_that_cannot_be_met_are_errors() {
    assert!(matches!(train(corpus(), VOCAB_SIZE_MIN - 1), Err(BpeError::Size(_))));
    assert!(matches!(train(corpus(), usize::MAX), Err(BpeError::Size(_))));
    let error = train(["ab ab".to_owned()].into_iter(), 5000).unwrap_err();
    assert!(error.to_string().contains("give more text"), "{error}");
}

#[test]
fn conversations_have_the_family_s_form() {
    let (files, tokenizer) = trained();
    let config = TokenizerConfig::from_json(&files.config).unwrap();
    assert_eq!((config.bos_id(tokenizer), config.eos_id(tokenizer)), (Some(0), Some(1)));
    let template = ChatTemplate::new(&config, tokenizer).unwrap().unwrap();
    let talk = [
        Message::system("Be brief."),
        Message::user("1+1? <think>"),
        Message::assistant("<think>easy</think>2"),
        Message::user("2+2?"),
    ];
    let mut options = RenderOptions { add_generation_prompt: true, ..RenderOptions::default() };
    let rendered = template.render(&talk, &options).unwrap();
    let expected = "<｜begin▁of▁sentence｜>Be brief.<｜User｜>1+1? <think><｜Assistant｜></think>2<｜end▁of▁sentence｜>\
                    <｜User｜>2+2?<｜Assistant｜><think>";
    assert_eq!(rendered.text(), expected);
    assert!(rendered.starts_in_reasoning());
    let ids = tokenizer.encode_rendered(&rendered).unwrap();
    assert_eq!(ids.iter().filter(|id| **id == 5).count(), 1, "the user's tag is text, the template's a token");
    options.extra.insert("thinking".into(), false.into());
    assert!(template.render(&talk, &options).unwrap().text().ends_with("<｜Assistant｜></think>"));
    let call: Message = serde_json::from_value(serde_json::json!({"role": "assistant", "content": null,
        "tool_calls": [{"function": {"name": "add", "arguments": {"a": 1}}}]}))
    .unwrap();
    let answer: Message = serde_json::from_value(serde_json::json!({"role": "tool", "content": "3"})).unwrap();
    let text = template.render(&[Message::user("?"), call, answer], &RenderOptions::default()).unwrap().text();
    let expected = "<｜begin▁of▁sentence｜><｜User｜>?<｜Assistant｜></think><｜tool▁calls▁begin｜><｜tool▁call▁begin｜>add\
                    <｜tool▁sep｜>{\"a\": 1}<｜tool▁call▁end｜><｜tool▁calls▁end｜><｜end▁of▁sentence｜>\
                    <｜tool▁output▁begin｜>3<｜tool▁output▁end｜>";
    assert_eq!(text, expected);
}
