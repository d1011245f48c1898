//! Training models from nothing, on the machine at hand: data, losses, backward passes, optimisers.
//!
//! Owns everything that changes weights. Must not contain HTTP or print.
