//! Attention in f32 over rows of any format.
//!
//! Owns panels of keys and values decoded from cached rows. Must not know which form of attention they are for.

use std::ops::Range;

use ops::RowFormat;

use super::{Context, Form, Looks, Room};
use crate::kernel::attention::{Gathered, Scores, Step, TILE, Tile, Tiles, Walk, walk};
use crate::kernel::panel::{bf16_steps, f32_steps};
use crate::kernel::tile::{RowsBody, floats, for_rows};
use crate::level::{LANES, Simd, make};

/// Vectors of value channels that are prepared at a time.
const VALUE_BLOCK: usize = 4;

pub(super) fn room(looks: &Looks<'_>) -> Room {
    let steps = looks.query(0).map(<[f32]>::len).iter().sum::<usize>().next_multiple_of(32);
    // Queries, a panel of keys and its rows where they must be decoded first, a block of values.
    let vectors = (looks.n() + 1) * steps.div_ceil(LANES) + 2 * steps + VALUE_BLOCK * TILE;
    Room { vectors, ..Room::default() }
}

/// The whole walk of a unit.
#[inline(always)]
pub(super) fn gather<S: Simd>(
    simd: S,
    looks: Looks<'_>,
    ranges: Range<usize>,
    room: &mut Walk<'_>,
    vectors: &mut [[f32; LANES]],
) {
    let n = looks.n();
    let len: usize = looks.query(0).map(<[f32]>::len).iter().sum();
    let steps = len.next_multiple_of(32);
    let (queries, vectors) = vectors.split_at_mut(n * steps / LANES);
    let (keys, vectors) = vectors.split_at_mut(steps);
    let (values, staged) = vectors.split_at_mut(VALUE_BLOCK * TILE);
    let queries = queries.as_flattened_mut();
    for (i, query) in queries.chunks_exact_mut(steps).enumerate() {
        let [first, second] = looks.query(i);
        query[..first.len()].copy_from_slice(first);
        query[first.len()..len].copy_from_slice(second);
    }
    let (key_at, value_at) = match looks.form {
        Form::KeyValue { key_at, value_at, .. } => (key_at, value_at),
        Form::Latent { .. } => (0, 0),
    };
    let (context, scale, value_len) = (looks.context, looks.scale, looks.value_len());
    let mut tiles = Decoded { context, queries, steps, len, key_at, value_at, value_len, scale, keys, values, staged };
    let n_seen = |i: usize, tile: Tile| looks.rows.n_seen(i / looks.heads.len, tile);
    walk(simd, ranges, looks.rows.n_visible(), &mut tiles, room, n_seen);
}

/// Keys and values decoded from rows.
struct Decoded<'a> {
    context: Context<'a>,
    /// `[n, steps]`, of which `len` are channels.
    queries: &'a [f32],
    steps: usize,
    len: usize,
    key_at: usize,
    value_at: usize,
    value_len: usize,
    scale: f32,
    /// `[steps]` of sixteen positions.
    keys: &'a mut [[f32; LANES]],
    /// `[VALUE_BLOCK, TILE]`
    values: &'a mut [[f32; LANES]],
    staged: &'a mut [[f32; LANES]],
}

impl<S: Simd> Tiles<S> for Decoded<'_> {
    #[inline(always)]
    fn scores(&mut self, simd: S, tile: Tile, scores: &mut [Scores]) {
        let (n, steps) = (scores.len(), self.steps);
        for group in 0..tile.n.div_ceil(LANES) {
            let first = group * LANES;
            let rows = self.context.rows(tile.start + first, tile.n - first);
            self.context.keys(simd, rows, self.key_at..self.key_at + self.len, self.keys, self.staged);
            let keys = &self.keys[..self.len];
            for_rows(simd, n, &mut Products { queries: self.queries, steps, keys, scale: self.scale, group, scores });
        }
    }

    #[inline(always)]
    fn add_values(&mut self, simd: S, tile: Tile, weights: &mut [Scores], steps: &[Step], gathered: &mut Gathered<'_>) {
        for block in 0..gathered.n_vectors.div_ceil(VALUE_BLOCK) {
            let first = block * VALUE_BLOCK;
            let n_vectors = VALUE_BLOCK.min(gathered.n_vectors - first);
            let channels = first * LANES..self.value_len.min((first + n_vectors) * LANES);
            let at = self.value_at + channels.start;
            for s in 0..tile.n {
                let [row] = self.context.rows(tile.start + s, 1);
                let mut decoded = [[0.0; LANES]; VALUE_BLOCK];
                self.context.cache.read(simd, row, at, &mut decoded.as_flattened_mut()[..channels.len()]);
                for (v, decoded) in decoded.iter().enumerate() {
                    self.values[v * TILE + s] = *decoded;
                }
            }
            for v in 0..n_vectors {
                let values = &self.values[v * TILE..][..tile.n];
                for_rows(simd, weights.len(), &mut Sums { weights, steps, values, vector: first + v, gathered });
            }
        }
    }
}

