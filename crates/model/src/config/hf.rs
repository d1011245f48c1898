//! config.json of the published models → [`Config`].
//!
//! Owns the meaning of each key and its default. Defaults are the publishers' (their own code's), not guesses.
//! Must not accept a value whose computation has no fixture.

use ops::{RouterSpec, Scoring, Selection};
use serde_json::{Value, json};

use super::keys::{ConfigError, Keys};
use super::{Attention, Config, Family, Fp8Block, Gqa, Mla, Moe, rope};

const FAMILIES: [(&str, Family); 5] = [
    ("deepseek_v2", Family::DeepseekV2),
    ("deepseek_v3", Family::DeepseekV3),
    ("qwen2", Family::Qwen2),
    ("qwen3", Family::Qwen3),
    ("llama", Family::Llama),
];

/// Most layers accepted; the deepest published model has 126.
const LAYERS_MAX: usize = 1024;
/// Longest context accepted.
const POSITIONS_MAX: usize = 1 << 27;

pub(super) fn read(json: &Value) -> Result<Config, ConfigError> {
    let keys = Keys::new("config.json", json)?;
    let family = keys.choice("model_type", &FAMILIES, None)?;
    keys.only("hidden_act", &json!("silu"))?;
    let hidden_size = keys.dim("hidden_size")?;
    let num_hidden_layers = keys.dim_up_to("num_hidden_layers", LAYERS_MAX)?;
    if family != Family::Llama {
        keys.only("mlp_bias", &json!(false))?;
    }
    let is_deepseek = matches!(family, Family::DeepseekV2 | Family::DeepseekV3);
    let (rope, softmax_mscale) = rope::read(&keys, family)?;
    let (attention, moe) = if is_deepseek {
        (Attention::Mla(mla(&keys, softmax_mscale)?), moe(&keys, family, num_hidden_layers)?)
    } else {
        (Attention::Gqa(gqa(&keys, family, hidden_size)?), None)
    };
    let config = Config {
        family,
        vocab_size: keys.dim("vocab_size")?,
        hidden_size,
        num_hidden_layers,
        intermediate_size: keys.dim("intermediate_size")?,
        mlp_bias: keys.flag("mlp_bias", false)?,
        moe,
        attention,
        rope,
        rms_norm_eps: keys.opt_positive("rms_norm_eps")?.unwrap_or(1e-6) as f32,
        tie_word_embeddings: keys.flag("tie_word_embeddings", false)?,
        max_position_embeddings: keys.dim_up_to("max_position_embeddings", POSITIONS_MAX)?,
        num_nextn_predict_layers: keys.count("num_nextn_predict_layers")?.unwrap_or(0),
        bos_token_id: token_ids(&keys, "bos_token_id")?.first().copied(),
        eos_token_ids: token_ids(&keys, "eos_token_id")?,
        fp8_block: fp8_block(&keys)?,
    };
    check_mtp(&keys, &config)?;
    Ok(config)
}

fn check_mtp(keys: &Keys<'_>, config: &Config) -> Result<(), ConfigError> {
    let n = config.num_nextn_predict_layers;
    if n > 1 || (n == 1 && config.family != Family::DeepseekV3) {
        return Err(keys.error("num_nextn_predict_layers", "0, or 1 for deepseek_v3", &n.to_string()));
    }
    Ok(())
}

/// A token id, or a list of them.
fn token_ids(keys: &Keys<'_>, key: &str) -> Result<Vec<u32>, ConfigError> {
    let id = |v: &Value| {
        let id = v.as_u64().and_then(|id| u32::try_from(id).ok());
        id.ok_or_else(|| keys.error(key, "a token id or a list of them", &v.to_string()))
    };
    match keys.get(key) {
        None => Ok(Vec::new()),
        Some(Value::Array(ids)) => ids.iter().take(64).map(id).collect(),
        Some(single) => Ok(vec![id(single)?]),
    }
}

