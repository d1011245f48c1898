//! Cases of the operations that move values or add two of them: nothing may differ in a single bit.
//!
//! Owns memory, embed, gather, concat and add. Must not allow a rounding.

use ops::{Device, DeviceError, WeightFormat, WeightMatrix};

use super::buffers::{MARGIN, in_out, input, output, read};
use super::case::{Case, Part, Suite};
use super::random::{NON_FINITE, Random, Spread, places};
use super::report::Bound;
use super::weights::{matrix, with_nan};

/// Lengths around the widths of vector registers.
const DIMS: [usize; 14] = [1, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 32, 33, 65];
const N_ROWS: [usize; 4] = [0, 1, 2, 5];

fn bits(len: usize) -> Vec<Bound> {
    vec![Bound::Bits; len]
}

/// Numbers that a careless copy changes.
fn odd_values(rng: &mut Random, len: usize) -> Vec<f32> {
    let odd = [0.0, -0.0, f32::NAN, f32::INFINITY, f32::NEG_INFINITY, f32::MAX, 1e-40, f32::MIN_POSITIVE];
    (0..len).map(|i| if i % 3 == 0 { odd[rng.below(odd.len())] } else { rng.unit() }).collect()
}

struct Memory {
    values: Vec<f32>,
    len: usize,
}

impl Case for Memory {
    fn label(&self) -> String {
        format!("{} of {} values", self.values.len(), self.len)
    }

    fn run<D: Device>(&self, dev: &D) -> Result<Vec<f32>, DeviceError> {
        let mut buffer = dev.alloc(self.len)?;
        let mut seen = vec![1.0; 2 * self.len];
        let (fresh, written) = seen.split_at_mut(self.len);
        dev.read(&buffer, fresh)?;
        dev.write(&self.values, &mut buffer)?;
        dev.read(&buffer, written)?;
        let mut start = vec![1.0; self.values.len()];
        dev.read(&buffer, &mut start)?;
        seen.extend(start);
        Ok(seen)
    }

    fn bounds(&self) -> Vec<Bound> {
        bits(2 * self.len + self.values.len())
    }
}

pub(super) fn memory<D: Device>(suite: &mut Suite<'_, D>) {
    let mut rng = Random::new(1);
    for len in [0, 1, 7, 64, 1001] {
        for n in [0, len / 2, len] {
            suite.check(&Memory { values: odd_values(&mut rng, n), len });
        }
    }
}

struct Embed {
    w: WeightMatrix,
    tokens: Vec<u32>,
}

impl Case for Embed {
    fn label(&self) -> String {
        format!("{} {} × {}, tokens {:?}", self.w.format, self.w.rows, self.w.cols, self.tokens)
    }

    fn run<D: Device>(&self, dev: &D) -> Result<Vec<f32>, DeviceError> {
        let len = self.tokens.len() * self.w.cols;
        let mut out = output(dev, len)?;
        dev.embed(&dev.upload(&self.w)?, &self.tokens, &mut out);
        read(dev, &out, len)
    }

    fn bounds(&self) -> Vec<Bound> {
        bits(self.tokens.len() * self.w.cols + MARGIN)
    }

    fn parts(&self) -> Vec<Part<Self>> {
        let cols = self.w.cols;
        let alone = |(t, token): (usize, &u32)| Part {
            case: Self { w: self.w.clone(), tokens: vec![*token] },
            values: vec![(t * cols..(t + 1) * cols, 0)],
        };
        self.tokens.iter().enumerate().map(alone).collect()
    }
}

pub(super) fn embed<D: Device>(suite: &mut Suite<'_, D>) {
    let mut rng = Random::new(2);
    for format in WeightFormat::ALL {
        let n_cols: &[usize] = if format.block_len() == 1 { &DIMS } else { &[1, 2, 3] };
        for &n in n_cols {
            let w = matrix(&mut rng, format, 7, n * format.block_len(), Spread::Even);
            for tokens in [vec![], vec![0], vec![6, 0, 3, 3, 5]] {
                suite.check(&Embed { w: w.clone(), tokens });
            }
            if format != WeightFormat::MXFP4 {
                suite.check(&Embed { w: with_nan(&w, 3, w.cols / 2), tokens: vec![2, 3, 4] });
            }
        }
    }
}

