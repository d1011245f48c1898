//! The backward pass: each function mirrors the one of the same name in `forward`, last call first.
//!
//! Owns the order of gradients. `g` is the arena of gradients, of what is trained; everything is added to it. A frozen
//! weight has none, and what only it would need is not computed.
//! Must not allocate or know losses. Shapes as in `forward`.

use std::ops::Range;

use model::config::LATENT_NORM_EPS;
use ops::{Attended, Gemm, GemmLayout, HeadLayout, TrainDevice};

use crate::batch::Batch;
use crate::forward::{Pass, norm_rows};
use crate::net::{
    AttentionParams, FfnParams, GqaParams, LayerParams, Linear, MlaParams, MoeParams, MtpParams, Net, Query, SwiGlu,
};
use crate::workspace::{AttentionKept, FfnKept, LayerKept, MoeKept, Scratch, Stream, SwiGluKept, Workspace};

/// Where a gradient goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Into {
    /// It replaces what is there.
    Set,
    /// It is added.
    Add,
}

/// A sublayer's input and the gradients of both its sides.
struct Sides<'a> {
    /// `[T, d]` normed input.
    x: &'a [f32],
    /// `[T, d]` gradient of the output.
    d_y: &'a [f32],
    /// `[T, d]` gradient of the input.
    d_x: &'a mut [f32],
}

/// The arena of gradients.
pub(crate) struct Gradients<'a> {
    values: &'a mut [f32],
    /// Whose gradients they are, of the arena of weights.
    trained: Range<usize>,
}

impl<'a> Gradients<'a> {
    pub(crate) fn new(net: &Net, values: &'a mut [f32]) -> Self {
        assert_eq!(values.len(), net.trained().len(), "gradients of another layout");
        Self { values, trained: net.trained() }
    }

    /// A weight's gradient; none where it is frozen.
    pub(crate) fn of(&mut self, weight: &Range<usize>) -> Option<&mut [f32]> {
        let first = self.trained.start;
        let is_trained = first <= weight.start;
        is_trained.then(|| &mut self.values[weight.start - first..weight.end - first])
    }
}

/// What every function of the backward pass writes to.
struct Tape<'a, 'g> {
    s: &'a mut Scratch,
    g: &'a mut Gradients<'g>,
}

