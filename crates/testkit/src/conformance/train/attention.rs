//! Cases of packed attention: many heads and few, with shared channels and without, sequences of all lengths.
//!
//! Bounds as in docs/numerics.md for attention. In the gradient a weight e^(score − lse) has the relative error ρ of an
//! exponent of magnitude A + |lse|; d_score = p·(d_out·v − D)·scale, whose two products are at most
//! M = Σ|d_out·v| + Σ|d_out·out| together, is off by ρ + γ(v + 8) of |scale|·p·M, and sums of n such terms by γ(n + 4) more.

use std::ops::Range;

use ops::{Attended, HeadRows, PackedAttention, Reference, TrainDevice};

use super::{Suite, both};
use crate::conformance::arithmetic::{TINY, attention_weight, gamma, weighted_mean};
use crate::conformance::buffers::CANARY;
use crate::conformance::random::Random;
use crate::conformance::report::Bound;

/// `[heads, kv heads, k_dim, shared_dim, v_dim]`.
fn shape(sequences: &[Range<usize>], dims: [usize; 5], scale: f32) -> PackedAttention<'_> {
    let [n_heads, n_kv_heads, k_dim, shared_dim, v_dim] = dims;
    let head_stride = k_dim + v_dim + 1;
    let k = HeadRows { start: 1, row_stride: n_kv_heads * head_stride + 2, head_stride };
    PackedAttention {
        sequences,
        n_heads,
        n_kv_heads,
        k_dim,
        shared_dim,
        v_dim,
        k,
        v: HeadRows { start: 1 + k_dim, ..k },
        // A latent's channels lie before the shared ones.
        shared: HeadRows { start: 3, row_stride: 3 + shared_dim, head_stride: 0 },
        scale,
    }
}

struct Scene<'a> {
    a: PackedAttention<'a>,
    q: Vec<f32>,
    kv: Vec<f32>,
    shared: Vec<f32>,
    d_out: Vec<f32>,
}

pub(super) fn check<D: TrainDevice>(suite: &mut Suite<'_, D>) {
    let mut rng = Random::new(83);
    for (sequences, dims) in [
        (vec![], [1, 1, 1, 0, 1]),
        (vec![0..1], [2, 2, 3, 2, 4]),
        (vec![0..3, 3..3, 3..4, 4..9], [4, 4, 3, 2, 5]),
        (vec![0..15, 15..32, 32..48], [6, 2, 16, 0, 16]),
        (vec![2..67, 70..201], [4, 1, 15, 17, 33]),
        (vec![0..129], [2, 2, 32, 16, 31]),
        (vec![0..300], [1, 1, 17, 1, 1]),
        (vec![0..530], [2, 1, 5, 3, 6]),
    ] {
        for scale in [0.3, -2.0] {
            let a = shape(&sequences, dims, scale);
            let n_rows = sequences.last().map_or(0, |s| s.end);
            let (n_q, n_out) = (n_rows * a.n_heads * a.q_dim(), n_rows * a.n_heads * a.v_dim);
            let [q, kv, shared, d_out] =
                [n_q, n_rows * a.k.row_stride, n_rows * a.shared.row_stride, n_out].map(|n| rng.values(n));
            let scene = Scene { a, q, kv, shared, d_out };
            let label = format!("{sequences:?}, {dims:?}, scale {scale}");
            let forward = forward(suite, &scene, &label);
            backward(suite, &scene, &forward, &label);
        }
    }
    non_finite(suite, &mut rng);
}

fn attend<D: TrainDevice>(dev: &D, scene: &Scene<'_>, n: usize) -> Vec<f32> {
    let Scene { a, q, kv, shared, .. } = scene;
    let (mut out, mut lse) = (vec![CANARY; n * a.v_dim], vec![CANARY; n]);
    dev.attend_packed(a, q, kv, shared, &mut out, &mut lse);
    out.extend(lse);
    out
}

