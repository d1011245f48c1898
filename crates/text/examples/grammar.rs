//! Sweeps JSON schemas: compiles each, lets a model of random weights follow it, holds what it writes against an
//! independent validator, and times the masks. Schemas come from the official test suite's files (which also say
//! which values are valid: the grammar must accept no invalid one) or from files of one schema each. Must not be
//! shipped.
//!
//! `cargo run --release -p text --example grammar -- tokenizer.json END_TOKEN FOLDER…`
#![allow(clippy::print_stdout, clippy::unwrap_used, clippy::expect_used, reason = "a command-line example")]

#[path = "../tests/common/walk.rs"]
mod walk;

use std::collections::BTreeMap;
use std::error::Error;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::Value;
use text::{GrammarError, GrammarFactory, GrammarSpec, Tokenizer};
use walk::{Outcome, Random};

/// Walks per schema, and tokens per walk.
const N_WALKS: usize = 4;
const N_TOKENS: usize = 400;

#[derive(Default)]
struct Sweep {
    n_schemas: usize,
    n_compiled: usize,
    /// The validator itself refuses the schema.
    n_unchecked: usize,
    n_walks: usize,
    n_finished: usize,
    n_valid: usize,
    n_unfinished: usize,
    n_stuck: usize,
    /// Values of the test suite: valid ones, and how many of them the grammar accepts; invalid ones it accepts.
    n_positive: usize,
    n_accepted: usize,
    n_wrongly_accepted: usize,
    refusals: BTreeMap<String, usize>,
    masks: Vec<Duration>,
    compiles: Vec<Duration>,
}

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [tokenizer, end, folders @ ..] = args.as_slice() else {
        return Err("expected arguments: tokenizer.json END_TOKEN FOLDER…".into());
    };
    let tokenizer = Arc::new(Tokenizer::from_json(&std::fs::read(tokenizer)?)?);
    let end = tokenizer.added_token_id(end).ok_or("END_TOKEN is no added token of the tokenizer")?;
    let start = Instant::now();
    let factory = GrammarFactory::new(&tokenizer, &[end])?;
    println!("{} ids; factory in {:.2} s", tokenizer.vocab_size(), start.elapsed().as_secs_f64());
    let mut sweep = Sweep::default();
    for folder in folders {
        for path in files(Path::new(folder)) {
            let Ok(document) = serde_json::from_slice::<Value>(&std::fs::read(&path)?) else { continue };
            match document {
                Value::Array(groups) => {
                    for group in groups {
                        sweep.one(&factory, &tokenizer, end, &path, &group["schema"], group["tests"].as_array());
                    }
                }
                schema => sweep.one(&factory, &tokenizer, end, &path, &schema, None),
            }
        }
    }
    sweep.report();
    Ok(())
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    let mut paths: Vec<PathBuf> = entries.filter(|path| path.extension().is_some_and(|ext| ext == "json")).collect();
    paths.sort();
    paths
}

impl Sweep {
    fn one(
        &mut self,
        factory: &GrammarFactory,
        tokenizer: &Tokenizer,
        end: u32,
        path: &Path,
        schema: &Value,
        tests: Option<&Vec<Value>>,
    ) {
        self.n_schemas += 1;
        let start = Instant::now();
        let compiled = factory.compile(&GrammarSpec::JsonSchema(schema.clone()));
        self.compiles.push(start.elapsed());
        let grammar = match compiled {
            Ok(grammar) => grammar,
            Err(error) => return *self.refusals.entry(kind(&error)).or_default() += 1,
        };
        self.n_compiled += 1;
        let options = jsonschema::options().with_draft(draft(path)).should_validate_formats(false);
        let Ok(validator) = options.build(schema) else {
            self.n_unchecked += 1;
            return;
        };
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        for test in tests.into_iter().flatten() {
            let (data, is_valid) = (&test["data"], test["valid"] == true);
            self.n_positive += usize::from(is_valid);
            if walk::accepts(&grammar, tokenizer, &data.to_string()) {
                self.n_accepted += usize::from(is_valid);
                if !is_valid {
                    self.n_wrongly_accepted += 1;
                    println!("WRONGLY ACCEPTED {name}: {schema} accepts {data}");
                }
            }
        }
        for seed in 0..N_WALKS as u64 {
            self.n_walks += 1;
            let mut random = Random::new(seed * 1_000_003 + self.n_schemas as u64);
            let mut grammar = grammar.clone();
            match walk::walk(&mut grammar, tokenizer, end, N_TOKENS, &mut random, &mut self.masks) {
                Outcome::Unfinished => self.n_unfinished += 1,
                Outcome::Stuck(error) => {
                    self.n_stuck += 1;
                    println!("STUCK {name}: {error}");
                }
                Outcome::Finished(text) => {
                    self.n_finished += 1;
                    let value = serde_json::from_slice::<Value>(&text);
                    if value.as_ref().is_ok_and(|value| validator.is_valid(value)) {
                        self.n_valid += 1;
                    } else {
                        let problem = value
                            .as_ref()
                            .map(|value| format!("{:?}", validator.validate(value).err().map(|e| e.to_string())));
                        println!(
                            "INVALID {name}: {problem:?} {}",
                            String::from_utf8_lossy(&text[..text.len().min(600)])
                        );
                    }
                }
            }
        }
    }

    fn report(&mut self) {
        println!(
            "{} schemas, {} compiled ({} of them not by the validator); {} walks: {} finished, {} of them valid; {} unfinished; {} stuck",
            self.n_schemas,
            self.n_compiled,
            self.n_unchecked,
            self.n_walks,
            self.n_finished,
            self.n_valid,
            self.n_unfinished,
            self.n_stuck
        );
        println!(
            "values of the suite: {} of {} valid ones accepted, {} invalid ones",
            self.n_accepted, self.n_positive, self.n_wrongly_accepted
        );
        for (what, times) in [("compile", &mut self.compiles), ("mask", &mut self.masks)] {
            times.sort_unstable();
            let mean = times.iter().sum::<Duration>().as_secs_f64() / times.len().max(1) as f64;
            let at = |q: f64| times.get((times.len() as f64 * q) as usize).copied().unwrap_or_default();
            println!(
                "{what}: n {} mean {:.1} us, p50 {:?}, p99 {:?}, p99.9 {:?}, max {:?}",
                times.len(),
                mean * 1e6,
                at(0.5),
                at(0.99),
                at(0.999),
                times.last().copied().unwrap_or_default()
            );
        }
        for (kind, n) in &self.refusals {
            println!("refused {n:5}  {kind}");
        }
    }
}

/// The draft that a folder of the test suite stands for; schemas with `$schema` name their own.
fn draft(path: &Path) -> jsonschema::Draft {
    let path = path.to_string_lossy();
    match () {
        () if path.contains("draft4") => jsonschema::Draft::Draft4,
        () if path.contains("draft6") => jsonschema::Draft::Draft6,
        () if path.contains("draft7") => jsonschema::Draft::Draft7,
        () if path.contains("draft2019") => jsonschema::Draft::Draft201909,
        () => jsonschema::Draft::Draft202012,
    }
}

/// An error without its particulars.
fn kind(error: &GrammarError) -> String {
    match error {
        GrammarError::Schema { path, problem } if problem.starts_with("this keyword") => {
            format!("keyword {}", path.rsplit('/').next().unwrap_or_default())
        }
        GrammarError::Schema { problem, .. } => problem.chars().filter(|c| !c.is_ascii_digit()).take(40).collect(),
        other => other.to_string().chars().take(90).collect(),
    }
}
