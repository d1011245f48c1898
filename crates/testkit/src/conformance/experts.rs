//! Cases of experts.
//!
//! Owns the sum over a token's experts and its bound. Must not know shared experts.

use ops::{Device, DeviceError, ExpertWeights, RouterSpec, Scoring, Selection, WeightFormat, WeightMatrix};

use super::arithmetic::{SILU_SLOPE, TINY, gamma, silu_value, sum};
use super::blocks::{Data, N_ROWS};
use super::buffers::{input, output, read, with_margin_bounds};
use super::case::{Case, Part, Suite};
use super::int8::{self, Bounded, Factors, Rounding, exact};
use super::random::{NON_FINITE, Random, Side, Spread};
use super::report::Bound;
use super::routing::weight_bounds;
use super::swiglu;
use super::weights::{matrix, plain, with_nan};

#[derive(Clone)]
struct Experts {
    x: Vec<f32>,
    logits: Vec<f32>,
    spec: RouterSpec,
    gate: Vec<WeightMatrix>,
    up: Vec<WeightMatrix>,
    down: Vec<WeightMatrix>,
    data: String,
}

/// W_gate, W_up and W_down of one expert.
type Expert = [Factors; 3];

impl Experts {
    fn d(&self) -> usize {
        self.gate[0].cols
    }

    fn n_rows(&self) -> usize {
        self.x.len() / self.d()
    }

    /// Every output with a bound of its error.
    fn outputs(&self, rounding: Rounding) -> Vec<Bounded> {
        let stacks = self.gate.iter().zip(&self.up).zip(&self.down);
        let experts: Vec<Expert> = stacks.map(|((gate, up), down)| [gate, up, down].map(Factors::new)).collect();
        let k = self.spec.top_k;
        let mut outputs = Vec::new();
        for (x, logits) in self.x.chunks_exact(self.d()).zip(self.logits.chunks_exact(self.spec.n_experts)) {
            let (mut ids, mut weights) = (vec![0; k], vec![0.0; k]);
            ops::route::route_token(&self.spec, logits, None, &mut ids, &mut weights);
            let weight_bounds = weight_bounds(&self.spec, logits, None);
            let mut row = vec![(0.0, 0.0); self.d()];
            for ((&id, &weight), weight_bound) in ids.iter().zip(&weights).zip(weight_bounds) {
                let Bound::Within(weight_err) = weight_bound else { continue };
                let weight = f64::from(weight);
                let y = expert(&experts[id as usize], x, rounding);
                for ((value, bound), (y, y_err)) in row.iter_mut().zip(y) {
                    let largest = (weight.abs() + weight_err) * (y.abs() + y_err);
                    *value += weight * y;
                    *bound += weight.abs() * y_err + weight_err * (y.abs() + y_err) + sum(k + 1) * largest + TINY;
                }
            }
            outputs.extend(row);
        }
        outputs
    }
}

/// W_down(silu(W_gate x)·W_up x), each output with a bound of its error.
fn expert([gate, up, down]: &Expert, x: &[f32], rounding: Rounding) -> Vec<Bounded> {
    let [gate, up] = [gate, up].map(|w| w.apply(0..w.rows(), &exact(x), None, rounding));
    let hidden = gate.iter().zip(&up).map(|(&(g, g_err), &(u, u_err))| {
        // silu moves by at most SILU_SLOPE · its argument's error.
        let (silu, silu_err) = (silu_value(g), SILU_SLOPE * g_err);
        let entered = silu_err * (u.abs() + u_err) + silu.abs() * u_err;
        let made = swiglu::bound(g, u) * (1.0 + gamma(4.0)) + gamma(16.0) * entered;
        (silu * u, entered + made)
    });
    down.apply(0..down.rows(), &hidden.collect::<Vec<_>>(), None, rounding)
}

impl Case for Experts {
    fn label(&self) -> String {
        let Self { spec, gate, data, .. } = self;
        let (e, k) = (spec.n_experts, spec.top_k);
        format!("{} {k} of {e}, d {}, width {}, {} rows, {data}", gate[0].format, self.d(), gate[0].rows, self.n_rows())
    }

