//! What a run begins with: new weights, those of a model that is there, or a checkpoint's with its optimiser.
//!
//! Owns first values and their restoring. Must not train.

use model::Config;
use ops::zeroed;
use serde_json::Value;

use super::{RunError, file};
use crate::Net;
use crate::checkpoints::{ADAPTERS, Found, WEIGHTS};
use crate::data::Encoder;
use crate::lora::AdapterTensor;
use crate::optim::{Optimizer, Parameter, Rule};
use crate::pretrained;
use crate::recipe::{INITIALIZER_RANGE, ModelStart, Recipe, config_json};
use crate::rng::Rng;

/// The optimiser's view of the layout. What has no gradient is moved by none, and no decay: a vector whose gradient is 0.
pub(super) fn parameters(net: &Net) -> Vec<Parameter> {
    if net.adapters.is_some() {
        let first = net.trained().start;
        let of = |tensor: &AdapterTensor| Parameter {
            name: tensor.name.clone(),
            offset: tensor.range.start - first,
            shape: tensor.shape.to_vec(),
            rule: Rule::Matrix,
        };
        return net.adapter_tensors().iter().map(of).collect();
    }
    let of = |param: &crate::Param| Parameter {
        name: param.planned.safetensors.clone(),
        offset: param.range.start,
        shape: param.planned.shape.clone(),
        rule: if param.is_trained() {
            Rule::of(&param.planned.safetensors, &param.planned.shape)
        } else {
            Rule::Vector
        },
    };
    net.layout.params().iter().map(of).collect()
}

/// Places, config.json and values.
pub(super) type Start = (Net, Value, Vec<f32>);

/// The weights that the recipe begins with.
pub(super) fn started(recipe: &Recipe, encoder: &Encoder) -> Result<Start, RunError> {
    let json = match &recipe.model {
        ModelStart::From(model) => {
            let (mut net, json, mut params) = pretrained::load(model)?;
            if let Some(spec) = &recipe.lora {
                net.adapt(spec).map_err(|problem| file(model, problem))?;
                net.start_adapters(recipe.seed, &mut params)?;
            }
            return Ok((net, json, params));
        }
        ModelStart::Config(path) => checkpoint::read_config(path)?,
        ModelStart::Shape(shape) => config_json(shape, encoder.tokenizer().vocab_size(), encoder.bos(), encoder.eos()),
    };
    let net = Net::new(Config::from_json(&json)?);
    let range = json["initializer_range"].as_f64().unwrap_or(INITIALIZER_RANGE);
    let mut params = zeroed(net.layout.len(), "weights")?;
    for (i, param) in net.layout.params().iter().enumerate() {
        use model::plan::Role;
        let values = &mut params[param.range.clone()];
        match param.planned.role {
            Role::Norm => values.fill(1.0),
            Role::Bias => {}
            _ if !param.is_trained() => {}
            _ => {
                let mut rng = Rng::new(&[recipe.seed, 0x77, i as u64]);
                values.iter_mut().for_each(|w| *w = (rng.normal() * range) as f32);
            }
        }
    }
    Ok((net, json, params))
}

/// A checkpoint's weights.
pub(super) fn resumed(found: &Found) -> Result<Start, RunError> {
    let json = checkpoint::read_config(found.path.join("config.json"))?;
    let (net, params) = crate::load(Config::from_json(&json)?, &found.weights(WEIGHTS)?)?;
    Ok((net, json, params))
}

/// The adapters of a checkpoint, on the model that they were trained on.
pub(super) fn adapted((net, json, mut params): Start, found: &Found) -> Result<Start, RunError> {
    let adapters = found.weights(ADAPTERS)?;
    for tensor in net.adapter_tensors() {
        let stored = adapters.require(&tensor.name)?;
        if stored.shape != tensor.shape {
            let problem = format!("{} has shape {:?}, expected {:?}", tensor.name, stored.shape, tensor.shape);
            return Err(file(&found.path, format!("{problem}; `from` is another model than the run began with")));
        }
        params[tensor.range.clone()].copy_from_slice(&stored.to_f32()?);
    }
    Ok((net, json, params))
}

/// A checkpoint's optimiser.
pub(super) fn restore(found: &Found, optimizer: &mut Optimizer) -> Result<(), RunError> {
    let file_of = found.optimizer()?;
    let values = |name: &str| {
        let tensor =
            file_of.tensor(name).ok_or_else(|| file(&found.path, format!("has no {name:?} of the optimiser")))?;
        tensor.to_f32().map_err(RunError::from)
    };
    let step = values("step")?.first().copied().unwrap_or(0.0) as u64;
    optimizer.restore(step, &values("first")?, &values("second")?).map_err(|e| file(&found.path, e))
}
