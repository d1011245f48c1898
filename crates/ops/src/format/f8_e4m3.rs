//! F8_E4M3 (the "fn" variant): sign, 4 exponent bits with bias 7, 3 mantissa bits; no infinities, NaN is S.1111.111.
//!
//! Owns the meaning of a code. Must not know of block scales: they belong to the matrix.

/// Decodes one code by table: there are only 256.
pub(super) fn decode(src: &[u8; 1], dst: &mut [f32; 1]) {
    dst[0] = VALUES[usize::from(src[0])];
}

static VALUES: [f32; 256] = {
    let mut values = [0.0; 256];
    let mut code = 0;
    while code < 256 {
        values[code] = value(code as u32);
        code += 1;
    }
    values
};

/// (1 + m/8) · 2^(e − 7), or m/8 · 2^−6 where e = 0.
const fn value(code: u32) -> f32 {
    let (exponent, mantissa) = (code >> 3 & 15, code & 7);
    let magnitude = if exponent == 15 && mantissa == 7 {
        f32::NAN
    } else if exponent == 0 {
        mantissa as f32 / 512.0
    } else {
        f32::from_bits((exponent + 127 - 7) << 23 | mantissa << 20)
    };
    if code & 0x80 == 0 { magnitude } else { -magnitude }
}
