//! Examples that a teacher writes: a model that is there answers questions, and its answers are kept as conversations.
//!
//! Owns the asking, which answers are kept (all that came to an end, or only right ones: rejection sampling), and the
//! file of them. Must not know the student: text passes between the two, so any tokenizer will do.
//!
//! The file lies in the cache, named by all that it depends on. While it grows, `….partial` has a line for each question
//! that was asked; a run that is interrupted goes on behind the last whole one. An answer depends on the seed and the
//! question's number alone, so the file is the same however often that happens.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use checkpoint::Checkpoint;
use ops::TrainDevice;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use text::Message;

use crate::data::{self, DataError, Definition, Encoder, VerifierSpec};
use crate::hash;
use crate::pretrained;
use crate::recipe::Recipe;
use crate::rl::{Completion, Judge, Question, QuestionSet, QuestionSource, RlError, Rollouts, SamplingSpec, limits};
use crate::rng::Rng;
use crate::run::Observer;
use crate::setup::asked;
use crate::split::Split;

/// Answers that are sampled at once: a teacher may be large, and each needs room for its longest.
const RUNNING_MAX: usize = 16;
const THINK: [&str; 2] = ["<think>", "</think>"];

/// `data.NAME.teacher`: a model whose answers become examples.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TeacherSpec {
    /// A folder or .gguf file, with a tokenizer of its own.
    pub model: PathBuf,
    /// Answers to each question; equal ones are kept once.
    #[serde(default = "one")]
    pub samples: usize,
    /// Most tokens of an answer; one that is longer is dropped.
    pub max_tokens: usize,
    /// Most tokens of a question and its answer, the teacher's; a question that leaves no room is passed over.
    #[serde(default = "sequence_length")]
    pub sequence_length: usize,
    /// Divides the logits of what is sampled; at 0 the likeliest token is taken.
    #[serde(default = "temperature")]
    pub temperature: f32,
    /// Keep only answers that the task or the chat's verifier finds right (rejection sampling).
    #[serde(default)]
    pub only_right: bool,
}

fn one() -> usize {
    1
}

fn sequence_length() -> usize {
    2048
}

/// What DeepSeek recommends for R1 and its distills.
fn temperature() -> f32 {
    0.6
}

/// Why a teacher's examples cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum TraceError {
    /// The questions.
    #[error(transparent)]
    Data(#[from] DataError),
    /// The teacher: its weights, its tokenizer, its answers.
    #[error("the teacher of source {name:?}: {source}")]
    Teacher {
        /// The source.
        name: String,
        /// What is the matter.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A file of the cache.
    #[error("{}: {source}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// Another process writes the same file.
    #[error("{}: another process is having the same questions answered; wait for it, or stop it", .0.display())]
    Locked(PathBuf),
    /// Nothing was kept.
    #[error(
        "source {name:?}: the teacher gave no answer that can be kept to {n_questions} questions; raise `max_tokens` or \
         `samples`, take another teacher, or leave out `only_right`"
    )]
    Nothing {
        /// The source.
        name: String,
        /// How many were asked.
        n_questions: u64,
    },
}

/// A question that was asked, and the examples that came of it.
#[derive(Debug, Serialize, Deserialize)]
struct Answered {
    question: u64,
    examples: Vec<Value>,
}

/// Has the questions of every source with a teacher answered, unless they are already; the sources become chats.
///
/// # Errors
/// A teacher or its questions cannot be had, nothing is kept of its answers, or the cache cannot be written
pub fn make<D: TrainDevice>(dev: &D, recipe: &mut Recipe, observer: &mut dyn Observer) -> Result<(), TraceError> {
    let names: Vec<String> = recipe.data.keys().cloned().collect();
    for name in names.iter().filter(|name| recipe.stages.iter().any(|stage| stage.uses(name))) {
        let Some(Definition::Traces { prompts, count, teacher }) = recipe.data.get(name) else { continue };
        let source = Source { name, prompts, count: *count, teacher, recipe };
        let file = source.file(dev, observer)?;
        recipe.data.insert(name.clone(), Definition::Chat { files: vec![file], verifier: None });
    }
    Ok(())
}

/// A source with a teacher.
struct Source<'r> {
    name: &'r str,
    prompts: &'r Definition,
    count: Option<u64>,
    teacher: &'r TeacherSpec,
    recipe: &'r Recipe,
}

/// Adds what was being done with a file.
fn at(path: &Path) -> impl FnOnce(io::Error) -> TraceError {
    let path = path.to_owned();
    move |source| TraceError::File { path, source }
}

