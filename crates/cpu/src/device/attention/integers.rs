//! Absorbed attention over rows of 8 bits, in integers.
//!
//! With q ≈ d_q·q̂ and a row's latent c = d·ĉ, scores are d_q·d·Σ q̂·ĉ beside the rotated channels' part in f32. Weights
//! p are rounded together with their row's scale, p·d ≈ d_w·ŵ, so that values are d_w·Σ ŵ·ĉ. Both sums are exact in 32
//! bits (docs/numerics.md, "Rows of 8 bits"). Owns that arithmetic. Must not see rows of other formats.

mod by_tiles;

use std::ops::Range;

use self::by_tiles::ByTiles;

use super::{Context, Looks, Room};
use crate::cache::Q8Rows;
use crate::kernel::attention::{Gathered, Scores, Step, TILE, Tile, Tiles, Walk, walk};
use crate::kernel::panel::{bf16_steps, order_as_pairs, pair_steps, quantise, steps_of_pairs};
use crate::kernel::tile::{RowsBody, floats, for_rows, pairs};
use crate::level::{LANES, Line, Simd, make, map};

/// Vectors of value channels that are prepared at a time: a cache line of bytes.
const VALUE_BLOCK: usize = 4;
/// Blocks of 32 pairs that hold a tile's weights.
pub(super) const WEIGHT_BLOCKS: usize = TILE / 32;
/// Steps of a weight: the sum over a tile is below 2^31.
const WEIGHT_STEPS: f32 = 32767.0;
/// Largest weight of a tile that counts as none; the largest weight of the context is 1.
const WEIGHT_MIN: f32 = 1.0 / (1u128 << 100) as f32;

/// Steps of a query: as many as keep the sum over its channels below 2^31.
fn query_steps(c: usize) -> f32 {
    (i32::MAX as usize / (127 * c)).min(i16::MAX as usize) as f32
}

/// Lengths of a unit's parts of scratch.
struct Lengths {
    c: usize,
    rope: usize,
    /// Steps of a panel of keys.
    pairs: usize,
    /// Steps of a panel of rotated keys.
    rope_steps: usize,
}

impl Lengths {
    fn new(looks: &Looks<'_>) -> Self {
        let [c, rope] = looks.query(0).map(<[f32]>::len);
        Self { c, rope, pairs: steps_of_pairs(c), rope_steps: rope.next_multiple_of(32) }
    }
}

pub(super) fn room(looks: &Looks<'_>) -> Room {
    let (n, lengths) = (looks.n(), Lengths::new(looks));
    let by_tiles = by_tiles::room(n, lengths.c);
    let own = lengths.rope_steps + TILE / LANES;
    Room {
        // Rotated queries, scales of queries and of weights, a panel of rotated keys, scales of keys.
        vectors: n * lengths.rope_steps / LANES + 2 * n.div_ceil(LANES) + own + by_tiles.vectors,
        // Queries, weights, a panel of keys, a block of values.
        panels: n * (lengths.pairs / LANES + WEIGHT_BLOCKS) + lengths.pairs + VALUE_BLOCK * TILE / 2,
        lines: by_tiles.lines,
        ..Room::default()
    }
}

