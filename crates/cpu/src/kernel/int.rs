//! Products of block-quantised weights with activations rounded to 8 bits, in integers.
//!
//! Per group of columns (as many as a block of weights spans) the sum of products is exact, so it does not depend on how
//! it was computed; only the sum over the groups is in f32, one fused multiply-add per group in the order of the columns.
//! Hence a row's result has the same bits from every kernel, at every level and beside any other rows:
//!
//! * `rows.rs` reads the weights as they lie in the file, for a few rows of activations (decode);
//! * `panel.rs` unpacks sixteen weight rows into a panel once and reuses it for many (prefill);
//! * `tiles.rs` does the same where the level has register tiles.
//!
//! Formats (`small.rs`, `super_block.rs`) only say how a block's codes and scales are unpacked.

pub(crate) mod groups;
pub(crate) mod panel;
pub(crate) mod rows;
mod small;
mod super_block;
pub(crate) mod tiles;

pub(crate) use small::Small;
pub(crate) use super_block::Super;

use std::ops::Range;

use ops::{WeightFormat, WeightMatrix};

use crate::kernel::matmul::Outputs;
use crate::level::Simd;
use groups::{Group, Quantised};

/// Weight rows that a unit of work holds: the height of a panel.
pub(crate) const UNIT: usize = 16;

/// A weight format as the integer kernels see it.
///
/// w = d·s·(c − z) + o·m: d and o are f32 per block, s and m whole numbers per sub-block (1 where a block has no
/// sub-blocks), c the code, z the format's zero point.
pub(crate) trait Format {
    /// A block's bytes.
    type Block: AsRef<[u8]> + 'static;
    /// Activations of as many columns as a block spans.
    type Group: Group;
    /// Bits of a code as [`Simd::panel_dots`] counts them.
    const BITS: u32;
    /// Sub-blocks with a whole-numbered scale: 8 of 32 columns or 16 of 16; 1 where the block has but one scale.
    const N_SUB: usize;
    /// Whether there is an o·m.
    const OFFSET: bool;

    /// A row's blocks.
    fn blocks(row: &[u8]) -> &[Self::Block];
    /// d of four blocks.
    fn scale4<S: Simd>(simd: S, blocks: [&Self::Block; 4]) -> S::F4;
    /// o of four blocks.
    fn offset4<S: Simd>(simd: S, blocks: [&Self::Block; 4]) -> S::F4;
}

/// `N` bytes of a block from `AT` on.
#[inline(always)]
fn part<const AT: usize, const N: usize>(block: &[u8]) -> &[u8; N] {
    match block[AT..].first_chunk() {
        Some(part) => part,
        None => unreachable!("the block holds them"),
    }
}

/// Asks for what comes after N rows that are read side by side: as many bytes as `n` blocks of each take, from block `g`
/// on. Memory is asked for in the order of its addresses, in which it is fastest.
#[inline(always)]
fn ask<S: Simd, B: AsRef<[u8]>, const N: usize>(simd: S, w: [&[B]; N], g: usize, n: usize) {
    let Some(first) = w[0].first() else { return };
    let start = N * (size_of_val(w[0]) + g * size_of::<B>());
    for offset in (0..N * n * size_of::<B>()).step_by(64) {
        simd.prefetch(first.as_ref(), start + offset);
    }
}

/// What to do with a format; see [`with_format`].
pub(crate) trait WithFormat {
    type Output;
    fn small<F: Small>(self) -> Self::Output;
    fn super_block<F: Super>(self) -> Self::Output;
}

/// Calls `user` with the type of a format.
///
/// # Panics   if the format is not block-quantised
pub(crate) fn with_format<U: WithFormat>(format: WeightFormat, user: U) -> U::Output {
    match format {
        WeightFormat::Q4_0 => user.small::<small::Q4_0>(),
        WeightFormat::Q4_1 => user.small::<small::Q4_1>(),
        WeightFormat::Q5_0 => user.small::<small::Q5_0>(),
        WeightFormat::Q5_1 => user.small::<small::Q5_1>(),
        WeightFormat::Q8_0 => user.small::<small::Q8_0>(),
        WeightFormat::IQ4_NL => user.small::<small::Iq4Nl>(),
        WeightFormat::MXFP4 => user.small::<small::Mxfp4>(),
        WeightFormat::Q2_K => user.super_block::<super_block::Q2K>(),
        WeightFormat::Q3_K => user.super_block::<super_block::Q3K>(),
        WeightFormat::Q4_K => user.super_block::<super_block::Q4K>(),
        WeightFormat::Q5_K => user.super_block::<super_block::Q5K>(),
        WeightFormat::Q6_K => user.super_block::<super_block::Q6K>(),
        WeightFormat::IQ4_XS => user.super_block::<super_block::Iq4Xs>(),
        WeightFormat::F32 | WeightFormat::F16 | WeightFormat::BF16 | WeightFormat::F8_E4M3 => {
            unreachable!("{format} has no blocks")
        }
    }
}

/// Rounded rows that a product reads.
pub(crate) struct Inputs<'a, G> {
    /// The rows.
    pub(crate) x: Quantised<'a, G>,
    /// First row, and from one to the next.
    pub(crate) first: usize,
    pub(crate) stride: usize,
    /// Which rows, each pick divided by the number; all in order where `None`.
    pub(crate) picks: Option<(&'a [u32], usize)>,
    /// How many.
    pub(crate) n: usize,
}

impl<G> Clone for Inputs<'_, G> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<G> Copy for Inputs<'_, G> {}

impl<'a, G> Inputs<'a, G> {
    #[inline(always)]
    pub(crate) fn row(&self, i: usize) -> &'a [G] {
        let row = self.picks.map_or(i, |(picks, per_row)| picks[i] as usize / per_row);
        self.x.row(self.first + row * self.stride)
    }
}

/// The product of some of a matrix's rows with rounded rows.
pub(crate) struct Product<'a, G> {
    pub(crate) w: &'a WeightMatrix,
    pub(crate) w_rows: Range<usize>,
    /// Subtracted from a weight row's index to give its place in the output.
    pub(crate) first: usize,
    pub(crate) bias: Option<&'a [f32]>,
    pub(crate) x: Inputs<'a, G>,
    pub(crate) out: Outputs<'a>,
}

impl<G> Product<'_, G> {
    /// Writes what weight rows from `row` on, as far as there are so many, gave for input `t`.
    #[inline(always)]
    fn set<const N: usize>(&self, t: usize, row: usize, sums: [f32; N]) {
        let n = (self.w_rows.end - row).min(N);
        let out = self.out.row(t, row - self.first, n);
        match self.bias {
            None => out.iter().zip(sums).for_each(|(out, sum)| out.set(sum)),
            Some(bias) => {
                let sums = sums.into_iter().zip(&bias[row..row + n]);
                out.iter().zip(sums).for_each(|(out, (sum, bias))| out.set(sum + bias));
            }
        }
    }
}
