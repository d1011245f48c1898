//! A GGUF file's vocabulary → [`Spec`]. Owns the names of pre-tokenizers in GGUF and what each one means. Must not
//! read GGUF files: the caller hands over the metadata as plain data.

use std::collections::HashMap;

use super::json::{GPT2_PATTERN, pair_of};
use super::spec::{AddedToken, Behavior, Normalizer, Spec, Step};
use crate::error::{TokenizerError, excerpt};

/// The `tokenizer.ggml.*` metadata of a GGUF file.
#[derive(Debug, Clone, Default)]
pub struct GgufVocab {
    /// `tokenizer.ggml.model`; only `gpt2` (byte-level BPE) is accepted.
    pub model: String,
    /// `tokenizer.ggml.pre`: which pre-tokenizer the vocabulary was trained with.
    pub pre: String,
    /// `tokenizer.ggml.tokens`: the token of each id; normal ones in the byte-level spelling.
    pub tokens: Vec<String>,
    /// `tokenizer.ggml.token_type`: 1 normal, 2 unknown, 3 control, 4 user-defined, 5 unused. Absent: all normal.
    pub token_types: Option<Vec<i32>>,
    /// `tokenizer.ggml.merges`: `"left right"`, in rank order.
    pub merges: Vec<String>,
    /// `tokenizer.ggml.bos_token_id`.
    pub bos_token_id: Option<u32>,
    /// `tokenizer.ggml.eos_token_id`.
    pub eos_token_id: Option<u32>,
    /// `tokenizer.ggml.add_bos_token`.
    pub add_bos_token: Option<bool>,
    /// `tokenizer.chat_template`.
    pub chat_template: Option<String>,
}

const QWEN2: &str =
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const DEEPSEEK_V3: [&str; 3] = [
    r"\p{N}{1,3}",
    "[一-龥\u{3040}-ゟ゠-ヿ]+",
    concat!(
        r##"[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^"##,
        "\r\n",
        r"\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[",
        "\r\n",
        r"]*|\s*[",
        "\r\n",
        r"]+|\s+(?!\S)|\s+"
    ),
];
/// DeepSeek V2's letters are a list of ranges: the cased scripts, without the uncased letters `\p{L}` would add.
const DEEPSEEK_LLM: [&str; 5] = [
    "[\r\n]",
    r"\s?[A-Za-zµÀ-ÖØ-öø-ƺƼ-ƿǄ-ʓʕ-ʯͰ-ͳͶͷͻ-ͽͿΆΈ-ΊΌΎ-ΡΣ-ϵϷ-ҁҊ-ԯԱ-ՖႠ-ჅᎠ-Ᏽᏸ-ᏽᲐ-ᲺᲽ-Ჿᴀ-ᴫᵫ-ᵷᵹ-ᶚḀ-ἕἘ-Ἕἠ-ὅὈ-Ὅὐ-ὗὙὛὝὟ-ώᾀ-ᾴᾶ-ᾼιῂ-ῄῆ-ῌῐ-ΐῖ-Ίῠ-Ῥῲ-ῴῶ-ῼℂℇℊ-ℓℕℙ-ℝℤΩℨK-ℭℯ-ℴℹℼ-ℿⅅ-ⅉⅎↃↄⰀ-ⱻⱾ-ⳤⳫ-ⳮⳲⳳꙀ-ꙭꚀ-ꚛꜢ-ꝯꝱ-ꞇꞋ-ꞎꭰ-ꮿﬀ-ﬆﬓ-ﬗＡ-Ｚａ-ｚ𐐀-𐑏𐒰-𐓓𐓘-𐓻𐲀-𐲲𐳀-𐳲𑢠-𑣟𞤀-𞥃]+",
    r"\s?[!-/:-~！-／：-～‘-‟　-。]+",
    r"\s+$",
    r"[一-龥ࠀ-一가-퟿]+",
];

/// One row: the names a GGUF may use, and what they stand for.
struct PreTokenizer {
    names: &'static [&'static str],
    steps: fn() -> Vec<Step>,
    normalizer: Normalizer,
    ignore_merges: bool,
}

