//! AVX2, FMA and F16C: a vector is two registers. Must not be reached without its token.
#![expect(unsafe_code, reason = "intrinsics, behind a token that only detection makes")]

use std::arch::x86_64::*;

use super::x86::{halves_and_rows, in_turn, op, opaque};
use super::{Kernel, LANES, Plain, Simd, make, map};

/// Proof that the machine has AVX2, FMA and F16C.
#[derive(Clone, Copy)]
pub(crate) struct Avx2 {
    _private: (),
}

impl Avx2 {
    pub(crate) fn detect() -> Option<Self> {
        let has =
            is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") && is_x86_feature_detected!("f16c");
        has.then_some(Self { _private: () })
    }
}

/// Compiles the kernel with the level's instructions.
///
/// # Safety
/// The machine has AVX2, FMA and F16C, which `token` proves.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn enter<K: Kernel>(token: Avx2, kernel: K) {
    kernel.run(token);
}

/// The register at `i` of a place that a reference covers.
#[inline(always)]
fn load<T, const N: usize>(from: &[T; N], i: usize) -> __m256i {
    assert!(size_of::<[T; N]>() >= 32 * (i + 1));
    // SAFETY: the place holds 32 bytes from there on, and the load needs no alignment. Reached with a token only.
    unsafe { _mm256_loadu_si256(from.as_ptr().cast::<__m256i>().add(i)) }
}

#[inline(always)]
fn store<T, const N: usize>(register: __m256i, to: &mut [T; N], i: usize) {
    assert!(size_of::<[T; N]>() >= 32 * (i + 1));
    // SAFETY: as for `load`.
    unsafe { _mm256_storeu_si256(to.as_mut_ptr().cast::<__m256i>().add(i), register) }
}

/// The register that a reference covers.
#[inline(always)]
fn load32<T, const N: usize>(from: &[T; N]) -> __m256i {
    load(from, 0)
}

#[inline(always)]
fn store32<T, const N: usize>(register: __m256i, to: &mut [T; N]) {
    store(register, to, 0);
}

/// The 16 bytes that a reference covers.
#[inline(always)]
fn load16<T, const N: usize>(from: &[T; N]) -> __m128i {
    part16(from, 0)
}

/// The 16 bytes at `i` of a place that a reference covers.
#[inline(always)]
fn part16<T, const N: usize>(from: &[T; N], i: usize) -> __m128i {
    assert!(size_of::<[T; N]>() >= 16 * (i + 1));
    // SAFETY: as for `load`.
    unsafe { _mm_loadu_si128(from.as_ptr().cast::<__m128i>().add(i)) }
}

#[inline(always)]
fn store16<T, const N: usize>(register: __m128i, to: &mut [T; N]) {
    assert!(size_of::<[T; N]>() == 16);
    // SAFETY: as for `load`.
    unsafe { _mm_storeu_si128(to.as_mut_ptr().cast(), register) }
}

#[inline(always)]
fn each<A: Copy, B: Copy, R>(a: [A; 2], b: [B; 2], f: impl Fn(A, B) -> R) -> [R; 2] {
    [f(a[0], b[0]), f(a[1], b[1])]
}

/// Sums of pairs of products: `w` unsigned.
#[inline(always)]
fn pairs(w: __m256i, x: __m256i) -> __m256i {
    op!(_mm256_maddubs_epi16(w, x))
}

/// Sums of pairs of products of signed bytes; x above −128, so that no pair exceeds 2·128·127.
#[inline(always)]
fn signed_pairs(w: __m256i, x: __m256i) -> __m256i {
    op!(_mm256_maddubs_epi16(_mm256_abs_epi8(w), _mm256_sign_epi8(x, w)))
}

#[inline(always)]
fn add_pairs(acc: __m256i, pairs: __m256i, scale: __m256i) -> __m256i {
    op!(_mm256_add_epi32(acc, _mm256_madd_epi16(pairs, scale)))
}

