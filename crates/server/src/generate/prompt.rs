//! From what a client sends to the tokens that the model continues.
//!
//! Owns rendering, tools in the prompt, continued answers and gaps. Text of clients becomes plain tokens only. Must not
//! know sampling.

use std::borrow::Cow;

use serde_json::{Map, Value};
use text::{Message, RenderOptions, Role};

use super::{Choose, Conversation, Effort, GenerationRequest, Prompt, ReasoningWish, ToolWish, now_s};
use crate::error::ApiError;
use crate::model::Model;

/// A prompt as the model reads it.
pub(crate) struct Encoded {
    pub(crate) tokens: Vec<u32>,
    /// The answer begins inside the reasoning.
    pub(crate) in_reasoning: bool,
}

impl ReasoningWish {
    /// Whether the model is to reason, if the client cares.
    fn wanted(&self) -> Option<bool> {
        self.enabled.or(match (self.effort, self.budget) {
            (Some(Effort::None), _) | (_, Some(0)) => Some(false),
            (None, None) => None,
            _ => Some(true),
        })
    }
}

/// The tokens of a prompt.
pub(crate) fn encode(model: &Model, request: &GenerationRequest) -> Result<Encoded, ApiError> {
    let tokens = match &request.prompt {
        Prompt::Chat(conversation) => return chat(model, conversation, &request.tools, &request.reasoning),
        Prompt::Tokens(tokens) => tokens.clone(),
        Prompt::Text { text, suffix: None } => raw(model, text)?,
        Prompt::Text { text, suffix: Some(suffix) } => gap(model, text, suffix)?,
    };
    Ok(Encoded { tokens, in_reasoning: false })
}

/// Tokens of a conversation with its tools.
pub(crate) fn count(model: &Model, conversation: &Conversation, tools: &ToolWish) -> Result<usize, ApiError> {
    chat(model, conversation, tools, &ReasoningWish::default()).map(|encoded| encoded.tokens.len())
}

fn raw(model: &Model, text: &str) -> Result<Vec<u32>, ApiError> {
    let mut tokens = model.facts.tokenizer.encode_plain(text)?;
    tokens.splice(0..0, model.facts.bos_token);
    Ok(tokens)
}

/// What stands before and behind a gap.
fn gap(model: &Model, text: &str, suffix: &str) -> Result<Vec<u32>, ApiError> {
    let Some(fim) = model.fim else {
        let problem = "expected a model that was trained to fill gaps; this one has no tokens for it";
        return Err(ApiError::field("suffix", problem));
    };
    let tokenizer = &model.facts.tokenizer;
    let mut tokens: Vec<u32> = model.facts.bos_token.into_iter().collect();
    tokens.push(fim.prefix);
    tokens.extend(tokenizer.encode_plain(text)?);
    tokens.push(fim.suffix);
    tokens.extend(tokenizer.encode_plain(suffix)?);
    tokens.push(fim.middle);
    Ok(tokens)
}

fn chat(
    model: &Model,
    conversation: &Conversation,
    tools: &ToolWish,
    reasoning: &ReasoningWish,
) -> Result<Encoded, ApiError> {
    let (messages, begun) = match conversation.messages.split_last() {
        Some((last, rest)) if conversation.continues => (rest, Some(last)),
        Some(_) => (conversation.messages.as_slice(), None),
        None => return Err(ApiError::field("messages", "expected at least one message, found none")),
    };
    let tools = if tools.choice == Choose::None { &[] } else { tools.list.as_slice() };
    let knows_tools = model.template_says("tools");
    let mut messages = Cow::Borrowed(messages);
    if !tools.is_empty() && !knows_tools {
        explain_tools(messages.to_mut(), tools, model);
    }
    fit_to_template(&mut messages, model);
    let Some(template) = &model.facts.template else {
        let texts: Vec<&str> = conversation.messages.iter().filter_map(|m| m.content.as_deref()).collect();
        return Ok(Encoded { tokens: raw(model, &texts.join("\n"))?, in_reasoning: false });
    };
    let wanted = reasoning.wanted();
    let options = RenderOptions {
        add_generation_prompt: true,
        tools: (knows_tools && !tools.is_empty()).then(|| tools.to_vec()),
        extra: variables(conversation, reasoning, wanted),
        now_unix_s: i64::try_from(now_s()).ok(),
        ..RenderOptions::default()
    };
    let rendered = template.render(&messages, &options)?;
    let tokens = model.facts.tokenizer.encode_rendered(&rendered)?;
    let mut encoded = Encoded { tokens, in_reasoning: rendered.starts_in_reasoning() };
    if wanted == Some(false) && encoded.in_reasoning {
        close(&mut encoded, model)?;
    }
    if let Some(begun) = begun {
        continue_with(&mut encoded, begun, model)?;
    }
    Ok(encoded)
}

