//! The engine with whole models on the CPU: the same answer alone, in any batch, with any number of threads, with drafts
//! and without; with `deterministic` also behind prefixes that were found in memory or restored from disk.
//!
//! The scheduler's own rules are tested in `crates/engine/tests/simulation`.
#![allow(clippy::unwrap_used, reason = "a test fails where it unwraps")]

mod common;

use std::sync::{Arc, Mutex};

use common::quantise_model;
use cpu::{Cpu, Level};
use engine::prefix::{BlockKey, Fingerprint, Store, StoreOptions};
use engine::{
    BLOCK_LEN, Engine, EngineThread, Event, FinishReason, Limits, ModelRunner, Reply, Request, Runner, Sampling, Stats,
};
use model::Model;
use ops::{Activations, RowFormat};
use testkit::oracle::{fixtures, oracles};

const N_CONTEXT: usize = 700;

/// SplitMix64.
struct Rng(u64);

impl Rng {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % n as u64) as usize
    }
}

#[derive(Clone)]
struct Ask {
    prompt: Vec<u32>,
    max_tokens: usize,
    sampling: Sampling,
    speculates: bool,
}

/// Requests of many lengths. With `shared`, most begin as others do.
fn asks(n: usize, vocab: usize, shared: bool) -> Vec<Ask> {
    let mut rng = Rng(11);
    let random = |n: usize, rng: &mut Rng| (0..n).map(|_| rng.below(vocab) as u32).collect::<Vec<_>>();
    let texts: Vec<Vec<u32>> = (0..3).map(|_| random(N_CONTEXT, &mut rng)).collect();
    let ask = |i: usize| {
        let n_prompt = 1 + [8, 70, 200, 600][i % 4].min(1 + rng.below(650));
        let mut prompt = random(n_prompt, &mut rng);
        match shared {
            true => {
                let n_shared = rng.below(n_prompt);
                prompt[..n_shared].copy_from_slice(&texts[i % 3][..n_shared]);
            }
            // A found prefix moves the boundary of what is computed together, be it one token long.
            false => prompt[0] = i as u32,
        }
        let temperature = if i.is_multiple_of(2) { 0.0 } else { 1.0 };
        let repetition_penalty = if i.is_multiple_of(5) { 1.1 } else { 1.0 };
        let sampling = Sampling { temperature, repetition_penalty, top_p: 0.95, seed: i as u64, ..Sampling::GREEDY };
        Ask { prompt, max_tokens: 1 + rng.below(24), sampling, speculates: !i.is_multiple_of(3) }
    };
    (0..n).map(ask).collect()
}

type Answer = Arc<Mutex<(Vec<u32>, Option<FinishReason>)>>;

fn request(ask: &Ask, speculates: bool) -> (Request, Answer) {
    let answer = Answer::default();
    let heard = answer.clone();
    let sink = move |event: Event<'_>| {
        let mut heard = heard.lock().unwrap();
        match event {
            Event::Token { token, .. } => heard.0.push(token),
            Event::Finished { reason, .. } => heard.1 = Some(reason),
            _ => {}
        }
        Reply::Continue
    };
    let request = Request {
        prompt: ask.prompt.clone(),
        max_tokens: ask.max_tokens,
        end_tokens: Arc::new([]),
        sampling: ask.sampling.clone(),
        n: 1,
        thinking: None,
        mask: None,
        stops_loops: false,
        speculates,
        owner: 0,
        sink: Box::new(sink),
    };
    (request, answer)
}

struct Fixture {
    name: String,
    model: Arc<Model<Cpu>>,
    vocab: usize,
}

fn fixture(name: &str, cpu: &Cpu) -> Fixture {
    let oracle = oracles(&fixtures()).into_iter().find(|oracle| oracle.name == name).unwrap();
    let mut model = oracle.load(cpu).unwrap();
    quantise_model(&mut model);
    let vocab = model.config.vocab_size;
    Fixture { name: name.to_owned(), model: Arc::new(model), vocab }
}

fn engine(f: &Fixture, n_threads: usize, limits: Limits, store: Option<Store>) -> Engine<ModelRunner<Cpu, Arc<Cpu>>> {
    let cpu = Arc::new(Cpu::with(Level::detect(), n_threads).with_activations(Activations::Int8));
    let runner = ModelRunner::new(cpu, f.model.clone(), &limits).unwrap();
    Engine::new(runner, limits, BlockKey::root(&Fingerprint::from([3; 32])), store).unwrap()
}

