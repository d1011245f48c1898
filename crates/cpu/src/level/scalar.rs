//! The scalar level: plain Rust on every machine, the twin that the others are held to.
//!
//! Must not use instructions of any machine.

use std::array::from_fn;

use super::{LANES, Plain, Simd};
#[cfg(not(target_arch = "x86_64"))]
use super::{Line, Sum, Sums};

/// Plain Rust.
#[derive(Clone, Copy)]
pub(crate) struct Scalar;

fn dot4(w: impl Fn(usize) -> i32, x: &[u8]) -> i32 {
    (0..4).map(|j| w(j) * i32::from(x[j] as i8)).sum()
}

impl Simd for Scalar {
    type F32 = [f32; LANES];
    type I32 = [i32; LANES];
    type I16 = [i16; 2 * LANES];
    type Bytes = [u8; 64];
    type F4 = [f32; 4];
    type I4 = [i32; 4];
    type Half = [u8; 32];
    type I8 = [i32; 8];

    const BIAS: u8 = 0;
    const PANEL_TOKENS: usize = 1;
    const TILE_ROWS: usize = 4;

    #[inline(always)]
    fn splat(self, value: f32) -> [f32; LANES] {
        [value; LANES]
    }
    #[inline(always)]
    fn load(self, values: &[f32; LANES]) -> [f32; LANES] {
        *values
    }
    #[inline(always)]
    fn store(self, vector: [f32; LANES], to: &mut [f32; LANES]) {
        *to = vector;
    }
    #[inline(always)]
    fn load_f16(self, bits: &[[u8; 2]; LANES]) -> [f32; LANES] {
        bits.map(|b| half::f16::from_le_bytes(b).to_f32())
    }
    #[inline(always)]
    fn load_bf16(self, bits: &[[u8; 2]; LANES]) -> [f32; LANES] {
        bits.map(|b| f32::from_bits(u32::from(u16::from_le_bytes(b)) << 16))
    }
    #[inline(always)]
    fn load_i8(self, bytes: &[i8; LANES]) -> [f32; LANES] {
        bytes.map(f32::from)
    }
    #[inline(always)]
    fn add(self, a: [f32; LANES], b: [f32; LANES]) -> [f32; LANES] {
        from_fn(|i| a[i] + b[i])
    }
    #[inline(always)]
    fn sub(self, a: [f32; LANES], b: [f32; LANES]) -> [f32; LANES] {
        from_fn(|i| a[i] - b[i])
    }
    #[inline(always)]
    fn mul(self, a: [f32; LANES], b: [f32; LANES]) -> [f32; LANES] {
        from_fn(|i| a[i] * b[i])
    }
    #[inline(always)]
    fn max(self, a: [f32; LANES], b: [f32; LANES]) -> [f32; LANES] {
        from_fn(|i| if a[i] > b[i] { a[i] } else { b[i] })
    }
    #[inline(always)]
    fn min(self, a: [f32; LANES], b: [f32; LANES]) -> [f32; LANES] {
        from_fn(|i| if a[i] < b[i] { a[i] } else { b[i] })
    }
    #[inline(always)]
    fn div(self, a: [f32; LANES], b: [f32; LANES]) -> [f32; LANES] {
        from_fn(|i| a[i] / b[i])
    }
    #[inline(always)]
    fn abs(self, a: [f32; LANES]) -> [f32; LANES] {
        a.map(f32::abs)
    }
    #[inline(always)]
    fn mul_add(self, a: [f32; LANES], b: [f32; LANES], c: [f32; LANES]) -> [f32; LANES] {
        from_fn(|i| a[i].mul_add(b[i], c[i]))
    }
    #[inline(always)]
    fn sum(self, v: [f32; LANES]) -> f32 {
        let eight: [f32; 8] = from_fn(|i| v[i] + v[i + 8]);
        let four: [f32; 4] = from_fn(|i| eight[i] + eight[i + 4]);
        (four[0] + four[2]) + (four[1] + four[3])
    }
    #[inline(always)]
    fn max_lane(self, v: [f32; LANES]) -> f32 {
        v.into_iter().fold(f32::NEG_INFINITY, f32::max)
    }
    #[inline(always)]
    fn round(self, v: [f32; LANES]) -> [i32; LANES] {
        v.map(|x| x.round_ties_even() as i32)
    }
    #[inline(always)]
    fn to_f32(self, v: [i32; LANES]) -> [f32; LANES] {
        v.map(|x| x as f32)
    }

