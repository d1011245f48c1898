//! GGUF as another tool writes it, and as we write it.
//!
//! Owns reading `fixtures/python.gguf` (see `fixtures/generate_gguf.py`), round trips, and the refusals that need a file.
#![allow(clippy::unwrap_used, reason = "a test stops where something fails")]

use std::fs;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use checkpoint::gguf::{Array, Kind, Value};
use checkpoint::write::{self, Data, Item};
use checkpoint::{Checkpoint, Dtype};
use ops::WeightFormat;

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

/// The values that the generating script stores: i/8 − 3.
fn ramp(n: usize) -> Vec<f32> {
    (0..n).map(|i| i as f32 / 8.0 - 3.0).collect()
}

#[test]
fn metadata_of_another_writer_is_read() {
    let file = Checkpoint::open(fixture("python.gguf")).unwrap();
    let metadata = file.gguf().unwrap();
    assert_eq!(metadata.required::<&str>("general.architecture").unwrap(), "deepseek2");
    assert_eq!(metadata.required::<u32>("deepseek2.block_count").unwrap(), 27);
    assert_eq!(metadata.required::<usize>("test.u8").unwrap(), 200);
    assert_eq!(metadata.required::<i32>("test.i8").unwrap(), -100);
    assert_eq!(metadata.required::<u32>("test.u16").unwrap(), 60_000);
    assert_eq!(metadata.required::<i32>("test.i16").unwrap(), -30_000);
    assert_eq!(metadata.required::<i32>("test.i32").unwrap(), -2_000_000_000);
    assert_eq!(metadata.required::<f32>("test.f32").unwrap(), 0.0707);
    assert_eq!(metadata.required::<u64>("test.u64").unwrap(), 1 << 63);
    assert_eq!(metadata.get("test.i64"), Some(&Value::I64(-(1 << 62))));
    assert_eq!(metadata.get("test.f64"), Some(&Value::F64(1e-300)));
    assert!(metadata.required::<bool>("test.bool").unwrap());
    assert_eq!(metadata.required::<&str>("test.text").unwrap(), "<｜begin▁of▁sentence｜> 🐳");
    assert_eq!(metadata.required::<Vec<&str>>("tokenizer.ggml.tokens").unwrap(), ["a", "", "Ġthe", "鲸"]);
    assert_eq!(metadata.required::<Vec<f32>>("tokenizer.ggml.scores").unwrap(), [0.0, -1.5, -2.0, 3.0]);
    assert_eq!(metadata.required::<Vec<u32>>("tokenizer.ggml.token_type").unwrap(), [1, 3, 1, 1]);
    assert_eq!(metadata.required::<Vec<bool>>("test.bools").unwrap(), [true, false, true]);
    assert_eq!(metadata.required::<&Array>("test.bools").unwrap().kind(), Kind::Bool);
}

#[test]
fn a_wrong_or_missing_key_is_an_error_that_says_what_was_found() {
    let file = Checkpoint::open(fixture("python.gguf")).unwrap();
    let metadata = file.gguf().unwrap();
    assert_eq!(metadata.optional::<u32>("no.such.key").unwrap(), None);
    let missing = metadata.required::<u32>("no.such.key").unwrap_err().to_string();
    assert!(missing.contains("\"no.such.key\": expected an integer") && missing.contains("no such key"), "{missing}");
    let negative = metadata.optional::<u32>("test.i8").unwrap_err().to_string();
    assert!(negative.contains("found I8(-100)"), "{negative}");
    let text = metadata.required::<u32>("general.architecture").unwrap_err().to_string();
    assert!(text.contains("python.gguf") && text.contains("found String \"deepseek2\""), "{text}");
}