fn differentiate<D: TrainDevice>(dev: &D, scene: &Scene<'_>, forward: &[f32]) -> Vec<f32> {
    let Scene { a, q, kv, shared, d_out } = scene;
    let (out, lse) = forward.split_at(d_out.len());
    let saved = Attended { q, kv, shared, out, lse };
    let [mut d_q, mut d_kv, mut d_shared] = [q, kv, shared].map(|values| vec![CANARY; values.len()]);
    dev.attend_packed_backward(a, &saved, d_out, &mut d_q, &mut d_kv, &mut d_shared);
    [d_q, d_kv, d_shared].concat()
}

impl Scene<'_> {
    /// Query heads of all rows.
    fn n(&self) -> usize {
        self.d_out.len() / self.a.v_dim
    }

    /// `(sequence's first row, row, head)` of every query.
    fn queries(&self) -> impl Iterator<Item = (usize, usize, usize)> {
        let heads = self.a.n_heads;
        let rows = self.a.sequences.iter().flat_map(|rows| rows.clone().map(|t| (rows.start, t)));
        rows.flat_map(move |(first, t)| (0..heads).map(move |h| (first, t, h)))
    }

    fn key(&self, s: usize, h: usize) -> impl Iterator<Item = f64> {
        let a = &self.a;
        let (k, pe) = (a.k.at(s, h / (a.n_heads / a.n_kv_heads)), a.shared.at(s, 0));
        self.kv[k..k + a.k_dim].iter().chain(&self.shared[pe..pe + a.shared_dim]).map(|v| f64::from(*v))
    }

    fn value(&self, s: usize, h: usize) -> &[f32] {
        let a = &self.a;
        &self.kv[a.v.at(s, h / (a.n_heads / a.n_kv_heads))..][..a.v_dim]
    }

    /// A score and its terms' magnitude.
    fn score(&self, t: usize, s: usize, h: usize) -> [f64; 2] {
        let q = &self.q[(t * self.a.n_heads + h) * self.a.q_dim()..];
        let terms = q.iter().zip(self.key(s, h)).map(|(q, k)| f64::from(*q) * k);
        let scale = f64::from(self.a.scale);
        terms.fold([0.0; 2], |[sum, size], term| [sum + scale * term, size + (scale * term).abs()])
    }
}

fn forward<D: TrainDevice>(suite: &mut Suite<'_, D>, scene: &Scene<'_>, label: &str) -> Vec<f32> {
    let (a, n) = (&scene.a, scene.n());
    let values = both!(suite, dev => attend(dev, scene, n));
    let mut bounds = vec![Bound::Bits; n * (a.v_dim + 1)];
    for (first, t, h) in scene.queries() {
        let n_seen = t + 1 - first;
        let scores: Vec<[f64; 2]> = (first..=t).map(|s| scene.score(t, s, h)).collect();
        let magnitude = scores.iter().map(|s| s[1]).fold(0.0, f64::max);
        let max = scores.iter().map(|s| s[0]).fold(f64::NEG_INFINITY, f64::max);
        let sum: f64 = scores.iter().map(|s| (s[0] - max).exp()).sum();
        let weight = attention_weight(a.q_dim(), magnitude, n_seen, 0.0);
        let relative = weighted_mean(weight, 0.0, n_seen);
        let at = t * a.n_heads + h;
        for i in 0..a.v_dim {
            let terms = (first..)
                .zip(&scores)
                .map(|(s, score)| (score[0] - max).exp() / sum * f64::from(scene.value(s, h)[i].abs()));
            bounds[at * a.v_dim + i] = Bound::Within(relative * terms.sum::<f64>() + TINY);
        }
        // ln Σ moves by what its terms are off by, relative to themselves; two logarithms' roundings and a sum's.
        let own = gamma(8.0) * (max.abs() + sum.ln());
        bounds[n * a.v_dim + at] = Bound::Within(weight + gamma(n_seen as f64 + 4.0) + own);
    }
    let expected = values[1].clone();
    suite.check("attend_packed", label, values, &bounds);
    expected
}

