//! A GGUF file of any bytes, loaded as a model onto the scalar device: an error, or a model of the file's shapes.
//!
//! Owns nothing beyond the call. Twin: `hostile.rs` of the model crate.
#![no_main]

#[expect(dead_code, reason = "shared with the other targets")]
#[path = "../../crates/model/tests/exercise/mod.rs"]
mod exercise;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| exercise::gguf(bytes));
