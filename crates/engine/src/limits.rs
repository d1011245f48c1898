//! Every limit of the engine, in one place.
//!
//! Owns how many requests, tokens and bytes are taken on at once, and what they add up to. Must not measure or allocate.

use model::{Config, workspace_bytes};
use ops::RowFormat;

/// Positions per cache block.
pub const BLOCK_LEN: usize = 64;

/// Rows of a prefill chunk. Chunks end on multiples of it in every sequence, so what a chunk computes does not depend on
/// what else runs.
pub const CHUNK: usize = 512;

/// Most drafts of a sequence in one step.
pub const DRAFT_MAX: usize = 7;

/// Most rows of a sequence in a decode step.
pub(crate) const ROWS_PER_SEQUENCE: usize = 1 + DRAFT_MAX;

/// What an engine takes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Longest sequence, in tokens.
    pub n_context: usize,
    /// Sequences that are computed at once; others wait.
    pub n_running: usize,
    /// Requests that wait; more are rejected.
    pub n_queued: usize,
    /// Blocks of the cache, [`BLOCK_LEN`] tokens each.
    pub n_blocks: usize,
    /// Rows of a prefill chunk, a multiple of [`BLOCK_LEN`]; [`CHUNK`] unless memory is short.
    pub chunk: usize,
    /// Most drafts of a sequence in one step, up to [`DRAFT_MAX`]; 0 turns speculation off.
    pub n_drafts: usize,
    /// How cache rows are stored.
    pub row_format: RowFormat,
    /// MLA in one form alone, so that results stay the same bit for bit where a prefix was found, restored or computed.
    pub deterministic: bool,
}

/// Bytes that an engine allocates at its start; nothing is added later but a few KB per request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EngineMemory {
    /// Cached rows of all blocks.
    pub cache: u64,
    /// Activations and logits of a prefill chunk.
    pub prefill: u64,
    /// Activations and logits of a decode step.
    pub decode: u64,
}

impl EngineMemory {
    /// All of it.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.cache.saturating_add(self.prefill).saturating_add(self.decode)
    }
}

impl Limits {
    /// Limits for `n_running` sequences that share a cache of `n_tokens`, none longer than `n_context`.
    #[must_use]
    pub fn new(n_context: usize, n_running: usize, n_tokens: usize, row_format: RowFormat) -> Self {
        Self {
            n_context,
            n_running,
            n_queued: 256,
            n_blocks: n_tokens.max(n_context).div_ceil(BLOCK_LEN),
            chunk: CHUNK.min(n_context.next_multiple_of(BLOCK_LEN)),
            n_drafts: DRAFT_MAX,
            row_format,
            deterministic: false,
        }
    }

    /// Rows of the largest decode step: each sequence may have drafts, or tokens that a grammar or a budget forces.
    #[must_use]
    pub fn n_decode_rows(&self) -> usize {
        self.n_running * ROWS_PER_SEQUENCE
    }

    /// What an engine with these limits takes.
    #[must_use]
    pub fn memory(&self, config: &Config) -> EngineMemory {
        let mtp = u64::from(config.num_nextn_predict_layers > 0);
        let per_token = model::counts::cache_bytes_per_token(config, self.row_format).own;
        let layers = config.num_hidden_layers as u64;
        let logits = |n_sample: usize| (n_sample * config.vocab_size * 4) as u64;
        let rows = self.n_decode_rows();
        EngineMemory {
            cache: (self.n_blocks * BLOCK_LEN) as u64 * (per_token + mtp * per_token / layers.max(1)),
            prefill: workspace_bytes(config, self.chunk, self.n_running) + logits(self.n_running),
            decode: workspace_bytes(config, rows, rows) + logits(rows),
        }
    }
}