/// The whole walk of a unit.
#[inline(always)]
pub(super) fn gather<S: Simd>(
    simd: S,
    looks: Looks<'_>,
    ranges: Range<usize>,
    room: &mut Walk<'_>,
    vectors: &mut [[f32; LANES]],
    panels: &mut [[i16; 2 * LANES]],
    lines: &mut [Line],
) {
    let (n, lengths) = (looks.n(), Lengths::new(&looks));
    let (rope_queries, vectors) = vectors.split_at_mut(n * lengths.rope_steps / LANES);
    let (query_scales, vectors) = vectors.split_at_mut(n.div_ceil(LANES));
    let (weight_scales, vectors) = vectors.split_at_mut(n.div_ceil(LANES));
    let (rope_keys, vectors) = vectors.split_at_mut(lengths.rope_steps);
    let (scales, vectors) = vectors.split_at_mut(TILE / LANES);
    let (queries, panels) = panels.split_at_mut(n * lengths.pairs / LANES);
    let (weights, panels) = panels.split_at_mut(n * WEIGHT_BLOCKS);
    let (keys, values) = panels.split_at_mut(lengths.pairs);
    let (rope_queries, query_scales) = (rope_queries.as_flattened_mut(), query_scales.as_flattened_mut());
    let mut by_tiles = ByTiles::new(simd, &looks, vectors, lines);
    for i in 0..n {
        let [latent, rope] = looks.query(i);
        let to = &mut queries[i * lengths.pairs / LANES..][..lengths.pairs / LANES];
        query_scales[i] = looks.scale * quantise(simd, latent, query_steps(lengths.c), to);
        match &mut by_tiles {
            Some(tiles) => tiles.set_query(i, to.as_flattened()),
            None => order_as_pairs(to),
        }
        rope_queries[i * lengths.rope_steps..][..lengths.rope].copy_from_slice(rope);
    }
    if let Some(tiles) = &mut by_tiles {
        tiles.transpose_queries(simd);
    }
    let mut tiles = Integers {
        context: looks.context,
        cached: looks.context.cache.q8_rows(),
        lengths,
        scale: looks.scale,
        queries,
        query_scales,
        rope_queries,
        rows: [0; TILE],
        keys,
        rope_keys,
        scales,
        weights,
        weight_scales: weight_scales.as_flattened_mut(),
        values: &mut values[..VALUE_BLOCK * TILE / 2],
        by_tiles,
    };
    let n_seen = |i: usize, tile: Tile| looks.rows.n_seen(i / looks.heads.len, tile);
    walk(simd, ranges, looks.rows.n_visible(), &mut tiles, room, n_seen);
}

/// Where [`round_weights`] puts ŵ, `[n, TILE]`, and each query's d_w times the power that scales are shares of.
pub(super) struct Rounded<'a> {
    pub(super) weights: &'a mut [[i16; 2 * LANES]],
    pub(super) scales: &'a mut [f32],
    /// The largest ŵ.
    pub(super) steps: f32,
}

/// Replaces scales by their shares of a power of two, which is returned: the largest one's, so that what is computed from
/// shares does not overflow. Since powers of two change no bit of a product, a query's result does not depend on rows of
/// the tile that only others see. A scale that is NaN has no share: it has made the sum of
/// every query that sees it NaN, and must not touch the others.
fn share_scales(scales: &mut [f32]) -> f32 {
    let largest = scales.iter().copied().filter(|d| d.is_finite()).fold(f32::MIN_POSITIVE, f32::max);
    // The exponent alone: the largest scale's share is from 1 to 2.
    let power = f32::from_bits(largest.to_bits() & 0x7f80_0000);
    for d in scales {
        *d = if *d > 0.0 { *d / power } else { 0.0 };
    }
    power
}

/// Rounds every query's weights together with the scales of their values; both are lost.
#[inline(always)]
pub(super) fn round_weights<S: Simd>(
    simd: S,
    weights: &mut [Scores],
    scales: &mut [[f32; LANES]],
    rounded: Rounded<'_>,
) {
    let power = share_scales(scales.as_flattened_mut());
    let each = weights.iter_mut().zip(rounded.weights.as_chunks_mut::<WEIGHT_BLOCKS>().0).zip(rounded.scales);
    for ((weights, to), scale) in each {
        let mut largest = simd.splat(0.0);
        for (weights, scales) in weights.iter_mut().zip(&*scales) {
            let product = simd.mul(simd.load(weights), simd.load(scales));
            largest = simd.max(product, largest);
            simd.store(product, weights);
        }
        let largest = simd.max_lane(largest);
        if largest < WEIGHT_MIN {
            *to = [[0; 2 * LANES]; WEIGHT_BLOCKS];
            *scale = 0.0;
            continue;
        }
        let inverse = simd.splat(rounded.steps / largest);
        for ([low, high], to) in weights.as_chunks().0.iter().zip(to) {
            let low = simd.round(simd.mul(simd.load(low), inverse));
            let high = simd.round(simd.mul(simd.load(high), inverse));
            simd.store_i16(low, high, to);
        }
        *scale = largest / rounded.steps * power;
    }
}

