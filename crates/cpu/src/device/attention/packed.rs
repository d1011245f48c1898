//! Attention of training: causal over packed sequences, and its gradient.
//!
//! A unit of the forward pass is some rows of a sequence with the heads that share keys; of the gradient all rows of a
//! sequence with those heads, so that every sum is one unit's. Owns the units and the forward walk. Must not read a cache.

mod backward;

use std::ops::Range;

use ops::{Attended, PackedAttention};

use super::floats::{Products, Sums};
use super::{Pieces, Room, UNIT_QUERIES, deal};
use crate::device::Cpu;
use crate::kernel::attention::{Gathered, RANGE, Scores, Step, TILE, Tile, Tiles, walk};
use crate::kernel::panel::f32_steps;
use crate::kernel::tile::for_rows;
use crate::level::{Kernel, LANES, Simd, make};
use crate::pool::{Shared32, shared};
use backward::{Backward, Into, Saved};

/// Rows of a sequence that are reduced at a time.
const SUM_ROWS: usize = 64;

/// Query heads that share a key and value head.
fn per_kv(a: &PackedAttention<'_>) -> usize {
    a.n_heads / a.n_kv_heads
}

/// `[q, kv, shared]` as [`ops::TrainDevice::attend_packed`] has them.
pub(in crate::device) fn forward(
    cpu: &Cpu,
    a: &PackedAttention<'_>,
    inputs: [&[f32]; 3],
    out: &mut [f32],
    lse: &mut [f32],
) {
    let (out, lse) = (shared(out), shared(lse));
    let rows_max = (UNIT_QUERIES / per_kv(a)).max(1);
    let room = Forward::room(a, rows_max);
    cpu.attention_scratch.reserve(room);
    let units = || {
        let blocks = a.sequences.iter().flat_map(|sequence| {
            let block = move |first: usize| (sequence.start, first..sequence.end.min(first + rows_max));
            sequence.clone().step_by(rows_max).map(block)
        });
        blocks.flat_map(|(start, rows)| (0..a.n_kv_heads).map(move |kv_head| (start, rows.clone(), kv_head)))
    };
    deal(cpu, units, &|worker, (start, rows, kv_head)| {
        let room = Forward::room(a, rows.len());
        cpu.attention_scratch.lend(worker, room, |pieces| {
            cpu.level.run(Forward { a, inputs, start, rows, kv_head, out, lse, pieces });
        });
    });
}

/// The gradients `[d_q, d_kv, d_shared]`.
pub(in crate::device) fn backward(
    cpu: &Cpu,
    a: &PackedAttention<'_>,
    saved: &Attended<'_>,
    d_out: &[f32],
    [d_q, d_kv, d_shared]: [&mut [f32]; 3],
) {
    let n_rows = a.sequences.iter().map(|rows| rows.end).max().unwrap_or(0);
    let longest = a.sequences.iter().map(Range::len).max().unwrap_or(0);
    let (d_q, d_kv, d_shared) = (shared(d_q), shared(d_kv), shared(d_shared));
    let scratch_len = backward::scratch_len(a, longest);
    cpu.scratch.reserve(scratch_len);
    let partial_len = a.n_kv_heads * a.shared_dim;
    cpu.shared_scratch.lend(0, n_rows * partial_len, |partial| {
        let units = || a.sequences.iter().flat_map(|rows| (0..a.n_kv_heads).map(move |h| (rows.clone(), h)));
        let into = Into { d_q, d_kv, partial: shared(partial) };
        deal(cpu, units, &|worker, (rows, kv_head)| {
            cpu.scratch.lend(worker, scratch_len, |scratch| {
                let (saved, scratch) = (Saved { saved, d_out }, scratch.as_chunks_mut().0);
                cpu.level.run(Backward { a, saved, rows, kv_head, into, scratch });
            });
        });
        if partial_len == 0 {
            return;
        }
        let blocks = || {
            a.sequences
                .iter()
                .flat_map(|rows| rows.clone().step_by(SUM_ROWS).map(|first| first..rows.end.min(first + SUM_ROWS)))
        };
        deal(cpu, blocks, &|_, rows| {
            for t in rows {
                let heads = &partial[t * partial_len..][..partial_len];
                for (i, to) in d_shared[a.shared.at(t, 0)..][..a.shared_dim].iter().enumerate() {
                    to.set(heads.iter().skip(i).step_by(a.shared_dim).sum());
                }
            }
        });
    });
}

/// Sixteen consecutive rows of heads as they lie in a buffer; beyond the first `n` the last of those again, so that nothing
/// else is read.
#[inline(always)]
fn sixteen<'a>(n: usize, row: impl Fn(usize) -> &'a [f32]) -> [&'a [f32]; LANES] {
    make(|i| row(i.min(n - 1)))
}

/// Some rows' queries of the heads that share a key and value head.
struct Forward<'a> {
    a: &'a PackedAttention<'a>,
    inputs: [&'a [f32]; 3],
    /// First row of the sequence.
    start: usize,
    rows: Range<usize>,
    kv_head: usize,
    out: &'a [Shared32],
    lse: &'a [Shared32],
    pieces: Pieces<'a>,
}

