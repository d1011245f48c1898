//! y = x·Wᵀ for a range of W's rows.
//!
//! A panel of weight rows is decoded to f32 once and meets every row of the step: x is read once per panel, each weight
//! once per step. Owns decoding and tiling; the dot products are in `dot.rs`.

use std::ops::Range;

use ops::{WeightFormat, WeightMatrix};

use super::dot::dots;
use crate::level::{Kernel, LANES, Simd};
use crate::pool::Shared32;

/// Weight rows decoded at a time. Eight rows of 2,048 columns are 64 KB: they stay in the second-level cache.
pub(crate) const PANEL: usize = 8;

/// The step's rows that a matrix meets.
#[derive(Clone, Copy)]
pub(crate) struct Inputs<'a> {
    /// Where the rows lie.
    pub(crate) values: &'a [f32],
    /// From one row to the next.
    pub(crate) stride: usize,
    /// First value inside a row.
    pub(crate) start: usize,
    /// Which rows, each pick divided by `per_row`; all in order where `None`.
    pub(crate) picks: Option<(&'a [u32], usize)>,
    /// How many.
    pub(crate) n: usize,
}

impl<'a> Inputs<'a> {
    #[inline(always)]
    pub(crate) fn row(&self, i: usize, len: usize) -> &'a [f32] {
        let row = self.picks.map_or(i, |(picks, per_row)| picks[i] as usize / per_row);
        &self.values[row * self.stride + self.start..][..len]
    }
}

/// Where results go: row i's result for weight row r is `out[place(i)·stride + start + r]`.
#[derive(Clone, Copy)]
pub(crate) struct Outputs<'a> {
    pub(crate) values: &'a [Shared32],
    pub(crate) stride: usize,
    pub(crate) start: usize,
    /// Row of each input's result; in order where `None`.
    pub(crate) places: Option<&'a [u32]>,
}

impl Outputs<'_> {
    #[inline(always)]
    pub(crate) fn get(&self, i: usize, r: usize) -> f32 {
        let place = self.places.map_or(i, |places| places[i] as usize);
        self.values[place * self.stride + self.start + r].get()
    }

    #[inline(always)]
    pub(crate) fn set(&self, i: usize, r: usize, value: f32) {
        let place = self.places.map_or(i, |places| places[i] as usize);
        self.values[place * self.stride + self.start + r].set(value);
    }

    /// Results `first..first + n` of input i.
    #[inline(always)]
    pub(crate) fn row(&self, i: usize, first: usize, n: usize) -> &[Shared32] {
        let place = self.places.map_or(i, |places| places[i] as usize);
        &self.values[place * self.stride + self.start + first..][..n]
    }
}

/// The product for some of W's rows.
pub(crate) struct MatMul<'a> {
    pub(crate) w: &'a WeightMatrix,
    pub(crate) w_rows: Range<usize>,
    /// Subtracted from a weight row's index to give its place in the output.
    pub(crate) first: usize,
    pub(crate) bias: Option<&'a [f32]>,
    pub(crate) x: Inputs<'a>,
    pub(crate) out: Outputs<'a>,
    /// Scratch for `PANEL · cols` values.
    pub(crate) panel: &'a mut [f32],
}

impl Kernel for MatMul<'_> {
    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let Self { w, w_rows, first, bias, x, out, panel } = self;
        let cols = w.cols;
        let mut row = w_rows.start;
        while row < w_rows.end {
            let n = PANEL.min(w_rows.end - row);
            for i in 0..n {
                decode(simd, w, row + i, &mut panel[i * cols..(i + 1) * cols]);
            }
            let rows: [&[f32]; PANEL] = std::array::from_fn(|i| &panel[i.min(n - 1) * cols..][..cols]);
            let finish = |t: usize, i: usize, sum: f32| {
                out.set(t, row + i - first, bias.map_or(sum, |bias| sum + bias[row + i]));
            };
            multiply(simd, rows, n, &x, cols, finish);
            row += n;
        }
    }
}

