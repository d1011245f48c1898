//! A stage of reinforcement learning inside a run: sample, judge, update, look.
//!
//! Owns the engine of the rollouts, the frozen reference policy and how a step's samples become updates. Must not own
//! weights, the optimiser, the log or checkpoints: those are the run's.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use ops::TrainDevice;
use serde_json::Value;

use super::{Losses, RunError, Work, file};
use crate::Net;
use crate::data::Encoder;
use crate::loss::{Objective, loss_and_gradient, nll};
use crate::recipe::{GrpoSpec, Stage};
use crate::rl::{
    Experience, Gathering, Judge, Place, QuestionSet, RlError, RlStats, Rollouts, SamplingSpec, Spec, Terms, limits,
};
use crate::split::Split;

/// Tells the draws of an evaluation from those of training.
const EVALUATION_SEED: u64 = 0x65_76_61_6c;

/// What a stage of kind `grpo` keeps from step to step.
pub(super) struct Reinforce<'s, 'a, D: TrainDevice> {
    spec: GrpoSpec,
    objective: Spec,
    rollouts: Rollouts<'a, D>,
    questions: QuestionSet<'s>,
    judges: Vec<Judge>,
    encoder: Arc<Encoder>,
    /// The trained weights as the stage began, where KL holds the policy to them.
    reference: Option<Vec<f32>>,
    /// Where samples are written down.
    transcripts: PathBuf,
    /// What was last said about a verifier.
    last_error: Option<String>,
    /// Seconds of the step that went to sampling, and to losses and gradients.
    seconds: [f64; 2],
}

/// Everything a step reads besides its own state.
pub(super) struct Policy<'p, D> {
    pub(super) dev: &'p D,
    pub(super) net: &'p Net,
    pub(super) params: &'p mut [f32],
}

