//! The cache of one model: blocks of rows for every layer.
//!
//! Owns what a row holds: `[c_kv | k_pe]` of MLA (the latent *is* the cache), `[v heads | k heads]` of a dense model.
//! Must not decide which block belongs to whom.

use ops::{CacheSpec, Device, DeviceError, RowFormat, RowLayout};

use crate::{Config, Model, config::Attention};

/// Latent rows `[c_kv | k_pe]`: C + R values per token and layer, whatever the number of heads.
pub struct LatentCache<D: Device> {
    pub(crate) rows: D::Cache,
    spec: CacheSpec,
}

/// Expanded rows `[v heads | k heads]` of a dense model.
pub struct KvCache<D: Device> {
    pub(crate) rows: D::Cache,
    spec: CacheSpec,
}

/// The cache that a model's attention wants.
pub enum Cache<D: Device> {
    /// MLA.
    Latent(LatentCache<D>),
    /// Grouped-query attention.
    Kv(KvCache<D>),
}

/// Channels of a dense model's values that share a scale in 8 bits, where that divides a head.
const KV_GROUP: usize = 32;

/// What a row holds. In 8 bits a latent has one scale, and its rotated key stays in 16 bits.
#[must_use]
pub fn row_layout(attention: &Attention, row_format: RowFormat) -> RowLayout {
    match attention {
        Attention::Mla(mla) => RowLayout {
            row_len: mla.latent_dim(),
            group_len: mla.kv_lora_rank,
            tail_len: mla.qk_rope_head_dim,
            row_format,
        },
        Attention::Gqa(gqa) => kv_layout(gqa.num_key_value_heads, gqa.head_dim, row_format),
    }
}

/// Rows `[v heads | k heads]`. In 8 bits only the values are: in one Qwen2.5 the perplexity of keys rounded to 8 bits by
/// thirty-twos was 5 % worse, of 16-bit keys not at all.
pub(crate) fn kv_layout(n_kv_heads: usize, head_dim: usize, row_format: RowFormat) -> RowLayout {
    let group_len = if head_dim.is_multiple_of(KV_GROUP) { KV_GROUP } else { head_dim };
    let half = n_kv_heads * head_dim;
    RowLayout { row_len: 2 * half, group_len, tail_len: half, row_format }
}

/// Geometry of a cache for a config.
#[must_use]
pub fn cache_spec(config: &Config, n_blocks: usize, block_len: usize, row_format: RowFormat) -> CacheSpec {
    let row = row_layout(&config.attention, row_format);
    CacheSpec { n_layers: config.num_hidden_layers, n_blocks, block_len, row }
}

impl<D: Device> Cache<D> {
    /// A cache for the main model's layers.
    ///
    /// # Errors
    /// the device is out of memory
    pub fn new(
        model: &Model<D>,
        dev: &D,
        n_blocks: usize,
        block_len: usize,
        row_format: RowFormat,
    ) -> Result<Self, DeviceError> {
        Self::with_spec(model, dev, &cache_spec(&model.config, n_blocks, block_len, row_format))
    }

    /// A cache for the MTP module: one layer of its own.
    ///
    /// # Errors
    /// the device is out of memory
    pub fn new_mtp(
        model: &Model<D>,
        dev: &D,
        n_blocks: usize,
        block_len: usize,
        row_format: RowFormat,
    ) -> Result<Self, DeviceError> {
        let spec = CacheSpec { n_layers: 1, ..cache_spec(&model.config, n_blocks, block_len, row_format) };
        Self::with_spec(model, dev, &spec)
    }

    fn with_spec(model: &Model<D>, dev: &D, spec: &CacheSpec) -> Result<Self, DeviceError> {
        let rows = dev.alloc_cache(spec)?;
        Ok(match model.config.attention {
            Attention::Mla(_) => Self::Latent(LatentCache { rows, spec: *spec }),
            Attention::Gqa(_) => Self::Kv(KvCache { rows, spec: *spec }),
        })
    }

    fn rows(&self) -> &D::Cache {
        match self {
            Self::Latent(LatentCache { rows, .. }) | Self::Kv(KvCache { rows, .. }) => rows,
        }
    }

    fn rows_mut(&mut self) -> &mut D::Cache {
        match self {
            Self::Latent(LatentCache { rows, .. }) | Self::Kv(KvCache { rows, .. }) => rows,
        }
    }

    /// Its geometry.
    #[must_use]
    pub fn spec(&self) -> &CacheSpec {
        match self {
            Self::Latent(LatentCache { spec, .. }) | Self::Kv(KvCache { spec, .. }) => spec,
        }
    }

    /// Copies a block in every layer: copy-on-write of a shared, partly filled block.
    pub fn copy_block(&mut self, dev: &D, from: u32, to: u32) {
        dev.cache_copy_block(self.rows_mut(), from, to);
    }

    /// Bytes of a block in all layers.
    #[must_use]
    pub fn block_bytes(&self) -> usize {
        self.spec().block_bytes()
    }

    /// A block's rows in all layers, as bytes that mean the same on every device ([`CacheSpec::block_bytes`]).
    ///
    /// # Errors
    /// The device failed
    /// # Panics
    /// If there is no such block, or `out` is not [`Cache::block_bytes`] long
    pub fn read_block(&self, dev: &D, block: u32, out: &mut [u8]) -> Result<(), DeviceError> {
        dev.cache_read_block(self.rows(), block, out)
    }

    /// Replaces a block's rows by those that [`Cache::read_block`] gave.
    ///
    /// # Errors
    /// The device failed
    /// # Panics
    /// As [`Cache::read_block`]
    pub fn write_block(&mut self, dev: &D, block: u32, bytes: &[u8]) -> Result<(), DeviceError> {
        dev.cache_write_block(self.rows_mut(), block, bytes)
    }
}
