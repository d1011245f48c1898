//! `minke eval`: how many questions a model answers right, as its users would ask them.
//!
//! Owns the command's flags, the asking through the chat template and the engine, and what is printed. Must not make
//! questions or judge answers (`eval/asked.rs`, and `train`'s tasks and verifiers behind it).

mod asked;
mod score;

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use cpu::Cpu;
use engine::{Engine, Event, FinishReason, Limits, ModelRunner, Reply, Request, Sampling, Sink};
use serde_json::json;
use text::{Delta, Message, OutputStream, StopStrings};

use self::asked::{Asked, Judging, Set};
use self::score::Score;
use super::logits::CacheArg;
use crate::device::cpu;
use crate::engine_of::EngineOf;
use crate::failure::{Failure, print, remark};
use crate::memory::{bytes, memory};
use crate::progress::progress_bar;
use crate::source::{Source, Text};

/// Where nothing is said about it, samples of which any may be right are drawn at this temperature.
const TEMPERATURE_OF_SAMPLES: f32 = 0.6;

/// Measure how often a model is right, on questions that a program judges.
///
/// Questions are asked through the model's chat template, one conversation each, and answers are judged without their
/// reasoning. Those of the built-in tasks belong to the share that `minke train` never trains on (1 % by default, as in a
/// recipe that says nothing).
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    minke eval -m MODEL\n  \
    minke eval -m MODEL --task countdown --parameters 'numbers = [3, 3]' --count 500 --samples 4\n  \
    minke eval -m MODEL --questions exam.jsonl\n  \
    minke eval -m MODEL --questions exam.jsonl --verifier 'python3 judge.py'\n\n\
    A line of --questions: {\"messages\": [{\"role\": \"user\", \"content\": \"2 + 2?\"}], \"data\": {\"answer\": \"4\"}}.\n\
    Without --verifier, data.answer is the right answer. With it, the command reads a line {\"prompt\", \"completion\",\n\
    \"answer\", \"data\"} for each sample and answers with {\"reward\": 0 to 1}; one half or more is right.")]
pub(crate) struct Args {
    /// Model folder or .gguf file; `tiny` is the model inside this program.
    #[arg(short, long, default_value = "tiny")]
    model: String,
    /// A built-in task; may be repeated [default: all of them].
    #[arg(long, value_name = "NAME")]
    task: Vec<String>,
    /// Parameters of the task, as in a recipe.
    #[arg(long, value_name = "TOML", default_value = "")]
    parameters: String,
    /// The share of a task's questions that is held out of training.
    #[arg(long, value_name = "SHARE", default_value_t = 0.01)]
    held_out: f64,
    /// Questions of one's own, as JSON lines.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["task", "parameters"])]
    questions: Option<PathBuf>,
    /// A command that judges their answers.
    #[arg(long, value_name = "COMMAND", requires = "questions")]
    verifier: Option<String>,
    /// Questions of each task, or of the file at most.
    #[arg(long, default_value_t = 100, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    count: u32,
    /// Answers to each question. The share of questions of which any is right is pass@N.
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    samples: u16,
    /// 0 always takes the most probable token [default: 0; with --samples 0.6].
    #[arg(long, value_name = "T")]
    temperature: Option<f32>,
    /// Most tokens of an answer, reasoning included.
    #[arg(long, default_value_t = 2048, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    max_tokens: u32,
    /// Seed of the questions and of the draws.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Answers that are computed at once.
    #[arg(long, default_value_t = 16, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    batch: u16,
    /// How cache rows are stored.
    #[arg(long, value_enum, default_value = "bf16")]
    cache: CacheArg,
    /// Write every question with its answers and verdicts to this file, as JSON lines.
    #[arg(long, value_name = "FILE")]
    transcripts: Option<PathBuf>,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    let mut sets = asked::sets(args)?;
    let source = Source::open(&args.model)?;
    let text = source.text()?;
    let prompts = prompts(&text, &source, &sets)?;
    let limits = limits(args, &source, prompts.iter().flatten().map(|p| p.ids.len()).max().unwrap_or(0))?;
    let cpu = Arc::new(cpu(None)?);
    let weights = source.weights()?;
    let model = Arc::new(model::load(&*cpu, source.config.clone(), weights)?);
    let identity = model::identity(&source.config, weights);
    let mut engine = EngineOf { cpu: &cpu, model: &model, identity: &identity }.start(limits, false)?;
    let mut transcripts = asked::Transcripts::open(args.transcripts.as_deref())?;
    let end_tokens: Arc<[u32]> = text.end_tokens(&source.config).into();
    let asking = Asking { args, text: &text, end_tokens };
    let mut scores = Vec::new();
    for (set, prompts) in sets.iter_mut().zip(&prompts) {
        let score = asking.ask(&mut engine, set, prompts, &mut transcripts)?;
        if !args.json {
            if scores.is_empty() {
                print(&Score::heading(args.samples))?;
            }
            print(&score.row(args.samples))?;
        }
        scores.push(score);
    }
    if args.json {
        let temperature = asking.sampling().temperature;
        let scores: Vec<_> = scores.iter().map(Score::to_json).collect();
        let report = json!({ "model": args.model, "seed": args.seed, "samples": args.samples,
                             "temperature": temperature, "max_tokens": args.max_tokens, "tasks": scores });
        print(&format!("{report:#}\n"))?;
    }
    Ok(())
}

