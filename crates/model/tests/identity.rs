//! A model's identity: what makes two models differ, and what does not.
//!
//! Owns edits of a small model's file and config.
#![allow(clippy::unwrap_used, reason = "a test stops where something fails")]

use std::collections::BTreeMap;

use bytes::Bytes;
use checkpoint::{Checkpoint, Dtype, write};
use model::{Config, identity};
use ops::WeightFormat;

/// Longer than what is looked at of a tensor.
const LEN: usize = 40_000;

fn config() -> serde_json::Value {
    checkpoint::read_config(testkit::oracle::fixtures().join("dsv2_lite")).unwrap()
}

/// Identity of a file with a small and a large tensor.
fn of(config: &serde_json::Value, small: (&str, &[usize], &[u8]), large: &[u8]) -> [u8; 32] {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    let item = |name, shape, bytes| write::Item {
        name,
        dtype: Dtype::Weight(WeightFormat::BF16),
        shape,
        data: write::Data::Bytes(bytes),
    };
    let large_shape = [large.len() / 2];
    let items = [item(small.0, small.1, small.2), item("large", &large_shape, large)];
    write::safetensors(&path, &BTreeMap::new(), &items).unwrap();
    let file = Checkpoint::from_bytes("model.safetensors", Bytes::from(std::fs::read(&path).unwrap())).unwrap();
    identity(&Config::from_json(config).unwrap(), &file)
}

#[test]
fn each_part_counts() {
    let (json, small, large) = (config(), [1; 8], vec![3; LEN]);
    let base = of(&json, ("a", &[2, 2], &small), &large);
    assert_eq!(base, of(&json, ("a", &[2, 2], &small), &large));
    let mut others = vec![
        of(&json, ("b", &[2, 2], &small), &large),
        of(&json, ("a", &[1, 4], &small), &large),
        of(&json, ("a", &[2, 2], &[1, 1, 1, 1, 2, 1, 1, 1]), &large),
        of(&json, ("a", &[2, 2], &small), &large[2..]),
    ];
    // A fine-tune changes a tensor nearly everywhere, so also in one of the places.
    for at in [0, 4095, LEN / 2, LEN - 4096, LEN - 1] {
        let mut tuned = large.clone();
        tuned[at] ^= 1;
        others.push(of(&json, ("a", &[2, 2], &small), &tuned));
    }
    let mut scaled = json.clone();
    scaled["rms_norm_eps"] = 1e-4.into();
    others.push(of(&scaled, ("a", &[2, 2], &small), &large));
    for (i, other) in others.iter().enumerate() {
        assert!(*other != base && !others[i + 1..].contains(other), "number {i}");
    }
}

#[test]
fn what_decides_nothing_does_not_count() {
    let (mut json, large) = (config(), vec![3; LEN]);
    let base = of(&json, ("a", &[2, 2], &[1; 8]), &large);
    json["transformers_version"] = "another".into();
    assert_eq!(base, of(&json, ("a", &[2, 2], &[1; 8]), &large));
}
