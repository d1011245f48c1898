//! `Naive`: a second plain device, in f32 arithmetic with other loop orders, which takes planted faults.
//!
//! Owns an independent reading of the trait's documentation: online softmax in tiles from the last position to the
//! first, sums from the last column to the first. Must not call the reference's arithmetic, the rounding of cache rows
//! included. Each `self.has(…)` is a
//! mistake that a real device could make; without a fault the device is right.

mod arithmetic;
mod blocks;
mod int8;

use std::sync::atomic::AtomicU32;

use ops::{
    Activations, AttendExpanded, AttendKv, AttendLatent, CacheSpec, Device, DeviceError, ExpertWeights, HeadLayout,
    HeadSide, HeadWeights, NormLayout, RopePairing, RopeTable, RouterSpec, RowLayout, WeightFormat, WeightMatrix,
};

use crate::mutants::Fault;

/// The device; `fault` is what it does wrong.
#[derive(Debug, Default)]
pub(crate) struct Naive {
    pub(crate) fault: Option<Fault>,
    /// Whether activations are rounded to 8 bits before block-quantised weights.
    pub(crate) int8: bool,
    /// Calls so far, for the faults that depend on them.
    pub(crate) n_calls: AtomicU32,
}

/// A decoded matrix.
#[derive(Clone)]
pub(crate) struct Matrix {
    rows: usize,
    cols: usize,
    values: Vec<f32>,
    /// Weights of a stored block that lie beside each other along a row, and along a column.
    block: [usize; 2],
    is_q8_0: bool,
}

/// Rows of all layers, as they are read back, and their bytes.
pub(crate) struct Cache {
    spec: CacheSpec,
    rows: Vec<f32>,
    bytes: Vec<u8>,
}

pub(crate) struct Routes {
    top_k: usize,
    ids: Vec<u32>,
    weights: Vec<f32>,
}

impl Device for Naive {
    type Buffer = Vec<f32>;
    type Weight = Matrix;
    type Cache = Cache;
    type Routes = Routes;

    fn activations(&self) -> Activations {
        if self.int8 && !self.has(Fault::RoundsUnsaid) { Activations::Int8 } else { Activations::F32 }
    }

    fn upload(&self, weight: &WeightMatrix) -> Result<Matrix, DeviceError> {
        let (rows, cols) = (weight.rows, weight.cols);
        let mut values = vec![0.0; rows * cols];
        for (r, row) in values.chunks_exact_mut(cols).enumerate() {
            match self.has(Fault::ScalesIgnored) {
                true => weight.format.decode(weight.row(r), row),
                false => weight.decode_row(r, row),
            }
        }
        Ok(self.uploaded(
            weight,
            Matrix {
                rows,
                cols,
                values,
                block: [weight.format.block_len(), 1],
                is_q8_0: weight.format == WeightFormat::Q8_0,
            },
        ))
    }

    fn alloc(&self, len: usize) -> Result<Vec<f32>, DeviceError> {
        if self.has(Fault::NoMemory) || self.has(Fault::LittleMemory) && len > 100 {
            return Err(DeviceError::OutOfMemory { what: "activations", wanted: len as u64 });
        }
        Ok(vec![if self.has(Fault::MemoryNotCleared) { 1e-3 } else { 0.0 }; len])
    }

    fn alloc_routes(&self, n_tokens: usize, top_k: usize) -> Result<Routes, DeviceError> {
        Ok(Routes { top_k, ids: vec![0; n_tokens * top_k], weights: vec![0.0; n_tokens * top_k] })
    }

    fn alloc_cache(&self, spec: &CacheSpec) -> Result<Cache, DeviceError> {
        let n_rows = spec.n_layers * spec.n_blocks * spec.block_len;
        let (rows, bytes) = (vec![0.0; n_rows * spec.row.row_len], vec![0; n_rows * spec.row.row_bytes()]);
        Ok(Cache { spec: *spec, rows, bytes })
    }

    fn write(&self, src: &[f32], dst: &mut Vec<f32>) -> Result<(), DeviceError> {
        dst.splice(..src.len(), src.iter().copied());
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
        self.block_to_bytes(cache, block, out);
        Ok(())
    }

    fn cache_write_block(&self, cache: &mut Cache, block: u32, bytes: &[u8]) -> Result<(), DeviceError> {
        self.bytes_to_block(cache, block, bytes);
        Ok(())
    }

    fn embed(&self, w: &Matrix, tokens: &[u32], out: &mut Vec<f32>) {
        self.gather(&w.values, tokens, w.cols, out);
    }

