//! Learning from own samples: rewards of a program that judges them (GRPO), or a teacher's opinion of each token.
//!
//! `grpo.rs` and `distill.rs` own the arithmetic, `rollout.rs` the sampling, `reward.rs` the judging, `step.rs` how they
//! make the rows of an update. Must not know optimisers, checkpoints or logs: a run has those.

mod distill;
mod grpo;
mod questions;
mod reward;
mod rollout;
mod step;

pub use distill::reverse_kl;
pub use grpo::{Dapo, DrGrpo, Sample, Spec, Terms, V32, advantages, coefficients, is_flat, overlong_penalty};
pub use questions::{Asked, QuestionSet, QuestionSource};
pub use reward::{Judge, Judged, Question};
pub use rollout::{Completion, Rollouts, SamplingSpec, limits};
pub use step::{Experience, Gathering, Group, Place, RlStats};

/// Why a step of reinforcement learning cannot be taken.
#[derive(Debug, thiserror::Error)]
pub enum RlError {
    /// The policy's weights cannot be handed to the engine.
    #[error(transparent)]
    Checkpoint(#[from] checkpoint::Error),
    /// The same.
    #[error(transparent)]
    Load(#[from] model::LoadError),
    /// Memory, or the device failed.
    #[error(transparent)]
    Device(#[from] ops::DeviceError),
    /// The engine's thread of masks could not be started.
    #[error("the engine of the rollouts cannot be started: {0}")]
    Engine(std::io::Error),
    /// A prompt does not fit.
    #[error("a prompt cannot be answered: {0}; raise sequence_length or lower max_tokens")]
    Rejected(engine::Rejected),
    /// Questions cannot be had.
    #[error(transparent)]
    Data(#[from] crate::data::DataError),
    /// No group had rewards that differ.
    #[error(
        "{attempts} groups of questions gave rewards that were all equal, expected some that differ; the questions are too \
         hard or too easy for this model, or the verifier always says the same"
    )]
    Flat {
        /// How many were tried.
        attempts: usize,
    },
}
