//! The processor as the commands use it.
//!
//! Owns the choice of threads and instructions. Must not compute.

use cpu::{Cpu, Level};
use ops::Activations;

use crate::failure::Failure;

/// Names a level of instructions to use instead of the best: for comparisons, and where the best is slow or broken.
const LEVEL: &str = "MINKE_LEVEL";

/// The processor with all of its threads, or some; activations rounded for block-quantised weights, which is the fast way.
///
/// # Errors
/// `MINKE_LEVEL` names no level of this machine
pub(crate) fn cpu(n_threads: Option<usize>) -> Result<Cpu, Failure> {
    let n_threads = n_threads.or_else(|| std::thread::available_parallelism().ok().map(usize::from)).unwrap_or(1);
    Ok(Cpu::with(level()?, n_threads).with_activations(Activations::Int8))
}

fn level() -> Result<Level, Failure> {
    let Some(wanted) = std::env::var_os(LEVEL) else { return Ok(Level::detect()) };
    let names = || Level::available().into_iter().map(Level::name).collect::<Vec<_>>().join(", ");
    let found = Level::available().into_iter().find(|level| wanted == level.name());
    found.ok_or_else(|| {
        Failure::input(format!("{LEVEL}={} is not a level of this machine, which has {}", wanted.display(), names()))
    })
}
