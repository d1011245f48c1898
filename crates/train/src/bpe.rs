//! Training a tokenizer: byte-level BPE in DeepSeek's form, with its special tokens and a chat template.
//!
//! Owns the call of the library's trainer and the two files that describe the result. Text is split as DeepSeek-V3 splits
//! it, but every digit is a word of its own while merges are learnt: no token spells two digits, so V3's own
//! pre-tokenizer, which every reader of its files knows, then yields digits one by one. That is what arithmetic wants.

use std::sync::{Mutex, PoisonError};

use serde_json::{Map, Value, json};
use tokenizers::SplitDelimiterBehavior;
use tokenizers::Trainer as _;
use tokenizers::pipeline::{PipelinePreTokenizer, PreTokenizer as _, PreTokenizerScratch, Span};
use tokenizers::pre_tokenizers::sequence::PipelineSequence;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::trainers::bpe::BpeTrainer;

/// Tokens that text cannot spell, by id from 0; the first three are left out when text is shown.
pub const SPECIAL_TOKENS: [&str; 16] = [
    "<｜begin▁of▁sentence｜>",
    "<｜end▁of▁sentence｜>",
    "<｜▁pad▁｜>",
    "<｜User｜>",
    "<｜Assistant｜>",
    "<think>",
    "</think>",
    "<｜tool▁calls▁begin｜>",
    "<｜tool▁calls▁end｜>",
    "<｜tool▁call▁begin｜>",
    "<｜tool▁call▁end｜>",
    "<｜tool▁sep｜>",
    "<｜tool▁outputs▁begin｜>",
    "<｜tool▁outputs▁end｜>",
    "<｜tool▁output▁begin｜>",
    "<｜tool▁output▁end｜>",
];
const N_HIDDEN: usize = 3;

/// The smallest vocabulary: every byte, and the special tokens.
pub const VOCAB_SIZE_MIN: usize = 256 + SPECIAL_TOKENS.len();
/// The largest vocabulary that is trained.
pub const VOCAB_SIZE_MAX: usize = 1 << 18;
/// Longest token, in bytes: longer ones are lines that the sources repeat.
const TOKEN_BYTES_MAX: usize = 24;

/// The template of a new model: reasoning is on unless `thinking` is false, and earlier reasoning is left out.
pub const CHAT_TEMPLATE: &str = include_str!("chat_template.jinja");

/// DeepSeek-V3's pre-tokenizer: numbers, Chinese and Japanese, then words with what precedes them.
const PATTERNS: [&str; 3] = [
    r"\p{N}{1,3}",
    "[一-龥぀-ゟ゠-ヿ]+",
    "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\r\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+| ?[\\p{P}\\p{S}]+[\r\n]*|\\s*[\r\n]+|\\s+(?!\\S)|\\s+",
];

/// Why no tokenizer could be trained.
#[derive(Debug, thiserror::Error)]
pub enum BpeError {
    /// The size is out of range.
    #[error("a vocabulary of {0} tokens; expected {VOCAB_SIZE_MIN} (bytes and special tokens) to {VOCAB_SIZE_MAX}")]
    Size(usize),
    /// The sources have too little text.
    #[error("the text yields {found} tokens, expected {expected}; give more text or ask for a smaller vocabulary")]
    Text {
        /// Tokens found.
        found: usize,
        /// Tokens asked for.
        expected: usize,
    },
    /// The library refused.
    #[error("training the tokenizer: {0}")]
    Library(String),
}

/// A tokenizer's two files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenizerFiles {
    /// Contents of tokenizer.json.
    pub tokenizer: Vec<u8>,
    /// Contents of tokenizer_config.json.
    pub config: Vec<u8>,
}

/// Learns a vocabulary of exactly `vocab_size` tokens from `texts`. The same texts give the same files.
///
/// # Errors
/// The size is out of range, or there is too little text for it
pub fn train<I>(texts: I, vocab_size: usize) -> Result<TokenizerFiles, BpeError>
where
    I: Iterator<Item = String> + Send,
{
    if !(VOCAB_SIZE_MIN..=VOCAB_SIZE_MAX).contains(&vocab_size) {
        return Err(BpeError::Size(vocab_size));
    }
    let splitter = Splitter::new()?;
    let alphabet = (0..=255).map(spelling).collect();
    // Special tokens take part in no merge: the trainer is given none, and ids are moved up behind them.
    let mut trainer = BpeTrainer::builder()
        .show_progress(false)
        .vocab_size(vocab_size - SPECIAL_TOKENS.len())
        .initial_alphabet(alphabet)
        .max_token_length(Some(TOKEN_BYTES_MAX))
        .build();
    let library = |e: tokenizers::Error| BpeError::Library(e.to_string());
    trainer.feed(texts, |text| splitter.words(text)).map_err(library)?;
    let (vocab, merges, _) = trainer.train_vocab().map_err(library)?;
    if vocab.len() + SPECIAL_TOKENS.len() != vocab_size {
        return Err(BpeError::Text { found: vocab.len() + SPECIAL_TOKENS.len(), expected: vocab_size });
    }
    let mut by_id: Vec<(u32, String)> = vocab.into_iter().map(|(text, id)| (id, text.to_string())).collect();
    by_id.sort_unstable();
    let specials = SPECIAL_TOKENS.iter().map(|text| (*text).to_owned());
    let spelled: Map<String, Value> = specials
        .chain(by_id.into_iter().map(|(_, text)| text))
        .zip(0u32..)
        .map(|(text, id)| (text, id.into()))
        .collect();
    let merges: Vec<Value> = merges.iter().map(|(a, b)| json!([a.to_string(), b.to_string()])).collect();
    Ok(TokenizerFiles { tokenizer: tokenizer_json(spelled, merges), config: config_json() })
}