struct Integers<'a> {
    context: Context<'a>,
    cached: &'a Q8Rows,
    lengths: Lengths,
    scale: f32,
    /// `[n, pairs]`
    queries: &'a [[i16; 2 * LANES]],
    /// d_q, times the scale of scores.
    query_scales: &'a [f32],
    /// `[n, rope_steps]`
    rope_queries: &'a [f32],
    /// The tile's rows.
    rows: [usize; TILE],
    /// `[pairs]` of sixteen positions.
    keys: &'a mut [[i16; 2 * LANES]],
    /// `[rope_steps]` of the same.
    rope_keys: &'a mut [[f32; LANES]],
    /// d of the tile's rows, then their shares of a power of two.
    scales: &'a mut [[f32; LANES]],
    /// `[n, TILE]`
    weights: &'a mut [[i16; 2 * LANES]],
    /// d_w, times that power.
    weight_scales: &'a mut [f32],
    /// `[VALUE_BLOCK, TILE / 2]` pairs of positions.
    values: &'a mut [[i16; 2 * LANES]],
    by_tiles: Option<ByTiles<'a>>,
}

impl Integers<'_> {
    /// Pairs of positions for a block of channels.
    #[inline(always)]
    fn zip_values<S: Simd>(&mut self, simd: S, n: usize, channels: Range<usize>) {
        let whole = channels.len() / LANES;
        let rest = channels.start + whole * LANES..channels.end;
        for p in 0..n.div_ceil(2) {
            let [a, b] = [self.cached.codes(self.rows[2 * p]), self.cached.codes(self.rows[2 * p + 1])];
            let (a_chunks, b_chunks) = (a[channels.clone()].as_chunks().0, b[channels.clone()].as_chunks().0);
            for v in 0..whole {
                simd.store_pairs(simd.zip_i8(&a_chunks[v], &b_chunks[v]), &mut self.values[v * TILE / 2 + p]);
            }
            if !rest.is_empty() {
                let mut padded = [[0; LANES]; 2];
                padded[0][..rest.len()].copy_from_slice(&a[rest.clone()]);
                padded[1][..rest.len()].copy_from_slice(&b[rest.clone()]);
                simd.store_pairs(simd.zip_i8(&padded[0], &padded[1]), &mut self.values[whole * TILE / 2 + p]);
            }
        }
    }
}

impl<S: Simd> Tiles<S> for Integers<'_> {
    #[inline(always)]
    fn scores(&mut self, simd: S, tile: Tile, scores: &mut [Scores]) {
        self.rows = self.context.rows(tile.start, tile.n);
        if let Some(tiles) = &mut self.by_tiles {
            tiles.multiply_keys(simd, self.cached, &self.rows, tile.n);
        }
        for group in 0..tile.n.div_ceil(LANES) {
            let (cached, rows) = (self.cached, &self.rows[group * LANES..(group + 1) * LANES]);
            // The next positions, which mostly follow in memory: tiles take codes of a whole tile of positions at once.
            let ahead = if self.by_tiles.is_some() { TILE } else { LANES };
            for row in rows {
                cached.prefetch(simd, row + ahead);
            }
            if self.by_tiles.is_none() {
                pair_steps(simd, make(|i| cached.codes(rows[i])), self.keys);
            }
            bf16_steps(simd, make(|i| cached.tail(rows[i])), self.rope_keys);
            self.scales[group] = make(|i| cached.scales(rows[i])[0]);
            let scales = self.scales[group];
            for_rows(simd, scores.len(), &mut Products { of: self, scales, group, scores });
        }
        self.scales[tile.n.div_ceil(LANES)..].fill([0.0; LANES]);
    }

    #[inline(always)]
    fn add_values(&mut self, simd: S, tile: Tile, weights: &mut [Scores], steps: &[Step], gathered: &mut Gathered<'_>) {
        let rounded = Rounded { weights: self.weights, scales: self.weight_scales, steps: WEIGHT_STEPS };
        round_weights(simd, weights, self.scales, rounded);
        if let Some(tiles) = &mut self.by_tiles {
            tiles.set_weights(self.weights);
        }
        for block in 0..gathered.n_vectors.div_ceil(VALUE_BLOCK) {
            let first = block * VALUE_BLOCK;
            let n_vectors = VALUE_BLOCK.min(gathered.n_vectors - first);
            if let Some(tiles) = &mut self.by_tiles {
                tiles.multiply_values(simd, self.cached, &self.rows, first * LANES);
                for v in 0..n_vectors {
                    for (i, (step, scale)) in steps.iter().zip(&*self.weight_scales).enumerate() {
                        let sum = simd.load(tiles.value(v, i));
                        add_value(simd, sum, *scale, step.factor, gathered.value_mut(i, first + v));
                    }
                }
                continue;
            }
            self.zip_values(simd, tile.n, first * LANES..self.lengths.c.min((first + n_vectors) * LANES));
            for v in 0..n_vectors {
                let values = &self.values[v * TILE / 2..][..tile.n.div_ceil(2)];
                let (weights, weight_scales, vector) = (&*self.weights, &*self.weight_scales, first + v);
                let mut sums = Sums { weights, weight_scales, steps, values, vector, gathered };
                for_rows(simd, steps.len(), &mut sums);
            }
        }
    }
}

