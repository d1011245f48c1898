//! The forward pass, written once for every device.
//!
//! Owns the order of operations, which should read like the papers: DeepSeek-V2 (arXiv 2405.04434) 2.1 for attention,
//! DeepSeek-V3 (arXiv 2412.19437) 2.1.2 for experts and 2.2 for MTP. Must not allocate, fail, or know requests.
//!
//! Shapes: T rows of the step, d hidden, H heads, C latent, R rotated, n unrotated, v value channels.

use std::ops::Range;

use ops::{
    AttendExpanded, AttendKv, AttendLatent, Batch, Device, HeadLayout, HeadSide, NormLayout, RopeTable, SeqSpan,
};

use crate::cache::{Cache, KvCache, LatentCache};
use crate::config::{Attention, Config, Gqa, LATENT_NORM_EPS, Mla};
use crate::weights::{
    AttentionWeights, FfnWeights, GqaWeights, LayerWeights, Linear, MlaQuery, MlaWeights, Model, SwiGlu,
};
use crate::workspace::Workspace;

/// Which form of MLA a span is computed in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Form {
    /// The cheaper one for the span's own `n_new` and `n_cached`.
    #[default]
    Auto,
    /// Queries move into the latent space: best for decode.
    Absorbed,
    /// Latents are expanded to keys and values per head: best for long prefill.
    Expanded,
}

/// Positions whose expansion costs as much as unpacking a head's matrices.
const UNPACKING: u64 = 32;

impl Form {
    /// Whether a span is expanded.
    fn expands(self, mla: &Mla, span: &SeqSpan) -> bool {
        match self {
            Self::Absorbed => false,
            Self::Expanded => true,
            Self::Auto => {
                let [absorbed, expanded] = mul_adds_per_head(mla, span.n_cached as u64, span.n_new as u64);
                // A head's matrices are unpacked before they expand anything: one new token must not pay for that.
                let unpacking = UNPACKING * (mla.kv_lora_rank * (mla.qk_nope_head_dim + mla.v_head_dim)) as u64;
                expanded + unpacking < absorbed
            }
        }
    }
}

/// Multiply-adds per head and layer of MLA, absorbed and expanded, from the queries and cached rows to the values.
///
/// Absorbed: each new token pays n·C + C·v for absorbing, each query-key pair 2C + R. Expanded: each visible position
/// pays C·(n + v) for its key and value, each pair n + R + v.
pub(crate) fn mul_adds_per_head(mla: &Mla, n_cached: u64, n_new: u64) -> [u64; 2] {
    let (c, r) = (mla.kv_lora_rank as u64, mla.qk_rope_head_dim as u64);
    let (n, v) = (mla.qk_nope_head_dim as u64, mla.v_head_dim as u64);
    let pairs = n_pairs(n_cached, n_new);
    [n_new * c * (n + v) + pairs * (2 * c + r), (n_cached + n_new) * c * (n + v) + pairs * (n + r + v)]
}

/// Pairs of a new position and one that it sees, itself included.
pub(crate) fn n_pairs(n_cached: u64, n_new: u64) -> u64 {
    n_new * n_cached + n_new * (n_new + 1) / 2
}

/// Runs the main model over a step: fills the cache rows of its tokens and the logits of its sampled rows.
///
/// # Panics   if the step is larger than the workspace, or slots and spans disagree with the cache (scheduler bugs)
pub fn forward<D: Device>(
    model: &Model<D>,
    dev: &D,
    form: Form,
    batch: &Batch,
    cache: &mut Cache<D>,
    ws: &mut Workspace<D>,
) {
    forward_stages(model, dev, form, batch, 0..n_stages(&model.config), cache, ws);
}

/// Stages of a forward pass: the two sublayers of each layer, attention and FFN.
#[must_use]
pub fn n_stages(config: &Config) -> usize {
    2 * config.num_hidden_layers
}

