//! Expanded attention in whole numbers of 16 bits, for devices that round activations.
//!
//! Latents, the matrices that expand them, keys, values, queries and weights are each rounded with one scale for a row of
//! them, to as many steps as let every sum of products stay below 2^31 (docs/numerics.md, "Expanded in whole numbers").
//! Owns that arithmetic. Numbers that are not finite make it stop: f32 must do the work.

mod by_tiles;

use ops::{AttendExpanded, RowFormat};

use self::by_tiles::ByTiles;

use super::super::digits::pair_of;
use super::super::integers::{Rounded, Sums, WEIGHT_BLOCKS, round_weights};
use super::super::{Context, Room, Rows};
use super::{Sizes, decode_head, take};
use crate::device::Cpu;
use crate::kernel::attention::{Gathered, RANGE, Scores, Step, TILE, Tile, Tiles, Walk, walk};
use crate::kernel::panel::{i16_steps, quantise};
use crate::kernel::tile::{RowsBody, for_rows, pairs};
use crate::level::{LANES, Line, Simd, make};

/// Vectors of sixteen positions in a tile.
const GROUPS: usize = TILE / LANES;
/// Steps of a value, and of the weights of a tile: TILE of their products stay below 2^31.
const VALUE_STEPS: f32 = 1023.0;
const WEIGHT_STEPS: f32 = 16383.0;
/// Keys and values that are smaller count as zeros.
const SMALL: f32 = 1e-30;

/// Lengths in blocks of 32 numbers and in pairs of them.
#[derive(Clone, Copy)]
struct Lengths {
    sizes: Sizes,
    c_blocks: usize,
    head_blocks: usize,
}

impl Lengths {
    fn new(sizes: Sizes) -> Self {
        let head_blocks = (sizes.n + sizes.r).div_ceil(2 * LANES);
        Self { sizes, c_blocks: sizes.c.div_ceil(2 * LANES), head_blocks }
    }

    fn c_pairs(self) -> usize {
        self.c_blocks * LANES
    }

    fn head_pairs(self) -> usize {
        self.head_blocks * LANES
    }

    /// Steps of a latent: those that it is cached in, or half of the bits of a sum.
    fn latent_steps(self, in_codes: bool) -> usize {
        let half = (i32::MAX as usize / self.sizes.c).isqrt().min(i16::MAX as usize);
        if in_codes { i8::MAX as usize } else { half }
    }

    /// Steps of the matrices' rows: what latents leave.
    fn weight_steps(self, in_codes: bool) -> f32 {
        (i32::MAX as usize / (self.latent_steps(in_codes) * self.sizes.c)).min(i16::MAX as usize) as f32
    }

    /// Steps of queries and of keys.
    fn head_steps(self) -> f32 {
        (i32::MAX as usize / (self.sizes.n + self.sizes.r)).isqrt().min(i16::MAX as usize) as f32
    }
}

pub(super) fn room(sizes: Sizes, n_queries: usize) -> Room {
    let lengths = Lengths::new(sizes);
    let Sizes { n, r, v, c_steps, .. } = sizes;
    let (v_vectors, row) = (sizes.v_vectors(), sizes.c.max(n).max(v).div_ceil(LANES));
    let by_tiles = by_tiles::room(sizes);
    Room {
        // Matrices as they are decoded; scales of them, of queries and of weights; rotated and expanded keys; values.
        vectors: row
            + (n + v) * c_steps / LANES
            + n.div_ceil(LANES)
            + v_vectors
            + 2 * n_queries.div_ceil(LANES)
            + TILE * r.div_ceil(LANES)
            + 2 * lengths.head_pairs()
            + TILE * v_vectors
            + by_tiles.vectors,
        // Matrices, queries, latents and their panel, keys, values, weights; a row of a matrix.
        panels: n * lengths.c_blocks
            + v_vectors * lengths.c_pairs()
            + n_queries * (lengths.head_blocks + WEIGHT_BLOCKS)
            + TILE * lengths.c_blocks
            + lengths.c_pairs()
            + GROUPS * lengths.head_pairs()
            + v_vectors * TILE / 2
            + lengths.c_blocks,
        lines: by_tiles.lines,
        ..Room::default()
    }
}

