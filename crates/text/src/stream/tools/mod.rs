//! Tool calls in a model's content. Owns finding them, and what is held back until it is known what a text is. Must
//! not know ids, tools' schemas, or wire formats.
//!
//! The content is passed on until a call begins; a call's name is given when its head is whole, its arguments as they
//! come, always as the text of a JSON object. The same text gives the same events however it is cut.
//! * What begins like a call and turns out to be none is content, with nothing lost.
//! * A call whose head was given and whose arguments break off, or are no JSON, ends as incomplete; what follows the
//!   break is content.
//! * Up to two newlines before a call, and white space after one, belong to the format.
//!
//! Markers are recognised by their spelling, whether the model wrote them as one token or in pieces: models in few bits
//! do the latter. A model that quotes a whole well-formed call in its answer has therefore made one.

mod dsml;
mod envelope;
mod format;
mod json;
mod markers;

pub use format::ToolFormat;

use super::Delta;
use envelope::Envelope;
use json::Scanner;

/// Most bytes of a head (marker, name, attributes), of a name, and of a value that must be whole before it is given.
const MAX_HEAD_BYTES: usize = 2_048;
const MAX_NAME_BYTES: usize = 256;
const MAX_HELD_BYTES: usize = 1 << 20;
/// Newlines before a call that belong to the format.
const MAX_NEWLINES: usize = 2;

/// Where in the format the text stands.
#[derive(Debug, Clone)]
enum State {
    /// In running text; `fresh` where a message that is a call as a whole may begin (Llama).
    Content { fresh: bool },
    /// In a block of calls, between them.
    Block,
    /// In a call's head.
    Head,
    /// In arguments that stand as one JSON object.
    Arguments(Scanner),
    /// After such arguments, before what closes the call.
    Closing,
    /// In a JSON object with name and arguments.
    Envelope(Envelope),
    /// In a DSML call, after so many parameters.
    Invoke { n_parameters: usize },
    /// In a DSML parameter's text.
    Raw { n_parameters: usize },
    /// In a DSML parameter's JSON, of which so much holds no closing tag.
    Json { n_parameters: usize, n_searched: usize },
}

/// Whether a step got further.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Again,
    /// More text is needed.
    Wait,
    /// The text is no call after all.
    Malformed,
}

/// Splits content into text and tool calls.
#[derive(Debug, Clone)]
pub struct ToolParser {
    format: ToolFormat,
    state: State,
    /// Text not looked at yet.
    buffer: String,
    /// Text already read that becomes content if this is no call.
    pending: String,
    /// Calls begun so far.
    n_calls: usize,
    /// The last of them has not ended.
    is_open: bool,
    /// White space that comes next belongs to the format.
    after_call: bool,
}

impl ToolParser {
    /// Starts a stream.
    #[must_use]
    pub fn new(format: ToolFormat) -> Self {
        Self {
            format,
            state: State::Content { fresh: true },
            buffer: String::new(),
            pending: String::new(),
            n_calls: 0,
            is_open: false,
            after_call: false,
        }
    }

    /// How many calls have begun.
    #[must_use]
    pub fn n_calls(&self) -> usize {
        self.n_calls
    }

    /// Takes content; returns what it settles.
    pub fn push(&mut self, text: &str) -> Vec<Delta> {
        self.buffer.push_str(text);
        let mut out = Vec::new();
        self.run(&mut out);
        out
    }

    /// Ends the stream: what was held back is content, or the beginning of arguments.
    pub fn finish(&mut self) -> Vec<Delta> {
        let mut out = Vec::new();
        let rest = std::mem::take(&mut self.buffer);
        if self.is_open {
            match self.state {
                State::Raw { .. } => self.arguments(&json::escape(&rest), &mut out),
                State::Json { .. } => self.arguments(&rest, &mut out),
                _ => {}
            }
            self.end(false, &mut out);
        } else {
            let text = std::mem::take(&mut self.pending) + &rest;
            if !(self.after_call && self.closes(&text)) {
                emit(&mut out, Delta::Content(text));
            }
        }
        *self = Self { n_calls: self.n_calls, ..Self::new(self.format) };
        out
    }

    fn run(&mut self, out: &mut Vec<Delta>) {
        loop {
            let step = match &self.state {
                State::Content { fresh } => self.content(*fresh, out),
                State::Block => self.block(out),
                State::Head => self.head(out),
                State::Arguments(_) => self.plain_arguments(out),
                State::Closing => self.closing(out),
                State::Envelope(_) => self.envelope(out),
                State::Invoke { n_parameters } => self.invoke(*n_parameters, out),
                State::Raw { n_parameters } => self.raw_value(*n_parameters, out),
                State::Json { n_parameters, n_searched } => self.json_value(*n_parameters, *n_searched, out),
            };
            match step {
                Step::Again => {}
                Step::Wait => return,
                Step::Malformed => self.give_up(out),
            }
        }
    }

