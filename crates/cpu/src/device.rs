//! [`Cpu`]: the operations, split over threads.
//!
//! Owns how each operation's work is divided; every part is computed by one thread in a fixed order, so that results
//! are the same for any number of threads. The inner loops are in `kernel/`.

mod attention;
mod experts;
mod gemm;
mod peak;
mod products;
mod train;

use std::ops::Range;

use ops::route::{Candidate, route_among};
use ops::{
    Activations, AttendExpanded, AttendKv, AttendLatent, CacheSpec, Device, DeviceError, ExpertWeights, HeadLayout,
    HeadSide, HeadWeights, NormLayout, RopeTable, RouterSpec, WeightMatrix, zeroed,
};

use crate::cache::Cache;
use crate::kernel::dot::dots;
use crate::kernel::matmul::{Inputs, MatMulTransposed, Outputs};
use crate::kernel::swiglu::Swiglu;
use crate::level::{Kernel, Level, Simd};
use crate::pool::{Pool, shared};
use crate::scratch::Scratch;
use attention::AttentionScratch;
pub use gemm::{Matrix, Product};
use products::{IntScratch, Part, Rows, Source};

/// Values below which splitting costs more than it saves.
const SPLIT_MIN: usize = 1 << 14;

/// The same for scores of experts, each of which costs an exponential in f64.
const SPLIT_SCORES_MIN: usize = 1 << 11;

/// This machine's processor.
pub struct Cpu {
    level: Level,
    activations: Activations,
    pool: Pool,
    /// One piece per worker.
    scratch: Scratch<f32>,
    /// Pieces for an operation's own use: the hidden rows and the outputs of experts.
    shared_scratch: Scratch<f32>,
    /// One piece per worker.
    candidates: Scratch<Candidate>,
    int_scratch: IntScratch,
    attention_scratch: AttentionScratch,
}

/// Chosen experts, `top_k` per token.
pub struct Routes {
    top_k: usize,
    ids: Vec<u32>,
    weights: Vec<f32>,
    /// Positions in `ids` sorted by expert.
    by_expert: Vec<u32>,
}

impl Cpu {
    /// The processor at its best level, with as many threads as it runs at once.
    #[must_use]
    pub fn new() -> Self {
        let n_threads = std::thread::available_parallelism().map_or(1, usize::from);
        Self::with(Level::detect(), n_threads)
    }

    /// The processor at a given level with a given number of threads, which keeps activations as they are.
    #[must_use]
    pub fn with(level: Level, n_threads: usize) -> Self {
        let pool = Pool::new(n_threads);
        let n_threads = pool.n_threads();
        Self {
            level,
            activations: Activations::F32,
            pool,
            scratch: Scratch::new(n_threads, 0.0),
            shared_scratch: Scratch::new(2, 0.0),
            candidates: Scratch::new(n_threads, Candidate::default()),
            int_scratch: IntScratch::new(n_threads),
            attention_scratch: AttentionScratch::new(n_threads),
        }
    }

    /// The same with another precision of activations.
    #[must_use]
    pub fn with_activations(self, activations: Activations) -> Self {
        Self { activations, ..self }
    }

    /// The level that kernels run at.
    #[must_use]
    pub fn level(&self) -> Level {
        self.level
    }

    /// Threads that work on an operation.
    #[must_use]
    pub fn n_threads(&self) -> usize {
        self.pool.n_threads()
    }
}

impl Default for Cpu {
    fn default() -> Self {
        Self::new()
    }
}

/// Norm of rows: x += delta where there is one, then out = x·(mean x² + eps)^(−1/2)·w, or in place.
struct Norm<'a> {
    x: &'a mut [f32],
    delta: Option<&'a [f32]>,
    w: &'a [f32],
    eps: f32,
    out: Option<&'a mut [f32]>,
}

impl Kernel for Norm<'_> {
    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let Self { x, delta, w, eps, out } = self;
        for (x, d) in x.iter_mut().zip(delta.into_iter().flatten()) {
            *x += d;
        }
        let [[square]] = dots(simd, [&*x], [&*x]);
        let inverse = 1.0 / (square / x.len() as f32 + eps).sqrt();
        match out {
            Some(out) => out.iter_mut().zip(x.iter()).zip(w).for_each(|((o, x), w)| *o = x * inverse * w),
            None => x.iter_mut().zip(w).for_each(|(x, w)| *x *= inverse * w),
        }
    }
}

