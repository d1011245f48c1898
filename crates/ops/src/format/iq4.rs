//! IQ4_NL and IQ4_XS: 4-bit codes into a table of 16 uneven levels.
//!
//! Owns the table and both layouts: `[d | qs 16]` for 32 weights and
//! `[d | scales_h 2 | scales_l 4 | qs 128]` for 256 weights in 8 sub-blocks with 6-bit scales.

use super::{BLOCK, SUPER_BLOCK, f16_at};

pub(super) const BYTES_NL: usize = 2 + 16;
pub(super) const BYTES_XS: usize = 2 + 2 + 4 + 128;

const LEVELS: [i8; 16] = [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];

/// w = d · level[q]
pub(super) fn decode_nl(src: &[u8; BYTES_NL], dst: &mut [f32; BLOCK]) {
    levels(f16_at(src, 0), &src[2..], dst);
}

/// w = (d · (scale − 32)) · level[q]
pub(super) fn decode_xs(src: &[u8; BYTES_XS], dst: &mut [f32; SUPER_BLOCK]) {
    let d = f16_at(src, 0);
    let high = u16::from_le_bytes([src[2], src[3]]);
    let (low, qs) = (&src[4..8], &src[8..]);
    for (j, sub) in dst.as_chunks_mut().0.iter_mut().enumerate() {
        let scale = low[j / 2] >> (j % 2 * 4) & 15 | ((high >> (2 * j) & 3) as u8) << 4;
        levels(d * (f32::from(scale) - 32.0), &qs[j * 16..][..16], sub);
    }
}

/// Byte j holds the code of weight j below and of weight j + 16 above.
fn levels(scale: f32, codes: &[u8], dst: &mut [f32; BLOCK]) {
    for (j, &pair) in codes.iter().enumerate() {
        dst[j] = scale * f32::from(LEVELS[usize::from(pair & 15)]);
        dst[j + 16] = scale * f32::from(LEVELS[usize::from(pair >> 4)]);
    }
}
