//! A `config.json` of any bytes: an error that names the file, or a model description whose counts are finite.
//!
//! Owns nothing beyond the calls. Twins: `hostile.rs` of the checkpoint and model crates.
#![no_main]

#[expect(dead_code, reason = "shared with the other targets")]
#[path = "../../crates/checkpoint/tests/exercise/mod.rs"]
mod bytes_to_json;
#[expect(dead_code, reason = "shared with the other targets")]
#[path = "../../crates/model/tests/exercise/mod.rs"]
mod json_to_model;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    bytes_to_json::config(bytes);
    if let Ok(json) = checkpoint::parse_config("config.json", bytes) {
        json_to_model::config(&json);
    }
});
