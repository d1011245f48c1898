//! From sources to rows of tokens.
//!
//! Files and commands are tokenised once into a token file in a cache folder; procedural questions are made and tokenised
//! as they are wanted. Either way a document is found by its number alone, so a position in the data is a few numbers and
//! nothing is held in memory but the row being filled.
//!
//! Owns documents, their marks, sources, and packing. Must not know recipes, models or losses.

mod encode;
mod files;
mod pack;
mod source;
mod token_file;

use std::path::PathBuf;

pub use encode::Encoder;
pub(crate) use files::examples;
pub use files::{Example, expand};
pub use pack::{Packer, PackerSpec, Position, Rows, Span};
pub use source::{Definition, Source, VerifierSpec, prepare, texts};
pub(crate) use source::{command_stamp, stamps};

use crate::external::ExternalError;
use crate::tasks::TaskError;

/// A token and whether fine-tuning learns to predict it: the highest bit of its 32.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Marked(u32);

const LEARNT: u32 = 1 << 31;

impl Marked {
    /// A token that fine-tuning predicts if `learnt`; pretraining predicts all.
    ///
    /// # Panics
    /// If `id` needs 32 bits: tokenizers end at 2²⁰
    #[must_use]
    pub fn new(id: u32, learnt: bool) -> Self {
        assert!(id < LEARNT, "token {id}");
        Self(if learnt { id | LEARNT } else { id })
    }

    /// The token.
    #[must_use]
    pub fn id(self) -> u32 {
        self.0 & !LEARNT
    }

    /// Whether fine-tuning predicts it.
    #[must_use]
    pub fn is_learnt(self) -> bool {
        self.0 & LEARNT != 0
    }
}

/// What a model is trained on as one context.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Document {
    /// Its tokens.
    pub tokens: Vec<Marked>,
    /// Whether it may be cut where a row ends. A conversation may not: its end is what is to be learnt.
    pub may_split: bool,
}

/// Why data cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum DataError {
    /// A file or folder cannot be read.
    #[error("{}: cannot {doing}: {source}", path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// What was tried.
        doing: &'static str,
        /// The system's reason.
        source: std::io::Error,
    },
    /// A path or pattern names nothing.
    #[error("{}: no such file; expected a file, a folder, or a name with * in its last part", .0.display())]
    Missing(PathBuf),
    /// A file is not what its source says.
    #[error("{}{place}: expected {expected}, found {found}", path.display())]
    Content {
        /// Which file.
        path: PathBuf,
        /// `:line` or `, byte n`.
        place: String,
        /// What is wanted.
        expected: String,
        /// What is there.
        found: String,
    },
    /// A source has no document on a side.
    #[error("source {name:?} has no {side} documents; {advice}")]
    Empty {
        /// The source.
        name: String,
        /// `training` or `held-out`.
        side: &'static str,
        /// What to do.
        advice: &'static str,
    },
    /// Text or a conversation cannot be encoded.
    #[error("{place}: {problem}")]
    Encoding {
        /// Where it came from.
        place: String,
        /// The tokenizer's or template's reason.
        problem: String,
    },
    /// The cache cannot be written.
    #[error(transparent)]
    Cache(#[from] checkpoint::Error),
    /// A generator broke.
    #[error(transparent)]
    External(#[from] ExternalError),
    /// A task cannot be used.
    #[error(transparent)]
    Task(#[from] TaskError),
}

impl DataError {
    fn io(path: impl Into<PathBuf>, doing: &'static str) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { path, doing, source }
    }
}