/// The character that spells a byte (GPT-2's alphabet): itself where it is visible, else one from U+0100 on.
fn spelling(byte: u8) -> char {
    let is_visible = |byte: u8| matches!(byte, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF);
    if is_visible(byte) {
        return char::from(byte);
    }
    let n_hidden_before = (0..byte).filter(|byte| !is_visible(*byte)).count() as u32;
    char::from_u32(0x100 + n_hidden_before).unwrap_or(char::REPLACEMENT_CHARACTER)
}

struct Splitter {
    steps: PipelinePreTokenizer,
    spelled: [char; 256],
    /// One for each thread that was ever splitting at the same time.
    scratch: Mutex<Vec<PreTokenizerScratch>>,
}

impl Splitter {
    fn new() -> Result<Self, BpeError> {
        let step = |pattern: &&str| {
            let pattern = SplitPattern::Regex((*pattern).to_owned());
            let split = Split::new(pattern, SplitDelimiterBehavior::Isolated, false);
            let split = split.and_then(Split::canonicalized_for_pipeline);
            split.map(PipelinePreTokenizer::Split).map_err(|e| BpeError::Library(e.to_string()))
        };
        let steps = PATTERNS.iter().map(step).collect::<Result<Vec<_>, _>>()?;
        let steps = PipelinePreTokenizer::Sequence(PipelineSequence::new(steps));
        Ok(Self { steps, spelled: std::array::from_fn(|byte| spelling(byte as u8)), scratch: Mutex::default() })
    }

    /// The words of a text in the byte-level spelling, each digit (of any script) apart.
    fn words(&self, text: &str) -> tokenizers::Result<Vec<String>> {
        let mut scratch = self.scratch.lock().unwrap_or_else(PoisonError::into_inner).pop().unwrap_or_default();
        let mut spans: Vec<Span> = Vec::new();
        self.steps.pre_tokenize(text, &mut scratch, &mut spans)?;
        self.scratch.lock().unwrap_or_else(PoisonError::into_inner).push(scratch);
        let spell = |text: &str| text.bytes().map(|byte| self.spelled[usize::from(byte)]).collect::<String>();
        let mut words = Vec::with_capacity(spans.len());
        for span in spans {
            let word = text.get(span.range()).unwrap_or_default();
            if word.chars().all(char::is_numeric) {
                words.extend(word.chars().map(|digit| spell(digit.encode_utf8(&mut [0; 4]))));
            } else {
                words.push(spell(word));
            }
        }
        Ok(words)
    }
}

fn tokenizer_json(vocab: Map<String, Value>, merges: Vec<Value>) -> Vec<u8> {
    let added = |(id, content): (usize, &&str)| {
        json!({
            "id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": false, "special": id < N_HIDDEN
        })
    };
    let added: Vec<Value> = SPECIAL_TOKENS.iter().enumerate().map(added).collect();
    let split =
        |pattern| json!({"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": false});
    let mut steps: Vec<Value> = PATTERNS.iter().map(split).collect();
    steps.push(json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false}));
    let document = json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": added,
        "normalizer": {"type": "Sequence", "normalizers": []},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": steps},
        "post_processor": null,
        "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true},
        "model": {
            "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "ignore_merges": false,
            "vocab": vocab, "merges": merges
        }
    });
    pretty(&document)
}

fn config_json() -> Vec<u8> {
    pretty(&json!({
        "tokenizer_class": "PreTrainedTokenizerFast",
        "add_bos_token": true,
        "add_eos_token": false,
        "bos_token": SPECIAL_TOKENS[0],
        "eos_token": SPECIAL_TOKENS[1],
        "pad_token": SPECIAL_TOKENS[2],
        "clean_up_tokenization_spaces": false,
        "chat_template": CHAT_TEMPLATE
    }))
}

fn pretty(document: &Value) -> Vec<u8> {
    let mut text = format!("{document:#}").into_bytes();
    text.push(b'\n');
    text
}
