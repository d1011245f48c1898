//! What a model costs: parameters, operations and cache bytes, derived from the weight plan.
//!
//! Owns arithmetic on the plan only; counts saturate, because a config may claim anything. Must not load anything.

use ops::{RowFormat, RowLayout};

use crate::cache::{kv_layout, row_layout};
use crate::config::{Attention, Config};
use crate::forward::{mul_adds_per_head, n_pairs};
use crate::plan::{Role, plan};

/// Weights of a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parameters {
    /// All weights of the main model.
    pub total: u64,
    /// Weights used for one token: k of E experts, one row of the embedding.
    pub active: u64,
    /// Weights of the MTP modules (embedding and head are the main model's).
    pub mtp: u64,
}

/// Counts the plan's weights.
#[must_use]
pub fn parameters(config: &Config) -> Parameters {
    let mut counts = Parameters { total: 0, active: 0, mtp: 0 };
    for tensor in plan(config) {
        let n = tensor.numel();
        if tensor.mtp {
            counts.mtp = counts.mtp.saturating_add(n);
            continue;
        }
        counts.total = counts.total.saturating_add(n);
        let active = match (tensor.role, &config.moe) {
            (Role::Embedding, _) if config.tie_word_embeddings => n,
            (Role::Embedding, _) => config.hidden_size as u64,
            (Role::Expert, Some(moe)) => n / moe.router.n_experts as u64 * moe.router.top_k as u64,
            _ => n,
        };
        counts.active = counts.active.saturating_add(active);
    }
    counts
}

/// Floating-point operations of decoding one token behind `n_cached` cached ones (absorbed MLA); a multiply-add is two.
#[must_use]
pub fn decode_flops(config: &Config, n_cached: u64) -> u64 {
    let n_visible = n_cached.saturating_add(1);
    let per_layer = match &config.attention {
        Attention::Mla(mla) => {
            let h = mla.num_attention_heads as u64;
            (h * (2 * mla.kv_lora_rank + mla.qk_rope_head_dim) as u64).saturating_mul(n_visible)
        }
        Attention::Gqa(gqa) => (2 * (gqa.num_attention_heads * gqa.head_dim) as u64).saturating_mul(n_visible),
    };
    let attention = per_layer.saturating_mul(config.num_hidden_layers as u64);
    parameters(config).active.saturating_add(attention).saturating_mul(2)
}

/// Floating-point operations of `n_new` tokens behind `n_cached` cached ones of which `n_sampled` give logits, with MLA
/// in the cheaper form; a multiply-add is two. Sizes are those of real sequences, so nothing here saturates.
#[must_use]
pub fn step_flops(config: &Config, n_cached: u64, n_new: u64, n_sampled: u64) -> u64 {
    let (d, head) = (config.hidden_size as u64, (config.vocab_size * config.hidden_size) as u64);
    let embedding = if config.tie_word_embeddings { 0 } else { d };
    // What every token meets; the attention's own products, W_UKV among them, are counted by form.
    let (w_ukv, attention) = match &config.attention {
        Attention::Mla(mla) => {
            let h = mla.num_attention_heads as u64;
            let [absorbed, expanded] = mul_adds_per_head(mla, n_cached, n_new);
            let w_ukv = h * ((mla.qk_nope_head_dim + mla.v_head_dim) * mla.kv_lora_rank) as u64;
            (w_ukv, h * absorbed.min(expanded))
        }
        Attention::Gqa(gqa) => (0, n_pairs(n_cached, n_new) * 2 * (gqa.num_attention_heads * gqa.head_dim) as u64),
    };
    let n_layers = config.num_hidden_layers as u64;
    let per_token = parameters(config).active.saturating_sub(head + embedding + n_layers * w_ukv);
    2 * (n_new * per_token + n_layers * attention + n_sampled * head)
}

