//! Weight rows as they lie in the file with a few rows of activations.
//!
//! Four weight rows are read at a time, so that their sums leave the vectors together; every block is unpacked once for
//! up to four rows of activations. Owns that loop. Must not re-lay out weights.

use std::marker::PhantomData;
use std::ops::Range;

use ops::WeightMatrix;

use super::groups::{Group32, Group256};
use super::small::Small;
use super::super_block::Super;
use super::{Format, Inputs};
use crate::kernel::matmul::Outputs;
use crate::level::{Kernel, Simd, make, map};

/// The product for some of W's rows.
pub(crate) struct RowProducts<'a, F: Format, D> {
    pub(crate) w: &'a WeightMatrix,
    pub(crate) w_rows: Range<usize>,
    /// Subtracted from a weight row's index to give its place in the output.
    pub(crate) first: usize,
    pub(crate) bias: Option<&'a [f32]>,
    pub(crate) x: Inputs<'a, F::Group>,
    pub(crate) out: Outputs<'a>,
    pub(crate) dots: PhantomData<D>,
}

/// How blocks meet groups.
pub(crate) trait Dots<F: Format> {
    /// Four weight rows with T rows of activations.
    fn dots<S: Simd, const T: usize>(simd: S, w: [&[F::Block]; 4], x: [&[F::Group]; T]) -> [S::F4; T];
}

impl<F: Format, D: Dots<F>> Kernel for RowProducts<'_, F, D> {
    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        for row in self.w_rows.clone().step_by(4) {
            let last = self.w_rows.end - 1;
            let w = make(|r| F::blocks(self.w.row((row + r).min(last))));
            let mut t = 0;
            while t < self.x.n {
                let x = |i: usize| self.x.row(t + i);
                let n = match self.x.n - t {
                    1 => self.finish(row, t, map(D::dots(simd, w, [x(0)]), |y| simd.store4(y))),
                    2 => self.finish(row, t, map(D::dots(simd, w, [x(0), x(1)]), |y| simd.store4(y))),
                    3 => self.finish(row, t, map(D::dots(simd, w, [x(0), x(1), x(2)]), |y| simd.store4(y))),
                    _ => self.finish(row, t, map(D::dots(simd, w, [x(0), x(1), x(2), x(3)]), |y| simd.store4(y))),
                };
                t += n;
            }
        }
    }
}

impl<F: Format, D> RowProducts<'_, F, D> {
    /// Writes what four weight rows from `row` on gave for the inputs from `t` on.
    #[inline(always)]
    fn finish<const T: usize>(&self, row: usize, t: usize, sums: [[f32; 4]; T]) -> usize {
        for (i, sums) in sums.into_iter().enumerate() {
            for (row, sum) in (row..self.w_rows.end).zip(sums) {
                self.out.set(t + i, row - self.first, self.bias.map_or(sum, |bias| sum + bias[row]));
            }
        }
        T
    }
}

/// Asks for what comes after four rows: as many bytes as `n` blocks of each take, from block `g` on. Although four rows
/// are read side by side, memory is asked for in the order of its addresses, in which it is fastest.
#[inline(always)]
fn ask<S: Simd, B: AsRef<[u8]>>(simd: S, w: [&[B]; 4], g: usize, n: usize) {
    let Some(first) = w[0].first() else { return };
    let start = 4 * (size_of_val(w[0]) + g * size_of::<B>());
    for offset in (0..4 * n * size_of::<B>()).step_by(64) {
        simd.prefetch(first.as_ref(), start + offset);
    }
}

/// Blocks of 32 weights.
pub(crate) struct SmallDots;

