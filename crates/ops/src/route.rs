//! The three routers of the DeepSeek family, for one token.
//!
//! Owns which experts a token goes to and with which weights, as a pure function. Must not touch expert weights.
//!
//! Traps this file avoids: groups are masked with −∞, not 0, because a biased score can be negative; the weights are
//! the unbiased scores, never recovered as `choice − bias`; the sum is guarded by 1e-20 because sigmoids can underflow.

pub mod gradient;

use std::cmp::Ordering;

/// How router logits become scores.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scoring {
    /// Softmax over all experts (V2).
    Softmax,
    /// Sigmoid of each logit (V3).
    Sigmoid,
}

/// How experts are chosen from scores (`topk_method`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Selection {
    /// The `top_k` best scores (V2-Lite).
    Greedy,
    /// Only experts of the `topk_group` groups with the largest maximum (V2).
    GroupLimitedGreedy {
        /// Number of equal groups of consecutive experts.
        n_group: usize,
        /// Groups kept.
        topk_group: usize,
    },
    /// Scores plus a learned bias; only experts of the `topk_group` groups with the largest sum of two best (V3).
    NoAuxTc {
        /// Number of equal groups of consecutive experts.
        n_group: usize,
        /// Groups kept.
        topk_group: usize,
    },
}

/// Everything a router needs besides logits and bias.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RouterSpec {
    /// Number of routed experts, E.
    pub n_experts: usize,
    /// Experts per token, k.
    pub top_k: usize,
    /// Scores.
    pub scoring: Scoring,
    /// Choice.
    pub selection: Selection,
    /// Divide the chosen weights by their sum (`norm_topk_prob`).
    pub norm_topk_prob: bool,
    /// Multiplies the weights (`routed_scaling_factor`).
    pub routed_scaling_factor: f32,
}

/// An expert while it is chosen, or a group of them.
#[derive(Clone, Copy, Debug, Default)]
pub struct Candidate {
    /// What its weight is made of.
    score: f64,
    /// What it is chosen by.
    choice: f64,
    index: u32,
}

impl RouterSpec {
    /// Candidates that [`route_among`] works on: the experts, and the groups behind them.
    #[must_use]
    pub fn n_candidates(&self) -> usize {
        self.n_experts
            + match self.selection {
                Selection::Greedy => 0,
                Selection::GroupLimitedGreedy { n_group, .. } | Selection::NoAuxTc { n_group, .. } => n_group,
            }
    }
}

/// Chooses experts for one token, best first; of equal scores the lower index wins.
///
/// # Shapes   `logits [E]` · `bias [E] or none` · `expert_ids, expert_weights [k]`
/// # Numerics scores in f64, rounded once
/// # Memory   allocates its candidates; see [`route_among`]
/// # Panics   if lengths disagree with `spec` (a bug of the caller)
/// # Source   DeepSeek-V2 2.2.2, DeepSeek-V3 2.1.2
pub fn route_token(
    spec: &RouterSpec,
    logits: &[f32],
    bias: Option<&[f32]>,
    expert_ids: &mut [u32],
    expert_weights: &mut [f32],
) {
    assert_eq!((expert_ids.len(), expert_weights.len()), (spec.top_k, spec.top_k));
    let mut candidates = vec![Candidate::default(); spec.n_candidates()];
    let chosen = route_among(spec, logits, bias, &mut candidates);
    for ((id, weight), chosen) in expert_ids.iter_mut().zip(expert_weights).zip(chosen) {
        (*id, *weight) = chosen;
    }
}

