//! AMX: products of whole tiles of bytes or BF16 numbers, beside AVX-512. Must not be reached without AVX-512's token.
//!
//! Owns the tile registers: a tile is sixteen rows of at most 64 bytes; tiles 0 to 3 hold sums, 4 and 5 activations, 6 and 7
//! weights. Weights are the rows of a product, activations its columns. The compiler knows nothing of them, so what they hold lives from one call to the next.
#![expect(unsafe_code, reason = "instructions that have no intrinsics, behind a token that only detection makes")]

use std::arch::asm;
use std::arch::x86_64::*;
use std::cell::Cell;
use std::marker::PhantomData;
use std::sync::OnceLock;

use super::{LANES, Line, Sum, Sums};

/// Lines of a full tile.
const TILE: usize = 16;

/// Whether the machine has AMX for bytes and BF16, and the system lets this process use it.
pub(super) fn detect() -> bool {
    static HAS: OnceLock<bool> = OnceLock::new();
    *HAS.get_or_init(|| has_instructions() && is_permitted())
}

fn has_instructions() -> bool {
    const OSXSAVE: u32 = 1 << 27;
    const TILES_INT8_BF16: u32 = 1 << 24 | 1 << 25 | 1 << 22;
    const STATE: u64 = 1 << 17 | 1 << 18;
    if !is_x86_feature_detected!("avx512vbmi")
        || __cpuid(1).ecx & OSXSAVE == 0
        || __cpuid_count(7, 0).edx & TILES_INT8_BF16 != TILES_INT8_BF16
    {
        return false;
    }
    // SAFETY: OSXSAVE says that the instruction is there.
    let saved = unsafe { saved_state() };
    saved & STATE == STATE
}

/// [`Tiles::interleave`]: all at once, since no kernel is compiled with VBMI and a call for each line costs more than it does.
///
/// # Safety
/// The processor has VBMI.
#[target_feature(enable = "avx512f,avx512vbmi")]
unsafe fn interleave(rows: &[&[i8; 64]; 64], mut to: [&mut [Line; TILE]; 4]) {
    const ORDER: Line = {
        let mut order = [0; 64];
        let mut i = 0;
        while i < 64 {
            order[i] = (i % 4 * 16 + i / 4) as u8;
            i += 1;
        }
        order
    };
    // SAFETY: rows and lines are 64 bytes, and no access needs alignment.
    unsafe {
        let order = _mm512_loadu_si512(ORDER.as_ptr().cast());
        for (j, four) in rows.as_chunks::<4>().0.iter().enumerate() {
            for (i, to) in to.iter_mut().enumerate() {
                let [a, b, c, d] = four.map(|row| _mm_loadu_si128(row.as_ptr().add(16 * i).cast()));
                let two = _mm512_inserti32x4::<1>(_mm512_castsi128_si512(a), b);
                let all = _mm512_inserti32x4::<3>(_mm512_inserti32x4::<2>(two, c), d);
                _mm512_storeu_si512(to[j].as_mut_ptr().cast(), _mm512_permutexvar_epi8(order, all));
            }
        }
    }
}

/// Which registers the system saves.
///
/// # Safety
/// The processor says that the system has enabled XSAVE.
#[target_feature(enable = "xsave")]
unsafe fn saved_state() -> u64 {
    // SAFETY: register 0 exists wherever the instruction does.
    unsafe { _xgetbv(0) }
}

/// Linux keeps the tiles' 8 KB for those who ask.
#[cfg(target_os = "linux")]
fn is_permitted() -> bool {
    const ARCH_PRCTL: i64 = 158;
    const ARCH_REQ_XCOMP_PERM: i64 = 0x1023;
    const TILE_DATA: i64 = 18;
    let failed: i64;
    // SAFETY: the call takes two numbers and touches no memory of this process.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") ARCH_PRCTL => failed,
            in("rdi") ARCH_REQ_XCOMP_PERM,
            in("rsi") TILE_DATA,
            lateout("rcx") _,
            lateout("r11") _,
            options(nostack),
        );
    }
    failed == 0
}

#[cfg(not(target_os = "linux"))]
fn is_permitted() -> bool {
    false
}

thread_local! {
    /// Whether this thread's tiles have a shape.
    static IN_USE: Cell<bool> = const { Cell::new(false) };
}

/// This thread's tiles, shaped for activations and weights of `bytes` columns each. They go with it.
pub(crate) struct Tiles {
    bytes: usize,
    /// The registers are this thread's.
    _not_send: PhantomData<*const ()>,
}

