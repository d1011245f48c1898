//! Products with weights of any format, their inputs rounded to 8 bits or not: values and bounds (docs/numerics.md).
//!
//! Owns the formula of [`Activations::Int8`], written a second time with the range of what roundings may make of it.
//! Must not see a device's results.

use std::ops::Range;

use ops::{Activations, WeightMatrix};

use super::arithmetic::{INT8_ZERO, gamma, int8_floor, int8_sum, sum, sum_floor};
use super::report::Bound;
use super::weights::{decoded, offsets};

/// A number, and how far a device's may be from it.
pub(super) type Bounded = (f64, f64);

/// What a bound assumes of inputs that meet block-quantised weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rounding {
    /// They are not rounded.
    Without,
    /// They are somewhere within half a step of themselves: the distance to the reference.
    Anywhere,
    /// They are what the formula says, up to the roundings of the formula: the distance to that.
    Formula,
}

/// A decoded matrix and what its products are made of.
pub(super) struct Factors {
    cols: usize,
    /// Columns that are rounded together; 1 where the format rounds nothing.
    group: usize,
    weights: Vec<f64>,
    /// Magnitude of each weight with its offset kept apart: |scale·code| + |offset|.
    apart: Vec<f64>,
}

impl Factors {
    pub(super) fn new(w: &WeightMatrix) -> Self {
        let weights = decoded(w);
        let apart = match offsets(w) {
            Some(offsets) => weights.iter().zip(offsets).map(|(w, o)| (w - o).abs() + o.abs()).collect(),
            None => weights.iter().map(|w| w.abs()).collect(),
        };
        Self { cols: w.cols, group: w.format.block_len(), weights, apart }
    }

    /// Rows of the matrix.
    pub(super) fn rows(&self) -> usize {
        self.weights.len() / self.cols
    }

    /// W·x (+ bias) of some rows, where x is known up to an error.
    pub(super) fn apply(
        &self,
        rows: Range<usize>,
        x: &[Bounded],
        bias: Option<&[f32]>,
        rounding: Rounding,
    ) -> Vec<Bounded> {
        let n = self.cols;
        let rounding = if self.group == 1 { Rounding::Without } else { rounding };
        let (x, relative, floor) = match rounding {
            Rounding::Without => (x.to_vec(), sum(n), sum_floor(n)),
            _ => {
                let rounded = x.chunks(self.group).flat_map(|group| rounded(group, rounding)).collect();
                (rounded, int8_sum(n / self.group), int8_floor(n))
            }
        };
        let row = |r: usize| {
            let bias = bias.map_or(0.0, |b| f64::from(b[r]));
            let (mut value, mut terms, mut error) = (bias, bias.abs(), 0.0);
            let (weights, apart) = (&self.weights[r * n..(r + 1) * n], &self.apart[r * n..(r + 1) * n]);
            for ((w, apart), (x, x_err)) in weights.iter().zip(apart).zip(&x) {
                // With offsets apart where the device may keep them apart.
                let magnitude = if rounding == Rounding::Without { w.abs() } else { *apart };
                value += w * x;
                terms += magnitude * (x.abs() + x_err);
                error += w.abs() * x_err;
            }
            (value, error + relative * terms + floor)
        };
        rows.map(row).collect()
    }

    /// Bounds of W·x (+ bias) of some rows on a device that rounds so.
    pub(super) fn bounds(
        &self,
        rows: Range<usize>,
        x: &[f32],
        bias: Option<&[f32]>,
        activations: Activations,
    ) -> Vec<Bound> {
        let x = exact(x);
        let products = |rounding| self.apply(rows.clone(), &x, bias, rounding);
        match activations {
            Activations::Int8 if self.group > 1 => bounds(products(Rounding::Anywhere), products(Rounding::Formula)),
            _ => products(Rounding::Without).into_iter().map(|(_, error)| Bound::Within(error)).collect(),
        }
    }
}

/// Numbers without an error.
pub(super) fn exact(x: &[f32]) -> Vec<Bounded> {
    x.iter().map(|v| (f64::from(*v), 0.0)).collect()
}

/// Bounds from the results of [`Rounding::Anywhere`] and of [`Rounding::Formula`].
pub(super) fn bounds(anywhere: Vec<Bounded>, formula: Vec<Bounded>) -> Vec<Bound> {
    let both = anywhere.into_iter().zip(formula);
    both.map(|((_, reference), (value, around))| Bound::Rounded { reference, value, around }).collect()
}

/// Roundings of d = m/127 (as m·(1/127): two), of 127/m and of x·(127/m).
const ROUNDINGS: f64 = 4.0;

/// x̂ of one group.
fn rounded(x: &[Bounded], rounding: Rounding) -> Vec<Bounded> {
    let max = |of: fn(&Bounded) -> f64| x.iter().map(of).fold(0.0, f64::max);
    let (lowest, highest) = (max(|(v, e)| v.abs() - e), max(|(v, e)| v.abs() + e));
    if x.iter().any(|(v, e)| !(v + e).is_finite()) {
        return vec![(f64::NAN, 0.0); x.len()];
    }
    if rounding == Rounding::Formula && lowest >= INT8_ZERO {
        return x.iter().map(|&(v, e)| by_formula((v - e, v + e), (lowest, highest))).collect();
    }
    let half_step = highest / 254.0 * (1.0 + gamma(ROUNDINGS)) + highest.min(INT8_ZERO);
    x.iter().map(|&(v, e)| (v, e + half_step + gamma(ROUNDINGS) * (v.abs() + e))).collect()
}

/// x̂ = d·q for an x and a maximum of its group that lie in these ranges.
fn by_formula(x: (f64, f64), max: (f64, f64)) -> Bounded {
    let slack = gamma(ROUNDINGS);
    let (low, high) = corners(x, (127.0 / max.1, 127.0 / max.0));
    // Both neighbours of a tie, and of what roundings may move across one.
    let q_low = (low - low.abs() * slack - 0.5).ceil().clamp(-127.0, 127.0);
    let q_high = (high + high.abs() * slack + 0.5).floor().clamp(-127.0, 127.0);
    let d = (max.0 / 127.0 * (1.0 - slack), max.1 / 127.0 * (1.0 + slack));
    let (low, high) = corners((q_low, q_high), d);
    (f64::midpoint(low, high), (high - low) / 2.0)
}

/// The range of a·b, b positive.
fn corners(a: (f64, f64), b: (f64, f64)) -> (f64, f64) {
    ((a.0 * b.0).min(a.0 * b.1), (a.1 * b.0).max(a.1 * b.1))
}
