//! One tensor of a file: a name, a type, a shape, and a view of its bytes.
//!
//! Owns the conversions that loading needs. Must not copy weights, except where a caller asks for plain numbers.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use ops::{BlockScales, WeightFormat, WeightMatrix};

use crate::dtype::n_elements;
use crate::error::{CONVERT, DAMAGED};
use crate::{Dtype, Error};

/// A tensor as it lies in its file.
///
/// # Shapes   bytes: the elements row-major, the outermost dimension first, whatever the file's own convention
#[derive(Clone, Debug)]
pub struct Tensor {
    /// The name in the file.
    pub name: String,
    /// How the elements are stored.
    pub dtype: Dtype,
    /// Sizes, outermost first: GGUF's dimensions are reversed while reading. Empty for a single number.
    pub shape: Vec<usize>,
    /// A view into the mapped file.
    pub bytes: Bytes,
    /// The file it came from.
    pub file: Arc<Path>,
}

impl Tensor {
    /// A matrix over the tensor's bytes: `[rows, cols]` as it is, `[cols]` as one row.
    ///
    /// # Errors
    /// If the tensor has another number of dimensions, is of a type that is no weight, or is FP8, whose
    /// scales lie in another tensor (see [`crate::Checkpoint::matrix_of`])
    pub fn matrix(&self) -> Result<WeightMatrix, Error> {
        let (rows, cols) = self.rows_cols()?;
        let format = self.self_contained_format()?;
        self.matrix_from(format, rows, cols, self.bytes.clone(), None)
    }

    /// The matrices of a stack `[n, rows, cols]`: experts, or heads. None if n is 0.
    ///
    /// # Errors
    /// As [`Tensor::matrix`], for a tensor that does not have three dimensions
    pub fn matrices(&self) -> Result<Vec<WeightMatrix>, Error> {
        let [n, rows, cols] = self.shape[..] else {
            return Err(self.unlike("three dimensions [n, rows, cols]", format!("shape {:?}", self.shape), DAMAGED));
        };
        let format = self.self_contained_format()?;
        let each = self.bytes.len().checked_div(n).unwrap_or(0);
        if n > self.bytes.len() {
            // Matrices without weights would let a few bytes of header ask for any amount of memory.
            return Err(self.unlike("at least one byte per matrix", format!("shape {:?}", self.shape), DAMAGED));
        }
        (0..n).map(|i| self.matrix_from(format, rows, cols, self.bytes.slice(i * each..(i + 1) * each), None)).collect()
    }

    /// Every element as f32, in order: floats, quantised weights, and E8M0 or E5M2 numbers.
    ///
    /// # Shapes   [product of shape]
    /// # Errors
    /// If the type is an integer, cannot be decoded, or is FP8, whose scales lie in another tensor (see
    /// [`crate::Checkpoint::matrix_of`])
    pub fn to_f32(&self) -> Result<Vec<f32>, Error> {
        let n = n_elements(&self.shape).unwrap_or(0);
        match &self.dtype {
            Dtype::Weight(_) => {
                let format = self.self_contained_format()?;
                if format.row_bytes(n) != Some(self.bytes.len()) {
                    return Err(self.inconsistent());
                }
                let mut out = vec![0.0; n];
                format.decode(&self.bytes, &mut out);
                Ok(out)
            }
            Dtype::F64 => Ok(self.elements(|b| f64::from_le_bytes(*b) as f32)),
            Dtype::F8E8M0 => Ok(self.elements(|b: &[u8; 1]| e8m0(b[0]))),
            // E5M2 is the upper byte of a half-precision number.
            Dtype::F8E5M2 => Ok(self.elements(|b: &[u8; 1]| half_precision(u16::from(b[0]) << 8))),
            other => Err(self.unlike("a type with fractional values", other.to_string(), CONVERT)),
        }
    }

    /// Every element as i64, in order.
    ///
    /// # Shapes   [product of shape]
    /// # Errors
    /// If the type is no integer, or a U64 does not fit
    pub fn to_i64(&self) -> Result<Vec<i64>, Error> {
        match self.dtype {
            Dtype::I8 => Ok(self.elements(|b| i8::from_le_bytes(*b).into())),
            Dtype::I16 => Ok(self.elements(|b| i16::from_le_bytes(*b).into())),
            Dtype::I32 => Ok(self.elements(|b| i32::from_le_bytes(*b).into())),
            Dtype::I64 => Ok(self.elements(|b| i64::from_le_bytes(*b))),
            Dtype::U8 | Dtype::Bool => Ok(self.elements(|b: &[u8; 1]| b[0].into())),
            Dtype::U16 => Ok(self.elements(|b| u16::from_le_bytes(*b).into())),
            Dtype::U32 => Ok(self.elements(|b| u32::from_le_bytes(*b).into())),
            Dtype::U64 => self
                .elements(|b| i64::try_from(u64::from_le_bytes(*b)))
                .into_iter()
                .collect::<Result<_, _>>()
                .map_err(|_| self.unlike("integers below 2^63", "a larger U64", CONVERT)),
            ref other => Err(self.unlike("an integer type", other.to_string(), CONVERT)),
        }
    }

