//! A position in a file's bytes that never leaves them.
//!
//! Owns bounds checks and the errors for what is cut short. Must not allocate from a length that the file states.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;

use crate::Error;
use crate::error::{DAMAGED, TRUNCATED};

/// The longest key or tensor name, as in the format's specification.
const NAME_BYTES_MAX: usize = 65_535;

pub(super) struct Cursor<'a> {
    file: &'a Arc<Path>,
    bytes: &'a Bytes,
    position: usize,
}

impl<'a> Cursor<'a> {
    pub(super) fn new(file: &'a Arc<Path>, bytes: &'a Bytes) -> Self {
        Self { file, bytes, position: 0 }
    }

    pub(super) fn file(&self) -> &'a Arc<Path> {
        self.file
    }

    pub(super) fn position(&self) -> usize {
        self.position
    }

    /// Everything from `begin` on, if the file reaches that far.
    pub(super) fn bytes_from(&self, begin: usize) -> Option<Bytes> {
        (begin <= self.bytes.len()).then(|| self.bytes.slice(begin..))
    }

    /// The next `n` bytes, of which `None` says that the count itself did not fit.
    pub(super) fn take(&mut self, n: Option<usize>, what: &str) -> Result<Bytes, Error> {
        let left = self.bytes.len() - self.position;
        match n {
            Some(n) if n <= left => {
                let begin = self.position;
                self.position += n;
                Ok(self.bytes.slice(begin..begin + n))
            }
            n => {
                let expected = n.map_or("a length that fits".into(), |n| format!("{n} bytes"));
                Err(self.wrong(what, expected, format!("{left} bytes left in the file"), TRUNCATED))
            }
        }
    }

    pub(super) fn array<const N: usize>(&mut self, what: &str) -> Result<[u8; N], Error> {
        let rest = &self.bytes[self.position..];
        match rest.first_chunk() {
            Some(&chunk) => {
                self.position += N;
                Ok(chunk)
            }
            None => {
                let found = format!("{} bytes left in the file", rest.len());
                Err(self.wrong(what, format!("{N} bytes"), found, TRUNCATED))
            }
        }
    }

    pub(super) fn u32(&mut self, what: &str) -> Result<u32, Error> {
        self.array(what).map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self, what: &str) -> Result<u64, Error> {
        self.array(what).map(u64::from_le_bytes)
    }

    /// A string: its length, then its bytes, which need not be UTF-8.
    pub(super) fn string(&mut self, what: &str) -> Result<Bytes, Error> {
        let n = self.u64(what)?;
        self.take(usize::try_from(n).ok(), what)
    }

    /// A key or tensor name: UTF-8, not empty, not endless.
    pub(super) fn name(&mut self, what: &str) -> Result<String, Error> {
        let bytes = self.string(what)?;
        if bytes.is_empty() || bytes.len() > NAME_BYTES_MAX {
            let found = format!("{} bytes", bytes.len());
            return Err(self.wrong(what, format!("1 to {NAME_BYTES_MAX} bytes"), found, DAMAGED));
        }
        match str::from_utf8(&bytes) {
            Ok(name) => Ok(name.to_owned()),
            Err(_) => Err(self.wrong(what, "UTF-8 text", "other bytes", DAMAGED)),
        }
    }

    /// The error that something near this position is wrong.
    pub(super) fn wrong(
        &self,
        what: &str,
        expected: impl Into<String>,
        found: impl Into<String>,
        advice: &'static str,
    ) -> Error {
        Error::file(self.file, format!("{what}, near byte {}", self.position), expected, found, advice)
    }
}
