//! `tiny`: the model inside the binary.
//!
//! Owns its bytes and how it wants to be sampled. How it was made stands in models/tiny/README.md.

use bytes::Bytes;
use checkpoint::{Checkpoint, Error};
use serde_json::{Value, json};

/// What `-m` calls it.
pub(crate) const NAME: &str = "tiny";

/// A GGUF file's tensors lie at multiples of 32 bytes within it; whole lines of the cache are as good.
#[repr(C, align(64))]
struct Aligned<T: ?Sized>(T);

static FILE: &Aligned<[u8]> = &Aligned(*include_bytes!("../../../models/tiny/tiny.gguf"));

/// The model's file, as it lies in the program.
pub(crate) fn open() -> Result<Checkpoint, Error> {
    Checkpoint::from_bytes(NAME, Bytes::from_static(&FILE.0))
}

/// As a generation_config.json would say it: arithmetic has one answer, so the most probable token is taken.
pub(crate) fn generation() -> Value {
    json!({ "temperature": 0 })
}
