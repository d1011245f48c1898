//! A rendered conversation: plain text with the template's special tokens in it. Owns that sequence. Must not
//! encode or render.

/// A stretch of a rendered conversation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RenderedPiece {
    /// To be encoded as ordinary text, whatever it spells.
    Text(String),
    /// An added token that the template's author wrote.
    Token {
        /// Its id.
        id: u32,
        /// Its spelling.
        text: String,
    },
}

impl RenderedPiece {
    fn as_str(&self) -> &str {
        match self {
            Self::Text(text) | Self::Token { text, .. } => text,
        }
    }
}

/// A conversation, rendered; made by [`super::ChatTemplate::render`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rendered {
    pieces: Vec<RenderedPiece>,
}

impl Rendered {
    pub(super) fn new(pieces: Vec<RenderedPiece>) -> Self {
        Self { pieces }
    }

    /// The pieces, in order.
    #[must_use]
    pub fn pieces(&self) -> &[RenderedPiece] {
        &self.pieces
    }

    /// Length of [`Self::text`] in bytes.
    #[must_use]
    pub fn n_bytes(&self) -> usize {
        self.pieces.iter().map(|piece| piece.as_str().len()).sum()
    }

    /// The conversation as one string. For display: encoding it again could make special tokens of user text.
    #[must_use]
    pub fn text(&self) -> String {
        self.pieces.iter().map(RenderedPiece::as_str).collect()
    }

    /// Whether the prompt itself opens the reasoning (it ends with `<think>` and at most white space), so that the
    /// model's first words are reasoning already.
    #[must_use]
    pub fn starts_in_reasoning(&self) -> bool {
        let mut tail = String::new();
        for piece in self.pieces.iter().rev() {
            tail.insert_str(0, piece.as_str());
            if !tail.trim().is_empty() {
                break;
            }
        }
        tail.trim_end().ends_with("<think>")
    }
}
