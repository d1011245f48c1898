//! A file system that fails on demand.
//!
//! Owns the failures and the gate that holds the writer back. Must not fail of its own accord.

use std::io::{self, Read};
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex};
use std::time::SystemTime;

use engine::prefix::disk::{Disk, Item, System};

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Nothing of the file is written.
    Full,
    /// A part of it is, and the call fails.
    Short,
    /// A part of it is, and the call succeeds: what a power cut leaves.
    Torn,
    /// Complete files cannot be moved to their places.
    Rename,
    /// Nothing can be removed.
    Remove,
    /// Files cannot be opened.
    Denied,
    /// Files fail in their middle.
    Read,
}

#[derive(Default)]
struct Controls {
    fault: Option<Fault>,
    /// Writes wait.
    is_held: bool,
    n_writes: usize,
}

/// Shared by a test and the store under it.
#[derive(Clone, Default)]
pub(crate) struct Faulty(Arc<(Mutex<Controls>, Condvar)>);

impl Faulty {
    pub(crate) fn set(&self, fault: impl Into<Option<Fault>>) {
        self.0.0.lock().unwrap().fault = fault.into();
    }

    pub(crate) fn hold(&self, is_held: bool) {
        self.0.0.lock().unwrap().is_held = is_held;
        self.0.1.notify_all();
    }

    pub(crate) fn n_writes(&self) -> usize {
        self.0.0.lock().unwrap().n_writes
    }

    fn fail(&self, fault: Fault, kind: io::ErrorKind) -> io::Result<()> {
        if self.has(fault) { Err(kind.into()) } else { Ok(()) }
    }

    fn has(&self, fault: Fault) -> bool {
        self.0.0.lock().unwrap().fault == Some(fault)
    }
}

struct FailsInTheMiddle(Box<dyn Read>, usize);

impl Read for FailsInTheMiddle {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if self.1 == 0 {
            return Err(io::ErrorKind::TimedOut.into());
        }
        let n = out.len().min(self.1);
        self.1 -= n;
        self.0.read_exact(&mut out[..n])?;
        Ok(n)
    }
}

impl Disk for Faulty {
    fn create_folder(&self, path: &Path) -> io::Result<()> {
        System.create_folder(path)
    }

    fn list(&self, path: &Path, each: &mut dyn FnMut(Item)) -> io::Result<()> {
        System.list(path, each)
    }

    fn write_new(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        let (controls, changed) = &*self.0;
        let mut controls = changed.wait_while(controls.lock().unwrap(), |controls| controls.is_held).unwrap();
        controls.n_writes += 1;
        let fault = controls.fault;
        drop(controls);
        match fault {
            Some(Fault::Full) => Err(io::ErrorKind::StorageFull.into()),
            Some(Fault::Short) => {
                System.write_new(path, &bytes[..bytes.len() / 2])?;
                Err(io::ErrorKind::WriteZero.into())
            }
            Some(Fault::Torn) => System.write_new(path, &bytes[..bytes.len() / 2]),
            _ => System.write_new(path, bytes),
        }
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.fail(Fault::Rename, io::ErrorKind::PermissionDenied)?;
        System.rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.fail(Fault::Remove, io::ErrorKind::PermissionDenied)?;
        System.remove(path)
    }

    fn set_modified(&self, path: &Path, time: SystemTime) -> io::Result<()> {
        System.set_modified(path, time)
    }

    fn look(&self, path: &Path) -> io::Result<Item> {
        System.look(path)
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn Read>> {
        self.fail(Fault::Denied, io::ErrorKind::PermissionDenied)?;
        let file = System.open(path)?;
        Ok(if self.has(Fault::Read) { Box::new(FailsInTheMiddle(file, 700)) } else { file })
    }
}
