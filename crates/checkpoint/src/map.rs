//! Files mapped into memory.
//!
//! Owns the only `unsafe` of the crate: the call that maps. Must not interpret a byte.
#![expect(unsafe_code, reason = "mapping a file is unsafe: another process can change it under the mapping")]

use std::fs::{self, File};
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use memmap2::MmapOptions;

use crate::Error;
use crate::error::TRUNCATED;

/// Maps a whole regular file.
///
/// The mapping lives as long as the last view of it. Replacing the file by renaming another over it is safe, and that
/// is what this crate's writers do. Overwriting it in place changes weights under a running model, and shortening it
/// makes the system end the process at the next touch (SIGBUS): no reader that maps can prevent either.
///
/// # Errors
/// If the file is missing, unreadable, not a regular file, empty, or changes length while it is mapped
pub(crate) fn map(file: &Arc<Path>) -> Result<Bytes, Error> {
    // Asked before opening: opening a pipe would wait for a writer.
    let about = fs::metadata(file).map_err(|e| Error::io(file, "find the file", e))?;
    if !about.is_file() {
        let found = if about.is_dir() { "a folder" } else { "a device, pipe or socket" };
        return Err(Error::file(file, "kind", "a regular file", found, "give the path of a model file"));
    }
    let handle = File::open(file).map_err(|e| Error::io(file, "open the file", e))?;
    let length = |handle: &File| handle.metadata().map(|m| m.len()).map_err(|e| Error::io(file, "read the length", e));
    let n_bytes = length(&handle)?;
    if n_bytes == 0 {
        return Err(Error::file(file, "length", "a model file", "0 bytes", TRUNCATED));
    }
    let Ok(len) = usize::try_from(n_bytes) else {
        let expected = format!("at most {} bytes on this machine", usize::MAX);
        return Err(Error::file(file, "length", expected, format!("{n_bytes} bytes"), "use a 64-bit machine"));
    };
    // SAFETY: the mapping is read-only and private to this process's view; the doc comment states what others may do.
    let mapping = unsafe { MmapOptions::new().len(len).map(&handle) };
    let mapping = mapping.map_err(|e| Error::io(file, "map the file into memory", e))?;
    let now = length(&handle)?;
    if now != n_bytes {
        let (expected, found) = (format!("{n_bytes} bytes, as when it was opened"), format!("{now} bytes"));
        return Err(Error::file(file, "length", expected, found, "wait until the file is fully written"));
    }
    Ok(Bytes::from_owner(mapping))
}
