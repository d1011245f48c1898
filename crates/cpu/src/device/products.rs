//! Products of activations with weight matrices, in f32 or in integers.
//!
//! Owns which kernel a matrix gets: f32 for plain floats, and for everything where activations keep their precision;
//! integers for block-quantised weights where activations may be rounded. Rounds every row once per operation. Must not
//! know what the rows mean.

use std::marker::PhantomData;
use std::ops::Range;

use ops::{Activations, WeightFormat, WeightMatrix};

use super::Cpu;
use crate::kernel::int::groups::{Group, Group32, Group256, Quantised, Round};
use crate::kernel::int::panel::{Panel, PanelProducts, SmallPanel, SuperPanel, panels_at_once};
use crate::kernel::int::rows::{Dots, RowProducts, SmallDots, SuperDots};
use crate::kernel::int::tiles::{self, TilePanel, TileProducts};
use crate::kernel::int::{self, Format, Product, UNIT, WithFormat, with_format};
use crate::kernel::matmul::{Inputs, MatMul, Outputs, PANEL};
use crate::level::Line;
use crate::scratch::Scratch;

/// Rows of activations up to which weights are read as they lie: unpacking sixteen rows into a panel costs as much as
/// multiplying them with a few rows.
const ROWS_MAX: usize = 5;

/// Rows of activations from which on register tiles are worth their packing, where the level has them: codes and scales
/// become two digits, which takes as long as to multiply with a dozen rows.
const TILE_ROWS: usize = 20;

/// Rows of activations from which on weights in f32 are packed for the register tiles of a matrix product; fewer meet
/// them as dot products. The bits are the same.
const GEMM_ROWS: usize = 16;

/// Values below which rounding them is not worth waking a thread.
const SPLIT_MIN: usize = 1 << 14;

/// Scratch of the integer kernels and of tiles.
pub(super) struct IntScratch {
    groups32: Scratch<Group32>,
    groups256: Scratch<Group256>,
    /// One piece per worker. Bytes, since lines would not begin where cache lines do.
    pub(super) lines: Scratch<u8>,
}

impl IntScratch {
    pub(super) fn new(n_threads: usize) -> Self {
        Self {
            groups32: Scratch::new(1, Group32::default()),
            groups256: Scratch::new(1, Group256::default()),
            lines: Scratch::new(n_threads, 0),
        }
    }
}

/// Rows that an operation's products read.
#[derive(Clone, Copy)]
pub(super) struct Source<'a> {
    /// Where they lie: row i is `values[i·stride..][..cols]`.
    pub(super) values: &'a [f32],
    pub(super) stride: usize,
    pub(super) n: usize,
    pub(super) cols: usize,
}

/// An operation's rows, rounded for each kind of block that its weights have.
#[derive(Clone, Copy)]
pub(super) struct Rounded<'a> {
    source: Source<'a>,
    groups32: Quantised<'a, Group32>,
    groups256: Quantised<'a, Group256>,
}

/// Rows of a [`Rounded`] that one matrix meets.
#[derive(Clone, Copy)]
pub(super) struct Rows<'a> {
    /// First row, and from one to the next.
    pub(super) first: usize,
    pub(super) stride: usize,
    /// Which rows, each pick divided by the number; all in order where `None`.
    pub(super) picks: Option<(&'a [u32], usize)>,
    /// How many.
    pub(super) n: usize,
}

/// Rows of a matrix, and where their results go.
#[derive(Clone)]
pub(super) struct Part<'a> {
    pub(super) w: &'a WeightMatrix,
    pub(super) w_rows: Range<usize>,
    /// Subtracted from a weight row's index to give its place in the output.
    pub(super) first: usize,
    pub(super) bias: Option<&'a [f32]>,
    pub(super) out: Outputs<'a>,
}

impl Cpu {
    /// Whether matrices of a format are multiplied in integers.
    pub(super) fn in_integers(&self, format: WeightFormat) -> bool {
        self.activations == Activations::Int8 && format.block_len() > 1
    }

