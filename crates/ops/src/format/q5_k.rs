//! Q5_K: 256 weights of 5 bits in 8 sub-blocks, each with a 6-bit scale and a 6-bit offset.
//!
//! Owns the layout `[d | dmin | scales 12 | qh 32 | qs 128]`.

use super::{SUPER_BLOCK, f16_at, q4_k::scale_and_offset};

pub(super) const BYTES: usize = 2 + 2 + 12 + 32 + 128;

/// w = (d · scale) · q − (dmin · offset); bit j of byte i of `qh` is the fifth bit of weight i of sub-block j.
pub(super) fn decode(src: &[u8; BYTES], dst: &mut [f32; SUPER_BLOCK]) {
    let (d, d_min) = (f16_at(src, 0), f16_at(src, 2));
    let (scales, high, low) = (&src[4..16], &src[16..48], &src[48..]);
    for (j, sub) in dst.as_chunks_mut::<32>().0.iter_mut().enumerate() {
        let (scale, offset) = scale_and_offset(scales, j);
        let (scale, offset) = (d * scale, d_min * offset);
        for ((w, &low), &high) in sub.iter_mut().zip(&low[j / 2 * 32..]).zip(high) {
            let q = low >> (j % 2 * 4) & 15 | (high >> j & 1) << 4;
            *w = scale * f32::from(q) - offset;
        }
    }
}
