//! GGUF out.
//!
//! Owns the metadata of an architecture and of a tokenizer, and GGUF's own arrangement of MLA's up-projection. An MTP
//! module goes in as one more block, which llama.cpp reads over and this program drafts with.

use std::borrow::Cow;
use std::path::Path;

use checkpoint::gguf::{Array, Value};
use checkpoint::write;
use ops::{RopeScaling, RopeTable, Scoring, Selection, WeightFormat};

use super::{Entry, ExportFormat};
use crate::config::{Attention, Config, Family, Mla};
use crate::plan::{PlannedTensor, Role, gguf_split_kv_b, plan};

/// A byte-level BPE vocabulary, as GGUF has it.
#[derive(Clone, Debug, Default)]
pub struct GgufTokenizer {
    /// Which pre-tokenizer: a name that readers of GGUF know.
    pub pre: String,
    /// Token of each id, in the byte-level spelling.
    pub tokens: Vec<String>,
    /// 1 normal, 3 control, 4 user-defined.
    pub token_types: Vec<i32>,
    /// `"left right"`, in rank order.
    pub merges: Vec<String>,
    /// Start of text.
    pub bos_token_id: Option<u32>,
    /// End of an answer.
    pub eos_token_id: Option<u32>,
    /// Whether texts begin with the start token.
    pub add_bos_token: bool,
    /// Jinja source.
    pub chat_template: Option<String>,
}

/// Writes a GGUF file that llama.cpp loads: architecture `deepseek2`, `qwen2`, `qwen3` or `llama`.
///
/// # Errors
/// A tensor's values do not fill its shape, or the file cannot be written; it appears whole or not at all
pub fn to_gguf<'a>(
    path: &Path,
    name: &str,
    config: &Config,
    tokenizer: &GgufTokenizer,
    format: ExportFormat,
    values: impl Fn(&PlannedTensor) -> &'a [f32],
) -> Result<(), checkpoint::Error> {
    let mut entries = Vec::new();
    for tensor in plan(config) {
        let all = values(&tensor);
        match (&config.attention, tensor.name.strip_suffix(".w_ukv")) {
            (Attention::Mla(mla), Some(layer)) => {
                let layer = layer.trim_start_matches("layers.").parse().unwrap_or(0);
                entries.extend(split_kv_b(mla, layer, all, format));
            }
            (Attention::Gqa(gqa), _) if config.family == Family::Llama && is_rotated(&tensor) => {
                let row_len = if tensor.role == Role::Bias { 1 } else { config.hidden_size };
                let format = stored_as(format, tensor.role, &tensor.shape);
                let values = interleaved(all, gqa.head_dim, row_len);
                entries.push(Entry { name: tensor.gguf, format, shape: tensor.shape, values });
            }
            _ => {
                let format = stored_as(format, tensor.role, &tensor.shape);
                entries.push(Entry { name: tensor.gguf, format, shape: tensor.shape, values: all.into() });
            }
        }
    }
    if matches!(config.rope.scaling, RopeScaling::Llama3 { .. } | RopeScaling::Factors(_)) {
        let scaled = config.rope_table();
        let dim = 2 * scaled.inv_freq.len();
        let plain = RopeTable::new(dim, config.rope.rope_theta, &RopeScaling::None, scaled.pairing);
        let factors: Vec<f32> = plain.inv_freq.iter().zip(&scaled.inv_freq).map(|(p, s)| p / s).collect();
        let (name, shape) = ("rope_freqs.weight".to_owned(), vec![factors.len()]);
        entries.push(Entry { name, format: WeightFormat::F32, shape, values: Cow::Owned(factors) });
    }
    let metadata = [architecture(name, config, format), vocabulary(tokenizer)].concat();
    let metadata: Vec<(&str, Value)> = metadata.iter().map(|(key, value)| (key.as_str(), value.clone())).collect();
    let items: Vec<_> = entries.iter().map(Entry::item).collect();
    write::gguf(path, &metadata, &items)
}

/// The format of a tensor: small ones keep 32 bits, tables of tokens 8, and rows that are no whole number of blocks 16.
fn stored_as(format: ExportFormat, role: Role, shape: &[usize]) -> WeightFormat {
    let format = match (role, format) {
        (Role::Norm | Role::Bias | Role::Router, _) => WeightFormat::F32,
        (Role::Embedding | Role::Head, ExportFormat::Q4_0) => WeightFormat::Q8_0,
        _ => format.weight_format(),
    };
    let n_cols = shape.last().copied().unwrap_or(0);
    if format.row_bytes(n_cols).is_none() { WeightFormat::F16 } else { format }
}

