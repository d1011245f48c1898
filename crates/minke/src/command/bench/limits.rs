//! What this machine can do at best, measured just before the model is.
//!
//! Owns the read of a buffer larger than the caches; the device measures its own arithmetic. Must not know models.

use std::hint::black_box;
use std::time::Instant;

use cpu::{Cpu, Pool};
use memmap2::MmapMut;
use ops::WeightFormat;

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
    /// f32 operations, of which a multiply-add has two.
    pub(super) f32_flops: f64,
    /// A format whose codes the device multiplies in integers, and operations of that.
    pub(super) int8_ops: Option<(WeightFormat, f64)>,
}

impl Limits {
    /// The limit of products with most of the model's weights, and its name.
    pub(super) fn arithmetic(&self) -> (&'static str, f64) {
        self.int8_ops.map_or(("f32", self.f32_flops), |(_, ops)| ("int8", ops))
    }
}

/// Measures all with all threads of the device, for a model with weights mostly of some format.
///
/// # Errors   if the system has no memory to read
pub(super) fn limits(cpu: &Cpu, format: Option<WeightFormat>) -> std::io::Result<Limits> {
    let int8_ops = format.and_then(|format| Some((format, cpu.int8_ops(format)?)));
    let read_bytes_per_s = read_bytes_per_s(&Pool::new(cpu.n_threads()))?;
    Ok(Limits { read_bytes_per_s, f32_flops: cpu.f32_flops(), int8_ops })
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

fn read_bytes_per_s(pool: &Pool) -> std::io::Result<f64> {
    let n_bytes = BUFFER_BYTES_MAX.min(memory().available / 4);
    // Mapped, because an allocator may keep what it is given back, and the model's own memory is reported after this.
    let mut buffer = MmapMut::map_anon(n_bytes as usize)?;
    // Not zero, so that every page is really there.
    buffer.fill(black_box(3));
    let words = buffer.as_chunks().0;
    Ok(best(n_bytes as f64, || {
        pool.split(words.len(), &|_, range| {
            black_box(sum(&words[range]));
        });
    }))
}

/// Sixteen sums, so that additions never wait for each other and only memory limits.
fn sum(words: &[[u8; 8]]) -> u64 {
    let mut sums = [0u64; 16];
    for words in words.as_chunks::<16>().0 {
        for (sum, word) in sums.iter_mut().zip(words) {
            *sum = sum.wrapping_add(u64::from_ne_bytes(*word));
        }
    }
    sums.iter().fold(0, |a, b| a.wrapping_add(*b))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_take_every_whole_chunk() {
        assert_eq!(sum(&[1u64.to_ne_bytes(); 64]), 64);
        assert_eq!(sum(&[u64::MAX.to_ne_bytes(); 16]), 0u64.wrapping_sub(16));
    }
}
