//! The gradient of packed attention, for one sequence and the heads that share a key and value head.
//!
//! With pᵀ[s,t] = e^(score − lse[t]), dpᵀ = v[s]·d_out[t] and dsᵀ = pᵀ·(dpᵀ − D[t])·scale, D[t] = d_out[t]·out[t]:
//! d_v[s] = Σ_t pᵀ·d_out[t], d_k[s] = Σ_t dsᵀ·q[t], d_q[t] = Σ_s dsᵀ·k[s]. Blocks of keys are the outer loop, tiles of
//! queries the inner one. Scores are made with queries in the lanes, so that lse and D are vectors and the weights of a key
//! lie in a row; stored twice, they are the panel that d_qᵀ sums over without being transposed.
//!
//! Owns the order of the sums: d_k and d_v by head, then row; d_q by row. A weight that is masked is 0, and what is masked
//! inside a tile may meet it.

use std::ops::Range;

use ops::{Attended, PackedAttention};

use super::{channels, per_kv, sixteen};
use crate::kernel::dot::dots;
use crate::kernel::exp::exp;
use crate::kernel::panel::f32_steps;
use crate::kernel::tile::{RowsBody, floats, for_rows};
use crate::level::{Kernel, LANES, Simd, make};
use crate::pool::Shared32;

/// Keys of a block, whole tiles of queries.
const KEYS: usize = 128;
/// Queries of a tile.
const QUERIES: usize = 64;
/// Vectors of them.
const GROUPS: usize = QUERIES / LANES;

/// What the forward pass kept, and the gradient of its result.
#[derive(Clone, Copy)]
pub(super) struct Saved<'a> {
    pub(super) saved: &'a Attended<'a>,
    pub(super) d_out: &'a [f32],
}

/// Where gradients go.
#[derive(Clone, Copy)]
pub(super) struct Into<'a> {
    pub(super) d_q: &'a [Shared32],
    pub(super) d_kv: &'a [Shared32],
    /// `[T, n_kv_heads, R]`: each head's part of d_shared.
    pub(super) partial: &'a [Shared32],
}

pub(super) struct Backward<'a> {
    pub(super) a: &'a PackedAttention<'a>,
    pub(super) saved: Saved<'a>,
    /// Of the sequence.
    pub(super) rows: Range<usize>,
    pub(super) kv_head: usize,
    pub(super) into: Into<'a>,
    pub(super) scratch: &'a mut [[f32; LANES]],
}

/// Vectors of queries and of values, and the steps of their panels.
#[derive(Clone, Copy)]
struct Sizes {
    q_dim: usize,
    q_vectors: usize,
    v_dim: usize,
    v_vectors: usize,
}

impl Sizes {
    fn new(a: &PackedAttention<'_>) -> Self {
        let (q_dim, v_dim) = (a.q_dim(), a.v_dim);
        Self { q_dim, q_vectors: q_dim.div_ceil(LANES), v_dim, v_vectors: v_dim.div_ceil(LANES) }
    }

    /// Vectors of each piece of [`Memory`], in its order.
    fn pieces(self, a: &PackedAttention<'_>, n_rows: usize) -> [usize; 11] {
        let (q, v) = (self.q_vectors, self.v_vectors);
        [
            per_kv(a) * n_rows.div_ceil(LANES) * self.q_dim,
            GROUPS * q * LANES,
            GROUPS * v * LANES,
            q * QUERIES,
            v * QUERIES,
            2 * GROUPS,
            KEYS * q,
            self.q_dim * KEYS / LANES,
            KEYS * q,
            KEYS * v,
            3 * KEYS * GROUPS,
        ]
    }
}

/// Values of scratch for a sequence of `n_rows`.
pub(super) fn scratch_len(a: &PackedAttention<'_>, n_rows: usize) -> usize {
    LANES * Sizes::new(a).pieces(a, n_rows).iter().sum::<usize>()
}

type Vectors<'a> = &'a mut [[f32; LANES]];

/// A unit's memory; g stands for a group of sixteen.
struct Memory<'a> {
    /// `[heads, g of all rows, q_dim]` of sixteen queries.
    d_q: Vectors<'a>,
    /// A tile's queries and gradients, `[g, channels]` of sixteen queries …
    q_lanes: Vectors<'a>,
    d_out_lanes: Vectors<'a>,
    /// … and `[vectors, QUERIES]` of sixteen channels.
    q_rows: Vectors<'a>,
    d_out_rows: Vectors<'a>,
    /// `[g]` of lse, then of D.
    lse_d: Vectors<'a>,
    /// A block's keys, `[KEYS, q_vectors]`.
    keys: Vectors<'a>,
    /// `[q_dim, KEYS]`, not vectors of anything.
    keys_transposed: Vectors<'a>,
    /// `[KEYS, q_vectors]`, `[KEYS, v_vectors]`
    d_k: Vectors<'a>,
    d_v: Vectors<'a>,
    scores: Weights<'a>,
}

