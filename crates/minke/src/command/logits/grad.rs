//! `minke logits --grad`: the mean cross-entropy of the tokens, and its gradient, for comparison with other programs.
//!
//! Owns checking that it fits, and writing the file. Must not compute.

use std::collections::BTreeMap;
use std::path::Path;

use checkpoint::Dtype;
use checkpoint::write::{Data, Item, safetensors};
use model::plan::plan;
use ops::{Reference, WeightFormat};
use train::{Batch, Net, Objective, Workspace, loss_and_gradient};

use crate::failure::Failure;
use crate::memory::{bytes, memory};
use crate::source::Source;

/// Writes `loss` and every trained weight's gradient under its published name; returns the loss.
///
/// An MTP module takes no part in this loss, so its gradients are zeros. A router's bias is moved by rule and has none.
pub(super) fn write(out: &Path, source: &Source, tokens: &[u32]) -> Result<f32, Failure> {
    if tokens.len() < 2 {
        return Err(Failure::input("--grad: expected two or more tokens, of which the later are predicted, found one"));
    }
    let weights = source.weights()?;
    let n_weights = plan(&source.config).iter().fold(0u64, |n, planned| n.saturating_add(planned.numel()));
    fits(n_weights.saturating_mul(8))?;
    let (net, params) = train::load(source.config.clone(), weights)?;
    let mut batch = Batch::default();
    batch.push(tokens, |_| 1.0);
    batch.average();
    // The weights are there already.
    fits(Workspace::n_bytes(&net, batch.len()).saturating_add(n_weights.saturating_mul(4)))?;
    let mut ws = Workspace::new(&net, batch.len())?;
    let mut gradient = ops::zeroed(net.layout.len(), "gradients")?;
    let losses = loss_and_gradient(&Reference, &net, &params, &batch, Objective::NEXT_TOKEN, &mut ws, &mut gradient);
    let loss = losses.total as f32;
    write_file(out, &net, loss, &gradient)?;
    Ok(loss)
}

fn fits(needed: u64) -> Result<(), Failure> {
    let available = memory().available;
    if needed <= available {
        return Ok(());
    }
    let (needed, available) = (bytes(needed), bytes(available));
    Err(Failure::input(format!(
        "--grad: weights, gradients and activations in f32 take {needed}, found {available} free"
    )))
}

fn write_file(out: &Path, net: &Net, loss: f32, gradient: &[f32]) -> Result<(), Failure> {
    let f32s = Dtype::Weight(WeightFormat::F32);
    let trained: Vec<_> = net.layout.published().filter(|tensor| tensor.is_trained).collect();
    let mut items =
        vec![Item { name: "loss", dtype: f32s.clone(), shape: &[1], data: Data::F32(std::slice::from_ref(&loss)) }];
    items.extend(trained.iter().map(|tensor| Item {
        name: &tensor.name,
        dtype: f32s.clone(),
        shape: &tensor.shape,
        data: Data::F32(&gradient[tensor.range.clone()]),
    }));
    Ok(safetensors(out, &BTreeMap::new(), &items)?)
}
