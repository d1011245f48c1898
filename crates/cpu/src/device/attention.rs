//! The three forms of attention, split into units of a few rows, heads and ranges of positions.
//!
//! Owns the units, who computes them, and the rows of a context. What a unit computes does not depend on how many there
//! are: threads share a context by its fixed ranges (`kernel/attention.rs`). Must not write the cache.

mod digits;
mod expanded;
mod floats;
mod integers;
pub(super) mod packed;

use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};

use ops::{AttendExpanded, AttendKv, AttendLatent, RowFormat, SeqSpan};

use super::Cpu;
use crate::cache::Cache;
use crate::kernel::attention::{Gathered, MergeKept, RANGE, Scores, Step, TILE_VECTORS, Tile, Walk};
use crate::level::{Kernel, LANES, Line, Simd};
use crate::pool::{Shared32, shared};
use crate::scratch::Scratch;

/// Queries of a unit that share the preparation of each tile.
const UNIT_QUERIES: usize = 64;

/// Memory of units, one piece per worker, and what ranges gathered before they are merged.
pub(super) struct AttentionScratch {
    /// Vectors and panels are lent as numbers, which can be aligned.
    vectors: Scratch<f32>,
    panels: Scratch<i16>,
    bytes: Scratch<u8>,
    scores: Scratch<Scores>,
    steps: Scratch<Step>,
    kept: Scratch<f32>,
}

/// How much of it a unit takes.
#[derive(Clone, Copy, Debug, Default)]
struct Room {
    n_queries: usize,
    value_vectors: usize,
    /// Beside those of the walk.
    vectors: usize,
    panels: usize,
    lines: usize,
}

/// A unit's memory.
struct Pieces<'a> {
    walk: Walk<'a>,
    vectors: &'a mut [[f32; LANES]],
    panels: &'a mut [[i16; 2 * LANES]],
    lines: &'a mut [Line],
}

impl AttentionScratch {
    pub(super) fn new(n_threads: usize) -> Self {
        Self {
            vectors: Scratch::new(n_threads, 0.0),
            panels: Scratch::new(n_threads, 0),
            bytes: Scratch::new(n_threads, 0),
            scores: Scratch::new(n_threads, [[0.0; LANES]; TILE_VECTORS]),
            steps: Scratch::new(n_threads, Step { factor: 0.0, n_seen: 0 }),
            kept: Scratch::new(1, 0.0),
        }
    }

    /// Makes room for every worker: units are dealt, so that any of them may get the largest.
    fn reserve(&self, room: Room) {
        let (n, v) = (room.n_queries, room.value_vectors);
        self.vectors.reserve(LANES * (2 * Gathered::scratch_len(n, v) + room.vectors));
        self.panels.reserve(2 * LANES * room.panels);
        self.bytes.reserve(size_of::<Line>() * room.lines);
        self.scores.reserve(n);
        self.steps.reserve(n);
    }

    fn lend(&self, worker: usize, room: Room, user: impl FnOnce(Pieces<'_>)) {
        let (n, v) = (room.n_queries, room.value_vectors);
        let gathered = Gathered::scratch_len(n, v);
        let n_bytes = size_of::<Line>() * room.lines;
        self.vectors.lend(worker, LANES * (2 * gathered + room.vectors), |vectors| {
            self.panels.lend(worker, 2 * LANES * room.panels, |panels| {
                self.bytes.lend(worker, n_bytes, |bytes| {
                    self.scores.lend(worker, n, |scores| {
                        self.steps.lend(worker, n, |steps| {
                            let (panels, lines) = (panels.as_chunks_mut().0, bytes.as_chunks_mut().0);
                            let (one, vectors) = vectors.as_chunks_mut().0.split_at_mut(gathered);
                            let (other, vectors) = vectors.split_at_mut(gathered);
                            let (gathered, range) = (Gathered::new(one, n, v), Gathered::new(other, n, v));
                            user(Pieces { walk: Walk { scores, steps, gathered, range }, vectors, panels, lines });
                        });
                    });
                });
            });
        });
    }
}

/// Some rows of a span.
#[derive(Clone, Copy)]
struct Rows<'a> {
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

