//! Q3_K: 256 weights of 3 bits in 16 sub-blocks, each with a 6-bit scale.
//!
//! Owns the layout `[hmask 32 | qs 64 | scales 12 | d]`.

use super::{SUPER_BLOCK, f16_at};

pub(super) const BYTES: usize = 32 + 64 + 12 + 2;

/// w = (d · (scale − 32)) · (q − 4), where the third bit of q lies in `hmask`.
pub(super) fn decode(src: &[u8; BYTES], dst: &mut [f32; SUPER_BLOCK]) {
    let (hmask, qs, scales) = (&src[..32], &src[32..96], &src[96..108]);
    let d = f16_at(src, 108);
    for (j, sub) in dst.as_chunks_mut::<16>().0.iter_mut().enumerate() {
        let scale = d * (f32::from(scale(scales, j)) - 32.0);
        let (half, run, part) = (j / 8, j % 8 / 2, j % 2);
        let low = &qs[half * 32 + part * 16..][..16];
        let high = &hmask[part * 16..][..16];
        for ((w, &low), &high) in sub.iter_mut().zip(low).zip(high) {
            let q = (low >> (2 * run) & 3) | (high >> (j / 2) & 1) << 2;
            *w = scale * (f32::from(q) - 4.0);
        }
    }
}

/// Scale `j` of 16: four low bits in a nibble of the first 8 bytes, two high bits in the last 4 bytes.
fn scale(packed: &[u8], j: usize) -> u8 {
    let low = packed[j % 8] >> (j / 8 * 4) & 15;
    let high = packed[8 + j % 4] >> (j / 4 * 2) & 3;
    low | high << 4
}
