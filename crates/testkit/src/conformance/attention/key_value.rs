//! Cases of attend_kv.
//!
//! Owns grouped-query attention over rows `[v heads | k heads]`. Must not know latents.

use ops::{AttendKv, Device, DeviceError, RowFormat};

use super::super::buffers::{input, output, read, with_margin_bounds};
use super::super::case::{Case, Part, Suite};
use super::super::random::{NON_FINITE, Random, places};
use super::super::report::Bound;
use super::super::scene::{BLOCK_LENS, Lone, Plan, SPANS, Scene};
use super::{OUT_OF_SIGHT, head_bounds, output_of, queries_of, score};

#[derive(Clone, Copy, Debug)]
struct Dims {
    n_kv_heads: usize,
    per_kv: usize,
    head_dim: usize,
}

impl Dims {
    fn width(self) -> usize {
        self.n_kv_heads * self.per_kv * self.head_dim
    }
}

#[derive(Clone)]
struct KeyValue {
    scene: Scene,
    dims: Dims,
    q: Vec<f32>,
    scale: f32,
    data: String,
}

impl KeyValue {
    fn new(rng: &mut Random, plan: Plan<'_>, dims: Dims, size: f32) -> Self {
        let half = dims.n_kv_heads * dims.head_dim;
        let scene = Scene::new(rng, plan, [2 * half, dims.head_dim, half]);
        let q = scene.queries(rng, dims.width(), size);
        let scale = 1.0 / (dims.head_dim as f32).sqrt();
        Self { dims, q, scale, data: format!("{plan:?}, {dims:?}, queries ±{size}"), scene }
    }
}

impl Case for KeyValue {
    fn label(&self) -> String {
        self.data.clone()
    }

    fn run<D: Device>(&self, dev: &D) -> Result<Vec<f32>, DeviceError> {
        let Dims { n_kv_heads, per_kv, head_dim } = self.dims;
        let cache = self.scene.cache(dev, &[n_kv_heads * head_dim; 2])?;
        let len = self.scene.n_rows * self.dims.width();
        let mut out = output(dev, len)?;
        let args = AttendKv {
            q: &input(dev, &self.q)?,
            cache: &cache,
            layer: self.scene.layer,
            spans: &self.scene.spans,
            block_tables: &self.scene.block_tables,
            n_heads: n_kv_heads * per_kv,
            n_kv_heads,
            head_dim,
            scale: self.scale,
        };
        dev.attend_kv(&args, &mut out);
        read(dev, &out, len)
    }

    fn bounds(&self) -> Vec<Bound> {
        let Dims { n_kv_heads, per_kv, head_dim: d } = self.dims;
        let n_heads = n_kv_heads * per_kv;
        let mut bounds = vec![Bound::Bits; self.scene.n_rows * self.dims.width()];
        for span in 0..self.scene.spans.len() {
            let context = self.scene.context(span);
            for (t, n_visible) in self.scene.visible(span) {
                for h in 0..n_heads {
                    let at = (t * n_heads + h) * d;
                    let q = || self.q[at..at + d].iter().map(|v| f64::from(*v));
                    let (v, k) = (h / per_kv * d, (n_kv_heads + h / per_kv) * d);
                    let scores: Vec<_> = context[..n_visible]
                        .iter()
                        .map(|row| score(self.scale, q(), row[k..k + d].iter().copied()))
                        .collect();
                    let head = head_bounds(&scores, d, 0.0, d, |s, i| context[s][v + i].abs());
                    bounds[at..at + d].copy_from_slice(&head);
                }
            }
        }
        with_margin_bounds(bounds)
    }

    fn parts(&self) -> Vec<Part<Self>> {
        let width = self.dims.width();
        let alone = |lone: &Lone| {
            let q = queries_of(&self.scene, lone, width, &self.q);
            Part {
                case: Self { scene: self.scene.alone(lone), q, ..self.clone() },
                values: output_of(&self.scene, lone, width),
            }
        };
        self.scene.spans_and_rows().iter().map(alone).collect()
    }
}

pub(in super::super) fn check<D: Device>(suite: &mut Suite<'_, D>) {
    let mut rng = Random::new(62);
    for (i, head_dim) in [1, 2, 7, 8, 15, 16, 17, 33, 64, 128].into_iter().enumerate() {
        for (j, spans) in SPANS.into_iter().enumerate() {
            let dims = Dims { n_kv_heads: 1 + (i + j) % 3, per_kv: [1, 2, 7][(i + 2 * j) % 3], head_dim };
            for (k, row_format) in RowFormat::ALL.into_iter().enumerate() {
                let plan = Plan { block_len: BLOCK_LENS[(i + j + k) % 3], row_format, spans };
                for size in [1.0, 100.0] {
                    suite.check(&KeyValue::new(&mut rng, plan, dims, size));
                }
            }
        }
    }
    // A context that devices cut into parts.
    for (i, row_format) in RowFormat::ALL.into_iter().enumerate() {
        let plan = Plan { block_len: BLOCK_LENS[i], row_format, spans: &[(2, 1023), (1, 700)] };
        suite.check(&KeyValue::new(&mut rng, plan, Dims { n_kv_heads: 2, per_kv: 3, head_dim: 8 }, 1.0));
    }
    for dims in [
        Dims { n_kv_heads: 1, per_kv: 1, head_dim: 8 },
        Dims { n_kv_heads: 2, per_kv: 2, head_dim: 5 },
        Dims { n_kv_heads: 3, per_kv: 7, head_dim: 17 },
    ] {
        not_finite(suite, &mut rng, dims);
    }
}

/// A value that is not finite in one query, key or value, and positions whose score is −∞.
fn not_finite<D: Device>(suite: &mut Suite<'_, D>, rng: &mut Random, dims: Dims) {
    let spans = &[(3, 5), (1, 19), (4, 0)];
    let half = dims.n_kv_heads * dims.head_dim;
    for (i, value) in NON_FINITE.into_iter().enumerate() {
        let plan = Plan { block_len: BLOCK_LENS[i], row_format: RowFormat::F32, spans };
        let base = KeyValue::new(rng, plan, dims, 1.0);
        let mut query = KeyValue { data: format!("q {value}, {dims:?}"), ..base.clone() };
        query.q[dims.width() + rng.below(dims.width())] = value;
        suite.check(&query);
        for (span, &(n_new, n_cached)) in spans.iter().enumerate() {
            for position in places(n_new + n_cached) {
                for channel in [0, half - 1, half, 2 * half - 1] {
                    let data = format!("row {position} of span {span}: channel {channel} {value}, {dims:?}");
                    let mut case = KeyValue { data, ..base.clone() };
                    case.scene.row_mut(span, position)[channel] = value;
                    suite.check(&case);
                }
            }
        }
    }
    for out in OUT_OF_SIGHT {
        let plan = Plan { block_len: 3, row_format: RowFormat::F32, spans };
        let mut case = KeyValue::new(rng, plan, dims, 1.0);
        case.data = format!("positions {out:?} of 20 have score −∞, {dims:?}");
        for head in case.q.chunks_exact_mut(dims.head_dim) {
            head[0] = 0.5;
        }
        for position in out {
            for key in case.scene.row_mut(1, position)[half..].chunks_exact_mut(dims.head_dim) {
                key[0] = f32::NEG_INFINITY;
            }
        }
        suite.check(&case);
    }
}
