//! Calls in DSML (V3.2, V4, V4.1), whose parameters stand one by one. Owns those states of the parser, and how the
//! parameters become one JSON object. Must not know the others. A tag may have a space before its name (V4.1).

use super::json;
use super::{Delta, MAX_HEAD_BYTES, MAX_HELD_BYTES, State, Step, ToolParser, begins, is_name, overlap};

const INVOKE: [&str; 2] = ["<｜DSML｜invoke ", "<｜DSML｜ invoke "];
const INVOKE_END: [&str; 2] = ["</｜DSML｜invoke>", "</｜DSML｜ invoke>"];
const PARAMETER: [&str; 2] = ["<｜DSML｜parameter ", "<｜DSML｜ parameter "];
const PARAMETER_END: [&str; 2] = ["</｜DSML｜parameter>", "</｜DSML｜ parameter>"];
const BLOCK_END: [&str; 3] = ["</｜DSML｜function_calls>", "</｜DSML｜tool_calls>", "</｜DSML｜ calls>"];

impl ToolParser {
    /// Between calls: another one or the block's end.
    pub(super) fn dsml_block(&mut self, out: &mut Vec<Delta>) -> Step {
        if !self.skip_blank() {
            return Step::Wait;
        }
        if let Some(end) = front(&self.buffer, &BLOCK_END) {
            // A block without calls is text.
            if !self.after_call {
                return Step::Malformed;
            }
            self.buffer.drain(..end.len());
            self.pending.clear();
            self.state = State::Content { fresh: false };
            return Step::Again;
        }
        if front(&self.buffer, &INVOKE).is_none() {
            let may_come = begins(&self.buffer, &INVOKE) || begins(&self.buffer, &BLOCK_END);
            return if may_come { Step::Wait } else { Step::Malformed };
        }
        let Some(n) = tag_length(&self.buffer) else { return wait(&self.buffer) };
        let Some(name) = attribute(&self.buffer[..n], "name").filter(|name| is_name(name)) else {
            return Step::Malformed;
        };
        let name = name.to_owned();
        self.buffer.drain(..n);
        self.start(name, out);
        self.arguments("{", out);
        self.state = State::Invoke { n_parameters: 0 };
        Step::Again
    }

    /// In a call: another parameter or its end.
    pub(super) fn invoke(&mut self, n_parameters: usize, out: &mut Vec<Delta>) -> Step {
        if !self.skip_blank() {
            return Step::Wait;
        }
        self.pending.clear();
        if let Some(end) = front(&self.buffer, &INVOKE_END) {
            self.buffer.drain(..end.len());
            self.arguments("}", out);
            self.end(true, out);
            self.state = State::Block;
            return Step::Again;
        }
        if front(&self.buffer, &PARAMETER).is_none() {
            let may_come = begins(&self.buffer, &PARAMETER) || begins(&self.buffer, &INVOKE_END);
            return if may_come { Step::Wait } else { Step::Malformed };
        }
        let Some(n) = tag_length(&self.buffer) else { return wait(&self.buffer) };
        let tag = &self.buffer[..n];
        let Some(name) = attribute(tag, "name").filter(|name| is_name(name)) else { return Step::Malformed };
        let is_string = attribute(tag, "string") != Some("false");
        let separator = if n_parameters == 0 { "" } else { ", " };
        let quote = if is_string { "\"" } else { "" };
        let fragment = format!("{separator}\"{}\": {quote}", json::escape(name));
        self.buffer.drain(..n);
        self.arguments(&fragment, out);
        let n_parameters = n_parameters + 1;
        self.state = if is_string { State::Raw { n_parameters } } else { State::Json { n_parameters, n_searched: 0 } };
        Step::Again
    }

    /// Text up to the closing tag, given as it comes.
    pub(super) fn raw_value(&mut self, n_parameters: usize, out: &mut Vec<Delta>) -> Step {
        let found = PARAMETER_END.iter().filter_map(|end| Some((self.buffer.find(end)?, end.len()))).min();
        let n_text = found.map_or_else(
            || self.buffer.len() - PARAMETER_END.iter().map(|end| overlap(&self.buffer, end)).max().unwrap_or(0),
            |(at, _)| at,
        );
        let text: String = self.buffer.drain(..n_text).collect();
        self.arguments(&json::escape(&text), out);
        let Some((_, n_end)) = found else { return Step::Wait };
        self.buffer.drain(..n_end);
        self.arguments("\"", out);
        self.state = State::Invoke { n_parameters };
        Step::Again
    }

    /// JSON up to the closing tag, given when it is whole: as a string if it is no JSON after all.
    pub(super) fn json_value(&mut self, n_parameters: usize, n_searched: usize, out: &mut Vec<Delta>) -> Step {
        let rest = &self.buffer[n_searched..];
        let found = PARAMETER_END.iter().filter_map(|end| Some((rest.find(end)?, end.len()))).min();
        let Some((at, n_end)) = found else {
            let n_hold = PARAMETER_END.iter().map(|end| overlap(rest, end)).max().unwrap_or(0);
            let n_searched = self.buffer.len() - n_hold;
            if n_searched > MAX_HELD_BYTES {
                return Step::Malformed;
            }
            self.state = State::Json { n_parameters, n_searched };
            return Step::Wait;
        };
        if n_searched + at > MAX_HELD_BYTES {
            return Step::Malformed;
        }
        let value = &self.buffer[..n_searched + at];
        let value = match serde_json::from_str::<serde::de::IgnoredAny>(value) {
            Ok(_) => value.trim().to_owned(),
            Err(_) => format!("\"{}\"", json::escape(value)),
        };
        self.buffer.drain(..n_searched + at + n_end);
        self.arguments(&value, out);
        self.state = State::Invoke { n_parameters };
        Step::Again
    }
}

/// Whether a call's tag is at the front of `text`.
pub(super) fn is_call(text: &str) -> bool {
    front(text, &INVOKE).is_some()
}

/// The one of `words` at the front of `text`.
fn front<'a>(text: &str, words: &[&'a str]) -> Option<&'a str> {
    words.iter().copied().find(|word| text.starts_with(word))
}

/// Length of the tag at the front: to the first `>` outside quotes.
fn tag_length(text: &str) -> Option<usize> {
    let mut quoted = false;
    let end = text.bytes().take(MAX_HEAD_BYTES).position(|byte| {
        quoted ^= byte == b'"';
        byte == b'>' && !quoted
    })?;
    Some(end + 1)
}

fn wait(text: &str) -> Step {
    if text.len() >= MAX_HEAD_BYTES { Step::Malformed } else { Step::Wait }
}

/// The value of `name="…"` in a tag.
fn attribute<'a>(tag: &'a str, name: &str) -> Option<&'a str> {
    let (_, rest) = tag.split_once(&format!(" {name}=\""))?;
    Some(rest.split_once('"')?.0)
}
