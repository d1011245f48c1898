//! Q5_0 and Q5_1: 32 weights of 5 bits with one half-precision scale, Q5_1 also with an offset.
//!
//! Owns both layouts: `[d | qh | qs]` and `[d | m | qh | qs]`; bit j of `qh` is the fifth bit of weight j, byte j of
//! `qs` holds the low bits of weight j below and of weight j + 16 above.

use super::{BLOCK, f16_at};

pub(super) const BYTES_0: usize = 2 + 4 + 16;
pub(super) const BYTES_1: usize = 4 + 4 + 16;

/// w = d · (q − 16)
pub(super) fn decode_0(src: &[u8; BYTES_0], dst: &mut [f32; BLOCK]) {
    let d = f16_at(src, 0);
    for (w, q) in dst.iter_mut().zip(codes(&src[2..])) {
        *w = d * (q - 16.0);
    }
}

/// w = d · q + m
pub(super) fn decode_1(src: &[u8; BYTES_1], dst: &mut [f32; BLOCK]) {
    let (d, m) = (f16_at(src, 0), f16_at(src, 2));
    for (w, q) in dst.iter_mut().zip(codes(&src[4..])) {
        *w = d * q + m;
    }
}

/// The 32 codes, 0 to 31, of `[qh | qs]`.
fn codes(packed: &[u8]) -> [f32; BLOCK] {
    let high = u32::from_le_bytes([packed[0], packed[1], packed[2], packed[3]]);
    std::array::from_fn(|j| {
        let low = packed[4 + j % 16] >> (j / 16 * 4) & 15;
        f32::from(low | ((high >> j & 1) as u8) << 4)
    })
}
