//! GGUF metadata → [`Config`].
//!
//! Owns the correspondence of GGUF's keys to config.json's; the meaning and the checks of each value stand once, in
//! `hf.rs`. Architectures: deepseek2 (V2 and V3), qwen2, qwen3, llama.

use checkpoint::{Checkpoint, gguf::Metadata};
use ops::{RopePairing, RopeScaling};
use serde_json::{Map, Value, json};

use super::keys::ConfigError;
use super::{Attention, Config, hf};

/// What the errors call the source.
const SOURCE: &str = "GGUF metadata";

/// `(config.json key, GGUF key below the architecture's prefix)` of plain numbers and flags.
const COMMON: [(&str, &str); 7] = [
    ("hidden_size", "embedding_length"),
    ("intermediate_size", "feed_forward_length"),
    ("num_attention_heads", "attention.head_count"),
    ("num_key_value_heads", "attention.head_count_kv"),
    ("max_position_embeddings", "context_length"),
    ("rms_norm_eps", "attention.layer_norm_rms_epsilon"),
    ("rope_theta", "rope.freq_base"),
];
const DEEPSEEK: [(&str, &str); 12] = [
    ("q_lora_rank", "attention.q_lora_rank"),
    ("kv_lora_rank", "attention.kv_lora_rank"),
    ("qk_rope_head_dim", "rope.dimension_count"),
    ("n_routed_experts", "expert_count"),
    ("num_experts_per_tok", "expert_used_count"),
    ("n_shared_experts", "expert_shared_count"),
    ("moe_intermediate_size", "expert_feed_forward_length"),
    ("first_k_dense_replace", "leading_dense_block_count"),
    ("routed_scaling_factor", "expert_weights_scale"),
    ("norm_topk_prob", "expert_weights_norm"),
    ("n_group", "expert_group_count"),
    ("topk_group", "expert_group_used_count"),
];
const SCALING: [(&str, &str); 5] = [
    ("factor", "rope.scaling.factor"),
    ("original_max_position_embeddings", "rope.scaling.original_context_length"),
    ("attn_factor", "rope.scaling.attn_factor"),
    ("beta_fast", "rope.scaling.yarn_beta_fast"),
    ("beta_slow", "rope.scaling.yarn_beta_slow"),
];

pub(super) fn read(file: &Checkpoint) -> Result<Config, ConfigError> {
    let Some(metadata) = file.gguf() else {
        return Err(ConfigError::new(SOURCE, "general.architecture", "a GGUF file", "another format"));
    };
    let architecture: &str = match metadata.required("general.architecture") {
        Ok(name) => name,
        Err(e) => return Err(ConfigError::new(SOURCE, "general.architecture", "a string", &e.to_string())),
    };
    let known = ["deepseek2", "qwen2", "qwen3", "llama"];
    if !known.contains(&architecture) {
        let expected = format!("one of {}", known.join(", "));
        return Err(ConfigError::new(SOURCE, "general.architecture", &expected, &format!("{architecture:?}")));
    }
    let reader = Reader { file, metadata, architecture };
    let json = reader.to_json()?;
    let mut config = hf::read(&Value::Object(json)).map_err(|e| reader.in_gguf_terms(e))?;
    reader.adjust(&mut config)?;
    Ok(config)
}

struct Reader<'a> {
    file: &'a Checkpoint,
    metadata: &'a Metadata,
    architecture: &'a str,
}

