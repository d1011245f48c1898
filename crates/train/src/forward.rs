//! The forward pass of a training step: the maths of `model::forward` with MLA expanded, over packed documents, keeping
//! what `backward` reads.
//!
//! Owns the order of operations, which is `model::forward`'s. Must not allocate or know losses.
//!
//! Shapes: T rows, d hidden, H heads, C latent, R rotated, n unrotated, v value channels, P = T·k picks of experts.

use std::cell::Cell;
use std::ops::Range;

use model::config::LATENT_NORM_EPS;
use ops::{Gemm, GemmLayout, HeadLayout, HeadRows, NormRows, PackedAttention, Precision, TrainDevice};

use crate::batch::Batch;
use crate::net::{
    AttentionParams, FfnParams, GqaParams, LayerParams, Linear, MlaParams, MoeParams, MtpParams, Net, Query, SwiGlu,
};
use crate::workspace::{AttentionKept, FfnKept, LayerKept, MoeKept, Scratch, Stream, SwiGluKept, Workspace};

/// What stays the same through a step.
pub(crate) struct Pass<'a, D> {
    pub(crate) dev: &'a D,
    pub(crate) net: &'a Net,
    pub(crate) params: &'a [f32],
    /// Of linear maps.
    pub(crate) precision: Precision,
    /// `[T, rank]` twice: an adapter's inner rows and their gradients.
    pub(crate) inner: Cell<[Vec<f32>; 2]>,
}

/// Contiguous rows to be normed.
pub(crate) fn norm_rows(n_rows: usize, dim: usize, eps: f32) -> NormRows {
    NormRows { n_rows, dim, x_stride: dim, y_stride: dim, eps }
}

impl MlaParams {
    /// Expanded attention: keys `[k_nope | k_pe]`, values beside the keys of their head.
    pub(crate) fn packed<'s>(&self, sequences: &'s [Range<usize>]) -> PackedAttention<'s> {
        let mla = &self.mla;
        let head_stride = mla.qk_nope_head_dim + mla.v_head_dim;
        let k = HeadRows { start: 0, row_stride: mla.num_attention_heads * head_stride, head_stride };
        PackedAttention {
            sequences,
            n_heads: mla.num_attention_heads,
            n_kv_heads: mla.num_attention_heads,
            k_dim: mla.qk_nope_head_dim,
            shared_dim: mla.qk_rope_head_dim,
            v_dim: mla.v_head_dim,
            k,
            v: HeadRows { start: mla.qk_nope_head_dim, ..k },
            shared: HeadRows { start: mla.kv_lora_rank, row_stride: mla.latent_dim(), head_stride: 0 },
            scale: mla.softmax_scale,
        }
    }

    /// The rotated channels of queries, `[T, H, n + R]`, and of the key that all heads share, in `[T, C + R]`.
    pub(crate) fn rotated(&self) -> [HeadLayout; 2] {
        let mla = &self.mla;
        [
            HeadLayout { n_heads: mla.num_attention_heads, head_dim: mla.qk_head_dim(), start: mla.qk_nope_head_dim },
            HeadLayout { n_heads: 1, head_dim: mla.latent_dim(), start: mla.kv_lora_rank },
        ]
    }

    /// From `[T, C + R]` to normed latents `[T, C]`.
    pub(crate) fn latent_rows(&self, n_rows: usize) -> NormRows {
        let (dim, x_stride) = (self.mla.kv_lora_rank, self.mla.latent_dim());
        NormRows { n_rows, dim, x_stride, y_stride: dim, eps: LATENT_NORM_EPS }
    }
}