/// What `ldtilecfg` reads.
#[repr(C, align(64))]
struct Shapes {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    row_bytes: [u16; 16],
    rows: [u8; 16],
}

/// Both digits of weights with T blocks of activations, by one of the instructions.
macro_rules! digits {
    ($self:ident, $multiply:literal, $w:ident, $x:ident, $t:ident) => {{
        const { assert!($t == 1 || $t == 2) };
        assert!($self.bytes == 64, "tiles of {} bytes", $self.bytes);
        // SAFETY: a tile is sixteen rows of a line each, which every reference covers.
        unsafe {
            asm!(
                "tileloadd tmm4, [{x} + {stride}]",
                "tileloadd tmm6, [{high} + {stride}]",
                "tileloadd tmm7, [{low} + {stride}]",
                concat!($multiply, " tmm0, tmm6, tmm4"),
                concat!($multiply, " tmm1, tmm7, tmm4"),
                x = in(reg) $x[0].as_ptr(),
                high = in(reg) $w[0].as_ptr(),
                low = in(reg) $w[1].as_ptr(),
                stride = in(reg) 64usize,
                options(nostack, readonly, preserves_flags),
            );
            if $t == 2 {
                asm!(
                    "tileloadd tmm5, [{x} + {stride}]",
                    concat!($multiply, " tmm2, tmm6, tmm5"),
                    concat!($multiply, " tmm3, tmm7, tmm5"),
                    x = in(reg) $x[$t - 1].as_ptr(),
                    stride = in(reg) 64usize,
                    options(nostack, readonly, preserves_flags),
                );
            }
        }
    }};
}

impl Tiles {
    /// Shapes the tiles.
    ///
    /// # Panics
    /// If this thread's have a shape already, `bytes` is not 32 or 64, or [`detect`] said no
    pub(super) fn new(bytes: usize) -> Self {
        assert!(detect() && (bytes == 32 || bytes == 64), "tiles of {bytes} bytes");
        assert!(!IN_USE.replace(true), "tiles within tiles");
        let mut shapes = Shapes { palette: 1, start_row: 0, reserved: [0; 14], row_bytes: [0; 16], rows: [0; 16] };
        for i in 0..8 {
            let (rows, row_bytes) = match i {
                0..4 => (LANES, 4 * LANES),
                4..6 => (bytes / 4, 4 * LANES),
                _ => (LANES, bytes),
            };
            (shapes.rows[i], shapes.row_bytes[i]) = (rows as u8, row_bytes as u16);
        }
        // SAFETY: the instruction exists and reads the 64 bytes of a valid configuration.
        unsafe { asm!("ldtilecfg [{}]", in(reg) &raw const shapes, options(nostack, readonly, preserves_flags)) };
        Self { bytes, _not_send: PhantomData }
    }

    /// Sets the sums of T blocks to zero.
    #[inline(always)]
    pub(crate) fn clear<const T: usize>(&self) {
        const { assert!(T == 1 || T == 2) };
        // SAFETY: the tiles have their shape as long as `self` lives; no memory is touched.
        unsafe {
            asm!("tilezero tmm0", "tilezero tmm1", options(nostack, nomem, preserves_flags));
            if T == 2 {
                asm!("tilezero tmm2", "tilezero tmm3", options(nostack, nomem, preserves_flags));
            }
        }
    }

    /// Adds the products of 64 columns: both digits of sixteen rows of weights with T blocks of sixteen rows of activations,
    /// which lie transposed by fours. All are signed.
    ///
    /// # Panics
    /// If tiles are not 64 bytes wide
    #[inline(always)]
    pub(crate) fn digits<const T: usize>(&self, w: [&[Line; TILE]; 2], x: [&[Line; TILE]; T]) {
        digits!(self, "tdpbssd", w, x, T);
    }

    /// The same with digits that have no sign.
    ///
    /// # Panics
    /// If tiles are not 64 bytes wide
    #[inline(always)]
    pub(crate) fn unsigned_digits<const T: usize>(&self, w: [&[Line; TILE]; 2], x: [&[Line; TILE]; T]) {
        digits!(self, "tdpbusd", w, x, T);
    }