/// Every row of the panel with every input: pairs of weight rows with three inputs, four with one.
#[inline(always)]
fn multiply<S: Simd>(
    simd: S,
    rows: [&[f32]; PANEL],
    n: usize,
    x: &Inputs<'_>,
    cols: usize,
    mut finish: impl FnMut(usize, usize, f32),
) {
    let mut t = 0;
    while t + 3 <= x.n {
        let inputs = [x.row(t, cols), x.row(t + 1, cols), x.row(t + 2, cols)];
        for i in (0..n).step_by(2) {
            for (r, sums) in dots(simd, [rows[i], rows[i + 1]], inputs).into_iter().enumerate().take(n - i) {
                for (j, sum) in sums.into_iter().enumerate() {
                    finish(t + j, i + r, sum);
                }
            }
        }
        t += 3;
    }
    for t in t..x.n {
        let input = x.row(t, cols);
        for i in (0..n).step_by(4) {
            let four = [rows[i], rows[i + 1], rows[i + 2], rows[i + 3]];
            for (r, [sum]) in dots(simd, four, [input]).into_iter().enumerate().take(n - i) {
                finish(t, i + r, sum);
            }
        }
    }
}

/// One weight row as f32: with vector instructions where the format is a plain float.
#[inline(always)]
pub(crate) fn decode<S: Simd>(simd: S, w: &WeightMatrix, row: usize, out: &mut [f32]) {
    let (values, _) = w.row(row).as_chunks::<2>();
    match w.format {
        WeightFormat::F16 => each_vector(values, out, |bits, out| simd.store(simd.load_f16(bits), out)),
        WeightFormat::BF16 => each_vector(values, out, |bits, out| simd.store(simd.load_bf16(bits), out)),
        _ => w.decode_row(row, out),
    }
}

/// Converts vectors of half-wide numbers, the last one padded.
#[inline(always)]
fn each_vector(values: &[[u8; 2]], out: &mut [f32], convert: impl Fn(&[[u8; 2]; LANES], &mut [f32; LANES])) {
    let (chunks, rest) = values.as_chunks::<LANES>();
    let (out_chunks, out_rest) = out.as_chunks_mut::<LANES>();
    for (bits, out) in chunks.iter().zip(out_chunks) {
        convert(bits, out);
    }
    let (mut tail, mut wide) = ([[0; 2]; LANES], [0.0; LANES]);
    tail[..rest.len()].copy_from_slice(rest);
    convert(&tail, &mut wide);
    out_rest.copy_from_slice(&wide[..out_rest.len()]);
}

/// y = Lᵀ-products: for stored rows M_r, out\[t\] = Σ_r x\[t, r\]·M_r.
pub(crate) struct MatMulTransposed<'a> {
    pub(crate) w: &'a WeightMatrix,
    pub(crate) w_rows: Range<usize>,
    pub(crate) x: Inputs<'a>,
    pub(crate) out: Outputs<'a>,
    /// Scratch for `cols · (1 + x.n)` values.
    pub(crate) scratch: &'a mut [f32],
}

impl Kernel for MatMulTransposed<'_> {
    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let cols = self.w.cols;
        let n_rows = self.w_rows.len();
        let (row, sums) = self.scratch.split_at_mut(cols);
        sums[..self.x.n * cols].fill(0.0);
        for (r, w_row) in self.w_rows.enumerate() {
            decode(simd, self.w, w_row, row);
            for t in 0..self.x.n {
                let x = self.x.row(t, n_rows)[r];
                super::dot::add_scaled(simd, [x], [&*row], &mut sums[t * cols..(t + 1) * cols]);
            }
        }
        for t in 0..self.x.n {
            for (c, sum) in sums[t * cols..(t + 1) * cols].iter().enumerate() {
                self.out.set(t, c, *sum);
            }
        }
    }
}