/// `deepseek-r1-qwen` is `qwen2` under another name, as the distills keep Qwen's tokenizer.
const KNOWN: [PreTokenizer; 6] = [
    PreTokenizer {
        names: &["deepseek-v3"],
        steps: || DEEPSEEK_V3.map(isolate).to_vec(),
        normalizer: Normalizer::Identity,
        ignore_merges: false,
    },
    PreTokenizer {
        names: &["deepseek-llm"],
        steps: || DEEPSEEK_LLM.map(isolate).into_iter().chain([Step::Digits { individual: true }]).collect(),
        normalizer: Normalizer::Identity,
        ignore_merges: false,
    },
    PreTokenizer {
        names: &["qwen2", "deepseek-r1-qwen"],
        steps: || vec![isolate(QWEN2)],
        normalizer: Normalizer::Nfc,
        ignore_merges: false,
    },
    PreTokenizer {
        names: &["llama-bpe", "llama3", "llama-v3"],
        steps: || vec![isolate(LLAMA3)],
        normalizer: Normalizer::Identity,
        ignore_merges: true,
    },
    PreTokenizer {
        names: &["smollm"],
        steps: || vec![Step::Digits { individual: true }, isolate(GPT2_PATTERN)],
        normalizer: Normalizer::Identity,
        ignore_merges: false,
    },
    PreTokenizer {
        names: &["gpt-2"],
        steps: || vec![isolate(GPT2_PATTERN)],
        normalizer: Normalizer::Identity,
        ignore_merges: false,
    },
];

fn isolate(pattern: &str) -> Step {
    Step::Regex { pattern: pattern.into(), behavior: Behavior::Isolated, invert: false }
}

/// Turns GGUF metadata into a tokenizer's data.
pub(crate) fn parse(vocab: &GgufVocab) -> Result<Spec, TokenizerError> {
    if vocab.model != "gpt2" {
        return Err(TokenizerError::Unsupported {
            field: "tokenizer.ggml.model".into(),
            expected: "gpt2 (byte-level BPE)",
            found: excerpt(&vocab.model),
        });
    }
    let known = KNOWN.iter().find(|known| known.names.contains(&vocab.pre.as_str()));
    let known = known.ok_or_else(|| TokenizerError::UnknownPreTokenizer {
        found: excerpt(&vocab.pre),
        known: KNOWN.iter().flat_map(|known| known.names).copied().collect::<Vec<_>>().join(", "),
    })?;
    let (tokens, added) = sort_tokens(vocab)?;
    let merges = vocab.merges.iter().enumerate().map(|(at, line)| pair_of(at, line)).collect::<Result<_, _>>()?;
    Ok(Spec {
        vocab: tokens,
        merges,
        added,
        normalizer: known.normalizer,
        steps: (known.steps)(),
        ignore_merges: known.ignore_merges,
    })
}

/// Splits the list into the vocabulary proper and the added tokens.
fn sort_tokens(vocab: &GgufVocab) -> Result<(HashMap<String, u32>, Vec<AddedToken>), TokenizerError> {
    if let Some(types) = &vocab.token_types
        && types.len() != vocab.tokens.len()
    {
        return Err(TokenizerError::Invalid {
            field: "tokenizer.ggml.token_type".into(),
            problem: format!("expected {} entries, one for each token, found {}", vocab.tokens.len(), types.len()),
        });
    }
    let mut tokens = HashMap::with_capacity(vocab.tokens.len());
    let mut added = Vec::new();
    for (id, content) in (0u32..).zip(&vocab.tokens) {
        let kind = vocab.token_types.as_ref().map_or(1, |types| types[id as usize]);
        match kind {
            1 => {
                if let Some(other) = tokens.insert(content.clone(), id) {
                    return Err(TokenizerError::Invalid {
                        field: format!("tokenizer.ggml.tokens[{id}]"),
                        problem: format!("{:?} is already token {other}", excerpt(content)),
                    });
                }
            }
            2 | 3 => added.push(AddedToken { id, content: content.clone(), special: true, normalized: false }),
            4 => added.push(AddedToken { id, content: content.clone(), special: false, normalized: false }),
            5 => {}
            other => {
                return Err(TokenizerError::Unsupported {
                    field: format!("tokenizer.ggml.token_type[{id}]"),
                    expected: "1 normal, 2 unknown, 3 control, 4 user-defined or 5 unused",
                    found: other.to_string(),
                });
            }
        }
    }
    Ok((tokens, added))
}
