//! Products of f32 matrices, one or many at once, split over the threads.
//!
//! Owns the three layouts of training and how C is cut into blocks. A thread packs what its block needs and multiplies;
//! nobody waits for another before the end, and no cut changes a bit. Must not know what the matrices mean.

use std::ops::Range;

use ops::{GemmLayout, Precision, WeightMatrix};

use super::Cpu;
use super::products::Part;
use crate::kernel::gemm::terms::{self, TermGemm};
use crate::kernel::gemm::{Finish, Gemm, Operand, Order, Placed, TILE, Target, scratch_len, steps_at_once};
use crate::kernel::matmul::{Inputs, Outputs};
use crate::level::{Level, Line};
use crate::pool::{Block, HasMatrix, MatrixMut};

/// Multiply-adds that one block should have at least: less is not worth packing its lines once more, or waking a thread.
const BLOCK_MIN: usize = 1 << 19;

/// Blocks per thread, so that one that is held up leaves work to the others.
const BLOCKS_PER_THREAD: usize = 2;

/// Values of A that a block packs at most.
const A_VALUES: usize = 1 << 19;

/// Products in a sum from which on terms pay: fewer would fill half of a tile.
const TERM_STEPS: usize = 24;

/// A factor: row i begins at `values[i·stride]`.
#[derive(Clone, Copy, Debug)]
pub struct Matrix<'a> {
    /// Row after row, with anything between them.
    pub values: &'a [f32],
    /// From one row to the next.
    pub stride: usize,
}

/// C (+)= op(A)·op(B).
pub struct Product<'a> {
    /// How A and B lie.
    pub layout: GemmLayout,
    /// Rows of C.
    pub m: usize,
    /// Columns of C.
    pub n: usize,
    /// Products in each sum.
    pub k: usize,
    /// The left factor.
    pub a: Matrix<'a>,
    /// The right factor.
    pub b: Matrix<'a>,
    /// The result.
    pub c: MatrixMut<'a>,
    /// Whether the product is added to what C holds; else it replaces it, whatever it is.
    pub accumulate: bool,
    /// How exact it is.
    pub precision: Precision,
}

impl<'a> HasMatrix<'a> for Product<'a> {
    fn matrix(&self) -> &MatrixMut<'a> {
        &self.c
    }
}

impl<'a> Product<'a> {
    fn order(&self) -> Order {
        match self.layout {
            GemmLayout::Nt => Order::Lanes,
            GemmLayout::Nn | GemmLayout::Tn => Order::Chain,
        }
    }

    /// How many BF16 terms make a factor where the level multiplies this by tiles; neither rows nor columns decide it.
    fn n_terms(&self, level: Level) -> Option<usize> {
        let n_terms = match (self.precision, self.layout) {
            (Precision::Inference, GemmLayout::Nt) => return None,
            (Precision::Inference | Precision::Highest, _) => 3,
            (Precision::High, _) => 2,
        };
        (level.has_tiles() && self.k >= TERM_STEPS).then_some(n_terms)
    }

    /// op(A) and op(B).
    ///
    /// # Panics
    /// If a factor exceeds its values
    fn factors(&self) -> [Operand<'a>; 2] {
        let along = |m: Matrix<'a>, n: usize| {
            m.check(n, self.k);
            Operand::Along(Inputs { values: m.values, stride: m.stride, start: 0, picks: None, n })
        };
        let across = |m: Matrix<'a>, n: usize| {
            m.check(self.k, n);
            Operand::Across { values: m.values, stride: m.stride }
        };
        match self.layout {
            GemmLayout::Nt => [along(self.a, self.m), along(self.b, self.n)],
            GemmLayout::Nn => [along(self.a, self.m), across(self.b, self.n)],
            GemmLayout::Tn => [across(self.a, self.m), across(self.b, self.n)],
        }
    }
}

impl Matrix<'_> {
    fn check(&self, rows: usize, cols: usize) {
        let last = rows.checked_sub(1).map_or(Some(0), |n| n.checked_mul(self.stride)?.checked_add(cols));
        let len = self.values.len();
        assert!(last.is_some_and(|last| last <= len), "a factor of {rows} rows of {cols} in {len} values");
    }
}

