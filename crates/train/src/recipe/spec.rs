//! The recipe's form: keys, their types and defaults. Owns what serde reads; whether values make sense is `check.rs`'s.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::Deserialize;

use crate::lora::LoraSpec;
use crate::optim::{AdamW, Method, Muon, Schedule};
use crate::rl::{Dapo, DrGrpo, Spec, V32};
use crate::traces::TeacherSpec;

/// The file as it is written.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Document {
    #[serde(default)]
    pub(super) seed: u64,
    #[serde(default = "held_out")]
    pub(super) held_out: f64,
    pub(super) output: PathBuf,
    pub(super) cache: Option<PathBuf>,
    #[serde(default = "keep_checkpoints")]
    pub(super) keep_checkpoints: usize,
    pub(super) model: toml::Table,
    pub(super) lora: Option<LoraSpec>,
    pub(super) tokenizer: Option<TokenizerSpec>,
    pub(super) data: BTreeMap<String, Data>,
    #[serde(rename = "stage")]
    pub(super) stages: Vec<Stage>,
}

fn held_out() -> f64 {
    0.01
}

fn keep_checkpoints() -> usize {
    2
}

/// `[tokenizer]`: one that is there, or one to train. Without the section it is that of the model training starts from.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenizerSpec {
    /// A folder with tokenizer.json and tokenizer_config.json.
    pub from: Option<PathBuf>,
    /// Tokens to learn.
    pub vocab_size: Option<usize>,
    /// Sources to learn from; all of them where this is absent.
    pub sources: Option<Vec<String>>,
    /// Bytes of text to take from each source.
    pub bytes_per_source: Option<usize>,
}

/// `[data.NAME]`: one of `text`, `chat`, `task` and `command`, and what belongs to it.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Data {
    /// Text files, folders, or names with `*`.
    pub text: Option<Vec<String>>,
    /// What stands between the documents of a text file.
    pub separator: Option<String>,
    /// JSONL files of conversations in OpenAI's form.
    pub chat: Option<Vec<String>>,
    /// A procedural task.
    pub task: Option<String>,
    /// Its parameters.
    pub parameters: Option<toml::Table>,
    /// A command that writes examples over JSON lines.
    pub command: Option<Vec<String>>,
    /// How many examples to take from it.
    pub count: Option<u64>,
    /// A command that judges answers to a chat's questions over JSON lines.
    pub verifier: Option<Vec<String>>,
    /// Longest wait for an example or a verdict, in seconds.
    pub line_seconds: Option<f64>,
    /// A model that answers the questions of a chat or task; its answers are what is learnt.
    pub teacher: Option<TeacherSpec>,
}

/// What a stage does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StageKind {
    /// Learn every token.
    Pretrain,
    /// Learn what the assistant writes.
    Sft,
    /// Learn from rewards for own answers.
    Grpo,
    /// Learn from what a teacher thinks of own answers, token by token.
    Distill,
}

impl StageKind {
    /// Whether the model's own answers are learnt from.
    #[must_use]
    pub fn samples(self) -> bool {
        matches!(self, Self::Grpo | Self::Distill)
    }
}

