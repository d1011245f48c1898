//! From a checkpoint to an arena of f32 weights.
//!
//! Owns decoding, and undoing what a file format did to the published layout. What is missing or too much in a file is
//! found by `model::load`. Must not compute.

use std::ops::Range;

use checkpoint::{Checkpoint, Kind};
use model::config::{Attention, Family};
use model::weights::{AttentionWeights, FfnWeights, GqaWeights, LayerWeights, Linear, MlaQuery, MlaWeights, SwiGlu};
use model::{Config, LoadError, Model};
use ops::{DeviceError, ExpertWeights, HeadWeights, Reference, RopePairing, WeightMatrix, zeroed};

use crate::net::{self, AttentionParams, FfnParams, GqaParams, LayerParams, MlaParams, MoeParams, Net, Query};

/// Reads a model to be trained: its places, and their values.
///
/// GGUF files of the `llama` architecture hold queries and keys in the order that suits interleaved rotation; they are
/// put back, so that weights and gradients are those of the published names.
///
/// # Errors
/// as `model::load`, or there is not enough memory
pub fn load(config: Config, file: &Checkpoint) -> Result<(Net, Vec<f32>), LoadError> {
    let model = model::load(&Reference, config, file)?;
    let mut config = model.config.clone();
    let pairs_moved =
        file.kind() == Kind::Gguf && config.family == Family::Llama && config.rope.pairing == RopePairing::Interleaved;
    if pairs_moved {
        config.rope.pairing = RopePairing::Halved;
    }
    let net = Net::new(config);
    let values = zeroed(net.layout.len(), "trained weights")?;
    let mut arena = Arena { values };
    arena.model(&net, &model)?;
    let mut values = arena.values;
    if pairs_moved {
        publish_pairs(&net, &mut values);
    }
    Ok((net, values))
}

struct Arena {
    values: Vec<f32>,
}

impl Arena {
    fn vector(&mut self, to: &Range<usize>, from: &[f32]) {
        self.values[to.clone()].copy_from_slice(&from[..to.len()]);
    }

    fn matrix(&mut self, to: &Range<usize>, from: &WeightMatrix) {
        for (r, row) in self.values[to.clone()].chunks_exact_mut(from.cols).enumerate() {
            from.decode_row(r, row);
        }
    }

    fn linear(&mut self, to: &net::Linear, from: &Linear<Reference>) {
        self.matrix(&to.w, &from.w);
        if let (Some(to), Some(from)) = (&to.b, &from.b) {
            self.vector(to, from);
        }
    }

    fn swiglu(&mut self, to: &net::SwiGlu, from: &SwiGlu<Reference>) {
        self.linear(&to.w_gate, &from.w_gate);
        self.linear(&to.w_up, &from.w_up);
        self.linear(&to.w_down, &from.w_down);
    }

    fn model(&mut self, net: &Net, model: &Model<Reference>) -> Result<(), DeviceError> {
        self.matrix(&net.embed, &model.embed);
        for (to, from) in net.layers.iter().zip(&model.layers) {
            self.layer(to, from)?;
        }
        self.vector(&net.norm, &model.norm);
        if let Some(head) = &model.head {
            self.matrix(&net.head, head);
        }
        if let (Some(to), Some(from)) = (&net.mtp, &model.mtp) {
            self.vector(&to.enorm, &from.enorm);
            self.vector(&to.hnorm, &from.hnorm);
            self.matrix(&to.w_eh.w, &from.w_eh);
            self.layer(&to.layer, &from.layer)?;
            self.vector(&to.head_norm, &from.head_norm);
        }
        Ok(())
    }

    fn layer(&mut self, to: &LayerParams, from: &LayerWeights<Reference>) -> Result<(), DeviceError> {
        self.vector(&to.input_norm, &from.input_norm);
        self.vector(&to.post_attention_norm, &from.post_attention_norm);
        match (&to.attention, &from.attention) {
            (AttentionParams::Mla(to), AttentionWeights::Mla(from)) => self.mla(to, from)?,
            (AttentionParams::Gqa(to), AttentionWeights::Gqa(from)) => self.gqa(to, from),
            _ => unreachable!("places and weights are of one config"),
        }
        match (&to.ffn, &from.ffn) {
            (FfnParams::Dense(to), FfnWeights::Dense(from)) => self.swiglu(to, from),
            (FfnParams::Moe(to), FfnWeights::Moe { router, router_bias, experts, shared }) => {
                self.matrix(&to.router.w, router);
                if let (Some(to), Some(from)) = (&to.router_bias, router_bias) {
                    self.vector(to, from);
                }
                self.experts(to, experts);
                if let (Some(to), Some(from)) = (&to.shared, shared) {
                    self.swiglu(to, from);
                }
            }
            _ => unreachable!("places and weights are of one config"),
        }
        Ok(())
    }

