//! `minke logits --grad` against PyTorch's loss and gradients. (Their every number is held in `train`'s tests.)
#![allow(clippy::unwrap_used, reason = "a test fails where it unwraps")]

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::{Command, Output};

use checkpoint::Checkpoint;
use testkit::oracle::{fixtures, oracles};

fn minke(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_minke")).args(args).output().unwrap()
}

fn ids(ids: &[u32]) -> String {
    ids.iter().map(u32::to_string).collect::<Vec<_>>().join(",")
}

#[test]
fn every_parameter_has_its_gradient_under_its_published_name() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("grad.safetensors");
    let oracles = oracles(&fixtures());
    for (name, model) in [
        ("dsv3", fixtures().join("dsv3")),
        ("qwen2_tied", fixtures().join("qwen2_tied")),
        ("llama3", fixtures().join("../gguf/llama3.bf16-00001-of-00003.gguf")),
    ] {
        let oracle = oracles.iter().find(|oracle| oracle.name == name).unwrap();
        let (training, tokens) = (oracle.training().unwrap(), ids(&oracle.prompts()[0].ids));
        let args = ["logits", "-m", model.to_str().unwrap(), "--tokens", &tokens, "--grad", out.to_str().unwrap()];
        let output = minke(&args);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let found = Checkpoint::open(&out).unwrap();
        let loss = f64::from(found.tensor("loss").unwrap().to_f32().unwrap()[0]);
        assert!((loss - training.loss).abs() < 1e-4 * training.loss, "{name}: {loss} for {}", training.loss);
        for stats in training.gradients.iter().filter(|stats| !stats.name.contains(".experts.")) {
            let gradient = found.tensor(&stats.name).unwrap().to_f32().unwrap();
            let norm = gradient.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>().sqrt();
            assert!((norm - stats.norm).abs() < 1e-4 * stats.norm, "{name}: {}: {norm} for {stats:?}", stats.name);
        }
        let (_, weights) = oracle.weights().unwrap();
        let shapes = |file: &Checkpoint| -> BTreeSet<(String, Vec<usize>)> {
            let of_weights = |name: &str| name != "loss" && !name.ends_with("e_score_correction_bias");
            let kept = file.tensors().filter(|t| of_weights(&t.name));
            kept.map(|t| (t.name.clone(), t.shape.clone())).collect()
        };
        // The checkpoint of an MTP module also holds copies of embedding and head.
        let extra: Vec<_> =
            shapes(&weights).symmetric_difference(&shapes(&found)).map(|(name, _)| name.clone()).collect();
        assert!(
            extra.iter().all(|name| name.contains("embed_tokens") || name.contains("shared_head.head")),
            "{extra:?}"
        );
    }
}

#[test]
fn what_has_no_next_token_has_no_loss() {
    let dir = tempfile::tempdir().unwrap();
    let (model, out): (PathBuf, PathBuf) = (fixtures().join("qwen2"), dir.path().join("grad.safetensors"));
    let (model, out) = (model.to_str().unwrap(), out.to_str().unwrap());
    let output = minke(&["logits", "-m", model, "--tokens", "1", "--grad", out]);
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{message}");
    assert!(message.contains("--grad: expected two or more tokens"), "{message}");
    let output = minke(&["logits", "-m", model, "--tokens", "1,2"]);
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.code() == Some(2) && message.contains("--out"), "{message}");
    assert!(!std::path::Path::new(out).exists());
}
