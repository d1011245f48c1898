//! JSON in pieces. Owns a checker that follows one object byte by byte, in memory that depends on its nesting alone.
//! Must not build values.

/// Deepest nesting that is followed, as in `serde_json`.
const MAX_DEPTH: usize = 127;

/// Where a text stands after some more of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Status {
    /// So far it begins an object.
    More,
    /// The object is complete.
    Done,
    /// It is none.
    Failed,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Start,
    /// After `{`: a key or `}`.
    FirstKey,
    Key,
    Colon,
    Value,
    /// After `[`: a value or `]`.
    FirstValue,
    /// After a value: a comma or the closing bracket.
    Next,
    String {
        is_key: bool,
        escape: Escape,
    },
    Number(Number),
    /// What is left of `true`, `false` or `null`.
    Word(&'static [u8]),
    Done,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Escape {
    No,
    Begun,
    /// Hexadecimal digits to come.
    Hex(u8),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Number {
    Minus,
    Zero,
    Integer,
    Point,
    Fraction,
    E,
    Sign,
    Exponent,
}

/// Follows one JSON object.
#[derive(Debug, Clone)]
pub(super) struct Scanner {
    state: State,
    /// The open brackets: true for objects.
    open: Vec<bool>,
}

impl Scanner {
    /// Before the `{`.
    pub(super) fn new() -> Self {
        Self { state: State::Start, open: Vec::new() }
    }

    /// Follows `text` to the object's end or first mistake; appends what belongs to the object to `out` and returns its
    /// length in `text`. Control characters inside strings, which models write and JSON forbids, come out escaped.
    pub(super) fn feed(&mut self, text: &str, out: &mut String) -> (usize, Status) {
        let mut start = 0;
        for (at, &byte) in text.as_bytes().iter().enumerate() {
            if byte < 0x20 && matches!(self.state, State::String { escape: Escape::No, .. }) {
                out.push_str(&text[start..at]);
                out.push_str(&escaped(byte));
                start = at + 1;
            } else if self.step(byte).is_none() {
                // A mistake is at the first byte of a character: the others only occur inside strings, where all pass.
                out.push_str(&text[start..at]);
                return (at, Status::Failed);
            }
            if self.state == State::Done {
                out.push_str(&text[start..=at]);
                return (at + 1, Status::Done);
            }
        }
        out.push_str(&text[start..]);
        (text.len(), Status::More)
    }

    /// `None` for a byte that no JSON has here.
    fn step(&mut self, byte: u8) -> Option<()> {
        if let State::String { is_key, escape } = self.state {
            return self.in_string(byte, is_key, escape);
        }
        if let State::Number(number) = self.state {
            match number.step(byte) {
                Some(number) => {
                    self.state = State::Number(number);
                    return Some(());
                }
                None if number.may_end() => self.state = State::Next,
                None => return None,
            }
        }
        if let State::Word([next, rest @ ..]) = self.state {
            self.state = if rest.is_empty() { State::Next } else { State::Word(rest) };
            return (byte == *next).then_some(());
        }
        if matches!(byte, b' ' | b'\n' | b'\r' | b'\t') {
            return Some(());
        }
        self.state = match (self.state, byte) {
            (State::Start, b'{') => return self.push(true),
            (State::FirstKey | State::Key, b'"') => State::String { is_key: true, escape: Escape::No },
            (State::Colon, b':') => State::Value,
            (State::FirstKey, b'}') | (State::FirstValue, b']') => return self.pop(),
            (State::Next, b'}') if self.open.last() == Some(&true) => return self.pop(),
            (State::Next, b']') if self.open.last() == Some(&false) => return self.pop(),
            (State::Next, b',') if self.open.last() == Some(&true) => State::Key,
            (State::Next, b',') => State::Value,
            (State::Value | State::FirstValue, byte) => return self.value(byte),
            _ => return None,
        };
        Some(())
    }

    fn value(&mut self, byte: u8) -> Option<()> {
        self.state = match byte {
            b'{' => return self.push(true),
            b'[' => return self.push(false),
            b'"' => State::String { is_key: false, escape: Escape::No },
            b'-' => State::Number(Number::Minus),
            b'0' => State::Number(Number::Zero),
            b'1'..=b'9' => State::Number(Number::Integer),
            b't' => State::Word(b"rue"),
            b'f' => State::Word(b"alse"),
            b'n' => State::Word(b"ull"),
            _ => return None,
        };
        Some(())
    }

    fn in_string(&mut self, byte: u8, is_key: bool, escape: Escape) -> Option<()> {
        let string = |escape| State::String { is_key, escape };
        self.state = match (escape, byte) {
            (Escape::No, b'"') if is_key => State::Colon,
            (Escape::No, b'"') => State::Next,
            (Escape::No, b'\\') => string(Escape::Begun),
            (Escape::No, _) => string(Escape::No),
            (Escape::Begun, b'u') => string(Escape::Hex(4)),
            (Escape::Begun, b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => string(Escape::No),
            (Escape::Hex(1), byte) if byte.is_ascii_hexdigit() => string(Escape::No),
            (Escape::Hex(n), byte) if byte.is_ascii_hexdigit() => string(Escape::Hex(n - 1)),
            _ => return None,
        };
        Some(())
    }

    fn push(&mut self, is_object: bool) -> Option<()> {
        if self.open.len() == MAX_DEPTH {
            return None;
        }
        self.open.push(is_object);
        self.state = if is_object { State::FirstKey } else { State::FirstValue };
        Some(())
    }

    fn pop(&mut self) -> Option<()> {
        self.open.pop()?;
        self.state = if self.open.is_empty() { State::Done } else { State::Next };
        Some(())
    }
}

impl Number {
    /// `None` when `byte` is no part of the number.
    fn step(self, byte: u8) -> Option<Self> {
        Some(match (self, byte) {
            (Self::Minus, b'0') => Self::Zero,
            (Self::Minus, b'1'..=b'9') | (Self::Integer, b'0'..=b'9') => Self::Integer,
            (Self::Zero | Self::Integer, b'.') => Self::Point,
            (Self::Point | Self::Fraction, b'0'..=b'9') => Self::Fraction,
            (Self::Zero | Self::Integer | Self::Fraction, b'e' | b'E') => Self::E,
            (Self::E, b'+' | b'-') => Self::Sign,
            (Self::E | Self::Sign | Self::Exponent, b'0'..=b'9') => Self::Exponent,
            _ => return None,
        })
    }

    fn may_end(self) -> bool {
        matches!(self, Self::Zero | Self::Integer | Self::Fraction | Self::Exponent)
    }
}

/// A control character as JSON writes it.
fn escaped(byte: u8) -> String {
    let text = serde_json::Value::from(char::from(byte).to_string()).to_string();
    text[1..text.len() - 1].to_owned()
}

/// The text of the JSON string at the beginning of `text`, and its length there: `None` while it has not ended,
/// `Some(None)` when it is none.
pub(super) fn string(text: &str) -> Option<Option<(String, usize)>> {
    let bytes = text.as_bytes();
    if *bytes.first()? != b'"' {
        return Some(None);
    }
    let mut at = 1;
    while *bytes.get(at)? != b'"' {
        at += if bytes[at] == b'\\' { 2 } else { 1 };
    }
    let end = at + 1;
    Some(serde_json::from_str(&text[..end]).ok().map(|decoded| (decoded, end)))
}

/// `text` as a JSON string, without its quotes.
pub(super) fn escape(text: &str) -> String {
    let quoted = serde_json::Value::from(text).to_string();
    quoted[1..quoted.len() - 1].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_scanner_agrees_with_serde_json() {
        let samples = [
            "{}",
            r#"{"a": [1, -0.5e+3, 0, "x\u00e9\"", null, true, false, {}], "b": {"c": []}}"#,
            r#"{"a": 01}"#,
            r#"{"a": 1.}"#,
            r#"{"a": -}"#,
            r#"{"a" 1}"#,
            r#"{"a": 1,}"#,
            r#"{"a": [1,]}"#,
            r#"{"a": [}}"#,
            r#"{"a": tru}"#,
            r#"{"a": "\x"}"#,
            r#"{"a": "\u12g4"}"#,
            r#"{,}"#,
            r#"[1]"#,
            "{\"é漢\": \"😀\"}",
            r#"{"a": 1e5}"#,
            r#"{"a": 1e}"#,
        ];
        for sample in samples {
            let mut out = String::new();
            let (n, status) = Scanner::new().feed(sample, &mut out);
            let is_object = serde_json::from_str::<serde_json::Map<String, serde_json::Value>>(sample).is_ok();
            assert_eq!(status == Status::Done && n == sample.len(), is_object, "{sample}");
            assert_eq!(out, sample[..n]);
        }
    }

    #[test]
    fn raw_control_characters_come_out_escaped() {
        let mut out = String::new();
        assert_eq!(Scanner::new().feed("{\n\"a\": \"x\n\ty\u{1}\"}", &mut out).1, Status::Done);
        assert_eq!(out, "{\n\"a\": \"x\\n\\ty\\u0001\"}");
    }

    #[test]
    fn nesting_is_bounded() {
        let mut out = String::new();
        let (n, status) = Scanner::new().feed(&"{\"a\":".repeat(1_000_000), &mut out);
        assert_eq!((n, status), (5 * MAX_DEPTH, Status::Failed));
    }
}
