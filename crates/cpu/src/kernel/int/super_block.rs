//! Formats of 256 weights per block, whose sub-blocks have scales in whole numbers.
//!
//! Owns how their codes and scales are unpacked. A block is four vectors of codes; each half of a vector is a *part* of
//! 32 consecutive columns, and which two parts share a vector is up to the format.

use crate::level::{Simd, make, map};

use super::groups::Group256;
use super::small::iq4_levels;
use super::{Format, part};

/// A format of 256 weights per block.
pub(crate) trait Super: Format<Group = Group256> {
    /// The two parts of each vector.
    const PARTS: [[usize; 2]; 4];
    /// Zero point of all codes, besides the level's bias where codes have 8 bits.
    const ZERO: i16;
    /// Vector `j` of 4.
    fn codes<S: Simd>(simd: S, block: &Self::Block, j: usize) -> S::Bytes;
    /// The sub-blocks' scales; the second eight only where there are sixteen.
    fn scales<S: Simd>(simd: S, block: &Self::Block) -> [S::I16x8; 2];
    /// What is subtracted, in units of [`Format::offset4`]; the second eight only where there are sixteen.
    fn offsets<S: Simd>(simd: S, block: &Self::Block) -> [S::I16x8; 2];

    /// What meets −Σq of each sub-block: the offsets, or the scales times the zero point.
    #[inline(always)]
    fn minus<S: Simd>(simd: S, block: &Self::Block) -> [S::I16x8; 2] {
        if Self::OFFSET {
            return Self::offsets(simd, block);
        }
        let zero = if Self::BITS == 8 { i16::from(S::BIAS) } else { Self::ZERO };
        map(Self::scales(simd, block), |scales| simd.mul_i16x8(scales, zero))
    }
}

/// `N` bytes at `at`.
#[inline(always)]
fn at<const N: usize>(block: &[u8], at: usize) -> &[u8; N] {
    match block[at..].first_chunk() {
        Some(part) => part,
        None => unreachable!("the block holds them"),
    }
}

macro_rules! format {
    ($name:ident, $bytes:literal, bits $bits:literal, subs $n_sub:literal, d $d:literal, o $o:expr) => {
        pub(crate) struct $name;

        impl Format for $name {
            type Block = [u8; $bytes];
            type Group = Group256;
            const BITS: u32 = $bits;
            const N_SUB: usize = $n_sub;
            const OFFSET: bool = $o > 0;
            #[inline(always)]
            fn blocks(row: &[u8]) -> &[[u8; $bytes]] {
                row.as_chunks().0
            }
            #[inline(always)]
            fn scale4<S: Simd>(simd: S, blocks: [&[u8; $bytes]; 4]) -> S::F4 {
                simd.load4_f16(map(blocks, |block| *part::<$d, 2>(block)))
            }
            #[inline(always)]
            fn offset4<S: Simd>(simd: S, blocks: [&[u8; $bytes]; 4]) -> S::F4 {
                simd.load4_f16(map(blocks, |block| *part::<$o, 2>(block)))
            }
        }
    };
}

format!(Q4K, 144, bits 4, subs 8, d 0, o 2);
format!(Q5K, 176, bits 5, subs 8, d 0, o 2);
format!(Q2K, 84, bits 4, subs 16, d 80, o 82);
format!(Q3K, 110, bits 4, subs 16, d 108, o 0);
format!(Q6K, 210, bits 6, subs 16, d 208, o 0);
format!(Iq4Xs, 136, bits 8, subs 8, d 0, o 0);

/// Eight scales and eight offsets of 6 bits in 12 bytes, as bytes.
///
/// Bytes 0–3 hold scales 0–3 and bytes 4–7 offsets 0–3 in their low six bits. Bytes 8–11 hold the low nibbles of
/// scales 4–7 (below) and offsets 4–7 (above), whose upper two bits are the upper two bits of bytes 0–3 and 4–7.
#[inline(always)]
fn six_bits(packed: &[u8; 12]) -> [[u8; 8]; 2] {
    let word = |i: usize| u32::from_le_bytes(*at(packed, i));
    let (a, b, c) = (word(0), word(4), word(8));
    let upper_scales = c & 0x0f0f_0f0f | (a >> 2) & 0x3030_3030;
    let upper_offsets = (c >> 4) & 0x0f0f_0f0f | (b >> 2) & 0x3030_3030;
    let join = |low: u32, high: u32| (u64::from(low & 0x3f3f_3f3f) | u64::from(high) << 32).to_le_bytes();
    [join(a, upper_scales), join(b, upper_offsets)]
}