/// p and ds of a tile.
struct Weights<'a> {
    /// `[KEYS, g]` of sixteen queries.
    p: Vectors<'a>,
    ds: Vectors<'a>,
    /// `[g, KEYS]` of sixteen queries.
    ds_panels: Vectors<'a>,
}

impl<'a> Memory<'a> {
    fn new(mut scratch: Vectors<'a>, sizes: [usize; 11]) -> Self {
        let [d_q, q_lanes, d_out_lanes, q_rows, d_out_rows, lse_d, keys, keys_transposed, d_k, d_v, all] =
            sizes.map(|n| {
                let (piece, rest) = std::mem::take(&mut scratch).split_at_mut(n);
                scratch = rest;
                piece
            });
        let (p, all) = all.split_at_mut(KEYS * GROUPS);
        let (ds, ds_panels) = all.split_at_mut(KEYS * GROUPS);
        let scores = Weights { p, ds, ds_panels };
        Self { d_q, q_lanes, d_out_lanes, q_rows, d_out_rows, lse_d, keys, keys_transposed, d_k, d_v, scores }
    }
}

impl Kernel for Backward<'_> {
    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let Self { a, saved, rows, kv_head, into, scratch } = self;
        let sizes = Sizes::new(a);
        let unit = Unit { a, saved, rows: rows.clone(), kv_head, sizes };
        let mut memory = Memory::new(scratch, sizes.pieces(a, rows.len()));
        memory.d_q.fill([0.0; LANES]);
        for block in (0..rows.len()).step_by(KEYS) {
            let n_keys = KEYS.min(rows.len() - block);
            unit.take_keys(block, n_keys, &mut memory);
            for head in 0..per_kv(a) {
                for tile in (block..rows.len()).step_by(QUERIES) {
                    let n = QUERIES.min(rows.len() - tile);
                    unit.take_queries(simd, head, tile, n, &mut memory);
                    unit.tile(simd, Place { block, n_keys, tile, n, head }, &mut memory);
                }
            }
            unit.write_keys(block, n_keys, into, &memory);
        }
        unit.write_queries(into, &memory);
    }
}

struct Unit<'a> {
    a: &'a PackedAttention<'a>,
    saved: Saved<'a>,
    rows: Range<usize>,
    kv_head: usize,
    sizes: Sizes,
}

/// A tile's first row and number of queries, its head in the group, and the same of the block of keys.
#[derive(Clone, Copy)]
struct Place {
    block: usize,
    n_keys: usize,
    tile: usize,
    n: usize,
    head: usize,
}

