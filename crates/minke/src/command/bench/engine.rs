//! `minke bench --engine`: what the engine adds to the kernels, and what streams feel.
//!
//! Owns four measurements and their report: batched decode beside the same steps without an engine; the time between
//! tokens of running streams while a long prompt is read; drafts on against drafts off; a prompt restored from disk. Each
//! is told as soon as it is there, since on a large model the next may take minutes. Answers are checked: with drafts they
//! must be the same. Must not know the other measurements.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use cpu::Cpu;
use engine::prefix::{BlockKey, Fingerprint, Store, StoreOptions};
use engine::{
    BLOCK_LEN, Engine, Event, FinishReason, Lanes, LanesOptions, Limits, ModelRunner, Reply, Request, Runner, Sampling,
    Usage,
};
use model::Model;
use ops::RowFormat;
use serde_json::{Value, json};

use super::Args;
use super::measure::prompt;
use crate::device::cpu;
use crate::failure::{Failure, print};
use crate::memory::{bytes, memory};
use crate::progress::progress_bar;
use crate::source::Source;

/// Tokens of the prompts of the streams.
const N_PROMPT: usize = 64;

/// A text that is said again and again, for drafts: tokens, and how often.
const PHRASE: (usize, usize) = (96, 4);

type Runs = Engine<ModelRunner<Cpu, Arc<Cpu>>>;

/// What a request has heard.
#[derive(Default)]
struct Heard {
    tokens: Vec<u32>,
    /// When each token came.
    times: Vec<Instant>,
    end: Option<(FinishReason, Usage)>,
}

struct Stream(Arc<Mutex<Heard>>);

impl Stream {
    fn n_tokens(&self) -> usize {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).tokens.len()
    }

    /// The last `n` tokens.
    fn tokens(&self, n: usize) -> Vec<u32> {
        let heard = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        heard.tokens[heard.tokens.len().saturating_sub(n)..].to_vec()
    }

    /// Milliseconds between tokens, of those behind the first `n`.
    fn gaps_ms(&self, n: usize) -> Vec<f64> {
        let heard = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let times = heard.times.get(n..).unwrap_or_default();
        times.windows(2).map(|w| (w[1] - w[0]).as_secs_f64() * 1e3).collect()
    }
}

fn submit(engine: &mut Runs, prompt: Vec<u32>, max_tokens: usize, speculates: bool) -> Result<Stream, Failure> {
    let heard = Arc::new(Mutex::new(Heard { tokens: Vec::with_capacity(max_tokens), ..Heard::default() }));
    let sink = {
        let heard = heard.clone();
        move |event: Event<'_>| {
            let mut heard = heard.lock().unwrap_or_else(PoisonError::into_inner);
            match event {
                Event::Token { token, .. } => {
                    heard.tokens.push(token);
                    heard.times.push(Instant::now());
                }
                Event::Finished { reason, usage, .. } => heard.end = Some((reason, usage)),
                _ => {}
            }
            Reply::Continue
        }
    };
    let request = Request {
        prompt,
        max_tokens,
        end_tokens: Arc::new([]),
        sampling: Sampling::GREEDY,
        n: 1,
        thinking: None,
        mask: None,
        stops_loops: false,
        speculates,
        owner: 0,
        sink: Box::new(sink),
    };
    engine.submit(request).map_err(|e| Failure::input(e.to_string()))?;
    Ok(Stream(heard))
}

/// Nothing here outlives the process, so any name will do.
fn root() -> BlockKey {
    BlockKey::root(&Fingerprint::from([0; 32]))
}

/// The value below which `share` of the sorted `values` lie.
pub(super) fn quantile(values: &mut [f64], share: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    let last = values.len().saturating_sub(1);
    values.get((last as f64 * share).round() as usize).copied().unwrap_or(f64::NAN)
}

