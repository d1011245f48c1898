//! Cases of attend_expanded.
//!
//! Owns keys and values made from latent rows, in both layouts of kv_b. Must not absorb queries.

use ops::{AttendExpanded, Device, DeviceError, HeadLayout, RowFormat, WeightFormat};

use super::super::arithmetic::sum;
use super::super::buffers::{input, output, read, with_margin_bounds};
use super::super::case::{Case, Part, Suite};
use super::super::heads::Heads;
use super::super::random::{NON_FINITE, Random, places};
use super::super::report::Bound;
use super::super::scene::{BLOCK_LENS, Plan, SPANS, Scene};
use super::super::weights::with_nan;
use super::{Score, head_bounds, output_of, queries_of};

/// C, R, n, v, H.
#[derive(Clone, Copy, Debug)]
struct Dims {
    c: usize,
    r: usize,
    n: usize,
    v: usize,
    h: usize,
}

#[derive(Clone)]
struct Expanded {
    scene: Scene,
    dims: Dims,
    q: Vec<f32>,
    w_uk: Heads,
    w_uv: Heads,
    scale: f32,
    data: String,
}

/// Expanded vectors of one head and what makes them up: Σ w·c and Σ|w·c|, each `[positions][dim]`.
type Sums = Vec<Vec<(f64, f64)>>;

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
        let Dims { c, r, n, v, h: n_heads } = self.dims;
        let mut bounds = vec![Bound::Bits; self.scene.n_rows * n_heads * v];
        for span in 0..self.scene.spans.len() {
            let context = self.scene.context(span);
            let latents: Vec<Vec<f64>> = context.iter().map(|row| row[..c].to_vec()).collect();
            let keys = self.expand(&self.w_uk, &latents);
            let values = self.expand(&self.w_uv, &latents);
            for (t, n_visible) in self.scene.visible(span) {
                for h in 0..n_heads {
                    let q = &self.q[(t * n_heads + h) * (n + r)..][..n + r];
                    let scores: Vec<Score> =
                        (0..n_visible).map(|s| self.score(q, &keys[h][s], &context[s][c..])).collect();
                    // A key is a sum of C products before it enters a sum of n + R.
                    let head = head_bounds(&scores, n + r + c + 4, sum(c), v, |s, i| values[h][s][i].1);
                    bounds[(t * n_heads + h) * v..][..v].copy_from_slice(&head);
                }
            }
        }
        with_margin_bounds(bounds)
    }

    fn parts(&self) -> Vec<Part<Self>> {
        let Dims { r, n, v, h, .. } = self.dims;
        let alone = |span: usize| {
            let q = queries_of(&self.scene, span, h * (n + r), &self.q);
            Part {
                case: Self { scene: self.scene.alone(span), q, ..self.clone() },
                values: output_of(&self.scene, span, h * v),
            }
        };
        (0..self.scene.spans.len()).map(alone).collect()
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
    for (i, dims) in DIMS.into_iter().enumerate() {
        let sizes = [dims.n, dims.v, dims.c];
        for (j, spans) in SPANS.into_iter().enumerate() {
            let row_format = RowFormat::ALL[(i + j) % 3];
            let plan = Plan { block_len: BLOCK_LENS[(i + j + i / 3) % 3], row_format, spans };
            let format = [WeightFormat::F32, WeightFormat::BF16, WeightFormat::F8_E4M3][(i + 2 * j) % 3];
            for size in [1.0, 60.0] {
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
