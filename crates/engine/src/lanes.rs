//! Several sequences of equal length in one cache, for measurements: a lane is a sequence whose long context was not
//! computed but copied.
//!
//! The first blocks of lane 0 come from a real prefill; all others are copies of them, in another order for each lane, so
//! that the lanes differ and a context of any depth costs no more than copying. What the model then says means nothing
//! (a copied row keeps the rotation of the position it was made at), but it reads and computes what a real context
//! would. Rows behind a depth are written to blocks that every measurement uses anew.
//! Owns tokens, blocks and workspace. Must not time anything.

use std::ops::Range;

use model::{Cache, Config, Form, Model, Workspace, forward, workspace_bytes};
use ops::{Batch, Device, DeviceError, RowFormat};

use crate::argmax;
use crate::limits::BLOCK_LEN;

/// Blocks that are really computed.
const N_SOURCE_BLOCKS: usize = 4;

/// What lanes must have room for.
#[derive(Clone, Copy, Debug)]
pub struct LanesOptions {
    /// Number of lanes.
    pub n_lanes: usize,
    /// Longest context, in tokens.
    pub depth_max: usize,
    /// Most tokens that lane 0 reads behind a context.
    pub prefill_max: usize,
    /// Most tokens that each lane writes behind a context.
    pub decode_max: usize,
    /// Tokens per forward pass while reading.
    pub chunk: usize,
    /// How cache rows are stored.
    pub row_format: RowFormat,
}

impl LanesOptions {
    fn n_context_blocks(&self) -> usize {
        self.depth_max.div_ceil(BLOCK_LEN)
    }

    /// Blocks behind the context, one of which begins with its remainder.
    fn n_tail_blocks(&self, lane: usize) -> usize {
        let n_new = if lane == 0 { self.prefill_max.max(self.decode_max) } else { self.decode_max };
        (n_new + BLOCK_LEN - 1).div_ceil(BLOCK_LEN)
    }

    fn n_blocks(&self) -> usize {
        self.n_lanes * self.n_context_blocks() + (0..self.n_lanes).map(|lane| self.n_tail_blocks(lane)).sum::<usize>()
    }

    fn n_source_blocks(&self) -> usize {
        N_SOURCE_BLOCKS.min(self.n_context_blocks())
    }

    /// Rows of the largest step.
    fn n_rows(&self) -> usize {
        self.chunk.min(self.prefill_max.max(self.n_source_blocks() * BLOCK_LEN)).max(self.n_lanes)
    }

    /// Bytes of a token's rows in all layers.
    #[must_use]
    pub fn token_bytes(&self, config: &Config) -> u64 {
        model::counts::cache_bytes_per_token(config, self.row_format).own
    }

    /// Bytes of the cache.
    #[must_use]
    pub fn cache_bytes(&self, config: &Config) -> u64 {
        self.token_bytes(config).saturating_mul((self.n_blocks() * BLOCK_LEN) as u64)
    }

    /// Bytes of activations and logits.
    #[must_use]
    pub fn workspace_bytes(&self, config: &Config) -> u64 {
        workspace_bytes(config, self.n_rows(), self.n_lanes) + (self.n_lanes * config.vocab_size * 4) as u64
    }
}

/// Sequences of equal length.
pub struct Lanes<'a, D: Device> {
    dev: &'a D,
    model: &'a Model<D>,
    options: LanesOptions,
    cache: Cache<D>,
    workspace: Workspace<D>,
    /// Per lane: the blocks of its context, then those behind it.
    blocks: Vec<Vec<u32>>,
    /// Per lane: the table at the current depth.
    tables: Vec<Vec<u32>>,
    depth: usize,
    batch: Batch,
    /// Of the last step's sampled rows.
    logits: Vec<f32>,
    n_sampled: usize,
}

/// A lane's own tokens behind a first one, for [`Lanes::decode`].
pub fn greedily(first: impl Fn(usize) -> u32) -> impl Fn(usize, &[u32]) -> u32 {
    move |lane, written| written.last().copied().unwrap_or_else(|| first(lane))
}

impl<'a, D: Device> Lanes<'a, D> {
    /// Lanes at depth 0; all memory that they will ever use is allocated here.
    ///
    /// # Errors
    /// The device is out of memory
    pub fn new(dev: &'a D, model: &'a Model<D>, options: LanesOptions) -> Result<Self, DeviceError> {
        let mut next = 0u32;
        let blocks = (0..options.n_lanes).map(|lane| {
            let first = next;
            next += (options.n_context_blocks() + options.n_tail_blocks(lane)) as u32;
            (first..next).collect()
        });
        let blocks: Vec<Vec<u32>> = blocks.collect();
        let mut lanes = Self {
            dev,
            model,
            options,
            cache: Cache::new(model, dev, options.n_blocks(), BLOCK_LEN, options.row_format)?,
            workspace: Workspace::new(model, dev, options.n_rows(), options.n_lanes)?,
            tables: blocks.iter().map(|blocks| Vec::with_capacity(blocks.len())).collect(),
            blocks,
            depth: 0,
            batch: Batch::with_capacity(options.n_rows(), options.n_lanes, options.n_blocks()),
            logits: vec![0.0; options.n_lanes * model.config.vocab_size],
            n_sampled: 0,
        };
        lanes.set_depth(0);
        Ok(lanes)
    }

