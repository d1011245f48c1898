//! Memory that kernels borrow, one piece per worker.
//!
//! Owns buffers that only grow: after the first steps of a size nothing is allocated. Must not outlive an operation's
//! use of it. The locks are never contended (a worker has a piece of its own); they replace `unsafe`.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

/// Grow-only buffers of T.
pub(crate) struct Scratch<T> {
    pieces: Vec<Mutex<Vec<T>>>,
    /// What fresh memory holds.
    empty: T,
    /// Values that every piece has room for.
    reserved: AtomicUsize,
}

/// Values that may be skipped to begin at a cache line.
pub(crate) const PADDING: usize = 64;

/// How many values to skip so that the next begins at a cache line: a vector that lies in two costs two loads. 0 where no
/// value does.
pub(crate) fn to_line<T>(values: &[T]) -> usize {
    Some(values.as_ptr().align_offset(64)).filter(|skip| *skip <= PADDING).unwrap_or(0)
}

impl<T: Copy> Scratch<T> {
    pub(crate) fn new(n: usize, empty: T) -> Self {
        Self { pieces: (0..n).map(|_| Mutex::new(Vec::new())).collect(), empty, reserved: AtomicUsize::new(0) }
    }

    /// Gives every piece room for `len` values. Where chance decides which worker does what, this keeps those who come
    /// late from growing theirs in a step that should allocate nothing.
    pub(crate) fn reserve(&self, len: usize) {
        if len <= self.reserved.load(Ordering::Relaxed) {
            return;
        }
        for i in 0..self.pieces.len() {
            self.lend(i, len, |_| ());
        }
        self.reserved.fetch_max(len, Ordering::Relaxed);
    }

    /// Lends `len` values of piece `i`, aligned to cache lines where T allows; their content is left over from earlier use.
    pub(crate) fn lend<R>(&self, i: usize, len: usize, user: impl FnOnce(&mut [T]) -> R) -> R {
        let mut buffer = self.pieces[i].lock().unwrap_or_else(PoisonError::into_inner);
        if buffer.len() < len + PADDING {
            buffer.resize(len + PADDING, self.empty);
        }
        let skip = to_line(&buffer);
        user(&mut buffer[skip..skip + len])
    }
}