/// Runs the measurements.
pub(super) fn run(args: &Args) -> Result<(), Failure> {
    let source = Source::open(&args.model)?;
    let cpu = Arc::new(cpu(args.threads.map(|n| n as usize))?);
    let model = Arc::new(model::load(&*cpu, source.config.clone(), source.weights()?)?);
    let n_streams = args.lanes().n_lanes;
    let n_decode = args.decode.max(8) as usize;
    let n_long = args.depth_max();
    let row_format = args.cache.row_format();
    let n_stream = N_PROMPT + (args.repeat as usize + 1) * n_decode + n_long;
    let limit = source.config.max_position_embeddings;
    let n_context = n_stream.max(PHRASE.0 * PHRASE.1 + n_decode * 4).max(n_long + 1).min(limit);
    let n_tokens =
        n_streams * (N_PROMPT + (args.repeat as usize + 6) * n_decode + n_long / 16) + n_long + 2 * n_context;
    let limits = Limits::new(n_context, n_streams + 1, n_tokens, row_format);
    let (needed, available) = (limits.memory(&source.config).total(), memory().available);
    if needed > available {
        return Err(Failure::input(format!(
            "the engine takes {}; expected at most the {} that are free; lower --batch, --depth or --decode",
            bytes(needed),
            bytes(available)
        )));
    }
    let runner = ModelRunner::new(cpu.clone(), model.clone(), &limits)?;
    let engine = Engine::new(runner, limits, root(), None)?;
    let mut bench = Bench { args, cpu, model, engine, n_streams, n_decode };
    let mut report = json!({
        "model": args.model, "threads": bench.cpu.n_threads(), "level": bench.cpu.level().name(),
        "cache": row_format.name(), "streams": n_streams, "decode": n_decode,
    });
    let tell = |text: String| if args.json { Ok(()) } else { print(&text) };
    tell(format!("machine     {} threads, {}\n", bench.cpu.n_threads(), bench.cpu.level().name()))?;
    let streams = bench.streams(n_long)?;
    report["batch"] = bench.batch(&streams)?;
    tell(batch_text(n_streams, &report["batch"]))?;
    if n_long > 0 {
        report["while_reading"] = bench.while_reading(&streams, n_long)?;
        tell(reading_text(&report["while_reading"]))?;
    }
    bench.engine.abort_all();
    for (key, name, repeats) in [("repetition", "repetition", true), ("no_repetition", "none", false)] {
        report["drafts"][key] = bench.drafts(repeats)?;
        tell(drafts_text(name, &report["drafts"][key]))?;
    }
    let Bench { cpu, model, .. } = bench;
    let n_long = n_long.min(n_context - 1);
    if n_long >= BLOCK_LEN {
        report["restore"] = restore(&cpu, &model, n_long, row_format)?;
        tell(restore_text(&report["restore"]))?;
    }
    match args.json {
        true => print(&format!("{report:#}\n")),
        false => Ok(()),
    }
}

/// The time to the next token behind a prompt, computed and then, by another engine, restored from disk.
fn restore(cpu: &Arc<Cpu>, model: &Arc<Model<Cpu>>, n: usize, row_format: RowFormat) -> Result<Value, Failure> {
    let folder = std::env::temp_dir().join(format!("minke-bench-{}", std::process::id()));
    let measured = restore_in(&folder, cpu, model, n, row_format);
    // It may never have been made.
    let _ = std::fs::remove_dir_all(&folder);
    measured
}

fn restore_in(
    folder: &Path,
    cpu: &Arc<Cpu>,
    model: &Arc<Model<Cpu>>,
    n: usize,
    row_format: RowFormat,
) -> Result<Value, Failure> {
    let limits = Limits { n_drafts: 0, ..Limits::new(n + 2, 1, n + 2, row_format) };
    let text = prompt(n + 1, model.config.vocab_size);
    let mut seconds = Vec::new();
    for _ in 0..2 {
        let runner = ModelRunner::new(cpu.clone(), model.clone(), &limits)?;
        let payload_bytes = runner.block_bytes();
        let options = StoreOptions {
            fingerprint: Fingerprint::from([0; 32]),
            block_len: BLOCK_LEN,
            payload_bytes,
            budget_bytes: 64 << 30,
            queue_bytes: 512 << 20,
        };
        let store = Store::open(folder, options).map_err(|e| Failure::Failed(e.into()))?;
        let mut engine = Engine::new(runner, limits, root(), Some(store))?;
        let start = Instant::now();
        let bar = progress_bar(text.len() as u64);
        let stream = submit(&mut engine, text.clone(), 1, false)?;
        while stream.n_tokens() == 0 {
            engine.step()?;
            bar.set_position(engine.stats().n_read + engine.stats().n_reused);
        }
        bar.finish_and_clear();
        seconds.push(start.elapsed().as_secs_f64());
        if let Some(store) = engine.store() {
            store.flush();
        }
        check_restored(&engine, seconds.len(), n)?;
    }
    Ok(json!({
        "prompt_tokens": n + 1,
        "computed_s": seconds[0],
        "restored_s": seconds[1],
        "ratio": seconds[1] / seconds[0],
    }))
}

/// The second engine must have found on disk all full blocks before the last token.
fn check_restored(engine: &Runs, round: usize, n: usize) -> Result<(), Failure> {
    let restored = engine.stats().n_restored as usize;
    let expected = if round == 1 { 0 } else { n / BLOCK_LEN * BLOCK_LEN };
    match restored == expected {
        true => Ok(()),
        false => Err(Failure::Failed(anyhow::anyhow!("{restored} tokens were restored, expected {expected}"))),
    }
}

