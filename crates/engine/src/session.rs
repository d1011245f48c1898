//! One sequence on one device: a cache of its own, fed with tokens, giving logits.
//!
//! Owns the sequence's tokens, cache and workspace. Must not choose tokens (see `sampler.rs`).

use model::{Cache, Form, Model, Workspace, forward, forward_mtp};
use ops::{Batch, Device, DeviceError, RowFormat};

use crate::limits::BLOCK_LEN;

/// How a session computes.
#[derive(Clone, Copy, Debug)]
pub struct SessionOptions {
    /// Longest sequence, in tokens.
    pub n_context: usize,
    /// Tokens per forward pass while reading a prompt.
    pub chunk: usize,
    /// Form of MLA.
    pub form: Form,
    /// How cache rows are stored.
    pub row_format: RowFormat,
}

/// A sequence that grows.
pub struct Session<'a, D: Device> {
    dev: &'a D,
    model: &'a Model<D>,
    options: SessionOptions,
    cache: Cache<D>,
    mtp_cache: Option<Cache<D>>,
    workspace: Workspace<D>,
    block_table: Vec<u32>,
    batch: Batch,
    tokens: Vec<u32>,
    logits: Vec<f32>,
}

impl<'a, D: Device> Session<'a, D> {
    /// An empty sequence; all memory it will ever use is allocated here.
    ///
    /// # Errors
    /// The device is out of memory
    pub fn new(dev: &'a D, model: &'a Model<D>, options: SessionOptions) -> Result<Self, DeviceError> {
        let n_blocks = options.n_context.div_ceil(BLOCK_LEN);
        let chunk = options.chunk.clamp(1, options.n_context.max(1));
        let cache = Cache::new(model, dev, n_blocks, BLOCK_LEN, options.row_format)?;
        let mtp_cache = match &model.mtp {
            Some(_) => Some(Cache::new_mtp(model, dev, n_blocks, BLOCK_LEN, options.row_format)?),
            None => None,
        };
        Ok(Self {
            dev,
            model,
            options: SessionOptions { chunk, ..options },
            cache,
            mtp_cache,
            workspace: Workspace::new(model, dev, chunk, chunk)?,
            block_table: (0..n_blocks as u32).collect(),
            batch: Batch::with_capacity(chunk, 1, n_blocks),
            tokens: Vec::with_capacity(options.n_context),
            logits: vec![0.0; chunk * model.config.vocab_size],
        })
    }

    /// Tokens so far.
    #[must_use]
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// Appends tokens and returns the logits behind the last one, `[vocab]`.
    ///
    /// # Errors
    /// The device failed
    /// # Panics
    /// If `tokens` is empty, exceeds `n_context`, or holds an id beyond the vocabulary
    pub fn push(&mut self, tokens: &[u32]) -> Result<&[f32], DeviceError> {
        assert!(!tokens.is_empty(), "a push of no tokens has no logits");
        let chunk = self.options.chunk;
        for part in tokens.chunks(chunk) {
            let sample_from = part.len() - 1;
            self.step(part, sample_from)?;
        }
        Ok(&self.logits[..self.model.config.vocab_size])
    }

    /// Appends tokens and hands over the logits behind each, `[vocab]`, in order; with an MTP module also its logits,
    /// which at index i are the distribution of token i + 2.
    ///
    /// # Errors
    /// The device failed
    /// # Panics
    /// As [`Session::push`]; MTP logits are only defined for a sequence pushed in one call
    pub fn push_all(
        &mut self,
        tokens: &[u32],
        mut each: impl FnMut(&[f32]),
        mut each_mtp: impl FnMut(&[f32]),
    ) -> Result<(), DeviceError> {
        let vocab = self.model.config.vocab_size;
        for start in (0..tokens.len()).step_by(self.options.chunk) {
            let end = (start + self.options.chunk).min(tokens.len());
            self.step(&tokens[start..end], 0)?;
            self.logits[..(end - start) * vocab].chunks_exact(vocab).for_each(&mut each);
            let n_mtp = self.step_mtp(&tokens[start + 1..tokens.len().min(end + 1)])?;
            self.logits[..n_mtp * vocab].chunks_exact(vocab).for_each(&mut each_mtp);
        }
        Ok(())
    }

    /// One forward pass; leaves the logits of rows `sample_from..` in `self.logits`.
    fn step(&mut self, part: &[u32], sample_from: usize) -> Result<(), DeviceError> {
        let vocab = self.model.config.vocab_size;
        assert!(part.iter().all(|t| (*t as usize) < vocab), "a token beyond the vocabulary of {vocab}");
        self.batch.clear();
        self.batch.push_span(part, self.tokens.len(), &self.block_table, BLOCK_LEN);
        self.batch.sample_rows.extend(sample_from as u32..part.len() as u32);
        forward(self.model, self.dev, self.options.form, &self.batch, &mut self.cache, &mut self.workspace);
        let n_sampled = part.len() - sample_from;
        self.dev.read(self.workspace.logits(), &mut self.logits[..n_sampled * vocab])?;
        self.tokens.extend_from_slice(part);
        Ok(())
    }

    /// The MTP module over the rows of the step before, whose following tokens are `next`; returns their number.
    fn step_mtp(&mut self, next: &[u32]) -> Result<usize, DeviceError> {
        let Some(cache) = &mut self.mtp_cache else { return Ok(0) };
        if next.is_empty() {
            return Ok(0);
        }
        let n_cached = self.tokens.len() - self.batch.len();
        self.batch.clear();
        self.batch.push_span(next, n_cached, &self.block_table, BLOCK_LEN);
        // Token t follows row t of the main model, and every row samples.
        self.batch.sample_rows.extend(0..next.len() as u32);
        let rows = &self.batch.sample_rows;
        forward_mtp(self.model, self.dev, self.options.form, &self.batch, rows, cache, &mut self.workspace);
        self.dev.read(self.workspace.logits(), &mut self.logits[..next.len() * self.model.config.vocab_size])?;
        Ok(next.len())
    }
}
