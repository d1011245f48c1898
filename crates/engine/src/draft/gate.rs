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
/// Most that an account holds: what a sequence can lose whose drafts did well and no longer do.
const ACCOUNT_MAX: f32 = 4.0;
/// Weight of the newest result in an estimate; the memory is some sixteen results long.
const DECAY: f32 = 1.0 / 16.0;
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
        for k in 1..=n_max {
            reached *= self.acceptance[(k - 1).min(self.n_known - 1)];
            n_tokens += reached;
            if n_tokens / costs[k] > best_rate && costs[k] - 1.0 <= self.account {
                (best, best_rate) = (k, n_tokens / costs[k]);
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
