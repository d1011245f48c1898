//! `Reference`: the scalar body of every operation, which defines its value.
//!
//! Owns correctness, not speed. Every sum is taken in f64 and rounded once, so that its own error is far below the
//! bounds that devices are held to and its result does not depend on the order of a sum.
//! Must not contain threads, SIMD, `unsafe` or layout tricks.

mod attention;
mod ffn;
mod train;

use crate::{
    AttendExpanded, AttendKv, AttendLatent, CacheSpec, Device, DeviceError, ExpertWeights, HeadLayout, HeadSide,
    HeadWeights, NormLayout, RopeTable, RouterSpec, WeightMatrix, zeroed,
};

/// The scalar device.
#[derive(Clone, Copy, Debug, Default)]
pub struct Reference;

/// Chosen experts of [`Reference`]: `top_k` per token.
#[derive(Clone, Debug)]
pub struct Routes {
    top_k: usize,
    ids: Vec<u32>,
    weights: Vec<f32>,
}

/// Cached rows of [`Reference`], `[n_layers, n_blocks · block_len, row_bytes]`: as [`crate::RowLayout::encode`] says.
#[derive(Clone, Debug)]
pub struct Cache {
    spec: CacheSpec,
    bytes: Vec<u8>,
}

impl Cache {
    fn row(&self, index: usize) -> &[u8] {
        let row_bytes = self.spec.row.row_bytes();
        &self.bytes[index * row_bytes..][..row_bytes]
    }

    /// Where the rows of a block lie in a layer.
    fn block(&self, layer: usize, block: u32) -> std::ops::Range<usize> {
        let first = self.spec.row_index(layer, block as usize * self.spec.block_len) * self.spec.row.row_bytes();
        first..first + self.spec.layer_bytes()
    }
}

/// Σ aᵢ·bᵢ in f64; eight partial sums, so that the compiler may use vector registers.
fn dot(a: &[f32], b: &[f32]) -> f64 {
    assert_eq!(a.len(), b.len());
    let mut sums = [0f64; 8];
    let (a8, a_rest) = a.as_chunks::<8>();
    let (b8, b_rest) = b.as_chunks::<8>();
    for (x, y) in a8.iter().zip(b8) {
        for i in 0..8 {
            sums[i] += f64::from(x[i]) * f64::from(y[i]);
        }
    }
    let rest: f64 = a_rest.iter().zip(b_rest).map(|(x, y)| f64::from(*x) * f64::from(*y)).sum();
    sums.iter().sum::<f64>() + rest
}

/// Calls `each(index in w_rows, decoded row)`: every weight row is decoded once, however many inputs it meets.
fn for_each_row(w: &WeightMatrix, w_rows: std::ops::Range<usize>, mut each: impl FnMut(usize, &[f32])) {
    let mut row = vec![0f32; w.cols];
    for (i, r) in w_rows.enumerate() {
        w.decode_row(r, &mut row);
        each(i, &row);
    }
}

fn normalise(x: &[f32], w: &[f32], eps: f32, mut set: impl FnMut(usize, f32)) {
    let mean_square = x.iter().map(|v| f64::from(*v) * f64::from(*v)).sum::<f64>() / x.len() as f64;
    let inverse = 1.0 / (mean_square + f64::from(eps)).sqrt();
    for (i, (v, w)) in x.iter().zip(w).enumerate() {
        set(i, (f64::from(*v) * inverse * f64::from(*w)) as f32);
    }
}

impl Device for Reference {
    type Buffer = Vec<f32>;
    type Weight = WeightMatrix;
    type Cache = Cache;
    type Routes = Routes;

    fn upload(&self, weight: &WeightMatrix) -> Result<WeightMatrix, DeviceError> {
        Ok(weight.clone())
    }

    fn alloc(&self, len: usize) -> Result<Vec<f32>, DeviceError> {
        zeroed(len, "activations")
    }

    fn alloc_routes(&self, n_tokens: usize, top_k: usize) -> Result<Routes, DeviceError> {
        let len = n_tokens * top_k;
        Ok(Routes { top_k, ids: zeroed(len, "routes")?, weights: zeroed(len, "routes")? })
    }

    fn alloc_cache(&self, spec: &CacheSpec) -> Result<Cache, DeviceError> {
        Ok(Cache { spec: *spec, bytes: zeroed(spec.n_values(spec.row.row_bytes())?, "cache")? })
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
        assert_eq!(out.len(), cache.spec.block_bytes());
        for (layer, out) in out.chunks_exact_mut(cache.spec.layer_bytes()).enumerate() {
            out.copy_from_slice(&cache.bytes[cache.block(layer, block)]);
        }
        Ok(())
    }

    fn cache_write_block(&self, cache: &mut Cache, block: u32, bytes: &[u8]) -> Result<(), DeviceError> {
        assert_eq!(bytes.len(), cache.spec.block_bytes());
        for (layer, bytes) in bytes.chunks_exact(cache.spec.layer_bytes()).enumerate() {
            let to = cache.block(layer, block);
            cache.bytes[to].copy_from_slice(bytes);
        }
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
        for t in 0..layout.n_rows {
            let row = &mut x[t * dim..(t + 1) * dim];
            if let Some(delta) = delta {
                for (x, d) in row.iter_mut().zip(&delta[t * dim..]) {
                    *x += d;
                }
            }
            let out = &mut out[t * dim..(t + 1) * dim];
            normalise(row, w, layout.eps, |i, v| out[i] = v);
        }
    }

    fn rmsnorm(&self, x: &mut Vec<f32>, w: &Vec<f32>, layout: NormLayout) {
        for t in 0..layout.n_rows {
            let row = &mut x[t * layout.row_stride..t * layout.row_stride + layout.dim];
            let input = row.to_vec();
            normalise(&input, w, layout.eps, |i, v| row[i] = v);
        }
    }

