//! Dot products of several rows at a time.
//!
//! Owns the order of a sum: one vector of partial sums over chunks of sixteen, then a fixed reduction. It is the same for
//! every tile shape and level, so that a result does not depend on which rows were computed beside it.

use crate::level::{LANES, Simd, map};

/// The dot products of R rows `a` with T rows `b`, all of one length.
///
/// # Numerics
/// |err| ≤ (len / 16 + 5)·ε·Σ|aᵢ·bᵢ|: each partial sum adds len / 16 products, and four additions join the sixteen
#[inline(always)]
pub(crate) fn dots<S: Simd, const R: usize, const T: usize>(simd: S, a: [&[f32]; R], b: [&[f32]; T]) -> [[f32; T]; R] {
    let mut sums = [[simd.splat(0.0); T]; R];
    let a_steps = a.map(|row| row.as_chunks::<LANES>());
    let b_steps = b.map(|row| row.as_chunks::<LANES>());
    let n_steps = a_steps[0].0.len();
    for i in 0..n_steps {
        step(simd, &mut sums, a_steps.map(|(steps, _)| &steps[i]), b_steps.map(|(steps, _)| &steps[i]));
    }
    if !a_steps[0].1.is_empty() {
        // Zeros on both sides: not even an infinity makes a NaN of them.
        let (a_tail, b_tail) = (a_steps.map(|(_, rest)| padded(rest)), b_steps.map(|(_, rest)| padded(rest)));
        step(simd, &mut sums, a_tail.each_ref(), b_tail.each_ref());
    }
    let mut dots = [[0.0; T]; R];
    for r in 0..R {
        for t in 0..T {
            dots[r][t] = simd.sum(sums[r][t]);
        }
    }
    dots
}

#[inline(always)]
fn step<S: Simd, const R: usize, const T: usize>(
    simd: S,
    sums: &mut [[S::F32; T]; R],
    a: [&[f32; LANES]; R],
    b: [&[f32; LANES]; T],
) {
    let b = map(b, |b| simd.load(b));
    for (sums, a) in sums.iter_mut().zip(a) {
        let a = simd.load(a);
        for (sum, b) in sums.iter_mut().zip(b) {
            *sum = simd.mul_add(a, b, *sum);
        }
    }
}

#[inline(always)]
fn padded(rest: &[f32]) -> [f32; LANES] {
    let mut step = [0.0; LANES];
    step[..rest.len()].copy_from_slice(rest);
    step
}

/// y += Σ_j w_j·x_j, in the order of j.
#[inline(always)]
pub(crate) fn add_scaled<S: Simd, const N: usize>(simd: S, w: [f32; N], x: [&[f32]; N], y: &mut [f32]) {
    let x_chunks = x.map(|row| row[..y.len()].as_chunks::<LANES>());
    let w_lanes = map(w, |w| simd.splat(w));
    let (y_chunks, y_rest) = y.as_chunks_mut::<LANES>();
    for (i, y) in y_chunks.iter_mut().enumerate() {
        let mut sum = simd.load(y);
        for j in 0..N {
            sum = simd.mul_add(w_lanes[j], simd.load(&x_chunks[j].0[i]), sum);
        }
        simd.store(sum, y);
    }
    if !y_rest.is_empty() {
        let mut tail = [0.0; LANES];
        tail[..y_rest.len()].copy_from_slice(y_rest);
        let mut sum = simd.load(&tail);
        for j in 0..N {
            let mut x = [0.0; LANES];
            x[..y_rest.len()].copy_from_slice(x_chunks[j].1);
            sum = simd.mul_add(w_lanes[j], simd.load(&x), sum);
        }
        simd.store(sum, &mut tail);
        y_rest.copy_from_slice(&tail[..y_rest.len()]);
    }
}
