//! The scalar bodies of a training step's operations.
//!
//! Owns their values, as `reference.rs` owns those of [`Device`](crate::Device): sums in f64, rounded once.

mod attention;

use std::ops::Range;

use super::{Reference, dot, normalise};
use crate::route::gradient;
use crate::{Attended, Gemm, GemmLayout, HeadLayout, NormRows, PackedAttention, RopeTable, RouterSpec, TrainDevice};

/// x += y, rounded once.
fn add(x: &mut f32, y: f64) {
    *x = (f64::from(*x) + y) as f32;
}

/// acc += a·x
fn axpy(acc: &mut [f64], a: f32, x: &[f32]) {
    for (acc, x) in acc.iter_mut().zip(x) {
        *acc += f64::from(a) * f64::from(*x);
    }
}

impl TrainDevice for Reference {
    fn gemm(&self, g: &Gemm, a: &[f32], b: &[f32], c: &mut [f32]) {
        let mut sums = vec![0f64; g.n];
        for i in 0..g.m {
            sums.fill(0.0);
            match g.layout {
                GemmLayout::Nt => {
                    let a = &a[i * g.a_stride..][..g.k];
                    sums.iter_mut().enumerate().for_each(|(j, sum)| *sum = dot(a, &b[j * g.b_stride..][..g.k]));
                }
                GemmLayout::Nn => {
                    (0..g.k).for_each(|p| axpy(&mut sums, a[i * g.a_stride + p], &b[p * g.b_stride..][..g.n]));
                }
                GemmLayout::Tn => {
                    (0..g.k).for_each(|p| axpy(&mut sums, a[p * g.a_stride + i], &b[p * g.b_stride..][..g.n]));
                }
            }
            for (c, sum) in c[i * g.c_stride..][..g.n].iter_mut().zip(&sums) {
                *c = if g.accumulate { f64::from(*c) + sum } else { *sum } as f32;
            }
        }
    }

    fn repeat_row(&self, row: &[f32], n_rows: usize, out: &mut [f32]) {
        out.chunks_exact_mut(row.len()).take(n_rows).for_each(|out| out.copy_from_slice(row));
    }

    fn sum_rows(&self, x: &[f32], n_rows: usize, out: &mut [f32]) {
        let dim = out.len();
        for (i, out) in out.iter_mut().enumerate() {
            add(out, (0..n_rows).map(|t| f64::from(x[t * dim + i])).sum());
        }
    }

    fn sum(&self, x: &[f32], y: &[f32], len: usize, out: &mut [f32]) {
        for (out, (x, y)) in out[..len].iter_mut().zip(x[..len].iter().zip(&y[..len])) {
            *out = x + y;
        }
    }

    fn norm(&self, rows: &NormRows, x: &[f32], w: &[f32], y: &mut [f32]) {
        for t in 0..rows.n_rows {
            let y = &mut y[t * rows.y_stride..][..rows.dim];
            normalise(&x[t * rows.x_stride..][..rows.dim], w, rows.eps, |i, v| y[i] = v);
        }
    }

    fn norm_backward(&self, rows: &NormRows, x: &[f32], w: &[f32], d_y: &[f32], d_x: &mut [f32], d_w: &mut [f32]) {
        let mut d_w_sums = vec![0f64; rows.dim];
        for t in 0..rows.n_rows {
            let x = &x[t * rows.x_stride..][..rows.dim];
            let d_y = &d_y[t * rows.y_stride..][..rows.dim];
            let inverse = 1.0 / (dot(x, x) / rows.dim as f64 + f64::from(rows.eps)).sqrt();
            let terms = || x.iter().zip(w).zip(d_y).map(|((x, w), d)| (f64::from(*x), f64::from(*w), f64::from(*d)));
            let mean = terms().map(|(x, w, d)| d * w * x * inverse).sum::<f64>() / rows.dim as f64;
            for (d_x, (x, w, d)) in d_x[t * rows.x_stride..].iter_mut().zip(terms()) {
                add(d_x, inverse * (d * w - x * inverse * mean));
            }
            for (sum, (x, _, d)) in d_w_sums.iter_mut().zip(terms()) {
                *sum += d * x * inverse;
            }
        }
        d_w.iter_mut().zip(d_w_sums).for_each(|(d_w, sum)| add(d_w, sum));
    }

