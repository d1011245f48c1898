//! Adapters: their gradients from those of the whole matrices, which PyTorch's oracles hold; merging; whole runs.
#![allow(clippy::unwrap_used, reason = "a test stops where something fails")]

use std::fs;
use std::path::Path;

use checkpoint::Checkpoint;
use model::Config;
use ops::Reference;
use testkit::oracle::{fixtures, oracles};
use train::checkpoints::ADAPTERS;
use train::log::StepRecord;
use train::lora::{LoraSpec, Target};
use train::optim::Naive;
use train::recipe::Recipe;
use train::rng::Rng;
use train::run::{Observer, Run};
use train::{Batch, Losses, Net, Objective, Workspace, loss_and_gradient, nll};

fn spec(targets: &[Target]) -> LoraSpec {
    LoraSpec { rank: 3, alpha: 4.5, targets: targets.to_vec() }
}

const ALL: [Target; 7] =
    [Target::QProj, Target::KProj, Target::VProj, Target::OProj, Target::GateProj, Target::UpProj, Target::DownProj];

/// Two documents, one with a masked part.
fn batch(ids: &[u32]) -> Batch {
    let mut batch = Batch::default();
    batch.push(&ids[..9], |_| 1.0);
    batch.push(&ids[9..24], |i| if i < 6 { 0.0 } else { 0.5 });
    batch.average();
    batch
}

fn run(net: &Net, params: &[f32], batch: &Batch) -> (Losses, Vec<f32>) {
    let mut ws = Workspace::new(net, batch.len()).unwrap();
    let mut g = vec![0.0; net.trained().len()];
    let losses = loss_and_gradient(&Reference, net, params, batch, Objective::NEXT_TOKEN, &mut ws, &mut g);
    (losses, g)
}

/// C = op(A)·B in f64, `a [m, k]`.
fn product([m, k, n]: [usize; 3], a: impl Fn(usize, usize) -> f64, b: impl Fn(usize, usize) -> f64) -> Vec<f64> {
    (0..m * n).map(|i| (0..k).map(|j| a(i / n, j) * b(j, i % n)).sum()).collect()
}

fn distance(found: &[f32], expected: &[f64]) -> f64 {
    let norm = expected.iter().map(|v| v * v).sum::<f64>().sqrt();
    assert!(norm > 0.0);
    found.iter().zip(expected).map(|(a, b)| (f64::from(*a) - b).powi(2)).sum::<f64>().sqrt() / norm
}

