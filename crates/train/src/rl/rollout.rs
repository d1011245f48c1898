//! Samples from the policy, by an engine in this process.
//!
//! Owns the engine that rolls out and its weights, which are copies of the trainer's as they were when they were last
//! handed over. Must not know rewards or text.

use std::sync::{Arc, Mutex, PoisonError};

use checkpoint::Checkpoint;
use engine::prefix::BlockKey;
use engine::{Engine, Event, FinishReason, Limits, ModelRunner, Reply, Request, Sampling};
use model::Model;
use ops::{RowFormat, TrainDevice};

use super::RlError;
use crate::Net;

/// Completions that are computed at once, at most: beyond it a step of the engine gains little.
const RUNNING_MAX: usize = 64;

/// A completion as it was sampled.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Completion {
    /// Its tokens, the end token included where there is one.
    pub tokens: Vec<u32>,
    /// ln π of each, before temperature.
    pub logprobs: Vec<f32>,
    /// Whether it came to an end of its own.
    pub ended: bool,
}

/// How completions are sampled.
#[derive(Clone, Debug)]
pub struct SamplingSpec {
    /// Completions of each prompt.
    pub group_size: usize,
    /// Most tokens of a completion.
    pub max_tokens: usize,
    /// Divides the logits.
    pub temperature: f32,
    /// Tokens that end a completion.
    pub end_tokens: Arc<[u32]>,
}

/// An engine over weights that change.
pub struct Rollouts<'a, D: TrainDevice> {
    dev: &'a D,
    engine: Engine<ModelRunner<D, &'a D>>,
    /// How often weights were handed over: the prefixes of each have a root of their own.
    n_weights: u64,
}

impl<D: TrainDevice> std::fmt::Debug for Rollouts<'_, D> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Rollouts").field("n_weights", &self.n_weights).finish_non_exhaustive()
    }
}

/// Where prefixes of the n-th weights begin. Nothing here outlives the process.
fn root(n: u64) -> BlockKey {
    let mut name = [0; 32];
    name[..8].copy_from_slice(&n.to_le_bytes());
    BlockKey::root(&engine::prefix::Fingerprint::from(name))
}

/// The weights as the engine reads them.
fn model<D: TrainDevice>(dev: &D, net: &Net, params: &[f32]) -> Result<Arc<Model<D>>, RlError> {
    // Adapters count in the weights that they belong to.
    let merged = net.adapters.is_some().then(|| {
        let mut params = params.to_vec();
        net.merge(dev, &mut params);
        params
    });
    let params = merged.as_deref().unwrap_or(params);
    let values = |tensor: &model::plan::PlannedTensor| {
        net.layout.get(&tensor.name).map_or(&[][..], |param| &params[param.range.clone()])
    };
    let file = Checkpoint::from_bytes("the policy", model::export::to_bytes(&net.config, values)?.into())?;
    Ok(Arc::new(model::load(dev, net.config.clone(), &file)?))
}

/// The engine's limits for `n_completions` in all, prompts and their answers no longer than `n_context`.
#[must_use]
pub fn limits(n_context: usize, n_completions: usize) -> Limits {
    let n_running = n_completions.clamp(1, RUNNING_MAX);
    let limits = Limits::new(n_context, n_running, n_running * n_context, RowFormat::F32);
    // A run that went on from a checkpoint draws what the undisturbed one draws, whatever is cached.
    Limits { n_drafts: 0, n_queued: n_completions.max(1), deterministic: true, ..limits }
}

impl<'a, D: TrainDevice> Rollouts<'a, D> {
    /// An engine with these weights.
    ///
    /// # Errors
    /// Memory, or no thread can be started
    pub fn new(dev: &'a D, net: &Net, params: &[f32], limits: Limits) -> Result<Self, RlError> {
        Self::of(dev, model(dev, net, params)?, limits)
    }

    /// An engine of a model whose weights stay.
    ///
    /// # Errors
    /// Memory, or no thread can be started
    pub fn of(dev: &'a D, model: Arc<Model<D>>, limits: Limits) -> Result<Self, RlError> {
        let runner = ModelRunner::new(dev, model, &limits)?;
        Ok(Self { dev, engine: Engine::new(runner, limits, root(0), None).map_err(RlError::Engine)?, n_weights: 0 })
    }

    /// Hands over the weights as they are now; what was computed with the old ones is forgotten.
    ///
    /// # Errors
    /// Memory
    pub fn set_weights(&mut self, net: &Net, params: &[f32]) -> Result<(), RlError> {
        let model = model(self.dev, net, params)?;
        self.engine.runner().set_model(model);
        self.n_weights += 1;
        self.engine.clear_prefixes(root(self.n_weights));
        Ok(())
    }

    /// Completions of each prompt, in order. `seeds` names the draws of each; the same weights, prompt and seed give the
    /// same completions.
    ///
    /// # Errors
    /// A prompt does not fit, or the device fails
    pub fn sample(
        &mut self,
        prompts: &[Vec<u32>],
        seeds: &[u64],
        spec: &SamplingSpec,
    ) -> Result<Vec<Vec<Completion>>, RlError> {
        let heard: Vec<_> =
            prompts.iter().map(|_| Arc::new(Mutex::new(vec![Completion::default(); spec.group_size]))).collect();
        for ((prompt, seed), heard) in prompts.iter().zip(seeds).zip(&heard) {
            let heard = heard.clone();
            let request = Request {
                prompt: prompt.clone(),
                max_tokens: spec.max_tokens,
                end_tokens: spec.end_tokens.clone(),
                sampling: Sampling {
                    temperature: spec.temperature,
                    seed: *seed,
                    top_logprobs: Some(0),
                    ..Sampling::GREEDY
                },
                n: spec.group_size,
                thinking: None,
                mask: None,
                stops_loops: false,
                speculates: false,
                owner: 0,
                sink: Box::new(move |event| hear(&mut heard.lock().unwrap_or_else(PoisonError::into_inner), &event)),
            };
            self.engine.submit(request).map_err(RlError::Rejected)?;
        }
        while self.engine.has_work() {
            if let Err(error) = self.engine.step() {
                self.engine.fail_all();
                return Err(error.into());
            }
        }
        Ok(heard
            .iter()
            .map(|heard| std::mem::take(&mut *heard.lock().unwrap_or_else(PoisonError::into_inner)))
            .collect())
    }
}

fn hear(completions: &mut [Completion], event: &Event<'_>) -> Reply {
    match *event {
        Event::Token { index, token, logprob, .. } => {
            completions[index].tokens.push(token);
            completions[index].logprobs.push(logprob.unwrap_or(0.0));
        }
        Event::Finished { index, reason, .. } => completions[index].ended = reason == FinishReason::Stop,
        _ => {}
    }
    Reply::Continue
}
