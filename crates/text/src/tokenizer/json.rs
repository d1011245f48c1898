//! tokenizer.json → [`Spec`]. Owns the subset of that format which byte-level BPE models of this family use;
//! anything else is an error that names the field. Must not build tokenizers.
//!
//! `truncation`, `padding` and `post_processor` are ignored: lengths belong to the engine, BOS to the template.

use std::fmt;

use serde::de::{MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::Value;

use super::bpe::Vocab;
use super::spec::{AddedToken, Behavior, Normalizer, Spec, Step};
use crate::error::{TokenizerError, excerpt};

/// The pattern that a `ByteLevel` pre-tokenizer with `use_regex` applies (GPT-2).
pub(crate) const GPT2_PATTERN: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";

#[derive(Deserialize)]
struct Document {
    #[serde(default)]
    added_tokens: Vec<AddedEntry>,
    #[serde(default)]
    normalizer: Value,
    #[serde(default)]
    pre_tokenizer: Value,
    #[serde(default)]
    decoder: Value,
    model: Model,
}

#[derive(Deserialize)]
struct AddedEntry {
    id: u32,
    content: String,
    #[serde(default)]
    single_word: bool,
    #[serde(default)]
    lstrip: bool,
    #[serde(default)]
    rstrip: bool,
    #[serde(default)]
    normalized: bool,
    #[serde(default)]
    special: bool,
}

#[derive(Deserialize)]
struct Model {
    r#type: Option<String>,
    #[serde(default, deserialize_with = "vocab")]
    vocab: Vocab,
    #[serde(default)]
    merges: Vec<Merge>,
    dropout: Option<f64>,
    continuing_subword_prefix: Option<String>,
    end_of_word_suffix: Option<String>,
    #[serde(default)]
    byte_fallback: bool,
    #[serde(default)]
    ignore_merges: bool,
}

/// Both spellings that are found in files: `["a", "b"]` and `"a b"`.
enum Merge {
    Pair(String, String),
    Joined(String),
}

impl<'de> Deserialize<'de> for Merge {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct MergeVisitor;
        impl<'de> Visitor<'de> for MergeVisitor {
            type Value = Merge;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a merge: two strings, or one with a space")
            }

            fn visit_str<E: serde::de::Error>(self, line: &str) -> Result<Merge, E> {
                Ok(Merge::Joined(line.to_owned()))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Merge, A::Error> {
                let mut next =
                    |at| items.next_element()?.ok_or_else(|| serde::de::Error::invalid_length(at, &"two strings"));
                Ok(Merge::Pair(next(0)?, next(1)?))
            }
        }
        deserializer.deserialize_any(MergeVisitor)
    }
}

/// The vocabulary object; of a token that is there twice, the last id counts.
fn vocab<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vocab, D::Error> {
    struct VocabVisitor;
    impl<'de> Visitor<'de> for VocabVisitor {
        type Value = Vocab;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an object from tokens to ids")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Vocab, A::Error> {
            let mut vocab = Vocab::default();
            while let Some((token, id)) = entries.next_entry()? {
                vocab.insert(token, id);
            }
            Ok(vocab)
        }
    }
    deserializer.deserialize_map(VocabVisitor)
}

/// Reads a tokenizer.json.
pub(crate) fn parse(bytes: &[u8]) -> Result<Spec, TokenizerError> {
    let document: Document =
        serde_json::from_slice(bytes).map_err(|source| TokenizerError::Json { what: "tokenizer.json", source })?;
    let Document { added_tokens, normalizer, pre_tokenizer, decoder, model } = document;
    check_model(&model)?;
    check_decoder(&decoder)?;
    let merges = (model.merges.into_iter().enumerate())
        .filter(|(_, merge)| !matches!(merge, Merge::Joined(line) if line.starts_with("#version")))
        .map(|(at, merge)| split_merge(at, merge))
        .collect::<Result<_, _>>()?;
    Ok(Spec {
        vocab: model.vocab,
        merges,
        added: added_tokens.into_iter().map(added_token).collect::<Result<_, _>>()?,
        normalizer: read_normalizer(&normalizer)?,
        steps: read_pre_tokenizer(&pre_tokenizer)?,
        ignore_merges: model.ignore_merges,
    })
}

fn check_model(model: &Model) -> Result<(), TokenizerError> {
    let kind = model.r#type.as_deref().unwrap_or("BPE");
    if kind != "BPE" {
        return Err(unsupported("model.type", "BPE", kind));
    }
    if model.dropout.is_some_and(|p| p != 0.0) {
        return Err(unsupported("model.dropout", "null or 0", "another value"));
    }
    for (field, affix) in [
        ("model.continuing_subword_prefix", &model.continuing_subword_prefix),
        ("model.end_of_word_suffix", &model.end_of_word_suffix),
    ] {
        if let Some(affix) = affix.as_deref().filter(|affix| !affix.is_empty()) {
            return Err(unsupported(field, "null or empty", affix));
        }
    }
    if model.byte_fallback {
        return Err(unsupported("model.byte_fallback", "false (a byte-level vocabulary)", "true"));
    }
    Ok(())
}

