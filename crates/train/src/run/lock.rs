//! One run in a folder: an advisory lock, which the system gives back when its process ends, however it ends.
//!
//! Owns the lock's file and its words. Must not know what the folder is for.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read as _, Seek as _, Write as _};
use std::path::Path;
use std::thread;
use std::time::Duration;

use super::{RunError, file};

const NAME: &str = ".lock";
/// How often a lock that is held is asked for again.
const ATTEMPTS: usize = 10;

/// A folder that no other run takes while this lives.
#[derive(Debug)]
pub struct RunLock {
    _file: File,
}

impl RunLock {
    /// Takes a folder.
    ///
    /// # Errors
    /// Another run has it, or the lock's file cannot be written
    pub fn take(folder: &Path) -> Result<Self, RunError> {
        let path = folder.join(NAME);
        let opened = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path);
        let mut lock = opened.map_err(|e| file(&path, e))?;
        let mut attempt = lock.try_lock();
        // Somebody who only asks holds it for an instant.
        for _ in 0..ATTEMPTS {
            if !matches!(attempt, Err(TryLockError::WouldBlock)) {
                break;
            }
            thread::sleep(Duration::from_millis(10));
            attempt = lock.try_lock();
        }
        match attempt {
            Err(TryLockError::WouldBlock) => {
                let mut pid = String::new();
                // Whoever holds it may not have written yet.
                let _ = (&lock).take(20).read_to_string(&mut pid);
                let who = pid.trim().parse::<u32>().map_or_else(|_| String::new(), |pid| format!(" ({pid})"));
                return Err(RunError::Busy { path: folder.to_owned(), who });
            }
            // A system of files without locks is no reason not to train.
            Ok(()) | Err(TryLockError::Error(_)) => {}
        }
        // For the error of whoever comes next; nothing depends on it.
        let _ = lock.set_len(0).and_then(|()| lock.rewind()).and_then(|()| writeln!(lock, "{}", std::process::id()));
        Ok(Self { _file: lock })
    }

    /// Whether a run has taken the folder.
    #[must_use]
    pub fn is_held(folder: &Path) -> bool {
        let opened = File::open(folder.join(NAME));
        opened.is_ok_and(|lock| matches!(lock.try_lock_shared(), Err(TryLockError::WouldBlock)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_taken_once() {
        let folder = tempfile::tempdir().unwrap();
        assert!(!RunLock::is_held(folder.path()));
        let lock = RunLock::take(folder.path()).unwrap();
        assert!(RunLock::is_held(folder.path()));
        let error = RunLock::take(folder.path()).unwrap_err().to_string();
        assert!(error.contains(&format!("another process ({}) is training here", std::process::id())), "{error}");
        drop(lock);
        assert!(!RunLock::is_held(folder.path()));
        assert!(RunLock::take(folder.path()).is_ok());
    }
}
