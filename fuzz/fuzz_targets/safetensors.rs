//! A safetensors file of any bytes: an error that names the file, or consistent tensors.
//!
//! Owns putting a header length in front, so that most inputs reach the header's parser. Twin: `hostile.rs`.
#![no_main]

#[expect(dead_code, reason = "shared with the other targets")]
#[path = "../../crates/checkpoint/tests/exercise/mod.rs"]
mod exercise;

libfuzzer_sys::fuzz_target!(|input: (bool, u16, &[u8])| {
    let (raw, n_header, bytes) = input;
    if raw {
        exercise::model(bytes);
    } else {
        let n_header = usize::from(n_header).min(bytes.len()) as u64;
        exercise::model(&[&n_header.to_le_bytes(), bytes].concat());
    }
});
