//! Cases of the three attention forms.
//!
//! Owns what they share: scores with their magnitudes, and the bound of one head. Must not know a cache's layout.

pub(super) mod expanded;
pub(super) mod key_value;
pub(super) mod latent;

use std::ops::Range;

use super::arithmetic::{TINY, attention_weight, weighted_mean};
use super::report::Bound;
use super::scene::{Lone, Scene};

/// Positions of a context of 20 that a score of −∞ takes out: whole tiles at its start, at its end and inside, and all
/// of them, which leaves nothing to divide by.
const OUT_OF_SIGHT: [Range<usize>; 4] = [0..9, 11..20, 1..19, 0..20];

/// One score, exactly, and the sum of its terms' absolute values.
#[derive(Clone, Copy, Debug)]
pub(super) struct Score {
    pub(super) value: f64,
    pub(super) magnitude: f64,
}

/// The bounds of one row's head, computed in f32.
///
/// `terms`: roundings of a score's sum; `value_error`: of each value, relative to `magnitudes`;
/// `magnitudes(s, i)`: |v[s][i]| or the sum that makes it.
pub(super) fn head_bounds(
    scores: &[Score],
    terms: usize,
    value_error: f64,
    dim: usize,
    magnitudes: impl Fn(usize, usize) -> f64,
) -> Vec<Bound> {
    integer_bounds(scores, terms, value_error, Steps::default(), dim, magnitudes)
}

/// How coarsely a device rounds queries and weights to whole numbers.
#[derive(Default)]
pub(super) struct Steps {
    /// How far a score may be off for that.
    pub(super) score: f64,
    /// Per position, half a step of its weight where the largest weight is 1: one rounding for each tile, whose largest
    /// weight is at most that.
    pub(super) weights: Vec<f64>,
    /// Per position, how far each channel of its value may be off.
    pub(super) values: Vec<Vec<f64>>,
}

/// As [`head_bounds`] where queries and weights are rounded too.
pub(super) fn integer_bounds(
    scores: &[Score],
    terms: usize,
    value_error: f64,
    steps: Steps,
    dim: usize,
    magnitudes: impl Fn(usize, usize) -> f64,
) -> Vec<Bound> {
    let max = scores.iter().map(|s| s.value).fold(f64::NEG_INFINITY, f64::max);
    if !max.is_finite() || scores.iter().any(|s| s.value.is_nan()) {
        // The reference has NaN here, and no distance to a NaN is small.
        return vec![Bound::Within(0.0); dim];
    }
    let seen: Vec<usize> = (0..scores.len()).filter(|&s| scores[s].value.is_finite()).collect();
    let magnitude = seen.iter().map(|&s| scores[s].magnitude).fold(0.0, f64::max);
    let weights: Vec<f64> = seen.iter().map(|&s| (scores[s].value - max).exp()).collect();
    let total: f64 = weights.iter().sum();
    let weight = attention_weight(terms, magnitude, seen.len(), steps.score);
    let relative = weighted_mean(weight, value_error, seen.len());
    let bound = |i: usize| {
        let mean: f64 = seen.iter().zip(&weights).map(|(&s, w)| w / total * magnitudes(s, i)).sum();
        let flushed: f64 = seen.iter().map(|&s| magnitudes(s, i) * 4.0 * TINY).sum();
        let stepped: f64 = seen.iter().filter_map(|&s| Some(steps.weights.get(s)? * magnitudes(s, i))).sum();
        let off = |&s: &usize| Some(steps.values.get(s)?[i]);
        let moved: f64 = seen.iter().zip(&weights).filter_map(|(s, w)| Some(w * off(s)?)).sum();
        Bound::Within(relative * mean + (stepped + moved) / total / (1.0 - relative) + flushed + TINY)
    };
    (0..dim).map(bound).collect()
}

/// Where the outputs of `lone` lie in a step's output, and in that of these rows alone.
pub(super) fn output_of(scene: &Scene, lone: &Lone, width: usize) -> Vec<(Range<usize>, usize)> {
    let start = scene.spans[lone.span].q_start;
    vec![((start + lone.rows.start) * width..(start + lone.rows.end) * width, 0)]
}

/// The rows of `lone` among a step's queries.
pub(super) fn queries_of(scene: &Scene, lone: &Lone, width: usize, queries: &[f32]) -> Vec<f32> {
    let start = scene.spans[lone.span].q_start;
    queries[(start + lone.rows.start) * width..(start + lone.rows.end) * width].to_vec()
}

/// Σ aᵢbᵢ and Σ|aᵢbᵢ|, times `scale`.
pub(super) fn score(scale: f32, a: impl Iterator<Item = f64>, b: impl Iterator<Item = f64>) -> Score {
    let scale = f64::from(scale);
    let (value, magnitude) = a.zip(b).fold((0.0, 0.0), |(v, m), (a, b)| (v + a * b, m + (a * b).abs()));
    Score { value: scale * value, magnitude: scale.abs() * magnitude }
}
