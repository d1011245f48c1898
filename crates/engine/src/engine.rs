//! The engine: requests in, events out, one step after the other.
//!
//! Owns the order of a step (admit, restore, decode, read), what happens to a sequence when its logits are there, and who
//! hears of it. Serving, evaluation, rollouts and the simulator drive the same [`Engine::step`]. Must not plan (see
//! `schedule.rs`), know text, or start threads but the one for masks.

use ops::{Batch, DeviceError};

use crate::draft::Gate;
use crate::limits::{BLOCK_LEN, Limits};
use crate::mask::MaskWorker;
use crate::pace::Pace;
use crate::prefix::{BlockKey, Load, Store};
use crate::request::{Event, FinishReason, Miss, Rejected, Reply, Request, RequestId, Sink, Usage};
use crate::runner::{Pass, Runner};
use crate::sampling::{Choice, Place, Sampler, argmax};
use crate::schedule::{Member, State, Waiting};
use crate::sequence::{Phase, Sequence};
use crate::stats::Stats;

/// Bytes restored from disk in one step, so that running streams are not held up.
const RESTORE_BYTES: usize = 64 << 20;

/// A request's sink, while any of its completions runs.
struct Live {
    id: RequestId,
    sink: Sink,
    n_left: usize,
}

/// Many conversations over one cache.
pub struct Engine<R: Runner> {
    runner: R,
    state: State,
    live: Vec<Live>,
    voice: Voice,
    pace: Pace,
    root: BlockKey,
    store: Option<Store>,
    /// One block's bytes on their way to or from the store.
    block: Vec<u8>,
    /// The MTP module's step, and the rows of the main step that it continues.
    mtp: Batch,
    hidden_rows: Vec<u32>,
    /// What is known of the MTP module's drafts: its successes are the model's, not a text's.
    mtp_gate: Gate,
    next_request: u64,
    stats: Stats,
}

/// What it takes to choose tokens.
struct Voice {
    sampler: Sampler,
    masks: MaskWorker,
    vocab: usize,
    /// Sequences that ended in this step, and why.
    ended: Vec<(u64, FinishReason)>,
}

impl<R: Runner> Engine<R> {
    /// An engine without requests. `root` is where every prefix begins: it names model and cache format.
    ///
    /// # Errors
    /// No thread could be started
    pub fn new(runner: R, limits: Limits, root: BlockKey, store: Option<Store>) -> std::io::Result<Self> {
        let vocab = runner.vocab();
        let n_rows = limits.n_decode_rows().max(limits.chunk);
        let block = vec![0; if store.is_some() { runner.block_bytes() } else { 0 }];
        let voice = Voice {
            sampler: Sampler::new(vocab),
            masks: MaskWorker::new()?,
            vocab,
            ended: Vec::with_capacity(limits.n_running),
        };
        Ok(Self {
            runner,
            state: State::new(limits),
            live: Vec::with_capacity(limits.n_running + limits.n_queued),
            voice,
            pace: Pace::default(),
            root,
            store,
            block,
            mtp: Batch::with_capacity(n_rows, limits.n_running, limits.n_blocks),
            hidden_rows: Vec::with_capacity(n_rows),
            mtp_gate: Gate::default(),
            next_request: 0,
            stats: Stats::default(),
        })
    }

    /// Takes a request, whose sink then hears of it.
    ///
    /// # Errors
    /// It can never be served, or too many wait; the sink is dropped unheard
    pub fn submit(&mut self, request: Request) -> Result<RequestId, Rejected> {
        self.state.check(&request, self.voice.vocab)?;
        let id = RequestId(self.next_request);
        self.next_request += 1;
        let mut request = request;
        let sink = guarded(std::mem::replace(&mut request.sink, Box::new(|_| Reply::Continue)));
        self.live.push(Live { id, sink, n_left: request.n });
        self.state.queue.push_back(Waiting { id, root: self.root, request });
        Ok(id)
    }

