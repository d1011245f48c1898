//! The three forms of attention, split into units of a few rows and heads.
//!
//! Units are dealt to the threads in turn, because later rows see more positions than earlier ones. Owns the units and
//! the tiles of keys and values they read. Must not write the cache.

use ops::{AttendExpanded, AttendKv, AttendLatent, HeadWeights, SeqSpan, WeightMatrix};

use super::Cpu;
use crate::cache::Cache;
use crate::kernel::attention::{Queries, TILE, Tile};
use crate::kernel::dot::dots;
use crate::kernel::matmul::decode;
use crate::level::{Kernel, Simd};
use crate::pool::{Shared32, shared};

/// Rows of a unit: they share the conversion of each tile.
const UNIT_ROWS: usize = 8;

/// Some rows of a span.
#[derive(Clone, Copy)]
struct Rows<'a> {
    span: &'a SeqSpan,
    block_table: &'a [u32],
    /// First row of the step, and its position.
    row: usize,
    position: usize,
    n: usize,
}

impl Rows<'_> {
    /// Positions that the last row sees.
    fn n_visible(&self) -> usize {
        self.position + self.n
    }

    /// Positions that row `i` sees of the `n_tile` from `start` on.
    fn n_seen(&self, i: usize, start: usize, n_tile: usize) -> usize {
        (self.position + i + 1).saturating_sub(start).min(n_tile)
    }
}

/// The spans' rows, at most `rows_max` at a time.
fn blocks<'a>(spans: &'a [SeqSpan], tables: &'a [u32], rows_max: usize) -> impl Iterator<Item = Rows<'a>> {
    spans.iter().flat_map(move |span| {
        (0..span.n_new).step_by(rows_max.max(1)).map(move |i| Rows {
            span,
            block_table: &tables[span.blocks.clone()],
            row: span.q_start + i,
            position: span.n_cached + i,
            n: rows_max.min(span.n_new - i),
        })
    })
}

/// Deals units to the threads: `job(worker, unit)` for unit = 0, 1, …
fn deal<U>(cpu: &Cpu, units: impl Fn() -> U + Sync, job: &(dyn Fn(usize, U::Item) + Sync))
where
    U: Iterator,
{
    let n_threads = cpu.pool.n_threads();
    cpu.pool.run(&|worker| units().skip(worker).step_by(n_threads).for_each(|unit| job(worker, unit)));
}

pub(super) fn latent(cpu: &Cpu, args: &AttendLatent<'_, Cpu>, out: &mut [f32]) {
    let (n_heads, c, row_len) = (args.q_pe.n_heads, args.kv_lora_rank, args.cache.spec.row.row_len);
    let heads_per_unit = n_heads.div_ceil(cpu.n_threads());
    let n_groups = n_heads.div_ceil(heads_per_unit);
    let out = shared(out);
    let units =
        || blocks(args.spans, args.block_tables, UNIT_ROWS).flat_map(|rows| (0..n_groups).map(move |g| (rows, g)));
    deal(cpu, units, &|worker, (rows, group)| {
        let heads = group * heads_per_unit..((group + 1) * heads_per_unit).min(n_heads);
        let n = rows.n * heads.len();
        cpu.scratch.lend(worker, (TILE + n) * row_len + Queries::scratch_len(n, c), |scratch| {
            cpu.level.run(Latent { args, rows, heads: heads.clone(), out, scratch });
        });
    });
}

/// A unit of absorbed attention: all its heads share each converted tile, whose rows are key and value at once.
struct Latent<'a> {
    args: &'a AttendLatent<'a, Cpu>,
    rows: Rows<'a>,
    heads: std::ops::Range<usize>,
    out: &'a [Shared32],
    scratch: &'a mut [f32],
}

impl Kernel for Latent<'_> {
    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let Self { args, rows, heads, out, scratch } = self;
        let (n_heads, c, row_len) = (args.q_pe.n_heads, args.kv_lora_rank, args.cache.spec.row.row_len);
        let n = rows.n * heads.len();
        let (tile, rest) = scratch.split_at_mut(TILE * row_len);
        let (queries, rest) = rest.split_at_mut(n * row_len);
        let mut gathered = Queries::new(rest, n, c);
        let place = |i: usize| (rows.row + i / heads.len()) * n_heads + heads.start + i % heads.len();
        for (i, query) in queries.chunks_exact_mut(row_len).enumerate() {
            let q_pe = &args.q[place(i) * args.q_pe.head_dim + args.q_pe.start..][..row_len - c];
            query[..c].copy_from_slice(&args.q_lat[place(i) * c..][..c]);
            query[c..].copy_from_slice(q_pe);
        }
        for start in (0..rows.n_visible()).step_by(TILE) {
            let n_tile = TILE.min(rows.n_visible() - start);
            read_tile(simd, args.cache, args.layer, &rows, start, 0, &mut tile[..n_tile * row_len], row_len);
            let tile = Tile { keys: tile, key_stride: row_len, values: tile, value_stride: row_len };
            gathered.add(simd, tile, args.scale, |i| {
                (&queries[i * row_len..(i + 1) * row_len], rows.n_seen(i / heads.len(), start, n_tile))
            });
        }
        gathered.write(out, |i| place(i) * c);
    }
}

