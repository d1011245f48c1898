//! The weight plan: every tensor a config asks for, in one table.
//!
//! Owns logical names, checkpoint names, shapes and roles. Loading, counting, writing and training all read this table.
//! Must not touch bytes.

use crate::config::{Attention, Config, Gqa, Mla, Moe};

/// What a tensor is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Token embedding; one row is read per token.
    Embedding,
    /// Output head.
    Head,
    /// Weight of an RMS norm.
    Norm,
    /// Bias of a linear map.
    Bias,
    /// Matrix of an attention block.
    Attention,
    /// Matrix of a dense FFN.
    Dense,
    /// Router matrix or its bias.
    Router,
    /// All routed experts' matrices of one kind, stacked.
    Expert,
    /// Matrix of the shared experts.
    Shared,
    /// Projection of an MTP module.
    Mtp,
}

/// One line of the plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlannedTensor {
    /// Our name: `layers.3.w_o`.
    pub name: String,
    /// What it is for.
    pub role: Role,
    /// `[rows, cols]`, `[n]`, or `[E, rows, cols]`.
    pub shape: Vec<usize>,
    /// Published safetensors name; `{}` stands for the expert where experts are stored one by one.
    pub safetensors: String,
    /// GGUF name.
    pub gguf: String,
    /// Belongs to an MTP module, not to the main model.
    pub mtp: bool,
}

impl PlannedTensor {
    /// Number of weights; `u64::MAX` where a hostile config asks for more.
    #[must_use]
    pub fn numel(&self) -> u64 {
        self.shape.iter().fold(1, |n: u64, &d| n.saturating_mul(d as u64))
    }
}

/// The MLA up-projection as newer GGUF files split it: `(name, shape)` of `attn_k_b` and `attn_v_b`.
///
/// `attn_k_b` holds W_UK transposed per head, `[H, C, n]`; `attn_v_b` holds W_UV, `[H, v, C]`.
#[must_use]
pub fn gguf_split_kv_b(mla: &Mla, layer: usize) -> [(String, [usize; 3]); 2] {
    let (h, c) = (mla.num_attention_heads, mla.kv_lora_rank);
    [
        (format!("blk.{layer}.attn_k_b.weight"), [h, c, mla.qk_nope_head_dim]),
        (format!("blk.{layer}.attn_v_b.weight"), [h, mla.v_head_dim, c]),
    ]
}

/// Every tensor of the main model, then of the MTP modules.
#[must_use]
pub fn plan(config: &Config) -> Vec<PlannedTensor> {
    let mut plan = Planner { tensors: Vec::new(), layer: None, mtp: false };
    let (d, vocab) = (config.hidden_size, config.vocab_size);
    plan.add("embed", Role::Embedding, &[vocab, d], "model.embed_tokens.weight", "token_embd.weight");
    for layer in 0..config.num_hidden_layers {
        plan.layer = Some(layer);
        plan.layer(config, layer);
    }
    plan.layer = None;
    plan.add("norm", Role::Norm, &[d], "model.norm.weight", "output_norm.weight");
    if !config.tie_word_embeddings {
        plan.add("head", Role::Head, &[vocab, d], "lm_head.weight", "output.weight");
    }
    for layer in config.num_hidden_layers..config.num_hidden_layers + config.num_nextn_predict_layers {
        (plan.layer, plan.mtp) = (Some(layer), true);
        plan.add("enorm", Role::Norm, &[d], "enorm.weight", "nextn.enorm.weight");
        plan.add("hnorm", Role::Norm, &[d], "hnorm.weight", "nextn.hnorm.weight");
        plan.add("w_eh", Role::Mtp, &[d, 2 * d], "eh_proj.weight", "nextn.eh_proj.weight");
        plan.layer(config, layer);
        plan.add("head_norm", Role::Norm, &[d], "shared_head.norm.weight", "nextn.shared_head_norm.weight");
    }
    plan.tensors
}

struct Planner {
    tensors: Vec<PlannedTensor>,
    layer: Option<usize>,
    mtp: bool,
}

impl Planner {
    fn add(&mut self, name: &str, role: Role, shape: &[usize], safetensors: &str, gguf: &str) {
        let (name, safetensors, gguf) = match self.layer {
            None => (name.to_owned(), safetensors.to_owned(), gguf.to_owned()),
            Some(i) => {
                (format!("layers.{i}.{name}"), format!("model.layers.{i}.{safetensors}"), format!("blk.{i}.{gguf}"))
            }
        };
        self.tensors.push(PlannedTensor { name, role, shape: shape.to_vec(), safetensors, gguf, mtp: self.mtp });
    }

    fn layer(&mut self, config: &Config, layer: usize) {
        let d = config.hidden_size;
        self.add("input_norm", Role::Norm, &[d], "input_layernorm.weight", "attn_norm.weight");
        match &config.attention {
            Attention::Mla(mla) => self.mla(mla, d),
            Attention::Gqa(gqa) => self.gqa(gqa, d),
        }
        self.add("post_attention_norm", Role::Norm, &[d], "post_attention_layernorm.weight", "ffn_norm.weight");
        match config.moe_of(layer) {
            Some(moe) => self.moe(moe, d),
            None => self.swiglu(Role::Dense, "", [d, config.intermediate_size], "mlp", "", config.mlp_bias),
        }
    }

