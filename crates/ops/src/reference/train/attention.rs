//! Causal attention over packed sequences, and its gradient.
//!
//! Owns both by their definitions: scores are made anew in the backward pass, from what the forward pass kept.

use crate::reference::dot;
use crate::{Attended, PackedAttention};

/// scale · q·[k | shared] of one query head against row s.
fn score(a: &PackedAttention<'_>, q: &[f32], h: usize, s: usize, kv: &[f32], shared: &[f32]) -> f64 {
    let k = a.k.at(s, h / (a.n_heads / a.n_kv_heads));
    let own = dot(&q[..a.k_dim], &kv[k..k + a.k_dim]);
    let pe = a.shared.at(s, 0);
    f64::from(a.scale) * (own + dot(&q[a.k_dim..], &shared[pe..pe + a.shared_dim]))
}

pub(super) fn forward(
    a: &PackedAttention<'_>,
    q: &[f32],
    kv: &[f32],
    shared: &[f32],
    out: &mut [f32],
    lse: &mut [f32],
) {
    for rows in a.sequences {
        for (t, h) in rows.clone().flat_map(|t| (0..a.n_heads).map(move |h| (t, h))) {
            let at = t * a.n_heads + h;
            let q = &q[at * a.q_dim()..][..a.q_dim()];
            let scores: Vec<f64> = (rows.start..=t).map(|s| score(a, q, h, s, kv, shared)).collect();
            let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let sum: f64 = scores.iter().map(|s| (s - max).exp()).sum();
            lse[at] = (max + sum.ln()) as f32;
            let mut o = vec![0f64; a.v_dim];
            for (s, score) in (rows.start..).zip(&scores) {
                let p = (score - max).exp() / sum;
                let v = a.v.at(s, h / (a.n_heads / a.n_kv_heads));
                o.iter_mut().zip(&kv[v..v + a.v_dim]).for_each(|(o, v)| *o += p * f64::from(*v));
            }
            out[at * a.v_dim..][..a.v_dim].iter_mut().zip(o).for_each(|(out, o)| *out = o as f32);
        }
    }
}

/// Sums of one sequence, in f64 until they are rounded.
struct Sums {
    d_k: Vec<f64>,
    d_v: Vec<f64>,
    d_shared: Vec<f64>,
}

fn axpy(acc: &mut [f64], a: f64, x: &[f32]) {
    acc.iter_mut().zip(x).for_each(|(acc, x)| *acc += a * f64::from(*x));
}

fn store(out: &mut [f32], sums: &[f64]) {
    out.iter_mut().zip(sums).for_each(|(out, sum)| *out = *sum as f32);
}

pub(super) fn backward(
    a: &PackedAttention<'_>,
    saved: &Attended<'_>,
    d_out: &[f32],
    d_q: &mut [f32],
    d_kv: &mut [f32],
    d_shared: &mut [f32],
) {
    for rows in a.sequences {
        let n = rows.len();
        let mut sums = Sums {
            d_k: vec![0.0; n * a.n_kv_heads * a.k_dim],
            d_v: vec![0.0; n * a.n_kv_heads * a.v_dim],
            d_shared: vec![0.0; n * a.shared_dim],
        };
        for (t, h) in rows.clone().flat_map(|t| (0..a.n_heads).map(move |h| (t, h))) {
            let at = t * a.n_heads + h;
            let d_q = &mut d_q[at * a.q_dim()..][..a.q_dim()];
            query(a, saved, [rows.start, t, h], &d_out[at * a.v_dim..][..a.v_dim], d_q, &mut sums);
        }
        for (i, t) in rows.clone().enumerate() {
            for h in 0..a.n_kv_heads {
                let head = i * a.n_kv_heads + h;
                store(&mut d_kv[a.k.at(t, h)..][..a.k_dim], &sums.d_k[head * a.k_dim..]);
                store(&mut d_kv[a.v.at(t, h)..][..a.v_dim], &sums.d_v[head * a.v_dim..]);
            }
            store(&mut d_shared[a.shared.at(t, 0)..][..a.shared_dim], &sums.d_shared[i * a.shared_dim..]);
        }
    }
}

/// One query's part; `[first row of the sequence, row, head] = place`.
fn query(
    a: &PackedAttention<'_>,
    saved: &Attended<'_>,
    place: [usize; 3],
    d_out: &[f32],
    d_q: &mut [f32],
    sums: &mut Sums,
) {
    let [first, t, h] = place;
    let at = t * a.n_heads + h;
    let kv_head = h / (a.n_heads / a.n_kv_heads);
    let q = &saved.q[at * a.q_dim()..][..a.q_dim()];
    let d = dot(d_out, &saved.out[at * a.v_dim..][..a.v_dim]);
    let mut d_q_sums = vec![0f64; a.q_dim()];
    for s in first..=t {
        let p = (score(a, q, h, s, saved.kv, saved.shared) - f64::from(saved.lse[at])).exp();
        let v = &saved.kv[a.v.at(s, kv_head)..][..a.v_dim];
        let d_score = p * (dot(d_out, v) - d) * f64::from(a.scale);
        let head = (s - first) * a.n_kv_heads + kv_head;
        axpy(&mut sums.d_v[head * a.v_dim..][..a.v_dim], p, d_out);
        axpy(&mut sums.d_k[head * a.k_dim..][..a.k_dim], d_score, &q[..a.k_dim]);
        axpy(&mut sums.d_shared[(s - first) * a.shared_dim..][..a.shared_dim], d_score, &q[a.k_dim..]);
        axpy(&mut d_q_sums[..a.k_dim], d_score, &saved.kv[a.k.at(s, kv_head)..][..a.k_dim]);
        axpy(&mut d_q_sums[a.k_dim..], d_score, &saved.shared[a.shared.at(s, 0)..][..a.shared_dim]);
    }
    store(d_q, &d_q_sums);
}
