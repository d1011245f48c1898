//! Kernel bodies, written once for every level.
//!
//! Own the inner loops. Must not allocate, lock, spawn or log, and must not choose how work is split.

pub(crate) mod attention;
pub(crate) mod dot;
pub(crate) mod exp;
pub(crate) mod gemm;
pub(crate) mod int;
pub(crate) mod matmul;
pub(crate) mod panel;
pub(crate) mod swiglu;
pub(crate) mod tile;
pub(crate) mod train;
