//! Expanded attention: keys and values of a tile are made from its latents, once for all rows of a span.
//!
//! A unit is one head of a whole span, whose matrices are decoded once. Owns the products that make keys and values.
//! Must not absorb queries.

mod integers;

use ops::{Activations, AttendExpanded, HeadWeights, WeightMatrix};

use super::floats::{Products, Sums};
use super::{Context, Pieces, Room, Rows, blocks, deal};
use crate::device::Cpu;
use crate::kernel::attention::{Gathered, RANGE, Scores, Step, TILE, Tile, Tiles, walk};
use crate::kernel::matmul::decode;
use crate::kernel::panel::f32_steps;
use crate::kernel::tile::{RowsBody, floats, for_rows};
use crate::level::{Kernel, LANES, Simd, make};
use crate::pool::{Shared32, shared};

pub(super) fn run(cpu: &Cpu, args: &AttendExpanded<'_, Cpu>, out: &mut [f32]) {
    let out = shared(out);
    let units = || {
        let spans = blocks(args.spans, args.block_tables, usize::MAX, args.cache.spec.block_len);
        spans.flat_map(|rows| (0..args.q_pe.n_heads).map(move |head| (rows, head)))
    };
    deal(cpu, units, &|worker, (rows, head)| {
        let sizes = Sizes::new(args);
        let in_integers = cpu.activations == Activations::Int8;
        let own = if in_integers { integers::room(sizes, rows.n) } else { Room::default() };
        let room = Room {
            n_queries: rows.n,
            value_vectors: sizes.v_vectors(),
            vectors: sizes.vectors(rows.n).max(own.vectors),
            ..own
        };
        cpu.attention_scratch.lend(worker, room, |pieces| {
            cpu.level.run(Expanded { args, rows, head, in_integers, out, pieces });
        });
    });
}

/// C, R, n and v, and how they fill vectors.
#[derive(Clone, Copy)]
struct Sizes {
    c: usize,
    r: usize,
    n: usize,
    v: usize,
    /// Steps of a panel of latents.
    c_steps: usize,
    /// Values of a query or key.
    head_steps: usize,
}

impl Sizes {
    fn new(args: &AttendExpanded<'_, Cpu>) -> Self {
        let (n, v) = (args.q_pe.start, args.v_head_dim);
        let r = args.q_pe.head_dim - n;
        let c = args.cache.spec.row.row_len - r;
        Self { c, r, n, v, c_steps: c.next_multiple_of(LANES), head_steps: (n + r).next_multiple_of(LANES) }
    }

    fn v_vectors(self) -> usize {
        self.v.div_ceil(LANES)
    }

    /// Vectors of scratch for `n_queries`.
    fn vectors(self, n_queries: usize) -> usize {
        let matrices = self.n * self.c_steps / LANES + self.v_vectors() * self.c_steps;
        let latents = TILE * self.c_steps / LANES + self.c_steps + TILE * self.r.div_ceil(LANES);
        let tile = TILE / LANES * self.head_steps + self.v_vectors() * TILE;
        let row = self.c.max(self.n).max(self.v).div_ceil(LANES);
        matrices + latents + tile + row + n_queries * self.head_steps / LANES
    }
}

struct Expanded<'a> {
    args: &'a AttendExpanded<'a, Cpu>,
    rows: Rows<'a>,
    head: usize,
    in_integers: bool,
    out: &'a [Shared32],
    pieces: Pieces<'a>,
}

/// Takes the first `n` vectors of what is left of scratch.
fn take<'s, T>(scratch: &mut &'s mut [T], n: usize) -> &'s mut [T] {
    let (first, rest) = std::mem::take(scratch).split_at_mut(n);
    *scratch = rest;
    first
}

impl Kernel for Expanded<'_> {
    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let Self { args, rows, head, in_integers, out, pieces } = self;
        let sizes = Sizes::new(args);
        let Pieces { walk: mut room, mut vectors, panels, lines } = pieces;
        let place = |t: usize| (rows.row + t) * args.q_pe.n_heads + head;
        // Whole numbers cannot be infinite: where something is, all is computed again in f32.
        if in_integers && integers::gather(simd, args, rows, head, &mut room, (&mut *vectors, panels, lines)) {
            return room.gathered.write(simd, out, sizes.v, |t| place(t) * sizes.v);
        }
        let w_uk = take(&mut vectors, sizes.n * sizes.c_steps / LANES);
        let w_uv = take(&mut vectors, sizes.v_vectors() * sizes.c_steps);
        let row = take(&mut vectors, sizes.c.max(sizes.n).max(sizes.v).div_ceil(LANES)).as_flattened_mut();
        decode_head(simd, args.w_uk, head, row, |o, i, value| w_uk.as_flattened_mut()[o * sizes.c_steps + i] = value);
        w_uv.fill([0.0; LANES]);
        decode_head(simd, args.w_uv, head, row, |o, i, value| {
            w_uv[o / LANES * sizes.c_steps + i][o % LANES] = value;
        });
        let queries = take(&mut vectors, rows.n * sizes.head_steps / LANES).as_flattened_mut();
        for (t, query) in queries.chunks_exact_mut(sizes.head_steps).enumerate() {
            let head_dim = sizes.n + sizes.r;
            query[..head_dim].copy_from_slice(&args.q[place(t) * head_dim..][..head_dim]);
        }
        let mut tiles = Tilewise {
            context: Context { cache: args.cache, layer: args.layer, block_table: rows.block_table },
            sizes,
            scale: args.scale,
            w_uk: w_uk.as_flattened(),
            w_uv,
            queries,
            latents: take(&mut vectors, TILE * sizes.c_steps / LANES).as_flattened_mut(),
            rope: take(&mut vectors, TILE * sizes.r.div_ceil(LANES)).as_flattened_mut(),
            panel: take(&mut vectors, sizes.c_steps),
            keys: take(&mut vectors, TILE / LANES * sizes.head_steps),
            values: take(&mut vectors, sizes.v_vectors() * TILE),
        };
        let n_ranges = rows.n_visible().div_ceil(RANGE);
        walk(simd, 0..n_ranges, rows.n_visible(), &mut tiles, &mut room, |t, tile| rows.n_seen(t, tile));
        room.gathered.write(simd, out, sizes.v, |t| place(t) * sizes.v);
    }
}

