//! Matrices in every weight format.
//!
//! Owns random bytes that decode to sane values. Must not encode formats by hand: only the places of the scales are
//! known here.

use ops::{BlockScales, WeightFormat, WeightMatrix};

use super::random::{Random, Side, Spread};

/// A matrix of random weights; block formats take random codes and scales of moderate size.
///
/// F8 matrices are slices of a taller one, so that scale blocks are partial on every edge.
pub(super) fn matrix(rng: &mut Random, format: WeightFormat, rows: usize, cols: usize, spread: Spread) -> WeightMatrix {
    match format {
        WeightFormat::F32 | WeightFormat::F16 | WeightFormat::BF16 => {
            // F16 ends at 2^−24 and 65504, so wide exponents are for the others.
            let spread = if format == WeightFormat::F16 && spread == Spread::Wide { Spread::Even } else { spread };
            plain(format, rows, cols, &rng.rows(rows, cols, spread, Side::Weight))
        }
        WeightFormat::F8_E4M3 => fp8(rng, rows, cols),
        _ => blocks(rng, format, rows, cols),
    }
}

/// A matrix of given weights in one of the formats that hold single numbers.
pub(super) fn plain(format: WeightFormat, rows: usize, cols: usize, weights: &[f32]) -> WeightMatrix {
    let mut bytes = vec![0; rows * cols * format.block_bytes()];
    format.encode(weights, &mut bytes);
    WeightMatrix::new(format, rows, cols, bytes.into(), None).expect("a matrix")
}

/// The matrix with a NaN in row `row`: in the weight of column `col`, or in the scale of its block.
pub(super) fn with_nan(matrix: &WeightMatrix, row: usize, col: usize) -> WeightMatrix {
    let format = matrix.format;
    let block = matrix.row_bytes() * row + col / format.block_len() * format.block_bytes();
    let mut bytes = matrix.bytes.to_vec();
    let nan: &[u8] = match format {
        WeightFormat::F32 => &f32::NAN.to_le_bytes(),
        WeightFormat::BF16 => &[0xc0, 0x7f],
        WeightFormat::F8_E4M3 => &[0x7f],
        WeightFormat::MXFP4 => panic!("{format} has no NaN"),
        _ => &[0x00, 0x7e],
    };
    let at = block + scale_offsets(format).first().copied().unwrap_or(0);
    bytes[at..at + nan.len()].copy_from_slice(nan);
    with_bytes(matrix, bytes)
}

fn with_bytes(matrix: &WeightMatrix, bytes: Vec<u8>) -> WeightMatrix {
    let mut other = matrix.clone();
    other.bytes = bytes.into();
    other
}

/// The matrix with another half-precision number at byte `at` of the block of row `row` that holds column `col`.
pub(super) fn with_half(matrix: &WeightMatrix, row: usize, col: usize, at: usize, half: f32) -> WeightMatrix {
    let start = matrix.row_bytes() * row + col / matrix.format.block_len() * matrix.format.block_bytes() + at;
    let mut bytes = matrix.bytes.to_vec();
    WeightFormat::F16.encode(&[half], &mut bytes[start..start + 2]);
    with_bytes(matrix, bytes)
}

/// All weights, decoded, `[rows, cols]`.
pub(super) fn decoded(matrix: &WeightMatrix) -> Vec<f64> {
    let mut row = vec![0.0; matrix.cols];
    let mut all = Vec::with_capacity(matrix.rows * matrix.cols);
    for r in 0..matrix.rows {
        matrix.decode_row(r, &mut row);
        all.extend(row.iter().map(|w| f64::from(*w)));
    }
    all
}

/// What each weight is with code 0, in the formats that add an offset to scale·code.
pub(super) fn offsets(matrix: &WeightMatrix) -> Option<Vec<f64>> {
    let codes = match matrix.format {
        WeightFormat::Q4_1 | WeightFormat::Q5_1 => 4..matrix.format.block_bytes(),
        WeightFormat::Q4_K | WeightFormat::Q5_K => 16..matrix.format.block_bytes(),
        // The scales lie behind the codes.
        WeightFormat::Q2_K => 16..80,
        _ => return None,
    };
    let mut bytes = matrix.bytes.to_vec();
    for block in bytes.chunks_exact_mut(matrix.format.block_bytes()) {
        block[codes.clone()].fill(0);
    }
    Some(decoded(&with_bytes(matrix, bytes)))
}