/// d_A = s·Bᵀ·d_W and d_B = s·d_W·Aᵀ, with d_W at the merged weights: a gradient that the adapters' own never makes.
#[test]
fn gradients_are_those_of_the_merged_matrices() {
    for name in ["qwen2", "qwen2_tied", "llama3", "llama_tied", "qwen3_yarn"] {
        let oracle = oracles(&fixtures()).into_iter().find(|oracle| oracle.name == name).unwrap();
        let (config, weights) = oracle.weights().unwrap();
        let (full, base) = train::load(config, &weights).unwrap();
        let batch = batch(&oracle.prompts()[0].ids);
        for targets in [&ALL[..], &[Target::VProj, Target::DownProj]] {
            let (mut net, mut params) = (full.clone(), base.clone());
            net.adapt(&spec(targets)).unwrap();
            net.start_adapters(7, &mut params).unwrap();
            assert_eq!(net.adapter_tensors().len(), 2 * targets.len() * full.config.num_hidden_layers);
            // Nothing is added yet, and B's gradient alone is not zero.
            assert_eq!(run(&net, &params, &batch).0, run(&full, &base, &batch).0, "{name}");
            let mut rng = Rng::new(&[1]);
            let first = net.trained().start;
            params[first..].iter_mut().for_each(|v| *v = (rng.normal() * 0.1) as f32);
            let (losses, g) = run(&net, &params, &batch);
            let mut merged = params.clone();
            net.merge(&Reference, &mut merged);
            let (expected, d_full) = run(&full, &merged[..first], &batch);
            assert!((losses.total - expected.total).abs() < 1e-6, "{name}: {} for {}", losses.total, expected.total);
            assert!((run(&net, &merged, &batch).0.total - expected.total).abs() < 1e-9, "{name}: B is not zero");
            for pair in net.adapter_tensors().chunks(2) {
                let [a, b] = pair else { panic!("A and B") };
                let module = a.name.strip_prefix("base_model.model.").unwrap().strip_suffix("lora_A.weight").unwrap();
                let published = format!("{module}weight");
                let w = full.layout.params().iter().find(|p| p.planned.safetensors == published).unwrap();
                let ([rank, cols], [rows, _]) = (a.shape, b.shape);
                assert_eq!(w.planned.shape, [rows, cols]);
                let d_w = &d_full[w.range.clone()];
                let (va, vb) = (&params[a.range.clone()], &params[b.range.clone()]);
                let d_w = |i: usize, j: usize| 1.5 * f64::from(d_w[i * cols + j]);
                let d_a = product([rank, rows, cols], |i, j| f64::from(vb[j * rank + i]), d_w);
                let d_b = product([rows, cols, rank], d_w, |i, j| f64::from(va[j * cols + i]));
                for (tensor, expected) in [(a, d_a), (b, d_b)] {
                    let off = distance(&g[tensor.range.start - first..tensor.range.end - first], &expected);
                    assert!(off < 1e-5, "{name}: {} is off by {off:.1e}", tensor.name);
                }
            }
        }
    }
}

#[test]
fn only_dense_models_are_adapted() {
    let oracle = oracles(&fixtures()).into_iter().find(|oracle| oracle.name == "dsv3").unwrap();
    let mut net = Net::new(oracle.weights().unwrap().0);
    let error = net.adapt(&spec(&ALL)).unwrap_err();
    assert!(error.contains("qwen2, qwen3 or llama") && error.ends_with("found deepseek_v3"), "{error}");
}

#[derive(Default)]
struct Seen {
    losses: Vec<f64>,
    stop_after: usize,
}

impl Observer for Seen {
    fn step(&mut self, _: &Recipe, record: &StepRecord) {
        self.losses.push(record.loss);
        assert!(self.losses.len() != self.stop_after, "killed");
    }

    fn traces(&mut self, _: &str, _: [u64; 3]) {
        unreachable!("no recipe here has a teacher");
    }

    fn warn(&mut self, message: &str) {
        panic!("{message}");
    }
}

/// Sixty lines of a source, of which line `damaged` is cut short.
fn write_data(folder: &Path, damaged: Option<usize>) {
    let line = |i: usize| match damaged == Some(i + 1) {
        true => "{\"text\": \"The ships".to_owned(),
        false => format!("{{\"text\": \"The {i} ships of the fleet lie in harbour {}.\"}}", i % 7),
    };
    fs::write(folder.join("a.jsonl"), (0..60).map(|i| line(i) + "\n").collect::<String>()).unwrap();
}

fn recipe_in(folder: &Path, model: &Path) -> Recipe {
    let recipe = format!(
        r#"
output = "out"
held_out = 0.0
[model]
from = {model:?}
[lora]
rank = 4
alpha = 8
[data.prose]
chat = ["a.jsonl"]
[[stage]]
type = "pretrain"
steps = 6
batch_tokens = 128
micro_batch_tokens = 64
sequence_length = 64
evaluate_every = 0
checkpoint_every = 2
optimizer = {{ type = "adamw", lr = 0.02, adamw = {{ weight_decay = 0.0 }} }}
"#
    );
    Recipe::parse(&recipe, &folder.join("r.toml")).unwrap()
}

