//! Every buffer of a training step, allocated once: what the forward pass keeps for the backward pass, and scratch.
//!
//! Owns activation memory. Per layer are kept: the residual stream before each sublayer; queries, keys, values, the
//! attention's output and log-sum-exps; the FFN's two projections; the router's logits and choice. Norms and products
//! silu(gate)·up are made anew in the backward pass: they cost little and are as large as what is kept.
//! Must not compute.

use std::cell::Cell;

use ops::{DeviceError, zeroed};

use crate::dispatch::Dispatch;
use crate::net::{AttentionParams, FfnParams, LayerParams, Net, Query};

/// What one layer's attention keeps. T rows.
pub(crate) struct AttentionKept {
    /// `[T, rank]` query latent before its norm (MLA), or `[T, H, D]` queries before theirs (Qwen3).
    pub(crate) q_raw: Vec<f32>,
    /// `[T, n_kv_heads, D]` keys before their norm (Qwen3).
    pub(crate) k_raw: Vec<f32>,
    /// `[T, H, n + R]`, rotated.
    pub(crate) q: Vec<f32>,
    /// `[T, C + R]` latent before its norm and rotated `k_pe` (MLA).
    pub(crate) u: Vec<f32>,
    /// Keys and values: `[T, H, n + v]` (MLA), or `[T, n_kv_heads, D]` keys and then as many values.
    pub(crate) kv: Vec<f32>,
    /// `[T, H, v]`
    pub(crate) o: Vec<f32>,
    /// `[T, H]`
    pub(crate) lse: Vec<f32>,
}

/// What one SwiGLU keeps, `[T, I]` each.
pub(crate) struct SwiGluKept {
    pub(crate) gate: Vec<f32>,
    pub(crate) up: Vec<f32>,
}

/// What a mixture of experts keeps. P = T·k picks.
pub(crate) struct MoeKept {
    /// `[T, E]`
    pub(crate) logits: Vec<f32>,
    /// `[T, k]`
    pub(crate) weights: Vec<f32>,
    /// Which expert works on which row.
    pub(crate) dispatch: Dispatch,
    /// `[P, I]`, by expert.
    pub(crate) experts: SwiGluKept,
    pub(crate) shared: Option<SwiGluKept>,
}

pub(crate) enum FfnKept {
    Dense(SwiGluKept),
    Moe(Box<MoeKept>),
}

/// What one layer keeps besides the residual stream at its start.
pub(crate) struct LayerKept {
    pub(crate) attention: AttentionKept,
    /// `[T, d]` residual stream between the sublayers.
    pub(crate) x_mid: Vec<f32>,
    pub(crate) ffn: FfnKept,
}

/// What an MTP module keeps besides its layer.
pub(crate) struct MtpKept {
    /// `[T, d]` embeddings of the next tokens.
    pub(crate) e: Vec<f32>,
    /// `[T, d]` the main model's outputs that are continued.
    pub(crate) g: Vec<f32>,
    /// `[T, 2d]` both, normed, embedding first.
    pub(crate) eh: Vec<f32>,
    /// `[T, d]` residual stream before and after the layer.
    pub(crate) x: [Vec<f32>; 2],
    pub(crate) layer: LayerKept,
    /// `[T, d]` after the final norm, then its gradient.
    pub(crate) h: Vec<f32>,
}

/// What goes into a sublayer and comes out, `[T, d]` each.
pub(crate) struct Stream {
    /// Normed input.
    pub(crate) h: Vec<f32>,
    /// Its gradient.
    pub(crate) d_h: Vec<f32>,
    /// Output.
    pub(crate) delta: Vec<f32>,
    /// Output of the shared experts.
    pub(crate) shared: Vec<f32>,
}

/// Buffers whose content no call leaves to the next; a name's gradient is kept in `d_name`.
pub(crate) struct Scratch {
    /// `[T, rank]` normed query latent.
    pub(crate) c_q: Vec<f32>,
    pub(crate) d_q_raw: Vec<f32>,
    pub(crate) d_k_raw: Vec<f32>,
    /// `[T, C]` normed latent.
    pub(crate) c: Vec<f32>,
    pub(crate) d_c: Vec<f32>,
    pub(crate) d_q: Vec<f32>,
    pub(crate) d_u: Vec<f32>,
    pub(crate) d_kv: Vec<f32>,
    pub(crate) d_o: Vec<f32>,
    /// `[T, I]` or `[P, I]` products silu(gate)·up.
    pub(crate) hidden: Vec<f32>,
    pub(crate) d_hidden: Vec<f32>,
    pub(crate) d_gate: Vec<f32>,
    pub(crate) d_up: Vec<f32>,
    /// `[P, d]` rows of the experts: inputs, outputs, gradients.
    pub(crate) picks: [Vec<f32>; 2],
    /// `[T, E]`
    pub(crate) d_logits: Vec<f32>,
    /// `[T, k]`
    pub(crate) d_weights: Vec<f32>,
    /// `[logit_rows(vocab), vocab]`
    pub(crate) logits: Vec<f32>,
    /// `[logit_rows(vocab), d]` twice: the head's input and its gradient, of rows that count.
    pub(crate) head: [Vec<f32>; 2],
    /// Takes the gradients of norms that are frozen, whose kernels make them along with their inputs'.
    pub(crate) frozen: Vec<f32>,
}

