//! Speed of products with block-quantised weights: `cargo run --release -p cpu --example products -- [threads] [format]`.
//!
//! Prints, per format and level, GB/s of weights read for one row of activations (the weights exceed every cache) and
//! GOP/s for many rows. Must not be a test: speed is measured, not asserted.
#![allow(clippy::print_stdout, reason = "a measuring program")]

use std::time::Instant;

use cpu::{Cpu, Level};
use ops::{Activations, Device, WeightFormat, WeightMatrix};

/// Seconds that this thread has run, where the system tells; it does not run faster for having been interrupted.
fn thread_seconds() -> Option<f64> {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").ok()?;
    stat.split(' ').next()?.parse::<f64>().ok().map(|ns| ns / 1e9)
}

/// The shortest of some runs, in seconds: of the processor for one thread, of the clock for several. Each is repeated for
/// some milliseconds, since the system counts in such.
fn shortest(n_threads: usize, mut run: impl FnMut()) -> f64 {
    let start = Instant::now();
    run();
    let n_loops = (0.06 / start.elapsed().as_secs_f64()).ceil() as usize;
    (0..3).fold(f64::INFINITY, |best, _| {
        let (start, before) = (Instant::now(), thread_seconds());
        (0..n_loops).for_each(|_| run());
        let wall = start.elapsed().as_secs_f64();
        let own = thread_seconds().zip(before).map(|(after, before)| after - before);
        best.min(if n_threads == 1 { own.unwrap_or(wall) } else { wall } / n_loops as f64)
    })
}

fn main() {
    let mut args = std::env::args().skip(1);
    let n_threads = args.next().and_then(|n| n.parse().ok()).unwrap_or(1);
    let only = args.next();
    for format in WeightFormat::ALL {
        if format.block_len() == 1 || only.as_ref().is_some_and(|only| *only != format.name()) {
            continue;
        }
        let cols = 2048;
        let rows = (128 << 20) / format.row_bytes(cols).unwrap_or(1) / 16 * 16;
        let bytes: Vec<u8> = (0..rows * format.row_bytes(cols).unwrap_or(0)).map(|i| (i * 37 % 61) as u8).collect();
        let Ok(w) = WeightMatrix::new(format, rows, cols, bytes.into(), None) else { continue };
        let few = w.slice_rows(0..2048);
        let x: Vec<f32> = (0..512 * cols).map(|i| ((i * 7919) % 255) as f32 - 127.0).collect();
        let mut out = vec![0.0; 512 * few.rows.max(rows / 512 + 1)];
        for level in Level::available().into_iter().filter(|level| *level != Level::Scalar) {
            let cpu = Cpu::with(level, n_threads).with_activations(Activations::Int8);
            let decode = shortest(n_threads, || cpu.matmul(&x, 1, &w, None, &mut out));
            let cached = shortest(n_threads, || cpu.matmul(&x, 1, &few, None, &mut out));
            let speed = |w: &WeightMatrix, seconds: f64| w.bytes.len() as f64 / seconds / 1e9;
            print!("{format:7} {:7} decode {:5.1} GB/s,", level.name(), speed(&w, decode));
            print!(" cached {:5.1} |", speed(&few, cached));
            for n in [2, 4, 8, 16, 48, 512] {
                let time = shortest(n_threads, || cpu.matmul(&x, n, &few, None, &mut out));
                print!(" {n}: {:5.0}", 2.0 * (n * few.rows * cols) as f64 / time / 1e9);
            }
            println!(" GOP/s");
        }
    }
}
