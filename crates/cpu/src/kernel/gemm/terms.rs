//! C (+)= op(A)·op(B) in f32 by tiles of BF16, where the level has them: each factor is a sum of three terms, or of two.
//!
//! An f32 has 24 bits and a BF16 number 8, so three BF16 numbers make one f32 exactly. A tile product multiplies BF16 numbers
//! exactly and sums in f32; of the nine products of terms the six largest are taken, which leaves out less than 2⁻²³ of
//! |a·b|: what one rounding may cost, in a sum that is rounded once for each product anyway. Six products of tiles take less
//! than half the time of one by vectors of f32. Two terms round a factor to 2⁻¹⁶ of itself and take three products. Owns
//! packing and the order of these sums, which depends on `k` alone. Must not choose blocks.
//!
//! Numbers below f32's normal range count as zeros; what exceeds BF16's, which ends 2⁻⁸ below f32's end, becomes NaN.

use std::ops::Range;

use super::{Operand, Target};
use crate::kernel::panel::square;
use crate::level::{Kernel, LANES, Line, Simd, Sums, Tiles, make};

/// Rows and columns of C that two by two tiles of sums cover.
pub(crate) const SIDE: usize = 2 * LANES;

/// Steps of k in a tile.
const DEPTH: usize = 2 * LANES;

/// Steps that are packed at a time. The sums wait in C meanwhile, which costs as much as packing does.
const STEPS: usize = 1024;

/// Values of B that are packed at a time: 1 or 1.5 MB, which stay in the second-level cache.
const B_VALUES: usize = 1 << 18;

/// [`DEPTH`] steps of [`SIDE`] lines of a factor: `[term][tile][line of a tile]`.
pub(crate) type Terms<const N: usize> = [[[Line; LANES]; 2]; N];

/// Columns that are packed at a time.
fn columns_at_once(k: usize) -> usize {
    B_VALUES / k.clamp(DEPTH, STEPS) / SIDE * SIDE
}

/// Lines of scratch that a block of `n_cols` columns needs: some of its columns, and some rows, each of `n_terms` terms.
pub(crate) fn n_lines(n_terms: usize, k: usize, n_cols: usize) -> usize {
    let depth = k.min(STEPS).div_ceil(DEPTH);
    (n_cols.min(columns_at_once(k)).div_ceil(SIDE) + 1) * depth * n_terms * size_of::<Terms<1>>() / size_of::<Line>()
}

/// Rows by columns of a product of factors that are N terms each.
pub(crate) struct TermGemm<'a, C, const N: usize> {
    pub(crate) a: Operand<'a>,
    pub(crate) b: Operand<'a>,
    /// Steps of the sums.
    pub(crate) k: usize,
    pub(crate) rows: Range<usize>,
    pub(crate) cols: Range<usize>,
    pub(crate) c: C,
    /// Whether C is added to.
    pub(crate) accumulate: bool,
    /// [`n_lines`] lines.
    pub(crate) lines: &'a mut [Line],
}