/// [`route_token`] in the caller's memory: yields the k experts and their weights.
///
/// # Shapes   `logits [E]` · `bias [E] or none` · `candidates [RouterSpec::n_candidates]`, whatever they hold
/// # Panics   if lengths disagree with `spec` (a bug of the caller)
pub fn route_among<'c>(
    spec: &RouterSpec,
    logits: &[f32],
    bias: Option<&[f32]>,
    candidates: &'c mut [Candidate],
) -> impl Iterator<Item = (u32, f32)> + use<'c> {
    assert_eq!((logits.len(), candidates.len()), (spec.n_experts, spec.n_candidates()));
    let (experts, groups) = candidates.split_at_mut(spec.n_experts);
    score(spec.scoring, logits, experts);
    match spec.selection {
        Selection::Greedy => {}
        Selection::GroupLimitedGreedy { topk_group, .. } => keep_groups(experts, groups, topk_group, 1),
        Selection::NoAuxTc { topk_group, .. } => {
            for (expert, b) in experts.iter_mut().zip(bias.into_iter().flatten()) {
                expert.choice += f64::from(*b);
            }
            keep_groups(experts, groups, topk_group, 2);
        }
    }
    let chosen = best(experts, spec.top_k);
    let sum = if spec.norm_topk_prob { chosen.iter().map(|e| e.score).sum::<f64>() + 1e-20 } else { 1.0 };
    let factor = f64::from(spec.routed_scaling_factor);
    chosen.iter().map(move |e| (e.index, (e.score / sum * factor) as f32))
}

/// Sets scores, which experts are chosen by unless something is added, and indices.
fn score(scoring: Scoring, logits: &[f32], experts: &mut [Candidate]) {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    for ((expert, &l), index) in experts.iter_mut().zip(logits).zip(0..) {
        expert.index = index;
        expert.score = match scoring {
            Scoring::Sigmoid => 1.0 / (1.0 + f64::from(-l).exp()),
            Scoring::Softmax => (f64::from(l) - f64::from(max)).exp(),
        };
    }
    if scoring == Scoring::Softmax {
        let sum: f64 = experts.iter().map(|e| e.score).sum();
        experts.iter_mut().for_each(|e| e.score /= sum);
    }
    experts.iter_mut().for_each(|e| e.choice = e.score);
}

/// The `k` candidates with the largest choice, largest first, moved to the front; NaN of either sign ranks above
/// everything, so that it shows. The order has no ties, so that what is found does not depend on how.
fn best(candidates: &mut [Candidate], k: usize) -> &[Candidate] {
    let order = |a: &Candidate, b: &Candidate| {
        let (x, y) = (a.choice, b.choice);
        let larger_first = || y.partial_cmp(&x).unwrap_or(Ordering::Equal);
        y.is_nan().cmp(&x.is_nan()).then_with(larger_first).then(a.index.cmp(&b.index))
    };
    if k < candidates.len() {
        candidates.select_nth_unstable_by(k, order);
    }
    let chosen = &mut candidates[..k];
    chosen.sort_unstable_by(order);
    chosen
}