fn backward<D: TrainDevice>(suite: &mut Suite<'_, D>, scene: &Scene<'_>, forward: &[f32], label: &str) {
    let a = &scene.a;
    let values = both!(suite, dev => differentiate(dev, scene, forward));
    let mut sizes = [&scene.q, &scene.kv, &scene.shared].map(|values| vec![None; values.len()]);
    let per_kv = a.n_heads / a.n_kv_heads;
    let mut add = |of: usize, at: usize, term: f64| *sizes[of][at].get_or_insert(0.0) += term;
    for (first, t, h) in scene.queries() {
        let at = t * a.n_heads + h;
        let lse = f64::from(forward[scene.d_out.len() + at]);
        let q = &scene.q[at * a.q_dim()..][..a.q_dim()];
        let d_out = &scene.d_out[at * a.v_dim..][..a.v_dim];
        let size = |x: &[f32]| d_out.iter().zip(x).map(|(d, x)| f64::from((d * x).abs())).sum::<f64>();
        let own = size(&forward[at * a.v_dim..]);
        for s in first..=t {
            let [score, magnitude] = scene.score(t, s, h);
            let p = (score - lse).exp();
            // Terms of a sum: rows of its sequence, times the heads that it joins.
            let n = (a.n_heads * 530) as f64;
            let error = attention_weight(a.q_dim(), magnitude + lse.abs(), 1, 0.0) + gamma(n + a.v_dim as f64 + 12.0);
            let error = error / (1.0 - error);
            let d_score = error * f64::from(a.scale.abs()) * p * (size(scene.value(s, h)) + own);
            let (k, v, pe) = (a.k.at(s, h / per_kv), a.v.at(s, h / per_kv), a.shared.at(s, 0));
            for (i, (key, q)) in scene.key(s, h).zip(q).enumerate() {
                add(0, at * a.q_dim() + i, d_score * key.abs());
                let (of, at) = if i < a.k_dim { (1, k + i) } else { (2, pe + i - a.k_dim) };
                add(of, at, d_score * f64::from(q.abs()));
            }
            for (i, d) in d_out.iter().enumerate() {
                add(1, v + i, error * p * f64::from(d.abs()));
            }
        }
    }
    let bound = |size: Option<f64>| size.map_or(Bound::Bits, |size| Bound::Within(size + TINY));
    let bounds: Vec<_> = sizes.concat().into_iter().map(bound).collect();
    suite.check("attend_packed_backward", label, values, &bounds);
}

/// What is not finite stays in its sequence; before its own row nothing sees it going forward.
fn non_finite<D: TrainDevice>(suite: &mut Suite<'_, D>, rng: &mut Random) {
    let sequences = [0..20, 20..90];
    let a = shape(&sequences, [2, 1, 5, 3, 6], 0.5);
    let (n, bad) = (90 * a.n_heads, 40);
    for of in 0..3 {
        let [mut q, mut kv, mut shared, d_out] =
            [n * a.q_dim(), 90 * a.k.row_stride, 90 * a.shared.row_stride, n * a.v_dim].map(|n| rng.values(n));
        match of {
            0 => q[bad * a.n_heads * a.q_dim()] = f32::NAN,
            1 => kv[a.v.at(bad, 0)] = f32::INFINITY,
            _ => shared[a.shared.at(bad, 0)] = f32::NAN,
        }
        let scene = Scene { a, q, kv, shared, d_out };
        let [got, expected] = both!(suite, dev => attend(dev, &scene, n));
        let same = |(got, expected): (&f32, &f32)| got.is_finite() == expected.is_finite();
        assert!(got.iter().zip(&expected).all(same), "attend_packed: what is not finite is elsewhere");
        let forward = attend(&Reference, &scene, n);
        let [got, expected] = both!(suite, dev => differentiate(dev, &scene, &forward));
        for (i, (got, expected)) in got.iter().zip(&expected).enumerate() {
            assert!(
                expected.is_finite() || !got.is_finite(),
                "attend_packed_backward: {got:e} at {i}, not {expected:e}"
            );
        }
        let first = 20 * a.n_heads * a.q_dim();
        assert!(got[..first].iter().all(|d| d.is_finite()), "attend_packed_backward: another sequence is not finite");
    }
}
