//! The most that this machine's threads compute at a level, measured: the roofs that kernels stand below.
//!
//! Owns loops that do nothing but multiply and add, on operands in registers or the first-level cache. Must not read
//! other memory, and must not measure a kernel: of those it has only the innermost loop of the integer panels.

use std::hint::black_box;
use std::marker::PhantomData;
use std::time::{Duration, Instant};

use ops::WeightFormat;

use super::Cpu;
use crate::kernel::int::panel::dots;
use crate::kernel::int::{Format, Small, Super, WithFormat, with_format};
use crate::level::{Kernel, LANES, Line, Simd, Sums, make};

/// The best of so many rounds counts: a peak is what the machine does when nothing disturbs it. Short ones find a moment
/// of that on a busy machine too.
const ROUNDS: u32 = 20;
/// What a round takes at least.
const ROUND: Duration = Duration::from_millis(10);

/// Vectors that a turn of the f32 loop multiplies and adds: a multiple of every number of chains.
const VECTORS: usize = 24;

/// Groups of columns in a panel, which with the activations of eight rows fills some 12 KB.
const N_GROUPS: usize = 16;
/// Lines of codes in a group, each of which meets a four of activations.
const STEPS: usize = 8;
/// Rows of activations that a turn of the integer loop takes through the panel: a multiple of every level's.
const ROWS: usize = 8;

impl Cpu {
    /// f32 operations per second: multiply-adds of numbers in registers, each of which counts as two.
    #[must_use]
    pub fn f32_flops(&self) -> f64 {
        (2 * LANES * VECTORS) as f64 * self.turns_per_s(&|n| self.level.run(Chains { n_turns: n }))
    }

    /// Integer operations per second of the loop that multiplies a format's codes with activations of 8 bits, each
    /// multiply-add counted as two; `None` where this device multiplies the format in f32.
    #[must_use]
    pub fn int8_ops(&self, format: WeightFormat) -> Option<f64> {
        let turns = |n_turns| with_format(format, OfFormat { cpu: self, n_turns });
        let ops = 2 * 4 * LANES * STEPS * N_GROUPS * ROWS;
        self.in_integers(format).then(|| ops as f64 * self.turns_per_s(&turns))
    }

    /// Turns that all threads together take in a second of the best round.
    fn turns_per_s(&self, turns: &(dyn Fn(usize) + Sync)) -> f64 {
        let seconds = |n: usize| {
            let start = Instant::now();
            self.pool.run(&|_| turns(n));
            start.elapsed().as_secs_f64()
        };
        let mut n = 1;
        while seconds(n) < ROUND.as_secs_f64() {
            n *= 2;
        }
        let shortest = (0..ROUNDS).map(|_| seconds(n)).fold(f64::INFINITY, f64::min);
        (n * self.n_threads()) as f64 / shortest
    }
}

/// Sums that wait for nothing but themselves, in registers.
struct Chains {
    n_turns: usize,
}

impl Kernel for Chains {
    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        match S::TILE_ROWS {
            8 => self.chains::<S, 12>(simd),
            _ => self.chains::<S, 6>(simd),
        }
    }
}

impl Chains {
    #[inline(always)]
    fn chains<S: Simd, const N: usize>(self, simd: S) {
        // The sums tend to b / (1 − a) = 1.
        let [a, b] = black_box([0.75, 0.25]).map(|value| simd.splat(value));
        let mut sums = [simd.splat(0.0); N];
        for _ in 0..self.n_turns {
            for _ in 0..VECTORS / N {
                for sum in &mut sums {
                    *sum = simd.mul_add(*sum, a, b);
                }
            }
        }
        for sum in sums {
            black_box(simd.sum(sum));
        }
    }
}

/// Knows the number of bits of a format's codes.
struct OfFormat<'a> {
    cpu: &'a Cpu,
    n_turns: usize,
}

impl WithFormat for OfFormat<'_> {
    type Output = ();
    fn small<F: Small>(self) {
        self.cpu.level.run(Codes::<F, false> { n_turns: self.n_turns, format: PhantomData });
    }
    fn super_block<F: Super>(self) {
        self.cpu.level.run(Codes::<F, true> { n_turns: self.n_turns, format: PhantomData });
    }
}

