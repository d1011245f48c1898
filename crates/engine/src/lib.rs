//! Running models: many conversations over one cache, by continuous batching.
//!
//! Owns the scheduler and its one loop, the blocks of the cache and what outlives them, sampling, drafts, budgets of
//! reasoning. Must not contain text, JSON or HTTP: tokens in, tokens out.

#[cfg(test)]
mod chi_square;
pub mod draft;
mod engine;
mod handle;
mod lanes;
mod limits;
mod mask;
mod pace;
pub mod prefix;
mod repetition;
mod request;
mod runner;
mod sampling;
mod schedule;
mod sequence;
mod session;
mod stats;
mod thinking;

pub use engine::Engine;
pub use handle::{EngineThread, Handle};
pub use lanes::{Lanes, LanesOptions, greedily};
pub use limits::{BLOCK_LEN, CHUNK, DRAFT_MAX, EngineMemory, Limits};
pub use mask::{MaskError, MaskTimes, TokenMask};
pub use repetition::{Loop, LoopDetector};
pub use request::{Event, FinishReason, Miss, Rejected, Reply, Request, RequestId, Reuse, Sink, Usage};
pub use runner::{ModelRunner, Pass, Runner};
pub use sampling::{
    Choice, History, LOGIT_BIAS_MAX, N_LOGIT_BIAS_MAX, NoToken, PENALTY_MAX, Place, REPETITION_PENALTY_MAX, Sampler,
    Sampling, SamplingError, TEMPERATURE_GREEDY, TEMPERATURE_MAX, TOP_LOGPROBS_MAX, TokenLogprob, argmax,
};
pub use session::{Session, SessionOptions};
pub use stats::Stats;
pub use thinking::{Thinking, ThinkingBudget, ThinkingError};
