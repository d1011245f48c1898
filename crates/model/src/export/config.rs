//! [`Config`] → config.json.
//!
//! Owns the published spelling of every switch. What is written is read again and compared, so that a config that has no
//! words there is an error and never another model.

use ops::{RopePairing, RopeScaling, Scoring, Selection};
use serde_json::{Map, Value, json};

use crate::config::{Attention, Config, ConfigError, Family, Gqa, Mla, Moe, Rope};

/// The config.json of a model, as published ones are spelled. FP8 blocks are left out: exported weights have none.
///
/// # Errors
/// Something has no words in config.json: factors per frequency, which only GGUF has and which are not Llama 3's, or
/// biases in some maps alone
pub fn config_json(config: &Config) -> Result<Value, ConfigError> {
    let config = &Config { fp8_block: None, rope: published_rope(config), ..config.clone() };
    let mut json = Map::new();
    let architecture = match config.family {
        Family::DeepseekV2 => "DeepseekV2ForCausalLM",
        Family::DeepseekV3 => "DeepseekV3ForCausalLM",
        Family::Qwen2 => "Qwen2ForCausalLM",
        Family::Qwen3 => "Qwen3ForCausalLM",
        Family::Llama => "LlamaForCausalLM",
    };
    let eos = match &config.eos_token_ids[..] {
        [] => Value::Null,
        [one] => json!(one),
        several => json!(several),
    };
    let mut put = |key: &str, value: Value| {
        json.insert(key.to_owned(), value);
    };
    put("architectures", json!([architecture]));
    put("model_type", json!(config.family.model_type()));
    put("vocab_size", json!(config.vocab_size));
    put("hidden_size", json!(config.hidden_size));
    put("intermediate_size", json!(config.intermediate_size));
    put("num_hidden_layers", json!(config.num_hidden_layers));
    put("num_attention_heads", json!(config.attention.num_attention_heads()));
    match &config.attention {
        Attention::Mla(mla) => put_mla(config, mla, &mut put),
        Attention::Gqa(gqa) => put_gqa(config, gqa, &mut put),
    }
    if let Some(moe) = &config.moe {
        put_moe(config.family, moe, &mut put);
    }
    put("hidden_act", json!("silu"));
    put("rms_norm_eps", shortest(config.rms_norm_eps));
    put("rope_theta", json!(config.rope.rope_theta));
    put("rope_scaling", scaling(config));
    put("max_position_embeddings", json!(config.max_position_embeddings));
    put("tie_word_embeddings", json!(config.tie_word_embeddings));
    put("bos_token_id", json!(config.bos_token_id));
    put("eos_token_id", eos);
    put("use_cache", json!(true));
    let json = Value::Object(json);
    let again = Config::from_json(&json)?;
    if again == *config {
        return Ok(json);
    }
    let different = match again.rope == config.rope {
        true => "the model's attention",
        false => "rope_scaling",
    };
    Err(ConfigError::new("config.json", different, "a model that config.json has words for", "one that only GGUF has"))
}

/// Llama 3's scaling where the factors of a GGUF file are those that it yields.
fn published_rope(config: &Config) -> Rope {
    let RopeScaling::Factors(factors) = &config.rope.scaling else { return config.rope.clone() };
    let llama3 = Rope {
        scaling: RopeScaling::Llama3 {
            factor: factors.iter().fold(1.0, |max, f| f64::from(*f).max(max)),
            low_freq_factor: 1.0,
            high_freq_factor: 4.0,
            original_max_position_embeddings: 8192.0,
        },
        ..config.rope.clone()
    };
    let [stored, published] =
        [&config.rope, &llama3].map(|rope| Config { rope: rope.clone(), ..config.clone() }.rope_table().inv_freq);
    let is_near = |(a, b): (&f32, &f32)| (a - b).abs() <= 1e-5 * b.abs();
    if stored.iter().zip(&published).all(is_near) { llama3 } else { config.rope.clone() }
}

fn put_gqa(config: &Config, gqa: &Gqa, put: &mut impl FnMut(&str, Value)) {
    put("num_key_value_heads", json!(gqa.num_key_value_heads));
    put("head_dim", json!(gqa.head_dim));
    if config.family != Family::Qwen2 {
        put("attention_bias", json!(gqa.o_bias));
    }
    if config.family == Family::Llama {
        put("mlp_bias", json!(config.mlp_bias));
    }
}

