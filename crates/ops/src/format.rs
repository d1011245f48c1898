//! Weight formats: geometry of a block, and the scalar decoder that defines each format's values.
//!
//! Owns what the bytes of a weight mean. Must not know of files, names or tensors of more than one row.
//! Each format's decoder stands in a file of its own below `format/`; a block is decoded by a plain function from its
//! bytes to its values, in f32, in the order of operations of the format's published reference, so that every faster
//! decoder can be compared with it bit for bit.

mod f8_e4m3;
mod float;
mod iq4;
mod mxfp4;
mod q2_k;
mod q3_k;
mod q4;
mod q4_k;
mod q5;
mod q5_k;
mod q6_k;
mod q8_0;

use std::fmt;

/// Weights in a block of the small formats.
const BLOCK: usize = 32;
/// Weights in a block of the `_K` formats and of IQ4_XS.
const SUPER_BLOCK: usize = 256;

/// How a row of weights is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[allow(missing_docs, reason = "the variants carry the formats' published names")]
#[allow(non_camel_case_types, reason = "the variants carry the formats' published names")]
pub enum WeightFormat {
    F32,
    F16,
    BF16,
    /// 8-bit float 1-4-3 without infinities; scaled per 128×128 block by [`crate::BlockScales`].
    F8_E4M3,
    Q4_0,
    Q4_1,
    Q5_0,
    Q5_1,
    Q8_0,
    Q2_K,
    Q3_K,
    Q4_K,
    Q5_K,
    Q6_K,
    IQ4_NL,
    IQ4_XS,
    MXFP4,
}

impl WeightFormat {
    /// Every format, in declaration order.
    pub const ALL: [Self; 17] = [
        Self::F32,
        Self::F16,
        Self::BF16,
        Self::F8_E4M3,
        Self::Q4_0,
        Self::Q4_1,
        Self::Q5_0,
        Self::Q5_1,
        Self::Q8_0,
        Self::Q2_K,
        Self::Q3_K,
        Self::Q4_K,
        Self::Q5_K,
        Self::Q6_K,
        Self::IQ4_NL,
        Self::IQ4_XS,
        Self::MXFP4,
    ];

    /// The format's published name: ggml's, and safetensors' for `F8_E4M3`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::F32 => "F32",
            Self::F16 => "F16",
            Self::BF16 => "BF16",
            Self::F8_E4M3 => "F8_E4M3",
            Self::Q4_0 => "Q4_0",
            Self::Q4_1 => "Q4_1",
            Self::Q5_0 => "Q5_0",
            Self::Q5_1 => "Q5_1",
            Self::Q8_0 => "Q8_0",
            Self::Q2_K => "Q2_K",
            Self::Q3_K => "Q3_K",
            Self::Q4_K => "Q4_K",
            Self::Q5_K => "Q5_K",
            Self::Q6_K => "Q6_K",
            Self::IQ4_NL => "IQ4_NL",
            Self::IQ4_XS => "IQ4_XS",
            Self::MXFP4 => "MXFP4",
        }
    }

    /// Number of consecutive weights of a row that are stored together.
    pub const fn block_len(self) -> usize {
        match self {
            Self::F32 | Self::F16 | Self::BF16 | Self::F8_E4M3 => 1,
            Self::Q4_0 | Self::Q4_1 | Self::Q5_0 | Self::Q5_1 | Self::Q8_0 | Self::IQ4_NL | Self::MXFP4 => BLOCK,
            Self::Q2_K | Self::Q3_K | Self::Q4_K | Self::Q5_K | Self::Q6_K | Self::IQ4_XS => SUPER_BLOCK,
        }
    }

    /// Number of bytes in which [`WeightFormat::block_len`] weights are stored.
    pub const fn block_bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::BF16 => 2,
            Self::F8_E4M3 => 1,
            Self::Q4_0 => q4::BYTES_0,
            Self::Q4_1 => q4::BYTES_1,
            Self::Q5_0 => q5::BYTES_0,
            Self::Q5_1 => q5::BYTES_1,
            Self::Q8_0 => q8_0::BYTES,
            Self::Q2_K => q2_k::BYTES,
            Self::Q3_K => q3_k::BYTES,
            Self::Q4_K => q4_k::BYTES,
            Self::Q5_K => q5_k::BYTES,
            Self::Q6_K => q6_k::BYTES,
            Self::IQ4_NL => iq4::BYTES_NL,
            Self::IQ4_XS => iq4::BYTES_XS,
            Self::MXFP4 => mxfp4::BYTES,
        }
    }

    /// Bytes of a row of `cols` weights; `None` if that is not a whole number of blocks, or does not fit a `usize`.
    pub const fn row_bytes(self, cols: usize) -> Option<usize> {
        if !cols.is_multiple_of(self.block_len()) {
            return None;
        }
        (cols / self.block_len()).checked_mul(self.block_bytes())
    }

    /// Decodes whole blocks to their values; `F8_E4M3` codes are decoded without their block scale.
    ///
    /// # Shapes   `src [n · block_bytes]` · `dst [n · block_len]`
    /// # Numerics bit-exact with the format's published reference decoder; a NaN's payload is not defined
    /// # Panics   if `src` is not a whole number of blocks or `dst` does not hold exactly their weights
    pub fn decode(self, src: &[u8], dst: &mut [f32]) {
        self.check_lengths(src.len(), dst.len());
        match self {
            Self::F32 => each(src, dst, float::decode_f32),
            Self::F16 => each(src, dst, float::decode_f16),
            Self::BF16 => each(src, dst, float::decode_bf16),
            Self::F8_E4M3 => each(src, dst, f8_e4m3::decode),
            Self::Q4_0 => each(src, dst, q4::decode_0),
            Self::Q4_1 => each(src, dst, q4::decode_1),
            Self::Q5_0 => each(src, dst, q5::decode_0),
            Self::Q5_1 => each(src, dst, q5::decode_1),
            Self::Q8_0 => each(src, dst, q8_0::decode),
            Self::Q2_K => each(src, dst, q2_k::decode),
            Self::Q3_K => each(src, dst, q3_k::decode),
            Self::Q4_K => each(src, dst, q4_k::decode),
            Self::Q5_K => each(src, dst, q5_k::decode),
            Self::Q6_K => each(src, dst, q6_k::decode),
            Self::IQ4_NL => each(src, dst, iq4::decode_nl),
            Self::IQ4_XS => each(src, dst, iq4::decode_xs),
            Self::MXFP4 => each(src, dst, mxfp4::decode),
        }
    }

    /// Whether [`WeightFormat::encode`] can write this format.
    pub const fn can_encode(self) -> bool {
        matches!(self, Self::F32 | Self::F16 | Self::BF16 | Self::Q4_0 | Self::Q8_0)
    }

    /// Encodes whole blocks, rounding to nearest (ties to even for F16 and BF16, away from zero for Q8_0, up for Q4_0's
    /// codes).
    ///
    /// # Shapes   `src [n · block_len]` · `dst [n · block_bytes]`
    /// # Panics   if the lengths do not match, or if [`WeightFormat::can_encode`] is false
    pub fn encode(self, src: &[f32], dst: &mut [u8]) {
        self.check_lengths(dst.len(), src.len());
        match self {
            Self::F32 => each(src, dst, float::encode_f32),
            Self::F16 => each(src, dst, float::encode_f16),
            Self::BF16 => each(src, dst, float::encode_bf16),
            Self::Q4_0 => each(src, dst, q4::encode_0),
            Self::Q8_0 => each(src, dst, q8_0::encode),
            _ => panic!("no encoder for {self}: check can_encode() first"),
        }
    }

    fn check_lengths(self, n_bytes: usize, n_weights: usize) {
        assert!(
            self.row_bytes(n_weights) == Some(n_bytes),
            "{n_bytes} bytes are not {n_weights} weights of {self} ({} bytes per {})",
            self.block_bytes(),
            self.block_len()
        );
    }
}

