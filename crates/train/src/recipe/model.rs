//! From what training starts: a model that is there, a config.json, or the shape of a new DeepSeek-V3 or Llama.

use std::path::{Path, PathBuf};

use model::Config;
use serde_json::{Map, Value, json};

use super::{Problem, Step};

/// Standard deviation of a new model's weights, where the recipe says nothing else.
pub const INITIALIZER_RANGE: f64 = 0.02;

/// From what training starts.
#[derive(Clone, Debug, PartialEq)]
pub enum ModelStart {
    /// The weights of a model: a folder or a .gguf file.
    From(PathBuf),
    /// New weights in the shape of a config.json: its path.
    Config(PathBuf),
    /// New weights in this shape: keys of config.json, without those that the tokenizer decides.
    Shape(Map<String, Value>),
}

/// Architectures that a shape can have: what `model_type` may say.
const MODEL_TYPES: [&str; 2] = ["deepseek_v3", "llama"];

/// The keys of a shape, with what is taken where a recipe says nothing: about 4 million parameters with 4096 tokens.
/// Unlike DeepSeek-V3's, a Llama is dense, and its attention has heads of keys and values (MHA, or with fewer of them GQA).
fn defaults(model_type: &str) -> Map<String, Value> {
    let mut shape = json!({
        "model_type": model_type,
        "hidden_size": 192,
        "intermediate_size": 512,
        "num_hidden_layers": 6,
        "num_attention_heads": 6,
        "max_position_embeddings": 4096,
        "rope_theta": 10000.0,
        "rope_scaling": null,
        "rms_norm_eps": 1e-6,
        "tie_word_embeddings": true,
        "attention_bias": false,
        "initializer_range": INITIALIZER_RANGE,
    });
    let own = match model_type {
        "llama" => json!({ "num_key_value_heads": null, "head_dim": 32 }),
        _ => json!({
            "moe_intermediate_size": 128,
            "q_lora_rank": null,
            "kv_lora_rank": 64,
            "qk_nope_head_dim": 32,
            "qk_rope_head_dim": 16,
            "v_head_dim": 32,
            "n_routed_experts": 8,
            "n_shared_experts": 1,
            "num_experts_per_tok": 2,
            "n_group": 1,
            "topk_group": 1,
            "norm_topk_prob": true,
            "routed_scaling_factor": 1.0,
            "first_k_dense_replace": 1,
            "num_nextn_predict_layers": 1,
        }),
    };
    match (&mut shape, own) {
        (Value::Object(shape), Value::Object(own)) => shape.extend(own),
        _ => unreachable!("both are objects"),
    }
    match shape {
        Value::Object(shape) => shape,
        _ => unreachable!("it is an object"),
    }
}

/// The config.json of a new model of a shape. `bos` and `eos` are the tokenizer's.
#[must_use]
pub fn config_json(shape: &Map<String, Value>, vocab_size: usize, bos: Option<u32>, eos: u32) -> Value {
    let mut config = Map::new();
    let is_llama = shape.get("model_type").and_then(Value::as_str) == Some("llama");
    let class = if is_llama { "LlamaForCausalLM" } else { "DeepseekV3ForCausalLM" };
    config.insert("architectures".into(), json!([class]));
    config.insert("model_type".into(), Value::Null);
    config.insert("vocab_size".into(), json!(vocab_size));
    config.extend(shape.clone());
    // MLA has no groups, and MHA none smaller than a head; readers want the number all the same.
    if config.get("num_key_value_heads").is_none_or(Value::is_null) {
        let heads = shape.get("num_attention_heads").cloned().unwrap_or_default();
        config.insert("num_key_value_heads".into(), heads);
    }
    let own = match is_llama {
        true => vec![("mlp_bias", json!(false))],
        false => vec![
            ("topk_method", json!("noaux_tc")),
            ("scoring_func", json!("sigmoid")),
            ("moe_layer_freq", json!(1)),
            ("rope_interleave", json!(true)),
        ],
    };
    let common = [
        ("hidden_act", json!("silu")),
        ("attention_dropout", json!(0.0)),
        ("bos_token_id", json!(bos)),
        ("eos_token_id", json!(eos)),
        ("use_cache", json!(true)),
        ("torch_dtype", json!("float32")),
    ];
    for (key, value) in own.into_iter().chain(common) {
        config.insert(key.into(), value);
    }
    Value::Object(config)
}