    /// Computes the first blocks of lane 0 from `tokens`, over and over, and copies them to every other block of a
    /// context. Call it once; without it contexts are rows of zeros.
    ///
    /// # Errors
    /// The device failed
    /// # Panics
    /// If `tokens` is empty
    pub fn fill_contexts(&mut self, tokens: &[u32]) -> Result<(), DeviceError> {
        let n_source = self.options.n_source_blocks();
        if n_source == 0 {
            return Ok(());
        }
        let source: Vec<u32> = tokens.iter().copied().cycle().take(n_source * BLOCK_LEN).collect();
        self.tables[0].clone_from(&self.blocks[0]);
        for (i, chunk) in source.chunks(self.options.chunk).enumerate() {
            self.read_chunk(i * self.options.chunk, chunk)?;
        }
        for lane in 0..self.options.n_lanes {
            let first = if lane == 0 { n_source } else { 0 };
            for i in first..self.options.n_context_blocks() {
                let (from, to) = (self.blocks[0][(i + lane) % n_source], self.blocks[lane][i]);
                self.cache.copy_block(self.dev, from, to);
            }
        }
        self.set_depth(0);
        Ok(())
    }

    /// Gives every lane a context of this many tokens.
    ///
    /// # Panics
    /// If that is more than `depth_max`
    pub fn set_depth(&mut self, depth: usize) {
        assert!(depth <= self.options.depth_max, "a depth of {depth} in lanes for {}", self.options.depth_max);
        self.depth = depth;
        let (n_whole, n_context) = (depth / BLOCK_LEN, self.options.n_context_blocks());
        for (table, blocks) in self.tables.iter_mut().zip(&self.blocks) {
            table.clear();
            table.extend(blocks[..n_whole].iter().chain(&blocks[n_context..]));
            if !depth.is_multiple_of(BLOCK_LEN) {
                // New rows follow in this block, which belongs to longer contexts too.
                self.cache.copy_block(self.dev, blocks[n_whole], blocks[n_context]);
            }
        }
    }

    /// Lane 0 reads `tokens` behind its context; the logits behind the last one are in [`Lanes::logits`].
    /// `after_step` is called after each chunk.
    ///
    /// # Errors
    /// The device failed
    /// # Panics
    /// If `tokens` is empty or longer than `prefill_max`
    pub fn prefill(
        &mut self,
        tokens: &[u32],
        mut after_step: impl FnMut(&Self) -> Result<(), DeviceError>,
    ) -> Result<(), DeviceError> {
        for (i, chunk) in tokens.chunks(self.options.chunk).enumerate() {
            self.read_chunk(self.depth + i * self.options.chunk, chunk)?;
            after_step(self)?;
        }
        Ok(())
    }

    /// Each of the `lanes` continues its context by `n` tokens: `next(lane, written)` says what it reads after what it
    /// wrote so far; see [`greedily`]. Returns what each wrote, `[n]` tokens per lane. `after_step` is called after each step.
    ///
    /// # Errors
    /// The device failed
    /// # Panics
    /// If there are no such lanes, or `n` is more than `decode_max`
    pub fn decode(
        &mut self,
        lanes: Range<usize>,
        n: usize,
        next: impl Fn(usize, &[u32]) -> u32,
        mut after_step: impl FnMut(&Self) -> Result<(), DeviceError>,
    ) -> Result<Vec<Vec<u32>>, DeviceError> {
        let vocab = self.model.config.vocab_size;
        let mut written: Vec<Vec<u32>> = lanes.clone().map(|_| Vec::with_capacity(n)).collect();
        for i in 0..n {
            self.batch.clear();
            for (lane, written) in lanes.clone().zip(&written) {
                self.batch.push_span(&[next(lane, written)], self.depth + i, &self.tables[lane], BLOCK_LEN);
            }
            self.batch.sample_rows.extend(0..lanes.len() as u32);
            self.step()?;
            for (written, row) in written.iter_mut().zip(self.logits.chunks_exact(vocab)) {
                written.push(argmax(row));
            }
            after_step(self)?;
        }
        Ok(written)
    }

    /// Logits of the last step, `[vocab]` for each sequence of it.
    #[must_use]
    pub fn logits(&self) -> &[f32] {
        &self.logits[..self.n_sampled * self.model.config.vocab_size]
    }

    /// Rows of the last step, and how many distinct experts each layer used in it; 0 for a layer without experts.
    ///
    /// # Errors
    /// The device failed
    pub fn experts_used(&self) -> Result<(usize, Vec<usize>), DeviceError> {
        let config = &self.model.config;
        let n_rows = self.batch.len();
        let used = (0..config.num_hidden_layers).map(|layer| {
            let Some(moe) = config.moe_of(layer) else { return Ok(0) };
            let mut ids = vec![0; n_rows * moe.router.top_k];
            let mut weights = vec![0.0; ids.len()];
            self.dev.read_routes(self.workspace.routes(layer), &mut ids, &mut weights)?;
            ids.sort_unstable();
            ids.dedup();
            Ok(ids.len())
        });
        Ok((n_rows, used.collect::<Result<_, DeviceError>>()?))
    }

    fn read_chunk(&mut self, n_cached: usize, tokens: &[u32]) -> Result<(), DeviceError> {
        self.batch.clear();
        self.batch.push_span(tokens, n_cached, &self.tables[0], BLOCK_LEN);
        self.batch.sample_rows.push(tokens.len() as u32 - 1);
        self.step()
    }

    fn step(&mut self) -> Result<(), DeviceError> {
        forward(self.model, self.dev, Form::Auto, &self.batch, &mut self.cache, &mut self.workspace);
        self.n_sampled = self.batch.sample_rows.len();
        let n = self.n_sampled * self.model.config.vocab_size;
        self.dev.read(self.workspace.logits(), &mut self.logits[..n])
    }
}