/// Vectors, panels and lines of a unit, as many as [`room`] says.
pub(super) type Scratch<'a> = (&'a mut [[f32; LANES]], &'a mut [[i16; 2 * LANES]], &'a mut [Line]);

/// The whole walk of a unit, unless something is not finite.
#[inline(always)]
pub(super) fn gather<'a, S: Simd>(
    simd: S,
    args: &AttendExpanded<'_, Cpu>,
    rows: Rows<'a>,
    head: usize,
    room: &mut Walk<'_>,
    (mut vectors, mut panels, lines): Scratch<'a>,
) -> bool {
    let sizes = Sizes::new(args);
    let lengths = Lengths::new(sizes);
    let layout = args.cache.spec.row;
    let in_codes = layout.row_format == RowFormat::Q8 && layout.group_len == sizes.c;
    let keys = take(&mut vectors, 2 * sizes.n);
    let mut by_tiles = if in_codes { ByTiles::new(simd, args.cache, sizes, keys, lines) } else { None };
    let steps = lengths.weight_steps(in_codes);
    let matrices = Matrices::round(simd, args, head, steps, &mut vectors, &mut panels, &mut by_tiles);
    let queries = take(&mut panels, rows.n * lengths.head_blocks);
    let query_scales = take(&mut vectors, rows.n.div_ceil(LANES)).as_flattened_mut();
    let head_dim = sizes.n + sizes.r;
    for (t, (query, d)) in queries.chunks_exact_mut(lengths.head_blocks).zip(&mut *query_scales).enumerate() {
        let q = &args.q[((rows.row + t) * args.q_pe.n_heads + head) * head_dim..][..head_dim];
        *d = quantise(simd, q, lengths.head_steps(), query) * args.scale;
    }
    let finite = matrices.finite && query_scales[..rows.n].iter().all(|d| d.is_finite());
    let mut tiles = Integers {
        context: Context { cache: args.cache, layer: args.layer, block_table: rows.block_table },
        lengths,
        in_codes,
        by_tiles,
        rows: [0; TILE],
        finite,
        matrices,
        queries,
        query_scales,
        latents: take(&mut panels, TILE * lengths.c_blocks),
        latent_scales: [[0.0; LANES]; GROUPS],
        panel: take(&mut panels, lengths.c_pairs()),
        rope: take(&mut vectors, TILE * sizes.r.div_ceil(LANES)).as_flattened_mut(),
        expanded: take(&mut vectors, 2 * lengths.head_pairs()),
        keys: take(&mut panels, GROUPS * lengths.head_pairs()),
        key_scales: [[0.0; LANES]; GROUPS],
        expanded_values: take(&mut vectors, TILE * sizes.v_vectors()),
        values: take(&mut panels, sizes.v_vectors() * TILE / 2),
        value_scales: [[0.0; LANES]; GROUPS],
        weights: take(&mut panels, rows.n * WEIGHT_BLOCKS),
        weight_scales: take(&mut vectors, rows.n.div_ceil(LANES)).as_flattened_mut(),
    };
    tiles.expanded.fill([0.0; LANES]);
    if finite {
        let n_ranges = rows.n_visible().div_ceil(RANGE);
        walk(simd, 0..n_ranges, rows.n_visible(), &mut tiles, room, |t, tile| rows.n_seen(t, tile));
    }
    tiles.finite
}

/// A head's matrices in whole numbers.
struct Matrices<'a> {
    /// `[n, C]` with a scale for each row.
    w_uk: &'a [[i16; 2 * LANES]],
    w_uk_scales: &'a [f32],
    /// `[v_vectors, pairs of C]` of sixteen channels, with their scales.
    w_uv: &'a [[i16; 2 * LANES]],
    w_uv_scales: &'a [[f32; LANES]],
    finite: bool,
}

