//! The vocabulary of Minke: weight formats, the operations a language model needs, and their scalar [`Reference`].
//!
//! Owns dtypes, shapes, batches, `trait Device` and the executable specification of every operation.
//! Must not contain threads, files, SIMD, `unsafe` or serde.

pub mod format;
pub mod matrix;

pub use format::WeightFormat;
pub use matrix::{BlockScales, WeightMatrix};