/// Which way heads are rotated.
#[derive(Clone, Copy)]
enum Turn {
    Forth,
    /// The transpose of that.
    Back,
}

/// Rotates the heads of one row.
fn rotate(row: &mut [f32], layout: HeadLayout, position: u32, table: &RopeTable, turn: Turn) {
    for i in 0..table.inv_freq.len() {
        let (cos, sin) = table.cos_sin(position, i);
        let sin = match turn {
            Turn::Forth => sin,
            Turn::Back => -sin,
        };
        let (first, second) = table.pair(i);
        for head in row.chunks_exact_mut(layout.head_dim) {
            let head = &mut head[layout.start..];
            let (a, b) = (head[first], head[second]);
            head[first] = a * cos - b * sin;
            head[second] = a * sin + b * cos;
        }
    }
}

impl Device for Cpu {
    type Buffer = Vec<f32>;
    type Weight = WeightMatrix;
    type Cache = Cache;
    type Routes = Routes;

    fn activations(&self) -> Activations {
        self.activations
    }

    fn upload(&self, weight: &WeightMatrix) -> Result<WeightMatrix, DeviceError> {
        Ok(weight.clone())
    }

    fn alloc(&self, len: usize) -> Result<Vec<f32>, DeviceError> {
        zeroed(len, "activations")
    }

    fn alloc_routes(&self, n_tokens: usize, top_k: usize) -> Result<Routes, DeviceError> {
        let len = n_tokens * top_k;
        let (ids, weights) = (zeroed(len, "routes")?, zeroed(len, "routes")?);
        Ok(Routes { top_k, ids, weights, by_expert: zeroed(len, "routes")? })
    }

    fn alloc_cache(&self, spec: &CacheSpec) -> Result<Cache, DeviceError> {
        Cache::new(spec)
    }

    fn write(&self, src: &[f32], dst: &mut Vec<f32>) -> Result<(), DeviceError> {
        dst[..src.len()].copy_from_slice(src);
        Ok(())
    }

    fn read(&self, src: &Vec<f32>, dst: &mut [f32]) -> Result<(), DeviceError> {
        dst.copy_from_slice(&src[..dst.len()]);
        Ok(())
    }

    fn read_routes(&self, src: &Routes, ids: &mut [u32], weights: &mut [f32]) -> Result<(), DeviceError> {
        ids.copy_from_slice(&src.ids[..ids.len()]);
        weights.copy_from_slice(&src.weights[..weights.len()]);
        Ok(())
    }

    fn cache_read_block(&self, cache: &Cache, block: u32, out: &mut [u8]) -> Result<(), DeviceError> {
        cache.read_block(block, out);
        Ok(())
    }

    fn cache_write_block(&self, cache: &mut Cache, block: u32, bytes: &[u8]) -> Result<(), DeviceError> {
        cache.write_block(block, bytes);
        Ok(())
    }

    fn embed(&self, w: &WeightMatrix, tokens: &[u32], out: &mut Vec<f32>) {
        for (token, row) in tokens.iter().zip(out.chunks_exact_mut(w.cols)) {
            w.decode_row(*token as usize, row);
        }
    }

    fn add_rmsnorm(
        &self,
        x: &mut Vec<f32>,
        delta: Option<&Vec<f32>>,
        w: &Vec<f32>,
        layout: NormLayout,
        out: &mut Vec<f32>,
    ) {
        let dim = layout.dim;
        assert_eq!(layout.row_stride, dim, "the residual stream is contiguous");
        let body = |first: usize, x: &mut [f32], out: &mut [f32]| {
            for (t, (x, out)) in x.chunks_exact_mut(dim).zip(out.chunks_exact_mut(dim)).enumerate() {
                let delta = delta.map(|d| &d[(first + t) * dim..(first + t + 1) * dim]);
                self.level.run(Norm { x, delta, w, eps: layout.eps, out: Some(out) });
            }
        };
        let n = layout.n_rows;
        match n * dim < SPLIT_MIN {
            true => body(0, &mut x[..n * dim], &mut out[..n * dim]),
            false => self.pool.split_both((x, dim), (out, dim), n, &body),
        }
    }

    fn rmsnorm(&self, x: &mut Vec<f32>, w: &Vec<f32>, layout: NormLayout) {
        for t in 0..layout.n_rows {
            let x = &mut x[t * layout.row_stride..][..layout.dim];
            self.level.run(Norm { x, delta: None, w, eps: layout.eps, out: None });
        }
    }