    /// Rounds rows for products with matrices of some formats.
    pub(super) fn round<R>(
        &self,
        source: Source<'_>,
        weights: &[&WeightMatrix],
        user: impl FnOnce(&Rounded<'_>) -> R,
    ) -> R {
        let wants = |len: usize| weights.iter().any(|w| self.in_integers(w.format) && w.format.block_len() == len);
        let (n32, n256) = (if wants(32) { source.n } else { 0 }, if wants(256) { source.n } else { 0 });
        self.round_into(&self.int_scratch.groups32, source, n32, |groups32| {
            self.round_into(&self.int_scratch.groups256, source, n256, |groups256| {
                user(&Rounded { source, groups32, groups256 })
            })
        })
    }

    /// The leading `n` rows in groups.
    fn round_into<G: Group, R>(
        &self,
        scratch: &Scratch<G>,
        source: Source<'_>,
        n: usize,
        user: impl FnOnce(Quantised<'_, G>) -> R,
    ) -> R {
        let per_row = source.cols / G::LEN;
        if n * per_row == 0 {
            return user(Quantised { groups: &[], per_row });
        }
        scratch.lend(0, n * per_row, |groups| {
            let Source { values, stride, .. } = source;
            let body = |first: usize, groups: &mut [G]| {
                self.level.run(Round { x: &values[(first * stride).min(values.len())..], stride, per_row, groups });
            };
            match n * source.cols < SPLIT_MIN {
                true => body(0, groups),
                false => self.pool.split_rows(groups, n, per_row, &|_, first, groups| body(first, groups)),
            }
            user(Quantised { groups, per_row })
        })
    }

    /// Some of a matrix's rows with some of an operation's, on the calling thread.
    pub(super) fn part(&self, worker: usize, part: Part<'_>, x: &Rounded<'_>, rows: Rows<'_>) {
        if rows.n == 0 || part.w_rows.is_empty() {
            return;
        }
        if self.in_integers(part.w.format) {
            return with_format(part.w.format, InIntegers { cpu: self, worker, part, x, rows });
        }
        let Part { w, w_rows, first, bias, out } = part;
        let Source { values, stride, .. } = x.source;
        let Rows { n, picks, .. } = rows;
        let x = Inputs { values, stride: stride * rows.stride, start: rows.first * stride, picks, n };
        if n >= GEMM_ROWS {
            return self.gemm_part(worker, Part { w, w_rows, first, bias, out }, x);
        }
        self.scratch.lend(worker, PANEL * w.cols, |panel| {
            self.level.run(MatMul { w, w_rows, first, bias, x, out, panel });
        });
    }

    /// All of a matrix's rows with all of an operation's, split over the threads.
    pub(super) fn whole(&self, w: &WeightMatrix, bias: Option<&[f32]>, x: &Rounded<'_>, out: Outputs<'_>) {
        let rows = Rows { first: 0, stride: 1, picks: None, n: x.source.n };
        if rows.n == 0 {
            return;
        }
        if rows.n >= GEMM_ROWS && !self.in_integers(w.format) {
            let Source { values, stride, n, .. } = x.source;
            return self.gemm_weights(Inputs { values, stride, start: 0, picks: None, n }, w, bias, out);
        }
        self.pool.split(w.rows.div_ceil(UNIT), &|worker, units| {
            let w_rows = units.start * UNIT..(units.end * UNIT).min(w.rows);
            self.part(worker, Part { w, w_rows, first: 0, bias, out }, x, rows);
        });
    }
}

/// [`Cpu::part`] once the format is known.
struct InIntegers<'a> {
    cpu: &'a Cpu,
    worker: usize,
    part: Part<'a>,
    x: &'a Rounded<'a>,
    rows: Rows<'a>,
}

impl InIntegers<'_> {
    fn run<F: Format, D: Dots<F>, P: Panel<F> + TilePanel<F>>(self, x: Quantised<'_, F::Group>) {
        let Self { cpu, worker, part: Part { w, w_rows, first, bias, out }, rows, .. } = self;
        let Rows { first: first_row, stride, picks, n } = rows;
        let x = int::Inputs { x, first: first_row, stride, picks, n };
        let product = Product { w, w_rows, first, bias, x, out };
        if n <= ROWS_MAX {
            return cpu.level.run(RowProducts::<F, D> { product, dots: PhantomData });
        }
        let n_groups = w.cols / w.format.block_len();
        if cpu.level.has_tiles() && n >= TILE_ROWS {
            let n_lines = tiles::n_lines::<F, P>(n, product.w_rows.len(), n_groups);
            return cpu.int_scratch.lines.lend(worker, size_of::<Line>() * n_lines, |bytes| {
                let lines = bytes.as_chunks_mut().0;
                cpu.level.run(TileProducts::<F, P> { product, lines, kind: PhantomData });
            });
        }
        let n_lines = n_groups * <P as Panel<F>>::LINES;
        cpu.int_scratch.lines.lend(worker, size_of::<Line>() * n_lines * panels_at_once(n_lines), |bytes| {
            let panel = bytes.as_chunks_mut().0;
            cpu.level.run(PanelProducts::<F, P> { product, panel, kind: PhantomData });
        });
    }
}