    /// Drops a request in whatever phase it is; its sink hears the end of each completion. No such request: nothing.
    pub fn abort(&mut self, id: RequestId) {
        if let Some(i) = self.state.queue.iter().position(|waiting| waiting.id == id)
            && let Some(waiting) = self.state.queue.remove(i)
        {
            let usage = Usage { n_prompt: waiting.request.prompt.len(), ..Default::default() };
            for index in 0..waiting.request.n {
                self.tell_end(id, index, FinishReason::Aborted, usage);
            }
        }
        while let Some(i) = self.state.running.iter().position(|sequence| sequence.request == id) {
            self.finish(i, FinishReason::Aborted);
        }
        self.state.drop_unwanted_chunk();
    }

    /// Ends every request: the device failed, or the engine stops.
    pub fn fail_all(&mut self) {
        self.end_all(FinishReason::Failed);
    }

    /// Drops every request.
    pub fn abort_all(&mut self) {
        self.end_all(FinishReason::Aborted);
    }

    fn end_all(&mut self, reason: FinishReason) {
        while let Some(waiting) = self.state.queue.pop_front() {
            let usage = Usage { n_prompt: waiting.request.prompt.len(), ..Usage::default() };
            for index in 0..waiting.request.n {
                self.tell_end(waiting.id, index, reason, usage);
            }
        }
        while let Some(i) = self.state.running.len().checked_sub(1) {
            self.finish(i, reason);
        }
        self.state.end_chunk();
    }

    /// Whether a step would do anything.
    #[must_use]
    pub fn has_work(&self) -> bool {
        !self.state.running.is_empty() || !self.state.queue.is_empty()
    }

    /// What the engine has done and holds.
    #[must_use]
    pub fn stats(&self) -> Stats {
        let state = &self.state;
        Stats {
            masks: self.voice.masks.times(),
            n_running: state.running.len(),
            n_queued: state.queue.len(),
            n_blocks: state.pool.n_blocks(),
            n_blocks_kept: state.pool.n_kept(),
            n_blocks_held: state.pool.n_blocks() - state.pool.n_available(),
            ..self.stats
        }
    }

    /// Where blocks outlive the process, if anywhere.
    #[must_use]
    pub fn store(&self) -> Option<&Store> {
        self.store.as_ref()
    }

    /// What computes.
    pub fn runner(&mut self) -> &mut R {
        &mut self.runner
    }

    /// Forgets every prefix in memory, for weights that have changed; nothing may run.
    ///
    /// # Panics
    /// If something runs
    pub fn clear_prefixes(&mut self, root: BlockKey) {
        assert!(self.state.running.is_empty(), "prefixes cleared under running sequences");
        self.state.pool.clear();
        self.root = root;
        self.state.queue.iter_mut().for_each(|waiting| waiting.root = root);
    }

    /// One step: everybody who decodes advances, and some of a prompt is read.
    ///
    /// # Errors
    /// The device failed. What ran has lost its rows: call [`Engine::fail_all`]
    pub fn step(&mut self) -> Result<(), DeviceError> {
        let start = self.runner.now();
        self.admit();
        self.restore()?;
        if self.state.plan_decode() {
            let n_rows = self.state.decode.len();
            self.decode()?;
            self.pace.saw_decode(n_rows, self.runner.now().saturating_sub(start));
        }
        if self.state.plan_chunk() {
            self.read()?;
        }
        self.stats.n_steps += 1;
        Ok(())
    }

    /// Checks every invariant of the scheduler.
    ///
    /// # Panics
    /// If one is broken
    pub fn check_invariants(&self) {
        self.state.check_invariants();
        let n_left: usize = self.live.iter().map(|live| live.n_left).sum();
        let waiting: usize = self.state.queue.iter().map(|waiting| waiting.request.n).sum();
        let running: usize = self.state.running.iter().map(|sequence| 1 + sequence.n_forks).sum();
        assert_eq!(n_left, waiting + running, "completions that sinks wait for");
    }

