//! Causal softmax over tiles of cached positions.
//!
//! Every form of attention comes down to one walk: some queries against tiles of keys and values, a running maximum and
//! sum making one pass over the context enough. The context is cut into ranges of [`RANGE`] positions from position 0
//! on, each gathered on its own and merged in order, so that threads may share a context and every sum's order is still
//! fixed by positions alone.
//!
//! Owns that walk. Must not know where keys and values come from.

use std::ops::Range;

use super::exp::exp;
use crate::level::{Kernel, LANES, Simd, make};
use crate::pool::Shared32;

/// Positions per tile.
pub(crate) const TILE: usize = 128;
/// Vectors of a tile's scores.
pub(crate) const TILE_VECTORS: usize = TILE / LANES;
/// Positions per range: a whole number of tiles.
pub(crate) const RANGE: usize = 512;

/// A tile: the first `n` positions from `start` on exist.
#[derive(Clone, Copy)]
pub(crate) struct Tile {
    pub(crate) start: usize,
    pub(crate) n: usize,
}

/// Scores of one query, then its weights.
pub(crate) type Scores = [[f32; LANES]; TILE_VECTORS];

/// What a tile's weights do to what was gathered before: each query's factor for that, and how many of the tile's
/// positions it sees.
#[derive(Clone, Copy)]
pub(crate) struct Step {
    pub(crate) factor: f32,
    pub(crate) n_seen: usize,
}

/// Keys and values of one form of attention.
pub(crate) trait Tiles<S: Simd> {
    /// Every query's scores of a tile, scaled; any value beyond its `n`.
    fn scores(&mut self, simd: S, tile: Tile, scores: &mut [Scores]);
    /// values = factor·values + Σ weight·value, for every query.
    fn add_values(&mut self, simd: S, tile: Tile, weights: &mut [Scores], steps: &[Step], gathered: &mut Gathered<'_>);
}

/// What some queries have gathered.
pub(crate) struct Gathered<'a> {
    /// `[max, sum]` of each query's softmax.
    softmax: &'a mut [[f32; 2]],
    /// `[n, n_vectors]`, not yet divided by the sums.
    pub(crate) values: &'a mut [[f32; LANES]],
    pub(crate) n_vectors: usize,
}

impl<'a> Gathered<'a> {
    /// Vectors of scratch that `n` queries take.
    pub(crate) fn scratch_len(n: usize, n_vectors: usize) -> usize {
        n * n_vectors + (2 * n).div_ceil(LANES)
    }

    pub(crate) fn new(scratch: &'a mut [[f32; LANES]], n: usize, n_vectors: usize) -> Self {
        let (values, softmax) = scratch[..Self::scratch_len(n, n_vectors)].split_at_mut(n * n_vectors);
        let softmax = &mut softmax.as_flattened_mut().as_chunks_mut::<2>().0[..n];
        Self { softmax, values, n_vectors }
    }

    /// Vector `v` of query `i`.
    #[inline(always)]
    pub(crate) fn value_mut(&mut self, i: usize, v: usize) -> &mut [f32; LANES] {
        &mut self.values[i * self.n_vectors + v]
    }

    fn clear(&mut self) {
        self.softmax.fill([f32::NEG_INFINITY, 0.0]);
        self.values.fill([0.0; LANES]);
    }

    /// Adds what another range gathered.
    #[inline(always)]
    fn merge<S: Simd>(&mut self, simd: S, other: &Self) {
        let n_vectors = self.n_vectors;
        let values = self.values.chunks_exact_mut(n_vectors).zip(other.values.chunks_exact(n_vectors));
        for ((softmax, other), (values, added)) in self.softmax.iter_mut().zip(&*other.softmax).zip(values) {
            let [own, others] = join(softmax, other);
            let factors = [simd.splat(own), simd.splat(others)];
            for (value, added) in values.iter_mut().zip(added) {
                let scaled = simd.mul(simd.load(added), factors[1]);
                simd.store(simd.mul_add(simd.load(value), factors[0], scaled), value);
            }
        }
    }

    /// Writes every query's result, divided by its sum, to `out[start(i)..start(i) + len]`.
    #[inline(always)]
    pub(crate) fn write<S: Simd>(&self, simd: S, out: &[Shared32], len: usize, start: impl Fn(usize) -> usize) {
        for (i, ([_, sum], values)) in self.softmax.iter().zip(self.values.chunks_exact(self.n_vectors)).enumerate() {
            for (value, out) in values.iter().zip(out[start(i)..start(i) + len].chunks(LANES)) {
                let mut lanes = [0.0; LANES];
                simd.store(simd.div(simd.load(value), simd.splat(*sum)), &mut lanes);
                lanes.iter().zip(out).for_each(|(value, out)| out.set(*value));
            }
        }
    }

    /// ln Σ e^score of query `i`.
    pub(crate) fn lse(&self, i: usize) -> f32 {
        let [max, sum] = self.softmax[i];
        max + sum.ln()
    }

    /// Vectors that [`Gathered::keep`] writes for a query.
    pub(crate) fn kept_vectors(n_vectors: usize) -> usize {
        n_vectors + 1
    }

    /// Writes everything for [`MergeKept`], query after query.
    pub(crate) fn keep(&self, out: &[Shared32]) {
        let len = Self::kept_vectors(self.n_vectors) * LANES;
        let each = self.softmax.iter().zip(self.values.chunks_exact(self.n_vectors));
        for ((softmax, values), out) in each.zip(out.chunks_exact(len)) {
            values.as_flattened().iter().chain(softmax).zip(out).for_each(|(value, out)| out.set(*value));
        }
    }
}

