//! Literal matching of added tokens. Owns their spellings, flags and automata. Must not encode text.

use std::collections::HashMap;

use aho_corasick::{AhoCorasick, AhoCorasickBuilder, MatchKind};

use super::spec::{AddedToken, Normalizer, Spec};
use crate::error::TokenizerError;

/// A stretch of text: ordinary, or one added token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Piece<'a> {
    Text(&'a str),
    Token { id: u32, text: &'a str },
}

pub(super) struct AddedTokens {
    /// Sorted by id.
    tokens: Vec<AddedToken>,
    by_content: HashMap<String, u32>,
    /// In the order they are applied: tokens matched in raw text, then those matched in normalised text.
    passes: Vec<Pass>,
}

/// Leftmost-longest search for some of the tokens.
struct Pass {
    automaton: AhoCorasick,
    /// The id of each pattern.
    ids: Vec<u32>,
}

impl AddedTokens {
    pub(super) fn new(spec: &Spec) -> Result<Self, TokenizerError> {
        let mut tokens = spec.added.clone();
        tokens.sort_by_key(|token| token.id);
        if spec.normalizer != Normalizer::Identity
            && let Some(token) = tokens.iter().find(|token| token.normalized)
        {
            return Err(TokenizerError::Unsupported {
                field: format!("added_tokens[id {}].normalized", token.id),
                expected: "false beside a normalizer",
                found: "true".into(),
            });
        }
        let passes = [false, true]
            .into_iter()
            .filter_map(|normalized| Pass::new(tokens.iter().filter(|token| token.normalized == normalized)))
            .collect::<Result<_, _>>()?;
        let by_content = tokens.iter().map(|token| (token.content.clone(), token.id)).collect();
        Ok(Self { tokens, by_content, passes })
    }

    /// Cuts `text` at its added tokens, leftmost first and the longest at each place.
    pub(super) fn split<'a>(&self, text: &'a str) -> Vec<Piece<'a>> {
        let mut pieces = vec![Piece::Text(text)];
        for pass in &self.passes {
            let mut next = Vec::with_capacity(pieces.len());
            for piece in pieces {
                match piece {
                    Piece::Token { .. } => next.push(piece),
                    Piece::Text(text) => pass.split(text, &mut next),
                }
            }
            pieces = next;
        }
        pieces
    }

    pub(super) fn id_of(&self, content: &str) -> Option<u32> {
        self.by_content.get(content).copied()
    }

    pub(super) fn content_of(&self, id: u32) -> Option<&str> {
        self.get(id).map(|token| token.content.as_str())
    }

    pub(super) fn is_special(&self, id: u32) -> bool {
        self.get(id).is_some_and(|token| token.special)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (u32, &str)> {
        self.tokens.iter().map(|token| (token.id, token.content.as_str()))
    }

    fn get(&self, id: u32) -> Option<&AddedToken> {
        let at = self.tokens.binary_search_by_key(&id, |token| token.id).ok()?;
        self.tokens.get(at)
    }
}

impl Pass {
    /// `None` when there is nothing to search for.
    fn new<'a>(tokens: impl Iterator<Item = &'a AddedToken>) -> Option<Result<Self, TokenizerError>> {
        let (ids, contents): (Vec<u32>, Vec<&str>) = tokens.map(|token| (token.id, token.content.as_str())).unzip();
        if ids.is_empty() {
            return None;
        }
        let automaton = AhoCorasickBuilder::new().match_kind(MatchKind::LeftmostLongest).build(contents);
        Some(automaton.map(|automaton| Self { automaton, ids }).map_err(|error| TokenizerError::Invalid {
            field: "added_tokens".into(),
            problem: format!("no automaton: {error}"),
        }))
    }

    fn split<'a>(&self, text: &'a str, pieces: &mut Vec<Piece<'a>>) {
        let mut done = 0;
        for found in self.automaton.find_iter(text) {
            if done < found.start() {
                pieces.push(Piece::Text(&text[done..found.start()]));
            }
            let id = self.ids[found.pattern().as_usize()];
            pieces.push(Piece::Token { id, text: &text[found.range()] });
            done = found.end();
        }
        if done < text.len() {
            pieces.push(Piece::Text(&text[done..]));
        }
    }
}