/// A question's tokens, and whether the answer begins inside the reasoning.
struct Prompt {
    ids: Vec<u32>,
    in_reasoning: bool,
}

fn prompts(text: &Text, source: &Source, sets: &[Set]) -> Result<Vec<Vec<Prompt>>, Failure> {
    let encode = |asked: &Asked| {
        let (ids, in_reasoning) = match text.encode_chat(&asked.messages, serde_json::Map::new())? {
            Some(encoded) => encoded,
            None => {
                let all: Vec<&str> = asked.messages.iter().filter_map(|m: &Message| m.content.as_deref()).collect();
                (text.encode_raw(&all.join("\n"), &source.config)?, false)
            }
        };
        Ok(Prompt { ids, in_reasoning })
    };
    sets.iter().map(|set| set.asked.iter().map(encode).collect()).collect()
}

/// An engine of as many answers at once as fit into half of the free memory.
fn limits(args: &Args, source: &Source, n_prompt: usize) -> Result<Limits, Failure> {
    let most = source.config.max_position_embeddings;
    let n_context = (n_prompt + args.max_tokens as usize).min(most);
    if n_prompt >= n_context {
        let message = format!("questions: expected fewer than {most} tokens, this model's context, found {n_prompt}");
        return Err(Failure::input(message));
    }
    let free = memory().available;
    let mut n_running = usize::from(args.batch);
    loop {
        let mut limits = Limits::new(n_context, n_running, n_context * n_running, args.cache.row_format());
        limits.n_queued = usize::from(args.samples).max(n_running);
        let needed = limits.memory(&source.config).total();
        if needed <= free / 2 {
            return Ok(limits);
        }
        if n_running == 1 {
            let (needed, free) = (bytes(needed), bytes(free));
            let message =
                format!("a context of {n_context} tokens takes {needed}, {free} are free; lower --max-tokens");
            return Err(Failure::input(message));
        }
        n_running /= 2;
    }
}

/// An answer on its way.
struct Answer {
    stream: OutputStream,
    reasoning: String,
    content: String,
    n_tokens: usize,
    reason: Option<FinishReason>,
}

impl Answer {
    fn take(&mut self, deltas: impl IntoIterator<Item = Delta>) {
        for delta in deltas {
            match delta {
                Delta::Reasoning(text) => self.reasoning.push_str(&text),
                Delta::Content(text) => self.content.push_str(&text),
                // No tools are offered, so none is called.
                _ => {}
            }
        }
    }
}

type Answers = Arc<Mutex<Vec<Answer>>>;

/// What all questions are asked with.
struct Asking<'a> {
    args: &'a Args,
    text: &'a Text,
    end_tokens: Arc<[u32]>,
}