/// Sixty-four bytes hold four parts: 0 and 2 in the lower nibbles, 1 and 3 in the upper ones.
const NIBBLE_PARTS: [[usize; 2]; 4] = [[0, 2], [1, 3], [4, 6], [5, 7]];

/// Vector `j` of nibbles that lie as [`NIBBLE_PARTS`] says.
#[inline(always)]
fn nibbles<S: Simd>(simd: S, qs: &[u8; 128], j: usize) -> S::Bytes {
    let bytes = simd.load_u8(at(qs, j / 2 * 64));
    if j.is_multiple_of(2) { simd.shr_and::<0, 0>(bytes, 15) } else { simd.shr_and::<4, 4>(bytes, 15) }
}

impl Super for Q4K {
    const PARTS: [[usize; 2]; 4] = NIBBLE_PARTS;
    const ZERO: i16 = 0;
    #[inline(always)]
    fn codes<S: Simd>(simd: S, block: &[u8; 144], j: usize) -> S::Bytes {
        nibbles(simd, part::<16, 128>(block), j)
    }
    #[inline(always)]
    fn scales<S: Simd>(simd: S, block: &[u8; 144]) -> [S::I16x8; 2] {
        [simd.widen_u8x8(six_bits(part::<4, 12>(block))[0]); 2]
    }
    #[inline(always)]
    fn offsets<S: Simd>(simd: S, block: &[u8; 144]) -> [S::I16x8; 2] {
        [simd.widen_u8x8(six_bits(part::<4, 12>(block))[1]); 2]
    }
}

impl Super for Q5K {
    const PARTS: [[usize; 2]; 4] = NIBBLE_PARTS;
    const ZERO: i16 = 0;
    #[inline(always)]
    fn codes<S: Simd>(simd: S, block: &[u8; 176], j: usize) -> S::Bytes {
        let high = simd.load_halves(part::<16, 32>(block), part::<16, 32>(block));
        let high = match j {
            0 => simd.bit_and::<0, 2>(high, 16),
            1 => simd.bit_and::<1, 3>(high, 16),
            2 => simd.bit_and::<4, 6>(high, 16),
            _ => simd.bit_and::<5, 7>(high, 16),
        };
        simd.or(nibbles(simd, part::<48, 128>(block), j), high)
    }
    #[inline(always)]
    fn scales<S: Simd>(simd: S, block: &[u8; 176]) -> [S::I16x8; 2] {
        [simd.widen_u8x8(six_bits(part::<4, 12>(block))[0]); 2]
    }
    #[inline(always)]
    fn offsets<S: Simd>(simd: S, block: &[u8; 176]) -> [S::I16x8; 2] {
        [simd.widen_u8x8(six_bits(part::<4, 12>(block))[1]); 2]
    }
}

/// Parts in the order of their columns.
const PARTS_IN_ORDER: [[usize; 2]; 4] = [[0, 1], [2, 3], [4, 5], [6, 7]];

/// Vector `j` of two-bit codes: each half of 128 weights lies in 32 bytes, four parts two bits apart.
#[inline(always)]
fn pairs_of_bits<S: Simd>(simd: S, qs: &[u8; 64], j: usize) -> S::Bytes {
    let run = at::<32>(qs, j / 2 * 32);
    let bytes = simd.load_halves(run, run);
    if j.is_multiple_of(2) { simd.shr_and::<0, 2>(bytes, 3) } else { simd.shr_and::<4, 6>(bytes, 3) }
}

impl Super for Q2K {
    const PARTS: [[usize; 2]; 4] = PARTS_IN_ORDER;
    const ZERO: i16 = 0;
    #[inline(always)]
    fn codes<S: Simd>(simd: S, block: &[u8; 84], j: usize) -> S::Bytes {
        pairs_of_bits(simd, part::<16, 64>(block), j)
    }
    #[inline(always)]
    fn scales<S: Simd>(simd: S, block: &[u8; 84]) -> [S::I16x8; 2] {
        let low = |i: usize| (u64::from_le_bytes(*at(block, i)) & 0x0f0f_0f0f_0f0f_0f0f).to_le_bytes();
        map([0, 8], |i| simd.widen_u8x8(low(i)))
    }
    #[inline(always)]
    fn offsets<S: Simd>(simd: S, block: &[u8; 84]) -> [S::I16x8; 2] {
        let high = |i: usize| (u64::from_le_bytes(*at(block, i)) >> 4 & 0x0f0f_0f0f_0f0f_0f0f).to_le_bytes();
        map([0, 8], |i| simd.widen_u8x8(high(i)))
    }
}

