//! A training step's operations, split over threads.
//!
//! Owns how each is divided. Sums over rows are taken by columns, or in parts of a fixed number of rows that are joined in
//! order, so that a gradient's bits do not depend on the threads. The inner loops are in `kernel/train/`.

use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use ops::route::gradient;
use ops::{Attended, Gemm, GemmLayout, HeadLayout, NormRows, PackedAttention, RopeTable, RouterSpec, TrainDevice};

use super::gemm::{Matrix, Product};
use super::{Cpu, SPLIT_MIN, SPLIT_SCORES_MIN, Turn, attention, rotate};
use crate::kernel::train::entropy::CrossEntropy;
use crate::kernel::train::norm::{Norm, NormBackward};
use crate::kernel::train::rows::{Combine, Scatter, SumColumns, Weigh};
use crate::kernel::train::swiglu::{SwigluBackward, SwigluTo};
use crate::pool::{MatrixMut, shared};

/// Rows whose part of a norm's d_w is summed before the parts are joined.
const PART_ROWS: usize = 32;

/// Columns that a thread sums at a time.
const SUM_COLUMNS: usize = 64;

/// `body(first row, rows)`
type RowsBody<'a> = &'a (dyn Fn(usize, &mut [f32]) + Sync);

/// `body(first row, rows of one, rows of the other)`
type BothBody<'a> = &'a (dyn Fn(usize, &mut [f32], &mut [f32]) + Sync);

impl Cpu {
    /// Calls `body` for all of `values`, rows of `row_len` of which the last may be shorter; `cost` is what decides whether
    /// threads share them.
    fn each_row(&self, values: &mut [f32], row_len: usize, cost: usize, body: RowsBody<'_>) {
        if values.is_empty() {
            return;
        }
        if cost < SPLIT_MIN {
            return body(0, values);
        }
        let n = values.len() / row_len;
        let (whole, last) = values.split_at_mut(n * row_len);
        self.pool.split_rows(whole, n, row_len, &|_, first, rows| body(first, rows));
        if !last.is_empty() {
            body(n, last);
        }
    }

    /// The same for the leading `n` rows of two buffers.
    fn both(&self, a: &mut [f32], b: &mut [f32], n: usize, row_len: usize, body: BothBody<'_>) {
        match n * row_len < SPLIT_MIN {
            true => body(0, &mut a[..n * row_len], &mut b[..n * row_len]),
            false => self.pool.split_both((a, row_len), (b, row_len), n, body),
        }
    }
}

/// Values that `n` rows of `dim`, `stride` apart, reach over.
fn reach(n: usize, dim: usize, stride: usize) -> usize {
    if n == 0 { 0 } else { (n - 1) * stride + dim }
}

/// One product as [`Cpu::gemm_grouped`] takes it.
fn product<'a>(g: &Gemm, a: &'a [f32], b: &'a [f32], c: &'a mut [f32]) -> Product<'a> {
    let Gemm { layout, m, n, k, accumulate, precision, .. } = *g;
    let (a, b) = (Matrix { values: a, stride: g.a_stride }, Matrix { values: b, stride: g.b_stride });
    Product { layout, m, n, k, a, b, c: MatrixMut::new(c, g.c_stride), accumulate, precision }
}

impl TrainDevice for Cpu {
    fn gemm(&self, g: &Gemm, a: &[f32], b: &[f32], c: &mut [f32]) {
        self.gemm_grouped(&mut [product(g, a, b, c)]);
    }

    fn gemm_groups(&self, g: &Gemm, offsets: &[usize], a: &[f32], mut b: &[f32], mut c: &mut [f32]) {
        let mut products = Vec::with_capacity(offsets.len().saturating_sub(1));
        if let (Some(first), GemmLayout::Nt | GemmLayout::Nn) = (offsets.first(), g.layout) {
            c = &mut c[first * g.c_stride..];
        }
        for group in offsets.windows(2) {
            let (first, n_rows) = (group[0], group[1] - group[0]);
            let a = &a[first * g.a_stride..];
            let (g, matrix_len) = match g.layout {
                GemmLayout::Nt => (Gemm { m: n_rows, ..*g }, g.n * g.b_stride),
                GemmLayout::Nn => (Gemm { m: n_rows, ..*g }, g.k * g.b_stride),
                GemmLayout::Tn => (Gemm { k: n_rows, ..*g }, g.m * g.c_stride),
            };
            // Each group takes its share of what it writes, so that no two can overlap.
            let own = if g.layout == GemmLayout::Tn { matrix_len } else { n_rows * g.c_stride };
            let (own, rest) = {
                let c = std::mem::take(&mut c);
                let len = own.min(c.len());
                c.split_at_mut(len)
            };
            c = rest;
            if g.layout == GemmLayout::Tn {
                products.push(product(&g, a, &b[first * g.b_stride..], own));
            } else {
                products.push(product(&g, a, b, own));
                b = &b[matrix_len..];
            }
        }
        self.gemm_grouped(&mut products);
    }

