//! The header of a stored block of any bytes: refused, or the one that a writer makes.
//!
//! Owns the checksum at the end, without which no input would be looked at beyond it. Twin: `header.rs`.
#![no_main]

#[path = "../../crates/engine/tests/exercise/mod.rs"]
mod exercise;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    exercise::header(bytes);
    let (layout, ..) = exercise::expected();
    let mut file = bytes.to_vec();
    file.resize(layout.file_bytes(), 0);
    layout.seal(&mut file);
    exercise::header(&file[..layout.header_bytes()]);
});
