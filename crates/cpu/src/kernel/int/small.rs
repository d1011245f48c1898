//! Formats of 32 weights per block, each with one scale.
//!
//! Owns how their codes are unpacked. A block fills half of a vector.

use crate::level::{Simd, map};

use super::groups::Group32;
use super::{Format, part};

/// A format of 32 weights per block.
pub(crate) trait Small: Format<Group = Group32> {
    /// Subtracted from every code, besides the level's bias where codes have 8 bits.
    const ZERO: i32;
    /// The codes; of 8 bits with the level's bias added.
    fn codes<S: Simd>(simd: S, block: &Self::Block) -> S::Half;

    /// The zero point of what [`Small::codes`] gives.
    #[inline(always)]
    fn zero<S: Simd>() -> i32 {
        if Self::BITS == 8 { i32::from(S::BIAS) } else { Self::ZERO }
    }
}

macro_rules! small {
    ($name:ident, $bytes:literal, bits $bits:literal, zero $zero:literal, offset $offset:literal,
     |$simd:ident, $block:ident| $codes:expr) => {
        pub(crate) struct $name;

        impl Format for $name {
            type Block = [u8; $bytes];
            type Group = Group32;
            const BITS: u32 = $bits;
            const N_SUB: usize = 1;
            const OFFSET: bool = $offset;
            #[inline(always)]
            fn blocks(row: &[u8]) -> &[[u8; $bytes]] {
                row.as_chunks().0
            }
            #[inline(always)]
            fn scale4<S: Simd>(simd: S, blocks: [&[u8; $bytes]; 4]) -> S::F4 {
                scale4_of(simd, blocks)
            }
            #[inline(always)]
            fn offset4<S: Simd>(simd: S, blocks: [&[u8; $bytes]; 4]) -> S::F4 {
                simd.load4_f16(map(blocks, |block| *part::<2, 2>(block)))
            }
        }

        impl Small for $name {
            const ZERO: i32 = $zero;
            #[inline(always)]
            fn codes<S: Simd>($simd: S, $block: &[u8; $bytes]) -> S::Half {
                $codes
            }
        }
    };
}

/// Scales in half precision at the start of each block; MXFP4, the only format of 17 bytes, has one byte of exponent.
#[inline(always)]
fn scale4_of<S: Simd, const N: usize>(simd: S, blocks: [&[u8; N]; 4]) -> S::F4 {
    match N {
        17 => simd.load4(map(blocks, |block| half_power(block[0]))),
        _ => simd.load4_f16(map(blocks, |block| *part::<0, 2>(block))),
    }
}

/// 2^(e − 128): half of an E8M0 scale, because MXFP4's codes stand for doubled values.
#[inline(always)]
fn half_power(e: u8) -> f32 {
    f32::from_bits(if e < 2 { 0x0020_0000 << e } else { (u32::from(e) - 1) << 23 })
}

/// Nibbles with a fifth bit each: `[.. | qh 4 | qs 16]`, qh at `AT`.
#[inline(always)]
fn five_bits<S: Simd, const AT: usize, const QS: usize>(simd: S, block: &[u8]) -> S::Half {
    let high = simd.spread_bits(*part::<AT, 4>(block), 16);
    simd.or_half(simd.nibbles(part::<QS, 16>(block)), high)
}

/// IQ4's levels.
pub(super) const IQ4_LEVELS: [i8; 16] = [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];

/// IQ4's levels with the level's bias added.
#[inline(always)]
pub(super) fn iq4_levels<S: Simd>(simd: S, nibbles: S::Half) -> S::Half {
    simd.lookup(&IQ4_LEVELS.map(|level| level as u8 ^ S::BIAS), nibbles)
}

/// Twice MXFP4's values, plus 12.
const MXFP4_LEVELS: [u8; 16] = [12, 13, 14, 15, 16, 18, 20, 24, 12, 11, 10, 9, 8, 6, 4, 0];

small!(Q4_0, 18, bits 4, zero 8, offset false, |simd, block| simd.nibbles(part::<2, 16>(block)));
small!(Q4_1, 20, bits 4, zero 0, offset true, |simd, block| simd.nibbles(part::<4, 16>(block)));
small!(Q5_0, 22, bits 5, zero 16, offset false, |simd, block| five_bits::<S, 2, 6>(simd, block));
small!(Q5_1, 24, bits 5, zero 0, offset true, |simd, block| five_bits::<S, 4, 8>(simd, block));
small!(Q8_0, 34, bits 8, zero 0, offset false, |simd, block| {
    simd.xor_half(simd.load_half(part::<2, 32>(block)), simd.splat_half(S::BIAS))
});
small!(Iq4Nl, 18, bits 8, zero 0, offset false, |simd, block| {
    iq4_levels(simd, simd.nibbles(part::<2, 16>(block)))
});
small!(Mxfp4, 17, bits 5, zero 12, offset false, |simd, block| {
    simd.lookup(&MXFP4_LEVELS, simd.nibbles(part::<1, 16>(block)))
});
