//! Cached rows in memory.
//!
//! Owns where a row lies and how it is stored. Must not know what a row means.

use half::bf16;
use ops::cache::{group_scale, put, quantise, take};
use ops::{CacheSpec, DeviceError, RowFormat, zeroed};

use crate::level::{LANES, Simd};
use crate::scratch::{PADDING, to_line};

/// Rows of all layers, `[n_layers, n_blocks · block_len]`.
pub struct Cache {
    pub(crate) spec: CacheSpec,
    rows: Rows,
    /// A row before it is rounded.
    staged: Vec<f32>,
}

enum Rows {
    F32(Plane<f32>),
    BF16(Plane<u16>),
    Q8(Q8Rows),
}

/// As many values for each row, from the beginning of a cache line on.
struct Plane<T> {
    values: Vec<T>,
    skip: usize,
    per_row: usize,
}

impl<T: Copy + Default> Plane<T> {
    fn new(spec: &CacheSpec, per_row: usize) -> Result<Self, DeviceError> {
        let values = zeroed(spec.n_values(per_row)?.saturating_add(PADDING), "cache")?;
        Ok(Self { skip: to_line(&values), values, per_row })
    }

    #[inline(always)]
    fn row(&self, index: usize) -> &[T] {
        &self.values[self.skip + index * self.per_row..][..self.per_row]
    }

    fn row_mut(&mut self, index: usize) -> &mut [T] {
        self.rows_mut(index, 1)
    }

    fn rows(&self, first: usize, n: usize) -> &[T] {
        &self.values[self.skip + first * self.per_row..][..n * self.per_row]
    }

    fn rows_mut(&mut self, first: usize, n: usize) -> &mut [T] {
        &mut self.values[self.skip + first * self.per_row..][..n * self.per_row]
    }

    fn copy_rows(&mut self, [from, to]: [usize; 2], n: usize) {
        let at = |row: usize| self.skip + row * self.per_row;
        let (source, to) = (at(from)..at(from + n), at(to));
        self.values.copy_within(source, to);
    }

    /// Asks for a row, which need not exist.
    #[inline(always)]
    fn prefetch<S: Simd>(&self, simd: S, index: usize) {
        for at in (0..self.per_row).step_by(64 / size_of::<T>()) {
            simd.prefetch(&self.values, self.skip + index * self.per_row + at);
        }
    }
}

/// Rows of 8 bits in three planes, so that a tile of any of them is read without gaps.
pub(crate) struct Q8Rows {
    codes: Plane<i8>,
    /// One for each group.
    scales: Plane<f32>,
    /// BF16.
    tails: Plane<u16>,
}

impl Q8Rows {
    #[inline(always)]
    pub(crate) fn codes(&self, index: usize) -> &[i8] {
        self.codes.row(index)
    }

    /// Codes of `n` rows from `first` on, one after the other.
    #[inline(always)]
    pub(crate) fn codes_of(&self, first: usize, n: usize) -> &[i8] {
        self.codes.rows(first, n)
    }

    #[inline(always)]
    pub(crate) fn scales(&self, index: usize) -> &[f32] {
        self.scales.row(index)
    }

    #[inline(always)]
    pub(crate) fn tail(&self, index: usize) -> &[u16] {
        self.tails.row(index)
    }

    /// Asks for a row, which need not exist.
    #[inline(always)]
    pub(crate) fn prefetch<S: Simd>(&self, simd: S, index: usize) {
        self.codes.prefetch(simd, index);
        self.tails.prefetch(simd, index);
    }
}

