//! Wire types of chat completions.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::ToSchema;

use crate::dialect::parts::{
    Content, FunctionTool, ResponseFormat, StreamOptions, Texts, TokenLogprob, Usage, null_is_default, top_k,
};

/// A conversation to be answered.
#[derive(Clone, Debug, Default, Deserialize, ToSchema)]
pub(crate) struct ChatRequest {
    /// Any name: one model is served.
    #[serde(default)]
    #[expect(dead_code, reason = "one model is served, whatever it is called")]
    pub(crate) model: Option<String>,
    /// The conversation.
    pub(crate) messages: Vec<ChatMessage>,
    /// Send the answer as events while it is written.
    #[serde(default)]
    pub(crate) stream: Option<bool>,
    #[serde(default)]
    pub(crate) stream_options: Option<StreamOptions>,
    /// Most tokens of an answer, reasoning included.
    #[serde(default)]
    pub(crate) max_completion_tokens: Option<usize>,
    /// The same, by its older name.
    #[serde(default)]
    pub(crate) max_tokens: Option<usize>,
    /// Answers to the one conversation.
    #[serde(default)]
    pub(crate) n: Option<usize>,
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
    /// Texts before which the answer ends.
    #[serde(default)]
    pub(crate) stop: Texts,
    /// Report log-probabilities.
    #[serde(default)]
    pub(crate) logprobs: Option<bool>,
    /// Report so many most probable tokens in each place; needs `logprobs`.
    #[serde(default)]
    pub(crate) top_logprobs: Option<usize>,
    /// What the answer, not its reasoning, must follow.
    #[serde(default)]
    pub(crate) response_format: Option<ResponseFormat>,
    /// Functions that may be called.
    #[serde(default)]
    pub(crate) tools: Option<Vec<FunctionTool>>,
    /// `auto`, `none`, `required`, or `{"type": "function", "function": {"name": …}}`.
    #[serde(default)]
    #[schema(value_type = Option<Value>)]
    pub(crate) tool_choice: Option<Value>,
    /// More than one call in an answer.
    #[serde(default)]
    pub(crate) parallel_tool_calls: Option<bool>,
    /// Whether the model reasons first, and how long.
    #[serde(default)]
    pub(crate) thinking: Option<ThinkingOptions>,
    /// How hard the model thinks: none, minimal, low, medium, high, xhigh or max.
    #[serde(default)]
    pub(crate) reasoning_effort: Option<String>,
    /// Tokens of reasoning after which it is brought to its end.
    #[serde(default)]
    pub(crate) thinking_budget: Option<usize>,
    /// Variables of the model's chat template.
    #[serde(default)]
    pub(crate) chat_template_kwargs: Option<Map<String, Value>>,
    /// Whose request it is, among those of one key: those who wait take turns.
    #[serde(default)]
    pub(crate) user: Option<String>,
}

/// Whether the model reasons, as DeepSeek's and Anthropic's clients say it.
#[derive(Clone, Debug, Deserialize, ToSchema)]
pub(crate) struct ThinkingOptions {
    /// `enabled`, `disabled`, or `adaptive`: as the model likes.
    #[schema(example = "enabled")]
    pub(crate) r#type: String,
    /// Tokens of reasoning after which it is brought to its end.
    #[serde(default)]
    pub(crate) budget_tokens: Option<usize>,
}

/// Who speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum ChatRole {
    /// Instructions that frame the conversation.
    System,
    /// Instructions of the application.
    Developer,
    /// The person.
    User,
    /// The model.
    Assistant,
    /// A tool's result.
    Tool,
}

/// One message of a conversation.
#[derive(Clone, Debug, Deserialize, ToSchema)]
pub(crate) struct ChatMessage {
    pub(crate) role: ChatRole,
    /// What is said.
    #[serde(default)]
    pub(crate) content: Option<Content>,
    /// The reasoning that came before it.
    #[serde(default, alias = "reasoning")]
    pub(crate) reasoning_content: Option<String>,
    /// The calls of an assistant's message.
    #[serde(default)]
    pub(crate) tool_calls: Option<Vec<ToolCall>>,
    /// Which call a tool's message answers.
    #[serde(default)]
    pub(crate) tool_call_id: Option<String>,
    /// Name of the speaker or of the tool.
    #[serde(default)]
    pub(crate) name: Option<String>,
    /// The answer goes on from this, the last message (DeepSeek).
    #[serde(default)]
    pub(crate) prefix: Option<bool>,
}