/// Converts the rows at `start..` of a sequence into a tile, values `offset..offset + len` of each.
#[inline(always)]
#[expect(clippy::too_many_arguments, reason = "one call per form, all arguments distinct in type or name")]
fn read_tile<S: Simd>(
    simd: S,
    cache: &Cache,
    layer: usize,
    rows: &Rows<'_>,
    start: usize,
    offset: usize,
    tile: &mut [f32],
    len: usize,
) {
    let n_all = rows.span.n_cached + rows.span.n_new;
    let n_table = rows.block_table.len() * cache.spec.block_len;
    assert!(n_all <= n_table, "span of {n_all} positions in blocks of {n_table}");
    for (i, row) in tile.chunks_exact_mut(len).enumerate() {
        cache.read(simd, cache.spec.row_of(layer, rows.block_table, start + i), offset, row);
    }
}

pub(super) fn key_value(cpu: &Cpu, args: &AttendKv<'_, Cpu>, out: &mut [f32]) {
    let per_kv = args.n_heads / args.n_kv_heads;
    let out = shared(out);
    let units = || {
        blocks(args.spans, args.block_tables, UNIT_ROWS).flat_map(|rows| (0..args.n_kv_heads).map(move |h| (rows, h)))
    };
    deal(cpu, units, &|worker, (rows, kv_head)| {
        let n = rows.n * per_kv;
        cpu.scratch.lend(worker, 2 * TILE * args.head_dim + Queries::scratch_len(n, args.head_dim), |scratch| {
            cpu.level.run(KeyValue { args, rows, kv_head, out, scratch });
        });
    });
}

/// A unit of grouped-query attention: the query heads of one key-value head.
struct KeyValue<'a> {
    args: &'a AttendKv<'a, Cpu>,
    rows: Rows<'a>,
    kv_head: usize,
    out: &'a [Shared32],
    scratch: &'a mut [f32],
}

impl Kernel for KeyValue<'_> {
    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let Self { args, rows, kv_head, out, scratch } = self;
        let (n_heads, dim) = (args.n_heads, args.head_dim);
        let per_kv = n_heads / args.n_kv_heads;
        let n = rows.n * per_kv;
        let (keys, rest) = scratch.split_at_mut(TILE * dim);
        let (values, rest) = rest.split_at_mut(TILE * dim);
        let mut gathered = Queries::new(rest, n, dim);
        let place = |i: usize| (rows.row + i / per_kv) * n_heads + kv_head * per_kv + i % per_kv;
        for start in (0..rows.n_visible()).step_by(TILE) {
            let n_tile = TILE.min(rows.n_visible() - start);
            let (k_at, v_at) = (kv_head * dim, (args.n_kv_heads + kv_head) * dim);
            read_tile(simd, args.cache, args.layer, &rows, start, k_at, &mut keys[..n_tile * dim], dim);
            read_tile(simd, args.cache, args.layer, &rows, start, v_at, &mut values[..n_tile * dim], dim);
            let tile = Tile { keys, key_stride: dim, values, value_stride: dim };
            gathered.add(simd, tile, args.scale, |i| {
                (&args.q[place(i) * dim..][..dim], rows.n_seen(i / per_kv, start, n_tile))
            });
        }
        gathered.write(out, |i| place(i) * dim);
    }
}