    fn add_rmsnorm(
        &self,
        x: &mut Vec<f32>,
        delta: Option<&Vec<f32>>,
        w: &Vec<f32>,
        layout: NormLayout,
        out: &mut Vec<f32>,
    ) {
        let len = layout.n_rows * layout.dim;
        let mut sum = x.clone();
        if let Some(delta) = delta {
            self.add(&mut sum, delta, len);
        }
        out[..len].copy_from_slice(&sum[..len]);
        self.rmsnorm(out, w, layout);
        if !self.has(Fault::DeltaNotKept) {
            *x = sum;
        }
    }

    fn rmsnorm(&self, x: &mut Vec<f32>, w: &Vec<f32>, NormLayout { n_rows, row_stride, dim, eps }: NormLayout) {
        let stride = if self.has(Fault::StrideIgnored) { dim } else { row_stride };
        for t in 0..n_rows {
            let row = &mut x[t * stride..t * stride + dim];
            row.copy_from_slice(&self.normalised(row, w, eps));
        }
    }

    fn matmul(&self, x: &Vec<f32>, n_rows: usize, w: &Matrix, bias: Option<&Vec<f32>>, out: &mut Vec<f32>) {
        let n_rows = if self.has(Fault::LastRowSkipped) && n_rows > 1 { n_rows - 1 } else { n_rows };
        let split = self.has(Fault::OrderByBatch) && n_rows > 2;
        for t in (0..n_rows).rev() {
            let rounded = self.rounds(w).then(|| self.apply_int8(w, &x[t * w.cols..]));
            for r in 0..w.rows {
                let (x, w_row) = (&x[t * w.cols..(t + 1) * w.cols], &w.values[r * w.cols..(r + 1) * w.cols]);
                let bias = if self.has(Fault::BiasMissing) { None } else { bias };
                let start = bias.map_or(0.0, |b| b[r]);
                let middle = if split { w.cols / 2 } else { 0 };
                let sum = match &rounded {
                    Some(y) => y[r] + start,
                    None => {
                        self.dot(&x[middle..], &w_row[middle..], start) + self.dot(&x[..middle], &w_row[..middle], 0.0)
                    }
                };
                let o = &mut out[t * w.rows + r];
                *o = if self.has(Fault::Accumulates) { *o + sum } else { sum };
            }
        }
    }

    fn matmul_heads(
        &self,
        x: &Vec<f32>,
        x_layout: HeadLayout,
        n_rows: usize,
        w: &HeadWeights<Matrix>,
        side: HeadSide,
        out: &mut Vec<f32>,
    ) {
        let start = if self.has(Fault::InputStartIgnored) { 0 } else { x_layout.start };
        for h in 0..w.n_heads {
            let mut l = self.logical(w, h);
            if side == HeadSide::ApplyTransposed {
                l = self.transposed(&l, Fault::SideIgnored);
            }
            for t in 0..n_rows {
                let y = self.apply(&l, &x[(t * w.n_heads + h) * x_layout.head_dim + start..]);
                out[(t * w.n_heads + h) * l.rows..][..l.rows].copy_from_slice(&y);
            }
        }
    }

    fn rope(&self, x: &mut Vec<f32>, layout: HeadLayout, positions: &[u32], table: &RopeTable) {
        let start = if self.has(Fault::RopeStartIgnored) { 0 } else { layout.start };
        let half = table.inv_freq.len();
        for (i, head) in x.chunks_exact_mut(layout.head_dim).take(positions.len() * layout.n_heads).enumerate() {
            let t = i / layout.n_heads;
            let position = if self.has(Fault::PositionIsRow) { t as u32 } else { positions[t] };
            for (pair, &freq) in table.inv_freq.iter().enumerate() {
                let angle = match self.has(Fault::AngleUnrounded) {
                    true => f64::from(position) * f64::from(freq),
                    false => f64::from(position as f32 * freq),
                };
                let magnitude = if self.has(Fault::MagnitudeIgnored) { 1.0 } else { table.magnitude };
                let (sin, cos) = (angle.sin() as f32 * magnitude, angle.cos() as f32 * magnitude);
                let sin = if self.has(Fault::RotatedBackwards) { -sin } else { sin };
                let interleaved = (table.pairing == RopePairing::Interleaved) != self.has(Fault::WrongPairing);
                let (a, b) = if interleaved { (2 * pair, 2 * pair + 1) } else { (pair, pair + half) };
                let (u, v) = (head[start + a], head[start + b]);
                head[start + a] = u * cos - v * sin;
                head[start + b] = v * cos + u * sin;
            }
        }
    }

