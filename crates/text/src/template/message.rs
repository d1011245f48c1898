//! The messages of a conversation, in OpenAI's form. Owns their types and their shape for templates. Must not
//! render.

use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value};

/// Who speaks. A closed list, because templates paste the role beside their own markup.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Instructions that frame the conversation.
    System,
    /// Instructions of the application, in newer protocols.
    Developer,
    /// The person.
    User,
    /// The model.
    Assistant,
    /// A tool's result.
    Tool,
}

/// One message of a conversation.
///
/// Deserialises from OpenAI's Chat Completions form; `content` may also be a list of text parts, which are joined
/// with newlines. Fields not named here are kept in `extra` and reach the template.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Message {
    /// Who speaks.
    pub role: Role,
    /// What is said; absent in an assistant's message that only calls tools.
    #[serde(default, deserialize_with = "content")]
    pub content: Option<String>,
    /// The reasoning that came before `content`, without its tags.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reasoning_content: Option<String>,
    /// The calls an assistant makes, as they came: `[{id, type, function: {name, arguments}}]`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tool_calls: Option<Vec<Value>>,
    /// Name of the speaker or of the tool.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Which call a tool's message answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tool_call_id: Option<String>,
    /// Anything else that came with the message.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

impl Message {
    /// A message of text alone.
    pub fn new(role: Role, content: impl Into<String>) -> Self {
        Self {
            role,
            content: Some(content.into()),
            reasoning_content: None,
            tool_calls: None,
            name: None,
            tool_call_id: None,
            extra: Map::new(),
        }
    }

    /// A message of the person.
    pub fn user(content: impl Into<String>) -> Self {
        Self::new(Role::User, content)
    }

    /// A message of the model.
    pub fn assistant(content: impl Into<String>) -> Self {
        Self::new(Role::Assistant, content)
    }

    /// A message that frames the conversation.
    pub fn system(content: impl Into<String>) -> Self {
        Self::new(Role::System, content)
    }
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Content {
    Text(String),
    Parts(Vec<Part>),
}

#[derive(Deserialize)]
struct Part {
    r#type: String,
    text: Option<String>,
}

fn content<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    let Some(content) = Option::<Content>::deserialize(deserializer)? else { return Ok(None) };
    let parts = match content {
        Content::Text(text) => return Ok(Some(text)),
        Content::Parts(parts) => parts,
    };
    let texts = parts.into_iter().map(|part| match (part.r#type.as_str(), part.text) {
        ("text", Some(text)) => Ok(text),
        (other, _) => Err(serde::de::Error::custom(format!("expected a content part of type text, found {other:?}"))),
    });
    Ok(Some(texts.collect::<Result<Vec<_>, _>>()?.join("\n")))
}
