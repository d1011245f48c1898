//! A safetensors file of any bytes: an error that names the file, or consistent tensors.
//!
//! Owns putting the header's length in front, so that most inputs reach the header's parser. Twin: `hostile.rs`.
#![no_main]

#[expect(dead_code, reason = "shared with the other targets")]
#[path = "../../crates/checkpoint/tests/exercise/mod.rs"]
mod exercise;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    exercise::model(bytes);
    // The header goes to the last brace; what follows is the tensors' data.
    let n_header = bytes.iter().rposition(|&b| b == b'}').map_or(bytes.len(), |at| at + 1) as u64;
    exercise::model(&[&n_header.to_le_bytes(), bytes].concat());
});
