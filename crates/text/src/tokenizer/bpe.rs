//! The BPE library behind a type of ours. Owns the translation of a checked [`Spec`] into the library's parts, and
//! nothing else knows the library. Must not be given added tokens.

use tokenizers::models::bpe::{BpeConfig, PipelineBPE, Vocab};
use tokenizers::normalizers::NFC;
use tokenizers::pipeline::{
    EncodeOptions, PipelineModel, PipelineNormalizer, PipelinePostProcessor, PipelinePreTokenizer, PipelineToken,
    PipelineTokenizer,
};
use tokenizers::pre_tokenizers::digits::Digits;
use tokenizers::pre_tokenizers::sequence::PipelineSequence;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::vocab::bucket_added_vocabulary::AddedVocabulary;
use tokenizers::{SplitDelimiterBehavior, tokenizer};

use super::spec::{Behavior, Normalizer, Spec, Step};
use crate::error::TokenizerError;

/// Text is encoded in slices of at most this many bytes where it is longer: the library's offsets are 32 bits.
const MAX_TEXT_BYTES: usize = 1 << 30;

pub(super) struct Bpe {
    pipeline: PipelineTokenizer,
    options: EncodeOptions,
}

impl Bpe {
    pub(super) fn new(mut spec: Spec) -> Result<Self, TokenizerError> {
        spec.drop_unreachable();
        let normalizers = match spec.normalizer {
            Normalizer::Identity => Vec::new(),
            Normalizer::Nfc => vec![PipelineNormalizer::NFC(NFC)],
        };
        let steps = spec.steps.into_iter().map(step).collect::<Result<Vec<_>, _>>()?;
        let config = BpeConfig {
            vocab: spec.vocab.into_iter().collect::<Vocab>(),
            merges: spec.merges,
            byte_level: true,
            ignore_merges: spec.ignore_merges,
            ..BpeConfig::default()
        };
        let model = PipelineModel::BPE(PipelineBPE::from_config(config).map_err(refused)?);
        let pipeline = PipelineTokenizer::from_parts(
            AddedVocabulary::new(),
            normalizers,
            PipelinePreTokenizer::Sequence(PipelineSequence::new(steps)),
            model,
            PipelinePostProcessor::default(),
            None,
            std::collections::BTreeMap::new(),
            None,
            None,
        );
        Ok(Self { pipeline, options: EncodeOptions::no_specials() })
    }

    /// Appends the ids of `text`.
    pub(super) fn encode_into(&self, text: &str, ids: &mut Vec<u32>) -> Result<(), TokenizerError> {
        if text.len() > MAX_TEXT_BYTES {
            return Err(TokenizerError::TooLarge {
                field: "bytes of text".into(),
                found: text.len(),
                limit: MAX_TEXT_BYTES,
            });
        }
        let mut tokens: Vec<PipelineToken> = Vec::with_capacity(text.len() / 4);
        self.pipeline.encode_into(text, &self.options, &mut tokens).map_err(refused)?;
        ids.extend_from_slice(PipelineToken::cast_slice(&tokens));
        Ok(())
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

fn refused(error: tokenizer::Error) -> TokenizerError {
    TokenizerError::Bpe(error.to_string())
}
