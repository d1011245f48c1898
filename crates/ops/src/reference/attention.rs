//! The three attention forms of [`Reference`].
//!
//! Owns causal softmax over cached rows. Must not write the cache.

use super::{Reference, dot, for_each_row};
use crate::{AttendExpanded, AttendKv, AttendLatent, SeqSpan};

/// Calls `each(row of the step, number of visible positions)` for every row of a span.
fn visible_rows(span: &SeqSpan) -> impl Iterator<Item = (usize, usize)> {
    let (q_start, n_cached) = (span.q_start, span.n_cached);
    (0..span.n_new).map(move |i| (q_start + i, n_cached + i + 1))
}

/// out = Σ_s softmax(scores)_s · value(s); all in f64.
fn weigh<'v>(scores: &[f64], value: impl Fn(usize) -> &'v [f32], out: &mut [f32]) {
    let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let mut sums = vec![0f64; out.len()];
    let mut total = 0f64;
    for (s, score) in scores.iter().enumerate() {
        let weight = (score - max).exp();
        total += weight;
        for (sum, v) in sums.iter_mut().zip(value(s)) {
            *sum += weight * f64::from(*v);
        }
    }
    for (o, sum) in out.iter_mut().zip(sums) {
        *o = (sum / total) as f32;
    }
}

/// The cached rows of a span as f32, `[n_cached + n_new, row_len]`.
fn context(cache: &super::Cache, layer: usize, span: &SeqSpan, block_tables: &[u32]) -> Vec<f32> {
    let row_len = cache.spec.row.row_len;
    let table = &block_tables[span.blocks.clone()];
    let n = span.n_cached + span.n_new;
    assert!(n <= table.len() * cache.spec.block_len, "span of {n} positions in {} blocks", table.len());
    let mut rows = vec![0f32; n * row_len];
    for (position, row) in rows.chunks_exact_mut(row_len).enumerate() {
        cache.spec.row.decode(cache.row(cache.spec.row_of(layer, table, position)), row);
    }
    rows
}

pub(super) fn latent(args: &AttendLatent<'_, Reference>, out: &mut [f32]) {
    let c = args.kv_lora_rank;
    let row_len = args.cache.spec.row.row_len;
    let rope_dim = row_len - c;
    let n_heads = args.q_pe.n_heads;
    for span in args.spans {
        let rows = context(args.cache, args.layer, span, args.block_tables);
        let row = |s: usize| &rows[s * row_len..(s + 1) * row_len];
        for (t, n_visible) in visible_rows(span) {
            for h in 0..n_heads {
                let q_lat = &args.q_lat[(t * n_heads + h) * c..][..c];
                let q_pe = &args.q[(t * n_heads + h) * args.q_pe.head_dim + args.q_pe.start..][..rope_dim];
                let scores: Vec<f64> = (0..n_visible)
                    .map(|s| f64::from(args.scale) * (dot(q_lat, &row(s)[..c]) + dot(q_pe, &row(s)[c..])))
                    .collect();
                weigh(&scores, |s| &row(s)[..c], &mut out[(t * n_heads + h) * c..][..c]);
            }
        }
    }
}

pub(super) fn expanded(args: &AttendExpanded<'_, Reference>, out: &mut [f32]) {
    let row_len = args.cache.spec.row.row_len;
    let (n_heads, head_dim, nope) = (args.q_pe.n_heads, args.q_pe.head_dim, args.q_pe.start);
    let (c, v_dim) = (row_len - (head_dim - nope), args.v_head_dim);
    for span in args.spans {
        let rows = context(args.cache, args.layer, span, args.block_tables);
        let row = |s: usize| &rows[s * row_len..(s + 1) * row_len];
        let n = span.n_cached + span.n_new;
        for h in 0..n_heads {
            let latents = || (0..n).map(|s| &row(s)[..c]);
            let keys = expand(args.w_uk, h, latents(), nope);
            let values = expand(args.w_uv, h, latents(), v_dim);
            for (t, n_visible) in visible_rows(span) {
                let (q_nope, q_pe) = args.q[(t * n_heads + h) * head_dim..][..head_dim].split_at(nope);
                let scores: Vec<f64> = (0..n_visible)
                    .map(|s| {
                        let k_nope = &keys[s * nope..(s + 1) * nope];
                        f64::from(args.scale) * (dot(q_nope, k_nope) + dot(q_pe, &row(s)[c..]))
                    })
                    .collect();
                let value = |s: usize| &values[s * v_dim..(s + 1) * v_dim];
                weigh(&scores, value, &mut out[(t * n_heads + h) * v_dim..][..v_dim]);
            }
        }
    }
}

/// L_h · latent for every cached latent: `[n, n_out]`.
fn expand<'l>(
    w: &crate::HeadWeights<crate::WeightMatrix>,
    h: usize,
    latents: impl Iterator<Item = &'l [f32]> + Clone,
    n_out: usize,
) -> Vec<f32> {
    let first = h * w.head_stride + w.head_start;
    let mut sums = vec![0f64; latents.clone().count() * n_out];
    for_each_row(&w.weight, first..first + w.head_rows, |r, row| {
        for (sums, latent) in sums.chunks_exact_mut(n_out).zip(latents.clone()) {
            if w.transposed {
                for (sum, v) in sums.iter_mut().zip(row) {
                    *sum += f64::from(latent[r]) * f64::from(*v);
                }
            } else {
                sums[r] = dot(latent, row);
            }
        }
    });
    sums.into_iter().map(|s| s as f32).collect()
}

pub(super) fn key_value(args: &AttendKv<'_, Reference>, out: &mut [f32]) {
    let (n_heads, head_dim) = (args.n_heads, args.head_dim);
    let row_len = args.cache.spec.row.row_len;
    let per_kv = n_heads / args.n_kv_heads;
    for span in args.spans {
        let rows = context(args.cache, args.layer, span, args.block_tables);
        for (t, n_visible) in visible_rows(span) {
            for h in 0..n_heads {
                let v_at = h / per_kv * head_dim;
                let k_at = args.n_kv_heads * head_dim + v_at;
                let q = &args.q[(t * n_heads + h) * head_dim..][..head_dim];
                let scores: Vec<f64> = (0..n_visible)
                    .map(|s| f64::from(args.scale) * dot(q, &rows[s * row_len + k_at..][..head_dim]))
                    .collect();
                let value = |s: usize| &rows[s * row_len + v_at..][..head_dim];
                weigh(&scores, value, &mut out[(t * n_heads + h) * head_dim..][..head_dim]);
            }
        }
    }
}
