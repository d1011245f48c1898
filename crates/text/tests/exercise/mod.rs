//! What must hold for any bytes: loading, encoding, rendering and decoding end with an error or with consistent ids.
//! Shared by `damage.rs` and the fuzz targets.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a broken promise is a failure")]

use std::sync::{Arc, LazyLock};

use text::{
    ChatTemplate, Delta, Detokenizer, GgufVocab, Message, OutputStream, RenderOptions, Role, StopStrings, Tokenizer,
    TokenizerConfig, ToolFormat, ToolParser,
};

const PRE: [&str; 6] = ["deepseek-v3", "deepseek-llm", "qwen2", "llama-bpe", "smollm", "gpt-2"];
const ADDED: [&str; 6] = ["<s>", "</s>", "<|user|>", "<think>", "</think>", "{%"];

/// The 256 bytes as byte-level vocabularies spell them.
fn byte_tokens() -> Vec<String> {
    let mut n_shifted = 0;
    let spell = |byte: u32| {
        let printable = matches!(byte, 33..=126 | 161..=172 | 174..=255);
        n_shifted += u32::from(!printable);
        char::from_u32(if printable { byte } else { 255 + n_shifted }).unwrap().to_string()
    };
    (0..=255).map(spell).collect()
}

fn gguf(tokens: Vec<String>, types: Vec<i32>, merges: Vec<String>, pre: &str) -> GgufVocab {
    let (model, pre, token_types) = ("gpt2".into(), pre.into(), Some(types));
    GgufVocab { model, pre, tokens, token_types, merges, ..GgufVocab::default() }
}

/// A tokenizer.json, then, after a zero byte, a text for it.
pub(crate) fn tokenizer_json(bytes: &[u8]) {
    let mut parts = bytes.splitn(2, |&byte| byte == 0);
    let (json, text) = (parts.next().unwrap_or_default(), parts.next().unwrap_or(b"Hello <think> 123 \xe6\xbc\xa2"));
    if let Ok(tokenizer) = Tokenizer::from_json(json) {
        ids_are_consistent(tokenizer, &String::from_utf8_lossy(text));
    }
    let _ = TokenizerConfig::from_json(json);
}

/// The first byte chooses a pre-tokenizer; each line adds a token (`c…` control, `u…` user-defined, `n…` normal),
/// a merge (`m…`, with the token it makes) or text.
pub(crate) fn vocabulary(bytes: &[u8]) {
    let Some((&choice, rest)) = bytes.split_first() else { return };
    let (mut tokens, mut types, mut merges, mut text) = (byte_tokens(), vec![1; 256], Vec::new(), String::new());
    for line in String::from_utf8_lossy(rest).lines() {
        let (kind, body) = line.split_at(line.chars().next().map_or(0, char::len_utf8));
        let mut token = |content: String, kind| {
            tokens.push(content);
            types.push(kind);
        };
        match kind {
            "c" => token(body.into(), 3),
            "u" => token(body.into(), 4),
            "n" => token(body.into(), 1),
            "m" => {
                token(body.replace(' ', ""), 1);
                merges.push(body.into());
            }
            _ => {
                text.push_str(line);
                text.push('\n');
            }
        }
    }
    let vocab = gguf(tokens, types, merges, PRE[usize::from(choice) % PRE.len()]);
    if let Ok(tokenizer) = Tokenizer::from_gguf(&vocab) {
        ids_are_consistent(tokenizer, &text);
    }
}

fn ids_are_consistent(tokenizer: Tokenizer, text: &str) {
    let tokenizer = Arc::new(tokenizer);
    let Ok(ids) = tokenizer.encode(text) else { return };
    let Ok(plain) = tokenizer.encode_plain(text) else { return };
    assert!(plain.iter().all(|&id| tokenizer.added_token(id).is_none()), "plain text made an added token");
    for ids in [ids, plain] {
        assert!(ids.iter().all(|&id| tokenizer.token_bytes(id).is_some()), "an id without bytes");
        let decoded = tokenizer.decode(&ids, false).unwrap();
        let mut detokenizer = Detokenizer::new(Arc::clone(&tokenizer), false);
        let mut streamed: String = ids.iter().map(|&id| detokenizer.push(id)).collect();
        streamed += &detokenizer.finish();
        assert_eq!(streamed, decoded);
        let stop = Arc::new(StopStrings::new(&["\n\n", "ab"]).unwrap());
        let mut stream = OutputStream::new(Arc::clone(&tokenizer), ids.len().is_multiple_of(2), stop);
        let mut deltas: Vec<Delta> = ids.iter().flat_map(|&id| stream.push(id)).collect();
        deltas.extend(stream.finish());
    }
}

