//! Cache blocks in files, so that the beginning of a conversation is read and not computed again after a restart.
//!
//! A folder holds one file per block, `ab/abcd….block` for the key abcd…, of any number of models and processes. A file
//! appears whole, by a rename; it is never synced, because a file that a crash cut short is found out by its checksums
//! and costs no more than the time to compute it again. What is not used for longest goes when the budget is full. The
//! folder is the only record: opening lists it, and a file's time is its last use.
//!
//! Owns what is known of the folder, the buffers that wait to be written, and the counts. Files are written by a thread
//! of its own (`writer.rs`); nothing here waits for it but [`Store::flush`]. Must not fail because the disk does.

use std::collections::{HashSet, VecDeque};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use thiserror::Error;
use xxhash_rust::xxh3::Xxh3Default;

use super::disk::{Disk, System};
use super::file::FileLayout;
use super::index::{Index, Time};
use super::{BlockKey, Damage, Fingerprint, writer};

/// Bytes read before they are added to the checksum: what the nearest caches hold.
const CHUNK: usize = 1 << 17;

/// Uses that wait to be noted in files; of more the first are forgotten, which costs nothing but their order after a
/// restart.
const N_TOUCHED_MAX: usize = 1 << 16;

/// What a store holds and how much of it.
#[derive(Clone, Copy, Debug)]
pub struct StoreOptions {
    /// Whose rows they are; see [`Fingerprint::new`].
    pub fingerprint: Fingerprint,
    /// Tokens of a block.
    pub block_len: usize,
    /// Bytes of a block's rows: of the model's cache, and behind them those of the MTP module's where it has one.
    pub payload_bytes: usize,
    /// Bytes that the folder's files may take. Several processes keep it together, each up to a sixteenth more.
    pub budget_bytes: u64,
    /// Memory for blocks that wait to be written; at least one block.
    pub queue_bytes: usize,
}

/// Why a store could not be opened.
#[derive(Debug, Error)]
pub enum StoreError {
    /// The folder cannot be used.
    #[error("{}: could not {action}: {source}; give a folder of this user on a disk with room", path.display())]
    Io {
        /// What it was about.
        path: PathBuf,
        /// What was tried.
        action: &'static str,
        /// Why it failed.
        source: io::Error,
    },
    /// Not even one block fits.
    #[error("a budget of {budget} bytes for cached blocks: expected at least the {block} of one block; raise it")]
    Budget {
        /// Bytes allowed.
        budget: u64,
        /// Bytes of a file.
        block: u64,
    },
    /// There is no memory for the queue.
    #[error("out of memory: {wanted} bytes wanted for blocks that wait to be written; lower the queue's size")]
    OutOfMemory {
        /// Bytes asked for.
        wanted: u64,
    },
}

/// What became of a block to load.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Load {
    /// Its rows are there.
    Loaded,
    /// It is not in the store.
    Missing,
    /// There was a file that is not the block; it was removed, unless it could not be read.
    Damaged(Damage),
}

/// What became of a block to save.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Saved {
    /// It will be written.
    Queued,
    /// It is there already, or waits to be written.
    Known,
    /// The queue is full, or the disk fails: it is not saved.
    Dropped,
}

/// What happened since a store was opened, and what it holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StoreStats {
    /// Files known of, of every model.
    pub n_blocks: usize,
    /// Their bytes.
    pub bytes: u64,
    /// Blocks written.
    pub n_written: u64,
    /// Blocks not written because the queue was full.
    pub n_dropped: u64,
    /// Blocks not written because the disk failed, or had failed again and again.
    pub n_failed: u64,
    /// Files removed to keep the budget.
    pub n_evicted: u64,
    /// Blocks loaded.
    pub n_loaded: u64,
    /// Blocks asked for that are not there.
    pub n_missing: u64,
    /// Files that were not what their name says.
    pub n_damaged: u64,
    /// Things in the folder that are none of the store's files, at the last look.
    pub n_strange: u64,
    /// The last file that was damaged or failed, and why; for people.
    pub last_trouble: Option<String>,
}

/// A block that waits to be written: a whole file but for its checksums.
pub(super) struct Job {
    pub(super) key: BlockKey,
    pub(super) file: Vec<u8>,
}

#[derive(Default)]
pub(super) struct State {
    pub(super) index: Index,
    pub(super) stats: StoreStats,
    /// Buffers of a file's length.
    pub(super) free: Vec<Vec<u8>>,
    pub(super) queue: VecDeque<Job>,
    /// Keys of what is filled, waits or is written.
    pub(super) pending: HashSet<BlockKey>,
    /// Uses that files do not show yet.
    pub(super) touched: VecDeque<(BlockKey, Time)>,
    /// Whether the writer is at work.
    pub(super) is_busy: bool,
    pub(super) closes: bool,
    /// Writes that failed one after another.
    pub(super) n_failures: u32,
    /// Blocks to drop before the disk is tried again.
    pub(super) n_to_skip: u64,
}

