//! A tokenizer.json or a vocabulary of any bytes: an error, or ids that are consistent with their bytes.
//!
//! Owns nothing but the choice between the two forms. Twin: `damage.rs`.
#![no_main]

#[expect(dead_code, reason = "shared with the other targets")]
#[path = "../../crates/text/tests/exercise/mod.rs"]
mod exercise;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    if bytes.first() == Some(&b'{') {
        exercise::tokenizer_json(bytes);
    } else {
        exercise::vocabulary(bytes);
    }
});