    fn rope_backward(&self, x: &mut [f32], layout: HeadLayout, positions: &[u32], table: &RopeTable) {
        for (t, &position) in positions.iter().enumerate() {
            for i in 0..table.inv_freq.len() {
                let (cos, sin) = table.cos_sin(position, i);
                let (cos, sin) = (f64::from(cos), f64::from(sin));
                let (first, second) = table.pair(i);
                for h in 0..layout.n_heads {
                    let at = (t * layout.n_heads + h) * layout.head_dim + layout.start;
                    let (a, b) = (f64::from(x[at + first]), f64::from(x[at + second]));
                    x[at + first] = (a * cos + b * sin) as f32;
                    x[at + second] = (b * cos - a * sin) as f32;
                }
            }
        }
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
        attention::forward(a, q, kv, shared, out, lse);
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
        attention::backward(a, saved, d_out, d_q, d_kv, d_shared);
    }

    fn swiglu_to(&self, gate: &[f32], up: &[f32], len: usize, out: &mut [f32]) {
        out[..len].copy_from_slice(&gate[..len]);
        super::ffn::swiglu(&mut out[..len], &up[..len]);
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
        for i in 0..len {
            let (g, u, d) = (f64::from(gate[i]), f64::from(up[i]), f64::from(d_out[i]));
            let sigmoid = 1.0 / (1.0 + (-g).exp());
            d_up[i] = (d * g * sigmoid) as f32;
            d_gate[i] = (d * u * sigmoid * (1.0 + g * (1.0 - sigmoid))) as f32;
        }
    }

    fn gather_rows(&self, x: &[f32], rows: &[u32], dim: usize, out: &mut [f32]) {
        for (&row, out) in rows.iter().zip(out.chunks_exact_mut(dim)) {
            out.copy_from_slice(&x[row as usize * dim..][..dim]);
        }
    }

    fn scatter_add(&self, x: &[f32], rows: &[u32], dim: usize, out: &mut [f32]) {
        for (&row, x) in rows.iter().zip(x.chunks_exact(dim)) {
            for (out, x) in out[row as usize * dim..][..dim].iter_mut().zip(x) {
                *out += x;
            }
        }
    }

    fn combine(&self, y: &[f32], weights: &[f32], at: &[u32], top_k: usize, dim: usize, out: &mut [f32]) {
        let picks = weights.chunks_exact(top_k).zip(at.chunks_exact(top_k));
        for ((weights, at), out) in picks.zip(out.chunks_exact_mut(dim)) {
            for (i, out) in out.iter_mut().enumerate() {
                let weighted = |(w, at): (&f32, &u32)| f64::from(*w) * f64::from(y[*at as usize * dim + i]);
                *out = weights.iter().zip(at).map(weighted).sum::<f64>() as f32;
            }
        }
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
        let rows = hidden.chunks_exact_mut(dim).zip(d_hidden.chunks_exact_mut(dim));
        for (&slot, (hidden, d_hidden)) in slots.iter().zip(rows) {
            let weight = weights[slot as usize];
            d_weights[slot as usize] = dot(hidden, d_hidden) as f32;
            hidden.iter_mut().chain(d_hidden).for_each(|v| *v *= weight);
        }
    }

    fn route_backward(&self, spec: &RouterSpec, logits: &[f32], ids: &[u32], d_weights: &[f32], d_logits: &mut [f32]) {
        let chosen = ids.chunks_exact(spec.top_k).zip(d_weights.chunks_exact(spec.top_k));
        let rows = logits.chunks_exact(spec.n_experts).zip(d_logits.chunks_exact_mut(spec.n_experts));
        for ((ids, d_weights), (logits, d_logits)) in chosen.zip(rows) {
            gradient::token(spec, logits, ids, d_weights, d_logits);
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
        let one = |rows: &Range<usize>| {
            let range = rows.start * e..rows.end * e;
            gradient::balance(spec, &logits[range.clone()], alpha, &mut d_logits[range])
        };
        filled().map(one).sum()
    }

    fn cross_entropy(&self, logits: &mut [f32], vocab: usize, targets: &[u32], coefficients: &[f32], nll: &mut [f64]) {
        let rows = logits.chunks_exact_mut(vocab).zip(nll);
        for ((&target, &coefficient), (row, nll)) in targets.iter().zip(coefficients).zip(rows) {
            let max = f64::from(row.iter().copied().fold(f32::NEG_INFINITY, f32::max));
            let sum: f64 = row.iter().map(|l| (f64::from(*l) - max).exp()).sum();
            *nll = sum.ln() + max - f64::from(row[target as usize]);
            if coefficient == 0.0 {
                row.fill(0.0);
                continue;
            }
            for (i, l) in row.iter_mut().enumerate() {
                let p = (f64::from(*l) - max).exp() / sum;
                let p = if i == target as usize { p - 1.0 } else { p };
                *l = (f64::from(coefficient) * p) as f32;
            }
        }
    }
}