/// Masks the experts of all but the `topk_group` groups with the largest sum of their `n_best` best. Experts change places
/// within their group.
fn keep_groups(experts: &mut [Candidate], groups: &mut [Candidate], topk_group: usize, n_best: usize) {
    let group_len = experts.len() / groups.len();
    for ((group, members), index) in groups.iter_mut().zip(experts.chunks_mut(group_len)).zip(0..) {
        let choice = best(members, n_best.min(members.len())).iter().map(|e| e.choice).sum();
        *group = Candidate { score: 0.0, choice, index };
    }
    best(groups, topk_group);
    for dropped in &groups[topk_group..] {
        for expert in &mut experts[dropped.index as usize * group_len..][..group_len] {
            expert.choice = f64::NEG_INFINITY;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(spec: &RouterSpec, logits: &[f32], bias: Option<&[f32]>) -> (Vec<u32>, Vec<f32>) {
        let (mut ids, mut weights) = (vec![0; spec.top_k], vec![0.0; spec.top_k]);
        route_token(spec, logits, bias, &mut ids, &mut weights);
        (ids, weights)
    }

    const V3: RouterSpec = RouterSpec {
        n_experts: 8,
        top_k: 2,
        scoring: Scoring::Sigmoid,
        selection: Selection::NoAuxTc { n_group: 4, topk_group: 2 },
        norm_topk_prob: true,
        routed_scaling_factor: 2.5,
    };

    #[test]
    fn groups_are_masked_with_minus_infinity() {
        // Every biased score is negative: a mask of 0 would choose experts of dropped groups.
        let bias = [-5.0; 8];
        let (ids, weights) = route(&V3, &[0.0, 0.1, 3.0, 2.0, 0.0, 0.0, 1.0, 2.5], Some(&bias));
        assert_eq!(ids, [2, 7]);
        assert!((weights.iter().sum::<f32>() - 2.5).abs() < 1e-6);
    }

    #[test]
    fn a_constant_bias_changes_nothing_and_never_enters_the_weights() {
        let logits = [0.3, -1.0, 0.9, 0.2, -0.5, 1.5, 0.0, 0.7];
        assert_eq!(route(&V3, &logits, Some(&[0.0; 8])), route(&V3, &logits, Some(&[0.75; 8])));
    }

    #[test]
    fn group_limited_takes_the_group_maximum() {
        let spec = RouterSpec {
            scoring: Scoring::Softmax,
            selection: Selection::GroupLimitedGreedy { n_group: 4, topk_group: 1 },
            norm_topk_prob: false,
            routed_scaling_factor: 16.0,
            ..V3
        };
        // Group 0 has the larger sum, group 3 the larger maximum.
        let (ids, _) = route(&spec, &[1.9, 1.9, 0.0, 0.0, 0.0, 0.0, 2.0, -3.0], None);
        assert_eq!(ids, [6, 7]);
    }

    #[test]
    fn a_nan_is_chosen_whatever_its_sign() {
        for (nan, selection) in [f32::NAN, -f32::NAN].into_iter().flat_map(|nan| {
            let group_limited = Selection::GroupLimitedGreedy { n_group: 4, topk_group: 1 };
            [(nan, Selection::Greedy), (nan, group_limited), (nan, V3.selection)]
        }) {
            let (ids, weights) =
                route(&RouterSpec { selection, ..V3 }, &[9.0, 0.0, 0.0, 0.0, 0.0, nan, 0.0, 0.0], None);
            assert_eq!(ids[0], 5);
            assert!(weights.iter().all(|w| w.is_nan()));
        }
    }

    /// The same by sorting everything.
    fn route_sorted(spec: &RouterSpec, logits: &[f32], bias: &[f32]) -> Vec<u32> {
        let mut experts = vec![Candidate::default(); spec.n_experts];
        score(spec.scoring, logits, &mut experts);
        let sorted = |mut all: Vec<Candidate>| {
            all.sort_by(|a, b| b.choice.total_cmp(&a.choice).then(a.index.cmp(&b.index)));
            all
        };
        let (n_group, topk_group, n_best) = match spec.selection {
            Selection::Greedy => (1, 1, 1),
            Selection::GroupLimitedGreedy { n_group, topk_group } => (n_group, topk_group, 1),
            Selection::NoAuxTc { n_group, topk_group } => {
                experts.iter_mut().zip(bias).for_each(|(e, b)| e.choice += f64::from(*b));
                (n_group, topk_group, 2)
            }
        };
        let groups = experts.chunks(spec.n_experts / n_group).zip(0..).map(|(members, index)| {
            let choice = sorted(members.to_vec()).iter().take(n_best).map(|e| e.choice).sum();
            Candidate { score: 0.0, choice, index }
        });
        let groups = sorted(groups.collect());
        for dropped in &groups[topk_group..] {
            let group = experts.chunks_mut(spec.n_experts / n_group).nth(dropped.index as usize);
            group.into_iter().flatten().for_each(|e| e.choice = f64::NEG_INFINITY);
        }
        sorted(experts).iter().take(spec.top_k).map(|e| e.index).collect()
    }

    #[test]
    fn choosing_the_best_finds_what_sorting_all_does() {
        let mut state = 1u32;
        // Few values, so that many are equal.
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 29) as f32 - 3.5
        };
        for (n_group, topk_group, top_k) in [(8, 4, 8), (8, 8, 64), (4, 1, 16), (64, 64, 1), (1, 1, 0)] {
            for selection in [
                Selection::Greedy,
                Selection::GroupLimitedGreedy { n_group, topk_group },
                Selection::NoAuxTc { n_group, topk_group },
            ] {
                let spec = RouterSpec { n_experts: 64, top_k, selection, ..V3 };
                for _ in 0..50 {
                    let [logits, bias] = [0; 2].map(|_| [0; 64].map(|_| next()));
                    assert_eq!(route(&spec, &logits, Some(&bias)).0, route_sorted(&spec, &logits, &bias), "{spec:?}");
                }
            }
        }
    }

    #[test]
    fn underflowing_sigmoids_give_zero_weights_not_nan() {
        let (_, weights) = route(&V3, &[-1e4; 8], None);
        assert!(weights.iter().all(|w| w.is_finite()));
    }
}
