//! A model that is a function of its tokens: for tests of what surrounds the engine.
//!
//! Owns the cache rows that such a model needs. Must not know text.

use std::ops::Range;
use std::time::{Duration, Instant};

use engine::{BLOCK_LEN, Limits, Pass, Runner};
pub use ops::RowFormat;
use ops::{Batch, DeviceError};

const N_STAGES: usize = 8;

/// Writes the logits behind some tokens: `(tokens, logits [vocab])`.
pub type Script = Box<dyn FnMut(&[u32], &mut [f32]) + Send>;

/// What computes nothing, but knows which tokens stand in its cache.
pub struct Scripted {
    vocab: usize,
    script: Script,
    /// Time that each step takes besides.
    step: Duration,
    /// The token of each cache row.
    rows: Vec<u32>,
    logits: [Vec<f32>; 2],
    start: Instant,
}

impl Scripted {
    /// A model whose every step takes at least `step`.
    #[must_use]
    pub fn new(vocab: usize, limits: &Limits, step: Duration, script: Script) -> Self {
        let rows = vec![0; limits.n_blocks * BLOCK_LEN];
        Self { vocab, script, step, rows, logits: Default::default(), start: Instant::now() }
    }

    fn run(&mut self, pass: Pass, batch: &Batch) {
        std::thread::sleep(self.step);
        let logits = &mut self.logits[pass as usize];
        logits.clear();
        let mut sampled = batch.sample_rows.iter().copied().peekable();
        for span in &batch.spans {
            let table = &batch.block_tables[span.blocks.clone()];
            let slot = |position: usize| table[position / BLOCK_LEN] as usize * BLOCK_LEN + position % BLOCK_LEN;
            let mut tokens: Vec<u32> = (0..span.n_cached).map(|position| self.rows[slot(position)]).collect();
            for i in 0..span.n_new {
                let t = span.q_start + i;
                self.rows[slot(span.n_cached + i)] = batch.tokens[t];
                tokens.push(batch.tokens[t]);
                if sampled.next_if_eq(&(t as u32)).is_some() {
                    let start = logits.len();
                    logits.resize(start + self.vocab, 0.0);
                    (self.script)(&tokens, &mut logits[start..]);
                }
            }
        }
    }
}

impl Runner for Scripted {
    fn vocab(&self) -> usize {
        self.vocab
    }

    fn n_stages(&self) -> usize {
        N_STAGES
    }

    fn has_mtp(&self) -> bool {
        false
    }

    fn block_bytes(&self) -> usize {
        BLOCK_LEN * 4
    }

    fn now(&self) -> Duration {
        self.start.elapsed()
    }

    fn decode(&mut self, batch: &Batch) -> Result<(), DeviceError> {
        self.run(Pass::Decode, batch);
        Ok(())
    }

    fn prefill(&mut self, batch: &Batch, stages: Range<usize>) -> Result<(), DeviceError> {
        if stages.end == N_STAGES {
            self.run(Pass::Prefill, batch);
        }
        Ok(())
    }

    fn draft(&mut self, _: Pass, _: &Batch, _: &[u32]) -> Result<(), DeviceError> {
        unreachable!("there is no MTP module")
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
        rows.iter().zip(out.chunks_exact_mut(4)).for_each(|(row, out)| out.copy_from_slice(&row.to_le_bytes()));
        Ok(())
    }

    fn write_block(&mut self, block: u32, bytes: &[u8]) -> Result<(), DeviceError> {
        let rows = &mut self.rows[block as usize * BLOCK_LEN..][..BLOCK_LEN];
        for (row, bytes) in rows.iter_mut().zip(bytes.chunks_exact(4)) {
            *row = bytes.iter().rev().fold(0, |row, byte| row << 8 | u32::from(*byte));
        }
        Ok(())
    }
}