impl Cache {
    pub(crate) fn new(spec: &CacheSpec) -> Result<Self, DeviceError> {
        let layout = spec.row;
        let rows = match layout.row_format {
            RowFormat::F32 => Rows::F32(Plane::new(spec, layout.row_len)?),
            RowFormat::BF16 => Rows::BF16(Plane::new(spec, layout.row_len)?),
            RowFormat::Q8 => Rows::Q8(Q8Rows {
                codes: Plane::new(spec, layout.row_len - layout.tail_len)?,
                scales: Plane::new(spec, layout.n_groups())?,
                tails: Plane::new(spec, layout.tail_len)?,
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
            Rows::F32(rows) => rows.row_mut(index).copy_from_slice(row),
            Rows::BF16(rows) => to_bf16(rows.row_mut(index), row),
            Rows::Q8(Q8Rows { codes, scales, tails }) => {
                let (groups, tail) = row.split_at(layout.row_len - layout.tail_len);
                let codes = codes.row_mut(index).chunks_exact_mut(layout.group_len);
                let scales = scales.row_mut(index);
                for ((group, codes), d) in groups.chunks_exact(layout.group_len).zip(codes).zip(scales) {
                    *d = group_scale(group);
                    codes.iter_mut().zip(group).for_each(|(q, value)| *q = quantise(*value, *d));
                }
                to_bf16(tails.row_mut(index), tail);
            }
        }
    }

    pub(crate) fn copy_block(&mut self, from: u32, to: u32) {
        let block = self.spec.block_len;
        for layer in 0..self.spec.n_layers {
            let [from, to] = [from, to].map(|b| self.spec.row_index(layer, b as usize * block));
            match &mut self.rows {
                Rows::F32(rows) => rows.copy_rows([from, to], block),
                Rows::BF16(rows) => rows.copy_rows([from, to], block),
                Rows::Q8(Q8Rows { codes, scales, tails }) => {
                    codes.copy_rows([from, to], block);
                    scales.copy_rows([from, to], block);
                    tails.copy_rows([from, to], block);
                }
            }
        }
    }

    /// A block as bytes; rows of 8 bits are gathered from their planes.
    pub(crate) fn read_block(&self, block: u32, out: &mut [u8]) {
        let CacheSpec { block_len, row: layout, .. } = self.spec;
        assert_eq!(out.len(), self.spec.block_bytes(), "bytes of a block");
        for (layer, out) in out.chunks_exact_mut(self.spec.layer_bytes()).enumerate() {
            let first = self.spec.row_index(layer, block as usize * block_len);
            match &self.rows {
                Rows::F32(rows) => put(rows.rows(first, block_len), out, f32::to_le_bytes),
                Rows::BF16(rows) => put(rows.rows(first, block_len), out, u16::to_le_bytes),
                Rows::Q8(rows) => {
                    for (index, out) in (first..).zip(out.chunks_exact_mut(layout.row_bytes())) {
                        let [codes, scales, tail] = layout.q8_parts_mut(out);
                        put(rows.codes(index), codes, i8::to_le_bytes);
                        put(rows.scales(index), scales, f32::to_le_bytes);
                        put(rows.tail(index), tail, u16::to_le_bytes);
                    }
                }
            }
        }
    }

    /// The other way of [`Cache::read_block`].
    pub(crate) fn write_block(&mut self, block: u32, bytes: &[u8]) {
        let CacheSpec { block_len, row: layout, .. } = self.spec;
        assert_eq!(bytes.len(), self.spec.block_bytes(), "bytes of a block");
        for (layer, bytes) in bytes.chunks_exact(self.spec.layer_bytes()).enumerate() {
            let first = self.spec.row_index(layer, block as usize * block_len);
            match &mut self.rows {
                Rows::F32(rows) => take(bytes, rows.rows_mut(first, block_len), f32::from_le_bytes),
                Rows::BF16(rows) => take(bytes, rows.rows_mut(first, block_len), u16::from_le_bytes),
                Rows::Q8(rows) => {
                    for (index, bytes) in (first..).zip(bytes.chunks_exact(layout.row_bytes())) {
                        let [codes, scales, tail] = layout.q8_parts(bytes);
                        take(codes, rows.codes.row_mut(index), i8::from_le_bytes);
                        take(scales, rows.scales.row_mut(index), f32::from_le_bytes);
                        take(tail, rows.tails.row_mut(index), u16::from_le_bytes);
                    }
                }
            }
        }
    }

    /// The rows, of 8 bits.
    ///
    /// # Panics
    /// If they are of another format
    #[inline(always)]
    pub(crate) fn q8_rows(&self) -> &Q8Rows {
        let Rows::Q8(rows) = &self.rows else { panic!("rows are not of 8 bits") };
        rows
    }

    /// The row at `index`, of f32, as for [`Cache::q8_rows`].
    #[inline(always)]
    pub(crate) fn f32_row(&self, index: usize) -> &[f32] {
        let Rows::F32(rows) = &self.rows else { panic!("rows are not f32") };
        rows.row(index)
    }

    /// The row at `index`, of BF16, as for [`Cache::q8_rows`].
    #[inline(always)]
    pub(crate) fn bf16_row(&self, index: usize) -> &[u16] {
        let Rows::BF16(rows) = &self.rows else { panic!("rows are not BF16") };
        rows.row(index)
    }

    /// The values `offset..offset + out.len()` of the row at `index`.
    #[inline(always)]
    pub(crate) fn read<S: Simd>(&self, simd: S, index: usize, offset: usize, out: &mut [f32]) {
        let (layout, range) = (self.spec.row, offset..offset + out.len());
        match &self.rows {
            Rows::F32(rows) => out.copy_from_slice(&rows.row(index)[range]),
            Rows::BF16(rows) => widen(simd, &rows.row(index)[range], out),
            Rows::Q8(rows) => {
                let n_codes = layout.row_len - layout.tail_len;
                let in_groups = n_codes.clamp(range.start, range.end);
                let (out, tail) = out.split_at_mut(in_groups - range.start);
                dequantise(simd, rows.codes(index), rows.scales(index), layout.group_len, range.start, out);
                if !tail.is_empty() {
                    widen(simd, &rows.tail(index)[in_groups - n_codes..range.end - n_codes], tail);
                }
            }
        }
    }
}

/// Values `offset..offset + out.len()` of a row's groups.
#[inline(always)]
fn dequantise<S: Simd>(simd: S, codes: &[i8], scales: &[f32], group_len: usize, offset: usize, out: &mut [f32]) {
    let mut at = offset;
    let mut rest = out;
    while !rest.is_empty() {
        let n = (group_len - at % group_len).min(rest.len());
        let (group, after) = rest.split_at_mut(n);
        let (codes, d) = (&codes[at..at + n], scales[at / group_len]);
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
