//! The whole objective against differences: what no oracle knows (MTP, balance, packing).
#![allow(clippy::unwrap_used, reason = "a test fails where it unwraps")]

use std::ops::Range;

use model::plan::Role;
use ops::Reference;
use testkit::oracle::{Oracle, fixtures, oracles, switches};
use train::{Batch, Losses, Net, Objective, Workspace, loss_and_gradient, nll};

const OBJECTIVE: Objective = Objective { mtp: 0.3, balance: 0.1 };

fn open(oracle: &Oracle) -> (Net, Vec<f32>, Vec<u32>) {
    let (config, weights) = oracle.weights().unwrap();
    let (net, params) = train::load(config, &weights).unwrap();
    // A stretch where no token is near a tie of experts; the switches' prompts are shorter.
    let ids = &oracle.prompts()[0].ids;
    (net, params, ids[ids.len().min(40).saturating_sub(24)..ids.len().min(40)].to_vec())
}

fn model(name: &str) -> (Net, Vec<f32>, Vec<u32>) {
    open(oracles(&fixtures()).iter().find(|oracle| oracle.name == name).unwrap())
}

fn run(net: &Net, params: &[f32], batch: &Batch) -> (Losses, Vec<f32>) {
    let mut ws = Workspace::new(net, batch.len()).unwrap();
    let mut g = vec![0.0; params.len()];
    let losses = loss_and_gradient(&Reference, net, params, batch, OBJECTIVE, &mut ws, &mut g);
    (losses, g)
}

/// Three documents, one with a masked part.
fn packed(ids: &[u32]) -> Batch {
    let mut batch = Batch::default();
    batch.push(&ids[..9], |_| 1.0);
    batch.push(&ids[9..12], |_| 1.0);
    batch.push(&ids[12..], |i| if i < 6 { 0.0 } else { 0.5 });
    batch.average();
    batch
}

/// Moves the weights of `ranges` against differences of the loss.
fn follows(what: &str, net: &Net, params: &[f32], batch: &Batch, g: &[f32], ranges: &[Range<usize>]) {
    // Along the gradient's own signs, so that the difference is far above the rounding of the loss.
    let of_ranges = || ranges.iter().cloned().flatten();
    let slope: f64 = of_ranges().map(|i| f64::from(g[i].abs())).sum();
    assert!(slope > 0.0, "{what}: no gradient");
    // A large step may change a choice of experts, of a small one little is left after rounding: one must agree.
    let off = |change: f64| {
        let step = (change / slope).min(1e-3) as f32;
        let moved = |h: f32| {
            let mut params = params.to_vec();
            of_ranges().for_each(|i| params[i] += h * g[i].signum());
            run(net, &params, batch).0.total
        };
        ((moved(step) - moved(-step)) / (2.0 * f64::from(step)) / slope - 1.0).abs()
    };
    let agrees = [4e-3, 1e-3, 2.5e-4, 6e-5, 1.5e-5].into_iter().any(|change| off(change) < 0.02);
    assert!(agrees, "{what}: gradient {slope} is off by {}", off(1e-3));
}

#[test]
fn every_tensor_follows_differences() {
    let (net, params, ids) = model("dsv3");
    let batch = packed(&ids);
    let (losses, g) = run(&net, &params, &batch);
    assert!(losses.mtp > 1.0 && losses.balance > 0.0);
    for param in net.layout.params().iter().filter(|param| param.is_trained()) {
        follows(&param.planned.name, &net, &params, &batch, &g, std::slice::from_ref(&param.range));
    }
}

