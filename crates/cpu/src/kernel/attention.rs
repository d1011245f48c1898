//! Causal softmax over tiles of cached positions.
//!
//! Every form of attention comes down to one body: queries of a few rows and heads against tiles of keys and values in
//! f32. A running maximum and sum make one pass over the context enough; tiles begin at multiples of [`TILE`] from
//! position 0, so the order of every sum is fixed by the position alone.
//!
//! Owns that body. Must not know where keys and values come from.

use super::dot::{add_scaled, dots};
use crate::level::Simd;
use crate::pool::Shared32;

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

/// Some queries and what each has gathered so far.
pub(crate) struct Queries<'a> {
    /// `[max, sum]` of each query's softmax.
    softmax: &'a mut [[f32; 2]],
    /// `[n, value_len]`, not yet divided by the sums.
    values: &'a mut [f32],
    value_len: usize,
}

impl<'a> Queries<'a> {
    /// Values of scratch that `n` queries take.
    pub(crate) fn scratch_len(n: usize, value_len: usize) -> usize {
        n * (2 + value_len)
    }

    /// `n` queries that have gathered nothing.
    pub(crate) fn new(scratch: &'a mut [f32], n: usize, value_len: usize) -> Self {
        let (softmax, values) = scratch[..Self::scratch_len(n, value_len)].split_at_mut(2 * n);
        let softmax = softmax.as_chunks_mut::<2>().0;
        softmax.fill([f32::NEG_INFINITY, 0.0]);
        values.fill(0.0);
        Self { softmax, values, value_len }
    }

    /// Adds a tile to every query: `query(i)` gives its channels and how many of the tile's positions it sees.
    #[inline(always)]
    pub(crate) fn add<'q, S: Simd>(
        &mut self,
        simd: S,
        tile: Tile<'_>,
        scale: f32,
        query: impl Fn(usize) -> (&'q [f32], usize),
    ) {
        let each = self.softmax.iter_mut().zip(self.values.chunks_exact_mut(self.value_len));
        for (i, (softmax, values)) in each.enumerate() {
            let (query, n_seen) = query(i);
            if n_seen > 0 {
                gather(simd, softmax, values, query, tile, n_seen, scale);
            }
        }
    }

    /// Writes every query's result, divided by its sum, to `out[start(i)..]`.
    pub(crate) fn write(&self, out: &[Shared32], start: impl Fn(usize) -> usize) {
        for (i, ([_, sum], values)) in self.softmax.iter().zip(self.values.chunks_exact(self.value_len)).enumerate() {
            values.iter().zip(&out[start(i)..]).for_each(|(value, out)| out.set(value / sum));
        }
    }
}

/// Adds the first `n` positions of a tile to one query's softmax and values.
#[inline(always)]
fn gather<S: Simd>(
    simd: S,
    [max, sum]: &mut [f32; 2],
    values: &mut [f32],
    query: &[f32],
    tile: Tile<'_>,
    n: usize,
    scale: f32,
) {
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
    let new_max = scores[..n].iter().copied().fold(*max, f32::max);
    if *max < new_max && *sum != 0.0 {
        let factor = (*max - new_max).exp();
        *sum *= factor;
        values.iter_mut().for_each(|v| *v *= factor);
    }
    *max = new_max;
    // A tile of nothing but −∞ weighs nothing, unless the whole context is such a tile: then 0 / 0 tells.
    for score in &mut scores[..n] {
        let weight = if *score == f32::NEG_INFINITY && new_max == *score { 0.0 } else { (*score - new_max).exp() };
        *sum += weight;
        *score = weight;
    }
    let value_len = values.len();
    let value = |s: usize| &tile.values[s * tile.value_stride..][..value_len];
    for s in (0..fours).step_by(4) {
        let weights = [scores[s], scores[s + 1], scores[s + 2], scores[s + 3]];
        add_scaled(simd, weights, [value(s), value(s + 1), value(s + 2), value(s + 3)], values);
    }
    for (s, weight) in scores.iter().enumerate().take(n).skip(fours) {
        add_scaled(simd, [*weight], [value(s)], values);
    }
}
