//! Kernels of training: forwards that keep their inputs, and gradients.
//!
//! Own the inner loops over rows. Must not choose how rows are split, nor join what parts of them have summed.

pub(crate) mod entropy;
pub(crate) mod norm;
pub(crate) mod rows;
pub(crate) mod swiglu;

use crate::level::LANES;

/// Vector `c` of some values, zeros beyond their end.
#[inline(always)]
fn lanes(values: &[f32], c: usize) -> [f32; LANES] {
    let rest = &values[c * LANES..];
    match rest.first_chunk() {
        Some(lanes) => *lanes,
        None => {
            let mut lanes = [0.0; LANES];
            lanes[..rest.len()].copy_from_slice(rest);
            lanes
        }
    }
}

/// Writes vector `c`, without what lies beyond the end.
#[inline(always)]
fn set_lanes(values: &mut [f32], c: usize, lanes: [f32; LANES]) {
    let rest = &mut values[c * LANES..];
    match rest.first_chunk_mut() {
        Some(to) => *to = lanes,
        None => {
            let len = rest.len();
            rest.copy_from_slice(&lanes[..len]);
        }
    }
}