    fn matmul(&self, x: &Vec<f32>, n_rows: usize, w: &WeightMatrix, bias: Option<&Vec<f32>>, out: &mut Vec<f32>) {
        let source = Source { values: x, stride: w.cols, n: n_rows, cols: w.cols };
        let out = Outputs { values: shared(out), stride: w.rows, start: 0, places: None };
        self.round(source, &[w], |x| self.whole(w, bias.map(Vec::as_slice), x, out));
    }

    fn matmul_heads(
        &self,
        x: &Vec<f32>,
        x_layout: HeadLayout,
        n_rows: usize,
        w: &HeadWeights<WeightMatrix>,
        side: HeadSide,
        out: &mut Vec<f32>,
    ) {
        assert_eq!(x_layout.n_heads, w.n_heads);
        let transposed = w.transposed != (side == HeadSide::ApplyTransposed);
        let HeadLayout { n_heads, head_dim, start } = x_layout;
        let cols = w.weight.cols;
        let n_out = if transposed { cols } else { w.head_rows };
        let out = shared(out);
        let head_out = |h: usize| Outputs { values: out, stride: n_heads * n_out, start: h * n_out, places: None };
        let head_rows = |h: usize| {
            let first = h * w.head_stride + w.head_start;
            first..first + w.head_rows
        };
        if transposed {
            return self.pool.split(if n_rows == 0 { 0 } else { n_heads }, &|worker, heads| {
                for h in heads {
                    let (stride, start) = (n_heads * head_dim, h * head_dim + start);
                    let x = Inputs { values: x, stride, start, picks: None, n: n_rows };
                    let (w, w_rows, out) = (&w.weight, head_rows(h), head_out(h));
                    self.scratch.lend(worker, cols * (1 + n_rows), |scratch| {
                        self.level.run(MatMulTransposed { w, w_rows, x, out, scratch });
                    });
                }
            });
        }
        let source = Source { values: &x[start.min(x.len())..], stride: head_dim, n: n_rows * n_heads, cols };
        self.round(source, &[&w.weight], |x| {
            self.pool.split(if n_rows == 0 { 0 } else { n_heads }, &|worker, heads| {
                for h in heads {
                    let (w, w_rows, first) = (&w.weight, head_rows(h), head_rows(h).start);
                    let rows = Rows { first: h, stride: n_heads, picks: None, n: n_rows };
                    self.part(worker, Part { w, w_rows, first, bias: None, out: head_out(h) }, x, rows);
                }
            });
        });
    }

    fn rope(&self, x: &mut Vec<f32>, layout: HeadLayout, positions: &[u32], table: &RopeTable) {
        let row_len = layout.n_heads * layout.head_dim;
        let body = |first: usize, x: &mut [f32]| {
            for (row, &position) in x.chunks_exact_mut(row_len).zip(&positions[first..]) {
                rotate(row, layout, position, table, Turn::Forth);
            }
        };
        let n = positions.len();
        match n * row_len < SPLIT_MIN {
            true => body(0, &mut x[..n * row_len]),
            false => self.pool.split_rows(x, n, row_len, &|_, first, x| body(first, x)),
        }
    }

    fn cache_store(&self, cache: &mut Cache, layer: usize, slots: &[u32], parts: &[(&Vec<f32>, usize)]) {
        cache.store(layer, slots, parts);
    }

    fn cache_copy_block(&self, cache: &mut Cache, from: u32, to: u32) {
        cache.copy_block(from, to);
    }

    fn attend_latent(&self, args: &AttendLatent<'_, Self>, out: &mut Vec<f32>) {
        attention::latent(self, args, out);
    }

    fn attend_expanded(&self, args: &AttendExpanded<'_, Self>, out: &mut Vec<f32>) {
        attention::expanded(self, args, out);
    }

    fn attend_kv(&self, args: &AttendKv<'_, Self>, out: &mut Vec<f32>) {
        attention::key_value(self, args, out);
    }

    fn swiglu(&self, gate: &mut Vec<f32>, up: &Vec<f32>, len: usize) {
        let (gate, up) = (shared(&mut gate[..len]), &up[..len]);
        let body = |part: Range<usize>| self.level.run(Swiglu { gate: &gate[part.clone()], up: &up[part] });
        match len < SPLIT_MIN {
            true => body(0..len),
            false => self.pool.split(len, &|_, part| body(part)),
        }
    }

