//! Q2_K: 256 weights of 2 bits in 16 sub-blocks, each with a 4-bit scale and a 4-bit offset.
//!
//! Owns the layout `[scales 16 | qs 64 | d | dmin]`.

use super::{SUPER_BLOCK, f16_at};

pub(super) const BYTES: usize = 16 + 64 + 2 + 2;

/// w = (d · scale) · q − (dmin · offset)
pub(super) fn decode(src: &[u8; BYTES], dst: &mut [f32; SUPER_BLOCK]) {
    let (scales, qs) = (&src[..16], &src[16..80]);
    let (d, d_min) = (f16_at(src, 80), f16_at(src, 82));
    for (j, sub) in dst.as_chunks_mut::<16>().0.iter_mut().enumerate() {
        let scale = d * f32::from(scales[j] & 15);
        let offset = d_min * f32::from(scales[j] >> 4);
        // Each half of 128 weights lies in 32 bytes: four runs of 32 weights, two bits apart.
        let (half, run, part) = (j / 8, j % 8 / 2, j % 2);
        let codes = &qs[half * 32 + part * 16..][..16];
        for (w, &q) in sub.iter_mut().zip(codes) {
            *w = scale * f32::from(q >> (2 * run) & 3) - offset;
        }
    }
}