/// Where a block's half-precision scales lie.
pub(super) fn scale_offsets(format: WeightFormat) -> &'static [usize] {
    match format {
        WeightFormat::F32 | WeightFormat::F16 | WeightFormat::BF16 | WeightFormat::F8_E4M3 | WeightFormat::MXFP4 => &[],
        WeightFormat::Q4_0 | WeightFormat::Q5_0 | WeightFormat::Q8_0 | WeightFormat::IQ4_NL | WeightFormat::IQ4_XS => {
            &[0]
        }
        WeightFormat::Q4_1 | WeightFormat::Q5_1 | WeightFormat::Q4_K | WeightFormat::Q5_K => &[0, 2],
        WeightFormat::Q2_K => &[80, 82],
        WeightFormat::Q3_K => &[108],
        WeightFormat::Q6_K => &[208],
    }
}

/// The largest number of a format that its half-precision scale multiplies, as a power of two.
fn largest_code(format: WeightFormat) -> f32 {
    match format {
        WeightFormat::Q4_0 | WeightFormat::Q4_1 | WeightFormat::Q5_0 | WeightFormat::Q5_1 => 32.0,
        WeightFormat::Q8_0 | WeightFormat::Q2_K | WeightFormat::Q3_K | WeightFormat::IQ4_NL => 128.0,
        WeightFormat::Q4_K | WeightFormat::Q5_K => 2048.0,
        _ => 4096.0,
    }
}

/// Random codes; scales such that weights stay within ±1, some of them subnormal.
fn blocks(rng: &mut Random, format: WeightFormat, rows: usize, cols: usize) -> WeightMatrix {
    let n_bytes = rows * format.row_bytes(cols).expect("whole blocks");
    let bytes = (0..n_bytes).map(|_| rng.bits() as u8).collect();
    with_scales(rng, format, rows, cols, bytes)
}

/// A matrix of blocks whose bytes are all the same, but for the scales: those are as ever.
pub(super) fn uniform(rng: &mut Random, format: WeightFormat, rows: usize, cols: usize, byte: u8) -> WeightMatrix {
    let bytes = vec![byte; rows * format.row_bytes(cols).expect("whole blocks")];
    with_scales(rng, format, rows, cols, bytes)
}

fn with_scales(rng: &mut Random, format: WeightFormat, rows: usize, cols: usize, mut bytes: Vec<u8>) -> WeightMatrix {
    for block in bytes.chunks_exact_mut(format.block_bytes()) {
        if format == WeightFormat::MXFP4 {
            block[0] = 114 + rng.below(11) as u8;
        }
        for &at in scale_offsets(format) {
            let scale = rng.unit() / (largest_code(format) * (1 << rng.below(4)) as f32);
            WeightFormat::F16.encode(&[scale], &mut block[at..at + 2]);
        }
    }
    WeightMatrix::new(format, rows, cols, bytes.into(), None).expect("a matrix")
}

fn fp8(rng: &mut Random, rows: usize, cols: usize) -> WeightMatrix {
    let (block_rows, block_cols) = [(128, 128), (2, 3), (3, 16), (5, 7)][rng.below(4)];
    let first = rng.below(2 * block_rows.min(8));
    let all_rows = first + rows + rng.below(3);
    let bytes: Vec<u8> =
        (0..all_rows * cols).map(|_| rng.bits() as u8).map(|b| if b & 0x7f == 0x7f { 0 } else { b }).collect();
    let n_scales = all_rows.div_ceil(block_rows) * cols.div_ceil(block_cols);
    let values = (0..n_scales).map(|_| rng.unit() / 256.0).collect();
    let scales = Some(BlockScales { block_rows, block_cols, values });
    let all = WeightMatrix::new(WeightFormat::F8_E4M3, all_rows, cols, bytes.into(), scales).expect("a matrix");
    all.slice_rows(first..first + rows)
}