impl<'s, 'a, D: TrainDevice> Reinforce<'s, 'a, D> {
    /// Starts the engine with the weights as they are. `reference` is where the stage's first weights are kept, for a run
    /// that goes on from the middle of it.
    pub(super) fn new(
        policy: &Policy<'_, D>,
        dev: &'a D,
        stage: &Stage,
        (questions, judges): (QuestionSet<'s>, Vec<Judge>),
        encoder: &Arc<Encoder>,
        [transcripts, reference]: [PathBuf; 2],
    ) -> Result<Self, RunError> {
        let spec = stage.grpo.clone().ok_or_else(|| file(&transcripts, "the stage has no [stage.grpo]"))?;
        let trained = &policy.params[policy.net.trained()];
        let reference = if spec.kl > 0.0 { Some(first_weights(&reference, trained)?) } else { None };
        let limits = limits(stage.sequence_length, spec.prompts * spec.group_size);
        let rollouts = Rollouts::new(dev, policy.net, policy.params, limits)?;
        fs::create_dir_all(&transcripts).map_err(|e| file(&transcripts, e))?;
        Ok(Self {
            objective: spec.objective(),
            spec,
            rollouts,
            questions,
            judges,
            encoder: encoder.clone(),
            reference,
            transcripts,
            last_error: None,
            seconds: [0.0; 2],
        })
    }

    fn gathering<'g>(&self, tokenizer: &'g Arc<text::Tokenizer>, objective: &'g Spec) -> Gathering<'g> {
        Gathering {
            n_groups: self.spec.prompts,
            sampling: SamplingSpec {
                group_size: self.spec.group_size,
                max_tokens: self.spec.max_tokens,
                temperature: self.spec.temperature,
                end_tokens: Arc::from([self.encoder.eos()]),
            },
            spec: objective,
            tokenizer,
        }
    }

    /// The samples of a step, drawn and judged. Every `transcripts_every` steps of the run, one group is written down.
    pub(super) fn gather(&mut self, stage_step: u64, run_step: u64) -> Result<Experience, RunError> {
        let start = Instant::now();
        let (encoder, objective) = (self.encoder.clone(), self.objective);
        let gathering = self.gathering(encoder.tokenizer(), &objective);
        let questions = &self.questions;
        let experience = Experience::gather(&mut self.rollouts, &mut self.judges, &gathering, &mut |i| {
            questions.draw(stage_step, i)
        })?;
        self.seconds = [start.elapsed().as_secs_f64(), 0.0];
        let every = self.spec.transcripts_every;
        if every > 0 && (run_step.is_multiple_of(every) || stage_step == 0) {
            let path = self.transcripts.join(format!("step-{run_step:08}.json"));
            let content = format!("{:#}\n", gathering.transcript(&experience.groups[0])?);
            checkpoint::write::atomically(&path.into(), |out| std::io::Write::write_all(out, content.as_bytes()))?;
        }
        Ok(experience)
    }

    /// The samples' places, an update's each: groups in order, spread evenly.
    pub(super) fn updates(&self, experience: &Experience) -> Vec<Vec<Place>> {
        let n_groups = experience.groups.len();
        let n = self.spec.updates.min(n_groups);
        let places = experience.places();
        let of = |u: usize| {
            let groups = u * n_groups / n..(u + 1) * n_groups / n;
            places.iter().copied().filter(|(g, _)| groups.contains(g)).collect()
        };
        (0..n).map(of).collect()
    }

    /// Losses and gradients of one update, into `work.gradients`. The first of a step is computed with the very weights
    /// that sampled, so that its ratios are 1 and need no forward pass of their own.
    pub(super) fn gradients(
        &mut self,
        policy: &mut Policy<'_, D>,
        stage: &Stage,
        experience: &mut Experience,
        (update, places): (usize, &[Place]),
        work: &mut Work,
    ) -> Losses {
        let start = Instant::now();
        let n_rows = stage.n_micro_rows() * stage.sequence_length;
        let cuts = experience.micro_batches(places, n_rows);
        let old = || -> Vec<Vec<f32>> {
            places.iter().map(|(g, c)| experience.groups[*g].completions[*c].logprobs.clone()).collect()
        };
        let new = if update == 0 { old() } else { logprobs(policy, experience, places, n_rows, work) };
        let reference = self.reference.as_mut().map(|reference| {
            let trained = policy.net.trained();
            policy.params[trained.clone()].swap_with_slice(reference);
            let found = logprobs(policy, experience, places, n_rows, work);
            policy.params[trained].swap_with_slice(reference);
            found
        });
        let (coefficients, terms) = experience.coefficients(places, &self.objective, &new, reference.as_deref());
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
        self.seconds[1] += start.elapsed().as_secs_f64();
        losses
    }

    /// Hands the new weights to the engine, and completes the step's numbers: `seconds` are the whole step's.
    pub(super) fn finish(
        &mut self,
        policy: &Policy<'_, D>,
        mut stats: RlStats,
        start: Instant,
    ) -> Result<RlStats, RunError> {
        self.rollouts.set_weights(policy.net, policy.params)?;
        let whole = start.elapsed().as_secs_f64();
        [stats.rollout_share, stats.update_share] = self.seconds.map(|seconds| seconds / whole);
        Ok(stats)
    }

    /// What a verifier last broke on, if that is news.
    pub(super) fn complaint(&mut self) -> Option<String> {
        let error = self.judges.iter().rev().find_map(|judge| judge.last_error.clone())?;
        let is_new = self.last_error.as_ref() != Some(&error);
        self.last_error = Some(error);
        self.last_error.clone().filter(|_| is_new)
    }

    /// The share of held-out questions that are answered right when nothing is left to chance, by source.
    pub(super) fn evaluate(&mut self, stage: &Stage) -> Result<serde_json::Map<String, Value>, RunError> {
        let mut shares = serde_json::Map::new();
        let (encoder, objective) = (self.encoder.clone(), self.objective);
        let mut gathering = self.gathering(encoder.tokenizer(), &objective);
        gathering.sampling = SamplingSpec { group_size: 1, temperature: 0.0, ..gathering.sampling };
        for source in 0..self.questions.sources().len() {
            let about = &self.questions.sources()[source];
            let n = about.len(Split::HeldOut).map_or(stage.evaluate_rows, |n| n.min(stage.evaluate_rows));
            let (mut n_right, name) = (0, about.name.clone());
            let asked =
                (0..n).map(|i| self.questions.held_out(source, i as u64)).collect::<Result<Vec<_>, RlError>>()?;
            for asked in asked.chunks(self.spec.prompts * self.spec.group_size) {
                let prompts: Vec<Vec<u32>> = asked.iter().map(|question| question.prompt.clone()).collect();
                let seeds = vec![EVALUATION_SEED; prompts.len()];
                let completions = self.rollouts.sample(&prompts, &seeds, &gathering.sampling)?;
                for (question, completions) in asked.iter().zip(completions) {
                    let group = gathering.group(&mut self.judges, question.clone(), completions)?;
                    n_right += group.judged.iter().filter(|judged| judged.is_right).count();
                }
            }
            if n > 0 {
                shares.insert(name, (n_right as f64 / n as f64).into());
            }
        }
        Ok(shares)
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
