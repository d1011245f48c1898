//! Sixteen weight rows, unpacked once, with many rows of activations.
//!
//! A panel is a run of lines of 64 bytes, which hold something of each of the sixteen rows: four codes, a scale. For
//! each group: the codes' lines, then the scales', then the terms that meet −Σq, then d and o. Owns that layout.
//! Must not know where activations come from.

use std::marker::PhantomData;

use super::groups::{Group, Group32, Group256};
use super::small::Small;
use super::super_block::{Factors, Super};
use super::{Format, Product, UNIT, ask};
use crate::level::{Kernel, LANES, Line, Simd, make, map};

/// A product, by panels.
pub(crate) struct PanelProducts<'a, F: Format, P> {
    pub(crate) product: Product<'a, F::Group>,
    /// Scratch for [`Panel::LINES`] per group, of [`panels_at_once`].
    pub(crate) panel: &'a mut [Line],
    pub(crate) kind: PhantomData<P>,
}

/// How blocks become lines, and lines meet groups.
pub(crate) trait Panel<F: Format> {
    /// Lines of a group.
    const LINES: usize;
    /// Unpacks one block of each row.
    fn pack<S: Simd>(simd: S, blocks: [&F::Block; UNIT], to: &mut [Line]);
    /// Adds a group of each of T rows of activations to their sums.
    fn add<S: Simd, const T: usize>(simd: S, lines: &[Line], x: [&F::Group; T], sums: &mut [S::F32; T]);
}

impl<F: Format, P: Panel<F>> Kernel for PanelProducts<'_, F, P> {
    #[inline(always)]
    fn run<S: Simd>(mut self, simd: S) {
        let n_groups = self.product.w.cols / F::Group::LEN;
        let n_panels = panels_at_once(n_groups * P::LINES);
        for first in self.product.w_rows.clone().step_by(n_panels * UNIT) {
            let panels = || (first..self.product.w_rows.end).step_by(UNIT).take(n_panels);
            for (row, panel) in panels().zip(self.panel.chunks_exact_mut(n_groups * P::LINES)) {
                let last = self.product.w_rows.end - 1;
                let rows: [&[F::Block]; UNIT] =
                    make(|r| &F::blocks(self.product.w.row((row + r).min(last)))[..n_groups]);
                for (g, lines) in panel.chunks_exact_mut(P::LINES).enumerate() {
                    ask(simd, rows, g, 1);
                    P::pack(simd, map(rows, |row| &row[g]), lines);
                }
            }
            let mut t = 0;
            while t < self.product.x.n {
                let n = self.product.x.n - t;
                t += match S::PANEL_TOKENS {
                    8 if n >= 8 => self.tile::<S, 8>(simd, first, t, n_panels),
                    4.. if n >= 4 => self.tile::<S, 4>(simd, first, t, n_panels),
                    2.. if n >= 2 => self.tile::<S, 2>(simd, first, t, n_panels),
                    _ => self.tile::<S, 1>(simd, first, t, n_panels),
                };
            }
        }
    }
}

/// Panels that are unpacked together, so that a tile of activations stays in the first-level cache while it meets them
/// from the second.
pub(crate) fn panels_at_once(n_lines: usize) -> usize {
    ((256 << 10) / (64 * n_lines.max(1))).clamp(1, 4)
}

impl<F: Format, P: Panel<F>> PanelProducts<'_, F, P> {
    /// The panels from row `first` on with the inputs `t..t + T`.
    #[inline(always)]
    fn tile<S: Simd, const T: usize>(&mut self, simd: S, first: usize, t: usize, n_panels: usize) -> usize {
        let n_groups = self.product.w.cols / F::Group::LEN;
        let x: [&[F::Group]; T] = make(|i| &self.product.x.row(t + i)[..n_groups]);
        let panels = (first..self.product.w_rows.end).step_by(UNIT).take(n_panels);
        for (row, panel) in panels.zip(self.panel.chunks_exact(n_groups * P::LINES)) {
            let mut sums = [simd.splat(0.0); T];
            for (g, lines) in panel.chunks_exact(P::LINES).enumerate() {
                P::add(simd, lines, map(x, |x| &x[g]), &mut sums);
            }
            for (i, sum) in sums.into_iter().enumerate() {
                let mut values = [0.0; LANES];
                simd.store(sum, &mut values);
                self.product.set(t + i, row, values);
            }
        }
        T
    }
}