impl Context<'_> {
    /// A panel of sixteen rows' channels.
    #[inline(always)]
    fn keys<S: Simd>(
        &self,
        simd: S,
        rows: [usize; LANES],
        channels: Range<usize>,
        panel: &mut [[f32; LANES]],
        staged: &mut [[f32; LANES]],
    ) {
        match self.cache.spec.row.row_format {
            RowFormat::F32 => f32_steps(simd, make(|i| &self.cache.f32_row(rows[i])[channels.clone()]), panel),
            RowFormat::BF16 => bf16_steps(simd, make(|i| &self.cache.bf16_row(rows[i])[channels.clone()]), panel),
            RowFormat::Q8 => {
                let stride = panel.len();
                let staged = &mut staged.as_flattened_mut()[..LANES * stride];
                for (row, staged) in rows.iter().zip(staged.chunks_exact_mut(stride)) {
                    self.cache.read(simd, *row, channels.start, &mut staged[..channels.len()]);
                }
                f32_steps(simd, make(|i| &staged[i * stride..][..channels.len()]), panel);
            }
        }
    }
}

/// Scores of R queries with sixteen keys.
pub(super) struct Products<'a> {
    pub(super) queries: &'a [f32],
    pub(super) steps: usize,
    pub(super) keys: &'a [[f32; LANES]],
    pub(super) scale: f32,
    pub(super) group: usize,
    pub(super) scores: &'a mut [Scores],
}

impl<S: Simd> RowsBody<S> for Products<'_> {
    #[inline(always)]
    fn rows<const R: usize>(&mut self, simd: S, first: usize) {
        let queries = make(|r| &self.queries[(first + r) * self.steps..]);
        let sums = floats::<S, R>(simd, [simd.splat(0.0); R], self.keys, queries);
        for (r, sum) in sums.into_iter().enumerate() {
            simd.store(simd.mul(sum, simd.splat(self.scale)), &mut self.scores[first + r][self.group]);
        }
    }
}

/// One vector of R queries' values.
pub(super) struct Sums<'a, 'g> {
    pub(super) weights: &'a [Scores],
    pub(super) steps: &'a [Step],
    /// One step for each position.
    pub(super) values: &'a [[f32; LANES]],
    pub(super) vector: usize,
    pub(super) gathered: &'a mut Gathered<'g>,
}

impl<S: Simd> RowsBody<S> for Sums<'_, '_> {
    #[inline(always)]
    fn rows<const R: usize>(&mut self, simd: S, first: usize) {
        let n_vectors = self.gathered.n_vectors;
        let at = |r: usize| (first + r) * n_vectors + self.vector;
        let steps = make::<_, R>(|r| self.steps[first + r]);
        let all_see = steps.iter().map(|step| step.n_seen).min().unwrap_or(0);
        let weights = make::<_, R>(|r| self.weights[first + r].as_flattened());
        let mut sums = [simd.splat(0.0); R];
        for r in 0..R {
            sums[r] = simd.mul(simd.load(&self.gathered.values[at(r)]), simd.splat(steps[r].factor));
        }
        let sums = floats::<S, R>(simd, sums, &self.values[..all_see], weights);
        for r in 0..R {
            // What a query does not see may be infinite: not even a weight of 0 may meet it.
            let own = all_see..steps[r].n_seen;
            let [sum] = floats::<S, 1>(simd, [sums[r]], &self.values[own.clone()], [&weights[r][own]]);
            simd.store(sum, &mut self.gathered.values[at(r)]);
        }
    }
}
