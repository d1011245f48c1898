//! MXFP4: 32 weights of 4 bits (float 1-2-1) with one power-of-two scale.
//!
//! Owns the layout `[e | qs 16]`; byte j holds the code of weight j below and of weight j + 16 above.

use super::BLOCK;

pub(super) const BYTES: usize = 1 + 16;

/// Twice the value of each code, so that they are whole numbers.
const DOUBLED: [i8; 16] = [0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12];

/// w = 2^(e − 128) · doubled[q]
pub(super) fn decode(src: &[u8; BYTES], dst: &mut [f32; BLOCK]) {
    let scale = half_scale(src[0]);
    for (j, &pair) in src[1..].iter().enumerate() {
        dst[j] = scale * f32::from(DOUBLED[usize::from(pair & 15)]);
        dst[j + 16] = scale * f32::from(DOUBLED[usize::from(pair >> 4)]);
    }
}

/// 2^(e − 128): half of the E8M0 scale, because the codes' values are doubled. The two smallest are subnormal.
fn half_scale(e: u8) -> f32 {
    let bits = if e < 2 { 0x0020_0000 << e } else { (u32::from(e) - 1) << 23 };
    f32::from_bits(bits)
}
