//! AVX-512 F, BW, DQ, VL and VNNI: a vector is one register. Must not be reached without its token.
#![expect(unsafe_code, reason = "intrinsics, behind a token that only detection makes")]

use std::arch::x86_64::*;

use super::{Kernel, LANES, Plain, Simd, make, map};

/// Proof that the machine has AVX-512 F, BW, DQ, VL and VNNI, besides AVX2, FMA and F16C.
#[derive(Clone, Copy)]
pub(crate) struct Avx512 {
    _private: (),
}

impl Avx512 {
    pub(crate) fn detect() -> Option<Self> {
        let has = is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512dq")
            && is_x86_feature_detected!("avx512vl")
            && is_x86_feature_detected!("avx512vnni")
            && is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("fma")
            && is_x86_feature_detected!("f16c");
        has.then_some(Self { _private: () })
    }
}

/// Compiles the kernel with the level's instructions.
///
/// # Safety
/// The machine has what `token` proves.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
pub(super) unsafe fn enter<K: Kernel>(token: Avx512, kernel: K) {
    kernel.run(token);
}

/// An intrinsic on registers alone.
macro_rules! op {
    ($e:expr) => {
        // SAFETY: the token that every caller holds proves the instructions; nothing is read from memory.
        unsafe { $e }
    };
}

/// The register's worth of bytes that a reference covers.
#[inline(always)]
fn load<T, const N: usize>(from: &[T; N]) -> __m512i {
    assert!(size_of::<[T; N]>() == 64);
    // SAFETY: the place holds 64 bytes, and the load needs no alignment. Reached with a token only.
    unsafe { _mm512_loadu_si512(from.as_ptr().cast()) }
}

#[inline(always)]
fn store<T, const N: usize>(register: __m512i, to: &mut [T; N]) {
    assert!(size_of::<[T; N]>() == 64);
    // SAFETY: as for `load`.
    unsafe { _mm512_storeu_si512(to.as_mut_ptr().cast(), register) }
}

#[inline(always)]
fn load32<T, const N: usize>(from: &[T; N]) -> __m256i {
    assert!(size_of::<[T; N]>() == 32);
    // SAFETY: as for `load`.
    unsafe { _mm256_loadu_si256(from.as_ptr().cast()) }
}

#[inline(always)]
fn load16<T, const N: usize>(from: &[T; N]) -> __m128i {
    assert!(size_of::<[T; N]>() == 16);
    // SAFETY: as for `load`.
    unsafe { _mm_loadu_si128(from.as_ptr().cast()) }
}

#[inline(always)]
fn store16<T, const N: usize>(register: __m128i, to: &mut [T; N]) {
    assert!(size_of::<[T; N]>() == 16);
    // SAFETY: as for `load`.
    unsafe { _mm_storeu_si128(to.as_mut_ptr().cast(), register) }
}

#[inline(always)]
fn join(a: __m256i, b: __m256i) -> __m512i {
    op!(_mm512_inserti64x4::<1>(_mm512_castsi256_si512(a), b))
}

/// `a` in the words of the first half, `b` in those of the second.
#[inline(always)]
fn word_halves(a: i16, b: i16) -> __m512i {
    op!(join(_mm256_set1_epi16(a), _mm256_set1_epi16(b)))
}

/// acc + Σ w·x over fours, `w` unsigned; saturation is far away.
#[inline(always)]
fn fours(acc: __m512i, w: __m512i, x: __m512i) -> __m512i {
    op!(_mm512_dpbusd_epi32(acc, w, x))
}

impl Simd for Avx512 {
    type F32 = __m512;
    type I32 = __m512i;
    type I16 = __m512i;
    type Bytes = __m512i;
    type F4 = __m128;
    type I4 = __m128i;
    type I16x8 = __m128i;

    const BIAS: u8 = 128;
    const PANEL_TOKENS: usize = 8;
    const TILE_ROWS: usize = 8;

