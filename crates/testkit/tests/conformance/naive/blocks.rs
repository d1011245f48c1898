//! Blocks of `Naive`'s cache as bytes.
//!
//! Owns another reading of what stands beside `RowLayout::encode`. Must not call it.

use ops::{RowFormat, RowLayout};

use super::{Cache, Naive};
use crate::mutants::Fault;

fn bf16(values: &[f32]) -> impl Iterator<Item = u8> {
    values.iter().flat_map(|v| [(v.to_bits() >> 16) as u8, (v.to_bits() >> 24) as u8])
}

fn f32s(values: &[f32]) -> impl Iterator<Item = u8> {
    values.iter().flat_map(|v| (0..4).map(|i| (v.to_bits() >> (8 * i)) as u8))
}

/// Bytes of a rounded row whose groups have these scales.
pub(super) fn row_to_bytes(row: &[f32], scales: &[f32], layout: &RowLayout) -> Vec<u8> {
    let (groups, tail) = row.split_at(row.len() - layout.tail_len);
    // A code is what a value was made of: (q·d)/d is nearest to q.
    let code = |(i, v): (usize, &f32)| (v / scales[i / (groups.len() / scales.len())]).round() as i8 as u8;
    match layout.row_format {
        RowFormat::F32 => f32s(row).collect(),
        RowFormat::BF16 => bf16(row).collect(),
        RowFormat::Q8 => groups.iter().enumerate().map(code).chain(f32s(scales)).chain(bf16(tail)).collect(),
    }
}

fn bytes_to_row(bytes: &[u8], layout: &RowLayout) -> Vec<f32> {
    let number = |bytes: &[u8]| bytes.iter().rev().fold(0u32, |bits, byte| bits << 8 | u32::from(*byte));
    let f32s = |bytes: &[u8]| bytes.chunks(4).map(|b| f32::from_bits(number(b))).collect::<Vec<_>>();
    let bf16 = |bytes: &[u8]| bytes.chunks(2).map(|b| f32::from_bits(number(b) << 16)).collect::<Vec<_>>();
    match layout.row_format {
        RowFormat::F32 => f32s(bytes),
        RowFormat::BF16 => bf16(bytes),
        RowFormat::Q8 => {
            let n_codes = layout.row_len - layout.tail_len;
            let tail = bf16(&bytes[bytes.len() - 2 * layout.tail_len..]);
            let scales = f32s(&bytes[n_codes..bytes.len() - 2 * layout.tail_len]);
            let value = |(i, q): (usize, &u8)| f32::from(*q as i8) * scales[i / layout.group_len];
            bytes[..n_codes].iter().enumerate().map(value).chain(tail).collect()
        }
    }
}

impl Naive {
    /// Index of a block's first row in a layer.
    fn first_row(&self, cache: &Cache, layer: usize, block: u32) -> usize {
        let layer = if self.has(Fault::BlockOfOneLayer) { 0 } else { layer };
        (layer * cache.spec.n_blocks + block as usize) * cache.spec.block_len
    }

    pub(super) fn block_to_bytes(&self, cache: &Cache, block: u32, out: &mut [u8]) {
        let n = cache.spec.row.row_bytes();
        for (i, row) in out.chunks_mut(n).enumerate() {
            let (layer, position) = (i / cache.spec.block_len, i % cache.spec.block_len);
            let at = (self.first_row(cache, layer, block) + position) * n;
            row.copy_from_slice(&cache.bytes[at..at + n]);
            if self.has(Fault::BlockBigEndian) {
                row.reverse();
            }
        }
    }

    pub(super) fn bytes_to_block(&self, cache: &mut Cache, block: u32, bytes: &[u8]) {
        let (n, layout) = (cache.spec.row.row_bytes(), cache.spec.row);
        for (i, row) in bytes.chunks(n).enumerate() {
            let (layer, position) = (i / cache.spec.block_len, i % cache.spec.block_len);
            let index = self.first_row(cache, layer, block) + position;
            let mut values = bytes_to_row(row, &layout);
            let (at, len) = (index * n, values.len());
            match self.has(Fault::BlockRoundedAgain) {
                true => {
                    let scales = self.round_row(&mut values, &layout);
                    cache.bytes[at..at + n].copy_from_slice(&row_to_bytes(&values, &scales, &layout));
                }
                false => cache.bytes[at..at + n].copy_from_slice(row),
            }
            if !self.has(Fault::BlockBytesOnly) {
                cache.rows[index * len..(index + 1) * len].copy_from_slice(&values);
            }
        }
    }
}
