//! Grammars of `text` as masks of `engine`: neither crate knows the other.
//!
//! Owns that step. Must not parse or choose.

use engine::{MaskError, TokenMask};
use text::ArmedGrammar;

/// A grammar as the engine's mask.
pub(crate) struct Mask(pub(crate) ArmedGrammar);

impl TokenMask for Mask {
    fn accept(&mut self, token: u32) -> Result<(), MaskError> {
        self.0.accept(token).map_err(|e| MaskError(e.to_string()))
    }

    fn allowed(&mut self, bits: &mut [u32]) -> Result<bool, MaskError> {
        self.0.allowed(bits).map_err(|e| MaskError(e.to_string()))
    }

    fn forced(&mut self, out: &mut Vec<u32>) {
        self.0.forced(out);
    }

    fn fork(&self) -> Box<dyn TokenMask> {
        Box::new(Self(self.0.clone()))
    }
}
