//! The scheduler under a seeded simulator: random requests arrive, leave in every phase, exhaust the cache, meet a failing
//! device and a failing disk, and are served across restarts. After each step every invariant is checked; each answer must
//! be, token by token, the one computed alone without an engine; in the end no block is held.
//!
//! `MINKE_SIM_SEEDS` sets how many seeds run (default 40), `MINKE_SIM_SEED` the first.
#![allow(clippy::unwrap_used, reason = "a test fails where it unwraps")]

mod requests;
mod world;

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};

use engine::prefix::{BlockKey, Fingerprint, Store, StoreOptions};
use engine::{BLOCK_LEN, Engine, FinishReason, Limits, Rejected, RequestId, Runner};
use ops::RowFormat;

use requests::{Ask, Heard};
use world::{Memory, Rng, World};

const N_STEPS: usize = 1000;

struct Open {
    id: RequestId,
    ask: Ask,
    heard: Arc<Mutex<Heard>>,
    aborted: bool,
}

/// What a run has seen, so that a simulation that tests nothing is noticed.
#[derive(Default, Debug)]
struct Seen {
    n_checked: usize,
    n_aborted: usize,
    n_rejected: usize,
    n_failed: usize,
    n_reused: u64,
    n_restored: u64,
    n_accepted: u64,
    n_steps: u64,
}

struct Simulation {
    rng: Rng,
    limits: Limits,
    disk: Memory,
    engine: Engine<World>,
    open: Vec<Open>,
    seen: Seen,
}

fn engine(limits: Limits, disk: &Memory, seed: u64, uses_disk: bool) -> Engine<World> {
    let world = World::new(limits.n_blocks, seed, seed.is_multiple_of(3));
    let fingerprint = Fingerprint::from([1; 32]);
    let block = world.block_bytes() as u64;
    let options = StoreOptions {
        fingerprint,
        block_len: BLOCK_LEN,
        payload_bytes: world.block_bytes(),
        budget_bytes: 40 * (block + 1024),
        queue_bytes: 8 * (block + 1024) as usize,
    };
    let store = uses_disk.then(|| Store::open_on(Box::new(disk.clone()), "/store", options).unwrap());
    Engine::new(world, limits, BlockKey::root(&fingerprint), store).unwrap()
}

impl Simulation {
    fn new(seed: u64) -> Self {
        let mut rng = Rng(seed);
        let n_context = 64 + rng.below(300);
        let n_tokens = n_context + rng.below(1000);
        let limits = Limits {
            n_queued: 1 + rng.below(20),
            chunk: BLOCK_LEN * (1 + rng.below(3)),
            n_drafts: rng.below(5),
            ..Limits::new(n_context, 1 + rng.below(8), n_tokens, RowFormat::F32)
        };
        let disk = Memory::default();
        disk.fails_once_in.store([0, 0, 10, 3][rng.below(4)], Ordering::Relaxed);
        let engine = engine(limits, &disk, seed, seed.is_multiple_of(2));
        Self { rng, limits, disk, engine, open: Vec::new(), seen: Seen::default() }
    }

    fn submit(&mut self) {
        let ask = Ask::random(&mut self.rng, self.limits.n_context, self.limits.n_running);
        let heard = Heard::new(ask.n);
        match self.engine.submit(ask.request(&heard)) {
            Ok(id) => self.open.push(Open { id, ask, heard, aborted: false }),
            Err(Rejected::QueueFull { .. } | Rejected::ContextLength { .. } | Rejected::CacheSize { .. }) => {
                self.seen.n_rejected += 1;
            }
            Err(other) => panic!("{other}"),
        }
    }

