//! Answers in the form of chat completions.

use serde_json::Value;
use text::Delta;

use super::wire::{
    AnswerMessage, ChatChoice, ChatChunk, ChatCompletion, ChatLogprobs, ChunkCall, ChunkChoice, ChunkDelta,
    ChunkFunction, FunctionCall, ToolCall,
};
use crate::dialect::Ending;
use crate::dialect::parts::{RunningUsage, Usage};
use crate::error::ApiError;
use crate::generate::{Choice, End, LogProb, Output, fresh_id, now_s};
use crate::stream::{Render, data};

/// A whole answer.
pub(super) fn answer(model: &str, choices: Vec<Choice>) -> Value {
    let mut usage = Usage::default();
    choices.iter().filter_map(|choice| choice.end.as_ref()).for_each(|end| usage.add(end));
    let completion = ChatCompletion {
        id: fresh_id("chatcmpl-"),
        object: "chat.completion",
        created: now_s(),
        model: model.to_owned(),
        choices: choices.into_iter().enumerate().map(|(index, choice)| one(index, choice)).collect(),
        usage,
    };
    serde_json::to_value(completion).unwrap_or_default()
}

fn one(index: usize, choice: Choice) -> ChatChoice {
    let finish_reason = Ending::of(choice.end.as_ref()).openai();
    let call = |call: crate::generate::Call| ToolCall {
        id: fresh_id("call_"),
        r#type: "function".into(),
        function: FunctionCall { name: call.name, arguments: call.arguments },
    };
    let calls: Vec<ToolCall> = choice.calls.into_iter().map(call).collect();
    let content = Some(choice.content).filter(|content| !content.is_empty() || calls.is_empty());
    let message = AnswerMessage {
        role: "assistant",
        content,
        reasoning_content: Some(choice.reasoning).filter(|reasoning| !reasoning.is_empty()),
        tool_calls: Some(calls).filter(|calls| !calls.is_empty()),
        refusal: None,
    };
    let logprobs = (!choice.logprobs.is_empty()).then(|| log_probs(&choice.logprobs));
    ChatChoice { index, message, logprobs, finish_reason }
}

fn log_probs(tokens: &[LogProb]) -> ChatLogprobs {
    let of = |in_reasoning| tokens.iter().filter(move |t| t.in_reasoning == in_reasoning).map(Into::into).collect();
    ChatLogprobs { content: of(false), reasoning_content: of(true) }
}

/// A streamed answer.
pub(super) struct Chunks {
    /// What every chunk begins with.
    chunk: ChatChunk,
    n: usize,
    usage: RunningUsage,
}

impl Chunks {
    pub(super) fn new(model: String, n: usize, usage: RunningUsage) -> Self {
        let chunk = ChatChunk {
            id: fresh_id("chatcmpl-"),
            object: "chat.completion.chunk",
            created: now_s(),
            model,
            choices: Vec::new(),
            usage: None,
        };
        Self { chunk, n, usage }
    }

    fn send(
        &mut self,
        out: &mut String,
        index: usize,
        delta: ChunkDelta,
        logprobs: Option<ChatLogprobs>,
        finish_reason: Option<&'static str>,
    ) {
        self.chunk.choices.clear();
        self.chunk.choices.push(ChunkChoice { index, delta, logprobs, finish_reason });
        self.chunk.usage = self.usage.now();
        data(out, &self.chunk);
    }

    fn deltas(&mut self, out: &mut String, index: usize, deltas: Vec<Delta>, logprob: Option<LogProb>) {
        let mut logprobs = logprob.map(|token| log_probs(&[token]));
        if deltas.is_empty() && logprobs.is_some() {
            self.send(out, index, ChunkDelta::default(), logprobs.take(), None);
        }
        for delta in deltas {
            let part = |index, id, name, arguments| ChunkDelta {
                tool_calls: vec![ChunkCall {
                    index,
                    r#type: Option::<&String>::map(Option::as_ref(&id), |_| "function"),
                    id,
                    function: ChunkFunction { name, arguments },
                }],
                ..ChunkDelta::default()
            };
            let delta = match delta {
                Delta::Reasoning(text) => ChunkDelta { reasoning_content: Some(text), ..ChunkDelta::default() },
                Delta::Content(text) => ChunkDelta { content: Some(text), ..ChunkDelta::default() },
                Delta::ToolCallStart { index, name } => part(index, Some(fresh_id("call_")), Some(name), String::new()),
                Delta::ToolCallArguments { index, fragment } => part(index, None, None, fragment),
                Delta::ToolCallEnd { .. } => continue,
            };
            self.send(out, index, delta, logprobs.take(), None);
        }
    }

    fn finished(&mut self, out: &mut String, index: usize, end: &End) {
        self.usage.ended(index, end);
        self.send(out, index, ChunkDelta::default(), None, Some(Ending::of(Some(end)).openai()));
    }
}

impl Render for Chunks {
    fn open(&mut self, out: &mut String) {
        for index in 0..self.n {
            let delta = ChunkDelta { role: Some("assistant"), content: Some(String::new()), ..ChunkDelta::default() };
            self.send(out, index, delta, None, None);
        }
    }

    fn output(&mut self, output: Output, out: &mut String) {
        match output {
            Output::Failed(_) => {}
            Output::Token { index, n_completion, deltas, logprob } => {
                self.usage.wrote(index, n_completion);
                self.deltas(out, index, deltas, logprob);
            }
            Output::Finished { index, deltas, end } => {
                self.deltas(out, index, deltas, None);
                self.finished(out, index, &end);
            }
        }
    }

    fn failed(&mut self, error: &ApiError, out: &mut String) {
        data(out, &error.openai_body());
    }

    fn close(&mut self, out: &mut String) {
        if let Some(usage) = self.usage.last() {
            self.chunk.choices.clear();
            self.chunk.usage = Some(usage);
            data(out, &self.chunk);
        }
        out.push_str("data: [DONE]\n\n");
    }
}
