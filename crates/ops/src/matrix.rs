//! A weight matrix as it lies in its file.
//!
//! Owns the pairing of bytes, format and shape, and row-wise decoding. Must not copy or re-lay out weights
//! ([`WeightMatrix::from_f32`], for tests and fresh models, makes new ones).

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use thiserror::Error;

use crate::WeightFormat;

/// Scales of an FP8 matrix: one multiplier per block of `block_rows × block_cols` weights; blocks at the edges are partial.
///
/// # Shapes   `values [ceil(rows / block_rows), ceil(cols / block_cols)]`, row-major
/// # Source   DeepSeek-V3 README_WEIGHTS (`weight_scale_inv` is a multiplier despite its name)
#[derive(Clone, Debug)]
pub struct BlockScales {
    /// Rows of weights that share a scale.
    pub block_rows: usize,
    /// Columns of weights that share a scale.
    pub block_cols: usize,
    /// The multipliers.
    pub values: Arc<[f32]>,
}

/// A matrix `[rows, cols]` whose rows are stored one after the other in `format`.
///
/// Made by [`WeightMatrix::new`], which checks that the parts fit together.
#[derive(Clone, Debug)]
pub struct WeightMatrix {
    /// How each row is stored.
    pub format: WeightFormat,
    /// Number of rows (outputs of the linear map).
    pub rows: usize,
    /// Number of columns (inputs of the linear map).
    pub cols: usize,
    /// `rows · format.row_bytes(cols)` bytes, usually a view into a mapped file.
    pub bytes: Bytes,
    /// Only for [`WeightFormat::F8_E4M3`]. Read a row's scales with [`WeightMatrix::scale_row`]: the values may belong
    /// to a taller matrix of which this one is a slice.
    pub scales: Option<BlockScales>,
    /// Row of the matrix that `scales` belong to at which this one begins: a slice need not begin at a block.
    first_row: usize,
}

/// Why parts do not make a matrix.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum MatrixError {
    /// A row is not a whole number of blocks.
    #[error("{cols} columns are not a whole number of {format} blocks of {}", format.block_len())]
    PartialBlock {
        /// The format asked for.
        format: WeightFormat,
        /// The columns asked for.
        cols: usize,
    },
    /// The number of bytes does not fit a `usize`.
    #[error("a {format} matrix of {rows} × {cols} does not fit this machine's address space")]
    TooLarge {
        /// The format asked for.
        format: WeightFormat,
        /// The rows asked for.
        rows: usize,
        /// The columns asked for.
        cols: usize,
    },
    /// The bytes are not those of the shape.
    #[error("a {format} matrix of {rows} × {cols} takes {expected} bytes, found {found}")]
    Bytes {
        /// The format asked for.
        format: WeightFormat,
        /// The rows asked for.
        rows: usize,
        /// The columns asked for.
        cols: usize,
        /// Bytes that the shape takes.
        expected: usize,
        /// Bytes given.
        found: usize,
    },
    /// FP8 weights mean nothing without their scales.
    #[error("F8_E4M3 weights need block scales, found none")]
    MissingScales,
    /// Only FP8 weights have block scales.
    #[error("{format} weights carry their own scales, but block scales were given")]
    UnexpectedScales {
        /// The format asked for.
        format: WeightFormat,
    },
    /// The scales do not cover the matrix, or their block is empty.
    #[error(
        "a matrix of {rows} × {cols} in blocks of {block_rows} × {block_cols} takes {expected} scales, found {found}"
    )]
    Scales {
        /// Rows of the matrix.
        rows: usize,
        /// Columns of the matrix.
        cols: usize,
        /// Rows of a block.
        block_rows: usize,
        /// Columns of a block.
        block_cols: usize,
        /// Scales that the shape takes (0 if a block is empty).
        expected: usize,
        /// Scales given.
        found: usize,
    },
}

