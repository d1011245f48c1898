//! Configs: both spellings read alike, and what is not computed is refused by name.
#![allow(clippy::unwrap_used, reason = "a test fails where it unwraps")]

use checkpoint::parse_config;
use model::Config;
use model::config::{Attention, Family};
use ops::{RopePairing, RopeScaling, Selection};
use serde_json::{Value, json};
use testkit::oracle::{fixtures, oracles, switches};

/// The smallest config of each family that is complete.
fn config(family: &str) -> Value {
    let mut config = json!({
        "model_type": family, "hidden_act": "silu", "vocab_size": 64, "hidden_size": 32, "intermediate_size": 48,
        "num_hidden_layers": 2, "num_attention_heads": 4, "max_position_embeddings": 128, "rms_norm_eps": 1e-6
    });
    if family.starts_with("deepseek") {
        let more = json!({
            "kv_lora_rank": 8, "qk_nope_head_dim": 8, "qk_rope_head_dim": 4, "v_head_dim": 8,
            "n_routed_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 16, "n_shared_experts": 1,
            "n_group": 4, "topk_group": 2, "first_k_dense_replace": 1
        });
        config.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    }
    config
}

fn with(family: &str, key: &str, value: Value) -> Result<Config, String> {
    let mut json = config(family);
    json[key] = value;
    Config::from_json(&json).map_err(|e| e.to_string())
}

#[test]
fn the_smallest_configs_are_accepted() {
    for family in ["deepseek_v2", "deepseek_v3", "qwen2", "qwen3", "llama"] {
        assert_eq!(Config::from_json(&config(family)).unwrap().family.model_type(), family);
    }
}

#[test]
fn publishers_and_transformers_5_spell_the_same_models() {
    for oracle in oracles(&fixtures()).into_iter().chain(oracles(&switches())) {
        let (published, hf5) = (oracle.config("config.json").unwrap(), oracle.config("config.hf5.json").unwrap());
        // transformers leaves the quantisation out of its copy.
        let adjusted = Config { fp8_block: published.fp8_block, ..hf5 };
        assert_eq!(adjusted, published, "{}", oracle.name);
    }
}

#[test]
fn unknown_values_are_refused_by_name_with_what_is_known() {
    let cases = [
        ("deepseek_v3", "model_type", json!("deepseek_v9"), "one of deepseek_v2, deepseek_v3, qwen2, qwen3, llama"),
        ("deepseek_v3", "hidden_act", json!("gelu"), "\"silu\""),
        ("deepseek_v3", "scoring_func", json!("softmax"), "one of sigmoid"),
        ("deepseek_v3", "topk_method", json!("greedy"), "one of noaux_tc"),
        ("deepseek_v2", "topk_method", json!("noaux_tc"), "one of greedy, group_limited_greedy"),
        ("deepseek_v2", "scoring_func", json!("sigmoid"), "one of softmax"),
        ("deepseek_v3", "moe_layer_freq", json!(2), "1"),
        ("deepseek_v3", "n_group", json!(3), "a divisor of n_routed_experts (8)"),
        ("deepseek_v3", "n_group", json!(8), "that leaves 2 or more per group"),
        ("deepseek_v3", "topk_group", json!(5), "at most n_group (4)"),
        ("deepseek_v3", "num_experts_per_tok", json!(5), "at most 4"),
        ("deepseek_v3", "num_key_value_heads", json!(2), "MLA has no groups"),
        ("deepseek_v3", "num_nextn_predict_layers", json!(2), "0, or 1 for deepseek_v3"),
        ("deepseek_v3", "qk_rope_head_dim", json!(3), "an even number"),
        ("deepseek_v3", "rope_scaling", json!({"type": "longrope"}), "one of default, linear, llama3, yarn"),
        ("deepseek_v3", "rope_scaling", json!({"type": "yarn"}), "a number above 0"),
        ("deepseek_v3", "quantization_config", json!({"quant_method": "awq"}), "one of fp8"),
        ("deepseek_v3", "quantization_config", json!({"quant_method": "fp8", "fmt": "e5m2"}), "one of e4m3"),
        ("deepseek_v3", "quantization_config", json!({"quant_method": "fp8"}), "two positive integers"),
        ("qwen2", "num_key_value_heads", json!(3), "a divisor of num_attention_heads (4)"),
        ("qwen2", "layer_types", json!(["full_attention", "sliding_attention"]), "\"full_attention\""),
        ("qwen2", "mlp_bias", json!(true), "false"),
        ("llama", "rope_theta", json!(0.5), "a number above 1"),
        ("llama", "partial_rotary_factor", json!(0.5), "1.0"),
        ("llama", "hidden_size", json!(0), "a positive integer"),
        ("llama", "hidden_size", json!(-1), "an integer"),
        ("llama", "hidden_size", json!("big"), "an integer"),
        ("llama", "hidden_size", json!(1u64 << 60), "an integer of at most"),
        ("llama", "num_hidden_layers", json!(1_000_000), "an integer of at most 1024"),
        ("llama", "rms_norm_eps", json!("1e-6"), "a number"),
        ("llama", "eos_token_id", json!("</s>"), "a token id"),
    ];
    for (family, key, value, expected) in cases {
        let error = with(family, key, value.clone()).expect_err(&format!("{family} {key} {value}"));
        assert!(error.starts_with("config.json: ") && error.contains(key), "{error}");
        assert!(error.contains(expected), "{error:?} should say {expected:?}");
    }
}

