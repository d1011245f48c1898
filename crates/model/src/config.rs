//! What kind of model a checkpoint holds.
//!
//! Owns the one description that plan, forward and counts read. Every accepted switch is an enum or a checked number;
//! a value outside of them is refused by name when the model is loaded, never ignored.
//! Must not hold weights or know file formats beyond the two readers below `config/`.

mod gguf;
mod hf;
mod keys;
mod rope;

use ops::{NormLayout, RopePairing, RopeScaling, RopeTable, RouterSpec};

pub use keys::ConfigError;

/// Published architecture family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// V2, V2-Lite, Coder-V2, V2.5.
    DeepseekV2,
    /// V3, R1, V3.1.
    DeepseekV3,
    /// Qwen2, Qwen2.5 and the R1 distills made from them.
    Qwen2,
    /// Qwen3 and R1-0528-Qwen3-8B.
    Qwen3,
    /// Llama 3 and the R1 distills made from it.
    Llama,
}

impl Family {
    /// The family's `model_type` in config.json.
    #[must_use]
    pub fn model_type(self) -> &'static str {
        match self {
            Self::DeepseekV2 => "deepseek_v2",
            Self::DeepseekV3 => "deepseek_v3",
            Self::Qwen2 => "qwen2",
            Self::Qwen3 => "qwen3",
            Self::Llama => "llama",
        }
    }
}

/// Multi-head Latent Attention.
#[derive(Clone, Debug, PartialEq)]
pub struct Mla {
    /// H
    pub num_attention_heads: usize,
    /// Width of the query latent; none where queries are projected directly.
    pub q_lora_rank: Option<usize>,
    /// C, width of the cached latent.
    pub kv_lora_rank: usize,
    /// n, unrotated channels per head.
    pub qk_nope_head_dim: usize,
    /// R, rotated channels, shared by all heads on the key side.
    pub qk_rope_head_dim: usize,
    /// v, value channels per head.
    pub v_head_dim: usize,
    /// Biases on the two down-projections and the output (`attention_bias`).
    pub bias: bool,
    /// Multiplies scores: (n + R)^(−1/2), with YaRN's squared magnitude where the config asks for it.
    pub softmax_scale: f32,
}

impl Mla {
    /// Query and key channels per head, n + R.
    #[must_use]
    pub fn qk_head_dim(&self) -> usize {
        self.qk_nope_head_dim + self.qk_rope_head_dim
    }

    /// Values cached per token and layer, C + R.
    #[must_use]
    pub fn latent_dim(&self) -> usize {
        self.kv_lora_rank + self.qk_rope_head_dim
    }
}

/// Grouped-query attention.
#[derive(Clone, Debug, PartialEq)]
pub struct Gqa {
    /// H
    pub num_attention_heads: usize,
    /// Key-value heads.
    pub num_key_value_heads: usize,
    /// Channels per head.
    pub head_dim: usize,
    /// Biases on q, k and v.
    pub qkv_bias: bool,
    /// Bias on the output.
    pub o_bias: bool,
    /// RMS norm over each query and key head before RoPE (Qwen3).
    pub qk_norm: bool,
}

/// How tokens look at each other.
#[derive(Clone, Debug, PartialEq)]
pub enum Attention {
    /// DeepSeek's.
    Mla(Mla),
    /// The distills'.
    Gqa(Gqa),
}

impl Attention {
    /// Query heads.
    #[must_use]
    pub fn num_attention_heads(&self) -> usize {
        match self {
            Self::Mla(mla) => mla.num_attention_heads,
            Self::Gqa(gqa) => gqa.num_attention_heads,
        }
    }

    /// Values cached per token and layer.
    #[must_use]
    pub fn cache_row_len(&self) -> usize {
        match self {
            Self::Mla(mla) => mla.latent_dim(),
            Self::Gqa(gqa) => 2 * gqa.num_key_value_heads * gqa.head_dim,
        }
    }
}