impl State {
    /// A use that the block's file shall show.
    fn note(&mut self, key: BlockKey, used: Time) {
        if self.touched.len() == N_TOUCHED_MAX {
            self.touched.pop_front();
        }
        self.touched.push_back((key, used));
    }
}

pub(super) struct Shared {
    pub(super) disk: Box<dyn Disk>,
    pub(super) folder: PathBuf,
    pub(super) layout: FileLayout,
    pub(super) budget_bytes: u64,
    state: Mutex<State>,
    /// There is work for the writer.
    pub(super) work: Condvar,
    /// There is none left.
    pub(super) idle: Condvar,
}

impl Shared {
    /// The state; what a thread that panicked left behind is consistent enough for a cache.
    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn path_of(&self, key: &BlockKey) -> PathBuf {
        self.folder.join(writer::folder_name(key.as_bytes()[0])).join(format!("{key}{}", writer::SUFFIX))
    }
}

/// Blocks in a folder. Every method may be called from any thread.
pub struct Store {
    shared: Arc<Shared>,
    writer: Option<JoinHandle<()>>,
}

impl Store {
    /// Opens a folder, which is made where it is missing. Reads names and sizes, not files.
    ///
    /// # Errors
    /// The folder cannot be made or listed, a block exceeds the budget, or the queue's memory is not there
    pub fn open(folder: impl AsRef<Path>, options: StoreOptions) -> Result<Self, StoreError> {
        Self::open_on(Box::new(System), folder, options)
    }

    /// As [`Store::open`], through another's calls of the file system.
    ///
    /// # Errors
    /// As [`Store::open`]
    pub fn open_on(disk: Box<dyn Disk>, folder: impl AsRef<Path>, options: StoreOptions) -> Result<Self, StoreError> {
        let StoreOptions { fingerprint, block_len, payload_bytes, budget_bytes, queue_bytes } = options;
        let layout = FileLayout { fingerprint, block_len, payload_bytes };
        let (budget, block) = (budget_bytes, layout.file_bytes() as u64);
        if budget < block {
            return Err(StoreError::Budget { budget, block });
        }
        let n_buffers = (queue_bytes / layout.file_bytes()).max(1);
        let wanted = block.saturating_mul(n_buffers as u64);
        let buffer = |_| ops::zeroed(layout.file_bytes(), "blocks").map_err(|_| StoreError::OutOfMemory { wanted });
        let state = State {
            free: (0..n_buffers).map(buffer).collect::<Result<_, _>>()?,
            queue: VecDeque::with_capacity(n_buffers),
            pending: HashSet::with_capacity(n_buffers),
            ..State::default()
        };
        let folder = folder.as_ref().to_owned();
        let (work, idle) = (Condvar::new(), Condvar::new());
        let shared = Arc::new(Shared { disk, folder, layout, budget_bytes, state: Mutex::new(state), work, idle });
        let failed = |action| {
            let path = shared.folder.clone();
            move |source| StoreError::Io { path, action, source }
        };
        shared.prepare().map_err(failed("make folders in it"))?;
        shared.scan().map_err(failed("list it"))?;
        let writer = {
            let shared = shared.clone();
            std::thread::Builder::new().name("minke-store".into()).spawn(move || shared.run())
        };
        let writer = writer.map_err(failed("start a thread that writes to it"))?;
        Ok(Self { shared, writer: Some(writer) })
    }

    /// Whether there is such a block, by what is known of the folder: another process may have removed it, or written
    /// one that is not known here.
    #[must_use]
    pub fn contains(&self, key: &BlockKey) -> bool {
        self.shared.lock().index.contains(key)
    }

    /// Reads a block's rows. Unless it is [`Load::Loaded`], what `out` holds means nothing.
    ///
    /// # Shapes   `tokens [block_len]` · `out [payload_bytes]`
    /// # Panics
    /// If `out` has another length
    pub fn load(&self, key: &BlockKey, tokens: &[u32], out: &mut [u8]) -> Load {
        let shared = &*self.shared;
        assert_eq!(out.len(), shared.layout.payload_bytes, "bytes of a block's rows");
        let path = shared.path_of(key);
        let read = self.read(&path, key, tokens, out);
        if matches!(&read, Err(damage) if !matches!(damage, Damage::Unreadable(_))) {
            // If it cannot be removed, the next one to ask finds out again.
            let _ = shared.disk.remove(&path);
        }
        let mut state = shared.lock();
        match read {
            Ok(true) => {
                state.stats.n_loaded += 1;
                let used = state.index.insert(*key, shared.layout.file_bytes() as u64);
                state.note(*key, used);
                shared.work.notify_one();
                Load::Loaded
            }
            Ok(false) => {
                state.stats.n_missing += 1;
                state.index.remove(key);
                Load::Missing
            }
            Err(damage) => {
                state.stats.n_damaged += 1;
                state.stats.last_trouble = Some(format!("{}: {damage}", path.display()));
                state.index.remove(key);
                Load::Damaged(damage)
            }
        }
    }