    fn n_ranges(&self) -> usize {
        self.n_visible().div_ceil(RANGE)
    }

    /// Positions that row `i` sees of a tile.
    fn n_seen(&self, i: usize, tile: Tile) -> usize {
        (self.position + i + 1).saturating_sub(tile.start).min(tile.n)
    }
}

/// The spans' rows, at most `rows_max` at a time: one at least, since models with many heads have none to spare.
fn blocks<'a>(
    spans: &'a [SeqSpan],
    tables: &'a [u32],
    rows_max: usize,
    block_len: usize,
) -> impl Iterator<Item = Rows<'a>> {
    let rows_max = rows_max.max(1);
    spans.iter().flat_map(move |span| {
        let (n_all, n_table) = (span.n_cached + span.n_new, span.blocks.len() * block_len);
        assert!(n_all <= n_table, "span of {n_all} positions in blocks of {n_table}");
        (0..span.n_new).step_by(rows_max).map(move |i| Rows {
            block_table: &tables[span.blocks.clone()],
            row: span.q_start + i,
            position: span.n_cached + i,
            n: rows_max.min(span.n_new - i),
        })
    })
}

/// Deals units to whoever is free: `job(worker, unit)`.
fn deal<U>(cpu: &Cpu, units: impl Fn() -> U + Sync, job: &(dyn Fn(usize, U::Item) + Sync))
where
    U: Iterator,
{
    let next = AtomicUsize::new(0);
    cpu.pool.run(&|worker| {
        let mut mine = next.fetch_add(1, Ordering::Relaxed);
        for (i, unit) in units().enumerate() {
            if i == mine {
                job(worker, unit);
                mine = next.fetch_add(1, Ordering::Relaxed);
            }
        }
    });
}

/// The cached rows of a sequence in one layer.
#[derive(Clone, Copy)]
struct Context<'a> {
    cache: &'a Cache,
    layer: usize,
    block_table: &'a [u32],
}

impl Context<'_> {
    /// Indices of the rows of N positions from `start` on; beyond the first `n` the last of those again, so that nothing
    /// else is read.
    #[inline(always)]
    fn rows<const N: usize>(&self, start: usize, n: usize) -> [usize; N] {
        let spec = &self.cache.spec;
        let mut rows = [spec.row_of(self.layer, self.block_table, start); N];
        for i in 1..N {
            rows[i] = match i < n {
                false => rows[i - 1],
                true if (start + i).is_multiple_of(spec.block_len) => {
                    spec.row_of(self.layer, self.block_table, start + i)
                }
                true => rows[i - 1] + 1,
            };
        }
        rows
    }
}

/// Where a unit's results go.
#[derive(Clone, Copy)]
enum Sink<'a> {
    /// Divided by the sums, to their places in the output.
    Out(&'a [Shared32]),
    /// As they are: there are other ranges to merge them with.
    Kept(&'a [Shared32]),
}

/// Some heads of some rows of a span that look at cached rows as they are.
#[derive(Clone, Copy)]
struct Looks<'a> {
    context: Context<'a>,
    rows: Rows<'a>,
    heads: Heads,
    n_heads: usize,
    scale: f32,
    form: Form<'a>,
}

/// Consecutive heads.
#[derive(Clone, Copy)]
struct Heads {
    start: usize,
    len: usize,
}

/// What is compared and what is weighed.
#[derive(Clone, Copy)]
enum Form<'a> {
    /// Channels of a row are keys, others values: `q` is a whole query.
    KeyValue { q: &'a [f32], head_dim: usize, key_at: usize, value_at: usize },
    /// The row is the key and its first `c` channels are the value.
    Latent { q_lat: &'a [f32], c: usize, q: &'a [f32], head_dim: usize, start: usize },
}

