//! A run: a recipe's stages, in order, from its start or from where it was interrupted.
//!
//! Owns the order of a step (rows, or samples (`run/samples.rs`) → losses and gradients of micro-batches → clipping →
//! optimiser → routers' biases → record → checkpoint) and what the run's folder holds. Everything that draws is named by
//! seed and step, and a checkpoint holds all state, so a resumed run does what an undisturbed one does. Must not print:
//! who wants to see a run gives an observer.
//!
//! The folder: `tokenizer/` (made first), `step-N/` checkpoints with config and tokenizer beside the weights, `log.jsonl`.
//! Where adapters are trained, a checkpoint holds them alone, and `merged/` is the model with them, made at the end.

mod lock;
mod rewards;
mod samples;
mod start;
mod teaching;

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use checkpoint::Dtype;
use checkpoint::write::{Data, Item};
use model::Config;
use model::export::{ExportFormat, to_safetensors};
use model::plan::PlannedTensor;
use ops::{DeviceError, TrainDevice, WeightFormat, zeroed};
use serde_json::Value;

use crate::bpe::TokenizerFiles;
use crate::checkpoints::{ADAPTERS, CheckpointError, Checkpoints, Found, RunState, WEIGHTS};
use crate::data::{DataError, Encoder, Packer, Position, Rows, Source};
use crate::log::{ExpertLoad, StepLog, StepRecord};
use crate::loss::{Objective, loss_and_gradient, nll};
use crate::optim::{Gemm, Optimizer, clip_norm, update_router_bias};
use crate::recipe::{ModelStart, Recipe, Stage};
use crate::rl::RlError;
use crate::rng::Rng;
use crate::setup::{self, SetupError};
use crate::teacher::{Teacher, TeacherError};
use crate::traces::TraceError;
use crate::{Batch, Net, Workspace, pretrained};
use samples::{Policy, Samples};
use start::{adapted, parameters, restore, resumed, started};

pub use lock::RunLock;

/// The folder of a model with its adapters, in the run's.
pub const MERGED: &str = "merged";

