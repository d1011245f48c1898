//! `minke train`: a recipe, from its start or from where it was interrupted.
//!
//! Owns the command's flags and what is shown of a run. Must not train.

mod grid;
mod plots;
mod watch;

use std::path::PathBuf;

use indicatif::ProgressBar;
use model::plan::plan;
use ops::{Gemm, GemmLayout, Precision, TrainDevice};
use serde_json::json;
use train::log::StepRecord;
use train::optim;
use train::recipe::{ModelStart, Recipe};
use train::run::{Observer, Plan, Run, RunLock};

use crate::failure::{Failure, print, remark};
use crate::memory::{bytes, grouped, memory};
use crate::runs;
use crate::source::Source;
use watch::Watch;

/// Train a model as a recipe says: from nothing or from one that is there, stage by stage.
///
/// A run that was interrupted, by a signal or a power cut, goes on from its last checkpoint when the same command is given
/// again, and ends as it would have. The run's folder (`output` in the recipe) holds the checkpoints, which are models that
/// other commands take, and log.jsonl with a line per step.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    minke train recipe.toml --dry-run\n  \
    minke train recipe.toml --watch")]
pub(crate) struct Args {
    /// The recipe, a TOML file.
    recipe: PathBuf,
    /// Check the recipe and its data, say what it amounts to, and train nothing.
    #[arg(long)]
    dry_run: bool,
    /// Draw the run's curves in the terminal as it goes on: losses, learning rate, load of the experts, and in stages of
    /// reinforcement learning rewards and what belongs to them. A run that another process is training is followed.
    #[arg(long, conflicts_with = "dry_run")]
    watch: bool,
    /// Write the record of each step to stdout as JSON, one line each; with --dry-run the plan.
    #[arg(long)]
    json: bool,
}

impl From<train::run::RunError> for Failure {
    fn from(error: train::run::RunError) -> Self {
        use train::run::RunError;
        match error {
            RunError::Device(_) | RunError::Diverged { .. } => Self::Failed(error.into()),
            _ => Self::Input(error.into()),
        }
    }
}

/// Runs the command.
pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    let mut recipe = Recipe::load(&args.recipe).map_err(|e| Failure::Input(e.into()))?;
    if args.watch && RunLock::is_held(&recipe.output) {
        return watch::follow(&recipe);
    }
    fits(&recipe)?;
    let dev = crate::device::cpu(None)?;
    let n_steps = recipe.stages.iter().map(train::recipe::Stage::n_steps).sum();
    let mut shown = Shown { bar: None, watch: None, n_steps, as_json: args.json, failure: None };
    if !args.dry_run {
        train::traces::make(&dev, &mut recipe, &mut shown).map_err(train::run::RunError::from)?;
        shown.bar.take().iter().for_each(ProgressBar::finish_and_clear);
    }
    let mut run = Run::open(&dev, &recipe, &mut shown)?;
    let plan = run.plan();
    if args.dry_run {
        return print(&if args.json { format!("{:#}\n", plan_json(&plan)) } else { plan_text(&plan) });
    }
    let available = memory().available;
    if plan.bytes > available {
        let (needed, available) = (bytes(plan.bytes), bytes(available));
        let message = format!("training takes {needed}, {available} are free; lower micro_batch_tokens or the model");
        return Err(Failure::input(message));
    }
    if run.n_done() > 0 {
        shown.warn(&format!("going on from step {}", run.n_done()));
    }
    // A page that does not know of the run is no reason not to train.
    if let Ok(folder) = runs::folder()
        && let Err(error) = runs::announce(&folder, &recipe.output, &args.recipe)
    {
        shown.warn(&format!("{}: this run will not be seen on the page: {error}", folder.display()));
    }
    if args.watch {
        let mut watch = Watch::new(&recipe);
        watch.read_before(&recipe);
        shown.watch = Some(watch);
    } else {
        let bar = crate::progress::step_bar(n_steps);
        bar.set_position(run.n_done());
        shown.bar = Some(bar);
    }
    let ran = run.run(&mut DeviceGemm(&dev), &mut shown);
    shown.bar.iter().for_each(ProgressBar::finish_and_clear);
    shown.watch.iter().for_each(Watch::finish);
    ran?;
    match shown.failure {
        Some(failure) => Err(failure),
        None if args.json => Ok(()),
        None => {
            let merged = recipe.lora.is_some().then(|| recipe.output.join(train::run::MERGED));
            print(&format!("{}\n", merged.unwrap_or_else(|| recipe.output.clone()).display()))
        }
    }
}

