//! A chat template of any bytes: refused, or rendered within its budget, with no special token of the user's making.
//!
//! Owns nothing. Twin: `damage.rs`.
#![no_main]

#[expect(dead_code, reason = "shared with the other targets")]
#[path = "../../crates/text/tests/exercise/mod.rs"]
mod exercise;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| exercise::template(bytes));