    #[inline(always)]
    fn splat(self, value: f32) -> __m512 {
        op!(_mm512_set1_ps(value))
    }
    #[inline(always)]
    fn load(self, values: &[f32; LANES]) -> __m512 {
        op!(_mm512_castsi512_ps(load(values)))
    }
    #[inline(always)]
    fn store(self, v: __m512, to: &mut [f32; LANES]) {
        store(op!(_mm512_castps_si512(v)), to);
    }
    #[inline(always)]
    fn load_f16(self, bits: &[[u8; 2]; LANES]) -> __m512 {
        op!(_mm512_cvtph_ps(load32(bits)))
    }
    #[inline(always)]
    fn load_bf16(self, bits: &[[u8; 2]; LANES]) -> __m512 {
        op!(_mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(load32(bits)))))
    }
    #[inline(always)]
    fn load_i8(self, bytes: &[i8; LANES]) -> __m512 {
        op!(_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(load16(bytes))))
    }
    #[inline(always)]
    fn add(self, a: __m512, b: __m512) -> __m512 {
        op!(_mm512_add_ps(a, b))
    }
    #[inline(always)]
    fn sub(self, a: __m512, b: __m512) -> __m512 {
        op!(_mm512_sub_ps(a, b))
    }
    #[inline(always)]
    fn mul(self, a: __m512, b: __m512) -> __m512 {
        op!(_mm512_mul_ps(a, b))
    }
    #[inline(always)]
    fn max(self, a: __m512, b: __m512) -> __m512 {
        op!(_mm512_max_ps(a, b))
    }
    #[inline(always)]
    fn min(self, a: __m512, b: __m512) -> __m512 {
        op!(_mm512_min_ps(a, b))
    }
    #[inline(always)]
    fn div(self, a: __m512, b: __m512) -> __m512 {
        op!(_mm512_div_ps(a, b))
    }
    #[inline(always)]
    fn abs(self, a: __m512) -> __m512 {
        op!(_mm512_abs_ps(a))
    }
    #[inline(always)]
    fn mul_add(self, a: __m512, b: __m512, c: __m512) -> __m512 {
        op!(_mm512_fmadd_ps(a, b, c))
    }
    #[inline(always)]
    fn sum(self, v: __m512) -> f32 {
        op!({
            let eight = _mm256_add_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps::<1>(v));
            let four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps::<1>(eight));
            let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
            _mm_cvtss_f32(_mm_add_ss(two, _mm_shuffle_ps::<1>(two, two)))
        })
    }
    #[inline(always)]
    fn max_lane(self, v: __m512) -> f32 {
        op!(_mm512_reduce_max_ps(v))
    }
    #[inline(always)]
    fn round(self, v: __m512) -> __m512i {
        op!(_mm512_cvtps_epi32(v))
    }
    #[inline(always)]
    fn to_f32(self, v: __m512i) -> __m512 {
        op!(_mm512_cvtepi32_ps(v))
    }

    #[inline(always)]
    fn mul_power(self, a: __m512, e: __m512) -> __m512 {
        op!(_mm512_scalef_ps(a, e))
    }

    #[inline(always)]
    fn splat_i32(self, value: i32) -> __m512i {
        op!(_mm512_set1_epi32(value))
    }
    #[inline(always)]
    fn sum_i32(self, v: __m512i) -> i32 {
        op!(_mm512_reduce_add_epi32(v))
    }
    #[inline(always)]
    fn store_i8(self, v: __m512i, to: &mut [i8; LANES]) {
        store16(op!(_mm512_cvtepi32_epi8(v)), to);
    }
    #[inline(always)]
    fn store_i16(self, a: __m512i, b: __m512i, to: &mut [i16; 2 * LANES]) {
        store(op!(join(_mm512_cvtepi32_epi16(a), _mm512_cvtepi32_epi16(b))), to);
    }

    #[inline(always)]
    fn load_i16(self, values: &[i16; 2 * LANES]) -> __m512i {
        load(values)
    }
    #[inline(always)]
    fn splat_i16(self, value: i16) -> __m512i {
        op!(_mm512_set1_epi16(value))
    }
    #[inline(always)]
    fn splat_pair(self, [a, b]: [i16; 2]) -> __m512i {
        let pair = i32::from(a) & 0xffff | i32::from(b) << 16;
        op!(_mm512_set1_epi32(pair))
    }
    #[inline(always)]
    fn widen_i8(self, bytes: &[i8; 2 * LANES]) -> __m512i {
        op!(_mm512_cvtepi8_epi16(load32(bytes)))
    }
    #[inline(always)]
    fn zip_i8(self, a: &[i8; LANES], b: &[i8; LANES]) -> __m512i {
        let (a, b) = (load16(a), load16(b));
        op!(_mm512_cvtepi8_epi16(_mm256_set_m128i(_mm_unpackhi_epi8(a, b), _mm_unpacklo_epi8(a, b))))
    }
    #[inline(always)]
    fn zip_i16(self, a: &[i16; LANES], b: &[i16; LANES]) -> __m512i {
        op!({
            let (a, b) = (_mm512_cvtepu16_epi32(load32(a)), _mm512_cvtepu16_epi32(load32(b)));
            _mm512_or_si512(a, _mm512_slli_epi32::<16>(b))
        })
    }
    #[inline(always)]
    fn store_pairs(self, a: __m512i, to: &mut [i16; 2 * LANES]) {
        store(a, to);
    }
    #[inline(always)]
    fn split_i8(self, bytes: &[i8; 4 * LANES]) -> [__m512i; 2] {
        let bytes = load(bytes);
        op!([_mm512_srai_epi16::<8>(_mm512_slli_epi16::<8>(bytes)), _mm512_srai_epi16::<8>(bytes)])
    }
    #[inline(always)]
    fn split_bf16(self, bits: &[u16; 2 * LANES]) -> [__m512; 2] {
        let bits = load(bits);
        op!([
            _mm512_castsi512_ps(_mm512_slli_epi32::<16>(bits)),
            _mm512_castsi512_ps(_mm512_and_si512(bits, _mm512_set1_epi32(0xffff_0000u32 as i32))),
        ])
    }
    #[inline(always)]
    fn dot2(self, acc: __m512i, a: __m512i, b: __m512i) -> __m512i {
        op!(_mm512_dpwssd_epi32(acc, a, b))
    }

    #[inline(always)]
    fn splat_u8(self, value: u8) -> __m512i {
        op!(_mm512_set1_epi8(value as i8))
    }
    #[inline(always)]
    fn load_u8(self, bytes: &[u8; 64]) -> __m512i {
        load(bytes)
    }
    #[inline(always)]
    fn load_halves(self, a: &[u8; 32], b: &[u8; 32]) -> __m512i {
        join(load32(a), load32(b))
    }
    #[inline(always)]
    fn load_halves_i8(self, a: &[i8; 32], b: &[i8; 32]) -> __m512i {
        join(load32(a), load32(b))
    }
    #[inline(always)]
    fn store_u8(self, bytes: __m512i, to: &mut [u8; 64]) {
        store(bytes, to);
    }
    #[inline(always)]
    fn nibbles(self, a: &[u8; 16], b: &[u8; 16]) -> __m512i {
        op!({
            let both = join(_mm256_broadcastsi128_si256(load16(a)), _mm256_broadcastsi128_si256(load16(b)));
            let shifts = _mm512_set_epi64(
                0x0004000400040004,
                0x0004000400040004,
                0,
                0,
                0x0004000400040004,
                0x0004000400040004,
                0,
                0,
            );
            _mm512_and_si512(_mm512_srlv_epi16(both, shifts), _mm512_set1_epi8(15))
        })
    }
    #[inline(always)]
    fn or(self, a: __m512i, b: __m512i) -> __m512i {
        op!(_mm512_or_si512(a, b))
    }
    #[inline(always)]
    fn xor(self, a: __m512i, b: __m512i) -> __m512i {
        op!(_mm512_xor_si512(a, b))
    }
    #[inline(always)]
    fn shl4(self, bytes: __m512i) -> __m512i {
        op!(_mm512_slli_epi16::<4>(bytes))
    }
    #[inline(always)]
    fn as_i16(self, bytes: __m512i) -> __m512i {
        bytes
    }
    #[inline(always)]
    fn as_f32(self, bytes: __m512i) -> __m512 {
        op!(_mm512_castsi512_ps(bytes))
    }
    #[inline(always)]
    fn join_i16x8(self, [a, b, c, d]: [__m128i; 4]) -> __m512i {
        op!(join(_mm256_set_m128i(b, a), _mm256_set_m128i(d, c)))
    }
    #[inline(always)]
    fn shr_and<const A: u32, const B: u32>(self, bytes: __m512i, mask: u8) -> __m512i {
        op!({
            let shifted = match A == B {
                true => _mm512_srl_epi16(bytes, _mm_cvtsi32_si128(A as i32)),
                false => _mm512_srlv_epi16(bytes, word_halves(A as i16, B as i16)),
            };
            _mm512_and_si512(shifted, _mm512_set1_epi8(mask as i8))
        })
    }
    #[inline(always)]
    fn bit_and<const A: u32, const B: u32>(self, bytes: __m512i, mask: u8) -> __m512i {
        op!({
            let bits = join(_mm256_set1_epi8((1u8 << A) as i8), _mm256_set1_epi8((1u8 << B) as i8));
            _mm512_maskz_set1_epi8(_mm512_test_epi8_mask(bytes, bits), mask as i8)
        })
    }
    #[inline(always)]
    fn spread_bits(self, a: [u8; 4], b: [u8; 4], mask: u8) -> __m512i {
        let bits = u64::from(u32::from_le_bytes(a)) | u64::from(u32::from_le_bytes(b)) << 32;
        op!(_mm512_maskz_set1_epi8(bits, mask as i8))
    }
    #[inline(always)]
    fn lookup(self, table: &[u8; 16], bytes: __m512i) -> __m512i {
        op!(_mm512_shuffle_epi8(_mm512_broadcast_i32x4(load16(table)), bytes))
    }
    #[inline(always)]
    fn dot_scaled(self, acc: __m512i, w: __m512i, x: __m512i, scale: __m512i) -> __m512i {
        op!(_mm512_dpwssd_epi32(acc, _mm512_maddubs_epi16(w, x), scale))
    }
    #[inline(always)]
    fn dot_codes(self, acc: __m512i, w: __m512i, x: __m512i) -> __m512i {
        fours(acc, w, x)
    }
    #[inline(always)]
    fn dot_wide(self, acc: __m512i, w: __m512i, x: __m512i) -> __m512i {
        fours(acc, w, x)
    }
    #[inline(always)]
    fn dot_wide_scaled(self, acc: __m512i, w: __m512i, x: __m512i, scale: __m512i) -> __m512i {
        op!({
            let sums = fours(_mm512_setzero_si512(), w, x);
            _mm512_add_epi32(acc, _mm512_mullo_epi32(sums, _mm512_srai_epi32::<16>(scale)))
        })
    }

    #[inline(always)]
    fn panel_dots<const T: usize, const STEPS: usize, const BITS: u32, const SCALED: bool>(
        self,
        mut acc: [__m512i; T],
        w: &[[u8; 64]; STEPS],
        x: [&[[i8; 4]; STEPS]; T],
        scale: __m512i,
    ) -> [__m512i; T] {
        let mut sums = if SCALED { op!([_mm512_setzero_si512(); T]) } else { acc };
        for i in 0..STEPS {
            let w = load(&w[i]);
            for t in 0..T {
                let x = i32::from_le_bytes(x[t][i].map(|q| q as u8));
                sums[t] = fours(sums[t], w, op!(_mm512_set1_epi32(x)));
            }
        }
        if !SCALED {
            return sums;
        }
        let scale = op!(_mm512_srai_epi32::<16>(scale));
        for t in 0..T {
            acc[t] = op!(_mm512_add_epi32(acc[t], _mm512_mullo_epi32(sums[t], scale)));
        }
        acc
    }
    #[inline(always)]
    fn transpose<T: Plain, const N: usize>(self, rows: [&[T; N]; 16], to: &mut [[T; N]; 16]) {
        let r: [__m512i; 16] = make(|i| load(rows[i]));
        op!({
            // Within 128 bits: fours of rows, as for AVX2; then the 128-bit parts change places twice.
            let two: [__m512i; 16] = make(|i| match i % 2 {
                0 => _mm512_unpacklo_epi32(r[i], r[i + 1]),
                _ => _mm512_unpackhi_epi32(r[i - 1], r[i]),
            });
            // four[4g + j]: column j of each 128-bit part, rows 4g..4g + 4.
            let four: [__m512i; 16] = make(|i| {
                let (a, b) = (two[i / 4 * 4 + i % 4 / 2], two[i / 4 * 4 + i % 4 / 2 + 2]);
                if i % 2 == 0 { _mm512_unpacklo_epi64(a, b) } else { _mm512_unpackhi_epi64(a, b) }
            });
            for j in 0..4 {
                let low = _mm512_shuffle_i32x4::<0b01_00_01_00>(four[j], four[4 + j]);
                let high = _mm512_shuffle_i32x4::<0b11_10_11_10>(four[j], four[4 + j]);
                let low2 = _mm512_shuffle_i32x4::<0b01_00_01_00>(four[8 + j], four[12 + j]);
                let high2 = _mm512_shuffle_i32x4::<0b11_10_11_10>(four[8 + j], four[12 + j]);
                store(_mm512_shuffle_i32x4::<0b10_00_10_00>(low, low2), &mut to[j]);
                store(_mm512_shuffle_i32x4::<0b11_01_11_01>(low, low2), &mut to[4 + j]);
                store(_mm512_shuffle_i32x4::<0b10_00_10_00>(high, high2), &mut to[8 + j]);
                store(_mm512_shuffle_i32x4::<0b11_01_11_01>(high, high2), &mut to[12 + j]);
            }
        });
    }

    #[inline(always)]
    fn widen_u8x8(self, bytes: [u8; 8]) -> __m128i {
        op!(_mm_cvtepu8_epi16(_mm_cvtsi64_si128(i64::from_le_bytes(bytes))))
    }
    #[inline(always)]
    fn widen_i8x8(self, bytes: [u8; 8]) -> __m128i {
        op!(_mm_cvtepi8_epi16(_mm_cvtsi64_si128(i64::from_le_bytes(bytes))))
    }
    #[inline(always)]
    fn add_i16x8(self, a: __m128i, value: i16) -> __m128i {
        op!(_mm_add_epi16(a, _mm_set1_epi16(value)))
    }
    #[inline(always)]
    fn mul_i16x8(self, a: __m128i, value: i16) -> __m128i {
        op!(_mm_mullo_epi16(a, _mm_set1_epi16(value)))
    }
    #[inline(always)]
    fn zip_i16x8(self, a: __m128i, b: __m128i) -> [__m128i; 2] {
        op!([_mm_unpacklo_epi16(a, b), _mm_unpackhi_epi16(a, b)])
    }
    #[inline(always)]
    fn pick_halves(self, scales: __m128i, a: usize, b: usize) -> __m512i {
        op!(_mm512_permutexvar_epi16(word_halves(a as i16, b as i16), _mm512_castsi128_si512(scales)))
    }
    #[inline(always)]
    fn pick_quarters(self, scales: __m128i, a: usize, b: usize) -> __m512i {
        op!({
            let quarters = |i: usize| _mm256_set_m128i(_mm_set1_epi16(2 * i as i16 + 1), _mm_set1_epi16(2 * i as i16));
            _mm512_permutexvar_epi16(join(quarters(a), quarters(b)), _mm512_castsi128_si512(scales))
        })
    }

    #[inline(always)]
    fn splat4(self, value: f32) -> __m128 {
        op!(_mm_set1_ps(value))
    }
    #[inline(always)]
    fn splat4_i32(self, value: i32) -> __m128i {
        op!(_mm_set1_epi32(value))
    }
    #[inline(always)]
    fn load4(self, [a, b, c, d]: [f32; 4]) -> __m128 {
        op!(_mm_setr_ps(a, b, c, d))
    }
    #[inline(always)]
    fn load4_f16(self, bits: [[u8; 2]; 4]) -> __m128 {
        let [a, b, c, d] = map(bits, |bits| u64::from(u16::from_le_bytes(bits)));
        op!(_mm_cvtph_ps(_mm_cvtsi64_si128((a | b << 16 | c << 32 | d << 48) as i64)))
    }
    #[inline(always)]
    fn store4(self, values: __m128) -> [f32; 4] {
        let mut to = [0.0; 4];
        store16(op!(_mm_castps_si128(values)), &mut to);
        to
    }
    #[inline(always)]
    fn mul4(self, a: __m128, b: __m128) -> __m128 {
        op!(_mm_mul_ps(a, b))
    }
    #[inline(always)]
    fn mul_add4(self, a: __m128, b: __m128, c: __m128) -> __m128 {
        op!(_mm_fmadd_ps(a, b, c))
    }
    #[inline(always)]
    fn to_f4(self, a: __m128i) -> __m128 {
        op!(_mm_cvtepi32_ps(a))
    }
    #[inline(always)]
    fn add4_i32(self, a: __m128i, b: __m128i) -> __m128i {
        op!(_mm_add_epi32(a, b))
    }
    #[inline(always)]
    fn narrow(self, v: __m512i) -> __m128i {
        op!({
            let eight = _mm256_add_epi32(_mm512_castsi512_si256(v), _mm512_extracti64x4_epi64::<1>(v));
            _mm_add_epi32(_mm256_castsi256_si128(eight), _mm256_extracti128_si256::<1>(eight))
        })
    }
    #[inline(always)]
    fn sum_halves(self, r: [__m512i; 4]) -> [__m128i; 2] {
        op!({
            let a = _mm512_add_epi32(_mm512_unpacklo_epi32(r[0], r[1]), _mm512_unpackhi_epi32(r[0], r[1]));
            let b = _mm512_add_epi32(_mm512_unpacklo_epi32(r[2], r[3]), _mm512_unpackhi_epi32(r[2], r[3]));
            // Four times four rows, one for each 128 bits.
            let fours = _mm512_add_epi32(_mm512_unpacklo_epi64(a, b), _mm512_unpackhi_epi64(a, b));
            map([_mm512_castsi512_si256(fours), _mm512_extracti64x4_epi64::<1>(fours)], |fours| {
                _mm_add_epi32(_mm256_castsi256_si128(fours), _mm256_extracti128_si256::<1>(fours))
            })
        })
    }
    #[inline(always)]
    fn dot2x8(self, a: __m128i, b: &[i16; 8]) -> __m128i {
        op!(_mm_madd_epi16(a, load16(b)))
    }
    #[inline(always)]
    fn sum_each(self, [a, b, c, d]: [__m128i; 4]) -> __m128i {
        op!(_mm_hadd_epi32(_mm_hadd_epi32(a, b), _mm_hadd_epi32(c, d)))
    }
    #[inline(always)]
    fn prefetch<T>(self, values: &[T], offset: usize) {
        // SAFETY: a prefetch of any address has no effect but on speed.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(values.as_ptr().wrapping_add(offset).cast()) }
    }
}