    /// Text that is no call.
    fn content(&mut self, fresh: bool, out: &mut Vec<Delta>) -> Step {
        if self.after_call {
            let n_blank = blank(&self.buffer);
            self.buffer.drain(..n_blank);
            if self.buffer.is_empty() {
                return Step::Wait;
            }
            self.after_call = false;
        }
        if fresh && self.format == ToolFormat::Llama {
            let n_blank = blank(&self.buffer);
            match self.buffer.as_bytes().get(n_blank) {
                None => return Step::Wait,
                Some(b'{') => {
                    self.take_pending(n_blank);
                    self.state = State::Envelope(Envelope::new());
                    return Step::Again;
                }
                // The tag may come, which the search below finds.
                Some(b'<') => {}
                Some(_) => self.state = State::Content { fresh: false },
            }
        }
        let openers = self.format.openers();
        let found = openers.iter().filter_map(|opener| Some((self.buffer.find(opener)?, *opener))).min();
        let Some((at, opener)) = found else {
            let n_hold = openers.iter().map(|opener| overlap(&self.buffer, opener)).max().unwrap_or(0);
            let at = before_newlines(&self.buffer, self.buffer.len() - n_hold);
            let text: String = self.buffer.drain(..at).collect();
            if blank(&text) < text.len() {
                self.state = State::Content { fresh: false };
            }
            emit(out, Delta::Content(text));
            return Step::Wait;
        };
        let from = before_newlines(&self.buffer, at);
        let text: String = self.buffer.drain(..from).collect();
        emit(out, Delta::Content(text));
        let n_newlines = at - from;
        // A call that comes without its block is read from its own tag.
        let is_block = opener.ends_with('>') && opener != format::CALL_BEGIN;
        self.take_pending(if is_block || self.format.dsml_space().is_none() {
            n_newlines + opener.len()
        } else {
            n_newlines
        });
        self.state = match self.format {
            ToolFormat::Hermes | ToolFormat::Llama => State::Envelope(Envelope::new()),
            _ if opener == format::CALL_BEGIN => State::Head,
            _ => State::Block,
        };
        Step::Again
    }

    fn block(&mut self, out: &mut Vec<Delta>) -> Step {
        if self.format.dsml_space().is_some() { self.dsml_block(out) } else { self.marker_block() }
    }

    /// Moves `n` bytes to the text that becomes content if this is no call.
    fn take_pending(&mut self, n: usize) {
        self.pending.extend(self.buffer.drain(..n));
    }

    /// Moves the white space at the front there; whether anything is left.
    fn skip_blank(&mut self) -> bool {
        let n_blank = blank(&self.buffer);
        self.take_pending(n_blank);
        !self.buffer.is_empty()
    }

    /// The head of a call is whole.
    fn start(&mut self, name: String, out: &mut Vec<Delta>) {
        self.pending.clear();
        out.push(Delta::ToolCallStart { index: self.n_calls, name });
        self.n_calls += 1;
        self.is_open = true;
    }

    fn arguments(&self, fragment: &str, out: &mut Vec<Delta>) {
        if fragment.is_empty() {
            return;
        }
        if let Some(Delta::ToolCallArguments { fragment: last, .. }) = out.last_mut() {
            last.push_str(fragment);
        } else {
            out.push(Delta::ToolCallArguments { index: self.n_calls - 1, fragment: fragment.to_owned() });
        }
    }

    fn end(&mut self, complete: bool, out: &mut Vec<Delta>) {
        self.pending.clear();
        out.push(Delta::ToolCallEnd { index: self.n_calls - 1, complete });
        self.is_open = false;
        self.after_call = complete;
    }

    /// This is no call, or no more: what was read of it is content, and what follows may be anything.
    fn give_up(&mut self, out: &mut Vec<Delta>) {
        let was_open = self.is_open;
        if was_open {
            self.end(false, out);
        }
        self.after_call = false;
        self.state = State::Content { fresh: false };
        // A DSML call is read from its tag on, which is still at the front and must not be found again.
        let n = if !was_open && dsml::is_call(&self.buffer) { 1 } else { 0 };
        self.take_pending(n);
        emit(out, Delta::Content(std::mem::take(&mut self.pending)));
    }

    /// Whether `text`, at the end of a stream that had calls, is only the beginning of what closes them.
    fn closes(&self, text: &str) -> bool {
        let text = text.trim();
        let squeezed: String = text.split_whitespace().collect();
        let closers: &[&str] = match self.format {
            ToolFormat::DeepSeek | ToolFormat::DeepSeekFenced => {
                &["```<｜tool▁call▁end｜><｜tool▁calls▁end｜>", "<｜tool▁call▁end｜>", "<｜tool▁calls▁end｜>"]
            }
            ToolFormat::Hermes => &["</tool_call>"],
            ToolFormat::Llama => &[";"],
            _ => &["</｜DSML｜function_calls>", "</｜DSML｜tool_calls>", "</｜DSML｜calls>"],
        };
        squeezed.is_empty() || closers.iter().any(|closer| closer.starts_with(squeezed.as_str()))
    }
}

/// Appends `delta`, joining it to the one before where both are content.
fn emit(out: &mut Vec<Delta>, delta: Delta) {
    match (out.last_mut(), delta) {
        (_, Delta::Content(text)) if text.is_empty() => {}
        (Some(Delta::Content(last)), Delta::Content(text)) => last.push_str(&text),
        (_, delta) => out.push(delta),
    }
}

/// Length of the white space at the front.
fn blank(text: &str) -> usize {
    text.len() - text.trim_start_matches([' ', '\n', '\r', '\t']).len()
}

/// Length of the longest end of `text` that begins `word` and is not all of it.
fn overlap(text: &str, word: &str) -> usize {
    let longest = text.len().min(word.len() - 1);
    let fits = |&n: &usize| word.is_char_boundary(n) && text.as_bytes().ends_with(&word.as_bytes()[..n]);
    (1..=longest).rev().find(fits).unwrap_or(0)
}

/// Where the newlines that end at `at` begin, at most [`MAX_NEWLINES`] of them.
fn before_newlines(text: &str, at: usize) -> usize {
    let run = text[..at].bytes().rev().take(MAX_NEWLINES).take_while(|&byte| byte == b'\n').count();
    at - run
}

/// Whether `text` begins one of `words` without being whole.
fn begins(text: &str, words: &[&str]) -> bool {
    words.iter().any(|word| word.len() > text.len() && word.starts_with(text))
}

fn is_name(name: &str) -> bool {
    !name.is_empty() && name.len() <= MAX_NAME_BYTES && !name.chars().any(char::is_control)
}
