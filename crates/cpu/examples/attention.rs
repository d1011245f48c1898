//! Speed of attention with the heads of DeepSeek-V2-Lite: `cargo run --release -p cpu --example attention -- [threads]
//! [level or row format] [decode]`.
//!
//! Prints, per level, row format and depth, the milliseconds that a token's attention takes over all layers in absorbed
//! form, and those of 512 new rows in both forms, with GOP/s. Every layer has a cache of its own, larger together than
//! the processor's caches. Must not be a test: speed is measured, not asserted.
#![allow(clippy::print_stdout, clippy::expect_used, reason = "a measuring program")]

use std::time::Instant;

use cpu::{Cpu, Level};
use ops::{
    Activations, AttendExpanded, AttendLatent, CacheSpec, Device, DeviceError, HeadLayout, HeadWeights, RowFormat,
    RowLayout, SeqSpan, WeightFormat, WeightMatrix,
};

const N_LAYERS: usize = 27;
const HEADS: usize = 16;
const C: usize = 512;
const R: usize = 64;
const N: usize = 128;
const V: usize = 128;
const BLOCK_LEN: usize = 64;
const DEPTHS: [usize; 2] = [4096, 16_384];

/// Numbers of both signs, about as large as each other.
fn values(n: usize) -> Vec<f32> {
    (0..n as u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 16) as f32 / 32_768.0 - 1.0).collect()
}

/// Seconds that this thread has run, where the system tells; it does not run faster for having been interrupted.
fn thread_seconds() -> Option<f64> {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").ok()?;
    stat.split(' ').next()?.parse::<f64>().ok().map(|ns| ns / 1e9)
}

/// The shortest of three runs, in seconds: of the processor for one thread, of the clock for several.
fn shortest(n_threads: usize, mut run: impl FnMut()) -> f64 {
    run();
    (0..3).fold(f64::INFINITY, |best, _| {
        let (start, before) = (Instant::now(), thread_seconds());
        run();
        let wall = start.elapsed().as_secs_f64();
        let own = thread_seconds().zip(before).map(|(after, before)| after - before);
        best.min(if n_threads == 1 { own.unwrap_or(wall) } else { wall })
    })
}

struct Scene {
    cpu: Cpu,
    cache: <Cpu as Device>::Cache,
    block_tables: Vec<u32>,
    q: Vec<f32>,
    q_lat: Vec<f32>,
    w_uk: WeightMatrix,
    w_uv: WeightMatrix,
}

impl Scene {
    fn new(cpu: Cpu, row_format: RowFormat, n_rows: usize) -> Result<Self, DeviceError> {
        let row = RowLayout { row_len: C + R, group_len: C, tail_len: R, row_format };
        let n_all = DEPTHS[1] + 512;
        let spec = CacheSpec { n_layers: N_LAYERS, n_blocks: n_all.div_ceil(BLOCK_LEN), block_len: BLOCK_LEN, row };
        let mut cache = cpu.alloc_cache(&spec)?;
        let rows = values(n_all * (C + R));
        let slots: Vec<u32> = (0..n_all as u32).collect();
        (0..N_LAYERS).for_each(|layer| cpu.cache_store(&mut cache, layer, &slots, &[(&rows, C + R)]));
        let (q, q_lat) = (values(n_rows * HEADS * (N + R)), values(n_rows * HEADS * C));
        // As stored by many files: 8 bits with a scale for each 32 weights.
        let matrix = |rows: usize| {
            let format = WeightFormat::Q8_0;
            let bytes: Vec<u8> =
                (0..rows * C / 32).flat_map(|i| (0..34).map(move |j| (i * 7 + j * 5) as u8 & 63)).collect();
            WeightMatrix::new(format, rows, C, bytes.into(), None).expect("whole blocks")
        };
        let (w_uk, w_uv) = (matrix(HEADS * N), matrix(HEADS * V));
        Ok(Self { cpu, cache, block_tables: (0..spec.n_blocks as u32).collect(), q, q_lat, w_uk, w_uv })
    }

