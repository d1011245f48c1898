//! How the machine is doing: memory, cache, queue, and speed over the last minutes.
//!
//! Owns what is remembered of the engine's counters over time, and their form for the page. Must not count anything itself.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::extract::State;
use axum::response::Response;
use engine::Stats;
use serde::Serialize;
use utoipa::ToSchema;

use crate::activity::ActiveRequest;
use crate::app::App;
use crate::error::Errors;
use crate::generate::now_s;
use crate::status::stats;
use crate::stream::json;

/// Time between two looks at the counters.
const INTERVAL: Duration = Duration::from_secs(2);
/// Looks that are remembered: a quarter of an hour.
const N_SAMPLES: usize = 450;
/// Requests that are listed one by one.
const N_REQUESTS: usize = 64;

/// The counters over the last minutes.
pub(crate) struct History {
    started: Instant,
    samples: Mutex<VecDeque<Sample>>,
}

#[derive(Clone, Copy)]
struct Sample {
    at_s: u64,
    since: Duration,
    stats: Counters,
}

#[derive(Clone, Copy, Default)]
struct Counters {
    n_read: u64,
    n_decoded: u64,
    n_running: usize,
    n_queued: usize,
    n_held: usize,
    n_kept: usize,
}

impl Default for History {
    fn default() -> Self {
        Self { started: Instant::now(), samples: Mutex::default() }
    }
}

impl History {
    fn add(&self, stats: &Stats) {
        let stats = Counters {
            n_read: stats.n_read,
            n_decoded: stats.n_decoded,
            n_running: stats.n_running,
            n_queued: stats.n_queued,
            n_held: stats.n_blocks_held,
            n_kept: stats.n_blocks_kept,
        };
        let mut samples = self.samples.lock().unwrap_or_else(PoisonError::into_inner);
        samples.push_back(Sample { at_s: now_s(), since: self.started.elapsed(), stats });
        while samples.len() > N_SAMPLES {
            samples.pop_front();
        }
    }

    fn series(&self) -> Series {
        let samples = self.samples.lock().unwrap_or_else(PoisonError::into_inner);
        let mut series = Series::default();
        for (before, now) in samples.iter().zip(samples.iter().skip(1)) {
            let seconds = (now.since - before.since).as_secs_f64().max(1e-3);
            let rate = |before: u64, now: u64| now.saturating_sub(before) as f64 / seconds;
            series.at_s.push(now.at_s);
            series.prompt_tokens_per_s.push(rate(before.stats.n_read, now.stats.n_read));
            series.completion_tokens_per_s.push(rate(before.stats.n_decoded, now.stats.n_decoded));
            series.running.push(now.stats.n_running);
            series.waiting.push(now.stats.n_queued);
            series.blocks_held.push(now.stats.n_held);
            series.blocks_kept.push(now.stats.n_kept);
        }
        series
    }
}

/// Looks at the counters from time to time, for as long as it is polled.
pub(crate) async fn watch(app: App) {
    loop {
        if let Some(stats) = stats(&app).await {
            app.history.add(&stats);
        }
        tokio::time::sleep(INTERVAL).await;
    }
}

/// A machine and the model on it.
#[derive(Serialize, ToSchema)]
pub(crate) struct Machine {
    model: ModelFacts,
    /// Whether conversations can be stored here.
    stores_chats: bool,
    /// Seconds since the server began.
    uptime_s: f64,
    /// What memory is taken for.
    memory: Vec<MemoryUse>,
    cache: CacheUse,
    tokens: TokenCounts,
    /// Requests that run or wait, the oldest first, some tens at most.
    requests: Vec<ActiveRequest>,
    n_running: usize,
    n_waiting: usize,
    /// Requests that run at once at most.
    n_running_max: usize,
    /// Requests that run or wait at most.
    n_requests_max: usize,
    history: Series,
}

/// The model that is served.
#[derive(Serialize, ToSchema)]
struct ModelFacts {
    name: String,
    /// Longest sequence in tokens.
    n_context: usize,
    /// Whether it has tokens around its reasoning.
    can_think: bool,
    /// How the model wants to be sampled, as in its generation_config.json.
    generation: serde_json::Value,
}

/// A use of memory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct MemoryUse {
    /// What for: `weights`, `cache` or `workspace`.
    pub name: String,
    /// How much.
    pub bytes: u64,
}

/// Blocks of the cache.
#[derive(Default, Serialize, ToSchema)]
struct CacheUse {
    /// Tokens in a block.
    block_tokens: usize,
    n_blocks: usize,
    /// Blocks that sequences hold.
    n_held: usize,
    /// Blocks that none holds and whose contents can still be found.
    n_kept: usize,
}

/// Tokens since the server began.
#[derive(Default, Serialize, ToSchema)]
struct TokenCounts {
    /// Of prompts, computed.
    prompt_computed: u64,
    /// Of prompts, found in the cache.
    prompt_cached: u64,
    /// Those of them that came from disk.
    prompt_restored: u64,
    completion: u64,
    /// Drafts that were verified.
    drafted: u64,
    /// Drafts that were right.
    accepted: u64,
}

/// The last minutes, a number per time.
#[derive(Default, Serialize, ToSchema)]
struct Series {
    /// Seconds since 1970.
    at_s: Vec<u64>,
    prompt_tokens_per_s: Vec<f64>,
    completion_tokens_per_s: Vec<f64>,
    running: Vec<usize>,
    waiting: Vec<usize>,
    blocks_held: Vec<usize>,
    blocks_kept: Vec<usize>,
}

/// How the machine is doing.
#[utoipa::path(get, path = "/api/machine", tag = "Minke", responses((status = 200, body = Machine), Errors))]
pub(crate) async fn machine(State(app): State<App>) -> Response {
    let stats = stats(&app).await.unwrap_or_default();
    let facts = &app.model.facts;
    json(&Machine {
        model: ModelFacts {
            name: facts.name.clone(),
            n_context: facts.n_context,
            can_think: app.model.think.is_some(),
            generation: facts.generation.clone(),
        },
        stores_chats: app.chats.is_some(),
        uptime_s: app.history.started.elapsed().as_secs_f64(),
        memory: app.options.memory.clone(),
        cache: CacheUse {
            block_tokens: engine::BLOCK_LEN,
            n_blocks: stats.n_blocks,
            n_held: stats.n_blocks_held,
            n_kept: stats.n_blocks_kept,
        },
        tokens: TokenCounts {
            prompt_computed: stats.n_read,
            prompt_cached: stats.n_reused,
            prompt_restored: stats.n_restored,
            completion: stats.n_decoded,
            drafted: stats.n_drafted,
            accepted: stats.n_accepted,
        },
        requests: app.activity.first(N_REQUESTS),
        n_running: stats.n_running,
        n_waiting: stats.n_queued,
        n_running_max: facts.n_running,
        n_requests_max: app.options.n_requests,
        history: app.history.series(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_come_from_differences_and_old_ones_are_forgotten() {
        let history = History::default();
        for n in 0..N_SAMPLES as u64 + 5 {
            history.add(&Stats { n_decoded: n * 10, n_running: 1, ..Stats::default() });
        }
        let series = history.series();
        assert_eq!(series.at_s.len(), N_SAMPLES - 1);
        assert!(series.completion_tokens_per_s.iter().all(|rate| *rate > 0.0));
        assert!(series.prompt_tokens_per_s.iter().all(|rate| *rate == 0.0));
    }
}
