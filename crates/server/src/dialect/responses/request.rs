//! A responses request as the one form of all dialects.

use serde_json::{Value, json};
use text::{GrammarSpec, Message, Role};

use super::wire::{Input, Item, ResponseTool, ResponsesRequest, TextFormat};
use crate::dialect::chat::ChatRole;
use crate::dialect::parts::{FunctionSpec, call_value, tool_choice};
use crate::error::ApiError;
use crate::generate::{
    Conversation, Effort, GenerationRequest, Prompt, ReasoningWish, SamplingWish, ToolWish, fresh_id,
};

impl ResponsesRequest {
    /// The conversation that the input adds.
    ///
    /// # Errors
    /// An item cannot be used
    pub(super) fn messages(&self) -> Result<Vec<Message>, ApiError> {
        match &self.input {
            Input::Text(text) => Ok(vec![Message::user(text.clone())]),
            Input::Items(items) => messages(items),
        }
    }

    /// The wish to answer `messages`.
    ///
    /// # Errors
    /// A field cannot be used
    pub(super) fn wish(&self, mut messages: Vec<Message>) -> Result<GenerationRequest, ApiError> {
        if let Some(instructions) = &self.instructions {
            messages.insert(0, Message::system(instructions.clone()));
        }
        let list = tools(self.tools.as_deref().unwrap_or_default())?;
        let choice = tool_choice(self.tool_choice.as_ref(), &list)?;
        let effort = self.reasoning.as_ref().and_then(|reasoning| reasoning.effort.as_deref());
        let effort = effort.map(|word| Effort::of("reasoning.effort", word)).transpose()?;
        Ok(GenerationRequest {
            prompt: Prompt::Chat(Conversation { messages, ..Conversation::default() }),
            max_tokens: self.max_output_tokens,
            sampling: SamplingWish { temperature: self.temperature, top_p: self.top_p, ..SamplingWish::default() },
            n: 1,
            stop: Vec::new(),
            reasoning: ReasoningWish { effort, ..ReasoningWish::default() },
            tools: ToolWish { list, choice, single: self.parallel_tool_calls == Some(false) },
            format: self.text.as_ref().and_then(|text| text.format.clone()).map_or(Ok(None), format)?,
            format_field: "text.format",
            top_logprobs: None,
            user: self.user.clone(),
        })
    }
}

fn format(format: TextFormat) -> Result<Option<GrammarSpec>, ApiError> {
    match (format.r#type.as_str(), format.schema) {
        ("text", _) => Ok(None),
        ("json_object", _) => Ok(Some(GrammarSpec::JsonObject)),
        ("json_schema", Some(schema)) => Ok(Some(GrammarSpec::JsonSchema(Value::Object(schema)))),
        ("json_schema", None) => Err(ApiError::field("text.format.schema", "expected a JSON schema, found none")),
        (other, _) => {
            let problem = format!("expected text, json_object or json_schema, found {other:?}");
            Err(ApiError::field("text.format.type", problem))
        }
    }
}

fn tools(list: &[ResponseTool]) -> Result<Vec<Value>, ApiError> {
    let mut out = Vec::with_capacity(list.len());
    for (i, tool) in list.iter().enumerate() {
        if tool.r#type != "function" {
            let problem = format!("expected function, which is all that is served here, found {:?}", tool.r#type);
            return Err(ApiError::field(format!("tools[{i}].type"), problem));
        }
        let missing = || ApiError::field(format!("tools[{i}].name"), "expected a function's name, found none");
        let function = FunctionSpec {
            name: tool.name.clone().ok_or_else(missing)?,
            description: tool.description.clone(),
            parameters: tool.parameters.clone(),
            strict: tool.strict,
        };
        out.push(json!({ "type": "function", "function": function }));
    }
    text::Tool::from_openai(&out).map_err(|error| ApiError::field("tools", error))?;
    Ok(out)
}

/// Items as messages: what the model reasoned, said and called in a row is one message.
fn messages(items: &[Item]) -> Result<Vec<Message>, ApiError> {
    let mut out: Vec<Message> = Vec::new();
    for (i, item) in items.iter().enumerate() {
        let field = |name: &str| format!("input[{i}].{name}");
        let text = |content: &Option<crate::dialect::parts::Content>, name: &str| match content.clone() {
            Some(content) => content.into_text(&field(name)),
            None => Err(ApiError::field(field(name), "expected a text, found none")),
        };
        match item.r#type.as_deref().unwrap_or("message") {
            "message" => {
                let content = text(&item.content, "content")?;
                let role =
                    item.role.ok_or_else(|| ApiError::field(field("role"), "expected who speaks, found none"))?;
                match role {
                    ChatRole::User => out.push(Message::user(content)),
                    ChatRole::System | ChatRole::Developer => out.push(Message::system(content)),
                    ChatRole::Tool => return Err(ApiError::field(field("role"), "expected function_call_output")),
                    ChatRole::Assistant => match out.last_mut().filter(|m| is_begun(m)) {
                        Some(begun) => begun.content = Some(content),
                        None => out.push(Message::assistant(content)),
                    },
                }
            }
            "reasoning" => {
                let reasoning = item.content.clone().map_or(Ok(String::new()), |content| reasoning(content, &field))?;
                let message = Message { content: None, ..Message::new(Role::Assistant, "") };
                out.push(Message { reasoning_content: Some(reasoning).filter(|text| !text.is_empty()), ..message });
            }
            "function_call" => {
                let missing = |name: &str| ApiError::field(field(name), "expected a string, found none");
                let name = item.name.as_deref().ok_or_else(|| missing("name"))?;
                let id = item.call_id.clone().unwrap_or_else(|| fresh_id("call_"));
                let call = call_value(&id, name, item.arguments.as_deref().unwrap_or("{}"));
                match out.last_mut().filter(|m| m.role == Role::Assistant) {
                    Some(message) => message.tool_calls.get_or_insert_default().push(call),
                    None => {
                        let message = Message { content: None, ..Message::new(Role::Assistant, "") };
                        out.push(Message { tool_calls: Some(vec![call]), ..message });
                    }
                }
            }
            "function_call_output" => {
                let output = text(&item.output, "output")?;
                out.push(Message { tool_call_id: item.call_id.clone(), ..Message::new(Role::Tool, output) });
            }
            other => {
                let expected = "expected message, function_call, function_call_output or reasoning";
                return Err(ApiError::field(field("type"), format!("{expected}, found {other:?}")));
            }
        }
    }
    // Templates join contents to text.
    let silent = |m: &&mut Message| m.content.is_none() && m.tool_calls.is_none();
    out.iter_mut().filter(silent).for_each(|message| message.content = Some(String::new()));
    Ok(out)
}

/// An assistant's message of which only the reasoning is there.
fn is_begun(message: &Message) -> bool {
    message.role == Role::Assistant && message.content.is_none() && message.tool_calls.is_none()
}

fn reasoning(content: crate::dialect::parts::Content, field: &dyn Fn(&str) -> String) -> Result<String, ApiError> {
    use crate::dialect::parts::Content;
    match content {
        Content::Text(text) => Ok(text),
        Content::Parts(parts) => {
            let texts = parts.into_iter().enumerate().map(|(i, part)| {
                let missing = || ApiError::field(field(&format!("content[{i}].text")), "expected a string, found none");
                part.text.ok_or_else(missing)
            });
            Ok(texts.collect::<Result<Vec<_>, _>>()?.join("\n"))
        }
    }
}
