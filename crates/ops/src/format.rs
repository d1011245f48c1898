//! Weight formats: geometry of a block, and the scalar decoder that defines each format's values.
//!
//! Owns what the bytes of a weight mean. Must not know of files, names or tensors of more than one row.
//! Each format's decoder stands in a file of its own below `format/`.

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
