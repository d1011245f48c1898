//! Activations of 8 bits in `Naive`: the contract's formula, word by word, and the mistakes of integer kernels.
//!
//! Owns the rounding of groups. Sums of a group are taken in f64, which stands for whole numbers: the products of 8-bit
//! codes with decoded weights are exact in it. Must not be fast.

use std::ops::Range;
use std::sync::atomic::Ordering;

use ops::{WeightFormat, WeightMatrix};

use super::{Matrix, Naive};
use crate::mutants::Fault;

impl Naive {
    /// Whether inputs of W·x are rounded.
    pub(super) fn rounds(&self, w: &Matrix) -> bool {
        let along_col = self.has(Fault::StoredColumnsRounded) && w.block[1] > 1 && w.cols.is_multiple_of(w.block[1]);
        self.int8 && (w.block[0] > 1 || along_col)
    }

    /// W·x with x rounded.
    pub(super) fn apply_int8(&self, w: &Matrix, x: &[f32]) -> Vec<f32> {
        // The whole row where the fault rounds what has no blocks.
        let group = if w.block[0] == 1 { w.cols } else { w.block[0] };
        let groups = self.rounded_row(&x[..w.cols], group);
        w.values.chunks_exact(w.cols).map(|row| self.dot_int8(&groups, row, group, w.is_q8_0)).collect()
    }

    /// d and the codes of every group.
    fn rounded_row(&self, x: &[f32], group: usize) -> Vec<(f32, Vec<f64>)> {
        let mut groups: Vec<(f32, Vec<f64>)> = x.chunks(group).map(|x| self.codes(x)).collect();
        if self.has(Fault::ScaleOfNeighbour) {
            let scales: Vec<f32> = groups.iter().map(|(d, _)| *d).collect();
            groups.iter_mut().zip(scales.iter().cycle().skip(1)).for_each(|((d, _), next)| *d = *next);
        }
        if self.has(Fault::NotRepeatable) && self.n_calls.fetch_add(1, Ordering::Relaxed).is_multiple_of(3) {
            groups.iter_mut().for_each(|(d, _)| *d *= 1.0 + f32::EPSILON);
        }
        groups
    }

    /// Σ over groups of d·Σ w·q.
    fn dot_int8(&self, groups: &[(f32, Vec<f64>)], w: &[f32], group: usize, is_q8_0: bool) -> f32 {
        let mut total = 0f32;
        for ((d, codes), w) in groups.iter().zip(w.chunks(group)) {
            let sum: f64 = match is_q8_0 && self.has(Fault::PairsSaturate) {
                true => saturated(w, codes),
                false => w.iter().zip(codes).map(|(w, q)| f64::from(*w) * q).sum(),
            };
            total = d.mul_add(sum as f32, total);
        }
        total
    }

    /// d = m/127 and q = round(x·(127/m)); a group that is not finite gets a scale that is NaN.
    fn codes(&self, x: &[f32]) -> (f32, Vec<f64>) {
        let largest = if self.has(Fault::SevenBits) { 63.0 } else { 127.0 };
        let floor = if self.has(Fault::SmallGroupsDropped) { 1e-3 } else { f32::exp2(-100.0) };
        let m = x.iter().fold(0f32, |m, x| m.max(x.abs()));
        if x.iter().any(|x| !x.is_finite()) && !self.has(Fault::NanSwallowed) {
            return (f32::NAN, vec![0.0; x.len()]);
        }
        if m < floor {
            return (0.0, vec![0.0; x.len()]);
        }
        let scale = largest / m;
        // The conversion makes NaN 0.
        (m / largest, x.iter().map(|x| f64::from((x * scale).round() as i8)).collect())
    }

    /// The matrix as the device keeps it: zero points and offsets are faulty in the weights.
    pub(super) fn uploaded(&self, weight: &WeightMatrix, mut matrix: Matrix) -> Matrix {
        let (zeros, offset) = codes_of(weight.format);
        let forgets = if offset { Fault::OffsetMissing } else { Fault::ZeroPointMissing };
        if !zeros.is_empty() && self.has(forgets) {
            for (r, row) in matrix.values.chunks_exact_mut(weight.cols).enumerate() {
                let mut bytes = weight.row(r).to_vec();
                bytes.chunks_exact_mut(weight.format.block_bytes()).for_each(|block| block[zeros.clone()].fill(0));
                let mut with_code_0 = vec![0.0; weight.cols];
                weight.format.decode(&bytes, &mut with_code_0);
                // In the last sub-block of the row.
                row.iter_mut().zip(with_code_0).skip(weight.cols - 16).for_each(|(w, zero)| *w -= zero);
            }
        }
        matrix
    }
}

/// Σ w·q of Q8_0 where the 16-bit sum of a pair of products saturates, as that of unsigned with signed bytes does.
fn saturated(w: &[f32], codes: &[f64]) -> f64 {
    // d_w, more or less: the largest of 32 codes is near 127.
    let unit = w.iter().map(|w| f64::from(w.abs())).fold(0.0, f64::max) / 127.0;
    let pair = |(w, q): (&[f32], &[f64])| {
        let products = w.iter().zip(q).map(|(w, q)| (f64::from(*w) / unit + 128.0) * q).sum::<f64>();
        (products.clamp(-32768.0, 32767.0) - 128.0 * q.iter().sum::<f64>()) * unit
    };
    w.chunks(2).zip(codes.chunks(2)).map(pair).sum()
}

/// Bytes of a block that hold its codes, and whether it has offsets (or a zero point); none where code 0 is weight 0.
fn codes_of(format: WeightFormat) -> (Range<usize>, bool) {
    match format {
        WeightFormat::Q4_0 => (2..18, false),
        WeightFormat::Q5_0 => (2..22, false),
        WeightFormat::Q3_K => (0..96, false),
        WeightFormat::Q6_K => (0..192, false),
        WeightFormat::Q4_1 => (4..20, true),
        WeightFormat::Q5_1 => (4..24, true),
        WeightFormat::Q2_K => (16..80, true),
        WeightFormat::Q4_K => (16..144, true),
        WeightFormat::Q5_K => (16..176, true),
        _ => (0..0, false),
    }
}
