//! What an engine has done and holds. Owns the counters. Must not format them.

use crate::mask::MaskTimes;

/// Counters since the engine's start, and what it holds now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Steps.
    pub n_steps: u64,
    /// Tokens of prompts that were computed.
    pub n_read: u64,
    /// Tokens of prompts that were found, in memory or on disk.
    pub n_reused: u64,
    /// Those of them that came from disk.
    pub n_restored: u64,
    /// Tokens of completions.
    pub n_decoded: u64,
    /// Drafts that were verified.
    pub n_drafted: u64,
    /// Drafts that were right.
    pub n_accepted: u64,
    /// Time that grammars took.
    pub masks: MaskTimes,
    /// Sequences that run.
    pub n_running: usize,
    /// Requests that wait.
    pub n_queued: usize,
    /// Blocks of the cache.
    pub n_blocks: usize,
    /// Blocks that sequences hold.
    pub n_blocks_held: usize,
    /// Blocks that none holds and whose contents can still be found.
    pub n_blocks_kept: usize,
}
