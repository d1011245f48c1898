//! AMX: products of whole tiles of bytes, beside AVX-512. Must not be reached without AVX-512's token.
//!
//! Owns the tile registers: a tile is sixteen rows of at most 64 bytes; tiles 0 to 3 hold sums, 4 and 5 activations, 6 and 7
//! weights. The compiler knows nothing of them, so what they hold lives from one call to the next.
#![expect(unsafe_code, reason = "instructions that have no intrinsics, behind a token that only detection makes")]

use std::arch::asm;
use std::arch::x86_64::*;
use std::cell::Cell;
use std::marker::PhantomData;
use std::sync::OnceLock;

use super::{LANES, Line, Sums};

/// Lines of a full tile.
const TILE: usize = 16;

/// Whether the machine has AMX for bytes, and the system lets this process use it.
pub(super) fn detect() -> bool {
    static HAS: OnceLock<bool> = OnceLock::new();
    *HAS.get_or_init(|| has_instructions() && is_permitted())
}

fn has_instructions() -> bool {
    const OSXSAVE: u32 = 1 << 27;
    const TILES_AND_INT8: u32 = 1 << 24 | 1 << 25;
    const STATE: u64 = 1 << 17 | 1 << 18;
    if __cpuid(1).ecx & OSXSAVE == 0 || __cpuid_count(7, 0).edx & TILES_AND_INT8 != TILES_AND_INT8 {
        return false;
    }
    // SAFETY: OSXSAVE says that the instruction is there.
    let saved = unsafe { saved_state() };
    saved & STATE == STATE
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
                4..6 => (LANES, bytes),
                _ => (bytes / 4, 4 * LANES),
            };
            (shapes.rows[i], shapes.row_bytes[i]) = (rows as u8, row_bytes as u16);
        }
        // SAFETY: the instruction exists and reads the 64 bytes of a valid configuration.
        unsafe { asm!("ldtilecfg [{}]", in(reg) &raw const shapes, options(nostack, readonly, preserves_flags)) };
        Self { bytes, _not_send: PhantomData }
    }

    /// Sets the sums of T blocks to zero: before [`Tiles::digits`].
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

    /// Adds the products of 64 columns of T blocks of sixteen rows of signed bytes with both digits of sixteen rows of
    /// weights, signed too.
    ///
    /// # Panics
    /// If tiles are not 64 bytes wide
    #[inline(always)]
    pub(crate) fn digits<const T: usize>(&self, x: [&[Line; TILE]; T], [high, low]: [&[Line; TILE]; 2]) {
        const { assert!(T == 1 || T == 2) };
        assert!(self.bytes == 64, "tiles of {} bytes", self.bytes);
        // SAFETY: a tile is sixteen rows of a line each, which every reference covers.
        unsafe {
            asm!(
                "tileloadd tmm4, [{x} + {stride}]",
                "tileloadd tmm6, [{high} + {stride}]",
                "tileloadd tmm7, [{low} + {stride}]",
                "tdpbssd tmm0, tmm4, tmm6",
                "tdpbssd tmm1, tmm4, tmm7",
                x = in(reg) x[0].as_ptr(),
                high = in(reg) high.as_ptr(),
                low = in(reg) low.as_ptr(),
                stride = in(reg) 64usize,
                options(nostack, readonly, preserves_flags),
            );
            if T == 2 {
                asm!(
                    "tileloadd tmm5, [{x} + {stride}]",
                    "tdpbssd tmm2, tmm5, tmm6",
                    "tdpbssd tmm3, tmm5, tmm7",
                    x = in(reg) x[T - 1].as_ptr(),
                    stride = in(reg) 64usize,
                    options(nostack, readonly, preserves_flags),
                );
            }
        }
    }

    /// The sums of [`Tiles::digits`]: block t with digit i is `to[2t + i]`.
    #[inline(always)]
    pub(crate) fn take<const T: usize>(&self, to: &mut Sums) {
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

    /// Products of T blocks of sixteen rows of 32 signed bytes with sixteen rows of weights that have no sign: block t is
    /// `to[t]`.
    ///
    /// # Panics
    /// If tiles are not 32 bytes wide
    #[inline(always)]
    pub(crate) fn codes<const T: usize>(&self, x: [&[Line; 8]; T], w: &[Line; 8], to: &mut Sums) {
        const { assert!(T == 1 || T == 2) };
        assert!(self.bytes == 32, "tiles of {} bytes", self.bytes);
        // SAFETY: activations are sixteen rows of half a line, weights eight lines; sums as above.
        unsafe {
            asm!(
                "tilezero tmm0",
                "tileloadd tmm6, [{w} + {line}]",
                "tileloadd tmm4, [{x} + {half}]",
                "tdpbsud tmm0, tmm4, tmm6",
                "tilestored [{to} + {line}], tmm0",
                w = in(reg) w.as_ptr(),
                x = in(reg) x[0].as_ptr(),
                to = in(reg) to.0.as_mut_ptr(),
                line = in(reg) 64usize,
                half = in(reg) 32usize,
                options(nostack, preserves_flags),
            );
            if T == 2 {
                asm!(
                    "tilezero tmm1",
                    "tileloadd tmm5, [{x} + {half}]",
                    "tdpbsud tmm1, tmm5, tmm6",
                    "tilestored [{to} + {line} + 1024], tmm1",
                    x = in(reg) x[T - 1].as_ptr(),
                    to = in(reg) to.0.as_mut_ptr(),
                    line = in(reg) 64usize,
                    half = in(reg) 32usize,
                    options(nostack, preserves_flags),
                );
            }
        }
    }

    /// Codes times whole-numbered scales (a pair of equals per lane), which need more than a byte, as 128·high + low.
    #[inline(always)]
    pub(crate) fn split(&self, codes: &Line, scales: &Line, [high, low]: [&mut Line; 2]) {
        // SAFETY: whoever has tiles has AVX-512 with BW; lines are 64 bytes, and no access needs alignment.
        unsafe {
            let (codes, scales) =
                (_mm512_loadu_si512(codes.as_ptr().cast()), _mm512_loadu_si512(scales.as_ptr().cast()));
            let byte = _mm512_set1_epi16(0xff);
            let even = _mm512_mullo_epi16(_mm512_and_si512(codes, byte), scales);
            let odd = _mm512_mullo_epi16(_mm512_srli_epi16::<8>(codes), scales);
            let half = _mm512_set1_epi16(64);
            let even_high = _mm512_srai_epi16::<7>(_mm512_add_epi16(even, half));
            let odd_high = _mm512_srai_epi16::<7>(_mm512_add_epi16(odd, half));
            let even_low = _mm512_sub_epi16(even, _mm512_slli_epi16::<7>(even_high));
            let odd_low = _mm512_sub_epi16(odd, _mm512_slli_epi16::<7>(odd_high));
            // Low bytes of the even ones, and of the odd ones above them
            let join = |even, odd| _mm512_or_si512(_mm512_and_si512(even, byte), _mm512_slli_epi16::<8>(odd));
            _mm512_storeu_si512(high.as_mut_ptr().cast(), join(even_high, odd_high));
            _mm512_storeu_si512(low.as_mut_ptr().cast(), join(even_low, odd_low));
        }
    }
}

impl Drop for Tiles {
    fn drop(&mut self) {
        // SAFETY: the tiles are this thread's, and nobody else has shaped them.
        unsafe { asm!("tilerelease", options(nostack, nomem, preserves_flags)) };
        IN_USE.set(false);
    }
}