/// Calls `set(output, input, weight)` for the logical matrix of a head.
#[inline(always)]
fn decode_head<S: Simd>(
    simd: S,
    w: &HeadWeights<WeightMatrix>,
    head: usize,
    row: &mut [f32],
    mut set: impl FnMut(usize, usize, f32),
) {
    let first = head * w.head_stride + w.head_start;
    for r in 0..w.head_rows {
        let row = &mut row[..w.weight.cols];
        decode(simd, &w.weight, first + r, row);
        for (i, value) in row.iter().enumerate() {
            if w.transposed { set(i, r, *value) } else { set(r, i, *value) }
        }
    }
}

struct Tilewise<'a> {
    context: Context<'a>,
    sizes: Sizes,
    scale: f32,
    /// `[n, c_steps]`
    w_uk: &'a [f32],
    /// `[v_vectors, c_steps]` of sixteen channels.
    w_uv: &'a [[f32; LANES]],
    /// `[rows, head_steps]`
    queries: &'a [f32],
    /// `[TILE, c_steps]`
    latents: &'a mut [f32],
    /// `[TILE, R]`, rounded up to vectors.
    rope: &'a mut [f32],
    /// `[c_steps]` of sixteen positions.
    panel: &'a mut [[f32; LANES]],
    /// `[TILE / 16, head_steps]` of sixteen positions.
    keys: &'a mut [[f32; LANES]],
    /// `[v_vectors, TILE]` of sixteen channels.
    values: &'a mut [[f32; LANES]],
}

impl Tilewise<'_> {
    /// Keys and values of a tile.
    #[inline(always)]
    fn expand<S: Simd>(&mut self, simd: S, tile: Tile) {
        let Sizes { c, r, n, c_steps, head_steps, .. } = self.sizes;
        let rope_stride = r.next_multiple_of(LANES);
        let rows: [usize; TILE] = self.context.rows(tile.start, tile.n);
        let used = tile.n.next_multiple_of(LANES);
        let each = self.latents.chunks_exact_mut(c_steps).zip(self.rope.chunks_exact_mut(rope_stride));
        for ((latent, rope), row) in each.zip(rows).take(used) {
            self.context.cache.read(simd, row, 0, &mut latent[..c]);
            self.context.cache.read(simd, row, c, &mut rope[..r]);
        }
        for group in 0..used / LANES {
            let latents = &self.latents[group * LANES * c_steps..];
            f32_steps(simd, make(|i| &latents[i * c_steps..][..c]), self.panel);
            let keys = &mut self.keys[group * head_steps..][..head_steps];
            let (k_nope, k_pe) = keys.split_at_mut(n);
            for_rows(simd, n, &mut Expansion { x: self.w_uk, stride: c_steps, panel: &self.panel[..c], to: k_nope });
            let rope = &self.rope[group * LANES * rope_stride..];
            for (i, step) in k_pe.iter_mut().enumerate().take(r) {
                *step = make(|s| rope[s * rope_stride + i]);
            }
        }
        for (w_uv, values) in self.w_uv.chunks_exact(c_steps).zip(self.values.chunks_exact_mut(TILE)) {
            let (x, panel) = (&*self.latents, &w_uv[..c]);
            for_rows(simd, tile.n, &mut Expansion { x, stride: c_steps, panel, to: values });
        }
    }
}

/// to\[row\] = x\[row\]·panel
struct Expansion<'a> {
    x: &'a [f32],
    stride: usize,
    panel: &'a [[f32; LANES]],
    to: &'a mut [[f32; LANES]],
}

impl<S: Simd> RowsBody<S> for Expansion<'_> {
    #[inline(always)]
    fn rows<const R: usize>(&mut self, simd: S, first: usize) {
        let x = make(|r| &self.x[(first + r) * self.stride..]);
        for (r, sum) in floats::<S, R>(simd, [simd.splat(0.0); R], self.panel, x).into_iter().enumerate() {
            simd.store(sum, &mut self.to[first + r]);
        }
    }
}

impl<S: Simd> Tiles<S> for Tilewise<'_> {
    #[inline(always)]
    fn scores(&mut self, simd: S, tile: Tile, scores: &mut [Scores]) {
        self.expand(simd, tile);
        let Sizes { n, r, head_steps, .. } = self.sizes;
        for group in 0..tile.n.div_ceil(LANES) {
            let keys = &self.keys[group * head_steps..][..n + r];
            let (queries, steps, scale) = (self.queries, head_steps, self.scale);
            for_rows(simd, scores.len(), &mut Products { queries, steps, keys, scale, group, scores });
        }
    }

    #[inline(always)]
    fn add_values(&mut self, simd: S, tile: Tile, weights: &mut [Scores], steps: &[Step], gathered: &mut Gathered<'_>) {
        for vector in 0..gathered.n_vectors {
            let values = &self.values[vector * TILE..][..tile.n];
            for_rows(simd, weights.len(), &mut Sums { weights, steps, values, vector, gathered });
        }
    }
}
