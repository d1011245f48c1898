//! A model's output of any text: tool calls come out the same however it is cut, and no text is lost.
//!
//! Owns nothing. Twin: `damage.rs`.
#![no_main]

#[expect(dead_code, reason = "shared with the other targets")]
#[path = "../../crates/text/tests/exercise/mod.rs"]
mod exercise;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| exercise::tool_calls(bytes));