/// A panel of codes with rows of activations.
struct Codes<F, const SCALED: bool> {
    n_turns: usize,
    format: PhantomData<F>,
}

impl<F: Format, const SCALED: bool> Kernel for Codes<F, SCALED> {
    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        if simd.has_tiles() {
            return self.tiles(simd);
        }
        match S::PANEL_TOKENS {
            8 => self.rows::<S, 8>(simd),
            4 => self.rows::<S, 4>(simd),
            2 => self.rows::<S, 2>(simd),
            _ => self.rows::<S, 1>(simd),
        }
    }
}

impl<F: Format, const SCALED: bool> Codes<F, SCALED> {
    /// The same by tiles, as many products in a turn: two blocks of sixteen rows with four tiles of weights, a super-block's
    /// in two digits.
    #[inline(always)]
    fn tiles<S: Simd>(self, simd: S) {
        let Some(tiles) = simd.tiles(if SCALED { 64 } else { 32 }) else { return };
        let w: [Line; 2 * STEPS * STEPS] = [[1; 64]; 2 * STEPS * STEPS];
        let x = w;
        let mut sums = Sums::ZERO;
        // Products of 32 rows with a panel of 256 columns; a turn of the other loop has half as many.
        const { assert!(4 * STEPS * N_GROUPS * ROWS == 32 * 256 / 2) };
        for _ in 0..self.n_turns.div_ceil(2) {
            let (w, x) = black_box((&w, &x));
            if SCALED {
                let [high, low] = w.as_chunks::<{ STEPS * STEPS }>().0 else { unreachable!("two digits") };
                let [a, b] = x.as_chunks::<{ STEPS * STEPS }>().0 else { unreachable!("two blocks") };
                let [a, b, high, low] = [a, b, high, low].map(|lines| lines.as_chunks::<LANES>().0);
                tiles.clear::<2>();
                for i in 0..STEPS * STEPS / LANES {
                    tiles.digits([&high[i], &low[i]], [&a[i], &b[i]]);
                }
                tiles.take::<2>(&mut sums);
            } else {
                for (w, x) in w.as_chunks::<STEPS>().0.iter().take(STEPS).zip(x.as_chunks::<{ 2 * STEPS }>().0) {
                    for (x, sums) in x.as_chunks::<STEPS>().0.iter().zip(&mut sums.0) {
                        tiles.codes(w, x, sums);
                    }
                }
            }
        }
        black_box(&sums.0);
    }

    #[inline(always)]
    fn rows<S: Simd, const T: usize>(self, simd: S) {
        // Fours of activations that cancel, so that the sums stay small.
        let panel: [[Line; STEPS]; N_GROUPS] = [[[1; 64]; STEPS]; N_GROUPS];
        let x: [[[[i8; 4]; STEPS]; N_GROUPS]; ROWS] = [[[[1, -1, 1, -1]; STEPS]; N_GROUPS]; ROWS];
        let scale = simd.splat_i16(1);
        let mut sums = [simd.splat_i32(0); T];
        for _ in 0..self.n_turns {
            let (panel, x) = black_box((&panel, &x));
            for rows in x.as_chunks::<T>().0 {
                for (g, codes) in panel.iter().enumerate() {
                    sums = dots::<F, S, T, STEPS, SCALED>(simd, sums, codes, make(|t| &rows[t][g]), scale);
                }
            }
        }
        for sum in sums {
            black_box(simd.sum_i32(sum));
        }
    }
}

#[cfg(test)]
mod tests {
    use ops::Activations;

    use super::*;
    use crate::level::Level;

    #[test]
    fn a_format_that_is_multiplied_in_f32_has_no_integer_peak() {
        let cpu = Cpu::with(Level::Scalar, 1);
        assert_eq!(cpu.int8_ops(WeightFormat::Q4_K), None);
        assert_eq!(cpu.with_activations(Activations::Int8).int8_ops(WeightFormat::BF16), None);
    }
}