/// Rows whose logits exist at one time: 4 MB of them, so that they stay in the cache and the head's gradient is not read
/// and written too often, but 128 rows at least.
pub(crate) fn logit_rows(vocab: usize) -> usize {
    ((1 << 20) / vocab.max(1)).clamp(128, 1024)
}

/// Memory of training steps of at most `n_rows` rows.
pub struct Workspace {
    pub(crate) n_rows: usize,
    /// `[T, d]` residual stream at the start of each layer, and after the last.
    pub(crate) x: Vec<Vec<f32>>,
    pub(crate) layers: Vec<LayerKept>,
    /// `[T, d]` the main model's output after the final norm.
    pub(crate) h: Vec<f32>,
    /// `[T, d]` gradient of `h`.
    pub(crate) d_final: Vec<f32>,
    /// `[T, d]` gradient of the residual stream.
    pub(crate) d_x: Vec<f32>,
    pub(crate) mtp: Option<MtpKept>,
    pub(crate) stream: Stream,
    pub(crate) scratch: Scratch,
}

impl Workspace {
    /// Buffers for steps of at most `n_rows` rows.
    ///
    /// # Errors
    /// there is not enough memory
    pub fn new(net: &Net, n_rows: usize) -> Result<Self, DeviceError> {
        Self::of(&Rows { n_rows, n_values: Cell::new(0), counted_only: false }, net)
    }

    /// Bytes that [`Workspace::new`] asks for; `u64::MAX` where they cannot be counted.
    #[must_use]
    pub fn n_bytes(net: &Net, n_rows: usize) -> u64 {
        let rows = Rows { n_rows, n_values: Cell::new(0), counted_only: true };
        match Self::of(&rows, net) {
            Ok(_) => rows.n_values.get().saturating_mul(size_of::<f32>() as u64),
            Err(_) => u64::MAX,
        }
    }

    fn of(rows: &Rows, net: &Net) -> Result<Self, DeviceError> {
        let d = net.config.hidden_size;
        let n_layers = net.layers.len();
        let mtp = match &net.mtp {
            None => None,
            Some(mtp) => Some(MtpKept {
                e: rows.of(d)?,
                g: rows.of(d)?,
                eh: rows.of(2 * d)?,
                x: [rows.of(d)?, rows.of(d)?],
                layer: rows.layer(&mtp.layer, d)?,
                h: rows.of(d)?,
            }),
        };
        Ok(Self {
            n_rows: rows.n_rows,
            x: (0..=n_layers).map(|_| rows.of(d)).collect::<Result<_, _>>()?,
            layers: net.layers.iter().map(|layer| rows.layer(layer, d)).collect::<Result<_, _>>()?,
            h: rows.of(d)?,
            d_final: rows.of(d)?,
            d_x: rows.of(d)?,
            mtp,
            stream: Stream { h: rows.of(d)?, d_h: rows.of(d)?, delta: rows.of(d)?, shared: rows.of(d)? },
            scratch: rows.scratch(net)?,
        })
    }

    /// How many rows of the last step each expert worked on, `[E]` for each layer that has experts, the MTP module's
    /// last.
    pub fn expert_loads(&self) -> impl Iterator<Item = Vec<usize>> {
        self.layers.iter().chain(self.mtp.iter().map(|mtp| &mtp.layer)).filter_map(|kept| match &kept.ffn {
            FfnKept::Moe(moe) => Some(moe.dispatch.loads().collect()),
            FfnKept::Dense(_) => None,
        })
    }
}

/// Allocates buffers of so many rows, or only counts what they hold.
struct Rows {
    n_rows: usize,
    n_values: Cell<u64>,
    counted_only: bool,
}

impl Rows {
    fn of(&self, width: usize) -> Result<Vec<f32>, DeviceError> {
        self.values(self.n_rows.saturating_mul(width))
    }

    fn values(&self, n: usize) -> Result<Vec<f32>, DeviceError> {
        self.n_values.set(self.n_values.get().saturating_add(n as u64));
        zeroed(if self.counted_only { 0 } else { n }, "activations")
    }

    /// The choices of experts: four lists of 32-bit indices.
    fn dispatch(&self, n_experts: usize, top_k: usize) -> Result<Dispatch, DeviceError> {
        let n = self.n_rows.saturating_mul(top_k);
        self.n_values.set(self.n_values.get().saturating_add(4 * n as u64));
        Dispatch::new(n_experts, top_k, if self.counted_only { 0 } else { self.n_rows })
    }

    fn swiglu(&self, width: usize) -> Result<SwiGluKept, DeviceError> {
        Ok(SwiGluKept { gate: self.of(width)?, up: self.of(width)? })
    }