fn mla(keys: &Keys<'_>, softmax_mscale: f64) -> Result<Mla, ConfigError> {
    let num_attention_heads = keys.dim("num_attention_heads")?;
    if let Some(n) = keys.opt_dim("num_key_value_heads")?
        && n != num_attention_heads
    {
        let expected = format!("{num_attention_heads}, the number of attention heads: MLA has no groups");
        return Err(keys.error("num_key_value_heads", &expected, &n.to_string()));
    }
    let qk_nope_head_dim = keys.dim("qk_nope_head_dim")?;
    let qk_rope_head_dim = even(keys, "qk_rope_head_dim")?;
    let scale = ((qk_nope_head_dim + qk_rope_head_dim) as f64).powf(-0.5) * softmax_mscale;
    Ok(Mla {
        num_attention_heads,
        q_lora_rank: keys.opt_dim("q_lora_rank")?,
        kv_lora_rank: keys.dim("kv_lora_rank")?,
        qk_nope_head_dim,
        qk_rope_head_dim,
        v_head_dim: keys.dim("v_head_dim")?,
        bias: keys.flag("attention_bias", false)?,
        softmax_scale: scale as f32,
    })
}

fn even(keys: &Keys<'_>, key: &str) -> Result<usize, ConfigError> {
    let dim = keys.dim(key)?;
    if dim % 2 == 0 { Ok(dim) } else { Err(keys.error(key, "an even number", &dim.to_string())) }
}

fn gqa(keys: &Keys<'_>, family: Family, hidden_size: usize) -> Result<Gqa, ConfigError> {
    let num_attention_heads = keys.dim("num_attention_heads")?;
    let num_key_value_heads = keys.opt_dim("num_key_value_heads")?.unwrap_or(num_attention_heads);
    if num_attention_heads % num_key_value_heads != 0 {
        let expected = format!("a divisor of num_attention_heads ({num_attention_heads})");
        return Err(keys.error("num_key_value_heads", &expected, &num_key_value_heads.to_string()));
    }
    let head_dim = match keys.opt_dim("head_dim")? {
        Some(_) => even(keys, "head_dim")?,
        None if family == Family::Qwen3 => 128,
        None if hidden_size.is_multiple_of(2 * num_attention_heads) => hidden_size / num_attention_heads,
        None => {
            let expected = format!("a multiple of twice num_attention_heads ({num_attention_heads})");
            return Err(keys.error("hidden_size", &expected, &hidden_size.to_string()));
        }
    };
    refuse_windows(keys)?;
    let attention_bias = keys.flag("attention_bias", false)?;
    Ok(Gqa {
        num_attention_heads,
        num_key_value_heads,
        head_dim,
        qkv_bias: family == Family::Qwen2 || attention_bias,
        o_bias: family != Family::Qwen2 && attention_bias,
        qk_norm: family == Family::Qwen3,
    })
}

/// Sliding windows are not computed: refuse the configs whose layers would use one.
fn refuse_windows(keys: &Keys<'_>) -> Result<(), ConfigError> {
    if keys.flag("use_sliding_window", false)? {
        let layers = keys.dim_up_to("num_hidden_layers", LAYERS_MAX)?;
        let first = keys.count("max_window_layers")?.unwrap_or(layers);
        if first < layers && keys.get("sliding_window").is_some() {
            return Err(keys.error("use_sliding_window", "false: windowed attention is not supported", "true"));
        }
    }
    for kind in keys.get("layer_types").and_then(Value::as_array).into_iter().flatten() {
        if kind != "full_attention" {
            return Err(keys.error("layer_types", "\"full_attention\" in every layer", &kind.to_string()));
        }
    }
    keys.only("use_mrope", &json!(false))
}

fn moe(keys: &Keys<'_>, family: Family, num_hidden_layers: usize) -> Result<Option<Moe>, ConfigError> {
    let Some(n_experts) = keys.opt_dim("n_routed_experts")? else { return Ok(None) };
    keys.only("moe_layer_freq", &json!(1))?;
    let router = router(keys, family, n_experts)?;
    check_router(keys, &router)?;
    Ok(Some(Moe {
        router,
        router_bias: matches!(router.selection, Selection::NoAuxTc { .. }),
        moe_intermediate_size: keys.dim("moe_intermediate_size")?,
        n_shared_experts: keys.count("n_shared_experts")?.unwrap_or(0),
        first_k_dense_replace: keys.count("first_k_dense_replace")?.unwrap_or(0).min(num_hidden_layers),
    }))
}

