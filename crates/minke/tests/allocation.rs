//! A decode step allocates nothing: on every level, with one and with two threads, for every kind of model; nor does a step
//! of the engine's running streams, with drafts. Requests leave no memory behind, however they end.
//!
//! Owns the allocator that counts. One test only, because the count is of the whole process.
#![expect(unsafe_code, reason = "an allocator is an unsafe trait")]
#![allow(clippy::unwrap_used, reason = "a test fails where it unwraps")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use cpu::{Cpu, Level};
use engine::prefix::{BlockKey, Fingerprint};
use engine::{
    Engine, FinishReason, Limits, ModelRunner, Reply, Request, Sampling, Session, SessionOptions, Sink, argmax,
};
use model::{Form, Model};
use ops::{Activations, RowFormat};
use testkit::oracle::{fixtures, oracles};

mod common;
use common::quantise_model;

struct Counting;

static N_CALLS: AtomicUsize = AtomicUsize::new(0);
static N_BYTES: AtomicUsize = AtomicUsize::new(0);
static N_LIVE: AtomicUsize = AtomicUsize::new(0);

fn count(n_bytes: usize) {
    N_CALLS.fetch_add(1, Ordering::Relaxed);
    N_BYTES.fetch_add(n_bytes, Ordering::Relaxed);
    N_LIVE.fetch_add(n_bytes, Ordering::Relaxed);
}

