//! A loaded model's weights on a device.
//!
//! Owns the tree that the forward pass walks. Must not know names or files.

use ops::{Device, ExpertWeights, HeadWeights, RopeTable};

use crate::Config;

/// y = x·Wᵀ + b.
pub struct Linear<D: Device> {
    /// `[rows, cols]`
    pub w: D::Weight,
    /// `[rows]`
    pub b: Option<D::Buffer>,
}

/// W_down(silu(W_gate x) · W_up x).
pub struct SwiGlu<D: Device> {
    /// `[I, d]`
    pub w_gate: Linear<D>,
    /// `[I, d]`
    pub w_up: Linear<D>,
    /// `[d, I]`
    pub w_down: Linear<D>,
    /// I
    pub width: usize,
}

/// How MLA makes queries.
pub enum MlaQuery<D: Device> {
    /// `w_q [H·(n+R), d]`
    Direct(Linear<D>),
    /// Through a normalised latent of `rank` values.
    Latent {
        /// `[rank, d]`
        w_dq: Linear<D>,
        /// `[rank]`
        q_norm: D::Buffer,
        /// `[H·(n+R), rank]`
        w_uq: Linear<D>,
        /// `q_lora_rank`
        rank: usize,
    },
}

/// Multi-head Latent Attention.
pub struct MlaWeights<D: Device> {
    /// Queries.
    pub query: MlaQuery<D>,
    /// `[C + R, d]`: latent and rotated key.
    pub w_dkv: Linear<D>,
    /// `[C]`
    pub kv_norm: D::Buffer,
    /// Latent to keys, logical `[n, C]` per head.
    pub w_uk: HeadWeights<D::Weight>,
    /// Latent to values, logical `[v, C]` per head.
    pub w_uv: HeadWeights<D::Weight>,
    /// `[d, H·v]`
    pub w_o: Linear<D>,
}

/// Grouped-query attention.
pub struct GqaWeights<D: Device> {
    /// `[H·D, d]`
    pub w_q: Linear<D>,
    /// `[n_kv_heads·D, d]`
    pub w_k: Linear<D>,
    /// `[n_kv_heads·D, d]`
    pub w_v: Linear<D>,
    /// `[d, H·D]`
    pub w_o: Linear<D>,
    /// `[D]` each, of queries and keys (Qwen3).
    pub qk_norm: Option<[D::Buffer; 2]>,
}

/// One layer's attention.
pub enum AttentionWeights<D: Device> {
    /// DeepSeek's.
    Mla(MlaWeights<D>),
    /// The distills'.
    Gqa(GqaWeights<D>),
}

/// One layer's FFN.
pub enum FfnWeights<D: Device> {
    /// One SwiGLU.
    Dense(SwiGlu<D>),
    /// Router, routed experts, and the shared experts as one SwiGLU.
    Moe {
        /// `[E, d]`
        router: D::Weight,
        /// `[E]`
        router_bias: Option<D::Buffer>,
        /// E experts.
        experts: ExpertWeights<D::Weight>,
        /// Always computed.
        shared: Option<SwiGlu<D>>,
    },
}

/// One transformer layer.
pub struct LayerWeights<D: Device> {
    /// `[d]`
    pub input_norm: D::Buffer,
    /// Attention.
    pub attention: AttentionWeights<D>,
    /// `[d]`
    pub post_attention_norm: D::Buffer,
    /// Feed-forward.
    pub ffn: FfnWeights<D>,
}

/// A multi-token-prediction module.
pub struct MtpWeights<D: Device> {
    /// `[d]`, norm of the next token's embedding.
    pub enorm: D::Buffer,
    /// `[d]`, norm of the main model's output.
    pub hnorm: D::Buffer,
    /// `[d, 2d]`, embedding half first.
    pub w_eh: D::Weight,
    /// A full decoder layer.
    pub layer: LayerWeights<D>,
    /// `[d]`, norm before the head.
    pub head_norm: D::Buffer,
}

/// A model ready to run.
pub struct Model<D: Device> {
    /// Its architecture; `num_nextn_predict_layers` tells the MTP modules that are really there.
    pub config: Config,
    /// Rotary frequencies.
    pub rope: RopeTable,
    /// `[vocab, d]`
    pub embed: D::Weight,
    /// The main model's layers.
    pub layers: Vec<LayerWeights<D>>,
    /// `[d]`
    pub norm: D::Buffer,
    /// `[vocab, d]`; none where the embedding serves.
    pub head: Option<D::Weight>,
    /// MTP module, where the checkpoint has one.
    pub mtp: Option<MtpWeights<D>>,
}

impl<D: Device> Model<D> {
    /// The output head.
    pub(crate) fn head(&self) -> &D::Weight {
        self.head.as_ref().unwrap_or(&self.embed)
    }
}
