//! Activations rounded to 8 bits, with one scale per group of columns.
//!
//! Owns the rounding that [`ops::Activations::Int8`] defines, and the sums of codes that offsets and zero points
//! meet. Must not know weights.

use crate::level::{Kernel, LANES, Simd};

/// A group of rounded activations.
pub(crate) trait Group: Copy + Default + Send + Sync {
    /// Columns.
    const LEN: usize;
    /// The codes, and the sums that go with them, of some activations.
    fn round<S: Simd>(&mut self, simd: S, x: &[f32]);
}

/// Thirty-two columns. Aligned, so that no load of codes straddles a cache line.
#[derive(Clone, Copy)]
#[repr(C, align(32))]
pub(crate) struct Group32 {
    pub(crate) q: [i8; 32],
    /// −Σ q
    pub(crate) minus_sum: i32,
    pub(crate) d: f32,
}

/// Two hundred and fifty-six columns, aligned as well.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub(crate) struct Group256 {
    pub(crate) q: [i8; 256],
    /// −Σ q of each 32 columns.
    pub(crate) minus_sums32: [[i16; 2]; 4],
    /// −Σ q of each 16 columns: of the first and third 16, the second and fourth and so on.
    pub(crate) minus_sums16: [[i16; 2]; 8],
    pub(crate) d: f32,
}

impl Default for Group32 {
    fn default() -> Self {
        Self { q: [0; 32], minus_sum: 0, d: 0.0 }
    }
}

impl Default for Group256 {
    fn default() -> Self {
        Self { q: [0; 256], minus_sums32: [[0; 2]; 4], minus_sums16: [[0; 2]; 8], d: 0.0 }
    }
}

/// Magnitudes below this count as zero: their reciprocal would not be finite.
const FLOOR: f32 = f32::from_bits((127 - 100) << 23);

/// Scale and its reciprocal for values of magnitude `max` at most; NaN and 0 where `max` is not finite.
#[inline(always)]
fn scales(max: f32) -> (f32, f32) {
    match max {
        _ if max < FLOOR => (0.0, 0.0),
        _ if max.is_finite() => (max / 127.0, 127.0 / max),
        _ => (f32::NAN, 0.0),
    }
}

/// max |x|, NaN if any is NaN.
#[inline(always)]
fn magnitude<S: Simd>(simd: S, x: &[[f32; LANES]]) -> f32 {
    let (mut max, mut sum) = (simd.splat(0.0), simd.splat(0.0));
    for x in x {
        let x = simd.load(x);
        max = simd.max(simd.abs(x), max);
        // Neither maximum nor absolute value keeps a NaN for sure; 0·x does, and makes one of an infinity.
        sum = simd.mul_add(x, simd.splat(0.0), sum);
    }
    simd.max_lane(max) + simd.sum(sum)
}

/// Codes of sixteen values, and their sum.
#[inline(always)]
fn codes<S: Simd>(simd: S, x: &[f32; LANES], inverse: f32, q: &mut [i8; LANES]) -> i32 {
    if inverse == 0.0 {
        // Nothing that is not finite may reach a conversion to integers.
        *q = [0; LANES];
        return 0;
    }
    let rounded = simd.round(simd.mul(simd.load(x), simd.splat(inverse)));
    simd.store_i8(rounded, q);
    simd.sum_i32(rounded)
}

impl Group for Group32 {
    const LEN: usize = 32;
    #[inline(always)]
    fn round<S: Simd>(&mut self, simd: S, x: &[f32]) {
        let (x, _) = x.as_chunks::<LANES>();
        let (d, inverse) = scales(magnitude(simd, x));
        let mut sum = 0;
        for (x, q) in x.iter().zip(self.q.as_chunks_mut::<LANES>().0) {
            sum += codes(simd, x, inverse, q);
        }
        (self.d, self.minus_sum) = (d, -sum);
    }
}

impl Group for Group256 {
    const LEN: usize = 256;
    #[inline(always)]
    fn round<S: Simd>(&mut self, simd: S, x: &[f32]) {
        let (x, _) = x.as_chunks::<LANES>();
        let (d, inverse) = scales(magnitude(simd, x));
        for (i, (x, q)) in x.iter().zip(self.q.as_chunks_mut::<LANES>().0).enumerate() {
            self.minus_sums16[i / 4 * 2 + i % 2][i % 4 / 2] = -codes(simd, x, inverse, q) as i16;
        }
        for (i, fours) in self.minus_sums16.as_chunks::<2>().0.iter().enumerate() {
            self.minus_sums32[i] = [fours[0][0] + fours[1][0], fours[0][1] + fours[1][1]];
        }
        self.d = d;
    }
}

/// Rows of groups.
pub(crate) struct Quantised<'a, G> {
    pub(crate) groups: &'a [G],
    /// Groups of a row.
    pub(crate) per_row: usize,
}

impl<G> Clone for Quantised<'_, G> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<G> Copy for Quantised<'_, G> {}

impl<'a, G> Quantised<'a, G> {
    #[inline(always)]
    pub(crate) fn row(&self, i: usize) -> &'a [G] {
        &self.groups[i * self.per_row..][..self.per_row]
    }
}

/// Rounds rows: row i is `x[i·stride..][..groups per row · LEN]`.
pub(crate) struct Round<'a, G> {
    pub(crate) x: &'a [f32],
    pub(crate) stride: usize,
    pub(crate) per_row: usize,
    pub(crate) groups: &'a mut [G],
}

impl<G: Group> Kernel for Round<'_, G> {
    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        for (i, row) in self.groups.chunks_exact_mut(self.per_row).enumerate() {
            for (x, group) in self.x[i * self.stride..].chunks_exact(G::LEN).zip(row) {
                group.round(simd, x);
            }
        }
    }
}
