//! Cases of attend_latent.
//!
//! Owns absorbed queries over latent rows. Must not expand keys.

use ops::{AttendLatent, Device, DeviceError, HeadLayout, RowFormat};

use super::super::arithmetic::{WEIGHT_STEPS, query_steps};
use super::super::buffers::{input, output, read, with_margin_bounds};
use super::super::case::{Case, Part, Suite};
use super::super::random::{NON_FINITE, Random, places};
use super::super::report::Bound;
use super::super::scene::{BLOCK_LENS, Lone, Plan, SPANS, Scene};
use super::{OUT_OF_SIGHT, Score, Steps, integer_bounds, output_of, queries_of, score};

/// C, R, n, H.
#[derive(Clone, Copy, Debug)]
pub(in super::super) struct Dims {
    pub(in super::super) c: usize,
    pub(in super::super) r: usize,
    pub(in super::super) n: usize,
    pub(in super::super) h: usize,
}

impl Dims {
    fn q_pe(self) -> HeadLayout {
        HeadLayout { n_heads: self.h, head_dim: self.n + self.r, start: self.n }
    }

    fn widths(self) -> (usize, usize) {
        (self.h * self.c, self.h * (self.n + self.r))
    }
}

#[derive(Clone)]
struct Latent {
    scene: Scene,
    dims: Dims,
    q_lat: Vec<f32>,
    q: Vec<f32>,
    scale: f32,
    data: String,
}

impl Latent {
    fn new(rng: &mut Random, plan: Plan<'_>, dims: Dims, size: f32) -> Self {
        let scene = Scene::new(rng, plan, [dims.c + dims.r, dims.c, dims.r]);
        let (lat, all) = dims.widths();
        let q_lat = scene.queries(rng, lat, size);
        let q = scene.queries(rng, all, size);
        let scale = 1.0 / ((dims.n + dims.r) as f32).sqrt();
        Self { dims, q_lat, q, scale, data: format!("{plan:?}, {dims:?}, queries ±{size}"), scene }
    }

    /// How coarsely a device may round the latent part of `q`, and the weights, where rows are of 8 bits.
    fn steps(&self, span: usize, q: &[f64], scores: &[Score], context: &[Vec<f64>]) -> Steps {
        let c = self.dims.c;
        if self.scene.spec.row.row_format != RowFormat::Q8 {
            return Steps::default();
        }
        let half_step = q[..c].iter().map(|q| q.abs()).fold(0.0, f64::max) / query_steps(c) / 2.0;
        let terms = |row: &Vec<f64>| row[..c].iter().map(|k| k.abs()).sum::<f64>();
        let largest = context[..scores.len()].iter().map(terms).fold(0.0, f64::max);
        // A weight is rounded together with its row's scale, of which the weight's own value is free.
        let scales: Vec<f64> = (0..scores.len()).map(|s| self.scene.scales(span, s)[0]).collect();
        let max = scores.iter().map(|s| s.value).fold(f64::NEG_INFINITY, f64::max);
        let weighed = |s: usize| (scores[s].value - max).exp() * scales[s];
        let step = (0..scores.len()).map(weighed).fold(0.0, f64::max) / WEIGHT_STEPS;
        let half = |d: &f64| if *d > 0.0 { step / d / 2.0 } else { 0.0 };
        let score = 1.001 * f64::from(self.scale) * half_step * largest;
        Steps { score, weights: scales.iter().map(half).collect(), values: Vec::new() }
    }
}

impl Case for Latent {
    fn label(&self) -> String {
        self.data.clone()
    }

    fn run<D: Device>(&self, dev: &D) -> Result<Vec<f32>, DeviceError> {
        let Dims { c, r, .. } = self.dims;
        let cache = self.scene.cache(dev, &[c, r])?;
        let len = self.scene.n_rows * self.dims.widths().0;
        let mut out = output(dev, len)?;
        let args = AttendLatent {
            q_lat: &input(dev, &self.q_lat)?,
            q: &input(dev, &self.q)?,
            q_pe: self.dims.q_pe(),
            cache: &cache,
            layer: self.scene.layer,
            spans: &self.scene.spans,
            block_tables: &self.scene.block_tables,
            kv_lora_rank: c,
            scale: self.scale,
        };
        dev.attend_latent(&args, &mut out);
        read(dev, &out, len)
    }

    fn bounds(&self) -> Vec<Bound> {
        let Dims { c, r, n, h: n_heads } = self.dims;
        let mut bounds = vec![Bound::Bits; self.scene.n_rows * n_heads * c];
        for span in 0..self.scene.spans.len() {
            let context = self.scene.context(span);
            for (t, n_visible) in self.scene.visible(span) {
                for th in t * n_heads..(t + 1) * n_heads {
                    let q = self.q_lat[th * c..][..c].iter().chain(&self.q[th * (n + r) + n..][..r]);
                    let q: Vec<f64> = q.map(|v| f64::from(*v)).collect();
                    let scores: Vec<_> = context[..n_visible]
                        .iter()
                        .map(|row| score(self.scale, q.iter().copied(), row.iter().copied()))
                        .collect();
                    let steps = self.steps(span, &q, &scores, &context);
                    let head = integer_bounds(&scores, c + r, 0.0, steps, c, |s, i| context[s][i].abs());
                    bounds[th * c..(th + 1) * c].copy_from_slice(&head);
                }
            }
        }
        with_margin_bounds(bounds)
    }

