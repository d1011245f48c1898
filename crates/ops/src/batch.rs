//! One step's work as flat arrays.
//!
//! Owns how rows of a step map to sequences, positions and cache slots. Must not know who asked for the tokens.

use std::ops::Range;

/// The rows of one sequence inside a step.
///
/// Rows `q_start .. q_start + n_new` of the step are the sequence's positions `n_cached .. n_cached + n_new`.
/// Decode is `n_new = 1`; a prefill chunk, or drafts to verify, are larger.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SeqSpan {
    /// First row of the step that belongs to this sequence.
    pub q_start: usize,
    /// How many rows follow.
    pub n_new: usize,
    /// How many positions of the sequence were cached before this step.
    pub n_cached: usize,
    /// Where the sequence's block table lies in [`Batch::block_tables`].
    pub blocks: Range<usize>,
}

/// Everything a forward pass reads besides weights and cache.
///
/// # Shapes   `tokens, positions, slots [T]; sample_rows: any ascending choice of 0..T`
#[derive(Clone, Debug, Default)]
pub struct Batch {
    /// Token ids.
    pub tokens: Vec<u32>,
    /// Position of each token in its sequence.
    pub positions: Vec<u32>,
    /// Cache row that each token's key is written to: `block · block_len + offset`.
    pub slots: Vec<u32>,
    /// One span per sequence, covering every row once, in order.
    pub spans: Vec<SeqSpan>,
    /// All block tables, end to end.
    pub block_tables: Vec<u32>,
    /// Rows whose logits are wanted.
    pub sample_rows: Vec<u32>,
}

impl Batch {
    /// An empty batch that grows to these numbers without asking for memory.
    #[must_use]
    pub fn with_capacity(n_rows: usize, n_spans: usize, n_blocks: usize) -> Self {
        Self {
            tokens: Vec::with_capacity(n_rows),
            positions: Vec::with_capacity(n_rows),
            slots: Vec::with_capacity(n_rows),
            spans: Vec::with_capacity(n_spans),
            block_tables: Vec::with_capacity(n_blocks),
            sample_rows: Vec::with_capacity(n_rows),
        }
    }

    /// Number of rows, T.
    #[must_use]
    pub fn len(&self) -> usize {
        self.tokens.len()
    }

    /// Whether the step has no rows.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.tokens.is_empty()
    }

    /// Appends a span for `tokens`, which continue a sequence of `n_cached` cached positions.
    ///
    /// # Panics   if `block_table` holds fewer than `n_cached + tokens.len()` rows (a scheduler bug)
    pub fn push_span(&mut self, tokens: &[u32], n_cached: usize, block_table: &[u32], block_len: usize) {
        let n_total = n_cached + tokens.len();
        assert!(n_total <= block_table.len() * block_len, "block table of {} rows is too short", block_table.len());
        let table_start = self.block_tables.len();
        let n_blocks = n_total.div_ceil(block_len);
        self.block_tables.extend_from_slice(&block_table[..n_blocks]);
        self.spans.push(SeqSpan {
            q_start: self.tokens.len(),
            n_new: tokens.len(),
            n_cached,
            blocks: table_start..table_start + n_blocks,
        });
        for (i, &token) in tokens.iter().enumerate() {
            let position = n_cached + i;
            self.tokens.push(token);
            self.positions.push(position as u32);
            self.slots.push(block_table[position / block_len] * block_len as u32 + (position % block_len) as u32);
        }
    }

    /// Cached and new positions of the longest sequence.
    #[must_use]
    pub fn context_max(&self) -> usize {
        self.spans.iter().map(|s| s.n_cached + s.n_new).max().unwrap_or(0)
    }

    /// Empties the batch, keeping its memory.
    pub fn clear(&mut self) {
        self.tokens.clear();
        self.positions.clear();
        self.slots.clear();
        self.spans.clear();
        self.block_tables.clear();
        self.sample_rows.clear();
    }
}
