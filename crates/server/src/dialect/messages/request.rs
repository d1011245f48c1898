//! An Anthropic request as the one form of all dialects.

use serde_json::{Value, json};
use text::{GrammarSpec, Message, Role};

use super::wire::{Block, Blocks, CountRequest, MessagesRequest, ToolChoiceSpec, ToolSpec, TurnMessage, TurnRole};
use crate::dialect::chat::reasoning;
use crate::dialect::parts::{call_value, check_choice};
use crate::error::ApiError;
use crate::generate::{Choose, Conversation, GenerationRequest, Prompt, SamplingWish, ToolWish};

impl MessagesRequest {
    /// # Errors
    /// A field cannot be used
    pub(super) fn into_wish(self) -> Result<GenerationRequest, ApiError> {
        let config = self.output_config;
        let effort = config.as_ref().and_then(|config| config.effort.clone());
        let format = match config.and_then(|config| config.format) {
            Some(format) if format.r#type == "json_schema" => {
                Some(GrammarSpec::JsonSchema(Value::Object(format.schema)))
            }
            Some(format) => {
                let problem = format!("expected json_schema, found {:?}", format.r#type);
                return Err(ApiError::field("output_config.format.type", problem));
            }
            None => None,
        };
        let tools = tool_wish(self.tools, self.tool_choice)?;
        Ok(GenerationRequest {
            prompt: Prompt::Chat(conversation(self.system, self.messages)?),
            max_tokens: Some(self.max_tokens),
            sampling: SamplingWish {
                temperature: self.temperature,
                top_p: self.top_p,
                top_k: self.top_k,
                ..SamplingWish::default()
            },
            n: 1,
            stop: self.stop_sequences.unwrap_or_default(),
            reasoning: reasoning(self.thinking, effort.as_deref(), None)?,
            tools,
            format,
            format_field: "output_config.format",
            top_logprobs: None,
            user: self.metadata.and_then(|metadata| metadata.user_id),
        })
    }
}

impl CountRequest {
    /// # Errors
    /// A field cannot be used
    pub(super) fn into_parts(self) -> Result<(Conversation, ToolWish), ApiError> {
        reasoning(self.thinking, None, None)?;
        Ok((conversation(self.system, self.messages)?, tool_wish(self.tools, self.tool_choice)?))
    }
}

fn tool_wish(tools: Option<Vec<ToolSpec>>, choice: Option<ToolChoiceSpec>) -> Result<ToolWish, ApiError> {
    let mut list = Vec::new();
    for (i, tool) in tools.unwrap_or_default().into_iter().enumerate() {
        if tool.r#type.as_deref().is_some_and(|kind| kind != "custom") {
            let problem = format!("expected custom, the tools that clients run, found {:?}", tool.r#type);
            return Err(ApiError::field(format!("tools[{i}].type"), problem));
        }
        let parameters = tool.input_schema.map_or_else(|| json!({ "type": "object" }), Value::Object);
        let mut function = json!({ "name": tool.name, "parameters": parameters });
        if let Some(description) = tool.description {
            function["description"] = description.into();
        }
        if let Some(strict) = tool.strict {
            function["strict"] = strict.into();
        }
        list.push(json!({ "type": "function", "function": function }));
    }
    text::Tool::from_openai(&list).map_err(|error| ApiError::field("tools", error))?;
    let Some(choice) = choice else { return Ok(ToolWish { list, ..ToolWish::default() }) };
    let single = choice.disable_parallel_tool_use == Some(true);
    let choice = match (choice.r#type.as_str(), choice.name) {
        ("auto", _) => Choose::Auto,
        ("none", _) => Choose::None,
        ("any", _) => Choose::Required,
        ("tool", Some(name)) => Choose::Named(name),
        ("tool", None) => return Err(ApiError::field("tool_choice.name", "expected a tool's name, found none")),
        (other, _) => {
            let problem = format!("expected auto, any, tool or none, found {other:?}");
            return Err(ApiError::field("tool_choice.type", problem));
        }
    };
    Ok(ToolWish { choice: check_choice(choice, &list)?, list, single })
}

fn conversation(system: Option<Blocks>, messages: Vec<TurnMessage>) -> Result<Conversation, ApiError> {
    let mut out = Vec::new();
    if let Some(system) = system {
        out.push(Message::system(plain(system, "system")?));
    }
    let continues = messages.last().is_some_and(|message| message.role == TurnRole::Assistant);
    for (i, message) in messages.into_iter().enumerate() {
        let field = format!("messages[{i}].content");
        match message.role {
            TurnRole::System => out.push(Message::system(plain(message.content, &field)?)),
            TurnRole::User => user(message.content, &field, &mut out)?,
            TurnRole::Assistant => out.push(assistant(message.content, &field)?),
        }
    }
    Ok(Conversation { messages: out, continues, ..Conversation::default() })
}

/// Blocks of text as one.
fn plain(blocks: Blocks, field: &str) -> Result<String, ApiError> {
    let list = match blocks {
        Blocks::Text(text) => return Ok(text),
        Blocks::List(list) => list,
    };
    let mut texts = Vec::with_capacity(list.len());
    for (i, block) in list.into_iter().enumerate() {
        match block {
            Block::Text { text } => texts.push(text),
            _ => return Err(ApiError::field(format!("{field}[{i}].type"), "expected text here")),
        }
    }
    Ok(texts.join("\n"))
}

/// What tools gave back, each as a message of its own, before what the person says.
fn user(blocks: Blocks, field: &str, out: &mut Vec<Message>) -> Result<(), ApiError> {
    let list = match blocks {
        Blocks::Text(text) => {
            out.push(Message::user(text));
            return Ok(());
        }
        Blocks::List(list) => list,
    };
    let mut texts = Vec::new();
    for (i, block) in list.into_iter().enumerate() {
        match block {
            Block::Text { text } => texts.push(text),
            Block::ToolResult { tool_use_id, content } => {
                let field = format!("{field}[{i}].content");
                let text = content.map_or(Ok(String::new()), |content| plain(content, &field))?;
                out.push(Message { tool_call_id: Some(tool_use_id), ..Message::new(Role::Tool, text) });
            }
            _ => return Err(ApiError::field(format!("{field}[{i}].type"), "expected text or tool_result here")),
        }
    }
    if !texts.is_empty() {
        out.push(Message::user(texts.join("\n")));
    }
    Ok(())
}

fn assistant(blocks: Blocks, field: &str) -> Result<Message, ApiError> {
    let list = match blocks {
        Blocks::Text(text) => return Ok(Message::assistant(text)),
        Blocks::List(list) => list,
    };
    let (mut reasoning, mut texts, mut calls) = (String::new(), Vec::new(), Vec::new());
    for (i, block) in list.into_iter().enumerate() {
        match block {
            Block::Text { text } => texts.push(text),
            Block::Thinking { thinking, .. } => reasoning.push_str(&thinking),
            Block::RedactedThinking {} => {}
            Block::ToolUse { id, name, input } => calls.push(call_value(&id, &name, &input.to_string())),
            Block::ToolResult { .. } => {
                return Err(ApiError::field(format!("{field}[{i}].type"), "expected no tool_result of the assistant"));
            }
        }
    }
    let content = texts.join("\n");
    Ok(Message {
        content: Some(content).filter(|content| !content.is_empty() || calls.is_empty()),
        reasoning_content: Some(reasoning).filter(|reasoning| !reasoning.is_empty()),
        tool_calls: Some(calls).filter(|calls| !calls.is_empty()),
        ..Message::new(Role::Assistant, "")
    })
}
