//! What this machine can do at best, measured just before the model is.
//!
//! Owns the two probes: a linear read of a buffer larger than the caches, and f32 arithmetic on operands that stay in
//! them. Must not know models.

use std::hint::black_box;
use std::time::Instant;

use cpu::{Cpu, Pool};
use ops::{Device, WeightFormat, WeightMatrix};

use crate::failure::Failure;
use crate::memory::memory;

/// Bytes of the buffer that is read: far more than any cache that a processor's cores share today.
const BUFFER_BYTES_MAX: u64 = 512 << 20;
/// The best of so many rounds counts: a limit is what the machine can do when nothing disturbs it.
const ROUNDS: usize = 8;

/// The machine's limits with a number of threads.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// Linear reads from main memory.
    pub(super) read_bytes_per_s: f64,
    /// f32 multiply-adds, each two operations: a lower bound of the peak (see [`matmul_flops`]).
    pub(super) f32_flops: f64,
}

/// Measures both with all threads of the device.
pub(super) fn limits(cpu: &Cpu) -> Result<Limits, Failure> {
    let pool = Pool::new(cpu.n_threads());
    let f32_flops = plain_flops(&pool).max(matmul_flops(cpu)?);
    Ok(Limits { read_bytes_per_s: read_bytes_per_s(&pool), f32_flops })
}

/// Units of work per second in the best round.
fn best(work: f64, mut round: impl FnMut()) -> f64 {
    let rates = (0..ROUNDS).map(|_| {
        let start = Instant::now();
        round();
        work / start.elapsed().as_secs_f64()
    });
    rates.fold(0.0, f64::max)
}

fn read_bytes_per_s(pool: &Pool) -> f64 {
    let n_bytes = BUFFER_BYTES_MAX.min(memory().available / 4);
    // Not zero, so that every page is really there.
    let words = vec![black_box(3u64); n_bytes as usize / size_of::<u64>()];
    best(size_of_val(&words[..]) as f64, || {
        pool.split(words.len(), &|_, range| {
            black_box(sum(&words[range]));
        });
    })
}

/// Sixteen sums, so that additions never wait for each other and only memory limits.
fn sum(words: &[u64]) -> u64 {
    let mut sums = [0u64; 16];
    for words in words.as_chunks::<16>().0 {
        for (sum, word) in sums.iter_mut().zip(words) {
            *sum = sum.wrapping_add(*word);
        }
    }
    sums.iter().fold(0, |a, b| a.wrapping_add(*b))
}

/// A loop of multiply-adds as the compiler makes it for any machine of this family.
fn plain_flops(pool: &Pool) -> f64 {
    const N_TURNS: usize = 1_000_000;
    const N_SUMS: usize = 32;
    let turns = || {
        let (x, y) = (black_box([0.999_999_9f32; N_SUMS]), black_box([1e-7f32; N_SUMS]));
        let mut sums = [1.0f32; N_SUMS];
        for _ in 0..N_TURNS {
            sums.iter_mut().zip(x.iter().zip(&y)).for_each(|(sum, (x, y))| *sum = *sum * x + y);
        }
        black_box(sums);
    };
    best((2 * N_TURNS * N_SUMS * pool.n_threads()) as f64, || pool.run(&|_| turns()))
}

/// The device's own product of f32 matrices that fit into the second-level cache.
///
/// It stands for the peak of the instructions that only the device may use; what its kernel leaves unused is missing
/// from the limit, so a share of it is an upper bound of the share of the true peak.
fn matmul_flops(cpu: &Cpu) -> Result<f64, Failure> {
    const ROWS_PER_THREAD: usize = 128;
    const COLS: usize = 512;
    const N_INPUTS: usize = 64;
    const N_CALLS: usize = 20;
    let rows = ROWS_PER_THREAD * cpu.n_threads();
    let bytes: Vec<u8> = (0..rows * COLS).flat_map(|i| ((i % 7) as f32).to_le_bytes()).collect();
    let matrix = WeightMatrix::new(WeightFormat::F32, rows, COLS, bytes.into(), None);
    let w = cpu.upload(&matrix.map_err(|e| Failure::Failed(e.into()))?)?;
    let (mut x, mut out) = (cpu.alloc(N_INPUTS * COLS)?, cpu.alloc(N_INPUTS * rows)?);
    cpu.write(&vec![0.5; N_INPUTS * COLS], &mut x)?;
    Ok(best((2 * rows * COLS * N_INPUTS * N_CALLS) as f64, || {
        for _ in 0..N_CALLS {
            cpu.matmul(&x, N_INPUTS, &w, None, &mut out);
        }
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_take_every_whole_chunk() {
        assert_eq!(sum(&[1; 64]), 64);
        assert_eq!(sum(&[u64::MAX; 16]), 0u64.wrapping_sub(16));
    }
}
