//! The crate's error: which file, where in it, what was expected, what was found, what to do.
//!
//! Owns the wording of errors. Must not let a hostile name grow a message without bound.

use std::io;
use std::path::Path;
use std::sync::Arc;

/// Why a file could not be opened, read or written.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The operating system refused.
    #[error("{}: cannot {doing}: {source}", file.display())]
    Io {
        /// The file or folder.
        file: Arc<Path>,
        /// What was tried.
        doing: &'static str,
        /// The system's reason.
        source: io::Error,
    },
    /// The file as a whole is not what it should be.
    #[error("{}: {at}: expected {expected}, found {found}; {advice}", file.display())]
    File {
        /// The file or folder.
        file: Arc<Path>,
        /// The part of the file.
        at: String,
        /// What the format or the caller wants there.
        expected: String,
        /// What is there.
        found: String,
        /// What to do.
        advice: &'static str,
    },
    /// A tensor is missing, or not what it should be.
    #[error("{}: tensor {tensor:?}: expected {expected}, found {found}; {advice}", file.display())]
    Tensor {
        /// The file.
        file: Arc<Path>,
        /// The tensor's name.
        tensor: String,
        /// What the format or the caller wants.
        expected: String,
        /// What is there.
        found: String,
        /// What to do.
        advice: &'static str,
    },
    /// A metadata key is missing, or its value is not what it should be.
    #[error("{}: metadata key {key:?}: expected {expected}, found {found}; {advice}", file.display())]
    Key {
        /// The file.
        file: Arc<Path>,
        /// The key.
        key: String,
        /// What the format or the caller wants.
        expected: String,
        /// What is there.
        found: String,
        /// What to do.
        advice: &'static str,
    },
}

/// Advice for files that end too early.
pub(crate) const TRUNCATED: &str = "the file is cut short: download it again";
/// Advice for files that contradict themselves.
pub(crate) const DAMAGED: &str = "the file is damaged or was written by a faulty tool: get it again from its publisher";
/// Advice for what is valid but not supported.
pub(crate) const CONVERT: &str = "convert the model to a supported type";

impl Error {
    pub(crate) fn io(file: &Arc<Path>, doing: &'static str, source: io::Error) -> Self {
        Self::Io { file: file.clone(), doing, source }
    }

    pub(crate) fn file(
        file: &Arc<Path>,
        at: impl Into<String>,
        expected: impl Into<String>,
        found: impl Into<String>,
        advice: &'static str,
    ) -> Self {
        let (at, expected, found) = (at.into(), expected.into(), found.into());
        Self::File { file: file.clone(), at, expected, found, advice }
    }

    pub(crate) fn tensor(
        file: &Arc<Path>,
        tensor: &str,
        expected: impl Into<String>,
        found: impl Into<String>,
        advice: &'static str,
    ) -> Self {
        let (tensor, expected, found) = (clip(tensor), expected.into(), found.into());
        Self::Tensor { file: file.clone(), tensor, expected, found, advice }
    }

    pub(crate) fn key(
        file: &Arc<Path>,
        key: &str,
        expected: impl Into<String>,
        found: impl Into<String>,
        advice: &'static str,
    ) -> Self {
        let (key, expected, found) = (clip(key), expected.into(), found.into());
        Self::Key { file: file.clone(), key, expected, found, advice }
    }

    /// The file or folder that the error is about.
    pub fn path(&self) -> &Path {
        match self {
            Self::Io { file, .. } | Self::File { file, .. } | Self::Tensor { file, .. } | Self::Key { file, .. } => {
                file
            }
        }
    }
}

/// The beginning of a text that a file supplied: enough to recognise it, never megabytes.
pub(crate) fn clip(text: &str) -> String {
    const CHARS_MAX: usize = 160;
    match text.char_indices().nth(CHARS_MAX) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}
