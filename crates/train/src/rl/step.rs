//! What a step of GRPO learns from: groups of judged completions, and the rows of tokens that they become.
//!
//! Owns which groups count (DAPO's dynamic sampling), rewards, and the packing of samples into micro-batches. Must not move
//! weights.

use std::ops::Range;
use std::sync::Arc;

use ops::TrainDevice;
use serde::Serialize;
use text::Tokenizer;

use super::grpo::{self, Spec, Terms};
use super::{Completion, Judge, Judged, Question, RlError, Rollouts, SamplingSpec};
use crate::Batch;

/// Rounds of questions that dynamic sampling asks before it gives up.
const ROUNDS_MAX: usize = 8;

/// A question's completions and what they are worth.
#[derive(Clone, Debug)]
pub struct Group {
    /// The question.
    pub question: Question,
    /// Its completions.
    pub completions: Vec<Completion>,
    /// What each was found to be.
    pub judged: Vec<Judged>,
    /// The rewards, less DAPO's penalty for length.
    pub rewards: Vec<f64>,
    /// Of each.
    pub advantages: Vec<f64>,
}

/// A step's numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, serde::Deserialize)]
pub struct RlStats {
    /// Mean reward of all samples, those of dropped groups included.
    pub reward: f64,
    /// Share of samples whose answer is right.
    pub accuracy: f64,
    /// Mean tokens of a completion.
    pub length: f64,
    /// Share of completions that did not come to an end.
    pub cut_off: f64,
    /// Mean −ln π of the sampled tokens: an estimate of the policy's entropy per token, in nats.
    pub entropy: f64,
    /// Share of groups whose rewards are all equal.
    pub flat_groups: f64,
    /// Share of tokens whose ratio was clipped.
    pub clip_fraction: f64,
    /// Mean KL to the reference policy, or to the teacher, per token, in nats, where there is one.
    pub kl: f64,
    /// Mean |ln π_trainer − ln π_rollout| per token before the first update: how far the two computations differ.
    pub drift: f64,
    /// Samples on which the verifier broke.
    pub verifier_failures: u64,
    /// Tokens sampled per second.
    pub rollout_tokens_per_s: f64,
    /// Share of the step's time that went to sampling, and to losses and gradients.
    pub rollout_share: f64,
    /// The same.
    pub update_share: f64,
}

/// A step's samples.
#[derive(Clone, Debug, Default)]
pub struct Experience {
    /// Groups to learn from.
    pub groups: Vec<Group>,
    /// Of all groups that were sampled.
    pub stats: RlStats,
}

/// How experience is gathered.
pub struct Gathering<'a> {
    /// Groups of a step.
    pub n_groups: usize,
    /// How completions are sampled.
    pub sampling: SamplingSpec,
    /// What is optimised.
    pub spec: &'a Spec,
    /// Turns completions into text.
    pub tokenizer: &'a Arc<Tokenizer>,
}

/// A sample's place: group and completion.
pub type Place = (usize, usize);

impl Experience {
    /// Samples and judges groups. `question(i)` is the step's i-th question with the seed of its draws; the same weights and
    /// questions give the same experience.
    ///
    /// # Errors
    /// A question cannot be had or does not fit, the device fails, or no rewards differ where they have to
    pub fn gather<D: TrainDevice>(
        rollouts: &mut Rollouts<'_, D>,
        judges: &mut [Judge],
        gathering: &Gathering<'_>,
        question: &mut dyn FnMut(usize) -> Result<(Question, u64), RlError>,
    ) -> Result<Self, RlError> {
        let start = std::time::Instant::now();
        let mut sums = Sums::default();
        let mut groups: Vec<Group> = Vec::new();
        let n_broken = |judges: &[Judge]| judges.iter().map(|judge| judge.n_broken).sum::<u64>();
        let failures_before = n_broken(judges);
        for round in 0..ROUNDS_MAX {
            let wanted = gathering.n_groups - groups.len();
            if wanted == 0 || (round > 0 && !gathering.spec.dapo.dynamic_sampling) {
                break;
            }
            let asked = (0..wanted).map(|i| question(sums.n_groups + i)).collect::<Result<Vec<_>, _>>()?;
            let (questions, seeds): (Vec<_>, Vec<_>) = asked.into_iter().unzip();
            let prompts: Vec<Vec<u32>> = questions.iter().map(|question| question.prompt.clone()).collect();
            let completions = rollouts.sample(&prompts, &seeds, &gathering.sampling)?;
            for (question, completions) in questions.into_iter().zip(completions) {
                let group = gathering.group(judges, question, completions)?;
                sums.add(&group);
                if !(gathering.spec.dapo.dynamic_sampling && grpo::is_flat(&group.rewards)) {
                    groups.push(group);
                }
            }
        }
        if groups.is_empty() {
            return Err(RlError::Flat { attempts: sums.n_groups });
        }
        let stats = RlStats {
            verifier_failures: n_broken(judges) - failures_before,
            rollout_tokens_per_s: sums.n_tokens as f64 / start.elapsed().as_secs_f64(),
            ..sums.stats()
        };
        Ok(Self { groups, stats })
    }

    /// Every sample's place, in order.
    #[must_use]
    pub fn places(&self) -> Vec<Place> {
        let of = |(g, group): (usize, &Group)| (0..group.completions.len()).map(move |c| (g, c)).collect::<Vec<_>>();
        self.groups.iter().enumerate().flat_map(of).collect()
    }

    /// Cuts `places` into micro-batches of at most `n_rows` rows, one at least in each.
    #[must_use]
    pub fn micro_batches(&self, places: &[Place], n_rows: usize) -> Vec<Range<usize>> {
        let mut cuts = Vec::new();
        let (mut first, mut sum) = (0, 0);
        for (i, place) in places.iter().enumerate() {
            let rows = self.n_rows(*place);
            if i > first && sum + rows > n_rows {
                cuts.push(first..i);
                (first, sum) = (i, 0);
            }
            sum += rows;
        }
        if first < places.len() {
            cuts.push(first..places.len());
        }
        cuts
    }