impl Target for Block<'_> {
    #[inline(always)]
    fn get(&self, row: usize, col: usize, to: &mut [f32]) {
        to.copy_from_slice(Block::get(self, row, col, to.len()));
    }
    #[inline(always)]
    fn set(&mut self, row: usize, col: usize, values: &[f32]) {
        self.get_mut(row, col, values.len()).copy_from_slice(values);
    }
}

/// Rows and columns of a block of C `[m, n]` with sums of `k` products: of at most `most` multiply-adds, unless that is
/// one tile.
fn block_shape(order: Order, [m, n, k]: [usize; 3], most: usize) -> [usize; 2] {
    let most_rows = (A_VALUES / steps_at_once(order, k).max(1) / TILE[0] * TILE[0]).max(4 * TILE[0]);
    cut([m.min(most_rows), n], k, TILE, most)
}

/// Whole tiles of a block, the longer side in halves until a block is small enough.
fn cut(block: [usize; 2], k: usize, tile: [usize; 2], most: usize) -> [usize; 2] {
    let tiles = |len: usize, axis: usize| len.max(1).next_multiple_of(tile[axis]);
    let mut block = [tiles(block[0], 0), tiles(block[1], 1)];
    while block[0] * block[1] * k > most {
        let axis = usize::from(block[0] <= block[1]);
        let axis = if block[axis] > tile[axis] { axis } else { 1 - axis };
        if block[axis] <= tile[axis] {
            break;
        }
        block[axis] = tiles(block[axis].div_ceil(2), axis);
    }
    block
}

