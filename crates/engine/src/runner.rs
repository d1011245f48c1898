//! What computes steps: a model on a device, or a simulator's stand-in.
//!
//! Owns the trait that the engine drives, and the real one: caches, workspaces, logits. Must not know requests.

use std::ops::Range;
use std::time::{Duration, Instant};

use model::{Cache, Form, Model, Workspace, forward, forward_mtp, forward_stages, n_stages};
use ops::{Batch, Device, DeviceError};

use crate::limits::{BLOCK_LEN, Limits};

/// Which of the two workspaces a step has: a long prompt's chunk stays in its own while decode steps pass between its
/// stages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pass {
    /// A step of running sequences.
    Decode,
    /// A chunk of prompts.
    Prefill,
}

/// Computes steps over one cache.
pub trait Runner {
    /// Size of the vocabulary.
    fn vocab(&self) -> usize;

    /// Stages of a prefill pass.
    fn n_stages(&self) -> usize;

    /// Whether [`Runner::draft`] works.
    fn has_mtp(&self) -> bool;

    /// Bytes of a block, all layers and the MTP module's.
    fn block_bytes(&self) -> usize;

    /// Time since some start. The engine measures with it how long steps take; results never depend on it.
    fn now(&self) -> Duration;

    /// A whole step.
    ///
    /// # Errors
    /// The device failed
    fn decode(&mut self, batch: &Batch) -> Result<(), DeviceError>;

    /// The next stages of a chunk. The batch is the same in all calls of a chunk, whose stages run once each and in
    /// order.
    ///
    /// # Errors
    /// The device failed
    fn prefill(&mut self, batch: &Batch, stages: Range<usize>) -> Result<(), DeviceError>;

    /// The MTP module: `batch` holds the tokens that follow rows `hidden_rows` of the last whole step of `pass`, and the
    /// logits are those of the token after.
    ///
    /// # Errors
    /// The device failed
    fn draft(&mut self, pass: Pass, batch: &Batch, hidden_rows: &[u32]) -> Result<(), DeviceError>;

    /// The logits of the sampled rows of `pass`'s last whole step or draft, `[sample_rows, vocab]`.
    fn logits(&self, pass: Pass) -> &[f32];

    /// Copies a block's rows to another.
    fn copy_block(&mut self, from: u32, to: u32);

    /// A block's rows as bytes, the same on every device.
    ///
    /// # Errors
    /// The device failed
    fn read_block(&mut self, block: u32, out: &mut [u8]) -> Result<(), DeviceError>;

    /// Rows from [`Runner::read_block`] into a block.
    ///
    /// # Errors
    /// The device failed
    fn write_block(&mut self, block: u32, bytes: &[u8]) -> Result<(), DeviceError>;
}

/// A workspace and the logits read from it.
struct Lane<D: Device> {
    workspace: Workspace<D>,
    logits: Vec<f32>,
    n_logits: usize,
}

impl<D: Device> Lane<D> {
    fn new(model: &Model<D>, dev: &D, n_rows: usize, n_sample: usize) -> Result<Self, DeviceError> {
        let workspace = Workspace::new(model, dev, n_rows, n_sample)?;
        Ok(Self { workspace, logits: vec![0.0; n_sample * model.config.vocab_size], n_logits: 0 })
    }

    /// Takes over `n` logits of the last step.
    fn read(&mut self, dev: &D, n: usize) -> Result<(), DeviceError> {
        self.n_logits = n;
        dev.read(self.workspace.logits(), &mut self.logits[..n])
    }
}

/// A model on a device.
pub struct ModelRunner<D: Device, B> {
    dev: B,
    model: std::sync::Arc<Model<D>>,
    prefill_form: Form,
    cache: Cache<D>,
    mtp_cache: Option<Cache<D>>,
    decode: Lane<D>,
    prefill: Lane<D>,
    start: Instant,
}

