//! Where one sequence's drafts come from, and whether they are worth it.
//!
//! Owns the sources and the gate of each. Must not run the MTP module: the engine does.

use super::{Gate, Lookup};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Source {
    Lookup,
    Mtp,
}

/// The sources of a sequence that speculates.
#[derive(Clone)]
pub(crate) struct Drafter {
    lookup: Lookup,
    lookup_gate: Gate,
    pub(crate) mtp_gate: Gate,
    /// Who made the drafts of the step in work, and what it costs beside one without.
    source: Source,
    cost: f32,
}

impl Drafter {
    /// For a prompt, with room for a sequence of `n_total` tokens.
    pub(crate) fn new(prompt: &[u32], n_total: usize) -> Self {
        let mut lookup = Lookup::with_capacity(n_total);
        prompt.iter().for_each(|token| lookup.push(*token));
        Self { lookup, lookup_gate: Gate::default(), mtp_gate: Gate::default(), source: Source::Lookup, cost: 1.0 }
    }

    /// The sequence's next token is certain.
    pub(crate) fn push(&mut self, token: u32) {
        self.lookup.push(token);
    }

    /// Fills `drafts`, which is empty, with up to `n` tokens; `costs` as for [`Gate::n_drafts`].
    pub(crate) fn look_up(&mut self, n: usize, costs: &[f32], drafts: &mut Vec<u32>) {
        drafts.resize(n, 0);
        let n_found = self.lookup.propose(drafts);
        let n_worth = self.lookup_gate.n_drafts(n_found, costs);
        drafts.truncate(n_worth);
        (self.source, self.cost) = (Source::Lookup, costs[n_worth]);
    }

    /// Whether the MTP module's token is worth `cost`.
    pub(crate) fn wants_mtp(&mut self, cost: f32) -> bool {
        self.mtp_gate.n_drafts(1, &[1.0, cost]) > 0
    }

    pub(crate) fn drafted_by_mtp(&mut self, cost: f32) {
        (self.source, self.cost) = (Source::Mtp, cost);
    }

    /// A step has verified `n_drafts` and accepted the first `n_accepted`.
    pub(crate) fn record(&mut self, n_drafts: usize, n_accepted: usize) {
        let (by_lookup, by_mtp) = match self.source {
            Source::Lookup => ((n_drafts, n_accepted, self.cost), (0, 0, 1.0)),
            Source::Mtp => ((0, 0, 1.0), (n_drafts, n_accepted, self.cost)),
        };
        self.lookup_gate.record(by_lookup.0, by_lookup.1, by_lookup.2);
        self.mtp_gate.record(by_mtp.0, by_mtp.1, by_mtp.2);
    }
}
