//! Calls that are one JSON object with a name and arguments (Hermes, Llama). Owns those states of the parser. Must not
//! know the others.

use super::format::{HERMES_BEGIN, HERMES_END, ToolFormat};
use super::json::{self, Scanner, Status};
use super::{Delta, MAX_HEAD_BYTES, MAX_HELD_BYTES, State, Step, ToolParser, begins, is_name};

/// Longest string that is looked through for its end again with every piece.
const MAX_STRING_BYTES: usize = 64 * 1024;

/// How far an object is read.
#[derive(Debug, Clone)]
pub(super) struct Envelope {
    at: At,
    name: Option<String>,
    /// The arguments, as far as they are read and cannot be given yet.
    arguments: String,
    has_arguments: bool,
}

#[derive(Debug, Clone)]
enum At {
    Open,
    Key,
    Colon(Field),
    Value(Field),
    Arguments(Scanner),
    Next,
    /// After the object: the closing tag.
    Close,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Field {
    Name,
    Arguments,
    /// A word that says nothing more, such as `"type": "function"`.
    Label,
}

impl Envelope {
    pub(super) fn new() -> Self {
        Self { at: At::Open, name: None, arguments: String::new(), has_arguments: false }
    }
}

impl ToolParser {
    pub(super) fn envelope(&mut self, out: &mut Vec<Delta>) -> Step {
        // Taken out while it is worked on, so that the parser can be changed beside it.
        let State::Envelope(mut envelope) = std::mem::replace(&mut self.state, State::Block) else {
            return Step::Wait;
        };
        let step = self.envelope_step(&mut envelope, out);
        if matches!(self.state, State::Block) {
            self.state = State::Envelope(envelope);
        }
        step
    }

    fn envelope_step(&mut self, envelope: &mut Envelope, out: &mut Vec<Delta>) -> Step {
        if let At::Arguments(scanner) = &mut envelope.at {
            let before = envelope.arguments.len();
            let room = if self.is_open { usize::MAX } else { MAX_HELD_BYTES.saturating_sub(self.pending.len()) };
            let text = &self.buffer[..self.buffer.floor_char_boundary(room)];
            let (n, status) = scanner.feed(text, &mut envelope.arguments);
            self.take_pending(n);
            if self.is_open {
                self.pending.clear();
                self.arguments(&envelope.arguments[before..], out);
                envelope.arguments.truncate(before);
            }
            return match status {
                Status::More if self.buffer.is_empty() => Step::Wait,
                Status::Done => self.to(envelope, At::Next),
                _ => Step::Malformed,
            };
        }
        if !self.skip_blank() {
            return Step::Wait;
        }
        if matches!(envelope.at, At::Close) {
            return self.close_envelope();
        }
        let first = self.buffer.as_bytes()[0];
        match (&envelope.at, first) {
            (At::Open, b'{') => self.eat(envelope, At::Key),
            (At::Colon(field), b':') => {
                let field = *field;
                self.eat(envelope, At::Value(field))
            }
            (At::Next, b',') => self.eat(envelope, At::Key),
            (At::Next, b'}') => self.end_envelope(envelope, out),
            (At::Key, b'"') => self.key(envelope),
            (At::Value(Field::Arguments), b'{') => {
                envelope.has_arguments = true;
                if let Some(name) = envelope.name.clone() {
                    self.start(name, out);
                }
                self.to(envelope, At::Arguments(Scanner::new()))
            }
            (At::Value(field), b'"') => {
                let field = *field;
                self.string_value(envelope, field, out)
            }
            _ => Step::Malformed,
        }
    }

    fn to(&mut self, envelope: &mut Envelope, at: At) -> Step {
        envelope.at = at;
        Step::Again
    }

    fn eat(&mut self, envelope: &mut Envelope, at: At) -> Step {
        self.take_pending(1);
        self.to(envelope, at)
    }

    fn key(&mut self, envelope: &mut Envelope) -> Step {
        let (key, n) = match json::string(&self.buffer) {
            None if self.buffer.len() <= MAX_HEAD_BYTES => return Step::Wait,
            Some(Some(found)) if found.1 <= MAX_HEAD_BYTES => found,
            _ => return Step::Malformed,
        };
        let field = match key.as_str() {
            "name" if envelope.name.is_none() => Field::Name,
            "arguments" | "parameters" if !envelope.has_arguments => Field::Arguments,
            "type" | "id" => Field::Label,
            _ => return Step::Malformed,
        };
        self.take_pending(n);
        self.to(envelope, At::Colon(field))
    }

    fn string_value(&mut self, envelope: &mut Envelope, field: Field, out: &mut Vec<Delta>) -> Step {
        let longest = if field == Field::Arguments { MAX_STRING_BYTES } else { MAX_HEAD_BYTES };
        let (value, n) = match json::string(&self.buffer) {
            None if self.buffer.len() <= longest => return Step::Wait,
            Some(Some(found)) if found.1 <= longest => found,
            _ => return Step::Malformed,
        };
        match field {
            Field::Label => {}
            Field::Name if is_name(&value) => {
                envelope.name = Some(value.clone());
                if envelope.has_arguments {
                    self.start(value, out);
                    self.arguments(&envelope.arguments, out);
                }
            }
            // Some models write the object as a string.
            Field::Arguments if Scanner::new().feed(&value, &mut envelope.arguments) == (value.len(), Status::Done) => {
                envelope.has_arguments = true;
                if let Some(name) = envelope.name.clone() {
                    self.start(name, out);
                    self.arguments(&envelope.arguments, out);
                }
            }
            _ => return Step::Malformed,
        }
        self.take_pending(n);
        self.to(envelope, At::Next)
    }

    fn end_envelope(&mut self, envelope: &mut Envelope, out: &mut Vec<Delta>) -> Step {
        if !self.is_open {
            return Step::Malformed;
        }
        self.buffer.drain(..1);
        self.end(true, out);
        self.to(envelope, At::Close)
    }

    /// After the object. Another call may follow at once, and the closing tag is not missed.
    fn close_envelope(&mut self) -> Step {
        let (closer, opener) = match self.format {
            ToolFormat::Hermes => (HERMES_END, HERMES_BEGIN),
            _ => (";", "{"),
        };
        if begins(&self.buffer, &[closer, opener]) {
            return Step::Wait;
        }
        self.pending.clear();
        if self.buffer.starts_with(closer) {
            self.buffer.drain(..closer.len());
        }
        self.state = State::Content { fresh: true };
        Step::Again
    }
}