    fn cache_store(&self, cache: &mut Cache, layer: usize, slots: &[u32], parts: &[(&Vec<f32>, usize)]) {
        let CacheSpec { n_blocks, block_len, row: layout, .. } = cache.spec;
        let row_len = layout.row_len;
        for (t, &slot) in slots.iter().enumerate() {
            let slot = if self.has(Fault::SlotsIgnored) { t } else { slot as usize };
            let mut row: Vec<f32> =
                parts.iter().flat_map(|(part, len)| part[t * len..(t + 1) * len].to_vec()).collect();
            if self.has(Fault::PartsSwapped) && parts.len() > 1 {
                row.rotate_left(parts[0].1);
            }
            let index = layer * n_blocks * block_len + slot;
            let scales = self.round_row(&mut row, &layout);
            cache.bytes.splice(
                index * layout.row_bytes()..(index + 1) * layout.row_bytes(),
                blocks::row_to_bytes(&row, &scales, &layout),
            );
            cache.rows[index * row_len..(index + 1) * row_len].copy_from_slice(&row);
        }
    }

    fn cache_copy_block(&self, cache: &mut Cache, from: u32, to: u32) {
        let CacheSpec { n_layers, n_blocks, block_len, row: layout @ RowLayout { row_len, .. } } = cache.spec;
        let n_layers = if self.has(Fault::CopiesOneLayer) { 1 } else { n_layers };
        let n_rows = if self.has(Fault::CopiesShort) { block_len - 1 } else { block_len };
        for layer in 0..n_layers {
            let at = |block: u32, per_row: usize| (layer * n_blocks + block as usize) * block_len * per_row;
            cache.rows.copy_within(at(from, row_len)..at(from, row_len) + n_rows * row_len, at(to, row_len));
            let n = layout.row_bytes();
            cache.bytes.copy_within(at(from, n)..at(from, n) + n_rows * n, at(to, n));
        }
    }

    fn attend_latent(&self, args: &AttendLatent<'_, Self>, out: &mut Vec<f32>) {
        let (c, HeadLayout { n_heads, head_dim, start }) = (args.kv_lora_rank, args.q_pe);
        let scale = if self.has(Fault::ScaleIgnored) { 1.0 } else { args.scale };
        if self.has(Fault::OutsideRowsCleared) {
            let end = args.spans.iter().map(|s| s.q_start + s.n_new).max().unwrap_or(0);
            out[..end * n_heads * c].fill(0.0);
        }
        self.for_each_row((args.cache, args.layer), (args.spans, args.block_tables), |t, rows, n| {
            for th in t * n_heads..(t + 1) * n_heads {
                let score = |s: usize| {
                    let (c_kv, k_pe) = rows[s].split_at(c);
                    let q_pe = &args.q[th * head_dim + start..][..k_pe.len()];
                    let rope = if self.has(Fault::QPeIgnored) { 0.0 } else { self.dot(q_pe, k_pe, 0.0) };
                    scale * (rope + self.dot(&args.q_lat[th * c..][..c], c_kv, 0.0))
                };
                self.attend((rows.len(), n), score, |s| &rows[s][..c], &mut out[th * c..][..c]);
            }
        });
    }

    fn attend_expanded(&self, args: &AttendExpanded<'_, Self>, out: &mut Vec<f32>) {
        let (v_dim, HeadLayout { n_heads, head_dim, start: nope }) = (args.v_head_dim, args.q_pe);
        let c = args.cache.spec.row.row_len - (head_dim - nope);
        for h in 0..n_heads {
            let (w_uk, w_uv) = (self.logical(args.w_uk, h), self.logical(args.w_uv, h));
            self.for_each_row((args.cache, args.layer), (args.spans, args.block_tables), |t, rows, n| {
                let values: Vec<Vec<f32>> = rows.iter().map(|row| self.apply_f32(&w_uv, row)).collect();
                let (q_nope, q_pe) = args.q[(t * n_heads + h) * head_dim..][..head_dim].split_at(nope);
                let score = |s: usize| {
                    let nope = self.dot(q_nope, &self.apply_f32(&w_uk, rows[s]), 0.0);
                    args.scale * (nope + self.dot(q_pe, &rows[s][c..], 0.0))
                };
                self.attend((rows.len(), n), score, |s| &values[s], &mut out[(t * n_heads + h) * v_dim..][..v_dim]);
            });
        }
    }

