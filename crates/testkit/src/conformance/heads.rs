//! Per-head matrices in both layouts of kv_b, and the cases of matmul_heads.
//!
//! Owns the meaning of `HeadWeights`, written a second time: as dense logical matrices. Must not attend.

use ops::{Activations, Device, DeviceError, HeadLayout, HeadSide, HeadWeights, WeightFormat, WeightMatrix};

use super::arithmetic::dot;
use super::blocks::{Data, N_ROWS};
use super::buffers::{input, output, read, with_margin_bounds};
use super::case::{Case, Part, Suite};
use super::int8::Factors;
use super::random::{NON_FINITE, Random, Side, Spread};
use super::report::Bound;
use super::weights::{decoded, matrix, with_nan};

/// `HeadWeights` before upload.
#[derive(Clone)]
pub(super) struct Heads {
    pub(super) matrix: WeightMatrix,
    pub(super) n_heads: usize,
    pub(super) stride: usize,
    pub(super) start: usize,
    pub(super) rows: usize,
    pub(super) transposed: bool,
}

impl Heads {
    /// W_UK `[n, C]` and W_UV `[v, C]` of every head as one matrix `[H · (n + v), C]`.
    pub(super) fn joint(rng: &mut Random, format: WeightFormat, n_heads: usize, [n, v, c]: [usize; 3]) -> [Self; 2] {
        let matrix = matrix(rng, format, n_heads * (n + v), c, Spread::Even);
        let part =
            |start, rows| Self { matrix: matrix.clone(), n_heads, stride: n + v, start, rows, transposed: false };
        [part(0, n), part(n, v)]
    }

    /// W_UK transposed per head, `[H · C, n]`, and W_UV `[H · v, C]`, as GGUF files split them.
    pub(super) fn split(rng: &mut Random, format: WeightFormat, n_heads: usize, [n, v, c]: [usize; 3]) -> [Self; 2] {
        let w_uk = matrix(rng, format, n_heads * c, n, Spread::Even);
        let w_uv = matrix(rng, format, n_heads * v, c, Spread::Even);
        let part = |matrix, rows, transposed| Self { matrix, n_heads, stride: rows, start: 0, rows, transposed };
        [part(w_uk, c, true), part(w_uv, v, false)]
    }

    pub(super) fn upload<D: Device>(&self, dev: &D) -> Result<HeadWeights<D::Weight>, DeviceError> {
        Ok(HeadWeights {
            weight: dev.upload(&self.matrix)?,
            n_heads: self.n_heads,
            head_stride: self.stride,
            head_start: self.start,
            head_rows: self.rows,
            transposed: self.transposed,
        })
    }

    /// Outputs and inputs of the logical matrix.
    pub(super) fn shape(&self) -> (usize, usize) {
        if self.transposed { (self.matrix.cols, self.rows) } else { (self.rows, self.matrix.cols) }
    }

    /// L_h for every head, row-major: `[H, outputs, inputs]`.
    pub(super) fn logical(&self) -> Vec<f64> {
        let all = decoded(&self.matrix);
        let cols = self.matrix.cols;
        let mut logical = Vec::new();
        for h in 0..self.n_heads {
            let stored = &all[(h * self.stride + self.start) * cols..][..self.rows * cols];
            match self.transposed {
                false => logical.extend_from_slice(stored),
                true => logical.extend((0..cols).flat_map(|c| (0..self.rows).map(move |r| stored[r * cols + c]))),
            }
        }
        logical
    }
}

#[derive(Clone)]
struct MatmulHeads {
    x: Vec<f32>,
    x_layout: HeadLayout,
    n_rows: usize,
    w: Heads,
    side: HeadSide,
    data: String,
}

impl MatmulHeads {
    /// Inputs and outputs per head.
    fn widths(&self) -> (usize, usize) {
        let (outputs, inputs) = self.w.shape();
        if self.side == HeadSide::Apply { (inputs, outputs) } else { (outputs, inputs) }
    }