impl Asking<'_> {
    fn sampling(&self) -> Sampling {
        let default = if self.args.samples > 1 { TEMPERATURE_OF_SAMPLES } else { 0.0 };
        let temperature = self.args.temperature.unwrap_or(default);
        Sampling { temperature, seed: self.args.seed, ..Sampling::GREEDY }
    }

    /// Asks and judges all questions of a set.
    fn ask(
        &self,
        engine: &mut Engine<ModelRunner<Cpu, Arc<Cpu>>>,
        set: &mut Set,
        prompts: &[Prompt],
        transcripts: &mut asked::Transcripts,
    ) -> Result<Score, Failure> {
        let start = Instant::now();
        let mut score = Score::new(&set.name);
        let bar = progress_bar(prompts.len() as u64);
        bar.set_message(set.name.clone());
        let mut waiting: Vec<(usize, Answers)> = Vec::new();
        let mut next = 0;
        while next < prompts.len() || !waiting.is_empty() {
            while next < prompts.len() && waiting.len() < usize::from(self.args.batch) {
                waiting.push((next, self.submit(engine, &prompts[next], next)?));
                next += 1;
            }
            engine.step()?;
            while let Some(at) = waiting.iter().position(|(_, answers)| is_done(answers)) {
                let (i, answers) = waiting.remove(at);
                let answers = answers.lock().unwrap_or_else(PoisonError::into_inner);
                let verdicts: Vec<bool> = answers.iter().map(|a| judge(&mut set.judging, &set.asked[i], a)).collect();
                score.add(&verdicts, answers.iter().map(|a| (a.n_tokens, a.reason == Some(FinishReason::Length))));
                transcripts.write(
                    &set.name,
                    &set.asked[i],
                    answers
                        .iter()
                        .zip(verdicts)
                        .map(|(a, right)| json!({ "reasoning": a.reasoning, "answer": a.content, "right": right })),
                )?;
                bar.inc(1);
            }
        }
        bar.finish_and_clear();
        score.seconds = start.elapsed().as_secs_f64();
        score.verifier_failures = set.judging.n_broken();
        if let Some(error) = set.judging.last_error() {
            remark(&format!(
                "[the verifier failed on {} answers, which count as wrong: {error}]\n",
                score.verifier_failures
            ));
        }
        Ok(score)
    }

    fn submit(
        &self,
        engine: &mut Engine<ModelRunner<Cpu, Arc<Cpu>>>,
        prompt: &Prompt,
        number: usize,
    ) -> Result<Answers, Failure> {
        let n = usize::from(self.args.samples);
        let mut answers = Vec::new();
        for _ in 0..n {
            let stop = Arc::new(StopStrings::new::<&str>(&[])?);
            let stream = OutputStream::new(self.text.tokenizer.clone(), prompt.in_reasoning, stop);
            answers.push(Answer {
                stream,
                reasoning: String::new(),
                content: String::new(),
                n_tokens: 0,
                reason: None,
            });
        }
        let answers = Arc::new(Mutex::new(answers));
        let (heard, end_tokens) = (answers.clone(), self.end_tokens.clone());
        let sink: Sink = Box::new(move |event| {
            let mut answers = heard.lock().unwrap_or_else(PoisonError::into_inner);
            match event {
                Event::Token { index, token, .. } => {
                    let answer = &mut answers[index];
                    answer.n_tokens += 1;
                    if !end_tokens.contains(&token) {
                        let deltas = answer.stream.push(token);
                        answer.take(deltas);
                    }
                }
                Event::Finished { index, reason, .. } => {
                    let answer = &mut answers[index];
                    let deltas = answer.stream.finish();
                    answer.take(deltas);
                    answer.reason = Some(reason);
                }
                Event::Started(_) | Event::Read { .. } => {}
            }
            Reply::Continue
        });
        let request = Request {
            prompt: prompt.ids.clone(),
            max_tokens: self.args.max_tokens as usize,
            end_tokens: self.end_tokens.clone(),
            sampling: Sampling { seed: self.args.seed ^ (number as u64) << 20, ..self.sampling() },
            n,
            thinking: None,
            mask: None,
            stops_loops: true,
            speculates: true,
            owner: 0,
            sink,
        };
        engine.submit(request).map_err(|e| Failure::input(e.to_string()))?;
        Ok(answers)
    }
}

fn is_done(answers: &Answers) -> bool {
    answers.lock().unwrap_or_else(PoisonError::into_inner).iter().all(|answer| answer.reason.is_some())
}

fn judge(judging: &mut Judging, asked: &Asked, answer: &Answer) -> bool {
    // What was cut off has no answer yet.
    answer.reason != Some(FinishReason::Length) && judging.is_right(asked, &answer.reasoning, answer.content.trim())
}
