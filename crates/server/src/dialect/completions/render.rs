//! Answers in the form of completions.

use text::Delta;

use super::wire::{Completion, CompletionChoice, CompletionLogprobs};
use crate::dialect::Ending;
use crate::dialect::parts::{NO_LOGPROB, RunningUsage, name_of, text_of};
use crate::error::ApiError;
use crate::generate::{Choice, LogProb, Output, fresh_id, now_s};
use crate::stream::{Render, data};

/// What stands before a completion in its answer.
#[derive(Default)]
pub(super) struct Echo {
    pub(super) text: String,
    /// Tokens of the prompt.
    pub(super) n_tokens: usize,
    /// Of the prompt's tokens, the first of which has no log-probability.
    pub(super) logprobs: CompletionLogprobs,
}

impl CompletionLogprobs {
    /// Appends a token; `first` has no log-probability.
    pub(super) fn push(&mut self, token: &LogProb, offset: &mut usize, first: bool) {
        let name = name_of(&token.bytes);
        let mut top: std::collections::BTreeMap<String, f32> =
            token.top.iter().map(|t| (name_of(&t.bytes), t.logprob)).collect();
        if let Some(logprob) = token.logprob {
            top.insert(name.clone(), logprob);
        }
        self.token_logprobs.push(if first { None } else { Some(token.logprob.unwrap_or(NO_LOGPROB)) });
        self.top_logprobs.push((!first).then_some(top));
        self.text_offset.push(*offset);
        *offset += text_of(&token.bytes).chars().count();
        self.tokens.push(name);
    }
}

/// A whole completion, numbered `index`.
pub(super) fn choice(index: usize, choice: &Choice, echo: &Echo, with_logprobs: bool) -> CompletionChoice {
    let logprobs = with_logprobs.then(|| {
        let mut logprobs = echo.logprobs.clone();
        let mut offset = echo.text.chars().count();
        choice.logprobs.iter().for_each(|token| logprobs.push(token, &mut offset, false));
        logprobs
    });
    let text = format!("{}{}", echo.text, choice.content);
    // Where nothing was to be written, a limit ended it.
    let finish_reason = Some(Ending::of(choice.end.as_ref()).openai());
    CompletionChoice { text, index, logprobs, finish_reason }
}

/// What every chunk begins with.
pub(super) fn completion(model: String) -> Completion {
    let id = fresh_id("cmpl-");
    Completion { id, object: "text_completion", created: now_s(), model, choices: Vec::new(), usage: None }
}

/// A streamed completion.
pub(super) struct Chunks {
    chunk: Completion,
    /// What is given back of the prompt.
    echo: String,
    n: usize,
    usage: RunningUsage,
    /// Where each completion's next token begins.
    offsets: Vec<usize>,
}

impl Chunks {
    pub(super) fn new(model: String, n: usize, echo: String, usage: RunningUsage) -> Self {
        let offsets = vec![echo.chars().count(); n];
        Self { chunk: completion(model), echo, n, usage, offsets }
    }

    fn send(&mut self, out: &mut String, choice: CompletionChoice) {
        self.chunk.choices.clear();
        self.chunk.choices.push(choice);
        self.chunk.usage = self.usage.now();
        data(out, &self.chunk);
    }

    fn text(&mut self, out: &mut String, index: usize, deltas: Vec<Delta>, logprob: Option<&LogProb>) {
        let text: String = deltas
            .into_iter()
            .filter_map(|delta| match delta {
                Delta::Content(text) => Some(text),
                _ => None,
            })
            .collect();
        let logprobs = logprob.map(|token| {
            let mut logprobs = CompletionLogprobs::default();
            logprobs.push(token, &mut self.offsets[index], false);
            logprobs
        });
        if !text.is_empty() || logprobs.is_some() {
            self.send(out, CompletionChoice { text, index, logprobs, finish_reason: None });
        }
    }
}

impl Render for Chunks {
    fn open(&mut self, out: &mut String) {
        if self.echo.is_empty() {
            return;
        }
        for index in 0..self.n {
            let text = self.echo.clone();
            self.send(out, CompletionChoice { text, index, logprobs: None, finish_reason: None });
        }
    }

    fn output(&mut self, output: Output, out: &mut String) {
        match output {
            Output::Failed(_) => {}
            Output::Token { index, n_completion, deltas, logprob } => {
                self.usage.wrote(index, n_completion);
                self.text(out, index, deltas, logprob.as_ref());
            }
            Output::Finished { index, deltas, end } => {
                self.text(out, index, deltas, None);
                self.usage.ended(index, &end);
                let finish_reason = Some(Ending::of(Some(&end)).openai());
                self.send(out, CompletionChoice { text: String::new(), index, logprobs: None, finish_reason });
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
