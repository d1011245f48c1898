//! What runs next: queue, admission, the batches of a step.
//!
//! Owns the scheduler's state and every rule of who gets what. Pure: no clock, no device, no sampling; the same state and
//! the same inputs give the same plan. Must not emit events or touch rows.
//!
//! * Those who wait take turns by owner: the owner with the fewest running sequences comes first, then who came first.
//!   Who is next and does not fit waits, and nobody overtakes: so nobody starves.
//! * A request is admitted when the cache can hold it at its longest. So no sequence that runs is ever stopped for want
//!   of a block.
//! * A step is all sequences that decode, and some stages of one chunk. A chunk holds whole cells: the part of a prompt
//!   up to the next multiple of `chunk`. So the rows that are computed together for a sequence, and with them its every
//!   bit, do not depend on what else runs.

use std::collections::VecDeque;

use ops::Batch;

use crate::limits::{BLOCK_LEN, Limits, ROWS_PER_SEQUENCE};
use crate::prefix::{BlockKey, BlockPool};
use crate::request::{Miss, Rejected, Request, RequestId, Reuse};
use crate::runner::Pass;
use crate::sequence::{Phase, Sequence};

/// A request that waits.
pub(crate) struct Waiting {
    pub(crate) id: RequestId,
    /// The key behind which its first block stands.
    pub(crate) root: BlockKey,
    pub(crate) request: Request,
}

/// A sequence's part in a chunk.
#[derive(Clone, Copy)]
pub(crate) struct Member {
    pub(crate) sequence: u64,
    /// Its rows.
    pub(crate) n_new: usize,
    /// Whether its prompt ends here, so that its last row samples.
    pub(crate) samples: bool,
}

/// Prompts' cells that are computed together.
#[derive(Default)]
pub(crate) struct Chunk {
    pub(crate) batch: Batch,
    pub(crate) members: Vec<Member>,
    /// Held until the last stage has run: rows of them are read and written whatever becomes of the sequences.
    blocks: Vec<u32>,
    pub(crate) next_stage: usize,
}

/// Everything that is decided upon.
pub(crate) struct State {
    pub(crate) limits: Limits,
    pub(crate) pool: BlockPool,
    pub(crate) queue: VecDeque<Waiting>,
    pub(crate) running: Vec<Sequence>,
    /// The chunk in work; empty if none is.
    pub(crate) chunk: Chunk,
    /// The decode step in work.
    pub(crate) decode: Batch,
    /// Where to look for the next chunk's first member: after this sequence.
    last_read: u64,
    next_sequence: u64,
}

/// What a request needs at its longest.
struct Need {
    /// Tokens of a completed sequence.
    n_total: usize,
    /// Blocks, of which those of the prompt that are full are shared by all completions.
    n_blocks: usize,
}

impl State {
    pub(crate) fn new(limits: Limits) -> Self {
        Self {
            pool: BlockPool::new(limits.n_blocks, BLOCK_LEN),
            queue: VecDeque::with_capacity(limits.n_queued),
            running: Vec::with_capacity(limits.n_running),
            chunk: Chunk {
                batch: Batch::with_capacity(limits.chunk, limits.n_running, limits.n_blocks),
                members: Vec::with_capacity(limits.n_running),
                blocks: Vec::with_capacity(limits.n_blocks),
                next_stage: 0,
            },
            decode: Batch::with_capacity(limits.n_decode_rows(), limits.n_running, limits.n_blocks),
            limits,
            last_read: 0,
            next_sequence: 1,
        }
    }

    fn need(&self, request: &Request) -> Need {
        let n_prompt = request.prompt.len();
        let n_total = n_prompt.saturating_add(request.max_tokens).min(self.limits.n_context);
        let n_shared = n_prompt / BLOCK_LEN;
        let n_own = n_total.div_ceil(BLOCK_LEN) - n_shared;
        Need { n_total, n_blocks: n_shared + request.n * n_own }
    }

    /// Whether a request can ever be served, and may wait.
    pub(crate) fn check(&self, request: &Request, vocab: usize) -> Result<(), Rejected> {
        let limits = &self.limits;
        if request.prompt.is_empty() {
            return Err(Rejected::EmptyPrompt);
        }
        if let Some(&token) = request.prompt.iter().find(|token| **token as usize >= vocab) {
            return Err(Rejected::UnknownToken { token, vocab });
        }
        if request.max_tokens == 0 {
            return Err(Rejected::NoTokens);
        }
        if request.prompt.len() >= limits.n_context {
            return Err(Rejected::ContextLength { found: request.prompt.len(), limit: limits.n_context });
        }
        if request.n == 0 || request.n > limits.n_running {
            return Err(Rejected::Completions { found: request.n, limit: limits.n_running });
        }
        request.sampling.check(vocab)?;
        let Need { n_total: tokens, n_blocks: needed } = self.need(request);
        if needed > limits.n_blocks {
            return Err(Rejected::CacheSize { n: request.n, tokens, needed, limit: limits.n_blocks });
        }
        match self.queue.len() < limits.n_queued {
            true => Ok(()),
            false => Err(Rejected::QueueFull { waiting: self.queue.len() }),
        }
    }

