//! How long choosing a token takes: `cargo run --release -p engine --example sampling -- [VOCAB]`.
//!
//! Two shapes of logits: *peaked*, where a few tokens hold nearly all of the probability, as a model's usually do, and
//! *flat*, normally distributed, where tens of thousands of tokens share it: the worst case of cuts. Every line also
//! prints how many different tokens came up, which tells the two apart and keeps the work from being optimised away.

#![expect(clippy::print_stdout, reason = "an example that reports to a person")]

use std::collections::BTreeSet;
use std::time::Instant;

use engine::draft::Lookup;
use engine::{History, LoopDetector, Place, Sampler, Sampling};

/// Choices per line: the median of as many is reported.
const N_CHOICES: u64 = 201;
/// Length of the sequence that loops and drafts are looked for in.
const N_TOKENS: u64 = 131_072;

fn main() {
    let vocab: usize = std::env::args().nth(1).and_then(|n| n.parse().ok()).unwrap_or(129_280);
    let flat: Vec<f32> = (0..vocab as u64).map(|i| 2.5 * normal(i)).collect();
    // 1/rank² on top of the noise.
    let mut peaked = flat.clone();
    for rank in 0..1000 {
        peaked[(rank * 7919 + 13) % vocab] = 24.0 - 2.0 * ((rank + 1) as f32).ln();
    }
    let mask: Vec<u32> =
        (0..vocab.div_ceil(32) as u64).map(|i| if i % 3 == 0 { u32::MAX } else { noise(i) as u32 }).collect();
    let mut history = History::with_capacity(4096.min(vocab));
    (0..4096u64).for_each(|i| history.push((noise(i) % (vocab as u64 / 40)) as u32));

    println!("{:32} {:>14} {:>20}", format!("vocabulary of {vocab}"), "peaked", "flat");
    let warm = Sampling { temperature: 0.6, ..Sampling::GREEDY };
    let settings = [
        ("greedy", Sampling::GREEDY, false),
        ("greedy, mask", Sampling::GREEDY, true),
        ("T 0.6", warm.clone(), false),
        ("T 0.6, top-p 0.95", Sampling { top_p: 0.95, ..warm.clone() }, false),
        ("T 0.6, top-p 0.5", Sampling { top_p: 0.5, ..warm.clone() }, false),
        ("T 0.6, top-p 0.1", Sampling { top_p: 0.1, ..warm.clone() }, false),
        ("T 0.6, top-k 40", Sampling { top_k: 40, ..warm.clone() }, false),
        ("T 0.6, top-k 40, top-p 0.95", Sampling { top_k: 40, top_p: 0.95, ..warm.clone() }, false),
        ("T 0.6, top-k 2000", Sampling { top_k: 2000, ..warm.clone() }, false),
        ("T 0.6, min-p 0.05", Sampling { min_p: 0.05, ..warm.clone() }, false),
        ("T 0.6, top-p 0.95, 0 logprobs", Sampling { top_p: 0.95, top_logprobs: Some(0), ..warm.clone() }, false),
        ("T 0.6, top-p 0.95, 20 logprobs", Sampling { top_p: 0.95, top_logprobs: Some(20), ..warm.clone() }, false),
        (
            "T 0.6, top-p 0.95, penalties",
            Sampling { top_p: 0.95, repetition_penalty: 1.1, presence_penalty: 0.5, ..warm.clone() },
            false,
        ),
        ("T 0.6, top-p 0.95, mask", Sampling { top_p: 0.95, ..warm }, true),
    ];
    let mut sampler = Sampler::new(vocab);
    for (name, sampling, masked) in settings {
        let mask = masked.then_some(mask.as_slice());
        let line = [&peaked, &flat].map(|logits| {
            let mut tokens = BTreeSet::new();
            let mut micros: Vec<f64> = (0..N_CHOICES)
                .map(|position| {
                    let place = Place { sequence: 0, position };
                    let start = Instant::now();
                    let choice = sampler.choose(logits, &sampling, &history, mask, &[], place);
                    let elapsed = start.elapsed().as_secs_f64() * 1e6;
                    tokens.extend(choice.map(|choice| choice.token));
                    elapsed
                })
                .collect();
            micros.sort_by(f64::total_cmp);
            format!("{:7.1} µs {:>4}", micros[micros.len() / 2], tokens.len())
        });
        println!("{name:32} {:>14} {:>20}", line[0], line[1]);
    }
    println!();
    println!(
        "loop detector  {:6.3} µs per token",
        per_token(LoopDetector::default(), |detector, i| {
            _ = detector.push(noise(i) as u32 % 1000);
        })
    );
    println!(
        "lookup         {:6.3} µs per token",
        per_token(Lookup::with_capacity(N_TOKENS as usize), |lookup, i| {
            lookup.push(noise(i) as u32 % 1000);
            lookup.propose(&mut [0; 8]);
        })
    );
}

/// Microseconds that a token takes, from the time of many.
fn per_token<T>(mut state: T, mut push: impl FnMut(&mut T, u64)) -> f64 {
    let start = Instant::now();
    (0..N_TOKENS).for_each(|i| push(&mut state, i));
    start.elapsed().as_secs_f64() * 1e6 / N_TOKENS as f64
}

/// SplitMix64 of a counter.
fn noise(i: u64) -> u64 {
    let z = (i + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// A normally distributed number, by Box and Muller.
fn normal(i: u64) -> f32 {
    let uniform = |i| (noise(i) >> 11) as f64 / (1u64 << 53) as f64;
    ((-2.0 * (1.0 - uniform(2 * i)).ln()).sqrt() * (std::f64::consts::TAU * uniform(2 * i + 1)).cos()) as f32
}