fn check_decoder(decoder: &Value) -> Result<(), TokenizerError> {
    let kind = kind_of(decoder);
    match kind {
        "ByteLevel" => Ok(()),
        "Sequence" => members(decoder, "decoders").iter().try_for_each(check_decoder),
        _ => Err(unsupported("decoder.type", "ByteLevel", kind)),
    }
}

fn added_token(entry: AddedEntry) -> Result<AddedToken, TokenizerError> {
    let AddedEntry { id, content, single_word, lstrip, rstrip, normalized, special } = entry;
    for (flag, set) in [("single_word", single_word), ("lstrip", lstrip), ("rstrip", rstrip)] {
        if set {
            let field = format!("added_tokens[id {id}].{flag}");
            return Err(TokenizerError::Unsupported { field, expected: "false", found: "true".into() });
        }
    }
    Ok(AddedToken { id, content, special, normalized })
}

fn split_merge(at: usize, merge: Merge) -> Result<(String, String), TokenizerError> {
    match merge {
        Merge::Pair(left, right) => Ok((left, right)),
        Merge::Joined(line) => pair_of(at, &line),
    }
}

/// Splits `"a b"`, the spelling of merges.txt and of GGUF.
pub(crate) fn pair_of(at: usize, line: &str) -> Result<(String, String), TokenizerError> {
    match line.split_once(' ') {
        Some((left, right)) if !right.contains(' ') => Ok((left.to_owned(), right.to_owned())),
        _ => Err(TokenizerError::Invalid {
            field: format!("merges[{at}]"),
            problem: format!("expected two tokens and one space, found {:?}", excerpt(line)),
        }),
    }
}

fn read_normalizer(node: &Value) -> Result<Normalizer, TokenizerError> {
    match kind_of(node) {
        "null" => Ok(Normalizer::Identity),
        "NFC" => Ok(Normalizer::Nfc),
        "Sequence" => members(node, "normalizers").iter().try_fold(Normalizer::Identity, |so_far, member| {
            let next = read_normalizer(member)?;
            Ok(if next == Normalizer::Identity { so_far } else { next })
        }),
        other => Err(unsupported("normalizer.type", "null, NFC or a Sequence of these", other)),
    }
}

/// Reads the steps before the final byte mapping, which must be there: it is what makes the vocabulary byte-level.
fn read_pre_tokenizer(node: &Value) -> Result<Vec<Step>, TokenizerError> {
    let nodes = if kind_of(node) == "Sequence" { members(node, "pretokenizers") } else { std::slice::from_ref(node) };
    let Some((last, before)) = nodes.split_last().filter(|(last, _)| kind_of(last) == "ByteLevel") else {
        return Err(unsupported("pre_tokenizer", "a sequence that ends with ByteLevel", kind_of(node)));
    };
    let mut steps = before.iter().map(read_step).collect::<Result<Vec<_>, _>>()?;
    if last.get("add_prefix_space").and_then(Value::as_bool).unwrap_or(true) {
        return Err(unsupported("pre_tokenizer.add_prefix_space", "false", "true"));
    }
    if last.get("use_regex").and_then(Value::as_bool).unwrap_or(true) {
        steps.push(Step::Regex { pattern: GPT2_PATTERN.into(), behavior: Behavior::Isolated, invert: false });
    }
    Ok(steps)
}

fn read_step(node: &Value) -> Result<Step, TokenizerError> {
    match kind_of(node) {
        "Digits" => {
            let individual = node.get("individual_digits").and_then(Value::as_bool).unwrap_or(false);
            Ok(Step::Digits { individual })
        }
        "Split" => {
            let invert = node.get("invert").and_then(Value::as_bool).unwrap_or(false);
            let behavior = node.get("behavior").cloned().unwrap_or_default();
            let behavior = Behavior::deserialize(&behavior)
                .map_err(|_| unsupported("pre_tokenizer.behavior", "a split behavior", &behavior.to_string()))?;
            let pattern = node.get("pattern");
            let read = |key| pattern.and_then(|p| p.get(key)).and_then(Value::as_str).map(str::to_owned);
            match (read("Regex"), read("String")) {
                (Some(pattern), _) => Ok(Step::Regex { pattern, behavior, invert }),
                (None, Some(text)) => Ok(Step::Literal { text, behavior, invert }),
                (None, None) => Err(unsupported("pre_tokenizer.pattern", "a Regex or a String", "neither")),
            }
        }
        other => Err(unsupported("pre_tokenizer.type", "Split, Digits or ByteLevel", other)),
    }
}

fn kind_of(node: &Value) -> &str {
    match node {
        Value::Null => "null",
        _ => node.get("type").and_then(Value::as_str).unwrap_or("an object without type"),
    }
}

fn members<'a>(node: &'a Value, key: &str) -> &'a [Value] {
    node.get(key).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

fn unsupported(field: &str, expected: &'static str, found: &str) -> TokenizerError {
    TokenizerError::Unsupported { field: field.into(), expected, found: excerpt(found) }
}