impl<C: Target, const N: usize> Kernel for TermGemm<'_, C, N> {
    #[inline(always)]
    fn run<S: Simd>(mut self, simd: S) {
        let Some(tiles) = simd.tiles(size_of::<Line>()) else { panic!("tiles at a level without them") };
        let lines = std::mem::take(&mut self.lines);
        let terms = lines.as_chunks_mut().0.as_chunks_mut().0.as_chunks_mut::<N>().0;
        let (rows, cols) = (self.rows.clone(), self.cols.clone());
        let n_columns = columns_at_once(self.k);
        let mut sums = Sums::ZERO_F32;
        let mut from = 0;
        loop {
            let steps = from..self.k.min(from + STEPS);
            let depth = steps.len().div_ceil(DEPTH);
            let (a_terms, b_terms) = terms.split_at_mut(depth);
            let adds = self.accumulate || from > 0;
            for first in cols.clone().step_by(n_columns) {
                let cols = first..cols.end.min(first + n_columns);
                for (col, to) in cols.clone().step_by(SIDE).zip(b_terms.chunks_mut(depth.max(1))) {
                    pack_columns(simd, &tiles, &self.b, &steps, col..cols.end.min(col + SIDE), to);
                }
                for row in rows.clone().step_by(SIDE) {
                    let rows = row..rows.end.min(row + SIDE);
                    pack_rows(simd, &tiles, &self.a, &steps, rows.clone(), a_terms);
                    for (col, b_terms) in cols.clone().step_by(SIDE).zip(b_terms.chunks(depth.max(1))) {
                        let cols = col..cols.end.min(col + SIDE);
                        match (rows.len() > LANES, cols.len() > LANES) {
                            (false, false) => multiply::<1, 1, N>(&tiles, a_terms, b_terms, &mut sums),
                            (false, true) => multiply::<1, 2, N>(&tiles, a_terms, b_terms, &mut sums),
                            (true, false) => multiply::<2, 1, N>(&tiles, a_terms, b_terms, &mut sums),
                            (true, true) => multiply::<2, 2, N>(&tiles, a_terms, b_terms, &mut sums),
                        }
                        self.finish(simd, &sums, rows.clone(), cols, adds);
                    }
                }
            }
            from += STEPS;
            if from >= self.k {
                return;
            }
        }
    }
}

impl<C: Target, const N: usize> TermGemm<'_, C, N> {
    /// Puts sums into C, or adds them.
    #[inline(always)]
    fn finish<S: Simd>(&mut self, simd: S, sums: &Sums<f32>, rows: Range<usize>, cols: Range<usize>, adds: bool) {
        for (i, row) in rows.enumerate() {
            for (v, col) in cols.clone().step_by(LANES).enumerate() {
                let sums = &sums.0[i / LANES * 2 + v][i % LANES];
                let mut to = *sums;
                // A constant length needs no loop.
                if cols.end - col >= LANES {
                    if adds {
                        self.c.get(row, col, &mut to);
                        simd.store(simd.add(simd.load(&to), simd.load(sums)), &mut to);
                    }
                    self.c.set(row, col, &to);
                } else {
                    let to = &mut to[..cols.end - col];
                    if adds {
                        self.c.get(row, col, to);
                        to.iter_mut().zip(sums).for_each(|(to, sum)| *to += sum);
                    }
                    self.c.set(row, col, to);
                }
            }
        }
    }
}

/// The sums of R by V tiles.
#[inline(always)]
fn multiply<const R: usize, const V: usize, const N: usize>(
    tiles: &Tiles,
    a: &[Terms<N>],
    b: &[Terms<N>],
    sums: &mut Sums<f32>,
) {
    tiles.clear::<2>();
    for (a, b) in a.iter().zip(b) {
        tiles.terms::<R, V, N>(a, b);
    }
    tiles.take::<2>(sums);
}

/// Rows of A as rows of tiles: lane i has steps i and i + 16.
#[inline(always)]
fn pack_rows<S: Simd, const N: usize>(
    simd: S,
    tiles: &Tiles,
    from: &Operand<'_>,
    steps: &Range<usize>,
    rows: Range<usize>,
    to: &mut [Terms<N>],
) {
    for (step, to) in steps.clone().step_by(DEPTH).zip(to) {
        for tile in 0..2 {
            let row = rows.start + tile * LANES;
            match *from {
                Operand::Along(inputs) => {
                    for (i, row) in (row..row + LANES).enumerate() {
                        let values = if row < rows.end { &inputs.row(row, steps.end)[step..] } else { &[] };
                        let (low, high) = values.split_at(LANES.min(values.len()));
                        tiles.split_terms(low, high, line_of(to, tile, i));
                    }
                }
                Operand::Across { values, stride } => {
                    let n = rows.end.saturating_sub(row).min(LANES);
                    let line = |i: usize| some(values, stride, (step + i, steps.end), row, n);
                    let low: [[f32; LANES]; LANES] = square(simd, make(line), 0, 0.0);
                    let high: [[f32; LANES]; LANES] = square(simd, make(|i| line(LANES + i)), 0, 0.0);
                    for (i, (low, high)) in low.iter().zip(&high).enumerate() {
                        tiles.split_terms(low, high, line_of(to, tile, i));
                    }
                }
                Operand::Weight(_) => unreachable!("weights have an order of their own"),
            }
        }
    }
}