impl fmt::Display for WeightFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// Applies `block` to every pair of chunks; the caller has checked that both sides have as many.
fn each<A, B, const N: usize, const M: usize>(src: &[A], dst: &mut [B], block: impl Fn(&[A; N], &mut [B; M])) {
    for (src, dst) in src.as_chunks().0.iter().zip(dst.as_chunks_mut().0) {
        block(src, dst);
    }
}

/// The little-endian half-precision number that starts at `at`.
fn f16_at(block: &[u8], at: usize) -> f32 {
    half::f16::from_le_bytes([block[at], block[at + 1]]).to_f32()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_displayed() {
        for (i, a) in WeightFormat::ALL.iter().enumerate() {
            assert_eq!(a.to_string(), format!("{a:?}"));
            assert!(WeightFormat::ALL[..i].iter().all(|b| b.name() != a.name()));
        }
    }

    #[test]
    fn row_bytes_wants_whole_blocks_and_no_overflow() {
        assert_eq!(WeightFormat::Q4_K.row_bytes(512), Some(288));
        assert_eq!(WeightFormat::Q4_K.row_bytes(0), Some(0));
        assert_eq!(WeightFormat::Q4_K.row_bytes(255), None);
        assert_eq!(WeightFormat::F32.row_bytes(usize::MAX), None);
    }

    #[test]
    fn every_decoder_fills_every_weight() {
        for format in WeightFormat::ALL {
            let src = vec![0x11; 3 * format.block_bytes()];
            let mut dst = vec![f32::NAN; 3 * format.block_len()];
            format.decode(&src, &mut dst);
            assert!(dst.iter().all(|v| !v.is_nan()), "{format}");
        }
    }

    #[test]
    #[should_panic(expected = "19 bytes are not 32 weights of Q4_0")]
    fn a_wrong_length_is_a_bug() {
        WeightFormat::Q4_0.decode(&[0; 19], &mut [0.0; 32]);
    }

    #[test]
    #[should_panic(expected = "no encoder for Q4_1")]
    fn a_format_without_encoder_is_a_bug() {
        WeightFormat::Q4_1.encode(&[0.0; 32], &mut [0; 20]);
    }
}