/// Why a run cannot begin or go on. What was trained stays in the last checkpoint.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// Its data.
    #[error(transparent)]
    Data(#[from] DataError),
    /// Its tokenizer and sources.
    #[error(transparent)]
    Setup(#[from] SetupError),
    /// Its checkpoints.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// Samples and their rewards.
    #[error(transparent)]
    Rl(#[from] RlError),
    /// A teacher of a stage.
    #[error(transparent)]
    Teacher(#[from] TeacherError),
    /// A teacher's examples.
    #[error(transparent)]
    Traces(#[from] TraceError),
    /// A file of weights.
    #[error(transparent)]
    Weights(#[from] checkpoint::Error),
    /// A model that cannot be read.
    #[error(transparent)]
    Load(#[from] model::LoadError),
    /// A config that cannot be used.
    #[error(transparent)]
    Config(#[from] model::ConfigError),
    /// Memory.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// Another process trains in the run's folder.
    #[error(
        "{}: another process{who} is training here; wait for it or stop it (--watch shows it), or name another `output`",
        path.display()
    )]
    Busy {
        /// The folder.
        path: PathBuf,
        /// Which process, if that is known.
        who: String,
    },
    /// A file of the run's folder.
    #[error("{}: {problem}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// What is the matter, and what to do.
        problem: String,
    },
    /// The gradient is no number any more.
    #[error("step {step}: the gradient's norm is {norm}, expected a number; lower the learning rate or clip_norm")]
    Diverged {
        /// The step that was not taken.
        step: u64,
        /// What was found.
        norm: f32,
    },
}

/// Sees a run.
pub trait Observer {
    /// A step is done.
    fn step(&mut self, recipe: &Recipe, record: &StepRecord);
    /// Something is passed over: a damaged checkpoint.
    fn warn(&mut self, message: &str);
    /// A teacher answers the questions of the source `name`: how many it has answered, of how many, and how many of its
    /// answers are examples.
    fn traces(&mut self, name: &str, counts: [u64; 3]);
}

/// What a run amounts to, before it starts.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// All weights.
    pub n_params: u64,
    /// Those that a token meets.
    pub n_active: u64,
    /// Those that are trained: all, or the adapters', which are not among the above.
    pub n_trained: u64,
    /// Bytes of weights in f32, of gradients and optimiser of what is trained, and of activations and a teacher, at the
    /// largest stage.
    pub bytes: u64,
    /// Floating-point operations of all stages: 6 per active weight and token, 4 where it is frozen, and attention's.
    pub flops: f64,
    /// Tokens of all stages.
    pub n_tokens: u64,
}

/// A recipe with everything it names made ready.
pub struct Run<'a, D: TrainDevice> {
    dev: &'a D,
    recipe: &'a Recipe,
    encoder: Arc<Encoder>,
    /// To lie beside the weights.
    tokenizer: TokenizerFiles,
    sources: Arc<BTreeMap<String, Source>>,
    net: Net,
    config_json: Value,
    params: Vec<f32>,
    /// Bytes of each stage's teacher.
    teachers: Vec<u64>,
    checkpoints: Checkpoints,
    /// Nobody else trains here.
    _lock: RunLock,
    /// The checkpoint that the run goes on from.
    found: Option<Found>,
}

fn file(path: &Path, problem: impl ToString) -> RunError {
    RunError::File { path: path.to_owned(), problem: problem.to_string() }
}

impl<'a, D: TrainDevice> Run<'a, D> {
    /// Makes tokenizer and sources ready, and weights: new ones, those named, or the newest checkpoint's.
    ///
    /// # Errors
    /// Something the recipe names is not as it should be, or the folder belongs to another recipe
    pub fn open(dev: &'a D, recipe: &'a Recipe, observer: &mut dyn Observer) -> Result<Self, RunError> {
        let output = &recipe.output;
        fs::create_dir_all(output).map_err(|e| file(output, format!("cannot be made: {e}")))?;
        let lock = RunLock::take(output)?;
        let weights = if recipe.lora.is_some() { ADAPTERS } else { WEIGHTS };
        let checkpoints = Checkpoints::open(output, recipe.keep_checkpoints, weights)?;
        let found = checkpoints.newest(&mut |error| observer.warn(&error.to_string()))?;
        if let Some(found) = found.as_ref().filter(|found| found.state.recipe != recipe.fingerprint()) {
            let problem = "was made by another recipe; name another `output`, or restore the recipe as it was";
            return Err(file(&found.path, problem));
        }
        let model = match &recipe.model {
            ModelStart::From(model) => Some(model.as_path()),
            ModelStart::Config(_) | ModelStart::Shape(_) => None,
        };
        // A run keeps the tokenizer that it began with: another version of Minke may make other texts of the same recipe.
        // Adapters lie without one; theirs is their model's.
        let tokenizer = match &found {
            Some(found) if recipe.lora.is_none() => pretrained::tokenizer(&found.path).map_err(SetupError::from)?,
            _ => setup::tokenizer(recipe, model)?,
        };
        let encoder = Arc::new(Encoder::new(&tokenizer.tokenizer, &tokenizer.config)?);
        let sources = Arc::new(setup::sources(recipe, &encoder)?);
        let (net, config_json, params) = match &found {
            Some(found) if recipe.lora.is_none() => resumed(found)?,
            Some(found) => adapted(started(recipe, &encoder)?, found)?,
            None => started(recipe, &encoder)?,
        };
        let n_text = encoder.tokenizer().vocab_size();
        if n_text > net.config.vocab_size {
            let problem = format!("has {n_text} tokens; expected at most {}, the model's", net.config.vocab_size);
            return Err(file(&output.join("tokenizer"), problem));
        }
        let teacher = |stage: &Stage| match &stage.distill {
            None => Ok(0),
            Some(spec) => {
                let n_rows = stage.n_micro_rows() * stage.sequence_length;
                Teacher::check(&spec.teacher, &encoder, net.config.vocab_size, n_rows)
            }
        };
        let teachers = recipe.stages.iter().map(teacher).collect::<Result<_, _>>()?;
        Ok(Self {
            dev,
            recipe,
            encoder,
            tokenizer,
            sources,
            net,
            config_json,
            params,
            teachers,
            checkpoints,
            _lock: lock,
            found,
        })
    }

    /// The model that is trained.
    #[must_use]
    pub fn net(&self) -> &Net {
        &self.net
    }

    /// Its config.json.
    #[must_use]
    pub fn config_json(&self) -> &Value {
        &self.config_json
    }

    /// Its weights as they are now, in the net's layout.
    #[must_use]
    pub fn params(&self) -> &[f32] {
        &self.params
    }

    /// Its tokenizer.
    #[must_use]
    pub fn encoder(&self) -> &Encoder {
        &self.encoder
    }

    /// Steps that an earlier run has done.
    #[must_use]
    pub fn n_done(&self) -> u64 {
        self.found.as_ref().map_or(0, |found| found.state.step)
    }

    /// What the run amounts to.
    #[must_use]
    pub fn plan(&self) -> Plan {
        let config = &self.net.config;
        let counts = model::counts::parameters(config);
        let n_params = self.net.layout.len() as u64;
        let tokens = |stage: &Stage| stage.n_steps() * stage.batch_tokens;
        let flops = |stage: &Stage| {
            let attention = 6 * config.num_hidden_layers * config.attention.num_attention_heads();
            let heads = attention as f64 * stage.sequence_length as f64 * head_width(config) as f64;
            let per_weight = if self.recipe.lora.is_some() { 4.0 } else { 6.0 };
            tokens(stage) as f64 * (per_weight * counts.active as f64 + heads)
        };
        let rows = |stage: &Stage| stage.n_micro_rows() * stage.sequence_length;
        let of_stage =
            |(stage, teacher): (&Stage, &u64)| Workspace::n_bytes(&self.net, rows(stage)).saturating_add(*teacher);
        let activations = self.recipe.stages.iter().zip(&self.teachers).map(of_stage).max();
        let n_trained = self.net.trained().len() as u64;
        Plan {
            n_params,
            n_active: counts.active,
            n_trained,
            // Weights; of what is trained gradients and two moments, all f32.
            bytes: (4 * self.net.n_values() as u64 + 12 * n_trained).saturating_add(activations.unwrap_or(0)),
            flops: self.recipe.stages.iter().map(flops).sum(),
            n_tokens: self.recipe.stages.iter().map(tokens).sum(),
        }
    }

    /// Runs what is left of the stages.
    ///
    /// # Errors
    /// Data, disk or memory fail, or the gradient is no number; checkpoints stay
    pub fn run(&mut self, gemm: &mut impl Gemm, observer: &mut dyn Observer) -> Result<(), RunError> {
        let found = self.found.take();
        let state = found.as_ref().map(|found| found.state.clone());
        let (first, n_done) = state.as_ref().map_or((0, 0), |state| (state.stage, state.step));
        let path = self.recipe.output.join("log.jsonl");
        let mut log = StepLog::open(&path, n_done).map_err(|e| file(&path, e))?;
        let mut progress = Progress { step: n_done, tokens: state.as_ref().map_or(0, |state| state.tokens) };
        let mut resumed = found;
        for at in first..self.recipe.stages.len() {
            self.stage(at, resumed.take(), &mut progress, &mut log, gemm, observer)?;
        }
        if self.recipe.lora.is_some() { self.write_merged() } else { Ok(()) }
    }

    /// The model with its adapters, as a folder that other commands take. A second call writes the same.
    fn write_merged(&mut self) -> Result<(), RunError> {
        self.net.merge(self.dev, &mut self.params);
        let folder = self.recipe.output.join(MERGED);
        fs::create_dir_all(&folder).map_err(|e| file(&folder, e))?;
        for (name, content) in
            [("tokenizer.json", &self.tokenizer.tokenizer), ("tokenizer_config.json", &self.tokenizer.config)]
        {
            checkpoint::write::atomically(&folder.join(name).into(), |out| out.write_all(content))?;
        }
        let values = |tensor: &PlannedTensor| {
            let param = self.net.layout.get(&tensor.name);
            param.map_or(&[][..], |param| &self.params[param.range.clone()])
        };
        to_safetensors(&folder, &self.config_json, &self.net.config, ExportFormat::BF16, values)?;
        Ok(())
    }

    fn stage(
        &mut self,
        at: usize,
        resumed: Option<Found>,
        progress: &mut Progress,
        log: &mut StepLog,
        gemm: &mut impl Gemm,
        observer: &mut dyn Observer,
    ) -> Result<(), RunError> {
        let recipe = self.recipe;
        let stage = &recipe.stages[at];
        let sources = self.sources.clone();
        let mut optimizer = Optimizer::new(stage.optimizer.method(), parameters(&self.net));
        let mut stage_step = 0;
        let mut position = None;
        if let Some(found) = resumed {
            stage_step = found.state.stage_step;
            // Between two stages lies the last one's optimiser, and no position: each begins with its own.
            if stage_step > 0 {
                position = Some(found.state.position.clone());
                restore(&found, &mut optimizer)?;
            }
        }
        let mut learning = self.learning(at, &sources, position)?;
        let n_rows = stage.n_micro_rows() * stage.sequence_length;
        let mut work = Work {
            ws: Workspace::new(&self.net, n_rows)?,
            gradients: zeroed(self.net.trained().len(), "gradients")?,
            rows: Rows::default(),
            batch: Batch::default(),
        };
        while stage_step < stage.n_steps() {
            let start = Instant::now();
            let mut record = match &mut learning {
                Learning::Data { train, .. } => {
                    self.learn(stage, stage_step, train, &mut optimizer, &mut work, gemm)?
                }
                Learning::Samples(samples) => {
                    let step = [stage_step, progress.step + 1];
                    let record = self.sample(stage, step, samples, &mut optimizer, &mut work, gemm)?;
                    samples.complaints().iter().for_each(|message| observer.warn(message));
                    record
                }
            };
            stage_step += 1;
            progress.step += 1;
            progress.tokens += record.tokens;
            record.tokens_per_s = record.tokens as f64 / start.elapsed().as_secs_f64();
            (record.step, record.stage, record.tokens) = (progress.step, at, progress.tokens);
            let is_last = stage_step == stage.n_steps();
            if stage.evaluate_every > 0 && (is_last || stage_step.is_multiple_of(stage.evaluate_every)) {
                record.held_out = Some(match &mut learning {
                    Learning::Data { held_out, .. } => self.evaluate(stage, held_out, &mut work),
                    Learning::Samples(samples) => samples.evaluate(stage)?,
                });
            }
            log.append(&record).map_err(|e| file(&recipe.output.join("log.jsonl"), e))?;
            observer.step(recipe, &record);
            if is_last || stage_step.is_multiple_of(stage.checkpoint_every) {
                log.sync().map_err(|e| file(&recipe.output.join("log.jsonl"), e))?;
                let (stage, stage_step) = if is_last { (at + 1, 0) } else { (at, stage_step) };
                let position = match &learning {
                    Learning::Data { train, .. } if !is_last => train.position().clone(),
                    _ => Position::default(),
                };
                let state = RunState {
                    step: progress.step,
                    stage,
                    stage_step,
                    tokens: progress.tokens,
                    position,
                    rng: Rng::new(&[recipe.seed, progress.step]),
                    recipe: recipe.fingerprint().to_owned(),
                };
                self.save(&state, &optimizer)?;
            }
        }
        Ok(())
    }

    /// What a stage learns from, from its start or at `position` of its data.
    fn learning<'s>(
        &mut self,
        at: usize,
        sources: &'s BTreeMap<String, Source>,
        position: Option<Position>,
    ) -> Result<Learning<'s, 'a, D>, RunError> {
        let (recipe, stage) = (self.recipe, &self.recipe.stages[at]);
        if stage.kind.samples() {
            let questions = setup::questions(recipe, at, sources, &self.encoder)?;
            let policy = Policy { dev: self.dev, net: &self.net, params: &mut self.params };
            let samples = Samples::new(&policy, self.dev, (at, stage), questions, &self.encoder, &recipe.output)?;
            return Ok(Learning::Samples(Box::new(samples)));
        }
        let mut train = setup::training(recipe, at, sources, &self.encoder)?;
        if let Some(position) = position {
            train.seek(position).map_err(|e| file(&recipe.output, e))?;
        }
        let held_out = match stage.evaluate_every {
            0 => BTreeMap::new(),
            _ => setup::evaluation(recipe, at, sources, &self.encoder)?,
        };
        Ok(Learning::Data { train, held_out })
    }

    /// One update of the weights from data; the record lacks what the run knows.
    fn learn(
        &mut self,
        stage: &Stage,
        stage_step: u64,
        train: &mut Packer<'_>,
        optimizer: &mut Optimizer,
        work: &mut Work,
        gemm: &mut impl Gemm,
    ) -> Result<StepRecord, RunError> {
        train.fill(stage.n_rows(), &mut work.rows)?;
        let n_targets = work.rows.n_targets(1);
        let objective = Objective { mtp: stage.mtp_weight as f32, balance: stage.balance_weight as f32 };
        work.gradients.fill(0.0);
        let mut losses = Losses::default();
        let n_micro = stage.n_rows().div_ceil(stage.n_micro_rows());
        for micro in 0..n_micro {
            let rows = micro * stage.n_micro_rows()..(micro + 1) * stage.n_micro_rows();
            take(&work.rows, rows, n_targets, &mut work.batch);
            let (ws, g) = (&mut work.ws, &mut work.gradients);
            // The balance loss is a mean over sequences; each micro-batch holds its share of them.
            let objective = Objective { balance: objective.balance / n_micro as f32, ..objective };
            let found = loss_and_gradient(self.dev, &self.net, &self.params, &work.batch, objective, ws, g);
            losses.main += found.main;
            losses.mtp += found.mtp;
            losses.balance += found.balance;
            losses.add_loads(&work.ws);
        }
        let norm = self.update(stage, stage_step, &losses, optimizer, work, gemm)?;
        let mtp = (self.net.config.num_nextn_predict_layers > 0 && objective.mtp != 0.0).then_some(losses.mtp);
        Ok(StepRecord { tokens: n_targets as u64, mtp_loss: mtp, ..record(stage, stage_step, &losses, norm) })
    }

    /// One step of samples and the updates that are made of them; the record lacks what the run knows.
    fn sample(
        &mut self,
        stage: &Stage,
        [stage_step, run_step]: [u64; 2],
        samples: &mut Samples<'_, 'a, D>,
        optimizer: &mut Optimizer,
        work: &mut Work,
        gemm: &mut impl Gemm,
    ) -> Result<StepRecord, RunError> {
        let start = Instant::now();
        let mut experience = samples.gather(stage_step, run_step)?;
        let (mut all, mut largest) = (Losses::default(), 0.0f32);
        let updates = samples.updates(&experience);
        for (u, places) in updates.iter().enumerate() {
            let mut policy = Policy { dev: self.dev, net: &self.net, params: &mut self.params };
            let losses = samples.gradients(&mut policy, stage, &mut experience, (u, places), work);
            largest = largest.max(self.update(stage, stage_step, &losses, optimizer, work, gemm)?);
            all = Losses { main: all.main + losses.main / updates.len() as f64, ..losses };
        }
        let policy = Policy { dev: self.dev, net: &self.net, params: &mut self.params };
        let stats = samples.finish(&policy, experience.stats, start)?;
        let n_tokens = experience.groups.iter().flat_map(|g| &g.completions).map(|c| c.tokens.len() as u64).sum();
        Ok(StepRecord { tokens: n_tokens, rl: Some(stats), ..record(stage, stage_step, &all, largest) })
    }

    /// Moves the weights by the gradients in `work`, whose norm before clipping is returned.
    fn update(
        &mut self,
        stage: &Stage,
        stage_step: u64,
        losses: &Losses,
        optimizer: &mut Optimizer,
        work: &mut Work,
        gemm: &mut impl Gemm,
    ) -> Result<f32, RunError> {
        let norm = clip_norm(&mut work.gradients, stage.clip_norm);
        if !norm.is_finite() {
            return Err(RunError::Diverged { step: optimizer.step() + 1, norm });
        }
        optimizer.update(stage.lr(stage_step), &mut self.params[self.net.trained()], &work.gradients, gemm);
        for (range, load) in self.net.router_biases().zip(&losses.loads) {
            update_router_bias(&mut self.params[range], load, stage.bias_update_speed);
        }
        Ok(norm)
    }

    /// Mean cross-entropy on what is held out, by source.
    fn evaluate(
        &self,
        stage: &Stage,
        held_out: &BTreeMap<String, Rows>,
        work: &mut Work,
    ) -> serde_json::Map<String, Value> {
        let mut losses = serde_json::Map::new();
        for (name, held_out) in held_out {
            let n_targets = held_out.n_targets(1);
            let mut sum = 0.0;
            for first in (0..stage.evaluate_rows).step_by(stage.n_micro_rows()) {
                let rows = first..(first + stage.n_micro_rows()).min(stage.evaluate_rows);
                take(held_out, rows, n_targets, &mut work.batch);
                let nll = nll(self.dev, &self.net, &self.params, &work.batch, &mut work.ws);
                sum += nll.iter().zip(&work.batch.weights).map(|(nll, weight)| nll * f64::from(*weight)).sum::<f64>();
            }
            losses.insert(name.clone(), sum.into());
        }
        losses
    }

    fn save(&self, state: &RunState, optimizer: &Optimizer) -> Result<(), RunError> {
        let tensors: Vec<(String, Vec<usize>, Range<usize>)> = match &self.recipe.lora {
            None => self.net.layout.published().map(|p| (p.name, p.shape, p.range)).collect(),
            Some(_) => (self.net.adapter_tensors().iter())
                .map(|t| (t.name.clone(), t.shape.to_vec(), t.range.clone()))
                .collect(),
        };
        let weights: Vec<Item<'_>> =
            tensors.iter().map(|(name, shape, range)| item(name, shape, &self.params[range.clone()])).collect();
        let step = [optimizer.step() as f32];
        let [first, second] = optimizer.state();
        let lens = [[1], [first.len()], [second.len()]];
        let state_items =
            [item("step", &lens[0], &step), item("first", &lens[1], first), item("second", &lens[2], second)];
        let config = format!("{:#}\n", self.config_json);
        let of_model: [(&str, &[u8]); 3] = [
            ("config.json", config.as_bytes()),
            ("tokenizer.json", &self.tokenizer.tokenizer),
            ("tokenizer_config.json", &self.tokenizer.config),
        ];
        let base = match &self.recipe.model {
            ModelStart::From(model) => model.display().to_string(),
            ModelStart::Config(_) | ModelStart::Shape(_) => String::new(),
        };
        match self.net.adapter_config(&base) {
            None => self.checkpoints.save(state, &weights, &state_items, &of_model)?,
            // A program that reads adapters takes the rest from the model under them.
            Some(config) => {
                let config = format!("{config:#}\n");
                self.checkpoints.save(state, &weights, &state_items, &[("adapter_config.json", config.as_bytes())])?
            }
        };
        Ok(())
    }
}

/// What a stage learns from.
enum Learning<'s, 'a, D: TrainDevice> {
    Data { train: Packer<'s>, held_out: BTreeMap<String, Rows> },
    Samples(Box<Samples<'s, 'a, D>>),
}

/// What the micro-batches of an update add up to.
#[derive(Default)]
struct Losses {
    main: f64,
    mtp: f64,
    balance: f64,
    /// Tokens of each expert, by MoE layer.
    loads: Vec<Vec<u64>>,
}

impl Losses {
    fn add_loads(&mut self, ws: &Workspace) {
        for (layer, load) in ws.expert_loads().enumerate() {
            if self.loads.len() == layer {
                self.loads.push(vec![0; load.len()]);
            }
            self.loads[layer].iter_mut().zip(load).for_each(|(sum, n)| *sum += n as u64);
        }
    }
}

/// What every kind of stage says of a step.
fn record(stage: &Stage, stage_step: u64, losses: &Losses, norm: f32) -> StepRecord {
    StepRecord {
        loss: losses.main,
        balance_loss: (!losses.loads.is_empty() && stage.balance_weight > 0.0)
            .then(|| losses.balance / stage.balance_weight),
        grad_norm: norm.into(),
        lr: stage.lr(stage_step).into(),
        expert_load: ExpertLoad::of(&losses.loads),
        ..StepRecord::default()
    }
}

struct Progress {
    step: u64,
    tokens: u64,
}

/// Memory of a stage's steps.
struct Work {
    ws: Workspace,
    gradients: Vec<f32>,
    rows: Rows,
    batch: Batch,
}

fn item<'a>(name: &'a str, shape: &'a [usize], values: &'a [f32]) -> Item<'a> {
    Item { name, dtype: Dtype::Weight(WeightFormat::F32), shape, data: Data::F32(values) }
}

/// Channels of a head's keys and values.
fn head_width(config: &Config) -> usize {
    match &config.attention {
        model::config::Attention::Mla(mla) => mla.qk_head_dim() + mla.v_head_dim,
        model::config::Attention::Gqa(gqa) => 2 * gqa.head_dim,
    }
}

/// Rows `range` as a batch whose losses are part of a mean over `n_targets`.
fn take(rows: &Rows, range: Range<usize>, n_targets: usize, batch: &mut Batch) {
    batch.clear();
    let tokens = range.start * rows.sequence_length..range.end * rows.sequence_length;
    let weight = 1.0 / n_targets.max(1) as f32;
    for span in rows.spans.iter().filter(|span| tokens.contains(&span.start)) {
        let span = span.start..span.start + span.len;
        let is_learnt = &rows.is_learnt[span.clone()];
        batch.push(&rows.tokens[span], |i| if is_learnt[i] { weight } else { 0.0 });
    }
}
