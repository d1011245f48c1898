//! Cases of attend_expanded.
//!
//! Owns keys and values made from latent rows, in both layouts of kv_b. Must not absorb queries.

use ops::{Activations, AttendExpanded, Device, DeviceError, HeadLayout, RowFormat, WeightFormat};

use super::super::arithmetic::{EXPANDED_WEIGHT_STEPS, VALUE_STEPS, expansion_steps, head_steps, sum};
use super::super::buffers::{input, output, read, with_margin_bounds};
use super::super::case::{Case, Part, Suite};
use super::super::heads::Heads;
use super::super::random::{NON_FINITE, Random, places};
use super::super::report::Bound;
use super::super::scene::{BLOCK_LENS, Lone, Plan, SPANS, Scene};
use super::super::weights::with_nan;
use super::{Score, Steps, integer_bounds, output_of, queries_of};

/// C, R, n, v, H.
#[derive(Clone, Copy, Debug)]
pub(in super::super) struct Dims {
    pub(in super::super) c: usize,
    pub(in super::super) r: usize,
    pub(in super::super) n: usize,
    pub(in super::super) v: usize,
    pub(in super::super) h: usize,
}

#[derive(Clone)]
pub(in super::super) struct Expanded {
    pub(in super::super) scene: Scene,
    pub(in super::super) dims: Dims,
    pub(in super::super) q: Vec<f32>,
    pub(in super::super) w_uk: Heads,
    pub(in super::super) w_uv: Heads,
    pub(in super::super) scale: f32,
    pub(in super::super) data: String,
}

/// Expanded vectors of one head and what makes them up: Σ w·c and Σ|w·c|, each `[positions][dim]`.
type Sums = Vec<Vec<(f64, f64)>>;
/// The same with how far each may be off.
type Vectors<'a> = (&'a Sums, &'a Vec<Vec<f64>>);

impl Expanded {
    fn new(rng: &mut Random, plan: Plan<'_>, dims: Dims, [w_uk, w_uv]: [Heads; 2], size: f32) -> Self {
        let Dims { c, r, n, h, .. } = dims;
        let scene = Scene::new(rng, plan, [c + r, c, r]);
        let q = scene.queries(rng, h * (n + r), size);
        let scale = 1.0 / ((n + r) as f32).sqrt();
        let (format, split) = (w_uk.matrix.format, w_uk.transposed);
        let data = format!("{plan:?}, {dims:?}, {format}, split {split}, queries ±{size}");
        Self { scene, dims, q, w_uk, w_uv, scale, data }
    }

    fn expand(&self, w: &Heads, context: &[Vec<f64>]) -> Vec<Sums> {
        let ((dim, c), logical) = (w.shape(), w.logical());
        let vector = |l: &[f64], row: &[f64]| {
            let terms = |i: usize| l[i * c..(i + 1) * c].iter().zip(row).map(|(w, x)| w * x);
            (0..dim).map(|i| (terms(i).sum(), terms(i).map(f64::abs).sum())).collect()
        };
        logical.chunks_exact(dim * c).map(|l| context.iter().map(|row| vector(l, row)).collect()).collect()
    }

    fn score(&self, q: &[f32], key: &[(f64, f64)], k_pe: &[f64]) -> Score {
        let pairs = key.iter().copied().chain(k_pe.iter().map(|k| (*k, k.abs())));
        let (value, magnitude) = q.iter().zip(pairs).fold((0.0, 0.0), |(v, m), (q, (k, k_abs))| {
            let q = f64::from(*q);
            (v + q * k, m + q.abs() * k_abs)
        });
        let scale = f64::from(self.scale);
        Score { value: scale * value, magnitude: scale * magnitude }
    }
}

/// Distances of latents, keys and values from what they are rounded to.
impl Expanded {
    /// How far an expanded vector may be off, `[head][position][channel]`: its matrix and the latents are rounded.
    fn expansion_errors(&self, w: &Heads, context: &[Vec<f64>]) -> Vec<Vec<Vec<f64>>> {
        let (dim, c) = w.shape();
        let in_codes = self.scene.spec.row.row_format == RowFormat::Q8;
        let [latent_steps, weight_steps] = expansion_steps(c, in_codes);
        let error = |row: &Vec<f64>, w: &[f64]| {
            let e_c = if in_codes { 0.0 } else { largest(row) / latent_steps / 2.0 };
            let e_w = largest(w) / weight_steps / 2.0;
            w.iter().zip(row).map(|(w, x)| w.abs() * e_c + x.abs() * e_w + e_w * e_c).sum()
        };
        let vector = |l: &[f64], row| l.chunks_exact(c).map(|w| error(row, w)).collect();
        let logical = w.logical();
        let heads = logical.chunks_exact(dim * c);
        heads.map(|l| context.iter().map(|row| vector(l, row)).collect()).collect()
    }

