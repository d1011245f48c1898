//! Damaged and hostile files: the twins of the fuzz targets, small enough for every run.
//!
//! Owns systematic damage to valid files. What must hold then stands in `exercise`.
#![allow(clippy::unwrap_used, reason = "a test stops where something fails")]

mod exercise;

use std::collections::BTreeMap;
use std::fs;

use bytes::Bytes;
use checkpoint::gguf::{Array, Value};
use checkpoint::write::{self, Data, Item};
use checkpoint::{Checkpoint, Dtype};
use ops::WeightFormat;

fn items() -> Vec<Item<'static>> {
    const ZEROS: &[u8] = &[0; 256];
    let weight = Dtype::Weight;
    let item = |name, dtype: Dtype, shape: &'static [usize]| {
        let (len, bytes) = match &dtype {
            Dtype::Weight(format) => (format.block_len(), format.block_bytes()),
            _ => (1, 4),
        };
        let n = shape.iter().product::<usize>() / len * bytes;
        Item { name, dtype, shape, data: Data::Bytes(&ZEROS[..n]) }
    };
    vec![
        item("norm.weight", weight(WeightFormat::F32), &[5]),
        item("a.weight", weight(WeightFormat::BF16), &[3, 4]),
        item("stack", weight(WeightFormat::F16), &[2, 3, 4]),
        item("ids", Dtype::I32, &[2, 2]),
    ]
}

fn safetensors() -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.safetensors");
    let mut items = items();
    items.push(Item {
        name: "b.weight",
        dtype: Dtype::Weight(WeightFormat::F8_E4M3),
        shape: &[4, 6],
        data: Data::Bytes(&[1; 24]),
    });
    items.push(Item {
        name: "b.weight_scale_inv",
        dtype: Dtype::Weight(WeightFormat::F32),
        shape: &[2, 2],
        data: Data::F32(&[1.0; 4]),
    });
    write::safetensors(&path, &BTreeMap::from([("format".into(), "pt".into())]), &items).unwrap();
    fs::read(path).unwrap()
}

fn gguf() -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.gguf");
    let mut items = items();
    let quantised =
        |name, format: WeightFormat, data| Item { name, dtype: Dtype::Weight(format), shape: &[2, 32], data };
    items.push(quantised("q", WeightFormat::Q8_0, Data::F32(&[0.5; 64])));
    items.push(quantised("r", WeightFormat::Q4_0, Data::Bytes(&[7; 36])));
    let metadata = [
        ("general.architecture", Value::String("deepseek2".into())),
        ("deepseek2.block_count", Value::U32(27)),
        ("deepseek2.rope.freq_base", Value::F32(1e4)),
        ("flag", Value::Bool(true)),
        ("wide", Value::U64(u64::MAX)),
        ("tokenizer.ggml.tokens", Value::Array(Array::from_strs(&["a", "", "ĠĠ"]))),
        ("tokenizer.ggml.scores", Value::Array(Array::from_f32(&[0.0, -1.0]))),
    ];
    write::gguf(&path, &metadata, &items).unwrap();
    fs::read(path).unwrap()
}

/// Where the tensors' bytes begin: damage before that is the interesting kind.
fn header_len(file: &[u8]) -> usize {
    let opened = Checkpoint::from_bytes("x", Bytes::copy_from_slice(file)).unwrap();
    file.len() - opened.tensors().map(|t| t.bytes.len()).sum::<usize>()
}

/// A small generator (xorshift) so that every run sees the same damage.
struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % n as u64) as usize
    }
}

#[test]
fn a_file_cut_anywhere_is_an_error() {
    for file in [safetensors(), gguf()] {
        for i in 0..200 {
            let cut = file.len() * i / 200;
            let cut = &file[..cut];
            exercise::model(cut);
            let opened = Checkpoint::from_bytes("x", Bytes::copy_from_slice(cut));
            // GGUF pads its last tensor: without that padding the file is still whole.
            let padding = if file.starts_with(b"GGUF") { 32 } else { 0 };
            assert!(opened.is_err() || cut.len() + padding > file.len(), "{} of {} bytes", cut.len(), file.len());
        }
    }
}

