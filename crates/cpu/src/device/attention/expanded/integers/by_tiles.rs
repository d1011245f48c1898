//! Latents in 8 bits expanded by register tiles, where the level has them.
//!
//! Codes are a factor as they lie in the cache; a head's matrices, of 16 bits, are split into a high and a low byte. Owns the
//! layout of those; the sums are the same whole numbers as without tiles.

use super::super::super::Room;
use super::super::super::digits::{CHUNK, Square, fits, in_pairs, join, split};
use super::super::Sizes;
use crate::cache::{Cache, Q8Rows};
use crate::level::{LANES, Line, Simd, Sums, Tiles};

/// What it takes beside the rest.
pub(super) fn room(sizes: Sizes) -> Room {
    let squares = 2 * (sizes.n + sizes.v).div_ceil(LANES) * sizes.c.div_ceil(CHUNK);
    Room { vectors: 2 * sizes.n, lines: squares * LANES, ..Room::default() }
}

pub(super) struct ByTiles<'a> {
    tiles: Tiles,
    sizes: Sizes,
    chunks: usize,
    /// `[n / 16 + v / 16, chunks of C, 2 digits]`: channels, then latents by fours.
    matrices: &'a mut [Square],
    /// `[2, n]` of sixteen positions.
    keys: &'a mut [[f32; LANES]],
    sums: [Sums; 2],
}

impl<'a> ByTiles<'a> {
    /// Nothing where the level has no tiles, or what is asked for does not fill them.
    #[inline(always)]
    pub(super) fn new<S: Simd>(
        simd: S,
        cache: &Cache,
        sizes: Sizes,
        keys: &'a mut [[f32; LANES]],
        lines: &'a mut [Line],
    ) -> Option<Self> {
        if !fits(simd, cache, sizes.c) || !sizes.n.is_multiple_of(LANES) || !sizes.v.is_multiple_of(LANES) {
            return None;
        }
        let (chunks, n_tiles) = (sizes.c / CHUNK, (sizes.n + sizes.v) / LANES);
        let matrices = &mut lines.as_chunks_mut().0[..2 * n_tiles * chunks];
        Some(Self { tiles: simd.tiles(CHUNK)?, sizes, chunks, matrices, keys, sums: [Sums::ZERO; 2] })
    }

    /// Weights of a channel, of which those of values follow those of keys; before all are transposed.
    #[inline(always)]
    pub(super) fn set_channel(&mut self, channel: usize, weights: &[i16]) {
        split(channel, weights, self.chunks, self.matrices);
    }

    #[inline(always)]
    pub(super) fn transpose<S: Simd>(&mut self, simd: S) {
        for square in &mut *self.matrices {
            let rows = *square;
            simd.transpose(rows.each_ref(), square);
        }
    }

    /// Multiplies the sixteen channels of tile `t` with sixteen positions at each of a pair of rows. What came of a tile is
    /// finished while the next one is multiplied: by turns they have sums of their own.
    #[inline(always)]
    fn multiply(&mut self, codes: [&[i8]; 2], t: usize) {
        let matrices = &self.matrices[2 * t * self.chunks..][..2 * self.chunks];
        self.tiles.clear::<2>();
        for (k, [high, low]) in matrices.as_chunks().0.iter().enumerate() {
            self.tiles.rows((codes, self.sizes.c, k * CHUNK), [high, low]);
        }
        self.tiles.take::<2>(&mut self.sums[t % 2]);
    }

    /// The expanded part of the keys of two groups of positions, not scaled: [`ByTiles::keys`] has them.
    #[inline(always)]
    pub(super) fn expand_keys<S: Simd>(&mut self, simd: S, cached: &Q8Rows, pair: [usize; 2]) {
        let codes = pair.map(|row| cached.codes_of(row, LANES));
        let n_tiles = self.sizes.n / LANES;
        for t in 0..=n_tiles {
            if t < n_tiles {
                self.multiply(codes, t);
            }
            if t > 0 {
                self.finish_keys(simd, t - 1);
            }
        }
    }

    #[inline(always)]
    fn finish_keys<S: Simd>(&mut self, simd: S, t: usize) {
        for (i, digits) in self.sums[t % 2].0.as_chunks().0.iter().enumerate() {
            let mut positions = [[0.0; LANES]; LANES];
            for (to, digits) in positions.iter_mut().zip(in_pairs(digits)) {
                simd.store(join(simd, digits), to);
            }
            let to = self.keys[i * self.sizes.n + t * LANES..].first_chunk_mut::<LANES>();
            let Some(to) = to else { unreachable!("both groups have room") };
            simd.transpose(positions.each_ref(), to);
        }
    }

    /// Those of one of them: of each channel sixteen positions.
    #[inline(always)]
    pub(super) fn keys(&self, i: usize) -> &[[f32; LANES]] {
        &self.keys[i * self.sizes.n..][..self.sizes.n]
    }

    /// Values of two groups of positions, `[2, 16, v_vectors]`, scaled by position and channel.
    #[inline(always)]
    pub(super) fn expand_values<S: Simd>(
        &mut self,
        simd: S,
        cached: &Q8Rows,
        pair: [usize; 2],
        scales: (&[[f32; LANES]; 2], &[[f32; LANES]]),
        to: &mut [[f32; LANES]],
    ) {
        let codes = pair.map(|row| cached.codes_of(row, LANES));
        let (first, n_vectors) = (self.sizes.n / LANES, self.sizes.v / LANES);
        for vector in 0..=n_vectors {
            if vector < n_vectors {
                self.multiply(codes, first + vector);
            }
            if vector > 0 {
                self.finish_values(simd, vector - 1, scales, to);
            }
        }
    }

    #[inline(always)]
    fn finish_values<S: Simd>(
        &self,
        simd: S,
        vector: usize,
        (positions, channels): (&[[f32; LANES]; 2], &[[f32; LANES]]),
        to: &mut [[f32; LANES]],
    ) {
        let Sizes { n, v, .. } = self.sizes;
        let (t, n_vectors, lanes) = (n / LANES + vector, v / LANES, simd.load(&channels[vector]));
        for (i, digits) in self.sums[t % 2].0.as_chunks().0.iter().enumerate() {
            for (s, digits) in in_pairs(digits).enumerate() {
                // Of the second group there may be no positions.
                if let Some(to) = to.get_mut((i * LANES + s) * n_vectors + vector) {
                    let scale = simd.mul(lanes, simd.splat(positions[i][s]));
                    simd.store(simd.mul(join(simd, digits), scale), to);
                }
            }
        }
    }
}
