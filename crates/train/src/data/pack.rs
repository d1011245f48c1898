//! Documents → rows of one length.
//!
//! Owns the order of documents, the mixture of sources, and how rows are filled. The source of the next document is the
//! one that is furthest behind its share of the tokens, and its place in the source is a permutation of the epoch: no
//! random state, so a [`Position`] of a few numbers resumes exactly.
//!
//! A document that may be split and does not fit goes on in the next row, whose first token is this row's last: so every
//! token but a document's first is predicted exactly once.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{DataError, Document, Source};
use crate::rng::Permutation;
use crate::split::Split;

/// How rows are made.
#[derive(Clone, Debug, PartialEq)]
pub struct PackerSpec {
    /// Tokens of a row, at least 2.
    pub sequence_length: usize,
    /// Which documents.
    pub side: Split,
    /// Learn only what is marked (fine-tuning), and split only what may be; otherwise learn and split everything.
    pub only_learnt: bool,
    /// Names the order.
    pub seed: u64,
    /// What fills up rows: a token, never learnt.
    pub padding: u32,
}

/// Where in the data a run is. Small, and all that has to be kept.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Position {
    sources: Vec<Place>,
    open: Option<Open>,
    /// Documents left out because they do not fit into a row.
    pub n_skipped: u64,
}

/// The next document of a source.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Place {
    epoch: u64,
    index: u64,
    n_tokens: u64,
}

/// A document of which some is left.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Open {
    source: usize,
    document: u64,
    offset: usize,
}

/// A document's stretch of a row. Tokens see each other within a span alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// First token, counted over all rows.
    pub start: usize,
    /// Tokens.
    pub len: usize,
}

/// Rows of tokens, and what is to be learnt from them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rows {
    /// Tokens of a row.
    pub sequence_length: usize,
    /// Tokens, `[rows, sequence_length]`.
    pub tokens: Vec<u32>,
    /// Which tokens are predicted, the same shape.
    pub is_learnt: Vec<bool>,
    /// Documents, in order; what no span covers is padding. No span crosses a row's end.
    pub spans: Vec<Span>,
}

impl Rows {
    /// What each position predicts, `shift` tokens on: 1 for the next token, 2 for an MTP layer's. None where that lies
    /// behind the document's end, or is not to be learnt.
    #[must_use]
    pub fn targets(&self, shift: usize) -> Vec<Option<u32>> {
        let mut targets = vec![None; self.tokens.len()];
        for span in &self.spans {
            let learnt = span.start + shift.min(span.len)..span.start + span.len;
            for (target, at) in targets[span.start..].iter_mut().zip(learnt) {
                *target = self.is_learnt[at].then_some(self.tokens[at]);
            }
        }
        targets
    }

    /// How many tokens are predicted at `shift`: what a mean loss divides by.
    #[must_use]
    pub fn n_targets(&self, shift: usize) -> usize {
        self.targets(shift).iter().flatten().count()
    }
}

/// Fills rows from a mixture of sources.
#[derive(Debug)]
pub struct Packer<'a> {
    sources: Vec<(&'a Source, f64)>,
    spec: PackerSpec,
    position: Position,
    /// The open document itself; made again after a restart.
    document: Option<Arc<Document>>,
}

