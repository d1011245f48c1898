//! Losses, gradients and a training run against PyTorch's.
#![allow(clippy::unwrap_used, reason = "a test fails where it unwraps")]

use checkpoint::Checkpoint;
use model::Config;
use ops::{Reference, TrainDevice};
use testkit::oracle::{Form, Oracle, fixtures, logits, oracles, switches};
use testkit::training::Training;
use train::{Batch, Losses, Net, Objective, Workspace, loss_and_gradient, nll};

/// Relative, of norms, sums and values.
const TOLERANCE: f64 = 1e-4;

/// A model, prompt a as a batch, and what PyTorch says of them.
struct Case {
    net: Net,
    params: Vec<f32>,
    batch: Batch,
    ws: Workspace,
}

impl Case {
    fn new(oracle: &Oracle) -> Self {
        let (config, weights) = oracle.weights().unwrap();
        Self::of(oracle, config, &weights)
    }

    fn of(oracle: &Oracle, config: Config, weights: &Checkpoint) -> Self {
        let (net, params) = train::load(config, weights).unwrap();
        let mut batch = Batch::default();
        batch.push(&oracle.prompts()[0].ids, |_| 1.0);
        batch.average();
        let ws = Workspace::new(&net, batch.len()).unwrap();
        Self { net, params, batch, ws }
    }

    fn gradient(&mut self) -> (Losses, Vec<f32>) {
        let mut g = vec![0.0; self.params.len()];
        let (net, params, batch) = (&self.net, &self.params, &self.batch);
        let losses = loss_and_gradient(&Reference, net, params, batch, Objective::NEXT_TOKEN, &mut self.ws, &mut g);
        (losses, g)
    }
}

fn trained() -> Vec<(Oracle, Training)> {
    let with = |oracle: Oracle| oracle.training().map(|training| (oracle, training));
    let found: Vec<_> = oracles(&fixtures()).into_iter().filter_map(with).collect();
    assert!(found.len() >= 9, "oracles with gradients: expected nine or more, found {}", found.len());
    found
}

/// The gradient of a parameter under its name in transformers 5, which stacks experts and joins gate and up.
fn gradient_of(net: &Net, g: &[f32], name: &str) -> Vec<f32> {
    let planned = |published: &str| {
        let param = net.layout.params().iter().find(|p| p.planned.safetensors == published);
        let param = param.unwrap_or_else(|| panic!("{published} is not planned"));
        (g[param.range.clone()].to_vec(), param.planned.shape.clone())
    };
    let experts = |kind: &str, prefix: &str| planned(&format!("{prefix}{{}}.{kind}_proj.weight"));
    if let Some(prefix) = name.strip_suffix("gate_up_proj") {
        let ((gate, shape), (up, _)) = (experts("gate", prefix), experts("up", prefix));
        let each = shape[1] * shape[2];
        return gate.chunks(each).zip(up.chunks(each)).flat_map(|(gate, up)| [gate, up].concat()).collect();
    }
    match name.strip_suffix("experts.down_proj") {
        Some(prefix) => experts("down", &format!("{prefix}experts.")).0,
        None => planned(name).0,
    }
}

/// The largest relative distance of a case's loss and gradients to PyTorch's.
fn distance(name: &str, case: &mut Case, training: &Training) -> f64 {
    let (losses, g) = case.gradient();
    let mut worst = (losses.total - training.loss).abs() / training.loss;
    assert!(worst < TOLERANCE, "{name}: loss {} for {}", losses.total, training.loss);
    for stats in &training.gradients {
        let gradient = gradient_of(&case.net, &g, &stats.name);
        let off = stats.distance(&gradient);
        assert!(off < TOLERANCE, "{name}: {} is off by {off:.1e}: {stats:?}", stats.name);
        worst = worst.max(off);
    }
    worst
}

#[test]
fn gradients_are_those_of_pytorch() {
    for (oracle, training) in trained() {
        let worst = distance(&oracle.name, &mut Case::new(&oracle), &training);
        println!("{}: {} gradients, off by {worst:.1e} at most", oracle.name, training.gradients.len());
    }
}

