//! The whole numbers of `integers.rs` multiplied by register tiles, where the level has them.
//!
//! Codes are a factor as they lie in the cache. Queries and weights have 16 bits: they are split into a high and a low byte,
//! which meet the codes apart. A unit's queries are taken by sixteens. Owns their layout; the sums are the same whole
//! numbers as without tiles. Must not scale or round anything.

use super::super::digits::{CHUNK, Square, fits, head, in_pairs, join, pair_of, split};
use super::super::{Looks, Room};
use super::{TILE, VALUE_BLOCK, WEIGHT_BLOCKS};
use crate::cache::Q8Rows;
use crate::level::{LANES, Line, Simd, Sums, Tiles, make};

/// Vectors of sixteen positions, and tiles of 64, in a tile of positions.
const GROUPS: usize = TILE / LANES;
const PARTS: usize = TILE / CHUNK;
/// Queries below which tiles are too empty to be worth it.
const QUERIES_MIN: usize = 4;

/// What it takes beside the rest.
pub(super) fn room(n: usize, c: usize) -> Room {
    let (sixteens, chunks) = (n.div_ceil(LANES), c.div_ceil(CHUNK));
    Room {
        // Products of all groups, or of a block of values.
        vectors: sixteens * LANES * GROUPS,
        // Queries and weights in two digits, a block of values.
        lines: LANES * (2 * sixteens * (chunks + PARTS) + VALUE_BLOCK * PARTS),
        ..Room::default()
    }
}

pub(super) struct ByTiles<'a> {
    tiles: Tiles,
    /// Channels.
    c: usize,
    /// `[sixteens, chunks of C, 2 digits]`: rows, then columns by fours.
    queries: &'a mut [Square],
    /// `[sixteens, PARTS, 2 digits]`
    weights: &'a mut [Square],
    /// `[PARTS, VALUE_BLOCK]` of sixteen channels.
    values: &'a mut [Square],
    /// `[GROUPS or VALUE_BLOCK, n]`, n up to whole sixteens.
    products: &'a mut [[f32; LANES]],
    n: usize,
    sums: [Sums; 2],
}

impl<'a> ByTiles<'a> {
    /// Nothing where the level has no tiles, or what is asked for does not fill them.
    #[inline(always)]
    pub(super) fn new<S: Simd>(
        simd: S,
        looks: &Looks<'_>,
        vectors: &'a mut [[f32; LANES]],
        lines: &'a mut [Line],
    ) -> Option<Self> {
        let (n, c) = (looks.n(), looks.value_len());
        if n < QUERIES_MIN || !fits(simd, looks.context.cache, c) {
            return None;
        }
        let sixteens = n.div_ceil(LANES);
        let (queries, rest) = lines.as_chunks_mut().0.split_at_mut(2 * sixteens * (c / CHUNK));
        let (weights, values) = rest.split_at_mut(2 * sixteens * PARTS);
        // Queries that there are not count as zeros.
        queries.as_flattened_mut().fill([0; CHUNK]);
        weights.as_flattened_mut().fill([0; CHUNK]);
        Some(Self {
            tiles: simd.tiles(CHUNK)?,
            c,
            queries,
            weights,
            values: &mut values[..VALUE_BLOCK * PARTS],
            products: &mut vectors[..sixteens * LANES * GROUPS],
            n: sixteens * LANES,
            sums: [Sums::ZERO; 2],
        })
    }

    /// Query `i`, before all are transposed.
    #[inline(always)]
    pub(super) fn set_query(&mut self, i: usize, values: &[i16]) {
        split(i, values, self.c / CHUNK, self.queries);
    }

    #[inline(always)]
    pub(super) fn transpose_queries<S: Simd>(&mut self, simd: S) {
        for square in &mut *self.queries {
            let rows = *square;
            simd.transpose(rows.each_ref(), square);
        }
    }

    /// The weights of all queries, `[n, TILE]`.
    #[inline(always)]
    pub(super) fn set_weights(&mut self, weights: &[[i16; 2 * LANES]]) {
        for (i, weights) in weights.as_chunks::<WEIGHT_BLOCKS>().0.iter().enumerate() {
            split(i, weights.as_flattened(), PARTS, self.weights);
        }
    }

