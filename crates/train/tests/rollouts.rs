//! Rollouts by the engine against the trainer's own log-probabilities of the same tokens.
#![allow(clippy::unwrap_used, reason = "a test fails where it unwraps")]

use std::sync::Arc;

use ops::Reference;
use testkit::oracle::{fixtures, oracles};
use train::rl::{Completion, Experience, Group, Question, Rollouts, SamplingSpec, limits};
use train::{Batch, Workspace, nll};

fn experience(prompts: &[Vec<u32>], completions: Vec<Vec<Completion>>) -> Experience {
    let group = |(prompt, completions): (&Vec<u32>, Vec<Completion>)| Group {
        question: Question {
            source: 0,
            messages: Vec::new(),
            text: String::new(),
            prompt: prompt.clone(),
            opened: false,
            check: None,
            data: serde_json::Value::Null,
        },
        judged: vec![Default::default(); completions.len()],
        rewards: vec![0.0; completions.len()],
        advantages: vec![0.0; completions.len()],
        completions,
    };
    Experience { groups: prompts.iter().zip(completions).map(group).collect(), ..Experience::default() }
}

#[test]
fn the_rollouts_log_probabilities_are_the_trainers() {
    let mut n_models = 0;
    for oracle in oracles(&fixtures()).iter().filter(|oracle| ["dsv3", "dsv2_lite", "qwen2"].contains(&&*oracle.name)) {
        n_models += 1;
        let (config, weights) = oracle.weights().unwrap();
        let (net, mut params) = train::load(config, &weights).unwrap();
        let prompts: Vec<Vec<u32>> = oracle.prompts().iter().take(2).map(|prompt| prompt.ids.clone()).collect();
        let longest = prompts.iter().map(Vec::len).max().unwrap();
        let spec = SamplingSpec { group_size: 3, max_tokens: 12, temperature: 1.0, end_tokens: Arc::from([5, 11, 40]) };
        let limits = limits(longest + spec.max_tokens + 1, 6);
        let mut rollouts = Rollouts::new(&Reference, &net, &params, limits).unwrap();
        let mut worst: f64 = 0.0;
        for round in 0..2 {
            let completions = rollouts.sample(&prompts, &[7, 8], &spec).unwrap();
            assert_eq!(
                completions,
                rollouts.sample(&prompts, &[7, 8], &spec).unwrap(),
                "the same seeds, the same tokens"
            );
            assert!(completions[0].iter().any(|c| c.tokens != completions[0][0].tokens), "a group of one completion");
            let experience = experience(&prompts, completions);
            let places = experience.places();
            assert_eq!(places.len(), 6);
            let mut batch = Batch::default();
            let mut ws = Workspace::new(&net, 2 * (longest + 12)).unwrap();
            for cut in experience.micro_batches(&places, 2 * (longest + 12)) {
                let places = &places[cut];
                let weights: Vec<Vec<f32>> =
                    places.iter().map(|(g, c)| vec![1.0; experience.groups[*g].completions[*c].tokens.len()]).collect();
                experience.fill(places, &weights, &mut batch);
                let n_counted = batch.weights.iter().filter(|weight| **weight != 0.0).count();
                assert_eq!(n_counted, weights.iter().map(Vec::len).sum::<usize>());
                let found = experience.logprobs(places, &nll(&Reference, &net, &params, &batch, &mut ws));
                for ((g, c), found) in places.iter().zip(found) {
                    let sampled = &experience.groups[*g].completions[*c].logprobs;
                    assert_eq!(sampled.len(), found.len());
                    for (a, b) in sampled.iter().zip(&found) {
                        worst = worst.max(f64::from((a - b).abs()));
                    }
                }
            }
            if round == 0 {
                // Other weights must be sampled from at once, prefixes of the old ones forgotten.
                params.iter_mut().enumerate().for_each(|(i, w)| *w += 0.02 * ((i % 7) as f32 - 3.0));
                rollouts.set_weights(&net, &params).unwrap();
            }
        }
        assert!(worst < 2e-5, "{}: {worst}", oracle.name);
    }
    assert_eq!(n_models, 3);
}
