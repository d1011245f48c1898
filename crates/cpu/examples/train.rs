//! Speed of a training step's operations: `cargo run --release -p cpu --example train -- [threads] [level]`.
//!
//! Prints, per level, the milliseconds of each operation for 2,048 rows of a small model and what they amount to: GFLOP/s
//! of attention, GB/s of the rest. Must not be a test: speed is measured, not asserted.
#![allow(clippy::print_stdout, reason = "a measuring program")]

use std::time::Instant;

use cpu::{Cpu, Level};
use ops::{
    Attended, HeadLayout, HeadRows, NormRows, PackedAttention, RopePairing, RopeScaling, RopeTable, RouterSpec,
    Scoring, Selection, TrainDevice,
};

const T: usize = 2048;
const D: usize = 256;
const HEADS: usize = 8;
const N: usize = 32;
const R: usize = 16;
const V: usize = 32;
const VOCAB: usize = 4096;
const WIDTH: usize = 704;
const EXPERTS: usize = 16;
const TOP_K: usize = 4;

/// Numbers of both signs, about as large as each other.
fn values(n: usize) -> Vec<f32> {
    (0..n as u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 16) as f32 / 32_768.0 - 1.0).collect()
}

/// Seconds that this thread has run, where the system tells; it does not run faster for having been interrupted.
fn thread_seconds() -> Option<f64> {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").ok()?;
    stat.split(' ').next()?.parse::<f64>().ok().map(|ns| ns / 1e9)
}

/// Prints the shortest of some runs: of the processor for one thread, of the clock for several. Each is repeated for some
/// milliseconds, since the system counts in such. `work`: in billions of `unit`s.
fn measure(cpu: &Cpu, what: &str, (work, unit): (f64, &str), mut run: impl FnMut()) {
    // Once for the pages of fresh memory.
    run();
    let start = Instant::now();
    run();
    let n_loops = (0.06 / start.elapsed().as_secs_f64()).ceil() as usize;
    let best = (0..4).fold(f64::INFINITY, |best, _| {
        let (start, before) = (Instant::now(), thread_seconds());
        (0..n_loops).for_each(|_| run());
        let wall = start.elapsed().as_secs_f64();
        let own = thread_seconds().zip(before).map(|(after, before)| after - before);
        f64::min(best, if cpu.n_threads() == 1 { own.unwrap_or(wall) } else { wall } / n_loops as f64)
    });
    println!("  {what:28} {:8.3} ms {:7.1} {unit}", best * 1e3, work / best);
}

/// f32 values that an operation touches, in billions of bytes.
fn bytes(n: usize) -> (f64, &'static str) {
    (4.0 * n as f64 / 1e9, "GB/s")
}

fn rows(cpu: &Cpu) {
    let (x, y, w) = (values(T * D), values(T * D), values(D));
    let (mut out, mut sums) = (vec![0.0; T * D], vec![0.0; D]);
    let layout = NormRows { n_rows: T, dim: D, x_stride: D, y_stride: D, eps: 1e-6 };
    measure(cpu, "repeat_row", bytes(T * D), || cpu.repeat_row(&w, T, &mut out));
    measure(cpu, "sum_rows", bytes(T * D), || cpu.sum_rows(&x, T, &mut sums));
    measure(cpu, "sum", bytes(3 * T * D), || cpu.sum(&x, &y, T * D, &mut out));
    measure(cpu, "norm", bytes(2 * T * D), || cpu.norm(&layout, &x, &w, &mut out));
    measure(cpu, "norm_backward", bytes(4 * T * D), || {
        cpu.norm_backward(&layout, &x, &w, &y, &mut out, &mut sums);
    });
    let table = RopeTable::new(R, 1e4, &RopeScaling::None, RopePairing::Interleaved);
    let positions: Vec<u32> = (0..T as u32).collect();
    let mut q = values(T * HEADS * (N + R));
    let heads = HeadLayout { n_heads: HEADS, head_dim: N + R, start: N };
    measure(cpu, "rope_backward", bytes(2 * T * HEADS * R), || cpu.rope_backward(&mut q, heads, &positions, &table));
    let (gate, up, mut d_gate, mut d_up) =
        (values(T * WIDTH), values(T * WIDTH), vec![0.0; T * WIDTH], vec![0.0; T * WIDTH]);
    measure(cpu, "swiglu_to, width 704", bytes(3 * T * WIDTH), || cpu.swiglu_to(&gate, &up, T * WIDTH, &mut d_up));
    measure(cpu, "swiglu_backward, width 704", bytes(5 * T * WIDTH), || {
        cpu.swiglu_backward(&gate, &up, &gate, T * WIDTH, &mut d_gate, &mut d_up);
    });
}