/// Columns of B as columns of tiles: line i has steps i and i + 16 by turns.
#[inline(always)]
fn pack_columns<S: Simd, const N: usize>(
    simd: S,
    tiles: &Tiles,
    from: &Operand<'_>,
    steps: &Range<usize>,
    cols: Range<usize>,
    to: &mut [Terms<N>],
) {
    for (step, to) in steps.clone().step_by(DEPTH).zip(to) {
        for tile in 0..2 {
            let col = cols.start + tile * LANES;
            let n = cols.end.saturating_sub(col).min(LANES);
            match *from {
                Operand::Along(inputs) => {
                    let column = |i: usize| if i < n { &inputs.row(col + i, steps.end)[step..] } else { &[] };
                    let [low, high] = transposed(simd, make(column));
                    for (i, (low, high)) in low.iter().zip(&high).enumerate() {
                        tiles.split_terms(low, high, line_of(to, tile, i));
                    }
                }
                Operand::Across { values, stride } => {
                    for i in 0..LANES {
                        let low = some(values, stride, (step + i, steps.end), col, n);
                        let high = some(values, stride, (step + LANES + i, steps.end), col, n);
                        tiles.split_terms(low, high, line_of(to, tile, i));
                    }
                }
                Operand::Weight(_) => unreachable!("weights have an order of their own"),
            }
        }
    }
}

/// A line of a tile of each term.
#[inline(always)]
fn line_of<const N: usize>(terms: &mut Terms<N>, tile: usize, i: usize) -> [&mut Line; N] {
    terms.each_mut().map(|term| &mut term[tile][i])
}

/// Steps 0 to 15 and 16 to 31 of sixteen lines, step by step; zeros where lines are shorter.
#[inline(always)]
fn transposed<S: Simd>(simd: S, lines: [&[f32]; LANES]) -> [[[f32; LANES]; LANES]; 2] {
    let mut to = [[[0.0; LANES]; LANES]; 2];
    if let Some(whole) = whole(lines) {
        simd.transpose(make(|i| &whole[i][0]), &mut to[0]);
        simd.transpose(make(|i| &whole[i][1]), &mut to[1]);
        return to;
    }
    let mut staged = [[[0.0; LANES]; 2]; LANES];
    for (staged, line) in staged.iter_mut().zip(lines) {
        let n = line.len().min(DEPTH);
        staged.as_flattened_mut()[..n].copy_from_slice(&line[..n]);
    }
    simd.transpose(make(|i| &staged[i][0]), &mut to[0]);
    simd.transpose(make(|i| &staged[i][1]), &mut to[1]);
    to
}

/// The lines' first 32 values, if all have as many.
#[inline(always)]
fn whole(lines: [&[f32]; LANES]) -> Option<[&[[f32; LANES]; 2]; LANES]> {
    const NONE: &[[f32; LANES]; 2] = &[[0.0; LANES]; 2];
    let mut whole = [NONE; LANES];
    for (to, line) in whole.iter_mut().zip(lines) {
        *to = line.as_chunks().0.first_chunk()?;
    }
    Some(whole)
}

/// `n` values of step `k` from `at` on; zeros for steps from `end` on.
#[inline(always)]
fn some(values: &[f32], stride: usize, (k, end): (usize, usize), at: usize, n: usize) -> &[f32] {
    const ZEROS: &[f32; LANES] = &[0.0; LANES];
    if k < end && n > 0 { &values[k * stride + at..][..n] } else { &ZEROS[..n] }
}
