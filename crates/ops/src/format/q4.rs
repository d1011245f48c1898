//! Q4_0 and Q4_1: 32 weights of 4 bits with one half-precision scale, Q4_1 also with an offset.
//!
//! Owns both layouts: `[d | qs]` and `[d | m | qs]`; byte j of `qs` holds weight j below and weight j + 16 above.

use super::{BLOCK, f16_at};

pub(super) const BYTES_0: usize = 2 + 16;
pub(super) const BYTES_1: usize = 4 + 16;

/// w = d · (q − 8)
pub(super) fn decode_0(src: &[u8; BYTES_0], dst: &mut [f32; BLOCK]) {
    let d = f16_at(src, 0);
    for (j, &pair) in src[2..].iter().enumerate() {
        dst[j] = d * (f32::from(pair & 15) - 8.0);
        dst[j + 16] = d * (f32::from(pair >> 4) - 8.0);
    }
}

/// w = d · q + m
pub(super) fn decode_1(src: &[u8; BYTES_1], dst: &mut [f32; BLOCK]) {
    let (d, m) = (f16_at(src, 0), f16_at(src, 2));
    for (j, &pair) in src[4..].iter().enumerate() {
        dst[j] = d * f32::from(pair & 15) + m;
        dst[j + 16] = d * f32::from(pair >> 4) + m;
    }
}
