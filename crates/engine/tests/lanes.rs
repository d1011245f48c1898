//! Lanes against sessions, on oracle models and the scalar reference.
#![allow(clippy::unwrap_used, reason = "a test fails where it unwraps")]

use engine::{Lanes, LanesOptions, Session, SessionOptions, argmax, greedily};
use model::{Form, Model};
use ops::{Reference, RowFormat};
use testkit::oracle::{fixtures, oracles};

const OPTIONS: LanesOptions =
    LanesOptions { n_lanes: 3, depth_max: 330, prefill_max: 40, decode_max: 5, chunk: 64, row_format: RowFormat::F32 };

/// One with experts, one without.
fn models() -> Vec<Model<Reference>> {
    let wanted = |name: &str| ["dsv2_lite", "qwen2"].contains(&name);
    let found: Vec<_> = oracles(&fixtures()).into_iter().filter(|o| wanted(&o.name)).collect();
    assert_eq!(found.len(), 2);
    found.iter().map(|oracle| oracle.load(&Reference).unwrap()).collect()
}

fn tokens(n: usize) -> Vec<u32> {
    (0..n as u32).map(|i| (i * 37 + 5) % 512).collect()
}

/// Greedy tokens behind `context`, the first of which is `first`'s successor.
fn greedy(model: &Model<Reference>, context: &[u32], first: u32, n: usize) -> Vec<u32> {
    let options =
        SessionOptions { n_context: context.len() + n, chunk: 64, form: Form::Auto, row_format: RowFormat::F32 };
    let mut session = Session::new(&Reference, model, options).unwrap();
    if !context.is_empty() {
        session.push(context).unwrap();
    }
    let mut written: Vec<u32> = Vec::new();
    for _ in 0..n {
        let next = argmax(session.push(&[*written.last().unwrap_or(&first)]).unwrap());
        written.push(next);
    }
    written
}

#[test]
fn lane_0_is_a_session_where_its_context_was_computed() {
    for model in &models() {
        let mut lanes = Lanes::new(&Reference, model, OPTIONS).unwrap();
        let context = tokens(256);
        lanes.fill_contexts(&context).unwrap();
        // Whole blocks, and a remainder that is copied before new rows follow in its block.
        for depth in [0, 64, 100, 256, 5] {
            lanes.set_depth(depth);
            let found = lanes.decode(0..3, 5, greedily(|lane| lane as u32 + 9), |_| Ok(())).unwrap();
            assert_eq!(found[0], greedy(model, &context[..depth], 9, 5), "depth {depth}");
            let alone = lanes.decode(2..3, 5, greedily(|lane| lane as u32 + 9), |_| Ok(())).unwrap();
            assert_eq!(found[2], alone[0], "depth {depth}");
        }
    }
}

#[test]
fn measuring_at_one_depth_leaves_the_others_as_they_were() {
    for model in &models() {
        let mut lanes = Lanes::new(&Reference, model, OPTIONS).unwrap();
        lanes.fill_contexts(&tokens(50)).unwrap();
        let mut logits_at = |depth: usize| {
            lanes.set_depth(depth);
            lanes.decode(0..3, 1, greedily(|_| 7), |_| Ok(())).unwrap();
            let decoded = lanes.logits().to_vec();
            lanes.prefill(&tokens(40), |_| Ok(())).unwrap();
            (decoded, lanes.logits().to_vec())
        };
        let (deep, shallow) = (logits_at(330), logits_at(70));
        assert_eq!(deep, logits_at(330));
        assert_eq!(shallow, logits_at(70));
        let vocab = model.config.vocab_size;
        assert_ne!(deep.0[..vocab], deep.0[vocab..2 * vocab], "lanes see their context in different orders");
    }
}

#[test]
fn experts_are_counted_once_for_all_rows() {
    let model = &models()[0];
    let moe = model.config.moe.as_ref().unwrap();
    let mut lanes = Lanes::new(&Reference, model, OPTIONS).unwrap();
    let mut seen = Vec::new();
    let count = |lanes: &Lanes<'_, Reference>, seen: &mut Vec<(usize, Vec<usize>)>| {
        seen.push(lanes.experts_used()?);
        Ok(())
    };
    lanes.decode(0..1, 2, greedily(|_| 3), |lanes| count(lanes, &mut seen)).unwrap();
    lanes.decode(0..3, 1, greedily(|lane| lane as u32), |lanes| count(lanes, &mut seen)).unwrap();
    lanes.prefill(&tokens(40), |lanes| count(lanes, &mut seen)).unwrap();
    let k = moe.router.top_k;
    assert_eq!(seen[..2], [(1, vec![0, k, k]), (1, vec![0, k, k])], "the first layer is dense");
    assert_eq!((seen[2].0, seen[3].0), (3, 40));
    for (_, used) in &seen[2..] {
        assert!(used[1..].iter().all(|n| (k..=moe.router.n_experts).contains(n)), "{used:?}");
    }
}