/// Scores of R queries with sixteen keys.
struct Products<'a, 't> {
    of: &'a Integers<'t>,
    scales: [f32; LANES],
    group: usize,
    scores: &'a mut [Scores],
}

impl<S: Simd> RowsBody<S> for Products<'_, '_> {
    #[inline(always)]
    fn rows<const R: usize>(&mut self, simd: S, first: usize) {
        let Lengths { pairs: n_pairs, rope, rope_steps, .. } = self.of.lengths;
        let blocks = n_pairs / LANES;
        let sums: [S::F32; R] = match &self.of.by_tiles {
            Some(tiles) => make(|r| simd.load(tiles.product(self.group, first + r))),
            None => {
                let latents = make(|r| self.of.queries[(first + r) * blocks..][..blocks].as_flattened().as_chunks().0);
                map(pairs::<S, R>(simd, self.of.keys, latents), |sum| simd.to_f32(sum))
            }
        };
        let queries = make(|r| &self.of.rope_queries[(first + r) * rope_steps..]);
        let rotated = floats::<S, R>(simd, [simd.splat(0.0); R], &self.of.rope_keys[..rope], queries);
        let scales = simd.load(&self.scales);
        for r in 0..R {
            let latent = simd.mul(simd.mul(sums[r], scales), simd.splat(self.of.query_scales[first + r]));
            let score = simd.mul_add(rotated[r], simd.splat(self.of.scale), latent);
            simd.store(score, &mut self.scores[first + r][self.group]);
        }
    }
}

/// One vector of R queries' values.
pub(super) struct Sums<'a, 'g> {
    pub(super) weights: &'a [[i16; 2 * LANES]],
    pub(super) weight_scales: &'a [f32],
    pub(super) steps: &'a [Step],
    pub(super) values: &'a [[i16; 2 * LANES]],
    pub(super) vector: usize,
    pub(super) gathered: &'a mut Gathered<'g>,
}

impl<S: Simd> RowsBody<S> for Sums<'_, '_> {
    #[inline(always)]
    fn rows<const R: usize>(&mut self, simd: S, first: usize) {
        let row = |r: usize| self.weights[(first + r) * WEIGHT_BLOCKS..][..WEIGHT_BLOCKS].as_flattened();
        let sums = pairs::<S, R>(simd, self.values, make(|r| row(r).as_chunks().0));
        for (r, sum) in sums.into_iter().enumerate() {
            let (scale, factor) = (self.weight_scales[first + r], self.steps[first + r].factor);
            add_value(simd, simd.to_f32(sum), scale, factor, self.gathered.value_mut(first + r, self.vector));
        }
    }
}

/// value = factor·value + scale·sum
#[inline(always)]
fn add_value<S: Simd>(simd: S, sum: S::F32, scale: f32, factor: f32, value: &mut [f32; LANES]) {
    let kept = simd.mul(simd.load(value), simd.splat(factor));
    simd.store(simd.mul_add(sum, simd.splat(scale), kept), value);
}
