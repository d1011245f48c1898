//! Reasoning and content apart. Owns the tags, the state between them, and the white space beside them. Must not
//! know ids beyond the two of the tags.
//!
//! The convention is that of DeepSeek's API: reasoning carries no tags, and neither side carries the newlines that
//! only set the tags off. In full:
//! * The stream begins in reasoning when the prompt opened it, else when `<think>` comes first (white space before it
//!   is dropped with it). A prompt that opened it and a model that writes `<think>` again count once.
//! * The first `</think>` ends the reasoning. One newline after `<think>`, all newlines before `</think>` and all
//!   newlines after it are dropped.
//! * Everything later is content. Tags in it that are spelled are text; those that are tokens are marks that a model has
//!   put in the wrong place, and are dropped there, as `<think>` within reasoning is: no mark is ever shown.

use crate::tokenizer::Tokenizer;

const OPEN: &str = "<think>";
const CLOSE: &str = "</think>";

/// A piece of output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Delta {
    /// Part of the reasoning.
    Reasoning(String),
    /// Part of the answer.
    Content(String),
    /// A tool call begins.
    ToolCallStart {
        /// Its place among the calls of this message, from 0.
        index: usize,
        /// The tool.
        name: String,
    },
    /// Part of a call's arguments: all of them joined are the text of a JSON object.
    ToolCallArguments {
        /// The call.
        index: usize,
        /// The text.
        fragment: String,
    },
    /// A tool call ends.
    ToolCallEnd {
        /// The call.
        index: usize,
        /// False when it broke off, so that its arguments are no whole JSON object.
        complete: bool,
    },
}

impl Delta {
    /// Takes in a piece that goes on the same text; gives back one that does not.
    pub fn join(&mut self, next: Self) -> Option<Self> {
        match (self, next) {
            (Self::Reasoning(text), Self::Reasoning(more)) | (Self::Content(text), Self::Content(more)) => {
                text.push_str(&more);
                None
            }
            (
                Self::ToolCallArguments { index, fragment },
                Self::ToolCallArguments { index: next_index, fragment: more },
            ) if *index == next_index => {
                fragment.push_str(&more);
                None
            }
            (_, next) => Some(next),
        }
    }
}

/// The ids of the tags, where the vocabulary has them as tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ThinkTokens {
    /// `<think>`.
    pub open: u32,
    /// `</think>`.
    pub close: u32,
}

impl ThinkTokens {
    /// The tags of `tokenizer`, if it has both as added tokens.
    #[must_use]
    pub fn of(tokenizer: &Tokenizer) -> Option<Self> {
        Some(Self { open: tokenizer.added_token_id(OPEN)?, close: tokenizer.added_token_id(CLOSE)? })
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Nothing but white space so far, in `held`. Whether the prompt opened the reasoning.
    Start {
        open: bool,
    },
    /// Just after `<think>`.
    Opened,
    /// Newlines that may turn out to stand before `</think>` are in `held`.
    Reasoning,
    /// After `</think>`, before the first character that is no newline.
    Closed,
    Content,
}

/// Splits a stream of text into reasoning and content.
///
/// Where the tags are tokens, report them with [`Self::open`] and [`Self::close`] and set `spelled_tags` to false;
/// otherwise it finds them spelled in the text. How the text is cut makes no difference.
#[derive(Debug, Clone)]
pub struct ReasoningParser {
    state: State,
    /// White space whose fate the next character decides.
    held: String,
    /// Find tags in the text, as the vocabulary has no tokens for them.
    spelled_tags: bool,
    /// The beginning of what may become a spelled tag.
    partial_tag: String,
}

impl ReasoningParser {
    /// Starts a stream. `starts_in_reasoning`: the prompt ended with `<think>`.
    #[must_use]
    pub fn new(starts_in_reasoning: bool, spelled_tags: bool) -> Self {
        let state = State::Start { open: starts_in_reasoning };
        Self { state, held: String::new(), spelled_tags, partial_tag: String::new() }
    }

    /// Whether what comes next is reasoning, as far as is known.
    #[must_use]
    pub fn in_reasoning(&self) -> bool {
        matches!(self.state, State::Start { open: true } | State::Opened | State::Reasoning)
    }

    /// The token `<think>` came. Where it opens nothing, it is dropped.
    pub fn open(&mut self) -> Vec<Delta> {
        let mut out = Vec::new();
        if matches!(self.state, State::Start { .. }) {
            self.on_open(&mut out);
        }
        out
    }

    /// The token `</think>` came. Where it closes nothing, it is dropped.
    pub fn close(&mut self) -> Vec<Delta> {
        let mut out = Vec::new();
        if !matches!(self.state, State::Closed | State::Content) {
            self.on_close(&mut out);
        }
        out
    }

