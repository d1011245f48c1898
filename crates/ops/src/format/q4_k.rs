//! Q4_K: 256 weights of 4 bits in 8 sub-blocks, each with a 6-bit scale and a 6-bit offset.
//!
//! Owns the layout `[d | dmin | scales 12 | qs 128]`, and the packing of scales that Q5_K shares.

use super::{SUPER_BLOCK, f16_at};

pub(super) const BYTES: usize = 2 + 2 + 12 + 128;

/// w = (d · scale) · q − (dmin · offset)
pub(super) fn decode(src: &[u8; BYTES], dst: &mut [f32; SUPER_BLOCK]) {
    let (d, d_min) = (f16_at(src, 0), f16_at(src, 2));
    let (scales, qs) = (&src[4..16], &src[16..]);
    for (j, sub) in dst.as_chunks_mut::<32>().0.iter_mut().enumerate() {
        let (scale, offset) = scale_and_offset(scales, j);
        let (scale, offset) = (d * scale, d_min * offset);
        for (w, &q) in sub.iter_mut().zip(&qs[j / 2 * 32..]) {
            *w = scale * f32::from(q >> (j % 2 * 4) & 15) - offset;
        }
    }
}

/// Scale and offset of sub-block `j` of 8, each 0 to 63, from the 12 packed bytes.
///
/// Bytes 0–3 hold scales 0–3 and bytes 4–7 offsets 0–3 in their low six bits. Bytes 8–11 hold the low nibbles of
/// scales 4–7 (below) and offsets 4–7 (above), whose upper two bits are the upper two bits of bytes 0–3 and 4–7.
pub(super) fn scale_and_offset(packed: &[u8], j: usize) -> (f32, f32) {
    let (scale, offset) = if j < 4 {
        (packed[j] & 63, packed[j + 4] & 63)
    } else {
        let low = packed[j + 4];
        (low & 15 | packed[j - 4] >> 6 << 4, low >> 4 | packed[j] >> 6 << 4)
    };
    (f32::from(scale), f32::from(offset))
}