/// Mixture of experts.
#[derive(Clone, Debug, PartialEq)]
pub struct Moe {
    /// Router: E, k, scores and choice.
    pub router: RouterSpec,
    /// Whether the router has a bias per expert (`e_score_correction_bias`).
    pub router_bias: bool,
    /// Width of one routed expert.
    pub moe_intermediate_size: usize,
    /// Shared experts, computed as one SwiGLU of this many expert widths.
    pub n_shared_experts: usize,
    /// Leading layers with a dense FFN instead.
    pub first_k_dense_replace: usize,
}

/// Rotary embedding.
#[derive(Clone, Debug, PartialEq)]
pub struct Rope {
    /// Base.
    pub rope_theta: f64,
    /// Long-context scaling.
    pub scaling: RopeScaling,
    /// Pairs.
    pub pairing: RopePairing,
}

/// FP8 checkpoints: weights per scale, `[rows, cols]`.
pub type Fp8Block = [usize; 2];

/// A model's architecture, complete and checked.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Published family.
    pub family: Family,
    /// Rows of embedding and head.
    pub vocab_size: usize,
    /// d
    pub hidden_size: usize,
    /// Layers of the main model.
    pub num_hidden_layers: usize,
    /// Width of the dense FFN.
    pub intermediate_size: usize,
    /// Biases in the dense FFN (`mlp_bias`).
    pub mlp_bias: bool,
    /// Experts, if any.
    pub moe: Option<Moe>,
    /// Attention.
    pub attention: Attention,
    /// Positions.
    pub rope: Rope,
    /// Added to the mean square in RMS norms.
    pub rms_norm_eps: f32,
    /// Whether the head is the embedding.
    pub tie_word_embeddings: bool,
    /// Longest context the model was made for.
    pub max_position_embeddings: usize,
    /// Multi-token-prediction modules described by the config; the weights may lack them.
    pub num_nextn_predict_layers: usize,
    /// Start-of-text token, if any.
    pub bos_token_id: Option<u32>,
    /// Tokens that end an answer.
    pub eos_token_ids: Vec<u32>,
    /// Set for FP8 checkpoints.
    pub fp8_block: Option<Fp8Block>,
}

/// Epsilon of the latents' norms, whatever `rms_norm_eps` says: DeepSeek's code builds them with its default.
pub const LATENT_NORM_EPS: f32 = 1e-6;

impl Config {
    /// Reads a published config.json, in the publishers' form or in that of transformers 5.
    ///
    /// # Errors
    /// a key is missing, has the wrong type, or a value this program does not compute
    pub fn from_json(json: &serde_json::Value) -> Result<Self, ConfigError> {
        hf::read(json)
    }

    /// Reads the metadata of a GGUF file, and the tensors that take the place of metadata.
    ///
    /// # Errors
    /// as [`Config::from_json`]
    pub fn from_gguf(file: &checkpoint::Checkpoint) -> Result<Self, ConfigError> {
        gguf::read(file)
    }

    /// The rotary frequencies.
    #[must_use]
    pub fn rope_table(&self) -> RopeTable {
        let dim = match &self.attention {
            Attention::Mla(mla) => mla.qk_rope_head_dim,
            Attention::Gqa(gqa) => gqa.head_dim,
        };
        RopeTable::new(dim, self.rope.rope_theta, &self.rope.scaling, self.rope.pairing)
    }

    /// The experts of layer `layer`, if it has any; the layers after the main model (MTP) always do.
    #[must_use]
    pub fn moe_of(&self, layer: usize) -> Option<&Moe> {
        self.moe.as_ref().filter(|moe| layer >= moe.first_k_dense_replace)
    }

    /// Layout of the residual stream's norms.
    #[must_use]
    pub fn norm(&self, n_rows: usize) -> NormLayout {
        NormLayout { n_rows, row_stride: self.hidden_size, dim: self.hidden_size, eps: self.rms_norm_eps }
    }
}
