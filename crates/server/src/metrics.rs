//! What the server counts, in Prometheus' text format.
//!
//! Owns the counters of requests and their times; the engine's come from its own statistics. Must not measure prompts or
//! keys by name.

use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use engine::Stats;

use crate::generate::End;

/// Upper bounds of the histograms, in seconds.
const BOUNDS_S: [f64; 12] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 60.0, 600.0];

/// Times, counted by size.
#[derive(Default)]
pub(crate) struct Histogram {
    buckets: [AtomicU64; BOUNDS_S.len() + 1],
    sum_us: AtomicU64,
}

impl Histogram {
    pub(crate) fn add(&self, time: Duration) {
        let seconds = time.as_secs_f64();
        let bucket = BOUNDS_S.iter().position(|bound| seconds <= *bound).unwrap_or(BOUNDS_S.len());
        self.buckets[bucket].fetch_add(1, Ordering::Relaxed);
        self.sum_us.fetch_add(time.as_micros() as u64, Ordering::Relaxed);
    }

    fn write(&self, out: &mut String, name: &str, help: &str) {
        head(out, name, help, "histogram");
        let mut n = 0;
        for (bound, bucket) in BOUNDS_S.iter().zip(&self.buckets) {
            n += bucket.load(Ordering::Relaxed);
            let _ = writeln!(out, "{name}_bucket{{le=\"{bound}\"}} {n}");
        }
        n += self.buckets[BOUNDS_S.len()].load(Ordering::Relaxed);
        let sum = self.sum_us.load(Ordering::Relaxed) as f64 / 1e6;
        let _ = write!(out, "{name}_bucket{{le=\"+Inf\"}} {n}\n{name}_sum {sum}\n{name}_count {n}\n");
    }
}

/// The server's counters.
#[derive(Default)]
pub(crate) struct Metrics {
    /// Answers to HTTP requests, by the first digit of their status.
    pub(crate) n_by_class: [AtomicU64; 6],
    /// Completions that ended.
    pub(crate) n_completions: AtomicU64,
    /// Requests that were told to come again.
    pub(crate) n_refused: AtomicU64,
    /// Requests whose client left.
    pub(crate) n_left: AtomicU64,
    /// Requests that the engine failed.
    pub(crate) n_failed: AtomicU64,
    /// Tokens of completions that were reasoning.
    pub(crate) n_reasoning: AtomicU64,
    /// Connections that are open.
    pub(crate) n_connections: AtomicU64,
    /// From a request to its first token.
    pub(crate) first_token: Histogram,
    /// From a request to its last token.
    pub(crate) whole: Histogram,
}

impl Metrics {
    /// A completion has ended.
    pub(crate) fn answered(&self, time: Duration, end: &End) {
        self.n_completions.fetch_add(1, Ordering::Relaxed);
        self.n_reasoning.fetch_add(end.n_reasoning as u64, Ordering::Relaxed);
        self.whole.add(time);
    }

    /// Everything, as Prometheus reads it.
    pub(crate) fn text(&self, engine: Option<&Stats>) -> String {
        let mut out = String::new();
        let load = |n: &AtomicU64| n.load(Ordering::Relaxed);
        head(&mut out, "minke_http_responses_total", "Answers to HTTP requests.", "counter");
        for (class, n) in self.n_by_class.iter().enumerate().skip(1) {
            let _ = writeln!(out, "minke_http_responses_total{{class=\"{class}xx\"}} {}", load(n));
        }
        let counters = [
            ("minke_completions_total", "Completions that ended.", &self.n_completions),
            ("minke_requests_refused_total", "Requests that met a full queue.", &self.n_refused),
            ("minke_requests_abandoned_total", "Requests whose client left.", &self.n_left),
            ("minke_requests_failed_total", "Requests that the engine failed.", &self.n_failed),
            ("minke_reasoning_tokens_total", "Tokens of completions that were reasoning.", &self.n_reasoning),
        ];
        counters.iter().for_each(|(name, help, n)| one(&mut out, name, help, "counter", load(n) as f64));
        let n = load(&self.n_connections) as f64;
        one(&mut out, "minke_connections", "Connections that are open.", "gauge", n);
        self.first_token.write(&mut out, "minke_time_to_first_token_seconds", "From a request to its first token.");
        self.whole.write(&mut out, "minke_request_seconds", "From a request to its last token.");
        engine.into_iter().for_each(|stats| of_engine(&mut out, stats));
        out
    }
}

fn of_engine(out: &mut String, stats: &Stats) {
    let counters = [
        ("minke_prompt_tokens_computed_total", "Tokens of prompts that were computed.", stats.n_read),
        ("minke_prompt_tokens_cached_total", "Tokens of prompts that were found.", stats.n_reused),
        ("minke_prompt_tokens_restored_total", "Those of them that came from disk.", stats.n_restored),
        ("minke_completion_tokens_total", "Tokens of completions.", stats.n_decoded),
        ("minke_draft_tokens_total", "Drafts that were verified.", stats.n_drafted),
        ("minke_draft_tokens_accepted_total", "Drafts that were right.", stats.n_accepted),
        ("minke_engine_steps_total", "Steps of the engine.", stats.n_steps),
    ];
    counters.iter().for_each(|(name, help, n)| one(out, name, help, "counter", *n as f64));
    one(out, "minke_masks_total", "Masks of grammars.", "counter", stats.masks.n as f64);
    for (name, help, time) in [
        ("minke_masks_seconds_total", "Time that they took, on a thread of their own.", stats.masks.computed),
        ("minke_masks_waited_seconds_total", "Time that steps waited for them.", stats.masks.waited),
    ] {
        one(out, name, help, "counter", time.as_secs_f64());
    }
    let gauges = [
        ("minke_sequences_running", "Sequences that run.", stats.n_running),
        ("minke_requests_waiting", "Requests that wait.", stats.n_queued),
        ("minke_cache_blocks", "Blocks of the cache.", stats.n_blocks),
        ("minke_cache_blocks_held", "Blocks that sequences hold.", stats.n_blocks_held),
        ("minke_cache_blocks_kept", "Blocks that none holds and that can be found.", stats.n_blocks_kept),
    ];
    gauges.iter().for_each(|(name, help, n)| one(out, name, help, "gauge", *n as f64));
}

fn head(out: &mut String, name: &str, help: &str, kind: &str) {
    // Writing to a string cannot fail.
    let _ = write!(out, "# HELP {name} {help}\n# TYPE {name} {kind}\n");
}

fn one(out: &mut String, name: &str, help: &str, kind: &str, value: f64) {
    head(out, name, help, kind);
    let _ = writeln!(out, "{name} {value}");
}