struct Bench<'a> {
    args: &'a Args,
    cpu: Arc<Cpu>,
    model: Arc<Model<Cpu>>,
    engine: Runs,
    n_streams: usize,
    n_decode: usize,
}

impl Bench<'_> {
    fn vocab(&self) -> usize {
        self.model.config.vocab_size
    }

    /// As many streams as are asked for, all of them past their prompts, with tokens left for everything that follows.
    fn streams(&mut self, n_long: usize) -> Result<Vec<Stream>, Failure> {
        let max_tokens = (self.args.repeat as usize + 4) * self.n_decode + n_long / 16;
        let text = prompt(self.n_streams * N_PROMPT, self.vocab());
        let streams = text.chunks(N_PROMPT).map(|prompt| submit(&mut self.engine, prompt.to_vec(), max_tokens, false));
        let streams = streams.collect::<Result<Vec<_>, _>>()?;
        while streams.iter().any(|stream| stream.n_tokens() < 3) {
            self.engine.step()?;
        }
        Ok(streams)
    }

    /// Streams beside the same number of lanes, round by round.
    fn batch(&mut self, streams: &[Stream]) -> Result<Value, Failure> {
        let options = LanesOptions {
            n_lanes: self.n_streams,
            depth_max: N_PROMPT,
            prefill_max: 1,
            decode_max: self.n_decode,
            chunk: N_PROMPT,
            row_format: self.args.cache.row_format(),
        };
        let (cpu, model) = (self.cpu.clone(), self.model.clone());
        let mut lanes = Lanes::new(&*cpu, &model, options)?;
        lanes.fill_contexts(&prompt(self.n_streams * N_PROMPT, self.vocab()))?;
        lanes.set_depth(N_PROMPT);
        let n = self.n_streams * self.n_decode;
        let bar = progress_bar(2 * self.args.repeat * n as u64);
        let (mut ours, mut bare) = (Vec::new(), Vec::new());
        for _ in 0..self.args.repeat {
            let start = Instant::now();
            for _ in 0..self.n_decode {
                self.engine.step()?;
            }
            ours.push(n as f64 / start.elapsed().as_secs_f64());
            bar.inc(n as u64);
            // The same tokens, so that about as many experts are read.
            let read: Vec<Vec<u32>> = streams.iter().map(|stream| stream.tokens(self.n_decode + 1)).collect();
            let start = Instant::now();
            lanes.decode(0..self.n_streams, self.n_decode, |lane, written| read[lane][written.len()], |_| Ok(()))?;
            bare.push(n as f64 / start.elapsed().as_secs_f64());
            bar.inc(n as u64);
        }
        bar.finish_and_clear();
        let mut ratios: Vec<f64> = ours.iter().zip(&bare).map(|(ours, bare)| ours / bare).collect();
        Ok(json!({
            "engine_tokens_per_s": quantile(&mut ours, 0.5),
            "bare_tokens_per_s": quantile(&mut bare, 0.5),
            "ratio": quantile(&mut ratios, 0.5),
            "ratios": ratios,
        }))
    }

    /// Time between tokens of running streams, before and while a prompt of `n_long` tokens is read.
    fn while_reading(&mut self, streams: &[Stream], n_long: usize) -> Result<Value, Failure> {
        let n_before: Vec<usize> = streams.iter().map(Stream::n_tokens).collect();
        for _ in 0..self.n_decode {
            self.engine.step()?;
        }
        let gaps = |from: &[usize]| streams.iter().zip(from).flat_map(|(s, n)| s.gaps_ms(*n)).collect::<Vec<_>>();
        let mut undisturbed = gaps(&n_before);
        let n_before: Vec<usize> = streams.iter().map(|stream| stream.n_tokens() - 1).collect();
        let start = Instant::now();
        let text = prompt(n_long + 7, self.vocab()).split_off(7);
        let bar = progress_bar(n_long as u64);
        let n_read = self.engine.stats().n_read;
        let long = submit(&mut self.engine, text, 1, false)?;
        while long.n_tokens() == 0 {
            self.engine.step()?;
            bar.set_position(self.engine.stats().n_read - n_read);
        }
        bar.finish_and_clear();
        let read_s = start.elapsed().as_secs_f64();
        let mut disturbed = gaps(&n_before);
        let median = quantile(&mut undisturbed, 0.5);
        Ok(json!({
            "prompt_tokens": n_long,
            "read_s": read_s,
            "read_tokens_per_s": n_long as f64 / read_s,
            "undisturbed_ms": { "median": median, "p99": quantile(&mut undisturbed, 0.99) },
            "disturbed_ms": {
                "median": quantile(&mut disturbed, 0.5),
                "p99": quantile(&mut disturbed, 0.99),
                "max": quantile(&mut disturbed, 1.0),
                "gaps": disturbed.len(),
            },
            "p99_over_undisturbed_median": quantile(&mut disturbed, 0.99) / median,
        }))
    }

    /// One stream with drafts against one without, in turns, behind a text that repeats itself or one that does not.
    fn drafts(&mut self, repeats: bool) -> Result<Value, Failure> {
        let (n_phrase, n_times) = PHRASE;
        let text = match repeats {
            true => prompt(n_phrase, self.vocab()).repeat(n_times),
            false => prompt(n_phrase * n_times + 1, self.vocab()).split_off(1),
        };
        let (mut on, mut off) = (Vec::new(), Vec::new());
        let (mut n_drafted, mut n_accepted, mut answer) = (0, 0, None);
        let bar = progress_bar(2 * (self.args.repeat + 1) * (self.n_decode * 4) as u64);
        for i in 0..2 * (self.args.repeat as usize + 1) {
            // In turns, the order changing, so that what drifts in the machine meets both alike.
            let speculates = i % 4 == 1 || i % 4 == 2;
            // A found prefix would be computed in other pieces, and the answers could differ by rounding.
            self.engine.clear_prefixes(root());
            let stream = submit(&mut self.engine, text.clone(), self.n_decode * 4, speculates)?;
            while self.engine.has_work() {
                self.engine.step()?;
            }
            bar.inc((self.n_decode * 4) as u64);
            let heard = stream.0.lock().unwrap_or_else(PoisonError::into_inner);
            let secs = (heard.times[heard.times.len() - 1] - heard.times[0]).as_secs_f64();
            if i >= 2 {
                let rates = if speculates { &mut on } else { &mut off };
                rates.push((heard.tokens.len() - 1) as f64 / secs);
            }
            if let Some((_, usage)) = heard.end {
                n_drafted += usage.n_drafted;
                n_accepted += usage.n_accepted;
            }
            if *answer.get_or_insert_with(|| heard.tokens.clone()) != heard.tokens {
                return Err(Failure::Failed(anyhow::anyhow!("an answer with drafts is not the one without")));
            }
        }
        bar.finish_and_clear();
        let mut ratios: Vec<f64> = on.iter().zip(&off).map(|(on, off)| on / off).collect();
        Ok(json!({
            "on_tokens_per_s": quantile(&mut on, 0.5),
            "off_tokens_per_s": quantile(&mut off, 0.5),
            "ratio": quantile(&mut ratios, 0.5),
            "ratios": ratios,
            "drafted": n_drafted,
            "accepted": n_accepted,
        }))
    }
}

