//! The rounds: what is timed, what is counted, and whether the answers hold.
//!
//! Owns the cells of the table and their measurements. Before a cell is timed it runs once to warm up, to count the
//! bytes it moves with the experts it really chose, and to learn its answer; every timed round must repeat that answer,
//! and sequences of a batch must write what they write alone. Must not print.

use std::collections::BTreeMap;

use cpu::Cpu;
use engine::{Lanes, LanesOptions, argmax, greedily};
use model::Config;
use model::counts::step_flops;
use model::traffic::WeightBytes;

use super::clock::{Clock, Spent};
use crate::failure::Failure;

/// One line of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Cell {
    pub(super) kind: Kind,
    /// Tokens of context.
    pub(super) depth: usize,
    /// Sequences in parallel.
    pub(super) batch: usize,
    /// Tokens per sequence.
    pub(super) n_tokens: usize,
}

/// What a cell does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Prefill,
    Decode,
}

impl Kind {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Prefill => "prefill",
            Self::Decode => "decode",
        }
    }
}

impl Cell {
    /// Tokens of all sequences.
    pub(super) fn n_total(&self) -> usize {
        self.batch * self.n_tokens
    }
}

/// What one round of a cell moves and computes.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Work {
    pub(super) bytes: u64,
    pub(super) flops: u64,
}

/// Whether a cell's answers hold.
#[derive(Clone, Copy, Debug)]
pub(super) struct Check {
    /// Every logit behind the last tokens is a number; one that is not would spread there through the cache.
    pub(super) finite: bool,
    /// Every round gave the same tokens.
    pub(super) repeats: bool,
    /// Sequences wrote in the batch what they write alone; true where there is no batch.
    pub(super) as_alone: bool,
    /// Greatest difference of their last logits from those alone.
    pub(super) logits_difference_max: f32,
}

impl Check {
    pub(super) fn passed(&self) -> bool {
        self.finite && self.repeats && self.as_alone
    }
}

/// A cell with its measurements.
#[derive(Debug)]
pub(super) struct Series {
    pub(super) cell: Cell,
    pub(super) rounds: Vec<Spent>,
    pub(super) work: Work,
    pub(super) check: Check,
    answer: Vec<Vec<u32>>,
}

/// A sequence's own answer.
struct Alone {
    tokens: Vec<u32>,
    logits: Vec<f32>,
}

/// The model under measurement.
pub(super) struct Bench<'a> {
    pub(super) config: &'a Config,
    pub(super) weights: WeightBytes,
    pub(super) options: LanesOptions,
    pub(super) lanes: Lanes<'a, Cpu>,
    /// Prompt that prefill reads the beginning of.
    pub(super) prompt: Vec<u32>,
    alone: BTreeMap<(usize, usize), Alone>,
}

/// Tokens of a prompt without meaning, the same in every run: a linear congruential sequence (Numerical Recipes).
pub(super) fn prompt(n: usize, vocab: usize) -> Vec<u32> {
    let mut state = 12_345u32;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        ((u64::from(state) * vocab as u64) >> 32) as u32
    };
    (0..n).map(|_| next()).collect()
}

impl<'a> Bench<'a> {
    pub(super) fn new(
        config: &'a Config,
        weights: WeightBytes,
        options: LanesOptions,
        lanes: Lanes<'a, Cpu>,
        prompt: Vec<u32>,
    ) -> Self {
        Self { config, weights, options, lanes, prompt, alone: BTreeMap::new() }
    }

    /// Warms a cell up, counts its work and learns its answer.
    pub(super) fn survey(&mut self, cell: Cell) -> Result<Series, Failure> {
        let mut experts = Vec::new();
        let (_, answer) = self.play(cell, |lanes| {
            experts.push(lanes.experts_used()?);
            Ok(())
        })?;
        let finite = self.lanes.logits().iter().all(|l| l.is_finite());
        let mut check = Check { finite, repeats: true, as_alone: true, logits_difference_max: 0.0 };
        if cell.kind == Kind::Decode {
            self.compare_with_alone(cell, &answer, &mut check)?;
        }
        Ok(Series { cell, rounds: Vec::new(), work: self.work(cell, &experts), check, answer })
    }

    /// Times a cell once more.
    pub(super) fn round(&mut self, series: &mut Series) -> Result<Spent, Failure> {
        let (spent, answer) = self.play(series.cell, |_| Ok(()))?;
        series.check.finite &= self.lanes.logits().iter().all(|l| l.is_finite());
        series.check.repeats &= answer == series.answer;
        series.rounds.push(spent);
        Ok(spent)
    }

    /// Runs a cell; only the model's own work is timed.
    fn play(
        &mut self,
        cell: Cell,
        after_step: impl FnMut(&Lanes<'a, Cpu>) -> Result<(), ops::DeviceError>,
    ) -> Result<(Spent, Vec<Vec<u32>>), Failure> {
        self.lanes.set_depth(cell.depth);
        let clock = Clock::start();
        let answer = match cell.kind {
            Kind::Prefill => {
                self.lanes.prefill(&self.prompt[..cell.n_tokens], after_step)?;
                vec![vec![argmax(self.lanes.logits())]]
            }
            Kind::Decode => {
                let first = |lane| self.prompt[lane % self.prompt.len()];
                self.lanes.decode(0..cell.batch, cell.n_tokens, greedily(first), after_step)?
            }
        };
        Ok((clock.spent(), answer))
    }

    /// The first and the last sequence of a batch, against themselves alone.
    fn compare_with_alone(&mut self, cell: Cell, answer: &[Vec<u32>], check: &mut Check) -> Result<(), Failure> {
        let vocab = self.config.vocab_size;
        let together = self.lanes.logits().to_vec();
        for lane in [0, cell.batch - 1] {
            let (tokens, logits) = (&answer[lane], &together[lane * vocab..(lane + 1) * vocab]);
            if cell.batch == 1 {
                let alone = Alone { tokens: tokens.clone(), logits: logits.to_vec() };
                self.alone.insert((cell.depth, lane), alone);
            } else if !self.alone.contains_key(&(cell.depth, lane)) {
                let first = |lane| self.prompt[lane % self.prompt.len()];
                let mut written = self.lanes.decode(lane..lane + 1, cell.n_tokens, greedily(first), |_| Ok(()))?;
                let alone = Alone { tokens: written.remove(0), logits: self.lanes.logits().to_vec() };
                self.alone.insert((cell.depth, lane), alone);
            }
            let alone = &self.alone[&(cell.depth, lane)];
            check.as_alone &= alone.tokens == *tokens;
            let difference = logits.iter().zip(&alone.logits).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            check.logits_difference_max = check.logits_difference_max.max(difference);
        }
        Ok(())
    }

    /// What a cell's steps move and compute, given each step's rows and distinct experts per layer.
    fn work(&self, cell: Cell, experts: &[(usize, Vec<usize>)]) -> Work {
        let token_bytes = self.options.token_bytes(self.config);
        let (mut work, mut n_cached) = (Work::default(), cell.depth as u64);
        for (n_rows, n_experts) in experts {
            let n_sequences = cell.batch as u64;
            let n_new = *n_rows as u64 / n_sequences;
            // Every visible row is read, and the new ones are written too.
            let n_cache_rows = n_sequences * (n_cached + 2 * n_new);
            work.bytes += self.weights.of_step(*n_rows, n_experts) + n_cache_rows * token_bytes;
            work.flops += n_sequences * step_flops(self.config, n_cached, n_new, 1);
            n_cached += n_new;
        }
        work
    }
}