    #[inline(always)]
    fn mul_power(self, a: [f32; LANES], e: [f32; LANES]) -> [f32; LANES] {
        // Two factors, each a normal number; only the second product rounds.
        let power = |e: i32| f32::from_bits(((e + 127) as u32) << 23);
        from_fn(|i| {
            let e = e[i] as i32;
            a[i] * power(e >> 1) * power(e - (e >> 1))
        })
    }

    #[inline(always)]
    fn splat_i32(self, value: i32) -> [i32; LANES] {
        [value; LANES]
    }
    #[inline(always)]
    fn load_i32(self, values: &[i32; LANES]) -> [i32; LANES] {
        *values
    }
    #[inline(always)]
    fn shl_add<const BITS: u32>(self, a: [i32; LANES], b: [i32; LANES]) -> [i32; LANES] {
        from_fn(|i| a[i].wrapping_shl(BITS).wrapping_add(b[i]))
    }
    #[inline(always)]
    fn sum_i32(self, v: [i32; LANES]) -> i32 {
        v.into_iter().fold(0, i32::wrapping_add)
    }
    #[inline(always)]
    fn store_i8(self, v: [i32; LANES], to: &mut [i8; LANES]) {
        *to = v.map(|x| x as i8);
    }
    #[inline(always)]
    fn store_i16(self, a: [i32; LANES], b: [i32; LANES], to: &mut [i16; 2 * LANES]) {
        *to = from_fn(|i| if i < LANES { a[i] as i16 } else { b[i - LANES] as i16 });
    }

    #[inline(always)]
    fn load_i16(self, values: &[i16; 2 * LANES]) -> [i16; 2 * LANES] {
        *values
    }
    #[inline(always)]
    fn splat_i16(self, value: i16) -> [i16; 2 * LANES] {
        [value; 2 * LANES]
    }
    #[inline(always)]
    fn splat_pair(self, pair: [i16; 2]) -> [i16; 2 * LANES] {
        from_fn(|i| pair[i % 2])
    }
    #[inline(always)]
    fn widen_i8(self, bytes: &[i8; 2 * LANES]) -> [i16; 2 * LANES] {
        bytes.map(i16::from)
    }
    #[inline(always)]
    fn zip_i8(self, a: &[i8; LANES], b: &[i8; LANES]) -> [i16; 2 * LANES] {
        from_fn(|i| i16::from(if i % 2 == 0 { a[i / 2] } else { b[i / 2] }))
    }
    #[inline(always)]
    fn zip_i16(self, a: &[i16; LANES], b: &[i16; LANES]) -> [i16; 2 * LANES] {
        from_fn(|i| if i % 2 == 0 { a[i / 2] } else { b[i / 2] })
    }
    #[inline(always)]
    fn store_pairs(self, a: [i16; 2 * LANES], to: &mut [i16; 2 * LANES]) {
        *to = a;
    }
    #[inline(always)]
    fn split_i8(self, bytes: &[i8; 4 * LANES]) -> [[i16; 2 * LANES]; 2] {
        [0, 1].map(|odd| from_fn(|i| i16::from(bytes[2 * i + odd])))
    }
    #[inline(always)]
    fn split_bf16(self, bits: &[u16; 2 * LANES]) -> [[f32; LANES]; 2] {
        [0, 1].map(|odd| from_fn(|i| f32::from_bits(u32::from(bits[2 * i + odd]) << 16)))
    }
    #[inline(always)]
    fn dot2(self, acc: [i32; LANES], a: [i16; 2 * LANES], b: [i16; 2 * LANES]) -> [i32; LANES] {
        let product = |i: usize| i32::from(a[i]).wrapping_mul(i32::from(b[i]));
        from_fn(|i| acc[i].wrapping_add(product(2 * i).wrapping_add(product(2 * i + 1))))
    }

