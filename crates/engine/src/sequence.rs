//! One completion on its way: its tokens, its blocks, and the state of its generation.
//!
//! Owns what belongs to a sequence alone. Must not choose tokens, plan steps or emit events.

use std::sync::Arc;

use crate::draft::Drafter;
use crate::limits::{BLOCK_LEN, Limits};
use crate::mask::{MaskState, Masked};
use crate::prefix::{BlockKey, BlockPool, Match};
use crate::repetition::LoopDetector;
use crate::request::{RequestId, Reuse, Usage};
use crate::runner::Pass;
use crate::sampling::{History, Sampling};
use crate::schedule::Waiting;
use crate::thinking::Thinking;

/// What a sequence waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Blocks from disk.
    Restore,
    /// Its prompt to be read.
    Prefill,
    /// Its next token.
    Decode,
}

pub(crate) struct Sequence {
    pub(crate) id: u64,
    pub(crate) request: RequestId,
    /// Which completion of the request.
    pub(crate) index: usize,
    pub(crate) owner: u64,
    pub(crate) phase: Phase,
    /// Prompt and completion.
    pub(crate) tokens: Vec<u32>,
    pub(crate) n_prompt: usize,
    /// How long it may become.
    pub(crate) n_total: usize,
    /// Rows in the cache; the tokens behind them are pending.
    pub(crate) n_cached: usize,
    pub(crate) table: Vec<u32>,
    root: BlockKey,
    /// Of the full blocks that have been published.
    pub(crate) keys: Vec<BlockKey>,
    /// Keys of blocks on disk that continue it, in order of use from the end.
    pub(crate) on_disk: Vec<BlockKey>,
    /// Blocks it may still ask for, those of its forks included.
    n_promised: usize,
    /// Completions that begin when the prompt has been read.
    pub(crate) n_forks: usize,
    /// A block whose first rows are to be copied.
    pub(crate) copy_from: Option<(u32, usize)>,

    pub(crate) sampling: Arc<Sampling>,
    pub(crate) end_tokens: Arc<[u32]>,
    pub(crate) history: History,
    pub(crate) thinking: Option<Thinking>,
    pub(crate) mask: Option<MaskState>,
    pub(crate) loops: Option<LoopDetector>,
    /// None if it does not speculate.
    pub(crate) drafter: Option<Drafter>,
    /// Tokens that may follow, to be verified in the next step.
    pub(crate) drafts: Vec<u32>,
    pub(crate) usage: Usage,
    /// What was found of its prompt.
    pub(crate) reuse: Reuse,

    /// Blocks that have been offered to the store.
    pub(crate) n_stored: usize,

    /// The step in work, if it takes part.
    pub(crate) step: Option<Pass>,
    /// There: rows in the cache before it, the first of its rows, how many pending tokens were fed, the first of its
    /// sampled rows, and that of the MTP module.
    pub(crate) step_start: usize,
    pub(crate) q_start: usize,
    pub(crate) n_fed: usize,
    pub(crate) first_sample: usize,
    pub(crate) mtp_row: Option<usize>,
}

impl Sequence {
    /// A sequence whose prefix is `found`, and which may ask for `n_promised` more blocks.
    pub(crate) fn new(
        id: u64,
        waiting: &Waiting,
        limits: &Limits,
        n_total: usize,
        n_promised: usize,
        found: Match,
        vocab: usize,
    ) -> Self {
        let request = &waiting.request;
        let n_blocks = n_total.div_ceil(BLOCK_LEN);
        let n_prompt = request.prompt.len();
        let n_cached = found.blocks.len() * BLOCK_LEN;
        let with_capacity = |n: usize, from: &[u32]| {
            let mut values = Vec::with_capacity(n);
            values.extend_from_slice(from);
            values
        };
        let mut keys = Vec::with_capacity(n_blocks);
        keys.extend_from_slice(&found.keys);
        let mut history = match request.sampling.penalizes() {
            true => History::with_capacity(n_total),
            false => History::NONE,
        };
        history.restart(&request.sampling);
        history.push_prompt(&request.prompt);
        let speculates = request.speculates && limits.n_drafts > 0;
        Self {
            id,
            request: waiting.id,
            index: 0,
            owner: request.owner,
            phase: Phase::Prefill,
            tokens: with_capacity(n_total + limits.n_drafts, &request.prompt),
            n_prompt,
            n_total,
            n_cached,
            table: with_capacity(n_blocks, &found.blocks),
            root: waiting.root,
            keys,
            on_disk: Vec::new(),
            n_promised,
            n_forks: request.n - 1,
            copy_from: found.partial,
            sampling: Arc::new(request.sampling.clone()),
            end_tokens: request.end_tokens.clone(),
            history,
            thinking: request.thinking.clone(),
            mask: request.mask.as_ref().map(|mask| MaskState::Here(Masked::new(mask.fork(), vocab))),
            loops: request.stops_loops.then(LoopDetector::default),
            drafter: speculates.then(|| Drafter::new(&request.prompt, n_total)),
            reuse: Reuse::default(),
            drafts: Vec::with_capacity(limits.n_drafts),
            usage: Usage { n_prompt, n_cached, ..Usage::default() },
            n_stored: n_cached / BLOCK_LEN,
            step: None,
            step_start: 0,
            q_start: 0,
            n_fed: 0,
            first_sample: 0,
            mtp_row: None,
        }
    }

    pub(crate) fn n_promised(&self) -> usize {
        self.n_promised
    }