    fn layer(&self, layer: &LayerParams, d: usize) -> Result<LayerKept, DeviceError> {
        let w = Widths::of(layer);
        Ok(LayerKept {
            attention: AttentionKept {
                q_raw: self.of(w.q_raw)?,
                k_raw: self.of(w.k_raw)?,
                q: self.of(w.q)?,
                u: self.of(w.u)?,
                kv: self.of(w.kv)?,
                o: self.of(w.o)?,
                lse: self.of(w.heads)?,
            },
            x_mid: self.of(d)?,
            ffn: match &layer.ffn {
                FfnParams::Dense(w) => FfnKept::Dense(self.swiglu(w.width())?),
                FfnParams::Moe(w) => {
                    let router = &w.moe.router;
                    FfnKept::Moe(Box::new(MoeKept {
                        logits: self.of(router.n_experts)?,
                        weights: self.of(router.top_k)?,
                        dispatch: self.dispatch(router.n_experts, router.top_k)?,
                        experts: self.swiglu(router.top_k * w.moe.moe_intermediate_size)?,
                        shared: w.shared.as_ref().map(|w| self.swiglu(w.width())).transpose()?,
                    }))
                }
            },
        })
    }

    fn scratch(&self, net: &Net) -> Result<Scratch, DeviceError> {
        let d = net.config.hidden_size;
        let widest = net.all_layers().map(Widths::of).fold(Widths::default(), Widths::max);
        let of = |width| self.of(width);
        let n_logits = logit_rows(net.config.vocab_size).min(self.n_rows);
        let at_once = |width: usize| self.values(n_logits.saturating_mul(width));
        Ok(Scratch {
            c_q: of(widest.q_raw)?,
            d_q_raw: of(widest.q_raw)?,
            d_k_raw: of(widest.k_raw)?,
            c: of(widest.latent)?,
            d_c: of(widest.latent)?,
            d_q: of(widest.q)?,
            d_u: of(widest.u)?,
            d_kv: of(widest.kv)?,
            d_o: of(widest.o)?,
            hidden: of(widest.hidden)?,
            d_hidden: of(widest.hidden)?,
            d_gate: of(widest.hidden)?,
            d_up: of(widest.hidden)?,
            picks: [of(widest.top_k * d)?, of(widest.top_k * d)?],
            d_logits: of(widest.experts)?,
            d_weights: of(widest.top_k)?,
            logits: at_once(net.config.vocab_size)?,
            head: [at_once(d)?, at_once(d)?],
            frozen: self.values(if net.adapters.is_some() { d.max(widest.head_dim) } else { 0 })?,
        })
    }
}

/// Values per row of what a layer needs.
#[derive(Clone, Copy, Debug, Default)]
struct Widths {
    q_raw: usize,
    k_raw: usize,
    q: usize,
    u: usize,
    latent: usize,
    kv: usize,
    o: usize,
    heads: usize,
    head_dim: usize,
    hidden: usize,
    top_k: usize,
    experts: usize,
}

impl Widths {
    fn of(layer: &LayerParams) -> Self {
        let mut w = Self::default();
        match &layer.attention {
            AttentionParams::Mla(p) => {
                if let Query::Latent { w_dq, .. } = &p.query {
                    w.q_raw = w_dq.rows;
                }
                w.q = p.mla.num_attention_heads * p.mla.qk_head_dim();
                (w.u, w.latent, w.kv) = (p.w_dkv.rows, p.mla.kv_lora_rank, p.w_ukv.rows);
                (w.o, w.heads) = (p.w_o.cols, p.mla.num_attention_heads);
            }
            AttentionParams::Gqa(p) => {
                (w.q, w.kv, w.o) = (p.w_q.rows, 2 * p.w_k.rows, p.w_o.cols);
                (w.heads, w.head_dim) = (p.gqa.num_attention_heads, p.gqa.head_dim);
                if p.gqa.qk_norm {
                    (w.q_raw, w.k_raw) = (w.q, p.w_k.rows);
                }
            }
        }
        match &layer.ffn {
            FfnParams::Dense(p) => w.hidden = p.width(),
            FfnParams::Moe(p) => {
                (w.top_k, w.experts) = (p.moe.router.top_k, p.moe.router.n_experts);
                let shared = p.shared.as_ref().map_or(0, |shared| shared.width());
                w.hidden = shared.max(w.top_k * p.moe.moe_intermediate_size);
            }
        }
        w
    }

    fn max(self, other: Self) -> Self {
        Self {
            q_raw: self.q_raw.max(other.q_raw),
            k_raw: self.k_raw.max(other.k_raw),
            q: self.q.max(other.q),
            u: self.u.max(other.u),
            latent: self.latent.max(other.latent),
            kv: self.kv.max(other.kv),
            o: self.o.max(other.o),
            heads: self.heads.max(other.heads),
            head_dim: self.head_dim.max(other.head_dim),
            hidden: self.hidden.max(other.hidden),
            top_k: self.top_k.max(other.top_k),
            experts: self.experts.max(other.experts),
        }
    }
}
