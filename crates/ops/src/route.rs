//! The three routers of the DeepSeek family, for one token.
//!
//! Owns which experts a token goes to and with which weights, as a pure function. Must not touch expert weights.
//!
//! Traps this file avoids: groups are masked with −∞, not 0, because a biased score can be negative; the weights are
//! the unbiased scores, never recovered as `choice − bias`; the sum is guarded by 1e-20 because sigmoids can underflow.

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

/// Chooses experts for one token, best first; of equal scores the lower index wins.
///
/// # Shapes   `logits [E]` · `bias [E] or none` · `expert_ids, expert_weights [k]`
/// # Numerics scores in f64, rounded once
/// # Panics   if lengths disagree with `spec` (a bug of the caller)
/// # Source   DeepSeek-V2 2.2.2, DeepSeek-V3 2.1.2
pub fn route_token(
    spec: &RouterSpec,
    logits: &[f32],
    bias: Option<&[f32]>,
    expert_ids: &mut [u32],
    expert_weights: &mut [f32],
) {
    assert_eq!(logits.len(), spec.n_experts);
    assert_eq!((expert_ids.len(), expert_weights.len()), (spec.top_k, spec.top_k));
    let scores = scores(spec.scoring, logits);
    let mut choice = scores.clone();
    match spec.selection {
        Selection::Greedy => {}
        Selection::GroupLimitedGreedy { n_group, topk_group } => {
            keep_groups(&mut choice, n_group, topk_group, |group| best(group, 1).iter().map(|&i| group[i]).sum());
        }
        Selection::NoAuxTc { n_group, topk_group } => {
            for (c, b) in choice.iter_mut().zip(bias.into_iter().flatten()) {
                *c += f64::from(*b);
            }
            keep_groups(&mut choice, n_group, topk_group, |group| best(group, 2).iter().map(|&i| group[i]).sum());
        }
    }
    let chosen = best(&choice, spec.top_k);
    let sum = if spec.norm_topk_prob { chosen.iter().map(|&e| scores[e]).sum::<f64>() + 1e-20 } else { 1.0 };
    for (slot, &expert) in chosen.iter().enumerate() {
        expert_ids[slot] = expert as u32;
        expert_weights[slot] = (scores[expert] / sum * f64::from(spec.routed_scaling_factor)) as f32;
    }
}

fn scores(scoring: Scoring, logits: &[f32]) -> Vec<f64> {
    match scoring {
        Scoring::Sigmoid => logits.iter().map(|&l| 1.0 / (1.0 + f64::from(-l).exp())).collect(),
        Scoring::Softmax => {
            let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let exp: Vec<f64> = logits.iter().map(|&l| (f64::from(l) - f64::from(max)).exp()).collect();
            let sum: f64 = exp.iter().sum();
            exp.into_iter().map(|e| e / sum).collect()
        }
    }
}

/// Indices of the `k` largest values, largest first; NaN of either sign ranks above everything, so that it shows.
fn best(values: &[f64], k: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|&a, &b| {
        let (x, y) = (values[a], values[b]);
        let larger_first = || y.partial_cmp(&x).unwrap_or(Ordering::Equal);
        y.is_nan().cmp(&x.is_nan()).then_with(larger_first).then(a.cmp(&b))
    });
    order.truncate(k);
    order
}

fn keep_groups(choice: &mut [f64], n_group: usize, topk_group: usize, group_score: impl Fn(&[f64]) -> f64) {
    let group_len = choice.len() / n_group;
    let group_scores: Vec<f64> = choice.chunks(group_len).map(group_score).collect();
    let kept = best(&group_scores, topk_group);
    for (g, group) in choice.chunks_mut(group_len).enumerate() {
        if !kept.contains(&g) {
            group.fill(f64::NEG_INFINITY);
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

    #[test]
    fn underflowing_sigmoids_give_zero_weights_not_nan() {
        let (_, weights) = route(&V3, &[-1e4; 8], None);
        assert!(weights.iter().all(|w| w.is_finite()));
    }
}
