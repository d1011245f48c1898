//! A `config.json` of any bytes: an error that names the file, or a JSON object within its bounds.
//!
//! Owns nothing beyond the call. Twin: `hostile.rs`.
#![no_main]

#[expect(dead_code, reason = "shared with the other targets")]
#[path = "../../crates/checkpoint/tests/exercise/mod.rs"]
mod exercise;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| exercise::config(bytes));
