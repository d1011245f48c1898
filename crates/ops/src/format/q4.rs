//! Q4_0 and Q4_1: 32 weights of 4 bits with one half-precision scale, Q4_1 also with an offset.
//!
//! Owns both layouts, `[d | qs]` and `[d | m | qs]`, their decoders, and Q4_0's encoder. Byte j of `qs` holds weight j
//! below and weight j + 16 above.

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

/// d = the weight furthest from 0, by −8; q = trunc(w · (1/d) + 8.5), at most 15: the published encoder's rule, in which the
/// furthest weight is met exactly. A block that is not finite gets such a scale and decodes to NaN or infinities.
pub(super) fn encode_0(src: &[f32; BLOCK], dst: &mut [u8; BYTES_0]) {
    let furthest = |a: f32, b: f32| if b.abs() > a.abs() || b.is_nan() { b } else { a };
    let d = src.iter().copied().reduce(furthest).unwrap_or(0.0) / -8.0;
    let inverse = if d == 0.0 { 0.0 } else { 1.0 / d };
    dst[..2].copy_from_slice(&half::f16::from_f32(d).to_le_bytes());
    // The cast ends at 0 and takes NaN as 0.
    let code = |w: f32| ((w * inverse + 8.5) as u8).min(15);
    for (j, pair) in dst[2..].iter_mut().enumerate() {
        *pair = code(src[j]) | code(src[j + 16]) << 4;
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