impl<'a> Matrices<'a> {
    #[inline(always)]
    fn round<S: Simd>(
        simd: S,
        args: &AttendExpanded<'_, Cpu>,
        head: usize,
        steps: f32,
        vectors: &mut &'a mut [[f32; LANES]],
        panels: &mut &'a mut [[i16; 2 * LANES]],
        by_tiles: &mut Option<ByTiles<'_>>,
    ) -> Self {
        let sizes = Sizes::new(args);
        let (lengths, Sizes { c, n, v, c_steps, .. }) = (Lengths::new(sizes), sizes);
        let row = take(vectors, c.max(n).max(v).div_ceil(LANES)).as_flattened_mut();
        let decoded = take(vectors, (n + v) * c_steps / LANES).as_flattened_mut();
        let (keys, values) = decoded.split_at_mut(n * c_steps);
        decode_head(simd, args.w_uk, head, row, |o, i, weight| keys[o * c_steps + i] = weight);
        decode_head(simd, args.w_uv, head, row, |o, i, weight| values[o * c_steps + i] = weight);
        let w_uk = take(panels, n * lengths.c_blocks);
        let w_uk_scales = take(vectors, n.div_ceil(LANES)).as_flattened_mut();
        let each = keys.chunks_exact(c_steps).zip(w_uk.chunks_exact_mut(lengths.c_blocks)).zip(&mut *w_uk_scales);
        for (o, ((row, to), d)) in each.enumerate() {
            *d = quantise(simd, &row[..c], steps, to);
            if let Some(tiles) = by_tiles {
                tiles.set_channel(o, to.as_flattened());
            }
        }
        let w_uv = take(panels, sizes.v_vectors() * lengths.c_pairs());
        let w_uv_scales = take(vectors, sizes.v_vectors());
        w_uv.fill([0; 2 * LANES]);
        w_uv_scales.fill([0.0; LANES]);
        let row = take(panels, lengths.c_blocks);
        for (o, weights) in values.chunks_exact(c_steps).enumerate() {
            let (vector, lane) = (o / LANES, o % LANES);
            w_uv_scales[vector][lane] = quantise(simd, &weights[..c], steps, row);
            if let Some(tiles) = by_tiles {
                tiles.set_channel(n + o, row.as_flattened());
                continue;
            }
            let columns = &mut w_uv[vector * lengths.c_pairs()..][..lengths.c_pairs()];
            for (pair, to) in row.as_flattened().as_chunks::<2>().0.iter().zip(columns) {
                to[2 * lane..2 * lane + 2].copy_from_slice(pair);
            }
        }
        if let Some(tiles) = by_tiles {
            tiles.transpose(simd);
        }
        let finite = w_uk_scales[..n].iter().chain(w_uv_scales.as_flattened()).all(|d| d.is_finite());
        Self { w_uk, w_uk_scales, w_uv, w_uv_scales, finite }
    }
}

struct Integers<'a> {
    context: Context<'a>,
    lengths: Lengths,
    /// Whether latents are cached as whole numbers.
    in_codes: bool,
    by_tiles: Option<ByTiles<'a>>,
    /// The tile's rows.
    rows: [usize; TILE],
    finite: bool,
    matrices: Matrices<'a>,
    /// `[rows, n + R]`
    queries: &'a [[i16; 2 * LANES]],
    /// With the scale of scores.
    query_scales: &'a [f32],
    /// `[TILE, C]`
    latents: &'a mut [[i16; 2 * LANES]],
    latent_scales: [[f32; LANES]; GROUPS],
    /// `[pairs of C]` of sixteen positions.
    panel: &'a mut [[i16; 2 * LANES]],
    /// `[TILE, R]`, rounded up to vectors.
    rope: &'a mut [f32],
    /// `[n + R]` of sixteen positions, then zeros.
    expanded: &'a mut [[f32; LANES]],
    /// `[GROUPS, pairs of n + R]` of sixteen positions.
    keys: &'a mut [[i16; 2 * LANES]],
    key_scales: [[f32; LANES]; GROUPS],
    /// `[TILE, v_vectors]`
    expanded_values: &'a mut [[f32; LANES]],
    /// `[v_vectors, TILE / 2]` pairs of positions.
    values: &'a mut [[i16; 2 * LANES]],
    value_scales: [[f32; LANES]; GROUPS],
    /// `[rows, TILE]`
    weights: &'a mut [[i16; 2 * LANES]],
    weight_scales: &'a mut [f32],
}

