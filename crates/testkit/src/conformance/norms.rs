//! Cases of the two norms.
//!
//! Owns rmsnorm (strided, in place) and add_rmsnorm. Must not know layers.

use ops::{Device, DeviceError, NormLayout};

use super::arithmetic::{TINY, norm};
use super::buffers::{in_out, input, output, read, with_margin_bounds};
use super::case::{Case, Part, Suite};
use super::random::{NON_FINITE, Random, Side, Spread, places};
use super::report::Bound;

const DIMS: [usize; 15] = [1, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 33, 65, 257, 1536];

/// Bounds of rmsnorm(x)·w for one row, over `x` in f64.
fn norm_bounds(x: &[f32], w: &[f32], eps: f32) -> impl Iterator<Item = Bound> {
    let mean = x.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>() / x.len() as f64;
    let inverse = 1.0 / (mean + f64::from(eps)).sqrt();
    let relative = norm(x.len());
    x.iter().zip(w).map(move |(x, w)| {
        let value = (f64::from(*x) * inverse * f64::from(*w)).abs();
        Bound::Within(relative * value + TINY * (1.0 + f64::from(w.abs())))
    })
}

#[derive(Clone)]
struct Rmsnorm {
    x: Vec<f32>,
    w: Vec<f32>,
    layout: NormLayout,
    data: &'static str,
}

impl Case for Rmsnorm {
    fn label(&self) -> String {
        let NormLayout { n_rows, row_stride, dim, eps } = self.layout;
        format!("{n_rows} rows, {dim} of {row_stride} values, eps {eps}, {}", self.data)
    }

    fn run<D: Device>(&self, dev: &D) -> Result<Vec<f32>, DeviceError> {
        let mut x = in_out(dev, &self.x)?;
        dev.rmsnorm(&mut x, &input(dev, &self.w)?, self.layout);
        read(dev, &x, self.x.len())
    }

    fn bounds(&self) -> Vec<Bound> {
        let NormLayout { row_stride, dim, eps, .. } = self.layout;
        let mut bounds = Vec::new();
        for row in self.x.chunks_exact(row_stride) {
            bounds.extend(norm_bounds(&row[..dim], &self.w, eps));
            bounds.extend(vec![Bound::Bits; row_stride - dim]);
        }
        with_margin_bounds(bounds)
    }

    fn parts(&self) -> Vec<Part<Self>> {
        let stride = self.layout.row_stride;
        let alone = |(t, row): (usize, &[f32])| Part {
            case: Self { x: row.to_vec(), layout: NormLayout { n_rows: 1, ..self.layout }, ..self.clone() },
            values: vec![(t * stride..(t + 1) * stride, 0)],
        };
        self.x.chunks_exact(stride).enumerate().map(alone).collect()
    }
}

pub(super) fn rmsnorm<D: Device>(suite: &mut Suite<'_, D>) {
    let mut rng = Random::new(10);
    for dim in DIMS {
        for (n_rows, extra, eps) in [(0, 0, 1e-6), (1, 0, 1e-6), (3, 5, 1e-5), (5, 64, 0.5)] {
            let layout = NormLayout { n_rows, row_stride: dim + extra, dim, eps };
            for spread in [Spread::Even, Spread::Wide] {
                let x = rng.rows(n_rows, layout.row_stride, spread, Side::Activation);
                suite.check(&Rmsnorm { x, w: rng.values(dim), layout, data: "finite" });
            }
        }
        let layout = NormLayout { n_rows: 3, row_stride: dim + 2, dim, eps: 1e-6 };
        suite.check(&Rmsnorm { x: vec![0.0; 3 * (dim + 2)], w: rng.values(dim), layout, data: "zeros" });
        let small: Vec<f32> = rng.values(3 * (dim + 2)).iter().map(|v| v * 1e-4).collect();
        suite.check(&Rmsnorm { x: small, w: rng.values(dim), layout, data: "small against eps" });
        for (value, place) in NON_FINITE.into_iter().flat_map(|v| places(dim).map(|p| (v, p))) {
            let (mut x, mut w) = (rng.values(3 * (dim + 2)), rng.values(dim));
            x[dim + 2 + place] = value;
            suite.check(&Rmsnorm { x: x.clone(), w: w.clone(), layout, data: "one input not finite" });
            x[dim + 2 + place] = 0.5;
            w[place] = value;
            suite.check(&Rmsnorm { x, w, layout, data: "one weight not finite" });
        }
    }
}

