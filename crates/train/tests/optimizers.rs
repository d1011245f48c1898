//! AdamW and Muon beside PyTorch's (fixtures by peers/optimizers.py, computed in f64), and what the optimiser promises
//! about groups and state.
#![allow(clippy::unwrap_used, reason = "a test stops where something fails")]

use serde::Deserialize;
use std::collections::BTreeMap;
use train::optim::{AdamW, Method, Muon, Naive, NewtonSchulz, Optimizer, Parameter, Rule, Scale, clip_norm};

#[derive(Deserialize)]
struct Fixture {
    lr: Vec<f32>,
    adamw: BTreeMap<String, Case>,
    muon_original: BTreeMap<String, Case>,
    muon_rms: BTreeMap<String, Case>,
}

#[derive(Deserialize)]
struct Case {
    shape: Vec<usize>,
    weights: Vec<f64>,
}

fn values(n: usize, phase: f64) -> Vec<f32> {
    (0..n)
        .map(|i| ((0.7 * i as f64 + 0.13 * (i * i) as f64 + phase).sin() * 4096.0).round_ties_even() as f32 / 4096.0)
        .collect()
}

fn gradients(n: usize, step: usize) -> Vec<f32> {
    values(n, 2.0 + 3.1 * step as f64)
}

/// All three shapes at once, as one arena, so that offsets count too.
fn compare(method: &Method, lr: &[f32], cases: &BTreeMap<String, Case>) {
    let mut offset = 0;
    let parameters: Vec<Parameter> = (cases.iter())
        .map(|(name, case)| {
            let parameter = Parameter { name: name.clone(), offset, shape: case.shape.clone(), rule: Rule::Matrix };
            offset += parameter.len();
            parameter
        })
        .collect();
    let arena = |fill: &dyn Fn(usize) -> Vec<f32>| parameters.iter().flat_map(|p| fill(p.len())).collect::<Vec<f32>>();
    let mut weights = arena(&|n| values(n, 1.0));
    let mut optimizer = Optimizer::new(method.clone(), parameters.clone());
    for (step, lr) in lr.iter().enumerate() {
        optimizer.update(*lr, &mut weights, &arena(&|n| gradients(n, step)), &mut Naive);
    }
    let expected = cases.values().flat_map(|case| &case.weights);
    let scale = weights.iter().fold(0.0, |max: f32, w| max.max(w.abs()));
    let worst = weights.iter().zip(expected).map(|(w, e)| (f64::from(*w) - e).abs()).fold(0.0, f64::max);
    assert!(worst <= 1e-6 * f64::from(scale), "{method:?}: {worst} of {scale}");
}

#[test]
fn steps_are_those_of_pytorch() {
    let fixture: Fixture = serde_json::from_str(include_str!("fixtures/optimizers.json")).unwrap();
    let adamw = AdamW::default();
    compare(&Method::AdamW(adamw.clone()), &fixture.lr, &fixture.adamw);
    let original =
        Muon { scale: Scale::Original, newton_schulz: NewtonSchulz::Five, momentum: 0.95, weight_decay: 0.1 };
    compare(&Method::Muon(original.clone(), adamw.clone()), &fixture.lr, &fixture.muon_original);
    let rms = Muon { scale: Scale::MatchRmsAdamw, momentum: 0.9, weight_decay: 0.2, ..original };
    compare(&Method::Muon(rms, adamw), &fixture.lr, &fixture.muon_rms);
}

fn mixed() -> Vec<Parameter> {
    let mut offset = 0;
    let tensors: [(&str, &[usize]); 4] = [
        ("model.embed_tokens.weight", &[8, 4]),
        ("model.layers.0.self_attn.o_proj.weight", &[4, 6]),
        ("model.layers.0.mlp.experts", &[3, 4, 2]),
        ("model.norm.weight", &[4]),
    ];
    (tensors.iter())
        .map(|(name, shape)| {
            let rule = Rule::of(name, shape);
            let parameter = Parameter { name: (*name).into(), offset, shape: shape.to_vec(), rule };
            offset += parameter.len();
            parameter
        })
        .collect()
}