/// The same 128 bits in both halves of a register.
#[inline(always)]
fn twice(four: __m128i) -> __m256i {
    op!(_mm256_broadcastsi128_si256(four))
}

/// Where the four words of 128 bits begin, in each of their bytes.
const FOURS: [i64; 2] = [0x0404_0404_0000_0000, 0x0c0c_0c0c_0808_0808];

/// 2^e as a normal number.
#[inline(always)]
fn power(e: __m256i) -> __m256 {
    op!(_mm256_castsi256_ps(_mm256_slli_epi32::<23>(_mm256_add_epi32(e, _mm256_set1_epi32(127)))))
}

/// Two factors, each a normal number; only the second product rounds.
#[inline(always)]
fn mul_power(a: __m256, e: __m256) -> __m256 {
    op!({
        let e = _mm256_cvtps_epi32(e);
        let half = _mm256_srai_epi32::<1>(e);
        _mm256_mul_ps(_mm256_mul_ps(a, power(half)), power(_mm256_sub_epi32(e, half)))
    })
}

impl Simd for Avx2 {
    type F32 = [__m256; 2];
    type I32 = [__m256i; 2];
    type I16 = [__m256i; 2];
    type Bytes = [__m256i; 2];

    const BIAS: u8 = 0;
    const PANEL_TOKENS: usize = 4;
    const TILE_ROWS: usize = 4;