impl Integers<'_> {
    /// Latents in whole numbers, and rotated keys.
    #[inline(always)]
    fn read<S: Simd>(&mut self, simd: S, tile: Tile) {
        let Sizes { c, r, .. } = self.lengths.sizes;
        let (cache, rope_stride) = (self.context.cache, r.next_multiple_of(LANES));
        self.rows = self.context.rows(tile.start, tile.n);
        let rows = &self.rows;
        let used = tile.n.next_multiple_of(LANES);
        let steps = self.lengths.latent_steps(self.in_codes) as f32;
        let scales = self.latent_scales.as_flattened_mut();
        let each = self.latents.chunks_exact_mut(self.lengths.c_blocks).zip(self.rope.chunks_exact_mut(rope_stride));
        for (i, (latent, rope)) in each.enumerate().take(used) {
            cache.read(simd, rows[i], c, &mut rope[..r]);
            self.finite &= rope[..r].iter().all(|k| k.is_finite());
            if self.in_codes {
                let row = cache.q8_rows();
                scales[i] = row.scales(rows[i])[0];
                if self.by_tiles.is_some() {
                    continue;
                }
                let (blocks, rest) = row.codes(rows[i]).as_chunks();
                for (codes, to) in blocks.iter().zip(&mut *latent) {
                    simd.store_pairs(simd.widen_i8(codes), to);
                }
                if let (false, Some(to)) = (rest.is_empty(), latent.last_mut()) {
                    *to = [0; 2 * LANES];
                    to.iter_mut().zip(rest).for_each(|(to, code)| *to = i16::from(*code));
                }
            } else {
                // The panel of values is not needed yet: its place takes the row.
                let row = &mut self.expanded_values.as_flattened_mut()[..c];
                cache.read(simd, rows[i], 0, row);
                scales[i] = quantise(simd, row, steps, latent);
            }
        }
        self.finite &= scales[..used].iter().all(|d| d.is_finite());
    }

    /// Keys of sixteen positions, of `n_groups` that are asked for in order.
    #[inline(always)]
    fn expand_keys<S: Simd>(&mut self, simd: S, group: usize, n_groups: usize) {
        let Sizes { n, r, .. } = self.lengths.sizes;
        let (c_blocks, head_pairs) = (self.lengths.c_blocks, self.lengths.head_pairs());
        let (scales, lanes) = (self.matrices.w_uk_scales, simd.load(&self.latent_scales[group]));
        if let Some(tiles) = &mut self.by_tiles {
            if group.is_multiple_of(2) {
                tiles.expand_keys(simd, self.context.cache.q8_rows(), pair_of(&self.rows, group, n_groups));
            }
            for ((sum, scale), to) in tiles.keys(group % 2).iter().zip(scales).zip(&mut *self.expanded) {
                simd.store(simd.mul(simd.load(sum), simd.mul(lanes, simd.splat(*scale))), to);
            }
        } else {
            let latents = &self.latents[group * LANES * c_blocks..];
            i16_steps(simd, make(|s| latents[s * c_blocks..][..c_blocks].as_flattened()), self.panel);
            let (x, panel, to) = (self.matrices.w_uk, &*self.panel, &mut self.expanded[..]);
            for_rows(simd, n, &mut Expansion::<S> { x, blocks: c_blocks, scales, panel, lanes, to, stride: 1 });
        }
        let rope_stride = r.next_multiple_of(LANES);
        let rope = &self.rope[group * LANES * rope_stride..];
        for (i, step) in self.expanded[n..n + r].iter_mut().enumerate() {
            *step = make(|s| rope[s * rope_stride + i]);
        }
        let mut largest = simd.splat(0.0);
        for step in &self.expanded[..n + r] {
            largest = simd.max(simd.abs(simd.load(step)), largest);
        }
        let steps = simd.splat(self.lengths.head_steps());
        let inverse = simd.div(steps, simd.max(largest, simd.splat(SMALL)));
        simd.store(simd.div(largest, steps), &mut self.key_scales[group]);
        let keys = &mut self.keys[group * head_pairs..][..head_pairs];
        for ([first, second], to) in self.expanded.as_chunks().0.iter().zip(keys) {
            let first = simd.round(simd.mul(simd.load(first), inverse));
            let second = simd.round(simd.mul(simd.load(second), inverse));
            zip(simd, first, second, to);
        }
    }

    /// Values of the tile.
    #[inline(always)]
    fn expand_values<S: Simd>(&mut self, simd: S, tile: Tile) {
        let v_vectors = self.lengths.sizes.v_vectors();
        let (c_blocks, c_pairs) = (self.lengths.c_blocks, self.lengths.c_pairs());
        let n_groups = tile.n.div_ceil(LANES);
        if let Some(tiles) = &mut self.by_tiles {
            for (p, scales) in self.latent_scales.as_chunks().0.iter().enumerate().take(n_groups.div_ceil(2)) {
                let pair = pair_of(&self.rows, 2 * p, n_groups);
                let end = tile.n.next_multiple_of(LANES).min(2 * (p + 1) * LANES);
                let to = &mut self.expanded_values[2 * p * LANES * v_vectors..end * v_vectors];
                tiles.expand_values(simd, self.context.cache.q8_rows(), pair, (scales, self.matrices.w_uv_scales), to);
            }
        }
        let panels = if self.by_tiles.is_some() { &[][..] } else { self.matrices.w_uv };
        for (vector, panel) in panels.chunks_exact(c_pairs).enumerate() {
            let (x, scales) = (&*self.latents, self.latent_scales.as_flattened());
            let lanes = simd.load(&self.matrices.w_uv_scales[vector]);
            let to = &mut self.expanded_values[vector..];
            for_rows(
                simd,
                tile.n,
                &mut Expansion::<S> { x, blocks: c_blocks, scales, panel, lanes, to, stride: v_vectors },
            );
        }
        let scales = self.value_scales.as_flattened_mut();
        scales.fill(0.0);
        if !tile.n.is_multiple_of(2) {
            self.expanded_values[tile.n * v_vectors..][..v_vectors].fill([0.0; LANES]);
        }
        for p in 0..tile.n.div_ceil(2) {
            let rows = &self.expanded_values[2 * p * v_vectors..][..2 * v_vectors];
            let mut inverses = [simd.splat(0.0); 2];
            for (i, row) in rows.chunks_exact(v_vectors).enumerate() {
                let mut largest = simd.splat(0.0);
                for vector in row {
                    largest = simd.max(simd.abs(simd.load(vector)), largest);
                }
                let largest = simd.max_lane(largest);
                scales[2 * p + i] = largest / VALUE_STEPS;
                inverses[i] = simd.splat(VALUE_STEPS / largest.max(SMALL));
            }
            let (first, second) = rows.split_at(v_vectors);
            for (v, (first, second)) in first.iter().zip(second).enumerate() {
                let first = simd.round(simd.mul(simd.load(first), inverses[0]));
                let second = simd.round(simd.mul(simd.load(second), inverses[1]));
                zip(simd, first, second, &mut self.values[v * TILE / 2 + p]);
            }
        }
    }
}

