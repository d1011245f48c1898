//! Element types as files name them.
//!
//! Owns names and sizes. Which of them are weights, and what those bytes mean, is said in `ops`.

use std::fmt;

use ops::WeightFormat;

/// How the elements of a tensor are stored.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the variants carry the types' published names")]
pub enum Dtype {
    /// A type that the engine computes with.
    Weight(WeightFormat),
    F64,
    I8,
    I16,
    I32,
    I64,
    U8,
    U16,
    U32,
    U64,
    Bool,
    /// A power of two without sign or mantissa: the scale of microscaling formats.
    F8E8M0,
    F8E5M2,
    /// Two 4-bit floats per byte.
    F4,
    /// A type that can be carried but not decoded, by its published name, or `type N` for GGUF's unknown numbers.
    Other(Box<str>),
}

impl Dtype {
    /// The type that a safetensors header calls `name`.
    pub(crate) fn from_safetensors(name: &str) -> Self {
        match name {
            "F32" => Self::Weight(WeightFormat::F32),
            "F16" => Self::Weight(WeightFormat::F16),
            "BF16" => Self::Weight(WeightFormat::BF16),
            "F8_E4M3" => Self::Weight(WeightFormat::F8_E4M3),
            "F64" => Self::F64,
            "I8" => Self::I8,
            "I16" => Self::I16,
            "I32" => Self::I32,
            "I64" => Self::I64,
            "U8" => Self::U8,
            "U16" => Self::U16,
            "U32" => Self::U32,
            "U64" => Self::U64,
            "BOOL" => Self::Bool,
            "F8_E8M0" => Self::F8E8M0,
            "F8_E5M2" => Self::F8E5M2,
            "F4" => Self::F4,
            other => Self::Other(crate::error::clip(other).into()),
        }
    }

    /// The name under which safetensors stores the type; `None` if it has none.
    pub(crate) fn safetensors_name(&self) -> Option<&'static str> {
        Some(match self {
            Self::Weight(
                format @ (WeightFormat::F32 | WeightFormat::F16 | WeightFormat::BF16 | WeightFormat::F8_E4M3),
            ) => format.name(),
            Self::F64 => "F64",
            Self::I8 => "I8",
            Self::I16 => "I16",
            Self::I32 => "I32",
            Self::I64 => "I64",
            Self::U8 => "U8",
            Self::U16 => "U16",
            Self::U32 => "U32",
            Self::U64 => "U64",
            Self::Bool => "BOOL",
            Self::F8E8M0 => "F8_E8M0",
            Self::F8E5M2 => "F8_E5M2",
            Self::F4 => "F4",
            Self::Weight(_) | Self::Other(_) => return None,
        })
    }

    /// Elements stored together, and their bytes; `None` where the type is unknown.
    pub(crate) fn block(&self) -> Option<(usize, usize)> {
        Some(match self {
            Self::Weight(format) => (format.block_len(), format.block_bytes()),
            Self::I8 | Self::U8 | Self::Bool | Self::F8E8M0 | Self::F8E5M2 => (1, 1),
            Self::I16 | Self::U16 => (1, 2),
            Self::I32 | Self::U32 => (1, 4),
            Self::F64 | Self::I64 | Self::U64 => (1, 8),
            Self::F4 => (2, 1),
            Self::Other(_) => return None,
        })
    }

    /// Bytes of a tensor of this shape; `None` if the type is unknown, a row is not whole blocks, or on overflow.
    pub(crate) fn n_bytes(&self, shape: &[usize]) -> Option<usize> {
        let (len, bytes) = self.block()?;
        n_bytes(len, bytes, shape)
    }
}

/// Bytes of a tensor whose rows are stored in blocks of `len` elements and `bytes` bytes.
pub(crate) fn n_bytes(len: usize, bytes: usize, shape: &[usize]) -> Option<usize> {
    let cols = shape.last().copied().unwrap_or(1);
    if !cols.is_multiple_of(len) {
        return None;
    }
    n_elements(shape)?.checked_div(len)?.checked_mul(bytes)
}

/// Elements of a tensor of this shape (1 for no dimensions); `None` if any product of its sizes overflows, also where
/// another size is 0: whoever multiplies some of them later need not check again.
pub(crate) fn n_elements(shape: &[usize]) -> Option<usize> {
    shape.iter().try_fold(1usize, |n, &size| n.checked_mul(size.max(1)))?;
    Some(shape.iter().product())
}

impl fmt::Display for Dtype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Weight(format) => f.pad(format.name()),
            Self::Other(name) => f.pad(name),
            other => f.pad(other.safetensors_name().unwrap_or("?")),
        }
    }
}
