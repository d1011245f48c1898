//! A cache with sequences in it, for the attention cases.
//!
//! Owns shuffled blocks, spans with gaps between them, and rows that nobody may read: those hold NaN, and another layer
//! holds other numbers. Must not attend.

use std::ops::Range;

use ops::{CacheSpec, Device, DeviceError, RowFormat, RowLayout, SeqSpan};

use super::buffers::{CANARY, input};
use super::random::Random;

const N_LAYERS: usize = 2;
/// Blocks of no sequence.
const N_SPARE: usize = 2;

/// Geometry of a scene.
#[derive(Clone, Copy, Debug)]
pub(super) struct Plan<'p> {
    pub(super) block_len: usize,
    pub(super) row_format: RowFormat,
    /// `(n_new, n_cached)` of each span.
    pub(super) spans: &'p [(usize, usize)],
}

/// Sets of spans: decode, chunks, fresh prefills, and all of them at once; contexts around lanes and blocks.
pub(super) const SPANS: [&[(usize, usize)]; 9] = [
    &[],
    &[(1, 0)],
    &[(1, 6)],
    &[(5, 0)],
    &[(3, 5)],
    &[(1, 6), (3, 5), (5, 0), (1, 0), (2, 1)],
    &[(17, 16), (1, 33)],
    &[(1, 15), (1, 16), (1, 31), (1, 64)],
    &[(2, 269)],
];

pub(super) const BLOCK_LENS: [usize; 3] = [1, 3, 16];

#[derive(Clone)]
pub(super) struct Scene {
    pub(super) spec: CacheSpec,
    pub(super) layer: usize,
    /// What is stored, before the cache rounds it: `[slots, row_len]`.
    rows: Vec<f32>,
    pub(super) spans: Vec<SeqSpan>,
    pub(super) block_tables: Vec<u32>,
    /// Rows of the step, T.
    pub(super) n_rows: usize,
}

impl Scene {
    /// `[row_len, group_len, tail_len]`: what a row is made of.
    pub(super) fn new(rng: &mut Random, plan: Plan<'_>, [row_len, group_len, tail_len]: [usize; 3]) -> Self {
        let Plan { block_len, row_format, spans } = plan;
        let blocks_of = |(n_new, n_cached): (usize, usize)| (n_new + n_cached).div_ceil(block_len);
        let n_blocks = N_SPARE + spans.iter().map(|&s| blocks_of(s)).sum::<usize>();
        let row = RowLayout { row_len, group_len, tail_len, row_format };
        let spec = CacheSpec { n_layers: N_LAYERS, n_blocks, block_len, row };
        let mut free: Vec<u32> = (0..n_blocks as u32).collect();
        rng.shuffle(&mut free);
        // The tables' first entry belongs to nobody.
        let mut scene = Self {
            spec,
            layer: rng.below(N_LAYERS),
            rows: vec![f32::NAN; n_blocks * block_len * row_len],
            spans: Vec::new(),
            block_tables: vec![free[0]],
            n_rows: 0,
        };
        let mut next = N_SPARE;
        for (i, &(n_new, n_cached)) in spans.iter().enumerate() {
            let table = &free[next..next + blocks_of((n_new, n_cached))];
            next += table.len();
            let start = scene.block_tables.len();
            scene.block_tables.extend_from_slice(table);
            // Every other span is preceded by a row that belongs to none.
            let q_start = scene.n_rows + i % 2;
            scene.n_rows = q_start + n_new;
            scene.spans.push(SeqSpan { q_start, n_new, n_cached, blocks: start..scene.block_tables.len() });
            for position in 0..n_new + n_cached {
                let values = rng.values(row_len);
                scene.row_mut(i, position).copy_from_slice(&values);
            }
        }
        scene.n_rows += 1;
        scene
    }

    fn slot(&self, span: usize, position: usize) -> usize {
        let table = &self.block_tables[self.spans[span].blocks.clone()];
        table[position / self.spec.block_len] as usize * self.spec.block_len + position % self.spec.block_len
    }

    pub(super) fn row_mut(&mut self, span: usize, position: usize) -> &mut [f32] {
        let row_len = self.spec.row.row_len;
        let at = self.slot(span, position) * row_len;
        &mut self.rows[at..at + row_len]
    }

    /// A row as the cache holds it.
    pub(super) fn row(&self, span: usize, position: usize) -> Vec<f64> {
        stored(self.unrounded(span, position), &self.spec.row).into_iter().map(f64::from).collect()
    }

    fn unrounded(&self, span: usize, position: usize) -> &[f32] {
        let row_len = self.spec.row.row_len;
        let at = self.slot(span, position) * row_len;
        &self.rows[at..at + row_len]
    }

    /// The scales of a row's groups, where it has some.
    pub(super) fn scales(&self, span: usize, position: usize) -> Vec<f64> {
        let layout = &self.spec.row;
        let groups = &self.unrounded(span, position)[..layout.row_len - layout.tail_len];
        groups.chunks_exact(layout.group_len).map(|group| f64::from(scale(group))).collect()
    }

