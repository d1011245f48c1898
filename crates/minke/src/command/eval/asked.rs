//! The questions of an evaluation, who judges their answers, and what is written down of them.
//!
//! Owns where questions come from. Must not ask.

use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::path::Path;

use serde_json::{Value, json};
use text::Message;
use train::external::{Limits, Sample, Verifier};
use train::split::Split;
use train::tasks::{Check, NAMES, Questions};

use super::Args;
use crate::failure::Failure;
use crate::source::{read_file, utf8};

/// The largest file of questions that is read.
const FILE_BYTES_MAX: u64 = 1 << 30;

/// Questions that are counted together.
pub(super) struct Set {
    pub(super) name: String,
    pub(super) asked: Vec<Asked>,
    pub(super) judging: Judging,
}

/// A question.
pub(super) struct Asked {
    pub(super) messages: Vec<Message>,
    /// What makes an answer right, where no command tells.
    check: Option<Check>,
    data: Value,
}

impl Asked {
    /// The last thing that is asked.
    fn text(&self) -> &str {
        self.messages.last().and_then(|message| message.content.as_deref()).unwrap_or_default()
    }
}

/// Who judges.
#[derive(Default)]
pub(super) struct Judging {
    verifier: Option<Verifier>,
    n_broken: u64,
    last_error: Option<String>,
}

impl Judging {
    pub(super) fn n_broken(&self) -> u64 {
        self.n_broken
    }

    pub(super) fn last_error(&self) -> Option<&str> {
        self.last_error.as_deref()
    }

    pub(super) fn is_right(&mut self, asked: &Asked, reasoning: &str, answer: &str) -> bool {
        if let Some(check) = &asked.check {
            return check.accepts(answer);
        }
        let Some(verifier) = &mut self.verifier else { return false };
        let completion = if reasoning.is_empty() { answer.to_owned() } else { format!("{reasoning}</think>{answer}") };
        let sample = Sample { prompt: asked.text(), completion: &completion, answer, data: &asked.data };
        match verifier.reward(&sample) {
            Ok(reward) => reward >= 0.5,
            Err(error) => {
                self.n_broken += 1;
                self.last_error = Some(error.to_string());
                false
            }
        }
    }
}

/// The questions that the flags name.
pub(super) fn sets(args: &Args) -> Result<Vec<Set>, Failure> {
    if let Some(path) = &args.questions {
        return Ok(vec![from_file(args, path)?]);
    }
    if !(0.0..=0.5).contains(&args.held_out) || args.held_out == 0.0 {
        return Err(Failure::input(format!(
            "--held-out: expected a share above 0, at most 0.5, found {}",
            args.held_out
        )));
    }
    let parameters: toml::Table = args.parameters.parse().map_err(|e: toml::de::Error| {
        Failure::input(format!("--parameters: expected TOML, such as 'min_numbers = 3': {}", e.message()))
    })?;
    let names = match args.task.is_empty() {
        true => NAMES.map(str::to_owned).to_vec(),
        false => args.task.clone(),
    };
    names.into_iter().map(|name| from_task(args, name, &parameters)).collect()
}

fn from_task(args: &Args, name: String, parameters: &toml::Table) -> Result<Set, Failure> {
    let wrong = |e: train::tasks::TaskError| Failure::Input(e.into());
    let questions = Questions::new(&name, parameters, args.seed, args.held_out).map_err(wrong)?;
    let ask = |index: u64| {
        let instance = questions.get(Split::HeldOut, index).map_err(wrong)?;
        Ok(Asked { messages: vec![Message::user(instance.question)], check: Some(instance.check), data: Value::Null })
    };
    let asked = (0..u64::from(args.count)).map(ask).collect::<Result<Vec<_>, Failure>>()?;
    Ok(Set { name, asked, judging: Judging::default() })
}

fn from_file(args: &Args, path: &Path) -> Result<Set, Failure> {
    let name = path.display().to_string();
    let text = utf8(read_file(path, FILE_BYTES_MAX)?, &name)?;
    let mut asked = Vec::new();
    for (line, number) in text.lines().zip(1..).filter(|(line, _)| !line.trim().is_empty()).take(args.count as usize) {
        let wrong = |problem: String| Failure::input(format!("{name}:{number}: {problem}"));
        let example: train::data::Example =
            serde_json::from_str(line).map_err(|e| wrong(format!("expected an object with \"messages\": {e}")))?;
        let Some(mut messages) = example.messages else {
            return Err(wrong("expected \"messages\", a conversation, found none".into()));
        };
        if messages.last().is_some_and(|last| last.role == text::Role::Assistant) {
            messages.pop();
        }
        if messages.is_empty() {
            return Err(wrong("expected a message to answer, found none".into()));
        }
        let check = match (&args.verifier, &example.data["answer"]) {
            (Some(_), _) => None,
            (None, Value::String(expected)) => Some(Check::Text { expected: expected.trim().to_owned() }),
            (None, Value::Number(expected)) => Some(Check::Text { expected: expected.to_string() }),
            (None, _) => return Err(wrong("expected data.answer, the right answer, or a --verifier".into())),
        };
        asked.push(Asked { messages, check, data: example.data });
    }
    if asked.is_empty() {
        return Err(Failure::input(format!("{name}: expected at least one question, found none")));
    }
    let verifier = args.verifier.as_deref().map(verifier).transpose()?;
    Ok(Set { name, asked, judging: Judging { verifier, ..Judging::default() } })
}

/// A command line, split at white space. Whoever needs more gives a script.
fn verifier(command: &str) -> Result<Verifier, Failure> {
    let command: Vec<String> = command.split_whitespace().map(str::to_owned).collect();
    if command.is_empty() {
        return Err(Failure::input("--verifier: expected a program and its arguments, found none"));
    }
    Ok(Verifier::new(command, Path::new(".").to_owned(), Limits::default()))
}

/// Where samples are written down, if anywhere.
pub(super) struct Transcripts(Option<BufWriter<File>>);

impl Transcripts {
    pub(super) fn open(path: Option<&Path>) -> Result<Self, Failure> {
        let open = |path: &Path| {
            let file = File::create(path);
            file.map(BufWriter::new)
                .map_err(|e| Failure::input(format!("--transcripts {}: cannot be written: {e}", path.display())))
        };
        path.map(open).transpose().map(Self)
    }

    pub(super) fn write(
        &mut self,
        set: &str,
        asked: &Asked,
        samples: impl Iterator<Item = Value>,
    ) -> Result<(), Failure> {
        let Some(file) = &mut self.0 else { return Ok(()) };
        let line = json!({ "set": set, "question": asked.text(), "samples": samples.collect::<Vec<_>>() });
        writeln!(file, "{line}")?;
        // A run that is interrupted keeps what it has found.
        Ok(file.flush()?)
    }
}