    /// Admits whoever fits, and looks for the rest of their prefixes on disk.
    fn admit(&mut self) {
        while let Some(reuse) = self.state.admit(self.voice.vocab) {
            let Some(sequence) = self.state.running.last_mut() else { return };
            sequence.reuse = reuse;
            if let Some(drafter) = &mut sequence.drafter {
                drafter.mtp_gate = self.mtp_gate.clone();
            }
            if let Some(mask) = &mut sequence.mask {
                self.voice.masks.advance(sequence.id, mask, &[]);
            }
            if let Some(store) = &self.store {
                let n_known = sequence.keys.len();
                let mut parent = sequence.parent_of(n_known);
                let rest = &sequence.tokens[n_known * BLOCK_LEN..sequence.n_prompt - 1];
                for tokens in rest.chunks_exact(BLOCK_LEN) {
                    parent = parent.child(tokens);
                    if !store.contains(&parent) {
                        break;
                    }
                    sequence.on_disk.push(parent);
                }
                sequence.on_disk.reverse();
            }
            let partial = sequence.copy_from.take();
            if !sequence.on_disk.is_empty() {
                sequence.phase = Phase::Restore;
                sequence.reuse.n_memory = sequence.n_cached;
            } else if let Some((from, n)) = partial {
                let n_cached = sequence.n_cached + n;
                State::grow(&mut self.state.pool, sequence, n_cached);
                self.runner.copy_block(from, sequence.table[sequence.table.len() - 1]);
                sequence.n_cached = n_cached;
            }
            if let Some((from, _)) = partial {
                self.state.pool.release(from);
            }
            if self.state.running.last().is_some_and(|sequence| sequence.phase == Phase::Prefill) {
                self.tell_start(self.state.running.len() - 1);
            }
        }
        self.end_finished();
    }

    /// Restores blocks from disk, some in each step.
    fn restore(&mut self) -> Result<(), DeviceError> {
        let mut n_left = (RESTORE_BYTES / self.block.len().max(1)).max(1);
        for i in 0..self.state.running.len() {
            let sequence = &mut self.state.running[i];
            if sequence.phase != Phase::Restore {
                continue;
            }
            while n_left > 0
                && let Some(key) = sequence.on_disk.pop()
            {
                n_left -= 1;
                let Some(store) = &self.store else { break };
                let tokens = &sequence.tokens[sequence.n_cached..sequence.n_cached + BLOCK_LEN];
                if store.load(&key, tokens, &mut self.block) != Load::Loaded {
                    sequence.on_disk.clear();
                    break;
                }
                let n_cached = sequence.n_cached + BLOCK_LEN;
                State::grow(&mut self.state.pool, sequence, n_cached);
                self.runner.write_block(sequence.table[n_cached / BLOCK_LEN - 1], &self.block)?;
                sequence.n_cached = n_cached;
                sequence.reuse.n_disk += BLOCK_LEN;
                sequence.publish(&mut self.state.pool);
                sequence.n_stored = sequence.keys.len();
            }
            if sequence.on_disk.is_empty() {
                if sequence.n_cached + 1 == sequence.n_prompt {
                    sequence.reuse.miss = Miss::None;
                }
                sequence.phase = Phase::Prefill;
                self.tell_start(i);
            }
        }
        self.end_finished();
        Ok(())
    }

