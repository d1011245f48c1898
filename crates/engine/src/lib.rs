//! Running models: one sequence at a time for now; the scheduler of many comes with continuous batching.
//!
//! Owns sessions and sampling. Must not contain text, JSON or HTTP.

mod sampler;
mod session;

pub use sampler::{Sampler, argmax};
pub use session::{Session, SessionOptions};
