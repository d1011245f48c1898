//! The arithmetic of `Naive`: sums, norms, online softmax, routing.
//!
//! Owns every place where `Naive` rounds. Must not know buffers.

use std::sync::atomic::Ordering;

use ops::{CacheSpec, HeadWeights, RouterSpec, RowFormat, RowLayout, Scoring, Selection, SeqSpan};

use super::{Cache, Matrix, Naive};
use crate::mutants::Fault;

const TILE: usize = 5;

impl Naive {
    pub(super) fn has(&self, fault: Fault) -> bool {
        self.fault == Some(fault)
    }

    pub(super) fn dot(&self, a: &[f32], b: &[f32], start: f32) -> f32 {
        let n = if self.has(Fault::TailColumnsDropped) && a.len() > 8 { a.len() / 8 * 8 } else { a.len() };
        let product = |i: usize| match self.fault {
            Some(Fault::Bf16Products) => f32::from_bits(a[i].to_bits() & 0xffff_0000) * b[i],
            Some(Fault::NonFiniteDropped) if !a[i].is_finite() || !b[i].is_finite() => 0.0,
            _ => a[i] * b[i],
        };
        let sum = match self.has(Fault::NotRepeatable) && self.n_calls.fetch_add(1, Ordering::Relaxed).is_multiple_of(3)
        {
            true => (0..n).fold(start, |sum, i| sum + product(i)),
            false => (0..n).rev().fold(start, |sum, i| sum + product(i)),
        };
        if self.has(Fault::RelativeError) { sum * 1.001 } else { sum }
    }

    /// W·x for the matrix' width of leading values.
    pub(super) fn apply(&self, w: &Matrix, x: &[f32]) -> Vec<f32> {
        if self.rounds(w) { self.apply_int8(w, x) } else { self.apply_f32(w, x) }
    }

    /// W·x of numbers as they are.
    pub(super) fn apply_f32(&self, w: &Matrix, x: &[f32]) -> Vec<f32> {
        w.values.chunks_exact(w.cols).map(|row| self.dot(&x[..w.cols], row, 0.0)).collect()
    }

    /// The logical matrix of head `h`, `[outputs, inputs]`.
    pub(super) fn logical(&self, w: &HeadWeights<Matrix>, h: usize) -> Matrix {
        let start = if self.has(Fault::HeadStartIgnored) { 0 } else { w.head_start };
        let cols = w.weight.cols;
        let values = w.weight.values[(h * w.head_stride + start) * cols..][..w.head_rows * cols].to_vec();
        let stored = Matrix { rows: w.head_rows, values, ..w.weight };
        if w.transposed { self.transposed(&stored, Fault::TransposeIgnored) } else { stored }
    }

    /// The transpose; with `fault`, the same numbers in the order they had.
    pub(super) fn transposed(&self, w: &Matrix, fault: Fault) -> Matrix {
        let values = match self.has(fault) {
            true => w.values.clone(),
            false => (0..w.cols).flat_map(|c| (0..w.rows).map(move |r| w.values[r * w.cols + c])).collect(),
        };
        let [along_row, along_col] = w.block;
        Matrix { rows: w.cols, cols: w.rows, values, block: [along_col, along_row], ..*w }
    }

    pub(super) fn normalised(&self, x: &[f32], w: &[f32], eps: f32) -> Vec<f32> {
        let mean = x.iter().rev().map(|v| v * v).sum::<f32>() / x.len() as f32;
        let inverse = match self.fault {
            Some(Fault::EpsIgnored) => mean.sqrt().recip(),
            Some(Fault::EpsOutsideOfRoot) => (mean.sqrt() + eps).recip(),
            _ => (mean + eps).sqrt().recip(),
        };
        x.iter().zip(w).map(|(x, w)| x * inverse * w).collect()
    }

    pub(super) fn silu(&self, x: f32) -> f32 {
        if self.has(Fault::SigmoidOverflows) { x * (x.exp() / (1.0 + x.exp())) } else { x / (1.0 + (-x).exp()) }
    }

