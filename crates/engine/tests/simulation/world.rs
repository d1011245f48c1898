//! A stand-in for model, device, clock and disk. Owns what they do; must not know what is right.
//!
//! The "model" is a hash: a cached row holds the token and the hash of everything up to it, and logits follow from the
//! hash of their row. So logits are right only if every row of the context is the one that was computed for this very
//! sequence; each step also checks the chain of hashes, which tells a wrong row from a wrong choice.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::io::{self, Cursor, Read};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use engine::prefix::disk::{Disk, Item};
use engine::{BLOCK_LEN, Pass, Runner};
use ops::{Batch, DeviceError};

pub(crate) const VOCAB: usize = 24;
pub(crate) const N_STAGES: usize = 40;

/// SplitMix64.
#[derive(Clone)]
pub(crate) struct Rng(pub u64);

impl Rng {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.0)
    }

    pub(crate) fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }

    /// True once in `n` times.
    pub(crate) fn once_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }
}

fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// The hash of a sequence that had `before` and goes on with `token`.
pub(crate) fn chain(before: u64, token: u32) -> u64 {
    mix(before.rotate_left(7) ^ (u64::from(token) + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15))
}

/// Logits behind a sequence with this hash. The model likes to repeat itself: half the time the next token is the one
/// after the last, so that drafts are often right.
pub(crate) fn logits_of(hash: u64, last: u32, out: &mut [f32]) {
    for (token, logit) in out.iter_mut().enumerate() {
        *logit = (mix(hash ^ (token as u64) << 32) >> 40) as f32 / (1u64 << 24) as f32 * 4.0;
    }
    if hash & 1 == 0 {
        out[(last as usize + 1) % VOCAB] += 6.0;
    }
}

#[derive(Clone, Copy, Default)]
struct Row {
    hash: u64,
    token: u32,
}

/// What computes in the simulation.
pub(crate) struct World {
    rows: Vec<Row>,
    logits: [Vec<f32>; 2],
    /// Hashes of the rows of each pass's last whole step.
    hidden: [Vec<u64>; 2],
    has_mtp: bool,
    /// Stages of the chunk in work.
    stages_run: usize,
    clock: Duration,
    rng: Rng,
    /// Fail a step of the device once in so many; 0 never.
    pub(crate) fails_once_in: usize,
}

impl World {
    pub(crate) fn new(n_blocks: usize, seed: u64, has_mtp: bool) -> Self {
        let rows = vec![Row { hash: 0xdead, token: u32::MAX }; n_blocks * BLOCK_LEN];
        let rng = Rng(seed ^ 0x0077_0077);
        Self {
            rows,
            logits: Default::default(),
            hidden: Default::default(),
            has_mtp,
            stages_run: 0,
            clock: Duration::ZERO,
            rng,
            fails_once_in: 0,
        }
    }

    fn works(&mut self) -> Result<(), DeviceError> {
        self.clock += Duration::from_micros(50 + self.rng.next() % 500);
        match self.fails_once_in > 0 && self.rng.once_in(self.fails_once_in) {
            true => Err(DeviceError::OutOfMemory { what: "simulation", wanted: 1 }),
            false => Ok(()),
        }
    }

    /// Writes the rows of a batch and leaves logits.
    fn run(&mut self, pass: Pass, batch: &Batch) {
        let (logits, hidden) = (&mut self.logits[pass as usize], &mut self.hidden[pass as usize]);
        logits.clear();
        hidden.clear();
        let mut sampled = batch.sample_rows.iter().copied().peekable();
        for span in &batch.spans {
            let table = &batch.block_tables[span.blocks.clone()];
            let slot = |position: usize| table[position / BLOCK_LEN] as usize * BLOCK_LEN + position % BLOCK_LEN;
            let mut hash = 0;
            for position in 0..span.n_cached {
                let row = self.rows[slot(position)];
                hash = chain(hash, row.token);
                assert_eq!(row.hash, hash, "row {position} of a span with {} cached rows is another's", span.n_cached);
            }
            for i in 0..span.n_new {
                let (t, position) = (span.q_start + i, span.n_cached + i);
                assert_eq!(batch.positions[t] as usize, position);
                assert_eq!(batch.slots[t] as usize, slot(position));
                hash = chain(hash, batch.tokens[t]);
                hidden.push(hash);
                self.rows[slot(position)] = Row { hash, token: batch.tokens[t] };
                if sampled.next_if_eq(&(t as u32)).is_some() {
                    let start = logits.len();
                    logits.resize(start + VOCAB, 0.0);
                    logits_of(hash, batch.tokens[t], &mut logits[start..]);
                }
            }
        }
        assert!(sampled.next().is_none(), "sampled rows out of order");
    }
}

impl Runner for World {
    fn vocab(&self) -> usize {
        VOCAB
    }

    fn n_stages(&self) -> usize {
        N_STAGES
    }

    fn has_mtp(&self) -> bool {
        self.has_mtp
    }

    fn block_bytes(&self) -> usize {
        BLOCK_LEN * 12
    }

    fn now(&self) -> Duration {
        self.clock
    }

    fn decode(&mut self, batch: &Batch) -> Result<(), DeviceError> {
        self.works()?;
        self.run(Pass::Decode, batch);
        Ok(())
    }

    fn prefill(&mut self, batch: &Batch, stages: Range<usize>) -> Result<(), DeviceError> {
        // A chunk that nobody wants any more ends early.
        assert!(stages.start == 0 || stages.start == self.stages_run, "stages out of order");
        assert!(!stages.is_empty() && stages.end <= N_STAGES);
        self.stages_run = stages.end;
        self.works()?;
        // Rows are junk until the last stage.
        for slot in &batch.slots {
            self.rows[*slot as usize] = Row { hash: 0xbad, token: u32::MAX };
        }
        if stages.end == N_STAGES {
            self.run(Pass::Prefill, batch);
        }
        Ok(())
    }

