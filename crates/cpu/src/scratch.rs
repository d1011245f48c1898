//! Memory that kernels borrow, one piece per worker.
//!
//! Owns buffers that only grow: after the first steps of a size nothing is allocated. Must not outlive an operation's
//! use of it. The locks are never contended (a worker has a piece of its own); they replace `unsafe`.

use std::sync::{Mutex, PoisonError};

/// Grow-only buffers of T.
pub(crate) struct Scratch<T> {
    pieces: Vec<Mutex<Vec<T>>>,
    /// What fresh memory holds.
    empty: T,
}

impl<T: Copy> Scratch<T> {
    pub(crate) fn new(n: usize, empty: T) -> Self {
        Self { pieces: (0..n).map(|_| Mutex::new(Vec::new())).collect(), empty }
    }

    /// Lends `len` values of piece `i`, whose content is left over from earlier use.
    pub(crate) fn lend<R>(&self, i: usize, len: usize, user: impl FnOnce(&mut [T]) -> R) -> R {
        let mut buffer = self.pieces[i].lock().unwrap_or_else(PoisonError::into_inner);
        if buffer.len() < len {
            buffer.resize(len, self.empty);
        }
        user(&mut buffer[..len])
    }
}
