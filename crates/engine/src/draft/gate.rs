//! How many drafts to verify: as many as are likely to pay.
//!
//! Owns one sequence's estimates of acceptance and its account of time. Deterministic: no clock, no randomness.
//!
//! With aᵢ the probability that draft i is accepted if those before were, and c(k) the time of a step with k drafts beside
//! that of one with none, k drafts give (1 + a₁ + a₁a₂ + … + a₁…a_k) / c(k) tokens per unit of time; the best k is taken,
//! under two rules that bound what drafting can cost:
//!
//! * An account holds what drafting has gained, up to [`ACCOUNT_MAX`] units: a step of t tokens adds t − c(k), since
//!   without drafts it would have taken t units for them. Drafts are tried only if it can bear that all of them fail.
//! * An estimate that says "none" would never be corrected. So one draft more is verified now and then, whenever its
//!   cost is at most [`EXPLORATION`] of the time since the last such; that cost is not the account's.
//!
//! The account is never negative, so whatever the model accepts, drafting costs at most [`START`] units and that share of
//! the time: over n steps without any success, less than 1 % + 0.5/n.

/// Most drafts per step.
const DRAFTS_MAX: usize = 16;
/// Share of the time that goes into trying one draft more.
const EXPLORATION: f32 = 0.01;
/// What an account begins with, in steps without drafts: where drafts are cheap, some are tried at once.
const START: f32 = 0.5;
/// Most that an account holds: what a sequence can lose whose drafts did well and no longer do. Two steps that failed in
/// a row must not use it up, or good drafts would be given up by chance.
const ACCOUNT_MAX: f32 = 16.0;
/// Weight of the newest result in an estimate; the memory is some 32 results long.
const DECAY: f32 = 1.0 / 32.0;
/// Acceptance of the first draft before anything is known.
const PRIOR: f32 = 0.5;

/// The decision for one sequence and one source of drafts.
#[derive(Clone, Debug)]
pub struct Gate {
    /// Probability that draft i is accepted if those before it were.
    acceptance: [f32; DRAFTS_MAX],
    /// Drafts whose acceptance has been observed; later ones are taken to be like the last of them.
    n_known: usize,
    /// Units of time, at least 0.
    account: f32,
    /// Time since one draft more was tried.
    idle: f32,
    /// What the draft more costs that the step under way tries, or 0.
    exploring: f32,
}

impl Default for Gate {
    fn default() -> Self {
        let acceptance = [PRIOR; DRAFTS_MAX];
        Self { acceptance, n_known: 1, account: START, idle: 0.0, exploring: 0.0 }
    }
}

impl Gate {
    /// How many of `n_available` drafts to verify. `costs[k]` is the time of a step with k drafts beside that of one with
    /// none; there are no more drafts than it has costs for. In a batch it is the cost of this sequence's rows to the
    /// whole step.
    pub fn n_drafts(&mut self, n_available: usize, costs: &[f32]) -> usize {
        let n_max = n_available.min(DRAFTS_MAX).min(costs.len().saturating_sub(1));
        let (mut best, mut best_rate) = (0, 1.0);
        let (mut n_tokens, mut reached) = (1.0, 1.0);
        for (k, cost) in costs.iter().enumerate().take(n_max + 1).skip(1) {
            reached *= self.acceptance[(k - 1).min(self.n_known - 1)];
            n_tokens += reached;
            if n_tokens / cost > best_rate && cost - 1.0 <= self.account {
                (best, best_rate) = (k, n_tokens / cost);
            }
        }
        self.exploring = 0.0;
        if best < n_max {
            let more = costs[best + 1] - if best == 0 { 1.0 } else { costs[best] };
            if more <= EXPLORATION * self.idle {
                (self.idle, self.exploring) = (0.0, more.max(0.0));
                return best + 1;
            }
        }
        best
    }