    fn route(&self, spec: &RouterSpec, logits: &Vec<f32>, bias: Option<&Vec<f32>>, n_rows: usize, out: &mut Routes) {
        assert_eq!(spec.top_k, out.top_k);
        let (top_k, bias) = (spec.top_k, bias.map(Vec::as_slice));
        let weights = shared(&mut out.weights);
        let body = |worker: usize, first: usize, ids: &mut [u32]| {
            self.candidates.lend(worker, spec.n_candidates(), |candidates| {
                for (t, ids) in (first..).zip(ids.chunks_exact_mut(top_k)) {
                    let logits = &logits[t * spec.n_experts..][..spec.n_experts];
                    let slots = ids.iter_mut().zip(&weights[t * top_k..]);
                    for ((id, slot), (expert, weight)) in slots.zip(route_among(spec, logits, bias, candidates)) {
                        *id = expert;
                        slot.set(weight);
                    }
                }
            });
        };
        match n_rows * spec.n_experts < SPLIT_SCORES_MIN {
            true => body(0, 0, &mut out.ids[..n_rows * top_k]),
            false => self.pool.split_rows(&mut out.ids, n_rows, top_k, &body),
        }
        let n = n_rows * spec.top_k;
        let Routes { ids, by_expert, .. } = out;
        by_expert.iter_mut().zip(0..).take(n).for_each(|(pick, i)| *pick = i);
        by_expert[..n].sort_unstable_by_key(|pick| (ids[*pick as usize], *pick));
    }

    fn experts(
        &self,
        x: &Vec<f32>,
        n_rows: usize,
        routes: &Routes,
        w: &ExpertWeights<WeightMatrix>,
        out: &mut Vec<f32>,
    ) {
        experts::run(self, x, n_rows, routes, w, out);
    }

    fn add(&self, x: &mut Vec<f32>, y: &Vec<f32>, len: usize) {
        let body = |first: usize, x: &mut [f32]| x.iter_mut().zip(&y[first..]).for_each(|(x, y)| *x += y);
        match len < SPLIT_MIN {
            true => body(0, &mut x[..len]),
            false => self.pool.split_rows(x, len, 1, &|_, first, x| body(first, x)),
        }
    }

    fn concat(&self, a: &Vec<f32>, b: &Vec<f32>, n_rows: usize, dim: usize, out: &mut Vec<f32>) {
        for (t, out) in out.chunks_exact_mut(2 * dim).enumerate().take(n_rows) {
            out[..dim].copy_from_slice(&a[t * dim..(t + 1) * dim]);
            out[dim..].copy_from_slice(&b[t * dim..(t + 1) * dim]);
        }
    }

    fn gather(&self, x: &Vec<f32>, rows: &[u32], dim: usize, out: &mut Vec<f32>) {
        for (&row, out) in rows.iter().zip(out.chunks_exact_mut(dim)) {
            out.copy_from_slice(&x[row as usize * dim..][..dim]);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed test")]

    use ops::route::route_token;
    use ops::{Scoring, Selection};

    use super::*;

    #[test]
    fn rows_that_threads_share_are_routed_as_each_alone() {
        let (n_rows, top_k, n_experts) = (101, 6, 64);
        let spec = RouterSpec {
            n_experts,
            top_k,
            scoring: Scoring::Sigmoid,
            selection: Selection::NoAuxTc { n_group: 8, topk_group: 4 },
            norm_topk_prob: true,
            routed_scaling_factor: 2.5,
        };
        assert!(n_rows * n_experts >= SPLIT_SCORES_MIN);
        let logits: Vec<f32> = (0..n_rows * n_experts).map(|i| (i * 7919 % 1009) as f32 / 250.0 - 2.0).collect();
        let bias: Vec<f32> = (0..n_experts).map(|i| (i * 31 % 17) as f32 / 40.0).collect();
        let cpu = Cpu::with(Level::detect(), 3);
        let mut routes = cpu.alloc_routes(n_rows, top_k).unwrap();
        cpu.route(&spec, &logits, Some(&bias), n_rows, &mut routes);
        for (t, logits) in logits.chunks_exact(n_experts).enumerate() {
            let (mut ids, mut weights) = (vec![0; top_k], vec![0.0; top_k]);
            route_token(&spec, logits, Some(&bias), &mut ids, &mut weights);
            let row = t * top_k..(t + 1) * top_k;
            assert_eq!((&routes.ids[row.clone()], &routes.weights[row]), (&ids[..], &weights[..]));
        }
    }
}