    /// An FP8 matrix with the scales that `scales` holds for blocks of `block` weights.
    pub(crate) fn fp8_matrix(&self, scales: &Self, block: [usize; 2]) -> Result<WeightMatrix, Error> {
        let (rows, cols) = self.rows_cols()?;
        let [block_rows, block_cols] = block;
        if block_rows == 0 || block_cols == 0 {
            let found = format!("{block_rows} × {block_cols}");
            return Err(self.unlike(
                "a weight block of at least 1 × 1",
                found,
                "correct weight_block_size in config.json",
            ));
        }
        let expected = [rows.div_ceil(block_rows), cols.div_ceil(block_cols)];
        if scales.shape != expected {
            let expected = format!("shape {expected:?} for weights [{rows}, {cols}] in blocks of {block:?}");
            let advice = "compare weight_block_size in config.json with the publisher's";
            return Err(scales.unlike(expected, format!("shape {:?}", scales.shape), advice));
        }
        let is_scale = matches!(
            scales.dtype,
            Dtype::F8E8M0 | Dtype::Weight(WeightFormat::F32 | WeightFormat::BF16 | WeightFormat::F16)
        );
        if !is_scale {
            return Err(scales.unlike("scales of type F32, BF16, F16 or F8_E8M0", scales.dtype.to_string(), CONVERT));
        }
        let values = scales.to_f32()?.into();
        let scales = BlockScales { block_rows, block_cols, values };
        self.matrix_from(WeightFormat::F8_E4M3, rows, cols, self.bytes.clone(), Some(scales))
    }

    /// The error that this tensor is not what was expected.
    pub(crate) fn unlike(&self, expected: impl Into<String>, found: impl Into<String>, advice: &'static str) -> Error {
        Error::tensor(&self.file, &self.name, expected, found, advice)
    }

    fn rows_cols(&self) -> Result<(usize, usize), Error> {
        match self.shape[..] {
            [cols] => Ok((1, cols)),
            [rows, cols] => Ok((rows, cols)),
            _ => Err(self.unlike("a matrix [rows, cols] or a row [cols]", format!("shape {:?}", self.shape), DAMAGED)),
        }
    }

    fn self_contained_format(&self) -> Result<WeightFormat, Error> {
        match &self.dtype {
            Dtype::Weight(WeightFormat::F8_E4M3) => {
                let advice = "keep the tensor with its `_scale_inv` and load both";
                Err(self.unlike("weights that carry their own scales", "F8_E4M3 without block scales", advice))
            }
            Dtype::Weight(format) => Ok(*format),
            other => Err(self.unlike("weights in a supported format", other.to_string(), CONVERT)),
        }
    }

    fn matrix_from(
        &self,
        format: WeightFormat,
        rows: usize,
        cols: usize,
        bytes: Bytes,
        scales: Option<BlockScales>,
    ) -> Result<WeightMatrix, Error> {
        WeightMatrix::new(format, rows, cols, bytes, scales)
            .map_err(|e| self.unlike("weights that fill their shape", e.to_string(), DAMAGED))
    }

    fn elements<T, const N: usize>(&self, decode: impl Fn(&[u8; N]) -> T) -> Vec<T> {
        self.bytes.as_chunks().0.iter().map(decode).collect()
    }

    fn inconsistent(&self) -> Error {
        let found = format!("{} bytes for {} of shape {:?}", self.bytes.len(), self.dtype, self.shape);
        self.unlike("bytes that fill the shape", found, DAMAGED)
    }
}

/// 2^(e − 127); 255 is NaN.
fn e8m0(e: u8) -> f32 {
    match e {
        0 => f32::from_bits(0x0040_0000),
        255 => f32::NAN,
        e => f32::from_bits(u32::from(e) << 23),
    }
}

/// The value of half-precision bits.
fn half_precision(bits: u16) -> f32 {
    let mut value = [0.0];
    WeightFormat::F16.decode(&bits.to_le_bytes(), &mut value);
    value[0]
}
