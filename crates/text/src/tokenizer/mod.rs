//! Tokenizers: text ⇄ ids. Owns loading from tokenizer.json and from GGUF metadata, the matching of added tokens,
//! and the table from ids to bytes. Must not know templates or streams.
//!
//! Plain text goes through the BPE library, which is given no added tokens at all: whatever the text spells, it can
//! only come out as ordinary tokens. Added tokens are matched here, and only for [`Tokenizer::encode`]; the chat
//! path never matches them in text (see [`crate::template`]).

mod added;
mod bpe;
mod bytes;
mod config;
mod gguf;
mod json;
mod spec;
mod unicode;
mod write;

pub use config::TokenizerConfig;
pub use gguf::GgufVocab;

use crate::error::TokenizerError;
use crate::template::{Rendered, RenderedPiece};
use added::AddedTokens;
pub(crate) use added::Piece;
use bpe::Bpe;
use spec::Spec;

/// A byte-level BPE tokenizer. Immutable once loaded; share it through an `Arc`.
pub struct Tokenizer {
    bpe: Bpe,
    added: AddedTokens,
    table: ByteTable,
}

impl Tokenizer {
    /// Loads a tokenizer.json.
    ///
    /// # Errors
    /// The bytes are not JSON of that form, ask for a component outside byte-level BPE, or describe a vocabulary
    /// that contradicts itself or is larger than any real one.
    pub fn from_json(bytes: &[u8]) -> Result<Self, TokenizerError> {
        Self::from_spec(json::parse(bytes)?)
    }

    /// Builds the tokenizer that a GGUF's metadata describes.
    ///
    /// # Errors
    /// As [`Self::from_json`], and for a pre-tokenizer that is not known.
    pub fn from_gguf(vocab: &GgufVocab) -> Result<Self, TokenizerError> {
        Self::from_spec(gguf::parse(vocab)?)
    }

    fn from_spec(mut spec: Spec) -> Result<Self, TokenizerError> {
        let table = spec.check(ByteTable::new)?;
        let added = AddedTokens::new(&spec)?;
        let bpe = Bpe::new(spec, table.entries.len())?;
        Ok(Self { bpe, added, table })
    }

    /// One more than the highest id. Ids below it may still be holes.
    #[must_use]
    pub fn vocab_size(&self) -> usize {
        self.table.entries.len()
    }

    /// Encodes `text` with every added token recognised wherever it is spelled, and no BOS added: the ids that
    /// Hugging Face's `tokenizers` gives without special tokens. For trusted text only; user text goes through
    /// [`Self::encode_plain`] or a chat template.
    ///
    /// # Errors
    /// The pre-tokenizer's pattern gave up on the text (only for patterns outside the known ones).
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, TokenizerError> {
        let mut ids = Vec::with_capacity(text.len() / 3);
        for piece in self.added.split(text) {
            match piece {
                Piece::Text(text) => self.bpe.encode_into(text, &mut ids)?,
                Piece::Token { id, .. } => ids.push(id),
            }
        }
        Ok(ids)
    }

    /// Encodes `text` as ordinary text, whatever it spells: never yields an added or special token.
    ///
    /// # Errors
    /// As [`Self::encode`].
    pub fn encode_plain(&self, text: &str) -> Result<Vec<u32>, TokenizerError> {
        let mut ids = Vec::with_capacity(text.len() / 3);
        self.bpe.encode_into(text, &mut ids)?;
        Ok(ids)
    }

    /// Encodes a rendered conversation: special tokens where the template put them, plain text elsewhere.
    ///
    /// # Errors
    /// As [`Self::encode`].
    pub fn encode_rendered(&self, rendered: &Rendered) -> Result<Vec<u32>, TokenizerError> {
        let mut ids = Vec::with_capacity(rendered.n_bytes() / 3);
        for piece in rendered.pieces() {
            match piece {
                RenderedPiece::Text(text) => self.bpe.encode_into(text, &mut ids)?,
                RenderedPiece::Token { id, .. } => ids.push(*id),
            }
        }
        Ok(ids)
    }

    /// The bytes of a token, or `None` for a hole and for ids beyond the vocabulary. A token's bytes need not be
    /// UTF-8 on their own.
    #[must_use]
    pub fn token_bytes(&self, id: u32) -> Option<&[u8]> {
        self.table.bytes_of(id)
    }

    /// The id of the added token spelled exactly `content`.
    #[must_use]
    pub fn added_token_id(&self, content: &str) -> Option<u32> {
        self.added.id_of(content)
    }

    /// The spelling of an added token.
    #[must_use]
    pub fn added_token(&self, id: u32) -> Option<&str> {
        self.added.content_of(id)
    }

    /// All added tokens, by id: `(id, spelling)`.
    pub fn added_tokens(&self) -> impl Iterator<Item = (u32, &str)> {
        self.added.iter()
    }

    /// Whether a decode that skips special tokens leaves `id` out.
    #[must_use]
    pub fn is_special(&self, id: u32) -> bool {
        self.added.is_special(id)
    }

    /// Decodes ids to text. Bytes that are not UTF-8 become U+FFFD; holes of the vocabulary give nothing.
    ///
    /// # Errors
    /// An id at or above [`Self::vocab_size`].
    pub fn decode(&self, ids: &[u32], skip_special: bool) -> Result<String, TokenizerError> {
        let mut bytes = Vec::with_capacity(ids.len() * 4);
        for (position, &id) in ids.iter().enumerate() {
            if id as usize >= self.vocab_size() {
                return Err(TokenizerError::UnknownId { id, position, vocab_size: self.vocab_size() });
            }
            if !(skip_special && self.is_special(id)) {
                bytes.extend_from_slice(self.table.bytes_of(id).unwrap_or_default());
            }
        }
        Ok(String::from_utf8(bytes).unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned()))
    }

    /// Splits trusted text at its added tokens. For the template compiler.
    pub(crate) fn split_added<'a>(&'a self, text: &'a str) -> impl Iterator<Item = Piece<'a>> {
        self.added.split(text).into_iter()
    }
}

impl std::fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tokenizer").field("vocab_size", &self.vocab_size()).finish_non_exhaustive()
    }
}

/// id → bytes, in one block.
struct ByteTable {
    /// Start and length of each id's bytes; `None` for a hole.
    entries: Vec<Option<(u32, u32)>>,
    bytes: Vec<u8>,
}

impl ByteTable {
    fn new(spec: &Spec) -> Self {
        let mut contents: Vec<Option<&str>> = vec![None; spec.n_ids()];
        spec.vocab.iter().for_each(|(text, &id)| contents[id as usize] = Some(text));
        for token in &spec.added {
            contents[token.id as usize] = Some(&token.content);
        }
        let mut table = Self { entries: Vec::with_capacity(contents.len()), bytes: Vec::new() };
        for content in contents {
            let entry = content.map(|text| {
                let start = table.bytes.len();
                // Spellings outside the alphabet stand for themselves, as in the reference's decoder.
                match bytes::decode(text) {
                    Some(decoded) => table.bytes.extend_from_slice(&decoded),
                    None => table.bytes.extend_from_slice(text.as_bytes()),
                }
                (start as u32, (table.bytes.len() - start) as u32)
            });
            table.entries.push(entry);
        }
        table
    }

    fn bytes_of(&self, id: u32) -> Option<&[u8]> {
        let (start, len) = (*self.entries.get(id as usize)?)?;
        self.bytes.get(start as usize..start as usize + len as usize)
    }
}
