//! The numbers by which GGUF names tensor types.
//!
//! Owns the mapping both ways, and the block sizes of types that can be carried but not decoded.

use ops::WeightFormat;

use crate::Dtype;

/// Number and type of everything that the engine has a name for.
const KNOWN: [(u32, Dtype); 21] = [
    (0, Dtype::Weight(WeightFormat::F32)),
    (1, Dtype::Weight(WeightFormat::F16)),
    (2, Dtype::Weight(WeightFormat::Q4_0)),
    (3, Dtype::Weight(WeightFormat::Q4_1)),
    (6, Dtype::Weight(WeightFormat::Q5_0)),
    (7, Dtype::Weight(WeightFormat::Q5_1)),
    (8, Dtype::Weight(WeightFormat::Q8_0)),
    (10, Dtype::Weight(WeightFormat::Q2_K)),
    (11, Dtype::Weight(WeightFormat::Q3_K)),
    (12, Dtype::Weight(WeightFormat::Q4_K)),
    (13, Dtype::Weight(WeightFormat::Q5_K)),
    (14, Dtype::Weight(WeightFormat::Q6_K)),
    (20, Dtype::Weight(WeightFormat::IQ4_NL)),
    (23, Dtype::Weight(WeightFormat::IQ4_XS)),
    (24, Dtype::I8),
    (25, Dtype::I16),
    (26, Dtype::I32),
    (27, Dtype::I64),
    (28, Dtype::F64),
    (30, Dtype::Weight(WeightFormat::BF16)),
    (39, Dtype::Weight(WeightFormat::MXFP4)),
];

/// Number, name, elements per block and bytes per block of types that cannot be decoded.
const CARRIED: [(u32, &str, usize, usize); 13] = [
    (9, "Q8_1", 32, 40),
    (15, "Q8_K", 256, 292),
    (16, "IQ2_XXS", 256, 66),
    (17, "IQ2_XS", 256, 74),
    (18, "IQ3_XXS", 256, 98),
    (19, "IQ1_S", 256, 50),
    (21, "IQ3_S", 256, 110),
    (22, "IQ2_S", 256, 82),
    (29, "IQ1_M", 256, 56),
    (34, "TQ1_0", 256, 54),
    (35, "TQ2_0", 256, 66),
    (40, "NVFP4", 64, 36),
    (41, "Q1_0", 128, 18),
];

/// The type of number `id`, with elements and bytes per block where they are known.
pub(super) fn from_id(id: u32) -> (Dtype, Option<(usize, usize)>) {
    if let Some((_, dtype)) = KNOWN.iter().find(|(known, _)| *known == id) {
        return (dtype.clone(), dtype.block());
    }
    match CARRIED.iter().find(|(carried, ..)| *carried == id) {
        Some(&(_, name, len, bytes)) => (Dtype::Other(name.into()), Some((len, bytes))),
        None => (Dtype::Other(format!("type {id}").into()), None),
    }
}

/// The number of a type; `None` if GGUF has none for it.
pub(crate) fn id_of(dtype: &Dtype) -> Option<u32> {
    KNOWN.iter().find(|(_, known)| known == dtype).map(|(id, _)| *id)
}