/// Pairs of whole numbers of 16 bits.
#[inline(always)]
fn zip<S: Simd>(simd: S, first: S::I32, second: S::I32, to: &mut [i16; 2 * LANES]) {
    let mut both = [0; 2 * LANES];
    simd.store_i16(first, second, &mut both);
    if let [first, second] = both.as_chunks().0 {
        simd.store_pairs(simd.zip_i16(first, second), to);
    }
}

/// to\[row·stride\] = scales\[row\]·lanes·(x\[row\]·panel)
struct Expansion<'a, S: Simd> {
    x: &'a [[i16; 2 * LANES]],
    blocks: usize,
    scales: &'a [f32],
    panel: &'a [[i16; 2 * LANES]],
    lanes: S::F32,
    to: &'a mut [[f32; LANES]],
    stride: usize,
}

impl<S: Simd> RowsBody<S> for Expansion<'_, S> {
    #[inline(always)]
    fn rows<const R: usize>(&mut self, simd: S, first: usize) {
        let x = make(|r| self.x[(first + r) * self.blocks..][..self.blocks].as_flattened().as_chunks().0);
        let sums = pairs::<S, R>(simd, self.panel, x);
        for (r, sum) in sums.into_iter().enumerate() {
            let scale = simd.mul(self.lanes, simd.splat(self.scales[first + r]));
            simd.store(simd.mul(simd.to_f32(sum), scale), &mut self.to[(first + r) * self.stride]);
        }
    }
}

