//! Training models from nothing, on the machine at hand: data, losses, backward passes, optimisers.
//!
//! Owns everything that changes weights. Must not contain HTTP or print.

pub mod bpe;
pub mod checkpoints;
pub mod data;
pub mod external;
mod hash;
pub mod log;
pub mod optim;
pub mod recipe;
pub mod rng;
pub mod setup;
pub mod split;
pub mod tasks;