    #[inline(always)]
    fn splat(self, value: f32) -> Self::F32 {
        op!([_mm256_set1_ps(value); 2])
    }
    #[inline(always)]
    fn load(self, values: &[f32; LANES]) -> Self::F32 {
        op!([_mm256_castsi256_ps(load(values, 0)), _mm256_castsi256_ps(load(values, 1))])
    }
    #[inline(always)]
    fn store(self, v: Self::F32, to: &mut [f32; LANES]) {
        store(op!(_mm256_castps_si256(v[0])), to, 0);
        store(op!(_mm256_castps_si256(v[1])), to, 1);
    }
    #[inline(always)]
    fn load_f16(self, bits: &[[u8; 2]; LANES]) -> Self::F32 {
        make(|i| op!(_mm256_cvtph_ps(part16(bits, i))))
    }
    #[inline(always)]
    fn load_bf16(self, bits: &[[u8; 2]; LANES]) -> Self::F32 {
        make(|i| op!(_mm256_castsi256_ps(_mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(part16(bits, i))))))
    }
    #[inline(always)]
    fn load_i8(self, bytes: &[i8; LANES]) -> Self::F32 {
        let bytes = load16(bytes);
        op!([
            _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(bytes)),
            _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_srli_si128::<8>(bytes))),
        ])
    }
    #[inline(always)]
    fn add(self, a: Self::F32, b: Self::F32) -> Self::F32 {
        each(a, b, |a, b| op!(_mm256_add_ps(a, b)))
    }
    #[inline(always)]
    fn sub(self, a: Self::F32, b: Self::F32) -> Self::F32 {
        each(a, b, |a, b| op!(_mm256_sub_ps(a, b)))
    }
    #[inline(always)]
    fn mul(self, a: Self::F32, b: Self::F32) -> Self::F32 {
        each(a, b, |a, b| op!(_mm256_mul_ps(a, b)))
    }
    #[inline(always)]
    fn max(self, a: Self::F32, b: Self::F32) -> Self::F32 {
        each(a, b, |a, b| op!(_mm256_max_ps(a, b)))
    }
    #[inline(always)]
    fn min(self, a: Self::F32, b: Self::F32) -> Self::F32 {
        each(a, b, |a, b| op!(_mm256_min_ps(a, b)))
    }
    #[inline(always)]
    fn div(self, a: Self::F32, b: Self::F32) -> Self::F32 {
        each(a, b, |a, b| op!(_mm256_div_ps(a, b)))
    }
    #[inline(always)]
    fn abs(self, a: Self::F32) -> Self::F32 {
        map(a, |a| op!(_mm256_andnot_ps(_mm256_set1_ps(-0.0), a)))
    }
    #[inline(always)]
    fn mul_add(self, a: Self::F32, b: Self::F32, c: Self::F32) -> Self::F32 {
        op!([_mm256_fmadd_ps(a[0], b[0], c[0]), _mm256_fmadd_ps(a[1], b[1], c[1])])
    }
    #[inline(always)]
    fn sum(self, [a, b]: Self::F32) -> f32 {
        op!({
            let eight = _mm256_add_ps(a, b);
            let four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps::<1>(eight));
            let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
            _mm_cvtss_f32(_mm_add_ss(two, _mm_shuffle_ps::<1>(two, two)))
        })
    }
    #[inline(always)]
    fn max_lane(self, [a, b]: Self::F32) -> f32 {
        op!({
            let eight = _mm256_max_ps(a, b);
            let four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps::<1>(eight));
            let two = _mm_max_ps(four, _mm_movehl_ps(four, four));
            _mm_cvtss_f32(_mm_max_ss(two, _mm_shuffle_ps::<1>(two, two)))
        })
    }
    #[inline(always)]
    fn round(self, v: Self::F32) -> Self::I32 {
        map(v, |v| op!(_mm256_cvtps_epi32(v)))
    }
    #[inline(always)]
    fn to_f32(self, v: Self::I32) -> Self::F32 {
        map(v, |v| op!(_mm256_cvtepi32_ps(v)))
    }

    #[inline(always)]
    fn mul_power(self, a: Self::F32, e: Self::F32) -> Self::F32 {
        [mul_power(a[0], e[0]), mul_power(a[1], e[1])]
    }

    #[inline(always)]
    fn splat_i32(self, value: i32) -> Self::I32 {
        op!([_mm256_set1_epi32(value); 2])
    }
    #[inline(always)]
    fn load_i32(self, values: &[i32; LANES]) -> Self::I32 {
        make(|i| load(values, i))
    }
    #[inline(always)]
    fn shl_add<const BITS: u32>(self, a: Self::I32, b: Self::I32) -> Self::I32 {
        let by = op!(_mm_cvtsi32_si128(BITS as i32));
        make(|i| op!(_mm256_add_epi32(_mm256_sll_epi32(a[i], by), b[i])))
    }
    #[inline(always)]
    fn sum_i32(self, v: Self::I32) -> i32 {
        op!({
            let eight = _mm256_add_epi32(v[0], v[1]);
            let four = _mm_add_epi32(_mm256_castsi256_si128(eight), _mm256_extracti128_si256::<1>(eight));
            let two = _mm_add_epi32(four, _mm_shuffle_epi32::<0b01_00_11_10>(four));
            _mm_cvtsi128_si32(_mm_add_epi32(two, _mm_shuffle_epi32::<0b00_00_00_01>(two)))
        })
    }
    #[inline(always)]
    fn store_i8(self, [a, b]: Self::I32, to: &mut [i8; LANES]) {
        let bytes = op!({
            // Lanes 0–3, 8–11 | 4–7, 12–15 of sixteen words, put back in order before they become bytes.
            let words = _mm256_permute4x64_epi64::<0b11_01_10_00>(_mm256_packs_epi32(a, b));
            _mm_packs_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256::<1>(words))
        });
        store16(bytes, to);
    }
    #[inline(always)]
    fn store_i16(self, a: Self::I32, b: Self::I32, to: &mut [i16; 2 * LANES]) {
        for (i, v) in [a, b].into_iter().enumerate() {
            store(op!(_mm256_permute4x64_epi64::<0b11_01_10_00>(_mm256_packs_epi32(v[0], v[1]))), to, i);
        }
    }

    #[inline(always)]
    fn load_i16(self, values: &[i16; 2 * LANES]) -> Self::I16 {
        make(|i| load(values, i))
    }
    #[inline(always)]
    fn splat_i16(self, value: i16) -> Self::I16 {
        op!([_mm256_set1_epi16(value); 2])
    }
    #[inline(always)]
    fn splat_pair(self, [a, b]: [i16; 2]) -> Self::I16 {
        let pair = i32::from(a) & 0xffff | i32::from(b) << 16;
        op!([_mm256_set1_epi32(pair); 2])
    }
    #[inline(always)]
    fn widen_i8(self, bytes: &[i8; 2 * LANES]) -> Self::I16 {
        make(|i| op!(_mm256_cvtepi8_epi16(part16(bytes, i))))
    }
    #[inline(always)]
    fn zip_i8(self, a: &[i8; LANES], b: &[i8; LANES]) -> Self::I16 {
        let (a, b) = (load16(a), load16(b));
        op!([_mm256_cvtepi8_epi16(_mm_unpacklo_epi8(a, b)), _mm256_cvtepi8_epi16(_mm_unpackhi_epi8(a, b))])
    }
    #[inline(always)]
    fn zip_i16(self, a: &[i16; LANES], b: &[i16; LANES]) -> Self::I16 {
        op!({
            let (a, b) = (load(a, 0), load(b, 0));
            let (low, high) = (_mm256_unpacklo_epi16(a, b), _mm256_unpackhi_epi16(a, b));
            [_mm256_permute2x128_si256::<0x20>(low, high), _mm256_permute2x128_si256::<0x31>(low, high)]
        })
    }
    #[inline(always)]
    fn store_pairs(self, a: Self::I16, to: &mut [i16; 2 * LANES]) {
        store(a[0], to, 0);
        store(a[1], to, 1);
    }
    #[inline(always)]
    fn split_i8(self, bytes: &[i8; 4 * LANES]) -> [Self::I16; 2] {
        let bytes: [__m256i; 2] = [load(bytes, 0), load(bytes, 1)];
        op!([
            map(bytes, |bytes| _mm256_srai_epi16::<8>(_mm256_slli_epi16::<8>(bytes))),
            map(bytes, |bytes| _mm256_srai_epi16::<8>(bytes)),
        ])
    }
    #[inline(always)]
    fn split_bf16(self, bits: &[u16; 2 * LANES]) -> [Self::F32; 2] {
        let bits: [__m256i; 2] = [load(bits, 0), load(bits, 1)];
        op!([
            map(bits, |bits| _mm256_castsi256_ps(_mm256_slli_epi32::<16>(bits))),
            map(bits, |bits| { _mm256_castsi256_ps(_mm256_and_si256(bits, _mm256_set1_epi32(0xffff_0000u32 as i32))) }),
        ])
    }
    #[inline(always)]
    fn dot2(self, acc: Self::I32, a: Self::I16, b: Self::I16) -> Self::I32 {
        make(|i| add_pairs(acc[i], a[i], b[i]))
    }

    #[inline(always)]
    fn load_u8(self, bytes: &[u8; 64]) -> Self::Bytes {
        make(|i| load(bytes, i))
    }
    #[inline(always)]
    fn or(self, a: Self::Bytes, b: Self::Bytes) -> Self::Bytes {
        each(a, b, |a, b| op!(_mm256_or_si256(a, b)))
    }
    #[inline(always)]
    fn as_i16(self, bytes: Self::Bytes) -> Self::I16 {
        bytes
    }
    #[inline(always)]
    fn as_f32(self, bytes: Self::Bytes) -> Self::F32 {
        map(bytes, |bytes| op!(_mm256_castsi256_ps(bytes)))
    }

    #[inline(always)]
    fn panel_dots<const T: usize, const STEPS: usize, const BITS: u32, const SCALED: bool>(
        self,
        mut acc: [Self::I32; T],
        w: &[[u8; 64]; STEPS],
        x: [&[[i8; 4]; STEPS]; T],
        scale: Self::I16,
    ) -> [Self::I32; T] {
        // Pair sums that fit an i16: eight of 4-bit weights (2·15·127 each), four of 5 bits, two of 6, one of 8.
        let n_fit = match BITS {
            0..=4 => 8,
            5 => 4,
            6 => 2,
            _ => 1,
        };
        let mut sums = op!([[_mm256_setzero_si256(); 2]; T]);
        for i in 0..STEPS {
            let w = [load(&w[i], 0), load(&w[i], 1)];
            for t in 0..T {
                let x = op!(_mm256_set1_epi32(i32::from_le_bytes(x[t][i].map(|q| q as u8))));
                for h in 0..2 {
                    let pairs = if BITS == 8 { signed_pairs(w[h], x) } else { pairs(w[h], x) };
                    sums[t][h] = if i % n_fit == 0 { pairs } else { op!(_mm256_add_epi16(sums[t][h], pairs)) };
                    if i % n_fit == n_fit - 1 || i == STEPS - 1 {
                        acc[t][h] = add_pairs(acc[t][h], sums[t][h], scale[h]);
                    }
                }
            }
        }
        acc
    }
    #[inline(always)]
    fn transpose<T: Plain, const N: usize>(self, rows: [&[T; N]; 16], to: &mut [[T; N]; 16]) {
        for half in 0..2 {
            for group in 0..2 {
                let eight: [__m256i; 8] = make(|r| load(rows[8 * group + r], half));
                for (i, register) in transpose8(eight).into_iter().enumerate() {
                    store(register, &mut to[8 * half + i], group);
                }
            }
        }
    }

    halves_and_rows!();

    #[inline(always)]
    fn load_quarters(self, rows: [&[u8; 16]; 4]) -> Self::Bytes {
        make(|i| op!(_mm256_set_m128i(load16(rows[2 * i + 1]), load16(rows[2 * i]))))
    }
    #[inline(always)]
    fn shuffle(self, bytes: Self::Bytes, order: [u8; 16]) -> Self::Bytes {
        map(bytes, |bytes| op!(_mm256_shuffle_epi8(bytes, twice(load16(&order)))))
    }
    #[inline(always)]
    fn shr32(self, bytes: Self::Bytes, by: [u32; 4]) -> Self::Bytes {
        map(bytes, |bytes| op!(_mm256_srlv_epi32(bytes, twice(load16(&by)))))
    }
    #[inline(always)]
    fn and_quarters(self, bytes: Self::Bytes, mask: [u8; 16]) -> Self::Bytes {
        map(bytes, |bytes| op!(_mm256_and_si256(bytes, twice(load16(&mask)))))
    }
    #[inline(always)]
    fn widen_quarters(self, bytes: Self::Bytes) -> [Self::I16; 2] {
        op!({
            let zero = _mm256_setzero_si256();
            [
                map(bytes, |bytes| _mm256_unpacklo_epi8(bytes, zero)),
                map(bytes, |bytes| _mm256_unpackhi_epi8(bytes, zero)),
            ]
        })
    }
    #[inline(always)]
    fn add_i16(self, a: Self::I16, b: Self::I16) -> Self::I16 {
        make(|i| op!(_mm256_add_epi16(a[i], b[i])))
    }
    #[inline(always)]
    fn mul_i16(self, a: Self::I16, b: Self::I16) -> Self::I16 {
        make(|i| op!(_mm256_mullo_epi16(a[i], b[i])))
    }
    #[inline(always)]
    fn widen_quarters_i8(self, bytes: Self::Bytes) -> [Self::I16; 2] {
        op!([
            map(bytes, |bytes| _mm256_srai_epi16::<8>(_mm256_unpacklo_epi8(bytes, bytes))),
            map(bytes, |bytes| _mm256_srai_epi16::<8>(_mm256_unpackhi_epi8(bytes, bytes))),
        ])
    }
    #[inline(always)]
    fn pairs_of_rows(self, a: Self::I16) -> Self::I16 {
        op!({
            let order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
            let (low, high) = (_mm256_unpacklo_epi32(a[0], a[1]), _mm256_unpackhi_epi32(a[0], a[1]));
            [_mm256_permutevar8x32_epi32(low, order), _mm256_permutevar8x32_epi32(high, order)]
        })
    }

    #[inline(always)]
    fn spread_bits(self, bits: [u8; 4], mask: u8) -> __m256i {
        op!({
            // Byte i of the 32 takes byte i / 8 of the four, of which it keeps bit i % 8.
            let four = _mm256_set1_epi32(i32::from_le_bytes(bits));
            let order = _mm256_set_epi64x(0x0303030303030303, 0x0202020202020202, 0x0101010101010101, 0);
            let bit = _mm256_set1_epi64x(0x8040201008040201u64 as i64);
            let set = _mm256_cmpeq_epi8(_mm256_and_si256(_mm256_shuffle_epi8(four, order), bit), bit);
            _mm256_and_si256(set, _mm256_set1_epi8(mask as i8))
        })
    }
    #[inline(always)]
    fn dot_codes(self, acc: __m256i, w: __m256i, x: __m256i) -> __m256i {
        add_pairs(acc, pairs(w, x), op!(_mm256_set1_epi16(1)))
    }
    #[inline(always)]
    fn dot_wide(self, acc: __m256i, w: __m256i, x: __m256i) -> __m256i {
        add_pairs(acc, signed_pairs(w, x), op!(_mm256_set1_epi16(1)))
    }
    #[inline(always)]
    fn dot_two<const BITS: u32, const TWO_SCALES: bool>(
        self,
        mut acc: __m256i,
        w: [__m256i; 2],
        x: [__m256i; 2],
        [low, high]: [[i16; 2]; 2],
    ) -> __m256i {
        let both = self.pairs(low, high);
        for k in 0..2 {
            // The first or the second of each pair, twice.
            let order = op!(_mm256_set1_epi32(0x0100_0100 + 0x0202_0202 * k as i32));
            let order = op!(_mm256_add_epi8(order, _mm256_set_epi64x(FOURS[1], FOURS[0], FOURS[1], FOURS[0])));
            let scale = match TWO_SCALES {
                true => op!(_mm256_shuffle_epi8(both, order)),
                false => op!(_mm256_set1_epi16(low[k])),
            };
            let pairs = if BITS == 8 { signed_pairs(w[k], x[k]) } else { pairs(w[k], x[k]) };
            acc = add_pairs(acc, pairs, scale);
        }
        acc
    }
    #[inline(always)]
    fn dot_pairs(self, acc: __m256i, a: &[i16; 16], b: __m256i) -> __m256i {
        add_pairs(acc, load32(a), b)
    }
}