impl GqaParams {
    /// Keys `[T, n_kv_heads, D]`, then as many values.
    pub(crate) fn packed<'s>(&self, n_rows: usize, sequences: &'s [Range<usize>]) -> PackedAttention<'s> {
        let (n_kv_heads, head_dim) = (self.gqa.num_key_value_heads, self.gqa.head_dim);
        let k = HeadRows { start: 0, row_stride: n_kv_heads * head_dim, head_stride: head_dim };
        PackedAttention {
            sequences,
            n_heads: self.gqa.num_attention_heads,
            n_kv_heads,
            k_dim: head_dim,
            shared_dim: 0,
            v_dim: head_dim,
            k,
            v: HeadRows { start: n_rows * k.row_stride, ..k },
            shared: HeadRows { start: 0, row_stride: 0, head_stride: 0 },
            scale: (head_dim as f32).powf(-0.5),
        }
    }

    /// Queries and keys, all of whose channels are rotated.
    pub(crate) fn rotated(&self) -> [HeadLayout; 2] {
        [self.gqa.num_attention_heads, self.gqa.num_key_value_heads].map(|n_heads| HeadLayout {
            n_heads,
            head_dim: self.gqa.head_dim,
            start: 0,
        })
    }
}

impl<D: TrainDevice> Pass<'_, D> {
    /// A weight's values.
    pub(crate) fn w(&self, range: &Range<usize>) -> &[f32] {
        &self.params[range.clone()]
    }

    /// y = x·Wᵀ: rows, columns and terms of the sums.
    pub(crate) fn linear_gemm(&self, sizes: [usize; 3]) -> Gemm {
        Gemm { precision: self.precision, ..Gemm::new(GemmLayout::Nt, sizes) }
    }

    /// Norm of the residual stream.
    pub(crate) fn stream_rows(&self, n_rows: usize) -> NormRows {
        norm_rows(n_rows, self.net.config.hidden_size, self.net.config.rms_norm_eps)
    }

    /// Norms of an MTP module's two inputs, each into its half of `[T, 2d]`.
    pub(crate) fn half_rows(&self, n_rows: usize) -> NormRows {
        NormRows { y_stride: 2 * self.net.config.hidden_size, ..self.stream_rows(n_rows) }
    }

    /// The main model: leaves its output after the final norm in `ws.h`.
    pub(crate) fn main(&self, batch: &Batch, ws: &mut Workspace) {
        let (net, d) = (self.net, self.net.config.hidden_size);
        self.dev.gather_rows(self.w(&net.embed), &batch.tokens, d, &mut ws.x[0]);
        for (i, (w, kept)) in net.layers.iter().zip(&mut ws.layers).enumerate() {
            let (before, after) = ws.x.split_at_mut(i + 1);
            self.layer(w, batch, (&before[i], &mut after[0]), kept, &mut ws.stream, &mut ws.scratch);
        }
        self.dev.norm(&self.stream_rows(batch.len()), &ws.x[net.layers.len()], self.w(&net.norm), &mut ws.h);
    }

    /// The MTP module over shifted rows: x = W_eh·[RMS(embedding) | RMS(hidden)], a layer, a norm. `batch` is the shifted
    /// one, `from` its rows of the main model, whose output is in `ws.h`.
    pub(crate) fn mtp(&self, w: &MtpParams, (batch, from): (&Batch, &[u32]), ws: &mut Workspace) {
        let (d, n) = (self.net.config.hidden_size, batch.len());
        let Some(kept) = &mut ws.mtp else { unreachable!("the workspace was made for this model") };
        self.dev.gather_rows(self.w(&self.net.embed), &batch.tokens, d, &mut kept.e);
        self.dev.gather_rows(&ws.h, from, d, &mut kept.g);
        self.dev.norm(&self.half_rows(n), &kept.e, self.w(&w.enorm), &mut kept.eh);
        self.dev.norm(&self.half_rows(n), &kept.g, self.w(&w.hnorm), &mut kept.eh[d..]);
        let [x, out] = &mut kept.x;
        self.linear(&w.w_eh, &kept.eh, n, x);
        self.layer(&w.layer, batch, (x, out), &mut kept.layer, &mut ws.stream, &mut ws.scratch);
        self.dev.norm(&self.stream_rows(n), out, self.w(&w.head_norm), &mut kept.h);
    }

    /// x_mid = x + Attn(RMS(x)); out = x_mid + FFN(RMS(x_mid)).
    fn layer(
        &self,
        w: &LayerParams,
        batch: &Batch,
        (x, out): (&[f32], &mut [f32]),
        kept: &mut LayerKept,
        stream: &mut Stream,
        s: &mut Scratch,
    ) {
        let rows = self.stream_rows(batch.len());
        let len = batch.len() * rows.dim;
        let Stream { h, delta, shared, .. } = stream;
        self.dev.norm(&rows, x, self.w(&w.input_norm), h);
        match &w.attention {
            AttentionParams::Mla(w) => self.mla(w, batch, h, &mut kept.attention, s, delta),
            AttentionParams::Gqa(w) => self.gqa(w, batch, h, &mut kept.attention, delta),
        }
        self.dev.sum(x, delta, len, &mut kept.x_mid);
        self.dev.norm(&rows, &kept.x_mid, self.w(&w.post_attention_norm), h);
        match (&w.ffn, &mut kept.ffn) {
            (FfnParams::Dense(w), FfnKept::Dense(kept)) => self.swiglu(w, h, batch.len(), kept, &mut s.hidden, delta),
            (FfnParams::Moe(w), FfnKept::Moe(kept)) => {
                self.moe(w, h, batch.len(), kept, s, delta);
                if let (Some(w), Some(kept)) = (&w.shared, &mut kept.shared) {
                    self.swiglu(w, h, batch.len(), kept, &mut s.hidden, shared);
                    self.dev.add(delta, shared, len);
                }
            }
            _ => unreachable!("kept buffers are of the same layer"),
        }
        self.dev.sum(&kept.x_mid, delta, len, out);
    }

    /// y = x·Wᵀ + b, and what an adapter adds
    fn linear(&self, w: &Linear, x: &[f32], n_rows: usize, y: &mut [f32]) {
        let g = self.linear_gemm([n_rows, w.rows, w.cols]);
        match &w.b {
            None => self.dev.gemm(&g, x, self.w(&w.w), y),
            Some(b) => {
                self.dev.repeat_row(self.w(b), n_rows, y);
                self.dev.gemm(&g.accumulate(), x, self.w(&w.w), y);
            }
        }
        if let Some(adapter) = &w.adapter {
            self.adapter(w, adapter, x, n_rows, y);
        }
    }

    /// Multi-head Latent Attention, expanded.
    fn mla(
        &self,
        w: &MlaParams,
        batch: &Batch,
        h: &[f32],
        kept: &mut AttentionKept,
        s: &mut Scratch,
        delta: &mut [f32],
    ) {
        let (dev, n, [q_pe, k_pe]) = (self.dev, batch.len(), w.rotated());
        match &w.query {
            Query::Direct(w_q) => self.linear(w_q, h, n, &mut kept.q),
            Query::Latent { w_dq, q_norm, w_uq } => {
                self.linear(w_dq, h, n, &mut kept.q_raw);
                dev.norm(&norm_rows(n, w_dq.rows, LATENT_NORM_EPS), &kept.q_raw, self.w(q_norm), &mut s.c_q);
                self.linear(w_uq, &s.c_q, n, &mut kept.q);
            }
        }
        dev.rope(&mut kept.q, q_pe, &batch.positions, &self.net.rope);
        self.linear(&w.w_dkv, h, n, &mut kept.u);
        dev.rope(&mut kept.u, k_pe, &batch.positions, &self.net.rope);
        dev.norm(&w.latent_rows(n), &kept.u, self.w(&w.kv_norm), &mut s.c);
        self.linear(&w.w_ukv, &s.c, n, &mut kept.kv);
        let packed = w.packed(&batch.sequences);
        dev.attend_packed(&packed, &kept.q, &kept.kv, &kept.u, &mut kept.o, &mut kept.lse);
        self.linear(&w.w_o, &kept.o, n, delta);
    }

    /// Grouped-query attention.
    fn gqa(&self, w: &GqaParams, batch: &Batch, h: &[f32], kept: &mut AttentionKept, delta: &mut [f32]) {
        let (dev, n, [q_heads, k_heads]) = (self.dev, batch.len(), w.rotated());
        let (k, v) = kept.kv.split_at_mut(n * w.w_k.rows);
        self.linear(&w.w_v, h, n, v);
        match &w.qk_norm {
            None => {
                self.linear(&w.w_q, h, n, &mut kept.q);
                self.linear(&w.w_k, h, n, k);
            }
            Some([q_norm, k_norm]) => {
                let rows =
                    |heads: HeadLayout| norm_rows(n * heads.n_heads, heads.head_dim, self.net.config.rms_norm_eps);
                self.linear(&w.w_q, h, n, &mut kept.q_raw);
                self.linear(&w.w_k, h, n, &mut kept.k_raw);
                dev.norm(&rows(q_heads), &kept.q_raw, self.w(q_norm), &mut kept.q);
                dev.norm(&rows(k_heads), &kept.k_raw, self.w(k_norm), k);
            }
        }
        dev.rope(&mut kept.q, q_heads, &batch.positions, &self.net.rope);
        dev.rope(&mut kept.kv, k_heads, &batch.positions, &self.net.rope);
        let packed = w.packed(n, &batch.sequences);
        dev.attend_packed(&packed, &kept.q, &kept.kv, &[], &mut kept.o, &mut kept.lse);
        self.linear(&w.w_o, &kept.o, n, delta);
    }

    /// out = W_down(silu(W_gate x) · W_up x)
    fn swiglu(&self, w: &SwiGlu, x: &[f32], n_rows: usize, kept: &mut SwiGluKept, hidden: &mut [f32], out: &mut [f32]) {
        self.linear(&w.w_gate, x, n_rows, &mut kept.gate);
        self.linear(&w.w_up, x, n_rows, &mut kept.up);
        self.dev.swiglu_to(&kept.gate, &kept.up, n_rows * w.width(), hidden);
        self.linear(&w.w_down, hidden, n_rows, out);
    }

    /// delta = Σ wᵢ·Eᵢ(x) over the routed experts of each row.
    fn moe(&self, w: &MoeParams, x: &[f32], n_rows: usize, kept: &mut MoeKept, s: &mut Scratch, delta: &mut [f32]) {
        let (dev, spec) = (self.dev, &w.moe.router);
        let (d, width) = (self.net.config.hidden_size, w.moe.moe_intermediate_size);
        let [picked, out] = &mut s.picks;
        self.linear(&w.router, x, n_rows, &mut kept.logits);
        let (weights, dispatch) = (&mut kept.weights[..n_rows * spec.top_k], &mut kept.dispatch);
        dispatch.resize(n_rows);
        let bias = w.router_bias.as_ref().map(|bias| self.w(bias));
        dev.route_rows(spec, &kept.logits[..n_rows * spec.n_experts], bias, &mut dispatch.ids, weights);
        dispatch.order();
        dev.gather_rows(x, &dispatch.rows, d, picked);
        let project = self.linear_gemm([0, width, d]);
        let SwiGluKept { gate, up } = &mut kept.experts;
        dev.gemm_groups(&project, &dispatch.offsets, picked, self.w(&w.w_gate), gate);
        dev.gemm_groups(&project, &dispatch.offsets, picked, self.w(&w.w_up), up);
        dev.swiglu_to(gate, up, dispatch.rows.len() * width, &mut s.hidden);
        let back = self.linear_gemm([0, d, width]);
        dev.gemm_groups(&back, &dispatch.offsets, &s.hidden, self.w(&w.w_down), out);
        dev.combine(out, weights, &dispatch.at, spec.top_k, d, delta);
    }
}