impl<D: Device, B: std::ops::Deref<Target = D>> ModelRunner<D, B> {
    /// Allocates cache and workspaces for `limits`; `dev` is any pointer to the device.
    ///
    /// # Errors
    /// The device is out of memory
    pub fn new(dev: B, model: std::sync::Arc<Model<D>>, limits: &Limits) -> Result<Self, DeviceError> {
        let (d, m) = (&*dev, &*model);
        let cache = Cache::new(m, d, limits.n_blocks, BLOCK_LEN, limits.row_format)?;
        let mtp_cache = match m.mtp {
            Some(_) if limits.n_drafts > 0 => {
                Some(Cache::new_mtp(m, d, limits.n_blocks, BLOCK_LEN, limits.row_format)?)
            }
            _ => None,
        };
        let n_rows = limits.n_decode_rows();
        let decode = Lane::new(m, d, n_rows, n_rows)?;
        let prefill = Lane::new(m, d, limits.chunk, limits.n_running.min(limits.chunk))?;
        let prefill_form = if limits.deterministic { Form::Absorbed } else { Form::Auto };
        Ok(Self { prefill_form, cache, mtp_cache, decode, prefill, start: Instant::now(), dev, model })
    }

    /// The model.
    pub fn model(&self) -> &Model<D> {
        &self.model
    }

    /// Other weights of the same config. What the cache holds is of the old ones: see `Engine::clear_prefixes`.
    ///
    /// # Panics
    /// If the config differs
    pub fn set_model(&mut self, model: std::sync::Arc<Model<D>>) {
        assert!(model.config == self.model.config, "weights of another config");
        self.model = model;
    }
}

impl<D: Device, B: std::ops::Deref<Target = D>> Runner for ModelRunner<D, B> {
    fn vocab(&self) -> usize {
        self.model.config.vocab_size
    }

    fn n_stages(&self) -> usize {
        n_stages(&self.model.config)
    }

    fn has_mtp(&self) -> bool {
        self.mtp_cache.is_some()
    }

    fn block_bytes(&self) -> usize {
        self.cache.block_bytes() + self.mtp_cache.as_ref().map_or(0, Cache::block_bytes)
    }

    fn now(&self) -> Duration {
        self.start.elapsed()
    }

    fn decode(&mut self, batch: &Batch) -> Result<(), DeviceError> {
        // Always absorbed: a row must not depend on how many drafts stand behind it.
        let lane = &mut self.decode;
        forward(&self.model, &*self.dev, Form::Absorbed, batch, &mut self.cache, &mut lane.workspace);
        lane.read(&self.dev, batch.sample_rows.len() * self.model.config.vocab_size)
    }

    fn prefill(&mut self, batch: &Batch, stages: Range<usize>) -> Result<(), DeviceError> {
        let (form, lane, is_last) = (self.prefill_form, &mut self.prefill, stages.end == n_stages(&self.model.config));
        forward_stages(&self.model, &*self.dev, form, batch, stages, &mut self.cache, &mut lane.workspace);
        match is_last {
            true => lane.read(&self.dev, batch.sample_rows.len() * self.model.config.vocab_size),
            false => Ok(()),
        }
    }

    fn draft(&mut self, pass: Pass, batch: &Batch, hidden_rows: &[u32]) -> Result<(), DeviceError> {
        let Some(cache) = &mut self.mtp_cache else { panic!("drafts of a model without an MTP module") };
        let (lane, form) = match pass {
            Pass::Decode => (&mut self.decode, Form::Absorbed),
            Pass::Prefill => (&mut self.prefill, self.prefill_form),
        };
        forward_mtp(&self.model, &*self.dev, form, batch, hidden_rows, cache, &mut lane.workspace);
        lane.read(&self.dev, batch.sample_rows.len() * self.model.config.vocab_size)
    }

    fn logits(&self, pass: Pass) -> &[f32] {
        let lane = match pass {
            Pass::Decode => &self.decode,
            Pass::Prefill => &self.prefill,
        };
        &lane.logits[..lane.n_logits]
    }

    fn copy_block(&mut self, from: u32, to: u32) {
        self.cache.copy_block(&self.dev, from, to);
        if let Some(cache) = &mut self.mtp_cache {
            cache.copy_block(&self.dev, from, to);
        }
    }

    fn read_block(&mut self, block: u32, out: &mut [u8]) -> Result<(), DeviceError> {
        let (main, mtp) = out.split_at_mut(self.cache.block_bytes());
        self.cache.read_block(&self.dev, block, main)?;
        self.mtp_cache.as_ref().map_or(Ok(()), |cache| cache.read_block(&self.dev, block, mtp))
    }

    fn write_block(&mut self, block: u32, bytes: &[u8]) -> Result<(), DeviceError> {
        let (main, mtp) = bytes.split_at(self.cache.block_bytes());
        self.cache.write_block(&self.dev, block, main)?;
        self.mtp_cache.as_mut().map_or(Ok(()), |cache| cache.write_block(&self.dev, block, mtp))
    }
}
