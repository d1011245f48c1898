//! A chat template's source, with the added tokens that its author wrote taken out. Owns finding them: in the text
//! outside Jinja's delimiters and inside string literals, never in names or operators. Must not render.

use crate::tokenizer::Piece;

/// A stretch of the source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum SourcePart {
    /// To be left as it is.
    Text(String),
    /// An added token, by id.
    Token(u32),
}

/// Cuts `source` at the added tokens its author wrote; `split` finds them in a stretch of text.
///
/// Tokens made of white space alone are left in place: they mark nothing, and Jinja's white-space control must see
/// them.
pub(super) fn cut<'a, I>(source: &'a str, split: impl Fn(&'a str) -> I) -> Vec<SourcePart>
where
    I: Iterator<Item = Piece<'a>>,
{
    let mut parts: Vec<SourcePart> = Vec::new();
    let push_text = |parts: &mut Vec<SourcePart>, text: &str| match parts.last_mut() {
        Some(SourcePart::Text(last)) => last.push_str(text),
        _ => parts.push(SourcePart::Text(text.to_owned())),
    };
    for (kind, stretch) in stretches(source) {
        if kind == Kind::Code {
            push_text(&mut parts, stretch);
            continue;
        }
        for piece in split(stretch) {
            match piece {
                Piece::Token { id, text } if !text.trim().is_empty() => parts.push(SourcePart::Token(id)),
                Piece::Text(text) | Piece::Token { text, .. } => push_text(&mut parts, text),
            }
        }
    }
    parts
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Text the template prints, or the inside of a string literal.
    Words,
    /// Delimiters, names, operators, comments.
    Code,
}

/// Cuts Jinja source into words and code. Malformed source is cut somehow: the compiler will refuse it.
fn stretches(source: &str) -> Vec<(Kind, &str)> {
    let mut out = Vec::new();
    let mut rest = source;
    while !rest.is_empty() {
        let Some((open, close)) = next_tag(rest) else {
            out.push((Kind::Words, rest));
            break;
        };
        let (words, tag) = rest.split_at(open);
        out.push((Kind::Words, words));
        let end = match close {
            "#}" => tag.find("#}").map_or(tag.len(), |at| at + 2),
            close => code_end(tag, close, &mut out),
        };
        if close == "#}" {
            out.push((Kind::Code, &tag[..end]));
        }
        rest = &tag[end..];
    }
    out
}

/// Position of the first opening delimiter, and what closes it.
fn next_tag(text: &str) -> Option<(usize, &'static str)> {
    text.match_indices('{').find_map(|(at, _)| match text.as_bytes().get(at + 1) {
        Some(b'{') => Some((at, "}}")),
        Some(b'%') => Some((at, "%}")),
        Some(b'#') => Some((at, "#}")),
        _ => None,
    })
}

/// Walks one `{{ … }}` or `{% … %}`, pushing its code and its string literals; returns where it ends.
fn code_end<'a>(tag: &'a str, close: &str, out: &mut Vec<(Kind, &'a str)>) -> usize {
    let bytes = tag.as_bytes();
    let mut start = 0;
    let mut at = 2;
    while at < bytes.len() {
        match bytes[at] {
            quote @ (b'"' | b'\'') => {
                let inside = at + 1;
                let mut end = inside;
                while end < bytes.len() && bytes[end] != quote {
                    end += if bytes[end] == b'\\' { 2 } else { 1 };
                }
                let end = end.min(bytes.len());
                // A backslash may have stepped into a longer character at the very end of broken source.
                let Some(literal) = tag.get(inside..end) else { break };
                out.push((Kind::Code, &tag[start..inside]));
                out.push((Kind::Words, literal));
                start = end;
                at = end + 1;
            }
            _ if bytes[at..].starts_with(close.as_bytes()) => {
                let end = at + 2;
                out.push((Kind::Code, &tag[start..end]));
                return end;
            }
            _ => at += 1,
        }
    }
    out.push((Kind::Code, &tag[start..]));
    tag.len()
}