/// `[[stage]]`.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Stage {
    /// What it does.
    #[serde(rename = "type")]
    pub kind: StageKind,
    /// How long, in steps. One of this and `tokens`; after the checks it is set.
    pub steps: Option<u64>,
    /// How long, in tokens: rounded up to whole steps.
    pub tokens: Option<u64>,
    /// Tokens of a step, padding included: a multiple of `sequence_length`. With `grpo` and `distill` it follows from the
    /// samples.
    #[serde(default)]
    pub batch_tokens: u64,
    /// Tokens of a row; with `grpo` and `distill`, most tokens of a prompt and its completion.
    pub sequence_length: usize,
    /// Tokens that are computed at once: a divisor of `batch_tokens`, all of them where this is absent.
    pub micro_batch_tokens: Option<u64>,
    /// Sources and their shares of the tokens; all alike where this is absent.
    pub mixture: Option<BTreeMap<String, f64>>,
    /// The optimiser.
    pub optimizer: OptimizerSpec,
    /// The learning rate over the steps.
    #[serde(default)]
    pub schedule: Schedule,
    /// Longest gradient over all parameters.
    #[serde(default = "one")]
    pub clip_norm: f32,
    /// Weight of the MTP layers' loss.
    #[serde(default = "mtp_weight")]
    pub mtp_weight: f64,
    /// Weight of the sequence-wise balance loss.
    #[serde(default = "balance_weight")]
    pub balance_weight: f64,
    /// How far a step moves the routers' biases.
    #[serde(default = "bias_update_speed")]
    pub bias_update_speed: f32,
    /// Steps between checkpoints; the last step of a stage always has one.
    #[serde(default = "every")]
    pub checkpoint_every: u64,
    /// Steps between evaluations on what is held out; 0: never.
    #[serde(default = "every")]
    pub evaluate_every: u64,
    /// Rows of an evaluation, for each source; with `grpo` and `distill`, questions that are answered greedily.
    #[serde(default = "evaluate_rows")]
    pub evaluate_rows: usize,
    /// What `grpo` takes beside this.
    pub grpo: Option<GrpoSpec>,
    /// What `distill` takes beside this.
    pub distill: Option<DistillSpec>,
    /// Names the order of this stage's data; the recipe's seed and the stage's number where this is absent.
    pub seed: Option<u64>,
}

fn one() -> f32 {
    1.0
}

fn mtp_weight() -> f64 {
    0.3
}

fn balance_weight() -> f64 {
    1e-4
}

fn bias_update_speed() -> f32 {
    1e-3
}

fn every() -> u64 {
    100
}

fn evaluate_rows() -> usize {
    16
}

/// `[stage.grpo]`.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GrpoSpec {
    /// Questions of a step.
    pub prompts: usize,
    /// Completions of each.
    pub group_size: usize,
    /// Most tokens of a completion.
    pub max_tokens: usize,
    /// Divides the logits of what is sampled.
    #[serde(default = "one")]
    pub temperature: f32,
    /// Updates that a step's samples are spread over.
    #[serde(default = "once")]
    pub updates: usize,
    /// How far a token's ratio may leave 1 and still be learnt from.
    #[serde(default = "clip")]
    pub clip: f32,
    /// Weight of the KL to the policy that the stage began with; 0: none.
    #[serde(default)]
    pub kl: f32,
    /// The share of the reward that the form alone is worth: reasoning that is closed, and an answer.
    #[serde(default = "format_share")]
    pub format_share: f64,
    /// Steps between samples that are written down; 0: never.
    #[serde(default = "transcripts_every")]
    pub transcripts_every: u64,
    /// Switches of Dr. GRPO.
    #[serde(default)]
    pub dr_grpo: DrGrpo,
    /// Switches of DAPO.
    #[serde(default)]
    pub dapo: Dapo,
    /// Switches of DeepSeek-V3.2.
    #[serde(default)]
    pub v32: V32,
}

fn once() -> usize {
    1
}

fn clip() -> f32 {
    0.2
}

fn format_share() -> f64 {
    0.1
}

fn transcripts_every() -> u64 {
    10
}

impl GrpoSpec {
    /// What the arithmetic of a step needs.
    #[must_use]
    pub fn objective(&self) -> Spec {
        let Self { clip, kl, max_tokens, dr_grpo, dapo, v32, .. } = *self;
        Spec { clip, kl, max_tokens, dr_grpo, dapo, v32 }
    }
}