/// The softmax of two ranges together, and the factors of their values.
fn join(softmax: &mut [f32; 2], other: &[f32; 2]) -> [f32; 2] {
    let max = softmax[0].max(other[0]);
    let base = base(max);
    let factors = [softmax[0], other[0]].map(|max| (max - base).exp());
    *softmax = [max, other[1].mul_add(factors[1], softmax[1] * factors[0])];
    factors
}

/// What scores are compared with: their maximum, or 0 where all are −∞ and weigh nothing.
fn base(max: f32) -> f32 {
    if max == f32::NEG_INFINITY { 0.0 } else { max }
}

/// Vectors of a query that are merged at a time.
const MERGED: usize = 8;

/// The result of one query from what [`Gathered::keep`] wrote for each range: the same operations in the same order as
/// [`walk`] does over the ranges.
pub(crate) struct MergeKept<'a> {
    /// All ranges of all queries.
    pub(crate) kept: &'a [[f32; LANES]],
    /// Where the query's vectors begin in the first range, and from one range to the next.
    pub(crate) first: usize,
    pub(crate) stride: usize,
    pub(crate) n_ranges: usize,
    pub(crate) n_vectors: usize,
    pub(crate) out: &'a [Shared32],
}

impl Kernel for MergeKept<'_> {
    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let Self { kept, first, stride, n_ranges, n_vectors, out } = self;
        let state = |range: usize| &kept[first + range * stride + n_vectors];
        // As many vectors at a time as fit registers: what ranges weigh is found anew for each time.
        for (c, out) in out.chunks(MERGED * LANES).enumerate() {
            let vector = |range: usize, v: usize| &kept[first + range * stride + (c * MERGED + v).min(n_vectors - 1)];
            let mut softmax = [state(0)[0], state(0)[1]];
            let mut values: [S::F32; MERGED] = make(|v| simd.load(vector(0, v)));
            for range in 1..n_ranges {
                let [own, others] = join(&mut softmax, &[state(range)[0], state(range)[1]]);
                let factors = [simd.splat(own), simd.splat(others)];
                for (v, value) in values.iter_mut().enumerate() {
                    let added = simd.mul(simd.load(vector(range, v)), factors[1]);
                    *value = simd.mul_add(*value, factors[0], added);
                }
            }
            for (value, out) in values.into_iter().zip(out.chunks(LANES)) {
                let mut lanes = [0.0; LANES];
                simd.store(value, &mut lanes);
                lanes.iter().zip(out).for_each(|(value, out)| out.set(value / softmax[1]));
            }
        }
    }
}

/// Room for the walk of some queries.
pub(crate) struct Walk<'a> {
    pub(crate) scores: &'a mut [Scores],
    pub(crate) steps: &'a mut [Step],
    pub(crate) gathered: Gathered<'a>,
    /// What a range gathers before it is merged.
    pub(crate) range: Gathered<'a>,
}

/// Gathers the ranges given, up to the `n_visible` positions that the queries see at most: `n_seen(i, tile)` of a tile
/// for query i.
#[inline(always)]
pub(crate) fn walk<S: Simd>(
    simd: S,
    ranges: Range<usize>,
    n_visible: usize,
    tiles: &mut impl Tiles<S>,
    room: &mut Walk<'_>,
    n_seen: impl Fn(usize, Tile) -> usize,
) {
    let Walk { scores, steps, gathered, range } = room;
    for r in ranges.clone() {
        range.clear();
        let end = n_visible.min((r + 1) * RANGE);
        for start in (r * RANGE..end).step_by(TILE) {
            let tile = Tile { start, n: TILE.min(end - start) };
            tiles.scores(simd, tile, scores);
            for (i, ((scores, step), state)) in scores.iter_mut().zip(&mut **steps).zip(&mut *range.softmax).enumerate()
            {
                let n_seen = n_seen(i, tile);
                *step = Step { n_seen, factor: soften(simd, scores, n_seen, state) };
            }
            tiles.add_values(simd, tile, scores, steps, range);
        }
        if r == ranges.start {
            gathered.softmax.copy_from_slice(range.softmax);
            gathered.values.copy_from_slice(range.values);
        } else {
            gathered.merge(simd, range);
        }
    }
}

/// Scores become weights e^(score − max), 0 beyond the `n` that are seen; what was gathered before is to be multiplied by
/// the result.
#[inline(always)]
fn soften<S: Simd>(simd: S, scores: &mut Scores, n: usize, [max, sum]: &mut [f32; 2]) -> f32 {
    for (i, score) in scores.as_flattened_mut().iter_mut().enumerate().skip(n / LANES * LANES).take(LANES) {
        if i >= n {
            *score = f32::NEG_INFINITY;
        }
    }
    let used = n.div_ceil(LANES);
    let mut largest = simd.splat(*max);
    for scores in &scores[..used] {
        largest = simd.max(simd.load(scores), largest);
    }
    let new_max = simd.max_lane(largest);
    let base = base(new_max);
    let mut added = simd.splat(0.0);
    for scores in &mut scores[..used] {
        let weights = exp(simd, simd.sub(simd.load(scores), simd.splat(base)));
        added = simd.add(added, weights);
        simd.store(weights, scores);
    }
    scores[used..].fill([0.0; LANES]);
    let factor = (*max - base).exp();
    *sum = sum.mul_add(factor, simd.sum(added));
    *max = new_max;
    factor
}