/// Eight rows of eight 32-bit values as eight columns.
#[inline(always)]
fn transpose8(r: [__m256i; 8]) -> [__m256i; 8] {
    op!({
        // Within 128 bits: fours of rows; then the 128-bit parts change places.
        let two: [__m256i; 8] = make(|i| match i % 2 {
            0 => _mm256_unpacklo_epi32(r[i], r[i + 1]),
            _ => _mm256_unpackhi_epi32(r[i - 1], r[i]),
        });
        let four = |a: __m256i, b: __m256i| [_mm256_unpacklo_epi64(a, b), _mm256_unpackhi_epi64(a, b)];
        let upper = [four(two[0], two[2]), four(two[1], two[3])].concat_pairs();
        let lower = [four(two[4], two[6]), four(two[5], two[7])].concat_pairs();
        make(|i| match i / 4 {
            0 => _mm256_permute2x128_si256::<0x20>(upper[i], lower[i]),
            _ => _mm256_permute2x128_si256::<0x31>(upper[i - 4], lower[i - 4]),
        })
    })
}

/// Two pairs as four.
trait ConcatPairs<T> {
    fn concat_pairs(self) -> [T; 4];
}

impl<T: Copy> ConcatPairs<T> for [[T; 2]; 2] {
    #[inline(always)]
    fn concat_pairs(self) -> [T; 4] {
        [self[0][0], self[0][1], self[1][0], self[1][1]]
    }
}
