//! The BPE library behind a type of ours. Owns the translation of a checked [`Spec`] into the library's parts and
//! the order they run in: normalise, split, merge. Nothing else knows the library. Must not be given added tokens.

use std::borrow::Cow;
use std::sync::{Mutex, PoisonError};

use tokenizers::models::bpe::{BpeConfig, BpeScratch, PipelineBPE};
use tokenizers::normalizers::NFC;
use tokenizers::pipeline::{
    Model as _, Normalizer as _, PipelinePreTokenizer, PipelineToken, PreTokenizer as _, PreTokenizerScratch, Span,
};
use tokenizers::pre_tokenizers::digits::Digits;
use tokenizers::pre_tokenizers::sequence::PipelineSequence;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::{SplitDelimiterBehavior, tokenizer};

use super::bytes;
use super::spec::{Behavior, Normalizer, Spec, Step};
use super::unicode;
use crate::error::TokenizerError;

/// Token → id, with the library's hasher.
pub(super) type Vocab = tokenizers::models::bpe::Vocab;

/// Longest text of one call. Splitting takes about twelve bytes of scratch for each byte of text.
const MAX_TEXT_BYTES: usize = 256 << 20;
/// Scratch that served a longer text than this is dropped rather than kept for the next call.
const MAX_KEPT_SPANS: usize = 1 << 20;

pub(super) struct Bpe {
    /// Ids from here on stand for bytes that the vocabulary cannot spell, which encoding leaves out.
    n_ids: u32,
    normalizer: Normalizer,
    splitter: PipelinePreTokenizer,
    /// Whether one of the splitter's steps is `Digits`.
    has_digits: bool,
    model: PipelineBPE,
    /// One for each call that was ever in progress at the same time.
    scratch: Mutex<Vec<Scratch>>,
}

/// Buffers of a call, and the cache of words it has met.
struct Scratch {
    model: BpeScratch,
    splitter: PreTokenizerScratch,
    spans: Vec<Span>,
    tokens: Vec<PipelineToken>,
}

impl Bpe {
    /// `n_ids` is the vocabulary's size, added tokens included.
    pub(super) fn new(mut spec: Spec, n_ids: usize) -> Result<Self, TokenizerError> {
        // Some vocabularies (SmolLM2's) lack a few bytes. The library insists on all 256. The reference drops such a
        // byte before merging, so that its neighbours can meet; here they stay apart. It matters only in characters
        // that begin with F1 to F4 (unassigned planes and private use) and around control characters.
        let unspelled = (0..=255).map(bytes::char_of).filter(|c| !spec.vocab.contains_key(&*c.to_string()));
        let unspelled: Vec<char> = unspelled.collect();
        let n_ids = n_ids as u32;
        spec.vocab.extend(unspelled.into_iter().zip(n_ids..).map(|(c, id)| (c.to_string(), id)));
        let has_digits = spec.steps.iter().any(|step| matches!(step, Step::Digits { .. }));
        let steps = spec.steps.into_iter().map(step).collect::<Result<Vec<_>, _>>()?;
        let model = PipelineBPE::from_config(BpeConfig {
            vocab: spec.vocab,
            merges: spec.merges,
            byte_level: true,
            ignore_merges: spec.ignore_merges,
            ..BpeConfig::default()
        });
        Ok(Self {
            n_ids,
            normalizer: spec.normalizer,
            splitter: PipelinePreTokenizer::Sequence(PipelineSequence::new(steps)),
            has_digits,
            model: model.map_err(refused)?,
            scratch: Mutex::default(),
        })
    }

    /// Appends the ids of `text`.
    pub(super) fn encode_into(&self, text: &str, ids: &mut Vec<u32>) -> Result<(), TokenizerError> {
        if text.len() > MAX_TEXT_BYTES {
            let field = "bytes of text".into();
            return Err(TokenizerError::TooLarge { field, found: text.len(), limit: MAX_TEXT_BYTES });
        }
        let text = match self.normalizer {
            Normalizer::Identity => Cow::Borrowed(text),
            Normalizer::Nfc => NFC.normalize(text, 0).map_err(refused)?,
        };
        let kept = self.scratch.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let mut scratch = kept.unwrap_or_else(|| Scratch::new(&self.model));
        let outcome = self.run(&text, &mut scratch);
        ids.extend(PipelineToken::cast_slice(&scratch.tokens).iter().filter(|id| **id < self.n_ids));
        if scratch.spans.capacity() <= MAX_KEPT_SPANS {
            self.scratch.lock().unwrap_or_else(PoisonError::into_inner).push(scratch);
        }
        outcome
    }

    /// Splits `text` and merges the pieces; leaves the ids in `scratch.tokens`.
    fn run(&self, text: &str, scratch: &mut Scratch) -> Result<(), TokenizerError> {
        scratch.spans.clear();
        scratch.tokens.clear();
        let as_classified = unicode::hide_new_characters(text, self.has_digits);
        self.splitter.pre_tokenize(&as_classified, &mut scratch.splitter, &mut scratch.spans).map_err(refused)?;
        // The library slices by these without looking again.
        if let Some(span) = scratch.spans.iter().find(|span| text.get(span.range()).is_none()) {
            return Err(TokenizerError::Bpe(format!("the pre-tokenizer cut inside a character at {span:?}")));
        }
        self.model.tokenize_spans(text, &scratch.spans, &mut scratch.model, &mut scratch.tokens).map_err(refused)
    }
}

impl Scratch {
    fn new(model: &PipelineBPE) -> Self {
        let splitter = PreTokenizerScratch::default();
        Self { model: model.init_scratch(), splitter, spans: Vec::new(), tokens: Vec::new() }
    }
}

fn step(step: Step) -> Result<PipelinePreTokenizer, TokenizerError> {
    let (pattern, behavior, invert) = match step {
        Step::Digits { individual } => return Ok(PipelinePreTokenizer::Digits(Digits::new(individual))),
        Step::Regex { pattern, behavior, invert } => (SplitPattern::Regex(pattern), behavior, invert),
        Step::Literal { text, behavior, invert } => (SplitPattern::String(text), behavior, invert),
    };
    let behavior = match behavior {
        Behavior::Removed => SplitDelimiterBehavior::Removed,
        Behavior::Isolated => SplitDelimiterBehavior::Isolated,
        Behavior::MergedWithPrevious => SplitDelimiterBehavior::MergedWithPrevious,
        Behavior::MergedWithNext => SplitDelimiterBehavior::MergedWithNext,
        Behavior::Contiguous => SplitDelimiterBehavior::Contiguous,
    };
    let split = Split::new(pattern, behavior, invert).and_then(Split::canonicalized_for_pipeline).map_err(refused)?;
    Ok(PipelinePreTokenizer::Split(split))
}

/// The library's error with all its causes: the outermost alone often says only that something failed.
fn refused(error: tokenizer::Error) -> TokenizerError {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text = format!("{text}: {inner}");
        cause = inner.source();
    }
    TokenizerError::Bpe(text)
}
