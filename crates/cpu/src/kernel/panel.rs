//! Rows as panels: sixteen rows become the sixteen columns of each step.
//!
//! Owns the transposition and what happens to numbers on the way. Must not know a cache or what rows mean.

use crate::level::{LANES, Plain, Simd, map};

/// Sixteen rows of one length, the columns of a panel.
pub(crate) type Columns<'a, T> = [&'a [T]; LANES];

/// Chunk `c` of N values of each row, transposed; zeros beyond the rows' ends.
#[inline(always)]
pub(crate) fn square<S: Simd, T: Plain, const N: usize>(
    simd: S,
    rows: Columns<'_, T>,
    c: usize,
    zero: T,
) -> [[T; N]; LANES] {
    let mut to = [[zero; N]; LANES];
    let len = rows[0].len();
    if (c + 1) * N <= len {
        simd.transpose(map(rows, |row| &row.as_chunks::<N>().0[c]), &mut to);
    } else {
        let mut staged = [[zero; N]; LANES];
        for (staged, row) in staged.iter_mut().zip(rows) {
            staged[..len - c * N].copy_from_slice(&row[c * N..]);
        }
        simd.transpose(staged.each_ref(), &mut to);
    }
    to
}

/// Steps of a panel of bytes as pairs: two for each four values, of their even and their odd ones.
pub(crate) fn steps_of_pairs(len: usize) -> usize {
    len.next_multiple_of(64) / 2
}

/// A panel of pairs from rows of bytes.
#[inline(always)]
pub(crate) fn pair_steps<S: Simd>(simd: S, rows: Columns<'_, i8>, panel: &mut [[i16; 2 * LANES]]) {
    for (c, steps) in panel.as_chunks_mut::<32>().0.iter_mut().enumerate() {
        let square: [[i8; 64]; LANES] = square(simd, rows, c, 0);
        for (bytes, steps) in square.iter().zip(steps.as_chunks_mut::<2>().0) {
            let [even, odd] = simd.split_i8(bytes);
            simd.store_pairs(even, &mut steps[0]);
            simd.store_pairs(odd, &mut steps[1]);
        }
    }
}

/// A panel of pairs from rows of pairs; `panel` is a whole number of 16 steps.
#[inline(always)]
pub(crate) fn i16_steps<S: Simd>(simd: S, rows: Columns<'_, i16>, panel: &mut [[i16; 2 * LANES]]) {
    for (c, steps) in panel.as_chunks_mut::<16>().0.iter_mut().enumerate() {
        *steps = square(simd, rows, c, 0);
    }
}

/// A panel of f32 from rows of BF16; `panel` is a whole number of 32 steps.
#[inline(always)]
pub(crate) fn bf16_steps<S: Simd>(simd: S, rows: Columns<'_, u16>, panel: &mut [[f32; LANES]]) {
    for (c, steps) in panel.as_chunks_mut::<32>().0.iter_mut().enumerate() {
        let square: [[u16; 32]; LANES] = square(simd, rows, c, 0);
        for (bits, steps) in square.iter().zip(steps.as_chunks_mut::<2>().0) {
            let [first, second] = simd.split_bf16(bits);
            simd.store(first, &mut steps[0]);
            simd.store(second, &mut steps[1]);
        }
    }
}

/// A panel of f32 from rows of f32; `panel` is a whole number of 16 steps.
#[inline(always)]
pub(crate) fn f32_steps<S: Simd>(simd: S, rows: Columns<'_, f32>, panel: &mut [[f32; LANES]]) {
    for (c, steps) in panel.as_chunks_mut::<16>().0.iter_mut().enumerate() {
        if c * LANES < rows[0].len() {
            *steps = square(simd, rows, c, 0.0);
        }
    }
}

/// Rounds values to whole multiples of d = max|x| / `steps` and returns d; zeros where `to` is longer.
///
/// A value that is not finite makes d NaN; values whose d would be subnormal count as zeros.
#[inline(always)]
pub(crate) fn quantise<S: Simd>(simd: S, values: &[f32], steps: f32, to: &mut [[i16; 2 * LANES]]) -> f32 {
    let (mut max, mut nan) = (simd.splat(0.0), simd.splat(0.0));
    for c in 0..values.len().div_ceil(LANES) {
        let x = simd.load(&lanes(values, c));
        max = simd.max(simd.abs(x), max);
        // 0 unless x is NaN or infinite.
        nan = simd.mul_add(x, simd.splat(0.0), nan);
    }
    let (max, nan) = (simd.max_lane(max), simd.sum(nan));
    let d = max / steps;
    if nan.is_nan() || d < f32::MIN_POSITIVE {
        to.fill([0; 2 * LANES]);
        return nan;
    }
    let inverse = simd.splat(steps / max);
    for (c, to) in to.iter_mut().enumerate() {
        let low = simd.round(simd.mul(simd.load(&lanes(values, 2 * c)), inverse));
        let high = simd.round(simd.mul(simd.load(&lanes(values, 2 * c + 1)), inverse));
        simd.store_i16(low, high, to);
    }
    d
}

/// Puts values in the order of [`pair_steps`]: of each four the even ones, then the odd ones.
#[inline(always)]
pub(crate) fn order_as_pairs(values: &mut [[i16; 2 * LANES]]) {
    for four in values.as_flattened_mut().as_chunks_mut::<4>().0 {
        four.swap(1, 2);
    }
}

/// Values 16c.., zeros beyond the end.
#[inline(always)]
fn lanes(values: &[f32], c: usize) -> [f32; LANES] {
    let rest = values.get(c * LANES..).unwrap_or_default();
    match rest.first_chunk() {
        Some(lanes) => *lanes,
        None => {
            let mut lanes = [0.0; LANES];
            lanes[..rest.len()].copy_from_slice(rest);
            lanes
        }
    }
}
