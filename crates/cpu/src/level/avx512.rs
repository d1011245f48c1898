//! AVX-512 F, BW, DQ, VL and VNNI: a vector is one register. Must not be reached without its token.
#![expect(unsafe_code, reason = "intrinsics, behind a token that only detection makes")]

use std::arch::x86_64::*;

use super::x86::{halves_and_rows, in_turn, op, opaque, opaque512};
use super::{Kernel, LANES, Plain, Simd, amx, make, map};

/// Proof that the machine has AVX-512 F, BW, DQ, VL and VNNI, besides AVX2, FMA and F16C.
#[derive(Clone, Copy)]
pub(crate) struct Avx512 {
    has_tiles: bool,
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
        has.then_some(Self { has_tiles: false })
    }

    /// The same, and that it has AMX.
    pub(crate) fn detect_with_tiles() -> Option<Self> {
        Self::detect().filter(|_| amx::detect()).map(|_| Self { has_tiles: true })
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
fn store32<T, const N: usize>(register: __m256i, to: &mut [T; N]) {
    assert!(size_of::<[T; N]>() == 32);
    // SAFETY: as for `load`.
    unsafe { _mm256_storeu_si256(to.as_mut_ptr().cast(), register) }
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

/// The same 128 bits four times.
#[inline(always)]
fn four_times(four: __m128i) -> __m512i {
    op!(_mm512_broadcast_i32x4(four))
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
    fn load_i32(self, values: &[i32; LANES]) -> __m512i {
        load(values)
    }
    #[inline(always)]
    fn shl_add<const BITS: u32>(self, a: __m512i, b: __m512i) -> __m512i {
        op!(_mm512_add_epi32(_mm512_slli_epi32::<BITS>(a), b))
    }
    #[inline(always)]
    fn has_tiles(self) -> bool {
        self.has_tiles
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
    fn load_u8(self, bytes: &[u8; 64]) -> __m512i {
        load(bytes)
    }
    #[inline(always)]
    fn or(self, a: __m512i, b: __m512i) -> __m512i {
        op!(_mm512_or_si512(a, b))
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

    halves_and_rows!();

    #[inline(always)]
    fn load_quarters(self, rows: [&[u8; 16]; 4]) -> __m512i {
        let [a, b, c, d] = map(rows, load16);
        op!(join(_mm256_set_m128i(b, a), _mm256_set_m128i(d, c)))
    }
    #[inline(always)]
    fn shuffle(self, bytes: __m512i, order: [u8; 16]) -> __m512i {
        op!(_mm512_shuffle_epi8(bytes, four_times(load16(&order))))
    }
    #[inline(always)]
    fn shr32(self, bytes: __m512i, by: [u32; 4]) -> __m512i {
        op!(_mm512_srlv_epi32(bytes, four_times(load16(&by))))
    }
    #[inline(always)]
    fn and_quarters(self, bytes: __m512i, mask: [u8; 16]) -> __m512i {
        op!(_mm512_and_si512(bytes, four_times(load16(&mask))))
    }
    #[inline(always)]
    fn widen_quarters(self, bytes: __m512i) -> [__m512i; 2] {
        op!({
            let zero = _mm512_setzero_si512();
            [_mm512_unpacklo_epi8(bytes, zero), _mm512_unpackhi_epi8(bytes, zero)]
        })
    }
    #[inline(always)]
    fn add_i16(self, a: __m512i, b: __m512i) -> __m512i {
        op!(_mm512_add_epi16(a, b))
    }
    #[inline(always)]
    fn mul_i16(self, a: __m512i, b: __m512i) -> __m512i {
        op!(_mm512_mullo_epi16(a, b))
    }
    #[inline(always)]
    fn widen_quarters_i8(self, bytes: __m512i) -> [__m512i; 2] {
        op!([
            _mm512_srai_epi16::<8>(_mm512_unpacklo_epi8(bytes, bytes)),
            _mm512_srai_epi16::<8>(_mm512_unpackhi_epi8(bytes, bytes)),
        ])
    }
    #[inline(always)]
    fn pairs_of_rows(self, a: __m512i) -> __m512i {
        op!({
            let order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
            _mm512_permutexvar_epi32(order, opaque512(a))
        })
    }

    #[inline(always)]
    fn spread_bits(self, bits: [u8; 4], mask: u8) -> __m256i {
        op!(_mm256_maskz_set1_epi8(u32::from_le_bytes(bits), mask as i8))
    }
    #[inline(always)]
    fn dot_codes(self, acc: __m256i, w: __m256i, x: __m256i) -> __m256i {
        op!(_mm256_dpbusd_epi32(acc, w, x))
    }
    #[inline(always)]
    fn dot_wide(self, acc: __m256i, w: __m256i, x: __m256i) -> __m256i {
        op!(_mm256_dpbusd_epi32(acc, w, x))
    }
    #[inline(always)]
    fn dot_two<const BITS: u32, const TWO_SCALES: bool>(
        self,
        acc: __m256i,
        w: [__m256i; 2],
        x: [__m256i; 2],
        [low, high]: [[i16; 2]; 2],
    ) -> __m256i {
        op!({
            let scale = self.pairs(low, if TWO_SCALES { high } else { low });
            let a = _mm256_dpbusd_epi32(_mm256_setzero_si256(), w[0], x[0]);
            let b = _mm256_dpbusd_epi32(_mm256_setzero_si256(), w[1], x[1]);
            if BITS == 8 {
                let a = _mm256_mullo_epi32(a, _mm256_srai_epi32::<16>(_mm256_slli_epi32::<16>(scale)));
                let b = _mm256_mullo_epi32(b, _mm256_srai_epi32::<16>(scale));
                return _mm256_add_epi32(acc, _mm256_add_epi32(a, b));
            }
            // Both sums fit 16 bits, so that they share an instruction.
            _mm256_dpwssd_epi32(acc, _mm256_blend_epi16::<0b1010_1010>(a, _mm256_slli_epi32::<16>(b)), scale)
        })
    }
    #[inline(always)]
    fn dot_pairs(self, acc: __m256i, a: &[i16; 16], b: __m256i) -> __m256i {
        op!(_mm256_dpwssd_epi32(acc, load32(a), b))
    }
}