#[derive(Clone)]
struct AddRmsnorm {
    x: Vec<f32>,
    delta: Option<Vec<f32>>,
    w: Vec<f32>,
    layout: NormLayout,
}

impl AddRmsnorm {
    /// x + delta: one rounding, which IEEE 754 fixes.
    fn sum(&self) -> Vec<f32> {
        match &self.delta {
            Some(delta) => self.x.iter().zip(delta).map(|(x, d)| x + d).collect(),
            None => self.x.clone(),
        }
    }
}

impl Case for AddRmsnorm {
    fn label(&self) -> String {
        let delta = if self.delta.is_some() { "with" } else { "without" };
        format!("{} rows of {}, {delta} delta", self.layout.n_rows, self.layout.dim)
    }

    fn run<D: Device>(&self, dev: &D) -> Result<Vec<f32>, DeviceError> {
        let mut x = in_out(dev, &self.x)?;
        let mut out = output(dev, self.x.len())?;
        let delta = self.delta.as_ref().map(|delta| input(dev, delta)).transpose()?;
        dev.add_rmsnorm(&mut x, delta.as_ref(), &input(dev, &self.w)?, self.layout, &mut out);
        let mut seen = read(dev, &x, self.x.len())?;
        seen.extend(read(dev, &out, self.x.len())?);
        Ok(seen)
    }

    fn bounds(&self) -> Vec<Bound> {
        let mut bounds = with_margin_bounds(vec![Bound::Bits; self.x.len()]);
        let sum = self.sum();
        let rows = sum.chunks_exact(self.layout.dim);
        bounds.extend(with_margin_bounds(rows.flat_map(|row| norm_bounds(row, &self.w, self.layout.eps)).collect()));
        bounds
    }

    fn parts(&self) -> Vec<Part<Self>> {
        let dim = self.layout.dim;
        let second = self.x.len() + super::buffers::MARGIN;
        let alone = |t: usize| {
            let row = t * dim..(t + 1) * dim;
            let case = Self {
                x: self.x[row.clone()].to_vec(),
                delta: self.delta.as_ref().map(|delta| delta[row.clone()].to_vec()),
                layout: NormLayout { n_rows: 1, ..self.layout },
                ..self.clone()
            };
            let out = (second + row.start..second + row.end, dim + super::buffers::MARGIN);
            Part { case, values: vec![(row, 0), out] }
        };
        (0..self.layout.n_rows).map(alone).collect()
    }
}

pub(super) fn add_rmsnorm<D: Device>(suite: &mut Suite<'_, D>) {
    let mut rng = Random::new(11);
    for dim in DIMS {
        let layout = |n_rows| NormLayout { n_rows, row_stride: dim, dim, eps: 1e-6 };
        for n_rows in [0, 1, 2, 5] {
            for spread in Spread::ALL {
                let x = rng.rows(n_rows, dim, spread, Side::Activation);
                let near = x.iter().map(|v| -v * (1.0 + rng.unit() / 1024.0)).collect();
                for delta in [None, Some(rng.rows(n_rows, dim, spread, Side::Activation)), Some(near)] {
                    suite.check(&AddRmsnorm { x: x.clone(), delta, w: rng.values(dim), layout: layout(n_rows) });
                }
            }
        }
        for (value, place) in NON_FINITE.into_iter().flat_map(|v| places(dim).map(|p| (v, p))) {
            let [mut x, mut delta] = [0, 1].map(|_| rng.values(3 * dim));
            delta[dim + place] = value;
            x[place] = value;
            suite.check(&AddRmsnorm { x, delta: Some(delta), w: rng.values(dim), layout: layout(3) });
        }
    }
}
