//! A GGUF file of any bytes: an error that names the file, or consistent metadata and tensors.
//!
//! Owns putting the magic and a version in front, so that every input reaches the parser. Twin: `hostile.rs`.
#![no_main]

#[expect(dead_code, reason = "shared with the other targets")]
#[path = "../../crates/checkpoint/tests/exercise/mod.rs"]
mod exercise;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    if bytes.starts_with(b"GGUF") {
        exercise::model(bytes);
    } else {
        exercise::model(&[b"GGUF\x03\0\0\0", bytes].concat());
    }
});
