//! One grammar at one place in one text. Owns the library's parser and the state of generation. Must not compile.

use std::sync::Arc;

use llguidance::Matcher;
use llguidance::api::StopReason;

use super::first_line;
use super::vocabulary::{self, Vocabulary};
use crate::error::GrammarError;

/// A compiled grammar and how far a text has followed it. Made by [`super::GrammarFactory::compile`].
pub struct Grammar {
    matcher: Matcher,
    vocabulary: Arc<Vocabulary>,
    /// Special tokens that this grammar may yield.
    markers: Vec<u32>,
    /// An end token was accepted.
    ended: bool,
}

impl std::fmt::Debug for Grammar {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Grammar").field("ended", &self.ended).finish_non_exhaustive()
    }
}

/// The same place in the same grammar, to go on independently: several answers need one compilation.
impl Clone for Grammar {
    fn clone(&self) -> Self {
        let (vocabulary, markers) = (Arc::clone(&self.vocabulary), self.markers.clone());
        Self { matcher: self.matcher.deep_clone(), vocabulary, markers, ended: self.ended }
    }
}

impl Grammar {
    pub(super) fn new(matcher: Matcher, vocabulary: Arc<Vocabulary>, markers: &[u32]) -> Self {
        Self { matcher, vocabulary, markers: markers.to_vec(), ended: false }
    }

    pub(super) fn vocabulary(&self) -> &Vocabulary {
        &self.vocabulary
    }

    /// Sets the bits of the tokens that may come next (bit `t % 32` of word `t / 32`) and clears all others, those
    /// beyond the vocabulary too. End tokens are among them exactly where the text may end.
    ///
    /// # Errors
    /// No token can go on from here, or finding out takes more than the limits allow.
    ///
    /// # Panics
    /// If `bits` is shorter than the vocabulary.
    pub fn allowed(&mut self, bits: &mut [u32]) -> Result<(), GrammarError> {
        let permitted = self.vocabulary.permitted();
        assert!(bits.len() >= permitted.len(), "a mask of {} words for {}", bits.len(), permitted.len());
        bits.fill(0);
        if self.ended {
            return Err(GrammarError::Stuck("the text has ended".into()));
        }
        let mask = self.matcher.compute_mask_or_eos().map_err(|error| stuck(&error))?;
        let words = bits.iter_mut().zip(mask.as_slice()).zip(permitted);
        words.for_each(|((word, mask), permitted)| *word = mask & permitted);
        for &marker in self.markers.iter().filter(|&&marker| mask.is_allowed(marker)) {
            vocabulary::set(bits, marker);
        }
        if bits.iter().all(|&word| word == 0) {
            return Err(GrammarError::Stuck("only special tokens could follow here".into()));
        }
        Ok(())
    }

    /// Takes the token that came.
    ///
    /// # Errors
    /// The grammar does not allow it here; the state is unchanged then. Or its limits are reached.
    pub fn accept(&mut self, token: u32) -> Result<(), GrammarError> {
        let not_allowed = GrammarError::NotAllowed { token };
        if self.ended {
            return Err(not_allowed);
        }
        if self.vocabulary.is_end(token) {
            self.ended = self.may_end()?;
            return if self.ended { Ok(()) } else { Err(not_allowed) };
        }
        let is_permitted = vocabulary::is_set(self.vocabulary.permitted(), token) || self.markers.contains(&token);
        if !is_permitted || self.matcher.try_consume_tokens(&[token]).map_err(|error| stuck(&error))? == 0 {
            return Err(not_allowed);
        }
        Ok(())
    }

    /// Appends the tokens that must follow, so that they need not be sampled; often none. They are not accepted yet.
    pub fn forced(&mut self, out: &mut Vec<u32>) {
        if self.ended || self.matcher.is_stopped() {
            return;
        }
        let tokens = self.matcher.compute_ff_tokens();
        let permitted = self.vocabulary.permitted();
        let fit = |token: &u32| vocabulary::is_set(permitted, *token) || self.markers.contains(token);
        out.extend(tokens.into_iter().take_while(fit).take_while(|&token| !self.vocabulary.is_end(token)));
    }

    /// Whether the text may end here.
    ///
    /// # Errors
    /// The limits are reached.
    pub fn may_end(&mut self) -> Result<bool, GrammarError> {
        if self.is_complete() {
            return Ok(true);
        }
        self.matcher.is_accepting().map_err(|error| stuck(&error))
    }

    /// Whether nothing but the end may follow, as far as is known without a mask: where a count or a bound leaves no
    /// further token, only [`Self::allowed`] finds that out.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        let reason = self.matcher.stop_reason();
        self.ended || matches!(reason, StopReason::NoExtension | StopReason::EndOfSentence)
    }
}

fn stuck(error: &impl std::fmt::Display) -> GrammarError {
    GrammarError::Stuck(first_line(&error.to_string()))
}