    #[inline(always)]
    fn load_u8(self, bytes: &[u8; 64]) -> [u8; 64] {
        *bytes
    }
    #[inline(always)]
    fn or(self, a: [u8; 64], b: [u8; 64]) -> [u8; 64] {
        from_fn(|i| a[i] | b[i])
    }
    #[inline(always)]
    fn as_i16(self, bytes: [u8; 64]) -> [i16; 2 * LANES] {
        from_fn(|i| i16::from_le_bytes([bytes[2 * i], bytes[2 * i + 1]]))
    }
    #[inline(always)]
    fn as_f32(self, bytes: [u8; 64]) -> [f32; LANES] {
        from_fn(|i| f32::from_le_bytes([bytes[4 * i], bytes[4 * i + 1], bytes[4 * i + 2], bytes[4 * i + 3]]))
    }
    #[inline(always)]
    fn panel_dots<const T: usize, const STEPS: usize, const BITS: u32, const SCALED: bool>(
        self,
        mut acc: [[i32; LANES]; T],
        w: &[[u8; 64]; STEPS],
        x: [&[[i8; 4]; STEPS]; T],
        scale: [i16; 2 * LANES],
    ) -> [[i32; LANES]; T] {
        for (acc, x) in acc.iter_mut().zip(x) {
            for (w, x) in w.iter().zip(x) {
                let code = |byte: u8| if BITS == 8 { i32::from(byte as i8) } else { i32::from(byte) };
                let sum = |i: usize| (0..4).map(|j| code(w[4 * i + j]) * i32::from(x[j])).sum::<i32>();
                *acc = from_fn(|i| acc[i] + i32::from(scale[2 * i]) * sum(i));
            }
        }
        acc
    }
    #[inline(always)]
    fn transpose<T: Plain, const N: usize>(self, rows: [&[T; N]; 16], to: &mut [[T; N]; 16]) {
        let n = N / 16;
        for (i, to) in to.iter_mut().enumerate() {
            *to = from_fn(|j| rows[j / n][n * i + j % n]);
        }
    }

    #[inline(always)]
    fn load_quarters(self, rows: [&[u8; 16]; 4]) -> [u8; 64] {
        from_fn(|i| rows[i / 16][i % 16])
    }
    #[inline(always)]
    fn shuffle(self, bytes: [u8; 64], order: [u8; 16]) -> [u8; 64] {
        from_fn(|i| match order[i % 16] {
            128 => 0,
            from => bytes[i / 16 * 16 + usize::from(from)],
        })
    }
    #[inline(always)]
    fn shr32(self, bytes: [u8; 64], by: [u32; 4]) -> [u8; 64] {
        let (words, _) = bytes.as_chunks::<4>();
        from_fn(|i| (u32::from_le_bytes(words[i / 4]) >> by[i / 4 % 4]).to_le_bytes()[i % 4])
    }
    #[inline(always)]
    fn and_quarters(self, bytes: [u8; 64], mask: [u8; 16]) -> [u8; 64] {
        from_fn(|i| bytes[i] & mask[i % 16])
    }
    #[inline(always)]
    fn widen_quarters(self, bytes: [u8; 64]) -> [[i16; 2 * LANES]; 2] {
        from_fn(|half| from_fn(|i| i16::from(bytes[i / 8 * 16 + 8 * half + i % 8])))
    }
    #[inline(always)]
    fn widen_quarters_i8(self, bytes: [u8; 64]) -> [[i16; 2 * LANES]; 2] {
        from_fn(|half| from_fn(|i| i16::from(bytes[i / 8 * 16 + 8 * half + i % 8] as i8)))
    }
    #[inline(always)]
    fn add_i16(self, a: [i16; 2 * LANES], b: [i16; 2 * LANES]) -> [i16; 2 * LANES] {
        from_fn(|i| a[i].wrapping_add(b[i]))
    }
    #[inline(always)]
    fn mul_i16(self, a: [i16; 2 * LANES], b: [i16; 2 * LANES]) -> [i16; 2 * LANES] {
        from_fn(|i| a[i].wrapping_mul(b[i]))
    }
    #[inline(always)]
    fn pairs_of_rows(self, a: [i16; 2 * LANES]) -> [i16; 2 * LANES] {
        from_fn(|i| a[i % 8 / 2 * 8 + i / 8 * 2 + i % 2])
    }