#[test]
fn groups_follow_names_and_shapes() {
    let rules: Vec<Rule> = mixed().iter().map(|p| p.rule).collect();
    assert_eq!(rules, [Rule::Table, Rule::Matrix, Rule::Matrix, Rule::Vector]);
    assert_eq!(Rule::of("model.layers.3.mlp.gate.weight", &[8, 4]), Rule::Table);
    assert_eq!(Rule::of("model.layers.3.mlp.gate_proj.weight", &[8, 4]), Rule::Matrix);
    assert_eq!(Rule::of("model.layers.9.shared_head.head.weight", &[8, 4]), Rule::Table);
    // Without gradients only decay moves weights, and norms have none.
    let n: usize = mixed().iter().map(Parameter::len).sum();
    for method in [Method::AdamW(AdamW::default()), Method::Muon(Muon::default(), AdamW::default())] {
        let mut weights = vec![1.0; n];
        Optimizer::new(method, mixed()).update(0.5, &mut weights, &vec![0.0; n], &mut Naive);
        assert!(weights[..n - 4].iter().all(|w| (w - 0.95).abs() < 1e-6));
        assert_eq!(weights[n - 4..], [1.0; 4]);
    }
}

#[test]
fn stacked_experts_move_as_if_each_were_alone() {
    let method = Method::Muon(Muon::default(), AdamW::default());
    let one = |shape: Vec<usize>| vec![Parameter { name: "e".into(), offset: 0, shape, rule: Rule::Matrix }];
    let mut stacked = values(24, 1.0);
    Optimizer::new(method.clone(), one(vec![3, 4, 2])).update(0.1, &mut stacked, &gradients(24, 0), &mut Naive);
    let mut apart = values(24, 1.0);
    for (weights, gradients) in apart.chunks_mut(8).zip(gradients(24, 0).chunks(8)) {
        Optimizer::new(method.clone(), one(vec![4, 2])).update(0.1, weights, gradients, &mut Naive);
    }
    assert_eq!(stacked, apart);
}

#[test]
fn restored_state_goes_on_bit_by_bit() {
    let n: usize = mixed().iter().map(Parameter::len).sum();
    for method in [Method::AdamW(AdamW::default()), Method::Muon(Muon::default(), AdamW::default())] {
        let step = |optimizer: &mut Optimizer, weights: &mut Vec<f32>, at| {
            optimizer.update(0.01, weights, &gradients(n, at), &mut Naive);
        };
        let (mut undisturbed, mut weights) = (Optimizer::new(method.clone(), mixed()), values(n, 1.0));
        (0..3).for_each(|at| step(&mut undisturbed, &mut weights, at));
        let mut resumed = Optimizer::new(method, mixed());
        let [first, second] = undisturbed.state().map(<[f32]>::to_vec);
        resumed.restore(undisturbed.step(), &first, &second).unwrap();
        let mut resumed_weights = weights.clone();
        (3..6).for_each(|at| step(&mut undisturbed, &mut weights, at));
        (3..6).for_each(|at| step(&mut resumed, &mut resumed_weights, at));
        assert_eq!(weights, resumed_weights);
        let error = resumed.restore(1, &first[1..], &second).unwrap_err();
        assert!(error.contains("lengths"), "{error}");
    }
}

#[test]
fn clipping_keeps_direction_and_reports_the_norm() {
    let mut gradients = vec![3.0, 4.0];
    assert_eq!(clip_norm(&mut gradients, 10.0), 5.0);
    assert_eq!(gradients, [3.0, 4.0]);
    assert_eq!(clip_norm(&mut gradients, 1.0), 5.0);
    assert!((gradients[0] - 0.6).abs() < 1e-7 && (gradients[1] - 0.8).abs() < 1e-7);
    let mut broken = vec![f32::NAN, 1.0];
    assert!(clip_norm(&mut broken, 1.0).is_nan());
    assert_eq!(broken[1], 1.0, "a broken gradient is left for the caller to see");
}