    /// What rounding makes of one head of one row: `keys` and `values` with how far they are off.
    fn steps(&self, q: &[f32], keys: Vectors<'_>, values: Vectors<'_>, k_pe: &[&[f64]], scores: &[Score]) -> Steps {
        let n_visible = scores.len();
        let head_steps = head_steps(q.len());
        let q: Vec<f64> = q.iter().map(|q| f64::from(q.abs())).collect();
        let e_q = largest(&q) / head_steps / 2.0;
        let score = |s: usize| {
            let key: Vec<[f64; 2]> = keys.0[s].iter().zip(&keys.1[s]).map(|(k, e)| [k.0.abs(), *e]).collect();
            let key: Vec<[f64; 2]> = key.into_iter().chain(k_pe[s].iter().map(|k| [k.abs(), 0.0])).collect();
            let own = key.iter().map(|k| k[0] + k[1]).fold(0.0, f64::max) / head_steps / 2.0;
            let terms = q.iter().zip(&key).map(|(q, [k, e])| q * (e + own) + (k + e + own) * e_q);
            f64::from(self.scale.abs()) * terms.sum::<f64>()
        };
        let own = |s: usize| {
            let largest = values.0[s].iter().zip(&values.1[s]).map(|(v, e)| v.0.abs() + e).fold(0.0, f64::max);
            (largest / VALUE_STEPS, values.1[s].iter().map(|e| e + largest / VALUE_STEPS / 2.0).collect::<Vec<_>>())
        };
        let (scales, off): (Vec<f64>, Vec<Vec<f64>>) = (0..n_visible).map(own).unzip();
        let max = scores.iter().map(|s| s.value).fold(f64::NEG_INFINITY, f64::max);
        let finite = scores.iter().all(|s| s.magnitude.is_finite()) && off.iter().flatten().all(|v| v.is_finite());
        let weighed = (0..n_visible).map(|s| (scores[s].value - max).exp() * scales[s]).fold(0.0, f64::max);
        let half = |d: &f64| if *d > 0.0 { weighed / EXPANDED_WEIGHT_STEPS / d / 2.0 } else { 0.0 };
        let steps = Steps {
            score: 1.001 * (0..n_visible).map(score).fold(0.0, f64::max),
            weights: scales.iter().map(half).collect(),
            values: off,
        };
        // Whole numbers are for what is finite.
        if finite { steps } else { Steps::default() }
    }

    fn bounds_with(&self, rounded: bool) -> Vec<Bound> {
        let Dims { c, r, n, v, h: n_heads } = self.dims;
        let mut bounds = vec![Bound::Bits; self.scene.n_rows * n_heads * v];
        for span in 0..self.scene.spans.len() {
            let context = self.scene.context(span);
            let latents: Vec<Vec<f64>> = context.iter().map(|row| row[..c].to_vec()).collect();
            let k_pe: Vec<&[f64]> = context.iter().map(|row| &row[c..]).collect();
            let [keys, values] = [&self.w_uk, &self.w_uv].map(|w| self.expand(w, &latents));
            let errors = rounded.then(|| [&self.w_uk, &self.w_uv].map(|w| self.expansion_errors(w, &latents)));
            for (t, n_visible) in self.scene.visible(span) {
                for h in 0..n_heads {
                    let q = &self.q[(t * n_heads + h) * (n + r)..][..n + r];
                    let scores: Vec<Score> = (0..n_visible).map(|s| self.score(q, &keys[h][s], k_pe[s])).collect();
                    let steps = errors.as_ref().map_or_else(Steps::default, |[key_errors, value_errors]| {
                        let (keys, values) = ((&keys[h], &key_errors[h]), (&values[h], &value_errors[h]));
                        self.steps(q, keys, values, &k_pe, &scores)
                    });
                    // A key is a sum of C products before it enters a sum of n + R.
                    let magnitude = |s: usize, i: usize| values[h][s][i].1;
                    let head = integer_bounds(&scores, n + r + c + 4, sum(c), steps, v, magnitude);
                    bounds[(t * n_heads + h) * v..][..v].copy_from_slice(&head);
                }
            }
        }
        with_margin_bounds(bounds)
    }
}

fn largest(values: &[f64]) -> f64 {
    values.iter().map(|v| v.abs()).fold(0.0, f64::max)
}

impl Case for Expanded {
    fn label(&self) -> String {
        self.data.clone()
    }

    fn run<D: Device>(&self, dev: &D) -> Result<Vec<f32>, DeviceError> {
        let Dims { c, r, n, v, h } = self.dims;
        let cache = self.scene.cache(dev, &[c + r])?;
        let len = self.scene.n_rows * h * v;
        let mut out = output(dev, len)?;
        let args = AttendExpanded {
            q: &input(dev, &self.q)?,
            q_pe: HeadLayout { n_heads: h, head_dim: n + r, start: n },
            cache: &cache,
            layer: self.scene.layer,
            spans: &self.scene.spans,
            block_tables: &self.scene.block_tables,
            w_uk: &self.w_uk.upload(dev)?,
            w_uv: &self.w_uv.upload(dev)?,
            v_head_dim: v,
            scale: self.scale,
        };
        dev.attend_expanded(&args, &mut out);
        read(dev, &out, len)
    }