/// A call of a tool.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema)]
pub(crate) struct ToolCall {
    /// Names the call.
    #[serde(default, deserialize_with = "null_is_default")]
    #[schema(value_type = Option<String>)]
    pub(crate) id: String,
    /// Always `function`.
    #[serde(default, deserialize_with = "null_is_default")]
    #[schema(value_type = Option<String>)]
    pub(crate) r#type: String,
    /// What is called.
    pub(crate) function: FunctionCall,
}

/// A function and its arguments.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema)]
pub(crate) struct FunctionCall {
    /// The function.
    pub(crate) name: String,
    /// Text of a JSON object.
    #[serde(default, deserialize_with = "null_is_default")]
    #[schema(value_type = Option<String>)]
    pub(crate) arguments: String,
}

/// An answer.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(crate) struct ChatCompletion {
    pub(crate) id: String,
    /// Always `chat.completion`.
    pub(crate) object: &'static str,
    /// Seconds since 1970.
    pub(crate) created: u64,
    /// The model that answered.
    pub(crate) model: String,
    pub(crate) choices: Vec<ChatChoice>,
    pub(crate) usage: Usage,
}

/// One of the answers.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(crate) struct ChatChoice {
    pub(crate) index: usize,
    pub(crate) message: AnswerMessage,
    pub(crate) logprobs: Option<ChatLogprobs>,
    /// `stop`, `length` or `tool_calls`.
    pub(crate) finish_reason: &'static str,
}

/// What the model said.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(crate) struct AnswerMessage {
    /// Always `assistant`.
    pub(crate) role: &'static str,
    /// The answer; none where it only calls tools.
    pub(crate) content: Option<String>,
    /// The reasoning before it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) reasoning_content: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) tool_calls: Option<Vec<ToolCall>>,
    /// Never any.
    pub(crate) refusal: Option<String>,
}

/// Log-probabilities of an answer's tokens.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(crate) struct ChatLogprobs {
    /// Of the answer.
    pub(crate) content: Vec<TokenLogprob>,
    /// Of the reasoning.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) reasoning_content: Vec<TokenLogprob>,
}

/// A part of a streamed answer.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(crate) struct ChatChunk {
    pub(crate) id: String,
    /// Always `chat.completion.chunk`.
    pub(crate) object: &'static str,
    /// Seconds since 1970.
    pub(crate) created: u64,
    /// The model that answers.
    pub(crate) model: String,
    /// None in the chunk with usage.
    pub(crate) choices: Vec<ChunkChoice>,
    /// In the last chunk, if asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) usage: Option<Usage>,
}

/// A part of one of the answers.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(crate) struct ChunkChoice {
    pub(crate) index: usize,
    pub(crate) delta: ChunkDelta,
    pub(crate) logprobs: Option<ChatLogprobs>,
    /// In the last chunk of this answer.
    pub(crate) finish_reason: Option<&'static str>,
}

/// What is new.
#[derive(Clone, Debug, Default, Serialize, ToSchema)]
pub(crate) struct ChunkDelta {
    /// In the first chunk.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) role: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) content: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) reasoning_content: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) tool_calls: Vec<ChunkCall>,
}

/// A part of a call.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(crate) struct ChunkCall {
    /// Which of the answer's calls.
    pub(crate) index: usize,
    /// In its first part.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) id: Option<String>,
    /// In its first part.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) r#type: Option<&'static str>,
    pub(crate) function: ChunkFunction,
}

/// A part of a call's function.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(crate) struct ChunkFunction {
    /// In its first part.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) name: Option<String>,
    /// More of the arguments.
    pub(crate) arguments: String,
}
