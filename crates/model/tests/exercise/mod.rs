//! What a hostile model must survive; the fuzz targets and their twin in `hostile.rs` run the same code.
//!
//! Owns the assertions that hold for every input. Must not assume that an input is valid, nor that it is not.

use bytes::Bytes;
use checkpoint::Checkpoint;
use model::{Config, counts};
use ops::{Reference, RowFormat};

/// Reads a parsed config.json and derives from it everything that needs no weights.
pub(crate) fn config(json: &serde_json::Value) {
    match Config::from_json(json) {
        Ok(config) => derive(&config),
        Err(e) => assert!(e.to_string().len() < 2048, "an error of {} bytes", e.to_string().len()),
    }
}

/// Opens a GGUF file and loads it as a model.
pub(crate) fn gguf(bytes: &[u8]) {
    let Ok(file) = Checkpoint::from_bytes("some/hostile.gguf", Bytes::copy_from_slice(bytes)) else { return };
    let Ok(config) = Config::from_gguf(&file) else { return };
    derive(&config);
    match model::load(&Reference, config, &file) {
        Ok(model) => assert!(!model.layers.is_empty()),
        Err(e) => assert!(!e.to_string().is_empty()),
    }
}

fn derive(config: &Config) {
    let parameters = counts::parameters(config);
    assert!(parameters.active <= parameters.total);
    for row_format in RowFormat::ALL {
        assert!(counts::cache_bytes_per_token(config, row_format).own > 0, "{}", row_format.name());
    }
    assert!(counts::decode_flops(config, u64::MAX) > 0);
    assert!(model::workspace_bytes(config, 512, 1) > 0);
    assert!(config.rope_table().inv_freq.iter().all(|f| f.is_finite()));
}
