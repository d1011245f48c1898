//! Chats as clients see them.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::{IntoParams, ToSchema};

/// A conversation without its messages.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub(crate) struct Summary {
    pub(crate) id: String,
    pub(crate) title: String,
    /// The model that it is held with.
    pub(crate) model: Option<String>,
    /// Milliseconds since 1970.
    pub(crate) created_ms: i64,
    /// Milliseconds since 1970.
    pub(crate) updated_ms: i64,
    pub(crate) n_messages: i64,
}

/// Conversations, those that changed last first.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(crate) struct Summaries {
    pub(crate) data: Vec<Summary>,
    /// There are more behind these.
    pub(crate) has_more: bool,
}

/// A conversation.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(crate) struct Chat {
    #[serde(flatten)]
    pub(crate) summary: Summary,
    pub(crate) messages: Vec<StoredMessage>,
}

/// A message that is kept.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub(crate) struct StoredMessage {
    pub(crate) id: i64,
    #[serde(flatten)]
    pub(crate) message: NewMessage,
}

/// A message.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub(crate) struct NewMessage {
    /// `system`, `user`, `assistant` or `tool`.
    pub(crate) role: String,
    /// What is said.
    #[serde(default)]
    pub(crate) content: String,
    /// The reasoning before it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) reasoning_content: Option<String>,
    /// The calls of an assistant's message.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) tool_calls: Option<Vec<Value>>,
    /// Which call a tool's message answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) tool_call_id: Option<String>,
    /// Milliseconds since 1970; now, if not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) created_ms: Option<i64>,
}

/// A conversation to be kept, or one that was: the form of exports too.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub(crate) struct NewChat {
    /// The beginning of the first message, if not given.
    #[serde(default)]
    pub(crate) title: Option<String>,
    /// The model that it is held with.
    #[serde(default)]
    pub(crate) model: Option<String>,
    /// Milliseconds since 1970; now, if not given.
    #[serde(default)]
    pub(crate) created_ms: Option<i64>,
    #[serde(default)]
    pub(crate) messages: Vec<NewMessage>,
}

/// What is to be different.
#[derive(Clone, Debug, Deserialize, ToSchema)]
pub(crate) struct ChatChange {
    pub(crate) title: String,
}

/// Messages to be appended.
#[derive(Clone, Debug, Deserialize, ToSchema)]
pub(crate) struct NewMessages {
    pub(crate) messages: Vec<NewMessage>,
}

/// Messages as they are kept.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(crate) struct StoredMessages {
    pub(crate) messages: Vec<StoredMessage>,
}

/// What is to be taken in: one of the two.
#[derive(Clone, Debug, Deserialize, ToSchema)]
pub(crate) struct Import {
    /// Conversations in the form of JSON exports.
    #[serde(default)]
    pub(crate) conversations: Option<Vec<NewChat>>,
    /// A Markdown export.
    #[serde(default)]
    pub(crate) markdown: Option<String>,
}

/// All conversations.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(crate) struct Export {
    pub(crate) conversations: Vec<NewChat>,
}

/// Places where words were found.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(crate) struct Hits {
    pub(crate) data: Vec<Hit>,
}

/// A place where words were found.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub(crate) struct Hit {
    pub(crate) conversation_id: String,
    pub(crate) title: String,
    pub(crate) message_id: i64,
    pub(crate) role: String,
    /// The text around the words.
    pub(crate) snippet: String,
}

/// Which part of a list.
#[derive(Clone, Debug, Deserialize, IntoParams)]
pub(crate) struct Page {
    /// At most so many; 50 if not given.
    pub(crate) limit: Option<u32>,
    /// Behind so many.
    pub(crate) offset: Option<u32>,
}

/// What to search for.
#[derive(Clone, Debug, Deserialize, IntoParams)]
pub(crate) struct Query {
    /// Words, all of which a message holds.
    pub(crate) q: String,
    /// At most so many; 50 if not given.
    pub(crate) limit: Option<u32>,
}

/// The form of an export.
#[derive(Clone, Debug, Deserialize, IntoParams)]
pub(crate) struct ExportForm {
    /// `json` (if not given) or `markdown`.
    pub(crate) format: Option<String>,
}