/// `STEPS` lines of codes with as many fours of activations, for the format's number of bits.
#[inline(always)]
pub(crate) fn dots<F: Format, S: Simd, const T: usize, const STEPS: usize, const SCALED: bool>(
    simd: S,
    acc: [S::I32; T],
    w: &[Line; STEPS],
    x: [&[[i8; 4]; STEPS]; T],
    scale: S::I16,
) -> [S::I32; T] {
    match F::BITS {
        4 => simd.panel_dots::<T, STEPS, 4, SCALED>(acc, w, x, scale),
        5 => simd.panel_dots::<T, STEPS, 5, SCALED>(acc, w, x, scale),
        6 => simd.panel_dots::<T, STEPS, 6, SCALED>(acc, w, x, scale),
        _ => simd.panel_dots::<T, STEPS, 8, SCALED>(acc, w, x, scale),
    }
}

/// `N` lines from `at` on.
#[inline(always)]
fn lines<const N: usize>(lines: &[Line], at: usize) -> &[Line; N] {
    match lines[at..].first_chunk() {
        Some(lines) => lines,
        None => unreachable!("a group has them"),
    }
}

/// `N` fours of codes from column `at` on.
#[inline(always)]
fn fours<const N: usize>(q: &[i8], at: usize) -> &[[i8; 4]; N] {
    match q[at..].as_chunks().0.first_chunk() {
        Some(fours) => fours,
        None => unreachable!("a group has them"),
    }
}

/// A line of f32: one number of each row's block, four blocks at a time.
#[inline(always)]
pub(super) fn numbers<S: Simd, B>(simd: S, blocks: [&B; UNIT], of_four: impl Fn([&B; 4]) -> S::F4, to: &mut Line) {
    for (four, to) in blocks.as_chunks::<4>().0.iter().zip(to.as_chunks_mut::<16>().0) {
        let values = simd.store4(of_four(*four));
        for (value, to) in values.into_iter().zip(to.as_chunks_mut::<4>().0) {
            *to = value.to_le_bytes();
        }
    }
}

/// A group's sums in integers, times the line's numbers and the activations' scales, added to the sums in f32.
#[inline(always)]
pub(super) fn scale_and_add<S: Simd, const T: usize>(
    simd: S,
    line: &Line,
    d: [f32; T],
    acc: [S::I32; T],
    sums: &mut [S::F32; T],
) {
    let scale = simd.as_f32(simd.load_u8(line));
    for t in 0..T {
        sums[t] = simd.mul_add(simd.mul(scale, simd.splat(d[t])), simd.to_f32(acc[t]), sums[t]);
    }
}

/// Blocks of 32 weights: 8 lines of codes, d, o.
pub(crate) struct SmallPanel;

impl<F: Small> Panel<F> for SmallPanel {
    const LINES: usize = 10;

    #[inline(always)]
    fn pack<S: Simd>(simd: S, blocks: [&F::Block; UNIT], to: &mut [Line]) {
        // Thirty-two codes of sixteen rows fill the first eight columns of a square; the others go unused.
        let mut codes = [[0; 64]; UNIT];
        for (block, codes) in blocks.iter().zip(&mut codes) {
            simd.store_half(F::codes(simd, block), &mut codes.as_chunks_mut().0[0]);
        }
        let mut square = [[0; 64]; UNIT];
        simd.transpose(codes.each_ref(), &mut square);
        to[..8].copy_from_slice(&square[..8]);
        numbers(simd, blocks, |four| F::scale4(simd, four), &mut to[8]);
        if F::OFFSET {
            numbers(simd, blocks, |four| F::offset4(simd, four), &mut to[9]);
        }
    }

    #[inline(always)]
    fn add<S: Simd, const T: usize>(simd: S, w: &[Line], x: [&Group32; T], sums: &mut [S::F32; T]) {
        let zero = F::zero::<S>();
        let acc = map(x, |x| simd.splat_i32(zero * x.minus_sum));
        let d = map(x, |x| x.d);
        let ones = simd.splat_i16(1);
        let acc = dots::<F, S, T, 8, false>(simd, acc, lines(w, 0), map(x, |x| fours(&x.q, 0)), ones);
        scale_and_add(simd, &w[8], d, acc, sums);
        if F::OFFSET {
            scale_and_add(simd, &w[9], d, map(x, |x| simd.splat_i32(-x.minus_sum)), sums);
        }
    }
}

