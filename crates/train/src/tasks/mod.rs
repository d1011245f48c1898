//! Questions made by a program, each with a worked solution and a check of answers: what a small model learns to
//! reason on, by imitation first and by reward then.
//!
//! Owns the tasks' common face, the registry of their names and the two sides (trained on, kept aside). A task is one
//! file here; `expression.rs`, `steps.rs` and `check.rs` are what several share. Must not know tokens or models.
//!
//! Wordings marked as reasoning-gym's are the questions of that package (0.1.25, Apache-2.0) word for word, because a
//! model is compared by them; all others are Minke's.

mod arithmetic;
mod base_conversion;
mod chain_sum;
mod check;
mod countdown;
mod expression;
mod gcd;
mod letters;
mod products;
mod sorting;
mod steps;

use serde::de::DeserializeOwned;

use crate::rng::Rng;
use crate::split::Split;

pub use check::{Check, final_answer, is_well_formed};

/// One question.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Instance {
    /// What the person asks.
    pub question: String,
    /// A worked solution in short steps, without the think tags around it.
    pub reasoning: String,
    /// The answer alone, as the question wants it.
    pub answer: String,
    /// How answers are judged.
    pub check: Check,
    /// What is asked, whatever the wording: instances with one key are on one side.
    pub key: String,
}

impl Instance {
    /// Whether `completion` ends in a right answer: what stands after its reasoning is judged.
    #[must_use]
    pub fn verify(&self, completion: &str) -> bool {
        self.check.accepts(final_answer(completion))
    }

    /// The worked solution as a model writes it after a prompt that opens the reasoning.
    #[must_use]
    pub fn completion(&self) -> String {
        format!("{}</think>{}", self.reasoning, self.answer)
    }
}

/// A kind of question.
pub trait Task: Send + Sync + std::fmt::Debug {
    /// A question that depends on the state of `rng` alone.
    fn instance(&self, rng: &mut Rng) -> Instance;
}

/// Which sentences ask.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Wording {
    /// Both kinds.
    #[default]
    All,
    /// Minke's own.
    Own,
    /// Those of reasoning-gym 0.1.25.
    ReasoningGym,
}

impl Wording {
    /// Draws a sentence: the index within `gym`, or that within `own`.
    fn draw<'a, T>(self, rng: &mut Rng, gym: &'a [T], own: &'a [T]) -> (&'a T, bool) {
        let from_gym = match self {
            Self::All => rng.chance(0.5),
            Self::Own => false,
            Self::ReasoningGym => true,
        };
        (rng.choose(if from_gym { gym } else { own }), from_gym)
    }
}

/// Why a task cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TaskError {
    /// No such task.
    #[error("task {name:?} is not known; there are {known}", known = NAMES.join(", "))]
    Unknown {
        /// The name, or its beginning.
        name: String,
    },
    /// A parameter is unknown or has a wrong type.
    #[error("parameters of task {task:?}: {problem}")]
    Parameters {
        /// The task.
        task: String,
        /// What is wrong, naming the parameter.
        problem: String,
    },
    /// The parameters leave (almost) no question on the side that was asked for.
    #[error(
        "task {task:?} found no {side:?} question in {attempts} attempts; widen its parameters or the share held out"
    )]
    Exhausted {
        /// The task.
        task: String,
        /// The side.
        side: Split,
        /// How often it was tried.
        attempts: u64,
    },
}

/// The tasks' names, as recipes write them.
pub const NAMES: [&str; 8] = [
    "chain_sum",
    "basic_arithmetic",
    "products",
    "gcd",
    "number_sorting",
    "letter_counting",
    "base_conversion",
    "countdown",
];

