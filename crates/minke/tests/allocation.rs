//! A decode step allocates nothing: on every level, with one and with two threads, for every kind of model.
//!
//! Owns the allocator that counts. One test only, because the count is of the whole process.
#![expect(unsafe_code, reason = "an allocator is an unsafe trait")]
#![allow(clippy::unwrap_used, reason = "a test fails where it unwraps")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

use cpu::{Cpu, Level};
use engine::{Session, SessionOptions, argmax};
use model::weights::{AttentionWeights, FfnWeights, MlaQuery, SwiGlu};
use model::{Form, Model};
use ops::{Activations, RowFormat, WeightFormat, WeightMatrix};
use testkit::oracle::{fixtures, oracles};

struct Counting;

static N_CALLS: AtomicUsize = AtomicUsize::new(0);
static N_BYTES: AtomicUsize = AtomicUsize::new(0);

fn count(n_bytes: usize) {
    N_CALLS.fetch_add(1, Ordering::Relaxed);
    N_BYTES.fetch_add(n_bytes, Ordering::Relaxed);
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
        // SAFETY: the caller's promise is passed on.
        unsafe { System.realloc(memory, layout, new_size) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
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

/// Rounds a matrix to Q8_0.
fn quantise(w: &mut WeightMatrix) {
    let format = WeightFormat::Q8_0;
    let Some(row_bytes) = format.row_bytes(w.cols) else { return };
    let (mut row, mut bytes) = (vec![0.0; w.cols], vec![0; w.rows * row_bytes]);
    for (r, bytes) in bytes.chunks_exact_mut(row_bytes).enumerate() {
        w.decode_row(r, &mut row);
        format.encode(&row, bytes);
    }
    *w = WeightMatrix::new(format, w.rows, w.cols, bytes.into(), None).unwrap();
}

fn quantise_swiglu(w: &mut SwiGlu<Cpu>) {
    [&mut w.w_gate, &mut w.w_up, &mut w.w_down].into_iter().for_each(|linear| quantise(&mut linear.w));
}

/// Rounds the matrices of a model's layers and its head where their rows are whole blocks.
fn quantise_model(model: &mut Model<Cpu>) {
    model.head.iter_mut().for_each(quantise);
    for layer in &mut model.layers {
        match &mut layer.attention {
            AttentionWeights::Mla(w) => {
                match &mut w.query {
                    MlaQuery::Direct(w_q) => quantise(&mut w_q.w),
                    MlaQuery::Latent { w_dq, w_uq, .. } => {
                        quantise(&mut w_dq.w);
                        quantise(&mut w_uq.w);
                    }
                }
                [&mut w.w_dkv.w, &mut w.w_uk.weight, &mut w.w_uv.weight, &mut w.w_o.w].into_iter().for_each(quantise);
            }
            AttentionWeights::Gqa(w) => {
                let all = [&mut w.w_q, &mut w.w_k, &mut w.w_v, &mut w.w_o];
                all.into_iter().for_each(|linear| quantise(&mut linear.w));
            }
        }
        match &mut layer.ffn {
            FfnWeights::Dense(w) => quantise_swiglu(w),
            FfnWeights::Moe { experts, shared, .. } => {
                let all = [&mut experts.w_gate, &mut experts.w_up, &mut experts.w_down];
                all.into_iter().flatten().for_each(quantise);
                shared.iter_mut().for_each(quantise_swiglu);
            }
        }
    }
}

/// Steps before the count begins, and counted ones: both cross into new cache blocks.
const N_WARM: usize = 8;
const N_COUNTED: usize = 70;

#[test]
fn a_decode_step_allocates_nothing() {
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
