//! Formats of 256 weights per block, whose sub-blocks have scales in whole numbers.
//!
//! Owns how their codes and scales are unpacked. A block has eight *parts*: codes of 32 consecutive columns.

use crate::level::{Simd, make, map};

use super::groups::Group256;
use super::small::iq4_levels;
use super::{Format, part};

/// A format of 256 weights per block.
pub(crate) trait Super: Format<Group = Group256> {
    /// Zero point of all codes, besides the level's bias where codes have 8 bits.
    const ZERO: i16;
    /// Parts 4·half to 4·half + 3; of 8 bits with the level's bias added.
    fn codes<S: Simd>(simd: S, block: &Self::Block, half: usize) -> [S::Half; 4];
    /// The whole numbers of four blocks.
    fn factors<S: Simd>(simd: S, blocks: [&Self::Block; 4], to: &mut Factors);
}

/// The whole numbers that four blocks' sub-blocks have, in pairs: those of sub-blocks 0 and 1 of every row, of 2 and 3 and
/// so on; of formats with sixteen sub-blocks 0 and 2, 1 and 3, 4 and 6, 5 and 7 and so on, because those of the same
/// half of two parts are needed together.
#[derive(Clone, Copy)]
#[repr(align(64))]
pub(crate) struct Factors {
    pub(crate) scales: [[i16; 32]; 2],
    /// What meets −Σq of each sub-block: the offsets in units of [`Format::offset4`], or scales times the zero point.
    pub(crate) minus: [[i16; 32]; 2],
}

impl Factors {
    pub(crate) const NONE: Self = Self { scales: [[0; 32]; 2], minus: [[0; 32]; 2] };

    /// Pair `i` of a row's scales.
    #[inline(always)]
    pub(crate) fn scales(&self, row: usize, i: usize) -> [i16; 2] {
        self.scales[i / 4].as_chunks::<2>().0[i % 4 * 4 + row]
    }

    /// Sets eights of every row, as many as the format has.
    #[inline(always)]
    fn set<S: Simd, const N: usize>(&mut self, simd: S, scales: [S::I16; N], minus: [S::I16; N]) {
        for i in 0..N {
            simd.store_pairs(simd.pairs_of_rows(scales[i]), &mut self.scales[i]);
            simd.store_pairs(simd.pairs_of_rows(minus[i]), &mut self.minus[i]);
        }
    }

    /// Sets those of a format with a zero point.
    #[inline(always)]
    fn set_centred<F: Super, S: Simd, const N: usize>(&mut self, simd: S, scales: [S::I16; N]) {
        let zero = simd.splat_i16(if F::BITS == 8 { i16::from(S::BIAS) } else { F::ZERO });
        self.set(simd, scales, map(scales, |scales| simd.mul_i16(scales, zero)));
    }
}

/// Sixteen bytes of which the middle two of each four change places, as [`Factors`] wants them.
const BY_HALVES: [u8; 16] = [0, 2, 1, 3, 4, 6, 5, 7, 8, 10, 9, 11, 12, 14, 13, 15];

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

/// Bytes that are 0 in [`Simd::shuffle`].
const NONE: u8 = 128;

/// Eight scales and eight offsets of 6 bits in the last 12 of each quarter's bytes, as bytes.
///
/// Bytes 4–7 hold scales 0–3 and bytes 8–11 offsets 0–3 in their low six bits. Bytes 12–15 hold the low nibbles of
/// scales 4–7 (below) and offsets 4–7 (above), whose upper two bits are the upper two bits of bytes 4–7 and 8–11.
#[inline(always)]
fn six_bits<S: Simd>(simd: S, headers: [&[u8; 16]; 4]) -> S::Bytes {
    let packed = simd.load_quarters(headers);
    let low = simd.shuffle(packed, [4, 5, 6, 7, 12, 13, 14, 15, 8, 9, 10, 11, 12, 13, 14, 15]);
    let (six, four) = ([0x3f; 4], [0x0f; 4]);
    let low = simd.and_quarters(simd.shr32(low, [0, 0, 0, 4]), join([six, four, six, four]));
    let none = [NONE; 4];
    let high = simd.shuffle(packed, join([none, [4, 5, 6, 7], none, [8, 9, 10, 11]]));
    simd.or(low, simd.and_quarters(simd.shr32(high, [2; 4]), [0x30; 16]))
}