    /// Everybody who decodes takes a step.
    fn decode(&mut self) -> Result<(), DeviceError> {
        self.runner.decode(&self.state.decode)?;
        let (logits, vocab) = (self.runner.logits(Pass::Decode), self.voice.vocab);
        for sequence in self.state.running.iter_mut().filter(|s| s.phase == Phase::Decode) {
            let Some(live) = self.live.iter_mut().find(|live| live.id == sequence.request) else { continue };
            let (n_before, n_drafts) = (sequence.tokens.len(), sequence.drafts.len());
            let samples = n_before == sequence.n_cached + sequence.n_fed;
            let first = sequence.first_sample * vocab;
            let rows = &logits[first..first + usize::from(samples) * (1 + n_drafts) * vocab];
            sequence.n_cached += sequence.n_fed;
            let n_accepted = self.voice.speak(sequence, &mut live.sink, rows);
            if let (Some(drafter), true) = (&mut sequence.drafter, samples) {
                drafter.record(n_drafts, n_accepted);
            }
            sequence.usage.n_drafted += n_drafts;
            sequence.usage.n_accepted += n_accepted;
            self.stats.n_drafted += n_drafts as u64;
            self.stats.n_accepted += n_accepted as u64;
            self.stats.n_decoded += (sequence.tokens.len() - n_before) as u64;
        }
        self.publish();
        self.end_finished();
        self.draft(Pass::Decode)
    }

    /// Some stages of the chunk; behind the last one its sequences go on.
    fn read(&mut self) -> Result<(), DeviceError> {
        let start = self.runner.now();
        let (n_rows, first) = (self.state.chunk.batch.len(), self.state.chunk.next_stage);
        let n = self.pace.n_stages(n_rows, !self.state.decode.is_empty());
        let end = (first + n).min(self.runner.n_stages());
        self.runner.prefill(&self.state.chunk.batch, first..end)?;
        self.state.chunk.next_stage = end;
        self.pace.saw_stages(end - first, n_rows, self.runner.now().saturating_sub(start));
        match end == self.runner.n_stages() {
            true => self.end_chunk(),
            false => Ok(()),
        }
    }

    /// The chunk's rows are there: prompts that end in it get their first tokens.
    fn end_chunk(&mut self) -> Result<(), DeviceError> {
        self.stats.n_read += self.state.chunk.batch.len() as u64;
        for member in &self.state.chunk.members {
            if let Some(sequence) = self.state.running.iter_mut().find(|sequence| sequence.id == member.sequence) {
                sequence.n_cached += member.n_new;
                (sequence.n_fed, sequence.step) = (0, Some(Pass::Prefill));
            }
        }
        self.publish();
        let mut n_sampled = 0;
        for m in 0..self.state.chunk.members.len() {
            let Member { sequence: id, samples, .. } = self.state.chunk.members[m];
            let row = n_sampled;
            n_sampled += usize::from(samples);
            let Some(i) = self.state.running.iter().position(|sequence| sequence.id == id) else { continue };
            let sequence = &self.state.running[i];
            let (n_read, n_prompt, request) = (sequence.n_cached, sequence.n_prompt, sequence.request);
            if self.tell(request, Event::Read { n_read, n_prompt }) == Reply::Abort {
                self.voice.ended.push((id, FinishReason::Aborted));
            } else if samples {
                self.begin(i, row);
            }
        }
        self.end_finished();
        let drafted = self.draft(Pass::Prefill);
        self.state.end_chunk();
        drafted
    }

    /// The prompt of sequence `i` has been read, its last row's logits are number `row`: its completions begin.
    fn begin(&mut self, i: usize, row: usize) {
        let sequence = &mut self.state.running[i];
        if let Some(mask) = &mut sequence.mask {
            self.voice.masks.wait(sequence.id, mask);
        }
        let (n_forks, first_fork) = (sequence.n_forks, self.state.running.len());
        for index in 1..=n_forks {
            if let Some((from, to)) = self.state.fork(i, index) {
                self.runner.copy_block(from, to);
            }
        }
        let vocab = self.voice.vocab;
        let logits = &self.runner.logits(Pass::Prefill)[row * vocab..(row + 1) * vocab];
        for j in std::iter::once(i).chain(first_fork..first_fork + n_forks) {
            let sequence = &mut self.state.running[j];
            sequence.phase = Phase::Decode;
            let Some(live) = self.live.iter_mut().find(|live| live.id == sequence.request) else { continue };
            self.voice.begin(sequence, &mut live.sink, logits);
            self.stats.n_decoded += 1;
        }
    }

