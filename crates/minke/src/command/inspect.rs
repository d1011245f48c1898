//! `minke inspect`: what a model is and what it will cost, before loading it.
//!
//! Owns the report's wording and its JSON. Must not count: the numbers come from `model::counts`.

use std::collections::BTreeMap;
use std::fmt::Write;

use model::config::{Attention, Config};
use model::counts::{self, CacheBytes};
use model::traffic::WeightBytes;
use ops::{Reference, RowFormat};
use serde_json::json;

use crate::failure::{Failure, print};
use crate::memory::{Memory, bytes, grouped, memory};
use crate::source::{Source, Stored, stored_json};

/// Contexts that the report tries, beside the model's own limit.
const CONTEXTS: [u64; 4] = [4096, 16_384, 65_536, 131_072];
/// Rows of a step that activations are planned for.
const STEP_ROWS: usize = 512;

/// Arguments of `minke inspect`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Model folder, .gguf file, or a config.json alone.
    #[arg(value_name = "MODEL", conflicts_with = "model")]
    positional: Option<String>,
    /// The same, as other commands name it.
    #[arg(short, long, default_value = "tiny")]
    model: String,
    /// Report as JSON.
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    let source = Source::open(args.positional.as_ref().unwrap_or(&args.model))?;
    let report = Report::new(&source)?;
    match args.json {
        true => print(&format!("{:#}\n", report.to_json())),
        false => print(&report.to_text()),
    }
}

struct Report<'a> {
    source: &'a Source,
    parameters: counts::Parameters,
    by_type: BTreeMap<String, Stored>,
    weight_bytes: u64,
    /// Weight bytes read to decode one token.
    active_bytes: u64,
    cache_bf16: CacheBytes,
    memory: Memory,
}

impl<'a> Report<'a> {
    fn new(source: &'a Source) -> Result<Self, Failure> {
        let config = &source.config;
        let parameters = counts::parameters(config);
        let (mut weight_bytes, mut active_bytes) =
            (parameters.total.saturating_mul(2), parameters.active.saturating_mul(2));
        if let Some(file) = &source.checkpoint {
            // Loading is cheap, for weights stay where they are, and it checks every name and shape.
            model::load(&Reference, config.clone(), file)?;
            weight_bytes = file.tensors().map(|t| t.bytes.len() as u64).sum();
            active_bytes = WeightBytes::new(config, file).per_token(config);
        }
        let cache_bf16 = counts::cache_bytes_per_token(config, RowFormat::BF16);
        Ok(Self {
            source,
            parameters,
            by_type: source.stored_by_type(),
            weight_bytes,
            active_bytes,
            cache_bf16,
            memory: memory(),
        })
    }

    fn config(&self) -> &Config {
        &self.source.config
    }

    fn activation_bytes(&self) -> u64 {
        model::workspace_bytes(self.config(), STEP_ROWS, 1)
    }

    /// Bytes to run with this context, cache in bf16.
    fn needed(&self, context: u64) -> u64 {
        let cache = context.saturating_mul(self.cache_bf16.own);
        self.weight_bytes.saturating_add(self.activation_bytes()).saturating_add(cache)
    }

    /// The contexts to report, up to the model's own limit.
    fn contexts(&self) -> Vec<u64> {
        let limit = self.config().max_position_embeddings as u64;
        CONTEXTS.into_iter().filter(|c| *c < limit).chain([limit]).collect()
    }

    /// The longest context whose cache fits beside the weights.
    fn context_max(&self) -> u64 {
        let left = self.memory.available.saturating_sub(self.needed(0));
        (left / self.cache_bf16.own.max(1)).min(self.config().max_position_embeddings as u64)
    }

    fn share(&self, of: u64) -> f64 {
        100.0 * self.cache_bf16.own as f64 / of as f64
    }

    fn to_json(&self) -> serde_json::Value {
        let config = self.config();
        let fits = |context: &u64| {
            let needed = self.needed(*context);
            json!({ "context": context, "bytes": needed, "fits": needed <= self.memory.available })
        };
        let [f32s, q8] = [RowFormat::F32, RowFormat::Q8].map(|row| counts::cache_bytes_per_token(config, row).own);
        json!({
            "model": self.source.path,
            "family": config.family.model_type(),
            "shape": shape_json(config),
            "parameters": {
                "total": self.parameters.total, "active": self.parameters.active, "mtp": self.parameters.mtp,
            },
            "weights": {
                "present": self.source.checkpoint.is_some(),
                "bytes": self.weight_bytes,
                "bytes_per_decoded_token": self.active_bytes,
                "by_type": stored_json(&self.by_type),
            },
            "decode_flops": {
                "context_0": counts::decode_flops(config, 0), "context_16384": counts::decode_flops(config, 16_384),
            },
            "cache": {
                "kind": match config.attention { Attention::Mla(_) => "latent", Attention::Gqa(_) => "key-value" },
                "values_per_token_and_layer": config.attention.cache_row_len(),
                "bytes_per_token": { "bf16": self.cache_bf16.own, "f32": f32s, "q8": q8 },
                "mha_bytes_per_token_bf16": self.cache_bf16.mha,
                "gqa8_bytes_per_token_bf16": self.cache_bf16.gqa_8,
                "percent_of_mha": self.share(self.cache_bf16.mha),
                "percent_of_gqa8": self.share(self.cache_bf16.gqa_8),
            },
            "memory": {
                "total": self.memory.total,
                "available": self.memory.available,
                "activations": self.activation_bytes(),
                "context_max": self.context_max(),
                "contexts": self.contexts().iter().map(fits).collect::<Vec<_>>(),
            },
        })
    }

