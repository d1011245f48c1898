//! Answers in the form of responses.

use serde_json::{Value, json};
use text::{Delta, Message, Role};

use super::wire::{InputDetails, OutputDetails, ResponseAnswer, ResponseUsage};
use crate::app::App;
use crate::dialect::Ending;
use crate::dialect::parts::call_value;
use crate::error::ApiError;
use crate::generate::{End, Output, fresh_id};
use crate::stream::{Render, event};

/// Where a finished response is remembered, if it is.
pub(super) struct Keeping {
    pub(super) app: App,
    pub(super) owner: String,
    /// The conversation that it answers.
    pub(super) messages: Vec<Message>,
    pub(super) keeps: bool,
}

enum Open {
    Reasoning(String),
    Text(String),
    Call { call_id: String, name: String, arguments: String },
}

/// A response that grows, and the events that tell of it.
pub(super) struct Events {
    answer: ResponseAnswer,
    keeping: Keeping,
    n_events: usize,
    item_id: String,
    open: Option<Open>,
    said: Message,
    failed: bool,
}

impl Events {
    pub(super) fn new(answer: ResponseAnswer, keeping: Keeping) -> Self {
        let said = Message { content: None, ..Message::new(Role::Assistant, "") };
        Self { answer, keeping, n_events: 0, item_id: String::new(), open: None, said, failed: false }
    }

    /// The response, when all has been heard.
    pub(super) fn into_answer(self) -> ResponseAnswer {
        self.answer
    }

    fn send(&mut self, out: &mut String, name: &str, mut value: Value) {
        value["type"] = name.into();
        value["sequence_number"] = self.n_events.into();
        self.n_events += 1;
        event(out, name, &value);
    }

    /// An event about the item that is open.
    fn item_event(&mut self, out: &mut String, name: &str, mut value: Value) {
        value["item_id"] = self.item_id.as_str().into();
        value["output_index"] = self.answer.output.len().into();
        self.send(out, name, value);
    }

    fn begin(&mut self, out: &mut String, open: Open) {
        self.end_item(out);
        let (prefix, mut item) = match &open {
            Open::Reasoning(_) => ("rs_", json!({ "type": "reasoning", "summary": [], "content": [] })),
            Open::Text(_) => ("msg_", json!({ "type": "message", "role": "assistant", "content": [] })),
            Open::Call { call_id, name, .. } => {
                ("fc_", json!({ "type": "function_call", "call_id": call_id, "name": name, "arguments": "" }))
            }
        };
        self.item_id = fresh_id(prefix);
        item["id"] = self.item_id.as_str().into();
        item["status"] = "in_progress".into();
        let place = self.answer.output.len();
        self.send(out, "response.output_item.added", json!({ "output_index": place, "item": item }));
        let part = match &open {
            Open::Reasoning(_) => Some(json!({ "type": "reasoning_text", "text": "" })),
            Open::Text(_) => Some(json!({ "type": "output_text", "text": "", "annotations": [], "logprobs": [] })),
            Open::Call { .. } => None,
        };
        if let Some(part) = part {
            self.item_event(out, "response.content_part.added", json!({ "content_index": 0, "part": part }));
        }
        self.open = Some(open);
    }

    fn end_item(&mut self, out: &mut String) {
        let id = self.item_id.clone();
        let item = match self.open.take() {
            None => return,
            Some(Open::Reasoning(text)) => {
                let part = json!({ "type": "reasoning_text", "text": text });
                let done = json!({ "content_index": 0, "text": text });
                self.item_event(out, "response.reasoning_text.done", done);
                self.item_event(out, "response.content_part.done", json!({ "content_index": 0, "part": part }));
                self.said.reasoning_content = Some(text);
                json!({ "id": id, "type": "reasoning", "summary": [], "content": [part], "status": "completed" })
            }
            Some(Open::Text(text)) => {
                let part = json!({ "type": "output_text", "text": text, "annotations": [], "logprobs": [] });
                let done = json!({ "content_index": 0, "text": text, "logprobs": [] });
                self.item_event(out, "response.output_text.done", done);
                self.item_event(out, "response.content_part.done", json!({ "content_index": 0, "part": part }));
                self.said.content.get_or_insert_default().push_str(&text);
                json!({ "id": id, "type": "message", "role": "assistant", "content": [part], "status": "completed" })
            }
            Some(Open::Call { call_id, name, arguments }) => {
                let done = json!({ "arguments": arguments, "name": name });
                self.item_event(out, "response.function_call_arguments.done", done);
                let calls = self.said.tool_calls.get_or_insert_default();
                calls.push(call_value(&call_id, &name, &arguments));
                json!({ "id": id, "type": "function_call", "call_id": call_id, "name": name, "arguments": arguments,
                        "status": "completed" })
            }
        };
        let place = self.answer.output.len();
        self.send(out, "response.output_item.done", json!({ "output_index": place, "item": item }));
        self.answer.output.push(item);
    }