/// A number of a report, which has it.
fn n(value: &Value) -> f64 {
    value.as_f64().unwrap_or(f64::NAN)
}

fn batch_text(n_streams: usize, batch: &Value) -> String {
    format!(
        "{n_streams} streams   {:.1} tokens/s, {:.1} without the engine: {:.1} %\n",
        n(&batch["engine_tokens_per_s"]),
        n(&batch["bare_tokens_per_s"]),
        100.0 * n(&batch["ratio"]),
    )
}

fn reading_text(reading: &Value) -> String {
    format!(
        "            between tokens: {:.0} ms; while {} tokens are read ({:.1} tokens/s): median {:.0}, p99 {:.0} ms \
         ({:.2} times)\n",
        n(&reading["undisturbed_ms"]["median"]),
        reading["prompt_tokens"],
        n(&reading["read_tokens_per_s"]),
        n(&reading["disturbed_ms"]["median"]),
        n(&reading["disturbed_ms"]["p99"]),
        n(&reading["p99_over_undisturbed_median"]),
    )
}

fn drafts_text(repetition: &str, drafts: &Value) -> String {
    format!(
        "drafts      {repetition:<10}  {:.1} tokens/s with, {:.1} without: {:.3} times; {} of {} right\n",
        n(&drafts["on_tokens_per_s"]),
        n(&drafts["off_tokens_per_s"]),
        n(&drafts["ratio"]),
        drafts["accepted"],
        drafts["drafted"],
    )
}

fn restore_text(restore: &Value) -> String {
    format!(
        "restart     the token behind {} others: {:.2} s computed, {:.2} s restored from disk: {:.2} %\n",
        restore["prompt_tokens"],
        n(&restore["computed_s"]),
        n(&restore["restored_s"]),
        100.0 * n(&restore["ratio"]),
    )
}