    /// Blocks that no sequence holds or has been promised. While a prefix that was found is held for a request that may
    /// not fit, there can be fewer than were promised: none then.
    fn n_unpromised(&self) -> usize {
        let n_promised: usize = self.running.iter().map(Sequence::n_promised).sum();
        self.pool.n_available().saturating_sub(n_promised)
    }

    fn n_seats(&self) -> usize {
        self.running.iter().map(|sequence| 1 + sequence.n_forks).sum()
    }

    /// Who is next.
    fn next_waiting(&self) -> Option<usize> {
        let n_running = |owner| self.running.iter().filter(|s| s.owner == owner).count();
        let by_turn = |(_, waiting): &(usize, &Waiting)| n_running(waiting.request.owner);
        self.queue.iter().enumerate().min_by_key(by_turn).map(|(i, _)| i)
    }

    /// Admits the next request if it fits, as the last sequence in `running`; returns what was found of its prompt.
    pub(crate) fn admit(&mut self, vocab: usize) -> Option<Reuse> {
        let i = self.next_waiting()?;
        let request = &self.queue[i].request;
        if self.n_seats() + request.n > self.limits.n_running {
            return None;
        }
        let Need { n_total, n_blocks } = self.need(request);
        // The last token of a prompt is always computed: its logits are wanted.
        let root = self.queue[i].root;
        let mut found = self.pool.find(root, &request.prompt[..request.prompt.len() - 1]);
        let n_needed = n_blocks - found.blocks.len();
        if self.n_unpromised() < n_needed
            && let Some((block, _)) = found.partial.take()
        {
            self.pool.release(block);
        }
        if self.n_unpromised() < n_needed {
            found.blocks.iter().rev().for_each(|block| self.pool.release(*block));
            return None;
        }
        let waiting = self.queue.remove(i)?;
        let n_full = found.blocks.len() * BLOCK_LEN;
        let n_partial = found.partial.map_or(0, |(_, n)| n);
        let n_prompt = waiting.request.prompt.len();
        let miss = match (n_full + n_partial + 1 == n_prompt, found.was_evicted, found.diverged) {
            (true, ..) => Miss::None,
            (_, true, _) => Miss::Evicted,
            (_, _, true) => Miss::Diverged,
            _ => Miss::New,
        };
        let reuse = Reuse { n_prompt, n_memory: n_full + n_partial, n_disk: 0, miss };
        let id = self.next_sequence;
        self.next_sequence += 1;
        let sequence = Sequence::new(id, &waiting, &self.limits, n_total, n_needed, found, vocab);
        self.running.push(sequence);
        Some(reuse)
    }

    /// Gives a sequence blocks for `n_tokens` tokens, out of those promised to it.
    pub(crate) fn grow(pool: &mut BlockPool, sequence: &mut Sequence, n_tokens: usize) {
        while sequence.table.len() * BLOCK_LEN < n_tokens {
            let Some(block) = pool.alloc() else { unreachable!("a promised block is missing") };
            sequence.take_promised();
            sequence.table.push(block);
        }
    }

    /// Fills [`State::decode`] with every sequence that decodes. Returns whether there is one.
    pub(crate) fn plan_decode(&mut self) -> bool {
        self.decode.clear();
        self.running.iter_mut().for_each(|sequence| sequence.step = None);
        for sequence in self.running.iter_mut().filter(|s| s.phase == Phase::Decode) {
            let n_pending = sequence.tokens.len() - sequence.n_cached;
            let n_fed = n_pending.min(ROWS_PER_SEQUENCE);
            let n_drafts = if n_fed < n_pending { 0 } else { sequence.drafts.len().min(ROWS_PER_SEQUENCE - n_fed) };
            sequence.drafts.truncate(n_drafts);
            sequence.begin_step(Pass::Decode, self.decode.len());
            sequence.n_fed = n_fed;
            Self::grow(&mut self.pool, sequence, sequence.n_cached + n_fed + n_drafts);
            // Drafts stand behind the known tokens only while the span is pushed.
            let n_known = sequence.tokens.len();
            sequence.tokens.extend_from_slice(&sequence.drafts);
            let span = &sequence.tokens[sequence.n_cached..sequence.n_cached + n_fed + n_drafts];
            self.decode.push_span(span, sequence.n_cached, &sequence.table, BLOCK_LEN);
            sequence.tokens.truncate(n_known);
            sequence.first_sample = self.decode.sample_rows.len();
            if n_fed == n_pending {
                let last = sequence.q_start + n_fed - 1;
                self.decode.sample_rows.extend(last as u32..(last + 1 + n_drafts) as u32);
            }
        }
        !self.decode.is_empty()
    }