impl<'a> Looks<'a> {
    fn n(&self) -> usize {
        self.rows.n * self.heads.len
    }

    /// Which of all rows' heads query `i` is.
    fn place(&self, i: usize) -> usize {
        (self.rows.row + i / self.heads.len) * self.n_heads + self.heads.start + i % self.heads.len
    }

    /// Channels of a value.
    fn value_len(&self) -> usize {
        match self.form {
            Form::KeyValue { head_dim, .. } => head_dim,
            Form::Latent { c, .. } => c,
        }
    }

    fn value_vectors(&self) -> usize {
        self.value_len().div_ceil(LANES)
    }

    /// Vectors that a range keeps of all queries.
    fn kept_vectors(&self) -> usize {
        self.n() * Gathered::kept_vectors(self.value_vectors())
    }

    /// The query's two parts, which follow one another; the second is empty unless the query is absorbed.
    fn query(&self, i: usize) -> [&'a [f32]; 2] {
        let at = self.place(i);
        match self.form {
            Form::KeyValue { q, head_dim, .. } => [&q[at * head_dim..][..head_dim], &[]],
            Form::Latent { q_lat, c, q, head_dim, start } => {
                let rope = self.context.cache.spec.row.row_len - c;
                [&q_lat[at * c..][..c], &q[at * head_dim + start..][..rope]]
            }
        }
    }

    /// Whether products are taken in integers.
    fn in_integers(&self) -> bool {
        matches!(self.form, Form::Latent { .. }) && self.context.cache.spec.row.row_format == RowFormat::Q8
    }

    fn room(&self) -> Room {
        let room = if self.in_integers() { integers::room(self) } else { floats::room(self) };
        Room { n_queries: self.n(), value_vectors: self.value_vectors(), ..room }
    }

    /// The same however heads are grouped: groups grow as the context does.
    fn room_max(&self) -> Room {
        match self.form {
            Form::KeyValue { .. } => self.room(),
            Form::Latent { .. } => Looks { heads: Heads { start: 0, len: self.n_heads }, ..*self }.room(),
        }
    }
}

/// A unit: some looks at some ranges.
struct Unit<'a> {
    looks: Looks<'a>,
    ranges: Range<usize>,
    sink: Sink<'a>,
    pieces: Pieces<'a>,
}

impl Kernel for Unit<'_> {
    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let Self { looks, ranges, sink, pieces } = self;
        let Pieces { mut walk, vectors, panels, lines } = pieces;
        if looks.in_integers() {
            integers::gather(simd, looks, ranges, &mut walk, vectors, panels, lines);
        } else {
            floats::gather(simd, looks, ranges, &mut walk, vectors);
        }
        match sink {
            Sink::Out(out) => walk.gathered.write(simd, out, looks.value_len(), |i| looks.place(i) * looks.value_len()),
            Sink::Kept(kept) => walk.gathered.keep(kept),
        }
    }
}

