//! What AVX2 and AVX-512 do with the same instructions: halves of a vector, and a value of each of four rows.
//!
//! Owns that part of [`Simd`](super::Simd). Must not be reached without a level's token.
#![expect(unsafe_code, reason = "intrinsics, behind a token that only detection makes")]

use std::arch::asm;
use std::arch::x86_64::{__m256i, __m512i};

/// An intrinsic on registers alone.
macro_rules! op {
    ($e:expr) => {
        // SAFETY: the token that every caller holds proves the instructions; nothing is read from memory.
        unsafe { $e }
    };
}

/// A register as it is, of which the compiler knows nothing: it would else put a constant into memory, to be loaded anew
/// by every instruction that needs it, or merge shuffles into one that takes several instructions.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn opaque(mut value: __m256i) -> __m256i {
    // SAFETY: no instruction; the operand leaves as it came.
    unsafe { asm!("/* {0} */", inout(ymm_reg) value, options(pure, nomem, nostack, preserves_flags)) };
    value
}

/// The same.
#[inline]
#[target_feature(enable = "avx512f")]
pub(super) fn opaque512(mut value: __m512i) -> __m512i {
    // SAFETY: as above.
    unsafe { asm!("/* {0} */", inout(zmm_reg) value, options(pure, nomem, nostack, preserves_flags)) };
    value
}

/// Both as they are, the pointer not before the register is known.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn in_turn<T>(mut sums: __m256i, mut next: *const T) -> (__m256i, *const T) {
    // SAFETY: as above.
    unsafe {
        asm!("/* {0} {1} */", inout(ymm_reg) sums, inout(reg) next, options(pure, readonly, nostack, preserves_flags));
    }
    (sums, next)
}

/// The items of `impl Simd` that are about halves and four rows.
macro_rules! halves_and_rows {
    () => {
        type Half = __m256i;
        type I8 = __m256i;
        type F4 = __m128;
        type I4 = __m128i;

        #[inline(always)]
        fn load_half(self, bytes: &[u8; 32]) -> __m256i {
            load32(bytes)
        }
        #[inline(always)]
        fn load_half_i8(self, bytes: &[i8; 32]) -> __m256i {
            load32(bytes)
        }
        #[inline(always)]
        fn store_half(self, half: __m256i, to: &mut [u8; 32]) {
            store32(half, to);
        }
        #[inline(always)]
        fn splat_half(self, value: u8) -> __m256i {
            op!(_mm256_set1_epi8(value as i8))
        }
        #[inline(always)]
        fn or_half(self, a: __m256i, b: __m256i) -> __m256i {
            op!(_mm256_or_si256(a, b))
        }
        #[inline(always)]
        fn xor_half(self, a: __m256i, b: __m256i) -> __m256i {
            op!(_mm256_xor_si256(a, b))
        }
        #[inline(always)]
        fn bits<const FROM: u32, const TO: u32, const N: u32>(self, half: __m256i) -> __m256i {
            op!({
                // Bits from the neighbour are masked away.
                let moved = match FROM < TO {
                    true => _mm256_sll_epi16(half, _mm_cvtsi32_si128(TO.saturating_sub(FROM) as i32)),
                    false => _mm256_srl_epi16(half, _mm_cvtsi32_si128(FROM.saturating_sub(TO) as i32)),
                };
                _mm256_and_si256(moved, opaque(_mm256_set1_epi8((((1u32 << N) - 1) << TO) as i8)))
            })
        }
        #[inline(always)]
        fn nibbles(self, bytes: &[u8; 16]) -> __m256i {
            op!({
                let twice = _mm256_broadcastsi128_si256(load16(bytes));
                let shifts = opaque(_mm256_setr_epi32(0, 0, 0, 0, 4, 4, 4, 4));
                _mm256_and_si256(_mm256_srlv_epi32(twice, shifts), opaque(_mm256_set1_epi8(15)))
            })
        }
        #[inline(always)]
        fn lookup(self, table: &[u8; 16], half: __m256i) -> __m256i {
            op!(_mm256_shuffle_epi8(_mm256_broadcastsi128_si256(load16(table)), half))
        }
        #[inline(always)]
        fn pairs(self, a: [i16; 2], b: [i16; 2]) -> __m256i {
            let pair = |[a, b]: [i16; 2]| i32::from(a) & 0xffff | i32::from(b) << 16;
            op!(_mm256_blend_epi32::<0xf0>(_mm256_set1_epi32(pair(a)), _mm256_set1_epi32(pair(b))))
        }
        #[inline(always)]
        fn splat_i8(self, value: i32) -> __m256i {
            op!(_mm256_set1_epi32(value))
        }
        #[inline(always)]
        fn in_turn<T>(self, sums: __m256i, next: &T) -> (__m256i, &T) {
            // SAFETY: the pointer is the reference.
            op!({
                let (sums, next) = in_turn(sums, next);
                (sums, &*next)
            })
        }
        #[inline(always)]
        fn fold(self, a: __m256i) -> __m128i {
            op!(_mm_add_epi32(_mm256_castsi256_si128(a), _mm256_extracti128_si256::<1>(a)))
        }
        #[inline(always)]
        fn sum_rows(self, r: [__m256i; 4]) -> __m128i {
            // Horizontal additions would take twice as long.
            self.fold(op!({
                let a = _mm256_add_epi32(_mm256_unpacklo_epi32(r[0], r[1]), _mm256_unpackhi_epi32(r[0], r[1]));
                let b = _mm256_add_epi32(_mm256_unpacklo_epi32(r[2], r[3]), _mm256_unpackhi_epi32(r[2], r[3]));
                _mm256_add_epi32(_mm256_unpacklo_epi64(a, b), _mm256_unpackhi_epi64(a, b))
            }))
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
            let [a, b, c, d] = map(bits, i16::from_le_bytes);
            op!(_mm_cvtph_ps(_mm_setr_epi16(a, b, c, d, 0, 0, 0, 0)))
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
        fn prefetch<T>(self, values: &[T], offset: usize) {
            // SAFETY: a prefetch of any address has no effect but on speed.
            unsafe { _mm_prefetch::<_MM_HINT_T0>(values.as_ptr().wrapping_add(offset).cast()) }
        }
    };
}

pub(super) use {halves_and_rows, op};