fn limits(n_running: usize, n_tokens: usize) -> Limits {
    Limits { n_queued: 1000, ..Limits::new(N_CONTEXT, n_running, n_tokens, RowFormat::BF16) }
}

/// Each request in an engine that never saw another, one thread, no drafts.
fn alone(f: &Fixture, asks: &[Ask], deterministic: bool) -> Vec<Vec<u32>> {
    let limits = Limits { deterministic, n_drafts: 0, ..limits(1, N_CONTEXT) };
    let mut engine = engine(f, 1, limits, None);
    let answer = |ask: &Ask| {
        engine.clear_prefixes(BlockKey::root(&Fingerprint::from([4; 32])));
        let (request, answer) = request(ask, false);
        engine.submit(request).unwrap();
        while engine.has_work() {
            engine.step().unwrap();
        }
        let (tokens, reason) = answer.lock().unwrap().clone();
        assert_eq!(reason, Some(FinishReason::Length));
        tokens
    };
    asks.iter().map(answer).collect()
}

/// All requests in one engine, arriving a few at a time.
fn together<R: Runner>(engine: &mut Engine<R>, asks: &[Ask], speculates: bool) -> (Vec<Vec<u32>>, Stats) {
    let mut rng = Rng(5);
    let mut waiting = asks.iter().peekable();
    let mut answers = Vec::new();
    while waiting.peek().is_some() || engine.has_work() {
        for _ in 0..rng.below(6) {
            let Some(ask) = waiting.next() else { break };
            let (request, answer) = request(ask, speculates && ask.speculates);
            engine.submit(request).unwrap();
            answers.push(answer);
        }
        engine.step().unwrap();
        engine.check_invariants();
    }
    (answers.iter().map(|answer| answer.lock().unwrap().0.clone()).collect(), engine.stats())
}

fn assert_same(name: &str, asks: &[Ask], expected: &[Vec<u32>], found: &[Vec<u32>]) {
    for (i, (expected, found)) in expected.iter().zip(found).enumerate() {
        assert_eq!(found, expected, "{name}: request {i} with {} tokens of prompt", asks[i].prompt.len());
    }
}

#[test]
fn an_answer_is_the_same_alone_and_in_any_batch() {
    let cpu = Cpu::with(Level::detect(), 1).with_activations(Activations::Int8);
    for name in ["dsv3", "dsv2_lite", "qwen2"] {
        let f = fixture(name, &cpu);
        let asks = asks(200, f.vocab, false);
        let expected = alone(&f, &asks, false);
        for (n_running, n_threads, speculates) in [(32, 2, true), (7, 3, false)] {
            let mut engine = engine(&f, n_threads, limits(n_running, 32 * N_CONTEXT), None);
            let (found, stats) = together(&mut engine, &asks, speculates);
            assert_same(name, &asks, &expected, &found);
            assert!(!speculates || stats.n_drafted > 0, "{name} drafted nothing");
        }
    }
}

#[test]
fn a_deterministic_answer_is_the_same_behind_found_and_restored_prefixes() {
    let cpu = Cpu::with(Level::detect(), 1).with_activations(Activations::Int8);
    let folder = tempfile::tempdir().unwrap();
    for name in ["dsv3", "qwen2"] {
        let f = fixture(name, &cpu);
        let asks = asks(200, f.vocab, true);
        let expected = alone(&f, &asks, true);
        let limits = Limits { deterministic: true, ..limits(32, 6 * N_CONTEXT) };
        for round in 0..2 {
            let payload_bytes = engine(&f, 1, limits, None).runner().block_bytes();
            let options = StoreOptions {
                fingerprint: Fingerprint::from([3; 32]),
                block_len: BLOCK_LEN,
                payload_bytes,
                budget_bytes: 1 << 30,
                queue_bytes: 1 << 26,
            };
            let store = Store::open(folder.path().join(&f.name), options).unwrap();
            let mut engine = engine(&f, 2, limits, Some(store));
            let (found, stats) = together(&mut engine, &asks, true);
            assert_same(name, &asks, &expected, &found);
            assert!(stats.n_reused > stats.n_restored, "{name}: nothing was found in memory");
            assert!(round == 0 || stats.n_restored > 0, "{name}: nothing was restored");
        }
    }
}