/// Reads `[model]`. `folder` is the recipe's.
pub(super) fn read(table: &toml::Table, folder: &Path) -> Result<ModelStart, Problem> {
    let path = [Step::Key("model".into())];
    for (key, is_path) in [("from", false), ("config", true)] {
        let Some(value) = table.get(key) else { continue };
        let Some(text) = value.as_str().filter(|text| !text.is_empty()) else {
            return Err(Problem::new(&path, key, format!("expected a text that is not empty, found {value:?}")));
        };
        if let Some(other) = table.keys().find(|other| *other != key) {
            let message = format!("expected nothing beside `{key}`, which decides the shape");
            return Err(Problem::new(&path, other, message));
        }
        let file = folder.join(text);
        if !is_path {
            if !file.exists() {
                let message =
                    format!("{}: expected a model's folder or .gguf file, found nothing there", file.display());
                return Err(Problem::new(&path, key, message));
            }
            return Ok(ModelStart::From(file));
        }
        let json = checkpoint::read_config(&file).map_err(|e| Problem::new(&path, key, e.to_string()))?;
        Config::from_json(&json).map_err(|e| Problem::new(&path, key, e.to_string()))?;
        return Ok(ModelStart::Config(file));
    }
    shape(table, &path).map(ModelStart::Shape)
}

fn shape(table: &toml::Table, path: &[Step]) -> Result<Map<String, Value>, Problem> {
    let model_type = match table.get("model_type") {
        None => MODEL_TYPES[0],
        Some(found) => {
            let known = found.as_str().and_then(|name| MODEL_TYPES.into_iter().find(|known| *known == name));
            known.ok_or_else(|| {
                Problem::new(path, "model_type", format!("expected {}, found {found:?}", MODEL_TYPES.join(" or ")))
            })?
        }
    };
    let mut shape = defaults(model_type);
    for (key, value) in table {
        if !shape.contains_key(key) {
            let known: Vec<&str> = shape.keys().map(String::as_str).collect();
            let message = format!(
                "expected `from` (a model), `config` (a config.json) or a key of a {model_type}: {}",
                known.join(", ")
            );
            return Err(Problem::new(path, key, message));
        }
        let value = serde_json::to_value(value).map_err(|e| Problem::new(path, key, e.to_string()))?;
        shape.insert(key.clone(), value);
    }
    // Without experts there is no router to speak of.
    if shape.get("n_routed_experts") == Some(&json!(0)) {
        shape.insert("n_routed_experts".into(), Value::Null);
    }
    let range = shape.get("initializer_range").and_then(Value::as_f64);
    if range.is_none_or(|range| !(range > 0.0 && range <= 1.0)) {
        let found = shape.get("initializer_range").cloned().unwrap_or_default();
        return Err(Problem::new(
            path,
            "initializer_range",
            format!("expected a number above 0, at most 1, found {found}"),
        ));
    }
    // The vocabulary is not known yet and refuses nothing.
    Config::from_json(&config_json(&shape, 1024, Some(0), 1))
        .map_err(|e| Problem::new(path, &e.key, format!("expected {}, found {}", e.expected, e.found)))?;
    Ok(shape)
}

impl ModelStart {
    /// The longest context that the model is made for; none where its config has to be read first.
    #[must_use]
    pub fn max_position_embeddings(&self) -> Option<u64> {
        match self {
            Self::Shape(shape) => shape.get("max_position_embeddings").and_then(Value::as_u64),
            Self::From(_) | Self::Config(_) => None,
        }
    }
}
