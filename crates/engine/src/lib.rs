//! Running models: one sequence at a time for now, or several of equal length for measurements; the scheduler of many
//! comes with continuous batching.
//!
//! Owns sessions, lanes, sampling, and what outlives them of a cache. Must not contain text, JSON or HTTP.

mod lanes;
pub mod prefix;
mod sampler;
mod session;

pub use lanes::{Lanes, LanesOptions};
pub use sampler::{Sampler, argmax};
pub use session::{Session, SessionOptions};
