//! ECMAScript's regular expressions, which JSON Schema uses, in the library's syntax. Owns the differences. Must not
//! know schemas.
//!
//! The two syntaxes share most of their text and not all of its meaning: `.`, `\s`, and inside classes `[`, `&&`, `--`
//! and `~~` mean something else. What has no translation is refused.

use std::iter::Peekable;
use std::str::Chars;

/// ECMAScript's white space, as the inside of a class: Unicode's, with U+FEFF and without U+0085.
const SPACE: &str = r"[\s\x{FEFF}--\x{85}]";
const NO_SPACE: &str = r"[^[\s\x{FEFF}--\x{85}]]";
/// All but ECMAScript's line ends.
const DOT: &str = r"[^\n\r\x{2028}\x{2029}]";

/// Translates `pattern`.
///
/// # Errors
/// The part that means something else here, or nothing.
pub(super) fn translate(pattern: &str) -> Result<String, String> {
    let mut out = String::with_capacity(pattern.len() + 16);
    let mut chars = pattern.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '\\' => {
                if escape(&mut chars, &mut out)?.is_some_and(is_unwritable) {
                    return Err("a control character, which the output cannot hold".into());
                }
            }
            '[' => class(&mut chars, &mut out)?,
            '.' => out.push_str(DOT),
            c if is_unwritable(c) => return Err("a control character, which the output cannot hold".into()),
            c => out.push(c),
        }
    }
    Ok(out)
}

/// Characters that JSON writes as `\u00XX` alone, which grammars leave out.
pub(super) fn is_unwritable(c: char) -> bool {
    c.is_ascii_control() && !matches!(c, '\u{8}' | '\t' | '\n' | '\u{c}' | '\r')
}

/// Translates what follows a backslash; gives the character it stands for, if it is one.
fn escape(chars: &mut Peekable<Chars>, out: &mut String) -> Result<Option<char>, String> {
    let c = chars.next().ok_or("a backslash at the end")?;
    match c {
        's' => out.push_str(SPACE),
        'S' => out.push_str(NO_SPACE),
        'd' | 'D' | 'w' | 'W' | 'p' | 'P' => out.extend(['\\', c]),
        'x' | 'u' => return hex(c, chars, out).map(Some),
        't' | 'n' | 'v' | 'f' | 'r' => {
            out.extend(['\\', c]);
            return Ok(match c {
                'v' => Some('\u{b}'),
                _ => None,
            });
        }
        c if c.is_ascii_alphanumeric() => return Err(format!("\\{c}, which is not supported")),
        c if c.is_ascii_punctuation() => out.extend(['\\', c]),
        c => out.push(c),
    }
    Ok(None)
}

/// `\xHH`, `\uHHHH` and `\u{H…}`.
fn hex(kind: char, chars: &mut Peekable<Chars>, out: &mut String) -> Result<char, String> {
    let digits: String = if kind == 'u' && chars.next_if_eq(&'{').is_some() {
        chars.by_ref().take_while(|&c| c != '}').collect()
    } else {
        chars.by_ref().take(if kind == 'x' { 2 } else { 4 }).collect()
    };
    let code = u32::from_str_radix(&digits, 16).ok().filter(|_| !digits.starts_with('+'));
    let c = code.and_then(char::from_u32).ok_or_else(|| format!("\\{kind}{digits}, which is no character"))?;
    out.push_str(&format!("\\x{{{:X}}}", u32::from(c)));
    Ok(c)
}

/// Translates a class, after its `[`.
fn class(chars: &mut Peekable<Chars>, out: &mut String) -> Result<(), String> {
    out.push('[');
    if chars.next_if_eq(&'^').is_some() {
        out.push('^');
    }
    let (mut n_items, mut unwritable) = (0, false);
    loop {
        let c = chars.next().ok_or("a [ without its ]")?;
        match c {
            ']' if n_items == 0 => return Err("an empty class, which is not supported".into()),
            ']' => break,
            '\\' if chars.next_if_eq(&'b').is_some() => out.push_str(r"\x{8}"),
            '\\' => unwritable |= escape(chars, out)?.is_some_and(is_unwritable),
            '-' if chars.peek() == Some(&'-') => return Err("-- in a class, which is not supported".into()),
            '[' | '&' | '~' => out.extend(['\\', c]),
            c => {
                unwritable |= is_unwritable(c);
                out.push(c);
            }
        }
        n_items += 1;
    }
    // The library loses a lone one; among others it is left out as it should.
    if n_items == 1 && unwritable {
        return Err("a control character, which the output cannot hold".into());
    }
    out.push(']');
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn differences_are_translated() {
        for (pattern, translated) in [
            (r"^[a-z_]+\d{2,3}$", r"^[a-z_]+\d{2,3}$"),
            (r"a.b\.", r"a[^\n\r\x{2028}\x{2029}]b\."),
            (r"[.\]]", r"[.\]]"),
            (r"[[a]]", r"[\[a]]"),
            (r"[a&&b~~c]", r"[a\&\&b\~\~c]"),
            (r"\u00e9\x41", r"\x{E9}\x{41}"),
            (r"\S[\s-]", r"[^[\s\x{FEFF}--\x{85}]][[\s\x{FEFF}--\x{85}]-]"),
            (r"[^\x00-\x1f]\/", r"[^\x{0}-\x{1F}]\/"),
        ] {
            assert_eq!(translate(pattern).as_deref(), Ok(translated), "{pattern}");
        }
    }

    #[test]
    fn what_has_no_translation_is_refused() {
        for pattern in [
            r"\bword", r"\1", r"\cA", r"\0", r"\u12", r"\x0", "[]a]", "[^]", "[a", "\\", r"a\x00", r"[\x00]", r"\v",
            "[!--]",
        ] {
            assert!(translate(pattern).is_err(), "{pattern}");
        }
    }
}
