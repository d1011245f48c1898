//! Calls between DeepSeek's marker tokens, fenced (V3, R1) and not (V3.1): the two are told apart call by call. Owns
//! those states of the parser. Must not know the others.

use super::format::{CALL_BEGIN, CALL_END, CALLS_END, SEPARATOR};
use super::json::{Scanner, Status};
use super::{Delta, MAX_HEAD_BYTES, State, Step, ToolParser, begins, blank, is_name};

impl ToolParser {
    /// Between calls: another one or the block's end.
    pub(super) fn marker_block(&mut self) -> Step {
        if !self.skip_blank() {
            return Step::Wait;
        }
        if self.buffer.starts_with(CALL_BEGIN) {
            self.take_pending(CALL_BEGIN.len());
            self.state = State::Head;
        } else if self.buffer.starts_with(CALLS_END) {
            // A block without calls is text.
            if !self.after_call {
                return Step::Malformed;
            }
            self.buffer.drain(..CALLS_END.len());
            self.pending.clear();
            self.state = State::Content { fresh: false };
        } else if begins(&self.buffer, &[CALL_BEGIN, CALLS_END]) {
            return Step::Wait;
        } else {
            return Step::Malformed;
        }
        Step::Again
    }

    /// `function<sep>NAME⏎```json⏎{` or `NAME<sep>{`.
    pub(super) fn head(&mut self, out: &mut Vec<Delta>) -> Step {
        let head = &self.buffer[..self.buffer.floor_char_boundary(MAX_HEAD_BYTES)];
        let incomplete = if self.buffer.len() > MAX_HEAD_BYTES { Step::Malformed } else { Step::Wait };
        let Some((first, rest)) = head.split_once(SEPARATOR) else { return incomplete };
        let n_blank = blank(rest);
        let (name, body) = match rest.as_bytes().get(n_blank) {
            None => return incomplete,
            Some(b'{') => (first.trim(), &rest[n_blank..]),
            Some(_) => {
                let Some((name, body)) = rest.split_once('\n') else { return incomplete };
                let Some(body) = unfenced(body) else { return incomplete };
                (name.trim(), body)
            }
        };
        if !body.starts_with('{') || !is_name(name) {
            return Step::Malformed;
        }
        let (name, n_head) = (name.to_owned(), head.len() - body.len());
        self.buffer.drain(..n_head);
        self.start(name, out);
        self.state = State::Arguments(Scanner::new());
        Step::Again
    }

    pub(super) fn plain_arguments(&mut self, out: &mut Vec<Delta>) -> Step {
        let State::Arguments(scanner) = &mut self.state else { return Step::Wait };
        let mut fragment = String::new();
        let (n, status) = scanner.feed(&self.buffer, &mut fragment);
        self.buffer.drain(..n);
        self.arguments(&fragment, out);
        match status {
            Status::More => return Step::Wait,
            Status::Failed => return Step::Malformed,
            Status::Done => {}
        }
        self.end(true, out);
        self.state = State::Closing;
        Step::Again
    }

    /// After the arguments: the fence, if there was one, and the marker.
    pub(super) fn closing(&mut self, _out: &mut Vec<Delta>) -> Step {
        let n_blank = blank(&self.buffer);
        let rest = &self.buffer[n_blank..];
        let fenced = rest.strip_prefix("```");
        let rest = fenced.map_or(rest, |rest| &rest[blank(rest)..]);
        if let Some(after) = rest.strip_prefix(CALL_END) {
            let n = self.buffer.len() - after.len();
            self.buffer.drain(..n);
            self.state = State::Block;
            return Step::Again;
        }
        if rest.is_empty() || begins(rest, &[CALL_END]) || (fenced.is_none() && begins(rest, &["```"])) {
            return Step::Wait;
        }
        Step::Malformed
    }
}

/// What follows the opening fence, white space aside; `None` while it may still come.
fn unfenced(text: &str) -> Option<&str> {
    let text = &text[blank(text)..];
    if text.is_empty() || begins(text, &["```json"]) {
        return None;
    }
    let body = text.strip_prefix("```json").or_else(|| text.strip_prefix("```")).unwrap_or(text);
    let body = &body[blank(body)..];
    if body.is_empty() { None } else { Some(body) }
}