    /// Makes full blocks known, in memory and on disk.
    fn publish(&mut self) {
        for sequence in &mut self.state.running {
            sequence.publish(&mut self.state.pool);
            let Some(store) = &self.store else { continue };
            for i in sequence.n_stored..sequence.keys.len() {
                let (key, parent, block) = (sequence.keys[i], sequence.parent_of(i), sequence.table[i]);
                let runner = &mut self.runner;
                // A block that is not saved is computed again one day: no reason to fail a request.
                let _ = store.save(&key, &parent, sequence.block_tokens(i), |out| runner.read_block(block, out));
            }
            sequence.n_stored = sequence.keys.len();
        }
    }

    /// Proposes tokens for the next step: what followed the last tokens when they stood before, else the MTP module's.
    fn draft(&mut self, pass: Pass) -> Result<(), DeviceError> {
        let n_drafts = self.state.limits.n_drafts;
        let n_decoding = self.state.running.iter().filter(|s| s.phase == Phase::Decode).count();
        let costs = self.pace.costs(n_decoding);
        for sequence in self.state.running.iter_mut().filter(|s| s.took_part_in(pass)) {
            sequence.drafts.clear();
            let n_left = sequence.n_drafts_max(n_drafts);
            if let (Some(drafter), true) = (&mut sequence.drafter, n_left > 0) {
                drafter.look_up(n_left, &costs, &mut sequence.drafts);
            }
        }
        if self.runner.has_mtp() && n_drafts > 0 { self.draft_by_mtp(pass, &costs) } else { Ok(()) }
    }

    /// The MTP module reads the rows that the main model has just computed, each with the token behind it; where nothing
    /// was looked up, its most probable next token is the draft.
    fn draft_by_mtp(&mut self, pass: Pass, costs: &[f32]) -> Result<(), DeviceError> {
        self.mtp.clear();
        self.hidden_rows.clear();
        // The module is one layer and a head.
        let cost = costs[1] + 4.0 / self.runner.n_stages() as f32;
        for sequence in self.state.running.iter_mut().filter(|s| s.took_part_in(pass)) {
            sequence.mtp_row = None;
            let n_left = sequence.n_drafts_max(1);
            let rows = sequence.step_start..sequence.n_cached;
            let Some(drafter) = &mut sequence.drafter else { continue };
            // In a prompt its rows are always made: what is missing then is missing for good.
            let wanted = drafter.wants_mtp(cost);
            if rows.is_empty() || (pass == Pass::Decode && !wanted) || sequence.tokens.len() <= rows.end {
                continue;
            }
            let first = self.mtp.len();
            let next = &sequence.tokens[rows.start + 1..=rows.end];
            self.mtp.push_span(next, rows.start, &sequence.table, BLOCK_LEN);
            self.hidden_rows.extend((sequence.q_start..sequence.q_start + rows.len()).map(|row| row as u32));
            if wanted && n_left > 0 && sequence.drafts.is_empty() {
                sequence.mtp_row = Some(self.mtp.sample_rows.len());
                self.mtp.sample_rows.push((first + rows.len() - 1) as u32);
            }
        }
        if self.mtp.is_empty() {
            return Ok(());
        }
        self.runner.draft(pass, &self.mtp, &self.hidden_rows)?;
        let logits = self.runner.logits(pass);
        for sequence in self.state.running.iter_mut().filter(|s| s.took_part_in(pass)) {
            if let (Some(row), Some(drafter)) = (sequence.mtp_row.take(), &mut sequence.drafter) {
                sequence.drafts.push(argmax(&logits[row * self.voice.vocab..(row + 1) * self.voice.vocab]));
                drafter.drafted_by_mtp(cost);
            }
        }
        Ok(())
    }