    /// What is multiplied, `[T · H][inputs]`.
    fn inputs(&self) -> impl Iterator<Item = &[f32]> {
        let (n_in, HeadLayout { head_dim, start, .. }) = (self.widths().0, self.x_layout);
        self.x.chunks_exact(head_dim).map(move |x| &x[start..start + n_in])
    }
}

impl Case for MatmulHeads {
    fn label(&self) -> String {
        let Self { w, side, n_rows, x_layout, data, .. } = self;
        let (n_in, n_out) = self.widths();
        let Heads { n_heads, stride, start, transposed, .. } = w;
        format!(
            "{} {side:?}, {n_rows} rows, {n_heads} heads {n_in} → {n_out}, x from {} of {}, stored from {start} of \
             {stride}, transposed {transposed}, {data}",
            w.matrix.format, x_layout.start, x_layout.head_dim
        )
    }

    fn run<D: Device>(&self, dev: &D) -> Result<Vec<f32>, DeviceError> {
        let len = self.n_rows * self.w.n_heads * self.widths().1;
        let mut out = output(dev, len)?;
        let (x, w) = (input(dev, &self.x)?, self.w.upload(dev)?);
        dev.matmul_heads(&x, self.x_layout, self.n_rows, &w, self.side, &mut out);
        read(dev, &out, len)
    }

    fn bounds(&self) -> Vec<Bound> {
        let ((n_in, n_out), (_, inputs)) = (self.widths(), self.w.shape());
        let logical = self.w.logical();
        let mut bounds = Vec::new();
        for (i, x) in self.inputs().enumerate() {
            let l = &logical[i % self.w.n_heads * n_in * n_out..][..n_in * n_out];
            for o in 0..n_out {
                let weight =
                    |i: usize| if self.side == HeadSide::Apply { l[o * inputs + i] } else { l[i * inputs + o] };
                bounds.push(dot(x.iter().map(|v| f64::from(*v)), (0..n_in).map(weight), n_in, 0.0));
            }
        }
        with_margin_bounds(bounds)
    }

    fn int8_bounds(&self) -> Vec<Bound> {
        if self.w.transposed != (self.side == HeadSide::ApplyTransposed) {
            return self.bounds();
        }
        let factors = Factors::new(&self.w.matrix);
        let head = |(i, x): (usize, &[f32])| {
            let first = i % self.w.n_heads * self.w.stride + self.w.start;
            factors.bounds(first..first + self.w.rows, x, None, Activations::Int8)
        };
        with_margin_bounds(self.inputs().enumerate().flat_map(head).collect())
    }

    fn parts(&self) -> Vec<Part<Self>> {
        let row = self.w.n_heads * self.widths().1;
        let alone = |(t, x): (usize, &[f32])| Part {
            case: Self { x: x.to_vec(), n_rows: 1, ..self.clone() },
            values: vec![(t * row..(t + 1) * row, 0)],
        };
        self.x.chunks_exact(self.w.n_heads * self.x_layout.head_dim).enumerate().map(alone).collect()
    }
}

/// Heads, n, v, C.
const SHAPES: [(usize, [usize; 3]); 7] = [
    (1, [1, 1, 1]),
    (2, [3, 5, 4]),
    (3, [8, 7, 9]),
    (1, [16, 15, 17]),
    (5, [4, 33, 8]),
    (2, [31, 6, 32]),
    (7, [5, 9, 65]),
];