fn put_mla(config: &Config, mla: &Mla, put: &mut impl FnMut(&str, Value)) {
    put("num_key_value_heads", json!(mla.num_attention_heads));
    put("q_lora_rank", json!(mla.q_lora_rank));
    put("kv_lora_rank", json!(mla.kv_lora_rank));
    put("qk_nope_head_dim", json!(mla.qk_nope_head_dim));
    put("qk_rope_head_dim", json!(mla.qk_rope_head_dim));
    put("v_head_dim", json!(mla.v_head_dim));
    put("attention_bias", json!(mla.bias));
    if config.family == Family::DeepseekV3 {
        put("rope_interleave", json!(config.rope.pairing == RopePairing::Interleaved));
        put("num_nextn_predict_layers", json!(config.num_nextn_predict_layers));
    }
}

fn put_moe(family: Family, moe: &Moe, put: &mut impl FnMut(&str, Value)) {
    let router = &moe.router;
    put("n_routed_experts", json!(router.n_experts));
    put("num_experts_per_tok", json!(router.top_k));
    put("n_shared_experts", json!(moe.n_shared_experts));
    put("moe_intermediate_size", json!(moe.moe_intermediate_size));
    put("first_k_dense_replace", json!(moe.first_k_dense_replace));
    put("moe_layer_freq", json!(1));
    let (method, n_group, topk_group) = match router.selection {
        Selection::Greedy => ("greedy", 1, 1),
        Selection::GroupLimitedGreedy { n_group, topk_group } => ("group_limited_greedy", n_group, topk_group),
        Selection::NoAuxTc { n_group, topk_group } => ("noaux_tc", n_group, topk_group),
    };
    put("topk_method", json!(method));
    put("n_group", json!(n_group));
    put("topk_group", json!(topk_group));
    let scoring = match router.scoring {
        Scoring::Softmax => "softmax",
        Scoring::Sigmoid => "sigmoid",
    };
    put("scoring_func", json!(scoring));
    if family == Family::DeepseekV3 {
        put("norm_topk_prob", json!(router.norm_topk_prob));
    }
    put("routed_scaling_factor", shortest(router.routed_scaling_factor));
}

fn scaling(config: &Config) -> Value {
    match &config.rope.scaling {
        RopeScaling::None | RopeScaling::Factors(_) => Value::Null,
        RopeScaling::Linear { factor } => json!({"rope_type": "linear", "factor": factor}),
        RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_max_position_embeddings } => json!({
            "rope_type": "llama3",
            "factor": factor,
            "low_freq_factor": low_freq_factor,
            "high_freq_factor": high_freq_factor,
            "original_max_position_embeddings": count(*original_max_position_embeddings),
        }),
        RopeScaling::Yarn { factor, original_max_position_embeddings, beta_fast, beta_slow, truncate, magnitude } => {
            let mut yarn = json!({
                "rope_type": "yarn",
                "factor": factor,
                "original_max_position_embeddings": count(*original_max_position_embeddings),
                "beta_fast": beta_fast,
                "beta_slow": beta_slow,
                "truncate": truncate,
                "attention_factor": magnitude,
            });
            if let Attention::Mla(mla) = &config.attention {
                // softmax_scale = m²/√(n+R), m = 1 + 0.1·mscale_all_dim·ln(factor). Published values have few digits,
                // which the scale's rounding to f32 must not turn into many.
                let m = (f64::from(mla.softmax_scale) * (mla.qk_head_dim() as f64).sqrt()).sqrt();
                let all = (m - 1.0) / (0.1 * factor.ln());
                yarn["mscale_all_dim"] = json!((all * 1e5).round() / 1e5);
            }
            yarn
        }
    }
}

/// An f32 with the digits it needs.
fn shortest(value: f32) -> Value {
    value.to_string().parse::<f64>().map_or(Value::Null, Value::from)
}

/// A number of tokens, whole where it is; transformers takes nothing else here, and elsewhere nothing but fractions.
fn count(value: f64) -> Value {
    if value.fract() == 0.0 && value.abs() < 1e15 { json!(value as i64) } else { json!(value) }
}