    /// Text came.
    pub fn push(&mut self, text: &str) -> Vec<Delta> {
        let mut out = Vec::new();
        if self.spelled_tags {
            self.push_spelled(text, &mut out);
        } else {
            self.on_text(text, &mut out);
        }
        out
    }

    /// Ends the stream: what was held back belongs where it stands.
    pub fn finish(&mut self) -> Vec<Delta> {
        let mut out = Vec::new();
        let partial = std::mem::take(&mut self.partial_tag);
        self.on_text(&partial, &mut out);
        let held = std::mem::take(&mut self.held);
        let delta = if self.in_reasoning() { Delta::Reasoning } else { Delta::Content };
        emit(&mut out, delta, &held);
        out
    }

    /// Finds the tags in `text`; `<` begins both, so only a tail from the last `<` on can be unfinished.
    fn push_spelled(&mut self, text: &str, out: &mut Vec<Delta>) {
        let mut buffer = std::mem::take(&mut self.partial_tag);
        buffer.push_str(text);
        let mut rest = buffer.as_str();
        while let Some(at) = rest.find('<') {
            self.on_text(&rest[..at], out);
            rest = &rest[at..];
            if let Some(after) = rest.strip_prefix(OPEN) {
                self.on_open(out);
                rest = after;
            } else if let Some(after) = rest.strip_prefix(CLOSE) {
                self.on_close(out);
                rest = after;
            } else if OPEN.starts_with(rest) || CLOSE.starts_with(rest) {
                self.partial_tag = rest.to_owned();
                return;
            } else {
                self.on_text("<", out);
                rest = &rest[1..];
            }
        }
        self.on_text(rest, out);
    }

    fn on_open(&mut self, out: &mut Vec<Delta>) {
        if matches!(self.state, State::Start { .. }) {
            self.held.clear();
            self.state = State::Opened;
        } else {
            self.on_text(OPEN, out);
        }
    }

    fn on_close(&mut self, out: &mut Vec<Delta>) {
        match self.state {
            State::Start { open: true } => {
                let held = std::mem::take(&mut self.held);
                let reasoning = held.strip_prefix('\n').unwrap_or(&held);
                emit(out, Delta::Reasoning, reasoning.trim_end_matches('\n'));
                self.state = State::Closed;
            }
            State::Start { open: false } | State::Opened | State::Reasoning => {
                self.held.clear();
                self.state = State::Closed;
            }
            State::Closed | State::Content => self.on_text(CLOSE, out),
        }
    }

    fn on_text(&mut self, text: &str, out: &mut Vec<Delta>) {
        let mut rest = text;
        while !rest.is_empty() {
            rest = match self.state {
                State::Start { open } => self.start(open, rest, out),
                State::Opened => {
                    self.state = State::Reasoning;
                    rest.strip_prefix('\n').unwrap_or(rest)
                }
                State::Reasoning => {
                    let body = rest.trim_end_matches('\n');
                    if !body.is_empty() {
                        let held = std::mem::take(&mut self.held);
                        emit(out, Delta::Reasoning, &held);
                        emit(out, Delta::Reasoning, body);
                    }
                    self.held.push_str(&rest[body.len()..]);
                    ""
                }
                State::Closed => {
                    let body = rest.trim_start_matches('\n');
                    if !body.is_empty() {
                        self.state = State::Content;
                    }
                    body
                }
                State::Content => {
                    emit(out, Delta::Content, rest);
                    ""
                }
            };
        }
    }

    /// Holds white space; anything else settles the state. Returns what is left of `text`.
    fn start<'a>(&mut self, open: bool, text: &'a str, out: &mut Vec<Delta>) -> &'a str {
        let body = text.trim_start();
        self.held.push_str(&text[..text.len() - body.len()]);
        if body.is_empty() {
            return body;
        }
        let held = std::mem::take(&mut self.held);
        if open {
            self.state = State::Opened;
            self.on_text(&held, out);
            self.state = State::Reasoning;
        } else {
            self.state = State::Content;
            emit(out, Delta::Content, &held);
        }
        body
    }
}

/// Appends `text`, joining it to the last delta of its kind.
fn emit(out: &mut Vec<Delta>, kind: fn(String) -> Delta, text: &str) {
    if text.is_empty() {
        return;
    }
    match (out.last_mut(), kind(String::new())) {
        (Some(Delta::Reasoning(last)), Delta::Reasoning(_)) | (Some(Delta::Content(last)), Delta::Content(_)) => {
            last.push_str(text);
        }
        _ => out.push(kind(text.to_owned())),
    }
}