    /// The best module there could be: it knows what the main model will say. Given wrong rows or tokens it would not.
    fn draft(&mut self, pass: Pass, batch: &Batch, hidden_rows: &[u32]) -> Result<(), DeviceError> {
        self.works()?;
        assert_eq!(batch.len(), hidden_rows.len());
        let (logits, hidden) = (&mut self.logits[pass as usize], &self.hidden[pass as usize]);
        logits.clear();
        let mut sampled = batch.sample_rows.iter().copied().peekable();
        for (t, row) in hidden_rows.iter().enumerate() {
            let hash = hidden[*row as usize];
            assert_eq!(self.rows[batch.slots[t] as usize].hash, hash, "the module's row is another's");
            if sampled.next_if_eq(&(t as u32)).is_some() {
                let start = logits.len();
                logits.resize(start + VOCAB, 0.0);
                logits_of(chain(hash, batch.tokens[t]), batch.tokens[t], &mut logits[start..]);
            }
        }
        Ok(())
    }

    fn logits(&self, pass: Pass) -> &[f32] {
        &self.logits[pass as usize]
    }

    fn copy_block(&mut self, from: u32, to: u32) {
        let start = |block: u32| block as usize * BLOCK_LEN;
        self.rows.copy_within(start(from)..start(from) + BLOCK_LEN, start(to));
    }

    fn read_block(&mut self, block: u32, out: &mut [u8]) -> Result<(), DeviceError> {
        let rows = &self.rows[block as usize * BLOCK_LEN..][..BLOCK_LEN];
        for (row, out) in rows.iter().zip(out.chunks_exact_mut(12)) {
            out[..8].copy_from_slice(&row.hash.to_le_bytes());
            out[8..].copy_from_slice(&row.token.to_le_bytes());
        }
        Ok(())
    }

    fn write_block(&mut self, block: u32, bytes: &[u8]) -> Result<(), DeviceError> {
        let rows = &mut self.rows[block as usize * BLOCK_LEN..][..BLOCK_LEN];
        for (row, bytes) in rows.iter_mut().zip(bytes.chunks_exact(12)) {
            let (hash, token) = bytes.split_at(8);
            *row = Row {
                hash: u64::from_le_bytes(hash.try_into().unwrap()),
                token: u32::from_le_bytes(token.try_into().unwrap()),
            };
        }
        Ok(())
    }
}

/// A disk in memory that fails at times. What it holds outlives an engine.
#[derive(Clone, Default)]
pub(crate) struct Memory {
    files: Arc<Mutex<BTreeMap<PathBuf, Vec<u8>>>>,
    /// A call fails, or a file is damaged, once in so many calls; 0 never.
    pub(crate) fails_once_in: Arc<AtomicU32>,
    calls: Arc<AtomicU32>,
}

impl Memory {
    fn fails(&self) -> bool {
        let once_in = self.fails_once_in.load(Ordering::Relaxed);
        let n = self.calls.fetch_add(1, Ordering::Relaxed);
        once_in > 0 && mix(u64::from(n)).is_multiple_of(u64::from(once_in))
    }

    fn try_it(&self) -> io::Result<()> {
        if self.fails() { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) }
    }
}

fn item(path: &Path, bytes: &[u8]) -> Item {
    let name: OsString = path.file_name().unwrap().to_owned();
    Item { name, is_file: true, bytes: bytes.len() as u64, modified: SystemTime::UNIX_EPOCH }
}

impl Disk for Memory {
    fn create_folder(&self, _: &Path) -> io::Result<()> {
        Ok(())
    }

    fn list(&self, path: &Path, each: &mut dyn FnMut(Item)) -> io::Result<()> {
        let files = self.files.lock().unwrap();
        let mut folders = BTreeSet::new();
        for (file, bytes) in files.iter() {
            let Ok(rest) = file.strip_prefix(path) else { continue };
            match rest.parent() {
                Some(folder) if folder.as_os_str().is_empty() => each(item(file, bytes)),
                _ => drop(folders.insert(rest.components().next().unwrap().as_os_str().to_owned())),
            }
        }
        for name in folders {
            each(Item { name, is_file: false, bytes: 0, modified: SystemTime::UNIX_EPOCH });
        }
        Ok(())
    }

    fn write_new(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        self.try_it()?;
        let mut bytes = bytes.to_vec();
        if self.fails() {
            let at = bytes.len() / 2;
            bytes[at] ^= 0x10;
        }
        if self.fails() {
            bytes.truncate(bytes.len() - 1);
        }
        self.files.lock().unwrap().insert(path.to_owned(), bytes);
        Ok(())
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.try_it()?;
        let mut files = self.files.lock().unwrap();
        let bytes = files.remove(from).ok_or(io::ErrorKind::NotFound)?;
        files.insert(to.to_owned(), bytes);
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.try_it()?;
        self.files.lock().unwrap().remove(path).map(drop).ok_or(io::ErrorKind::NotFound.into())
    }

    fn set_modified(&self, _: &Path, _: SystemTime) -> io::Result<()> {
        Ok(())
    }

    fn look(&self, path: &Path) -> io::Result<Item> {
        let files = self.files.lock().unwrap();
        files.get(path).map(|bytes| item(path, bytes)).ok_or(io::ErrorKind::NotFound.into())
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn Read>> {
        self.try_it()?;
        let bytes = self.files.lock().unwrap().get(path).cloned().ok_or(io::ErrorKind::NotFound)?;
        Ok(Box::new(Cursor::new(bytes)))
    }
}
