//! A student and its teacher: the divergence's gradient is its slope, descending it leads to the teacher, and a teacher of
//! other tokens is refused.
#![allow(clippy::unwrap_used, reason = "a test fails where it unwraps")]

use ops::Reference;
use testkit::oracle::{fixtures, oracles};
use train::data::Encoder;
use train::{Batch, Net, Teacher, Workspace, divergence_and_gradient};

struct Student {
    net: Net,
    params: Vec<f32>,
    batch: Batch,
    ws: Workspace,
    teacher: Teacher,
}

impl Student {
    /// A model of the fixtures, its weights moved by up to `moved`, with another one as its teacher.
    fn new(name: &str, teacher: &str, moved: f32) -> Self {
        let all = oracles(&fixtures());
        let oracle = all.iter().find(|oracle| oracle.name == name).unwrap();
        let (config, weights) = oracle.weights().unwrap();
        let (net, mut params) = train::load(config, &weights).unwrap();
        params.iter_mut().enumerate().for_each(|(i, w)| *w += moved * ((i % 7) as f32 - 3.0) / 3.0);
        let ids = &oracle.prompts()[0].ids[..24];
        let mut batch = Batch::default();
        batch.push(&ids[..10], |_| 1.0);
        batch.push(&ids[10..], |i| if i < 4 { 0.0 } else { 1.0 });
        batch.average();
        let teacher = Teacher::load(&fixtures().join(teacher), net.config.vocab_size, batch.len()).unwrap();
        Self { ws: Workspace::new(&net, batch.len()).unwrap(), net, params, batch, teacher }
    }

    fn divergence(&mut self, balance: f32) -> (f64, Vec<f32>) {
        let mut g = vec![0.0; self.params.len()];
        let teacher = (&mut self.teacher, balance);
        let Self { net, params, batch, ws, .. } = self;
        let found = divergence_and_gradient(&Reference, net, params, batch, teacher, ws, &mut g);
        assert!(found.nll.iter().zip(&batch.weights).all(|(kl, weight)| *weight != 0.0 || *kl == 0.0));
        (found.total, g)
    }
}

#[test]
fn the_gradient_is_the_divergences_slope() {
    for (name, teacher) in [("qwen2", "qwen2"), ("qwen2", "dsv3"), ("dsv3", "qwen2")] {
        let mut student = Student::new(name, teacher, 0.05);
        let (divergence, g) = student.divergence(0.0);
        assert!(divergence > 1e-3, "{name}: {divergence}");
        let slope: f64 = g.iter().map(|g| f64::from(g.abs())).sum();
        // As in differences.rs: a large step may change a choice of experts, of a small one little is left after rounding.
        let off = |student: &mut Student, change: f64| {
            let step = (change / slope) as f32;
            let mut moved = |h: f32| {
                student.params.iter_mut().zip(&g).for_each(|(w, g)| *w += h * g.signum());
                let found = student.divergence(0.0).0;
                student.params.iter_mut().zip(&g).for_each(|(w, g)| *w -= h * g.signum());
                found
            };
            ((moved(step) - moved(-step)) / (2.0 * f64::from(step)) / slope - 1.0).abs()
        };
        let agrees = [4e-3, 1e-3, 2.5e-4].into_iter().any(|change| off(&mut student, change) < 0.02);
        assert!(agrees, "{name} from {teacher}: slope {slope} is off by {}", off(&mut student, 1e-3));
    }
}

#[test]
fn the_same_model_has_nothing_to_learn() {
    let mut student = Student::new("qwen2", "qwen2", 0.0);
    let (divergence, g) = student.divergence(0.0);
    assert!(divergence.abs() < 1e-9, "{divergence}");
    assert!(g.iter().all(|g| g.abs() < 1e-5), "{}", g.iter().fold(0f32, |max, g| max.max(g.abs())));
}

#[test]
fn descending_leads_to_the_teacher() {
    let mut student = Student::new("dsv3", "dsv3", 0.03);
    let before = student.divergence(0.0).0;
    for _ in 0..60 {
        let g = student.divergence(1e-4).1;
        let norm = g.iter().map(|g| g * g).sum::<f32>().sqrt();
        student.params.iter_mut().zip(&g).for_each(|(w, g)| *w -= 0.05 * g / norm.max(1.0));
    }
    let after = student.divergence(0.0).0;
    assert!(after < 0.3 * before, "{before} → {after}");
}

#[test]
fn a_teacher_of_other_tokens_is_refused() {
    let files = train::pretrained::tokenizer(&fixtures().join("qwen2")).unwrap();
    let encoder = Encoder::new(&files.tokenizer, &files.config).unwrap();
    let check = |vocab| Teacher::check(&fixtures().join("qwen2"), &encoder, vocab, 8).map_err(|e| e.to_string());
    let n_vocab = oracles(&fixtures()).iter().find(|o| o.name == "qwen2").unwrap().weights().unwrap().0.vocab_size;
    assert!(check(n_vocab).unwrap() > 4 * 1000);
    let error = check(n_vocab + 1).unwrap_err();
    assert!(error.contains(&format!("found a model of {n_vocab} tokens for one of {}", n_vocab + 1)), "{error}");
    let other = train::bpe::train(std::iter::empty(), train::bpe::VOCAB_SIZE_MIN).unwrap();
    let other = Encoder::new(&other.tokenizer, &other.config).unwrap();
    let error = Teacher::check(&fixtures().join("qwen2"), &other, 10, 8).unwrap_err().to_string();
    assert!(error.contains("expected the student's tokens, found ") && error.contains("qwen2"), "{error}");
}