    #[inline(always)]
    fn load_half(self, bytes: &[u8; 32]) -> [u8; 32] {
        *bytes
    }
    #[inline(always)]
    fn load_half_i8(self, bytes: &[i8; 32]) -> [u8; 32] {
        bytes.map(|byte| byte as u8)
    }
    #[inline(always)]
    fn store_half(self, half: [u8; 32], to: &mut [u8; 32]) {
        *to = half;
    }
    #[inline(always)]
    fn splat_half(self, value: u8) -> [u8; 32] {
        [value; 32]
    }
    #[inline(always)]
    fn or_half(self, a: [u8; 32], b: [u8; 32]) -> [u8; 32] {
        from_fn(|i| a[i] | b[i])
    }
    #[inline(always)]
    fn xor_half(self, a: [u8; 32], b: [u8; 32]) -> [u8; 32] {
        from_fn(|i| a[i] ^ b[i])
    }
    #[inline(always)]
    fn bits<const FROM: u32, const TO: u32, const N: u32>(self, half: [u8; 32]) -> [u8; 32] {
        half.map(|byte| (byte >> FROM & ((1 << N) - 1)) << TO)
    }
    #[inline(always)]
    fn nibbles(self, bytes: &[u8; 16]) -> [u8; 32] {
        from_fn(|i| if i < 16 { bytes[i] & 15 } else { bytes[i - 16] >> 4 })
    }
    #[inline(always)]
    fn spread_bits(self, bits: [u8; 4], mask: u8) -> [u8; 32] {
        from_fn(|i| if bits[i / 8] >> (i % 8) & 1 == 1 { mask } else { 0 })
    }
    #[inline(always)]
    fn lookup(self, table: &[u8; 16], half: [u8; 32]) -> [u8; 32] {
        half.map(|byte| table[usize::from(byte & 15)])
    }
    #[inline(always)]
    fn pairs(self, a: [i16; 2], b: [i16; 2]) -> [u8; 32] {
        from_fn(|i| if i < 16 { a } else { b }[i / 2 % 2].to_le_bytes()[i % 2])
    }
    #[inline(always)]
    fn splat_i8(self, value: i32) -> [i32; 8] {
        [value; 8]
    }
    #[inline(always)]
    fn dot_codes(self, acc: [i32; 8], w: [u8; 32], x: [u8; 32]) -> [i32; 8] {
        from_fn(|i| acc[i] + dot4(|j| i32::from(w[4 * i + j]), &x[4 * i..]))
    }
    #[inline(always)]
    fn dot_wide(self, acc: [i32; 8], w: [u8; 32], x: [u8; 32]) -> [i32; 8] {
        from_fn(|i| acc[i] + dot4(|j| i32::from(w[4 * i + j] as i8), &x[4 * i..]))
    }
    #[inline(always)]
    fn dot_two<const BITS: u32, const TWO_SCALES: bool>(
        self,
        acc: [i32; 8],
        w: [[u8; 32]; 2],
        x: [[u8; 32]; 2],
        scales: [[i16; 2]; 2],
    ) -> [i32; 8] {
        let [a, b] = [0, 1].map(|k| match BITS {
            8 => self.dot_wide([0; 8], w[k], x[k]),
            _ => self.dot_codes([0; 8], w[k], x[k]),
        });
        from_fn(|i| acc[i] + i32::from(scales[i / 4][0]) * a[i] + i32::from(scales[i / 4][1]) * b[i])
    }
    #[inline(always)]
    fn dot_pairs(self, acc: [i32; 8], a: &[i16; 16], b: [u8; 32]) -> [i32; 8] {
        let product = |i: usize| i32::from(a[i]) * i32::from(i16::from_le_bytes([b[2 * i], b[2 * i + 1]]));
        from_fn(|i| acc[i] + product(2 * i) + product(2 * i + 1))
    }
    #[inline(always)]
    fn in_turn<T>(self, sums: [i32; 8], next: &T) -> ([i32; 8], &T) {
        (sums, next)
    }