    fn repeat_row(&self, row: &[f32], n_rows: usize, out: &mut [f32]) {
        let out = &mut out[..n_rows * row.len()];
        let cost = out.len();
        self.each_row(out, row.len(), cost, &|_, out| {
            out.chunks_exact_mut(row.len()).for_each(|out| out.copy_from_slice(row));
        });
    }

    fn sum_rows(&self, x: &[f32], n_rows: usize, out: &mut [f32]) {
        let stride = out.len();
        self.each_row(out, SUM_COLUMNS, n_rows * stride, &|first, out| {
            self.level.run(SumColumns { x, n_rows, stride, start: first * SUM_COLUMNS, out });
        });
    }

    fn sum(&self, x: &[f32], y: &[f32], len: usize, out: &mut [f32]) {
        let (x, y) = (&x[..len], &y[..len]);
        self.each_row(&mut out[..len], 1, len, &|first, out| {
            let terms = x[first..].iter().zip(&y[first..]);
            out.iter_mut().zip(terms).for_each(|(out, (x, y))| *out = x + y);
        });
    }

    fn norm(&self, rows: &NormRows, x: &[f32], w: &[f32], y: &mut [f32]) {
        let y = &mut y[..reach(rows.n_rows, rows.dim, rows.y_stride)];
        self.each_row(y, rows.y_stride, rows.n_rows * rows.dim, &|first, y| {
            self.level.run(Norm { rows, first, x, w, y });
        });
    }

    fn norm_backward(&self, rows: &NormRows, x: &[f32], w: &[f32], d_y: &[f32], d_x: &mut [f32], d_w: &mut [f32]) {
        let dim = rows.dim;
        let d_x = &mut d_x[..reach(rows.n_rows, dim, rows.x_stride)];
        let part_len = PART_ROWS * rows.x_stride;
        // The last part is short where its rows are few, or followed by nothing.
        let n_whole = if rows.n_rows * dim < SPLIT_MIN { 0 } else { d_x.len() / part_len };
        let n_parts = rows.n_rows.div_ceil(PART_ROWS);
        self.shared_scratch.lend(0, n_parts * dim, |sums| {
            let body = |part: usize, d_x: &mut [f32], sums: &mut [f32]| {
                let parts = d_x.chunks_mut(part_len).zip(sums.chunks_exact_mut(dim));
                for (part, (d_x, d_w)) in (part..).zip(parts) {
                    self.level.run(NormBackward { rows, first: part * PART_ROWS, x, w, d_y, d_x, d_w });
                }
            };
            let (whole, rest) = d_x.split_at_mut(n_whole * part_len);
            let (whole_sums, rest_sums) = sums.split_at_mut(n_whole * dim);
            self.pool.split_both((whole, part_len), (whole_sums, dim), n_whole, &body);
            body(n_whole, rest, rest_sums);
            self.level.run(SumColumns { x: sums, n_rows: n_parts, stride: dim, start: 0, out: &mut d_w[..dim] });
        });
    }

    fn rope_backward(&self, x: &mut [f32], layout: HeadLayout, positions: &[u32], table: &RopeTable) {
        let row_len = layout.n_heads * layout.head_dim;
        let x = &mut x[..positions.len() * row_len];
        let cost = x.len();
        self.each_row(x, row_len, cost, &|first, x| {
            for (row, &position) in x.chunks_exact_mut(row_len).zip(&positions[first..]) {
                rotate(row, layout, position, table, Turn::Back);
            }
        });
    }

    fn attend_packed(
        &self,
        a: &PackedAttention<'_>,
        q: &[f32],
        kv: &[f32],
        shared: &[f32],
        out: &mut [f32],
        lse: &mut [f32],
    ) {
        attention::packed::forward(self, a, [q, kv, shared], out, lse);
    }

    fn attend_packed_backward(
        &self,
        a: &PackedAttention<'_>,
        saved: &Attended<'_>,
        d_out: &[f32],
        d_q: &mut [f32],
        d_kv: &mut [f32],
        d_shared: &mut [f32],
    ) {
        attention::packed::backward(self, a, saved, d_out, [d_q, d_kv, d_shared]);
    }

    fn swiglu_to(&self, gate: &[f32], up: &[f32], len: usize, out: &mut [f32]) {
        let (gate, up) = (&gate[..len], &up[..len]);
        self.each_row(&mut out[..len], 1, len, &|first, out| {
            self.level.run(SwigluTo { gate: &gate[first..], up: &up[first..], out });
        });
    }

    fn swiglu_backward(
        &self,
        gate: &[f32],
        up: &[f32],
        d_out: &[f32],
        len: usize,
        d_gate: &mut [f32],
        d_up: &mut [f32],
    ) {
        self.both(d_gate, d_up, len, 1, &|first, d_gate, d_up| {
            let [gate, up, d_out] = [gate, up, d_out].map(|values| &values[first..][..d_gate.len()]);
            self.level.run(SwigluBackward { gate, up, d_out, d_gate, d_up });
        });
    }

