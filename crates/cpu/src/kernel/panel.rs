//! Rows as panels: sixteen rows become the sixteen columns of each step.
//!
//! Owns the transposition and what happens to numbers on the way. Must not know a cache or what rows mean.

use crate::level::{LANES, Plain, Simd, map};

/// Sixteen rows of one length, the columns of a panel.
pub(crate) type Columns<'a, T> = [&'a [T]; LANES];

/// Chunk `c` of N values of each row, transposed; zeros beyond the rows' ends.
#[inline(always)]
fn square<S: Simd, T: Plain, const N: usize>(simd: S, rows: Columns<'_, T>, c: usize, zero: T) -> [[T; N]; LANES] {
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

/// Where value `i` of a row stands among the pairs of [`pair_steps`].
pub(crate) fn place_in_pairs(i: usize) -> usize {
    i / 4 * 4 + [0, 2, 1, 3][i % 4]
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

/// Rounds values to whole multiples of d = max|x| / `steps`, stored where `place` says, and returns d.
///
/// A value that is not finite makes d NaN; values whose d would be subnormal count as zeros.
#[inline(always)]
pub(crate) fn quantise(values: &[f32], steps: f32, place: impl Fn(usize) -> usize, to: &mut [i16]) -> f32 {
    let mut max = 0f32;
    let mut finite = true;
    for value in values {
        max = max.max(value.abs());
        finite &= value.is_finite();
    }
    let d = max / steps;
    if !finite || d < f32::MIN_POSITIVE {
        to.fill(0);
        return if finite { 0.0 } else { f32::NAN };
    }
    let inverse = steps / max;
    for (i, value) in values.iter().enumerate() {
        // Adding and taking away 1.5·2^23 rounds to a whole number, to nearest even.
        let magic = 12_582_912.0;
        to[place(i)] = (value.mul_add(inverse, magic) - magic) as i16;
    }
    d
}