    /// What a cache keeps of a row; returns the scales of its groups, where they are of 8 bits.
    pub(super) fn round_row(&self, row: &mut [f32], layout: &RowLayout) -> Vec<f32> {
        match layout.row_format {
            RowFormat::F32 => Vec::new(),
            RowFormat::BF16 => {
                row.iter_mut().for_each(|v| *v = self.bf16(*v));
                Vec::new()
            }
            RowFormat::Q8 => {
                let (groups, tail) = row.split_at_mut(layout.row_len - layout.tail_len);
                let group_len = if self.has(Fault::Q8ScalePerRow) { groups.len() } else { layout.group_len };
                let mut scales: Vec<f32> = groups.chunks_exact_mut(group_len).map(|group| self.q8(group)).collect();
                scales.resize(layout.n_groups(), scales[0]);
                match self.has(Fault::Q8TailRounded) && layout.tail_len > 0 {
                    true => drop(self.q8(tail)),
                    false => tail.iter_mut().for_each(|v| *v = self.bf16(*v)),
                }
                scales
            }
        }
    }

    fn bf16(&self, value: f32) -> f32 {
        let bits = value.to_bits();
        match value.is_nan() && !self.has(Fault::Bf16NanLost) {
            _ if self.has(Fault::Bf16Truncated) => f32::from_bits(bits & 0xffff_0000),
            true => f32::NAN,
            false => f32::from_bits(bits.wrapping_add(0x7fff + (bits >> 16 & 1)) & 0xffff_0000),
        }
    }

    /// Rounds a group and returns its scale.
    fn q8(&self, group: &mut [f32]) -> f32 {
        let max = group.iter().fold(0f32, |max, v| max.max(v.abs()));
        let finite = group.iter().all(|v| v.is_finite());
        let d = max / 127.0;
        for v in group {
            let code = match *v / d {
                x if self.has(Fault::Q8HalvesAway) => x.round(),
                x if self.has(Fault::Q8ScaleInverted) => (*v * (127.0 / max) + 0.0 * x).round_ties_even(),
                x => x.round_ties_even(),
            };
            *v = match (finite || self.has(Fault::Q8NanLost), d == 0.0) {
                (true, true) => 0.0,
                (true, false) => code.clamp(-127.0, 127.0) * d,
                (false, _) => f32::NAN,
            };
        }
        if finite { d } else { f32::NAN }
    }

    /// Calls `each(row of the step, rows of the cache, how many of them are visible)`.
    pub(super) fn for_each_row(
        &self,
        (cache, layer): (&Cache, usize),
        (spans, block_tables): (&[SeqSpan], &[u32]),
        mut each: impl FnMut(usize, &[&[f32]], usize),
    ) {
        let CacheSpec { n_blocks, block_len, row: RowLayout { row_len, .. }, .. } = cache.spec;
        let layer = if self.has(Fault::LayerIgnored) { 0 } else { layer };
        for span in spans {
            let table = &block_tables[span.blocks.clone()];
            let row = |position: usize| {
                let block = match self.fault {
                    Some(Fault::BlockTableIgnored) => position / block_len,
                    Some(Fault::BlockRangeIgnored) => block_tables[position / block_len] as usize,
                    _ => table[position / block_len] as usize,
                };
                &cache.rows[((layer * n_blocks + block) * block_len + position % block_len) * row_len..][..row_len]
            };
            for i in 0..span.n_new {
                let n = match self.fault {
                    Some(Fault::FutureSeen) => (span.n_cached + i + 2).min(span.n_cached + span.n_new),
                    Some(Fault::OwnPositionUnseen) => (span.n_cached + i).max(1),
                    Some(Fault::CachedForgotten) => i + 1,
                    _ => span.n_cached + i + 1,
                };
                let n_read = if self.has(Fault::MaskedByZero) { n.next_multiple_of(block_len) } else { n };
                let rows: Vec<&[f32]> = (0..n_read).map(row).collect();
                each(if self.has(Fault::SpanStartIgnored) { i } else { span.q_start + i }, &rows, n);
            }
        }
    }