/// A run in `folder`, stopped after so many steps (0: never): its losses.
fn train_in(folder: &Path, model: &Path, stop_after: usize) -> Vec<f64> {
    write_data(folder, None);
    let recipe = recipe_in(folder, model);
    let mut seen = Seen { stop_after, ..Seen::default() };
    let run = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        let mut run = Run::open(&Reference, &recipe, &mut seen).unwrap();
        assert!(run.plan().n_trained < run.plan().n_params);
        run.run(&mut Naive, &mut seen).unwrap();
    }));
    assert_eq!(run.is_err(), stop_after > 0);
    seen.losses
}

#[test]
fn a_damaged_line_is_named_and_what_was_trained_is_kept() {
    let base = fixtures().join("qwen2_tied");
    let [whole, broken] = [(); 2].map(|()| tempfile::tempdir().unwrap());
    let losses = train_in(whole.path(), &base, 0);
    train_in(broken.path(), &base, 5);
    write_data(broken.path(), Some(3));
    let recipe = recipe_in(broken.path(), &base);
    let error = Run::open(&Reference, &recipe, &mut Seen::default()).err().unwrap().to_string();
    assert!(error.contains("a.jsonl:3: expected an object with \"messages\""), "{error}");
    // The line mended, the run goes on from its last checkpoint.
    assert_eq!(train_in(broken.path(), &base, 0), losses[4..]);
}

#[test]
fn a_run_trains_adapters_resumes_and_merges() {
    let base = fixtures().join("qwen2_tied");
    let [whole, broken] = [(); 2].map(|()| tempfile::tempdir().unwrap());
    let losses = train_in(whole.path(), &base, 0);
    assert_eq!(losses.len(), 6);
    assert!(losses[5] < losses[0] - 0.05, "{losses:?}");
    train_in(broken.path(), &base, 5);
    let rest = train_in(broken.path(), &base, 0);
    assert_eq!(rest, losses[4..]);

    let out = whole.path().join("out");
    let checkpoint = out.join("step-00000006");
    let mut names: Vec<_> = fs::read_dir(&checkpoint).unwrap().map(|e| e.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["adapter_config.json", ADAPTERS, "optimizer.safetensors", "run.json"]);
    let merged: [Vec<u8>; 2] =
        [&whole, &broken].map(|folder| fs::read(folder.path().join("out/merged/model.safetensors")).unwrap());
    assert_eq!(merged[0], merged[1]);

    // Another command sees a model that learnt.
    let folder = out.join("merged");
    let config = Config::from_json(&checkpoint::read_config(&folder).unwrap()).unwrap();
    let (net, params) = train::load(config, &Checkpoint::open(&folder).unwrap()).unwrap();
    let (before_net, _, before) = train::pretrained::load(&base).unwrap();
    assert_eq!(net.config, before_net.config);
    let files = train::pretrained::tokenizer(&folder).unwrap();
    let encoder = train::data::Encoder::new(&files.tokenizer, &files.config).unwrap();
    let document = encoder.text("The 12 ships of the fleet lie in harbour 5.", "here").unwrap();
    let ids: Vec<u32> = document.tokens.iter().map(|token| token.id()).collect();
    let mut batch = Batch::default();
    batch.push(&ids, |_| 1.0);
    batch.average();
    let mut ws = Workspace::new(&net, batch.len()).unwrap();
    let mut mean = |net: &Net, params: &[f32]| nll(&Reference, net, params, &batch, &mut ws).iter().sum::<f64>();
    assert!(mean(&net, &params) < mean(&before_net, &before) - 1.0);
}

#[test]
fn a_gguf_file_is_adapted_like_the_folder_it_was_made_of() {
    let gguf = fixtures().join("../gguf/qwen2_tied.bf16.gguf");
    let [a, b] = [(); 2].map(|()| tempfile::tempdir().unwrap());
    assert_eq!(train_in(a.path(), &gguf, 0), train_in(b.path(), &fixtures().join("qwen2_tied"), 0));
}