impl Reader<'_> {
    fn key(&self, suffix: &str) -> String {
        format!("{}.{suffix}", self.architecture)
    }

    fn number(&self, suffix: &str) -> Result<Option<f64>, ConfigError> {
        let key = self.key(suffix);
        let Some(value) = self.metadata.get(&key) else { return Ok(None) };
        let number = as_f64(value).filter(|n| n.is_finite());
        number.map(Some).ok_or_else(|| ConfigError::new(SOURCE, &key, "a finite number", &format!("{value:.80?}")))
    }

    fn text(&self, suffix: &str) -> Result<Option<&str>, ConfigError> {
        let key = self.key(suffix);
        self.metadata.optional::<&str>(&key).map_err(|e| ConfigError::new(SOURCE, &key, "a string", &e.to_string()))
    }

    fn has(&self, tensor: &str) -> bool {
        self.file.tensor(tensor).is_some()
    }

    /// Copies the keys of `table` that the file has; values keep their type.
    fn copy(&self, table: &[(&str, &str)], json: &mut Map<String, Value>) -> Result<(), ConfigError> {
        for (name, suffix) in table {
            let key = self.key(suffix);
            let value = match self.metadata.get(&key) {
                None => continue,
                Some(checkpoint::gguf::Value::Bool(flag)) => Value::Bool(*flag),
                // An f32 such as 1e-6 must not gain digits on its way through f64.
                Some(checkpoint::gguf::Value::F32(v)) => v.to_string().parse::<f64>().map_or(Value::Null, Value::from),
                Some(_) => self.number(suffix)?.map_or(Value::Null, number),
            };
            json.insert((*name).to_owned(), value);
        }
        Ok(())
    }

    /// The file's metadata as the config.json of the published model.
    fn to_json(&self) -> Result<Map<String, Value>, ConfigError> {
        let mut json = Map::new();
        self.copy(&COMMON, &mut json)?;
        json.insert("model_type".into(), self.architecture.into());
        json.insert("tie_word_embeddings".into(), (!self.has("output.weight")).into());
        let vocab_size = self.file.tensor("token_embd.weight").and_then(|t| t.shape.first().copied());
        json.insert("vocab_size".into(), vocab_size.into());
        for (name, key) in [("bos_token_id", "bos"), ("eos_token_id", "eos")] {
            let key = format!("tokenizer.ggml.{key}_token_id");
            let id = self.metadata.optional::<u32>(&key);
            json.insert(
                name.into(),
                id.map_err(|e| ConfigError::new(SOURCE, &key, "a token id", &e.to_string()))?.into(),
            );
        }
        let n_layers = self.number("block_count")?.unwrap_or(0.0);
        json.insert("num_hidden_layers".into(), number(n_layers));
        if let Some(scaling) = self.scaling()? {
            json.insert("rope_scaling".into(), scaling.into());
        }
        match self.architecture {
            "deepseek2" => self.deepseek(n_layers, &mut json)?,
            _ => self.dense(&mut json)?,
        }
        Ok(json)
    }

    fn scaling(&self) -> Result<Option<Map<String, Value>>, ConfigError> {
        let Some(kind) = self.text("rope.scaling.type")?.filter(|kind| *kind != "none") else { return Ok(None) };
        let mut scaling = Map::new();
        scaling.insert("rope_type".into(), kind.into());
        self.copy(&SCALING, &mut scaling)?;
        // The file holds 0.1 · mscale_all_dim; the two magnitudes of the released models are equal.
        if let Some(multiplier) = self.number("rope.scaling.yarn_log_multiplier")?.filter(|m| *m != 0.0) {
            let mscale = number((multiplier as f32 * 10.0).to_string().parse().unwrap_or(multiplier * 10.0));
            scaling.insert("mscale".into(), mscale.clone());
            scaling.insert("mscale_all_dim".into(), mscale);
        }
        Ok(Some(scaling))
    }

    fn deepseek(&self, n_blocks: f64, json: &mut Map<String, Value>) -> Result<(), ConfigError> {
        self.copy(&DEEPSEEK, json)?;
        // head_count_kv is 1 where the file is laid out for the absorbed form; MLA has no groups.
        json.remove("num_key_value_heads");
        if json.get("routed_scaling_factor") == Some(&json!(0.0)) {
            json.remove("routed_scaling_factor");
        }
        // Some files say so that queries are not compressed.
        if json.get("q_lora_rank") == Some(&json!(0)) {
            json.remove("q_lora_rank");
        }
        let is_moe = self.number("expert_count")?.unwrap_or(0.0) > 0.0;
        if !is_moe {
            json.remove("n_routed_experts");
        }
        // 1 softmax, 2 sigmoid; the oldest files, all V2, have no such key.
        let is_v3 = match self.number("expert_gating_func")?.unwrap_or(if is_moe { 1.0 } else { 2.0 }) {
            1.0 => false,
            2.0 => true,
            other => {
                let key = self.key("expert_gating_func");
                return Err(ConfigError::new(SOURCE, &key, "1 (softmax) or 2 (sigmoid)", &other.to_string()));
            }
        };
        let n_group = self.number("expert_group_count")?.unwrap_or(1.0);
        json.insert("model_type".into(), if is_v3 { "deepseek_v3" } else { "deepseek_v2" }.into());
        if !is_v3 {
            json.insert("topk_method".into(), if n_group > 1.0 { "group_limited_greedy" } else { "greedy" }.into());
            if json.get("norm_topk_prob") == Some(&Value::Bool(true)) {
                let key = self.key("expert_weights_norm");
                return Err(ConfigError::new(SOURCE, &key, "false beside a softmax router", "true"));
            }
        } else {
            json.entry("norm_topk_prob").or_insert(Value::Bool(false));
        }
        let rope_dim = self.number("rope.dimension_count")?.unwrap_or(0.0);
        let width = |mla: &str, legacy: &str| Ok(self.number(mla)?.or(self.number(legacy)?).unwrap_or(0.0));
        let key_length = width("attention.key_length_mla", "attention.key_length")?;
        json.insert("qk_nope_head_dim".into(), number((key_length - rope_dim).max(0.0)));
        json.insert("v_head_dim".into(), number(width("attention.value_length_mla", "attention.value_length")?));
        self.count_mtp(n_blocks, json)
    }

    /// Some converters count the MTP block in `block_count`, some leave it out of the count or of the file.
    fn count_mtp(&self, n_blocks: f64, json: &mut Map<String, Value>) -> Result<(), ConfigError> {
        let declared = self.number("nextn_predict_layers")?.unwrap_or(0.0);
        let has_module = |block: f64| block >= 0.0 && self.has(&format!("blk.{block}.nextn.eh_proj.weight"));
        let (n_layers, n_mtp) = match () {
            () if has_module(n_blocks) => (n_blocks, declared),
            () if declared >= 1.0 && has_module(n_blocks - declared) => (n_blocks - declared, declared),
            () => (n_blocks, 0.0),
        };
        json.insert("num_hidden_layers".into(), number(n_layers));
        json.insert("num_nextn_predict_layers".into(), number(n_mtp));
        Ok(())
    }

    fn dense(&self, json: &mut Map<String, Value>) -> Result<(), ConfigError> {
        if let Some(head_dim) = self.number("attention.key_length")? {
            json.insert("head_dim".into(), number(head_dim));
        }
        json.insert("attention_bias".into(), (self.has("blk.0.attn_q.bias") && self.architecture != "qwen2").into());
        json.insert("mlp_bias".into(), self.has("blk.0.ffn_gate.bias").into());
        if self.number("expert_count")?.unwrap_or(0.0) > 0.0 {
            let key = self.key("expert_count");
            return Err(ConfigError::new(SOURCE, &key, "no experts in this architecture", "some"));
        }
        Ok(())
    }

    /// What config.json has no words for.
    fn adjust(&self, config: &mut Config) -> Result<(), ConfigError> {
        if self.architecture == "llama" {
            // Converters permute the rows of q and k so that interleaved pairs rotate: the permutation is undone by
            // rotating those pairs, and the weights are used as they lie.
            config.rope.pairing = RopePairing::Interleaved;
            if let Attention::Gqa(gqa) = &mut config.attention {
                gqa.o_bias = self.has("blk.0.attn_output.bias");
            }
        }
        if let (Attention::Gqa(gqa), Some(rotated)) = (&config.attention, self.number("rope.dimension_count")?)
            && rotated != gqa.head_dim as f64
        {
            let expected = format!("{}, the whole head", gqa.head_dim);
            return Err(ConfigError::new(SOURCE, &self.key("rope.dimension_count"), &expected, &rotated.to_string()));
        }
        let Some(factors) = self.file.tensor("rope_freqs.weight") else { return Ok(()) };
        let expected = config.rope_table().inv_freq.len();
        match factors.to_f32() {
            Ok(values) if values.len() == expected && values.iter().all(|v| v.is_finite() && *v > 0.0) => {
                config.rope.scaling = RopeScaling::Factors(values);
                Ok(())
            }
            Ok(values) => {
                let found = format!("{} values", values.len());
                Err(ConfigError::new(SOURCE, "rope_freqs.weight", &format!("{expected} factors above 0"), &found))
            }
            Err(e) => Err(ConfigError::new(SOURCE, "rope_freqs.weight", "factors", &e.to_string())),
        }
    }

    /// The error about a config.json key, said of the GGUF key it came from.
    fn in_gguf_terms(&self, mut error: ConfigError) -> ConfigError {
        SOURCE.clone_into(&mut error.source_name);
        let name = error.key.rsplit('.').next().unwrap_or(&error.key);
        let tables = [&COMMON[..], &DEEPSEEK[..], &SCALING[..], &[("num_hidden_layers", "block_count")][..]];
        if let Some((_, suffix)) = tables.into_iter().flatten().find(|(hf, _)| *hf == name) {
            error.key = self.key(suffix);
        }
        error
    }
}

fn as_f64(value: &checkpoint::gguf::Value) -> Option<f64> {
    use checkpoint::gguf::Value;
    Some(match *value {
        Value::U8(n) => n.into(),
        Value::I8(n) => n.into(),
        Value::U16(n) => n.into(),
        Value::I16(n) => n.into(),
        Value::U32(n) => n.into(),
        Value::I32(n) => n.into(),
        Value::U64(n) => n as f64,
        Value::I64(n) => n as f64,
        Value::F32(n) => n.into(),
        Value::F64(n) => n,
        Value::Bool(_) | Value::String(_) | Value::Array(_) => return None,
    })
}

/// A JSON number, whole where it is.
fn number(value: f64) -> Value {
    if value.fract() == 0.0 && value.abs() < 1e15 { Value::from(value as i64) } else { Value::from(value) }
}
