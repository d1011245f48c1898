//! Where reinforcement learning gets its questions: procedural tasks, and conversations that a command can judge.
//!
//! Owns the drawing of questions by number, so that a resumed run asks the same ones. Must not sample or judge.

use std::sync::Arc;

use serde_json::Value;
use text::{Message, Role};

use super::{Question, RlError};
use crate::data::{Encoder, Source};
use crate::rng::Rng;
use crate::split::Split;
use crate::tasks::Questions;

/// A conversation up to the turn that is to be written, and what its judge needs to know.
#[derive(Clone, Debug, PartialEq)]
pub struct Asked {
    /// The turns before it.
    pub messages: Vec<Message>,
    /// For the verifier.
    pub data: Value,
}

impl Asked {
    /// The conversation without the assistant's last words, if it ends with those.
    #[must_use]
    pub fn of(mut messages: Vec<Message>, data: Value) -> Self {
        if messages.last().is_some_and(|last| last.role == Role::Assistant) {
            messages.pop();
        }
        Self { messages, data }
    }

    /// What names it: equal names are on one side.
    fn key(&self) -> String {
        self.messages.iter().filter_map(|message| message.content.as_deref()).collect::<Vec<_>>().join("\n")
    }
}

/// Where some questions come from.
#[derive(Debug)]
enum Kind<'a> {
    Task(&'a Questions),
    Asked { train: Vec<Asked>, held_out: Vec<Asked> },
}

/// A source of questions with its share.
#[derive(Debug)]
pub struct QuestionSource<'a> {
    /// Its name in the recipe.
    pub name: String,
    weight: f64,
    kind: Kind<'a>,
}

impl<'a> QuestionSource<'a> {
    /// A procedural task; none if the source is something else.
    #[must_use]
    pub fn task(source: &'a Source, weight: f64) -> Option<Self> {
        let kind = Kind::Task(source.questions()?);
        Some(Self { name: source.name().to_owned(), weight, kind })
    }

    /// Conversations, of which the share `held_out` is never trained on.
    #[must_use]
    pub fn asked(name: &str, weight: f64, asked: Vec<Asked>, held_out: f64) -> Self {
        let of = |asked: &Asked| Split::of(asked.key().as_bytes(), held_out) == Split::Train;
        let (train, held_out) = asked.into_iter().partition(of);
        Self { name: name.to_owned(), weight, kind: Kind::Asked { train, held_out } }
    }

    /// How many questions a side has; none for a source without end.
    #[must_use]
    pub fn len(&self, side: Split) -> Option<usize> {
        match (&self.kind, side) {
            (Kind::Task(_), _) => None,
            (Kind::Asked { train, .. }, Split::Train) => Some(train.len()),
            (Kind::Asked { held_out, .. }, Split::HeldOut) => Some(held_out.len()),
        }
    }

    fn question(&self, source: usize, side: Split, index: u64, encoder: &Encoder) -> Result<Question, RlError> {
        let (messages, text, check, data) = match &self.kind {
            Kind::Task(questions) => {
                let instance = questions.get(side, index).map_err(crate::data::DataError::from)?;
                let messages = vec![Message::user(instance.question.as_str())];
                (messages, instance.question, Some(instance.check), Value::Null)
            }
            Kind::Asked { train, held_out } => {
                let all = if side == Split::Train { train } else { held_out };
                let asked = &all[(index % all.len().max(1) as u64) as usize];
                (asked.messages.clone(), asked.key(), None, asked.data.clone())
            }
        };
        let (prompt, opened) = encoder.prompt(&messages, &self.name)?;
        Ok(Question { source, messages, text, prompt, opened, check, data })
    }
}

/// All questions of a stage.
#[derive(Debug)]
pub struct QuestionSet<'a> {
    sources: Vec<QuestionSource<'a>>,
    encoder: Arc<Encoder>,
    seed: u64,
}

impl<'a> QuestionSet<'a> {
    /// The questions of `sources`, drawn by `seed`.
    #[must_use]
    pub fn new(sources: Vec<QuestionSource<'a>>, encoder: Arc<Encoder>, seed: u64) -> Self {
        Self { sources, encoder, seed }
    }

    /// The sources, whose numbers questions name.
    #[must_use]
    pub fn sources(&self) -> &[QuestionSource<'a>] {
        &self.sources
    }

    /// The i-th question of a step, and the seed of its completions.
    ///
    /// # Errors
    /// It cannot be made or encoded
    ///
    /// # Panics
    /// If there are no sources
    pub fn draw(&self, step: u64, i: usize) -> Result<(Question, u64), RlError> {
        let mut rng = Rng::new(&[self.seed, step, i as u64]);
        let total: f64 = self.sources.iter().map(|source| source.weight).sum();
        let mut left = rng.unit() * total;
        let mut at = self.sources.len() - 1;
        for (i, source) in self.sources.iter().enumerate() {
            left -= source.weight;
            if left < 0.0 {
                at = i;
                break;
            }
        }
        // Far below the numbers that questions of a task may have.
        let index = rng.next_u64() >> 16;
        Ok((self.sources[at].question(at, Split::Train, index, &self.encoder)?, rng.next_u64()))
    }

    /// Question `index` of a source that may be trained on.
    ///
    /// # Errors
    /// As [`QuestionSet::draw`]
    ///
    /// # Panics
    /// If there is no such source, or it has no questions
    pub fn train(&self, source: usize, index: u64) -> Result<Question, RlError> {
        self.sources[source].question(source, Split::Train, index, &self.encoder)
    }

    /// Question `index` of a source that is never trained on.
    ///
    /// # Errors
    /// As [`QuestionSet::draw`]
    ///
    /// # Panics
    /// If there is no such source, or it holds nothing back
    pub fn held_out(&self, source: usize, index: u64) -> Result<Question, RlError> {
        self.sources[source].question(source, Split::HeldOut, index, &self.encoder)
    }
}