/// `[stage.distill]`.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DistillSpec {
    /// The model that is learnt from: a folder or .gguf file with the student's tokenizer.
    pub teacher: PathBuf,
    /// Questions of a step.
    pub prompts: usize,
    /// Answers to each.
    #[serde(default = "once")]
    pub group_size: usize,
    /// Most tokens of an answer.
    pub max_tokens: usize,
    /// Divides the logits of what is sampled; the divergence is always that at 1.
    #[serde(default = "one")]
    pub temperature: f32,
    /// Steps between samples that are written down; 0: never.
    #[serde(default = "transcripts_every")]
    pub transcripts_every: u64,
}

/// How a stage samples from the model that it trains.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SamplesSpec {
    /// Questions of a step.
    pub prompts: usize,
    /// Answers to each.
    pub group_size: usize,
    /// Most tokens of an answer.
    pub max_tokens: usize,
    /// Divides the logits.
    pub temperature: f32,
    /// The share of the reward that the form alone is worth.
    pub format_share: f64,
    /// Updates that a step's samples are spread over.
    pub updates: usize,
    /// Steps between samples that are written down; 0: never.
    pub transcripts_every: u64,
}

/// `[stage.optimizer]`.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OptimizerSpec {
    /// Which.
    #[serde(rename = "type")]
    pub kind: OptimizerKind,
    /// Learning rate at the top of the schedule.
    pub lr: f32,
    /// AdamW's constants, for all parameters or for those that Muon leaves.
    #[serde(default)]
    pub adamw: AdamW,
    /// Muon's constants.
    pub muon: Option<Muon>,
}

/// Which optimiser.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OptimizerKind {
    /// AdamW for everything.
    Adamw,
    /// Muon for hidden matrices, AdamW for the rest.
    Muon,
}

impl OptimizerSpec {
    /// What [`crate::optim::Optimizer`] takes.
    #[must_use]
    pub fn method(&self) -> Method {
        match self.kind {
            OptimizerKind::Adamw => Method::AdamW(self.adamw.clone()),
            OptimizerKind::Muon => Method::Muon(self.muon.clone().unwrap_or_default(), self.adamw.clone()),
        }
    }
}

impl Stage {
    /// Steps of the stage.
    #[must_use]
    pub fn n_steps(&self) -> u64 {
        match (self.steps, self.tokens) {
            (Some(steps), _) => steps,
            (None, Some(tokens)) => tokens.div_ceil(self.batch_tokens.max(1)),
            (None, None) => 0,
        }
    }

    /// How it samples, where it does.
    #[must_use]
    pub fn samples(&self) -> Option<SamplesSpec> {
        let of_rewards = self.grpo.as_ref().map(|grpo| {
            let GrpoSpec {
                prompts, group_size, max_tokens, temperature, format_share, updates, transcripts_every, ..
            } = *grpo;
            SamplesSpec { prompts, group_size, max_tokens, temperature, format_share, updates, transcripts_every }
        });
        of_rewards.or_else(|| {
            let DistillSpec { prompts, group_size, max_tokens, temperature, transcripts_every, .. } =
                *self.distill.as_ref()?;
            let (format_share, updates) = (0.0, 1);
            Some(SamplesSpec { prompts, group_size, max_tokens, temperature, format_share, updates, transcripts_every })
        })
    }

    /// Whether it takes from this source.
    #[must_use]
    pub fn uses(&self, source: &str) -> bool {
        self.mixture.as_ref().is_none_or(|mixture| mixture.contains_key(source))
    }

    /// Rows of a step.
    #[must_use]
    pub fn n_rows(&self) -> usize {
        (self.batch_tokens / self.sequence_length.max(1) as u64) as usize
    }

    /// Rows that are computed at once.
    #[must_use]
    pub fn n_micro_rows(&self) -> usize {
        let tokens = self.micro_batch_tokens.unwrap_or(self.batch_tokens);
        (tokens / self.sequence_length.max(1) as u64) as usize
    }

    /// The learning rate at step `step` of the stage, from 0.
    #[must_use]
    pub fn lr(&self, step: u64) -> f32 {
        (f64::from(self.optimizer.lr) * self.schedule.share(step, self.n_steps())) as f32
    }
}
