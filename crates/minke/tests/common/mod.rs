//! What tests of whole models share.

use cpu::Cpu;
use model::Model;
use model::weights::{AttentionWeights, FfnWeights, MlaQuery, SwiGlu};
use ops::{WeightFormat, WeightMatrix};

/// Rounds a matrix to Q8_0.
fn quantise(w: &mut WeightMatrix) {
    let format = WeightFormat::Q8_0;
    let Some(row_bytes) = format.row_bytes(w.cols) else { return };
    let (mut row, mut bytes) = (vec![0.0; w.cols], vec![0; w.rows * row_bytes]);
    for (r, bytes) in bytes.chunks_exact_mut(row_bytes).enumerate() {
        w.decode_row(r, &mut row);
        format.encode(&row, bytes);
    }
    *w = WeightMatrix::new(format, w.rows, w.cols, bytes.into(), None).unwrap();
}

fn quantise_swiglu(w: &mut SwiGlu<Cpu>) {
    [&mut w.w_gate, &mut w.w_up, &mut w.w_down].into_iter().for_each(|linear| quantise(&mut linear.w));
}

/// Rounds the matrices of a model's layers and its head where their rows are whole blocks.
pub(crate) fn quantise_model(model: &mut Model<Cpu>) {
    model.head.iter_mut().for_each(quantise);
    for layer in &mut model.layers {
        match &mut layer.attention {
            AttentionWeights::Mla(w) => {
                match &mut w.query {
                    MlaQuery::Direct(w_q) => quantise(&mut w_q.w),
                    MlaQuery::Latent { w_dq, w_uq, .. } => {
                        quantise(&mut w_dq.w);
                        quantise(&mut w_uq.w);
                    }
                }
                [&mut w.w_dkv.w, &mut w.w_uk.weight, &mut w.w_uv.weight, &mut w.w_o.w].into_iter().for_each(quantise);
            }
            AttentionWeights::Gqa(w) => {
                let all = [&mut w.w_q, &mut w.w_k, &mut w.w_v, &mut w.w_o];
                all.into_iter().for_each(|linear| quantise(&mut linear.w));
            }
        }
        match &mut layer.ffn {
            FfnWeights::Dense(w) => quantise_swiglu(w),
            FfnWeights::Moe { experts, shared, .. } => {
                let all = [&mut experts.w_gate, &mut experts.w_up, &mut experts.w_down];
                all.into_iter().flatten().for_each(quantise);
                shared.iter_mut().for_each(quantise_swiglu);
            }
        }
    }
}
