//! What the store asks of a file system.
//!
//! Owns the calls, so that tests can put failures in their place. Must not decide anything: what to do about a file or a
//! failure is the store's business.

use std::ffi::OsString;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::Path;
use std::time::SystemTime;

/// A name in a folder, without following links.
#[derive(Clone, Debug)]
pub struct Item {
    /// The name.
    pub name: OsString,
    /// Whether it is a regular file; links, pipes and devices are not.
    pub is_file: bool,
    /// Its length.
    pub bytes: u64,
    /// When it was changed, or last used.
    pub modified: SystemTime,
}

/// The calls.
#[allow(clippy::missing_errors_doc, reason = "each fails where the system's call does")]
pub trait Disk: Send + Sync {
    /// Makes a folder that only this user may enter, and those above it; it may be there already.
    fn create_folder(&self, path: &Path) -> io::Result<()>;
    /// Calls `each` with everything in a folder that can be looked at.
    fn list(&self, path: &Path, each: &mut dyn FnMut(Item)) -> io::Result<()>;
    /// Writes a file that must not be there yet; only this user may read it.
    fn write_new(&self, path: &Path, bytes: &[u8]) -> io::Result<()>;
    /// Gives a file another name in the same file system, in one step, in place of a file that has it.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes a file, or a link but not what it leads to.
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// Sets when a file was changed.
    fn set_modified(&self, path: &Path, time: SystemTime) -> io::Result<()>;
    /// What a name stands for, without following links.
    fn look(&self, path: &Path) -> io::Result<Item>;
    /// Opens a file.
    fn open(&self, path: &Path) -> io::Result<Box<dyn Read>>;
}

/// This machine's file system.
#[derive(Clone, Copy, Debug, Default)]
pub struct System;

fn item(name: OsString, about: &fs::Metadata) -> io::Result<Item> {
    Ok(Item { name, is_file: about.is_file(), bytes: about.len(), modified: about.modified()? })
}

/// Conversations are nobody else's business.
#[cfg(unix)]
fn private(folder: &mut DirBuilder, file: &mut OpenOptions) {
    use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
    folder.mode(0o700);
    file.mode(0o600);
}

/// Other systems' folders of a user are private without asking.
#[cfg(not(unix))]
fn private(_: &mut DirBuilder, _: &mut OpenOptions) {}

impl Disk for System {
    fn create_folder(&self, path: &Path) -> io::Result<()> {
        let mut builder = DirBuilder::new();
        private(&mut builder, &mut OpenOptions::new());
        builder.recursive(true).create(path)
    }

    fn list(&self, path: &Path, each: &mut dyn FnMut(Item)) -> io::Result<()> {
        for entry in fs::read_dir(path)? {
            let entry = entry?;
            // A file may have been removed since by another process.
            if let Ok(item) = entry.metadata().and_then(|about| item(entry.file_name(), &about)) {
                each(item);
            }
        }
        Ok(())
    }

    fn write_new(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        let mut options = OpenOptions::new();
        private(&mut DirBuilder::new(), &mut options);
        options.write(true).create_new(true).open(path)?.write_all(bytes)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn set_modified(&self, path: &Path, time: SystemTime) -> io::Result<()> {
        File::options().write(true).open(path)?.set_modified(time)
    }

    fn look(&self, path: &Path) -> io::Result<Item> {
        item(path.file_name().unwrap_or_default().to_owned(), &fs::symlink_metadata(path)?)
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn Read>> {
        Ok(Box::new(File::open(path)?))
    }
}
