//! Cases of operations on picked rows, and of the router.

use ops::{RouterSpec, Scoring, Selection, TrainDevice};

use super::{Suite, both};
use crate::conformance::arithmetic::{TINY, gamma, sum};
use crate::conformance::buffers::CANARY;
use crate::conformance::random::Random;
use crate::conformance::report::Bound;

pub(super) fn check<D: TrainDevice>(suite: &mut Suite<'_, D>) {
    let mut rng = Random::new(82);
    for dim in [1, 3, 16, 17, 33, 530] {
        for n in [0, 1, 2, 33] {
            rows(suite, &mut rng, n, dim);
            experts(suite, &mut rng, n, dim);
        }
    }
    for scoring in [Scoring::Softmax, Scoring::Sigmoid] {
        for (norm_topk_prob, n_rows) in [(false, 5), (true, 300)] {
            let selection = Selection::Greedy;
            let spec =
                RouterSpec { n_experts: 9, top_k: 3, scoring, selection, norm_topk_prob, routed_scaling_factor: 2.5 };
            router(suite, &mut rng, &spec, n_rows);
        }
    }
}

/// Sums are taken in the order of the picks, so they have the same bits.
fn rows<D: TrainDevice>(suite: &mut Suite<'_, D>, rng: &mut Random, n: usize, dim: usize) {
    let label = format!("{n} rows of {dim}");
    let (x, before) = (rng.values(7 * dim), rng.values(7 * dim));
    let picks: Vec<u32> = (0..n).map(|_| rng.below(7) as u32).collect();
    let gathered = both!(suite, dev => {
        let mut out = vec![CANARY; (n + 1) * dim];
        dev.gather_rows(&x, &picks, dim, &mut out);
        out
    });
    let scattered = both!(suite, dev => {
        let mut out = before.clone();
        dev.scatter_add(&gathered[1], &picks, dim, &mut out);
        out
    });
    suite.check("gather_rows", &label, gathered, &vec![Bound::Bits; (n + 1) * dim]);
    suite.check("scatter_add", &label, scattered, &vec![Bound::Bits; 7 * dim]);
}

fn experts<D: TrainDevice>(suite: &mut Suite<'_, D>, rng: &mut Random, n: usize, dim: usize) {
    let top_k = 3;
    let n_slots = n * top_k;
    let label = format!("{n} rows of {dim}");
    let [y, hidden, d_hidden] = [0; 3].map(|_| rng.values(n_slots * dim));
    let weights = rng.values(n_slots);
    let mut slots: Vec<u32> = (0..n_slots as u32).collect();
    rng.shuffle(&mut slots);
    let size = |value: f32| f64::from(value.abs());
    let combined = |i: usize| {
        let terms =
            (i / dim * top_k..).take(top_k).map(|s| size(weights[s]) * size(y[slots[s] as usize * dim + i % dim]));
        Bound::Within(gamma(top_k as f64 + 2.0) * terms.sum::<f64>() + TINY)
    };
    let bounds: Vec<_> = (0..n * dim).map(combined).collect();
    let values = both!(suite, dev => {
        let mut out = vec![CANARY; n * dim];
        dev.combine(&y, &weights, &slots, top_k, dim, &mut out);
        out
    });
    suite.check("combine", &label, values, &bounds);
    let mut bounds = vec![Bound::Bits; 2 * n_slots * dim + n_slots];
    for (i, slot) in slots.iter().enumerate() {
        let terms = (i * dim..(i + 1) * dim).map(|j| size(hidden[j]) * size(d_hidden[j])).sum::<f64>();
        bounds[2 * n_slots * dim + *slot as usize] = Bound::Within(sum(dim) * terms + TINY);
    }
    let values = both!(suite, dev => {
        let (mut hidden, mut d_hidden, mut d_weights) = (hidden.clone(), d_hidden.clone(), vec![CANARY; n_slots]);
        dev.weigh_backward(&weights, &slots, dim, &mut hidden, &mut d_hidden, &mut d_weights);
        [hidden, d_hidden, d_weights].concat()
    });
    suite.check("weigh_backward", &label, values, &bounds);
}

/// Routers are few values in f64 on every device, each rounded once: `ops::route` computes them, or what has its bits.
fn router<D: TrainDevice>(suite: &mut Suite<'_, D>, rng: &mut Random, spec: &RouterSpec, n_rows: usize) {
    let (e, k) = (spec.n_experts, spec.top_k);
    let (logits, before) = (rng.values(n_rows * e), rng.values(n_rows * e));
    let ids: Vec<u32> = (0..n_rows).flat_map(|t| [t % e, (t + 4) % e, (t + 7) % e]).map(|id| id as u32).collect();
    let d_weights = rng.values(n_rows * k);
    let label = format!("{n_rows} rows, {spec:?}");
    let values = both!(suite, dev => {
        let mut d_logits = before.clone();
        dev.route_backward(spec, &logits, &ids, &d_weights, &mut d_logits);
        d_logits
    });
    suite.check("route_backward", &label, values, &vec![Bound::Bits; n_rows * e]);
    for sequences in [vec![], vec![0..n_rows], vec![0..2, 2..2, 3..n_rows]] {
        let values = both!(suite, dev => {
            let mut d_logits = before.clone();
            let loss = dev.balance(spec, &logits, &sequences, 0.3, &mut d_logits);
            d_logits.push(loss as f32);
            d_logits
        });
        suite.check("balance", &label, values, &vec![Bound::Bits; n_rows * e + 1]);
    }
}
