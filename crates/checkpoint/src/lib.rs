//! Model files: bytes on disk ⇄ typed views.
//!
//! Owns safetensors (single and sharded), GGUF (single and split), `config.json`, and their writers. Every input is
//! hostile: each length, offset and product is checked, bookkeeping is bounded by the file's own size
//! (see `budget.rs`), and every error names the file. Must not contain arithmetic on weights or know of devices.
//!
//! Weights are not read but mapped: a [`Tensor`]'s bytes are a view into the file.

mod budget;
mod config;
mod dtype;
mod error;
pub mod gguf;
mod index;
mod json;
mod map;
mod open;
mod safetensors;
mod tensor;
pub mod write;

pub use config::{parse_config, read_config};
pub use dtype::Dtype;
pub use error::Error;
pub use open::{Checkpoint, Kind};
pub use tensor::Tensor;
