//! Safetensors: round trips, an independent reader, FP8 scales, refusals.
//!
//! Owns single files. Folders and shards are tested in `open.rs`, damage in `hostile.rs`.
#![allow(clippy::unwrap_used, reason = "a test stops where something fails")]

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use checkpoint::write::{self, Data, Item};
use checkpoint::{Checkpoint, Dtype, Kind};
use ops::WeightFormat;

fn weight(format: WeightFormat) -> Dtype {
    Dtype::Weight(format)
}

fn write(items: &[Item<'_>]) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    write::safetensors(&path, &BTreeMap::from([("format".into(), "pt".into())]), items).unwrap();
    (folder, path)
}

/// A file with the given header and as many zero bytes.
fn by_hand(header: &str, n_data: usize) -> Result<Checkpoint, String> {
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.as_bytes());
    bytes.resize(bytes.len() + n_data, 0);
    Checkpoint::from_bytes("hand.safetensors", bytes.into()).map_err(|e| e.to_string())
}

#[test]
fn what_is_written_is_read_back_here_and_elsewhere() {
    let values: Vec<f32> = (0..30_000).map(|i| i as f32 / 4.0).collect();
    let bytes = [1u8, 0, 1];
    let items = [
        Item { name: "flags", dtype: Dtype::Bool, shape: &[3], data: Data::Bytes(&bytes) },
        Item { name: "b", dtype: weight(WeightFormat::BF16), shape: &[64], data: Data::F32(&values[..64]) },
        Item { name: "f \"quoted\"", dtype: weight(WeightFormat::F32), shape: &[100, 300], data: Data::F32(&values) },
        Item { name: "scalar", dtype: Dtype::I64, shape: &[], data: Data::Bytes(&5i64.to_le_bytes()) },
        Item { name: "empty", dtype: weight(WeightFormat::F16), shape: &[0, 4], data: Data::Bytes(&[]) },
    ];
    let (_folder, path) = write(&items);
    let file = Checkpoint::open(&path).unwrap();
    assert_eq!((file.kind(), file.files().len(), file.tensors().len()), (Kind::Safetensors, 1, 5));
    assert_eq!(file.tensor("f \"quoted\"").unwrap().to_f32().unwrap(), values);
    assert_eq!(file.tensor("b").unwrap().to_f32().unwrap(), values[..64]);
    assert_eq!((file.text("format"), file.text("other")), (Some("pt"), None));
    assert_eq!(file.tensor("scalar").unwrap().to_i64().unwrap(), [5]);
    assert_eq!(file.tensor("flags").unwrap().to_i64().unwrap(), [1, 0, 1]);
    assert_eq!(file.tensor("empty").unwrap().matrix().unwrap().rows, 0);
    let whole = fs::read(&path).unwrap();
    assert_eq!(file.file_bytes(), whole.len() as u64);
    let other = safetensors::SafeTensors::deserialize(&whole).unwrap();
    for tensor in file.tensors() {
        let view = other.tensor(&tensor.name).unwrap();
        assert_eq!((view.shape(), view.data()), (&tensor.shape[..], &tensor.bytes[..]));
        let begin = tensor.bytes.as_ptr().addr();
        assert!(begin.is_multiple_of(if tensor.bytes.is_empty() { 1 } else { view.dtype().bitsize() / 8 }));
    }
}

#[test]
fn a_file_is_replaced_whole_or_not_at_all() {
    let item = |data| Item { name: "a", dtype: weight(WeightFormat::F32), shape: &[2], data };
    let (folder, path) = write(&[item(Data::F32(&[1.0, 2.0]))]);
    let before = Checkpoint::open(&path).unwrap();
    assert!(write::safetensors(&path, &BTreeMap::new(), &[item(Data::F32(&[0.0]))]).is_err());
    assert_eq!(Checkpoint::open(&path).unwrap().tensor("a").unwrap().to_f32().unwrap(), [1.0, 2.0]);
    write::safetensors(&path, &BTreeMap::new(), &[item(Data::F32(&[3.0, 4.0]))]).unwrap();
    assert_eq!(Checkpoint::open(&path).unwrap().tensor("a").unwrap().to_f32().unwrap(), [3.0, 4.0]);
    assert_eq!(before.tensor("a").unwrap().to_f32().unwrap(), [1.0, 2.0], "an open model keeps what it mapped");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    let nowhere = folder.path().join("no/such/folder/x.safetensors");
    let error = write::safetensors(&nowhere, &BTreeMap::new(), &[]).unwrap_err().to_string();
    assert!(error.contains("cannot create"), "{error}");
}

/// FP8 weights [3, 5] whose codes all mean 1.0, with scales in blocks of 2 × 4.
fn fp8(scale_name: &str, dtype: Dtype, shape: &[usize], scales: Data<'_>) -> Result<Vec<f32>, String> {
    let ones = [0x38; 15];
    let (_folder, path) = write(&[
        Item { name: "x.weight", dtype: weight(WeightFormat::F8_E4M3), shape: &[3, 5], data: Data::Bytes(&ones) },
        Item { name: scale_name, dtype, shape, data: scales },
    ]);
    let file = Checkpoint::open(&path).unwrap();
    assert!(file.tensor("x.weight").unwrap().matrix().is_err(), "FP8 without its scales must not load");
    let matrix = file.matrix_of("x.weight", Some([2, 4])).map_err(|e| e.to_string())?;
    let mut out = vec![0.0; 15];
    (0..3).for_each(|r| matrix.decode_row(r, &mut out[r * 5..][..5]));
    Ok(out)
}