/// The task `name` with `parameters`; those that are absent have defaults.
///
/// # Errors
/// The name or a parameter is unknown, or a parameter's value is out of its range
pub fn task(name: &str, parameters: &toml::Table) -> Result<Box<dyn Task>, TaskError> {
    match name {
        "chain_sum" => build::<chain_sum::ChainSum>(name, parameters),
        "basic_arithmetic" => build::<arithmetic::BasicArithmetic>(name, parameters),
        "products" => build::<products::Products>(name, parameters),
        "gcd" => build::<gcd::Gcd>(name, parameters),
        "number_sorting" => build::<sorting::NumberSorting>(name, parameters),
        "letter_counting" => build::<letters::LetterCounting>(name, parameters),
        "base_conversion" => build::<base_conversion::BaseConversion>(name, parameters),
        "countdown" => build::<countdown::Countdown>(name, parameters),
        _ => Err(TaskError::Unknown { name: name.chars().take(80).collect() }),
    }
}

/// A task's parameters, checked.
trait Parameters: Task + DeserializeOwned + 'static {
    /// # Errors
    /// A value is out of its range: which, and what is accepted
    fn check(&self) -> Result<(), String>;
}

fn build<T: Parameters>(name: &str, parameters: &toml::Table) -> Result<Box<dyn Task>, TaskError> {
    let wrong = |problem| TaskError::Parameters { task: name.to_owned(), problem };
    let task: T = parameters.clone().try_into().map_err(|e: toml::de::Error| wrong(e.message().to_owned()))?;
    task.check().map_err(wrong)?;
    Ok(Box::new(task))
}

/// A parameter written `[lowest, highest]`, both included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Deserialize)]
struct Range(i64, i64);

impl Range {
    fn draw(self, rng: &mut Rng) -> i64 {
        rng.between(self.0, self.1)
    }

    /// # Errors
    /// If the range is empty or leaves `lowest..=highest`
    fn check(self, name: &str, lowest: i64, highest: i64) -> Result<(), String> {
        if lowest <= self.0 && self.0 <= self.1 && self.1 <= highest {
            return Ok(());
        }
        let Self(from, to) = self;
        Err(format!("`{name}` is [{from}, {to}]; expected [lowest, highest] within [{lowest}, {highest}]"))
    }
}

/// A task with a seed and a rule of sides: every question by its number.
#[derive(Debug)]
pub struct Questions {
    name: String,
    task: Box<dyn Task>,
    seed: u64,
    held_out: f64,
}

impl Questions {
    /// The questions of task `name`; the share `held_out` of all questions is never in [`Split::Train`].
    ///
    /// # Errors
    /// As [`task`]
    pub fn new(name: &str, parameters: &toml::Table, seed: u64, held_out: f64) -> Result<Self, TaskError> {
        Ok(Self { name: name.to_owned(), task: task(name, parameters)?, seed, held_out })
    }

    /// Question `index` of a side. It depends on (seed, side, index) alone.
    ///
    /// # Errors
    /// If chance meets only questions of the other side
    pub fn get(&self, side: Split, index: u64) -> Result<Instance, TaskError> {
        const ATTEMPTS: u64 = 100_000;
        for attempt in 0..ATTEMPTS {
            let instance = self.task.instance(&mut Rng::new(&[self.seed, side as u64, index, attempt]));
            if Split::of(instance.key.as_bytes(), self.held_out) == side {
                return Ok(instance);
            }
        }
        Err(TaskError::Exhausted { task: self.name.clone(), side, attempts: ATTEMPTS })
    }
}

/// A number of `digits` decimal digits that does not begin with 0, or any single digit.
fn number_of_digits(rng: &mut Rng, digits: i64) -> i64 {
    let power = 10i64.pow(digits as u32);
    rng.between(if digits == 1 { 0 } else { power / 10 }, power - 1)
}

/// `1, 2, 3`.
fn comma_list<T: ToString>(items: &[T]) -> String {
    items.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// `1, 2 and 3`.
fn and_list<T: ToString>(items: &[T]) -> String {
    match items {
        [before @ .., last] if !before.is_empty() => format!("{} and {}", comma_list(before), last.to_string()),
        _ => comma_list(items),
    }
}