    /// All rows of a span, in order.
    pub(super) fn context(&self, span: usize) -> Vec<Vec<f64>> {
        let SeqSpan { n_new, n_cached, .. } = self.spans[span];
        (0..n_new + n_cached).map(|position| self.row(span, position)).collect()
    }

    /// `(row of the step, visible positions)` of a span.
    pub(super) fn visible(&self, span: usize) -> impl Iterator<Item = (usize, usize)> + use<> {
        let SeqSpan { q_start, n_new, n_cached, .. } = self.spans[span];
        (0..n_new).map(move |i| (q_start + i, n_cached + i + 1))
    }

    /// The cache with every row stored; rows are put together of `parts`.
    pub(super) fn cache<D: Device>(&self, dev: &D, parts: &[usize]) -> Result<D::Cache, DeviceError> {
        let mut cache = dev.alloc_cache(&self.spec)?;
        let row_len = self.spec.row.row_len;
        let slots: Vec<u32> = (0..(self.rows.len() / row_len) as u32).rev().collect();
        let other = input(dev, &vec![CANARY; self.rows.len()])?;
        dev.cache_store(&mut cache, N_LAYERS - 1 - self.layer, &slots, &[(&other, row_len)]);
        let mut buffers = Vec::new();
        let mut start = 0;
        for &len in parts {
            let part = slots.iter().flat_map(|s| &self.rows[*s as usize * row_len + start..][..len]);
            buffers.push((input(dev, &part.copied().collect::<Vec<f32>>())?, len));
            start += len;
        }
        let parts: Vec<(&D::Buffer, usize)> = buffers.iter().map(|(buffer, len)| (buffer, *len)).collect();
        dev.cache_store(&mut cache, self.layer, &slots, &parts);
        Ok(cache)
    }

    /// Queries of `width` values per row; rows of no span hold NaN.
    pub(super) fn queries(&self, rng: &mut Random, width: usize, size: f32) -> Vec<f32> {
        let covered = |t: usize| self.spans.iter().any(|s| (s.q_start..s.q_start + s.n_new).contains(&t));
        (0..self.n_rows * width).map(|i| if covered(i / width) { rng.unit() * size } else { f32::NAN }).collect()
    }

    /// Each span whole.
    pub(super) fn whole_spans(&self) -> Vec<Lone> {
        self.spans.iter().enumerate().map(|(span, s)| Lone { span, rows: 0..s.n_new }).collect()
    }

    /// Each span whole, and rows of it as they are decoded: a draft's row has the bits that a step of its own would give.
    pub(super) fn spans_and_rows(&self) -> Vec<Lone> {
        let rows = |(span, s): (usize, &SeqSpan)| {
            [0, s.n_new / 2].into_iter().take(s.n_new.min(2)).map(move |i| Lone { span, rows: i..i + 1 })
        };
        let mut all = self.whole_spans();
        all.extend(self.spans.iter().enumerate().flat_map(rows));
        all
    }

    /// The scene of some rows of a span alone, which come first.
    pub(super) fn alone(&self, Lone { span, rows }: &Lone) -> Self {
        let span = &self.spans[*span];
        let alone = SeqSpan {
            q_start: 0,
            n_new: rows.len(),
            n_cached: span.n_cached + rows.start,
            blocks: span.blocks.clone(),
        };
        Self { n_rows: alone.n_new, spans: vec![alone], ..self.clone() }
    }
}

/// Some rows of a span, to be computed without the others.
#[derive(Clone, Debug)]
pub(super) struct Lone {
    pub(super) span: usize,
    pub(super) rows: Range<usize>,
}

/// What a cache keeps of a row. BF16 rounds to nearest even, and a NaN stays one; 8 bits round to whole multiples of a
/// group's scale, and what is not finite makes all of its group NaN.
pub(super) fn stored(row: &[f32], layout: &RowLayout) -> Vec<f32> {
    match layout.row_format {
        RowFormat::F32 => row.to_vec(),
        RowFormat::BF16 => row.iter().map(|v| bf16(*v)).collect(),
        RowFormat::Q8 => {
            let (groups, tail) = row.split_at(layout.row_len - layout.tail_len);
            let groups = groups.chunks_exact(layout.group_len).flat_map(|group| {
                let d = scale(group);
                group.iter().map(move |v| if d == 0.0 { 0.0 } else { code(*v, d) * d })
            });
            groups.chain(tail.iter().map(|v| bf16(*v))).collect()
        }
    }
}

fn bf16(value: f32) -> f32 {
    let bits = u64::from(value.to_bits());
    let rounded = bits + 0x7fff + (bits >> 16 & 1);
    if value.is_nan() { value } else { f32::from_bits(rounded as u32 & 0xffff_0000) }
}

/// A quotient of f32 numbers made in f64 and rounded is the quotient rounded once.
fn scale(group: &[f32]) -> f32 {
    let max = group.iter().map(|v| f64::from(v.abs())).fold(0.0, f64::max);
    if group.iter().all(|v| v.is_finite()) { (max / 127.0) as f32 } else { f32::NAN }
}

fn code(value: f32, d: f32) -> f32 {
    ((f64::from(value) / f64::from(d)) as f32).round_ties_even().clamp(-127.0, 127.0)
}
