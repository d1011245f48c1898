//! Properties that hold for every input: how a stream is cut makes no difference, and user text makes no tokens.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

mod common;

use std::sync::{Arc, LazyLock};

use proptest::prelude::*;
use text::{
    ChatTemplate, Delta, Detokenizer, Message, OutputStream, ReasoningParser, RenderOptions, Role, StopMatcher,
    StopStrings, ThinkTokens, Tokenizer, TokenizerConfig,
};

const ADDED: [&str; 6] = ["<s>", "<|user|>", "<think>", "</think>", "<｜Assistant｜>", "<|"];

fn tokenizer() -> Arc<Tokenizer> {
    static TOKENIZER: LazyLock<Arc<Tokenizer>> = LazyLock::new(|| Arc::new(common::bytes_and(&ADDED)));
    Arc::clone(&TOKENIZER)
}

/// Text rich in pieces of tags.
fn tricky_text() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        Just("<think>".to_owned()),
        Just("</think>".to_owned()),
        Just("<|user|>".to_owned()),
        Just("<s>".to_owned()),
        Just("<".to_owned()),
        Just("</".to_owned()),
        Just("think".to_owned()),
        Just(">".to_owned()),
        Just("\n".to_owned()),
        Just("\n\n".to_owned()),
        Just(" ".to_owned()),
        Just("漢😀é｜".to_owned()),
        Just("\u{F0000}\u{100000}".to_owned()),
        "[a-c]{0,3}",
        any::<char>().prop_map(String::from),
    ];
    proptest::collection::vec(piece, 0..12).prop_map(|pieces| pieces.concat())
}

/// Cuts `text` at the given fractions, on character boundaries.
fn cut<'a>(text: &'a str, at: &[prop::sample::Index]) -> Vec<&'a str> {
    let mut cuts: Vec<usize> = at.iter().map(|index| index.index(text.len() + 1)).collect();
    cuts.retain(|&cut| text.is_char_boundary(cut));
    cuts.extend([0, text.len()]);
    cuts.sort_unstable();
    cuts.windows(2).map(|pair| &text[pair[0]..pair[1]]).collect()
}

/// Joins neighbours of one kind, so that streams can be compared.
fn joined(deltas: Vec<Delta>) -> (String, String) {
    let (mut reasoning, mut content) = (String::new(), String::new());
    for delta in deltas {
        match delta {
            Delta::Reasoning(text) => {
                assert!(content.is_empty(), "reasoning comes first");
                reasoning += &text;
            }
            Delta::Content(text) => content += &text,
            call => panic!("{call:?}: no tools are offered"),
        }
    }
    (reasoning, content)
}