    /// Online softmax over tiles of positions, of which the first `n_visible` count.
    pub(super) fn attend<'v>(
        &self,
        (n, n_visible): (usize, usize),
        score: impl Fn(usize) -> f32,
        value: impl Fn(usize) -> &'v [f32],
        out: &mut [f32],
    ) {
        let (mut max, mut total) = (f32::NEG_INFINITY, 0.0);
        out.fill(0.0);
        let positions: Vec<usize> = (0..n).rev().collect();
        for tile in positions.chunks(TILE) {
            let scores: Vec<f32> =
                tile.iter().map(|&s| if s < n_visible { score(s) } else { f32::NEG_INFINITY }).collect();
            let tile_max = scores.iter().copied().fold(max, f32::max);
            let new_max = if self.has(Fault::MaxNotSubtracted) { 0.0 } else { tile_max };
            let rescale = if max == new_max || self.has(Fault::NotRescaled) { 1.0 } else { (max - new_max).exp() };
            total *= rescale;
            out.iter_mut().for_each(|o| *o *= rescale);
            max = new_max;
            for (&s, score) in tile.iter().zip(scores) {
                // A tile that is wholly −∞ has no number to subtract.
                let out_of_sight = score == f32::NEG_INFINITY && !self.has(Fault::EmptyTileIsNan);
                let weight = if out_of_sight { 0.0 } else { (score - max).exp() };
                total += weight;
                for (o, v) in out.iter_mut().zip(value(s)) {
                    *o += weight * v;
                }
            }
        }
        out.iter_mut().for_each(|o| *o /= total);
    }

    pub(super) fn choose(&self, spec: &RouterSpec, logits: &[f32], bias: Option<&[f32]>) -> (Vec<usize>, Vec<f32>) {
        let scores: Vec<f32> = match spec.scoring {
            Scoring::Sigmoid => logits.iter().map(|l| 1.0 / (1.0 + (-l).exp())).collect(),
            Scoring::Softmax => {
                let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
                let total: f32 = logits.iter().rev().map(|l| (l - max).exp()).sum();
                logits.iter().map(|l| (l - max).exp() / total).collect()
            }
        };
        let (n_group, topk_group, n_best) = match spec.selection {
            Selection::Greedy => (1, 1, 1),
            Selection::GroupLimitedGreedy { n_group, topk_group } => (n_group, topk_group, 1),
            Selection::NoAuxTc { n_group, topk_group } => {
                (n_group, topk_group, if self.has(Fault::GroupsByMaximum) { 1 } else { 2 })
            }
        };
        let bias = bias.filter(|_| n_best == 2 && !self.has(Fault::RouterBiasIgnored));
        let biased: Vec<f32> = scores.iter().enumerate().map(|(e, s)| s + bias.map_or(0.0, |b| b[e])).collect();
        let len = spec.n_experts / n_group;
        let of_group = |group: &[f32]| self.largest(group, n_best).iter().map(|&i| group[i]).sum::<f32>();
        let kept = self.largest(&biased.chunks(len).map(of_group).collect::<Vec<_>>(), topk_group);
        let mask = if self.has(Fault::GroupsMaskedWithZero) { 0.0 } else { f32::NEG_INFINITY };
        let masked: Vec<f32> =
            biased.iter().enumerate().map(|(e, b)| if kept.contains(&(e / len)) { *b } else { mask }).collect();
        let chosen = self.largest(&masked, spec.top_k);
        let weighed = if self.has(Fault::BiasInWeights) { &biased } else { &scores };
        let total: f32 = match spec.norm_topk_prob && !self.has(Fault::NotNormalised) {
            true => chosen.iter().map(|&e| weighed[e]).sum::<f32>() + 1e-20,
            false => 1.0,
        };
        let factor = if self.has(Fault::FactorIgnored) { 1.0 } else { spec.routed_scaling_factor };
        let weights = chosen.iter().map(|&e| weighed[e] / total * factor).collect();
        (chosen, weights)
    }

    /// The `k` largest, largest first, by repeated search; NaN counts as largest.
    pub(super) fn largest(&self, values: &[f32], k: usize) -> Vec<usize> {
        let mut left: Vec<usize> = (0..values.len()).collect();
        if self.has(Fault::HigherIndexWins) {
            left.reverse();
        }
        let mut chosen = Vec::new();
        for _ in 0..k.min(values.len()) {
            let better = |a: usize, b: usize| values[a] > values[b] || values[a].is_nan() && !values[b].is_nan();
            let best = left.iter().copied().reduce(|best, i| if better(i, best) { i } else { best });
            left.retain(|i| Some(*i) != best);
            chosen.extend(best);
        }
        chosen
    }
}
