//! A weight matrix as it lies in its file.
//!
//! Owns the pairing of bytes, format and shape, and row-wise decoding. Must not copy or re-lay out weights.

use std::sync::Arc;

use bytes::Bytes;

use crate::WeightFormat;

/// Scales of an FP8 matrix: one multiplier per block of `block_rows × block_cols` weights; blocks at the edges are partial.
///
/// # Shapes   values [ceil(rows / block_rows), ceil(cols / block_cols)], row-major
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
    /// Only for [`WeightFormat::F8_E4M3`].
    pub scales: Option<BlockScales>,
}