#[test]
fn missing_keys_are_named() {
    for key in ["model_type", "vocab_size", "hidden_size", "num_hidden_layers", "kv_lora_rank", "num_experts_per_tok"] {
        let mut json = config("deepseek_v3");
        json.as_object_mut().unwrap().remove(key);
        let error = Config::from_json(&json).unwrap_err().to_string();
        assert!(error.contains(&format!("{key}: expected")) && error.contains("no such key"), "{error}");
    }
}

#[test]
fn windows_are_refused_only_where_they_would_be_used() {
    let windowed = |first: u32| {
        let mut json = config("qwen2");
        (json["use_sliding_window"], json["sliding_window"]) = (json!(true), json!(16));
        json["max_window_layers"] = json!(first);
        Config::from_json(&json)
    };
    assert!(windowed(2).is_ok());
    assert!(windowed(1).unwrap_err().to_string().contains("use_sliding_window"));
}

#[test]
fn switches_reach_the_config() {
    let v3 = Config::from_json(&config("deepseek_v3")).unwrap();
    assert_eq!((v3.family, v3.rope.pairing), (Family::DeepseekV3, RopePairing::Interleaved));
    assert_eq!(v3.moe.as_ref().unwrap().router.selection, Selection::NoAuxTc { n_group: 4, topk_group: 2 });
    assert!(v3.moe.unwrap().router.norm_topk_prob);
    let halved = with("deepseek_v3", "rope_interleave", json!(false)).unwrap();
    assert_eq!(halved.rope.pairing, RopePairing::Halved);
    let shipped = json!({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32,
                         "attn_factor": 0.878_248_856_286_941_9});
    let RopeScaling::Yarn { magnitude, .. } = with("qwen3", "rope_scaling", shipped).unwrap().rope.scaling else {
        panic!("no YaRN")
    };
    assert!((magnitude - 1.0).abs() < 1e-12, "R1-0528-Qwen3-8B cancels YaRN's magnitude, got {magnitude}");
    let Attention::Gqa(gqa) = Config::from_json(&config("qwen2")).unwrap().attention else { panic!("no GQA") };
    assert!(gqa.qkv_bias && !gqa.o_bias && !gqa.qk_norm);
}

#[test]
fn a_hostile_config_costs_nothing() {
    let mut json = config("deepseek_v3");
    for key in [
        "vocab_size",
        "hidden_size",
        "intermediate_size",
        "moe_intermediate_size",
        "n_routed_experts",
        "num_attention_heads",
        "kv_lora_rank",
        "qk_nope_head_dim",
        "qk_rope_head_dim",
        "v_head_dim",
    ] {
        json[key] = json!(1 << 20);
    }
    json["num_hidden_layers"] = json!(1024);
    let text = json.to_string();
    let config = Config::from_json(&parse_config("config.json", text.as_bytes()).unwrap()).unwrap();
    assert_eq!(model::counts::parameters(&config).total, u64::MAX);
    assert_eq!(model::counts::decode_flops(&config, u64::MAX - 1), u64::MAX);
}