    fn run<D: Device>(&self, dev: &D) -> Result<Vec<f32>, DeviceError> {
        let n_rows = self.n_rows();
        let mut routes = dev.alloc_routes(n_rows, self.spec.top_k)?;
        dev.route(&self.spec, &input(dev, &self.logits)?, None, n_rows, &mut routes);
        let upload = |all: &[WeightMatrix]| all.iter().map(|w| dev.upload(w)).collect::<Result<Vec<_>, _>>();
        let w = ExpertWeights { w_gate: upload(&self.gate)?, w_up: upload(&self.up)?, w_down: upload(&self.down)? };
        let mut out = output(dev, self.x.len())?;
        dev.experts(&input(dev, &self.x)?, n_rows, &routes, &w, &mut out);
        read(dev, &out, self.x.len())
    }

    fn bounds(&self) -> Vec<Bound> {
        let outputs = self.outputs(Rounding::Without);
        with_margin_bounds(outputs.into_iter().map(|(_, error)| Bound::Within(error)).collect())
    }

    fn int8_bounds(&self) -> Vec<Bound> {
        let matrices = || [&self.gate, &self.up, &self.down].into_iter().flatten();
        if matrices().all(|w| w.format.block_len() == 1) {
            return self.bounds();
        }
        let [anywhere, formula] = [Rounding::Anywhere, Rounding::Formula].map(|rounding| self.outputs(rounding));
        with_margin_bounds(int8::bounds(anywhere, formula))
    }

    fn parts(&self) -> Vec<Part<Self>> {
        let d = self.d();
        let alone = |(t, (x, logits)): (usize, (&[f32], &[f32]))| Part {
            case: Self { x: x.to_vec(), logits: logits.to_vec(), ..self.clone() },
            values: vec![(t * d..(t + 1) * d, 0)],
        };
        let rows = self.x.chunks_exact(d).zip(self.logits.chunks_exact(self.spec.n_experts));
        rows.enumerate().map(alone).collect()
    }
}

/// Logits that give token t the experts `t, t + step, …`, best first, of `n` experts.
fn logits(n: usize, n_rows: usize, step: usize) -> Vec<f32> {
    let mut logits = vec![-4.0; n_rows * n];
    for (t, row) in logits.chunks_exact_mut(n).enumerate() {
        for place in (0..n).rev() {
            row[(t * step + place) % n] = 2.0 - place as f32 * 0.5;
        }
    }
    logits
}

fn random(rng: &mut Random, format: WeightFormat, shape: [usize; 4], n_rows: usize, step: usize) -> Experts {
    let [e, k, d, width] = shape;
    let mut stack = |rows, cols| (0..e).map(|_| matrix(rng, format, rows, cols, Spread::Even)).collect::<Vec<_>>();
    let (gate, up, down) = (stack(width, d), stack(width, d), stack(d, width));
    Experts {
        x: rng.rows(n_rows, d, Spread::ALL[n_rows % 2 * 2], Side::Activation),
        logits: logits(e, n_rows, step),
        spec: RouterSpec {
            n_experts: e,
            top_k: k,
            scoring: Scoring::Softmax,
            selection: Selection::Greedy,
            norm_topk_prob: k > 1,
            routed_scaling_factor: 1.5,
        },
        gate,
        up,
        down,
        data: match step {
            0 => "every token to the same experts, the others to none".to_owned(),
            _ => "tokens spread over the experts".to_owned(),
        },
    }
}

/// Experts, experts per token, d, width.
const SHAPES: [[usize; 4]; 9] = [
    [1, 1, 1, 1],
    [4, 2, 3, 5],
    [4, 1, 7, 8],
    [6, 3, 9, 15],
    [5, 5, 16, 17],
    [8, 2, 33, 31],
    [3, 2, 64, 32],
    [8, 6, 17, 9],
    [16, 8, 40, 24],
];

