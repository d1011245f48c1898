//! Cases of route.
//!
//! Owns logits whose choice no rounding can change: scores are far apart, or equal bit by bit. Must not choose experts;
//! it only knows when a choice is safe.

use ops::{Device, DeviceError, RouterSpec, Scoring, Selection};

use super::arithmetic::{TINY, gamma, sigmoid_score, softmax_score};
use super::buffers::input;
use super::case::{Case, Part, Suite};
use super::random::{NON_FINITE, Random, places};
use super::report::Bound;

#[derive(Clone)]
struct Routing {
    spec: RouterSpec,
    logits: Vec<f32>,
    bias: Option<Vec<f32>>,
    data: &'static str,
}

impl Routing {
    fn n_rows(&self) -> usize {
        self.logits.len() / self.spec.n_experts
    }
}

impl Case for Routing {
    fn label(&self) -> String {
        let bias = if self.bias.is_some() { "with" } else { "without" };
        format!("{:?}, {} rows, {bias} bias, {}", self.spec, self.n_rows(), self.data)
    }

    /// All weights, then all ids.
    fn run<D: Device>(&self, dev: &D) -> Result<Vec<f32>, DeviceError> {
        let (n_rows, k) = (self.n_rows(), self.spec.top_k);
        let mut routes = dev.alloc_routes(n_rows + 1, k)?;
        let bias = self.bias.as_ref().map(|bias| input(dev, bias)).transpose()?;
        dev.route(&self.spec, &input(dev, &self.logits)?, bias.as_ref(), n_rows, &mut routes);
        let (mut ids, mut weights) = (vec![0; n_rows * k], vec![0.0; n_rows * k]);
        dev.read_routes(&routes, &mut ids, &mut weights)?;
        weights.extend(ids.iter().map(|id| *id as f32));
        Ok(weights)
    }

    fn bounds(&self) -> Vec<Bound> {
        let k = self.spec.top_k;
        let rows = self.logits.chunks_exact(self.spec.n_experts);
        let mut bounds: Vec<Bound> =
            rows.flat_map(|row| weight_bounds(&self.spec, row, self.bias.as_deref())).collect();
        bounds.extend(vec![Bound::Bits; self.n_rows() * k]);
        bounds
    }

    fn parts(&self) -> Vec<Part<Self>> {
        let (n_rows, k) = (self.n_rows(), self.spec.top_k);
        let alone = |(t, row): (usize, &[f32])| Part {
            case: Self { logits: row.to_vec(), ..self.clone() },
            values: vec![(t * k..(t + 1) * k, 0), ((n_rows + t) * k..(n_rows + t + 1) * k, k)],
        };
        self.logits.chunks_exact(self.spec.n_experts).enumerate().map(alone).collect()
    }
}

/// Bounds of a token's weights, best first.
pub(super) fn weight_bounds(spec: &RouterSpec, logits: &[f32], bias: Option<&[f32]>) -> Vec<Bound> {
    let (mut ids, mut weights) = (vec![0; spec.top_k], vec![0.0; spec.top_k]);
    ops::route::route_token(spec, logits, bias, &mut ids, &mut weights);
    let score = match spec.scoring {
        Scoring::Sigmoid => sigmoid_score(),
        Scoring::Softmax => {
            let finite = || logits.iter().filter(|l| l.is_finite());
            let max = finite().copied().fold(f32::NEG_INFINITY, f32::max);
            let min = finite().copied().fold(f32::INFINITY, f32::min);
            softmax_score(spec.n_experts, f64::from(max - min).clamp(0.0, 100.0))
        }
    };
    let factor = f64::from(spec.routed_scaling_factor).abs();
    let (relative, flushed) = match spec.norm_topk_prob {
        // A flushed score is divided by the guarded sum.
        true => (2.0 * score + gamma(spec.top_k as f64 + 4.0), TINY / 1e-20),
        false => (score + gamma(3.0), TINY),
    };
    weights.iter().map(|w| Bound::Within(relative * f64::from(w.abs()) + (1.0 + factor) * flushed)).collect()
}

const fn router(
    n_experts: usize,
    top_k: usize,
    scoring: Scoring,
    selection: Selection,
    norm: bool,
    f: f32,
) -> RouterSpec {
    RouterSpec { n_experts, top_k, scoring, selection, norm_topk_prob: norm, routed_scaling_factor: f }
}

const fn limited(n_group: usize, topk_group: usize) -> Selection {
    Selection::GroupLimitedGreedy { n_group, topk_group }
}

const fn no_aux(n_group: usize, topk_group: usize) -> Selection {
    Selection::NoAuxTc { n_group, topk_group }
}

