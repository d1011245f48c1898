//! The thread of a store that writes: new files, the times of used ones, and removals to keep the budget.
//!
//! Owns the folder's layout and what is done about failures: a failed write costs its block, and after some in a row
//! blocks are dropped before the disk is tried again, the more the longer it fails. Must not hold the state's lock
//! during a call of the file system.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::PoisonError;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use super::index::{Listed, Time, system_time, time_of};
use super::store::{Job, Shared};
use super::{BlockKey, disk::Item};

/// How files of blocks end.
pub(super) const SUFFIX: &str = ".block";
/// Where files are until they are complete.
const UNFINISHED: &str = "unfinished";
/// After this time a file there is what a process left that was ended; writing one takes milliseconds.
const ABANDONED_S: u64 = 600;
/// No block is larger: such a file is somebody's mistake, and counting it would remove all others.
const FILE_BYTES_MAX: u64 = 1 << 30;
/// Failures in a row that are taken for accidents.
const N_FAILURES_MIN: u32 = 3;
/// The most blocks that are dropped between two attempts.
const N_SKIPPED_MAX: u64 = 4096;
/// The folder is listed again when this part of the budget was written: other processes write too.
const SCANS_PER_BUDGET: u64 = 16;

/// The folder of keys that begin with `first`.
pub(super) fn folder_name(first: u8) -> String {
    format!("{first:02x}")
}

enum Task {
    Write(Job),
    Touch(BlockKey, Time),
    Stop,
}

impl Shared {
    /// Makes the folders that files go through, and removes what was left in the middle of writing.
    pub(super) fn prepare(&self) -> io::Result<()> {
        let unfinished = self.folder.join(UNFINISHED);
        self.disk.create_folder(&unfinished)?;
        let mut abandoned = Vec::new();
        let now = time_of(SystemTime::now());
        self.disk.list(&unfinished, &mut |item: Item| {
            if now.saturating_sub(time_of(item.modified)) / 1_000_000_000 >= ABANDONED_S {
                abandoned.push(unfinished.join(item.name));
            }
        })?;
        // What cannot be removed is not in the way.
        abandoned.iter().for_each(|path| drop(self.disk.remove(path)));
        Ok(())
    }

    /// Learns what the folder has.
    pub(super) fn scan(&self) -> io::Result<()> {
        let mut n_strange = 0;
        let mut folders = [false; 256];
        self.disk.list(&self.folder, &mut |item| {
            let name = item.name.to_str().unwrap_or_default();
            let first = (0..=u8::MAX).find(|first| !item.is_file && folder_name(*first) == name);
            match first {
                Some(first) => folders[usize::from(first)] = true,
                None => n_strange += u64::from(name != UNFINISHED),
            }
        })?;
        let mut listed = Vec::new();
        for first in 0..=u8::MAX {
            listed.clear();
            let path = self.folder.join(folder_name(first));
            let mut each = |item: Item| match block_of(first, &item) {
                Some(file) => listed.push(file),
                None => n_strange += 1,
            };
            match folders[usize::from(first)].then(|| self.disk.list(&path, &mut each)) {
                None | Some(Ok(())) => self.lock().index.replace(first, &listed),
                // A link, or a folder that is not ours.
                Some(Err(_)) => n_strange += 1,
            }
        }
        self.lock().stats.n_strange = n_strange;
        Ok(())
    }

    /// The thread.
    pub(super) fn run(&self) {
        let mut n_new_bytes = 0;
        loop {
            match self.next() {
                Task::Stop => return,
                // Other processes share the folder, so it may be gone, and it matters little.
                Task::Touch(key, used) => drop(self.disk.set_modified(&self.path_of(&key), system_time(used))),
                Task::Write(mut job) => {
                    n_new_bytes += job.file.len() as u64;
                    if n_new_bytes > self.budget_bytes / SCANS_PER_BUDGET {
                        n_new_bytes = 0;
                        // If it fails, the next write says why.
                        let _ = self.scan();
                    }
                    let result = self.write(&mut job);
                    self.finish(job, result);
                }
            }
        }
    }

