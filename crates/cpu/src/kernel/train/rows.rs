//! Sums of rows: all of them, or those that were picked.
//!
//! Owns the order of their terms: as they are listed. Must not pick.

use crate::kernel::dot::{add_scaled, dots};
use crate::kernel::train::{lanes, set_lanes};
use crate::level::{Kernel, LANES, Simd};
use crate::pool::Shared32;

/// Adds the columns from `start` on of every row of x to `out`, which are those columns' sums.
pub(crate) struct SumColumns<'a> {
    pub(crate) x: &'a [f32],
    pub(crate) n_rows: usize,
    /// From one row of x to the next.
    pub(crate) stride: usize,
    pub(crate) start: usize,
    pub(crate) out: &'a mut [f32],
}

impl Kernel for SumColumns<'_> {
    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let Self { x, n_rows, stride, start, out } = self;
        let (chunks, rest) = out.as_chunks_mut::<LANES>();
        for (c, out) in chunks.iter_mut().enumerate() {
            let mut sum = simd.splat(0.0);
            for t in 0..n_rows {
                sum = simd.add(sum, simd.load(&lanes(&x[t * stride + start + c * LANES..], 0)));
            }
            simd.store(simd.add(simd.load(out), sum), out);
        }
        let start = start + chunks.len() * LANES;
        for (i, out) in rest.iter_mut().enumerate() {
            *out += (0..n_rows).fold(0.0, |sum, t| sum + x[t * stride + start + i]);
        }
    }
}

/// out\[t\] = Σ_i weights\[t,i\]·y\[at\[t,i\]\] for as many rows as `out` has.
pub(crate) struct Combine<'a> {
    pub(crate) y: &'a [f32],
    pub(crate) weights: &'a [f32],
    pub(crate) at: &'a [u32],
    pub(crate) top_k: usize,
    pub(crate) dim: usize,
    pub(crate) out: &'a mut [f32],
}

impl Kernel for Combine<'_> {
    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let Self { y, weights, at, top_k, dim, out } = self;
        let picks = weights.chunks_exact(top_k).zip(at.chunks_exact(top_k));
        for (out, (weights, at)) in out.chunks_exact_mut(dim).zip(picks) {
            for c in 0..dim.div_ceil(LANES) {
                let mut sum = simd.splat(0.0);
                for (weight, at) in weights.iter().zip(at) {
                    let y = simd.load(&lanes(&y[*at as usize * dim..][..dim], c));
                    sum = simd.mul_add(simd.splat(*weight), y, sum);
                }
                let mut to = [0.0; LANES];
                simd.store(sum, &mut to);
                set_lanes(out, c, to);
            }
        }
    }
}

/// d_weights\[slot\] = g·h, then g and h times the slot's weight.
pub(crate) struct Weigh<'a> {
    pub(crate) weights: &'a [f32],
    pub(crate) slots: &'a [u32],
    pub(crate) dim: usize,
    pub(crate) hidden: &'a mut [f32],
    pub(crate) d_hidden: &'a mut [f32],
    pub(crate) d_weights: &'a [Shared32],
}

impl Kernel for Weigh<'_> {
    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let Self { weights, slots, dim, hidden, d_hidden, d_weights } = self;
        let rows = hidden.chunks_exact_mut(dim).zip(d_hidden.chunks_exact_mut(dim));
        for (&slot, (hidden, d_hidden)) in slots.iter().zip(rows) {
            let weight = weights[slot as usize];
            let [[product]] = dots(simd, [&*hidden], [&*d_hidden]);
            d_weights[slot as usize].set(product);
            hidden.iter_mut().for_each(|v| *v *= weight);
            d_hidden.iter_mut().for_each(|v| *v *= weight);
        }
    }
}

/// out\[row − first\] += x\[i\] in the order of i, for the rows that `out` has.
pub(crate) struct Scatter<'a> {
    pub(crate) x: &'a [f32],
    pub(crate) rows: &'a [u32],
    pub(crate) dim: usize,
    pub(crate) first: usize,
    pub(crate) out: &'a mut [f32],
}

impl Kernel for Scatter<'_> {
    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let Self { x, rows, dim, first, out } = self;
        let n = out.len() / dim;
        for (i, &row) in rows.iter().enumerate() {
            let row = (row as usize).wrapping_sub(first);
            if row < n {
                add_scaled(simd, [1.0], [&x[i * dim..][..dim]], &mut out[row * dim..][..dim]);
            }
        }
    }
}
