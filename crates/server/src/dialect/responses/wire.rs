//! Wire types of responses.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::ToSchema;

use crate::dialect::chat::ChatRole;
use crate::dialect::parts::{Content, TextOr};

/// What is to be answered.
#[derive(Clone, Debug, Deserialize, ToSchema)]
pub(crate) struct ResponsesRequest {
    /// Any name: one model is served.
    #[serde(default)]
    #[expect(dead_code, reason = "one model is served, whatever it is called")]
    pub(crate) model: Option<String>,
    /// A text, or the conversation's items.
    pub(crate) input: Input,
    /// Instructions that frame it, this time only.
    #[serde(default)]
    pub(crate) instructions: Option<String>,
    /// The response that this one follows; it must have been stored.
    #[serde(default)]
    pub(crate) previous_response_id: Option<String>,
    /// Keep the response in memory for a while, so that another can follow it; true if not given.
    #[serde(default)]
    pub(crate) store: Option<bool>,
    /// Most tokens of the answer, reasoning included.
    #[serde(default)]
    pub(crate) max_output_tokens: Option<usize>,
    /// Send the answer as events while it is written.
    #[serde(default)]
    pub(crate) stream: Option<bool>,
    /// Divides the logits; 0 always takes the most probable token.
    #[serde(default)]
    pub(crate) temperature: Option<f32>,
    /// Keeps the most probable tokens that hold this much probability.
    #[serde(default)]
    pub(crate) top_p: Option<f32>,
    /// Functions that may be called.
    #[serde(default)]
    pub(crate) tools: Option<Vec<ResponseTool>>,
    /// `auto`, `none`, `required`, or `{"type": "function", "name": …}`.
    #[serde(default)]
    #[schema(value_type = Option<Value>)]
    pub(crate) tool_choice: Option<Value>,
    /// More than one call in an answer.
    #[serde(default)]
    pub(crate) parallel_tool_calls: Option<bool>,
    /// The form of the answer.
    #[serde(default)]
    pub(crate) text: Option<TextOptions>,
    /// How hard the model thinks.
    #[serde(default)]
    pub(crate) reasoning: Option<ReasoningOptions>,
    /// Kept with the response.
    #[serde(default)]
    pub(crate) metadata: Option<Map<String, Value>>,
    /// Whose request it is, among those of one key: those who wait take turns.
    #[serde(default)]
    pub(crate) user: Option<String>,
}

/// A text, or items.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema)]
#[serde(untagged, from = "TextOr<Item>")]
pub(crate) enum Input {
    /// What the person says.
    Text(String),
    /// A conversation.
    Items(Vec<Item>),
}

impl From<TextOr<Item>> for Input {
    fn from(input: TextOr<Item>) -> Self {
        match input {
            TextOr::Text(text) => Self::Text(text),
            TextOr::List(items) => Self::Items(items),
        }
    }
}

/// A part of a conversation.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema)]
pub(crate) struct Item {
    /// `message` (if nothing is said), `function_call`, `function_call_output` or `reasoning`.
    #[serde(default)]
    #[schema(example = "message")]
    pub(crate) r#type: Option<String>,
    /// Who speaks, in a message.
    #[serde(default)]
    pub(crate) role: Option<ChatRole>,
    /// What is said, in a message; the text of reasoning.
    #[serde(default)]
    pub(crate) content: Option<Content>,
    /// Names a call, in it and in its output.
    #[serde(default)]
    pub(crate) call_id: Option<String>,
    /// The function, in a call.
    #[serde(default)]
    pub(crate) name: Option<String>,
    /// Text of a JSON object, in a call.
    #[serde(default)]
    pub(crate) arguments: Option<String>,
    /// What the function gave back.
    #[serde(default)]
    pub(crate) output: Option<Content>,
}