    fn span(&self, n_new: usize, n_cached: usize) -> [SeqSpan; 1] {
        [SeqSpan { q_start: 0, n_new, n_cached, blocks: 0..self.block_tables.len() }]
    }

    fn latent(&self, n_new: usize, depth: usize, layer: usize, out: &mut Vec<f32>) {
        let args = AttendLatent {
            q_lat: &self.q_lat,
            q: &self.q,
            q_pe: HeadLayout { n_heads: HEADS, head_dim: N + R, start: N },
            cache: &self.cache,
            layer,
            spans: &self.span(n_new, depth),
            block_tables: &self.block_tables,
            kv_lora_rank: C,
            scale: 0.01,
        };
        self.cpu.attend_latent(&args, out);
    }

    fn expanded(&self, n_new: usize, depth: usize, layer: usize, out: &mut Vec<f32>) {
        let heads = |weight: &WeightMatrix, rows| HeadWeights {
            weight: weight.clone(),
            n_heads: HEADS,
            head_stride: rows,
            head_start: 0,
            head_rows: rows,
            transposed: false,
        };
        let args = AttendExpanded {
            q: &self.q,
            q_pe: HeadLayout { n_heads: HEADS, head_dim: N + R, start: N },
            cache: &self.cache,
            layer,
            spans: &self.span(n_new, depth),
            block_tables: &self.block_tables,
            w_uk: &heads(&self.w_uk, N),
            w_uv: &heads(&self.w_uv, V),
            v_head_dim: V,
            scale: 0.01,
        };
        self.cpu.attend_expanded(&args, out);
    }
}

fn main() -> Result<(), DeviceError> {
    let mut args = std::env::args().skip(1);
    let n_threads = args.next().and_then(|n| n.parse().ok()).unwrap_or(1);
    let (only, part) = (args.next(), args.next());
    let mut out = values(512 * HEADS * C);
    for level in Level::available().into_iter().filter(|level| *level != Level::Scalar) {
        for row_format in [RowFormat::BF16, RowFormat::Q8] {
            if only.as_ref().is_some_and(|only| !format!("{} {}", level.name(), row_format.name()).contains(only)) {
                continue;
            }
            let cpu = Cpu::with(level, n_threads).with_activations(Activations::Int8);
            let scene = Scene::new(cpu, row_format, 512)?;
            print!("{} {}:", level.name(), row_format.name());
            for depth in DEPTHS {
                let time =
                    shortest(n_threads, || (0..N_LAYERS).for_each(|layer| scene.latent(1, depth, layer, &mut out)));
                let gop = (2 * N_LAYERS * HEADS * (2 * C + R) * depth) as f64 / 1e9;
                print!(" decode at {depth} {:.1} ms {:.0} GOP/s,", time * 1e3, gop / time);
            }
            if part.as_deref() == Some("decode") {
                println!();
                continue;
            }
            println!();
            for (n, depth) in [(16, 0), (64, 0), (512, 0), (16, 4096), (64, 4096), (512, 4096)] {
                let pairs = n * depth + n * n / 2;
                let absorbed = shortest(n_threads, || scene.latent(n, depth, 0, &mut out));
                let expanded = shortest(n_threads, || scene.expanded(n, depth, 0, &mut out));
                let speed = |macs: usize, time: f64| (2 * HEADS * macs) as f64 / 1e9 / time;
                print!("  {n} at {depth}: a layer absorbed {:.1} ms", absorbed * 1e3);
                print!(" {:.0} GOP/s,", speed((2 * C + R) * pairs, absorbed));
                let macs = (N + R + V) * pairs + (N + V) * C * (n + depth);
                println!(" expanded {:.1} ms {:.0} GOP/s", expanded * 1e3, speed(macs, expanded));
            }
        }
    }
    Ok(())
}