    /// Adds the products of 64 columns of T times sixteen rows, which follow one another with `stride` bytes each and of which
    /// those from `at` on are taken, with sixteen transposed rows in two digits: the high one signed, the low one not.
    ///
    /// # Panics
    /// If tiles are not 64 bytes wide, or rows end before
    #[inline(always)]
    pub(crate) fn rows<const T: usize>(
        &self,
        (rows, stride, at): ([&[i8]; T], usize, usize),
        [high, low]: [&[Line; TILE]; 2],
    ) {
        const { assert!(T == 1 || T == 2) };
        assert!(self.bytes == 64, "tiles of {} bytes", self.bytes);
        assert!(rows.iter().all(|rows| rows.len() >= (TILE - 1) * stride + at + 64), "rows of {stride} bytes end");
        // SAFETY: a tile is sixteen rows of a line each: of `rows` they end where the assertion says.
        unsafe {
            asm!(
                "tileloadd tmm4, [{high} + {line}]",
                "tileloadd tmm5, [{low} + {line}]",
                "tileloadd tmm6, [{rows} + {stride}]",
                "tdpbssd tmm0, tmm6, tmm4",
                "tdpbsud tmm1, tmm6, tmm5",
                high = in(reg) high.as_ptr(),
                low = in(reg) low.as_ptr(),
                rows = in(reg) rows[0].as_ptr().wrapping_add(at),
                line = in(reg) 64usize,
                stride = in(reg) stride,
                options(nostack, readonly, preserves_flags),
            );
            if T == 2 {
                asm!(
                    "tileloadd tmm7, [{rows} + {stride}]",
                    "tdpbssd tmm2, tmm7, tmm4",
                    "tdpbsud tmm3, tmm7, tmm5",
                    rows = in(reg) rows[T - 1].as_ptr().wrapping_add(at),
                    stride = in(reg) stride,
                    options(nostack, readonly, preserves_flags),
                );
            }
        }
    }

    /// The sums: block t with digit i is `to[2t + i]`.
    #[inline(always)]
    pub(crate) fn take<const T: usize>(&self, to: &mut Sums<impl Sum>) {
        const { assert!(T == 1 || T == 2) };
        // SAFETY: a tile of sums is sixteen rows of a line each, and there are four such in `to`.
        unsafe {
            asm!(
                "tilestored [{to} + {stride}], tmm0",
                "tilestored [{to} + {stride} + 1024], tmm1",
                to = in(reg) to.0.as_mut_ptr(),
                stride = in(reg) 64usize,
                options(nostack, preserves_flags),
            );
            if T == 2 {
                asm!(
                    "tilestored [{to} + {stride} + 2048], tmm2",
                    "tilestored [{to} + {stride} + 3072], tmm3",
                    to = in(reg) to.0.as_mut_ptr(),
                    stride = in(reg) 64usize,
                    options(nostack, preserves_flags),
                );
            }
        }
    }

    /// Products of 32 columns: sixteen rows of weights, half a line each, with sixteen of activations, which lie transposed
    /// by fours. All are signed.
    ///
    /// # Panics
    /// If tiles are not 32 bytes wide
    #[inline(always)]
    pub(crate) fn codes(&self, w: &[Line; 8], x: &[Line; 8], to: &mut [[i32; LANES]; TILE]) {
        assert!(self.bytes == 32, "tiles of {} bytes", self.bytes);
        // SAFETY: weights are sixteen rows of half a line, activations eight lines, sums sixteen.
        unsafe {
            asm!(
                "tilezero tmm0",
                "tileloadd tmm6, [{w} + {half}]",
                "tileloadd tmm4, [{x} + {line}]",
                "tdpbssd tmm0, tmm6, tmm4",
                "tilestored [{to} + {line}], tmm0",
                w = in(reg) w.as_ptr(),
                x = in(reg) x.as_ptr(),
                to = in(reg) to.as_mut_ptr(),
                line = in(reg) 64usize,
                half = in(reg) 32usize,
                options(nostack, preserves_flags),
            );
        }
    }

    /// Sixty-four bytes of as many rows, transposed by fours: square i has bytes 16i.. of all, line j of it those of rows
    /// 4j.. by turns.
    pub(crate) fn interleave(&self, rows: &[&[i8; 64]; 64], to: [&mut [Line; TILE]; 4]) {
        // SAFETY: detection has seen VBMI.
        unsafe { interleave(rows, to) }
    }