/// Whether its rows are rotated: those of queries and keys.
fn is_rotated(tensor: &PlannedTensor) -> bool {
    [".w_q", ".w_k", ".b_q", ".b_k"].iter().any(|end| tensor.name.ends_with(end))
}

/// Rows of heads whose halves rotate together, as rows whose neighbours do: what llama.cpp expects of `llama`.
fn interleaved<'a>(rows: &[f32], head_dim: usize, row_len: usize) -> Cow<'a, [f32]> {
    let head = |head: &[f32]| -> Vec<f32> {
        let row = |i: usize| head[i * row_len..(i + 1) * row_len].iter().copied();
        (0..head_dim).flat_map(|i| row(i % 2 * (head_dim / 2) + i / 2)).collect()
    };
    rows.chunks_exact(head_dim * row_len).flat_map(head).collect::<Vec<_>>().into()
}

/// `attn_k_b` (W_UK transposed per head) and `attn_v_b` (W_UV) out of the published matrix `[H·(n+v), C]`.
fn split_kv_b<'a>(mla: &Mla, layer: usize, kv_b: &[f32], format: ExportFormat) -> [Entry<'a>; 2] {
    let (n, v, c) = (mla.qk_nope_head_dim, mla.v_head_dim, mla.kv_lora_rank);
    let heads = kv_b.chunks_exact((n + v) * c);
    let k_b = heads.clone().flat_map(|head| (0..c).flat_map(move |j| (0..n).map(move |i| head[i * c + j]))).collect();
    let v_b = heads.flat_map(|head| head[n * c..].iter().copied()).collect();
    let [k, v] = gguf_split_kv_b(mla, layer);
    [(k, k_b), (v, v_b)].map(|((name, shape), values): (_, Vec<f32>)| Entry {
        name,
        format: stored_as(format, Role::Attention, &shape),
        shape: shape.to_vec(),
        values: Cow::Owned(values),
    })
}

type Pair = (String, Value);

fn count(n: usize) -> Value {
    Value::U32(u32::try_from(n).unwrap_or(u32::MAX))
}

fn text(text: &str) -> Value {
    Value::String(text.as_bytes().to_vec().into())
}

/// Everything about the model, keys as llama.cpp writes them.
fn architecture(name: &str, config: &Config, format: ExportFormat) -> Vec<Pair> {
    let arch = match config.attention {
        Attention::Mla(_) => "deepseek2",
        Attention::Gqa(_) => config.family.model_type(),
    };
    let file_type = match format {
        ExportFormat::F32 => 0,
        ExportFormat::F16 => 1,
        ExportFormat::Q4_0 => 2,
        ExportFormat::Q8_0 => 7,
        ExportFormat::BF16 => 32,
    };
    let mut pairs: Vec<Pair> = vec![
        ("general.architecture".into(), text(arch)),
        ("general.name".into(), text(name)),
        ("general.file_type".into(), Value::U32(file_type)),
    ];
    let mut put = |key: &str, value: Value| pairs.push((format!("{arch}.{key}"), value));
    // The modules are counted as layers, and how many of the last are modules.
    put("block_count", count(config.num_hidden_layers + config.num_nextn_predict_layers));
    if config.num_nextn_predict_layers > 0 {
        put("nextn_predict_layers", count(config.num_nextn_predict_layers));
    }
    put("context_length", count(config.max_position_embeddings));
    put("embedding_length", count(config.hidden_size));
    put("feed_forward_length", count(config.intermediate_size));
    put("vocab_size", count(config.vocab_size));
    put("attention.head_count", count(config.attention.num_attention_heads()));
    put("attention.layer_norm_rms_epsilon", Value::F32(config.rms_norm_eps));
    put("rope.freq_base", Value::F32(config.rope.rope_theta as f32));
    match &config.attention {
        Attention::Mla(mla) => {
            put("attention.head_count_kv", count(1));
            // Without the key llama.cpp guesses from the number of layers whether queries are compressed.
            put("attention.q_lora_rank", count(mla.q_lora_rank.unwrap_or(0)));
            put("attention.kv_lora_rank", count(mla.kv_lora_rank));
            put("attention.key_length", count(mla.latent_dim()));
            put("attention.value_length", count(mla.kv_lora_rank));
            put("attention.key_length_mla", count(mla.qk_head_dim()));
            put("attention.value_length_mla", count(mla.v_head_dim));
            put("rope.dimension_count", count(mla.qk_rope_head_dim));
        }
        Attention::Gqa(gqa) => {
            put("attention.head_count_kv", count(gqa.num_key_value_heads));
            put("attention.key_length", count(gqa.head_dim));
            put("attention.value_length", count(gqa.head_dim));
            put("rope.dimension_count", count(gqa.head_dim));
        }
    }
    experts(config, &mut put);
    scaling(config, &mut put);
    pairs
}