/// Each has one switch of its config set otherwise: biases, pairs, scalings, heads, formats.
#[test]
fn every_switch_follows_differences() {
    let fp8 = oracles(&fixtures()).into_iter().filter(|oracle| oracle.name.contains("fp8"));
    for oracle in oracles(&switches()).into_iter().chain(fp8) {
        let (net, params, ids) = open(&oracle);
        let batch = packed(&ids);
        let (_, g) = run(&net, &params, &batch);
        let mut by_role: Vec<(Role, Vec<Range<usize>>)> = Vec::new();
        for param in net.layout.params().iter().filter(|param| param.is_trained()) {
            let role = param.planned.role;
            match by_role.iter_mut().find(|(of, _)| *of == role) {
                Some((_, ranges)) => ranges.push(param.range.clone()),
                None => by_role.push((role, vec![param.range.clone()])),
            }
        }
        for (role, ranges) in by_role {
            follows(&format!("{}: {role:?}", oracle.name), &net, &params, &batch, &g, &ranges);
        }
    }
}

#[test]
fn packed_documents_are_blind_to_each_other() {
    for name in ["dsv3", "qwen3_yarn"] {
        let (net, params, ids) = model(name);
        let batch = packed(&ids);
        let (together, g) = run(&net, &params, &batch);
        let (mut nll_apart, mut g_apart) = (Vec::new(), vec![0f64; g.len()]);
        let mut sum = 0.0;
        for rows in &batch.sequences {
            let (mut ids, start) = (batch.tokens[rows.clone()].to_vec(), rows.start);
            ids.push(batch.targets[rows.end - 1]);
            let mut alone = Batch::default();
            alone.push(&ids, |i| batch.weights[start + i - 1]);
            let (losses, g) = run(&net, &params, &alone);
            // The balance loss is a mean over documents.
            sum += losses.main + f64::from(OBJECTIVE.mtp) * losses.mtp;
            sum += losses.balance / batch.sequences.len() as f64;
            nll_apart.extend(losses.nll);
            g_apart.iter_mut().zip(g).for_each(|(sum, g)| *sum += f64::from(g));
        }
        assert_eq!(together.nll, nll_apart, "{name}");
        assert!((together.total - sum).abs() < 1e-9, "{name}: {} for {sum}", together.total);
        if net.config.moe.is_none() {
            let norm = g_apart.iter().map(|g| g * g).sum::<f64>().sqrt();
            let off = g.iter().zip(&g_apart).map(|(a, b)| (f64::from(*a) - b).powi(2)).sum::<f64>().sqrt();
            assert!(off < 1e-6 * norm, "{name}: off by {off} of {norm}");
        }
    }
}

#[test]
fn likelihoods_alone_are_those_of_the_step_and_gradients_are_added() {
    let (net, params, ids) = model("dsv2_group");
    let batch = packed(&ids);
    let mut ws = Workspace::new(&net, batch.len() + 3).unwrap();
    let (losses, once) = run(&net, &params, &batch);
    // What is masked is not computed.
    assert!(losses.nll.iter().zip(&batch.weights).all(|(nll, weight)| (*nll == 0.0) == (*weight == 0.0)));
    assert_eq!(nll(&Reference, &net, &params, &batch, &mut ws), losses.nll);
    let mut twice = once.clone();
    loss_and_gradient(&Reference, &net, &params, &batch, OBJECTIVE, &mut ws, &mut twice);
    let off =
        twice.iter().zip(&once).map(|(two, one)| (two - 2.0 * one).abs() / (one.abs() + 1e-3)).fold(0.0, f32::max);
    assert!(off < 1e-4, "off by {off}");
    // A workspace keeps nothing of an earlier step.
    let mut again = vec![0.0; once.len()];
    assert_eq!(loss_and_gradient(&Reference, &net, &params, &batch, OBJECTIVE, &mut ws, &mut again), losses);
    assert_eq!(again, once);
    let picks: usize = ws.expert_loads().flatten().sum();
    let moe_layers = ws.expert_loads().count();
    assert_eq!(picks, moe_layers * batch.len() * net.config.moe.as_ref().unwrap().router.top_k);
    let empty = Batch::default();
    assert_eq!(loss_and_gradient(&Reference, &net, &params, &empty, OBJECTIVE, &mut ws, &mut again), Losses::default());
    assert_eq!(again, once);
}