impl Unit<'_> {
    /// Which of all rows' heads a query is.
    #[inline(always)]
    fn at(&self, i: usize, head: usize) -> usize {
        (self.rows.start + i) * self.a.n_heads + self.kv_head * per_kv(self.a) + head
    }

    #[inline(always)]
    fn take_keys(&self, block: usize, n: usize, memory: &mut Memory<'_>) {
        let (a, stride) = (self.a, self.sizes.q_vectors * LANES);
        let transposed = memory.keys_transposed.as_flattened_mut();
        for s in 0..n {
            let row = self.rows.start + block + s;
            let key = &mut memory.keys.as_flattened_mut()[s * stride..][..a.q_dim()];
            key[..a.k_dim].copy_from_slice(&self.saved.saved.kv[a.k.at(row, self.kv_head)..][..a.k_dim]);
            if a.shared_dim > 0 {
                let pe = &self.saved.saved.shared[a.shared.at(row, 0)..][..a.shared_dim];
                key[a.k_dim..].copy_from_slice(pe);
            }
            key.iter().enumerate().for_each(|(i, k)| transposed[i * KEYS + s] = *k);
        }
        memory.d_k.fill([0.0; LANES]);
        memory.d_v.fill([0.0; LANES]);
    }

    #[inline(always)]
    fn take_queries<S: Simd>(&self, simd: S, head: usize, tile: usize, n: usize, memory: &mut Memory<'_>) {
        let Sizes { q_dim, q_vectors, v_dim, v_vectors } = self.sizes;
        let Saved { saved, d_out } = self.saved;
        let query = |i: usize| &saved.q[self.at(tile + i, head) * q_dim..][..q_dim];
        let value = |of: &'_ [f32], i: usize| self.at(tile + i, head) * v_dim..of.len();
        let d_out_of = |i: usize| &d_out[value(d_out, i)][..v_dim];
        channels(query, n, QUERIES, memory.q_rows);
        channels(d_out_of, n, QUERIES, memory.d_out_rows);
        for g in 0..n.div_ceil(LANES) {
            let (first, left) = (g * LANES, n - g * LANES);
            let panel = &mut memory.q_lanes[g * q_vectors * LANES..][..q_vectors * LANES];
            f32_steps(simd, sixteen(left, |i| query(first + i)), panel);
            let panel = &mut memory.d_out_lanes[g * v_vectors * LANES..][..v_vectors * LANES];
            f32_steps(simd, sixteen(left, |i| d_out_of(first + i)), panel);
            for i in 0..LANES {
                let last = first + i.min(left - 1);
                let out = &saved.out[value(saved.out, last)][..v_dim];
                let [[d]] = dots(simd, [d_out_of(last)], [out]);
                memory.lse_d[g][i] = saved.lse[self.at(tile + last, head)];
                memory.lse_d[GROUPS + g][i] = d;
            }
        }
    }

    /// All products of a tile.
    #[inline(always)]
    fn tile<S: Simd>(&self, simd: S, place: Place, memory: &mut Memory<'_>) {
        let Sizes { q_dim, q_vectors, v_dim, v_vectors } = self.sizes;
        let (a, saved) = (self.a, self.saved.saved);
        let Place { block, n_keys, tile, n, head } = place;
        // Groups of keys before a group of queries.
        let before = (tile - block) / LANES;
        let seen = |g: usize| n_keys.min((before + g + 1) * LANES);
        for g in 0..n.div_ceil(LANES) {
            let mut scores = ScoresOf {
                q: &memory.q_lanes[g * q_vectors * LANES..][..q_dim],
                d_out: &memory.d_out_lanes[g * v_vectors * LANES..][..v_dim],
                lse: &memory.lse_d[g],
                d: &memory.lse_d[GROUPS + g],
                keys: memory.keys.as_flattened(),
                key_stride: q_vectors * LANES,
                values: saved.kv,
                value_at: a.v.at(self.rows.start + block, self.kv_head),
                value_stride: a.v.row_stride,
                scale: a.scale,
                group: g,
                // Of key 0: query lane i sees key s if s ≤ i + ahead.
                ahead: tile + g * LANES - block,
                n_lanes: LANES.min(n - g * LANES),
                to: &mut memory.scores,
            };
            for_rows(simd, seen(g), &mut scores);
        }
        let Memory { q_rows, d_out_rows, d_k, d_v, scores, .. } = memory;
        let seen_by = Seen { n_keys, n, before };
        add_rows(simd, seen_by, d_out_rows, scores.p, v_vectors, d_v);
        add_rows(simd, seen_by, q_rows, scores.ds, q_vectors, d_k);
        for g in 0..n.div_ceil(LANES) {
            let panel = &memory.scores.ds_panels[g * KEYS..][..seen(g)];
            let group = head * self.rows.len().div_ceil(LANES) + tile / LANES + g;
            let (keys, to) = (memory.keys_transposed.as_flattened(), &mut memory.d_q[group * q_dim..][..q_dim]);
            for_rows(simd, q_dim, &mut AddQueries { panel, keys, to });
        }
    }

    fn write_keys(&self, block: usize, n: usize, into: Into<'_>, memory: &Memory<'_>) {
        let (a, kv_head) = (self.a, self.kv_head);
        let write = |to: &[Shared32], from: &[f32]| to.iter().zip(from).for_each(|(to, from)| to.set(*from));
        for s in 0..n {
            let row = self.rows.start + block + s;
            let d_k = &memory.d_k.as_flattened()[s * self.sizes.q_vectors * LANES..];
            let d_v = &memory.d_v.as_flattened()[s * self.sizes.v_vectors * LANES..];
            write(&into.d_kv[a.k.at(row, kv_head)..][..a.k_dim], d_k);
            write(&into.d_kv[a.v.at(row, kv_head)..][..a.v_dim], d_v);
            let partial = &into.partial[(row * a.n_kv_heads + kv_head) * a.shared_dim..][..a.shared_dim];
            write(partial, &d_k[a.k_dim..]);
        }
    }

    fn write_queries(&self, into: Into<'_>, memory: &Memory<'_>) {
        let (q_dim, n) = (self.sizes.q_dim, self.rows.len());
        for head in 0..per_kv(self.a) {
            for i in 0..n {
                let group = &memory.d_q[(head * n.div_ceil(LANES) + i / LANES) * q_dim..][..q_dim];
                let to = &into.d_q[self.at(i, head) * q_dim..][..q_dim];
                to.iter().zip(group).for_each(|(to, channel)| to.set(channel[i % LANES]));
            }
        }
    }
}

