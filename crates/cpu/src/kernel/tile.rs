//! Products of a few rows with a panel, in registers.
//!
//! A panel is a matrix cut into columns of sixteen: step i holds row i's values of those sixteen columns. All attention
//! is made of two products with panels: queries with keys (a step is a channel, a column a position) and weights with
//! values (a step is a position, a column a channel). Owns the register tiles. Must not know what is multiplied.

use crate::level::{LANES, Simd};

/// Σᵢ x\[r\]\[i\]·panel\[i\] for R rows of pairs: step i of the panel holds a pair for each column.
#[inline(always)]
pub(crate) fn pairs<S: Simd, const R: usize>(simd: S, panel: &[[i16; 2 * LANES]], x: [&[[i16; 2]]; R]) -> [S::I32; R] {
    let mut x = x;
    for x in &mut x {
        *x = &x[..panel.len()];
    }
    let mut sums = [simd.splat_i32(0); R];
    for (i, step) in panel.iter().enumerate() {
        let step = simd.load_i16(step);
        for r in 0..R {
            sums[r] = simd.dot2(sums[r], step, simd.splat_pair(x[r][i]));
        }
    }
    sums
}

/// sums\[r\] + Σᵢ x\[r\]\[i\]·panel\[i\] for R rows, in the order of i, so that a row's result does not depend on the others.
#[inline(always)]
pub(crate) fn floats<S: Simd, const R: usize>(
    simd: S,
    mut sums: [S::F32; R],
    panel: &[[f32; LANES]],
    x: [&[f32]; R],
) -> [S::F32; R] {
    let mut x = x;
    for x in &mut x {
        *x = &x[..panel.len()];
    }
    for (i, step) in panel.iter().enumerate() {
        let step = simd.load(step);
        for r in 0..R {
            sums[r] = simd.mul_add(simd.splat(x[r][i]), step, sums[r]);
        }
    }
    sums
}

/// Something done to R consecutive rows at a time.
pub(crate) trait RowsBody<S: Simd> {
    /// Rows `first..first + R`; implementations are `#[inline(always)]`.
    fn rows<const R: usize>(&mut self, simd: S, first: usize);
}

/// Does it to `n` rows, as many at a time as the level has registers for.
#[inline(always)]
pub(crate) fn for_rows<S: Simd>(simd: S, n: usize, body: &mut impl RowsBody<S>) {
    let mut first = 0;
    if S::TILE_ROWS == 8 {
        while first + 8 <= n {
            body.rows::<8>(simd, first);
            first += 8;
        }
    }
    while first + 4 <= n {
        body.rows::<4>(simd, first);
        first += 4;
    }
    match n - first {
        0 => {}
        1 => body.rows::<1>(simd, first),
        2 => body.rows::<2>(simd, first),
        _ => body.rows::<3>(simd, first),
    }
}