impl WeightMatrix {
    /// Pairs `bytes` with a shape.
    ///
    /// # Shapes   `bytes [rows · format.row_bytes(cols)]` · scales as in [`BlockScales`]
    /// # Errors
    /// If a row is not a whole number of blocks, if the byte count is not that of the shape, or if scales are
    /// missing for F8_E4M3, given for another format, or do not cover the matrix
    pub fn new(
        format: WeightFormat,
        rows: usize,
        cols: usize,
        bytes: Bytes,
        scales: Option<BlockScales>,
    ) -> Result<Self, MatrixError> {
        let too_large = MatrixError::TooLarge { format, rows, cols };
        let row_bytes = match format.row_bytes(cols) {
            Some(row_bytes) => row_bytes,
            None if !cols.is_multiple_of(format.block_len()) => return Err(MatrixError::PartialBlock { format, cols }),
            None => return Err(too_large),
        };
        let Some(expected) = rows.checked_mul(row_bytes) else { return Err(too_large) };
        if bytes.len() != expected {
            return Err(MatrixError::Bytes { format, rows, cols, expected, found: bytes.len() });
        }
        match &scales {
            Some(scales) if format == WeightFormat::F8_E4M3 => scales.check(rows, cols)?,
            Some(_) => return Err(MatrixError::UnexpectedScales { format }),
            None if format == WeightFormat::F8_E4M3 => return Err(MatrixError::MissingScales),
            None => {}
        }
        Ok(Self { format, rows, cols, bytes, scales, first_row: 0 })
    }

    /// An F32 matrix with the given weights.
    ///
    /// # Shapes   `weights [rows, cols], row-major`
    /// # Panics   if there are not `rows · cols` weights
    pub fn from_f32(rows: usize, cols: usize, weights: &[f32]) -> Self {
        assert!(Some(weights.len()) == rows.checked_mul(cols), "{} weights are not {rows} × {cols}", weights.len());
        let mut bytes = vec![0; weights.len() * 4];
        WeightFormat::F32.encode(weights, &mut bytes);
        Self { format: WeightFormat::F32, rows, cols, bytes: bytes.into(), scales: None, first_row: 0 }
    }

    /// Bytes of one row.
    #[inline]
    pub fn row_bytes(&self) -> usize {
        // The constructor has checked that a row is a whole number of blocks and that the product fits.
        self.cols / self.format.block_len() * self.format.block_bytes()
    }

    /// The stored bytes of row `row`.
    ///
    /// # Panics   if there is no such row
    #[inline]
    pub fn row(&self, row: usize) -> &[u8] {
        assert!(row < self.rows, "row {row} of a matrix of {} rows", self.rows);
        let n = self.row_bytes();
        &self.bytes[row * n..][..n]
    }

    /// The multipliers of row `row`, one per `block_cols` columns; empty for formats that carry their own scales.
    ///
    /// # Shapes   `[ceil(cols / block_cols)]`
    /// # Panics   if there is no such row
    pub fn scale_row(&self, row: usize) -> &[f32] {
        assert!(row < self.rows, "row {row} of a matrix of {} rows", self.rows);
        let Some(scales) = &self.scales else { return &[] };
        let n = self.cols.div_ceil(scales.block_cols);
        &scales.values[(self.first_row + row) / scales.block_rows * n..][..n]
    }

    /// Decodes row `row`, block scales applied. FP8 NaN codes decode to NaN.
    ///
    /// # Shapes   `dst [cols]`
    /// # Numerics as [`WeightFormat::decode`]; for FP8 one f32 product of code and scale
    /// # Panics   if there is no such row or `dst` has another length
    pub fn decode_row(&self, row: usize, dst: &mut [f32]) {
        self.format.decode(self.row(row), dst);
        if let Some(scales) = &self.scales {
            for (block, scale) in dst.chunks_mut(scales.block_cols).zip(self.scale_row(row)) {
                block.iter_mut().for_each(|w| *w *= scale);
            }
        }
    }

    /// The matrix of rows `range`, sharing bytes and scales with this one.
    ///
    /// # Panics   if the range does not lie within the rows
    pub fn slice_rows(&self, range: Range<usize>) -> Self {
        assert!(range.start <= range.end && range.end <= self.rows, "rows {range:?} of {}", self.rows);
        let n = self.row_bytes();
        Self {
            format: self.format,
            rows: range.len(),
            cols: self.cols,
            bytes: self.bytes.slice(range.start * n..range.end * n),
            scales: self.scales.clone(),
            first_row: self.first_row + range.start,
        }
    }
}

