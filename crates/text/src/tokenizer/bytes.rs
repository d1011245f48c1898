//! The byte-level alphabet: how byte-level BPE vocabularies spell arbitrary bytes with printable characters.
//! Owns the two directions of that map. Must not know vocabularies.
//!
//! Printable bytes (33–126, 161–172, 174–255) stand for themselves; the other 68, in ascending order, are
//! U+0100, U+0101, … Source: the GPT-2 encoder, which every vocabulary of this family follows.

/// One more than the last code point of the alphabet.
const ALPHABET_END: usize = 256 + 68;

/// byte → its character's code point, and back.
static TABLES: (/* to_char */ [u16; 256], /* to_byte */ [Option<u8>; ALPHABET_END]) = build();

const fn build() -> ([u16; 256], [Option<u8>; ALPHABET_END]) {
    let mut to_char = [0u16; 256];
    let mut to_byte = [None; ALPHABET_END];
    let mut n_shifted = 0u16;
    let mut byte = 0usize;
    while byte < 256 {
        let printable = matches!(byte, 33..=126 | 161..=172 | 174..=255);
        let code = if printable {
            byte as u16
        } else {
            n_shifted += 1;
            255 + n_shifted
        };
        to_char[byte] = code;
        to_byte[code as usize] = Some(byte as u8);
        byte += 1;
    }
    (to_char, to_byte)
}

/// The byte that `c` spells, if `c` is in the alphabet.
pub(crate) fn byte_of(c: char) -> Option<u8> {
    TABLES.1.get(c as usize).copied().flatten()
}

/// The character that spells `byte`.
pub(crate) fn char_of(byte: u8) -> char {
    char::from_u32(u32::from(TABLES.0[usize::from(byte)])).unwrap_or(char::REPLACEMENT_CHARACTER)
}

/// The bytes that `spelling` stands for, or `None` if a character is outside the alphabet.
pub(crate) fn decode(spelling: &str) -> Option<Vec<u8>> {
    spelling.chars().map(byte_of).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_alphabet_is_a_bijection() {
        for byte in 0..=255u8 {
            assert_eq!(byte_of(char_of(byte)), Some(byte));
        }
        assert_eq!(char_of(b' '), 'Ġ');
        assert_eq!(char_of(b'\n'), 'Ċ');
        assert_eq!(byte_of(' '), None);
        assert_eq!(byte_of('漢'), None);
    }
}
