//! Tokenised documents in one file: written once, then read document by document by position.
//!
//! ```text
//! "minketok" · version u32 · flags u32                       (flags: documents may be split)
//! tokens: u32 little-endian, marks included
//! ends of the training documents, in tokens: u64 each; then those held out
//! number of tokens u64 · training documents u64 · held-out documents u64 · "minketok"
//! ```
//! Documents of both sides lie in one sequence, in the order that they were met; a document's entry holds its begin and
//! its end. The file appears by a rename once it is complete.
//!
//! Owns that format. A file that is not as expected is no error but is made again. Must not know what tokens mean.

use std::fs::File;
use std::io::{self, BufWriter, Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use super::Marked;
use crate::split::Split;

const MAGIC: &[u8; 8] = b"minketok";
const VERSION: u32 = 1;
const HEAD_BYTES: u64 = 16;
const FOOT_BYTES: u64 = 32;
/// Longest document, in tokens: what one read takes.
const DOCUMENT_TOKENS_MAX: u64 = 1 << 26;

/// Documents being written.
pub(super) struct TokenWriter<'a, W: Write> {
    out: &'a mut BufWriter<W>,
    n_tokens: u64,
    entries: [Vec<[u64; 2]>; 2],
}

impl<'a, W: Write> TokenWriter<'a, W> {
    pub(super) fn new(out: &'a mut BufWriter<W>) -> io::Result<Self> {
        out.write_all(MAGIC)?;
        out.write_all(&VERSION.to_le_bytes())?;
        out.write_all(&0u32.to_le_bytes())?;
        Ok(Self { out, n_tokens: 0, entries: [Vec::new(), Vec::new()] })
    }

    pub(super) fn push(&mut self, side: Split, tokens: &[Marked]) -> io::Result<()> {
        for token in tokens {
            self.out.write_all(&token.0.to_le_bytes())?;
        }
        let begin = self.n_tokens;
        self.n_tokens += tokens.len() as u64;
        self.entries[side as usize].push([begin, self.n_tokens]);
        Ok(())
    }

    pub(super) fn finish(self) -> io::Result<()> {
        let n_entries = self.entries.each_ref().map(|entries| entries.len() as u64);
        for bound in self.entries.iter().flatten().flatten() {
            self.out.write_all(&bound.to_le_bytes())?;
        }
        for number in [self.n_tokens, n_entries[0], n_entries[1]] {
            self.out.write_all(&number.to_le_bytes())?;
        }
        self.out.write_all(MAGIC)
    }
}

/// A complete file of documents.
#[derive(Debug)]
pub(super) struct TokenFile {
    file: Mutex<File>,
    n_tokens: u64,
    n_documents: [u64; 2],
}

impl TokenFile {
    /// Opens a file; `None` if there is none or it is not as expected.
    pub(super) fn open(path: &Path) -> Option<Self> {
        let mut file = File::open(path).ok()?;
        let n_bytes = file.metadata().ok()?.len();
        let mut head = [0; HEAD_BYTES as usize];
        file.read_exact(&mut head).ok()?;
        file.seek(SeekFrom::Start(n_bytes.checked_sub(FOOT_BYTES)?)).ok()?;
        let mut foot = [0; FOOT_BYTES as usize];
        file.read_exact(&mut foot).ok()?;
        let [n_tokens, n_train, n_held_out] = [0, 8, 16].map(|at| number(&foot[at..at + 8]));
        let n_entries = n_train.checked_add(n_held_out)?;
        let expected = n_tokens.checked_mul(4)?.checked_add(n_entries.checked_mul(16)?)?;
        let is_whole = expected.checked_add(HEAD_BYTES + FOOT_BYTES)? == n_bytes;
        let is_ours = &head[..8] == MAGIC && head[8..12] == VERSION.to_le_bytes() && &foot[24..] == MAGIC;
        (is_whole && is_ours).then(|| Self { file: Mutex::new(file), n_tokens, n_documents: [n_train, n_held_out] })
    }

    pub(super) fn n_documents(&self, side: Split) -> u64 {
        self.n_documents[side as usize]
    }

    /// Tokens of all documents.
    pub(super) fn n_tokens(&self) -> u64 {
        self.n_tokens
    }

    /// Document `index` of a side.
    pub(super) fn document(&self, side: Split, index: u64) -> io::Result<Vec<Marked>> {
        let damaged =
            || io::Error::new(io::ErrorKind::InvalidData, "the token file is damaged: remove it, it is made again");
        if index >= self.n_documents(side) {
            return Err(damaged());
        }
        let at = index + if side == Split::HeldOut { self.n_documents[0] } else { 0 };
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        let mut entry = [0; 16];
        file.seek(SeekFrom::Start(HEAD_BYTES + self.n_tokens * 4 + at * 16))?;
        file.read_exact(&mut entry)?;
        let (begin, end) = (number(&entry[..8]), number(&entry[8..]));
        if begin > end || end > self.n_tokens || end - begin > DOCUMENT_TOKENS_MAX {
            return Err(damaged());
        }
        let mut bytes = vec![0; (end - begin) as usize * 4];
        file.seek(SeekFrom::Start(HEAD_BYTES + begin * 4))?;
        file.read_exact(&mut bytes)?;
        let token = |bytes: &[u8]| Marked(bytes.iter().rev().fold(0, |value, byte| value << 8 | u32::from(*byte)));
        Ok(bytes.chunks_exact(4).map(token).collect())
    }
}

fn number(bytes: &[u8]) -> u64 {
    bytes.iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents_come_back_and_damage_is_seen() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.tokens");
        let documents: Vec<Vec<Marked>> =
            (0..5u32).map(|n| (0..n * 3).map(|i| Marked::new(n * 100 + i, i % 2 == 0)).collect()).collect();
        let mut out = BufWriter::new(File::create(&path).unwrap());
        let mut writer = TokenWriter::new(&mut out).unwrap();
        for (i, document) in documents.iter().enumerate() {
            writer.push(if i % 2 == 0 { Split::Train } else { Split::HeldOut }, document).unwrap();
        }
        writer.finish().unwrap();
        drop(out);
        let file = TokenFile::open(&path).unwrap();
        assert_eq!((file.n_documents(Split::Train), file.n_documents(Split::HeldOut), file.n_tokens()), (3, 2, 30));
        for i in 0..5 {
            let side = if i % 2 == 0 { Split::Train } else { Split::HeldOut };
            assert_eq!(file.document(side, i / 2).unwrap(), documents[i as usize]);
        }
        assert!(file.document(Split::HeldOut, 2).is_err());
        let bytes = std::fs::read(&path).unwrap();
        for n in 0..bytes.len() {
            std::fs::write(&path, &bytes[..n]).unwrap();
            assert!(TokenFile::open(&path).is_none(), "cut to {n}");
        }
        // No flipped byte panics; what is read then is checked by who reads.
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 0x81;
            std::fs::write(&path, damaged).unwrap();
            if let Some(file) = TokenFile::open(&path) {
                let _ = (file.document(Split::Train, 2), file.document(Split::HeldOut, 1));
            }
        }
    }
}
