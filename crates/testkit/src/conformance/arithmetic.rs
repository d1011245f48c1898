//! The bounds, as derived in docs/numerics.md.
//!
//! Owns how roundings add up to a bound. Must not see a device's results.

use super::report::Bound;

/// ε: the relative error of one rounding to nearest in f32.
pub(super) const EPS: f64 = 1.0 / (1u64 << 24) as f64;
/// What is lost where a subnormal is flushed to zero.
pub(super) const TINY: f64 = f32::MIN_POSITIVE as f64;
/// Roundings allowed to an exponential, a sine or a reciprocal root: 2 units in the last place.
const EXP: f64 = 4.0;

/// γ(n) = nε / (1 − nε): n roundings, one after the other.
pub(super) fn gamma(n: f64) -> f64 {
    let first_order = n * EPS;
    assert!(first_order < 0.25, "{n} roundings say nothing");
    first_order / (1.0 - first_order)
}

/// Relative to Σ|terms|: error of a sum of `n` products, with decoding, a bias and the reference's own rounding.
pub(super) fn sum(n: usize) -> f64 {
    gamma(n as f64 + 4.0)
}

/// What flushed products and partial sums of a sum of `n` products lose.
pub(super) fn sum_floor(n: usize) -> f64 {
    (2 * n + 2) as f64 * TINY
}

/// A group of activations whose largest magnitude is below this may count as zeros: 2^−100, and a factor of 2 for
/// devices that look at d or at 127/m instead.
pub(super) const INT8_ZERO: f64 = 1.0 / (1u128 << 99) as f64;

/// Relative to Σ|x̂·scale·code| + Σ|x̂·offset| + |bias|: error of a sum over `n` groups whose own sums are exact.
pub(super) fn int8_sum(n: usize) -> f64 {
    gamma(2.0 * n as f64 + 23.0)
}

/// What a sum of `n` products of 8 bits loses where d_w·d is flushed, besides [`sum_floor`]: whole numbers, each at most
/// 127 · 2^12.
pub(super) fn int8_floor(n: usize) -> f64 {
    sum_floor(n) + n as f64 * f64::from(127u32 << 12) * TINY
}

/// Bound of Σ xᵢ·wᵢ (+ bias).
pub(super) fn dot(x: impl Iterator<Item = f64>, w: impl Iterator<Item = f64>, n: usize, bias: f64) -> Bound {
    let terms: f64 = x.zip(w).map(|(x, w)| (x * w).abs()).sum::<f64>() + bias.abs();
    Bound::Within(sum(n) * terms + sum_floor(n))
}

/// Bound of one normalised value, relative to it: rmsnorm over `dim` values.
pub(super) fn norm(dim: usize) -> f64 {
    gamma(dim as f64 / 2.0 + 4.0 + EXP)
}

/// Bound of one rotated value, relative to |a·cos| + |b·sin|.
pub(super) fn rotation() -> f64 {
    gamma(EXP + 5.0)
}

/// Bound of silu(x)·u: relative part and what is lost where e^(−x) overflows, relative to |u|.
pub(super) fn silu() -> (f64, f64) {
    (gamma(EXP + 5.0), 32.0 * TINY)
}

/// silu(x) = x / (1 + e^(−x)).
pub(super) fn silu_value(x: f64) -> f64 {
    x / (1.0 + (-x).exp())
}

/// An upper bound of |silu'|, which is largest near x = 2.4: how an error that enters silu grows.
pub(super) const SILU_SLOPE: f64 = 1.1;

/// Relative error of a weight e^(score − max) of attention.
///
/// `terms`: products per score; `magnitude`: largest scale·Σ|qᵢkᵢ| of a visible position; `n`: visible positions;
/// `stepped`: how far a score may be off because its factors were rounded to whole numbers.
pub(super) fn attention_weight(terms: usize, magnitude: f64, n: usize, stepped: f64) -> f64 {
    let score = (terms as f64 + 10.0) * magnitude;
    let softmax = (EXP + 1.0) * (n as f64 + 1.0);
    (EPS * (score + softmax) + stepped).exp_m1()
}

/// Steps that a query of `len` channels is rounded to where it meets rows of 8 bits: as many as let the sum of their
/// products stay below 2^31.
pub(super) fn query_steps(len: usize) -> f64 {
    (i32::MAX as usize / (127 * len)).min(WEIGHT_STEPS as usize) as f64
}

/// Steps that a weight of attention is rounded to where it multiplies rows of 8 bits.
pub(super) const WEIGHT_STEPS: f64 = 32767.0;

/// Steps that latents of `c` channels and the rows that expand them are rounded to; `in_codes`: latents are cached in 8
/// bits already.
pub(super) fn expansion_steps(c: usize, in_codes: bool) -> [f64; 2] {
    let most = i16::MAX as usize;
    let latent = if in_codes { i8::MAX as usize } else { (i32::MAX as usize / c).isqrt().min(most) };
    [latent, (i32::MAX as usize / (latent * c)).min(most)].map(|steps| steps as f64)
}

/// Steps that queries and keys of `len` channels are rounded to.
pub(super) fn head_steps(len: usize) -> f64 {
    (i32::MAX as usize / len).isqrt().min(i16::MAX as usize) as f64
}

/// Steps of an expanded value, and of the weights it meets.
pub(super) const VALUE_STEPS: f64 = 1023.0;
pub(super) const EXPANDED_WEIGHT_STEPS: f64 = 16383.0;

/// Error of a weighted mean of `n` values, relative to Σ pₛ|vₛ|, given the relative error of each weight and of each
/// value.
pub(super) fn weighted_mean(weight: f64, value: f64, n: usize) -> f64 {
    let first_order = 2.0 * weight + value + gamma(2.0 * n as f64 + 6.0);
    assert!(first_order < 0.25, "a bound of {first_order} says nothing");
    first_order / (1.0 - first_order)
}

/// Relative error of a softmax or sigmoid score of a router over `n` experts with logits at most `range` apart.
pub(super) fn softmax_score(n: usize, range: f64) -> f64 {
    gamma(2.0 * (3.0 * range + EXP) + n as f64 + 3.0)
}

/// Relative error of a sigmoid score.
pub(super) fn sigmoid_score() -> f64 {
    gamma(EXP + 4.0)
}