impl Source<'_> {
    /// The file of examples, made if it is not there.
    fn file<D: TrainDevice>(&self, dev: &D, observer: &mut dyn Observer) -> Result<PathBuf, TraceError> {
        let cache = &self.recipe.cache;
        let path = cache.join(format!("traces-{}.jsonl", self.key()?));
        if path.exists() {
            return Ok(path);
        }
        fs::create_dir_all(cache).map_err(at(cache))?;
        let partial_path = path.with_extension("partial");
        let mut partial = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&partial_path)
            .map_err(at(&partial_path))?;
        if partial.try_lock().is_err() {
            return Err(TraceError::Locked(partial_path));
        }
        let (n_asked, n_kept) = resume(&mut partial).map_err(at(&partial_path))?;
        let n_questions = self.ask(dev, (&mut partial, &partial_path), [n_asked, n_kept], observer)?;
        self.publish(&mut partial, &path, n_questions)?;
        // The whole file is there: what is left of its making is of no use.
        let _ = fs::remove_file(&partial_path);
        Ok(path)
    }

    /// Asks what was not asked yet; returns how many questions there are.
    fn ask<D: TrainDevice>(
        &self,
        dev: &D,
        (partial, path): (&mut File, &Path),
        [mut n_asked, mut n_kept]: [u64; 2],
        observer: &mut dyn Observer,
    ) -> Result<u64, TraceError> {
        let teacher = self.teacher;
        let sampled = |e: RlError| self.refused(e);
        let (encoder, model) = self.model(dev)?;
        let ends = model.config.eos_token_ids.iter().copied().chain([encoder.eos()]).collect();
        let task = match self.prompts {
            Definition::Task { .. } => {
                let Recipe { cache, seed, held_out, .. } = self.recipe;
                Some(data::prepare(self.name, self.prompts, &encoder, cache, *seed, *held_out)?)
            }
            _ => None,
        };
        let (questions, n, mut judge) = self.questions(&encoder, task.as_ref())?;
        let limits = limits(teacher.sequence_length, RUNNING_MAX);
        let n_at_once = RUNNING_MAX.div_ceil(teacher.samples);
        let limits = engine::Limits { n_queued: n_at_once * teacher.samples, ..limits };
        let mut rollouts = Rollouts::of(dev, model, limits).map_err(sampled)?;
        let sampling = SamplingSpec {
            group_size: teacher.samples,
            max_tokens: teacher.max_tokens,
            temperature: teacher.temperature,
            end_tokens: ends,
        };
        let mut n_long = 0u64;
        while n_asked < n {
            let numbers: Vec<u64> = (n_asked..n).take(n_at_once).collect();
            let asked =
                numbers.iter().map(|i| questions.train(0, *i)).collect::<Result<Vec<_>, _>>().map_err(sampled)?;
            let fits = |question: &Question| question.prompt.len() + teacher.max_tokens <= teacher.sequence_length;
            let fitting: Vec<(u64, &Question)> = numbers.iter().copied().zip(&asked).filter(|(_, q)| fits(q)).collect();
            n_long += (asked.len() - fitting.len()) as u64;
            let prompts: Vec<Vec<u32>> = fitting.iter().map(|(_, question)| question.prompt.clone()).collect();
            let seeds: Vec<u64> =
                fitting.iter().map(|(i, _)| Rng::new(&[self.recipe.seed, 0x7EAC, *i]).next_u64()).collect();
            let mut completions = rollouts.sample(&prompts, &seeds, &sampling).map_err(sampled)?.into_iter();
            let mut lines = Vec::new();
            for (number, question) in numbers.iter().zip(&asked) {
                let own = if fits(question) { completions.next().unwrap_or_default() } else { Vec::new() };
                let examples = self.kept(question, &own, &encoder, &mut judge)?;
                n_kept += examples.len() as u64;
                let line = Answered { question: *number, examples };
                serde_json::to_writer(&mut lines, &line).map_err(|e| at(path)(e.into()))?;
                lines.push(b'\n');
            }
            partial.write_all(&lines).map_err(at(path))?;
            n_asked += numbers.len() as u64;
            observer.traces(self.name, [n_asked, n, n_kept]);
        }
        if n_long > 0 {
            observer.warn(&format!("source {:?}: {n_long} questions leave the teacher no room to answer", self.name));
        }
        if let Some(error) = judge.last_error {
            observer.warn(&format!("source {:?}: {} answers were not judged: {error}", self.name, judge.n_broken));
        }
        Ok(n)
    }

    /// The examples that a question's completions make.
    fn kept(
        &self,
        question: &Question,
        completions: &[Completion],
        encoder: &Encoder,
        judge: &mut Judge,
    ) -> Result<Vec<Value>, TraceError> {
        let mut examples: Vec<Value> = Vec::new();
        for completion in completions.iter().filter(|completion| completion.ended) {
            let Some((_, tokens)) = completion.tokens.split_last() else { continue };
            let text = encoder.tokenizer().decode(tokens, false).map_err(|e| self.refused(e))?;
            let Some(example) = example(question, &text).filter(|example| !examples.contains(example)) else {
                continue;
            };
            if !self.teacher.only_right || judge.judge(question, &text, true).is_right {
                examples.push(example);
            }
        }
        Ok(examples)
    }

    /// Writes all examples into the file that is kept.
    fn publish(&self, partial: &mut File, path: &Path, n_questions: u64) -> Result<(), TraceError> {
        partial.seek(SeekFrom::Start(0)).map_err(at(path))?;
        let mut n_kept = 0u64;
        checkpoint::write::atomically(&path.into(), |out| {
            for line in BufReader::new(&mut *partial).lines() {
                let answered: Answered = serde_json::from_str(&line?)?;
                for example in answered.examples {
                    n_kept += 1;
                    serde_json::to_writer(&mut *out, &example)?;
                    out.write_all(b"\n")?;
                }
            }
            // Nothing appears where there is nothing: the next attempt may have another verifier.
            if n_kept == 0 { Err(io::Error::other("nothing was kept")) } else { Ok(()) }
        })
        .map_err(|e| match n_kept {
            0 => TraceError::Nothing { name: self.name.to_owned(), n_questions },
            _ => DataError::from(e).into(),
        })
    }

    /// The teacher and how it reads and writes.
    fn model<D: TrainDevice>(&self, dev: &D) -> Result<(Arc<Encoder>, Arc<model::Model<D>>), TraceError> {
        let path = &self.teacher.model;
        let files = pretrained::tokenizer(path).map_err(|e| self.refused(e))?;
        let encoder = Encoder::new(&files.tokenizer, &files.config).map_err(|e| self.refused(e))?;
        let file = Checkpoint::open(path).map_err(|e| self.refused(e))?;
        let config = pretrained::config(path).map_err(|e| self.refused(e))?;
        let model = model::load(dev, config, &file).map_err(|e| self.refused(e))?;
        Ok((Arc::new(encoder), Arc::new(model)))
    }

    /// The questions, in the teacher's words, how many there are, and who judges the answers.
    fn questions<'t>(
        &self,
        encoder: &Arc<Encoder>,
        task: Option<&'t data::Source>,
    ) -> Result<(QuestionSet<'t>, u64, Judge), TraceError> {
        let of_task = task.and_then(|task| QuestionSource::task(task, 1.0));
        let (source, verifier) = match (self.prompts, of_task) {
            (_, Some(of_task)) => (of_task, None),
            (Definition::Chat { files, verifier }, None) => {
                (QuestionSource::asked(self.name, 1.0, asked(files)?, self.recipe.held_out), verifier.as_ref())
            }
            _ => unreachable!("a recipe's check lets chats and tasks alone have a teacher"),
        };
        let n_there = source.len(Split::Train).map_or(u64::MAX, |n| n as u64);
        let n = self.count.unwrap_or(n_there).min(n_there);
        let judge = Judge { verifier: verifier.map(VerifierSpec::start), ..Judge::default() };
        Ok((QuestionSet::new(vec![source], encoder.clone(), self.recipe.seed), n, judge))
    }

    fn refused(&self, source: impl std::error::Error + Send + Sync + 'static) -> TraceError {
        TraceError::Teacher { name: self.name.to_owned(), source: Box::new(source) }
    }

    /// A name for all that the examples depend on.
    fn key(&self) -> Result<String, TraceError> {
        let TeacherSpec { model, samples, max_tokens, sequence_length, temperature, only_right } = self.teacher;
        let weights = match model.is_dir() {
            true => data::expand(model, &["*".to_owned()])?,
            false => vec![model.clone()],
        };
        let prompts = match self.prompts {
            Definition::Chat { files, verifier } => {
                let judged = verifier.as_ref().filter(|_| *only_right);
                let verifier = judged.map(|v| data::command_stamp(&v.command, &v.folder)).transpose()?;
                format!("chat\0{}\0{verifier:?}", data::stamps(files)?)
            }
            other => format!("{other:?}"),
        };
        let how = format!("{samples} {max_tokens} {sequence_length} {temperature} {only_right} {:?}", self.count);
        let numbers = format!("{} {}", self.recipe.seed, self.recipe.held_out);
        let weights = data::stamps(&weights)?;
        let parts = ["traces 1", &weights, &prompts, &how, &numbers].map(str::as_bytes);
        Ok(hash::hex(&parts))
    }
}