    /// Fills [`State::chunk`] if it is empty and prompts are to be read. Returns whether there is a chunk.
    pub(crate) fn plan_chunk(&mut self) -> bool {
        if !self.chunk.batch.is_empty() {
            return true;
        }
        self.chunk.next_stage = 0;
        // In turns, beginning after the sequence that was read last.
        let reads = |s: &Sequence| s.phase == Phase::Prefill;
        let n = self.running.len();
        let first = self.running.iter().position(|s| s.id > self.last_read).unwrap_or(0);
        for i in (0..n).map(|i| (first + i) % n) {
            if !reads(&self.running[i]) {
                continue;
            }
            let sequence = &mut self.running[i];
            let start = sequence.n_cached;
            let end = ((start / self.limits.chunk + 1) * self.limits.chunk).min(sequence.n_prompt);
            if self.chunk.batch.len() + end - start > self.limits.chunk {
                break;
            }
            Self::grow(&mut self.pool, sequence, end);
            let q_start = self.chunk.batch.len();
            sequence.begin_step(Pass::Prefill, q_start);
            self.chunk.batch.push_span(&sequence.tokens[start..end], start, &sequence.table, BLOCK_LEN);
            let samples = end == sequence.n_prompt;
            if samples {
                self.chunk.batch.sample_rows.push((q_start + end - start - 1) as u32);
            }
            self.chunk.members.push(Member { sequence: sequence.id, n_new: end - start, samples });
            for block in &sequence.table {
                self.pool.retain(*block);
                self.chunk.blocks.push(*block);
            }
            self.last_read = sequence.id;
        }
        !self.chunk.batch.is_empty()
    }

    /// Ends the chunk: its last stage has run, or nobody wants it any more.
    pub(crate) fn end_chunk(&mut self) {
        self.chunk.blocks.drain(..).rev().for_each(|block| self.pool.release(block));
        self.chunk.batch.clear();
        self.chunk.members.clear();
    }

    /// Drops the chunk if none of its sequences is left.
    pub(crate) fn drop_unwanted_chunk(&mut self) {
        let wanted = |member: &Member| self.running.iter().any(|s| s.id == member.sequence);
        if !self.chunk.members.is_empty() && !self.chunk.members.iter().any(wanted) {
            self.end_chunk();
        }
    }

    /// The one place where a sequence's blocks are freed: what they contain can be found again until they are needed.
    pub(crate) fn free(&mut self, i: usize) -> Sequence {
        let mut sequence = self.running.remove(i);
        sequence.publish(&mut self.pool);
        sequence.publish_tail(&mut self.pool);
        // The end of a prefix is worth less than its beginning: it is let go of first.
        sequence.table.iter().rev().for_each(|block| self.pool.release(*block));
        sequence
    }

    /// Begins completion `index` of the prompt that sequence `i` has just read. Returns the block to be copied and the
    /// one to copy it to, if the prompt ends inside a block.
    pub(crate) fn fork(&mut self, i: usize, index: usize) -> Option<(u32, u32)> {
        let id = self.new_sequence_id();
        let (mut fork, copied) = self.running[i].fork(id, index, &mut self.pool, self.limits.n_drafts);
        Self::grow(&mut self.pool, &mut fork, self.running[i].n_prompt);
        fork.n_cached = fork.n_prompt;
        let to = fork.table[fork.table.len() - 1];
        self.running.push(fork);
        copied.map(|from| (from, to))
    }

    /// A sequence id that was never used.
    pub(crate) fn new_sequence_id(&mut self) -> u64 {
        self.next_sequence += 1;
        self.next_sequence - 1
    }

    /// Checks every invariant; a simulator does so after each step.
    ///
    /// # Panics
    /// If one is broken
    pub(crate) fn check_invariants(&self) {
        let mut n_refs = vec![0; self.pool.n_blocks()];
        let held = self.running.iter().flat_map(|s| &s.table).chain(&self.chunk.blocks);
        held.for_each(|block| n_refs[*block as usize] += 1);
        self.pool.check(&n_refs);
        let n_promised: usize = self.running.iter().map(Sequence::n_promised).sum();
        assert!(n_promised <= self.pool.n_available(), "promises without blocks");
        assert!(self.n_seats() <= self.limits.n_running, "more sequences than seats");
        assert!(self.queue.len() <= self.limits.n_queued, "more wait than may");
        for sequence in &self.running {
            sequence.check_invariants();
        }
    }
}
