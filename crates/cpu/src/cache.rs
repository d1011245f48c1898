//! Cached rows in memory.
//!
//! Owns where a row lies and how it is stored. Must not know what a row means.

use half::bf16;
use ops::cache::{group_scale, quantise};
use ops::{CacheSpec, DeviceError, RowFormat, zeroed};

use crate::level::{LANES, Simd};

/// Rows of all layers, `[n_layers, n_blocks · block_len]`.
pub struct Cache {
    pub(crate) spec: CacheSpec,
    rows: Rows,
    /// A row before it is rounded.
    staged: Vec<f32>,
}

enum Rows {
    F32(Vec<f32>),
    BF16(Vec<u16>),
    Q8(Q8Rows),
}

/// Rows of 8 bits in three planes, so that a tile of any of them is read without gaps.
struct Q8Rows {
    /// `[rows, row_len − tail_len]`
    codes: Vec<i8>,
    /// `[rows, n_groups]`
    scales: Vec<f32>,
    n_groups: usize,
    /// `[rows, tail_len]`, BF16.
    tails: Vec<u16>,
}

/// A row of 8 bits.
#[derive(Clone, Copy)]
pub(crate) struct Q8Row<'a> {
    pub(crate) codes: &'a [i8],
    pub(crate) scales: &'a [f32],
    pub(crate) tail: &'a [u16],
}

impl Cache {
    pub(crate) fn new(spec: &CacheSpec) -> Result<Self, DeviceError> {
        let layout = spec.row;
        let len = spec.n_values(layout.row_len)?;
        let rows = match layout.row_format {
            RowFormat::F32 => Rows::F32(zeroed(len, "cache")?),
            RowFormat::BF16 => Rows::BF16(zeroed(len, "cache")?),
            RowFormat::Q8 => Rows::Q8(Q8Rows {
                codes: zeroed(spec.n_values(layout.row_len - layout.tail_len)?, "cache")?,
                scales: zeroed(spec.n_values(layout.n_groups())?, "cache")?,
                n_groups: layout.n_groups(),
                tails: zeroed(spec.n_values(layout.tail_len)?, "cache")?,
            }),
        };
        Ok(Self { spec: *spec, rows, staged: zeroed(layout.row_len, "cache")? })
    }

    /// Writes a row for each slot: the concatenation of each part's row.
    pub(crate) fn store(&mut self, layer: usize, slots: &[u32], parts: &[(&Vec<f32>, usize)]) {
        let row_len = self.spec.row.row_len;
        assert_eq!(parts.iter().map(|(_, len)| len).sum::<usize>(), row_len, "parts of a cache row");
        for (t, &slot) in slots.iter().enumerate() {
            let mut rest = &mut self.staged[..];
            for (part, len) in parts {
                let (to, after) = rest.split_at_mut(*len);
                to.copy_from_slice(&part[t * len..(t + 1) * len]);
                rest = after;
            }
            self.store_staged(self.spec.row_index(layer, slot as usize));
        }
    }

    fn store_staged(&mut self, index: usize) {
        let (layout, row) = (self.spec.row, &self.staged[..]);
        let to_bf16 = |to: &mut [u16], from: &[f32]| {
            to.iter_mut().zip(from).for_each(|(to, value)| *to = bf16::from_f32(*value).to_bits());
        };
        match &mut self.rows {
            Rows::F32(rows) => part_mut(rows, index, layout.row_len).copy_from_slice(row),
            Rows::BF16(rows) => to_bf16(part_mut(rows, index, layout.row_len), row),
            Rows::Q8(Q8Rows { codes, scales, tails, .. }) => {
                let (groups, tail) = row.split_at(layout.row_len - layout.tail_len);
                let codes = part_mut(codes, index, groups.len()).chunks_exact_mut(layout.group_len);
                let scales = part_mut(scales, index, layout.n_groups());
                for ((group, codes), d) in groups.chunks_exact(layout.group_len).zip(codes).zip(scales) {
                    *d = group_scale(group);
                    codes.iter_mut().zip(group).for_each(|(q, value)| *q = quantise(*value, *d));
                }
                to_bf16(part_mut(tails, index, layout.tail_len), tail);
            }
        }
    }

    pub(crate) fn copy_block(&mut self, from: u32, to: u32) {
        let (block, layout) = (self.spec.block_len, self.spec.row);
        for layer in 0..self.spec.n_layers {
            let [from, to] = [from, to].map(|b| self.spec.row_index(layer, b as usize * block));
            match &mut self.rows {
                Rows::F32(rows) => copy_rows(rows, [from, to], block, layout.row_len),
                Rows::BF16(rows) => copy_rows(rows, [from, to], block, layout.row_len),
                Rows::Q8(Q8Rows { codes, scales, tails, .. }) => {
                    copy_rows(codes, [from, to], block, layout.row_len - layout.tail_len);
                    copy_rows(scales, [from, to], block, layout.n_groups());
                    copy_rows(tails, [from, to], block, layout.tail_len);
                }
            }
        }
    }