impl Cpu {
    /// Some products at once: C (+)= op(A)·op(B) for each.
    ///
    /// One product is a list of one; many, as for the experts of a layer, are computed as one operation whose parts are
    /// balanced over the threads.
    ///
    /// # Numerics
    /// Every element is summed in f32 in an order of its own that depends on `k`, layout, precision and level alone: bits change
    /// neither with the number of threads nor with the other rows, columns and products. Levels without tiles have the same
    /// bits whatever the precision, and so has every level where they are to be inference's.
    /// |err| ≤ (k + 2)·ε·(Σ|aᵢ·bᵢ| + |c|), to which [`Precision::High`] adds 3.1·2⁻¹⁶·Σ|aᵢ·bᵢ| with tiles; there numbers below
    /// f32's normal range count as zeros and those above BF16's as NaN (`kernel/gemm/terms.rs`).
    ///
    /// # Panics
    /// If a matrix exceeds its values, or rows of C overlap
    pub fn gemm_grouped(&self, products: &mut [Product<'_>]) {
        let work: usize = products.iter().map(|p| p.m * p.n * p.k).sum();
        let most = self.most_of_a_block(work);
        for p in products.iter_mut() {
            let n_terms = p.n_terms(self.level);
            let [rows, cols] = match n_terms {
                Some(_) => cut([p.m, p.n], p.k, [terms::SIDE; 2], most),
                None => block_shape(p.order(), [p.m, p.n, p.k], most),
            };
            p.c.cut([p.m, p.n], [rows, cols]);
            match n_terms {
                Some(n) => self.int_scratch.lines.reserve(size_of::<Line>() * terms::n_lines(n, p.k, cols)),
                None => self.scratch.reserve(scratch_len(p.order(), p.k, rows, cols)),
            }
        }
        self.pool.split_blocks(products, &|worker, p, c| {
            let (order, [a, b], k) = (p.order(), p.factors(), p.k);
            let (rows, cols) = (c.rows(), c.cols());
            if let Some(n) = p.n_terms(self.level) {
                let (n_bytes, accumulate) = (size_of::<Line>() * terms::n_lines(n, k, cols.len()), p.accumulate);
                return self.int_scratch.lines.lend(worker, n_bytes, |bytes| {
                    let lines = bytes.as_chunks_mut().0;
                    match n {
                        2 => self.level.run(TermGemm::<_, 2> { a, b, k, rows, cols, c, accumulate, lines }),
                        _ => self.level.run(TermGemm::<_, 3> { a, b, k, rows, cols, c, accumulate, lines }),
                    }
                });
            }
            let finish = if p.accumulate { Finish::Add } else { Finish::Set };
            self.scratch.lend(worker, scratch_len(order, k, rows.len(), cols.len()), |scratch| {
                self.level.run(Gemm { order, a, b, k, rows, cols, c, finish, scratch });
            });
        });
    }

    /// y = x·Wᵀ (+ bias), split over the threads: the bits of dot products, from panels.
    pub(super) fn gemm_weights(&self, x: Inputs<'_>, w: &WeightMatrix, bias: Option<&[f32]>, out: Outputs<'_>) {
        let most = self.most_of_a_block(x.n * w.rows * w.cols);
        let [n_rows, n_cols] = block_shape(Order::Lanes, [x.n, w.rows, w.cols], most);
        self.scratch.reserve(scratch_len(Order::Lanes, w.cols, n_rows, n_cols));
        let n_across = w.rows.div_ceil(n_cols);
        self.pool.split(x.n.div_ceil(n_rows) * n_across, &|worker, blocks| {
            for block in blocks {
                let (row, col) = (block / n_across * n_rows, block % n_across * n_cols);
                let (rows, cols) = (row..x.n.min(row + n_rows), col..w.rows.min(col + n_cols));
                self.gemm_block(worker, x, w, bias, rows, cols, Placed { out, first: 0 });
            }
        });
    }

    /// Some rows of a matrix with all inputs, on the calling thread.
    pub(super) fn gemm_part(&self, worker: usize, part: Part<'_>, x: Inputs<'_>) {
        let Part { w, w_rows, first, bias, out } = part;
        let [n_rows, _] = block_shape(Order::Lanes, [x.n, w_rows.len(), w.cols], usize::MAX);
        for row in (0..x.n).step_by(n_rows) {
            let rows = row..x.n.min(row + n_rows);
            self.gemm_block(worker, x, w, bias, rows, w_rows.clone(), Placed { out, first });
        }
    }

    #[expect(clippy::too_many_arguments, reason = "one private call twice, all arguments distinct in meaning")]
    fn gemm_block(
        &self,
        worker: usize,
        x: Inputs<'_>,
        w: &WeightMatrix,
        bias: Option<&[f32]>,
        rows: Range<usize>,
        cols: Range<usize>,
        c: Placed<'_>,
    ) {
        let (order, a, b, k) = (Order::Lanes, Operand::Along(x), Operand::Weight(w), w.cols);
        let finish = bias.map_or(Finish::Set, Finish::Bias);
        self.scratch.lend(worker, scratch_len(order, k, rows.len(), cols.len()), |scratch| {
            self.level.run(Gemm { order, a, b, k, rows, cols, c, finish, scratch });
        });
    }

    /// Multiply-adds that a block should have at most.
    fn most_of_a_block(&self, work: usize) -> usize {
        match self.n_threads() {
            1 => usize::MAX,
            n => work.div_ceil(n * BLOCKS_PER_THREAD).max(BLOCK_MIN),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::level::Level;

    /// Numbers between −1 and 1, of all magnitudes.
    fn numbers(seed: u64, n: usize) -> Vec<f32> {
        let mut state = seed;
        let mut next = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 40) as f32 / (1 << 24) as f32
        };
        (0..n).map(|_| (2.0 * next() - 1.0) * (next() * 8.0 - 8.0).exp2()).collect()
    }

    /// A product's shape, and buffers for it with gaps between rows.
    #[derive(Clone)]
    struct Case {
        layout: GemmLayout,
        precision: Precision,
        shape: [usize; 3],
        strides: [usize; 3],
        a: Vec<f32>,
        b: Vec<f32>,
        c: Vec<f32>,
    }

    impl Case {
        fn new(layout: GemmLayout, shape: [usize; 3], gap: usize) -> Self {
            let [m, n, k] = shape;
            let (a, b) = match layout {
                GemmLayout::Nt => ([m, k], [n, k]),
                GemmLayout::Nn => ([m, k], [k, n]),
                GemmLayout::Tn => ([k, m], [k, n]),
            };
            let strides = [a[1] + gap, b[1] + gap, n + gap];
            let len = |rows: usize, stride: usize| (rows * stride).saturating_sub(gap);
            Self {
                layout,
                precision: Precision::Highest,
                shape,
                strides,
                a: numbers(1, len(a[0], strides[0])),
                b: numbers(2, len(b[0], strides[1])),
                c: numbers(3, len(m, strides[2])),
            }
        }

        fn product(&mut self, accumulate: bool) -> Product<'_> {
            let (layout, [m, n, k]) = (self.layout, self.shape);
            let [a, b] = [(&self.a, self.strides[0]), (&self.b, self.strides[1])]
                .map(|(values, stride)| Matrix { values, stride });
            Product {
                layout,
                m,
                n,
                k,
                a,
                b,
                c: MatrixMut::new(&mut self.c, self.strides[2]),
                accumulate,
                precision: self.precision,
            }
        }

        fn run(&self, cpu: &Cpu, accumulate: bool) -> Vec<f32> {
            let mut case = self.clone();
            cpu.gemm_grouped(&mut [case.product(accumulate)]);
            case.c
        }

        /// Element i, j in f64 and the sum of the magnitudes of what it adds.
        fn exact(&self, i: usize, j: usize, accumulate: bool) -> (f64, f64) {
            let [a, b, c] = self.strides;
            let old = if accumulate { f64::from(self.c[i * c + j]) } else { 0.0 };
            (0..self.shape[2]).fold((old, old.abs()), |(sum, abs), l| {
                let (x, y) = match self.layout {
                    GemmLayout::Nt => (self.a[i * a + l], self.b[j * b + l]),
                    GemmLayout::Nn => (self.a[i * a + l], self.b[l * b + j]),
                    GemmLayout::Tn => (self.a[l * a + i], self.b[l * b + j]),
                };
                let product = f64::from(x) * f64::from(y);
                (sum + product, abs + product.abs())
            })
        }

        /// Within the documented bound, and nothing between rows changed.
        fn check(&self, found: &[f32], accumulate: bool) {
            let [m, n, k] = self.shape;
            for (at, found) in found.iter().enumerate() {
                let (i, j) = (at / self.strides[2], at % self.strides[2]);
                if i >= m || j >= n {
                    assert_eq!(*found, self.c[at], "between rows");
                    continue;
                }
                let (exact, abs) = self.exact(i, j, accumulate);
                let rounding = if self.precision == Precision::High { 3.1 / f64::from(1 << 16) } else { 0.0 };
                let sums = (k + 2) as f64 * f64::from(f32::EPSILON) / 2.0;
                let bound = (sums + rounding) * abs + f64::from(f32::MIN_POSITIVE);
                let what = format!("{:?} {:?} at {i}, {j}: {found} for {exact} ± {bound}", self.layout, self.shape);
                assert!((f64::from(*found) - exact).abs() <= bound, "{what}");
            }
        }
    }

