//! Wire types of Anthropic's messages.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::ToSchema;

use crate::dialect::chat::ThinkingOptions;
use crate::dialect::parts::{TextOr, null_is_default, top_k};

/// A conversation to be answered.
#[derive(Clone, Debug, Deserialize, ToSchema)]
pub(crate) struct MessagesRequest {
    /// Any name: one model is served.
    #[serde(default)]
    #[expect(dead_code, reason = "one model is served, whatever it is called")]
    pub(crate) model: Option<String>,
    /// Most tokens of the answer, reasoning included.
    pub(crate) max_tokens: usize,
    /// The conversation; where its last message is the assistant's, the answer goes on from it.
    pub(crate) messages: Vec<TurnMessage>,
    /// Instructions that frame it.
    #[serde(default)]
    pub(crate) system: Option<Blocks>,
    /// Tools that may be called.
    #[serde(default)]
    pub(crate) tools: Option<Vec<ToolSpec>>,
    /// Which of them must be.
    #[serde(default)]
    pub(crate) tool_choice: Option<ToolChoiceSpec>,
    /// Whether the model reasons first, and how long.
    #[serde(default)]
    pub(crate) thinking: Option<ThinkingOptions>,
    /// Send the answer as events while it is written.
    #[serde(default)]
    pub(crate) stream: Option<bool>,
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
    /// Texts before which the answer ends.
    #[serde(default)]
    pub(crate) stop_sequences: Option<Vec<String>>,
    /// The form of the answer.
    #[serde(default)]
    pub(crate) output_config: Option<OutputConfig>,
    /// About the request.
    #[serde(default)]
    pub(crate) metadata: Option<Metadata>,
}

/// A conversation to be counted.
#[derive(Clone, Debug, Deserialize, ToSchema)]
pub(crate) struct CountRequest {
    /// The conversation; where its last message is the assistant's, the answer goes on from it.
    pub(crate) messages: Vec<TurnMessage>,
    /// Instructions that frame it.
    #[serde(default)]
    pub(crate) system: Option<Blocks>,
    /// Tools that may be called.
    #[serde(default)]
    pub(crate) tools: Option<Vec<ToolSpec>>,
    /// Which of them must be.
    #[serde(default)]
    pub(crate) tool_choice: Option<ToolChoiceSpec>,
    /// Whether the model reasons first, and how long.
    #[serde(default)]
    pub(crate) thinking: Option<ThinkingOptions>,
}

/// How many tokens it has.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(crate) struct TokenCount {
    pub(crate) input_tokens: usize,
}

/// The form of an answer.
#[derive(Clone, Debug, Deserialize, ToSchema)]
pub(crate) struct OutputConfig {
    /// A schema that the answer must follow.
    #[serde(default)]
    pub(crate) format: Option<OutputFormat>,
    /// How hard the model thinks.
    #[serde(default)]
    pub(crate) effort: Option<String>,
}

/// A schema that an answer must follow.
#[derive(Clone, Debug, Deserialize, ToSchema)]
pub(crate) struct OutputFormat {
    /// Always `json_schema`.
    #[schema(example = "json_schema")]
    pub(crate) r#type: String,
    /// The schema.
    pub(crate) schema: Map<String, Value>,
}

/// About a request.
#[derive(Clone, Debug, Deserialize, ToSchema)]
pub(crate) struct Metadata {
    /// Whose request it is, among those of one key: those who wait take turns.
    #[serde(default)]
    pub(crate) user_id: Option<String>,
}

/// Who speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum TurnRole {
    /// Instructions within the conversation.
    System,
    /// The person, and tools.
    User,
    /// The model.
    Assistant,
}

/// One message of a conversation.
#[derive(Clone, Debug, Deserialize, ToSchema)]
pub(crate) struct TurnMessage {
    pub(crate) role: TurnRole,
    pub(crate) content: Blocks,
}

/// A text, or blocks.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema)]
#[serde(untagged, from = "TextOr<Block>")]
pub(crate) enum Blocks {
    /// As one.
    Text(String),
    /// In blocks.
    List(Vec<Block>),
}

impl From<TextOr<Block>> for Blocks {
    fn from(blocks: TextOr<Block>) -> Self {
        match blocks {
            TextOr::Text(text) => Self::Text(text),
            TextOr::List(list) => Self::List(list),
        }
    }
}

/// A part of a message. This model reads text only.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(crate) enum Block {
    /// Text.
    Text {
        /// The text.
        text: String,
    },
    /// The model's reasoning.
    Thinking {
        /// The text.
        thinking: String,
        /// Nothing: what is served here needs no proof of its origin.
        #[serde(default, deserialize_with = "null_is_default")]
        #[schema(value_type = Option<String>)]
        signature: String,
    },
    /// Reasoning that another service hid; it is left out.
    RedactedThinking {},
    /// A call of a tool.
    ToolUse {
        /// Names the call.
        id: String,
        /// The tool.
        name: String,
        /// Its arguments.
        input: Value,
    },
    /// What a tool gave back.
    ToolResult {
        /// The call that it answers.
        tool_use_id: String,
        /// What it gave.
        #[serde(default)]
        #[schema(value_type = Option<Value>)]
        content: Option<Blocks>,
    },
}

/// A tool that may be called.
#[derive(Clone, Debug, Deserialize, ToSchema)]
pub(crate) struct ToolSpec {
    /// `custom`, or nothing.
    #[serde(default)]
    pub(crate) r#type: Option<String>,
    /// 1 to 64 of `a-z A-Z 0-9 _ - .`
    pub(crate) name: String,
    /// When and how to call it.
    #[serde(default)]
    pub(crate) description: Option<String>,
    /// JSON schema of its arguments.
    #[serde(default)]
    pub(crate) input_schema: Option<Map<String, Value>>,
    /// Calls must follow the schema to the letter.
    #[serde(default)]
    pub(crate) strict: Option<bool>,
}

/// Which tools must be called.
#[derive(Clone, Debug, Deserialize, ToSchema)]
pub(crate) struct ToolChoiceSpec {
    /// `auto`, `any`, `tool` or `none`.
    #[schema(example = "auto")]
    pub(crate) r#type: String,
    /// The tool, for `tool`.
    #[serde(default)]
    pub(crate) name: Option<String>,
    /// One call at most.
    #[serde(default)]
    pub(crate) disable_parallel_tool_use: Option<bool>,
}

/// An answer.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(crate) struct MessageAnswer {
    pub(crate) id: String,
    /// Always `message`.
    pub(crate) r#type: &'static str,
    /// Always `assistant`.
    pub(crate) role: &'static str,
    /// The model that answered.
    pub(crate) model: String,
    pub(crate) content: Vec<Block>,
    /// `end_turn`, `max_tokens`, `stop_sequence` or `tool_use`.
    pub(crate) stop_reason: Option<&'static str>,
    /// The stop sequence that came.
    pub(crate) stop_sequence: Option<String>,
    pub(crate) usage: MessageUsage,
}

/// What a request took.
#[derive(Clone, Copy, Debug, Default, Serialize, ToSchema)]
pub(crate) struct MessageUsage {
    /// Tokens of the prompt that had to be computed.
    pub(crate) input_tokens: usize,
    /// Tokens of the answer.
    pub(crate) output_tokens: usize,
    /// Always 0: what is computed is kept without being asked to.
    pub(crate) cache_creation_input_tokens: usize,
    /// Tokens of the prompt that did not have to be computed.
    pub(crate) cache_read_input_tokens: usize,
}