impl Forward<'_> {
    /// Channels of a query in whole vectors.
    fn steps(a: &PackedAttention<'_>) -> usize {
        a.q_dim().next_multiple_of(LANES)
    }

    fn room(a: &PackedAttention<'_>, n_rows: usize) -> Room {
        let (n, steps, value_vectors) = (n_rows * per_kv(a), Self::steps(a), a.v_dim.div_ceil(LANES));
        // Queries, a panel of keys, whose two parts are each whole vectors, and a tile of values.
        let vectors = n * steps / LANES + steps + LANES + value_vectors * TILE;
        Room { n_queries: n, value_vectors, vectors, ..Room::default() }
    }
}

impl Kernel for Forward<'_> {
    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let Self { a, inputs: [q, kv, shared], start, rows, kv_head, out, lse, pieces } = self;
        let Pieces { walk: mut room, vectors, .. } = pieces;
        let (group, steps) = (per_kv(a), Self::steps(a));
        let n = rows.len() * group;
        let place = |i: usize| (rows.start + i / group) * a.n_heads + kv_head * group + i % group;
        let (queries, vectors) = vectors.split_at_mut(n * steps / LANES);
        let (keys, values) = vectors.split_at_mut(steps + LANES);
        let queries = queries.as_flattened_mut();
        for (i, query) in queries.chunks_exact_mut(steps).enumerate() {
            query[..a.q_dim()].copy_from_slice(&q[place(i) * a.q_dim()..][..a.q_dim()]);
        }
        let mut tiles = Packed { a, kv, shared, start, first: rows.start, kv_head, queries, steps, keys, values };
        let n_visible = rows.end - start;
        let n_seen = |i: usize, tile: Tile| (rows.start + i / group + 1 - start).saturating_sub(tile.start).min(tile.n);
        walk(simd, 0..n_visible.div_ceil(RANGE), n_visible, &mut tiles, &mut room, n_seen);
        room.gathered.write(simd, out, a.v_dim, |i| place(i) * a.v_dim);
        (0..n).for_each(|i| lse[place(i)].set(room.gathered.lse(i)));
    }
}

/// Keys and values of one head of a sequence.
struct Packed<'a> {
    a: &'a PackedAttention<'a>,
    kv: &'a [f32],
    shared: &'a [f32],
    start: usize,
    /// First row of the queries.
    first: usize,
    kv_head: usize,
    /// `[n, steps]`
    queries: &'a [f32],
    steps: usize,
    /// `[steps]` of sixteen positions, and room for the second part's last vector.
    keys: &'a mut [[f32; LANES]],
    /// `[v_vectors, TILE]` of sixteen channels.
    values: &'a mut [[f32; LANES]],
}

impl<S: Simd> Tiles<S> for Packed<'_> {
    #[inline(always)]
    fn scores(&mut self, simd: S, tile: Tile, scores: &mut [Scores]) {
        let (a, steps, queries) = (self.a, self.steps, self.queries);
        for group in 0..tile.n.div_ceil(LANES) {
            let (first, n) = (self.start + tile.start + group * LANES, tile.n - group * LANES);
            key_steps(simd, a, [self.kv, self.shared], first, n, self.kv_head, self.keys);
            let keys = &self.keys[..a.q_dim()];
            // Queries before these keys do not see them.
            let skip = (first.saturating_sub(self.first) * per_kv(a)).min(scores.len());
            let (queries, scores) = (&queries[skip * steps..], &mut scores[skip..]);
            for_rows(simd, scores.len(), &mut Products { queries, steps, keys, scale: a.scale, group, scores });
        }
    }

    #[inline(always)]
    fn add_values(&mut self, simd: S, tile: Tile, weights: &mut [Scores], steps: &[Step], gathered: &mut Gathered<'_>) {
        let first = self.start + tile.start;
        let value = |i: usize| &self.kv[self.a.v.at(first + i, self.kv_head)..][..self.a.v_dim];
        channels(value, tile.n, TILE, self.values);
        for vector in 0..gathered.n_vectors {
            let values = &self.values[vector * TILE..][..tile.n];
            for_rows(simd, weights.len(), &mut Sums { weights, steps, values, vector, gathered });
        }
    }
}

/// A panel of the keys of sixteen rows from `first` on, of which `n` exist: own channels, then shared ones.
#[inline(always)]
fn key_steps<S: Simd>(
    simd: S,
    a: &PackedAttention<'_>,
    [kv, shared]: [&[f32]; 2],
    first: usize,
    n: usize,
    kv_head: usize,
    panel: &mut [[f32; LANES]],
) {
    let own = sixteen(n, |i| &kv[a.k.at(first + i, kv_head)..][..a.k_dim]);
    f32_steps(simd, own, &mut panel[..a.k_dim.next_multiple_of(LANES)]);
    if a.shared_dim > 0 {
        let pe = sixteen(n, |i| &shared[a.shared.at(first + i, 0)..][..a.shared_dim]);
        f32_steps(simd, pe, &mut panel[a.k_dim..][..a.shared_dim.next_multiple_of(LANES)]);
    }
}

/// `n` rows cut into panels of sixteen channels, `stride` steps apart; zeros beyond the rows' ends.
#[inline(always)]
fn channels<'a>(row: impl Fn(usize) -> &'a [f32], n: usize, stride: usize, panels: &mut [[f32; LANES]]) {
    for i in 0..n {
        let (chunks, rest) = row(i).as_chunks::<LANES>();
        for (v, chunk) in chunks.iter().enumerate() {
            panels[v * stride + i] = *chunk;
        }
        if !rest.is_empty() {
            let last = &mut panels[chunks.len() * stride + i];
            last.fill(0.0);
            last[..rest.len()].copy_from_slice(rest);
        }
    }
}