    /// A linear map of an attention block, `[rows, cols]`, with its bias where the config has one.
    fn linear(&mut self, name: &str, shape: [usize; 2], safetensors: &str, gguf: &str, bias: bool) {
        let hf = format!("self_attn.{safetensors}");
        self.add(&format!("w_{name}"), Role::Attention, &shape, &format!("{hf}.weight"), &format!("{gguf}.weight"));
        if bias {
            self.add(&format!("b_{name}"), Role::Bias, &shape[..1], &format!("{hf}.bias"), &format!("{gguf}.bias"));
        }
    }

    fn mla(&mut self, mla: &Mla, d: usize) {
        let h = mla.num_attention_heads;
        let (q_dim, c) = (h * mla.qk_head_dim(), mla.kv_lora_rank);
        match mla.q_lora_rank {
            None => self.linear("q", [q_dim, d], "q_proj", "attn_q", false),
            Some(rank) => {
                self.linear("dq", [rank, d], "q_a_proj", "attn_q_a", mla.bias);
                self.add("q_norm", Role::Norm, &[rank], "self_attn.q_a_layernorm.weight", "attn_q_a_norm.weight");
                self.linear("uq", [q_dim, rank], "q_b_proj", "attn_q_b", false);
            }
        }
        self.linear("dkv", [mla.latent_dim(), d], "kv_a_proj_with_mqa", "attn_kv_a_mqa", mla.bias);
        self.add("kv_norm", Role::Norm, &[c], "self_attn.kv_a_layernorm.weight", "attn_kv_a_norm.weight");
        self.linear("ukv", [h * (mla.qk_nope_head_dim + mla.v_head_dim), c], "kv_b_proj", "attn_kv_b", false);
        self.linear("o", [d, h * mla.v_head_dim], "o_proj", "attn_output", mla.bias);
    }

    fn gqa(&mut self, gqa: &Gqa, d: usize) {
        let (q_dim, kv_dim) = (gqa.num_attention_heads * gqa.head_dim, gqa.num_key_value_heads * gqa.head_dim);
        self.linear("q", [q_dim, d], "q_proj", "attn_q", gqa.qkv_bias);
        self.linear("k", [kv_dim, d], "k_proj", "attn_k", gqa.qkv_bias);
        self.linear("v", [kv_dim, d], "v_proj", "attn_v", gqa.qkv_bias);
        if gqa.qk_norm {
            self.add("q_norm", Role::Norm, &[gqa.head_dim], "self_attn.q_norm.weight", "attn_q_norm.weight");
            self.add("k_norm", Role::Norm, &[gqa.head_dim], "self_attn.k_norm.weight", "attn_k_norm.weight");
        }
        self.linear("o", [d, q_dim], "o_proj", "attn_output", gqa.o_bias);
    }

    /// Gate, up `[width, d]` and down `[d, width]`, `[d, width] = dims`.
    fn swiglu(&mut self, role: Role, prefix: &str, dims: [usize; 2], hf: &str, gguf_suffix: &str, bias: bool) {
        let [d, width] = dims;
        for (kind, shape) in [("gate", [width, d]), ("up", [width, d]), ("down", [d, width])] {
            let (hf, gguf) = (format!("{hf}.{kind}_proj"), format!("ffn_{kind}{gguf_suffix}"));
            let weight = (format!("{hf}.weight"), format!("{gguf}.weight"));
            self.add(&format!("{prefix}w_{kind}"), role, &shape, &weight.0, &weight.1);
            if bias {
                let bias = (format!("{hf}.bias"), format!("{gguf}.bias"));
                self.add(&format!("{prefix}b_{kind}"), Role::Bias, &shape[..1], &bias.0, &bias.1);
            }
        }
    }

    fn moe(&mut self, moe: &Moe, d: usize) {
        let (n_experts, width) = (moe.router.n_experts, moe.moe_intermediate_size);
        self.add("router", Role::Router, &[n_experts, d], "mlp.gate.weight", "ffn_gate_inp.weight");
        if moe.router_bias {
            let bias = "mlp.gate.e_score_correction_bias";
            self.add("router_bias", Role::Router, &[n_experts], bias, "exp_probs_b.bias");
        }
        for (kind, shape) in
            [("gate", [n_experts, width, d]), ("up", [n_experts, width, d]), ("down", [n_experts, d, width])]
        {
            let hf = format!("mlp.experts.{{}}.{kind}_proj.weight");
            self.add(&format!("experts.w_{kind}"), Role::Expert, &shape, &hf, &format!("ffn_{kind}_exps.weight"));
        }
        if moe.n_shared_experts > 0 {
            let dims = [d, moe.n_shared_experts * width];
            self.swiglu(Role::Shared, "shared.", dims, "mlp.shared_experts", "_shexp", false);
        }
    }
}