const SPECS: [RouterSpec; 14] = [
    router(1, 1, Scoring::Softmax, Selection::Greedy, false, 1.0),
    router(7, 2, Scoring::Softmax, Selection::Greedy, false, 1.0),
    router(64, 6, Scoring::Softmax, Selection::Greedy, false, 1.0),
    router(9, 9, Scoring::Softmax, Selection::Greedy, true, 2.0),
    router(8, 2, Scoring::Sigmoid, Selection::Greedy, true, 1.0),
    router(16, 3, Scoring::Softmax, limited(4, 2), false, 16.0),
    router(15, 4, Scoring::Softmax, limited(5, 3), true, 1.0),
    router(160, 6, Scoring::Softmax, limited(8, 3), false, 16.0),
    router(12, 2, Scoring::Sigmoid, limited(3, 1), true, 1.5),
    router(16, 4, Scoring::Sigmoid, no_aux(4, 2), true, 2.5),
    router(24, 3, Scoring::Sigmoid, no_aux(8, 4), false, 1.0),
    router(4, 2, Scoring::Sigmoid, no_aux(4, 2), true, 1.0),
    router(33, 8, Scoring::Sigmoid, no_aux(1, 1), true, 2.5),
    router(256, 8, Scoring::Sigmoid, no_aux(8, 4), true, 2.5),
];

pub(super) fn check<D: Device>(suite: &mut Suite<'_, D>) {
    let mut rng = Random::new(80);
    for spec in SPECS {
        let e = spec.n_experts;
        let negative: Vec<f32> = rng.values(e).iter().map(|v| v * 0.5 - 5.0).collect();
        let biases = [(None, "spread"), (Some(rng.values(e)), "spread"), (Some(negative), "every choice negative")];
        for (bias, data) in biases {
            for n_rows in [0, 1, 2, 5] {
                let logits = (0..n_rows).flat_map(|_| separated(&mut rng, &spec, bias.as_deref())).collect();
                suite.check(&Routing { spec, logits, bias: bias.clone(), data });
            }
        }
        ties(suite, &mut rng, spec);
        for (value, place) in NON_FINITE.into_iter().chain([-f32::NAN]).flat_map(|v| places(e).map(|p| (v, p))) {
            let mut logits = separated(&mut rng, &spec, None);
            logits[place] = value;
            suite.check(&Routing { spec, logits, bias: None, data: "one logit not finite" });
        }
        suite.check(&Routing { spec, logits: vec![-1e4; 2 * e], bias: None, data: "scores underflow" });
    }
}

/// Equal logits have equal scores on any device: the lower index wins.
fn ties<D: Device>(suite: &mut Suite<'_, D>, rng: &mut Random, spec: RouterSpec) {
    let e = spec.n_experts;
    suite.check(&Routing { spec, logits: vec![0.25; 2 * e], bias: None, data: "all equal" });
    suite.check(&Routing { spec, logits: vec![0.25; e], bias: Some(vec![1.0; e]), data: "all equal" });
    for levels in [2, 3] {
        let logits = (0..3 * e).map(|_| rng.below(levels) as f32 - 1.0).collect();
        suite.check(&Routing { spec, logits, bias: None, data: "ties" });
    }
}

/// Logits whose choices and groups lie further apart than rounding can move them.
fn separated(rng: &mut Random, spec: &RouterSpec, bias: Option<&[f32]>) -> Vec<f32> {
    for _ in 0..10_000 {
        let logits: Vec<f32> = rng.values(spec.n_experts).iter().map(|v| v * 3.0).collect();
        if is_separated(spec, &logits, bias) {
            return logits;
        }
    }
    panic!("no logits are separated for {spec:?}");
}

fn is_separated(spec: &RouterSpec, logits: &[f32], bias: Option<&[f32]>) -> bool {
    let logits = || logits.iter().map(|l| f64::from(*l));
    let total: f64 = logits().map(f64::exp).sum();
    let mut choice: Vec<f64> = match spec.scoring {
        Scoring::Sigmoid => logits().map(|l| 1.0 / (1.0 + (-l).exp())).collect(),
        Scoring::Softmax => logits().map(|l| l.exp() / total).collect(),
    };
    let (n_group, n_best) = match spec.selection {
        Selection::Greedy => (1, 1),
        Selection::GroupLimitedGreedy { n_group, .. } => (n_group, 1),
        Selection::NoAuxTc { n_group, .. } => (n_group, 2),
    };
    let bias = bias.filter(|_| matches!(spec.selection, Selection::NoAuxTc { .. }));
    for (c, b) in choice.iter_mut().zip(bias.into_iter().flatten()) {
        *c += f64::from(*b);
    }
    let groups = choice.chunks(spec.n_experts / n_group).map(|group| {
        let mut group = group.to_vec();
        group.sort_by(|a, b| b.total_cmp(a));
        group.iter().take(n_best).sum()
    });
    let groups = groups.collect();
    far_apart(choice, bias.is_some()) && far_apart(groups, bias.is_some())
}

/// Whether values are further apart than their errors. Scores in f32, what is common to all of a token apart, and sums
/// of two of them are off by less than 2⁻¹⁸ of themselves; with a bias, which may cancel a score, by less than 2⁻¹⁸ and
/// the rounding of the sums.
fn far_apart(mut values: Vec<f64>, biased: bool) -> bool {
    values.sort_by(f64::total_cmp);
    let margin = |pair: &[f64]| {
        let size = pair[0].abs().max(pair[1].abs());
        let score = if biased { 1.0 } else { size };
        score / f64::from(1 << 17) + size / f64::from(1 << 20)
    };
    values.windows(2).all(|pair| pair[1] - pair[0] > margin(pair))
}
