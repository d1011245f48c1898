//! Every buffer of a forward pass, allocated once.
//!
//! Owns activation memory and its size. Must not compute.

use ops::{Device, DeviceError};

use crate::{Config, Model, config::Attention};

/// Scratch for steps of at most `n_rows` rows of which at most `n_sample` sample.
///
/// # Shapes   beside each field; T is `n_rows`
pub struct Workspace<D: Device> {
    pub(crate) n_rows: usize,
    pub(crate) n_sample: usize,
    /// `[T, d]` residual stream.
    pub(crate) x: D::Buffer,
    /// `[T, d]` normed input of a sublayer; after the pass, the final norm's output.
    pub(crate) h: D::Buffer,
    /// `[T, d]` output of a sublayer, not yet added to `x`.
    pub(crate) delta: D::Buffer,
    /// `[T, q_lora_rank]`
    pub(crate) c_q: D::Buffer,
    /// `[T, H·(n+R)]` or `[T, H·D]`
    pub(crate) q: D::Buffer,
    /// `[T, C+R]`, or keys `[T, n_kv_heads·D]`
    pub(crate) k: D::Buffer,
    /// values `[T, n_kv_heads·D]`
    pub(crate) v: D::Buffer,
    /// `[T, H, C]`
    pub(crate) q_lat: D::Buffer,
    /// `[T, H, C]`
    pub(crate) z: D::Buffer,
    /// `[T, H, v]` or `[T, H, D]`
    pub(crate) o: D::Buffer,
    /// `[T, I]`
    pub(crate) gate: D::Buffer,
    /// `[T, I]`
    pub(crate) up: D::Buffer,
    /// `[T, E]`
    pub(crate) router_logits: D::Buffer,
    /// `[T, d]`
    pub(crate) shared: D::Buffer,
    /// Per layer, so that what each layer chose can still be read after the step; an MTP module uses the first.
    pub(crate) routes: Vec<D::Routes>,
    /// `[T, 2d]`, only with an MTP module
    pub(crate) eh: D::Buffer,
    /// `[n_sample, d]`
    pub(crate) sampled: D::Buffer,
    /// `[n_sample, vocab]`
    pub(crate) logits: D::Buffer,
}

/// Values per row of each buffer, in the order of [`Workspace`]'s fields from `x` to `eh`.
fn widths(config: &Config) -> [usize; 15] {
    let d = config.hidden_size;
    let (c_q, q, k, v, q_lat, o) = match &config.attention {
        Attention::Mla(mla) => {
            let h = mla.num_attention_heads;
            let q_lat = h * mla.kv_lora_rank;
            (mla.q_lora_rank.unwrap_or(0), h * mla.qk_head_dim(), mla.latent_dim(), 0, q_lat, h * mla.v_head_dim)
        }
        Attention::Gqa(gqa) => {
            let (q, kv) = (gqa.num_attention_heads * gqa.head_dim, gqa.num_key_value_heads * gqa.head_dim);
            (0, q, kv, kv, 0, q)
        }
    };
    let (n_experts, shared) =
        config.moe.as_ref().map_or((0, 0), |m| (m.router.n_experts, m.n_shared_experts * m.moe_intermediate_size));
    let ffn = config.intermediate_size.max(shared);
    let shared_out = if shared > 0 { d } else { 0 };
    let eh = if config.num_nextn_predict_layers > 0 { 2 * d } else { 0 };
    [d, d, d, c_q, q, k, v, q_lat, q_lat, o, ffn, ffn, n_experts, shared_out, eh]
}

/// Bytes that a workspace of this size takes, routes left out.
#[must_use]
pub fn workspace_bytes(config: &Config, n_rows: usize, n_sample: usize) -> u64 {
    let per_row: usize = widths(config).iter().sum();
    4 * (per_row as u64 * n_rows as u64 + (config.vocab_size + config.hidden_size) as u64 * n_sample as u64)
}

impl<D: Device> Workspace<D> {
    /// Room for steps of up to `n_rows` rows and `n_sample` sampled rows.
    ///
    /// # Errors
    /// the device is out of memory
    pub fn new(model: &Model<D>, dev: &D, n_rows: usize, n_sample: usize) -> Result<Self, DeviceError> {
        let config = &model.config;
        let top_k = config.moe.as_ref().map_or(0, |m| m.router.top_k);
        let routes = (0..config.num_hidden_layers).map(|_| dev.alloc_routes(n_rows, top_k));
        let [x, h, delta, c_q, q, k, v, q_lat, z, o, gate, up, router_logits, shared, eh] =
            widths(config).map(|width| dev.alloc(n_rows * width));
        Ok(Self {
            n_rows,
            n_sample,
            x: x?,
            h: h?,
            delta: delta?,
            c_q: c_q?,
            q: q?,
            k: k?,
            v: v?,
            q_lat: q_lat?,
            z: z?,
            o: o?,
            gate: gate?,
            up: up?,
            router_logits: router_logits?,
            shared: shared?,
            routes: routes.collect::<Result<_, _>>()?,
            eh: eh?,
            sampled: dev.alloc(n_sample * config.hidden_size)?,
            logits: dev.alloc(n_sample * config.vocab_size)?,
        })
    }

    /// Logits of the last step's sampled rows, `[sample_rows, vocab]`.
    #[must_use]
    pub fn logits(&self) -> &D::Buffer {
        &self.logits
    }

    /// The experts that `layer` chose in the last step; meaningless for a layer without experts.
    ///
    /// # Panics   if the model has no such layer
    #[must_use]
    pub fn routes(&self, layer: usize) -> &D::Routes {
        &self.routes[layer]
    }

    /// The final norm's output of the last step, `[T, d]`: what an MTP module reads.
    #[must_use]
    pub fn hidden(&self) -> &D::Buffer {
        &self.h
    }
}
