//! The CPU as a device: every operation of [`ops::Device`] on threads and vector registers, weights read from the
//! mapped file.
//!
//! Owns level detection, the thread pool and the kernels. Must not know configs, layers, files or requests. Kernels
//! never spawn, lock or log; what a row computes does not depend on the other rows of its step or on the threads.

mod cache;
mod device;
mod kernel;
mod level;
mod pool;
mod scratch;

pub use device::{Cpu, Matrix, Product};
pub use level::Level;
pub use pool::{MatrixMut, Pool};