    fn next(&self) -> Task {
        let mut state = self.lock();
        loop {
            state.is_busy = true;
            if let Some(job) = state.queue.pop_front() {
                return Task::Write(job);
            }
            if let Some((key, used)) = state.touched.pop_front() {
                return Task::Touch(key, used);
            }
            state.is_busy = false;
            self.idle.notify_all();
            if state.closes {
                return Task::Stop;
            }
            state = self.work.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn write(&self, job: &mut Job) -> io::Result<()> {
        self.layout.seal(&mut job.file);
        self.make_room(job.file.len() as u64)?;
        let target = self.path_of(&job.key);
        let unfinished = self.unfinished_path();
        let in_folder = |path: &Path, call: &dyn Fn() -> io::Result<()>| match call() {
            // The first file of its folder, or somebody emptied the store.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                path.parent().map_or(Ok(()), |folder| self.disk.create_folder(folder))?;
                call()
            }
            done => done,
        };
        let written = in_folder(&unfinished, &|| self.disk.write_new(&unfinished, &job.file))
            .and_then(|()| in_folder(&target, &|| self.disk.rename(&unfinished, &target)));
        if written.is_err() {
            // A part of a file may be there; another process' next start tries again.
            let _ = self.disk.remove(&unfinished);
        }
        written
    }

    /// A name that no other process or thread uses.
    fn unfinished_path(&self) -> PathBuf {
        static COUNTER: AtomicU64 = AtomicU64::new(0);
        let n = COUNTER.fetch_add(1, Ordering::Relaxed);
        let name = format!("{}-{}-{n}", std::process::id(), time_of(SystemTime::now()));
        self.folder.join(UNFINISHED).join(name)
    }

    /// Removes what was not used for longest until `bytes` more fit into the budget.
    fn make_room(&self, bytes: u64) -> io::Result<()> {
        loop {
            let oldest = {
                let state = self.lock();
                if state.index.bytes().saturating_add(bytes) <= self.budget_bytes {
                    return Ok(());
                }
                state.index.oldest()
            };
            let Some(oldest) = oldest else { return Ok(()) };
            let removed = self.disk.remove(&self.path_of(&oldest));
            let mut state = self.lock();
            match removed {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    // It still takes room; the next attempt begins with another.
                    state.index.touch(&[oldest], |_, _| ());
                    return Err(error);
                }
                _ => {
                    state.index.remove(&oldest);
                    state.stats.n_evicted += 1;
                }
            }
        }
    }

    fn finish(&self, job: Job, result: io::Result<()>) {
        let trouble = result.as_ref().err().map(|error| format!("{}: {error}", self.path_of(&job.key).display()));
        let mut state = self.lock();
        state.pending.remove(&job.key);
        match result {
            Ok(()) => {
                state.stats.n_written += 1;
                state.n_failures = 0;
                state.index.insert(job.key, job.file.len() as u64);
            }
            Err(_) => {
                state.stats.n_failed += 1;
                state.stats.last_trouble = trouble;
                state.n_failures = state.n_failures.saturating_add(1);
                if let Some(n) = state.n_failures.checked_sub(N_FAILURES_MIN) {
                    state.n_to_skip = 16u64.checked_shl(n).map_or(N_SKIPPED_MAX, |n| n.min(N_SKIPPED_MAX));
                }
            }
        }
        state.free.push(job.file);
    }
}

/// The block of a file in the folder of `first`, if its name and kind are one's.
fn block_of(first: u8, item: &Item) -> Option<Listed> {
    let key = BlockKey::parse(item.name.to_str()?.strip_suffix(SUFFIX)?)?;
    let is_ours = item.is_file && item.bytes <= FILE_BYTES_MAX && key.as_bytes()[0] == first;
    is_ours.then(|| Listed { key, bytes: item.bytes, used: time_of(item.modified) })
}