/// Four times four bytes.
#[inline(always)]
fn join(words: [[u8; 4]; 4]) -> [u8; 16] {
    make(|i| words[i / 4][i % 4])
}

/// The parts of half a block whose nibbles lie in 64 bytes: parts 0 and 1 in the first 32, 2 and 3 in the last.
#[inline(always)]
fn nibbles<S: Simd>(simd: S, qs: &[u8; 128], half: usize) -> [S::Half; 4] {
    let bytes: [S::Half; 2] = [simd.load_half(at(qs, 64 * half)), simd.load_half(at(qs, 64 * half + 32))];
    make(|i| if i % 2 == 0 { simd.bits::<0, 0, 4>(bytes[i / 2]) } else { simd.bits::<4, 0, 4>(bytes[i / 2]) })
}

/// The parts of half a block in pairs of bits: 32 bytes hold four parts, two bits apart.
#[inline(always)]
fn pairs_of_bits<S: Simd>(simd: S, qs: &[u8; 64], half: usize) -> [S::Half; 4] {
    let bytes = simd.load_half(at(qs, 32 * half));
    [simd.bits::<0, 0, 2>(bytes), simd.bits::<2, 0, 2>(bytes), simd.bits::<4, 0, 2>(bytes), simd.bits::<6, 0, 2>(bytes)]
}

/// One bit of each code of half a block, moved to bit TO: 32 bytes hold a bit for each of eight parts.
#[inline(always)]
fn eighths<S: Simd, const TO: u32>(simd: S, bits: &[u8; 32], half: usize) -> [S::Half; 4] {
    let bytes = simd.load_half(bits);
    match half {
        0 => [
            simd.bits::<0, TO, 1>(bytes),
            simd.bits::<1, TO, 1>(bytes),
            simd.bits::<2, TO, 1>(bytes),
            simd.bits::<3, TO, 1>(bytes),
        ],
        _ => [
            simd.bits::<4, TO, 1>(bytes),
            simd.bits::<5, TO, 1>(bytes),
            simd.bits::<6, TO, 1>(bytes),
            simd.bits::<7, TO, 1>(bytes),
        ],
    }
}

impl Super for Q4K {
    const ZERO: i16 = 0;
    #[inline(always)]
    fn codes<S: Simd>(simd: S, block: &[u8; 144], half: usize) -> [S::Half; 4] {
        nibbles(simd, part::<16, 128>(block), half)
    }
    #[inline(always)]
    fn factors<S: Simd>(simd: S, blocks: [&[u8; 144]; 4], to: &mut Factors) {
        let [scales, offsets] = simd.widen_quarters(six_bits(simd, map(blocks, |block| part::<0, 16>(block))));
        to.set(simd, [scales], [offsets]);
    }
}

impl Super for Q5K {
    const ZERO: i16 = 0;
    #[inline(always)]
    fn codes<S: Simd>(simd: S, block: &[u8; 176], half: usize) -> [S::Half; 4] {
        let (low, high) =
            (nibbles(simd, part::<48, 128>(block), half), eighths::<S, 4>(simd, part::<16, 32>(block), half));
        make(|i| simd.or_half(low[i], high[i]))
    }
    #[inline(always)]
    fn factors<S: Simd>(simd: S, blocks: [&[u8; 176]; 4], to: &mut Factors) {
        let [scales, offsets] = simd.widen_quarters(six_bits(simd, map(blocks, |block| part::<0, 16>(block))));
        to.set(simd, [scales], [offsets]);
    }
}

impl Super for Q2K {
    const ZERO: i16 = 0;
    #[inline(always)]
    fn codes<S: Simd>(simd: S, block: &[u8; 84], half: usize) -> [S::Half; 4] {
        pairs_of_bits(simd, part::<16, 64>(block), half)
    }
    #[inline(always)]
    fn factors<S: Simd>(simd: S, blocks: [&[u8; 84]; 4], to: &mut Factors) {
        let bytes = simd.load_quarters(map(blocks, |block| part::<0, 16>(block)));
        let bytes = simd.shuffle(bytes, BY_HALVES);
        let low = simd.and_quarters(bytes, [15; 16]);
        let high = simd.and_quarters(simd.shr32(bytes, [4; 4]), [15; 16]);
        to.set(simd, simd.widen_quarters(low), simd.widen_quarters(high));
    }
}