#[test]
fn flipped_bytes_are_errors_or_consistent() {
    for file in [safetensors(), gguf()] {
        for at in 0..header_len(&file).min(file.len()) {
            for mask in [0x01, 0x10, 0x80, 0xff] {
                let mut damaged = file.clone();
                damaged[at] ^= mask;
                exercise::model(&damaged);
            }
        }
    }
}

#[test]
fn extreme_lengths_and_offsets_are_errors_or_consistent() {
    let file = gguf();
    let n = file.len() as u64;
    for at in 0..header_len(&file).min(file.len() - 8) {
        for value in [0, 1, 31, 32, n - 1, n, n + 1, u64::from(u32::MAX), 1 << 60, u64::MAX - 31, u64::MAX] {
            let mut damaged = file.clone();
            damaged[at..at + 8].copy_from_slice(&value.to_le_bytes());
            exercise::model(&damaged);
            damaged = file.clone();
            damaged[at..at + 4].copy_from_slice(&(value as u32).to_le_bytes());
            exercise::model(&damaged);
        }
    }
}

#[test]
fn extreme_numbers_in_a_json_header_are_errors_or_consistent() {
    let file = safetensors();
    let (length, rest) = file.split_first_chunk::<8>().unwrap();
    let (header, data) = rest.split_at(u64::from_le_bytes(*length) as usize);
    let header = str::from_utf8(header).unwrap();
    let digits: Vec<usize> = header.char_indices().filter(|(_, c)| c.is_ascii_digit()).map(|(i, _)| i).collect();
    let values = ["", "-1", "0", "1", "99999999999999999999999", "18446744073709551615", "1e3", "1.5", "null", "[]"];
    for (at, value) in digits.iter().flat_map(|&at| values.map(|v| (at, v))) {
        let text = format!("{}{value}{}", &header[..at], &header[at + 1..]);
        let mut damaged = (text.len() as u64).to_le_bytes().to_vec();
        damaged.extend(text.as_bytes());
        damaged.extend(data);
        exercise::model(&damaged);
    }
}

#[test]
fn random_damage_is_an_error_or_consistent() {
    let mut random = Random(0x2545_f491_4f6c_dd1d);
    for file in [safetensors(), gguf()] {
        for _ in 0..5000 {
            let mut damaged = file.clone();
            for _ in 0..1 + random.below(4) {
                let (at, from, n) = (random.below(file.len()), random.below(file.len()), random.below(24));
                match random.below(4) {
                    0 => damaged[at % file.len()] = random.below(256) as u8,
                    1 => drop(damaged.splice(at..(at + n).min(file.len()), [])),
                    2 => drop(damaged.splice(at..at, file[from..(from + n).min(file.len())].iter().copied())),
                    _ => damaged.rotate_left(n),
                }
                damaged.resize(file.len(), 0);
            }
            exercise::model(&damaged);
        }
    }
}

#[test]
fn damaged_configurations_are_errors_or_objects() {
    let text = br#"{"model_type": "deepseek_v3", "n": [1, 2.5, {"a": null}], "s": "\u00e9\ud83d\ude00", "t": true}"#;
    for at in 0..text.len() {
        exercise::config(&text[..at]);
        for byte in [0, b'"', b'{', b'[', b'}', b'\\', b'9', 0xff] {
            let mut damaged = text.to_vec();
            damaged[at] = byte;
            exercise::config(&damaged);
        }
    }
}

#[test]
fn nothing_at_all_is_an_error() {
    for bytes in [&b""[..], b"GGUF", b"GGU", &[0; 8], &[0xff; 64], b"\x02\0\0\0\0\0\0\0{}"] {
        exercise::model(bytes);
    }
}