/// The weights that training starts from are decoded before anything else is known: they at least must fit.
fn fits(recipe: &Recipe) -> Result<(), Failure> {
    let ModelStart::From(model) = &recipe.model else { return Ok(()) };
    let source = Source::open(&model.display().to_string())?;
    let n_weights = plan(&source.config).iter().fold(0u64, |n, planned| n.saturating_add(planned.numel()));
    let (needed, available) = (n_weights.saturating_mul(4), memory().available);
    if needed <= available {
        return Ok(());
    }
    let (model, needed, available) = (model.display(), bytes(needed), bytes(available));
    Err(Failure::input(format!("{model}: takes {needed} decoded to f32, {available} are free; take a smaller model")))
}

/// What is seen of a run.
struct Shown {
    bar: Option<ProgressBar>,
    /// In its place, where it is asked for.
    watch: Option<Watch>,
    n_steps: u64,
    as_json: bool,
    failure: Option<Failure>,
}

impl Observer for Shown {
    fn step(&mut self, _: &Recipe, record: &StepRecord) {
        if let Some(watch) = &mut self.watch {
            watch.step(record);
        }
        if let Some(bar) = &self.bar {
            bar.set_position(record.step);
            let message = format!(
                "loss {:.4}  lr {:.2e}  |g| {:.2}  {:.0} tokens/s",
                record.loss, record.lr, record.grad_norm, record.tokens_per_s
            );
            bar.set_message(message);
            if let Some(held_out) = record.held_out.as_ref().filter(|held_out| !held_out.is_empty()) {
                let line = format!("step {} of {}: held out: {}", record.step, self.n_steps, by_source(held_out));
                // A bar that nobody sees prints nothing; a log of the command's output wants these lines all the same.
                if bar.is_hidden() { remark(&format!("{line}\n")) } else { bar.println(line) }
            }
        }
        if self.as_json && self.failure.is_none() {
            let line = serde_json::to_string(record).unwrap_or_default();
            self.failure = print(&format!("{line}\n")).err();
        }
    }

    fn traces(&mut self, name: &str, [n_done, n, n_kept]: [u64; 3]) {
        let bar = self.bar.get_or_insert_with(|| crate::progress::step_bar(n));
        bar.set_length(n);
        bar.set_position(n_done);
        bar.set_message(format!("questions of {name} answered by the teacher, {n_kept} examples"));
    }

    fn warn(&mut self, message: &str) {
        let line = format!("minke: {message}");
        match (&self.watch, &self.bar) {
            (Some(watch), _) => watch.say(&line),
            (None, Some(bar)) if !bar.is_hidden() => bar.println(line),
            _ => remark(&format!("{line}\n")),
        }
    }
}

/// What is held out, source by source.
fn by_source(held_out: &serde_json::Map<String, serde_json::Value>) -> String {
    let one =
        |(name, value): (&String, &serde_json::Value)| format!("{name} {:.4}", value.as_f64().unwrap_or(f64::NAN));
    held_out.iter().map(one).collect::<Vec<_>>().join(", ")
}

fn plan_json(plan: &Plan) -> serde_json::Value {
    json!({
        "parameters": plan.n_params,
        "active_parameters": plan.n_active,
        "trained_parameters": plan.n_trained,
        "memory_bytes": plan.bytes,
        "tokens": plan.n_tokens,
        "flops": plan.flops,
    })
}

fn plan_text(plan: &Plan) -> String {
    let trained = match plan.n_trained < plan.n_params {
        true => {
            format!("trained     {} in adapters; all others are decoded to f32 and frozen\n", grouped(plan.n_trained))
        }
        false => String::new(),
    };
    format!(
        "parameters  {}, {} active\n{trained}tokens      {}\nmemory      {}\narithmetic  {:.2e} operations\n",
        grouped(plan.n_params),
        grouped(plan.n_active),
        grouped(plan.n_tokens),
        bytes(plan.bytes),
        plan.flops,
    )
}

/// The device's products, for the optimiser: Muon's iteration was made for bfloat16, and more than "high" is lost on it.
struct DeviceGemm<'a, D>(&'a D);

impl<D: TrainDevice> optim::Gemm for DeviceGemm<'_, D> {
    fn nt(&mut self, sizes: [usize; 3], a: &[f32], b: &[f32], c: &mut [f32]) {
        self.0.gemm(&Gemm { precision: Precision::High, ..Gemm::new(GemmLayout::Nt, sizes) }, a, b, c);
    }

    fn nn(&mut self, sizes: [usize; 3], a: &[f32], b: &[f32], c: &mut [f32]) {
        self.0.gemm(&Gemm::new(GemmLayout::Nn, sizes), a, b, c);
    }

    fn tn(&mut self, sizes: [usize; 3], a: &[f32], b: &[f32], c: &mut [f32]) {
        self.0.gemm(&Gemm::new(GemmLayout::Tn, sizes), a, b, c);
    }
}