    fn n_rows(&self, (g, c): Place) -> usize {
        let group = &self.groups[g];
        (group.question.prompt.len() + group.completions[c].tokens.len()).saturating_sub(1)
    }

    /// Packs samples into a batch; `coefficients` of each sample's tokens, in the order of `places`.
    pub fn fill(&self, places: &[Place], coefficients: &[Vec<f32>], batch: &mut Batch) {
        batch.clear();
        let mut tokens = Vec::new();
        for (&(g, c), own) in places.iter().zip(coefficients) {
            let group = &self.groups[g];
            let prompt = &group.question.prompt;
            tokens.clear();
            tokens.extend_from_slice(prompt);
            tokens.extend_from_slice(&group.completions[c].tokens);
            batch.push(&tokens, |i| i.checked_sub(prompt.len()).map_or(0.0, |t| own[t]));
        }
    }

    /// ln π of the samples' tokens from the rows' negative log-likelihoods in the batch of [`Experience::fill`].
    #[must_use]
    pub fn logprobs(&self, places: &[Place], nll: &[f64]) -> Vec<Vec<f32>> {
        let mut row = 0;
        let of = |place: &Place| {
            let n = self.groups[place.0].completions[place.1].tokens.len();
            row += self.n_rows(*place);
            nll[row - n..row].iter().map(|nll| -*nll as f32).collect()
        };
        places.iter().map(of).collect()
    }

    /// What each token of `places` counts, given the policy's log-probabilities now and the reference's.
    #[must_use]
    pub fn coefficients(
        &self,
        places: &[Place],
        spec: &Spec,
        new: &[Vec<f32>],
        reference: Option<&[Vec<f32>]>,
    ) -> (Vec<Vec<f32>>, Terms) {
        let samples: Vec<grpo::Sample<'_>> = places
            .iter()
            .enumerate()
            .map(|(i, &(g, c))| grpo::Sample {
                advantage: self.groups[g].advantages[c],
                old: &self.groups[g].completions[c].logprobs,
                new: &new[i],
                reference: reference.map(|all| &all[i][..]),
            })
            .collect();
        grpo::coefficients(&samples, spec)
    }
}

impl Gathering<'_> {
    /// The text of a completion, without the token that ended it.
    fn text(&self, completion: &Completion) -> Result<String, RlError> {
        let tokens = match completion.tokens.split_last() {
            Some((_, before)) if completion.ended => before,
            _ => &completion.tokens,
        };
        let problem = |e: text::TokenizerError| crate::data::DataError::Encoding {
            place: "a completion".to_owned(),
            problem: e.to_string(),
        };
        Ok(self.tokenizer.decode(tokens, false).map_err(problem)?)
    }

    /// Judges a question's completions.
    ///
    /// # Errors
    /// Tokens that are no text of the tokenizer's
    ///
    /// # Panics
    /// If the question's source has no judge
    pub fn group(
        &self,
        judges: &mut [Judge],
        question: Question,
        completions: Vec<Completion>,
    ) -> Result<Group, RlError> {
        let (mut judged, mut rewards) = (Vec::new(), Vec::new());
        for completion in &completions {
            let text = self.text(completion)?;
            let found = judges[question.source].judge(&question, &text, completion.ended);
            judged.push(found);
            rewards.push(found.reward + grpo::overlong_penalty(completion.tokens.len(), self.spec));
        }
        let advantages = grpo::advantages(&rewards, self.spec);
        Ok(Group { question, completions, judged, rewards, advantages })
    }

    /// A group as a reader wants it: the question, and what was written to it.
    ///
    /// # Errors
    /// As [`Gathering::group`]
    pub fn transcript(&self, group: &Group) -> Result<serde_json::Value, RlError> {
        let samples = group.completions.iter().zip(&group.judged).map(|(completion, judged)| {
            Ok(serde_json::json!({ "completion": self.text(completion)?, "reward": judged.reward, "right": judged.is_right }))
        });
        let samples = samples.collect::<Result<Vec<_>, RlError>>()?;
        Ok(serde_json::json!({ "question": group.question.text, "samples": samples }))
    }
}

#[derive(Default)]
struct Sums {
    n_groups: usize,
    n_flat: usize,
    n_samples: usize,
    n_right: usize,
    n_cut: usize,
    n_tokens: usize,
    reward: f64,
    nll: f64,
}

impl Sums {
    fn add(&mut self, group: &Group) {
        self.n_groups += 1;
        self.n_flat += usize::from(grpo::is_flat(&group.rewards));
        for ((completion, judged), reward) in group.completions.iter().zip(&group.judged).zip(&group.rewards) {
            self.n_samples += 1;
            self.n_right += usize::from(judged.is_right);
            self.n_cut += usize::from(!completion.ended);
            self.n_tokens += completion.tokens.len();
            self.reward += reward;
            self.nll -= completion.logprobs.iter().map(|logprob| f64::from(*logprob)).sum::<f64>();
        }
    }

    fn stats(&self) -> RlStats {
        let share = |n: usize, of: usize| n as f64 / of.max(1) as f64;
        RlStats {
            reward: self.reward / self.n_samples.max(1) as f64,
            accuracy: share(self.n_right, self.n_samples),
            length: share(self.n_tokens, self.n_samples),
            cut_off: share(self.n_cut, self.n_samples),
            entropy: self.nll / self.n_tokens.max(1) as f64,
            flat_groups: share(self.n_flat, self.n_groups),
            ..RlStats::default()
        }
    }
}
