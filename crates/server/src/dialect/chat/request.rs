//! A chat request as the one form of all dialects.

use text::{Message, Role};

use super::wire::{ChatMessage, ChatRequest, ChatRole, ThinkingOptions};
use crate::dialect::parts::{call_value, logit_bias, tool_choice, tools};
use crate::error::ApiError;
use crate::generate::{
    Conversation, Effort, GenerationRequest, Prompt, ReasoningWish, SamplingWish, ToolWish, fresh_id,
};

impl ChatRequest {
    /// # Errors
    /// A field cannot be used
    pub(crate) fn into_wish(self) -> Result<GenerationRequest, ApiError> {
        let reasoning = reasoning(self.thinking, self.reasoning_effort.as_deref(), self.thinking_budget)?;
        let list = tools(self.tools.as_deref().unwrap_or_default())?;
        let choice = tool_choice(self.tool_choice.as_ref(), &list)?;
        let single = self.parallel_tool_calls == Some(false);
        let mut conversation = conversation(self.messages)?;
        conversation.variables = self.chat_template_kwargs.unwrap_or_default();
        if self.top_logprobs.is_some() && self.logprobs != Some(true) {
            return Err(ApiError::field("top_logprobs", "expected logprobs to be true"));
        }
        Ok(GenerationRequest {
            prompt: Prompt::Chat(conversation),
            max_tokens: self.max_completion_tokens.or(self.max_tokens),
            sampling: SamplingWish {
                temperature: self.temperature,
                top_p: self.top_p,
                top_k: self.top_k,
                min_p: self.min_p,
                repetition_penalty: self.repetition_penalty,
                frequency_penalty: self.frequency_penalty,
                presence_penalty: self.presence_penalty,
                logit_bias: logit_bias(self.logit_bias)?,
                seed: self.seed.map(i64::cast_unsigned),
                min_tokens: 0,
            },
            n: self.n.unwrap_or(1),
            stop: self.stop.into_vec(),
            reasoning,
            tools: ToolWish { list, choice, single },
            format: self.response_format.map_or(Ok(None), |format| format.into_spec())?,
            format_field: "response_format",
            top_logprobs: (self.logprobs == Some(true)).then(|| self.top_logprobs.unwrap_or(0)),
            user: self.user,
        })
    }
}

/// Reads the three ways to say how much the model is to reason.
///
/// # Errors
/// A word that is none of theirs
pub(crate) fn reasoning(
    thinking: Option<ThinkingOptions>,
    effort: Option<&str>,
    budget: Option<usize>,
) -> Result<ReasoningWish, ApiError> {
    let mut wish = ReasoningWish { budget, ..ReasoningWish::default() };
    if let Some(thinking) = thinking {
        wish.enabled = match thinking.r#type.as_str() {
            "enabled" => Some(true),
            "disabled" => Some(false),
            "adaptive" | "auto" => None,
            other => {
                let problem = format!("expected enabled, disabled or adaptive, found {other:?}");
                return Err(ApiError::field("thinking.type", problem));
            }
        };
        wish.budget = budget.or(thinking.budget_tokens);
    }
    wish.effort = effort.map(|word| Effort::of("reasoning_effort", word)).transpose()?;
    Ok(wish)
}

fn conversation(messages: Vec<ChatMessage>) -> Result<Conversation, ApiError> {
    let last = messages.len().saturating_sub(1);
    let mut conversation = Conversation::default();
    for (i, message) in messages.into_iter().enumerate() {
        if message.prefix == Some(true) {
            if i != last || message.role != ChatRole::Assistant {
                let problem = "expected only in the last message, of the assistant";
                return Err(ApiError::field(format!("messages[{i}].prefix"), problem));
            }
            conversation.continues = true;
        }
        conversation.messages.push(message.into_message(&format!("messages[{i}]"))?);
    }
    Ok(conversation)
}

impl ChatMessage {
    /// # Errors
    /// A part of the content is no text, or something that the role needs is missing
    pub(crate) fn into_message(self, field: &str) -> Result<Message, ApiError> {
        let role = match self.role {
            ChatRole::System => Role::System,
            ChatRole::Developer => Role::Developer,
            ChatRole::User => Role::User,
            ChatRole::Assistant => Role::Assistant,
            ChatRole::Tool => Role::Tool,
        };
        let calls = self.tool_calls.filter(|calls| !calls.is_empty());
        if self.content.is_none() && calls.is_none() && role != Role::Assistant {
            return Err(ApiError::field(format!("{field}.content"), "expected a string, found none"));
        }
        let content = self.content.map(|content| content.into_text(&format!("{field}.content"))).transpose()?;
        let calls = calls.map(|calls| {
            let value = |call: super::wire::ToolCall| {
                let id = if call.id.is_empty() { fresh_id("call_") } else { call.id };
                call_value(&id, &call.function.name, &call.function.arguments)
            };
            calls.into_iter().map(value).collect()
        });
        // Templates tell calls by an absent content, and join any other to text.
        let content = match calls {
            Some(_) => content.filter(|content| !content.is_empty()),
            None => Some(content.unwrap_or_default()),
        };
        Ok(Message {
            content,
            reasoning_content: self.reasoning_content,
            tool_calls: calls,
            name: self.name,
            tool_call_id: self.tool_call_id,
            ..Message::new(role, "")
        })
    }
}
