//! A GGUF file's vocabulary → [`Spec`]. Owns the names of pre-tokenizers in GGUF and what each one means. Must not
//! read GGUF files: the caller hands over the metadata as plain data.

use super::bpe::Vocab;
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
/// Escaped, because editors normalise some of these characters into others.
const DEEPSEEK_LLM: [&str; 5] = [
    "[\r\n]",
    "\\s?[A-Za-z\u{B5}\u{C0}-\u{D6}\u{D8}-\u{F6}\u{F8}-\u{1BA}\u{1BC}-\u{1BF}\u{1C4}-\u{293}\u{295}-\
     \u{2AF}\u{370}-\u{373}\u{376}\u{377}\u{37B}-\u{37D}\u{37F}\u{386}\u{388}-\u{38A}\u{38C}\u{38E}-\
     \u{3A1}\u{3A3}-\u{3F5}\u{3F7}-\u{481}\u{48A}-\u{52F}\u{531}-\u{556}\u{10A0}-\u{10C5}\u{13A0}-\
     \u{13F5}\u{13F8}-\u{13FD}\u{1C90}-\u{1CBA}\u{1CBD}-\u{1CBF}\u{1D00}-\u{1D2B}\u{1D6B}-\u{1D77}\
     \u{1D79}-\u{1D9A}\u{1E00}-\u{1F15}\u{1F18}-\u{1F1D}\u{1F20}-\u{1F45}\u{1F48}-\u{1F4D}\u{1F50}-\
     \u{1F57}\u{1F59}\u{1F5B}\u{1F5D}\u{1F5F}-\u{1F7D}\u{1F80}-\u{1FB4}\u{1FB6}-\u{1FBC}\u{1FBE}\u{1FC2}-\
     \u{1FC4}\u{1FC6}-\u{1FCC}\u{1FD0}-\u{1FD3}\u{1FD6}-\u{1FDB}\u{1FE0}-\u{1FEC}\u{1FF2}-\u{1FF4}\
     \u{1FF6}-\u{1FFC}\u{2102}\u{2107}\u{210A}-\u{2113}\u{2115}\u{2119}-\u{211D}\u{2124}\u{2126}\u{2128}\
     \u{212A}-\u{212D}\u{212F}-\u{2134}\u{2139}\u{213C}-\u{213F}\u{2145}-\u{2149}\u{214E}\u{2183}\u{2184}\
     \u{2C00}-\u{2C7B}\u{2C7E}-\u{2CE4}\u{2CEB}-\u{2CEE}\u{2CF2}\u{2CF3}\u{A640}-\u{A66D}\u{A680}-\
     \u{A69B}\u{A722}-\u{A76F}\u{A771}-\u{A787}\u{A78B}-\u{A78E}\u{AB70}-\u{ABBF}\u{FB00}-\u{FB06}\
     \u{FB13}-\u{FB17}\u{FF21}-\u{FF3A}\u{FF41}-\u{FF5A}\u{10400}-\u{1044F}\u{104B0}-\u{104D3}\u{104D8}-\
     \u{104FB}\u{10C80}-\u{10CB2}\u{10CC0}-\u{10CF2}\u{118A0}-\u{118DF}\u{1E900}-\u{1E943}]+",
    "\\s?[!-/:-~\u{FF01}-\u{FF0F}\u{FF1A}-\u{FF5E}\u{2018}-\u{201F}\u{3000}-\u{3002}]+",
    "\\s+$",
    "[\u{4E00}-\u{9FA5}\u{800}-\u{4E00}\u{AC00}-\u{D7FF}]+",
];

/// One row: the names a GGUF may use, and what they stand for.
struct PreTokenizer {
    names: &'static [&'static str],
    steps: fn() -> Vec<Step>,
    normalizer: Normalizer,
    ignore_merges: bool,
}

/// `deepseek-r1-qwen` is `qwen2` under another name, as the distills keep Qwen's tokenizer; `joyai-llm`, which V4 files
/// carry, is `deepseek-v3`: the same three patterns.
const KNOWN: [PreTokenizer; 6] = [
    PreTokenizer {
        names: &["deepseek-v3", "joyai-llm"],
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

/// The name in GGUF of what a tokenizer does before its merges, if there is one.
pub(crate) fn name_of(spec: &Spec) -> Option<&'static str> {
    let same = |known: &&PreTokenizer| {
        (known.steps)() == spec.steps
            && known.normalizer == spec.normalizer
            && known.ignore_merges == spec.ignore_merges
    };
    KNOWN.iter().find(same).map(|known| known.names[0])
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
fn sort_tokens(vocab: &GgufVocab) -> Result<(Vocab, Vec<AddedToken>), TokenizerError> {
    if let Some(types) = &vocab.token_types
        && types.len() != vocab.tokens.len()
    {
        return Err(TokenizerError::Invalid {
            field: "tokenizer.ggml.token_type".into(),
            problem: format!("expected {} entries, one for each token, found {}", vocab.tokens.len(), types.len()),
        });
    }
    let mut tokens = Vocab::with_capacity(vocab.tokens.len());
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