#[test]
fn tensors_of_another_writer_are_read() {
    let file = Checkpoint::open(fixture("python.gguf")).unwrap();
    assert_eq!(file.tensor("f32").unwrap().shape, [3, 5]);
    assert_eq!(file.tensor("f32").unwrap().to_f32().unwrap(), ramp(15));
    assert_eq!(file.tensor("f16").unwrap().shape, [2, 3, 4]);
    assert_eq!(file.tensor("f16").unwrap().to_f32().unwrap(), ramp(24));
    assert_eq!(file.tensor("bf16").unwrap().to_f32().unwrap(), ramp(16));
    assert_eq!(file.tensor("i32").unwrap().to_i64().unwrap(), [-2, -1, 0, 1, 2, 3]);
    let expected = fs::read(fixture("python.f32")).unwrap();
    let expected: Vec<f32> = expected.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
    for (name, expected) in ["Q8_0", "Q4_0", "MXFP4"].iter().zip(expected.chunks(128)) {
        let matrix = file.matrix_of(name, None).unwrap();
        assert_eq!((matrix.rows, matrix.cols, matrix.format.name()), (2, 64, *name));
        let mut row = vec![0.0; 64];
        for r in 0..2 {
            matrix.decode_row(r, &mut row);
            assert_eq!(row, expected[r * 64..][..64], "{name}");
        }
    }
}

#[test]
fn a_stack_is_split_into_its_matrices() {
    let file = Checkpoint::open(fixture("python.gguf")).unwrap();
    let matrices = file.tensor("f16").unwrap().matrices().unwrap();
    assert_eq!(matrices.len(), 2);
    for (i, matrix) in matrices.iter().enumerate() {
        let mut row = [0.0; 4];
        matrix.decode_row(2, &mut row);
        assert_eq!(row, ramp(24)[i * 12 + 8..][..4]);
    }
    assert!(file.tensor("f16").unwrap().matrix().is_err() && file.tensor("f32").unwrap().matrices().is_err());
}

#[test]
fn an_unsupported_type_opens_and_refuses_to_load_by_name() {
    let file = Checkpoint::open(fixture("python.gguf")).unwrap();
    let tensor = file.tensor("IQ2_XXS").unwrap();
    assert_eq!(
        (tensor.dtype.to_string(), &tensor.shape[..], tensor.bytes.len()),
        ("IQ2_XXS".into(), &[2, 256][..], 132)
    );
    let error = tensor.matrix().unwrap_err().to_string();
    assert!(error.contains("tensor \"IQ2_XXS\"") && error.contains("found IQ2_XXS; convert"), "{error}");
}

fn every_kind() -> Vec<(&'static str, Value)> {
    vec![
        ("general.architecture", Value::String("test".into())),
        ("u8", Value::U8(u8::MAX)),
        ("i8", Value::I8(i8::MIN)),
        ("u16", Value::U16(u16::MAX)),
        ("i16", Value::I16(i16::MIN)),
        ("u32", Value::U32(u32::MAX)),
        ("i32", Value::I32(i32::MIN)),
        ("u64", Value::U64(u64::MAX)),
        ("i64", Value::I64(i64::MIN)),
        ("f32", Value::F32(1.5)),
        ("f64", Value::F64(-2.5)),
        ("bool", Value::Bool(true)),
        ("not.text", Value::String(Bytes::from_static(b"\xff\xfe"))),
        ("texts", Value::Array(Array::from_strs(&["x", "", "yz"]))),
        ("none", Value::Array(Array::from_strs::<&str>(&[]))),
        ("ints", Value::Array(Array::from_i32(&[-1, 2]))),
        ("uints", Value::Array(Array::from_u32(&[1, u32::MAX]))),
        ("floats", Value::Array(Array::from_f32(&[0.25]))),
    ]
}

#[test]
fn what_is_written_is_read_back() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("out.gguf");
    let values = ramp(64);
    let item = |name, format, shape| Item { name, dtype: Dtype::Weight(format), shape, data: Data::F32(&values) };
    let items = [
        item("q", WeightFormat::Q8_0, &[2, 32][..]),
        item("f", WeightFormat::F32, &[4, 2, 8]),
        item("h", WeightFormat::F16, &[64]),
        item("b", WeightFormat::BF16, &[1, 64, 1, 1]),
        Item { name: "i", dtype: Dtype::I64, shape: &[1], data: Data::Bytes(&7i64.to_le_bytes()) },
    ];
    write::gguf(&path, &every_kind(), &items).unwrap();
    if let Some(copy) = std::env::var_os("MINKE_KEEP_GGUF") {
        fs::copy(&path, copy).unwrap();
    }
    let file = Checkpoint::open(&path).unwrap();
    let metadata: Vec<_> = file.gguf().unwrap().iter().map(|(k, v)| (k.to_owned(), v.clone())).collect();
    assert_eq!(metadata, every_kind().into_iter().map(|(k, v)| (k.to_owned(), v)).collect::<Vec<_>>());
    assert!(file.gguf().unwrap().required::<&str>("not.text").is_err());
    let names: Vec<_> = file.tensors().map(|t| &t.name[..]).collect();
    assert_eq!(names, ["q", "f", "h", "b", "i"]);
    for (tensor, item) in file.tensors().zip(&items) {
        assert_eq!((&tensor.dtype, &tensor.shape[..]), (&item.dtype, item.shape));
    }
    assert!(file.tensors().take(4).skip(1).all(|t| t.to_f32().unwrap() == values));
    assert_eq!(file.tensor("i").unwrap().to_i64().unwrap(), [7]);
}

