//! Speed of products with block-quantised weights: `cargo run --release -p cpu --example products -- [threads] [format] [level]`.
//!
//! Prints, per format and level, GB/s of weights read for one and for eight rows of activations (the weights exceed every
//! cache), for one row from the second-level cache, and GOP/s for more rows from there. Must not be a test: speed is measured, not asserted.
#![allow(clippy::print_stdout, reason = "a measuring program")]

use std::time::Instant;

use cpu::{Cpu, Level};
use ops::{Activations, Device, WeightFormat, WeightMatrix};

/// The shortest of many runs, in seconds. Each is repeated for a millisecond or two, which mostly pass between two
/// interruptions by other programs.
fn shortest(mut run: impl FnMut()) -> f64 {
    let start = Instant::now();
    run();
    let n_loops = (0.002 / start.elapsed().as_secs_f64()).ceil() as usize;
    (0..40).fold(f64::INFINITY, |best, _| {
        let start = Instant::now();
        (0..n_loops).for_each(|_| run());
        best.min(start.elapsed().as_secs_f64() / n_loops as f64)
    })
}

fn main() {
    let mut args = std::env::args().skip(1);
    let n_threads = args.next().and_then(|n| n.parse().ok()).unwrap_or(1);
    let only = args.next();
    let only_level = args.next();
    for format in WeightFormat::ALL {
        if format.block_len() == 1 || only.as_ref().is_some_and(|only| *only != format.name()) {
            continue;
        }
        let cols = 2048;
        let rows = (128 << 20) / format.row_bytes(cols).unwrap_or(1) / 16 * 16;
        let bytes: Vec<u8> = (0..rows * format.row_bytes(cols).unwrap_or(0)).map(|i| (i * 37 % 61) as u8).collect();
        let Ok(w) = WeightMatrix::new(format, rows, cols, bytes.into(), None) else { continue };
        let few = w.slice_rows(0..(768 << 10) / format.row_bytes(cols).unwrap_or(1));
        let x: Vec<f32> = (0..512 * cols).map(|i| ((i * 7919) % 255) as f32 - 127.0).collect();
        let mut out = vec![0.0; (512 * few.rows).max(8 * rows)];
        let wanted = |level: &Level| only_level.as_ref().map_or(*level != Level::Scalar, |only| level.name() == only);
        for level in Level::available().into_iter().filter(wanted) {
            let cpu = Cpu::with(level, n_threads).with_activations(Activations::Int8);
            let decode = shortest(|| cpu.matmul(&x, 1, &w, None, &mut out));
            let eight = shortest(|| cpu.matmul(&x, 8, &w, None, &mut out));
            let cached = shortest(|| cpu.matmul(&x, 1, &few, None, &mut out));
            let speed = |w: &WeightMatrix, seconds: f64| w.bytes.len() as f64 / seconds / 1e9;
            print!("{format:7} {:7} 1: {:5.1}, 8: {:5.1} GB/s,", level.name(), speed(&w, decode), speed(&w, eight));
            print!(" cached {:5.1} |", speed(&few, cached));
            for n in [2, 3, 4, 5, 6, 8, 16, 48, 512] {
                let time = shortest(|| cpu.matmul(&x, n, &few, None, &mut out));
                print!(" {n}: {:5.0}", 2.0 * (n * few.rows * cols) as f64 / time / 1e9);
            }
            println!(" GOP/s");
        }
    }
}
