//! The bound on bookkeeping.
//!
//! Owns one rule: what is kept in memory about a file may cost at most twice the file's size, plus a small allowance.
//! A real model is many orders below that; a file that claims millions of empty tensors is refused while it is read,
//! before the memory is spent. Nothing is ever allocated from a count that a file states.

/// Bytes of bookkeeping allowed for even the smallest file.
const ALLOWANCE: usize = 1 << 20;

/// What is left of a file's allowance.
pub(crate) struct Budget {
    left: usize,
}

/// The allowance is used up.
pub(crate) struct Exhausted;

/// What to say when it is.
pub(crate) const EXPECTED: &str = "names and shapes that take less memory than twice the file";

impl Budget {
    pub(crate) fn for_file(n_bytes: usize) -> Self {
        Self { left: n_bytes.saturating_mul(2).saturating_add(ALLOWANCE) }
    }

    /// Accounts for an element of type `T` in a vector that grows by doubling, and for `heap` bytes that it owns.
    pub(crate) fn take<T>(&mut self, heap: usize) -> Result<(), Exhausted> {
        // While it doubles, a vector holds its elements once in the old place and room for two of each in the new.
        let cost = size_of::<T>().saturating_mul(3).saturating_add(heap);
        self.left = self.left.checked_sub(cost).ok_or(Exhausted)?;
        Ok(())
    }
}
