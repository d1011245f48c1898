//! `minke bench`: how fast a model runs here, and how far that is from what the machine can do.
//!
//! Owns the command's flags, their checks, and the order of its parts. Must not format results (`bench/report.rs`) or
//! measure (`bench/measure.rs`).

mod clock;
mod engine;
mod http;
mod limits;
mod measure;
mod profile;
mod report;
mod rival;

use std::time::Instant;

use ::engine::{Lanes, LanesOptions};
use model::traffic::WeightBytes;

use self::clock::{Spent, anonymous_bytes};
use self::measure::{Bench, Cell, Kind, Series, prompt};
use self::report::Report;
use super::logits::CacheArg;
use crate::device::cpu;
use crate::failure::{Failure, print};
use crate::memory::{bytes, memory};
use crate::progress::progress_bar;
use crate::source::Source;

/// The largest numbers that flags take: beyond any machine, and far from overflow.
const COUNT_MAX: u64 = 1 << 20;

/// Measure a model on this machine: prefill and decode at context depths, beside the machine's limits.
///
/// Contexts are not computed but copied from a short real one, so that depth costs memory and no time. A line gives the
/// median of the rounds, with wall time, processor time, bytes moved per token (weights that are really read, with the
/// experts really chosen, and the cache) and the shares of two limits, which are measured first: linear reads from main
/// memory by all threads, and multiply-adds of operands in registers or the first-level cache: of 8-bit integers where
/// most weights are multiplied in those, otherwise of f32.
///
/// Answers are checked: all numbers finite, every round the same tokens, and sequences of a batch the same as alone. If
/// one fails, so does the command (exit code 1).
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  \
    minke bench -m model.gguf --prefill 512,2048 --decode 64 --depth 0,4096,16384 --batch 1,4,8,16")]
pub(crate) struct Args {
    /// Model folder or .gguf file; `tiny` is the model inside this program.
    #[arg(short, long, default_value = "tiny")]
    model: String,
    /// Prompt sizes to read at each depth, in tokens; 0 for none.
    #[arg(long, value_delimiter = ',', default_value = "512", value_name = "N,…", value_parser = count(0))]
    prefill: Vec<u64>,
    /// Tokens to write per sequence at each depth; 0 for none.
    #[arg(long, default_value = "64", value_name = "N", value_parser = count(0))]
    decode: u64,
    /// Context depths, in tokens.
    #[arg(long, value_delimiter = ',', default_value = "0", value_name = "N,…", value_parser = count(0))]
    depth: Vec<u64>,
    /// Numbers of sequences that are decoded in parallel.
    #[arg(long, value_delimiter = ',', default_value = "1", value_name = "N,…", value_parser = count(1))]
    batch: Vec<u64>,
    /// How cache rows are stored.
    #[arg(long, value_enum, default_value = "bf16")]
    cache: CacheArg,
    /// Threads that compute [default: all].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=4096))]
    threads: Option<u64>,
    /// Tokens per forward pass of prefill.
    #[arg(long, default_value = "512", value_name = "N", value_parser = count(1))]
    chunk: u64,
    /// Timed rounds, after one that warms up.
    #[arg(long, default_value = "3", value_name = "R", value_parser = clap::value_parser!(u64).range(1..=10_000))]
    repeat: u64,
    /// A shell command to run after each of our rounds, once unmeasured before. Both times and their ratio are reported:
    /// the command's whole run, with its start and loading, against all timed parts of our round. Its output goes to stderr.
    #[arg(long, value_name = "COMMAND")]
    vs: Option<String>,
    /// Measure the engine instead: as many streams as the largest --batch beside the same steps without it, the time between
    /// their tokens while a prompt of the largest --depth is read, drafts on against off, and that prompt restored from disk.
    #[arg(long, conflicts_with_all = ["vs", "profile", "prefill", "chunk"])]
    engine: bool,
    /// Measure the server instead: as many streams as the largest --batch through HTTP, beside the same streams handed to
    /// the engine itself, in turns.
    #[arg(long, conflicts_with_all = ["engine", "vs", "profile", "prefill", "chunk", "depth"])]
    http: bool,
    /// Also time every operation of the forward pass, in a run of its own.
    #[arg(long)]
    profile: bool,
    /// Report as JSON.
    #[arg(long)]
    json: bool,
}

fn count(min: u64) -> clap::builder::RangedU64ValueParser<u64> {
    clap::value_parser!(u64).range(min..=COUNT_MAX)
}

impl Args {
    fn prefill_max(&self) -> usize {
        self.prefill.iter().copied().max().unwrap_or(0) as usize
    }

    fn depth_max(&self) -> usize {
        self.depth.iter().copied().max().unwrap_or(0) as usize
    }

    /// Tokens of the prompt that the time to the first token is taken with: the smallest of --prefill.
    fn first_prompt(&self) -> usize {
        self.prefill.iter().copied().filter(|n| *n > 0).min().unwrap_or(1) as usize
    }

    fn lanes(&self) -> LanesOptions {
        let batch_max = self.batch.iter().copied().max().unwrap_or(1) as usize;
        LanesOptions {
            n_lanes: if self.decode == 0 { 1 } else { batch_max },
            depth_max: self.depth_max(),
            prefill_max: self.prefill_max().max(1),
            decode_max: self.decode as usize,
            chunk: self.chunk as usize,
            row_format: self.cache.row_format(),
        }
    }

