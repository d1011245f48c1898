//! Chats as clients see them.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
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
    /// Of all branches.
    pub(crate) n_messages: i64,
    /// Listed before others.
    pub(crate) pinned: bool,
    /// The last message of the branch that is on show; 0 if there is none.
    pub(crate) current_id: i64,
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
    /// What a client wants to keep with it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) settings: Option<Map<String, Value>>,
    /// Those of all branches, in the order in which they came.
    pub(crate) messages: Vec<StoredMessage>,
}

impl Chat {
    /// The messages of the branch that is on show.
    pub(crate) fn branch(&self) -> Vec<&StoredMessage> {
        let mut wanted = self.summary.current_id;
        let mut branch = Vec::new();
        // A message stands behind the one that it follows.
        for message in self.messages.iter().rev().filter(|message| message.id <= self.summary.current_id) {
            if message.id == wanted {
                wanted = message.parent_id;
                branch.push(message);
            }
        }
        branch.reverse();
        branch
    }

    /// Itself as it is exported, with all branches.
    pub(crate) fn to_export(&self) -> NewChat {
        NewChat {
            title: Some(self.summary.title.clone()),
            model: self.summary.model.clone(),
            created_ms: Some(self.summary.created_ms),
            pinned: self.summary.pinned,
            current_id: Some(self.summary.current_id),
            settings: self.settings.clone(),
            messages: self.messages.iter().map(StoredMessage::to_new).collect(),
        }
    }
}

/// A message that is kept.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub(crate) struct StoredMessage {
    pub(crate) id: i64,
    /// The message that it follows; 0 if it begins the conversation. Those that follow the same one are branches.
    pub(crate) parent_id: i64,
    /// `system`, `user`, `assistant` or `tool`.
    pub(crate) role: String,
    /// What is said.
    pub(crate) content: String,
    /// The reasoning before it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) reasoning_content: Option<String>,
    /// The calls of an assistant's message.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) tool_calls: Option<Vec<Value>>,
    /// Which call a tool's message answers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) tool_call_id: Option<String>,
    /// What a client wants to keep with it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) meta: Option<Map<String, Value>>,
    /// Milliseconds since 1970.
    pub(crate) created_ms: i64,
}

impl StoredMessage {
    /// Itself as it is exported.
    pub(crate) fn to_new(&self) -> NewMessage {
        NewMessage {
            id: Some(self.id),
            parent_id: Some(self.parent_id),
            role: self.role.clone(),
            content: self.content.clone(),
            reasoning_content: self.reasoning_content.clone(),
            tool_calls: self.tool_calls.clone(),
            tool_call_id: self.tool_call_id.clone(),
            meta: self.meta.clone(),
            created_ms: Some(self.created_ms),
        }
    }
}

/// A message.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub(crate) struct NewMessage {
    /// A number under which others of the same list can name it in `parent_id`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) id: Option<i64>,
    /// The message that it follows, of the same list or of those that are there; 0 for none. If not given, the one before
    /// it, or for the first of a list the last one of the branch that is on show.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) parent_id: Option<i64>,
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
    /// What a client wants to keep with it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) meta: Option<Map<String, Value>>,
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
    /// Listed before others.
    #[serde(default)]
    pub(crate) pinned: bool,
    /// The `id` of the last message of the branch that is on show; the last message, if not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) current_id: Option<i64>,
    /// What a client wants to keep with it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) settings: Option<Map<String, Value>>,
    #[serde(default)]
    pub(crate) messages: Vec<NewMessage>,
}

/// What is to be different; what is not given stays.
#[derive(Clone, Debug, Default, Deserialize, ToSchema)]
pub(crate) struct ChatChange {
    #[serde(default)]
    pub(crate) title: Option<String>,
    /// Listed before others.
    #[serde(default)]
    pub(crate) pinned: Option<bool>,
    /// The last message of the branch that is on show.
    #[serde(default)]
    pub(crate) current_id: Option<i64>,
    /// What a client wants to keep with it.
    #[serde(default)]
    pub(crate) settings: Option<Map<String, Value>>,
}

/// What is to be different of a message; what is not given stays.
#[derive(Clone, Debug, Default, Deserialize, ToSchema)]
pub(crate) struct MessageChange {
    #[serde(default)]
    pub(crate) content: Option<String>,
    #[serde(default)]
    pub(crate) reasoning_content: Option<String>,
    /// What a client wants to keep with it.
    #[serde(default)]
    pub(crate) meta: Option<Map<String, Value>>,
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
