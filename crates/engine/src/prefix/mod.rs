//! What was computed once for the beginning of a sequence and is found again.
//!
//! Owns the names of blocks (`key.rs`), those in memory (`pool.rs`) and those that outlive the process (`store.rs`). Must not compute a row, and must
//! not take a block for another: what is not exactly what was asked for is not there.

pub mod disk;
pub mod file;
mod index;
mod key;
mod pool;
mod store;
mod writer;

pub use file::Damage;
pub use key::{BlockKey, Fingerprint};
pub(crate) use pool::{BlockPool, Match};
pub use store::{Load, Saved, Store, StoreError, StoreOptions, StoreStats};
