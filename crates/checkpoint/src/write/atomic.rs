//! Files that appear whole or not at all.
//!
//! Owns the temporary file beside the target, and its removal when writing fails.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::Error;

/// Writes a file through `fill` and moves it to its place once every byte has reached the disk.
///
/// # Errors
/// If the folder cannot be written, or `fill` fails; then the file is as it was
pub fn write(file: &Arc<Path>, fill: impl FnOnce(&mut BufWriter<&File>) -> io::Result<()>) -> Result<(), Error> {
    let (temporary, handle) = Temporary::create(file).map_err(|e| Error::io(file, "create a file beside it", e))?;
    let mut out = BufWriter::with_capacity(1 << 20, &handle);
    fill(&mut out).and_then(|()| out.flush()).map_err(|e| Error::io(file, "write the file", e))?;
    drop(out);
    handle.sync_all().map_err(|e| Error::io(file, "bring the file to the disk", e))?;
    drop(handle);
    temporary.rename(file).map_err(|e| Error::io(file, "move the finished file into place", e))?;
    sync_folder(file);
    Ok(())
}

/// Removed when dropped, unless it was renamed.
struct Temporary(Option<PathBuf>);

impl Temporary {
    fn create(file: &Path) -> io::Result<(Self, File)> {
        static COUNTER: AtomicU64 = AtomicU64::new(0);
        let Some(name) = file.file_name() else {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "the path has no file name"));
        };
        let mut hidden = OsString::from(".");
        hidden.push(name);
        hidden.push(format!(".tmp-{}-{}", process::id(), COUNTER.fetch_add(1, Ordering::Relaxed)));
        let path = file.with_file_name(hidden);
        let handle = OpenOptions::new().write(true).create_new(true).open(&path)?;
        Ok((Self(Some(path)), handle))
    }

    fn rename(mut self, target: &Path) -> io::Result<()> {
        if let Some(path) = &self.0 {
            fs::rename(path, target)?;
        }
        self.0 = None;
        Ok(())
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if let Some(path) = &self.0 {
            // Nothing more can be done than to try.
            let _ = fs::remove_file(path);
        }
    }
}

/// Makes the new name durable, where a folder can be opened like a file.
fn sync_folder(file: &Path) {
    let folder = match file.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    };
    // The bytes are safe already; a system that cannot do this loses at most the renaming in a power cut.
    if let Ok(handle) = File::open(folder) {
        let _ = handle.sync_all();
    }
}