fn experts(config: &Config, put: &mut impl FnMut(&str, Value)) {
    let Some(moe) = &config.moe else {
        if matches!(config.attention, Attention::Mla(_)) {
            put("leading_dense_block_count", count(config.num_hidden_layers));
        }
        return;
    };
    let router = &moe.router;
    put("leading_dense_block_count", count(moe.first_k_dense_replace));
    put("expert_feed_forward_length", count(moe.moe_intermediate_size));
    put("expert_count", count(router.n_experts));
    put("expert_used_count", count(router.top_k));
    put("expert_shared_count", count(moe.n_shared_experts));
    put("expert_weights_scale", Value::F32(router.routed_scaling_factor));
    if router.norm_topk_prob {
        put("expert_weights_norm", Value::Bool(true));
    }
    let gating = match router.scoring {
        Scoring::Softmax => 1,
        Scoring::Sigmoid => 2,
    };
    put("expert_gating_func", Value::U32(gating));
    let (Selection::GroupLimitedGreedy { n_group, topk_group } | Selection::NoAuxTc { n_group, topk_group }) =
        router.selection
    else {
        return;
    };
    if n_group > 1 {
        put("expert_group_count", count(n_group));
        put("expert_group_used_count", count(topk_group));
    }
}

fn scaling(config: &Config, put: &mut impl FnMut(&str, Value)) {
    match &config.rope.scaling {
        RopeScaling::Linear { factor } => {
            put("rope.scaling.type", text("linear"));
            put("rope.scaling.factor", Value::F32(*factor as f32));
        }
        RopeScaling::Yarn { factor, original_max_position_embeddings, .. } => {
            put("rope.scaling.type", text("yarn"));
            put("rope.scaling.factor", Value::F32(*factor as f32));
            put("rope.scaling.original_context_length", count(*original_max_position_embeddings as usize));
            if let Attention::Mla(mla) = &config.attention {
                // softmax_scale = mscale²/√(n+R) with mscale = 1 + 0.1·mscale_all_dim·ln(factor); the key holds 0.1 of it.
                let mscale = (f64::from(mla.softmax_scale) * (mla.qk_head_dim() as f64).sqrt()).sqrt();
                let multiplier = (mscale - 1.0) / factor.ln();
                put("rope.scaling.yarn_log_multiplier", Value::F32(multiplier as f32));
            }
        }
        _ => {}
    }
}

/// Everything about the tokenizer.
fn vocabulary(tokenizer: &GgufTokenizer) -> Vec<Pair> {
    let mut pairs: Vec<Pair> = vec![
        ("tokenizer.ggml.model".into(), text("gpt2")),
        ("tokenizer.ggml.pre".into(), text(&tokenizer.pre)),
        ("tokenizer.ggml.tokens".into(), Value::Array(Array::from_strs(&tokenizer.tokens))),
        ("tokenizer.ggml.token_type".into(), Value::Array(Array::from_i32(&tokenizer.token_types))),
        ("tokenizer.ggml.merges".into(), Value::Array(Array::from_strs(&tokenizer.merges))),
        ("tokenizer.ggml.add_bos_token".into(), Value::Bool(tokenizer.add_bos_token)),
    ];
    let ids = [("bos_token_id", tokenizer.bos_token_id), ("eos_token_id", tokenizer.eos_token_id)];
    for (key, id) in ids {
        pairs.extend(id.map(|id| (format!("tokenizer.ggml.{key}"), Value::U32(id))));
    }
    let template = tokenizer.chat_template.as_deref();
    pairs.extend(template.map(|template| ("tokenizer.chat_template".to_owned(), text(template))));
    pairs
}