impl<F: Small> Dots<F> for SmallDots {
    #[inline(always)]
    fn dots<S: Simd, const T: usize>(simd: S, w: [&[F::Block]; 4], x: [&[Group32]; T]) -> [S::F4; T] {
        let n = w[0].len();
        let (w, x) = (map(w, |w| &w[..n]), map(x, |x| &x[..n]));
        let mut totals = [simd.splat4(0.0); T];
        let empty = Group32::default();
        let mut g = 0;
        while g < n {
            let pair = g + 1 < n;
            let next = if pair { g + 1 } else { g };
            ask(simd, w, g, 2);
            let mut sums = [[simd.splat_i32(0); 4]; T];
            for r in 0..4 {
                let codes = F::codes(simd, &w[r][g], &w[r][next]);
                for t in 0..T {
                    let b = if pair { &x[t][next] } else { &empty };
                    let q = simd.load_halves_i8(&x[t][g].q, &b.q);
                    sums[t][r] = match F::BITS {
                        8 => simd.dot_wide(sums[t][r], codes, q),
                        _ => simd.dot_codes(sums[t][r], codes, q),
                    };
                }
            }
            let mut halves = [[simd.splat4_i32(0); 2]; T];
            for t in 0..T {
                halves[t] = simd.sum_halves(sums[t]);
            }
            for (h, g) in (g..=next).enumerate() {
                let blocks = map(w, |w| &w[g]);
                let scale = F::scale4(simd, blocks);
                for t in 0..T {
                    let x = &x[t][g];
                    let sum = simd.add4_i32(halves[t][h], simd.splat4_i32(F::zero::<S>() * x.minus_sum));
                    let d = simd.splat4(x.d);
                    totals[t] = simd.mul_add4(simd.mul4(scale, d), simd.to_f4(sum), totals[t]);
                    if F::OFFSET {
                        let offset = simd.mul4(F::offset4(simd, blocks), d);
                        let sum = simd.to_f4(simd.splat4_i32(-x.minus_sum));
                        totals[t] = simd.mul_add4(offset, sum, totals[t]);
                    }
                }
            }
            g += 2;
        }
        totals
    }
}

/// Blocks of 256 weights.
pub(crate) struct SuperDots;

impl<F: Super> Dots<F> for SuperDots {
    #[inline(always)]
    fn dots<S: Simd, const T: usize>(simd: S, w: [&[F::Block]; 4], x: [&[Group256]; T]) -> [S::F4; T] {
        let n = w[0].len();
        let (w, x) = (map(w, |w| &w[..n]), map(x, |x| &x[..n]));
        let mut totals = [simd.splat4(0.0); T];
        for g in 0..n {
            ask(simd, w, g, 1);
            let mut sums = [[simd.splat4_i32(0); 4]; T];
            let mut minus_sums = [[simd.splat4_i32(0); 4]; T];
            for r in 0..4 {
                let rows = block::<F, S, T>(simd, &w[r][g], map(x, |x| &x[g]));
                for t in 0..T {
                    (sums[t][r], minus_sums[t][r]) = rows[t];
                }
            }
            let blocks = map(w, |w| &w[g]);
            let scale = F::scale4(simd, blocks);
            for t in 0..T {
                let d = simd.splat4(x[t][g].d);
                let sum = simd.to_f4(simd.sum_each(sums[t]));
                totals[t] = simd.mul_add4(simd.mul4(scale, d), sum, totals[t]);
                if F::OFFSET {
                    let offset = simd.mul4(F::offset4(simd, blocks), d);
                    let sum = simd.to_f4(simd.sum_each(minus_sums[t]));
                    totals[t] = simd.mul_add4(offset, sum, totals[t]);
                }
            }
        }
        totals
    }
}

/// One block with T groups: Σ s·c·q, the zero point's part in it, and −Σ m·q where there are offsets.
#[inline(always)]
fn block<F: Super, S: Simd, const T: usize>(simd: S, block: &F::Block, x: [&Group256; T]) -> [(S::I4, S::I4); T] {
    let scales = F::scales(simd, block);
    let minus = F::minus(simd, block);
    let mut acc = [simd.splat_i32(0); T];
    for j in 0..4 {
        let codes = F::codes(simd, block, j);
        let [a, b] = F::PARTS[j];
        let scale = match F::N_SUB {
            8 => simd.pick_halves(scales[0], a, b),
            _ => simd.pick_quarters(scales[j / 2], a % 4, b % 4),
        };
        for t in 0..T {
            let (parts, _) = x[t].q.as_chunks::<32>();
            let q = simd.load_halves_i8(&parts[a], &parts[b]);
            acc[t] = match F::BITS {
                8 => simd.dot_wide_scaled(acc[t], codes, q, scale),
                _ => simd.dot_scaled(acc[t], codes, q, scale),
            };
        }
    }
    make(|t| {
        let sum = simd.narrow(acc[t]);
        let minus = match F::N_SUB {
            8 => simd.dot2x8(minus[0], &x[t].minus_sums32),
            _ => {
                let [a, b] = &x[t].minus_sums16;
                simd.add4_i32(simd.dot2x8(minus[0], a), simd.dot2x8(minus[1], b))
            }
        };
        if F::OFFSET { (sum, minus) } else { (simd.add4_i32(sum, minus), minus) }
    })
}