/// Part of [`forward`]: all stages run in order, in as many calls as wanted and with other steps between them, compute
/// the same as one call. So a large step can give way to small ones without becoming smaller itself.
///
/// The first stage also embeds; the last also leaves the logits. Between calls batch and workspace are kept as they are.
///
/// # Panics   as [`forward`]
pub fn forward_stages<D: Device>(
    model: &Model<D>,
    dev: &D,
    form: Form,
    batch: &Batch,
    stages: Range<usize>,
    cache: &mut Cache<D>,
    ws: &mut Workspace<D>,
) {
    assert!(batch.len() <= ws.n_rows, "a step of {} rows in a workspace of {}", batch.len(), ws.n_rows);
    assert!(batch.sample_rows.len() <= ws.n_sample, "more sampled rows than the workspace holds");
    if batch.is_empty() {
        return;
    }
    let step = Step { dev, config: &model.config, rope: &model.rope, form, batch };
    if stages.start == 0 {
        dev.embed(&model.embed, &batch.tokens, &mut ws.x);
    }
    for stage in stages.clone() {
        let (i, layer) = (stage / 2, &model.layers[stage / 2]);
        match stage % 2 {
            0 => step.attention(layer, i, i > 0, cache, ws),
            _ => step.feed_forward(layer, i, ws),
        }
    }
    if stages.end == n_stages(&model.config) {
        dev.add_rmsnorm(&mut ws.x, Some(&ws.delta), &model.norm, model.config.norm(batch.len()), &mut ws.h);
        step.logits(model, ws);
    }
}

/// Runs the MTP module: from the main model's output at position i and the token at i + 1, logits for i + 2.
///
/// Call it after [`forward`] with the same workspace: row t of `batch` holds the token that follows the main model's
/// row `hidden_rows[t]`, with a slot in the module's own cache. The module's input is
/// `W_eh · [RMS(embedding) | RMS(hidden)]`: embedding first, as the released weights want it, though the paper writes
/// it second. Its output replaces the main model's in the workspace.
///
/// # Panics   as [`forward`], or if the model has no MTP module
pub fn forward_mtp<D: Device>(
    model: &Model<D>,
    dev: &D,
    form: Form,
    batch: &Batch,
    hidden_rows: &[u32],
    cache: &mut Cache<D>,
    ws: &mut Workspace<D>,
) {
    let Some(mtp) = &model.mtp else { panic!("forward_mtp on a model without an MTP module") };
    assert!(batch.len() <= ws.n_rows, "a step of {} rows in a workspace of {}", batch.len(), ws.n_rows);
    assert_eq!(batch.len(), hidden_rows.len());
    let (n_rows, d) = (batch.len(), model.config.hidden_size);
    let norm = model.config.norm(n_rows);
    let step = Step { dev, config: &model.config, rope: &model.rope, form, batch };
    dev.embed(&model.embed, &batch.tokens, &mut ws.delta);
    dev.rmsnorm(&mut ws.delta, &mtp.enorm, norm);
    dev.gather(&ws.h, hidden_rows, d, &mut ws.x);
    dev.rmsnorm(&mut ws.x, &mtp.hnorm, norm);
    dev.concat(&ws.delta, &ws.x, n_rows, d, &mut ws.eh);
    dev.matmul(&ws.eh, n_rows, &mtp.w_eh, None, &mut ws.x);
    step.attention(&mtp.layer, 0, false, cache, ws);
    step.feed_forward(&mtp.layer, 0, ws);
    dev.add_rmsnorm(&mut ws.x, Some(&ws.delta), &mtp.head_norm, norm, &mut ws.h);
    step.logits(model, ws);
}

/// What stays the same through a step.
struct Step<'a, D: Device> {
    dev: &'a D,
    config: &'a Config,
    rope: &'a RopeTable,
    form: Form,
    batch: &'a Batch,
}