impl<D: TrainDevice> Pass<'_, D> {
    /// From `ws.d_final`, the gradient of the main model's normed output, to all its weights; returns the balance loss.
    pub(crate) fn main_backward(&self, batch: &Batch, balance: f32, ws: &mut Workspace, g: &mut Gradients<'_>) -> f64 {
        let (net, d, n) = (self.net, self.net.config.hidden_size, batch.len());
        let d_x = &mut ws.d_x[..n * d];
        d_x.fill(0.0);
        let last = &ws.x[net.layers.len()];
        let d_norm = g.of(&net.norm).unwrap_or(&mut ws.scratch.frozen);
        self.dev.norm_backward(&self.stream_rows(n), last, self.w(&net.norm), &ws.d_final, d_x, d_norm);
        let mut loss = 0.0;
        let mut tape = Tape { s: &mut ws.scratch, g };
        for (i, (w, kept)) in net.layers.iter().zip(&ws.layers).enumerate().rev() {
            loss += self.layer_backward(w, (batch, balance), (&ws.x[i], d_x), kept, &mut ws.stream, &mut tape);
        }
        if let Some(d_embed) = tape.g.of(&net.embed) {
            self.dev.scatter_add(d_x, &batch.tokens, d, d_embed);
        }
        loss
    }

    /// From the MTP module's `h`, which holds the gradient of its normed output, to its weights, and to `ws.d_final`, the
    /// main model's output; returns the balance loss. `ws.d_x` is scratch.
    pub(crate) fn mtp_backward(
        &self,
        w: &MtpParams,
        (batch, from): (&Batch, &[u32]),
        balance: f32,
        ws: &mut Workspace,
        g: &mut Gradients<'_>,
    ) -> f64 {
        let (dev, d, n) = (self.dev, self.net.config.hidden_size, batch.len());
        let Some(kept) = &mut ws.mtp else { unreachable!("the module has been computed") };
        let d_x = &mut ws.d_x[..n * d];
        d_x.fill(0.0);
        let [x, out] = &kept.x;
        let (rows, half, norm) = (self.stream_rows(n), self.half_rows(n), &w.head_norm);
        let d_norm = g.of(norm).unwrap_or(&mut ws.scratch.frozen);
        dev.norm_backward(&rows, out, self.w(norm), &kept.h, d_x, d_norm);
        let mut tape = Tape { s: &mut ws.scratch, g };
        let loss = self.layer_backward(&w.layer, (batch, balance), (x, d_x), &kept.layer, &mut ws.stream, &mut tape);
        // Once it has been read, the input's gradient takes its place.
        self.weight_backward(&w.w_eh, &kept.eh, d_x, n, g);
        self.input_backward(&w.w_eh, d_x, n, &mut kept.eh, Into::Set);
        d_x.fill(0.0);
        let d_norm = g.of(&w.enorm).unwrap_or(&mut ws.scratch.frozen);
        dev.norm_backward(&half, &kept.e, self.w(&w.enorm), &kept.eh, d_x, d_norm);
        if let Some(d_embed) = g.of(&self.net.embed) {
            dev.scatter_add(d_x, &batch.tokens, d, d_embed);
        }
        d_x.fill(0.0);
        let d_norm = g.of(&w.hnorm).unwrap_or(&mut ws.scratch.frozen);
        dev.norm_backward(&half, &kept.g, self.w(&w.hnorm), &kept.eh[d..], d_x, d_norm);
        dev.scatter_add(d_x, from, d, &mut ws.d_final);
        loss
    }

    /// `d_x` holds the gradient of the layer's output and is turned into that of its input.
    fn layer_backward(
        &self,
        w: &LayerParams,
        (batch, balance): (&Batch, f32),
        (x, d_x): (&[f32], &mut [f32]),
        kept: &LayerKept,
        stream: &mut Stream,
        tape: &mut Tape<'_, '_>,
    ) -> f64 {
        let (dev, n, rows) = (self.dev, batch.len(), self.stream_rows(batch.len()));
        let Stream { h, d_h, .. } = stream;
        let norm = &w.post_attention_norm;
        dev.norm(&rows, &kept.x_mid, self.w(norm), h);
        let mut sides = Sides { x: h, d_y: d_x, d_x: d_h };
        let loss = match (&w.ffn, &kept.ffn) {
            (FfnParams::Dense(w), FfnKept::Dense(kept)) => {
                self.swiglu_backward(w, n, kept, &mut sides, Into::Set, tape);
                0.0
            }
            (FfnParams::Moe(w), FfnKept::Moe(kept)) => {
                let loss = self.moe_backward(w, (batch, balance), kept, &mut sides, tape);
                if let (Some(w), Some(kept)) = (&w.shared, &kept.shared) {
                    self.swiglu_backward(w, n, kept, &mut sides, Into::Add, tape);
                }
                loss
            }
            _ => unreachable!("kept buffers are of the same layer"),
        };
        let d_norm = tape.g.of(norm).unwrap_or(&mut tape.s.frozen);
        dev.norm_backward(&rows, &kept.x_mid, self.w(norm), d_h, d_x, d_norm);
        let norm = &w.input_norm;
        dev.norm(&rows, x, self.w(norm), h);
        let mut sides = Sides { x: h, d_y: d_x, d_x: d_h };
        match &w.attention {
            AttentionParams::Mla(w) => self.mla_backward(w, batch, &kept.attention, &mut sides, tape),
            AttentionParams::Gqa(w) => self.gqa_backward(w, batch, &kept.attention, &mut sides, tape),
        }
        let d_norm = tape.g.of(norm).unwrap_or(&mut tape.s.frozen);
        dev.norm_backward(&rows, x, self.w(norm), d_h, d_x, d_norm);
        loss
    }

    /// d_x = d_y·W
    fn input_backward(&self, w: &Linear, d_y: &[f32], n_rows: usize, d_x: &mut [f32], into: Into) {
        let gemm = Gemm { accumulate: into == Into::Add, ..Gemm::new(GemmLayout::Nn, [n_rows, w.cols, w.rows]) };
        self.dev.gemm(&gemm, d_y, self.w(&w.w), d_x);
    }

    /// d_W += d_yᵀ·x, d_b += Σ d_y
    fn weight_backward(&self, w: &Linear, x: &[f32], d_y: &[f32], n_rows: usize, g: &mut Gradients<'_>) {
        let gemm = Gemm::new(GemmLayout::Tn, [w.rows, w.cols, n_rows]).accumulate();
        if let Some(d_w) = g.of(&w.w) {
            self.dev.gemm(&gemm, d_y, x, d_w);
        }
        if let Some(d_b) = w.b.as_ref().and_then(|b| g.of(b)) {
            self.dev.sum_rows(d_y, n_rows, d_b);
        }
    }

    fn linear_backward(
        &self,
        w: &Linear,
        x: &[f32],
        d_y: &[f32],
        n_rows: usize,
        (d_x, into): (&mut [f32], Into),
        g: &mut Gradients<'_>,
    ) {
        self.weight_backward(w, x, d_y, n_rows, g);
        self.input_backward(w, d_y, n_rows, d_x, into);
        if let Some(adapter) = &w.adapter {
            self.adapter_backward((w, adapter), x, d_y, n_rows, d_x, g);
        }
    }

    fn mla_backward(
        &self,
        w: &MlaParams,
        batch: &Batch,
        kept: &AttentionKept,
        sides: &mut Sides<'_>,
        tape: &mut Tape<'_, '_>,
    ) {
        let (Sides { x, d_y, d_x }, Tape { s, g }) = (sides, tape);
        let (dev, n, [q_pe, k_pe]) = (self.dev, batch.len(), w.rotated());
        self.linear_backward(&w.w_o, &kept.o, d_y, n, (&mut s.d_o, Into::Set), g);
        // The channels of k_pe are set by the attention, those of the latent are added to by its norm.
        s.d_u[..n * w.mla.latent_dim()].fill(0.0);
        let saved = Attended { q: &kept.q, kv: &kept.kv, shared: &kept.u, out: &kept.o, lse: &kept.lse };
        let packed = w.packed(&batch.sequences);
        dev.attend_packed_backward(&packed, &saved, &s.d_o, &mut s.d_q, &mut s.d_kv, &mut s.d_u);
        let latent = w.latent_rows(n);
        dev.norm(&latent, &kept.u, self.w(&w.kv_norm), &mut s.c);
        self.linear_backward(&w.w_ukv, &s.c, &s.d_kv, n, (&mut s.d_c, Into::Set), g);
        let d_norm = g.of(&w.kv_norm).unwrap_or(&mut s.frozen);
        dev.norm_backward(&latent, &kept.u, self.w(&w.kv_norm), &s.d_c, &mut s.d_u, d_norm);
        dev.rope_backward(&mut s.d_u, k_pe, &batch.positions, &self.net.rope);
        self.linear_backward(&w.w_dkv, x, &s.d_u, n, (&mut *d_x, Into::Set), g);
        dev.rope_backward(&mut s.d_q, q_pe, &batch.positions, &self.net.rope);
        match &w.query {
            Query::Direct(w_q) => self.linear_backward(w_q, x, &s.d_q, n, (d_x, Into::Add), g),
            Query::Latent { w_dq, q_norm, w_uq } => {
                let rows = norm_rows(n, w_dq.rows, LATENT_NORM_EPS);
                dev.norm(&rows, &kept.q_raw, self.w(q_norm), &mut s.c_q);
                // The normed latent has been read when its gradient takes its place.
                self.weight_backward(w_uq, &s.c_q, &s.d_q, n, g);
                self.input_backward(w_uq, &s.d_q, n, &mut s.c_q, Into::Set);
                let d_norm = g.of(q_norm).unwrap_or(&mut s.frozen);
                self.head_norm_backward(q_norm, (n, w_dq.rows), &kept.q_raw, &s.c_q, &mut s.d_q_raw, d_norm);
                self.linear_backward(w_dq, x, &s.d_q_raw, n, (d_x, Into::Add), g);
            }
        }
    }

    /// A norm whose input is nobody else's: `d_x` is set. Of query latents, queries and keys, `(n_rows, dim)`.
    fn head_norm_backward(
        &self,
        norm: &Range<usize>,
        (n_rows, dim): (usize, usize),
        x: &[f32],
        d_y: &[f32],
        d_x: &mut [f32],
        d_norm: &mut [f32],
    ) {
        let eps = match self.net.config.attention {
            model::config::Attention::Mla(_) => LATENT_NORM_EPS,
            model::config::Attention::Gqa(_) => self.net.config.rms_norm_eps,
        };
        d_x[..n_rows * dim].fill(0.0);
        self.dev.norm_backward(&norm_rows(n_rows, dim, eps), x, self.w(norm), d_y, d_x, d_norm);
    }

    fn gqa_backward(
        &self,
        w: &GqaParams,
        batch: &Batch,
        kept: &AttentionKept,
        sides: &mut Sides<'_>,
        tape: &mut Tape<'_, '_>,
    ) {
        let (Sides { x, d_y, d_x }, Tape { s, g }) = (sides, tape);
        let (dev, n, [q_heads, k_heads]) = (self.dev, batch.len(), w.rotated());
        self.linear_backward(&w.w_o, &kept.o, d_y, n, (&mut s.d_o, Into::Set), g);
        let saved = Attended { q: &kept.q, kv: &kept.kv, shared: &[], out: &kept.o, lse: &kept.lse };
        let packed = w.packed(n, &batch.sequences);
        dev.attend_packed_backward(&packed, &saved, &s.d_o, &mut s.d_q, &mut s.d_kv, &mut []);
        dev.rope_backward(&mut s.d_q, q_heads, &batch.positions, &self.net.rope);
        dev.rope_backward(&mut s.d_kv, k_heads, &batch.positions, &self.net.rope);
        let (d_k, d_v) = s.d_kv.split_at(n * w.w_k.rows);
        let (mut d_q, mut d_k) = (&s.d_q[..], d_k);
        if let Some([q_norm, k_norm]) = &w.qk_norm {
            let rows = |heads: HeadLayout| (n * heads.n_heads, heads.head_dim);
            let d_norm = g.of(q_norm).unwrap_or(&mut s.frozen);
            self.head_norm_backward(q_norm, rows(q_heads), &kept.q_raw, d_q, &mut s.d_q_raw, d_norm);
            let d_norm = g.of(k_norm).unwrap_or(&mut s.frozen);
            self.head_norm_backward(k_norm, rows(k_heads), &kept.k_raw, d_k, &mut s.d_k_raw, d_norm);
            (d_q, d_k) = (&s.d_q_raw, &s.d_k_raw);
        }
        self.linear_backward(&w.w_q, x, d_q, n, (&mut *d_x, Into::Set), g);
        self.linear_backward(&w.w_k, x, d_k, n, (&mut *d_x, Into::Add), g);
        self.linear_backward(&w.w_v, x, d_v, n, (d_x, Into::Add), g);
    }

    fn swiglu_backward(
        &self,
        w: &SwiGlu,
        n_rows: usize,
        kept: &SwiGluKept,
        sides: &mut Sides<'_>,
        into: Into,
        tape: &mut Tape<'_, '_>,
    ) {
        let (Sides { x, d_y, d_x }, Tape { s, g }) = (sides, tape);
        let (dev, len) = (self.dev, n_rows * w.width());
        dev.swiglu_to(&kept.gate, &kept.up, len, &mut s.hidden);
        self.linear_backward(&w.w_down, &s.hidden, d_y, n_rows, (&mut s.d_hidden, Into::Set), g);
        dev.swiglu_backward(&kept.gate, &kept.up, &s.d_hidden, len, &mut s.d_gate, &mut s.d_up);
        self.linear_backward(&w.w_gate, x, &s.d_gate, n_rows, (&mut *d_x, into), g);
        self.linear_backward(&w.w_up, x, &s.d_up, n_rows, (d_x, Into::Add), g);
    }

    /// Routed experts and router; sets `d_x` and returns the balance loss.
    fn moe_backward(
        &self,
        w: &MoeParams,
        (batch, balance): (&Batch, f32),
        kept: &MoeKept,
        sides: &mut Sides<'_>,
        tape: &mut Tape<'_, '_>,
    ) -> f64 {
        let (Sides { x, d_y, d_x }, Tape { s, g }) = (sides, tape);
        let (dev, spec, n) = (self.dev, &w.moe.router, batch.len());
        let (d, width) = (self.net.config.hidden_size, w.moe.moe_intermediate_size);
        let (picks, SwiGluKept { gate, up }) = (&kept.dispatch, &kept.experts);
        let len = picks.rows.len() * width;
        let [d_out, input] = &mut s.picks;
        // Through W_down, with the weights moved before it
        dev.gather_rows(d_y, &picks.rows, d, d_out);
        dev.swiglu_to(gate, up, len, &mut s.hidden);
        let inner = Gemm::new(GemmLayout::Nn, [0, width, d]);
        dev.gemm_groups(&inner, &picks.offsets, d_out, self.w(&w.w_down), &mut s.d_hidden);
        let d_weights = &mut s.d_weights[..n * spec.top_k];
        dev.weigh_backward(&kept.weights, &picks.slots, width, &mut s.hidden, &mut s.d_hidden, d_weights);
        let outer = Gemm::new(GemmLayout::Tn, [d, width, 0]).accumulate();
        if let Some(d_w) = g.of(&w.w_down) {
            dev.gemm_groups(&outer, &picks.offsets, d_out, &s.hidden, d_w);
        }
        // Through W_gate and W_up
        dev.swiglu_backward(gate, up, &s.d_hidden, len, &mut s.d_gate, &mut s.d_up);
        dev.gather_rows(x, &picks.rows, d, input);
        let inner = Gemm::new(GemmLayout::Nn, [0, d, width]);
        let outer = Gemm::new(GemmLayout::Tn, [width, d, 0]).accumulate();
        for (w, d_y, inner) in [(&w.w_gate, &s.d_gate, inner), (&w.w_up, &s.d_up, inner.accumulate())] {
            if let Some(d_w) = g.of(w) {
                dev.gemm_groups(&outer, &picks.offsets, d_y, input, d_w);
            }
            dev.gemm_groups(&inner, &picks.offsets, d_y, self.w(w), d_out);
        }
        d_x[..n * d].fill(0.0);
        dev.scatter_add(d_out, &picks.rows, d, d_x);
        // The router
        let logits = &kept.logits[..n * spec.n_experts];
        dev.route_backward(spec, logits, &picks.ids, d_weights, &mut s.d_logits);
        let loss = match balance == 0.0 {
            true => 0.0,
            false => dev.balance(spec, logits, &batch.sequences, balance, &mut s.d_logits),
        };
        self.linear_backward(&w.router, x, &s.d_logits, n, (d_x, Into::Add), g);
        loss
    }
}