    /// Takes note of a step that verified `n_drafts` and accepted the first `n_accepted`; `cost` is its entry in the costs
    /// of the decision. To be told of steps without drafts too, since they are the time that trials are a share of.
    pub fn record(&mut self, n_drafts: usize, n_accepted: usize, cost: f32) {
        for i in 0..n_drafts.min(n_accepted + 1).min(DRAFTS_MAX) {
            if i >= self.n_known {
                self.acceptance[i] = self.acceptance[i - 1];
                self.n_known = i + 1;
            }
            let accepted = if i < n_accepted { 1.0 } else { 0.0 };
            self.acceptance[i] += DECAY * (accepted - self.acceptance[i]);
        }
        let gain = (1 + n_accepted) as f32 - cost + self.exploring;
        self.account = (self.account + gain).clamp(0.0, ACCOUNT_MAX);
        self.idle += cost;
        self.exploring = 0.0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Steps whose drafts cost nearly nothing, some, a whole step each, and as measured for routed experts: every draft
    /// reads experts of its own.
    const COSTS: [[f32; 9]; 4] = [
        [1.0, 1.01, 1.02, 1.03, 1.04, 1.05, 1.06, 1.07, 1.08],
        [1.0, 1.1, 1.2, 1.3, 1.45, 1.6, 1.8, 2.0, 2.2],
        [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0],
        [1.0, 1.4, 1.75, 2.05, 2.3, 2.5, 2.7, 2.85, 3.0],
    ];

    /// Time and tokens of `n_steps`, of which step i accepts as many drafts as `accepts` says it would.
    fn simulate(gate: &mut Gate, costs: &[f32], n_steps: usize, mut accepts: impl FnMut(usize) -> usize) -> (f32, f32) {
        let (mut time, mut n_tokens) = (0.0, 0.0);
        for step in 0..n_steps {
            let n_drafts = gate.n_drafts(8, costs);
            let n_accepted = accepts(step).min(n_drafts);
            gate.record(n_drafts, n_accepted, costs[n_drafts]);
            time += costs[n_drafts];
            n_tokens += 1.0 + n_accepted as f32;
        }
        (time, n_tokens)
    }

    /// A number in [0, 1) from a seed and a counter.
    fn noise(seed: u64, i: usize) -> f32 {
        let mixed = (seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ i as u64).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        ((mixed ^ (mixed >> 29)).wrapping_mul(0x94d0_49bb_1331_11eb) >> 40) as f32 / (1 << 24) as f32
    }

    /// How many drafts in a row are accepted with probability `acceptance` each.
    fn run_length(seed: u64, step: usize, acceptance: f32) -> usize {
        (0..8).take_while(|i| noise(seed, step * 8 + i) < acceptance).count()
    }

    #[test]
    fn drafts_that_never_succeed_waste_two_percent_at_most() {
        for costs in COSTS {
            for n_steps in [1, 10, 50, 200, 1000, 10_000] {
                let (time, n_tokens) = simulate(&mut Gate::default(), &costs, n_steps, |_| 0);
                assert!(time - n_tokens <= 0.51 + 0.01 * time, "{time} for {n_tokens} tokens at {costs:?}");
                assert!(n_steps < 50 || time <= 1.02 * n_tokens + 0.01, "{time} for {n_tokens} tokens at {costs:?}");
            }
        }
    }

    proptest::proptest! {
        /// Whatever an adversary accepts, drafting costs no more than it may.
        #[test]
        fn no_acceptance_pattern_costs_more_than_the_bound(
            seed in proptest::num::u64::ANY, table in 0usize..4, period in 1usize..200, acceptance in 0.0f32..1.0,
        ) {
            let mut gate = Gate::default();
            let (mut time, mut n_tokens) = (0.0, 0.0);
            for round in 0..50 {
                let acceptance = if round % 2 == 0 { acceptance } else { 0.0 };
                let (t, n) = simulate(&mut gate, &COSTS[table], period, |step| run_length(seed, round * 200 + step, acceptance));
                (time, n_tokens) = (time + t, n_tokens + n);
                proptest::prop_assert!(time - n_tokens <= 0.51 + 0.01 * time, "{} for {} tokens", time, n_tokens);
            }
        }
    }

    /// Tokens per time, beside the best that any fixed number of drafts would give.
    #[test]
    fn finds_the_best_number_of_drafts() {
        for costs in COSTS {
            for acceptance in [0.1f32, 0.3, 0.5, 0.7, 0.9, 1.0] {
                let rate = |k: usize| (0..=k).map(|i| acceptance.powi(i as i32)).sum::<f32>() / costs[k];
                let best = (0..=8).map(rate).fold(1.0, f32::max);
                let (time, n_tokens) =
                    simulate(&mut Gate::default(), &costs, 5000, |step| run_length(1, step, acceptance));
                assert!(n_tokens / time >= 0.95 * best, "{} of {best} at {acceptance}, {costs:?}", n_tokens / time);
            }
        }
    }

    #[test]
    fn notices_that_drafts_have_become_good_again() {
        let costs = COSTS[1];
        let mut gate = Gate::default();
        simulate(&mut gate, &costs, 2000, |_| 0);
        let (time, n_tokens) = simulate(&mut gate, &costs, 300, |step| run_length(2, step, 0.9));
        assert!(n_tokens / time > 2.0, "{n_tokens} tokens in {time}");
    }

    #[test]
    fn proposes_no_more_than_there_is() {
        let mut gate = Gate::default();
        let free = [1.0; 40];
        for _ in 0..200 {
            let n = gate.n_drafts(40, &free);
            gate.record(n, n, 1.0);
        }
        assert_eq!(gate.n_drafts(40, &free), DRAFTS_MAX);
        assert_eq!(gate.n_drafts(3, &free), 3);
        assert_eq!(gate.n_drafts(8, &free[..3]), 2);
        assert_eq!(gate.n_drafts(0, &free), 0);
        assert_eq!(gate.n_drafts(8, &[]), 0);
    }
}