/// Blocks of 256 weights: 64 lines of codes, N_SUB of scales, N_SUB / 2 of pairs that meet −Σq, d, o. Scales of formats
/// with 8 sub-blocks leave half of their lines unused.
pub(crate) struct SuperPanel;

const SCALES: usize = 64;
const MINUS: usize = SCALES + 16;
const D: usize = MINUS + 8;
const O: usize = D + 1;

/// The sub-blocks of a pair of [`Factors`].
#[inline(always)]
fn subs<F: Super>(pair: usize) -> [usize; 2] {
    match F::N_SUB {
        8 => [2 * pair, 2 * pair + 1],
        _ => [pair / 2 * 4 + pair % 2, pair / 2 * 4 + pair % 2 + 2],
    }
}

impl<F: Super> Panel<F> for SuperPanel {
    const LINES: usize = O + 1;

    #[inline(always)]
    fn pack<S: Simd>(simd: S, blocks: [&F::Block; UNIT], to: &mut [Line]) {
        let mut rows = [[0; 128]; UNIT];
        for (half, to) in to.as_chunks_mut::<32>().0.iter_mut().enumerate().take(2) {
            for (block, row) in blocks.iter().zip(&mut rows) {
                let codes = F::codes(simd, block, half);
                for (codes, to) in codes.into_iter().zip(row.as_chunks_mut().0) {
                    simd.store_half(codes, to);
                }
            }
            for (i, to) in to.as_chunks_mut::<16>().0.iter_mut().enumerate() {
                simd.transpose(map(rows.each_ref(), |row| &row.as_chunks::<64>().0[i]), to);
            }
        }
        for (i, four) in blocks.as_chunks::<4>().0.iter().enumerate() {
            let mut factors = Factors::NONE;
            F::factors(simd, *four, &mut factors);
            for pair in 0..F::N_SUB / 2 {
                for r in 0..4 {
                    let at = 16 * i + 4 * r;
                    let [a, b] = factors.scales(r, pair);
                    for (scale, sub) in [a, b].into_iter().zip(subs::<F>(pair)) {
                        let [low, high] = scale.to_le_bytes();
                        to[SCALES + sub][at..at + 4].copy_from_slice(&[low, high, low, high]);
                    }
                }
                let rows = &factors.minus[pair / 4].as_chunks::<8>().0[pair % 4];
                for (term, to) in rows.iter().zip(to[MINUS + pair][16 * i..].as_chunks_mut().0) {
                    *to = term.to_le_bytes();
                }
            }
        }
        numbers(simd, blocks, |four| F::scale4(simd, four), &mut to[D]);
        if F::OFFSET {
            numbers(simd, blocks, |four| F::offset4(simd, four), &mut to[O]);
        }
    }

    #[inline(always)]
    fn add<S: Simd, const T: usize>(simd: S, w: &[Line], x: [&Group256; T], sums: &mut [S::F32; T]) {
        let w = &w[..O + 1];
        let i16s = |line: &Line| simd.as_i16(simd.load_u8(line));
        let mut acc = [simd.splat_i32(0); T];
        for part in 0..8 {
            if F::N_SUB == 8 {
                let scale = i16s(&w[SCALES + part]);
                let q = map(x, |x| fours(&x.q, 32 * part));
                acc = dots::<F, S, T, 8, true>(simd, acc, lines(w, 8 * part), q, scale);
            } else {
                for half in 0..2 {
                    let scale = i16s(&w[SCALES + 2 * part + half]);
                    let q = map(x, |x| fours(&x.q, 32 * part + 16 * half));
                    acc = dots::<F, S, T, 4, true>(simd, acc, lines(w, 8 * part + 4 * half), q, scale);
                }
            }
        }
        let mut minus = if F::OFFSET { [simd.splat_i32(0); T] } else { acc };
        for i in 0..F::N_SUB / 2 {
            let terms = i16s(&w[MINUS + i]);
            for t in 0..T {
                let pair = if F::N_SUB == 8 { x[t].minus_sums32[i % 4] } else { x[t].minus_sums16[i] };
                minus[t] = simd.dot2(minus[t], terms, simd.splat_pair(pair));
            }
        }
        let d = map(x, |x| x.d);
        if F::OFFSET {
            scale_and_add(simd, &w[D], d, acc, sums);
            scale_and_add(simd, &w[O], d, minus, sums);
        } else {
            scale_and_add(simd, &w[D], d, minus, sums);
        }
    }
}
