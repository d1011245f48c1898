//! Cases of matmul.
//!
//! Owns y = x·Wᵀ (+ bias) in every weight format. Must not know which matrices a model has.

use ops::{Activations, Device, DeviceError, WeightFormat, WeightMatrix};

use super::blocks;
use super::buffers::{input, output, read, with_margin_bounds};
use super::case::{Case, Part, Suite};
use super::int8::Factors;
use super::random::{NON_FINITE, Random, Side, Spread, places};
use super::report::Bound;
use super::weights::{matrix, plain, with_nan};

/// Widths around those of vector registers of 4 to 32 lanes, and of their double.
const COLS: [usize; 20] = [1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 24, 31, 32, 33, 63, 64, 65, 127, 129];
const ROWS: [usize; 13] = [1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 33];
const N_ROWS: [usize; 6] = [0, 1, 2, 3, 5, 17];

#[derive(Clone)]
pub(super) struct Matmul {
    pub(super) x: Vec<f32>,
    pub(super) n_rows: usize,
    pub(super) w: WeightMatrix,
    pub(super) bias: Option<Vec<f32>>,
    pub(super) data: String,
}

impl Matmul {
    fn bounds_with(&self, activations: Activations) -> Vec<Bound> {
        let factors = Factors::new(&self.w);
        let row = |x| factors.bounds(0..self.w.rows, x, self.bias.as_deref(), activations);
        with_margin_bounds(self.x.chunks_exact(self.w.cols).flat_map(row).collect())
    }
}

impl Case for Matmul {
    fn label(&self) -> String {
        let Self { w, n_rows, data, .. } = self;
        let bias = if self.bias.is_some() { ", bias" } else { "" };
        format!("{} {} × {}, {n_rows} rows{bias}, {data}", w.format, w.rows, w.cols)
    }

    fn run<D: Device>(&self, dev: &D) -> Result<Vec<f32>, DeviceError> {
        let len = self.n_rows * self.w.rows;
        let mut out = output(dev, len)?;
        let bias = self.bias.as_ref().map(|bias| input(dev, bias)).transpose()?;
        dev.matmul(&input(dev, &self.x)?, self.n_rows, &dev.upload(&self.w)?, bias.as_ref(), &mut out);
        read(dev, &out, len)
    }

    fn bounds(&self) -> Vec<Bound> {
        self.bounds_with(Activations::F32)
    }

    fn int8_bounds(&self) -> Vec<Bound> {
        self.bounds_with(Activations::Int8)
    }

    fn parts(&self) -> Vec<Part<Self>> {
        let rows = self.w.rows;
        let alone = |(t, x): (usize, &[f32])| Part {
            case: Self { x: x.to_vec(), n_rows: 1, ..self.clone() },
            values: vec![(t * rows..(t + 1) * rows, 0)],
        };
        self.x.chunks_exact(self.w.cols).enumerate().map(alone).collect()
    }
}

pub(super) fn matmul<D: Device>(suite: &mut Suite<'_, D>) {
    let mut rng = Random::new(20);
    shapes(suite, &mut rng);
    large(suite, &mut rng);
    formats(suite, &mut rng);
    blocks::matmul(suite);
    not_finite(suite, &mut rng);
}

fn shapes<D: Device>(suite: &mut Suite<'_, D>, rng: &mut Random) {
    for (i, cols) in COLS.into_iter().enumerate() {
        for (j, n_rows) in N_ROWS.into_iter().enumerate() {
            for (k, spread) in Spread::ALL.into_iter().enumerate() {
                let rows = ROWS[(i + 2 * j + 5 * k) % ROWS.len()];
                let w = matrix(rng, WeightFormat::F32, rows, cols, spread);
                let bias = ((i + j + k) % 2 == 0).then(|| rng.rows(1, rows, spread, Side::Weight));
                let x = rng.rows(n_rows, cols, spread, Side::Activation);
                suite.check(&Matmul { x, n_rows, w, bias, data: format!("{spread:?}") });
            }
        }
    }
}

/// Sizes beyond one tile in each direction.
fn large<D: Device>(suite: &mut Suite<'_, D>, rng: &mut Random) {
    for (n_rows, rows, cols) in [(33, 65, 576), (3, 129, 2049), (129, 7, 1024), (1, 513, 300)] {
        for format in [WeightFormat::F32, WeightFormat::F8_E4M3] {
            let w = matrix(rng, format, rows, cols, Spread::Cancelling);
            let x = rng.rows(n_rows, cols, Spread::Cancelling, Side::Activation);
            suite.check(&Matmul { x, n_rows, w, bias: Some(rng.values(rows)), data: "large".to_owned() });
        }
    }
}

fn formats<D: Device>(suite: &mut Suite<'_, D>, rng: &mut Random) {
    for format in WeightFormat::ALL {
        let n_cols: &[usize] = if format.block_len() == 1 { &[1, 7, 8, 17, 33, 64, 130] } else { &[1, 2, 3, 5] };
        for (i, &n) in n_cols.iter().enumerate() {
            let cols = n * format.block_len();
            for (j, n_rows) in [1, 3, 5].into_iter().enumerate() {
                let spread = Spread::ALL[(i + j) % 3];
                let rows = ROWS[(3 * i + 4 * j) % 9];
                let w = matrix(rng, format, rows, cols, spread);
                let bias = (j == 1).then(|| rng.values(rows));
                let x = rng.rows(n_rows, cols, spread, Side::Activation);
                suite.check(&Matmul { x, n_rows, w, bias, data: format!("{spread:?}") });
            }
        }
        if format != WeightFormat::MXFP4 {
            let (rows, cols) = (4, 3 * format.block_len().max(11));
            for place in places(cols) {
                let w = with_nan(&matrix(rng, format, rows, cols, Spread::Even), 2, place);
                let x = rng.values(3 * cols);
                suite.check(&Matmul { x, n_rows: 3, w, bias: None, data: format!("NaN weight at {place}") });
            }
        }
    }
}

fn not_finite<D: Device>(suite: &mut Suite<'_, D>, rng: &mut Random) {
    for (cols, value) in [1, 7, 16, 33].into_iter().flat_map(|c| NON_FINITE.map(|v| (c, v))) {
        for place in places(cols) {
            let (rows, n_rows) = (5, 3);
            let x = rng.values(n_rows * cols);
            let weights = rng.values(rows * cols);
            let case = |x: Vec<f32>, weights: &[f32], format, bias: Option<Vec<f32>>, side: &str| {
                let data = format!("{value} in {side} at {place}");
                Matmul { x, n_rows, w: plain(format, rows, cols, weights), bias, data }
            };
            let mut spoiled = x.clone();
            spoiled[cols + place] = value;
            suite.check(&case(spoiled.clone(), &weights, WeightFormat::F32, None, "x"));
            let mut spoiled_weights = weights.clone();
            spoiled_weights[2 * cols + place] = value;
            for format in [WeightFormat::F32, WeightFormat::F16, WeightFormat::BF16] {
                suite.check(&case(x.clone(), &spoiled_weights, format, None, "w"));
            }
            // An infinity against a zero, and against another infinity of either sign.
            let mut opposed = spoiled_weights.clone();
            opposed[place] = 0.0;
            suite.check(&case(spoiled, &opposed, WeightFormat::F32, None, "x and w"));
            let mut bias = rng.values(rows);
            bias[place % rows] = value;
            suite.check(&case(x, &weights, WeightFormat::F32, Some(bias), "bias"));
        }
    }
}