/// Cache bytes per token of a model and of its hypothetical twins with expanded heads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CacheBytes {
    /// This model's cache.
    pub own: u64,
    /// Multi-head attention with the same heads: keys and values of `head_dim` channels each.
    pub mha: u64,
    /// Grouped-query attention with 8 key-value heads.
    pub gqa_8: u64,
}

/// Bytes per token over all layers.
///
/// The twins' head has as many channels as this model's value head, as the published comparisons count.
#[must_use]
pub fn cache_bytes_per_token(config: &Config, row_format: RowFormat) -> CacheBytes {
    let head_dim = match &config.attention {
        Attention::Mla(mla) => mla.v_head_dim,
        Attention::Gqa(gqa) => gqa.head_dim,
    };
    let per_layer = |row: RowLayout| row.row_bytes() as u64 * config.num_hidden_layers as u64;
    let twin = |n_kv_heads: usize| per_layer(kv_layout(n_kv_heads, head_dim, row_format));
    CacheBytes {
        own: per_layer(row_layout(&config.attention, row_format)),
        mha: twin(config.attention.num_attention_heads()),
        gqa_8: twin(8),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// The published shape of V3 and R1.
    fn v3() -> Config {
        Config::from_json(&json!({
            "model_type": "deepseek_v3", "hidden_act": "silu", "vocab_size": 129280, "hidden_size": 7168,
            "intermediate_size": 18432, "moe_intermediate_size": 2048, "num_hidden_layers": 61,
            "num_attention_heads": 128, "num_key_value_heads": 128, "n_shared_experts": 1, "n_routed_experts": 256,
            "routed_scaling_factor": 2.5, "kv_lora_rank": 512, "q_lora_rank": 1536, "qk_rope_head_dim": 64,
            "v_head_dim": 128, "qk_nope_head_dim": 128, "topk_method": "noaux_tc", "n_group": 8, "topk_group": 4,
            "num_experts_per_tok": 8, "moe_layer_freq": 1, "first_k_dense_replace": 3, "norm_topk_prob": true,
            "scoring_func": "sigmoid", "max_position_embeddings": 163840, "rms_norm_eps": 1e-6, "rope_theta": 10000,
            "num_nextn_predict_layers": 1, "tie_word_embeddings": false,
            "rope_scaling": {"type": "yarn", "factor": 40, "original_max_position_embeddings": 4096,
                             "beta_fast": 32, "beta_slow": 1, "mscale": 1.0, "mscale_all_dim": 1.0}
        }))
        .unwrap()
    }

    #[test]
    fn v3_has_its_published_size() {
        let n = parameters(&v3());
        // 671B, 36.7B active, 11.5B unique in the MTP module (DeepSeek-V3 README_WEIGHTS).
        assert_eq!(n.total / 100_000_000, 6710);
        assert_eq!(n.active / 100_000_000, 366);
        assert!((n.mtp as f64 / 11.5e9 - 1.0).abs() < 0.01, "{}", n.mtp);
    }

    #[test]
    fn a_step_of_one_token_costs_what_decoding_does() {
        let config = v3();
        // Without any context the expanded form is the cheaper one.
        for n_cached in [1, 5000] {
            // Decoding counts the embedding's row as if it were multiplied.
            let embedding = 2 * config.hidden_size as u64;
            assert_eq!(step_flops(&config, n_cached, 1, 1), decode_flops(&config, n_cached) - embedding);
        }
        // A long prompt is cheaper expanded, and its logits are only those asked for.
        let (prompt, tokens) = (step_flops(&config, 0, 4096, 1), 4096 * step_flops(&config, 2048, 1, 1));
        assert!(prompt < tokens && prompt > tokens / 2, "{prompt} {tokens}");
    }

    #[test]
    fn v3_caches_70272_bytes_per_token() {
        let bytes = cache_bytes_per_token(&v3(), RowFormat::BF16);
        assert_eq!(bytes, CacheBytes { own: 70_272, mha: 3_997_696, gqa_8: 249_856 });
        assert_eq!(cache_bytes_per_token(&v3(), RowFormat::Q8).own, 61 * 644);
    }
}
