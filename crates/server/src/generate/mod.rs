//! What every dialect asks for and hears, in one form.
//!
//! Owns the request that the dialects convert into, the events that they render from, and the way of a request to the
//! engine and back. Must not know a wire format.

mod collect;
mod mask;
mod prepare;
mod prompt;
mod run;
mod sink;

pub(crate) use collect::{Call, Choice, collect};
pub use mask::Mask;
pub(crate) use prompt::{count, encode};
pub(crate) use run::{Generation, read_back, start};
pub(crate) use sink::{End, LogProb, Output};

use serde_json::{Map, Value};
use text::{GrammarSpec, Message};

use crate::error::ApiError;

/// What a client wants, whatever its dialect.
pub(crate) struct GenerationRequest {
    pub(crate) prompt: Prompt,
    /// Most tokens of an answer; the rest of the context, within reason, if none is given.
    pub(crate) max_tokens: Option<usize>,
    pub(crate) sampling: SamplingWish,
    /// Answers to the one prompt.
    pub(crate) n: usize,
    pub(crate) stop: Vec<String>,
    pub(crate) reasoning: ReasoningWish,
    pub(crate) tools: ToolWish,
    /// What the answer, not its reasoning, must follow.
    pub(crate) format: Option<GrammarSpec>,
    /// The field of the dialect that `format` came from.
    pub(crate) format_field: &'static str,
    /// Report log-probabilities: of each token, and of this many most probable ones.
    pub(crate) top_logprobs: Option<usize>,
    /// Whose request it is, among those of the same key.
    pub(crate) user: Option<String>,
}

/// What is to be continued.
pub(crate) enum Prompt {
    /// A conversation, rendered by the model's template.
    Chat(Conversation),
    /// Text as it stands, and what is to follow the gap behind it.
    Text { text: String, suffix: Option<String> },
    /// Tokens as they stand.
    Tokens(Vec<u32>),
}

impl Prompt {
    /// The field that holds it.
    pub(crate) fn field(&self) -> &'static str {
        match self {
            Self::Chat(_) => "messages",
            Self::Text { .. } | Self::Tokens(_) => "prompt",
        }
    }
}

/// Messages, and what the template is told besides them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Conversation {
    pub(crate) messages: Vec<Message>,
    /// The last message is the beginning of the answer.
    pub(crate) continues: bool,
    /// Variables of the template.
    pub(crate) variables: Map<String, Value>,
}

/// How tokens are chosen, where the client says so.
#[derive(Clone, Debug, Default)]
pub(crate) struct SamplingWish {
    pub(crate) temperature: Option<f32>,
    pub(crate) top_p: Option<f32>,
    pub(crate) top_k: Option<usize>,
    pub(crate) min_p: Option<f32>,
    pub(crate) repetition_penalty: Option<f32>,
    pub(crate) frequency_penalty: Option<f32>,
    pub(crate) presence_penalty: Option<f32>,
    pub(crate) logit_bias: Vec<(u32, f32)>,
    pub(crate) seed: Option<u64>,
    pub(crate) min_tokens: usize,
}

/// Whether and how long the model reasons.
#[derive(Clone, Debug, Default)]
pub(crate) struct ReasoningWish {
    /// Said outright.
    pub(crate) enabled: Option<bool>,
    pub(crate) effort: Option<Effort>,
    /// Most tokens of reasoning.
    pub(crate) budget: Option<usize>,
}

/// How hard the model is to think.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Effort {
    None,
    Minimal,
    Low,
    Medium,
    High,
    Max,
}

impl Effort {
    /// Reads the dialects' words.
    pub(crate) fn of(field: &str, word: &str) -> Result<Self, ApiError> {
        Ok(match word {
            "none" => Self::None,
            "minimal" => Self::Minimal,
            "low" => Self::Low,
            "medium" => Self::Medium,
            "high" => Self::High,
            "xhigh" | "max" | "ultra" => Self::Max,
            other => {
                let expected = "expected none, minimal, low, medium, high, xhigh or max";
                return Err(ApiError::field(field, format!("{expected}, found {other:?}")));
            }
        })
    }

    /// As templates know it.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Minimal | Self::Low => "low",
            Self::Medium => "medium",
            Self::High => "high",
            Self::Max => "max",
        }
    }

    /// Tokens of reasoning, for models whose template knows nothing of effort.
    pub(crate) fn budget(self) -> Option<usize> {
        match self {
            Self::None => Some(0),
            Self::Minimal => Some(256),
            Self::Low => Some(1024),
            Self::Medium => Some(4096),
            Self::High | Self::Max => None,
        }
    }
}

/// The tools that may be called.
#[derive(Clone, Debug, Default)]
pub(crate) struct ToolWish {
    /// In OpenAI's form, as templates want them.
    pub(crate) list: Vec<Value>,
    pub(crate) choice: Choose,
    /// One call at most.
    pub(crate) single: bool,
}

/// Which tools must be called.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum Choose {
    /// The model decides.
    #[default]
    Auto,
    /// None may.
    None,
    /// Any.
    Required,
    /// This one.
    Named(String),
}

/// A name that no other thing of the kind has: `prefix` and 24 digits.
pub(crate) fn fresh_id(prefix: &str) -> String {
    format!("{prefix}{:016x}{:08x}", random(), random() as u32)
}

/// A number that nobody chose. Not for secrets.
pub(crate) fn random() -> u64 {
    use std::hash::{BuildHasher, Hasher};
    // Each RandomState has keys of its own, from the system's random numbers.
    std::collections::hash_map::RandomState::new().build_hasher().finish()
}

/// Seconds since 1970.
pub(crate) fn now_s() -> u64 {
    // A clock before 1970 is wrong in a way that matters little here.
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |now| now.as_secs())
}
