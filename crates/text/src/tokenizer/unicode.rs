//! Which edition of Unicode the pre-tokenizers see. Owns the list of characters that are newer. Must not split text.
//!
//! The splitting library knows Unicode 17; Hugging Face's tokenizers 0.23 stops at Unicode 16, and the models were
//! trained with older editions still. In a newer edition a character stops being unassigned and becomes a letter, a
//! mark or a symbol, which moves a boundary and changes ids. So the characters that Unicode 17 added are shown to
//! the splitter as unassigned ones of the same length. The step `Digits` is the exception: it asks Rust's own tables,
//! there as here, so a pre-tokenizer with that step is shown the new numerals.

use std::borrow::Cow;

/// First and last of each run of characters that Unicode 17.0 assigned.
const NEW_IN_17: [(u32, u32); 44] = [
    (0x1ACF, 0x1ADD),
    (0x1AE0, 0x1AEB),
    (0x20C1, 0x20C1),
    (0x2B96, 0x2B96),
    (0xA7CE, 0xA7CF),
    (0xA7D2, 0xA7D2),
    (0xA7D4, 0xA7D4),
    (0xA7F1, 0xA7F1),
    (0xFBC3, 0xFBD2),
    (0xFD90, 0xFD91),
    (0xFDC8, 0xFDCE),
    (0x10940, 0x10959),
    (0x10EC5, 0x10EC7),
    (0x10ED0, 0x10ED8),
    (0x10EFA, 0x10EFB),
    (0x11B60, 0x11B67),
    (0x11DB0, 0x11DDB),
    (0x11DE0, 0x11DE9),
    (0x16EA0, 0x16EB8),
    (0x16EBB, 0x16ED3),
    (0x16FF2, 0x16FF6),
    (0x187F8, 0x187FF),
    (0x18D09, 0x18D1E),
    (0x18D80, 0x18DF2),
    (0x1CCFA, 0x1CCFC),
    (0x1CEBA, 0x1CED0),
    (0x1CEE0, 0x1CEF0),
    (0x1E6C0, 0x1E6DE),
    (0x1E6E0, 0x1E6F5),
    (0x1E6FE, 0x1E6FF),
    (0x1F6D8, 0x1F6D8),
    (0x1F777, 0x1F77A),
    (0x1F8D0, 0x1F8D8),
    (0x1FA54, 0x1FA57),
    (0x1FA8A, 0x1FA8A),
    (0x1FA8E, 0x1FA8E),
    (0x1FAC8, 0x1FAC8),
    (0x1FACD, 0x1FACD),
    (0x1FAEA, 0x1FAEA),
    (0x1FAEF, 0x1FAEF),
    (0x1FBFA, 0x1FBFA),
    (0x2B73A, 0x2B73F),
    (0x2CEA2, 0x2CEAD),
    (0x323B0, 0x33479),
];

/// Noncharacters, unassigned in every edition, of three and four bytes.
const UNASSIGNED_3: char = '\u{FDD0}';
const UNASSIGNED_4: char = '\u{1FFFE}';

/// `text` with the new characters (but for numerals, if these are to be shown) replaced by unassigned ones of the same
/// length in bytes.
pub(super) fn hide_new_characters(text: &str, show_numerals: bool) -> Cow<'_, str> {
    let Some(first) = find_new(text) else { return Cow::Borrowed(text) };
    let mut hidden = String::with_capacity(text.len());
    hidden.push_str(&text[..first]);
    for c in text[first..].chars() {
        let hide = is_new(c) && !(show_numerals && c.is_numeric());
        hidden.push(match c.len_utf8() {
            3 if hide => UNASSIGNED_3,
            4 if hide => UNASSIGNED_4,
            _ => c,
        });
    }
    debug_assert_eq!(hidden.len(), text.len(), "boundaries must stay where they are");
    Cow::Owned(hidden)
}

/// Where the first new character is. Almost every byte of real text is ruled out by its value alone.
fn find_new(text: &str) -> Option<usize> {
    let may_lead = |byte: u8| matches!(byte, 0xE1 | 0xE2 | 0xEA | 0xEF | 0xF0);
    let bytes = text.as_bytes();
    let mut from = 0;
    while let Some(offset) = bytes[from..].iter().position(|&byte| may_lead(byte)) {
        let at = from + offset;
        if text[at..].chars().next().is_some_and(is_new) {
            return Some(at);
        }
        from = at + 1;
    }
    None
}

fn is_new(c: char) -> bool {
    let code = c as u32;
    let after = NEW_IN_17.partition_point(|&(first, _)| first <= code);
    after > 0 && code <= NEW_IN_17[after - 1].1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_is_sorted_and_hiding_keeps_every_boundary() {
        assert!(NEW_IN_17.windows(2).all(|pair| pair[0].1 < pair[1].0));
        let text = "a\u{1FAEA}b\u{20C1} 漢\u{33479}";
        assert_eq!(hide_new_characters(text, false), "a\u{1FFFE}b\u{FDD0} 漢\u{1FFFE}");
        assert_eq!(hide_new_characters("\u{11DE0}\u{33479}", true), "\u{11DE0}\u{1FFFE}");
        assert!(matches!(hide_new_characters("plain 漢字 😀 ｜", false), Cow::Borrowed(_)));
    }
}
