//! Weight rows as they lie in the file with a few rows of activations.
//!
//! Four weight rows are read at a time, so that their sums leave the vectors together; every block is unpacked once for
//! up to four rows of activations. Owns that loop. Must not re-lay out weights.

use std::marker::PhantomData;

use super::groups::{Group32, Group256};
use super::small::Small;
use super::super_block::{Factors, Super};
use super::{Format, Product, ask};
use crate::level::{Kernel, Simd, make, map};

/// A product, by rows.
pub(crate) struct RowProducts<'a, F: Format, D> {
    pub(crate) product: Product<'a, F::Group>,
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
        let Product { w, w_rows, x, .. } = &self.product;
        for row in w_rows.clone().step_by(4) {
            let last = w_rows.end - 1;
            let w = make(|r| F::blocks(w.row((row + r).min(last))));
            let mut t = 0;
            while t < x.n {
                let of = |i: usize| x.row(t + i);
                let n = match x.n - t {
                    1 => self.finish(row, t, map(D::dots(simd, w, [of(0)]), |y| simd.store4(y))),
                    2 => self.finish(row, t, map(D::dots(simd, w, [of(0), of(1)]), |y| simd.store4(y))),
                    3 => self.finish(row, t, map(D::dots(simd, w, [of(0), of(1), of(2)]), |y| simd.store4(y))),
                    _ => self.finish(row, t, map(D::dots(simd, w, [of(0), of(1), of(2), of(3)]), |y| simd.store4(y))),
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
            self.product.set(t + i, row, sums);
        }
        T
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
        for g in 0..n {
            if g % 2 == 0 {
                ask(simd, w, g, 2);
            }
            let (blocks, x) = (map(w, |w| &w[g]), map(x, |x| &x[g]));
            let mut sums = [[simd.splat_i8(0); 4]; T];
            for r in 0..4 {
                let codes = F::codes(simd, blocks[r]);
                for t in 0..T {
                    let q = simd.load_half_i8(&x[t].q);
                    sums[t][r] = match F::BITS {
                        8 => simd.dot_wide(sums[t][r], codes, q),
                        _ => simd.dot_codes(sums[t][r], codes, q),
                    };
                }
            }
            let scale = F::scale4(simd, blocks);
            for t in 0..T {
                let sum = simd.add4_i32(simd.sum_rows(sums[t]), simd.splat4_i32(F::zero::<S>() * x[t].minus_sum));
                let d = simd.splat4(x[t].d);
                totals[t] = simd.mul_add4(simd.mul4(scale, d), simd.to_f4(sum), totals[t]);
                if F::OFFSET {
                    let offset = simd.mul4(F::offset4(simd, blocks), d);
                    let sum = simd.to_f4(simd.splat4_i32(-x[t].minus_sum));
                    totals[t] = simd.mul_add4(offset, sum, totals[t]);
                }
            }
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
        // Decoded a turn ahead, in two places by turns: they are read back one by one, and so are there by then.
        let mut factors = [Factors::NONE; 2];
        F::factors(simd, map(w, |w| &w[0]), &mut factors[0]);
        for g in 0..n {
            ask(simd, w, g, 1);
            let next = (g + 1).min(n - 1);
            F::factors(simd, map(w, |w| &w[next]), &mut factors[(g + 1) % 2]);
            let factors = &factors[g % 2];
            let (blocks, x) = (map(w, |w| &w[g]), map(x, |x| &x[g]));
            let sums = four_blocks::<F, S, T>(simd, blocks, factors, x);
            let scale = F::scale4(simd, blocks);
            for t in 0..T {
                let d = simd.splat4(x[t].d);
                let (sum, minus) = (simd.sum_rows(sums[t]), minus::<F, S>(simd, factors, x[t]));
                let sum = if F::OFFSET { sum } else { simd.add4_i32(sum, minus) };
                totals[t] = simd.mul_add4(simd.mul4(scale, d), simd.to_f4(sum), totals[t]);
                if F::OFFSET {
                    let offset = simd.mul4(F::offset4(simd, blocks), d);
                    totals[t] = simd.mul_add4(offset, simd.to_f4(minus), totals[t]);
                }
            }
        }
        totals
    }
}

/// Lanes whose sums are Σ s·c·q of a block of each of four rows with T groups.
#[inline(always)]
fn four_blocks<F: Super, S: Simd, const T: usize>(
    simd: S,
    blocks: [&F::Block; 4],
    factors: &Factors,
    x: [&Group256; T],
) -> [[S::I8; 4]; T] {
    let mut acc = [[simd.splat_i8(0); 4]; T];
    let mut next = blocks[0];
    for half in 0..2 {
        for r in 0..4 {
            let codes = F::codes(simd, next, half);
            for i in 0..2 {
                let two = 2 * half + i;
                let scales = match F::N_SUB {
                    8 => [factors.scales(r, two); 2],
                    _ => [factors.scales(r, 2 * two), factors.scales(r, 2 * two + 1)],
                };
                for t in 0..T {
                    let parts = x[t].q.as_chunks().0;
                    let q = [simd.load_half_i8(&parts[2 * two]), simd.load_half_i8(&parts[2 * two + 1])];
                    let codes = [codes[2 * i], codes[2 * i + 1]];
                    acc[t][r] = match (F::BITS, F::N_SUB) {
                        (8, 8) => simd.dot_two::<8, false>(acc[t][r], codes, q, scales),
                        (_, 8) => simd.dot_two::<6, false>(acc[t][r], codes, q, scales),
                        (8, _) => simd.dot_two::<8, true>(acc[t][r], codes, q, scales),
                        _ => simd.dot_two::<6, true>(acc[t][r], codes, q, scales),
                    };
                }
            }
            (acc[T - 1][r], next) = simd.in_turn(acc[T - 1][r], blocks[(r + 1) % 4]);
        }
    }
    acc
}

/// −Σ m·q of a block of each of four rows, m the offsets or the scales times the zero point.
#[inline(always)]
fn minus<F: Super, S: Simd>(simd: S, factors: &Factors, x: &Group256) -> S::I4 {
    let mut acc = simd.splat_i8(0);
    for (i, two) in factors.minus.as_flattened().as_chunks().0.iter().enumerate().take(F::N_SUB / 4) {
        let sums = if F::N_SUB == 8 { &x.minus_sums32[..] } else { &x.minus_sums16[..] };
        acc = simd.dot_pairs(acc, two, simd.pairs(sums[2 * i], sums[2 * i + 1]));
    }
    simd.fold(acc)
}