/// A function that may be called.
#[derive(Clone, Debug, Deserialize, ToSchema)]
pub(crate) struct ResponseTool {
    /// Always `function`.
    #[schema(example = "function")]
    pub(crate) r#type: String,
    /// 1 to 64 of `a-z A-Z 0-9 _ - .`
    #[serde(default)]
    pub(crate) name: Option<String>,
    /// When and how to call it.
    #[serde(default)]
    pub(crate) description: Option<String>,
    /// JSON schema of its arguments.
    #[serde(default)]
    pub(crate) parameters: Option<Map<String, Value>>,
    /// Calls must follow the schema to the letter; one that cannot be enforced is an error.
    #[serde(default)]
    pub(crate) strict: Option<bool>,
}

/// The form of an answer.
#[derive(Clone, Debug, Deserialize, ToSchema)]
pub(crate) struct TextOptions {
    #[serde(default)]
    pub(crate) format: Option<TextFormat>,
}

/// What an answer must follow.
#[derive(Clone, Debug, Deserialize, ToSchema)]
pub(crate) struct TextFormat {
    /// `text`, `json_object` or `json_schema`.
    #[schema(example = "json_object")]
    pub(crate) r#type: String,
    /// JSON schema of the answer.
    #[serde(default)]
    pub(crate) schema: Option<Map<String, Value>>,
}

/// How a model thinks.
#[derive(Clone, Debug, Deserialize, ToSchema)]
pub(crate) struct ReasoningOptions {
    /// none, minimal, low, medium, high, xhigh or max.
    #[serde(default)]
    pub(crate) effort: Option<String>,
}

/// An answer.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(crate) struct ResponseAnswer {
    pub(crate) id: String,
    /// Always `response`.
    pub(crate) object: &'static str,
    /// Seconds since 1970.
    pub(crate) created_at: u64,
    /// `in_progress`, `completed`, `incomplete` or `failed`.
    pub(crate) status: &'static str,
    #[schema(value_type = Option<Value>)]
    pub(crate) error: Option<Value>,
    /// Why the answer is incomplete.
    #[schema(value_type = Option<Value>)]
    pub(crate) incomplete_details: Option<Value>,
    pub(crate) instructions: Option<String>,
    pub(crate) max_output_tokens: Option<usize>,
    /// The model that answered.
    pub(crate) model: String,
    /// Reasoning, messages and calls.
    pub(crate) output: Vec<Value>,
    pub(crate) parallel_tool_calls: bool,
    pub(crate) previous_response_id: Option<String>,
    pub(crate) store: bool,
    pub(crate) temperature: Option<f32>,
    #[schema(value_type = Value)]
    pub(crate) tool_choice: Value,
    pub(crate) tools: Vec<Value>,
    pub(crate) top_p: Option<f32>,
    /// Always `disabled`.
    pub(crate) truncation: &'static str,
    #[schema(value_type = Value)]
    pub(crate) text: Value,
    #[schema(value_type = Value)]
    pub(crate) reasoning: Value,
    pub(crate) usage: Option<ResponseUsage>,
    pub(crate) metadata: Map<String, Value>,
}

/// A response that was forgotten.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(crate) struct Deleted {
    pub(crate) id: String,
    /// Always `response`.
    pub(crate) object: &'static str,
    /// Always true.
    pub(crate) deleted: bool,
}

/// What a request took.
#[derive(Clone, Copy, Debug, Serialize, ToSchema)]
pub(crate) struct ResponseUsage {
    pub(crate) input_tokens: usize,
    pub(crate) input_tokens_details: InputDetails,
    pub(crate) output_tokens: usize,
    pub(crate) output_tokens_details: OutputDetails,
    pub(crate) total_tokens: usize,
}

/// More about the prompt.
#[derive(Clone, Copy, Debug, Serialize, ToSchema)]
pub(crate) struct InputDetails {
    /// Tokens that did not have to be computed.
    pub(crate) cached_tokens: usize,
}

/// More about the answer.
#[derive(Clone, Copy, Debug, Serialize, ToSchema)]
pub(crate) struct OutputDetails {
    /// Tokens that were reasoning.
    pub(crate) reasoning_tokens: usize,
}
