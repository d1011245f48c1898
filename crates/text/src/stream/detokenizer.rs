//! Ids to text, one at a time. Owns the bytes of a character that has not ended yet, at most three of them. Must
//! not know stop strings or reasoning.

use std::sync::Arc;

use crate::tokenizer::Tokenizer;

/// Turns ids into text as they come, holding back only an unfinished character.
///
/// What it gives in all, with [`Self::finish`], equals [`Tokenizer::decode`] of the whole sequence.
#[derive(Debug, Clone)]
pub struct Detokenizer {
    tokenizer: Arc<Tokenizer>,
    skip_special: bool,
    pending: Vec<u8>,
}

impl Detokenizer {
    /// Starts a stream. `skip_special` leaves special tokens out of the text.
    #[must_use]
    pub fn new(tokenizer: Arc<Tokenizer>, skip_special: bool) -> Self {
        Self { tokenizer, skip_special, pending: Vec::new() }
    }

    /// The text that `id` completes; often empty. Ids that no token has give nothing.
    pub fn push(&mut self, id: u32) -> String {
        if self.skip_special && self.tokenizer.is_special(id) {
            return String::new();
        }
        self.pending.extend_from_slice(self.tokenizer.token_bytes(id).unwrap_or_default());
        take_text(&mut self.pending)
    }

    /// Ends the stream: an unfinished character becomes U+FFFD. The stream can be used again.
    pub fn finish(&mut self) -> String {
        let text = String::from_utf8_lossy(&self.pending).into_owned();
        self.pending.clear();
        text
    }
}

/// Takes the text at the front of `bytes`, replacing what can no longer become UTF-8, and leaves at most three
/// bytes: the beginning of a character.
fn take_text(bytes: &mut Vec<u8>) -> String {
    let mut text = String::with_capacity(bytes.len());
    let mut rest = bytes.as_slice();
    loop {
        match std::str::from_utf8(rest) {
            Ok(valid) => {
                text.push_str(valid);
                rest = &[];
                break;
            }
            Err(error) => {
                let (valid, after) = rest.split_at(error.valid_up_to());
                text.push_str(&String::from_utf8_lossy(valid));
                rest = after;
                let Some(n_bad) = error.error_len() else { break };
                text.push(char::REPLACEMENT_CHARACTER);
                rest = &rest[n_bad..];
            }
        }
    }
    let n_taken = bytes.len() - rest.len();
    bytes.drain(..n_taken);
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_bytes_in_any_pieces_give_the_lossy_text() {
        let samples: [&[u8]; 5] =
            [b"plain", "€漢😀é".as_bytes(), b"\xff\xe6\xbca\xf0\x9f\x98", b"\xc0\x80\xed\xa0\x80", b"\xe6\xbc"];
        for bytes in samples {
            for step in 1..=bytes.len() {
                let mut pending = Vec::new();
                let mut text = String::new();
                for chunk in bytes.chunks(step) {
                    pending.extend_from_slice(chunk);
                    text += &take_text(&mut pending);
                    assert!(pending.len() <= 3);
                }
                text += &String::from_utf8_lossy(&pending);
                assert_eq!(text, String::from_utf8_lossy(bytes));
            }
        }
    }
}