pub(super) fn matmul_heads<D: Device>(suite: &mut Suite<'_, D>) {
    let mut rng = Random::new(30);
    for (n_heads, dims) in SHAPES {
        for format in [WeightFormat::F32, WeightFormat::BF16, WeightFormat::F8_E4M3] {
            let [a, b] = Heads::joint(&mut rng, format, n_heads, dims);
            let [c, d] = Heads::split(&mut rng, format, n_heads, dims);
            for w in [a, b, c, d] {
                sides(suite, &mut rng, &w);
            }
        }
    }
    for format in WeightFormat::ALL.into_iter().filter(|f| f.block_len() > 1) {
        let dims = [format.block_len(), 6, 2 * format.block_len()];
        let [a, b] = Heads::joint(&mut rng, format, 2, [5, 6, dims[2]]);
        let [c, d] = Heads::split(&mut rng, format, 2, dims);
        for w in [a, b, c, d] {
            sides(suite, &mut rng, &w);
        }
        blocks(suite, &mut rng, format);
    }
}

/// Stored rows against rounded inputs, and stored columns, for every number of rows.
fn blocks<D: Device>(suite: &mut Suite<'_, D>, rng: &mut Random, format: WeightFormat) {
    let block = format.block_len();
    for (i, n_rows) in N_ROWS.into_iter().enumerate() {
        let (n_heads, n_blocks, rows) = (1 + i % 3, 1 + i % 2, [6, 9, 17, 32][i % 4]);
        let data = Data::ALL[(i + format as usize) % Data::ALL.len()];
        let matrix = matrix(rng, format, n_heads * (rows + 2), n_blocks * block, Spread::Even);
        let w = Heads { matrix, n_heads, stride: rows + 2, start: i % 3, rows, transposed: i / 2 % 2 == 1 };
        // Three calls in four multiply stored rows.
        let transposes = w.transposed != (i % 4 == 3);
        let side = if transposes { HeadSide::ApplyTransposed } else { HeadSide::Apply };
        let x_layout = HeadLayout { n_heads, head_dim: 0, start: 0 };
        let mut case = MatmulHeads { x: Vec::new(), x_layout, n_rows, w, side, data: format!("{data:?}") };
        let n_in = case.widths().0;
        // Stored columns take any number of inputs, so groups say nothing of those.
        let (n_groups, group) = if n_in == n_blocks * block { (n_blocks, block) } else { (1, n_in) };
        case.x_layout.head_dim = n_in;
        case.x = data.rows(rng, n_rows * n_heads, n_groups, group);
        suite.check(&case);
        if matches!(n_rows, 3 | 4) {
            let at = rng.below(case.x.len());
            case.x[at] = NON_FINITE[format as usize % 3];
            suite.check(&MatmulHeads { data: "one input not finite".to_owned(), ..case });
        }
    }
}

fn sides<D: Device>(suite: &mut Suite<'_, D>, rng: &mut Random, w: &Heads) {
    for (i, side) in [HeadSide::Apply, HeadSide::ApplyTransposed].into_iter().enumerate() {
        for (n_rows, before, after) in [(0, 0, 0), (1, 0, 3), (3, 2, 1), (5, 0, 0)] {
            let case = |head_dim| MatmulHeads {
                x: Vec::new(),
                x_layout: HeadLayout { n_heads: w.n_heads, head_dim, start: before },
                n_rows,
                w: w.clone(),
                side,
                data: "finite".to_owned(),
            };
            let mut case = case(before + case(0).widths().0 + after);
            let spread = Spread::ALL[(n_rows + i) % 3];
            case.x = rng.rows(n_rows * w.n_heads, case.x_layout.head_dim, spread, Side::Activation);
            suite.check(&case);
            if n_rows == 3 && w.matrix.format == WeightFormat::F32 {
                for value in NON_FINITE {
                    let mut spoiled = MatmulHeads { data: "one input not finite".to_owned(), ..case.clone() };
                    let at = rng.below(spoiled.x.len());
                    spoiled.x[at] = value;
                    suite.check(&spoiled);
                }
                let (row, col) = (rng.below(w.matrix.rows), rng.below(w.matrix.cols));
                let w = Heads { matrix: with_nan(&w.matrix, row, col), ..w.clone() };
                suite.check(&MatmulHeads { w, data: "NaN weight".to_owned(), ..case });
            }
        }
    }
}