    fn parts(&self) -> Vec<Part<Self>> {
        let (lat, all) = self.dims.widths();
        let alone = |lone: &Lone| {
            let q_lat = queries_of(&self.scene, lone, lat, &self.q_lat);
            let q = queries_of(&self.scene, lone, all, &self.q);
            Part {
                case: Self { scene: self.scene.alone(lone), q_lat, q, ..self.clone() },
                values: output_of(&self.scene, lone, lat),
            }
        };
        self.scene.spans_and_rows().iter().map(alone).collect()
    }
}

const DIMS: [Dims; 8] = [
    Dims { c: 1, r: 2, n: 1, h: 1 },
    Dims { c: 8, r: 2, n: 3, h: 2 },
    Dims { c: 7, r: 4, n: 8, h: 3 },
    Dims { c: 16, r: 8, n: 5, h: 1 },
    Dims { c: 33, r: 2, n: 4, h: 5 },
    Dims { c: 64, r: 16, n: 7, h: 2 },
    Dims { c: 20, r: 6, n: 2, h: 7 },
    Dims { c: 512, r: 64, n: 128, h: 2 },
];

pub(in super::super) fn check<D: Device>(suite: &mut Suite<'_, D>) {
    let mut rng = Random::new(60);
    for (i, dims) in DIMS.into_iter().enumerate() {
        for (j, spans) in SPANS.into_iter().enumerate() {
            for (k, row_format) in RowFormat::ALL.into_iter().enumerate() {
                let plan = Plan { block_len: BLOCK_LENS[(i + j + k) % 3], row_format, spans };
                for size in [1.0, 100.0] {
                    suite.check(&Latent::new(&mut rng, plan, dims, size));
                }
            }
        }
        not_finite(suite, &mut rng, dims);
    }
    // More heads than devices take at a time, and as many as fill tiles: alone and in several rows.
    for (i, row_format) in RowFormat::ALL.into_iter().enumerate() {
        for dims in [Dims { c: 8, r: 2, n: 2, h: 130 }, Dims { c: 64, r: 4, n: 3, h: 18 }] {
            for spans in [&[(1, 40)][..], &[(3, 0), (1, 18)]] {
                let plan = Plan { block_len: [16, 32, 16][i], row_format, spans };
                suite.check(&Latent::new(&mut rng, plan, dims, 1.0));
            }
        }
    }
    // Contexts that devices cut into parts, beside short ones.
    for (i, row_format) in RowFormat::ALL.into_iter().enumerate() {
        for spans in [&[(1, 1300)][..], &[(2, 511), (1, 512), (1, 5)], &[(3, 1022), (1, 1023)]] {
            let plan = Plan { block_len: BLOCK_LENS[i], row_format, spans };
            suite.check(&Latent::new(&mut rng, plan, DIMS[1 + i], 1.0));
        }
    }
}

/// Formats that computations differ by.
const FORMATS: [RowFormat; 2] = [RowFormat::F32, RowFormat::Q8];

/// A value that is not finite in one query or one cached row, and positions whose score is −∞.
fn not_finite<D: Device>(suite: &mut Suite<'_, D>, rng: &mut Random, dims: Dims) {
    let spans = &[(3, 5), (1, 19), (4, 0)];
    for (i, (value, row_format)) in NON_FINITE.into_iter().flat_map(|v| FORMATS.map(|f| (v, f))).enumerate() {
        let plan = Plan { block_len: BLOCK_LENS[i % 3], row_format, spans };
        let base = Latent::new(rng, plan, dims, 1.0);
        let (lat, all) = dims.widths();
        let mut q_lat = Latent { data: format!("q_lat {value}, {plan:?}, {dims:?}"), ..base.clone() };
        q_lat.q_lat[lat + rng.below(dims.c)] = value;
        suite.check(&q_lat);
        let mut q_pe = Latent { data: format!("q_pe {value}, {plan:?}, {dims:?}"), ..base.clone() };
        q_pe.q[all - 1] = value;
        suite.check(&q_pe);
        for (span, &(n_new, n_cached)) in spans.iter().enumerate() {
            for position in places(n_new + n_cached) {
                for channel in [0, dims.c - 1, dims.c] {
                    let data = format!("row {position} of span {span}: channel {channel} {value}, {plan:?}, {dims:?}");
                    let mut case = Latent { data, ..base.clone() };
                    case.scene.row_mut(span, position)[channel] = value;
                    suite.check(&case);
                }
            }
        }
    }
    for (out, row_format) in OUT_OF_SIGHT.into_iter().flat_map(|out| FORMATS.map(|f| (out.clone(), f))) {
        let plan = Plan { block_len: 3, row_format, spans };
        let mut case = Latent::new(rng, plan, dims, 1.0);
        case.data = format!("positions {out:?} of 20 have score −∞, {plan:?}, {dims:?}");
        for head in case.q.chunks_exact_mut(dims.n + dims.r) {
            head[dims.n] = 0.5;
        }
        for position in out {
            case.scene.row_mut(1, position)[dims.c] = f32::NEG_INFINITY;
        }
        suite.check(&case);
    }
}