#[test]
fn what_cannot_be_read_back_is_not_written() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("out.gguf");
    let f32 = Dtype::Weight(WeightFormat::F32);
    let item = |name, dtype: &Dtype, shape, data| Item { name, dtype: dtype.clone(), shape, data };
    let fp8 = Dtype::Weight(WeightFormat::F8_E4M3);
    let q4 = Dtype::Weight(WeightFormat::Q4_0);
    let q4_k = Dtype::Weight(WeightFormat::Q4_K);
    let cases = [
        (vec![item("a", &f32, &[2][..], Data::F32(&[0.0]))], "values for F32 of shape [2], found 1"),
        (vec![item("a", &f32, &[1], Data::Bytes(&[0; 3]))], "4 bytes for F32 of shape [1], found 3"),
        (vec![item("a", &f32, &[0], Data::Bytes(&[]))], "dimensions of at least 1"),
        (vec![item("a", &f32, &[], Data::F32(&[0.0]))], "dimensions of at least 1"),
        (vec![item("a", &fp8, &[1], Data::Bytes(&[0]))], "a type that GGUF has"),
        (vec![item("a", &q4_k, &[256], Data::F32(&[0.0; 256]))], "a type with an encoder"),
        (vec![item("a", &q4, &[31], Data::Bytes(&[0; 18]))], "a shape that it can have"),
        (vec![item("", &f32, &[1], Data::F32(&[0.0]))], "a name of 1 to"),
        (vec![item("a", &f32, &[1], Data::F32(&[0.0])); 2], "each name once"),
    ];
    for (items, wanted) in cases {
        let error = write::gguf(&path, &[], &items).unwrap_err().to_string();
        assert!(error.contains(wanted) && error.contains("out.gguf"), "{error}");
    }
    for metadata in [&[("k", Value::U8(1)), ("k", Value::U8(1))][..], &[("general.alignment", Value::U32(64))]] {
        assert!(write::gguf(&path, metadata, &[]).is_err());
    }
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0, "nothing stays behind");
}

/// A file of version 3 made by hand: counts, then the given bytes.
fn by_hand(version: u32, n_tensors: u64, n_entries: u64, rest: &[u8]) -> Result<Checkpoint, String> {
    let mut bytes = b"GGUF".to_vec();
    bytes.extend(version.to_le_bytes());
    bytes.extend(n_tensors.to_le_bytes());
    bytes.extend(n_entries.to_le_bytes());
    bytes.extend(rest);
    Checkpoint::from_bytes("hand.gguf", bytes.into()).map_err(|e| e.to_string())
}

fn info(name: &str, dims: &[u64], id: u32, offset: u64) -> Vec<u8> {
    let mut out = (name.len() as u64).to_le_bytes().to_vec();
    out.extend(name.as_bytes());
    out.extend((dims.len() as u32).to_le_bytes());
    dims.iter().for_each(|d| out.extend(d.to_le_bytes()));
    out.extend(id.to_le_bytes());
    out.extend(offset.to_le_bytes());
    out
}

fn entry(key: &str, id: u32, value: &[u8]) -> Vec<u8> {
    let mut out = (key.len() as u64).to_le_bytes().to_vec();
    out.extend(key.as_bytes());
    out.extend(id.to_le_bytes());
    out.extend(value);
    out
}

/// Tensor list, then 256 bytes of data on a boundary of 32.
fn with_data(infos: &[Vec<u8>]) -> Vec<u8> {
    let mut out = infos.concat();
    out.resize((24 + out.len()).next_multiple_of(32) - 24 + 256, 0);
    out
}

