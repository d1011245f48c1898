//! The model as training sees it: the same tree as `model::weights`, with places in the arena instead of weights.
//!
//! Owns which weights belong together. Must not hold values or compute.

use std::ops::Range;

use model::Config;
use model::config::{Attention, Gqa, Mla, Moe};
use ops::RopeTable;

use crate::layout::Layout;
use crate::lora::{Adapter, Adapters};

/// y = x·Wᵀ + b.
#[derive(Clone, Debug)]
pub(crate) struct Linear {
    /// `[rows, cols]`
    pub(crate) w: Range<usize>,
    /// `[rows]`
    pub(crate) b: Option<Range<usize>>,
    pub(crate) rows: usize,
    pub(crate) cols: usize,
    /// What is added to a frozen `w`.
    pub(crate) adapter: Option<Adapter>,
}

/// W_down(silu(W_gate x) · W_up x).
#[derive(Clone, Debug)]
pub(crate) struct SwiGlu {
    pub(crate) w_gate: Linear,
    pub(crate) w_up: Linear,
    pub(crate) w_down: Linear,
}

impl SwiGlu {
    /// I
    pub(crate) fn width(&self) -> usize {
        self.w_gate.rows
    }
}

/// How MLA makes queries.
#[derive(Clone, Debug)]
pub(crate) enum Query {
    Direct(Linear),
    Latent { w_dq: Linear, q_norm: Range<usize>, w_uq: Linear },
}

/// Weights of Multi-head Latent Attention.
#[derive(Clone, Debug)]
pub(crate) struct MlaParams {
    pub(crate) mla: Mla,
    pub(crate) query: Query,
    pub(crate) w_dkv: Linear,
    pub(crate) kv_norm: Range<usize>,
    /// `[H·(n + v), C]`: keys and values of a head side by side.
    pub(crate) w_ukv: Linear,
    pub(crate) w_o: Linear,
}

/// Weights of grouped-query attention.
#[derive(Clone, Debug)]
pub(crate) struct GqaParams {
    pub(crate) gqa: Gqa,
    pub(crate) w_q: Linear,
    pub(crate) w_k: Linear,
    pub(crate) w_v: Linear,
    pub(crate) w_o: Linear,
    pub(crate) qk_norm: Option<[Range<usize>; 2]>,
}

#[derive(Clone, Debug)]
pub(crate) enum AttentionParams {
    Mla(MlaParams),
    Gqa(GqaParams),
}

/// Weights of a mixture of experts.
#[derive(Clone, Debug)]
pub(crate) struct MoeParams {
    pub(crate) moe: Moe,
    pub(crate) router: Linear,
    pub(crate) router_bias: Option<Range<usize>>,
    /// `[E, I, d]`
    pub(crate) w_gate: Range<usize>,
    /// `[E, I, d]`
    pub(crate) w_up: Range<usize>,
    /// `[E, d, I]`
    pub(crate) w_down: Range<usize>,
    pub(crate) shared: Option<SwiGlu>,
}

#[derive(Clone, Debug)]
pub(crate) enum FfnParams {
    Dense(Box<SwiGlu>),
    Moe(Box<MoeParams>),
}

/// One transformer layer.
#[derive(Clone, Debug)]
pub(crate) struct LayerParams {
    pub(crate) input_norm: Range<usize>,
    pub(crate) attention: AttentionParams,
    pub(crate) post_attention_norm: Range<usize>,
    pub(crate) ffn: FfnParams,
}

/// A multi-token-prediction module.
#[derive(Clone, Debug)]
pub(crate) struct MtpParams {
    pub(crate) enorm: Range<usize>,
    pub(crate) hnorm: Range<usize>,
    pub(crate) w_eh: Linear,
    pub(crate) layer: LayerParams,
    pub(crate) head_norm: Range<usize>,
}

/// A model to be trained: its config, and where its weights lie in the arena.
#[derive(Clone, Debug)]
pub struct Net {
    /// Its architecture.
    pub config: Config,
    /// Names and ranges of all weights.
    pub layout: Layout,
    pub(crate) rope: RopeTable,
    pub(crate) embed: Range<usize>,
    pub(crate) layers: Vec<LayerParams>,
    pub(crate) norm: Range<usize>,
    /// The embedding's range where they are tied.
    pub(crate) head: Range<usize>,
    pub(crate) mtp: Option<MtpParams>,
    /// Where there are some, all else is frozen.
    pub(crate) adapters: Option<Adapters>,
}

impl Net {
    /// The places of a config's weights. Only the first MTP module is trained; a config with more has them left out.
    #[must_use]
    pub fn new(mut config: Config) -> Self {
        config.num_nextn_predict_layers = config.num_nextn_predict_layers.min(1);
        let layout = Layout::new(&config);
        let find = Finder { layout: &layout, config: &config };
        let n_layers = config.num_hidden_layers;
        let embed = find.range("embed");
        let head = if config.tie_word_embeddings { embed.clone() } else { find.range("head") };
        let layers = (0..n_layers).map(|i| find.layer(i)).collect();
        let norm = find.range("norm");
        let mtp = (config.num_nextn_predict_layers > 0).then(|| {
            let prefix = format!("layers.{n_layers}.");
            MtpParams {
                enorm: find.range(&format!("{prefix}enorm")),
                hnorm: find.range(&format!("{prefix}hnorm")),
                w_eh: find.linear(&prefix, "w_eh"),
                layer: find.layer(n_layers),
                head_norm: find.range(&format!("{prefix}head_norm")),
            }
        });
        Self { rope: config.rope_table(), embed, layers, norm, head, mtp, adapters: None, layout, config }
    }

