//! Cross-entropy of one row of logits, and its gradient in their place.
//!
//! nll = max + ln Σ e^(l − max) − l_target. The exponentials replace the logits, so that they are made once; blocks of
//! them are summed in f32 and the blocks in f64, since vocabularies are long. Owns that formula.

use super::{lanes, set_lanes};
use crate::kernel::exp::exp;
use crate::level::{Kernel, LANES, Simd};

/// Vectors whose exponentials are summed in f32.
const BLOCK: usize = 16;

pub(crate) struct CrossEntropy<'a> {
    /// Becomes coefficient·(softmax − onehot), or zeros where the coefficient is 0.
    pub(crate) row: &'a mut [f32],
    pub(crate) target: usize,
    pub(crate) coefficient: f32,
    pub(crate) nll: &'a mut f64,
}

impl Kernel for CrossEntropy<'_> {
    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let Self { row, target, coefficient, nll } = self;
        let (chunks, rest) = row.as_chunks::<LANES>();
        let mut max = simd.splat(f32::NEG_INFINITY);
        for lanes in chunks {
            max = simd.max(simd.load(lanes), max);
        }
        let max = rest.iter().copied().fold(simd.max_lane(max), f32::max);
        let target_logit = row[target];
        let sum = exponentials(simd, row, max);
        *nll = sum.ln() + f64::from(max) - f64::from(target_logit);
        if coefficient == 0.0 {
            return row.fill(0.0);
        }
        let coefficient = f64::from(coefficient);
        let at_target = coefficient * (f64::from(row[target]) / sum - 1.0);
        let factor = (coefficient / sum) as f32;
        row.iter_mut().for_each(|p| *p *= factor);
        row[target] = at_target as f32;
    }
}

/// Logits become e^(l − max); returns their sum.
#[inline(always)]
fn exponentials<S: Simd>(simd: S, row: &mut [f32], max: f32) -> f64 {
    let (n_full, max) = (row.len() / LANES, simd.splat(max));
    let mut sum = 0.0;
    for block in (0..n_full).step_by(BLOCK) {
        let mut block_sum = simd.splat(0.0);
        for lanes in &mut row.as_chunks_mut::<LANES>().0[block..n_full.min(block + BLOCK)] {
            let e = exp(simd, simd.sub(simd.load(lanes), max));
            block_sum = simd.add(block_sum, e);
            simd.store(e, lanes);
        }
        sum += f64::from(simd.sum(block_sum));
    }
    if n_full * LANES < row.len() {
        let mut tail = lanes(row, n_full);
        simd.store(exp(simd, simd.sub(simd.load(&tail), max)), &mut tail);
        set_lanes(row, n_full, tail);
        sum += row[n_full * LANES..].iter().map(|e| f64::from(*e)).sum::<f64>();
    }
    sum
}