pub(super) fn check<D: Device>(suite: &mut Suite<'_, D>) {
    let mut rng = Random::new(90);
    for shape in SHAPES {
        for n_rows in [0, 1, 2, 5, 17, 40] {
            for step in [0, 1] {
                let format = [WeightFormat::F32, WeightFormat::BF16, WeightFormat::F8_E4M3][n_rows % 3];
                suite.check(&random(&mut rng, format, shape, n_rows, step));
            }
        }
        not_finite(suite, &mut rng, shape);
    }
    for format in WeightFormat::ALL.into_iter().filter(|f| f.block_len() > 1) {
        blocks(suite, &mut rng, format);
    }
}

/// Block-quantised experts for every number of rows (of large blocks, every third), also where an input or a scale is
/// not finite.
fn blocks<D: Device>(suite: &mut Suite<'_, D>, rng: &mut Random, format: WeightFormat) {
    let n = format.block_len();
    for (i, n_rows) in N_ROWS.into_iter().enumerate() {
        let turn = i + format as usize;
        if n > 32 && !turn.is_multiple_of(3) && n_rows != 3 {
            continue;
        }
        // Huge hidden rows overflow.
        let data = Data::ALL[turn % Data::ALL.len()];
        let data = if matches!(data, Data::Huge) { Data::Outlier } else { data };
        let twice = |remainder| if turn % 4 == remainder { 2 * n } else { n };
        let shape = [2, 1 + i % 2, twice(0), twice(3)];
        let mut case = random(rng, format, shape, n_rows, i / 2 % 2);
        // Files mix formats, and so does what is rounded.
        let down = [None, Some(WeightFormat::Q8_0), None, Some(WeightFormat::F32)][i % 4];
        for w in case.down.iter_mut().filter(|_| n_rows != 3) {
            *w = down.map_or_else(|| w.clone(), |format| matrix(rng, format, shape[2], shape[3], Spread::Even));
        }
        case.x = data.rows(rng, n_rows, shape[2] / n, n);
        case.data = format!("{data:?}, w_down {}, {}", case.down[0].format, case.data);
        suite.check(&case);
        if n_rows == 3 && format != WeightFormat::MXFP4 {
            let [mut gate, mut down, mut x] = [(); 3].map(|()| case.clone());
            gate.gate[0] = with_nan(&gate.gate[0], shape[3] / 2, shape[2] - 1);
            suite.check(&Experts { data: "NaN in w_gate of expert 0".to_owned(), ..gate });
            down.down[0] = with_nan(&down.down[0], shape[2] / 2, shape[3] - 1);
            suite.check(&Experts { data: "NaN in w_down of expert 0".to_owned(), ..down });
            x.x[shape[2]] = NON_FINITE[format as usize % 3];
            suite.check(&Experts { data: format!("{} in x", x.x[shape[2]]), ..x });
        }
    }
}

fn not_finite<D: Device>(suite: &mut Suite<'_, D>, rng: &mut Random, shape: [usize; 4]) {
    let base = random(rng, WeightFormat::F32, shape, 3, 1);
    let [_, _, d, width] = shape;
    for value in NON_FINITE {
        let mut x = Experts { data: format!("{value} in x"), ..base.clone() };
        x.x[d + d / 2] = value;
        suite.check(&x);
        let mut down = Experts { data: format!("{value} in w_down of expert 0"), ..base.clone() };
        let mut weights = rng.values(d * width);
        weights[d / 2 * width + width - 1] = value;
        down.down[0] = plain(WeightFormat::F32, d, width, &weights);
        suite.check(&down);
    }
    let mut gate = Experts { data: "NaN in w_gate of expert 0".to_owned(), ..base.clone() };
    gate.gate[0] = with_nan(&gate.gate[0], width / 2, d - 1);
    suite.check(&gate);
    let mut up = Experts { data: "NaN in w_up of expert 0".to_owned(), ..base };
    up.up[0] = with_nan(&up.up[0], width - 1, d / 2);
    suite.check(&up);
}