/// p and ds of R keys with sixteen queries.
struct ScoresOf<'a, 'm> {
    q: &'a [[f32; LANES]],
    d_out: &'a [[f32; LANES]],
    lse: &'a [f32; LANES],
    d: &'a [f32; LANES],
    keys: &'a [f32],
    key_stride: usize,
    values: &'a [f32],
    value_at: usize,
    value_stride: usize,
    scale: f32,
    group: usize,
    ahead: usize,
    n_lanes: usize,
    to: &'a mut Weights<'m>,
}

impl<S: Simd> RowsBody<S> for ScoresOf<'_, '_> {
    #[inline(always)]
    fn rows<const R: usize>(&mut self, simd: S, first: usize) {
        let keys = make(|r| &self.keys[(first + r) * self.key_stride..]);
        let values = make(|r| &self.values[self.value_at + (first + r) * self.value_stride..]);
        let scores = floats::<S, R>(simd, [simd.splat(0.0); R], self.q, keys);
        let d_p = floats::<S, R>(simd, [simd.splat(0.0); R], self.d_out, values);
        let (scale, d) = (simd.splat(self.scale), simd.load(self.d));
        let minus_lse = simd.sub(simd.splat(0.0), simd.load(self.lse));
        for r in 0..R {
            let p = exp(simd, simd.mul_add(scores[r], scale, minus_lse));
            let ds = simd.mul(simd.mul(p, simd.sub(d_p[r], d)), scale);
            let (row, at) = (first + r, (first + r) * GROUPS + self.group);
            simd.store(p, &mut self.to.p[at]);
            simd.store(ds, &mut self.to.ds[at]);
            let unseen = row.saturating_sub(self.ahead).min(LANES);
            if unseen > 0 || self.n_lanes < LANES {
                for weights in [&mut self.to.p[at], &mut self.to.ds[at]] {
                    weights[..unseen].fill(0.0);
                    weights[self.n_lanes..].fill(0.0);
                }
            }
            self.to.ds_panels[self.group * KEYS + row] = self.to.ds[at];
        }
    }
}

/// A block's keys and a tile's queries, and the groups of keys that all of these see.
#[derive(Clone, Copy)]
struct Seen {
    n_keys: usize,
    n: usize,
    before: usize,
}

/// to\[key\] += Σ weight·row over a tile's queries, for all channels.
#[inline(always)]
fn add_rows<S: Simd>(
    simd: S,
    Seen { n_keys, n, before }: Seen,
    rows: &[[f32; LANES]],
    weights: &[[f32; LANES]],
    n_vectors: usize,
    to: &mut [[f32; LANES]],
) {
    for vector in 0..n_vectors {
        let panel = &rows[vector * QUERIES..][..n];
        for_rows(simd, n_keys, &mut AddRows { panel, weights, before, vector, n_vectors, to });
    }
}

/// The same for R keys and one vector of channels.
struct AddRows<'a> {
    /// One step for each query.
    panel: &'a [[f32; LANES]],
    /// `[KEYS, g]` of sixteen queries.
    weights: &'a [[f32; LANES]],
    /// Groups of keys that all queries see.
    before: usize,
    vector: usize,
    n_vectors: usize,
    to: &'a mut [[f32; LANES]],
}

impl<S: Simd> RowsBody<S> for AddRows<'_> {
    #[inline(always)]
    fn rows<const R: usize>(&mut self, simd: S, first: usize) {
        // The first group of queries that sees the keys, which are of one group.
        let skip = (first / LANES).saturating_sub(self.before) * LANES;
        let Some(panel) = self.panel.get(skip..) else { return };
        let weights = make(|r| &self.weights[(first + r) * GROUPS..][..GROUPS].as_flattened()[skip..]);
        let at = |r: usize| (first + r) * self.n_vectors + self.vector;
        let sums = make(|r| simd.load(&self.to[at(r)]));
        for (r, sum) in floats::<S, R>(simd, sums, panel, weights).into_iter().enumerate() {
            simd.store(sum, &mut self.to[at(r)]);
        }
    }
}

/// to\[channel\] += Σ ds·k over a block's keys, for R channels and sixteen queries.
struct AddQueries<'a> {
    /// One step for each key.
    panel: &'a [[f32; LANES]],
    /// `[q_dim, KEYS]`
    keys: &'a [f32],
    to: &'a mut [[f32; LANES]],
}

impl<S: Simd> RowsBody<S> for AddQueries<'_> {
    #[inline(always)]
    fn rows<const R: usize>(&mut self, simd: S, first: usize) {
        let keys = make(|r| &self.keys[(first + r) * KEYS..]);
        let sums = make(|r| simd.load(&self.to[first + r]));
        for (r, sum) in floats::<S, R>(simd, sums, self.panel, keys).into_iter().enumerate() {
            simd.store(sum, &mut self.to[first + r]);
        }
    }
}