/// Computes all looks: each as a whole where there are enough of them for the threads, or else range by range.
fn attend<'a, I>(cpu: &Cpu, looks: impl Fn() -> I + Sync, out: &mut [f32])
where
    I: Iterator<Item = Looks<'a>>,
{
    let (n_looks, n_ranges) = looks().fold((0, 0), |(n, ranges), look| {
        cpu.attention_scratch.reserve(look.room_max());
        (n + 1, ranges + look.rows.n_ranges())
    });
    if n_looks == n_ranges || n_looks >= 2 * cpu.n_threads() {
        let out = shared(out);
        return deal(cpu, &looks, &|worker, looks| {
            compute(cpu, worker, looks, 0..looks.rows.n_ranges(), Sink::Out(out));
        });
    }
    // Looks and where they keep each range's results.
    let places = || {
        looks().scan(0, |at, look| {
            let first = *at;
            *at += look.rows.n_ranges() * look.kept_vectors();
            Some((look, first))
        })
    };
    let n_vectors: usize = looks().map(|look| look.rows.n_ranges() * look.kept_vectors()).sum();
    cpu.attention_scratch.kept.lend(0, LANES * n_vectors, |kept| {
        {
            let kept = shared(kept);
            let units = || {
                places().flat_map(|(look, first)| {
                    let range = move |r| (look, r, (first + r * look.kept_vectors()) * LANES);
                    (0..look.rows.n_ranges()).map(range)
                })
            };
            deal(cpu, units, &|worker, (look, r, at)| {
                compute(cpu, worker, look, r..r + 1, Sink::Kept(&kept[at..at + look.kept_vectors() * LANES]));
            });
        }
        let (out, kept) = (shared(out), kept.as_chunks().0);
        let queries = || places().flat_map(|(look, first)| (0..look.n()).map(move |i| (look, first, i)));
        deal(cpu, queries, &|_, (look, first, i)| {
            let (len, n_vectors) = (look.value_len(), look.value_vectors());
            let first = first + i * Gathered::kept_vectors(n_vectors);
            let (stride, n_ranges) = (look.kept_vectors(), look.rows.n_ranges());
            let out = &out[look.place(i) * len..][..len];
            cpu.level.run(MergeKept { kept, first, stride, n_ranges, n_vectors, out });
        });
    });
}

fn compute(cpu: &Cpu, worker: usize, looks: Looks<'_>, ranges: Range<usize>, sink: Sink<'_>) {
    cpu.attention_scratch.lend(worker, looks.room(), |pieces| {
        cpu.level.run(Unit { looks, ranges, sink, pieces });
    });
}

pub(super) fn latent(cpu: &Cpu, args: &AttendLatent<'_, Cpu>, out: &mut [f32]) {
    let (c, q_pe, cache) = (args.kv_lora_rank, args.q_pe, args.cache);
    let form = Form::Latent { q_lat: args.q_lat, c, q: args.q, head_dim: q_pe.head_dim, start: q_pe.start };
    let rows_max = UNIT_QUERIES / q_pe.n_heads;
    let blocks = || blocks(args.spans, args.block_tables, rows_max, cache.spec.block_len);
    // All heads share a tile, unless there is too little context for every thread to have a part of it.
    let n_ranges: usize = blocks().map(|rows| rows.n_ranges()).sum();
    let n_groups = cpu.n_threads().div_ceil(n_ranges.max(1)).min(q_pe.n_heads);
    let part = |group: usize| group * q_pe.n_heads / n_groups;
    let looks = || {
        blocks().flat_map(move |rows| {
            let context = Context { cache, layer: args.layer, block_table: rows.block_table };
            (0..n_groups).map(move |group| Looks {
                context,
                rows,
                heads: Heads { start: part(group), len: part(group + 1) - part(group) },
                n_heads: q_pe.n_heads,
                scale: args.scale,
                form,
            })
        })
    };
    attend(cpu, looks, out);
}

pub(super) fn key_value(cpu: &Cpu, args: &AttendKv<'_, Cpu>, out: &mut [f32]) {
    let (cache, head_dim) = (args.cache, args.head_dim);
    let per_kv = args.n_heads / args.n_kv_heads;
    let looks = || {
        let blocks = blocks(args.spans, args.block_tables, UNIT_QUERIES / per_kv, cache.spec.block_len);
        blocks.flat_map(move |rows| {
            let context = Context { cache, layer: args.layer, block_table: rows.block_table };
            (0..args.n_kv_heads).map(move |h| Looks {
                context,
                rows,
                heads: Heads { start: h * per_kv, len: per_kv },
                n_heads: args.n_heads,
                scale: args.scale,
                form: Form::KeyValue {
                    q: args.q,
                    head_dim,
                    key_at: (args.n_kv_heads + h) * head_dim,
                    value_at: h * head_dim,
                },
            })
        })
    };
    attend(cpu, looks, out);
}

pub(super) fn expanded(cpu: &Cpu, args: &AttendExpanded<'_, Cpu>, out: &mut [f32]) {
    expanded::run(cpu, args, out);
}
