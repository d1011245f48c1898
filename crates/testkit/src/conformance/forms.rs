//! Absorbed and expanded attention agree.
//!
//! Owns the comparison of W_UV·attend_latent(W_UKᵀ·q) with attend_expanded(q) on one device. Must not know which form a
//! model chooses.

use ops::{
    Activations, AttendExpanded, AttendLatent, Device, DeviceError, HeadLayout, HeadSide, Reference, RowFormat,
    WeightFormat,
};

use super::Operation;
use super::arithmetic::{EPS, TINY, attention_weight, gamma, sum, weighted_mean};
use super::attention::expanded::{Dims, Expanded};
use super::buffers::{input, output, read};
use super::case::{Case, Suite};
use super::heads::Heads;
use super::random::Random;
use super::report::{Bound, Report};
use super::scene::{BLOCK_LENS, Plan, SPANS, Scene};

const N_CASES: usize = 64;

/// Runs both forms on the scalar reference and holds their difference to the bound of arithmetic that rounds only what
/// it stores: far closer than what an f32 device is held to.
#[must_use]
pub fn forms_agree() -> Report {
    let mut suite = Suite::new(&Reference, Operation::Forms);
    compare_forms(&mut suite, Rounding::Stored);
    suite.finish()
}

pub(super) fn check<D: Device>(suite: &mut Suite<'_, D>) {
    compare_forms(suite, Rounding::F32);
}

/// Where arithmetic rounds.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Rounding {
    /// Results of operations, keys and values; all sums are exact beside that.
    Stored,
    /// Every step, in f32.
    F32,
}

struct Forms {
    scene: Scene,
    /// C, R, n, v, H.
    dims: [usize; 5],
    q: Vec<f32>,
    w_uk: Heads,
    w_uv: Heads,
    scale: f32,
    data: String,
}

fn compare_forms<D: Device>(suite: &mut Suite<'_, D>, rounding: Rounding) {
    let mut rng = Random::new(100);
    for i in 0..N_CASES {
        let [c, r, n, v, h] =
            [1 + rng.below(40), 2 * (1 + rng.below(6)), 1 + rng.below(20), 1 + rng.below(20), 1 + rng.below(5)];
        let heads = if i % 2 == 0 { Heads::joint } else { Heads::split };
        let format = [WeightFormat::F32, WeightFormat::BF16][i / 2 % 2];
        let [w_uk, w_uv] = heads(&mut rng, format, h, [n, v, c]);
        let row_format = [RowFormat::F32, RowFormat::BF16][i / 4 % 2];
        let plan = Plan { block_len: BLOCK_LENS[i % 3], row_format, spans: SPANS[1 + i % (SPANS.len() - 1)] };
        let scene = Scene::new(&mut rng, plan, [c + r, c, r]);
        let rounds = rounding == Rounding::F32 && suite.activations() == Activations::Int8;
        let large = if rounds { 3.0 } else { 10.0 };
        let q = scene.queries(&mut rng, h * (n + r), [1.0, large][i / 8 % 2]);
        let scale = 1.0 / ((n + r) as f32).sqrt();
        let data = format!("C {c}, R {r}, n {n}, v {v}, H {h}, split {}, {plan:?}", w_uk.transposed);
        let forms = Forms { scene, dims: [c, r, n, v, h], q, w_uk, w_uv, scale, data };
        let mut bounds = forms.bounds(rounding);
        if rounds {
            bounds = bounds.iter().zip(forms.rounded()).map(|(a, b)| sum_of(*a, b)).collect();
        }
        suite.compare_forms(&forms.data, |dev| Ok([forms.absorbed(dev)?, forms.expanded(dev)?]), &bounds);
    }
}

fn sum_of(a: Bound, b: Bound) -> Bound {
    match (a, b) {
        (Bound::Within(a), Bound::Within(b)) => Bound::Within(a + b),
        _ => unreachable!("both forms of a covered row have a distance"),
    }
}

impl Forms {
    /// How far the expanded form may be from its exact value where it is rounded to whole numbers.
    fn rounded(&self) -> Vec<Bound> {
        let [c, r, n, v, h] = self.dims;
        let case = Expanded {
            scene: self.scene.clone(),
            dims: Dims { c, r, n, v, h },
            q: self.q.clone(),
            w_uk: self.w_uk.clone(),
            w_uv: self.w_uv.clone(),
            scale: self.scale,
            data: String::new(),
        };
        let bounds = case.int8_bounds();
        let rows = self.scene.spans.iter().flat_map(|s| &bounds[s.q_start * h * v..(s.q_start + s.n_new) * h * v]);
        rows.copied().collect()
    }

    fn absorbed<D: Device>(&self, dev: &D) -> Result<Vec<f32>, DeviceError> {
        let [c, r, n, v, h] = self.dims;
        let t = self.scene.n_rows;
        let q = input(dev, &self.q)?;
        let (mut q_lat, mut z, mut out) = (output(dev, t * h * c)?, output(dev, t * h * c)?, output(dev, t * h * v)?);
        let layout = |head_dim, start| HeadLayout { n_heads: h, head_dim, start };
        dev.matmul_heads(&q, layout(n + r, 0), t, &self.w_uk.upload(dev)?, HeadSide::ApplyTransposed, &mut q_lat);
        let args = AttendLatent {
            q_lat: &q_lat,
            q: &q,
            q_pe: layout(n + r, n),
            cache: &self.scene.cache(dev, &[c + r])?,
            layer: self.scene.layer,
            spans: &self.scene.spans,
            block_tables: &self.scene.block_tables,
            kv_lora_rank: c,
            scale: self.scale,
        };
        dev.attend_latent(&args, &mut z);
        dev.matmul_heads(&z, layout(c, 0), t, &self.w_uv.upload(dev)?, HeadSide::Apply, &mut out);
        self.covered(&read(dev, &out, t * h * v)?)
    }

