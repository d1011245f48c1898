//! Training models from nothing, on the machine at hand: data, losses, backward passes, optimisers.
//!
//! Owns everything that changes weights. Must not contain HTTP or print.
//!
//! A model in training is a [`Net`], which says where each weight lies, and two arenas of f32 of its [`Layout`]: weights and
//! gradients. [`loss_and_gradient`] is one micro-batch.

mod backward;
mod batch;
pub mod bpe;
pub mod checkpoints;
pub mod data;
mod dispatch;
pub mod external;
mod forward;
mod hash;
mod layout;
mod load;
pub mod log;
pub mod lora;
mod loss;
mod net;
pub mod optim;
pub mod pretrained;
pub mod recipe;
pub mod rl;
pub mod rng;
pub mod run;
pub mod setup;
pub mod split;
pub mod tasks;
mod teacher;
pub mod traces;
mod workspace;

pub use batch::Batch;
pub use layout::{Layout, Param, Published};
pub use load::load;
pub use loss::{Losses, Objective, divergence_and_gradient, loss_and_gradient, nll};
pub use net::Net;
pub use teacher::Teacher;
pub use workspace::Workspace;