    /// Adds the products of 32 steps of R times sixteen rows with V times sixteen columns, both as sums of N BF16 terms, two or
    /// three: the products of terms whose places add up to less than N, in the order that loads least. Sums of rows r and columns v are
    /// block r with digit v of [`Self::take`].
    ///
    /// # Panics
    /// If tiles are not 64 bytes wide
    #[inline(always)]
    pub(crate) fn terms<const R: usize, const V: usize, const N: usize>(
        &self,
        rows: &[[[Line; TILE]; 2]; N],
        cols: &[[[Line; TILE]; 2]; N],
    ) {
        const { assert!((R == 1 || R == 2) && (V == 1 || V == 2) && (N == 2 || N == 3)) };
        assert!(self.bytes == 64, "tiles of {} bytes", self.bytes);
        self.load_columns::<V>(&cols[N - 1]);
        self.load_rows::<R>(&rows[0]);
        self.multiply_terms::<R, V>();
        if N == 3 {
            self.load_columns::<V>(&cols[1]);
            self.multiply_terms::<R, V>();
            self.load_rows::<R>(&rows[1]);
            self.multiply_terms::<R, V>();
            self.load_columns::<V>(&cols[0]);
            self.multiply_terms::<R, V>();
            self.load_rows::<R>(&rows[2]);
            self.multiply_terms::<R, V>();
            self.load_rows::<R>(&rows[0]);
        } else {
            self.load_columns::<V>(&cols[0]);
            self.multiply_terms::<R, V>();
            self.load_rows::<R>(&rows[1]);
        }
        self.multiply_terms::<R, V>();
    }

    /// Rows of tiles of BF16 numbers, for [`Self::multiply_terms`].
    #[inline(always)]
    fn load_rows<const R: usize>(&self, rows: &[[Line; TILE]; 2]) {
        // SAFETY: the tiles have their shape as long as `self` lives, and a tile is sixteen rows of a line each.
        unsafe {
            asm!("tileloadd tmm4, [{rows} + {stride}]", rows = in(reg) rows[0].as_ptr(), stride = in(reg) 64usize,
                options(nostack, readonly, preserves_flags));
            if R == 2 {
                asm!("tileloadd tmm5, [{rows} + {stride}]", rows = in(reg) rows[1].as_ptr(), stride = in(reg) 64usize,
                    options(nostack, readonly, preserves_flags));
            }
        }
    }

    /// Columns of tiles of BF16 numbers.
    #[inline(always)]
    fn load_columns<const V: usize>(&self, cols: &[[Line; TILE]; 2]) {
        // SAFETY: as for `load_rows`.
        unsafe {
            asm!("tileloadd tmm6, [{cols} + {stride}]", cols = in(reg) cols[0].as_ptr(), stride = in(reg) 64usize,
                options(nostack, readonly, preserves_flags));
            if V == 2 {
                asm!("tileloadd tmm7, [{cols} + {stride}]", cols = in(reg) cols[1].as_ptr(), stride = in(reg) 64usize,
                    options(nostack, readonly, preserves_flags));
            }
        }
    }

    /// Adds the products of what was loaded last.
    #[inline(always)]
    fn multiply_terms<const R: usize, const V: usize>(&self) {
        // SAFETY: as for `load_rows`; no memory is touched.
        unsafe {
            asm!("tdpbf16ps tmm0, tmm4, tmm6", options(nostack, nomem, preserves_flags));
            if V == 2 {
                asm!("tdpbf16ps tmm1, tmm4, tmm7", options(nostack, nomem, preserves_flags));
            }
            if R == 2 {
                asm!("tdpbf16ps tmm2, tmm5, tmm6", options(nostack, nomem, preserves_flags));
            }
            if R == 2 && V == 2 {
                asm!("tdpbf16ps tmm3, tmm5, tmm7", options(nostack, nomem, preserves_flags));
            }
        }
    }

