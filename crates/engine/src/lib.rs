//! Running models: one sequence at a time for now, or several of equal length for measurements; the scheduler of many
//! comes with continuous batching.
//!
//! Owns sessions, lanes and sampling, what else decides which tokens come next (drafts, the reasoning's budget, the
//! detection of loops), and what outlives them of a cache. Must not contain text, JSON or HTTP.

#[cfg(test)]
mod chi_square;
pub mod draft;
mod lanes;
pub mod prefix;
mod repetition;
mod sampling;
mod session;
mod thinking;

pub use lanes::{Lanes, LanesOptions};
pub use repetition::{Loop, LoopDetector};
pub use sampling::{
    Choice, History, LOGIT_BIAS_MAX, N_LOGIT_BIAS_MAX, NoToken, PENALTY_MAX, Place, REPETITION_PENALTY_MAX, Sampler,
    Sampling, SamplingError, TEMPERATURE_GREEDY, TEMPERATURE_MAX, TOP_LOGPROBS_MAX, TokenLogprob, argmax,
};
pub use session::{Session, SessionOptions};
pub use thinking::{Thinking, ThinkingBudget, ThinkingError};