    fn expanded<D: Device>(&self, dev: &D) -> Result<Vec<f32>, DeviceError> {
        let [c, r, n, v, h] = self.dims;
        let mut out = output(dev, self.scene.n_rows * h * v)?;
        let args = AttendExpanded {
            q: &input(dev, &self.q)?,
            q_pe: HeadLayout { n_heads: h, head_dim: n + r, start: n },
            cache: &self.scene.cache(dev, &[c, r])?,
            layer: self.scene.layer,
            spans: &self.scene.spans,
            block_tables: &self.scene.block_tables,
            w_uk: &self.w_uk.upload(dev)?,
            w_uv: &self.w_uv.upload(dev)?,
            v_head_dim: v,
            scale: self.scale,
        };
        dev.attend_expanded(&args, &mut out);
        self.covered(&read(dev, &out, self.scene.n_rows * h * v)?)
    }

    /// The rows of spans, in order.
    fn covered(&self, out: &[f32]) -> Result<Vec<f32>, DeviceError> {
        let width = self.dims[3] * self.dims[4];
        let rows = self.scene.spans.iter().flat_map(|s| &out[s.q_start * width..(s.q_start + s.n_new) * width]);
        Ok(rows.copied().collect())
    }

    /// How far the two forms may be apart: each is this close to the exact value.
    fn bounds(&self, rounding: Rounding) -> Vec<Bound> {
        let [c, r, n, v, n_heads] = self.dims;
        let (w_uk, w_uv) = (self.w_uk.logical(), self.w_uv.logical());
        let mut bounds = Vec::new();
        for span in 0..self.scene.spans.len() {
            let context = self.scene.context(span);
            for (t, n_visible) in self.scene.visible(span) {
                for h in 0..n_heads {
                    let q: Vec<f64> =
                        self.q[(t * n_heads + h) * (n + r)..][..n + r].iter().map(|v| f64::from(*v)).collect();
                    let q_lat = lat(&w_uk[h * n * c..(h + 1) * n * c], &q[..n], c);
                    let scores: Vec<[f64; 2]> = context[..n_visible]
                        .iter()
                        .map(|row| {
                            let latent = q_lat.iter().zip(row).map(|(q, k)| [q[0] * k, q[1] * k.abs()]);
                            let rope = q[n..].iter().zip(&row[c..]).map(|(q, k)| [q * k, (q * k).abs()]);
                            let sum = latent.chain(rope).fold([0.0; 2], |a, b| [a[0] + b[0], a[1] + b[1]]);
                            sum.map(|s| s * f64::from(self.scale))
                        })
                        .collect();
                    let means = mean(&scores, &context, c);
                    let magnitude = scores.iter().map(|s| s[1]).fold(0.0, f64::max);
                    let relative = self.relative(rounding, magnitude, n_visible);
                    let l = &w_uv[h * v * c..(h + 1) * v * c];
                    bounds.extend(l.chunks_exact(c).map(|row| {
                        let terms: f64 = row.iter().zip(&means).map(|(w, m)| w.abs() * m).sum();
                        Bound::Within(2.0 * relative * terms + 1e3 * TINY)
                    }));
                }
            }
        }
        bounds
    }

    /// The larger relative error of the two forms.
    fn relative(&self, rounding: Rounding, magnitude: f64, n_visible: usize) -> f64 {
        let [c, r, n, ..] = self.dims;
        match rounding {
            // Scores: the query or key that is stored. Outputs: value or latent mean, and the result.
            Rounding::Stored => 2.0 * (2.0 * EPS * magnitude).exp_m1() + gamma(4.0),
            Rounding::F32 => {
                let weight = attention_weight(n + r + c + 4, magnitude, n_visible, 0.0);
                weighted_mean(weight, 2.0 * sum(c), n_visible)
            }
        }
    }
}

/// W_UKᵀ·q and the sums of absolute values, `[C]`.
fn lat(w_uk: &[f64], q: &[f64], c: usize) -> Vec<[f64; 2]> {
    let mut lat = vec![[0.0; 2]; c];
    for (row, q) in w_uk.chunks_exact(c).zip(q) {
        for (sums, w) in lat.iter_mut().zip(row) {
            sums[0] += w * q;
            sums[1] += (w * q).abs();
        }
    }
    lat
}

/// Σ pₛ·|c_kv[s]|, `[C]`.
fn mean(scores: &[[f64; 2]], context: &[Vec<f64>], c: usize) -> Vec<f64> {
    let max = scores.iter().map(|s| s[0]).fold(f64::NEG_INFINITY, f64::max);
    let total: f64 = scores.iter().map(|s| (s[0] - max).exp()).sum();
    let mut mean = vec![0.0; c];
    for (score, row) in scores.iter().zip(context) {
        let p = (score[0] - max).exp() / total;
        for (m, v) in mean.iter_mut().zip(row) {
            *m += p * v.abs();
        }
    }
    mean
}