    /// The row at `index`.
    ///
    /// # Panics
    /// If rows are of another format
    #[inline(always)]
    pub(crate) fn q8_row(&self, index: usize) -> Q8Row<'_> {
        let Rows::Q8(rows) = &self.rows else { panic!("rows are not of 8 bits") };
        let layout = self.spec.row;
        let n_codes = layout.row_len - layout.tail_len;
        Q8Row {
            codes: part(&rows.codes, index, n_codes),
            scales: part(&rows.scales, index, rows.n_groups),
            tail: part(&rows.tails, index, layout.tail_len),
        }
    }

    /// As [`Cache::q8_row`] where rows are f32.
    #[inline(always)]
    pub(crate) fn f32_row(&self, index: usize) -> &[f32] {
        let Rows::F32(rows) = &self.rows else { panic!("rows are not f32") };
        part(rows, index, self.spec.row.row_len)
    }

    /// As [`Cache::q8_row`] where rows are BF16.
    #[inline(always)]
    pub(crate) fn bf16_row(&self, index: usize) -> &[u16] {
        let Rows::BF16(rows) = &self.rows else { panic!("rows are not BF16") };
        part(rows, index, self.spec.row.row_len)
    }

    /// The values `offset..offset + out.len()` of the row at `index`.
    #[inline(always)]
    pub(crate) fn read<S: Simd>(&self, simd: S, index: usize, offset: usize, out: &mut [f32]) {
        let (layout, range) = (self.spec.row, offset..offset + out.len());
        match &self.rows {
            Rows::F32(rows) => out.copy_from_slice(&part(rows, index, layout.row_len)[range]),
            Rows::BF16(rows) => widen(simd, &part(rows, index, layout.row_len)[range], out),
            Rows::Q8(_) => {
                let row = self.q8_row(index);
                let in_groups = row.codes.len().clamp(range.start, range.end);
                let (out, tail) = out.split_at_mut(in_groups - range.start);
                dequantise(simd, row, layout.group_len, range.start, out);
                if !tail.is_empty() {
                    widen(simd, &row.tail[in_groups - row.codes.len()..range.end - row.codes.len()], tail);
                }
            }
        }
    }
}

fn part<T>(rows: &[T], index: usize, len: usize) -> &[T] {
    &rows[index * len..(index + 1) * len]
}

fn part_mut<T>(rows: &mut [T], index: usize, len: usize) -> &mut [T] {
    &mut rows[index * len..(index + 1) * len]
}

fn copy_rows<T: Copy>(rows: &mut [T], [from, to]: [usize; 2], n: usize, len: usize) {
    rows.copy_within(from * len..(from + n) * len, to * len);
}

/// Values `offset..offset + out.len()` of a row's groups.
#[inline(always)]
fn dequantise<S: Simd>(simd: S, row: Q8Row<'_>, group_len: usize, offset: usize, out: &mut [f32]) {
    let mut at = offset;
    let mut rest = out;
    while !rest.is_empty() {
        let n = (group_len - at % group_len).min(rest.len());
        let (group, after) = rest.split_at_mut(n);
        let (codes, d) = (&row.codes[at..at + n], row.scales[at / group_len]);
        let (chunks, tail) = group.as_chunks_mut::<LANES>();
        let (code_chunks, code_tail) = codes.as_chunks::<LANES>();
        for (out, codes) in chunks.iter_mut().zip(code_chunks) {
            simd.store(simd.mul(simd.load_i8(codes), simd.splat(d)), out);
        }
        tail.iter_mut().zip(code_tail).for_each(|(out, q)| *out = f32::from(*q) * d);
        (at, rest) = (at + n, after);
    }
}

/// BF16 as f32.
#[inline(always)]
pub(crate) fn widen<S: Simd>(simd: S, bits: &[u16], out: &mut [f32]) {
    let (chunks, rest) = out.as_chunks_mut::<LANES>();
    let (bit_chunks, bit_rest) = bits.as_chunks::<LANES>();
    for (out, bits) in chunks.iter_mut().zip(bit_chunks) {
        simd.store(simd.load_bf16(&bits.map(u16::to_le_bytes)), out);
    }
    for (out, bits) in rest.iter_mut().zip(bit_rest) {
        *out = f32::from_bits(u32::from(*bits) << 16);
    }
}
