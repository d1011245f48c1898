//! `minke logits --grad` against PyTorch's loss and gradients, and the device that trains beside it.
#![allow(clippy::unwrap_used, reason = "a test fails where it unwraps")]

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::{Command, Output};

use checkpoint::Checkpoint;
use cpu::Cpu;
use ops::{Reference, TrainDevice};
use testkit::oracle::{fixtures, oracles};
use train::{Batch, Net, Objective, Workspace, loss_and_gradient};

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
    let mut models: Vec<_> = oracles
        .iter()
        .filter(|o| o.training().is_some())
        .map(|o| (o.name.as_str(), fixtures().join(&o.name)))
        .collect();
    models.push(("llama3", fixtures().join("../gguf/llama3.bf16-00001-of-00003.gguf")));
    for (name, model) in models {
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
            let off = stats.distance(&gradient);
            assert!(off < 1e-4, "{name}: {} is off by {off:.1e}: {stats:?}", stats.name);
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

fn gradient(dev: &impl TrainDevice, net: &Net, params: &[f32], batch: &Batch) -> (f64, Vec<f32>) {
    let (mut ws, mut g) = (Workspace::new(net, batch.len()).unwrap(), vec![0.0; params.len()]);
    let losses = loss_and_gradient(dev, net, params, batch, Objective::NEXT_TOKEN, &mut ws, &mut g);
    (losses.total, g)
}

/// Vectors and tiles have products of their own, of 16 bits where gradients are made.
#[test]
fn the_device_that_trains_has_the_gradients_of_the_reference() {
    let cpu = Cpu::new();
    let mut n_compared = 0;
    for oracle in oracles(&fixtures()).iter().filter(|oracle| oracle.training().is_some()) {
        let (config, weights) = oracle.weights().unwrap();
        let (net, params) = train::load(config, &weights).unwrap();
        let mut batch = Batch::default();
        batch.push(&oracle.prompts()[0].ids, |_| 1.0);
        batch.average();
        let (expected_loss, expected) = gradient(&Reference, &net, &params, &batch);
        let (loss, found) = gradient(&cpu, &net, &params, &batch);
        assert!((loss - expected_loss).abs() < 1e-5 * expected_loss, "{}: {loss} for {expected_loss}", oracle.name);
        for tensor in net.layout.published().filter(|tensor| tensor.is_trained) {
            let (expected, found) = (&expected[tensor.range.clone()], &found[tensor.range]);
            let norm = |values: &mut dyn Iterator<Item = f64>| values.map(|v| v * v).sum::<f64>().sqrt();
            let size = norm(&mut expected.iter().map(|v| f64::from(*v)));
            let off = norm(&mut found.iter().zip(expected).map(|(v, e)| f64::from(*v) - f64::from(*e)));
            assert!(off <= 2e-5 * size, "{}: {}: off by {off:.1e} of {size:.1e}", oracle.name, tensor.name);
            n_compared += 1;
        }
    }
    assert!(n_compared > 200, "{n_compared}");
}
