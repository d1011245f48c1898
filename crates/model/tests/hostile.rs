//! Damaged configs and files: an error, never a panic. The twin of the fuzz targets `config` and `load`.

mod exercise;

use std::fs;

use serde_json::{Value, json};
use testkit::oracle::fixtures;

#[test]
fn configs_with_any_value_in_any_place() {
    let values = [
        json!(null),
        json!(true),
        json!(0),
        json!(1),
        json!(2),
        json!(-1),
        json!(0.5),
        json!(1e300),
        json!(u64::MAX),
        json!(1 << 20),
        json!("yarn"),
        json!(""),
        json!([]),
        json!([1, 2]),
        json!({}),
        json!({"type": "yarn"}),
    ];
    for name in ["dsv2_group", "dsv3", "dsv3_fp8", "llama3", "qwen2", "qwen3_yarn"] {
        let whole: Value =
            serde_json::from_slice(&fs::read(fixtures().join(name).join("config.json")).unwrap()).unwrap();
        let keys = whole.as_object().unwrap().keys().map(|k| format!("/{k}"));
        let inner = |key: &str| {
            let object = whole.get(key).and_then(Value::as_object);
            object.into_iter().flatten().map(|(k, _)| format!("/{key}/{k}")).collect::<Vec<_>>()
        };
        for pointer in keys.chain(inner("rope_scaling")).chain(inner("quantization_config")) {
            for value in &values {
                let mut json = whole.clone();
                *json.pointer_mut(&pointer).unwrap() = value.clone();
                exercise::config(&json);
            }
        }
    }
}

#[test]
fn gguf_files_with_edited_headers() {
    for name in ["dsv3.bf16.gguf", "qwen2_tied.bf16.gguf"] {
        let whole = fs::read(fixtures().join("../gguf").join(name)).unwrap();
        // The dimensions of the model stand in the first kilobytes; every eleventh byte takes a few extreme values.
        for at in (0..6000).step_by(11) {
            for byte in [0x00, 0x01, 0x7f, 0xff] {
                let mut edited = whole.clone();
                edited[at] = byte;
                exercise::gguf(&edited);
            }
        }
        (0..200).for_each(|i| exercise::gguf(&whole[..i * whole.len() / 200]));
    }
}