struct Gather {
    x: Vec<f32>,
    dim: usize,
    rows: Vec<u32>,
}

impl Case for Gather {
    fn label(&self) -> String {
        format!("rows {:?} of {} values", self.rows, self.dim)
    }

    fn run<D: Device>(&self, dev: &D) -> Result<Vec<f32>, DeviceError> {
        let len = self.rows.len() * self.dim;
        let mut out = output(dev, len)?;
        dev.gather(&input(dev, &self.x)?, &self.rows, self.dim, &mut out);
        read(dev, &out, len)
    }

    fn bounds(&self) -> Vec<Bound> {
        bits(self.rows.len() * self.dim + MARGIN)
    }
}

pub(super) fn gather<D: Device>(suite: &mut Suite<'_, D>) {
    let mut rng = Random::new(3);
    for dim in DIMS {
        for rows in [vec![], vec![0], vec![5], vec![4, 0, 0, 2], vec![0, 1, 2, 3, 4, 5]] {
            suite.check(&Gather { x: odd_values(&mut rng, 6 * dim), dim, rows });
        }
    }
}

struct Concat {
    a: Vec<f32>,
    b: Vec<f32>,
    n_rows: usize,
    dim: usize,
}

impl Case for Concat {
    fn label(&self) -> String {
        format!("{} rows of {} values", self.n_rows, self.dim)
    }

    fn run<D: Device>(&self, dev: &D) -> Result<Vec<f32>, DeviceError> {
        let len = 2 * self.n_rows * self.dim;
        let mut out = output(dev, len)?;
        dev.concat(&input(dev, &self.a)?, &input(dev, &self.b)?, self.n_rows, self.dim, &mut out);
        read(dev, &out, len)
    }

    fn bounds(&self) -> Vec<Bound> {
        bits(2 * self.n_rows * self.dim + MARGIN)
    }
}

pub(super) fn concat<D: Device>(suite: &mut Suite<'_, D>) {
    let mut rng = Random::new(4);
    for dim in DIMS {
        for n_rows in N_ROWS {
            let [a, b] = [0, 1].map(|_| odd_values(&mut rng, n_rows * dim));
            suite.check(&Concat { a, b, n_rows, dim });
        }
    }
}

struct Add {
    x: Vec<f32>,
    y: Vec<f32>,
    /// Values added; `x` and `y` are longer.
    len: usize,
}

impl Case for Add {
    fn label(&self) -> String {
        format!("{} of {} values", self.len, self.x.len())
    }

    fn run<D: Device>(&self, dev: &D) -> Result<Vec<f32>, DeviceError> {
        let mut x = in_out(dev, &self.x)?;
        dev.add(&mut x, &input(dev, &self.y)?, self.len);
        read(dev, &x, self.x.len())
    }

    fn bounds(&self) -> Vec<Bound> {
        bits(self.x.len() + MARGIN)
    }

    fn parts(&self) -> Vec<Part<Self>> {
        let alone = |i: usize| Part {
            case: Self { x: vec![self.x[i]], y: vec![self.y[i]], len: 1 },
            values: vec![(i..i + 1, 0)],
        };
        (0..self.len).map(alone).collect()
    }
}

pub(super) fn add<D: Device>(suite: &mut Suite<'_, D>) {
    let mut rng = Random::new(5);
    for len in std::iter::once(0).chain(DIMS) {
        let [x, y] = [0, 1].map(|_| odd_values(&mut rng, len + 9));
        suite.check(&Add { x, y, len });
        let [mut x, y] = [0, 1].map(|_| rng.values(len));
        for (value, place) in NON_FINITE.into_iter().zip(places(len.max(3)).into_iter().filter(|p| *p < len)) {
            x[place] = value;
        }
        suite.check(&Add { x, y, len });
    }
}
