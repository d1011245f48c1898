//! A training recipe: a TOML file that says from what, on what and how a model is trained.
//!
//! Owns the file's form and every check that can be made before anything starts. An error names the file, the line, the
//! key, what is accepted and what stands there. Must not read data or weights.

mod check;
mod model;
mod spec;

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use toml::de::DeTable;

use crate::data::Definition;
use crate::hash;
use crate::lora::LoraSpec;

pub use model::{INITIALIZER_RANGE, ModelStart, config_json};
pub use spec::{
    Data, DistillSpec, GrpoSpec, OptimizerKind, OptimizerSpec, SamplesSpec, Stage, StageKind, TokenizerSpec,
};

/// Why a recipe was refused.
#[derive(Debug, PartialEq, Eq)]
pub struct RecipeError {
    /// The file.
    pub file: PathBuf,
    /// The line, from 1; none where the file as a whole is meant.
    pub line: Option<usize>,
    /// The key with its path, such as `stage[0].optimizer.lr`; empty where there is none.
    pub key: String,
    /// What is accepted, and what was found.
    pub problem: String,
}

impl fmt::Display for RecipeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file.display())?;
        if let Some(line) = self.line {
            write!(f, ":{line}")?;
        }
        if !self.key.is_empty() {
            write!(f, ": `{}`", self.key)?;
        }
        write!(f, ": {}", self.problem)
    }
}

impl std::error::Error for RecipeError {}

/// A recipe, checked.
#[derive(Clone, Debug)]
pub struct Recipe {
    /// Where it lies; its paths are relative to this file's folder.
    pub file: PathBuf,
    /// Names every draw: initial weights, questions, order.
    pub seed: u64,
    /// The share of all documents and questions that is never trained on.
    pub held_out: f64,
    /// The run's folder: checkpoints, log, and the trained model.
    pub output: PathBuf,
    /// Where token files are kept.
    pub cache: PathBuf,
    /// How many checkpoints are kept.
    pub keep_checkpoints: usize,
    /// From what training starts.
    pub model: ModelStart,
    /// Train adapters instead of the model.
    pub lora: Option<LoraSpec>,
    /// Which tokenizer.
    pub tokenizer: TokenizerSpec,
    /// Sources by name.
    pub data: BTreeMap<String, Definition>,
    /// What is done, in order.
    pub stages: Vec<Stage>,
    /// A name for all of its content, comments and spelling aside.
    fingerprint: String,
}

impl Recipe {
    /// Reads and checks a recipe.
    ///
    /// # Errors
    /// The file cannot be read, is no TOML, has an unknown key, or a value is not what is accepted there
    pub fn load(file: &Path) -> Result<Self, RecipeError> {
        let text = std::fs::read_to_string(file).map_err(|e| RecipeError {
            file: file.to_owned(),
            line: None,
            key: String::new(),
            problem: format!("cannot read the recipe: {e}"),
        })?;
        Self::parse(&text, file)
    }

    /// Checks a recipe that has been read from `file`.
    ///
    /// # Errors
    /// As [`Self::load`]
    pub fn parse(text: &str, file: &Path) -> Result<Self, RecipeError> {
        let refused = |problem: Problem| RecipeError {
            file: file.to_owned(),
            line: line_of_key(text, &problem.path),
            key: spell(&problem.path),
            problem: problem.message,
        };
        let syntax = |e: toml::de::Error| RecipeError {
            file: file.to_owned(),
            line: e.span().map(|span| line_at(text, span.start)),
            key: String::new(),
            problem: e.message().replace('\n', "; "),
        };
        let document: spec::Document = toml::from_str(text).map_err(syntax)?;
        let content: toml::Table = toml::from_str(text).map_err(syntax)?;
        let mut recipe = check::check(document, file).map_err(refused)?;
        // Tables are sorted, so this is the same for every order of keys.
        let canonical = serde_json::to_vec(&content).unwrap_or_default();
        recipe.fingerprint = hash::hex(&[&canonical]);
        Ok(recipe)
    }

    /// A name for the content: a run that resumes compares it with the one in its checkpoint.
    #[must_use]
    pub fn fingerprint(&self) -> &str {
        &self.fingerprint
    }
}

/// A step of a key's path.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Step {
    Key(String),
    Index(usize),
}

/// What is wrong, and at which key.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Problem {
    path: Vec<Step>,
    message: String,
}

impl Problem {
    fn new(path: &[Step], key: &str, message: impl Into<String>) -> Self {
        let path = path.iter().cloned().chain([Step::Key(key.to_owned())]).collect();
        Self { path, message: message.into() }
    }
}

fn spell(path: &[Step]) -> String {
    let mut text = String::new();
    for step in path {
        match step {
            Step::Key(key) if text.is_empty() => text.push_str(key),
            Step::Key(key) => text.push_str(&format!(".{key}")),
            Step::Index(index) => text.push_str(&format!("[{index}]")),
        }
    }
    text
}

fn line_at(text: &str, offset: usize) -> usize {
    text.as_bytes()[..offset.min(text.len())].iter().filter(|byte| **byte == b'\n').count() + 1
}

/// The line of a key, or of the nearest thing around it that is in the file.
fn line_of_key(text: &str, path: &[Step]) -> Option<usize> {
    let document = DeTable::parse(text).ok()?;
    let mut table = Some(document.get_ref());
    let mut array = None;
    let mut found = None;
    for step in path {
        let value = match step {
            Step::Key(key) => {
                let Some((key, value)) = table.and_then(|table| table.iter().find(|(k, _)| k.get_ref() == key)) else {
                    break;
                };
                // The element of an array of tables knows where its own header is.
                found = Some(key.span().start);
                value
            }
            Step::Index(index) => {
                let Some(value) = array.and_then(|array: &toml::de::DeArray<'_>| array.get(*index)) else { break };
                found = Some(value.span().start);
                value
            }
        };
        table = value.get_ref().as_table();
        array = value.get_ref().as_array();
    }
    found.map(|offset| line_at(text, offset))
}