    fn attend_kv(&self, args: &AttendKv<'_, Self>, out: &mut Vec<f32>) {
        let (n_heads, n_kv, d) = (args.n_heads, args.n_kv_heads, args.head_dim);
        self.for_each_row((args.cache, args.layer), (args.spans, args.block_tables), |t, rows, n| {
            for h in 0..n_heads {
                let kv = if self.has(Fault::HeadsInterleaved) { h % n_kv } else { h / (n_heads / n_kv) };
                let at = (t * n_heads + h) * d;
                let score =
                    |s: usize| args.scale * self.dot(&args.q[at..at + d], &rows[s][(n_kv + kv) * d..][..d], 0.0);
                self.attend((rows.len(), n), score, |s| &rows[s][kv * d..][..d], &mut out[at..at + d]);
            }
        });
    }

    fn swiglu(&self, gate: &mut Vec<f32>, up: &Vec<f32>, len: usize) {
        for i in 0..len {
            // The fault: lanes are computed otherwise than what is left over.
            let in_lanes = self.has(Fault::LanesRoundOtherwise) && i < len / 8 * 8;
            gate[i] = if in_lanes { gate[i] * (up[i] / (1.0 + (-gate[i]).exp())) } else { self.silu(gate[i]) * up[i] };
        }
    }

    fn route(&self, spec: &RouterSpec, logits: &Vec<f32>, bias: Option<&Vec<f32>>, n_rows: usize, out: &mut Routes) {
        for (t, row) in logits.chunks_exact(spec.n_experts).take(n_rows).enumerate() {
            let (ids, weights) = self.choose(spec, row, bias.map(Vec::as_slice));
            for (i, (id, weight)) in ids.into_iter().zip(weights).enumerate() {
                (out.ids[t * spec.top_k + i], out.weights[t * spec.top_k + i]) = (id as u32, weight);
            }
        }
    }

    fn experts(&self, x: &Vec<f32>, n_rows: usize, routes: &Routes, w: &ExpertWeights<Matrix>, out: &mut Vec<f32>) {
        let (d, k) = (w.w_gate[0].cols, routes.top_k);
        let (w_gate, w_up) = if self.has(Fault::GateIsUp) { (&w.w_up, &w.w_gate) } else { (&w.w_gate, &w.w_up) };
        let n_choices = if self.has(Fault::LastChoiceDropped) { k.max(2) - 1 } else { k };
        for t in 0..n_rows {
            let (x, y) = (&x[t * d..(t + 1) * d], &mut out[t * d..(t + 1) * d]);
            y.fill(0.0);
            for choice in 0..n_choices {
                let at = if self.has(Fault::RoutesOfFirstToken) { choice } else { t * k + choice };
                let (e, weight) = (routes.ids[at] as usize, routes.weights[at]);
                let mut hidden = self.apply(&w_gate[e], x);
                let len = hidden.len();
                self.swiglu(&mut hidden, &self.apply(&w_up[e], x), len);
                let weight = if self.has(Fault::ExpertWeightsIgnored) { 1.0 } else { weight };
                for (y, down) in y.iter_mut().zip(self.apply(&w.w_down[e], &hidden)) {
                    *y += weight * down;
                }
            }
        }
    }

    fn add(&self, x: &mut Vec<f32>, y: &Vec<f32>, len: usize) {
        let len = if self.has(Fault::TailValuesDropped) && len > 8 { len / 8 * 8 } else { len };
        x.iter_mut().zip(y).take(len).for_each(|(x, y)| *x += y);
    }

    fn concat(&self, a: &Vec<f32>, b: &Vec<f32>, n_rows: usize, dim: usize, out: &mut Vec<f32>) {
        let (a, b) = if self.has(Fault::ConcatSwapped) { (b, a) } else { (a, b) };
        for (i, row) in out.chunks_exact_mut(dim).take(2 * n_rows).enumerate() {
            row.copy_from_slice(&[a, b][i % 2][i / 2 * dim..][..dim]);
        }
    }

    fn gather(&self, x: &Vec<f32>, rows: &[u32], dim: usize, out: &mut Vec<f32>) {
        let n = if self.has(Fault::LastRowSkipped) && rows.len() > 1 { rows.len() - 1 } else { rows.len() };
        for (i, v) in out[..n * dim].iter_mut().enumerate() {
            *v = x[rows[i / dim] as usize * dim + i % dim];
        }
    }
}