// SAFETY: every call goes to the system's allocator unchanged; only numbers are kept beside it.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size());
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(layout.size());
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        count(new_size);
        N_LIVE.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's promise is passed on.
        unsafe { System.realloc(memory, layout, new_size) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        N_LIVE.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's promise is passed on.
        unsafe { System.dealloc(memory, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Calls of the allocator during `work`, and the bytes asked for.
fn allocated(work: impl FnOnce()) -> [usize; 2] {
    let now = || [N_CALLS.load(Ordering::SeqCst), N_BYTES.load(Ordering::SeqCst)];
    let [calls, bytes] = now();
    work();
    let [calls_after, bytes_after] = now();
    [calls_after - calls, bytes_after - bytes]
}

/// Steps before the count begins, and counted ones: both cross into new cache blocks.
const N_WARM: usize = 8;
const N_COUNTED: usize = 70;

#[test]
fn a_decode_step_allocates_nothing_and_requests_leave_nothing_behind() {
    sessions_allocate_nothing();
    streams_allocate_nothing();
    requests_leave_nothing_behind();
}

fn sessions_allocate_nothing() {
    let wanted = ["dsv2_lite", "dsv3", "qwen2"];
    let oracles: Vec<_> = oracles(&fixtures()).into_iter().filter(|o| wanted.contains(&o.name.as_str())).collect();
    assert_eq!(oracles.len(), wanted.len());
    for level in Level::available() {
        for (oracle, n_threads) in oracles.iter().flat_map(|oracle| [(oracle, 1), (oracle, 2)]) {
            let cpu = Cpu::with(level, n_threads).with_activations(Activations::Int8);
            let mut model = oracle.load(&cpu).unwrap();
            let check = |model: &Model<Cpu>, row_format: RowFormat, n_prompt: usize| {
                let [calls, bytes] = decode(&cpu, model, row_format, n_prompt);
                assert!(
                    calls == 0,
                    "{calls} calls for {bytes} bytes in {N_COUNTED} steps of {} behind {n_prompt} tokens, {} rows, \
                     {} weights, {}, {n_threads} threads",
                    oracle.name,
                    row_format.name(),
                    model.head.as_ref().unwrap().format,
                    level.name()
                );
            };
            check(&model, RowFormat::F32, 60);
            // Two ranges of attention.
            check(&model, RowFormat::Q8, 508);
            quantise_model(&mut model);
            check(&model, RowFormat::BF16, 60);
        }
    }
}

/// What the allocator is asked for during the counted steps.
fn decode(cpu: &Cpu, model: &Model<Cpu>, row_format: RowFormat, n_prompt: usize) -> [usize; 2] {
    let n_context = n_prompt + N_WARM + N_COUNTED;
    let mut session =
        Session::new(cpu, model, SessionOptions { n_context, chunk: 64, form: Form::Auto, row_format }).unwrap();
    let prompt: Vec<u32> = (0..n_prompt as u32).map(|i| (i * 37 + 5) % model.config.vocab_size as u32).collect();
    let mut next = argmax(session.push(&prompt).unwrap());
    let mut steps = |n: usize| {
        for _ in 0..n {
            next = argmax(session.push(&[next]).unwrap());
        }
    };
    steps(N_WARM);
    allocated(|| steps(N_COUNTED))
}

type Runs = Engine<ModelRunner<Cpu, Arc<Cpu>>>;

/// An engine over a fixture whose module drafts, too.
fn engine(limits: Limits, n_threads: usize) -> Runs {
    let cpu = Arc::new(Cpu::with(Level::detect(), n_threads).with_activations(Activations::Int8));
    let oracle = oracles(&fixtures()).into_iter().find(|oracle| oracle.name == "dsv3").unwrap();
    let mut model = oracle.load(&*cpu).unwrap();
    quantise_model(&mut model);
    let runner = ModelRunner::new(cpu, Arc::new(model), &limits).unwrap();
    Engine::new(runner, limits, BlockKey::root(&Fingerprint::from([0; 32])), None).unwrap()
}

fn request(i: usize, n_prompt: usize, max_tokens: usize, sink: Sink) -> Request {
    let n = n_prompt as u32;
    Request {
        prompt: (0..n).map(|t| if t % 40 < 20 { t % 20 } else { (t * 31 + i as u32 * 17) % 500 }).collect(),
        max_tokens,
        end_tokens: Arc::new([]),
        sampling: Sampling {
            temperature: [0.0, 0.7][i % 2],
            top_p: 0.95,
            repetition_penalty: [1.0, 1.1][i / 2 % 2],
            ..Sampling::GREEDY
        },
        n: 1,
        thinking: None,
        mask: None,
        stops_loops: true,
        speculates: true,
        owner: i as u64 % 3,
        sink,
    }
}

fn streams_allocate_nothing() {
    for n_threads in [1, 2] {
        let mut engine = engine(Limits::new(600, 6, 6 * 600, RowFormat::BF16), n_threads);
        for i in 0..6 {
            engine.submit(request(i, 30 + 40 * i, 300, Box::new(|_| Reply::Continue))).unwrap();
        }
        while engine.stats().n_decoded < 60 {
            engine.step().unwrap();
        }
        let before = engine.stats();
        let [calls, bytes] = allocated(|| (0..N_COUNTED).for_each(|_| engine.step().unwrap()));
        let after = engine.stats();
        assert!(after.n_drafted > before.n_drafted && after.n_decoded > before.n_decoded + 6 * 64);
        assert_eq!(calls, 0, "{calls} calls for {bytes} bytes in {N_COUNTED} steps with {n_threads} threads");
    }
}

/// Requests after which memory is measured, and those after it.
const N_REQUESTS: [usize; 2] = [2_000, 10_000];

fn requests_leave_nothing_behind() {
    let mut engine = engine(Limits { n_queued: 64, ..Limits::new(200, 8, 1600, RowFormat::BF16) }, 1);
    let mut open = Vec::new();
    let (mut state, mut n_aborted) = (1u64, 0);
    let ended = Arc::new(AtomicUsize::new(0));
    let mut live = Vec::new();
    for i in 0..N_REQUESTS[1] {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let random = (state >> 33) as usize;
        let sink: Sink = {
            let ended = ended.clone();
            let leaves = random.is_multiple_of(7);
            Box::new(move |event| match event {
                engine::Event::Finished { reason, .. } => {
                    ended.fetch_add(1 + 1_000_000 * usize::from(reason == FinishReason::Aborted), Ordering::Relaxed);
                    Reply::Continue
                }
                engine::Event::Token { .. } if leaves => Reply::Abort,
                _ => Reply::Continue,
            })
        };
        let id = engine.submit(request(i, 1 + random % 60, 1 + random % 3, sink)).unwrap();
        open.push(id);
        if random.is_multiple_of(3) {
            engine.abort(open.swap_remove(random / 3 % open.len()));
        }
        while engine.stats().n_queued > random % 8 {
            engine.step().unwrap();
        }
        if open.len() > 40 {
            open.remove(0);
        }
        if i + 1 == N_REQUESTS[0] || i + 1 == N_REQUESTS[1] {
            while engine.has_work() {
                engine.step().unwrap();
            }
            engine.check_invariants();
            assert_eq!(engine.stats().n_blocks_held, 0, "blocks are held by nobody");
            n_aborted = ended.load(Ordering::Relaxed) / 1_000_000;
            assert_eq!(ended.load(Ordering::Relaxed) % 1_000_000, i + 1, "requests without an end");
            open.clear();
            live.push(N_LIVE.load(Ordering::SeqCst));
        }
    }
    assert!(n_aborted > N_REQUESTS[1] / 10);
    // Queues grow to their longest once; 8,000 requests more leave less than a byte each.
    assert!(live[1] < live[0] + 8_000, "live bytes after {N_REQUESTS:?} requests: {live:?}");
}
