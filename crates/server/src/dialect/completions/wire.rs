//! Wire types of completions.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::dialect::parts::{ResponseFormat, StreamOptions, Texts, Usage, top_k};

/// A text to be continued.
#[derive(Clone, Debug, Deserialize, ToSchema)]
pub(crate) struct CompletionRequest {
    /// Any name: one model is served.
    #[serde(default)]
    #[expect(dead_code, reason = "one model is served, whatever it is called")]
    pub(crate) model: Option<String>,
    /// A text, a list of texts, a list of tokens, or a list of such lists.
    #[schema(value_type = Value)]
    pub(crate) prompt: Prompts,
    /// What follows the gap that is to be filled.
    #[serde(default)]
    pub(crate) suffix: Option<String>,
    /// Most tokens of a completion; 16 if not given. With `echo`, 0 gives the prompt alone.
    #[serde(default)]
    pub(crate) max_tokens: Option<usize>,
    /// Completions of each prompt.
    #[serde(default)]
    pub(crate) n: Option<usize>,
    /// Give the prompt back before its completion.
    #[serde(default)]
    pub(crate) echo: Option<bool>,
    /// Report log-probabilities, and so many most probable tokens in each place.
    #[serde(default)]
    pub(crate) logprobs: Option<usize>,
    /// Send the answer as events while it is written.
    #[serde(default)]
    pub(crate) stream: Option<bool>,
    #[serde(default)]
    pub(crate) stream_options: Option<StreamOptions>,
    /// Divides the logits; 0 always takes the most probable token.
    #[serde(default)]
    pub(crate) temperature: Option<f32>,
    /// Keeps the most probable tokens that hold this much probability.
    #[serde(default)]
    pub(crate) top_p: Option<f32>,
    /// Keeps this many most probable tokens; 0 or -1 keeps all.
    #[serde(default, deserialize_with = "top_k")]
    #[schema(value_type = Option<i64>, minimum = -1)]
    pub(crate) top_k: Option<usize>,
    /// Keeps tokens at least this probable beside the most probable one.
    #[serde(default)]
    pub(crate) min_p: Option<f32>,
    /// Weakens tokens that have come before; 1 is off.
    #[serde(default)]
    pub(crate) repetition_penalty: Option<f32>,
    /// Weakens tokens by how often they have come.
    #[serde(default)]
    pub(crate) frequency_penalty: Option<f32>,
    /// Weakens tokens that have come.
    #[serde(default)]
    pub(crate) presence_penalty: Option<f32>,
    /// Added to logits, by token id.
    #[serde(default)]
    #[schema(value_type = Option<Map<String, Value>>)]
    pub(crate) logit_bias: Option<BTreeMap<String, f32>>,
    /// The same seed gives the same answer.
    #[serde(default)]
    pub(crate) seed: Option<i64>,
    /// Texts before which a completion ends.
    #[serde(default)]
    pub(crate) stop: Texts,
    /// Tokens before which a completion does not end.
    #[serde(default)]
    pub(crate) min_tokens: Option<usize>,
    /// What a completion must follow.
    #[serde(default)]
    pub(crate) response_format: Option<ResponseFormat>,
    /// Whose request it is, among those of one key: those who wait take turns.
    #[serde(default)]
    pub(crate) user: Option<String>,
}

/// What is to be continued.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged, expecting = "expected a string, a list of strings, a list of token ids, or a list of such lists")]
pub(crate) enum Prompts {
    /// A text.
    Text(String),
    /// Tokens.
    Tokens(Vec<u32>),
    /// Texts.
    Texts(Vec<String>),
    /// Several times tokens.
    TokenLists(Vec<Vec<u32>>),
}

/// Completions.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(crate) struct Completion {
    pub(crate) id: String,
    /// Always `text_completion`.
    pub(crate) object: &'static str,
    /// Seconds since 1970.
    pub(crate) created: u64,
    /// The model that answered.
    pub(crate) model: String,
    pub(crate) choices: Vec<CompletionChoice>,
    /// What the request took; in a stream only in the last chunk, if asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) usage: Option<Usage>,
}

/// One of the completions, or a part of it.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(crate) struct CompletionChoice {
    /// The completion, behind its prompt if `echo` is set.
    pub(crate) text: String,
    pub(crate) index: usize,
    pub(crate) logprobs: Option<CompletionLogprobs>,
    /// `stop` or `length`; none while it goes on.
    pub(crate) finish_reason: Option<&'static str>,
}

/// Log-probabilities of a completion's tokens.
#[derive(Clone, Debug, Default, Serialize, ToSchema)]
pub(crate) struct CompletionLogprobs {
    /// Their texts; bytes that are no UTF-8 on their own as `bytes:\xe6`.
    pub(crate) tokens: Vec<String>,
    /// None of the first token of a prompt. A token that ended the completion is among them, though not in its text.
    pub(crate) token_logprobs: Vec<Option<f32>>,
    /// The most probable tokens in each place, by text.
    pub(crate) top_logprobs: Vec<Option<BTreeMap<String, f32>>>,
    /// Where each token begins in `text`, in characters.
    pub(crate) text_offset: Vec<usize>,
}