    /// Takes leave of the requests that have ended, and checks their answers.
    fn check_answers(&mut self, failed: bool) {
        let (limits, seen) = (&self.limits, &mut self.seen);
        self.open.retain(|open| {
            let heard = open.heard.lock().unwrap();
            if heard.ends.iter().any(Option::is_none) {
                return true;
            }
            for (index, (found, end)) in heard.completions.iter().zip(&heard.ends).enumerate() {
                let (reason, usage) = end.unwrap();
                let (expected, why) = open.ask.answer(index, limits.n_context);
                assert_eq!(usage.n_completion, found.len());
                match reason {
                    // Cut short, but what was said was right.
                    FinishReason::Failed => assert!(failed && expected.starts_with(found)),
                    FinishReason::Aborted => {
                        let left = open.ask.leaves_after < usize::MAX;
                        assert!(open.aborted || left, "aborted by nobody");
                        assert!(expected.starts_with(found));
                        seen.n_aborted += 1;
                    }
                    _ => {
                        assert_eq!((found, reason), (&expected, why), "completion {index}");
                        seen.n_checked += 1;
                    }
                }
            }
            false
        });
    }

    fn step(&mut self) {
        if self.rng.once_in(4) {
            self.submit();
        }
        if self.rng.once_in(20) && !self.open.is_empty() {
            let i = self.rng.below(self.open.len());
            self.open[i].aborted = true;
            self.engine.abort(self.open[i].id);
            self.engine.check_invariants();
        }
        self.engine.runner().fails_once_in = if self.rng.once_in(50) { 2 } else { 0 };
        let failed = self.engine.step().is_err();
        if failed {
            self.seen.n_failed += 1;
            self.engine.fail_all();
        }
        self.engine.check_invariants();
        self.check_answers(failed);
    }

    /// The process ends and another begins with what is on disk.
    fn restart(&mut self) {
        self.engine.fail_all();
        self.check_answers(true);
        assert!(self.open.is_empty());
        self.count();
        let uses_disk = self.rng.once_in(2);
        // A closing store writes what waits; a killed one would not, which is the same as a disk that failed.
        self.engine = engine(self.limits, &self.disk, self.rng.next(), uses_disk);
    }

    fn count(&mut self) {
        let stats = self.engine.stats();
        self.seen.n_reused += stats.n_reused;
        self.seen.n_restored += stats.n_restored;
        self.seen.n_accepted += stats.n_accepted;
        self.seen.n_steps += stats.n_steps;
    }

    fn run(mut self) -> Seen {
        for _ in 0..N_STEPS {
            self.step();
            if self.rng.once_in(300) {
                self.restart();
            }
        }
        // Nobody is forgotten: with nothing new, all that waits is served in the end.
        self.engine.runner().fails_once_in = 0;
        for _ in 0..1_000_000 {
            if !self.engine.has_work() {
                break;
            }
            self.engine.step().unwrap();
            self.engine.check_invariants();
            self.check_answers(false);
        }
        assert!(!self.engine.has_work() && self.open.is_empty(), "requests are left over");
        assert_eq!(self.engine.stats().n_blocks_held, 0, "blocks are held by nobody");
        self.count();
        self.seen
    }
}

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

#[test]
fn every_answer_is_right_and_nothing_leaks_whatever_happens() {
    let first = number("MINKE_SIM_SEED", 0);
    let n_seeds = number("MINKE_SIM_SEEDS", 40);
    let mut total = Seen::default();
    for seed in first..first + n_seeds {
        let run = std::panic::catch_unwind(|| Simulation::new(seed).run());
        let seen = run.unwrap_or_else(|_| panic!("seed {seed} failed: MINKE_SIM_SEED={seed} MINKE_SIM_SEEDS=1"));
        total.n_checked += seen.n_checked;
        total.n_aborted += seen.n_aborted;
        total.n_rejected += seen.n_rejected;
        total.n_failed += seen.n_failed;
        total.n_reused += seen.n_reused;
        total.n_restored += seen.n_restored;
        total.n_accepted += seen.n_accepted;
        total.n_steps += seen.n_steps;
    }
    println!("{n_seeds} seeds: {total:?}");
    assert!(total.n_checked > 0 && total.n_aborted > 0 && total.n_rejected > 0 && total.n_failed > 0);
    assert!(total.n_reused > 0 && total.n_restored > 0 && total.n_accepted > 0);
}