impl BlockScales {
    /// Whether there is exactly one scale for every block of a matrix `[rows, cols]`.
    fn check(&self, rows: usize, cols: usize) -> Result<(), MatrixError> {
        let Self { block_rows, block_cols, ref values } = *self;
        let expected = if block_rows == 0 || block_cols == 0 {
            None
        } else {
            rows.div_ceil(block_rows).checked_mul(cols.div_ceil(block_cols))
        };
        if expected == Some(values.len()) {
            return Ok(());
        }
        let expected = expected.unwrap_or(0);
        Err(MatrixError::Scales { rows, cols, block_rows, block_cols, expected, found: values.len() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fp8(rows: usize, cols: usize, block: [usize; 2]) -> WeightMatrix {
        let bytes: Vec<u8> = (0..rows * cols).map(|i| (i * 37 % 120) as u8).collect();
        let n_scales = rows.div_ceil(block[0]) * cols.div_ceil(block[1]);
        let values = (0..n_scales).map(|i| 0.5 + i as f32).collect();
        let scales = BlockScales { block_rows: block[0], block_cols: block[1], values };
        WeightMatrix::new(WeightFormat::F8_E4M3, rows, cols, bytes.into(), Some(scales)).unwrap()
    }

    fn row_of(matrix: &WeightMatrix, row: usize) -> Vec<f32> {
        let mut out = vec![0.0; matrix.cols];
        matrix.decode_row(row, &mut out);
        out
    }

    #[test]
    fn a_decoded_fp8_weight_is_its_code_times_the_scale_of_its_block() {
        let (rows, cols, block) = (5, 7, [2, 3]);
        let matrix = fp8(rows, cols, block);
        for r in 0..rows {
            let mut codes = vec![0.0; cols];
            WeightFormat::F8_E4M3.decode(&matrix.bytes[r * cols..][..cols], &mut codes);
            for (c, got) in row_of(&matrix, r).into_iter().enumerate() {
                let scale = 0.5 + (r / block[0] * cols.div_ceil(block[1]) + c / block[1]) as f32;
                assert_eq!(got, codes[c] * scale, "row {r}, column {c}");
            }
        }
    }

    #[test]
    fn slices_decode_as_the_whole_does_wherever_they_begin() {
        let matrices =
            [fp8(9, 4, [4, 4]), WeightMatrix::from_f32(9, 2, &(0..18).map(|i| i as f32).collect::<Vec<_>>())];
        for whole in &matrices {
            for (start, end) in (0..=9).flat_map(|s| (s..=9).map(move |e| (s, e))) {
                let slice = whole.slice_rows(start..end);
                assert_eq!((slice.rows, slice.bytes.len()), (end - start, (end - start) * whole.row_bytes()));
                for row in start..end {
                    assert_eq!(row_of(&slice, row - start), row_of(whole, row));
                    assert_eq!(row_of(&slice.slice_rows(row - start..slice.rows), 0), row_of(whole, row));
                }
            }
        }
    }

    #[test]
    fn nan_codes_decode_to_nan() {
        let scales = BlockScales { block_rows: 128, block_cols: 128, values: [2.0].into() };
        let bytes = Bytes::from_static(&[0x7f, 0xff, 0x7e, 0xfe]);
        let matrix = WeightMatrix::new(WeightFormat::F8_E4M3, 1, 4, bytes, Some(scales)).unwrap();
        let row = row_of(&matrix, 0);
        assert!(row[0].is_nan() && row[1].is_nan());
        assert_eq!(row[2..], [896.0, -896.0]);
    }

    #[test]
    fn parts_that_do_not_fit_are_refused() {
        let new = |format, rows, cols, n: usize, scales| {
            WeightMatrix::new(format, rows, cols, vec![0; n].into(), scales).map(|_| ()).unwrap_err().to_string()
        };
        let scales =
            |block_rows, n: usize| Some(BlockScales { block_rows, block_cols: 128, values: vec![1.0; n].into() });
        let fp8 = WeightFormat::F8_E4M3;
        assert_eq!(new(WeightFormat::Q4_0, 2, 33, 0, None), "33 columns are not a whole number of Q4_0 blocks of 32");
        assert_eq!(new(WeightFormat::F16, 2, 3, 11, None), "a F16 matrix of 2 × 3 takes 12 bytes, found 11");
        assert!(new(WeightFormat::F16, usize::MAX, 3, 0, None).contains("address space"));
        assert!(new(WeightFormat::F32, 1, usize::MAX, 0, None).contains("address space"));
        assert!(new(fp8, 1, 1, 1, None).contains("need block scales"));
        assert!(new(WeightFormat::F16, 1, 1, 2, scales(128, 1)).contains("carry their own scales"));
        assert!(new(fp8, 129, 1, 129, scales(128, 1)).ends_with("takes 2 scales, found 1"));
        assert!(new(fp8, 1, 1, 1, scales(0, 1)).ends_with("takes 0 scales, found 1"));
    }

    #[test]
    fn empty_matrices_are_matrices() {
        assert_eq!(WeightMatrix::from_f32(0, 3, &[]).row_bytes(), 12);
        assert_eq!(row_of(&WeightMatrix::from_f32(2, 0, &[]), 1), [0.0; 0]);
    }
}