impl Super for Q3K {
    const PARTS: [[usize; 2]; 4] = PARTS_IN_ORDER;
    const ZERO: i16 = 4;
    #[inline(always)]
    fn codes<S: Simd>(simd: S, block: &[u8; 110], j: usize) -> S::Bytes {
        let high = simd.load_halves(part::<0, 32>(block), part::<0, 32>(block));
        let high = match j {
            0 => simd.bit_and::<0, 1>(high, 4),
            1 => simd.bit_and::<2, 3>(high, 4),
            2 => simd.bit_and::<4, 5>(high, 4),
            _ => simd.bit_and::<6, 7>(high, 4),
        };
        simd.or(pairs_of_bits(simd, part::<32, 64>(block), j), high)
    }
    #[inline(always)]
    fn scales<S: Simd>(simd: S, block: &[u8; 110]) -> [S::I16x8; 2] {
        // Four low bits in a nibble of eight bytes, two high bits in four bytes: (high >> 2·(j / 4)) of byte j % 4.
        let low = u64::from_le_bytes(*at(block, 96));
        let high = u32::from_le_bytes(*at(block, 104));
        let pairs = |shift: u32| {
            u64::from(high >> shift & 0x0303_0303) << 4 | u64::from(high >> (shift + 2) & 0x0303_0303) << 36
        };
        let nibbles = 0x0f0f_0f0f_0f0f_0f0f;
        let bytes = [low & nibbles | pairs(0), low >> 4 & nibbles | pairs(4)];
        map(bytes, |bytes| simd.add_i16x8(simd.widen_u8x8(bytes.to_le_bytes()), -32))
    }
    #[inline(always)]
    fn offsets<S: Simd>(_: S, _: &[u8; 110]) -> [S::I16x8; 2] {
        unreachable!("no offsets")
    }
}

impl Super for Q6K {
    const PARTS: [[usize; 2]; 4] = PARTS_IN_ORDER;
    const ZERO: i16 = 32;
    #[inline(always)]
    fn codes<S: Simd>(simd: S, block: &[u8; 210], j: usize) -> S::Bytes {
        // Each half of 128 weights: 64 bytes of low nibbles (two parts below, two above), 32 bytes of high pairs.
        let low = simd.load_u8(at(block, j / 2 * 64));
        let run = at::<32>(block, 128 + j / 2 * 32);
        let high = simd.load_halves(run, run);
        if j.is_multiple_of(2) {
            let low = simd.shr_and::<0, 0>(low, 15);
            simd.or(low, simd.shl4(simd.shr_and::<0, 2>(high, 3)))
        } else {
            let low = simd.shr_and::<4, 4>(low, 15);
            simd.or(low, simd.shl4(simd.shr_and::<4, 6>(high, 3)))
        }
    }
    #[inline(always)]
    fn scales<S: Simd>(simd: S, block: &[u8; 210]) -> [S::I16x8; 2] {
        map([192, 200], |i| simd.widen_i8x8(*at(block, i)))
    }
    #[inline(always)]
    fn offsets<S: Simd>(_: S, _: &[u8; 210]) -> [S::I16x8; 2] {
        unreachable!("no offsets")
    }
}

impl Super for Iq4Xs {
    const PARTS: [[usize; 2]; 4] = PARTS_IN_ORDER;
    const ZERO: i16 = 0;
    #[inline(always)]
    fn codes<S: Simd>(simd: S, block: &[u8; 136], j: usize) -> S::Bytes {
        iq4_levels(simd, simd.nibbles(at(block, 8 + 32 * j), at(block, 24 + 32 * j)))
    }
    #[inline(always)]
    fn scales<S: Simd>(simd: S, block: &[u8; 136]) -> [S::I16x8; 2] {
        let (low, high) = (u32::from_le_bytes(*at(block, 4)), u16::from_le_bytes(*at(block, 2)));
        let scale = |j: usize| (low >> (4 * j) & 15) as u8 | ((high >> (2 * j) & 3) as u8) << 4;
        [simd.add_i16x8(simd.widen_u8x8(make(scale)), -32); 2]
    }
    #[inline(always)]
    fn offsets<S: Simd>(_: S, _: &[u8; 136]) -> [S::I16x8; 2] {
        unreachable!("no offsets")
    }
}
