//! Q6_K: 256 weights of 6 bits in 16 sub-blocks, each with a signed 8-bit scale.
//!
//! Owns the layout `[ql 128 | qh 64 | scales 16 | d]`.

use super::{SUPER_BLOCK, f16_at};

pub(super) const BYTES: usize = 128 + 64 + 16 + 2;

/// w = (d · scale) · (q − 32)
pub(super) fn decode(src: &[u8; BYTES], dst: &mut [f32; SUPER_BLOCK]) {
    let (low, high, scales) = (&src[..128], &src[128..192], &src[192..208]);
    let d = f16_at(src, 208);
    for (g, run) in dst.as_chunks_mut::<32>().0.iter_mut().enumerate() {
        // Each half of 128 weights: 64 bytes of low nibbles (two runs of 32 below, two above), 32 bytes of high pairs.
        let (half, quarter) = (g / 4, g % 4);
        let low = &low[half * 64 + quarter % 2 * 32..][..32];
        let high = &high[half * 32..][..32];
        for (i, w) in run.iter_mut().enumerate() {
            let scale = d * f32::from(scales[g * 2 + i / 16].cast_signed());
            let q = low[i] >> (quarter / 2 * 4) & 15 | (high[i] >> (quarter * 2) & 3) << 4;
            *w = scale * (f32::from(q) - 32.0);
        }
    }
}
