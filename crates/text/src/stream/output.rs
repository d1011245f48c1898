//! A model's whole output stream: ids in, reasoning and content out, cut at stop strings. Owns the order of the
//! machines. Must not know sampling or wire formats.

use std::sync::Arc;

use super::{Delta, Detokenizer, ReasoningParser, StopMatcher, StopStrings, ThinkTokens};
use crate::tokenizer::Tokenizer;

/// Turns sampled ids into what a client sees.
///
/// Stop strings apply to the content alone: a blank line as a stop string is not meant to end the model's thinking.
#[derive(Debug, Clone)]
pub struct OutputStream {
    detokenizer: Detokenizer,
    think: Option<ThinkTokens>,
    reasoning: ReasoningParser,
    stop: StopMatcher,
}

impl OutputStream {
    /// Starts a stream that follows a prompt. `starts_in_reasoning` comes from
    /// [`crate::Rendered::starts_in_reasoning`]; special tokens are left out of the text.
    #[must_use]
    pub fn new(tokenizer: Arc<Tokenizer>, starts_in_reasoning: bool, stop: Arc<StopStrings>) -> Self {
        let think = ThinkTokens::of(&tokenizer);
        Self {
            detokenizer: Detokenizer::new(tokenizer, true),
            think,
            reasoning: ReasoningParser::new(starts_in_reasoning, think.is_none()),
            stop: StopMatcher::new(stop),
        }
    }

    /// What `id` adds to the output. Once [`Self::stopped`], nothing.
    pub fn push(&mut self, id: u32) -> Vec<Delta> {
        let is_open = self.think.is_some_and(|think| think.open == id);
        let is_close = self.think.is_some_and(|think| think.close == id);
        let deltas = if is_open || is_close {
            let text = self.detokenizer.finish();
            let mut deltas = self.reasoning.push(&text);
            deltas.extend(if is_open { self.reasoning.open() } else { self.reasoning.close() });
            deltas
        } else {
            let text = self.detokenizer.push(id);
            self.reasoning.push(&text)
        };
        self.cut(deltas)
    }

    /// Ends the stream and gives what was held back.
    pub fn finish(&mut self) -> Vec<Delta> {
        let text = self.detokenizer.finish();
        let mut deltas = self.reasoning.push(&text);
        deltas.extend(self.reasoning.finish());
        let mut out = self.cut(deltas);
        let rest = self.stop.finish();
        if !rest.is_empty() {
            out.push(Delta::Content(rest));
        }
        out
    }

    /// Whether a stop string ended the content.
    #[must_use]
    pub fn stopped(&self) -> bool {
        self.stop.stopped()
    }

    /// Whether what comes next is reasoning, as far as is known.
    #[must_use]
    pub fn in_reasoning(&self) -> bool {
        self.reasoning.in_reasoning()
    }

    fn cut(&mut self, deltas: Vec<Delta>) -> Vec<Delta> {
        let safe = deltas.into_iter().map(|delta| match delta {
            Delta::Content(text) => Delta::Content(self.stop.push(&text)),
            reasoning => reasoning,
        });
        safe.filter(|delta| !matches!(delta, Delta::Content(text) if text.is_empty())).collect()
    }
}
