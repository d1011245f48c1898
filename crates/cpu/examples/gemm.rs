//! Speed of f32 products: `cargo run --release -p cpu --example gemm -- [threads] [level] [m n k]`.
//!
//! Prints, per layout and shape, GFLOP/s and the fraction of the machine's f32 peak, which is measured before each shape,
//! for the highest precision and (') for high; then the same for rows of activations with weights.
//! Must not be a test: speed is measured, not asserted.
#![allow(clippy::print_stdout, reason = "a measuring program")]

use std::time::Instant;

use cpu::{Cpu, Level, Matrix, MatrixMut, Product};
use ops::{Device, GemmLayout, Precision, WeightFormat, WeightMatrix};

/// m, n, k: training's, square, skinny.
const SHAPES: [[usize; 3]; 16] = [
    [128, 128, 128],
    [256, 256, 256],
    [512, 512, 512],
    [1024, 1024, 1024],
    [512, 1024, 256],
    [1024, 512, 2048],
    [4096, 512, 128],
    [4096, 128, 512],
    [2048, 2048, 512],
    [512, 512, 4096],
    [64, 2048, 2048],
    [2048, 64, 2048],
    [2048, 16, 512],
    [2048, 512, 16],
    [16, 512, 2048],
    [2048, 64, 64],
];

/// Seconds that this process's threads have run, where the system tells; none runs faster for having been interrupted.
fn processor_seconds() -> Option<f64> {
    // The system brings a thread's account up to date when it gives way; the others sleep or soon will.
    std::thread::yield_now();
    let threads = std::fs::read_dir("/proc/self/task").ok()?;
    let stat = |path: std::path::PathBuf| std::fs::read_to_string(path.join("schedstat")).ok();
    let ns = |stat: String| stat.split(' ').next()?.parse::<f64>().ok();
    threads.map(|thread| stat(thread.ok()?.path()).and_then(ns)).sum::<Option<f64>>().map(|ns| ns / 1e9)
}

/// The shortest of some runs, in seconds of the processor per thread, or of the clock where the system does not tell.
fn shortest(n_threads: usize, mut run: impl FnMut()) -> f64 {
    run();
    let start = Instant::now();
    run();
    let n_loops = (0.02 / start.elapsed().as_secs_f64()).ceil() as usize;
    (0..7).fold(f64::INFINITY, |best, _| {
        let (start, before) = (Instant::now(), processor_seconds());
        (0..n_loops).for_each(|_| run());
        let wall = start.elapsed().as_secs_f64();
        let own = processor_seconds().zip(before).map(|(after, before)| (after - before) / n_threads as f64);
        best.min(own.unwrap_or(wall) / n_loops as f64)
    })
}

/// Products with a matrix of weights of 2,048 columns, for some numbers of rows.
fn weights(cpu: &Cpu, format: WeightFormat) {
    let (rows, cols) = (2048, 2048);
    let bytes: Vec<u8> = (0..rows * format.row_bytes(cols).unwrap_or(0)).map(|i| (i * 37 % 61) as u8).collect();
    let Ok(w) = WeightMatrix::new(format, rows, cols, bytes.into(), None) else { return };
    let x: Vec<f32> = (0..512 * cols).map(|i| ((i * 7919) % 255) as f32 - 127.0).collect();
    let mut out = vec![0.0; 512 * rows];
    let peak = cpu.f32_flops();
    print!("{format:5} 2048 by 2048, peak {:4.0} |", peak / 1e9);
    for n in [1, 2, 3, 4, 6, 8, 12, 16, 32, 64, 128, 512] {
        let seconds = shortest(cpu.n_threads(), || cpu.matmul(&x, n, &w, None, &mut out));
        let flops = 2.0 * (n * rows * cols) as f64 / seconds;
        print!(" {n}: {:3.0} ({:.2})", flops / 1e9, flops / peak);
    }
    println!();
}

fn main() {
    let mut args = std::env::args().skip(1);
    let n_threads = args.next().and_then(|n| n.parse().ok()).unwrap_or(1);
    let only = args.next();
    let shape: Vec<usize> = args.filter_map(|n| n.parse().ok()).collect();
    for level in Level::available() {
        if level == Level::Scalar || only.as_ref().is_some_and(|only| only != level.name()) {
            continue;
        }
        let cpu = Cpu::with(level, n_threads);
        println!("{}, {n_threads} threads: GFLOP/s (fraction of the peak)", level.name());
        let asked = <[usize; 3]>::try_from(shape.as_slice()).map(|shape| vec![shape]);
        for [m, n, k] in asked.unwrap_or_else(|_| SHAPES.to_vec()) {
            let values =
                |len: usize| -> Vec<f32> { (0..len).map(|i| ((i * 7919) % 255) as f32 / 127.0 - 1.0).collect() };
            let (a, b, mut c) = (values(m * k), values(n * k), vec![0.0; m * n]);
            let peak = cpu.f32_flops();
            print!("{:5} {:5} {:5}, peak {:4.0} |", m, n, k, peak / 1e9);
            let layouts = [(GemmLayout::Nt, k, k), (GemmLayout::Nn, k, n), (GemmLayout::Tn, m, n)];
            let layouts = layouts.into_iter().flat_map(|l| [Precision::Highest, Precision::High].map(|p| (l, p)));
            for ((layout, a_stride, b_stride), precision) in layouts {
                let seconds = shortest(n_threads, || {
                    let a = Matrix { values: &a, stride: a_stride };
                    let b = Matrix { values: &b, stride: b_stride };
                    let c = MatrixMut::new(&mut c, n);
                    cpu.gemm_grouped(&mut [Product {
                        layout,
                        m,
                        n,
                        k,
                        a,
                        b,
                        c,
                        accumulate: layout == GemmLayout::Tn,
                        precision,
                    }]);
                });
                let flops = 2.0 * (m * n * k) as f64 / seconds;
                let mark = if precision == Precision::High { "'" } else { "" };
                print!(" {layout:?}{mark} {:4.0} ({:.2})", flops / 1e9, flops / peak);
            }
            println!();
        }
        if shape.len() != 3 {
            for format in [WeightFormat::F32, WeightFormat::BF16, WeightFormat::F16] {
                weights(&cpu, format);
            }
        }
    }
}
