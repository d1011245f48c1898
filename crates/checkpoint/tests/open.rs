//! Finding the files of a model.
//!
//! Owns folders, shards, split GGUF files and the models that other software made.
#![allow(clippy::unwrap_used, reason = "a test stops where something fails")]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use checkpoint::gguf::Value;
use checkpoint::write::{self, Data, Item};
use checkpoint::{Checkpoint, Dtype, Kind};
use ops::WeightFormat;

fn item<'a>(name: &'a str, values: &'a [f32; 2]) -> Item<'a> {
    Item { name, dtype: Dtype::Weight(WeightFormat::F32), shape: &[2], data: Data::F32(values) }
}

const FIRST: &str = "model-00001-of-00002.safetensors";
const SECOND: &str = "model-00002-of-00002.safetensors";

/// A folder with tensors `a` and `b` in the first file, `c` in the second.
fn shards(weight_map: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let none = BTreeMap::new();
    write::safetensors(folder.path().join(FIRST), &none, &[item("a", &[1., 2.]), item("b", &[3., 4.])]).unwrap();
    write::safetensors(folder.path().join(SECOND), &none, &[item("c", &[5., 6.])]).unwrap();
    let index = format!(r#"{{"metadata": {{"total_size": 24}}, "weight_map": {weight_map}}}"#);
    fs::write(folder.path().join("model.safetensors.index.json"), index).unwrap();
    folder
}

fn good_map() -> String {
    format!(r#"{{"a": "{FIRST}", "b": "{FIRST}", "c": "{SECOND}"}}"#)
}

#[test]
fn shards_are_one_model() {
    let folder = shards(&good_map());
    for path in [folder.path().to_owned(), folder.path().join("model.safetensors.index.json")] {
        let model = Checkpoint::open(path).unwrap();
        assert_eq!((model.kind(), model.files().len()), (Kind::Safetensors, 2));
        let names: Vec<_> = model.tensors().map(|t| &t.name[..]).collect();
        assert_eq!(names, ["a", "b", "c"]);
        assert_eq!(model.require("c").unwrap().to_f32().unwrap(), [5., 6.]);
        assert!(model.require("c").unwrap().file.ends_with(SECOND));
    }
}

#[test]
fn an_index_that_lies_is_refused() {
    let other = |map: &str| Checkpoint::open(shards(map).path()).unwrap_err().to_string();
    let outside = ["../x.safetensors", "/etc/passwd", "..", "", "a/b.safetensors", "c:x", "a\\\\b", "./x"];
    for name in outside {
        let error = other(&format!(r#"{{"a": "{name}"}}"#));
        assert!(error.contains("names of files in the same folder"), "{name}: {error}");
    }
    let cases = [
        (format!(r#"{{"a": "{FIRST}", "c": "model-00003.safetensors"}}"#), "model-00003.safetensors: cannot find"),
        (format!(r#"{{"a": "{SECOND}", "b": "{FIRST}"}}"#), "tensor \"a\": expected the tensor in \"model-00002"),
        (format!(r#"{{"d": "{FIRST}"}}"#), "no such tensor in any file"),
        ("{}".into(), "found none"),
        ("[]".into(), "invalid type"),
        (r#"{"a": 1}"#.into(), "invalid type"),
    ];
    for (map, wanted) in cases {
        let error = other(&map);
        assert!(error.contains(wanted), "{wanted}: {error}");
    }
}

#[test]
fn one_name_in_two_files_is_refused() {
    let folder = shards(&good_map());
    write::safetensors(folder.path().join(SECOND), &BTreeMap::new(), &[item("a", &[0., 0.])]).unwrap();
    let error = Checkpoint::open(folder.path()).unwrap_err().to_string();
    assert!(error.contains("tensor \"a\": expected one tensor of this name") && error.contains(SECOND), "{error}");
}

#[test]
fn what_is_no_model_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    fs::write(at("empty.safetensors"), "").unwrap();
    fs::write(at("text.safetensors"), "not a model at all").unwrap();
    fs::create_dir(at("inner")).unwrap();
    let error = |path: PathBuf| Checkpoint::open(path).unwrap_err().to_string();
    assert!(error(at("")).contains("model.safetensors or model.safetensors.index.json, found neither"));
    assert!(error(at("missing")).contains("missing: cannot find the model"));
    assert!(error(at("empty.safetensors")).contains("found 0 bytes"));
    assert!(error(at("text.safetensors")).contains("not a safetensors file"));
    #[cfg(unix)]
    assert!(error("/dev/zero".into()).contains("a device, pipe or socket"));
}

fn split_part(folder: &Path, no: u16, count: u16, n_tensors: i32, name: &str) {
    let metadata = [
        ("general.architecture", Value::String("test".into())),
        ("split.no", Value::U16(no)),
        ("split.count", Value::U16(count)),
        ("split.tensors.count", Value::I32(n_tensors)),
    ];
    let path = folder.join(format!("m-{:05}-of-00002.gguf", no + 1));
    write::gguf(path, &metadata, &[item(name, &[no.into(), 0.])]).unwrap();
}

#[test]
fn any_part_of_a_split_file_stands_for_the_whole() {
    let folder = tempfile::tempdir().unwrap();
    split_part(folder.path(), 0, 2, 2, "a");
    split_part(folder.path(), 1, 2, 2, "b");
    for part in ["m-00001-of-00002.gguf", "m-00002-of-00002.gguf"] {
        let model = Checkpoint::open(folder.path().join(part)).unwrap();
        assert_eq!((model.kind(), model.files().len(), model.tensors().len()), (Kind::Gguf, 2, 2));
        assert_eq!(model.require("b").unwrap().to_f32().unwrap(), [1., 0.]);
        assert_eq!(model.gguf().unwrap().required::<u32>("split.no").unwrap(), 0);
    }
}

#[test]
fn split_files_that_do_not_fit_together_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let first = folder.path().join("m-00001-of-00002.gguf");
    let error = |path: &Path| Checkpoint::open(path).unwrap_err().to_string();
    split_part(folder.path(), 0, 2, 3, "a");
    assert!(error(&first).contains("m-00002-of-00002.gguf: cannot find"));
    split_part(folder.path(), 1, 2, 3, "b");
    assert!(error(&first).contains("\"split.tensors.count\": expected 2 as in all parts together, found 3"));
    split_part(folder.path(), 1, 3, 2, "b");
    assert!(error(&first).contains("\"split.count\": expected 2, found 3"));
    fs::copy(&first, folder.path().join("m-00002-of-00002.gguf")).unwrap();
    assert!(error(&first).contains("\"split.no\": expected 1, found 0"));
    let renamed = folder.path().join("renamed.gguf");
    fs::copy(&first, &renamed).unwrap();
    assert!(error(&renamed).contains("one of 2 parts"));
}

#[test]
fn every_model_made_by_transformers_opens() {
    let oracles = Path::new(env!("CARGO_MANIFEST_DIR")).join("../testkit/fixtures/oracles");
    let mut n_models = 0;
    for folder in fs::read_dir(oracles).unwrap().map(|entry| entry.unwrap().path()).filter(|path| path.is_dir()) {
        n_models += 1;
        assert!(checkpoint::read_config(&folder).unwrap()["model_type"].is_string());
        assert!(checkpoint::read_config(folder.join("config.json")).is_ok());
        for model in [Checkpoint::open(&folder).unwrap(), Checkpoint::open(folder.join("ref.safetensors")).unwrap()] {
            assert!(model.tensors().len() > 0);
            for tensor in model.tensors() {
                let n = tensor.shape.iter().product::<usize>();
                if tensor.dtype == Dtype::Weight(WeightFormat::F8_E4M3) {
                    let matrix = model.matrix_of(&tensor.name, None).unwrap();
                    assert_eq!(matrix.scale_row(0).len(), matrix.cols.div_ceil(128));
                    continue;
                }
                match tensor.to_f32() {
                    Ok(values) => assert!(values.len() == n && values.iter().all(|v| v.is_finite()), "{}", tensor.name),
                    Err(_) => assert_eq!(tensor.to_i64().unwrap().len(), n),
                }
            }
        }
    }
    assert!(n_models >= 10, "{n_models} models");
}