    /// Values in the arena of weights: the layout's, then the adapters'.
    #[must_use]
    pub fn n_values(&self) -> usize {
        self.layout.len() + self.adapters.as_ref().map_or(0, |adapters| adapters.len)
    }

    /// The values that are trained, whose gradients are the arena of gradients: all, or the adapters'.
    #[must_use]
    pub fn trained(&self) -> Range<usize> {
        let first = if self.adapters.is_some() { self.layout.len() } else { 0 };
        first..self.n_values()
    }

    /// The layers with their MoE weights, if they have any; the MTP module's is last.
    pub(crate) fn all_layers(&self) -> impl Iterator<Item = &LayerParams> {
        self.layers.iter().chain(self.mtp.iter().map(|mtp| &mtp.layer))
    }

    /// Ranges of the routers' biases, in the order of the layers that have one, the MTP module's last.
    pub fn router_biases(&self) -> impl Iterator<Item = Range<usize>> {
        self.all_layers().filter_map(|layer| match &layer.ffn {
            FfnParams::Moe(moe) => moe.router_bias.clone(),
            FfnParams::Dense(_) => None,
        })
    }
}

struct Finder<'a> {
    layout: &'a Layout,
    config: &'a Config,
}

impl Finder<'_> {
    fn range(&self, name: &str) -> Range<usize> {
        let found = self.layout.get(name).map(|param| param.range.clone());
        found.unwrap_or_else(|| unreachable!("{name} is trained but not planned"))
    }

    /// `{prefix}w_x` with `{prefix}b_x` where that is planned; `name` is `w_x`, or a matrix that never has a bias.
    fn linear(&self, prefix: &str, name: &str) -> Linear {
        let Some(param) = self.layout.get(&format!("{prefix}{name}")) else {
            unreachable!("{prefix}{name} is trained but not planned")
        };
        let [rows, cols] = param.planned.shape[..] else { unreachable!("{prefix}{name} is a matrix") };
        let bias = name.strip_prefix("w_").and_then(|x| self.layout.get(&format!("{prefix}b_{x}")));
        Linear { w: param.range.clone(), b: bias.map(|param| param.range.clone()), rows, cols, adapter: None }
    }

    fn layer(&self, i: usize) -> LayerParams {
        let prefix = format!("layers.{i}.");
        LayerParams {
            input_norm: self.range(&format!("{prefix}input_norm")),
            attention: match &self.config.attention {
                Attention::Mla(mla) => AttentionParams::Mla(self.mla(&prefix, mla)),
                Attention::Gqa(gqa) => AttentionParams::Gqa(self.gqa(&prefix, gqa)),
            },
            post_attention_norm: self.range(&format!("{prefix}post_attention_norm")),
            ffn: match self.config.moe_of(i) {
                Some(moe) => FfnParams::Moe(Box::new(self.moe(&prefix, moe))),
                None => FfnParams::Dense(Box::new(self.swiglu(&prefix))),
            },
        }
    }

    fn mla(&self, prefix: &str, mla: &Mla) -> MlaParams {
        let query = match mla.q_lora_rank {
            None => Query::Direct(self.linear(prefix, "w_q")),
            Some(_) => Query::Latent {
                w_dq: self.linear(prefix, "w_dq"),
                q_norm: self.range(&format!("{prefix}q_norm")),
                w_uq: self.linear(prefix, "w_uq"),
            },
        };
        MlaParams {
            mla: mla.clone(),
            query,
            w_dkv: self.linear(prefix, "w_dkv"),
            kv_norm: self.range(&format!("{prefix}kv_norm")),
            w_ukv: self.linear(prefix, "w_ukv"),
            w_o: self.linear(prefix, "w_o"),
        }
    }

    fn gqa(&self, prefix: &str, gqa: &Gqa) -> GqaParams {
        let norms = || ["q_norm", "k_norm"].map(|name| self.range(&format!("{prefix}{name}")));
        GqaParams {
            gqa: gqa.clone(),
            w_q: self.linear(prefix, "w_q"),
            w_k: self.linear(prefix, "w_k"),
            w_v: self.linear(prefix, "w_v"),
            w_o: self.linear(prefix, "w_o"),
            qk_norm: gqa.qk_norm.then(norms),
        }
    }

    fn swiglu(&self, prefix: &str) -> SwiGlu {
        SwiGlu {
            w_gate: self.linear(prefix, "w_gate"),
            w_up: self.linear(prefix, "w_up"),
            w_down: self.linear(prefix, "w_down"),
        }
    }

    fn moe(&self, prefix: &str, moe: &Moe) -> MoeParams {
        MoeParams {
            moe: moe.clone(),
            router: self.linear(prefix, "router"),
            router_bias: moe.router_bias.then(|| self.range(&format!("{prefix}router_bias"))),
            w_gate: self.range(&format!("{prefix}experts.w_gate")),
            w_up: self.range(&format!("{prefix}experts.w_up")),
            w_down: self.range(&format!("{prefix}experts.w_down")),
            shared: (moe.n_shared_experts > 0).then(|| self.swiglu(&format!("{prefix}shared."))),
        }
    }
}