    fn bounds(&self) -> Vec<Bound> {
        self.bounds_with(false)
    }

    fn int8_bounds(&self) -> Vec<Bound> {
        self.bounds_with(true)
    }

    fn parts(&self) -> Vec<Part<Self>> {
        let Dims { r, n, v, h, .. } = self.dims;
        let alone = |lone: &Lone| {
            let q = queries_of(&self.scene, lone, h * (n + r), &self.q);
            Part {
                case: Self { scene: self.scene.alone(lone), q, ..self.clone() },
                values: output_of(&self.scene, lone, h * v),
            }
        };
        self.scene.whole_spans().iter().map(alone).collect()
    }
}

const DIMS: [Dims; 7] = [
    Dims { c: 1, r: 2, n: 1, v: 1, h: 1 },
    Dims { c: 8, r: 2, n: 3, v: 5, h: 2 },
    Dims { c: 7, r: 4, n: 8, v: 3, h: 3 },
    Dims { c: 16, r: 8, n: 5, v: 16, h: 1 },
    Dims { c: 33, r: 2, n: 17, v: 4, h: 5 },
    Dims { c: 64, r: 16, n: 7, v: 33, h: 2 },
    Dims { c: 96, r: 8, n: 33, v: 40, h: 2 },
];

pub(in super::super) fn check<D: Device>(suite: &mut Suite<'_, D>) {
    let mut rng = Random::new(61);
    // Large queries make large errors of what is rounded, and bounds that say nothing.
    let large = if suite.activations() == Activations::Int8 { 3.0 } else { 60.0 };
    for (i, dims) in DIMS.into_iter().enumerate() {
        let sizes = [dims.n, dims.v, dims.c];
        for (j, spans) in SPANS.into_iter().enumerate() {
            let row_format = RowFormat::ALL[(i + j) % 3];
            let plan = Plan { block_len: BLOCK_LENS[(i + j + i / 3) % 3], row_format, spans };
            let format = [WeightFormat::F32, WeightFormat::BF16, WeightFormat::F8_E4M3][(i + 2 * j) % 3];
            for size in [1.0, large] {
                let joint = Heads::joint(&mut rng, format, dims.h, sizes);
                suite.check(&Expanded::new(&mut rng, plan, dims, joint, size));
                let split = Heads::split(&mut rng, format, dims.h, sizes);
                suite.check(&Expanded::new(&mut rng, plan, dims, split, size));
            }
        }
        not_finite(suite, &mut rng, dims);
    }
    let plan = Plan { block_len: 3, row_format: RowFormat::F32, spans: &[(3, 2)] };
    for format in WeightFormat::ALL.into_iter().filter(|f| f.block_len() > 1) {
        let b = format.block_len();
        let dims = Dims { c: b, r: 2, n: b, v: 3, h: 2 };
        for heads in [Heads::joint, Heads::split] {
            let heads = heads(&mut rng, format, dims.h, [dims.n, dims.v, dims.c]);
            suite.check(&Expanded::new(&mut rng, plan, dims, heads, 0.2));
        }
    }
}

/// A value that is not finite in one query, cached row or weight.
fn not_finite<D: Device>(suite: &mut Suite<'_, D>, rng: &mut Random, dims: Dims) {
    let spans = &[(3, 5), (4, 0)];
    let plan = Plan { block_len: 3, row_format: RowFormat::F32, spans };
    let heads = Heads::joint(rng, WeightFormat::F32, dims.h, [dims.n, dims.v, dims.c]);
    let base = Expanded::new(rng, plan, dims, heads, 1.0);
    for value in NON_FINITE {
        for channel in [0, dims.n] {
            let mut case = Expanded { data: format!("q[{channel}] {value}, {dims:?}"), ..base.clone() };
            case.q[(dims.n + dims.r) * dims.h + channel] = value;
            suite.check(&case);
        }
        for position in places(8) {
            for channel in [0, dims.c - 1, dims.c] {
                let data = format!("row {position}: channel {channel} {value}, {dims:?}");
                let mut case = Expanded { data, ..base.clone() };
                case.scene.row_mut(0, position)[channel] = value;
                suite.check(&case);
            }
        }
    }
    let col = rng.below(dims.c);
    for row in [0, dims.n, dims.n + dims.v - 1] {
        let matrix = with_nan(&base.w_uk.matrix, row, col);
        let w_uk = Heads { matrix: matrix.clone(), ..base.w_uk.clone() };
        let w_uv = Heads { matrix, ..base.w_uv.clone() };
        suite.check(&Expanded { data: format!("NaN weight in row {row}, {dims:?}"), w_uk, w_uv, ..base.clone() });
    }
}
