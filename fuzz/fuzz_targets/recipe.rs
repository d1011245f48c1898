//! A recipe of any text: an error that names file and line, or steps, rows and rates that make sense.
//!
//! Owns nothing beyond the call. Twin: `recipe.rs` of the train crate.
#![no_main]

#[path = "../../crates/train/tests/exercise/mod.rs"]
mod exercise;

libfuzzer_sys::fuzz_target!(|text: &str| {
    // Paths that leave the folder would walk this machine's disk.
    if !text.contains(['/', '\\', '.']) {
        exercise::recipe(text, std::path::Path::new("no_such_folder/recipe.toml"));
    }
});