    fn gather_rows(&self, x: &[f32], rows: &[u32], dim: usize, out: &mut [f32]) {
        let out = &mut out[..rows.len() * dim];
        let cost = out.len();
        self.each_row(out, dim, cost, &|first, out| {
            for (&row, out) in rows[first..].iter().zip(out.chunks_exact_mut(dim)) {
                out.copy_from_slice(&x[row as usize * dim..][..dim]);
            }
        });
    }

    fn scatter_add(&self, x: &[f32], rows: &[u32], dim: usize, out: &mut [f32]) {
        let n = out.len() / dim;
        assert!(rows.iter().all(|row| (*row as usize) < n), "a row beyond the {n} of the output");
        self.each_row(&mut out[..n * dim], dim, rows.len() * dim, &|first, out| {
            self.level.run(Scatter { x, rows, dim, first, out });
        });
    }

    fn combine(&self, y: &[f32], weights: &[f32], at: &[u32], top_k: usize, dim: usize, out: &mut [f32]) {
        let n = (out.len() / dim).min(weights.len() / top_k).min(at.len() / top_k);
        self.each_row(&mut out[..n * dim], dim, n * top_k * dim, &|first, out| {
            let (weights, at) = (&weights[first * top_k..], &at[first * top_k..]);
            self.level.run(Combine { y, weights, at, top_k, dim, out });
        });
    }

    fn weigh_backward(
        &self,
        weights: &[f32],
        slots: &[u32],
        dim: usize,
        hidden: &mut [f32],
        d_hidden: &mut [f32],
        d_weights: &mut [f32],
    ) {
        let d_weights = shared(d_weights);
        self.both(hidden, d_hidden, slots.len(), dim, &|first, hidden, d_hidden| {
            self.level.run(Weigh { weights, slots: &slots[first..], dim, hidden, d_hidden, d_weights });
        });
    }

    fn route_backward(&self, spec: &RouterSpec, logits: &[f32], ids: &[u32], d_weights: &[f32], d_logits: &mut [f32]) {
        let (e, k) = (spec.n_experts, spec.top_k);
        let n = (logits.len().min(d_logits.len()) / e).min(ids.len().min(d_weights.len()) / k);
        let body = |first: usize, d_logits: &mut [f32]| {
            for (t, d_logits) in (first..).zip(d_logits.chunks_exact_mut(e)) {
                let (ids, d_weights) = (&ids[t * k..][..k], &d_weights[t * k..][..k]);
                gradient::token(spec, &logits[t * e..][..e], ids, d_weights, d_logits);
            }
        };
        match n * e < SPLIT_SCORES_MIN {
            true => body(0, &mut d_logits[..n * e]),
            false => self.pool.split_rows(d_logits, n, e, &|_, first, d_logits| body(first, d_logits)),
        }
    }

    fn balance(
        &self,
        spec: &RouterSpec,
        logits: &[f32],
        sequences: &[Range<usize>],
        factor: f32,
        d_logits: &mut [f32],
    ) -> f64 {
        let e = spec.n_experts;
        let filled = || sequences.iter().filter(|rows| !rows.is_empty());
        let alpha = f64::from(factor) / filled().count().max(1) as f64;
        let (mut rest, mut at) = (d_logits, 0);
        let parts: Vec<_> = filled()
            .map(|rows| {
                assert!(at <= rows.start, "sequences lie one after the other");
                let (_, after) = std::mem::take(&mut rest).split_at_mut((rows.start - at) * e);
                let (own, after) = after.split_at_mut(rows.len() * e);
                (rest, at) = (after, rows.end);
                Mutex::new((&logits[rows.start * e..rows.end * e], own, 0.0))
            })
            .collect();
        self.pool.split(parts.len(), &|_, range| {
            for part in &parts[range] {
                let (logits, d_logits, loss) = &mut *part.lock().unwrap_or_else(PoisonError::into_inner);
                *loss = gradient::balance(spec, logits, alpha, d_logits);
            }
        });
        parts.into_iter().map(|part| part.into_inner().unwrap_or_else(PoisonError::into_inner).2).sum()
    }

    fn cross_entropy(&self, logits: &mut [f32], vocab: usize, targets: &[u32], coefficients: &[f32], nll: &mut [f64]) {
        let n = targets.len().min(coefficients.len()).min(logits.len() / vocab).min(nll.len());
        let nll = Mutex::new(nll);
        self.each_row(&mut logits[..n * vocab], vocab, n * vocab, &|first, logits| {
            for (t, row) in (first..).zip(logits.chunks_exact_mut(vocab)) {
                let (target, coefficient, mut own) = (targets[t] as usize, coefficients[t], 0.0);
                self.level.run(CrossEntropy { row, target, coefficient, nll: &mut own });
                nll.lock().unwrap_or_else(PoisonError::into_inner)[t] = own;
            }
        });
    }
}
