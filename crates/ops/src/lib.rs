//! The vocabulary of Minke: weight formats, the operations a language model needs, and their scalar [`Reference`].
//!
//! Owns dtypes, shapes, batches, `trait Device` and the executable specification of every operation.
//! Must not contain threads, files, SIMD, `unsafe` or serde.

pub mod batch;
pub mod cache;
pub mod device;
pub mod format;
pub mod matrix;
mod reference;
pub mod rope;
pub mod route;
pub mod timed;
pub mod train;

pub use batch::{Batch, SeqSpan};
pub use cache::{CacheSpec, RowFormat, RowLayout};
pub use device::{
    Activations, AttendExpanded, AttendKv, AttendLatent, Device, DeviceError, ExpertWeights, HeadLayout, HeadSide,
    HeadWeights, NormLayout, zeroed,
};
pub use format::WeightFormat;
pub use matrix::{BlockScales, WeightMatrix};
pub use reference::Reference;
pub use rope::{RopePairing, RopeScaling, RopeTable};
pub use route::{RouterSpec, Scoring, Selection};
pub use train::{Attended, Gemm, GemmLayout, HeadRows, NormRows, PackedAttention, Precision, TrainDevice};