/// What the template is told: the names that the families' templates use for the same wish.
fn variables(conversation: &Conversation, reasoning: &ReasoningWish, wanted: Option<bool>) -> Map<String, Value> {
    let mut variables = Map::new();
    if let Some(wanted) = wanted {
        variables.insert("thinking".into(), wanted.into());
        variables.insert("enable_thinking".into(), wanted.into());
    }
    if let Some(effort) = reasoning.effort {
        variables.insert("reasoning_effort".into(), effort.word().into());
    }
    variables.extend(conversation.variables.clone());
    variables
}

/// Brings messages into the form that the template reads.
fn fit_to_template(messages: &mut Cow<'_, [Message]>, model: &Model) {
    let knows_developer = model.template_says("developer");
    if !knows_developer && messages.iter().any(|m| m.role == Role::Developer) {
        let developers = messages.to_mut().iter_mut().filter(|m| m.role == Role::Developer);
        developers.for_each(|message| message.role = Role::System);
    }
    // Some templates print arguments as they come, others as JSON, for which they must be no string.
    let wants_object = model.template_says("arguments | tojson") || model.template_says("arguments|tojson");
    if wants_object && messages.iter().any(|m| m.tool_calls.is_some()) {
        for call in messages.to_mut().iter_mut().filter_map(|m| m.tool_calls.as_mut()).flatten() {
            let arguments = &mut call["function"]["arguments"];
            if let Some(parsed) = arguments.as_str().and_then(|text| serde_json::from_str(text).ok()) {
                *arguments = parsed;
            }
        }
    }
}

/// Tells a model about tools whose template does not: in its instructions.
fn explain_tools(messages: &mut Vec<Message>, tools: &[Value], model: &Model) {
    use text::ToolFormat;
    let list: Vec<String> = tools.iter().map(|tool| tool["function"].to_string()).collect();
    let how = match model.tool_format {
        ToolFormat::Hermes => {
            "write, for each call, one line of JSON between tags and nothing behind it:\n\
             <tool_call>\n{\"name\": \"the function's name\", \"arguments\": {\"its\": \"arguments\"}}\n</tool_call>"
        }
        _ => "write the call in the format that you were trained on, with the arguments as a JSON object.",
    };
    let text = format!(
        "You may call functions. These exist, each with the JSON schema of its parameters:\n{}\nTo call one, {how}",
        list.join("\n")
    );
    match messages.first_mut().filter(|m| matches!(m.role, Role::System | Role::Developer)) {
        Some(system) => {
            let before = system.content.take().unwrap_or_default();
            system.content = Some(format!("{before}\n\n{text}"));
        }
        None => messages.insert(0, Message::system(text)),
    }
}

/// Ends the reasoning that the template opened.
fn close(encoded: &mut Encoded, model: &Model) -> Result<(), ApiError> {
    let tokenizer = &model.facts.tokenizer;
    encoded.tokens.extend(tokenizer.encode_plain("\n")?);
    match model.think {
        Some(think) => {
            encoded.tokens.push(think.close);
            encoded.tokens.extend(tokenizer.encode_plain("\n\n")?);
        }
        None => encoded.tokens.extend(tokenizer.encode_plain("</think>\n\n")?),
    }
    encoded.in_reasoning = false;
    Ok(())
}

/// Appends the beginning of the answer that the client gave.
fn continue_with(encoded: &mut Encoded, begun: &Message, model: &Model) -> Result<(), ApiError> {
    let tokenizer = &model.facts.tokenizer;
    let content = begun.content.as_deref().unwrap_or_default();
    if let Some(reasoning) = begun.reasoning_content.as_deref().filter(|text| !text.is_empty()) {
        if !encoded.in_reasoning {
            match model.think {
                Some(think) => encoded.tokens.push(think.open),
                None => encoded.tokens.extend(tokenizer.encode_plain("<think>")?),
            }
            encoded.tokens.extend(tokenizer.encode_plain("\n")?);
            encoded.in_reasoning = true;
        }
        encoded.tokens.extend(tokenizer.encode_plain(reasoning)?);
    }
    if !content.is_empty() {
        if encoded.in_reasoning {
            close(encoded, model)?;
        }
        encoded.tokens.extend(tokenizer.encode_plain(content)?);
    }
    Ok(())
}