pub(super) fn expanded(cpu: &Cpu, args: &AttendExpanded<'_, Cpu>, out: &mut [f32]) {
    let (n_heads, row_len) = (args.q_pe.n_heads, args.cache.spec.row.row_len);
    let (head_dim, v_dim) = (args.q_pe.head_dim, args.v_head_dim);
    let c = row_len - (head_dim - args.q_pe.start);
    let out = shared(out);
    // A unit is one head of a whole span: its key and value matrices are decoded once.
    let units =
        || blocks(args.spans, args.block_tables, usize::MAX).flat_map(|rows| (0..n_heads).map(move |h| (rows, h)));
    deal(cpu, units, &|worker, (rows, head)| {
        let matrices = (args.q_pe.start + v_dim + 1) * c.max(args.q_pe.start).max(v_dim);
        let tiles = TILE * (row_len + head_dim + v_dim);
        cpu.scratch.lend(worker, matrices + tiles + Queries::scratch_len(rows.n, v_dim), |scratch| {
            cpu.level.run(Expanded { args, rows, head, out, scratch });
        });
    });
}

/// One head of one span: keys and values of a tile at a time are made from its latents.
struct Expanded<'a> {
    args: &'a AttendExpanded<'a, Cpu>,
    rows: Rows<'a>,
    head: usize,
    out: &'a [Shared32],
    scratch: &'a mut [f32],
}

impl Kernel for Expanded<'_> {
    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let Self { args, rows, head, out, scratch } = self;
        let (n_heads, row_len) = (args.q_pe.n_heads, args.cache.spec.row.row_len);
        let (head_dim, nope, v_dim) = (args.q_pe.head_dim, args.q_pe.start, args.v_head_dim);
        let c = row_len - (head_dim - nope);
        let (w_uk, rest) = scratch.split_at_mut(nope * c);
        let (w_uv, rest) = rest.split_at_mut(v_dim * c);
        let (row, rest) = rest.split_at_mut(c.max(nope).max(v_dim));
        logical(simd, args.w_uk, head, w_uk, row);
        logical(simd, args.w_uv, head, w_uv, row);
        let (latents, rest) = rest.split_at_mut(TILE * row_len);
        let (keys, rest) = rest.split_at_mut(TILE * head_dim);
        let (values, rest) = rest.split_at_mut(TILE * v_dim);
        let mut gathered = Queries::new(rest, rows.n, v_dim);
        let place = |t: usize| (rows.row + t) * n_heads + head;
        for start in (0..rows.n_visible()).step_by(TILE) {
            let n_tile = TILE.min(rows.n_visible() - start);
            read_tile(simd, args.cache, args.layer, &rows, start, 0, &mut latents[..n_tile * row_len], row_len);
            for (s, latent) in latents.chunks_exact(row_len).enumerate().take(n_tile) {
                let (c_kv, k_pe) = latent.split_at(c);
                let key = &mut keys[s * head_dim..(s + 1) * head_dim];
                apply(simd, w_uk, c, c_kv, &mut key[..nope]);
                key[nope..].copy_from_slice(k_pe);
                apply(simd, w_uv, c, c_kv, &mut values[s * v_dim..(s + 1) * v_dim]);
            }
            let tile = Tile { keys, key_stride: head_dim, values, value_stride: v_dim };
            gathered.add(simd, tile, args.scale, |t| {
                (&args.q[place(t) * head_dim..][..head_dim], rows.n_seen(t, start, n_tile))
            });
        }
        gathered.write(out, |t| place(t) * v_dim);
    }
}

/// The logical matrix of a head, decoded, `[n_out, c]`.
#[inline(always)]
fn logical<S: Simd>(simd: S, w: &HeadWeights<WeightMatrix>, head: usize, out: &mut [f32], row: &mut [f32]) {
    let first = head * w.head_stride + w.head_start;
    let cols = w.weight.cols;
    for r in 0..w.head_rows {
        if w.transposed {
            decode(simd, &w.weight, first + r, &mut row[..cols]);
            row[..cols].iter().enumerate().for_each(|(i, value)| out[i * w.head_rows + r] = *value);
        } else {
            decode(simd, &w.weight, first + r, &mut out[r * cols..(r + 1) * cols]);
        }
    }
}

/// y = W x, four rows at a time.
#[inline(always)]
fn apply<S: Simd>(simd: S, w: &[f32], cols: usize, x: &[f32], y: &mut [f32]) {
    let row = |r: usize| &w[r * cols..(r + 1) * cols];
    let fours = y.len() / 4 * 4;
    for r in (0..fours).step_by(4) {
        let sums = dots(simd, [row(r), row(r + 1), row(r + 2), row(r + 3)], [x]);
        y[r..r + 4].copy_from_slice(&sums.map(|[sum]| sum));
    }
    for (r, y) in y.iter_mut().enumerate().skip(fours) {
        *y = dots(simd, [row(r)], [x])[0][0];
    }
}
