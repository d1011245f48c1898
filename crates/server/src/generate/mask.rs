//! Grammars of `text` as masks of `engine`: neither crate knows the other.
//!
//! Owns that step, the mask that waits for a tool call, and the one that reads a text back. Must not parse or compile.

use engine::{MaskError, TokenMask};
use text::{ArmedGrammar, Grammar};

fn broken(error: impl std::fmt::Display) -> MaskError {
    MaskError(error.to_string())
}

/// A grammar as the engine's mask.
pub struct Mask(pub ArmedGrammar);

impl TokenMask for Mask {
    fn accept(&mut self, token: u32) -> Result<(), MaskError> {
        self.0.accept(token).map_err(broken)
    }

    fn allowed(&mut self, bits: &mut [u32]) -> Result<bool, MaskError> {
        self.0.allowed(bits).map_err(broken)
    }

    fn forced(&mut self, out: &mut Vec<u32>) {
        self.0.forced(out);
    }

    fn fork(&self) -> Box<dyn TokenMask> {
        Box::new(Self(self.0.clone()))
    }
}

/// Leaves it to the model whether tools are called, and holds it to their grammar once it opens a call. Where the answer
/// has a grammar of its own, a call may come in its stead.
#[derive(Clone)]
pub(crate) struct ToolMask {
    /// What is not a call.
    answer: Option<ArmedGrammar>,
    /// The answer has begun, so no call may come any more: its grammar would not know how to go on behind one.
    answering: bool,
    calls: Grammar,
    /// The token that opens calls.
    opener: u32,
    calling: bool,
}

impl ToolMask {
    pub(crate) fn new(calls: Grammar, opener: u32, answer: Option<ArmedGrammar>) -> Self {
        Self { answer, answering: false, calls, opener, calling: false }
    }
}

impl TokenMask for ToolMask {
    fn accept(&mut self, token: u32) -> Result<(), MaskError> {
        if self.calling {
            return self.calls.accept(token).map_err(broken);
        }
        if token == self.opener && !self.answering {
            self.calling = true;
            return self.calls.accept(token).map_err(broken);
        }
        let Some(answer) = &mut self.answer else { return Ok(()) };
        // Reasoning comes before either.
        self.answering = answer.is_armed();
        answer.accept(token).map_err(broken)
    }

    fn allowed(&mut self, bits: &mut [u32]) -> Result<bool, MaskError> {
        if self.calling {
            return self.calls.allowed(bits).map(|()| true).map_err(broken);
        }
        let Some(answer) = &mut self.answer else { return Ok(false) };
        let restricts = answer.allowed(bits).map_err(broken)?;
        if restricts && !self.answering {
            bits[self.opener as usize / 32] |= 1 << (self.opener % 32);
        }
        Ok(restricts)
    }

    fn forced(&mut self, out: &mut Vec<u32>) {
        match &mut self.answer {
            _ if self.calling => self.calls.forced(out),
            Some(answer) if self.answering => answer.forced(out),
            // The model may still choose between an answer and a call.
            _ => {}
        }
    }

    fn fork(&self) -> Box<dyn TokenMask> {
        Box::new(self.clone())
    }
}

/// Lets exactly one text be said: the way to the log-probabilities of a text that is there already. Its tokens are
/// chosen, not forced, because a forced token has no log-probability.
#[derive(Clone)]
pub(crate) struct ReadBack {
    tokens: std::sync::Arc<[u32]>,
    n_read: usize,
}

impl ReadBack {
    pub(crate) fn new(tokens: std::sync::Arc<[u32]>) -> Self {
        Self { tokens, n_read: 0 }
    }
}

impl TokenMask for ReadBack {
    fn accept(&mut self, _: u32) -> Result<(), MaskError> {
        self.n_read += 1;
        Ok(())
    }

    fn allowed(&mut self, bits: &mut [u32]) -> Result<bool, MaskError> {
        let Some(&token) = self.tokens.get(self.n_read) else { return Ok(false) };
        bits.fill(0);
        bits[token as usize / 32] |= 1 << (token % 32);
        Ok(true)
    }

    fn forced(&mut self, _: &mut Vec<u32>) {}

    fn fork(&self) -> Box<dyn TokenMask> {
        Box::new(self.clone())
    }
}