impl Super for Q3K {
    const ZERO: i16 = 4;
    #[inline(always)]
    fn codes<S: Simd>(simd: S, block: &[u8; 110], half: usize) -> [S::Half; 4] {
        let low = pairs_of_bits(simd, part::<32, 64>(block), half);
        let high = eighths::<S, 2>(simd, part::<0, 32>(block), half);
        make(|i| simd.or_half(low[i], high[i]))
    }
    #[inline(always)]
    fn factors<S: Simd>(simd: S, blocks: [&[u8; 110]; 4], to: &mut Factors) {
        // Four low bits in a nibble of bytes 2–9, two high bits in bytes 10–13: (high >> 2·(j / 4)) of byte j % 4.
        let packed = simd.load_quarters(map(blocks, |block| part::<94, 16>(block)));
        let low = simd.shuffle(packed, [2, 4, 3, 5, 6, 8, 7, 9, 2, 4, 3, 5, 6, 8, 7, 9]);
        let low = simd.widen_quarters(simd.and_quarters(simd.shr32(low, [0, 0, 4, 4]), [15; 16]));
        let high = simd.shuffle(packed, join([[10, 12, 11, 13]; 4]));
        let high = simd.widen_quarters(simd.and_quarters(simd.shr32(high, [0, 2, 4, 6]), [3; 16]));
        let (sixteen, centre) = (simd.splat_i16(16), simd.splat_i16(-32));
        let scale = |i: usize| simd.add_i16(simd.add_i16(low[i], centre), simd.mul_i16(high[i], sixteen));
        to.set_centred::<Self, S, 2>(simd, [scale(0), scale(1)]);
    }
}

impl Super for Q6K {
    const ZERO: i16 = 32;
    #[inline(always)]
    fn codes<S: Simd>(simd: S, block: &[u8; 210], half: usize) -> [S::Half; 4] {
        // 64 bytes of low nibbles (parts 0 and 1 below, 2 and 3 above), 32 bytes of high pairs.
        let [a, b]: [S::Half; 2] = [simd.load_half(at(block, 64 * half)), simd.load_half(at(block, 64 * half + 32))];
        let high = simd.load_half(at(block, 128 + 32 * half));
        [
            simd.or_half(simd.bits::<0, 0, 4>(a), simd.bits::<0, 4, 2>(high)),
            simd.or_half(simd.bits::<0, 0, 4>(b), simd.bits::<2, 4, 2>(high)),
            simd.or_half(simd.bits::<4, 0, 4>(a), simd.bits::<4, 4, 2>(high)),
            simd.or_half(simd.bits::<4, 0, 4>(b), simd.bits::<6, 4, 2>(high)),
        ]
    }
    #[inline(always)]
    fn factors<S: Simd>(simd: S, blocks: [&[u8; 210]; 4], to: &mut Factors) {
        let bytes = simd.shuffle(simd.load_quarters(map(blocks, |block| part::<192, 16>(block))), BY_HALVES);
        to.set_centred::<Self, S, 2>(simd, simd.widen_quarters_i8(bytes));
    }
}

impl Super for Iq4Xs {
    const ZERO: i16 = 0;
    #[inline(always)]
    fn codes<S: Simd>(simd: S, block: &[u8; 136], half: usize) -> [S::Half; 4] {
        let mut codes = [simd.splat_half(0); 4];
        for (i, codes) in codes.iter_mut().enumerate() {
            *codes = iq4_levels(simd, simd.nibbles(at(block, 8 + 64 * half + 16 * i)));
        }
        codes
    }
    #[inline(always)]
    fn factors<S: Simd>(simd: S, blocks: [&[u8; 136]; 4], to: &mut Factors) {
        let bytes: [[u8; 16]; 4] = map(blocks, |block| {
            let (low, high) = (u32::from_le_bytes(*at(block, 4)), u16::from_le_bytes(*at(block, 2)));
            make(|j| (low >> (4 * (j % 8)) & 15) as u8 | ((high >> (2 * (j % 8)) & 3) as u8) << 4)
        });
        let [scales, _] = simd.widen_quarters(simd.load_quarters(bytes.each_ref()));
        to.set_centred::<Self, S, 1>(simd, [simd.add_i16(scales, simd.splat_i16(-32))]);
    }
}