fn parse(pieces: &[&str], open: bool) -> (String, String) {
    let mut parser = ReasoningParser::new(open, true);
    let mut deltas: Vec<Delta> = pieces.iter().flat_map(|piece| parser.push(piece)).collect();
    deltas.extend(parser.finish());
    joined(deltas)
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn user_text_makes_no_added_token(text in tricky_text(), system in tricky_text(), tool in tricky_text()) {
        let tokenizer = tokenizer();
        let config = TokenizerConfig { bos_token: Some("<s>".into()), ..TokenizerConfig::default() };
        let source = "{{ bos_token }}{% for m in messages %}<|user|>{{ m.role }}<{{ m.content | trim }}think>{{ m.content }}\
                      {% endfor %}<{{ tools[0].name }}>{{ tools | tojson }}<｜Assistant｜><think>";
        let template = ChatTemplate::compile(source, &config, &tokenizer).unwrap();
        let messages = [Message::system(system), Message::user(text.clone()), Message::new(Role::Tool, text)];
        let tools = Some(vec![serde_json::json!({ "name": tool })]);
        let rendered = template.render(&messages, &RenderOptions { tools, ..RenderOptions::default() }).unwrap();
        let ids = tokenizer.encode_rendered(&rendered).unwrap();
        let added: Vec<&str> = ids.iter().filter_map(|&id| tokenizer.added_token(id)).collect();
        prop_assert_eq!(added, ["<s>", "<|user|>", "<|user|>", "<|user|>", "<｜Assistant｜>", "<think>"]);
        prop_assert_eq!(tokenizer.decode(&ids, false).unwrap(), rendered.text());
    }

    #[test]
    fn plain_text_makes_no_added_token_and_comes_back(text in tricky_text()) {
        let tokenizer = tokenizer();
        let ids = tokenizer.encode_plain(&text).unwrap();
        prop_assert!(ids.iter().all(|&id| tokenizer.added_token(id).is_none()));
        prop_assert_eq!(tokenizer.decode(&ids, true).unwrap(), text.clone());
        prop_assert_eq!(tokenizer.decode(&tokenizer.encode(&text).unwrap(), false).unwrap(), text);
    }

    #[test]
    fn the_detokenizer_gives_the_decoded_text(ids in proptest::collection::vec(0u32..262, 0..40), skip: bool) {
        let tokenizer = tokenizer();
        let mut detokenizer = Detokenizer::new(Arc::clone(&tokenizer), skip);
        let mut text: String = ids.iter().map(|&id| detokenizer.push(id)).collect();
        text += &detokenizer.finish();
        prop_assert_eq!(text, tokenizer.decode(&ids, skip).unwrap());
    }

    #[test]
    fn stops_cut_at_the_leftmost_match(
        text in "[ab]{0,12}é?[ab]{0,12}",
        stops in proptest::collection::vec("[ab]{1,4}é?", 0..4),
        at in proptest::collection::vec(any::<prop::sample::Index>(), 0..6),
    ) {
        let first = stops.iter().filter_map(|stop| text.find(stop.as_str())).min();
        let strings = Arc::new(StopStrings::new(&stops).unwrap());
        let mut matcher = StopMatcher::new(strings);
        let mut shown = String::new();
        for piece in cut(&text, &at) {
            shown += &matcher.push(piece);
            prop_assert!(text[..first.unwrap_or(text.len())].starts_with(&shown), "never a part of a stop string");
        }
        shown += &matcher.finish();
        prop_assert_eq!(matcher.stopped(), first.is_some());
        prop_assert_eq!(shown, &text[..first.unwrap_or(text.len())]);
    }

    #[test]
    fn reasoning_is_the_same_however_it_is_cut(
        text in tricky_text(),
        open: bool,
        at in proptest::collection::vec(any::<prop::sample::Index>(), 0..8),
    ) {
        prop_assert_eq!(parse(&cut(&text, &at), open), parse(&[&text], open));
    }

    #[test]
    fn nothing_but_tags_and_white_space_is_lost(text in tricky_text(), open: bool) {
        let (reasoning, content) = parse(&[&text], open);
        let bare = |text: &str| text.replace(['\n', ' '], "");
        let kept = bare(&(reasoning + &content));
        let mut whole = text.replacen("<think>", "", 1).replacen("</think>", "", 1);
        whole.retain(|c| !c.is_whitespace());
        let mut all = text.clone();
        all.retain(|c| !c.is_whitespace());
        let kept: String = kept.chars().filter(|c| !c.is_whitespace()).collect();
        prop_assert!(kept == all || kept.len() + "</think>".len() == all.len() || kept.len() + "<think>".len() == all.len()
            || kept.len() == whole.len(), "{kept:?} of {all:?}");
    }

    #[test]
    fn the_output_stream_is_its_parts(ids in proptest::collection::vec(prop_oneof![0u32..262, Just(258), Just(259)], 0..40), open: bool) {
        let tokenizer = tokenizer();
        let stop = Arc::new(StopStrings::new(&["ab"]).unwrap());
        let mut stream = OutputStream::new(Arc::clone(&tokenizer), open, stop);
        let mut deltas: Vec<Delta> = ids.iter().flat_map(|&id| stream.push(id)).collect();
        deltas.extend(stream.finish());
        let (reasoning, content) = joined(deltas);
        prop_assert!(!content.contains("ab"));
        prop_assert!(!(reasoning + &content).contains("think>"), "a tag that is a token");
        prop_assert_eq!(ThinkTokens::of(&tokenizer), Some(ThinkTokens { open: 258, close: 259 }));
    }
}

#[test]
fn reasoning_by_example() {
    for (text, open, reasoning, content) in [
        ("<think>\na\nb\n</think>\n\nc", false, "a\nb", "c"),
        ("a\n</think>\n\nc\n", true, "a", "c\n"),
        ("<think>\na</think>c", true, "a", "c"),
        (" \n<think>a</think>c", false, "a", "c"),
        ("no tags", false, "", "no tags"),
        ("\n\nno tags", false, "", "\n\nno tags"),
        ("never closed\n", true, "never closed\n", ""),
        ("a</think>b</think>c<think>d", true, "a", "b</think>c<think>d"),
        ("a <think> b", false, "", "a <think> b"),
        ("</think>b", false, "", "b"),
        ("<think></think>b", false, "", "b"),
        ("<think>\n\n</think>\n\nb", false, "", "b"),
        ("<thin", false, "", "<thin"),
        ("a</thin", true, "a</thin", ""),
        ("x\n\n\ny</think>", true, "x\n\n\ny", ""),
        ("  \n", false, "", "  \n"),
    ] {
        assert_eq!(parse(&[text], open), (reasoning.into(), content.into()), "{text:?}");
    }
}