#[test]
fn completions_of_one_prompt_share_it_and_are_those_of_their_own_draws() {
    let cpu = Cpu::with(Level::detect(), 1).with_activations(Activations::Int8);
    let f = fixture("dsv3", &cpu);
    let ask = Ask {
        max_tokens: 20,
        sampling: Sampling { temperature: 1.0, ..Sampling::GREEDY },
        ..asks(4, f.vocab, false)[2].clone()
    };
    let mut engine = engine(&f, 2, limits(8, 4 * N_CONTEXT), None);
    let heard: Arc<Mutex<Vec<Vec<u32>>>> = Arc::new(Mutex::new(vec![Vec::new(); 6]));
    let sink = {
        let heard = heard.clone();
        move |event: Event<'_>| {
            if let Event::Token { index, token, .. } = event {
                heard.lock().unwrap()[index].push(token);
            }
            Reply::Continue
        }
    };
    let (request, _) = request(&ask, true);
    engine.submit(Request { n: 6, sink: Box::new(sink), ..request }).unwrap();
    while engine.has_work() {
        engine.step().unwrap();
        engine.check_invariants();
    }
    assert_eq!(engine.stats().n_read, ask.prompt.len() as u64, "the prompt is read once");
    let heard = heard.lock().unwrap();
    assert_eq!(heard[0], alone(&f, &[ask], false)[0]);
    assert!(heard.iter().all(|tokens| tokens.len() == 20));
    assert!((1..6).all(|i| heard[i] != heard[i - 1]), "equal draws");
}

#[test]
fn a_conversation_computes_only_what_is_new() {
    let cpu = Cpu::with(Level::detect(), 1).with_activations(Activations::Int8);
    let f = fixture("dsv3", &cpu);
    let mut engine = engine(&f, 1, limits(2, N_CONTEXT), None);
    let mut prompt: Vec<u32> = Vec::new();
    let mut rng = Rng(9);
    for turn in 0..20 {
        let n_new = 5 + rng.below(9);
        prompt.extend((0..n_new).map(|_| rng.below(f.vocab) as u32));
        let before = engine.stats().n_read;
        let ask = Ask { prompt: prompt.clone(), max_tokens: 10, sampling: Sampling::GREEDY, speculates: false };
        let (request, answer) = request(&ask, false);
        engine.submit(request).unwrap();
        while engine.has_work() {
            engine.step().unwrap();
        }
        // What is new: the person's tokens, and the last token of the answer before, which was never fed.
        assert_eq!(engine.stats().n_read - before, (n_new + usize::from(turn > 0)) as u64, "turn {turn}");
        prompt.extend(&answer.lock().unwrap().0);
    }
}

#[test]
fn the_thread_answers_takes_aborts_and_drains() {
    let cpu = Cpu::with(Level::detect(), 1).with_activations(Activations::Int8);
    let f = fixture("qwen2", &cpu);
    let asks = asks(40, f.vocab, false);
    let expected = alone(&f, &asks, false);
    let thread = EngineThread::start(engine(&f, 2, limits(6, 6 * N_CONTEXT), None)).unwrap();
    let handle = thread.handle();
    let mut answers = Vec::new();
    for (i, ask) in asks.iter().enumerate() {
        let (request, answer) = request(ask, true);
        let id = handle.submit(request).unwrap();
        if i % 4 == 0 {
            handle.abort(id);
        }
        answers.push(answer);
    }
    // A sink that panics ends its own request.
    let (broken, _) = request(&asks[0], true);
    handle.submit(Request { sink: Box::new(|_| panic!("a broken sink")), ..broken }).unwrap();
    handle.drain();
    thread.join();
    let (late, _) = request(&asks[0], true);
    assert!(handle.submit(late).is_err() && handle.stats().is_none() && handle.trouble().is_none());
    for (i, (answer, expected)) in answers.iter().zip(&expected).enumerate() {
        let (tokens, reason) = answer.lock().unwrap().clone();
        match reason.unwrap() {
            FinishReason::Aborted => assert!(i % 4 == 0 && expected.starts_with(&tokens)),
            reason => assert_eq!((reason, &tokens), (FinishReason::Length, expected)),
        }
    }
}
