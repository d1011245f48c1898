//! y = x·w/rms(x) for rows that are kept, and its gradient.
//!
//! Owns both formulas. Must not join the parts of d_w.

use ops::NormRows;

use crate::kernel::dot::dots;
use crate::kernel::train::lanes;
use crate::level::{Kernel, LANES, Simd};

/// 1/rms(x)
#[inline(always)]
fn inverse_rms<S: Simd>(simd: S, x: &[f32], eps: f32) -> f32 {
    let [[square]] = dots(simd, [x], [x]);
    1.0 / (square / x.len() as f32 + eps).sqrt()
}

/// Rows from `first` on.
pub(crate) struct Norm<'a> {
    pub(crate) rows: &'a NormRows,
    pub(crate) first: usize,
    pub(crate) x: &'a [f32],
    pub(crate) w: &'a [f32],
    /// Of these rows alone.
    pub(crate) y: &'a mut [f32],
}

impl Kernel for Norm<'_> {
    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let Self { rows, first, x, w, y } = self;
        for (t, y) in y.chunks_mut(rows.y_stride).enumerate() {
            let x = &x[(first + t) * rows.x_stride..][..rows.dim];
            let inverse = inverse_rms(simd, x, rows.eps);
            y[..rows.dim].iter_mut().zip(x).zip(w).for_each(|((y, x), w)| *y = x * inverse * w);
        }
    }
}

/// d_x += i·(d_y·w − x·i·mean), with i = 1/rms(x) and mean = i·Σ d_y·w·x/dim, for rows from `first` on.
pub(crate) struct NormBackward<'a> {
    pub(crate) rows: &'a NormRows,
    pub(crate) first: usize,
    pub(crate) x: &'a [f32],
    pub(crate) w: &'a [f32],
    pub(crate) d_y: &'a [f32],
    /// Of these rows alone.
    pub(crate) d_x: &'a mut [f32],
    /// Σ d_y·x·i over these rows: overwritten.
    pub(crate) d_w: &'a mut [f32],
}

impl Kernel for NormBackward<'_> {
    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let Self { rows, first, x, w, d_y, d_x, d_w } = self;
        let (dim, w) = (rows.dim, &w[..rows.dim]);
        d_w.fill(0.0);
        for (t, d_x) in d_x.chunks_mut(rows.x_stride).enumerate() {
            let x = &x[(first + t) * rows.x_stride..][..dim];
            let d_y = &d_y[(first + t) * rows.y_stride..][..dim];
            let inverse = inverse_rms(simd, x, rows.eps);
            let mut sum = simd.splat(0.0);
            for c in 0..dim.div_ceil(LANES) {
                let weighed = simd.mul(simd.load(&lanes(d_y, c)), simd.load(&lanes(w, c)));
                sum = simd.mul_add(weighed, simd.load(&lanes(x, c)), sum);
            }
            let mean = simd.sum(sum) * inverse / dim as f32;
            for ((d_x, x), (d, w)) in d_x[..dim].iter_mut().zip(x).zip(d_y.iter().zip(w)) {
                *d_x += inverse * (d * w - x * inverse * mean);
            }
            for (sum, (x, d)) in d_w.iter_mut().zip(x.iter().zip(d_y)) {
                *sum += d * (x * inverse);
            }
        }
    }
}
