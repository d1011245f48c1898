//! What rewards make of samples: GRPO's losses and gradients.
//!
//! Owns the frozen reference policy and the order of an update's forward and backward passes. Must not sample or judge.

use std::fs;
use std::path::Path;

use ops::TrainDevice;

use super::samples::Policy;
use super::{Losses, RunError, Work, file};
use crate::loss::{Objective, loss_and_gradient, nll};
use crate::recipe::Stage;
use crate::rl::{Experience, Place, RlStats, Spec, Terms};

/// What GRPO keeps from step to step.
pub(super) struct Rewards {
    pub(super) objective: Spec,
    /// The trained weights as the stage began, where KL holds the policy to them.
    reference: Option<Vec<f32>>,
}

impl Rewards {
    /// `reference` is where the stage's first weights, `trained`, are kept if they are needed.
    pub(super) fn new(objective: Spec, reference: &Path, trained: &[f32]) -> Result<Self, RunError> {
        let reference = if objective.kl > 0.0 { Some(first_weights(reference, trained)?) } else { None };
        Ok(Self { objective, reference })
    }

    /// Losses and gradients of one update, into `work.gradients`. The first of a step is computed with the very weights
    /// that sampled, so that its ratios are 1 and need no forward pass of their own.
    pub(super) fn gradients<D: TrainDevice>(
        &mut self,
        policy: &mut Policy<'_, D>,
        stage: &Stage,
        experience: &mut Experience,
        (update, places): (usize, &[Place]),
        work: &mut Work,
    ) -> Losses {
        let n_rows = stage.n_micro_rows() * stage.sequence_length;
        let mut new: Vec<Vec<f32>> =
            places.iter().map(|(g, c)| experience.groups[*g].completions[*c].logprobs.clone()).collect();
        let reference = self.reference.as_mut().map(|reference| {
            let trained = policy.net.trained();
            policy.params[trained.clone()].swap_with_slice(reference);
            let found = logprobs(policy, experience, places, n_rows, work);
            policy.params[trained].swap_with_slice(reference);
            found
        });
        // Samples that count nothing count as samples, but no forward or backward pass need be made of them.
        let counts = |(g, c): Place| self.objective.kl > 0.0 || experience.groups[g].advantages[c] != 0.0;
        let (live, kept): (Vec<usize>, Vec<Place>) =
            places.iter().copied().enumerate().filter(|(_, place)| counts(*place)).unzip();
        if update > 0 {
            let found = logprobs(policy, experience, &kept, n_rows, work);
            live.iter().zip(found).for_each(|(&i, found)| new[i] = found);
        }
        let (mut coefficients, terms) = experience.coefficients(places, &self.objective, &new, reference.as_deref());
        let coefficients: Vec<Vec<f32>> = live.into_iter().map(|i| std::mem::take(&mut coefficients[i])).collect();
        let (places, cuts) = (&kept[..], experience.micro_batches(&kept, n_rows));
        let mut losses = Losses::default();
        work.gradients.fill(0.0);
        let balance = stage.balance_weight as f32 / cuts.len().max(1) as f32;
        for (i, cut) in cuts.into_iter().enumerate() {
            experience.fill(&places[cut.clone()], &coefficients[cut.clone()], &mut work.batch);
            if update == 0 && i == 0 {
                let nll = nll(policy.dev, policy.net, policy.params, &work.batch, &mut work.ws);
                experience.stats.drift = drift(experience, &places[cut], &nll);
            }
            let (ws, g) = (&mut work.ws, &mut work.gradients);
            let found = loss_and_gradient(
                policy.dev,
                policy.net,
                policy.params,
                &work.batch,
                Objective { mtp: 0.0, balance },
                ws,
                g,
            );
            losses.balance += found.balance;
            losses.add_loads(&work.ws);
        }
        losses.main = -terms.objective;
        note(&mut experience.stats, &terms, update);
        losses
    }
}

/// ln π of the samples' tokens, as the policy's weights are now.
fn logprobs<D: TrainDevice>(
    policy: &Policy<'_, D>,
    experience: &Experience,
    places: &[Place],
    n_rows: usize,
    work: &mut Work,
) -> Vec<Vec<f32>> {
    let mut all = Vec::with_capacity(places.len());
    for cut in experience.micro_batches(places, n_rows) {
        let places = &places[cut];
        let ones: Vec<Vec<f32>> =
            places.iter().map(|(g, c)| vec![1.0; experience.groups[*g].completions[*c].tokens.len()]).collect();
        experience.fill(places, &ones, &mut work.batch);
        let nll = nll(policy.dev, policy.net, policy.params, &work.batch, &mut work.ws);
        all.extend(experience.logprobs(places, &nll));
    }
    all
}

/// Mean |ln π_trainer − ln π_rollout| of samples whose rows' nll is known. Tokens that count nothing have none.
fn drift(experience: &Experience, places: &[Place], nll: &[f64]) -> f64 {
    let (mut sum, mut n) = (0.0, 0);
    for (found, (g, c)) in experience.logprobs(places, nll).iter().zip(places) {
        for (a, b) in found.iter().zip(&experience.groups[*g].completions[*c].logprobs).filter(|(a, _)| **a != 0.0) {
            sum += f64::from((a - b).abs());
            n += 1;
        }
    }
    sum / f64::from(n.max(1))
}

/// Takes over what an update met; clipping is that of the last update, which is furthest from what sampled.
fn note(stats: &mut RlStats, terms: &Terms, update: usize) {
    let n = terms.n_tokens.max(1) as f64;
    stats.clip_fraction = terms.n_clipped as f64 / n;
    stats.kl = if update == 0 { terms.kl / n } else { stats.kl.max(terms.kl / n) };
}

/// The weights at `path`, which are `trained` if the file is not there yet.
fn first_weights(path: &Path, trained: &[f32]) -> Result<Vec<f32>, RunError> {
    if !path.exists() {
        let bytes: Vec<u8> = trained.iter().flat_map(|w| w.to_le_bytes()).collect();
        checkpoint::write::atomically(&path.into(), |out| std::io::Write::write_all(out, &bytes))?;
    }
    let bytes = fs::read(path).map_err(|e| file(path, e))?;
    let values: Vec<f32> = bytes.as_chunks().0.iter().map(|chunk| f32::from_le_bytes(*chunk)).collect();
    match values.len() == trained.len() && bytes.len().is_multiple_of(4) {
        true => Ok(values),
        false => Err(file(path, format!("has {} values, expected {}; restore it", values.len(), trained.len()))),
    }
}