fn router(keys: &Keys<'_>, family: Family, n_experts: usize) -> Result<RouterSpec, ConfigError> {
    let n_group = keys.opt_dim("n_group")?.unwrap_or(1);
    let topk_group = keys.opt_dim("topk_group")?.unwrap_or(1);
    let (scoring, selection) = if family == Family::DeepseekV2 {
        let methods = [
            ("greedy", Selection::Greedy),
            ("group_limited_greedy", Selection::GroupLimitedGreedy { n_group, topk_group }),
        ];
        let scoring = keys.choice("scoring_func", &[("softmax", Scoring::Softmax)], Some(Scoring::Softmax))?;
        (scoring, keys.choice("topk_method", &methods, Some(Selection::Greedy))?)
    } else {
        let noaux_tc = Selection::NoAuxTc { n_group, topk_group };
        let scoring = keys.choice("scoring_func", &[("sigmoid", Scoring::Sigmoid)], Some(Scoring::Sigmoid))?;
        (scoring, keys.choice("topk_method", &[("noaux_tc", noaux_tc)], Some(noaux_tc))?)
    };
    Ok(RouterSpec {
        n_experts,
        top_k: keys.dim("num_experts_per_tok")?,
        scoring,
        selection,
        // transformers ignores norm_topk_prob for deepseek_v2, where every released model has false.
        norm_topk_prob: family == Family::DeepseekV3 && keys.flag("norm_topk_prob", true)?,
        routed_scaling_factor: keys.opt_positive("routed_scaling_factor")?.unwrap_or(1.0) as f32,
    })
}

fn check_router(keys: &Keys<'_>, router: &RouterSpec) -> Result<(), ConfigError> {
    let (n_experts, top_k) = (router.n_experts, router.top_k);
    let (n_group, topk_group, group_min) = match router.selection {
        Selection::Greedy => (1, 1, 1),
        Selection::GroupLimitedGreedy { n_group, topk_group } => (n_group, topk_group, 1),
        Selection::NoAuxTc { n_group, topk_group } => (n_group, topk_group, 2),
    };
    if n_experts % n_group != 0 || n_experts / n_group < group_min {
        let expected = format!("a divisor of n_routed_experts ({n_experts}) that leaves {group_min} or more per group");
        return Err(keys.error("n_group", &expected, &n_group.to_string()));
    }
    if topk_group > n_group {
        return Err(keys.error("topk_group", &format!("at most n_group ({n_group})"), &topk_group.to_string()));
    }
    let reachable = n_experts / n_group * topk_group;
    if top_k > reachable {
        let expected = format!("at most {reachable}, the experts in topk_group groups");
        return Err(keys.error("num_experts_per_tok", &expected, &top_k.to_string()));
    }
    Ok(())
}

fn fp8_block(keys: &Keys<'_>) -> Result<Option<Fp8Block>, ConfigError> {
    let Some(quantization) = keys.object("quantization_config", "config.json: quantization_config")? else {
        return Ok(None);
    };
    quantization.choice("quant_method", &[("fp8", ())], None)?;
    quantization.choice("fmt", &[("e4m3", ())], Some(()))?;
    let block = quantization.get("weight_block_size");
    let sizes: Option<Vec<usize>> = block.and_then(Value::as_array).map(|sizes| {
        let size = |s: &Value| s.as_u64().filter(|s| (1..=1 << 20).contains(s)).map(|s| s as usize);
        sizes.iter().filter_map(size).collect()
    });
    match (sizes.as_deref(), block) {
        (Some(&[rows, cols]), _) => Ok(Some([rows, cols])),
        (_, found) => {
            let found = found.map_or("no such key".to_owned(), Value::to_string);
            Err(quantization.error("weight_block_size", "two positive integers", &found))
        }
    }
}
