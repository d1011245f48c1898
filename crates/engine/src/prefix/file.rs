//! A block's file: a header that says exactly what the rows behind it are, and the rows.
//!
//! ```text
//! magic 8 | version u32 | n_tokens u32 | payload length u64 | fingerprint 32 | key 32 | parent's key 32
//! | XXH3-64 of the payload u64 | tokens u32 × n_tokens | zeros up to 8 before a multiple of 64
//! | XXH3-64 of all before u64 | payload
//! ```
//!
//! Numbers are little endian. Owns these bytes. Must not open files. Every byte read is hostile: nothing in a header is
//! believed, each field is compared with what the reader expects.
//!
//! The checksums find accidents: torn writes, failing disks. They do not find malice, for which they would need a secret:
//! whoever may write the folder may change what a model remembers. XXH3 and not SHA-256, because a prefix of 16 thousand
//! tokens is half a gigabyte that somebody waits for; examples/store.rs measures.

use std::io;

use thiserror::Error;
use xxhash_rust::xxh3::xxh3_64;

use super::{BlockKey, Fingerprint};

const MAGIC: [u8; 8] = *b"minkeblk";
/// Part of every fingerprint too, so that files of another version are under other names.
pub(super) const VERSION: u32 = 1;
/// Bytes before the tokens.
const FIXED: usize = 8 + 4 + 4 + 8 + 3 * 32 + 8;
/// Where the payload's checksum lies.
const PAYLOAD_CHECKSUM: usize = FIXED - 8;

/// Why a file is not the block that was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[allow(missing_docs, reason = "each variant carries its text")]
pub enum Damage {
    #[error("not a regular file")]
    NotAFile,
    #[error("expected {expected} bytes, found {found}: the file was cut off or is of another kind")]
    Length { expected: u64, found: u64 },
    #[error("not a file of cache rows")]
    Magic,
    #[error("expected version {VERSION}, found {found}")]
    Version { found: u32 },
    #[error("its header was damaged")]
    Header,
    #[error("it is of another model or another kind of cache")]
    Foreign,
    #[error("it is another block than its name says")]
    Key,
    #[error("its rows were damaged")]
    Payload,
    #[error("it could not be read: {0}")]
    Unreadable(io::ErrorKind),
}

/// What all files of a store have in common.
#[derive(Clone, Copy, Debug)]
pub struct FileLayout {
    /// Whose rows they are.
    pub fingerprint: Fingerprint,
    /// Tokens of a block.
    pub block_len: usize,
    /// Bytes of a block's rows.
    pub payload_bytes: usize,
}

impl FileLayout {
    /// Bytes before the payload: a multiple of 64, so that rows begin with a cache line.
    #[must_use]
    pub fn header_bytes(&self) -> usize {
        (FIXED + 4 * self.block_len + 8).next_multiple_of(64)
    }

    /// Bytes of a file.
    #[must_use]
    pub fn file_bytes(&self) -> usize {
        self.header_bytes() + self.payload_bytes
    }

    /// Writes the header of a file, except for its checksums.
    ///
    /// # Panics
    /// If there are not `block_len` tokens, or `file` is not [`FileLayout::file_bytes`] long
    pub fn describe(&self, key: &BlockKey, parent: &BlockKey, tokens: &[u32], file: &mut [u8]) {
        assert_eq!((tokens.len(), file.len()), (self.block_len, self.file_bytes()), "tokens and bytes of a block");
        let header = &mut file[..self.header_bytes()];
        header.fill(0);
        let mut at = 0;
        let mut put = |bytes: &[u8]| {
            header[at..at + bytes.len()].copy_from_slice(bytes);
            at += bytes.len();
        };
        put(&MAGIC);
        put(&VERSION.to_le_bytes());
        put(&(self.block_len as u32).to_le_bytes());
        put(&(self.payload_bytes as u64).to_le_bytes());
        put(self.fingerprint.as_bytes());
        put(key.as_bytes());
        put(parent.as_bytes());
        put(&[0; 8]);
        tokens.iter().for_each(|token| put(&token.to_le_bytes()));
    }

    /// Writes the checksums of a file that is complete otherwise.
    ///
    /// # Panics
    /// If `file` is not [`FileLayout::file_bytes`] long
    pub fn seal(&self, file: &mut [u8]) {
        assert_eq!(file.len(), self.file_bytes());
        let (header, payload) = file.split_at_mut(self.header_bytes());
        header[PAYLOAD_CHECKSUM..FIXED].copy_from_slice(&xxh3_64(payload).to_le_bytes());
        let (header, checksum) = header.split_at_mut(header.len() - 8);
        checksum.copy_from_slice(&xxh3_64(header).to_le_bytes());
    }

    /// Compares a header with what it must say, and returns what the payload's XXH3-64 must be.
    ///
    /// # Errors
    /// The first field that differs
    pub fn check_header(&self, header: &[u8], key: &BlockKey, tokens: &[u32]) -> Result<u64, Damage> {
        let mut fields = Fields(header);
        if header.len() != self.header_bytes() {
            return Err(Damage::Length { expected: self.header_bytes() as u64, found: header.len() as u64 });
        }
        if fields.take()? != MAGIC {
            return Err(Damage::Magic);
        }
        let found = u32::from_le_bytes(fields.take()?);
        if found != VERSION {
            return Err(Damage::Version { found });
        }
        let (body, checksum) = header.split_at(header.len() - 8);
        if checksum != xxh3_64(body).to_le_bytes() {
            return Err(Damage::Header);
        }
        let sizes = (u32::from_le_bytes(fields.take()?) as usize, u64::from_le_bytes(fields.take()?));
        if sizes != (self.block_len, self.payload_bytes as u64) || fields.take()? != *self.fingerprint.as_bytes() {
            return Err(Damage::Foreign);
        }
        let (named, parent) = (BlockKey::from(fields.take()?), BlockKey::from(fields.take()?));
        let checksum = u64::from_le_bytes(fields.take()?);
        let written = fields.0.as_chunks().0.iter().map(|token| u32::from_le_bytes(*token));
        let same_tokens = tokens.len() == self.block_len && written.zip(tokens).all(|(a, b)| a == *b);
        match named == *key && same_tokens && parent.child(tokens) == *key {
            true => Ok(checksum),
            false => Err(Damage::Key),
        }
    }
}

/// What is left of a header.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N], Damage> {
        let (field, rest) = self.0.split_first_chunk().ok_or(Damage::Header)?;
        self.0 = rest;
        Ok(*field)
    }
}