    fn to_text(&self) -> String {
        let config = self.config();
        let mut out = String::new();
        let mut line = |name: &str, value: String| {
            let _ = writeln!(out, "{name:<12} {value}");
        };
        line("model", self.source.path.display().to_string());
        line("family", format!("{}, {}", config.family.model_type(), attention_text(config)));
        line("shape", shape_text(config));
        let p = &self.parameters;
        line("parameters", format!("{} total, {} active per token", grouped(p.total), grouped(p.active)));
        if p.mtp > 0 {
            line("", format!("{} more in the MTP module", grouped(p.mtp)));
        }
        match self.source.checkpoint {
            None => line("weights", format!("none here; {} in bf16", bytes(self.weight_bytes))),
            Some(_) => {
                let per_token = bytes(self.active_bytes);
                line("weights", format!("{}, of which a decoded token reads {per_token}", bytes(self.weight_bytes)));
                for (name, stored) in &self.by_type {
                    line("", format!("{name:<8} {:>10} in {} tensors", bytes(stored.bytes), grouped(stored.tensors)));
                }
            }
        }
        let c = &self.cache_bf16;
        line("cache", format!("{} bytes per token in bf16", grouped(c.own)));
        line("", format!("{} as multi-head attention: this is {:.2} % of it", grouped(c.mha), self.share(c.mha)));
        line("", format!("{} as GQA-8: this is {:.2} % of it", grouped(c.gqa_8), self.share(c.gqa_8)));
        let Memory { total, available } = self.memory;
        line("memory", format!("{} installed, {} available", bytes(total), bytes(available)));
        for context in self.contexts() {
            let needed = self.needed(context);
            let verdict = if needed <= available { "fits" } else { "does not fit" };
            line("", format!("context {:>9}: {:>10} {verdict}", grouped(context), bytes(needed)));
        }
        line("", format!("longest context that fits: {}", grouped(self.context_max())));
        out
    }
}

fn attention_text(config: &Config) -> String {
    match &config.attention {
        Attention::Mla(mla) => format!(
            "Multi-head Latent Attention: {} heads, latent {} + {} rotated",
            mla.num_attention_heads, mla.kv_lora_rank, mla.qk_rope_head_dim
        ),
        Attention::Gqa(gqa) => format!(
            "grouped-query attention: {} heads of {}, {} key-value heads",
            gqa.num_attention_heads, gqa.head_dim, gqa.num_key_value_heads
        ),
    }
}

fn shape_text(config: &Config) -> String {
    let base = format!(
        "{} layers × {} hidden, vocabulary {}, context {}",
        config.num_hidden_layers,
        config.hidden_size,
        grouped(config.vocab_size as u64),
        grouped(config.max_position_embeddings as u64)
    );
    match &config.moe {
        None => base,
        Some(moe) => format!(
            "{base}; {} of {} experts and {} shared",
            moe.router.top_k, moe.router.n_experts, moe.n_shared_experts
        ),
    }
}

fn shape_json(config: &Config) -> serde_json::Value {
    let mut shape = json!({
        "num_hidden_layers": config.num_hidden_layers,
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "vocab_size": config.vocab_size,
        "max_position_embeddings": config.max_position_embeddings,
        "num_attention_heads": config.attention.num_attention_heads(),
        "num_nextn_predict_layers": config.num_nextn_predict_layers,
        "tie_word_embeddings": config.tie_word_embeddings,
    });
    let more = match &config.attention {
        Attention::Mla(mla) => json!({
            "q_lora_rank": mla.q_lora_rank, "kv_lora_rank": mla.kv_lora_rank, "v_head_dim": mla.v_head_dim,
            "qk_nope_head_dim": mla.qk_nope_head_dim, "qk_rope_head_dim": mla.qk_rope_head_dim,
        }),
        Attention::Gqa(gqa) => json!({ "num_key_value_heads": gqa.num_key_value_heads, "head_dim": gqa.head_dim }),
    };
    let experts = config.moe.as_ref().map_or(json!({}), |moe| {
        json!({
            "n_routed_experts": moe.router.n_experts, "num_experts_per_tok": moe.router.top_k,
            "n_shared_experts": moe.n_shared_experts, "moe_intermediate_size": moe.moe_intermediate_size,
            "first_k_dense_replace": moe.first_k_dense_replace,
        })
    });
    for part in [more, experts] {
        if let (Some(shape), Some(part)) = (shape.as_object_mut(), part.as_object()) {
            shape.extend(part.clone());
        }
    }
    shape
}