    fn delta(&mut self, out: &mut String, delta: Delta) {
        match delta {
            Delta::Reasoning(text) => {
                if !matches!(self.open, Some(Open::Reasoning(_))) {
                    self.begin(out, Open::Reasoning(String::new()));
                }
                let value = json!({ "content_index": 0, "delta": text });
                self.item_event(out, "response.reasoning_text.delta", value);
                if let Some(Open::Reasoning(whole)) = &mut self.open {
                    whole.push_str(&text);
                }
            }
            Delta::Content(text) => {
                if !matches!(self.open, Some(Open::Text(_))) {
                    self.begin(out, Open::Text(String::new()));
                }
                let value = json!({ "content_index": 0, "delta": text, "logprobs": [] });
                self.item_event(out, "response.output_text.delta", value);
                if let Some(Open::Text(whole)) = &mut self.open {
                    whole.push_str(&text);
                }
            }
            Delta::ToolCallStart { name, .. } => {
                self.begin(out, Open::Call { call_id: fresh_id("call_"), name, arguments: String::new() });
            }
            Delta::ToolCallArguments { fragment, .. } => {
                let value = json!({ "delta": fragment });
                self.item_event(out, "response.function_call_arguments.delta", value);
                if let Some(Open::Call { arguments, .. }) = &mut self.open {
                    arguments.push_str(&fragment);
                }
            }
            Delta::ToolCallEnd { .. } => self.end_item(out),
        }
    }

    fn finished(&mut self, out: &mut String, end: &End) {
        self.end_item(out);
        if self.answer.output.is_empty() {
            self.begin(out, Open::Text(String::new()));
            self.end_item(out);
        }
        let usage = &end.usage;
        self.answer.usage = Some(ResponseUsage {
            input_tokens: usage.n_prompt,
            input_tokens_details: InputDetails { cached_tokens: usage.n_cached },
            output_tokens: usage.n_completion,
            output_tokens_details: OutputDetails { reasoning_tokens: end.n_reasoning },
            total_tokens: usage.n_prompt + usage.n_completion,
        });
        self.answer.status = "completed";
        if Ending::of(Some(end)) == Ending::Length {
            self.answer.status = "incomplete";
            self.answer.incomplete_details = Some(json!({ "reason": "max_output_tokens" }));
        }
        if self.keeping.keeps {
            let mut messages = std::mem::take(&mut self.keeping.messages);
            messages.push(self.said.clone());
            let answer = serde_json::to_value(&self.answer).unwrap_or_default();
            self.keeping.app.remembered.keep(&self.keeping.owner, &self.answer.id, messages, answer);
        }
    }
}

impl Render for Events {
    fn open(&mut self, out: &mut String) {
        let response = json!({ "response": self.answer });
        self.send(out, "response.created", response.clone());
        self.send(out, "response.in_progress", response);
    }

    fn output(&mut self, output: Output, out: &mut String) {
        match output {
            Output::Failed(_) => {}
            Output::Token { deltas, .. } => deltas.into_iter().for_each(|delta| self.delta(out, delta)),
            Output::Finished { deltas, end, .. } => {
                deltas.into_iter().for_each(|delta| self.delta(out, delta));
                self.finished(out, &end);
            }
        }
    }

    fn failed(&mut self, error: &ApiError, out: &mut String) {
        self.failed = true;
        self.answer.status = "failed";
        self.answer.error = Some(json!({ "code": "server_error", "message": error.message }));
        self.send(out, "response.failed", json!({ "response": self.answer }));
    }

    fn close(&mut self, out: &mut String) {
        let name = if self.answer.status == "incomplete" { "response.incomplete" } else { "response.completed" };
        self.send(out, name, json!({ "response": self.answer }));
    }
}