impl WithFormat for InIntegers<'_> {
    type Output = ();
    fn small<F: int::Small>(self) {
        let x = self.x.groups32;
        self.run::<F, SmallDots, SmallPanel>(x);
    }
    fn super_block<F: int::Super>(self) {
        let x = self.x.groups256;
        self.run::<F, SuperDots, SuperPanel>(x);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed test")]

    use ops::Device;

    use super::*;
    use crate::level::Level;

    /// A generator whose quality does not matter.
    fn bytes(seed: u64) -> impl FnMut() -> u8 {
        let mut state = seed;
        move || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 56) as u8
        }
    }

    /// Random bytes, with finite scales wherever a format keeps them.
    fn matrix(format: WeightFormat, rows: usize, n_blocks: usize) -> WeightMatrix {
        let mut next = bytes(7);
        let mut data = Vec::new();
        for _ in 0..rows * n_blocks {
            let mut block: Vec<u8> = (0..format.block_bytes()).map(|_| next()).collect();
            let halves: &[usize] = match format {
                WeightFormat::Q4_1 | WeightFormat::Q5_1 | WeightFormat::Q4_K | WeightFormat::Q5_K => &[0, 2],
                WeightFormat::Q2_K => &[80, 82],
                WeightFormat::Q3_K => &[108],
                WeightFormat::Q6_K => &[208],
                _ => &[0],
            };
            for &at in halves {
                if format == WeightFormat::MXFP4 {
                    block[at] = 120 + next() % 8;
                } else {
                    // Between 1 and 2, of either sign.
                    block[at + 1] = block[at + 1] & 0x83 | 0x3c;
                }
            }
            data.extend(block);
        }
        WeightMatrix::new(format, rows, n_blocks * format.block_len(), data.into(), None).unwrap()
    }

    fn product(cpu: &Cpu, w: &WeightMatrix, x: &Vec<f32>, n: usize) -> Vec<f32> {
        let mut out = vec![0.0; n * w.rows];
        cpu.matmul(x, n, w, None, &mut out);
        out
    }

    #[test]
    fn plain_floats_have_the_bits_of_one_row_alone_for_any_number_of_rows() {
        for format in [WeightFormat::F32, WeightFormat::F16, WeightFormat::BF16] {
            for (rows, cols) in [(1, 1), (7, 33), (70, 16), (37, 200)] {
                let mut next = bytes(rows as u64);
                // Exponents near that of 1.
                let mut value = || f32::from(next()) / 64.0 - 2.0 + f32::from(next()) / 16384.0;
                let w: Vec<f32> = (0..rows * cols).map(|_| value()).collect();
                let data: Vec<u8> = match format {
                    WeightFormat::F32 => w.iter().flat_map(|w| w.to_le_bytes()).collect(),
                    WeightFormat::F16 => w.iter().flat_map(|w| half::f16::from_f32(*w).to_le_bytes()).collect(),
                    _ => w.iter().flat_map(|w| half::bf16::from_f32(*w).to_le_bytes()).collect(),
                };
                let w = WeightMatrix::new(format, rows, cols, data.into(), None).unwrap();
                let n_max = 70;
                let x: Vec<f32> = (0..n_max * cols).map(|_| value()).collect();
                let bias: Vec<f32> = (0..rows).map(|_| value()).collect();
                for level in Level::available() {
                    let cpu = Cpu::with(level, 2);
                    let mut alone = vec![0.0; n_max * rows];
                    for (x, out) in x.chunks_exact(cols).zip(alone.chunks_exact_mut(rows)) {
                        let mut row = vec![0.0; rows];
                        cpu.matmul(&x.to_vec(), 1, &w, Some(&bias), &mut row);
                        out.copy_from_slice(&row);
                    }
                    for n in [2, GEMM_ROWS - 1, GEMM_ROWS, GEMM_ROWS + 5, n_max] {
                        let mut out = vec![0.0; n * rows];
                        cpu.matmul(&x, n, &w, Some(&bias), &mut out);
                        assert_eq!(out, alone[..n * rows], "{format} {rows} by {cols}, {n} rows, {}", level.name());
                    }
                }
            }
        }
    }

    #[test]
    fn every_kernel_and_level_gives_the_same_bits_near_the_exact_product() {
        for format in WeightFormat::ALL.into_iter().filter(|format| format.block_len() > 1) {
            for (rows, n_blocks) in [(1, 1), (7, 2), (16, 3), (37, 4)] {
                let w = matrix(format, rows, n_blocks);
                let mut next = bytes(rows as u64);
                let n_max = 50;
                let x: Vec<f32> = (0..n_max * w.cols).map(|_| f32::from(next()) - 127.5).collect();
                let exact = product(&Cpu::with(Level::Scalar, 1), &w, &x, n_max);
                let mut first = None;
                for level in Level::available() {
                    let cpu = Cpu::with(level, 2).with_activations(Activations::Int8);
                    for n in (1..12).chain([16, 17, 32, 33, n_max]) {
                        let found = product(&cpu, &w, &x, n);
                        let expected = first.get_or_insert_with(|| product(&cpu, &w, &x, n_max));
                        assert_eq!(found, expected[..n * rows], "{format}, {rows} rows, {n} inputs, {}", level.name());
                    }
                }
                let mut row = vec![0.0; w.cols];
                for (i, (found, exact)) in first.unwrap().iter().zip(&exact).enumerate() {
                    w.decode_row(i % rows, &mut row);
                    let sum: f32 = row.iter().map(|w| w.abs()).sum();
                    assert!((found - exact).abs() <= 0.55 * sum, "{format}: {found} for {exact}, Σ|w| {sum}");
                }
            }
        }
    }
}