    fn matmul(&self, x: &Vec<f32>, n_rows: usize, w: &WeightMatrix, bias: Option<&Vec<f32>>, out: &mut Vec<f32>) {
        for_each_row(w, 0..w.rows, |r, row| {
            let bias = bias.map_or(0.0, |b| f64::from(b[r]));
            for t in 0..n_rows {
                out[t * w.rows + r] = (dot(&x[t * w.cols..(t + 1) * w.cols], row) + bias) as f32;
            }
        });
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
        let (n_in, n_out) = if transposed { (w.head_rows, w.weight.cols) } else { (w.weight.cols, w.head_rows) };
        let input = |t: usize, h: usize| {
            let at = (t * x_layout.n_heads + h) * x_layout.head_dim + x_layout.start;
            &x[at..at + n_in]
        };
        for h in 0..w.n_heads {
            let first = h * w.head_stride + w.head_start;
            let output = |t: usize| (t * w.n_heads + h) * n_out;
            let mut sums = vec![0f64; if transposed { n_rows * n_out } else { 0 }];
            for_each_row(&w.weight, first..first + w.head_rows, |r, row| {
                for t in 0..n_rows {
                    if transposed {
                        let x = f64::from(input(t, h)[r]);
                        for (sum, v) in sums[t * n_out..(t + 1) * n_out].iter_mut().zip(row) {
                            *sum += x * f64::from(*v);
                        }
                    } else {
                        out[output(t) + r] = dot(input(t, h), row) as f32;
                    }
                }
            });
            for (t, sums) in sums.chunks_exact(n_out).enumerate() {
                for (o, sum) in out[output(t)..].iter_mut().zip(sums) {
                    *o = *sum as f32;
                }
            }
        }
    }

    fn rope(&self, x: &mut Vec<f32>, layout: HeadLayout, positions: &[u32], table: &RopeTable) {
        for (t, &position) in positions.iter().enumerate() {
            for i in 0..table.inv_freq.len() {
                let (cos, sin) = table.cos_sin(position, i);
                let (cos, sin) = (f64::from(cos), f64::from(sin));
                let (first, second) = table.pair(i);
                for h in 0..layout.n_heads {
                    let at = (t * layout.n_heads + h) * layout.head_dim + layout.start;
                    let (a, b) = (f64::from(x[at + first]), f64::from(x[at + second]));
                    x[at + first] = (a * cos - b * sin) as f32;
                    x[at + second] = (a * sin + b * cos) as f32;
                }
            }
        }
    }

    fn cache_store(&self, cache: &mut Cache, layer: usize, slots: &[u32], parts: &[(&Vec<f32>, usize)]) {
        let layout = cache.spec.row;
        assert_eq!(parts.iter().map(|(_, len)| len).sum::<usize>(), layout.row_len, "parts of a cache row");
        for (t, &slot) in slots.iter().enumerate() {
            let row: Vec<f32> = parts.iter().flat_map(|(part, len)| &part[t * len..(t + 1) * len]).copied().collect();
            let at = cache.spec.row_index(layer, slot as usize) * layout.row_bytes();
            layout.encode(&row, &mut cache.bytes[at..at + layout.row_bytes()]);
        }
    }

    fn cache_copy_block(&self, cache: &mut Cache, from: u32, to: u32) {
        for layer in 0..cache.spec.n_layers {
            let [from, to] = [from, to].map(|block| cache.block(layer, block));
            cache.bytes.copy_within(from, to.start);
        }
    }

    fn attend_latent(&self, args: &AttendLatent<'_, Self>, out: &mut Vec<f32>) {
        attention::latent(args, out);
    }

    fn attend_expanded(&self, args: &AttendExpanded<'_, Self>, out: &mut Vec<f32>) {
        attention::expanded(args, out);
    }

    fn attend_kv(&self, args: &AttendKv<'_, Self>, out: &mut Vec<f32>) {
        attention::key_value(args, out);
    }

    fn swiglu(&self, gate: &mut Vec<f32>, up: &Vec<f32>, len: usize) {
        ffn::swiglu(&mut gate[..len], &up[..len]);
    }

    fn route(&self, spec: &RouterSpec, logits: &Vec<f32>, bias: Option<&Vec<f32>>, n_rows: usize, out: &mut Routes) {
        ffn::route(spec, logits, bias.map(Vec::as_slice), n_rows, out);
    }

    fn experts(
        &self,
        x: &Vec<f32>,
        n_rows: usize,
        routes: &Routes,
        w: &ExpertWeights<WeightMatrix>,
        out: &mut Vec<f32>,
    ) {
        ffn::experts(x, n_rows, routes, w, out);
    }

    fn add(&self, x: &mut Vec<f32>, y: &Vec<f32>, len: usize) {
        for (x, y) in x[..len].iter_mut().zip(&y[..len]) {
            *x += y;
        }
    }

    fn concat(&self, a: &Vec<f32>, b: &Vec<f32>, n_rows: usize, dim: usize, out: &mut Vec<f32>) {
        for t in 0..n_rows {
            out[2 * t * dim..(2 * t + 1) * dim].copy_from_slice(&a[t * dim..(t + 1) * dim]);
            out[(2 * t + 1) * dim..(2 * t + 2) * dim].copy_from_slice(&b[t * dim..(t + 1) * dim]);
        }
    }

    fn gather(&self, x: &Vec<f32>, rows: &[u32], dim: usize, out: &mut Vec<f32>) {
        for (&row, out) in rows.iter().zip(out.chunks_exact_mut(dim)) {
            out.copy_from_slice(&x[row as usize * dim..][..dim]);
        }
    }
}