    /// Ends the sequences that this step marked.
    fn end_finished(&mut self) {
        while let Some((id, reason)) = self.voice.ended.pop() {
            let Some(i) = self.state.running.iter().position(|sequence| sequence.id == id) else { continue };
            let request = self.state.running[i].request;
            self.finish(i, reason);
            // Who leaves does so for all completions of a request.
            while reason == FinishReason::Aborted
                && let Some(i) = self.state.running.iter().position(|sequence| sequence.request == request)
            {
                self.finish(i, reason);
            }
        }
        self.state.drop_unwanted_chunk();
    }

    fn finish(&mut self, i: usize, reason: FinishReason) {
        let mut sequence = self.state.free(i);
        if let Some(store) = &self.store {
            store.touch(&sequence.keys);
        }
        if let Some(mask) = &mut sequence.mask {
            self.voice.masks.forget(sequence.id, mask);
        }
        if let Some(drafter) = &sequence.drafter {
            self.mtp_gate = drafter.mtp_gate.clone();
        }
        let usage = sequence.usage();
        self.tell_end(sequence.request, sequence.index, reason, usage);
        for index in 1..=sequence.n_forks {
            self.tell_end(sequence.request, index, reason, usage);
        }
    }

    fn tell(&mut self, id: RequestId, event: Event<'_>) -> Reply {
        match self.live.iter_mut().find(|live| live.id == id) {
            Some(live) => (live.sink)(event),
            None => Reply::Abort,
        }
    }

    /// Sequence `i` is no longer waiting.
    fn tell_start(&mut self, i: usize) {
        let sequence = &mut self.state.running[i];
        sequence.usage.n_cached = sequence.n_cached;
        let (id, request, reuse) = (sequence.id, sequence.request, sequence.reuse);
        self.stats.n_reused += reuse.n_cached() as u64;
        self.stats.n_restored += reuse.n_disk as u64;
        if self.tell(request, Event::Started(reuse)) == Reply::Abort {
            self.voice.ended.push((id, FinishReason::Aborted));
        }
    }

    /// A completion has ended; with the last one of a request its sink goes.
    fn tell_end(&mut self, id: RequestId, index: usize, reason: FinishReason, usage: Usage) {
        self.tell(id, Event::Finished { index, reason, usage });
        if let Some(i) = self.live.iter().position(|live| live.id == id) {
            self.live[i].n_left -= 1;
            if self.live[i].n_left == 0 {
                self.live.remove(i);
            }
        }
    }
}

/// A sink whose panic ends its own request alone.
fn guarded(mut sink: Sink) -> Sink {
    let mut is_broken = false;
    Box::new(move |event| {
        if is_broken {
            return Reply::Abort;
        }
        let heard = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| sink(event)));
        is_broken = heard.is_err();
        heard.unwrap_or(Reply::Abort)
    })
}

impl Voice {
    /// Appends what must come first, if anything must; else the token chosen from `logits`, `[vocab]`.
    fn begin(&mut self, sequence: &mut Sequence, sink: &mut Sink, logits: &[f32]) {
        let forced = sequence.thinking.as_mut().and_then(|thinking| thinking.start().map(<[u32]>::to_vec));
        match forced {
            Some(forced) => self.force(sequence, sink, &forced),
            None => drop(self.next(sequence, sink, logits)),
        }
    }

    /// Chooses a sequence's next tokens from the logits behind its last token and behind each draft, `[1 + drafts, vocab]`
    /// or none; returns how many drafts were right.
    fn speak(&mut self, sequence: &mut Sequence, sink: &mut Sink, logits: &[f32]) -> usize {
        for (n_right, row) in logits.chunks_exact(self.vocab).enumerate() {
            let token = self.next(sequence, sink, row);
            if token.is_none() || token != sequence.drafts.get(n_right).copied() {
                return n_right;
            }
            // The draft's row is in the cache, and the logits behind it are the next row.
            sequence.n_cached += 1;
        }
        0
    }