#[test]
fn fp8_weights_find_their_scales() {
    let expected = [[1., 1., 1., 1., 2.], [1., 1., 1., 1., 2.], [4., 4., 4., 4., 0.5]].concat();
    let scales = Data::F32(&[1.0, 2.0, 4.0, 0.5]);
    let exponents = Data::Bytes(&[127, 128, 129, 126]);
    for format in [WeightFormat::F32, WeightFormat::BF16] {
        assert_eq!(fp8("x.weight_scale_inv", weight(format), &[2, 2], scales).unwrap(), expected);
    }
    assert_eq!(fp8("x.weight_scale_inv", Dtype::F8E8M0, &[2, 2], exponents).unwrap(), expected);
    assert_eq!(fp8("x.scale", Dtype::F8E8M0, &[2, 2], exponents).unwrap(), expected);
}

#[test]
fn fp8_scales_that_do_not_belong_are_refused() {
    let f32 = || weight(WeightFormat::F32);
    let missing = fp8("y.weight_scale_inv", f32(), &[2, 2], Data::F32(&[1.0; 4])).unwrap_err();
    assert!(missing.contains("expected scales in \"x.weight_scale_inv\", found none"), "{missing}");
    let shape = fp8("x.weight_scale_inv", f32(), &[1, 4], Data::F32(&[1.0; 4])).unwrap_err();
    assert!(
        shape.contains("expected shape [2, 2] for weights [3, 5]") && shape.contains("found shape [1, 4]"),
        "{shape}"
    );
    let kind = fp8("x.weight_scale_inv", Dtype::I32, &[2, 2], Data::Bytes(&[0; 16])).unwrap_err();
    assert!(kind.contains("found I32"), "{kind}");
}

#[test]
fn contradictions_are_refused_with_the_reason() {
    let one = |fields: &str, n_data| by_hand(&format!("{{\"a\":{{{fields}}}}}"), n_data);
    let two = |b: &str, n_data| {
        let a = r#""a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}"#;
        by_hand(&format!("{{{a},{b}}}"), n_data)
    };
    let huge = u64::MAX / 2;
    let cases = [
        (one(r#""dtype":"F32","shape":[2],"data_offsets":[0,8]"#, 7), "cut short"),
        (
            one(r#""dtype":"F32","shape":[2],"data_offsets":[0,8]"#, 9),
            "8 bytes of tensors, as the header says, found 9",
        ),
        (one(r#""dtype":"F32","shape":[3],"data_offsets":[0,8]"#, 8), "12 bytes for F32 of shape [3]"),
        (one(r#""dtype":"F32","shape":[2],"data_offsets":[8,0]"#, 8), "begin at 0, where the tensor before ends"),
        (one(r#""dtype":"F32","shape":[2],"data_offsets":[4,12]"#, 12), "found bytes that begin at 4"),
        (one(r#""dtype":"U8","shape":[],"data_offsets":[0,-1]"#, 0), "\"a\": expected a JSON object of tensors"),
        (one(r#""dtype":"U8","shape":[1,1,1,1,1,1,1,1,1],"data_offsets":[0,1]"#, 1), "at most 8 dimensions"),
        (one(r#""dtype":"U8","shape":[1]"#, 0), "missing field `data_offsets`"),
        (one(&format!(r#""dtype":"F32","shape":[{huge},{huge}],"data_offsets":[0,0]"#), 0), "that fits this machine"),
        (one(&format!(r#""dtype":"new","shape":[{huge},{huge}],"data_offsets":[0,0]"#), 0), "that fits this machine"),
        (one(&format!(r#""dtype":"F32","shape":[0,{huge},{huge}],"data_offsets":[0,0]"#), 0), "that fits this machine"),
        (two(r#""b":{"dtype":"U8","shape":[4],"data_offsets":[2,6]}"#, 6), "begin at 4, where the tensor before ends"),
        (two(r#""b":{"dtype":"U8","shape":[4],"data_offsets":[5,9]}"#, 9), "begin at 4, where the tensor before ends"),
        (two(r#""a":{"dtype":"U8","shape":[4],"data_offsets":[4,8]}"#, 8), "one tensor of this name"),
        (by_hand("[]", 0), "a JSON object of tensors"),
        (by_hand("{} x", 0), "trailing characters"),
        (by_hand(&"[".repeat(100_000), 0), "a JSON object of tensors"),
        (by_hand(&format!("{{\"a\":{}", "[".repeat(100_000)), 0), "a JSON object of tensors"),
        (by_hand(&format!("{{\"a\":{{\"x\":{}", "[".repeat(100_000)), 0), "EOF while parsing"),
        (by_hand(r#"{"__metadata__":{"format":1}}"#, 0), "\"__metadata__\": expected a JSON object"),
    ];
    for (result, wanted) in cases {
        let error = result.map(|_| wanted).unwrap_err();
        assert!(error.contains(wanted) && error.starts_with("hand.safetensors: "), "{wanted}: {error}");
    }
}

#[test]
fn types_that_cannot_be_decoded_are_carried() {
    let file = by_hand(r#"{"a":{"dtype":"F6_E3M2","shape":[4],"data_offsets":[0,3],"extra":null}}"#, 3).unwrap();
    let error = file.require("a").unwrap().to_f32().unwrap_err().to_string();
    assert!(error.contains("tensor \"a\"") && error.contains("found F6_E3M2"), "{error}");
    let file = by_hand(r#"{"a":{"dtype":"F4","shape":[2,4],"data_offsets":[0,4]}}"#, 4).unwrap();
    assert_eq!(file.tensor("a").unwrap().dtype, Dtype::F4);
    assert!(by_hand("{}", 0).unwrap().require("a").unwrap_err().to_string().contains("no such tensor among 0"));
}