#[test]
fn contradictions_are_refused_with_the_reason() {
    let u64s = |values: &[u64]| values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<_>>();
    let tensors = |infos: &[Vec<u8>]| by_hand(3, infos.len() as u64, 0, &with_data(infos));
    let entries = |list: &[Vec<u8>]| by_hand(3, 0, list.len() as u64, &list.concat());
    let nested = [&9u32.to_le_bytes()[..], &u64s(&[1])].concat();
    let long_array = [&4u32.to_le_bytes()[..], &u64s(&[1 << 62])].concat();
    let cases = [
        (by_hand(3 << 24, 0, 0, &[]), "big-endian"),
        (by_hand(1, 0, 0, &[]), "expected 2 or 3, found 1"),
        (by_hand(4, 0, 0, &[]), "expected 2 or 3, found 4"),
        (by_hand(3, u64::MAX, 0, &[]), "8 bytes left in the file".trim_start_matches("8 ")),
        (by_hand(3, 0, u64::MAX, &[]), "cut short"),
        (tensors(&[info("a", &[], 0, 0)]), "1 to 4 dimensions"),
        (tensors(&[info("a", &[1; 5], 0, 0)]), "1 to 4 dimensions"),
        (tensors(&[info("a", &[4, 0], 0, 0)]), "sizes of at least 1"),
        (tensors(&[info("a", &[1 << 40, 1 << 40], 0, 0)]), "of a size that fits"),
        (tensors(&[info("a", &[1 << 40, 1 << 40], 999, 0)]), "of a size that fits"),
        (tensors(&[info("a", &[33], 2, 0)]), "whole Q4_0 blocks of 32"),
        (tensors(&[info("a", &[4], 0, 4)]), "a multiple of 32, found 4"),
        (tensors(&[info("a", &[4], 0, 256)]), "cut short"),
        (tensors(&[info("a", &[65], 0, 0)]), "cut short"),
        (tensors(&[info("a", &[4], 0, u64::MAX - 31)]), "cut short"),
        (tensors(&[info("a", &[9], 0, 0), info("b", &[4], 0, 32)]), "where \"a\" ends"),
        (tensors(&[info("a", &[4], 0, 0), info("a", &[4], 0, 32)]), "one tensor of this name"),
        (entries(&[entry("k", 4, &[0; 4]), entry("k", 4, &[0; 4])]), "the key twice"),
        (entries(&[entry("", 4, &[0; 4])]), "1 to 65535 bytes"),
        (entries(&[entry("k", 13, &[0; 4])]), "a value type from 0 to 12, found 13"),
        (entries(&[entry("k", 7, &[2])]), "a Bool of 0 or 1"),
        (entries(&[entry("k", 9, &nested)]), "an array of arrays"),
        (entries(&[entry("k", 9, &long_array)]), "cut short"),
        (entries(&[entry("k", 8, &u64s(&[u64::MAX]))]), "cut short"),
        (entries(&[entry("general.alignment", 4, &[48, 0, 0, 0])]), "a power of two, found 48"),
        (entries(&[entry("general.alignment", 4, &[0; 4])]), "a power of two, found 0"),
        (entries(&[entry("split.count", 2, &[3, 0])]), "one of 3 parts"),
    ];
    for (result, wanted) in cases {
        let error = result.map(|_| wanted).unwrap_err();
        assert!(error.contains(wanted) && error.starts_with("hand.gguf: "), "{wanted}: {error}");
    }
}

#[test]
fn version_2_unknown_types_and_other_alignments_are_read() {
    let list = [info("a", &[4], 999, 0), info("b", &[4], 0, 64)];
    for version in [2, 3] {
        let file = by_hand(version, 2, 0, &with_data(&list)).unwrap();
        let unknown = file.tensor("a").unwrap();
        assert_eq!((unknown.dtype.to_string(), unknown.bytes.len()), ("type 999".into(), 64));
        assert_eq!(file.tensor("b").unwrap().to_f32().unwrap(), [0.0; 4]);
    }
    let mut rest = entry("general.alignment", 4, &[64, 0, 0, 0]);
    rest.extend(info("a", &[4], 0, 0));
    rest.resize((24 + rest.len()).next_multiple_of(64) - 24, 1);
    rest.extend(0.5f32.to_le_bytes().repeat(4));
    let file = by_hand(3, 1, 1, &rest).unwrap();
    assert_eq!(file.tensor("a").unwrap().to_f32().unwrap(), [0.5; 4]);
}