    #[inline(always)]
    fn splat4(self, value: f32) -> [f32; 4] {
        [value; 4]
    }
    #[inline(always)]
    fn splat4_i32(self, value: i32) -> [i32; 4] {
        [value; 4]
    }
    #[inline(always)]
    fn load4(self, values: [f32; 4]) -> [f32; 4] {
        values
    }
    #[inline(always)]
    fn load4_f16(self, bits: [[u8; 2]; 4]) -> [f32; 4] {
        bits.map(|b| half::f16::from_le_bytes(b).to_f32())
    }
    #[inline(always)]
    fn store4(self, values: [f32; 4]) -> [f32; 4] {
        values
    }
    #[inline(always)]
    fn mul4(self, a: [f32; 4], b: [f32; 4]) -> [f32; 4] {
        from_fn(|i| a[i] * b[i])
    }
    #[inline(always)]
    fn mul_add4(self, a: [f32; 4], b: [f32; 4], c: [f32; 4]) -> [f32; 4] {
        from_fn(|i| a[i].mul_add(b[i], c[i]))
    }
    #[inline(always)]
    fn to_f4(self, a: [i32; 4]) -> [f32; 4] {
        a.map(|x| x as f32)
    }
    #[inline(always)]
    fn add4_i32(self, a: [i32; 4], b: [i32; 4]) -> [i32; 4] {
        from_fn(|i| a[i].wrapping_add(b[i]))
    }
    #[inline(always)]
    fn fold(self, a: [i32; 8]) -> [i32; 4] {
        from_fn(|i| a[i] + a[i + 4])
    }
    #[inline(always)]
    fn sum_rows(self, rows: [[i32; 8]; 4]) -> [i32; 4] {
        rows.map(|row| row.into_iter().sum())
    }
    #[inline(always)]
    fn prefetch<T>(self, _: &[T], _: usize) {}
}

/// Register tiles, which no processor of this kind has.
#[cfg(not(target_arch = "x86_64"))]
pub(crate) enum Tiles {}

#[cfg(not(target_arch = "x86_64"))]
impl Tiles {
    /// # Panics
    /// Always
    pub(super) fn new(_bytes: usize) -> Self {
        panic!("tiles on a processor without them")
    }
    pub(crate) fn clear<const T: usize>(&self) {
        match *self {}
    }
    pub(crate) fn digits<const T: usize>(&self, _w: [&[Line; 16]; 2], _x: [&[Line; 16]; T]) {
        match *self {}
    }
    pub(crate) fn unsigned_digits<const T: usize>(&self, _w: [&[Line; 16]; 2], _x: [&[Line; 16]; T]) {
        match *self {}
    }
    pub(crate) fn rows<const T: usize>(&self, _rows: ([&[i8]; T], usize, usize), _digits: [&[Line; 16]; 2]) {
        match *self {}
    }
    pub(crate) fn interleave(&self, _rows: &[&[i8; 64]; 64], _to: [&mut [Line; 16]; 4]) {
        match *self {}
    }
    pub(crate) fn take<const T: usize>(&self, _to: &mut Sums<impl Sum>) {
        match *self {}
    }
    pub(crate) fn terms<const R: usize, const V: usize, const N: usize>(
        &self,
        _rows: &[[[Line; 16]; 2]; N],
        _cols: &[[[Line; 16]; 2]; N],
    ) {
        match *self {}
    }
    pub(crate) fn split_terms<const N: usize>(&self, _low: &[f32], _high: &[f32], _to: [&mut Line; N]) {
        match *self {}
    }
    pub(crate) fn codes(&self, _w: &[Line; 8], _x: &[Line; 8], _to: &mut [[i32; LANES]; 16]) {
        match *self {}
    }
    pub(crate) fn subtract(&self, _line: &mut Line, _zero: u8) {
        match *self {}
    }
    pub(crate) fn split(&self, _codes: &Line, _scales: &[i16; 32], _at: (&[u16; 32], usize), _to: [&mut Line; 2]) {
        match *self {}
    }
}