    /// Whether the file was there; an error if it was not the block.
    fn read(&self, path: &Path, key: &BlockKey, tokens: &[u32], out: &mut [u8]) -> Result<bool, Damage> {
        let Shared { disk, layout, .. } = &*self.shared;
        let unreadable = |error: io::Error| Damage::Unreadable(error.kind());
        // Looked at before it is opened: opening a pipe would wait for a writer.
        let about = match disk.look(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            about => about.map_err(unreadable)?,
        };
        let expected = layout.file_bytes() as u64;
        match about.is_file {
            false => return Err(Damage::NotAFile),
            true if about.bytes != expected => return Err(Damage::Length { expected, found: about.bytes }),
            true => {}
        }
        let mut file = match disk.open(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            file => file.map_err(unreadable)?,
        };
        let mut header = vec![0; layout.header_bytes()];
        file.read_exact(&mut header).map_err(unreadable)?;
        let checksum = layout.check_header(&header, key, tokens)?;
        let mut hash = Xxh3Default::new();
        for chunk in out.chunks_mut(CHUNK) {
            file.read_exact(chunk).map_err(unreadable)?;
            hash.update(chunk);
        }
        if hash.digest() == checksum { Ok(true) } else { Err(Damage::Payload) }
    }

    /// Hands a block over to be written. `fill` gets the room for its rows, `[payload_bytes]`, and is called only if the
    /// block is taken. Nothing here waits for the disk or allocates memory.
    ///
    /// # Errors
    /// What `fill` returns
    /// # Panics
    /// If there are not `block_len` tokens, or the key is not that of these tokens behind `parent`
    pub fn save<E>(
        &self,
        key: &BlockKey,
        parent: &BlockKey,
        tokens: &[u32],
        fill: impl FnOnce(&mut [u8]) -> Result<(), E>,
    ) -> Result<Saved, E> {
        let shared = &*self.shared;
        assert_eq!(tokens.len(), shared.layout.block_len, "tokens of a block");
        assert_eq!(*key, parent.child(tokens), "the key of a block");
        let mut file = {
            let mut state = shared.lock();
            if state.index.contains(key) || state.pending.contains(key) {
                return Ok(Saved::Known);
            }
            if state.n_to_skip > 0 {
                state.n_to_skip -= 1;
                state.stats.n_failed += 1;
                return Ok(Saved::Dropped);
            }
            let Some(file) = state.free.pop() else {
                state.stats.n_dropped += 1;
                return Ok(Saved::Dropped);
            };
            state.pending.insert(*key);
            file
        };
        shared.layout.describe(key, parent, tokens, &mut file);
        let filled = fill(&mut file[shared.layout.header_bytes()..]);
        let mut state = shared.lock();
        if let Err(error) = filled {
            state.pending.remove(key);
            state.free.push(file);
            return Err(error);
        }
        state.queue.push_back(Job { key: *key, file });
        shared.work.notify_one();
        Ok(Saved::Queued)
    }

    /// Notes that a sequence, from its first block on, is in use. Its beginning counts as used last, so that sequences are
    /// removed from their ends. Call it when a sequence ends; loading and saving note a block alone.
    pub fn touch(&self, chain: &[BlockKey]) {
        let mut state = self.shared.lock();
        let mut index = std::mem::take(&mut state.index);
        index.touch(chain, |key, used| state.note(key, used));
        state.index = index;
        self.shared.work.notify_one();
    }

    /// Waits until everything handed over is written or dropped.
    pub fn flush(&self) {
        let mut state = self.shared.lock();
        while state.is_busy || !state.queue.is_empty() || !state.touched.is_empty() {
            state = self.shared.idle.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// What happened so far.
    #[must_use]
    pub fn stats(&self) -> StoreStats {
        let state = self.shared.lock();
        StoreStats { n_blocks: state.index.len(), bytes: state.index.bytes(), ..state.stats.clone() }
    }
}

impl Drop for Store {
    /// Writes what waits, and ends the thread.
    fn drop(&mut self) {
        self.shared.lock().closes = true;
        self.shared.work.notify_one();
        if let Some(writer) = self.writer.take() {
            // It has nothing to say, and if it panicked there is nothing to do.
            let _ = writer.join();
        }
    }
}