/// Lossless GGUF files: the latents' matrix in one or two parts, rotated channels in another order, split files.
#[test]
fn a_gguf_file_has_the_same_gradients_under_the_same_names() {
    let files = [
        "dsv2_group.legacy.bf16.gguf",
        "dsv2_lite.bf16.gguf",
        "dsv3.bf16.gguf",
        "llama3.bf16-00001-of-00003.gguf",
        "qwen2_tied.bf16.gguf",
        "qwen3_yarn.bf16.gguf",
    ];
    for file in files {
        let weights = Checkpoint::open(fixtures().join("../gguf").join(file)).unwrap();
        let config = Config::from_gguf(&weights).unwrap();
        let (oracle, training) =
            trained().into_iter().find(|(o, _)| file.starts_with(&format!("{}.", o.name))).unwrap();
        let mut case = Case::of(&oracle, config, &weights);
        let worst = distance(file, &mut case, &training);
        println!("{file}: off by {worst:.1e} at most");
        let published = Case::new(&oracle);
        for tensor in case.net.layout.published() {
            let same = published.net.layout.published().find(|other| other.name == tensor.name).unwrap();
            assert_eq!(case.params[tensor.range], published.params[same.range], "{file}: {}", tensor.name);
        }
    }
}

/// What a rollout's policy said must be what the trainer says of it.
#[test]
fn the_engine_gives_the_same_likelihoods() {
    for oracle in oracles(&fixtures()).into_iter().chain(oracles(&switches())) {
        let mut case = Case::new(&oracle);
        let model = oracle.load(&Reference).unwrap();
        let (vocab, n) = (model.config.vocab_size, case.batch.len());
        let found = nll(&Reference, &case.net, &case.params, &case.batch, &mut case.ws);
        for form in [Form::Expanded, Form::Absorbed] {
            let mut logits = logits(&Reference, &model, &case.batch.tokens, form, n);
            let mut engine = vec![0.0; n];
            Reference.cross_entropy(&mut logits, vocab, &case.batch.targets, &case.batch.weights, &mut engine);
            // Expanded, both are the same sums in the same order: bit for bit. Absorbed, the sums are other ones.
            match form {
                Form::Absorbed => {
                    let off = found.iter().zip(&engine).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
                    assert!(off < 1e-5, "{}: off by {off}", oracle.name);
                }
                _ => assert_eq!(found, engine, "{}", oracle.name),
            }
        }
    }
}

#[test]
fn eight_steps_lose_what_pytorch_loses() {
    for (oracle, training) in trained() {
        let mut case = Case::new(&oracle);
        let [lr, beta1, beta2, eps, decay] = training.adamw;
        let (mut m, mut v) = (vec![0f64; case.params.len()], vec![0f64; case.params.len()]);
        let mut worst = 0f64;
        for (step, expected) in (1..).zip(&training.losses) {
            let (losses, g) = case.gradient();
            worst = worst.max((losses.total - expected).abs());
            assert!(worst < 1e-3, "{}: step {step}: loss {} for {expected}", oracle.name, losses.total);
            let corrections = [beta1, beta2].map(|beta| 1.0 - beta.powi(step));
            for param in case.net.layout.params().iter().filter(|param| param.is_trained()) {
                for i in param.range.clone() {
                    let g = f64::from(g[i]);
                    m[i] = beta1 * m[i] + (1.0 - beta1) * g;
                    v[i] = beta2 * v[i] + (1.0 - beta2) * g * g;
                    let update = m[i] / corrections[0] / ((v[i] / corrections[1]).sqrt() + eps);
                    case.params[i] = (f64::from(case.params[i]) * (1.0 - lr * decay) - lr * update) as f32;
                }
            }
        }
        println!("{}: 8 steps, off by {worst:.1e} at most", oracle.name);
    }
}

#[test]
fn what_has_no_gradient_gets_none() {
    for (oracle, _) in trained() {
        let mut case = Case::new(&oracle);
        let (_, g) = case.gradient();
        for bias in case.net.router_biases() {
            assert!(g[bias].iter().all(|v| *v == 0.0), "{}: the router's bias has a gradient", oracle.name);
        }
        // Without λ the MTP module is not computed.
        for param in case.net.layout.params().iter().filter(|param| param.planned.mtp) {
            assert!(g[param.range.clone()].iter().all(|v| *v == 0.0), "{}: {}", oracle.name, param.planned.name);
        }
    }
}
