//! A grammar that waits until the model has stopped reasoning. Owns that waiting. Must not parse reasoning.

use super::Grammar;
use super::vocabulary::set;
use crate::error::GrammarError;
use crate::stream::ThinkTokens;

/// Newline tokens that may come between the reasoning and the grammar's text: models write a blank line there, which
/// is no part of the content.
const MAX_NEWLINE_TOKENS: usize = 2;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Everything passes.
    Reasoning,
    /// The grammar applies, and so many newline tokens may still come before its text.
    Before { n_newlines: usize },
    /// The grammar applies.
    Armed,
}

/// Lets reasoning pass, then holds the rest to a grammar.
///
/// Where `</think>` is a token, seeing it is enough. Where the vocabulary spells it as text, call [`Self::arm`] when
/// [`crate::ReasoningParser::in_reasoning`] turns false: the token that completes `</think>` may then carry some of
/// the content, which is not held to the grammar.
#[derive(Debug, Clone)]
pub struct ArmedGrammar {
    grammar: Grammar,
    state: State,
    close: Option<u32>,
}

impl ArmedGrammar {
    /// `in_reasoning`: the prompt opened the reasoning, or the model is expected to.
    #[must_use]
    pub fn new(grammar: Grammar, in_reasoning: bool, think: Option<ThinkTokens>) -> Self {
        let state = if in_reasoning { State::Reasoning } else { State::Armed };
        Self { grammar, state, close: think.map(|think| think.close) }
    }

    /// The reasoning is over.
    pub fn arm(&mut self) {
        if self.state == State::Reasoning {
            self.state = State::Before { n_newlines: MAX_NEWLINE_TOKENS };
        }
    }

    /// Whether the grammar applies; until then every token may come and none needs a mask.
    #[must_use]
    pub fn is_armed(&self) -> bool {
        self.state != State::Reasoning
    }

    /// As [`Grammar::allowed`], and false, with nothing written, while everything passes.
    ///
    /// # Errors
    /// As [`Grammar::allowed`].
    ///
    /// # Panics
    /// As [`Grammar::allowed`].
    pub fn allowed(&mut self, bits: &mut [u32]) -> Result<bool, GrammarError> {
        if self.state == State::Reasoning {
            return Ok(false);
        }
        self.grammar.allowed(bits)?;
        if matches!(self.state, State::Before { n_newlines: 1.. }) {
            self.grammar.vocabulary().newlines().iter().for_each(|&token| set(bits, token));
        }
        Ok(true)
    }

    /// As [`Grammar::accept`]; any token while everything passes. A text that ends while the model still reasons has
    /// not followed the grammar: [`Self::is_armed`] tells.
    ///
    /// # Errors
    /// As [`Grammar::accept`].
    pub fn accept(&mut self, token: u32) -> Result<(), GrammarError> {
        match self.state {
            State::Reasoning => {
                if self.close == Some(token) {
                    self.arm();
                }
                Ok(())
            }
            State::Armed => self.grammar.accept(token),
            State::Before { n_newlines } => match self.grammar.accept(token) {
                Err(GrammarError::NotAllowed { .. })
                    if n_newlines > 0 && self.grammar.vocabulary().newlines().contains(&token) =>
                {
                    self.state = State::Before { n_newlines: n_newlines - 1 };
                    Ok(())
                }
                Ok(()) => {
                    self.state = State::Armed;
                    Ok(())
                }
                error => error,
            },
        }
    }

    /// As [`Grammar::forced`]; nothing is certain before the grammar's text has begun.
    pub fn forced(&mut self, out: &mut Vec<u32>) {
        if self.state == State::Armed {
            self.grammar.forced(out);
        }
    }

    /// Whether nothing but the end may follow.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.state == State::Armed && self.grammar.is_complete()
    }
}
