//! Causal softmax over tiles of cached positions.
//!
//! Every form of attention comes down to one body: queries of a few rows and heads against tiles of keys and values in
//! f32. A running maximum and sum make one pass over the context enough; tiles begin at multiples of [`TILE`] from
//! position 0, so the order of every sum is fixed by the position alone.
//!
//! Owns that body. Must not know where keys and values come from.

use super::dot::{add_scaled, dots};
use crate::level::Simd;

/// Positions per tile.
pub(crate) const TILE: usize = 32;

/// Keys and values of up to [`TILE`] consecutive positions.
#[derive(Clone, Copy)]
pub(crate) struct Tile<'a> {
    pub(crate) keys: &'a [f32],
    pub(crate) key_stride: usize,
    pub(crate) values: &'a [f32],
    pub(crate) value_stride: usize,
}

/// What a query has gathered: `max`, `sum` and the weighted values so far.
pub(crate) struct Gathered<'a> {
    /// `[max, sum]`
    pub(crate) softmax: &'a mut [f32; 2],
    /// `[value_len]`, not yet divided by the sum.
    pub(crate) values: &'a mut [f32],
}

impl Gathered<'_> {
    /// Forgets everything.
    pub(crate) fn clear(&mut self) {
        *self.softmax = [f32::NEG_INFINITY, 0.0];
        self.values.fill(0.0);
    }

    /// Adds the first `n` positions of a tile.
    #[inline(always)]
    pub(crate) fn add<S: Simd>(&mut self, simd: S, query: &[f32], tile: Tile<'_>, n: usize, scale: f32) {
        let mut scores = [f32::NEG_INFINITY; TILE];
        let key = |s: usize| &tile.keys[s * tile.key_stride..][..query.len()];
        let fours = n / 4 * 4;
        for s in (0..fours).step_by(4) {
            let sums = dots(simd, [key(s), key(s + 1), key(s + 2), key(s + 3)], [query]);
            scores[s..s + 4].copy_from_slice(&sums.map(|[sum]| sum * scale));
        }
        for (s, score) in scores.iter_mut().enumerate().take(n).skip(fours) {
            *score = dots(simd, [key(s)], [query])[0][0] * scale;
        }
        let [max, sum] = self.softmax;
        let new_max = scores[..n].iter().copied().fold(*max, f32::max);
        if *max < new_max && *sum != 0.0 {
            let factor = (*max - new_max).exp();
            *sum *= factor;
            self.values.iter_mut().for_each(|v| *v *= factor);
        }
        *max = new_max;
        // A tile of nothing but −∞ weighs nothing, unless the whole context is such a tile: then 0 / 0 tells.
        for score in &mut scores[..n] {
            let weight = if *score == f32::NEG_INFINITY && new_max == *score { 0.0 } else { (*score - new_max).exp() };
            *sum += weight;
            *score = weight;
        }
        let value_len = self.values.len();
        let value = |s: usize| &tile.values[s * tile.value_stride..][..value_len];
        for s in (0..fours).step_by(4) {
            let weights = [scores[s], scores[s + 1], scores[s + 2], scores[s + 3]];
            add_scaled(simd, weights, [value(s), value(s + 1), value(s + 2), value(s + 3)], self.values);
        }
        for (s, weight) in scores.iter().enumerate().take(n).skip(fours) {
            add_scaled(simd, [*weight], [value(s)], self.values);
        }
    }

    /// Divides by the sum.
    pub(crate) fn result(&self) -> impl Iterator<Item = f32> {
        let sum = self.softmax[1];
        self.values.iter().map(move |v| v / sum)
    }
}
