//! The feed-forward operations of [`Reference`](super::Reference).
//!
//! Owns SwiGLU, routing of a step and the expert sum. Must not know which experts are shared or dense.

use super::{Routes, dot, for_each_row};
use crate::{ExpertWeights, RouterSpec, WeightMatrix, route::route_token};

pub(super) fn swiglu(gate: &mut [f32], up: &[f32]) {
    for (g, u) in gate.iter_mut().zip(up) {
        let x = f64::from(*g);
        *g = (x / (1.0 + (-x).exp()) * f64::from(*u)) as f32;
    }
}

pub(super) fn route(spec: &RouterSpec, logits: &[f32], bias: Option<&[f32]>, n_rows: usize, out: &mut Routes) {
    assert_eq!(spec.top_k, out.top_k);
    let rows = logits.chunks_exact(spec.n_experts).take(n_rows);
    let slots = out.ids.chunks_exact_mut(spec.top_k).zip(out.weights.chunks_exact_mut(spec.top_k));
    for (logits, (ids, weights)) in rows.zip(slots) {
        route_token(spec, logits, bias, ids, weights);
    }
}

pub(super) fn experts(x: &[f32], n_rows: usize, routes: &Routes, w: &ExpertWeights<WeightMatrix>, out: &mut [f32]) {
    let (Some(first_gate), Some(first_down)) = (w.w_gate.first(), w.w_down.first()) else { return };
    let (d, width, top_k) = (first_gate.cols, first_gate.rows, routes.top_k);
    assert_eq!((first_down.rows, first_down.cols), (d, width));
    // Each expert's weights are decoded once; its outputs wait in `y` until they are summed in routing order.
    let mut y = vec![0f32; n_rows * top_k * d];
    for e in 0..w.w_gate.len() {
        let picks: Vec<usize> = (0..n_rows * top_k).filter(|&p| routes.ids[p] as usize == e).collect();
        let inputs: Vec<&[f32]> = picks.iter().map(|p| &x[p / top_k * d..][..d]).collect();
        let mut gate = project(&w.w_gate[e], &inputs);
        swiglu(&mut gate, &project(&w.w_up[e], &inputs));
        let hidden: Vec<&[f32]> = gate.chunks_exact(width).collect();
        for (p, row) in picks.iter().zip(project(&w.w_down[e], &hidden).chunks_exact(d)) {
            y[p * d..(p + 1) * d].copy_from_slice(row);
        }
    }
    for t in 0..n_rows {
        for i in 0..d {
            let weighted = |p: usize| f64::from(routes.weights[p]) * f64::from(y[p * d + i]);
            out[t * d + i] = (t * top_k..(t + 1) * top_k).map(weighted).sum::<f64>() as f32;
        }
    }
}

/// W · x for each input: `[inputs, rows]`.
fn project(w: &WeightMatrix, inputs: &[&[f32]]) -> Vec<f32> {
    let mut out = vec![0f32; inputs.len() * w.rows];
    if inputs.is_empty() {
        return out;
    }
    for_each_row(w, 0..w.rows, |r, row| {
        for (t, x) in inputs.iter().enumerate() {
            out[t * w.rows + r] = dot(x, row) as f32;
        }
    });
    out
}