    /// Appends the next token, or the tokens that must come next. Returns the token if the sequence goes on behind it
    /// alone.
    fn next(&mut self, sequence: &mut Sequence, sink: &mut Sink, logits: &[f32]) -> Option<u32> {
        let masked = match &mut sequence.mask {
            Some(state) => match self.masks.wait(sequence.id, state) {
                Some(masked) if !masked.is_broken() => Some(masked),
                _ => {
                    self.ended.push((sequence.id, FinishReason::Mask));
                    return None;
                }
            },
            None => None,
        };
        if let Some(masked) = masked.as_ref().filter(|masked| !masked.forced().is_empty()) {
            let forced = masked.forced().to_vec();
            self.force(sequence, sink, &forced);
            return None;
        }
        let bits = masked.and_then(|masked| masked.bits());
        let banned = sequence.sampling.banned(sequence.tokens.len() - sequence.n_prompt, &sequence.end_tokens);
        let place = Place { sequence: sequence.index as u64, position: sequence.tokens.len() as u64 };
        let (sampling, history) = (&sequence.sampling, &sequence.history);
        let Ok(choice) = self.sampler.choose(logits, sampling, history, bits, banned, place) else {
            self.ended.push((sequence.id, FinishReason::Mask));
            return None;
        };
        let Choice { token, logprob } = choice;
        let (index, top) = (sequence.index, self.sampler.top());
        let top = if logprob.is_some() { top } else { &[] };
        let reply = sink(Event::Token { index, token, forced: false, logprob, top });
        if self.append(sequence, token, reply) {
            return None;
        }
        let closing = sequence.thinking.as_mut().and_then(|thinking| thinking.on_token(token).map(<[u32]>::to_vec));
        match (closing, &mut sequence.mask) {
            (Some(closing), _) => {
                self.advance_mask(sequence, &[token]);
                self.force(sequence, sink, &closing);
                None
            }
            (None, Some(_)) => {
                self.advance_mask(sequence, &[token]);
                None
            }
            (None, None) => Some(token),
        }
    }

    /// Appends tokens that nobody chose.
    fn force(&mut self, sequence: &mut Sequence, sink: &mut Sink, tokens: &[u32]) {
        for &token in tokens {
            let event = Event::Token { index: sequence.index, token, forced: true, logprob: None, top: &[] };
            let reply = sink(event);
            if self.append(sequence, token, reply) {
                return;
            }
            if let Some(thinking) = &mut sequence.thinking {
                // What is forced here may close the reasoning, but never forces more.
                let _ = thinking.on_token(token);
            }
        }
        self.advance_mask(sequence, tokens);
    }

    fn advance_mask(&mut self, sequence: &mut Sequence, tokens: &[u32]) {
        if let Some(state) = &mut sequence.mask {
            self.masks.wait(sequence.id, state);
            self.masks.advance(sequence.id, state, tokens);
        }
    }

    /// Appends a token that the sink has heard; returns whether the completion ends with it.
    fn append(&mut self, sequence: &mut Sequence, token: u32, reply: Reply) -> bool {
        sequence.tokens.push(token);
        sequence.history.push(token);
        if let Some(drafter) = &mut sequence.drafter {
            drafter.push(token);
        }
        let loops = sequence.loops.as_mut().is_some_and(|loops| loops.push(token).is_some());
        let reason = match reply {
            Reply::Abort => FinishReason::Aborted,
            Reply::Stop => FinishReason::Stop,
            Reply::Continue if sequence.end_tokens.contains(&token) => FinishReason::Stop,
            Reply::Continue if loops => FinishReason::Loop,
            Reply::Continue if sequence.tokens.len() == sequence.n_total => FinishReason::Length,
            Reply::Continue => return false,
        };
        self.ended.push((sequence.id, reason));
        true
    }
}
