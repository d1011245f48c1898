//! What opening a hostile file may cost in memory: twice its size, and a little.
//!
//! Owns the allocator that counts. One test only, because the count is of the whole process.
#![expect(unsafe_code, reason = "an allocator is an unsafe trait")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::fs;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use checkpoint::{Checkpoint, parse_config};

struct Counting;

static HELD: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call goes to the system's allocator unchanged; only numbers are kept beside it.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let held = HELD.fetch_add(layout.size(), Ordering::Relaxed) + layout.size();
        PEAK.fetch_max(held, Ordering::Relaxed);
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        HELD.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's promise is passed on.
        unsafe { System.dealloc(memory, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// The most bytes held at once during `work`, beyond those held before.
fn peak(work: impl FnOnce()) -> usize {
    let before = HELD.load(Ordering::Relaxed);
    PEAK.store(before, Ordering::Relaxed);
    work();
    PEAK.load(Ordering::Relaxed) - before
}

fn safetensors(header: &str) -> Vec<u8> {
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.as_bytes());
    bytes
}

fn gguf(n_tensors: u64, n_entries: u64, rest: &[u8]) -> Vec<u8> {
    let mut bytes = b"GGUF\x03\0\0\0".to_vec();
    bytes.extend(n_tensors.to_le_bytes());
    bytes.extend(n_entries.to_le_bytes());
    bytes.extend(rest);
    bytes
}

/// Files whose headers ask for far more memory than they have bytes.
fn hostile_models() -> Vec<(&'static str, Vec<u8>)> {
    let many = |n: usize, one: &dyn Fn(usize) -> String| (0..n).map(one).collect::<Vec<_>>().join(",");
    let tensor = |i: usize| format!(r#""{i:x}":{{"dtype":"U8","shape":[0,0,0,0,0,0,0,0],"data_offsets":[0,0]}}"#);
    let note = |i: usize| format!(r#""{i:x}":"""#);
    let key = |i: usize| [&4u64.to_le_bytes()[..], &(i as u32 | 1 << 31).to_be_bytes(), &[0; 5]].concat();
    let keys: Vec<u8> = (0..200_000).flat_map(key).collect();
    let ascii_key = |i: usize| [&5u64.to_le_bytes()[..], format!("{i:05x}").as_bytes(), &[0; 5]].concat();
    let ascii_keys: Vec<u8> = (0..200_000).flat_map(ascii_key).collect();
    let info = |i: usize| {
        [&5u64.to_le_bytes()[..], format!("{i:05x}").as_bytes(), &1u32.to_le_bytes(), &1u64.to_le_bytes(), &[0; 12]]
            .concat()
    };
    let infos: Vec<u8> = (0..200_000).flat_map(info).collect();
    let mut texts = [&1u64.to_le_bytes()[..], b"k", &9u32.to_le_bytes(), &8u32.to_le_bytes()].concat();
    texts.extend((1u64 << 40).to_le_bytes());
    texts.resize(texts.len() + 8_000_000, 0);
    let mut floats = [&1u64.to_le_bytes()[..], b"k", &9u32.to_le_bytes(), &6u32.to_le_bytes()].concat();
    floats.extend((1u64 << 40).to_le_bytes());
    vec![
        ("many tensors", safetensors(&format!("{{{}}}", many(100_000, &tensor)))),
        ("many notes", safetensors(&format!(r#"{{"__metadata__":{{{}}}}}"#, many(300_000, &note)))),
        ("deep notes", safetensors(&format!(r#"{{"a":{}"#, "[".repeat(5_000_000)))),
        ("a long name", safetensors(&format!(r#"{{"{}":1}}"#, "é".repeat(2_000_000)))),
        ("a quoted shape", safetensors(&format!(r#"{{"a":{{"dtype":"U8","shape":"{}"}}}}"#, "\x7f".repeat(2_000_000)))),
        ("a quoted tensor", safetensors(&format!(r#"{{"a":"{}"}}"#, "\x7f".repeat(60_000)))),
        ("many keys that are no text", gguf(0, 200_000, &keys)),
        ("many keys", gguf(0, 200_000, &ascii_keys)),
        ("many tensors in GGUF", gguf(200_000, 0, &infos)),
        ("counts without anything", gguf(u64::MAX, u64::MAX, &[])),
        ("many texts", gguf(0, 1, &texts)),
        ("a long array without elements", gguf(0, 1, &floats)),
    ]
}

#[test]
fn a_hostile_file_costs_at_most_twice_its_size() {
    const ALLOWANCE: usize = 2 << 20;
    for (name, bytes) in hostile_models() {
        let bytes = Bytes::from(bytes);
        let n = bytes.len();
        let cost = peak(|| assert!(Checkpoint::from_bytes("x", bytes).is_err(), "{name}"));
        println!("{name}: {cost} bytes held for a file of {n}");
        assert!(cost <= 2 * n + ALLOWANCE, "{name}: {cost} bytes held for a file of {n}");
    }
    let folder = tempfile::tempdir().unwrap();
    let names: Vec<String> = (0..300_000).map(|i| format!(r#""{i:x}":"a""#)).collect();
    let index = format!(r#"{{"weight_map":{{{}}}}}"#, names.join(","));
    fs::write(folder.path().join("model.safetensors.index.json"), &index).unwrap();
    let cost = peak(|| assert!(Checkpoint::open(folder.path()).is_err()));
    assert!(cost <= 2 * index.len() + ALLOWANCE, "index: {cost} bytes held for a file of {}", index.len());
    // A configuration is bounded by its own limits instead: values, depth and length.
    for text in [format!("{{\"a\":[{}0]}}", "0,".repeat(2_000_000)), format!("{{\"a\":[{}0]}}", "[],".repeat(65_000))] {
        let cost = peak(|| drop(parse_config("x", text.as_bytes())));
        assert!(cost <= 16 << 20, "configuration: {cost} bytes held");
    }
}