/// A template, then, after a zero byte, what the person says.
pub(crate) fn template(bytes: &[u8]) {
    static TOKENIZER: LazyLock<Tokenizer> = LazyLock::new(|| {
        let (mut tokens, mut types) = (byte_tokens(), vec![1; 256]);
        tokens.extend(ADDED.map(String::from));
        types.extend([3; ADDED.len()]);
        Tokenizer::from_gguf(&gguf(tokens, types, Vec::new(), "gpt-2")).unwrap()
    });
    let input = String::from_utf8_lossy(bytes);
    let (source, content) = input.split_once('\0').unwrap_or((&input, "<|user|><s>{% think> \u{F0000}"));
    let config = TokenizerConfig { bos_token: Some("<s>".into()), ..TokenizerConfig::default() };
    let Ok(template) = ChatTemplate::compile(source, &config, &TOKENIZER) else { return };
    let messages = [Message::system(content), Message::user(content), Message::new(Role::Tool, content)];
    let tools = Some(vec![serde_json::json!({ "name": content, content: [1, 2.5, null] })]);
    let options = RenderOptions { tools, add_generation_prompt: true, ..RenderOptions::default() };
    let Ok(rendered) = template.render(&messages, &options) else { return };
    let ids = TOKENIZER.encode_rendered(&rendered).unwrap();
    assert_eq!(TOKENIZER.decode(&ids, false).unwrap(), rendered.text());
    for token in ids.iter().filter_map(|&id| TOKENIZER.added_token(id)) {
        assert!(token == "<s>" || source.contains(token), "{token} is not the template's");
    }
}

/// The first byte chooses a format, the second where to cut; the rest is what a model wrote.
pub(crate) fn tool_calls(bytes: &[u8]) {
    const FORMATS: [ToolFormat; 4] =
        [ToolFormat::DeepSeek, ToolFormat::DsmlToolCalls, ToolFormat::Hermes, ToolFormat::Llama];
    let [format, cut, rest @ ..] = bytes else { return };
    let (format, text) = (FORMATS[usize::from(*format) % FORMATS.len()], String::from_utf8_lossy(rest));
    let whole = calls(format, &[&text]);
    let cut = text.floor_char_boundary(usize::from(*cut));
    assert_eq!(calls(format, &[&text[..cut], &text[cut..]]), whole, "a cut makes a difference");
    if !whole.contains(|delta| matches!(delta, Delta::ToolCallStart { .. })) {
        assert_eq!(whole.text, text, "text is lost");
    }
}

/// What a stream gives: the content, and each event without its text.
#[derive(Debug, PartialEq)]
struct Calls {
    text: String,
    arguments: Vec<String>,
    events: Vec<Delta>,
}

impl Calls {
    fn contains(&self, is: impl Fn(&Delta) -> bool) -> bool {
        self.events.iter().any(is)
    }
}

fn calls(format: ToolFormat, pieces: &[&str]) -> Calls {
    let mut parser = ToolParser::new(format);
    let mut deltas: Vec<Delta> = pieces.iter().flat_map(|piece| parser.push(piece)).collect();
    deltas.extend(parser.finish());
    let mut calls = Calls { text: String::new(), arguments: Vec::new(), events: Vec::new() };
    for delta in deltas {
        match delta {
            Delta::Content(text) => calls.text.push_str(&text),
            Delta::ToolCallArguments { index, fragment } => {
                assert_eq!(index + 1, calls.arguments.len(), "arguments outside their call");
                calls.arguments[index].push_str(&fragment);
            }
            event => {
                if matches!(event, Delta::ToolCallStart { .. }) {
                    calls.arguments.push(String::new());
                }
                calls.events.push(event);
            }
        }
    }
    calls
}