    /// The lines of the table.
    fn cells(&self) -> Vec<Cell> {
        let at_depth = |depth: &u64| {
            let depth = *depth as usize;
            let prefill = self.prefill.iter().filter(|n| **n > 0);
            let prefill = prefill.map(move |n| Cell { kind: Kind::Prefill, depth, batch: 1, n_tokens: *n as usize });
            let n_tokens = self.decode as usize;
            let decode = self.batch.iter().filter(move |_| n_tokens > 0);
            let decode = decode.map(move |b| Cell { kind: Kind::Decode, depth, batch: *b as usize, n_tokens });
            prefill.chain(decode)
        };
        self.depth.iter().flat_map(at_depth).collect()
    }

    /// Holds what is asked for against the model and the machine.
    fn check(&self, source: &Source) -> Result<(), Failure> {
        if self.cells().is_empty() {
            return Err(Failure::input("--prefill and --decode: expected at least one above 0, found nothing to do"));
        }
        let longest = self.prefill_max().max(self.decode as usize);
        let (total, limit) = (self.depth_max() + longest, source.config.max_position_embeddings);
        if total > limit {
            return Err(Failure::input(format!(
                "--depth {} and {longest} tokens behind it: expected at most {limit}, this model's context, found {total}",
                self.depth_max()
            )));
        }
        let (lanes, config, available) = (self.lanes(), &source.config, memory().available);
        let (cache, workspace) = (lanes.cache_bytes(config), lanes.workspace_bytes(config));
        if cache.saturating_add(workspace) > available {
            return Err(Failure::input(format!(
                "the cache of {} sequences with contexts of {} tokens takes {}, activations {}; expected at most the {} \
                 that are free; lower --batch, --depth or --chunk",
                lanes.n_lanes,
                lanes.depth_max,
                bytes(cache),
                bytes(workspace),
                bytes(available)
            )));
        }
        Ok(())
    }
}

/// Times of the way to the first token, from opening the files.
#[derive(Clone, Copy, Debug)]
struct Start {
    /// Ready to compute: weights checked, cache and activations allocated.
    load_s: f64,
    /// A token behind a prompt of so many others.
    first_token_s: f64,
    n_prompt: usize,
}

/// A round of ours and the other command's run after it.
#[derive(Clone, Copy, Debug)]
struct Pair {
    ours: Spent,
    theirs: Spent,
}

/// Runs the command.
pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    if args.engine {
        return self::engine::run(args);
    }
    if args.http {
        return self::http::run(args);
    }
    let opened = Instant::now();
    let source = Source::open(&args.model)?;
    let file = source.weights()?;
    args.check(&source)?;
    let open_s = opened.elapsed().as_secs_f64();
    let cpu = cpu(args.threads.map(|n| n as usize))?;
    let limits = limits::limits(&cpu, source.main_format())?;

    let loaded = Instant::now();
    let model = model::load(&cpu, source.config.clone(), file)?;
    let mut lanes = Lanes::new(&cpu, &model, args.lanes())?;
    let load_s = open_s + loaded.elapsed().as_secs_f64();
    let prompt = prompt(args.prefill_max().max(512), model.config.vocab_size);
    let n_prompt = args.first_prompt();
    lanes.prefill(&prompt[..n_prompt], |_| Ok(()))?;
    let start = Start { load_s, first_token_s: open_s + loaded.elapsed().as_secs_f64(), n_prompt };
    lanes.fill_contexts(&prompt)?;

    let weights = WeightBytes::new(&model.config, file);
    let mut bench = Bench::new(&model.config, weights, args.lanes(), lanes, prompt);
    let (series, pairs) = measure(args, &mut bench)?;
    let profiles = if args.profile { profile::profiles(args, &cpu, &source)? } else { Vec::new() };
    let report = Report {
        profiles: &profiles,
        source: &source,
        options: args.lanes(),
        cpu: &cpu,
        limits,
        start,
        weights: &bench.weights,
        anonymous_bytes: anonymous_bytes(),
        series: &series,
        vs: args.vs.as_deref(),
        pairs: &pairs,
    };
    match args.json {
        true => print(&format!("{:#}\n", report.to_json()))?,
        false => print(&report.to_text())?,
    }
    match series.iter().filter(|s| !s.check.passed()).count() {
        0 => Ok(()),
        n => Err(Failure::Failed(anyhow::anyhow!("{n} of {} measurements failed their check", series.len()))),
    }
}

/// Surveys every cell, then times them in turn, round by round, so that what drifts in the machine meets all alike.
fn measure(args: &Args, bench: &mut Bench<'_>) -> Result<(Vec<Series>, Vec<Pair>), Failure> {
    let cells = args.cells();
    let n_round: usize = cells.iter().map(Cell::n_total).sum();
    let bar = progress_bar(n_round as u64 * (args.repeat + 1));
    let survey = |cell: Cell| {
        let series = bench.survey(cell);
        bar.inc(cell.n_total() as u64);
        series
    };
    let mut series = cells.into_iter().map(survey).collect::<Result<Vec<_>, _>>()?;
    if let Some(command) = &args.vs {
        bar.suspend(|| rival::run(command))?;
    }
    let mut pairs = Vec::new();
    for _ in 0..args.repeat {
        let mut ours = Spent { wall_s: 0.0, cpu_s: Some(0.0) };
        for series in &mut series {
            let spent = bench.round(series)?;
            ours.wall_s += spent.wall_s;
            ours.cpu_s = ours.cpu_s.zip(spent.cpu_s).map(|(sum, cpu_s)| sum + cpu_s);
            bar.inc(series.cell.n_total() as u64);
        }
        if let Some(command) = &args.vs {
            pairs.push(Pair { ours, theirs: bar.suspend(|| rival::run(command))? });
        }
    }
    bar.finish_and_clear();
    Ok((series, pairs))
}
