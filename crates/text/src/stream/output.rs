//! A model's whole output stream: ids in; reasoning, content and tool calls out, cut at stop strings. Owns the order
//! of the machines. Must not know sampling or wire formats.

use std::sync::Arc;

use super::{Delta, Detokenizer, ReasoningParser, StopMatcher, StopStrings, ThinkTokens, ToolFormat, ToolParser};
use crate::tokenizer::Tokenizer;

/// Turns sampled ids into what a client sees.
///
/// Stop strings apply to the content alone: a blank line as a stop string is not meant to end the model's thinking, nor
/// to cut a tool call's arguments.
#[derive(Debug, Clone)]
pub struct OutputStream {
    detokenizer: Detokenizer,
    think: Option<ThinkTokens>,
    reasoning: ReasoningParser,
    tools: Option<ToolParser>,
    /// Tokens that belong to a tool call's markup: kept, special or not.
    markers: Vec<u32>,
    tokenizer: Arc<Tokenizer>,
    stop: StopMatcher,
}

impl OutputStream {
    /// Starts a stream that follows a prompt. `starts_in_reasoning` comes from
    /// [`crate::Rendered::starts_in_reasoning`]; special tokens are left out of the text.
    #[must_use]
    pub fn new(tokenizer: Arc<Tokenizer>, starts_in_reasoning: bool, stop: Arc<StopStrings>) -> Self {
        let think = ThinkTokens::of(&tokenizer);
        Self {
            detokenizer: Detokenizer::new(Arc::clone(&tokenizer), true),
            think,
            reasoning: ReasoningParser::new(starts_in_reasoning, think.is_none()),
            tools: None,
            markers: Vec::new(),
            tokenizer,
            stop: StopMatcher::new(stop),
        }
    }

    /// Finds tool calls in the content. For requests that offer tools: in others such text is only text.
    #[must_use]
    pub fn with_tools(mut self, format: ToolFormat) -> Self {
        self.tools = Some(ToolParser::new(format));
        self.markers = format.marker_tokens(&self.tokenizer);
        self
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
            let marker = self.markers.contains(&id).then(|| self.tokenizer.added_token(id)).flatten();
            let text = match marker {
                Some(marker) => self.detokenizer.finish() + marker,
                None => self.detokenizer.push(id),
            };
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
        let rest = self.tools.as_mut().map(ToolParser::finish).unwrap_or_default();
        rest.into_iter().for_each(|delta| self.cut_one(delta, &mut out));
        let rest = self.stop.finish();
        push_content(rest, &mut out);
        out
    }

    /// Whether a stop string ended the content.
    #[must_use]
    pub fn stopped(&self) -> bool {
        self.stop.stopped()
    }

    /// The stop string that ended the content.
    #[must_use]
    pub fn stopped_by(&self) -> Option<&str> {
        self.stop.stopped_by()
    }

    /// Whether what comes next is reasoning, as far as is known.
    #[must_use]
    pub fn in_reasoning(&self) -> bool {
        self.reasoning.in_reasoning()
    }

    /// How many tool calls have begun.
    #[must_use]
    pub fn n_tool_calls(&self) -> usize {
        self.tools.as_ref().map_or(0, ToolParser::n_calls)
    }

    fn cut(&mut self, deltas: Vec<Delta>) -> Vec<Delta> {
        let mut out = Vec::new();
        for delta in deltas {
            match (delta, &mut self.tools) {
                (Delta::Content(text), Some(tools)) => {
                    let found = tools.push(&text);
                    found.into_iter().for_each(|delta| self.cut_one(delta, &mut out));
                }
                (delta, _) => self.cut_one(delta, &mut out),
            }
        }
        out
    }

    fn cut_one(&mut self, delta: Delta, out: &mut Vec<Delta>) {
        match delta {
            Delta::Content(text) => push_content(self.stop.push(&text), out),
            Delta::Reasoning(_) => out.push(delta),
            // Nothing comes after a stop string.
            _ if self.stop.stopped() => {}
            call => {
                // A stop string does not span a call, so what was held back before it is content.
                push_content(self.stop.finish(), out);
                if !self.stop.stopped() {
                    out.push(call);
                }
            }
        }
    }
}

fn push_content(text: String, out: &mut Vec<Delta>) {
    if !text.is_empty() {
        out.push(Delta::Content(text));
    }
}
