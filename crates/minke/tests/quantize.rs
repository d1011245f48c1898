//! `minke quantize`: what comes out is what went in, and what is in the way is left alone.
#![allow(clippy::unwrap_used, reason = "a test fails where it unwraps")]

use std::fs;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use checkpoint::Checkpoint;
use testkit::oracle::{fixtures, max_difference};

fn minke(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_minke")).args(args).stdin(Stdio::null()).output().unwrap()
}

fn quantize(model: &Path, out: &Path, more: &[&str]) -> Output {
    minke(&[&["quantize", "-m", model.to_str().unwrap(), out.to_str().unwrap()], more].concat())
}

fn done(output: &Output) {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// Logits behind a text, through the model's own tokenizer.
fn logits(model: &Path, folder: &Path) -> (Vec<i64>, Vec<f32>) {
    let out = folder.join("logits.safetensors");
    let text = "In 1987 the 12 ships of Ötzi's fleet,\n\n  all grey, sailed — 東京 to Lima.";
    done(&minke(&["logits", "-m", model.to_str().unwrap(), "--text", text, "--out", out.to_str().unwrap()]));
    let found = Checkpoint::open(&out).unwrap();
    let tensor = |name: &str| found.tensor(name).unwrap().clone();
    (tensor("token_ids").to_i64().unwrap(), tensor("logits").to_f32().unwrap())
}

#[test]
fn a_model_goes_from_folder_to_gguf_and_back() {
    for name in ["dsv3", "dsv3_flat", "dsv2_lite", "qwen2", "llama3", "qwen3_yarn"] {
        let (dir, model) = (tempfile::tempdir().unwrap(), fixtures().join(name));
        let [gguf, folder] = ["m.gguf", "folder"].map(|name| dir.path().join(name));
        done(&quantize(&model, &gguf, &["--format", "f32"]));
        let back = quantize(&gguf, &folder, &["--format", "f32"]);
        // This one's frequencies are scaled otherwise than any published model's: a GGUF file says only by how much each.
        let has_words = name != "llama3";
        match has_words {
            true => done(&back),
            false => assert!(String::from_utf8_lossy(&back.stderr).contains("config.json: rope_scaling: expected")),
        }
        let (ids, expected) = logits(&model, dir.path());
        for path in [&gguf, &folder].into_iter().take(if has_words { 2 } else { 1 }) {
            let (found_ids, found) = logits(path, dir.path());
            assert_eq!(found_ids, ids, "{name}: {}", path.display());
            let off = max_difference(&found, &expected);
            assert!(off < 1e-4, "{name}: {}: off by {off:e}", path.display());
        }
    }
}

#[test]
fn smaller_weights_are_smaller_and_near() {
    let (dir, model) = (tempfile::tempdir().unwrap(), fixtures().join("qwen2"));
    let sizes = ["f32", "f16", "q8_0", "q4_0"].map(|format| {
        let out = dir.path().join(format!("{format}.gguf"));
        done(&quantize(&model, &out, &["--format", format]));
        let (file, original) = (Checkpoint::open(&out).unwrap(), Checkpoint::open(&model).unwrap());
        let stored = file.tensor("blk.0.ffn_up.weight").unwrap();
        assert_eq!(stored.dtype.to_string().to_lowercase(), format);
        let weights = original.tensor("model.layers.0.mlp.up_proj.weight").unwrap().to_f32().unwrap();
        let largest = weights.iter().fold(0.0f32, |max, w| max.max(w.abs()));
        let bound = largest
            * match format {
                "q4_0" => 0.13,
                "q8_0" => 0.5 / 127.0 + 1e-3,
                _ => 1e-3,
            };
        assert!(max_difference(&stored.to_f32().unwrap(), &weights) <= bound, "{format}");
        fs::metadata(out).unwrap().len()
    });
    assert!(sizes.is_sorted_by(|a, b| a > b), "{sizes:?}");
}

#[test]
fn what_is_there_is_left_alone() {
    let (dir, model) = (tempfile::tempdir().unwrap(), fixtures().join("qwen2"));
    let [gguf, folder, file] = ["m.gguf", "folder", "file"].map(|name| dir.path().join(name));
    fs::create_dir(&folder).unwrap();
    for path in [&gguf, &folder.join("a"), &file] {
        fs::write(path, "mine").unwrap();
    }
    for (out, more, said) in [
        (&gguf, &[][..], "m.gguf: expected a name that is free"),
        (&folder, &[], "folder: expected a name that is free"),
        (&file, &[], "file: expected a name that is free"),
        (&dir.path().join("new"), &["--format", "q8_0"], "takes f32, f16 or bf16"),
        (&dir.path().join("new.gguf"), &["--format", "q9"], "possible values: f32, f16, bf16, q8_0, q4_0"),
        (&dir.path().join("no/such.gguf"), &[], "no/such.gguf"),
    ] {
        let output = quantize(&model, out, more);
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.code() != Some(0) && error.contains(said), "{error}");
    }
    assert_eq!(fs::read_dir(&folder).unwrap().count(), 1);
    assert!([&gguf, &file].iter().all(|path| fs::read(path).unwrap() == b"mine"));
    assert!(!dir.path().join("new").exists());
}
