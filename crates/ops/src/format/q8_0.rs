//! Q8_0: 32 signed bytes with one half-precision scale.
//!
//! Owns the layout `[d | q]`, its decoder, and its encoder.

use super::{BLOCK, f16_at};

pub(super) const BYTES: usize = 2 + 32;

/// w = q · d
pub(super) fn decode(src: &[u8; BYTES], dst: &mut [f32; BLOCK]) {
    let d = f16_at(src, 0);
    for (w, &q) in dst.iter_mut().zip(&src[2..]) {
        *w = f32::from(q.cast_signed()) * d;
    }
}

/// d = max|w| / 127, q = round(w · (1/d)), halves away from zero.
///
/// The codes are made with the f32 scale and only then is the scale rounded to half precision: that is how the
/// published encoder does it, and files must come out equal. A block with a NaN or an infinity gets codes 0 and a scale
/// that is not finite, so it decodes to NaN.
pub(super) fn encode(src: &[f32; BLOCK], dst: &mut [u8; BYTES]) {
    let max = src.iter().fold(0.0f32, |max, w| if max >= w.abs() || max.is_nan() { max } else { w.abs() });
    let d = max / 127.0;
    let inverse = if d == 0.0 { 0.0 } else { 1.0 / d };
    dst[..2].copy_from_slice(&half::f16::from_f32(d).to_le_bytes());
    for (q, &w) in dst[2..].iter_mut().zip(src) {
        let code = (w * inverse).round();
        // Infinite where 1/d overflows, and NaN beside a NaN: the scale alone then says what the block is.
        *q = if code.is_finite() { (code as i8).cast_unsigned() } else { 0 };
    }
}
