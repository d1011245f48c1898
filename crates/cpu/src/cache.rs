//! Cached rows in memory.
//!
//! Owns where a row lies and how it is stored. Must not know what a row means.

use half::bf16;
use ops::{CacheSpec, DeviceError, RowFormat, zeroed};

use crate::level::{LANES, Simd};

/// Rows of all layers, `[n_layers, n_blocks · block_len, row_len]`.
pub struct Cache {
    pub(crate) spec: CacheSpec,
    rows: Rows,
}

enum Rows {
    F32(Vec<f32>),
    BF16(Vec<u16>),
}

impl Cache {
    pub(crate) fn new(spec: &CacheSpec) -> Result<Self, DeviceError> {
        let len = spec.n_values()?;
        let rows = match spec.row_format {
            RowFormat::F32 => Rows::F32(zeroed(len, "cache")?),
            RowFormat::BF16 => Rows::BF16(zeroed(len, "cache")?),
        };
        Ok(Self { spec: *spec, rows })
    }

    /// Writes part of the row in `slot`, from value `offset` on.
    pub(crate) fn write(&mut self, layer: usize, slot: usize, offset: usize, values: &[f32]) {
        let start = self.spec.row_start(layer, slot) + offset;
        match &mut self.rows {
            Rows::F32(rows) => rows[start..start + values.len()].copy_from_slice(values),
            Rows::BF16(rows) => {
                for (row, value) in rows[start..start + values.len()].iter_mut().zip(values) {
                    *row = bf16::from_f32(*value).to_bits();
                }
            }
        }
    }

    pub(crate) fn copy_block(&mut self, from: u32, to: u32) {
        let (block, row) = (self.spec.block_len, self.spec.row_len);
        for layer in 0..self.spec.n_layers {
            let from = self.spec.row_start(layer, from as usize * block);
            let to = self.spec.row_start(layer, to as usize * block);
            match &mut self.rows {
                Rows::F32(rows) => rows.copy_within(from..from + block * row, to),
                Rows::BF16(rows) => rows.copy_within(from..from + block * row, to),
            }
        }
    }

    /// The values `offset..offset + out.len()` of the row at `position` of a sequence.
    #[inline(always)]
    pub(crate) fn read<S: Simd>(
        &self,
        simd: S,
        layer: usize,
        block_table: &[u32],
        position: usize,
        offset: usize,
        out: &mut [f32],
    ) {
        let block_len = self.spec.block_len;
        let slot = block_table[position / block_len] as usize * block_len + position % block_len;
        let start = self.spec.row_start(layer, slot) + offset;
        match &self.rows {
            Rows::F32(rows) => out.copy_from_slice(&rows[start..start + out.len()]),
            Rows::BF16(rows) => {
                let row = &rows[start..start + out.len()];
                let (chunks, rest) = out.as_chunks_mut::<LANES>();
                let (row_chunks, row_rest) = row.as_chunks::<LANES>();
                for (out, bits) in chunks.iter_mut().zip(row_chunks) {
                    simd.store(simd.load_bf16(&bits.map(u16::to_le_bytes)), out);
                }
                for (out, bits) in rest.iter_mut().zip(row_rest) {
                    *out = f32::from_bits(u32::from(*bits) << 16);
                }
            }
        }
    }
}