    const LAYOUTS: [GemmLayout; 3] = [GemmLayout::Nt, GemmLayout::Nn, GemmLayout::Tn];

    #[test]
    fn every_layout_and_level_is_near_the_exact_product() {
        let sizes = [0, 1, 2, 5, 12, 13, 15, 16, 17, 31, 33, 47];
        for level in Level::available() {
            let cpu = Cpu::with(level, 1);
            for layout in LAYOUTS {
                for (i, &m) in sizes.iter().enumerate() {
                    for (j, &n) in sizes.iter().enumerate() {
                        let k = sizes[(3 * i + 5 * j) % sizes.len()];
                        let mut case = Case::new(layout, [m, n, k], (i + j) % 3);
                        for precision in [Precision::Highest, Precision::High] {
                            case.precision = precision;
                            for accumulate in [false, true] {
                                case.check(&case.run(&cpu, accumulate), accumulate);
                            }
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn blocks_of_k_and_of_columns_continue_sums() {
        for layout in LAYOUTS {
            for shape in [[14, 70, 2100], [3, 40, 4200], [40, 600, 300]] {
                let mut case = Case::new(layout, shape, 1);
                for precision in [Precision::Highest, Precision::High] {
                    case.precision = precision;
                    for accumulate in [false, true] {
                        case.check(&case.run(&Cpu::with(Level::detect(), 1), accumulate), accumulate);
                    }
                }
            }
        }
    }

    #[test]
    fn neither_threads_nor_levels_nor_other_rows_change_a_bit() {
        for layout in LAYOUTS {
            let mut case = Case::new(layout, [203, 150, 70], 0);
            let precisions = [Precision::Highest, Precision::High];
            for (precision, accumulate) in precisions.into_iter().flat_map(|p| [(p, false), (p, true)]) {
                case.precision = precision;
                let all = case.run(&Cpu::with(Level::detect(), 1), accumulate);
                assert_eq!(all, case.run(&Cpu::with(Level::detect(), 3), accumulate));
                let by_vectors = case.run(&Cpu::with(Level::Scalar, 1), accumulate);
                for level in Level::available() {
                    let expected =
                        if case.clone().product(accumulate).n_terms(level).is_some() { &all } else { &by_vectors };
                    assert_eq!(*expected, case.run(&Cpu::with(level, 1), accumulate), "{}", level.name());
                }
                if layout != GemmLayout::Tn {
                    // The leading rows of A alone.
                    let few = Case { shape: [5, 150, 70], c: case.c[..5 * 150].to_vec(), ..case.clone() };
                    assert_eq!(few.run(&Cpu::with(Level::detect(), 1), accumulate), all[..5 * 150]);
                }
            }
        }
    }

    #[test]
    fn many_products_are_each_alone() {
        let shapes = [[40, 90, 64], [0, 90, 64], [1, 90, 64], [100, 90, 64], [64, 17, 0], [300, 90, 64]];
        let mut cases: Vec<_> = LAYOUTS.iter().flat_map(|l| shapes.map(|shape| Case::new(*l, shape, 2))).collect();
        let alone: Vec<_> = cases.iter().map(|case| case.run(&Cpu::with(Level::detect(), 1), true)).collect();
        let mut products: Vec<_> = cases.iter_mut().map(|case| case.product(true)).collect();
        Cpu::with(Level::detect(), 3).gemm_grouped(&mut products);
        for (case, alone) in cases.iter().zip(alone) {
            assert_eq!(case.c, alone);
        }
    }

    #[test]
    fn infinities_and_nans_spread_along_rows_and_columns_alone() {
        let cpu = Cpu::with(Level::detect(), 1);
        for (k, precision) in [(21, Precision::Highest), (45, Precision::Highest), (45, Precision::High)] {
            let mut case = Case { precision, ..Case::new(GemmLayout::Nt, [30, 40, k], 0) };
            case.a[7 * k + 20] = f32::from_bits(0x7fff_ffff);
            case.b[9 * k] = f32::INFINITY;
            let found = case.run(&cpu, false);
            for (at, value) in found.iter().enumerate() {
                assert_eq!(value.is_finite(), at / 40 != 7 && at % 40 != 9, "{k}, {precision:?}, {at}: {value}");
            }
        }
    }

    #[test]
    fn what_c_held_does_not_matter_unless_it_is_added_to() {
        let cpu = Cpu::with(Level::detect(), 1);
        for layout in LAYOUTS {
            let mut case = Case::new(layout, [3, 5, 600], 0);
            let expected = case.run(&cpu, false);
            case.c.fill(f32::NAN);
            assert_eq!(case.run(&cpu, false), expected);
        }
    }

    #[test]
    #[should_panic(expected = "a factor of 4 rows of 5 in 19 values")]
    fn a_factor_that_is_too_short_is_refused() {
        let mut case = Case::new(GemmLayout::Nt, [4, 3, 5], 0);
        case.a.pop();
        case.run(&Cpu::with(Level::Scalar, 1), false);
    }

    #[test]
    #[should_panic(expected = "overlap")]
    fn rows_of_the_result_may_not_overlap() {
        let mut case = Case::new(GemmLayout::Nt, [4, 3, 5], 0);
        case.strides[2] = 2;
        case.run(&Cpu::with(Level::Scalar, 1), false);
    }
}