    /// Up to sixteen numbers and sixteen more as N terms each, zeros where there are fewer: a lane has both numbers' first term,
    /// second, third. Three terms are exact.
    #[inline(always)]
    pub(crate) fn split_terms<const N: usize>(&self, low: &[f32], high: &[f32], to: [&mut Line; N]) {
        const { assert!(N == 2 || N == 3) };
        // SAFETY: whoever has tiles has AVX-512; lines are 64 bytes, no access needs alignment, and of the numbers no more
        // are loaded than there are.
        unsafe {
            let upper = _mm512_set1_epi32(!0xffff);
            let half = _mm512_set1_epi32(0x8000);
            let (mut low, mut high) = (load_some(low), load_some(high));
            for (i, to) in to.into_iter().enumerate() {
                let (a, b) = (_mm512_castps_si512(low), _mm512_castps_si512(high));
                let (a, b) = match (i + 1 == N, N) {
                    (false, _) => (_mm512_add_epi32(a, half), _mm512_add_epi32(b, half)),
                    // A NaN that rounding has turned into something else is one in the last term, which must not lose it.
                    (true, 2) => {
                        let a_is = _mm512_cmp_ps_mask::<_CMP_ORD_Q>(low, low);
                        let b_is = _mm512_cmp_ps_mask::<_CMP_ORD_Q>(high, high);
                        (_mm512_mask_add_epi32(a, a_is, a, half), _mm512_mask_add_epi32(b, b_is, b, half))
                    }
                    // What is left has eight bits.
                    (true, _) => (a, b),
                };
                let (a, b) = (_mm512_and_si512(a, upper), _mm512_and_si512(b, upper));
                _mm512_storeu_si512(to.as_mut_ptr().cast(), _mm512_or_si512(_mm512_srli_epi32::<16>(a), b));
                low = _mm512_sub_ps(low, _mm512_castsi512_ps(a));
                high = _mm512_sub_ps(high, _mm512_castsi512_ps(b));
            }
        }
    }

    /// Takes `zero` from every byte, wrapping.
    #[inline(always)]
    pub(crate) fn subtract(&self, line: &mut Line, zero: u8) {
        // SAFETY: whoever has tiles has AVX-512 with BW; a line is 64 bytes, and no access needs alignment.
        unsafe {
            let at = line.as_mut_ptr().cast();
            _mm512_storeu_si512(at, _mm512_sub_epi8(_mm512_loadu_si512(at), _mm512_set1_epi8(zero as i8)));
        }
    }

    /// Codes times whole-numbered scales, which need more than a byte, as 128·high + low. Lane i, of two columns, has scale
    /// `scales[first + places[i]]`.
    ///
    /// # Panics
    /// If there is no such scale
    #[inline(always)]
    pub(crate) fn split(
        &self,
        codes: &Line,
        scales: &[i16; 32],
        (places, first): (&[u16; 32], usize),
        [high, low]: [&mut Line; 2],
    ) {
        // SAFETY: whoever has tiles has AVX-512 with BW; all are 64 bytes, and no access needs alignment. An index that is
        // too large is taken modulo 32.
        unsafe {
            let (codes, scales) =
                (_mm512_loadu_si512(codes.as_ptr().cast()), _mm512_loadu_si512(scales.as_ptr().cast()));
            let places = _mm512_add_epi16(_mm512_loadu_si512(places.as_ptr().cast()), _mm512_set1_epi16(first as i16));
            let scales = _mm512_permutexvar_epi16(places, scales);
            let even = _mm512_mullo_epi16(_mm512_and_si512(codes, _mm512_set1_epi16(0xff)), scales);
            let odd = _mm512_mullo_epi16(_mm512_srli_epi16::<8>(codes), scales);
            // Low bytes of the even ones, and of the odd ones above them: the first where the third has ones.
            const CHOOSE: i32 = 0b1110_0010;
            let below = _mm512_set1_epi16(0xff);
            let highs =
                _mm512_ternarylogic_epi32::<CHOOSE>(_mm512_srai_epi16::<7>(even), below, _mm512_slli_epi16::<1>(odd));
            let lows = _mm512_ternarylogic_epi32::<CHOOSE>(even, below, _mm512_slli_epi16::<8>(odd));
            _mm512_storeu_si512(high.as_mut_ptr().cast(), highs);
            _mm512_storeu_si512(low.as_mut_ptr().cast(), _mm512_and_si512(lows, _mm512_set1_epi8(0x7f)));
        }
    }
}

/// The first sixteen numbers, zeros where there are fewer.
///
/// # Safety
/// The processor has AVX-512.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn load_some(values: &[f32]) -> __m512 {
    let mask = match values.len() {
        n @ 0..LANES => (1u16 << n) - 1,
        _ => u16::MAX,
    };
    // SAFETY: what the mask leaves out is not read.
    unsafe { _mm512_maskz_loadu_ps(mask, values.as_ptr()) }
}

impl Drop for Tiles {
    fn drop(&mut self) {
        // SAFETY: the tiles are this thread's, and nobody else has shaped them.
        unsafe { asm!("tilerelease", options(nostack, nomem, preserves_flags)) };
        IN_USE.set(false);
    }
}
