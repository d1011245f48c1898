//! A stage that learns from the model's own answers, inside a run: sample, judge, update, look.
//!
//! Owns the engine of the rollouts, who judges, and how a step's samples are spread over updates; what the samples are
//! good for is `rewards.rs`'s or `teaching.rs`'s. Must not own weights, the optimiser, the log or checkpoints: those are
//! the run's.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use ops::TrainDevice;
use serde_json::Value;

use super::rewards::Rewards;
use super::teaching::Teaching;
use super::{Losses, RunError, Work, file};
use crate::Net;
use crate::data::Encoder;
use crate::recipe::{SamplesSpec, Stage};
use crate::rl::{
    Experience, Gathering, Judge, Place, QuestionSet, RlError, RlStats, Rollouts, SamplingSpec, Spec, limits,
};
use crate::split::Split;

/// Tells the draws of an evaluation from those of training.
const EVALUATION_SEED: u64 = 0x65_76_61_6c;

/// What is learnt from the samples.
pub(super) enum Aim {
    /// `grpo`
    Rewards(Rewards),
    /// `distill`
    Teacher(Box<Teaching>),
}

/// What a stage that samples keeps from step to step.
pub(super) struct Samples<'s, 'a, D: TrainDevice> {
    spec: SamplesSpec,
    objective: Spec,
    aim: Aim,
    rollouts: Rollouts<'a, D>,
    questions: QuestionSet<'s>,
    judges: Vec<Judge>,
    encoder: Arc<Encoder>,
    /// Where samples are written down.
    transcripts: PathBuf,
    /// How often each judge's verifier had broken when that was last told.
    n_told: Vec<u64>,
    /// Seconds of the step that went to sampling, and to losses and gradients.
    seconds: [f64; 2],
}

/// Everything a step reads besides its own state.
pub(super) struct Policy<'p, D> {
    pub(super) dev: &'p D,
    pub(super) net: &'p Net,
    pub(super) params: &'p mut [f32],
}

impl<'s, 'a, D: TrainDevice> Samples<'s, 'a, D> {
    /// Starts the engine with the weights as they are. `folder` is the run's, where samples are written down and what the
    /// stage began with is kept, for a run that goes on from the middle of it.
    pub(super) fn new(
        policy: &Policy<'_, D>,
        dev: &'a D,
        (at, stage): (usize, &Stage),
        (questions, judges): (QuestionSet<'s>, Vec<Judge>),
        encoder: &Arc<Encoder>,
        folder: &Path,
    ) -> Result<Self, RunError> {
        let transcripts = folder.join("transcripts");
        let spec = stage.samples().ok_or_else(|| file(&transcripts, "the stage has no samples"))?;
        let aim = match (&stage.distill, &stage.grpo) {
            (Some(distill), _) => Aim::Teacher(Box::new(Teaching::new(policy.net, stage, distill)?)),
            (None, grpo) => {
                let trained = &policy.params[policy.net.trained()];
                let objective = grpo.as_ref().map_or(Spec::PLAIN, |grpo| grpo.objective());
                Aim::Rewards(Rewards::new(objective, &folder.join(format!("reference-{at}")), trained)?)
            }
        };
        let limits = limits(stage.sequence_length, spec.prompts * spec.group_size);
        let rollouts = Rollouts::new(dev, policy.net, policy.params, limits)?;
        fs::create_dir_all(&transcripts).map_err(|e| file(&transcripts, e))?;
        let n_told = vec![0; judges.len()];
        Ok(Self {
            objective: match &aim {
                Aim::Rewards(rewards) => rewards.objective,
                Aim::Teacher(_) => Spec { max_tokens: spec.max_tokens, ..Spec::PLAIN },
            },
            spec,
            aim,
            rollouts,
            questions,
            judges,
            encoder: encoder.clone(),
            transcripts,
            n_told,
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
    /// that sampled.
    pub(super) fn gradients(
        &mut self,
        policy: &mut Policy<'_, D>,
        stage: &Stage,
        experience: &mut Experience,
        update: (usize, &[Place]),
        work: &mut Work,
    ) -> Losses {
        let start = Instant::now();
        let losses = match &mut self.aim {
            Aim::Rewards(rewards) => rewards.gradients(policy, stage, experience, update, work),
            Aim::Teacher(teaching) => teaching.gradients(policy, stage, experience, update.1, work),
        };
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

    /// What verifiers broke on and how often, if that is news: at the first time, and whenever it is twice as often as was
    /// told before.
    pub(super) fn complaints(&mut self) -> Vec<String> {
        let mut news = Vec::new();
        for ((judge, n_told), source) in self.judges.iter().zip(&mut self.n_told).zip(self.questions.sources()) {
            let Some(error) = judge.last_error.as_ref().filter(|_| judge.n_broken >= (2 * *n_told).max(1)) else {
                continue;
            };
            *n_told = judge.n_broken;
            let (name, n) = (&source.name, judge.n_broken);
            news.push(format!(
                "source {name:?}: the verifier broke on {n} samples so far, which count as wrong: {error}"
            ));
        }
        news
    }

    /// The share of held-out questions that are answered right when nothing is left to chance, by source. Where nothing
    /// judges the answers there is nothing to say.
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
            if self.judges[source].verifier.is_none() && asked.iter().all(|question| question.check.is_none()) {
                continue;
            }
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