impl<'a> Packer<'a> {
    /// A packer over `sources` and their weights: shares of the tokens, which need not add up to 1.
    ///
    /// # Errors
    /// A source has no document on this side
    ///
    /// # Panics
    /// If there is no source, a weight is not above 0, or a row has less than 2 tokens: the recipe's checks come before
    pub fn new(sources: Vec<(&'a Source, f64)>, spec: PackerSpec) -> Result<Self, DataError> {
        assert!(
            !sources.is_empty() && sources.iter().all(|(_, weight)| *weight > 0.0 && weight.is_finite()),
            "mixture"
        );
        assert!(spec.sequence_length >= 2, "rows of {} tokens", spec.sequence_length);
        if let Some((source, _)) = sources.iter().find(|(source, _)| source.n_documents(spec.side) == Some(0)) {
            let (side, advice) = match spec.side {
                Split::Train => ("training", "give it content, or lower the share that is held out"),
                Split::HeldOut => ("held-out", "give it more documents, or raise the share that is held out"),
            };
            return Err(DataError::Empty { name: source.name().to_owned(), side, advice });
        }
        let position = Position { sources: vec![Place::default(); sources.len()], ..Position::default() };
        Ok(Self { sources, spec, position, document: None })
    }

    /// Where the next row begins.
    #[must_use]
    pub fn position(&self) -> &Position {
        &self.position
    }

    /// Goes to a position of an earlier run.
    ///
    /// # Errors
    /// The position belongs to other sources: what is expected and what was found
    pub fn seek(&mut self, position: Position) -> Result<(), String> {
        let (expected, found) = (self.sources.len(), position.sources.len());
        let is_open_known = position.open.as_ref().is_none_or(|open| open.source < expected);
        if expected != found || !is_open_known {
            return Err(format!("the position is one in {found} sources, the recipe has {expected}"));
        }
        self.position = position;
        self.document = None;
        Ok(())
    }

    /// Passes over finite sources since the first row, the most of any source.
    #[must_use]
    pub fn epoch(&self) -> u64 {
        self.position.sources.iter().map(|place| place.epoch).max().unwrap_or(0)
    }

    /// Fills `rows` with the next `n_rows` rows.
    ///
    /// # Errors
    /// A source fails, or nothing it has fits into a row. The position is then that of the last whole row
    pub fn fill(&mut self, n_rows: usize, rows: &mut Rows) -> Result<(), DataError> {
        let length = self.spec.sequence_length;
        rows.sequence_length = length;
        rows.tokens.clear();
        rows.is_learnt.clear();
        rows.spans.clear();
        for row in 0..n_rows {
            let before = self.position.clone();
            if let Err(error) = self.fill_row(rows) {
                self.position = before;
                self.document = None;
                return Err(error);
            }
            rows.tokens.resize((row + 1) * length, self.spec.padding);
            rows.is_learnt.resize((row + 1) * length, false);
        }
        Ok(())
    }

    fn fill_row(&mut self, rows: &mut Rows) -> Result<(), DataError> {
        let length = self.spec.sequence_length;
        let end = rows.tokens.len() + length;
        loop {
            let space = end - rows.tokens.len();
            if space < 2 {
                return Ok(());
            }
            let (open, document) = self.open()?;
            let rest = &document.tokens[open.offset..];
            let splits = document.may_split || !self.spec.only_learnt;
            if rest.len() > space && !splits {
                return Ok(());
            }
            let part = &rest[..rest.len().min(space)];
            rows.spans.push(Span { start: rows.tokens.len(), len: part.len() });
            rows.tokens.extend(part.iter().map(|token| token.id()));
            // A part that continues another repeats one token, which was predicted there.
            let n_known = usize::from(open.offset > 0);
            let all = !self.spec.only_learnt;
            rows.is_learnt
                .extend(part.iter().enumerate().map(|(at, token)| at >= n_known && (all || token.is_learnt())));
            self.position.sources[open.source].n_tokens += (part.len() - n_known) as u64;
            let offset = open.offset + part.len() - 1;
            let is_done = part.len() == rest.len();
            self.position.open = (!is_done).then_some(Open { offset, ..open });
            if is_done {
                self.document = None;
            }
        }
    }

    /// The document to go on with: the open one, or the next that can be used.
    fn open(&mut self) -> Result<(Open, Arc<Document>), DataError> {
        /// Documents that are left out one after the other before that is an error: all of a source may be too long.
        const SKIPPED_MAX: u64 = 10_000;
        let n_skipped_before = self.position.n_skipped;
        loop {
            let open = match self.position.open.take() {
                Some(open) => open,
                None => self.next_document(),
            };
            let source = self.sources[open.source].0;
            let document = match self.document.take() {
                Some(document) => document,
                None => Arc::new(source.document(self.spec.side, open.document)?),
            };
            let n_tokens = document.tokens.len().saturating_sub(open.offset);
            let never_fits = n_tokens > self.spec.sequence_length && self.spec.only_learnt && !document.may_split;
            if n_tokens >= 2 && !never_fits {
                self.position.open = Some(open.clone());
                self.document = Some(document.clone());
                return Ok((open, document));
            }
            self.position.n_skipped += 1;
            // What is left out counts for its share, so that another source has its turn.
            self.position.sources[open.source].n_tokens += 1;
            if self.position.n_skipped - n_skipped_before >= SKIPPED_MAX {
                return Err(DataError::Empty {
                    name: source.name().to_owned(),
                    side: "usable",
                    advice: "its documents are longer than a row: raise the stage's sequence_length",
                });
            }
        }
    }

    /// Takes the next document of the source that is furthest behind.
    fn next_document(&mut self) -> Open {
        let behind =
            |(at, (_, weight)): (usize, &(&Source, f64))| (self.position.sources[at].n_tokens as f64 / weight, at);
        let order = |a: &(f64, usize), b: &(f64, usize)| a.0.total_cmp(&b.0);
        let source = self.sources.iter().enumerate().map(behind).min_by(order).map_or(0, |(_, at)| at);
        let place = &mut self.position.sources[source];
        let document = match self.sources[source].0.n_documents(self.spec.side) {
            None => place.index,
            Some(n) => {
                if place.index >= n {
                    place.index = 0;
                    place.epoch += 1;
                }
                let order = Permutation::new(n, &[self.spec.seed, source as u64, place.epoch]);
                order.at(place.index)
            }
        };
        place.index += 1;
        Open { source, document, offset: 0 }
    }
}