/// Cuts off what is no whole line; how many questions were asked, and how many examples came of them.
fn resume(partial: &mut File) -> io::Result<(u64, u64)> {
    let (mut n_asked, mut n_kept, mut n_bytes) = (0, 0, 0u64);
    let mut reader = BufReader::new(&mut *partial);
    let mut line = Vec::new();
    loop {
        line.clear();
        reader.read_until(b'\n', &mut line)?;
        let answered: Option<Answered> = serde_json::from_slice(&line).ok();
        match answered.filter(|answered| line.ends_with(b"\n") && answered.question == n_asked) {
            Some(answered) => (n_asked, n_kept) = (n_asked + 1, n_kept + answered.examples.len() as u64),
            None => break,
        }
        n_bytes += line.len() as u64;
    }
    partial.set_len(n_bytes)?;
    partial.seek(SeekFrom::Start(n_bytes))?;
    Ok((n_asked, n_kept))
}

/// The conversation that an answer makes, reasoning apart; none where the reasoning was opened and never closed, closed
/// twice, or nothing was said.
fn example(question: &Question, text: &str) -> Option<Value> {
    let (reasoning, content) = match text.split_once(THINK[1]) {
        Some((reasoning, content)) => {
            let reasoning = reasoning.trim_start();
            (Some(reasoning.strip_prefix(THINK[0]).unwrap_or(reasoning).trim().to_owned()), content)
        }
        None if question.opened || text.trim_start().starts_with(THINK[0]) => return None,
        None => (None, text),
    };
    let content = content.trim();
    // A second tag is a teacher that lost its way, whatever a verifier finds behind the last one.
    if content.is_empty() || THINK.iter().any(|tag| content.contains(tag)) {
        return None;
    }
    let answer = Message { reasoning_content: reasoning, ..Message::assistant(content) };
    let messages: Vec<&Message> = question.messages.iter().chain([&answer]).collect();
    Some(json!({ "messages": messages, "data": question.data }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasoning_and_answer_are_kept_apart() {
        let question = |opened| Question {
            source: 0,
            messages: vec![Message::user("2 + 2?")],
            text: String::new(),
            prompt: Vec::new(),
            opened,
            check: None,
            data: json!(7),
        };
        let parts = |opened, text: &str| {
            let found = example(&question(opened), text)?;
            assert_eq!((&found["messages"][0]["content"], &found["data"]), (&json!("2 + 2?"), &json!(7)));
            let said = &found["messages"][1];
            Some((said["reasoning_content"].as_str().map(str::to_owned), said["content"].as_str().unwrap().to_owned()))
        };
        let some = |reasoning: &str| Some(reasoning.to_owned());
        assert_eq!(parts(true, "It is 4.\n</think>\n\n4"), Some((some("It is 4."), "4".into())));
        assert_eq!(parts(false, "<think>\nIt is 4.</think>4\n"), Some((some("It is 4."), "4".into())));
        assert_eq!(parts(false, "4"), Some((None, "4".into())));
        for (opened, text) in [
            (true, "Any.</think></think>4"),
            (true, "It is 4"),
            (false, "<think>It is 4"),
            (true, "It is 4</think> "),
            (false, " "),
        ] {
            assert_eq!(parts(opened, text), None, "{text:?}");
        }
    }

    #[test]
    fn what_is_half_written_is_asked_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("partial");
        let line = |question| {
            let mut line = serde_json::to_vec(&Answered { question, examples: vec![json!({}); 2] }).unwrap();
            line.push(b'\n');
            line
        };
        let whole: Vec<u8> = (0..3).flat_map(line).collect();
        for n in 0..=whole.len() {
            fs::write(&path, &whole[..n]).unwrap();
            let mut file = OpenOptions::new().read(true).write(true).open(&path).unwrap();
            let n_whole = whole[..n].iter().filter(|byte| **byte == b'\n').count() as u64;
            assert_eq!(resume(&mut file).unwrap(), (n_whole, 2 * n_whole));
            (n_whole..3).for_each(|question| file.write_all(&line(question)).unwrap());
            assert_eq!(fs::read(&path).unwrap(), whole);
        }
    }
}
