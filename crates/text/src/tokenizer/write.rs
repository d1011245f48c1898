//! A tokenizer from one file form into the other: GGUF metadata ⇄ tokenizer.json with tokenizer_config.json.
//!
//! Owns what a file of each form holds, from the same [`Spec`] that reading yields. Must not touch files.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::gguf::{self, GgufVocab};
use super::json;
use super::spec::{Normalizer, Spec, Step};
use super::{Tokenizer, TokenizerConfig};
use crate::error::{TokenizerError, excerpt};

/// Types of tokens in GGUF.
const NORMAL: i32 = 1;
const CONTROL: i32 = 3;
const USER_DEFINED: i32 = 4;
const UNUSED: i32 = 5;

impl GgufVocab {
    /// The metadata that describes the tokenizer of a folder, for a model of `vocab_size` rows: ids that no token has get
    /// a name that no text can spell.
    ///
    /// Added tokens in angle brackets with bars are control tokens, whatever tokenizer.json says, as other programs' files
    /// have them: there a user-defined token is found in what a user writes.
    ///
    /// # Errors
    /// As [`Tokenizer::from_json`]; GGUF has no name for the pre-tokenizer; a token or merge that GGUF cannot spell
    pub fn from_files(
        tokenizer_json: &[u8],
        config: &TokenizerConfig,
        vocab_size: usize,
    ) -> Result<Self, TokenizerError> {
        // Whatever a reader would refuse is refused here.
        let tokenizer = Tokenizer::from_json(tokenizer_json)?;
        let spec = json::parse(tokenizer_json)?;
        let pre = gguf::name_of(&spec).ok_or_else(|| TokenizerError::Unsupported {
            field: "pre_tokenizer".into(),
            expected: "one that GGUF has a name for",
            found: excerpt(&format!("{:?}", spec.steps)),
        })?;
        let n = spec.n_ids().max(vocab_size);
        let mut tokens: Vec<String> = (0..n).map(|id| format!("[PAD{id}]")).collect();
        let mut types = vec![UNUSED; n];
        for (token, &id) in &spec.vocab {
            (tokens[id as usize], types[id as usize]) = (token.clone(), NORMAL);
        }
        for token in &spec.added {
            let is_control = token.special || looks_like_control(&token.content);
            let kind = if is_control { CONTROL } else { USER_DEFINED };
            (tokens[token.id as usize], types[token.id as usize]) = (token.content.clone(), kind);
        }
        if let Some((at, (left, right))) =
            spec.merges.iter().enumerate().find(|(_, (left, right))| left.contains(' ') || right.contains(' '))
        {
            let problem = format!("GGUF separates pairs by a space, found {:?}", excerpt(&format!("{left}|{right}")));
            return Err(TokenizerError::Invalid { field: format!("merges[{at}]"), problem });
        }
        Ok(Self {
            model: "gpt2".into(),
            pre: pre.into(),
            tokens,
            token_types: Some(types),
            merges: spec.merges.iter().map(|(left, right)| format!("{left} {right}")).collect(),
            bos_token_id: config.bos_id(&tokenizer),
            eos_token_id: config.eos_id(&tokenizer),
            add_bos_token: config.add_bos_token,
            chat_template: config.chat_template.clone(),
        })
    }

    /// The contents of tokenizer.json and tokenizer_config.json that describe the same tokenizer.
    ///
    /// # Errors
    /// As [`Tokenizer::from_gguf`]
    pub fn to_files(&self) -> Result<[Vec<u8>; 2], TokenizerError> {
        let spec = gguf::parse(self)?;
        let config = TokenizerConfig::from_gguf(self);
        let mut document = json!({
            "tokenizer_class": "PreTrainedTokenizerFast",
            "clean_up_tokenization_spaces": false,
            "bos_token": config.bos_token,
            "eos_token": config.eos_token,
            "add_bos_token": config.add_bos_token,
        });
        if let Some(template) = config.chat_template {
            document["chat_template"] = template.into();
        }
        Ok([lines(&tokenizer_json(&spec)), lines(&document)])
    }
}

/// `<|…|>`, with the bars of ASCII or DeepSeek's wide ones.
fn looks_like_control(content: &str) -> bool {
    [("<|", "|>"), ("<｜", "｜>")].iter().any(|(open, close)| content.starts_with(open) && content.ends_with(close))
}

fn lines(document: &Value) -> Vec<u8> {
    format!("{document:#}\n").into_bytes()
}

fn tokenizer_json(spec: &Spec) -> Value {
    let by_id: BTreeMap<u32, &str> = spec.vocab.iter().map(|(token, id)| (*id, token.as_str())).collect();
    let vocab: serde_json::Map<String, Value> =
        by_id.into_iter().map(|(id, token)| (token.to_owned(), id.into())).collect();
    let added = spec.added.iter().map(|token| {
        json!({
            "id": token.id, "content": token.content, "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": token.normalized, "special": token.special
        })
    });
    let byte_level = |add_prefix_space| {
        json!({
            "type": "ByteLevel", "add_prefix_space": add_prefix_space, "trim_offsets": true, "use_regex": false
        })
    };
    let steps: Vec<Value> = spec.steps.iter().map(step).chain([byte_level(false)]).collect();
    let normalizer = match spec.normalizer {
        Normalizer::Identity => Value::Null,
        Normalizer::Nfc => json!({"type": "NFC"}),
    };
    json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": added.collect::<Vec<Value>>(),
        "normalizer": normalizer,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": steps},
        "post_processor": null,
        "decoder": byte_level(true),
        "model": {
            "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false,
            "ignore_merges": spec.ignore_merges, "vocab": vocab, "merges": spec.merges
        }
    })
}

fn step(step: &Step) -> Value {
    let split = |pattern: Value, behavior, invert: bool| {
        json!({
            "type": "Split", "pattern": pattern, "behavior": behavior, "invert": invert
        })
    };
    match step {
        Step::Regex { pattern, behavior, invert } => split(json!({"Regex": pattern}), behavior, *invert),
        Step::Literal { text, behavior, invert } => split(json!({"String": text}), behavior, *invert),
        Step::Digits { individual } => json!({"type": "Digits", "individual_digits": individual}),
    }
}