    /// The products of all queries with the first `n` keys, rounded up to sixteens: rows beyond belong to the same block.
    #[inline(always)]
    pub(super) fn multiply_keys<S: Simd>(&mut self, simd: S, cached: &Q8Rows, rows: &[usize; TILE], n: usize) {
        let n_groups = n.div_ceil(LANES);
        // A pair is finished while tiles work on the next one: by turns they have sums of their own.
        let (mut done, mut turn) = (None, 0);
        for sixteen in 0..self.n / LANES {
            for group in (0..n_groups).step_by(2) {
                let pair = pair_of(rows, group, n_groups).map(|row| cached.codes_of(row, LANES));
                let chunks = self.c / CHUNK;
                let queries = &self.queries[2 * sixteen * chunks..][..2 * chunks];
                self.tiles.clear::<2>();
                for (k, [high, low]) in queries.as_chunks().0.iter().enumerate() {
                    self.tiles.rows((pair, self.c, k * CHUNK), [high, low]);
                }
                self.tiles.take::<2>(&mut self.sums[turn]);
                turn = 1 - turn;
                if let Some(at) = done {
                    self.finish_keys(simd, at, n_groups, turn);
                }
                done = Some((sixteen, group));
            }
        }
        if let Some(at) = done {
            self.finish_keys(simd, at, n_groups, 1 - turn);
        }
    }

    /// Products of sixteen queries with two groups of keys, whose sums are `self.sums[from]`.
    #[inline(always)]
    fn finish_keys<S: Simd>(&mut self, simd: S, (sixteen, group): (usize, usize), n_groups: usize, from: usize) {
        for (i, digits) in self.sums[from].0.as_chunks::<2>().0.iter().enumerate().take(n_groups - group) {
            let mut keys = [[0.0; LANES]; LANES];
            for (key, digits) in keys.iter_mut().zip(in_pairs(digits)) {
                simd.store(join(simd, digits), key);
            }
            let to = &mut self.products[(group + i) * self.n + sixteen * LANES..];
            let Some(to) = to.first_chunk_mut::<LANES>() else { unreachable!("there is room for all groups") };
            simd.transpose(keys.each_ref(), to);
        }
    }

    /// The product of query `i` with the keys of a group.
    #[inline(always)]
    pub(super) fn product(&self, group: usize, i: usize) -> &[f32; LANES] {
        &self.products[group * self.n + i]
    }

    /// The sums of all queries' weights with the values of a block of channels.
    #[inline(always)]
    pub(super) fn multiply_values<S: Simd>(&mut self, simd: S, cached: &Q8Rows, rows: &[usize; TILE], channel: usize) {
        for (rows, to) in rows.as_chunks::<CHUNK>().0.iter().zip(self.values.as_chunks_mut::<VALUE_BLOCK>().0) {
            let rows = make(|i| head(&cached.codes(rows[i])[channel..]));
            self.tiles.interleave(&rows, to.each_mut());
        }
        let (mut done, mut turn) = (None, 0);
        for sixteen in 0..self.n / LANES {
            for v in (0..VALUE_BLOCK).step_by(2) {
                let weights = &self.weights[2 * sixteen * PARTS..][..2 * PARTS];
                self.tiles.clear::<2>();
                for (part, [high, low]) in weights.as_chunks().0.iter().enumerate() {
                    let values = &self.values[VALUE_BLOCK * part + v..];
                    self.tiles.unsigned_digits([high, low], [&values[0], &values[1]]);
                }
                self.tiles.take::<2>(&mut self.sums[turn]);
                turn = 1 - turn;
                if let Some(at) = done {
                    self.finish_values(simd, at, turn);
                }
                done = Some((sixteen, v));
            }
        }
        if let Some(at) = done {
            self.finish_values(simd, at, 1 - turn);
        }
    }

    /// Sums of sixteen queries and two vectors of channels.
    #[inline(always)]
    fn finish_values<S: Simd>(&mut self, simd: S, (sixteen, v): (usize, usize), from: usize) {
        for (i, digits) in self.sums[from].0.as_chunks::<2>().0.iter().enumerate() {
            let to = &mut self.products[(v + i) * self.n + sixteen * LANES..];
            for (to, digits) in to.iter_mut().zip(in_pairs(digits)) {
                simd.store(join(simd, digits), to);
            }
        }
    }

    /// Vector `v` of a block of values, of query `i`.
    #[inline(always)]
    pub(super) fn value(&self, v: usize, i: usize) -> &[f32; LANES] {
        &self.products[v * self.n + i]
    }
}
