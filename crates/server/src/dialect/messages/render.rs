//! Answers in the form of Anthropic's messages.

use serde_json::{Value, json};
use text::Delta;

use super::wire::{Block, MessageAnswer, MessageUsage};
use crate::dialect::Ending;
use crate::error::ApiError;
use crate::generate::{Choice, End, Output, fresh_id};
use crate::stream::{Render, event};

fn stop_reason(end: Option<&End>) -> (&'static str, Option<String>) {
    let stopped_by = end.and_then(|end| end.stopped_by.clone());
    match Ending::of(end) {
        Ending::Stop if stopped_by.is_some() => ("stop_sequence", stopped_by),
        Ending::Stop => ("end_turn", None),
        Ending::Length => ("max_tokens", None),
        Ending::ToolCalls => ("tool_use", None),
    }
}

fn usage(end: Option<&End>) -> MessageUsage {
    let Some(End { usage, .. }) = end else { return MessageUsage::default() };
    MessageUsage {
        input_tokens: usage.n_prompt - usage.n_cached.min(usage.n_prompt),
        output_tokens: usage.n_completion,
        cache_creation_input_tokens: 0,
        cache_read_input_tokens: usage.n_cached,
    }
}

fn message(model: &str) -> MessageAnswer {
    MessageAnswer {
        id: fresh_id("msg_"),
        r#type: "message",
        role: "assistant",
        model: model.to_owned(),
        content: Vec::new(),
        stop_reason: None,
        stop_sequence: None,
        usage: MessageUsage::default(),
    }
}

/// A whole answer.
pub(super) fn answer(model: &str, choices: Vec<Choice>) -> Value {
    let mut message = message(model);
    for choice in choices {
        let (reason, stop_sequence) = stop_reason(choice.end.as_ref());
        message.stop_reason = Some(reason);
        message.stop_sequence = stop_sequence;
        message.usage = usage(choice.end.as_ref());
        if !choice.reasoning.is_empty() {
            message.content.push(Block::Thinking { thinking: choice.reasoning, signature: String::new() });
        }
        if !choice.content.is_empty() || (choice.calls.is_empty() && message.content.is_empty()) {
            message.content.push(Block::Text { text: choice.content });
        }
        for call in choice.calls {
            // A call that was cut has no whole arguments.
            let input = serde_json::from_str(&call.arguments).unwrap_or_else(|_| json!({}));
            message.content.push(Block::ToolUse { id: fresh_id("toolu_"), name: call.name, input });
        }
    }
    serde_json::to_value(message).unwrap_or_default()
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Thinking,
    Text,
    ToolUse,
}

/// A streamed answer.
pub(super) struct Events {
    message: MessageAnswer,
    n_prompt: usize,
    n_blocks: usize,
    open: Option<Kind>,
    end: Option<End>,
}

impl Events {
    pub(super) fn new(model: &str, n_prompt: usize) -> Self {
        Self { message: message(model), n_prompt, n_blocks: 0, open: None, end: None }
    }

    fn begin(&mut self, out: &mut String, kind: Kind, block: &Value) {
        if self.open == Some(kind) && kind != Kind::ToolUse {
            return;
        }
        self.stop(out);
        let start = json!({ "type": "content_block_start", "index": self.n_blocks, "content_block": block });
        event(out, "content_block_start", &start);
        self.n_blocks += 1;
        self.open = Some(kind);
    }

    fn part(&self, out: &mut String, delta: &Value) {
        let index = self.n_blocks.saturating_sub(1);
        event(out, "content_block_delta", &json!({ "type": "content_block_delta", "index": index, "delta": delta }));
    }

    fn stop(&mut self, out: &mut String) {
        let Some(kind) = self.open.take() else { return };
        if kind == Kind::Thinking {
            self.part(out, &json!({ "type": "signature_delta", "signature": "" }));
        }
        let index = self.n_blocks.saturating_sub(1);
        event(out, "content_block_stop", &json!({ "type": "content_block_stop", "index": index }));
    }

    fn deltas(&mut self, out: &mut String, deltas: Vec<Delta>) {
        for delta in deltas {
            match delta {
                Delta::Reasoning(text) => {
                    let block = json!({ "type": "thinking", "thinking": "", "signature": "" });
                    self.begin(out, Kind::Thinking, &block);
                    self.part(out, &json!({ "type": "thinking_delta", "thinking": text }));
                }
                Delta::Content(text) => {
                    self.begin(out, Kind::Text, &json!({ "type": "text", "text": "" }));
                    self.part(out, &json!({ "type": "text_delta", "text": text }));
                }
                Delta::ToolCallStart { name, .. } => {
                    let block = json!({ "type": "tool_use", "id": fresh_id("toolu_"), "name": name, "input": {} });
                    self.begin(out, Kind::ToolUse, &block);
                }
                Delta::ToolCallArguments { fragment, .. } => {
                    self.part(out, &json!({ "type": "input_json_delta", "partial_json": fragment }));
                }
                Delta::ToolCallEnd { .. } => self.stop(out),
            }
        }
    }
}

impl Render for Events {
    fn open(&mut self, out: &mut String) {
        self.message.usage.input_tokens = self.n_prompt;
        event(out, "message_start", &json!({ "type": "message_start", "message": self.message }));
        event(out, "ping", &json!({ "type": "ping" }));
    }

    fn output(&mut self, output: Output, out: &mut String) {
        match output {
            Output::Failed(_) => {}
            Output::Token { deltas, .. } => self.deltas(out, deltas),
            Output::Finished { deltas, end, .. } => {
                self.deltas(out, deltas);
                self.end = Some(end);
            }
        }
    }

    fn failed(&mut self, error: &ApiError, out: &mut String) {
        event(out, "error", &error.anthropic_body());
    }

    fn close(&mut self, out: &mut String) {
        if self.n_blocks == 0 {
            self.begin(out, Kind::Text, &json!({ "type": "text", "text": "" }));
        }
        self.stop(out);
        let (reason, stop_sequence) = stop_reason(self.end.as_ref());
        let delta = json!({ "stop_reason": reason, "stop_sequence": stop_sequence });
        let usage = usage(self.end.as_ref());
        event(out, "message_delta", &json!({ "type": "message_delta", "delta": delta, "usage": usage }));
        event(out, "message_stop", &json!({ "type": "message_stop" }));
    }
}
