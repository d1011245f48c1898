//! Whole numbers of 16 bits in two bytes, and codes as they lie in the cache: what register tiles multiply.
//!
//! The high byte has the sign. Owns how rows of such numbers are split and their products joined again. Must not know what
//! is multiplied.

use crate::cache::Cache;
use crate::kernel::attention::TILE;
use crate::level::{LANES, Line, Simd};

/// Numbers that a tile takes of a row.
pub(super) const CHUNK: usize = 64;

/// Sixteen lines.
pub(super) type Square = [Line; LANES];

/// Whether tiles can take rows of `c` codes of a cache by sixteens.
#[inline(always)]
pub(super) fn fits<S: Simd>(simd: S, cache: &Cache, c: usize) -> bool {
    simd.has_tiles() && c.is_multiple_of(CHUNK) && cache.spec.block_len.is_multiple_of(LANES)
}

/// First rows of a group of sixteen positions and of the next one, or of the same again where there is none.
#[inline(always)]
pub(super) fn pair_of(rows: &[usize; TILE], group: usize, n_groups: usize) -> [usize; 2] {
    [group, (group + 1).min(n_groups - 1)].map(|group| rows[group * LANES])
}

/// Row `i` into the squares of its sixteen, `[chunks, 2 digits]`: high bytes and low ones.
#[inline(always)]
pub(super) fn split(i: usize, values: &[i16], chunks: usize, to: &mut [Square]) {
    let squares = &mut to[2 * (i / LANES) * chunks..][..2 * chunks];
    for (values, [high, low]) in values.as_chunks::<CHUNK>().0.iter().zip(squares.as_chunks_mut().0) {
        high[i % LANES] = values.map(|value| (value >> 8) as u8);
        low[i % LANES] = values.map(|value| value as u8);
    }
}

/// Rows of both digits.
#[inline(always)]
pub(super) fn in_pairs([high, low]: &[[[i32; LANES]; LANES]; 2]) -> impl Iterator<Item = [&[i32; LANES]; 2]> {
    high.iter().zip(low).map(|(high, low)| [high, low])
}

/// 256·high + low
#[inline(always)]
pub(super) fn join<S: Simd>(simd: S, [high, low]: [&[i32; LANES]; 2]) -> S::F32 {
    simd.to_f32(simd.shl_add::<8>(simd.load_i32(high), simd.load_i32(low)))
}

/// The first of some codes.
#[inline(always)]
pub(super) fn head(codes: &[i8]) -> &[i8; CHUNK] {
    match codes.first_chunk() {
        Some(codes) => codes,
        None => unreachable!("rows are whole chunks"),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed test")]

    use ops::{
        Activations, AttendExpanded, AttendLatent, CacheSpec, Device, HeadLayout, HeadWeights, RowFormat, RowLayout,
        SeqSpan, WeightFormat, WeightMatrix,
    };

    use crate::device::Cpu;
    use crate::level::Level;

    /// Rotated channels, and those of expanded keys and of values.
    const R: usize = 16;
    const N: usize = 32;
    const V: usize = 48;

    /// Numbers of both signs.
    fn values(n: usize, seed: u32) -> Vec<f32> {
        let bits = (seed..).map(|i| i.wrapping_mul(2_654_435_761) >> 12);
        bits.take(n).map(|bits| bits as f32 / 524_288.0 - 1.0).collect()
    }

    /// Some rows that look at a context of rows of 8 bits which ends with them.
    struct Scene {
        heads: usize,
        c: usize,
        block_len: usize,
        n_new: usize,
        n_cached: usize,
    }

    impl Scene {
        /// Absorbed, then expanded.
        fn attend(&self, level: Level, n_threads: usize) -> [Vec<f32>; 2] {
            let &Self { heads, c, block_len, n_new, n_cached } = self;
            let cpu = Cpu::with(level, n_threads).with_activations(Activations::Int8);
            let row = RowLayout { row_len: c + R, group_len: c, tail_len: R, row_format: RowFormat::Q8 };
            let n = n_cached + n_new;
            let n_blocks = n.div_ceil(block_len);
            let mut cache = cpu.alloc_cache(&CacheSpec { n_layers: 2, n_blocks, block_len, row }).unwrap();
            // Blocks lie backwards in memory.
            let block_tables: Vec<u32> = (0..n_blocks as u32).rev().collect();
            let slot = |i: usize| block_tables[i / block_len] * block_len as u32 + (i % block_len) as u32;
            let slots: Vec<u32> = (0..n).map(slot).collect();
            cpu.cache_store(&mut cache, 1, &slots, &[(&values(n * (c + R), 1), c + R)]);
            let spans = [SeqSpan { q_start: 0, n_new, n_cached, blocks: 0..n_blocks }];
            let q = values(n_new * heads * (N + R), 9);
            let q_pe = HeadLayout { n_heads: heads, head_dim: N + R, start: N };
            let mut absorbed = vec![0.0; n_new * heads * c];
            let args = AttendLatent {
                q_lat: &values(n_new * heads * c, 5),
                q: &q,
                q_pe,
                cache: &cache,
                layer: 1,
                spans: &spans,
                block_tables: &block_tables,
                kv_lora_rank: c,
                scale: 0.2,
            };
            cpu.attend_latent(&args, &mut absorbed);
            let heads_of = |rows: usize, seed: u32| {
                let bytes: Vec<u8> = values(heads * rows * c, seed).iter().flat_map(|w| w.to_le_bytes()).collect();
                let weight = WeightMatrix::new(WeightFormat::F32, heads * rows, c, bytes.into(), None).unwrap();
                HeadWeights {
                    weight,
                    n_heads: heads,
                    head_stride: rows,
                    head_start: 0,
                    head_rows: rows,
                    transposed: false,
                }
            };
            let mut expanded = vec![0.0; n_new * heads * V];
            let args = AttendExpanded {
                q: &q,
                q_pe,
                cache: &cache,
                layer: 1,
                spans: &spans,
                block_tables: &block_tables,
                w_uk: &heads_of(N, 13),
                w_uv: &heads_of(V, 17),
                v_head_dim: V,
                scale: 0.2,
            };
            cpu.attend_expanded(&args, &mut expanded);
            [absorbed, expanded]
        }
    }

    #[test]
    fn every_level_gives_the_same_bits() {
        for (heads, c, block_len, n_new, n_cached) in [
            (16, 128, 64, 1, 300),
            (16, 64, 16, 1, 0),
            (16, 64, 16, 3, 130),
            (5, 64, 32, 1, 1077),
            (70, 64, 16, 1, 40),
            // Neither whole sixteens nor whole chunks
            (16, 64, 8, 1, 40),
            (16, 72, 16, 1, 40),
        ] {
            let scene = Scene { heads, c, block_len, n_new, n_cached };
            let expected = scene.attend(Level::Scalar, 1);
            assert!(expected.iter().flatten().all(|value| value.is_finite() && *value != 0.0));
            for level in Level::available() {
                for n_threads in [1, 2] {
                    let found = scene.attend(level, n_threads);
                    let name = level.name();
                    assert_eq!(found, expected, "{heads} heads, {c} channels, {n_new} behind {n_cached}, {name}");
                }
            }
        }
    }
}
