//! Memory that kernels borrow, one piece per worker.
//!
//! Owns buffers that only grow: after the first steps of a size nothing is allocated. Must not outlive an operation's
//! use of it. The locks are never contended (a worker has a piece of its own); they replace `unsafe`.

use std::sync::{Mutex, PoisonError};

/// Grow-only buffers.
pub(crate) struct Scratch(Vec<Mutex<Vec<f32>>>);

impl Scratch {
    pub(crate) fn new(n: usize) -> Self {
        Self((0..n).map(|_| Mutex::new(Vec::new())).collect())
    }

    /// Lends `len` values of piece `i`, whose content is left over from earlier use.
    pub(crate) fn lend<R>(&self, i: usize, len: usize, user: impl FnOnce(&mut [f32]) -> R) -> R {
        let mut buffer = self.0[i].lock().unwrap_or_else(PoisonError::into_inner);
        if buffer.len() < len {
            buffer.resize(len, 0.0);
        }
        user(&mut buffer[..len])
    }
}