    /// One of the promised blocks has been taken.
    pub(crate) fn take_promised(&mut self) {
        assert!(self.n_promised > 0, "sequence {} asks for more blocks than it was promised", self.id);
        self.n_promised -= 1;
    }

    /// What it took so far.
    pub(crate) fn usage(&self) -> Usage {
        let n_reasoning = self.thinking.as_ref().map_or(0, Thinking::n_tokens);
        Usage { n_completion: self.tokens.len() - self.n_prompt, n_reasoning, ..self.usage }
    }

    /// The key behind which its block `i` stands.
    pub(crate) fn parent_of(&self, i: usize) -> BlockKey {
        match i.checked_sub(1) {
            Some(before) => self.keys[before],
            None => self.root,
        }
    }

    /// The tokens of its block `i`, as far as they are in the cache.
    pub(crate) fn block_tokens(&self, i: usize) -> &[u32] {
        &self.tokens[i * BLOCK_LEN..self.n_cached.min((i + 1) * BLOCK_LEN)]
    }

    /// Makes the contents of blocks that have become full known.
    pub(crate) fn publish(&mut self, pool: &mut BlockPool) {
        while (self.keys.len() + 1) * BLOCK_LEN <= self.n_cached {
            let i = self.keys.len();
            let key = pool.publish(self.table[i], self.parent_of(i), self.block_tokens(i));
            self.keys.extend(key);
        }
    }

    /// Makes the rest behind the last full block known.
    pub(crate) fn publish_tail(&self, pool: &mut BlockPool) {
        let i = self.keys.len();
        if self.n_cached > i * BLOCK_LEN {
            pool.publish(self.table[i], self.parent_of(i), self.block_tokens(i));
        }
    }

    /// Another completion of the same prompt, all of which is in the cache: it holds the full blocks too, and is
    /// promised the blocks for the rest. Returns it with the block to be copied for it, if there is one.
    pub(crate) fn fork(&mut self, id: u64, index: usize, pool: &mut BlockPool, n_drafts: usize) -> (Self, Option<u32>) {
        let n_full = self.n_prompt / BLOCK_LEN;
        let n_own = self.n_total.div_ceil(BLOCK_LEN) - n_full;
        self.n_promised -= n_own;
        self.n_forks -= 1;
        let mut table = Vec::with_capacity(self.table.capacity());
        table.extend_from_slice(&self.table[..n_full]);
        table.iter().for_each(|block| pool.retain(*block));
        let mut tokens = Vec::with_capacity(self.n_total + n_drafts);
        tokens.extend_from_slice(&self.tokens[..self.n_prompt]);
        let mut keys = Vec::with_capacity(self.keys.capacity());
        keys.extend_from_slice(&self.keys[..n_full]);
        let mask = match &self.mask {
            Some(MaskState::Here(masked)) => Some(MaskState::Here(masked.fork())),
            Some(MaskState::Away) => unreachable!("a fork's mask is waited for"),
            None => None,
        };
        let fork = Self {
            id,
            index,
            tokens,
            n_cached: n_full * BLOCK_LEN,
            table,
            keys,
            on_disk: Vec::new(),
            n_promised: n_own,
            n_forks: 0,
            copy_from: None,
            sampling: self.sampling.clone(),
            end_tokens: self.end_tokens.clone(),
            history: self.history.clone(),
            thinking: self.thinking.clone(),
            mask,
            loops: self.loops.clone(),
            drafter: self.drafter.clone(),
            drafts: Vec::with_capacity(n_drafts),
            step: None,
            ..*self
        };
        let copied = (!self.n_prompt.is_multiple_of(BLOCK_LEN)).then(|| self.table[n_full]);
        (fork, copied)
    }

    /// Its rows in a step begin here.
    pub(crate) fn begin_step(&mut self, pass: Pass, q_start: usize) {
        self.step = Some(pass);
        (self.step_start, self.q_start) = (self.n_cached, q_start);
    }

    /// Whether the step that has just ended held rows of it.
    pub(crate) fn took_part_in(&self, pass: Pass) -> bool {
        self.step == Some(pass)
    }

    /// How many drafts make sense behind its last token, `n` at most: none unless it is the only one to be fed, none that a
    /// grammar might not allow, and none at the longest length, whose last token is never fed.
    pub(crate) fn n_drafts_max(&self, n: usize) -> usize {
        let decodes = self.phase == Phase::Decode && self.tokens.len() == self.n_cached + 1 && self.mask.is_none();
        if decodes { (self.n_total - self.tokens.len()).saturating_sub(1).min(n) } else { 0 }
    }

    pub(crate) fn check_invariants(&self) {
        assert!(self.tokens.len() <= self.n_total, "sequence {} is longer than it may be", self.id);
        assert!(self.n_cached <= self.tokens.len(), "sequence {} has rows without tokens", self.id);
        assert!(self.n_cached <= self.table.len() * BLOCK_LEN, "sequence {} has rows without blocks", self.id);
        assert!(self.keys.len() <= self.n_cached / BLOCK_LEN, "sequence {} has keys without rows", self.id);
        let n_own = self.n_total.div_ceil(BLOCK_LEN) - self.n_prompt / BLOCK_LEN;
        let n_most = self.n_total.div_ceil(BLOCK_LEN) - self.table.len() + self.n_forks * n_own;
        assert_eq!(self.n_promised, n_most, "promises of sequence {}", self.id);
    }
}