    fn mla(&mut self, to: &MlaParams, from: &MlaWeights<Reference>) -> Result<(), DeviceError> {
        match (&to.query, &from.query) {
            (Query::Direct(to), MlaQuery::Direct(from)) => self.linear(to, from),
            (Query::Latent { w_dq, q_norm, w_uq }, MlaQuery::Latent { w_dq: dq, q_norm: norm, w_uq: uq, .. }) => {
                self.linear(w_dq, dq);
                self.vector(q_norm, norm);
                self.linear(w_uq, uq);
            }
            _ => unreachable!("places and weights are of one config"),
        }
        self.linear(&to.w_dkv, &from.w_dkv);
        self.vector(&to.kv_norm, &from.kv_norm);
        self.heads(to, &from.w_uk, 0)?;
        self.heads(to, &from.w_uv, to.mla.qk_nope_head_dim)?;
        self.linear(&to.w_o, &from.w_o);
        Ok(())
    }

    /// W_UK or W_UV into `w_ukv`, as rows `first..` of each head's.
    fn heads(&mut self, to: &MlaParams, from: &HeadWeights<WeightMatrix>, first: usize) -> Result<(), DeviceError> {
        let (per_head, rank) = (to.mla.qk_nope_head_dim + to.mla.v_head_dim, to.mla.kv_lora_rank);
        let mut row = zeroed(from.weight.cols, "a weight row")?;
        for (h, r) in (0..from.n_heads).flat_map(|h| (0..from.head_rows).map(move |r| (h, r))) {
            from.weight.decode_row(h * from.head_stride + from.head_start + r, &mut row);
            let head = &mut self.values[to.w_ukv.w.clone()][(h * per_head + first) * rank..];
            if from.transposed {
                row.iter().enumerate().for_each(|(i, v)| head[i * rank + r] = *v);
            } else {
                head[r * rank..][..rank].copy_from_slice(&row);
            }
        }
        Ok(())
    }

    fn gqa(&mut self, to: &GqaParams, from: &GqaWeights<Reference>) {
        self.linear(&to.w_q, &from.w_q);
        self.linear(&to.w_k, &from.w_k);
        self.linear(&to.w_v, &from.w_v);
        self.linear(&to.w_o, &from.w_o);
        if let (Some([q, k]), Some([q_from, k_from])) = (&to.qk_norm, &from.qk_norm) {
            self.vector(q, q_from);
            self.vector(k, k_from);
        }
    }

    fn experts(&mut self, to: &MoeParams, from: &ExpertWeights<WeightMatrix>) {
        for (to, from) in [(&to.w_gate, &from.w_gate), (&to.w_up, &from.w_up), (&to.w_down, &from.w_down)] {
            let each = to.len() / from.len().max(1);
            for (e, matrix) in from.iter().enumerate() {
                self.matrix(&(to.start + e * each..to.start + (e + 1) * each), matrix);
            }
        }
    }
}

/// Rows of each head from pairs (2i, 2i + 1) to pairs (i, i + D/2).
fn publish_pairs(net: &Net, values: &mut [f32]) {
    let Attention::Gqa(gqa) = &net.config.attention else { return };
    for layer in &net.layers {
        let AttentionParams::Gqa(w) = &layer.attention else { continue };
        for linear in [&w.w_q, &w.w_k] {
            let biases = linear.b.iter().map(|b| (b, 1));
            for (range, row_len) in std::iter::once((&linear.w, linear.cols)).chain(biases) {
                for head in values[range.clone()].chunks_exact_mut(gqa.head_dim * row_len) {
                    let stored = head.to_vec();
                    for (r, row) in stored.chunks_exact(row_len).enumerate() {
                        let to = r / 2 + r % 2 * (gqa.head_dim / 2);
                        head[to * row_len..][..row_len].copy_from_slice(row);
                    }
                }
            }
        }
    }
}