/// Scores of R queries with sixteen keys.
struct Products<'a, S: Simd> {
    queries: &'a [[i16; 2 * LANES]],
    blocks: usize,
    query_scales: &'a [f32],
    keys: &'a [[i16; 2 * LANES]],
    key_scales: S::F32,
    group: usize,
    scores: &'a mut [Scores],
}

impl<S: Simd> RowsBody<S> for Products<'_, S> {
    #[inline(always)]
    fn rows<const R: usize>(&mut self, simd: S, first: usize) {
        let x = make(|r| self.queries[(first + r) * self.blocks..][..self.blocks].as_flattened().as_chunks().0);
        let sums = pairs::<S, R>(simd, self.keys, x);
        for (r, sum) in sums.into_iter().enumerate() {
            let scale = simd.mul(self.key_scales, simd.splat(self.query_scales[first + r]));
            simd.store(simd.mul(simd.to_f32(sum), scale), &mut self.scores[first + r][self.group]);
        }
    }
}

impl<S: Simd> Tiles<S> for Integers<'_> {
    #[inline(always)]
    fn scores(&mut self, simd: S, tile: Tile, scores: &mut [Scores]) {
        self.read(simd, tile);
        let (blocks, head_pairs) = (self.lengths.head_blocks, self.lengths.head_pairs());
        let n_groups = tile.n.div_ceil(LANES);
        for group in 0..n_groups {
            self.expand_keys(simd, group, n_groups);
            let keys = &self.keys[group * head_pairs..][..head_pairs];
            let (queries, query_scales) = (self.queries, self.query_scales);
            let (n, key_scales) = (scores.len(), simd.load(&self.key_scales[group]));
            for_rows(simd, n, &mut Products::<S> { queries, blocks, query_scales, keys, key_scales, group, scores });
        }
        self.expand_values(simd, tile);
    }

    #[inline(always)]
    fn add_values(&mut self, simd: S, tile: Tile, weights: &mut [Scores], steps: &[Step], gathered: &mut Gathered<'_>) {
        let rounded = Rounded { weights: self.weights, scales: self.weight_scales, steps: WEIGHT_STEPS };
        round_weights(simd, weights, &mut self.value_scales, rounded);
        for vector in 0..gathered.n_vectors {
            let values = &self.values[vector * TILE / 2..][..tile.n.div_ceil(2)];
            let (weights, weight_scales) = (&*self.weights, &*self.weight_scales);
            for_rows(simd, steps.len(), &mut Sums { weights, weight_scales, steps, values, vector, gathered });
        }
    }
}
