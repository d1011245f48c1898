//! A chat template's source, with the added tokens that its author wrote taken out. Owns finding them: in the text
//! outside Jinja's delimiters and inside string literals, never in names or operators. Must not render.

use crate::error::TemplateError;
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

/// Most bytes of code in one tag, blanks and string literals aside, and most `elif`s: the engine compiles chains of
/// operators and of `elif` by recursion. Published templates stay under 600 and 20.
const MAX_TAG_CODE_BYTES: usize = 8_000;
const MAX_ELIFS: usize = 1_000;

/// Refuses code that no hand has written and that would take the compiler too deep.
///
/// # Errors
/// A tag with too much code, or too many `elif`s.
pub(super) fn check_shape(source: &str) -> Result<(), TemplateError> {
    let mut in_tag = 0;
    let mut longest = 0;
    for (kind, stretch) in stretches(source) {
        if kind == Kind::Words || stretch.starts_with("{#") {
            continue;
        }
        if stretch.starts_with("{{") || stretch.starts_with("{%") {
            in_tag = 0;
        }
        in_tag += stretch.bytes().filter(|byte| !byte.is_ascii_whitespace()).count();
        longest = longest.max(in_tag);
    }
    super::limit("bytes of code in one tag of the chat template", longest, MAX_TAG_CODE_BYTES)?;
    super::limit("elifs of the chat template", source.matches("elif").count(), MAX_ELIFS)
}

/// Filters that [`guard_sets`] puts on what a template stores: in a variable, and in a namespace's attribute.
pub(super) const GUARD_VARIABLE: &str = "checked_variable";
pub(super) const GUARD_ATTRIBUTE: &str = "checked_attribute";

/// Rewrites `{% set a = b %}` to `{% set a = (b) | checked_variable %}`, so that what a template piles up from step to
/// step can be measured: the engine's own budget does not count lists that are joined, nor stop a value that is made
/// to contain itself.
pub(super) fn guard_sets(source: &str) -> String {
    let mut out = String::with_capacity(source.len() + 256);
    // The guard of the tag that is being read, and whether its `=` has been seen.
    let mut guard: Option<(&str, bool)> = None;
    for (kind, stretch) in stretches(source) {
        let mut rest = stretch;
        if kind == Kind::Code && rest.starts_with('{') {
            guard = set_target(rest)
                .map(|target| (if target.contains('.') { GUARD_ATTRIBUTE } else { GUARD_VARIABLE }, false));
        }
        if kind == Kind::Code
            && let Some((name, seen)) = &mut guard
        {
            if !*seen && let Some((before, after)) = rest.split_once('=') {
                out.push_str(before);
                out.push_str("=(");
                rest = after;
                *seen = true;
            }
            if *seen && let Some(body) = rest.strip_suffix("%}") {
                let body_end = body.trim_end_matches(['-', '+']).len();
                let (body, control) = body.split_at(body_end);
                out.push_str(&format!("{body})|{name} {control}"));
                rest = "%}";
                guard = None;
            }
        }
        out.push_str(rest);
    }
    out
}

/// What a `{% set` tag stores to: the text up to its `=`, or all its code when that is a block.
fn set_target(tag: &str) -> Option<&str> {
    let code = tag.strip_prefix("{%")?.trim_start_matches(['-', '+']).trim_start();
    let target = code.strip_prefix("set")?;
    let target = target.starts_with(|c: char| c.is_ascii_whitespace()).then_some(target)?;
    Some(target.split('=').next().unwrap_or(target))
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

#[cfg(test)]
mod tests {
    use super::*;

    /// The words of a template, with `|` between them.
    fn words(source: &str) -> String {
        let words: Vec<&str> = stretches(source).into_iter().filter(|s| s.0 == Kind::Words).map(|s| s.1).collect();
        assert_eq!(stretches(source).iter().map(|s| s.1).collect::<String>(), source, "nothing is lost");
        words.join("|")
    }

    #[test]
    fn sets_are_guarded() {
        for (source, guarded) in [
            ("{% set a = 'x=y' %}", "{% set a =( 'x=y' )|checked_variable %}"),
            ("{%- set ns.a = b == c -%}", "{%- set ns.a =( b == c )|checked_attribute -%}"),
            ("{% set a %}x = 1{% endset %}", "{% set a %}x = 1{% endset %}"),
            ("{{ set = 1 }}{% settle = 1 %}{# set a = 1 #}", "{{ set = 1 }}{% settle = 1 %}{# set a = 1 #}"),
            ("{% set a, b = 1, 2 %}", "{% set a, b =( 1, 2 )|checked_variable %}"),
            ("{% set a = ", "{% set a =( "),
        ] {
            assert_eq!(guard_sets(source), guarded);
        }
    }

    #[test]
    fn words_are_text_and_string_literals() {
        assert_eq!(words("a{{ b + 'c' }}d"), "a|c|d");
        assert_eq!(words(r#"{%- if x == "a'b\"c" -%}y{# 'z' #}"#), r#"|a'b\"c|y"#);
        assert_eq!(words("{ a } {{ '}}' }}"), "{ a } |}}");
        // Broken source is cut somehow, and whole.
        for broken in ["{{ 'a", "{{", "{% 'é\\", "{#", "{{ \"\\", "'{%'"] {
            words(broken);
        }
    }
}