fn picks(cpu: &Cpu) {
    let tokens: Vec<u32> = (0..T as u32).map(|i| i.wrapping_mul(2_654_435_761) >> 20).collect();
    let (mut table, mut x) = (values(VOCAB * D), vec![0.0; T * D]);
    measure(cpu, "gather_rows", bytes(2 * T * D), || cpu.gather_rows(&table, &tokens, D, &mut x));
    measure(cpu, "scatter_add", bytes(3 * T * D), || cpu.scatter_add(&x, &tokens, D, &mut table));
    let (y, weights) = (values(T * TOP_K * D), values(T * TOP_K));
    let slots: Vec<u32> = (0..(T * TOP_K) as u32).map(|i| i * 5 % (T * TOP_K) as u32).collect();
    measure(cpu, "combine, 4 experts", bytes((TOP_K + 1) * T * D), || {
        cpu.combine(&y, &weights, &slots, TOP_K, D, &mut x);
    });
    let (mut hidden, mut d_hidden, mut d_weights) = (values(T * TOP_K * D), y.clone(), vec![0.0; T * TOP_K]);
    let ones = vec![1.0; T * TOP_K];
    measure(cpu, "weigh_backward, 4 experts", bytes(4 * T * TOP_K * D), || {
        cpu.weigh_backward(&ones, &slots, D, &mut hidden, &mut d_hidden, &mut d_weights);
    });
    let spec = RouterSpec {
        n_experts: EXPERTS,
        top_k: TOP_K,
        scoring: Scoring::Sigmoid,
        selection: Selection::Greedy,
        norm_topk_prob: true,
        routed_scaling_factor: 1.0,
    };
    let (logits, mut d_logits) = (values(T * EXPERTS), vec![0.0; T * EXPERTS]);
    let ids: Vec<u32> = (0..T * TOP_K).map(|i| (i % EXPERTS) as u32).collect();
    measure(cpu, "route_backward, 16 experts", bytes(2 * T * EXPERTS), || {
        cpu.route_backward(&spec, &logits, &ids, &weights, &mut d_logits);
    });
    let sequences: Vec<_> = (0..T).step_by(256).map(|first| first..first + 256).collect();
    measure(cpu, "balance, 16 experts", bytes(2 * T * EXPERTS), || {
        let _ = cpu.balance(&spec, &logits, &sequences, 1e-3, &mut d_logits);
    });
    let (mut logits, mut nll) = (values(T * VOCAB), vec![0.0; T]);
    // The same result at every repetition: logits become a gradient, which are logits again.
    measure(cpu, "cross_entropy, 4096 words", bytes(2 * T * VOCAB), || {
        cpu.cross_entropy(&mut logits, VOCAB, &tokens, &ones, &mut nll);
    });
}

fn attention(cpu: &Cpu, len: usize) {
    let sequences: Vec<_> = (0..T).step_by(len).map(|first| first..first + len).collect();
    let k = HeadRows { start: 0, row_stride: HEADS * (N + V), head_stride: N + V };
    let a = PackedAttention {
        sequences: &sequences,
        n_heads: HEADS,
        n_kv_heads: HEADS,
        k_dim: N,
        shared_dim: R,
        v_dim: V,
        k,
        v: HeadRows { start: N, ..k },
        shared: HeadRows { start: 0, row_stride: R, head_stride: 0 },
        scale: 1.0 / ((N + R) as f32).sqrt(),
    };
    let [q, kv, shared, d_out] = [HEADS * (N + R), HEADS * (N + V), R, HEADS * V].map(|n| values(T * n));
    let (mut out, mut lse) = (vec![0.0; T * HEADS * V], vec![0.0; T * HEADS]);
    // Two for each product of what a row sees.
    let flops = |channels: usize| ((T * HEADS * (len + 1)) as f64 * channels as f64 / 1e9, "GFLOP/s");
    measure(cpu, &format!("attend_packed, T = {len}"), flops(N + R + V), || {
        cpu.attend_packed(&a, &q, &kv, &shared, &mut out, &mut lse);
    });
    let saved = Attended { q: &q, kv: &kv, shared: &shared, out: &out, lse: &lse };
    let [mut d_q, mut d_kv, mut d_shared] = [&q, &kv, &shared].map(|values| vec![0.0; values.len()]);
    measure(cpu, "  backward", flops(3 * (N + R) + 2 * V), || {
        cpu.attend_packed_backward(&a, &saved, &d_out, &mut d_q, &mut d_kv, &mut d_shared);
    });
}

fn main() {
    let mut args = std::env::args().skip(1);
    let n_threads = args.next().and_then(|n| n.parse().ok()).unwrap_or(1);
    let only = args.next();
    for level in Level::available() {
        if only.as_ref().map_or(level == Level::Scalar, |only| *only != level.name()) {
            continue;
        }
        let cpu = Cpu::with(level, n_threads);
        println!("{}, {} threads", level.name(), cpu.n_threads());
        rows(&cpu);
        picks(&cpu);
        [64, 256, 2048].into_iter().for_each(|len| attention(&cpu, len));
    }
}