impl<D: Device> Step<'_, D> {
    /// x += delta of the layer before; delta = Attn(RMS(x)).
    fn attention(&self, w: &LayerWeights<D>, i: usize, has_delta: bool, cache: &mut Cache<D>, ws: &mut Workspace<D>) {
        let norm = self.config.norm(self.batch.len());
        self.dev.add_rmsnorm(&mut ws.x, has_delta.then_some(&ws.delta), &w.input_norm, norm, &mut ws.h);
        match (&w.attention, &self.config.attention, cache) {
            (AttentionWeights::Mla(w), Attention::Mla(mla), Cache::Latent(cache)) => self.mla(w, mla, i, cache, ws),
            (AttentionWeights::Gqa(w), Attention::Gqa(gqa), Cache::Kv(cache)) => self.gqa(w, gqa, i, cache, ws),
            _ => unreachable!("weights, config and cache are of one kind"),
        }
    }

    /// x += delta; delta = FFN(RMS(x)).
    fn feed_forward(&self, w: &LayerWeights<D>, i: usize, ws: &mut Workspace<D>) {
        let norm = self.config.norm(self.batch.len());
        self.dev.add_rmsnorm(&mut ws.x, Some(&ws.delta), &w.post_attention_norm, norm, &mut ws.h);
        self.ffn(&w.ffn, i, ws);
    }

    /// y = x·Wᵀ + b over the step's rows.
    fn linear(&self, x: &D::Buffer, w: &Linear<D>, out: &mut D::Buffer) {
        self.dev.matmul(x, self.batch.len(), &w.w, w.b.as_ref(), out);
    }

    /// Multi-head Latent Attention: delta = W_o · attention(RMS(x)).
    fn mla(&self, w: &MlaWeights<D>, mla: &Mla, layer: usize, cache: &mut LatentCache<D>, ws: &mut Workspace<D>) {
        let (dev, batch) = (self.dev, self.batch);
        let norm = |row_stride, dim| NormLayout { n_rows: batch.len(), row_stride, dim, eps: LATENT_NORM_EPS };
        // Queries [T, H, n+R]
        match &w.query {
            MlaQuery::Direct(w_q) => self.linear(&ws.h, w_q, &mut ws.q),
            MlaQuery::Latent { w_dq, q_norm, w_uq, rank } => {
                self.linear(&ws.h, w_dq, &mut ws.c_q);
                dev.rmsnorm(&mut ws.c_q, q_norm, norm(*rank, *rank));
                self.linear(&ws.c_q, w_uq, &mut ws.q);
            }
        }
        let q_pe =
            HeadLayout { n_heads: mla.num_attention_heads, head_dim: mla.qk_head_dim(), start: mla.qk_nope_head_dim };
        dev.rope(&mut ws.q, q_pe, &batch.positions, self.rope);
        // Latents [T, C+R]: norm on c_kv, rotation on k_pe, and into the cache
        self.linear(&ws.h, &w.w_dkv, &mut ws.k);
        dev.rmsnorm(&mut ws.k, &w.kv_norm, norm(mla.latent_dim(), mla.kv_lora_rank));
        let k_pe = HeadLayout { n_heads: 1, head_dim: mla.latent_dim(), start: mla.kv_lora_rank };
        dev.rope(&mut ws.k, k_pe, &batch.positions, self.rope);
        dev.cache_store(&mut cache.rows, layer, &batch.slots, &[(&ws.k, mla.latent_dim())]);
        // Attention, each span in the form that suits it
        let expands = |span: &SeqSpan| self.form.expands(mla, span);
        let runs = || batch.spans.chunk_by(|a, b| expands(a) == expands(b));
        let (block_tables, scale) = (&batch.block_tables[..], mla.softmax_scale);
        let (kv_lora_rank, v_head_dim) = (mla.kv_lora_rank, mla.v_head_dim);
        if batch.spans.iter().any(|span| !expands(span)) {
            let q_nope = HeadLayout { start: 0, ..q_pe };
            dev.matmul_heads(&ws.q, q_nope, batch.len(), &w.w_uk, HeadSide::ApplyTransposed, &mut ws.q_lat);
            for spans in runs().filter(|run| !expands(&run[0])) {
                let (q_lat, q, cache) = (&ws.q_lat, &ws.q, &cache.rows);
                let args = AttendLatent { q_lat, q, q_pe, cache, layer, spans, block_tables, kv_lora_rank, scale };
                dev.attend_latent(&args, &mut ws.z);
            }
            let z = HeadLayout { n_heads: mla.num_attention_heads, head_dim: kv_lora_rank, start: 0 };
            dev.matmul_heads(&ws.z, z, batch.len(), &w.w_uv, HeadSide::Apply, &mut ws.o);
        }
        for spans in runs().filter(|run| expands(&run[0])) {
            let (q, cache, w_uk, w_uv) = (&ws.q, &cache.rows, &w.w_uk, &w.w_uv);
            let args = AttendExpanded { q, q_pe, cache, layer, spans, block_tables, w_uk, w_uv, v_head_dim, scale };
            dev.attend_expanded(&args, &mut ws.o);
        }
        self.linear(&ws.o, &w.w_o, &mut ws.delta);
    }

    /// Grouped-query attention: delta = W_o · attention(RMS(x)).
    fn gqa(&self, w: &GqaWeights<D>, gqa: &Gqa, layer: usize, cache: &mut KvCache<D>, ws: &mut Workspace<D>) {
        let (dev, batch) = (self.dev, self.batch);
        let (n_heads, n_kv_heads, head_dim) = (gqa.num_attention_heads, gqa.num_key_value_heads, gqa.head_dim);
        self.linear(&ws.h, &w.w_q, &mut ws.q);
        self.linear(&ws.h, &w.w_k, &mut ws.k);
        self.linear(&ws.h, &w.w_v, &mut ws.v);
        if let Some([q_norm, k_norm]) = &w.qk_norm {
            let norm = |heads| NormLayout {
                n_rows: batch.len() * heads,
                row_stride: head_dim,
                dim: head_dim,
                eps: self.config.rms_norm_eps,
            };
            dev.rmsnorm(&mut ws.q, q_norm, norm(n_heads));
            dev.rmsnorm(&mut ws.k, k_norm, norm(n_kv_heads));
        }
        dev.rope(&mut ws.q, HeadLayout { n_heads, head_dim, start: 0 }, &batch.positions, self.rope);
        dev.rope(&mut ws.k, HeadLayout { n_heads: n_kv_heads, head_dim, start: 0 }, &batch.positions, self.rope);
        let row = n_kv_heads * head_dim;
        dev.cache_store(&mut cache.rows, layer, &batch.slots, &[(&ws.v, row), (&ws.k, row)]);
        let args = AttendKv {
            q: &ws.q,
            cache: &cache.rows,
            layer,
            spans: &batch.spans,
            block_tables: &batch.block_tables,
            n_heads,
            n_kv_heads,
            head_dim,
            scale: (head_dim as f64).powf(-0.5) as f32,
        };
        dev.attend_kv(&args, &mut ws.o);
        self.linear(&ws.o, &w.w_o, &mut ws.delta);
    }

    /// delta = FFN(RMS(x)): one SwiGLU, or Σ wᵢ·Eᵢ(x) + S(x).
    fn ffn(&self, w: &FfnWeights<D>, layer: usize, ws: &mut Workspace<D>) {
        let (dev, n_rows) = (self.dev, self.batch.len());
        match w {
            FfnWeights::Dense(w) => self.swiglu(w, &ws.h, &mut ws.gate, &mut ws.up, &mut ws.delta),
            FfnWeights::Moe { router, router_bias, experts, shared } => {
                let Some(moe) = &self.config.moe else { unreachable!("an MoE layer comes from an MoE config") };
                dev.matmul(&ws.h, n_rows, router, None, &mut ws.router_logits);
                let routes = &mut ws.routes[layer];
                dev.route(&moe.router, &ws.router_logits, router_bias.as_ref(), n_rows, routes);
                dev.experts(&ws.h, n_rows, routes, experts, &mut ws.delta);
                if let Some(shared) = shared {
                    self.swiglu(shared, &ws.h, &mut ws.gate, &mut ws.up, &mut ws.shared);
                    dev.add(&mut ws.delta, &ws.shared, n_rows * self.config.hidden_size);
                }
            }
        }
    }

    /// out = W_down(silu(W_gate x) · W_up x)
    fn swiglu(&self, w: &SwiGlu<D>, x: &D::Buffer, gate: &mut D::Buffer, up: &mut D::Buffer, out: &mut D::Buffer) {
        self.linear(x, &w.w_gate, gate);
        self.linear(x, &w.w_up, up);
        self.dev.swiglu(gate, up, self.batch.len() * w.width);
        self.linear(gate, &w.w_down, out);
    }

    /// Logits of the sampled rows of `ws.h`.
    fn logits(&self, model: &Model<D>, ws: &mut Workspace<D>) {
        let rows = &self.batch.sample_rows;
        self.dev.gather(&ws.h, rows, self.config.hidden_size, &mut ws.sampled);
        self.dev.matmul(&ws.sampled, rows.len(), model.head(), None, &mut ws.logits);
    }
}
