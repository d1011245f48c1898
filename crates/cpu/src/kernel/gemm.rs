//! C (+)= op(A)·op(B) in f32 for a block of C, from packed panels.
//!
//! Both operands are copied into panels first: a few lines of one operand, side by side for each step of k, so that the
//! inner loop reads memory in order whatever the layout was; layouts and formats differ in packing alone. Then a register
//! tile of C meets a panel of A and one of B. Owns packing, tiles and the two orders of a sum. Must not choose blocks.
//!
//! # Order of a sum
//! Each element of C has its own, which no other element, block or thread changes. [`Order::Lanes`] is that of `dot.rs`,
//! bit by bit: sixteen partial sums over k = l, l + 16, l + 32, …, joined as a vector's lanes are. A tile keeps one
//! partial sum of each element at a time, so it passes over its panels' steps l by l, and l comes in an order that lets
//! partial sums be joined as soon as they are there: 0, 8, 4, 12, 2, …, the bits of a counter reversed. [`Order::Chain`] adds
//! product after product in the order of k; it has nothing to join, and so is faster for short sums. Where the level has
//! tiles, `terms.rs` takes the place of chains.

pub(crate) mod terms;

use std::ops::Range;

use ops::WeightMatrix;

use super::matmul::{Inputs, Outputs, decode};
use super::panel::{Columns, square};
use crate::level::{Kernel, LANES, Simd, make};

/// In which order the products of an element are summed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Order {
    /// As a dot product of two rows: the bits of [`super::dot::dots`].
    Lanes,
    /// One after the other.
    Chain,
}

/// Steps of k that are packed at a time in the order of a chain; the sums wait in C meanwhile.
const CHAIN_STEPS: usize = 1024;

/// Steps between the passes over a panel. A transposition writes a step of each pass; without a gap they would often lie
/// at distances of which the nearest cache can hold only a few.
const PASS_GAP: usize = 1;

/// Steps that a panel has room for.
fn panel_len(order: Order, n_steps: usize) -> usize {
    match order {
        Order::Chain => n_steps,
        Order::Lanes => n_steps + LANES * PASS_GAP,
    }
}

/// Values of B that are packed at a time: they stay in the second-level cache with what they meet.
const B_VALUES: usize = 1 << 17;

/// Levels of partial sums that wait to be joined, and the sum of all.
const N_WAITING: usize = LANES.ilog2() as usize + 1;

/// Multiples that blocks of C should have, so that no tile but the last is cut: of rows and of columns, at every level.
pub(crate) const TILE: [usize; 2] = [12, 2 * LANES];

/// One factor: lines (rows of op(A), columns of op(B)) by steps of k.
#[derive(Clone, Copy)]
pub(crate) enum Operand<'a> {
    /// A line's values lie side by side.
    Along(Inputs<'a>),
    /// A step's values lie side by side: line i's are `values[k·stride + i]`.
    Across { values: &'a [f32], stride: usize },
    /// Lines are rows of weights.
    Weight(&'a WeightMatrix),
}

/// Where a block's elements go.
pub(crate) trait Target {
    /// Reads elements of a row, from column `col` on.
    fn get(&self, row: usize, col: usize, to: &mut [f32]);
    /// Writes elements of a row, from column `col` on.
    fn set(&mut self, row: usize, col: usize, values: &[f32]);
}

/// Results for [`Outputs`], columns counted from `first` on.
pub(crate) struct Placed<'a> {
    pub(crate) out: Outputs<'a>,
    pub(crate) first: usize,
}

impl Target for Placed<'_> {
    #[inline(always)]
    fn get(&self, row: usize, col: usize, to: &mut [f32]) {
        to.iter_mut().enumerate().for_each(|(i, to)| *to = self.out.get(row, col - self.first + i));
    }
    #[inline(always)]
    fn set(&mut self, row: usize, col: usize, values: &[f32]) {
        values.iter().enumerate().for_each(|(i, value)| self.out.set(row, col - self.first + i, *value));
    }
}

/// What becomes of a sum.
#[derive(Clone, Copy)]
pub(crate) enum Finish<'a> {
    /// It replaces the element.
    Set,
    /// It is added to the element: at its end in the order of lanes; a chain begins with the element.
    Add,
    /// With a column's bias added it replaces the element; in the order of lanes only.
    Bias(&'a [f32]),
}

/// Rows by columns of a product.
pub(crate) struct Gemm<'a, C> {
    pub(crate) order: Order,
    pub(crate) a: Operand<'a>,
    pub(crate) b: Operand<'a>,
    /// Steps of the sums.
    pub(crate) k: usize,
    pub(crate) rows: Range<usize>,
    pub(crate) cols: Range<usize>,
    pub(crate) c: C,
    pub(crate) finish: Finish<'a>,
    /// [`scratch_len`] values.
    pub(crate) scratch: &'a mut [f32],
}

/// Steps that are packed at a time.
pub(crate) fn steps_at_once(order: Order, k: usize) -> usize {
    let n_steps = k.next_multiple_of(LANES);
    match order {
        Order::Lanes => n_steps,
        Order::Chain => n_steps.min(CHAIN_STEPS),
    }
}

/// Columns that are packed at a time.
fn cols_at_once(n_steps: usize, n_cols: usize) -> usize {
    let cols = B_VALUES / n_steps.max(1) / TILE[1] * TILE[1];
    cols.max(TILE[1]).min(n_cols.next_multiple_of(TILE[1]))
}

/// Values of scratch that a block needs: its rows and some columns as panels, and lines of weights as f32.
pub(crate) fn scratch_len(order: Order, k: usize, n_rows: usize, n_cols: usize) -> usize {
    let n_steps = steps_at_once(order, k);
    let n_lines = cols_at_once(n_steps, n_cols) + n_rows.next_multiple_of(TILE[0]) + LANES;
    n_lines * panel_len(order, n_steps)
}

/// The sums of a tile that wait to be joined.
type Waiting<const R: usize, const V: usize> = [[[[f32; LANES]; V]; R]; N_WAITING];

impl<C: Target> Kernel for Gemm<'_, C> {
    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        match S::TILE_ROWS {
            8 => self.blocks::<S, 4, 8, 12, 2>(simd),
            _ => self.blocks::<S, 2, 4, 6, 1>(simd),
        }
    }
}

impl<C: Target> Gemm<'_, C> {
    /// With tiles of R3 rows (R1 or R2 at the end) by V vectors (one at the end).
    #[inline(always)]
    fn blocks<S: Simd, const R1: usize, const R2: usize, const R3: usize, const V: usize>(mut self, simd: S) {
        assert!(self.order == Order::Lanes || !matches!(self.finish, Finish::Bias(_)), "a chain has no bias");
        let scratch = std::mem::take(&mut self.scratch);
        let at_once = steps_at_once(self.order, self.k);
        let n_cols = cols_at_once(at_once, self.cols.len());
        let len = panel_len(self.order, at_once);
        let (b_panels, rest) = scratch.split_at_mut(n_cols * len);
        let (lines, a_panels) = rest.split_at_mut(LANES * len);
        let (rows, cols) = (self.rows.clone(), self.cols.clone());
        let mut k = 0;
        loop {
            let steps = Steps { from: k, to: self.k.min(k + at_once), order: self.order };
            let full = rows.start..rows.end - rows.len() % R3;
            steps.pack(simd, &self.a, full.clone(), R3, lines, a_panels);
            let rest = &mut a_panels[full.len() * steps.panel_len()..];
            match (rows.end - full.end).div_ceil(R1) {
                0 => {}
                1 => steps.pack(simd, &self.a, full.end..rows.end, R1, lines, rest),
                2 => steps.pack(simd, &self.a, full.end..rows.end, R2, lines, rest),
                _ => steps.pack(simd, &self.a, full.end..rows.end, R3, lines, rest),
            }
            for start in cols.clone().step_by(n_cols) {
                let cols = start..cols.end.min(start + n_cols);
                let full = cols.start..cols.end - cols.len() % (V * LANES);
                steps.pack(simd, &self.b, full.clone(), V * LANES, lines, b_panels);
                let rest = &mut b_panels[full.len() * steps.panel_len()..];
                match cols.end - full.end {
                    0 => {}
                    1..=LANES => steps.pack(simd, &self.b, full.end..cols.end, LANES, lines, rest),
                    _ => steps.pack(simd, &self.b, full.end..cols.end, V * LANES, lines, rest),
                }
                self.tiles::<S, R1, R2, R3, V>(simd, &steps, cols, a_panels, b_panels);
            }
            k += at_once;
            if k >= self.k {
                return;
            }
        }
    }

    /// All rows with some columns: a panel of A stays in the nearest cache while those of B pass by.
    #[inline(always)]
    fn tiles<S: Simd, const R1: usize, const R2: usize, const R3: usize, const V: usize>(
        &mut self,
        simd: S,
        steps: &Steps,
        cols: Range<usize>,
        a_panels: &[f32],
        b_panels: &[f32],
    ) {
        let mut waiting = [[[[0.0; LANES]; V]; R3]; N_WAITING];
        let n_steps = steps.panel_len();
        for row in self.rows.clone().step_by(R3) {
            let a = &a_panels[(row - self.rows.start) * n_steps..];
            let n_rows = R3.min(self.rows.end - row);
            for col in cols.clone().step_by(V * LANES) {
                let b = &b_panels[(col - cols.start) * n_steps..];
                let place = Place { row, col, n_rows, n_cols: (V * LANES).min(cols.end - col) };
                // Panels of one vector stand at the end only, and use the first vector of each tile's place.
                match (n_rows.div_ceil(R1), place.n_cols > LANES) {
                    (1, false) => self.tile::<S, R1, 1, R3, V>(simd, steps, a, b, place, &mut waiting),
                    (2, false) => self.tile::<S, R2, 1, R3, V>(simd, steps, a, b, place, &mut waiting),
                    (_, false) => self.tile::<S, R3, 1, R3, V>(simd, steps, a, b, place, &mut waiting),
                    (1, true) => self.tile::<S, R1, V, R3, V>(simd, steps, a, b, place, &mut waiting),
                    (2, true) => self.tile::<S, R2, V, R3, V>(simd, steps, a, b, place, &mut waiting),
                    (_, true) => self.tile::<S, R3, V, R3, V>(simd, steps, a, b, place, &mut waiting),
                }
            }
        }
    }

    /// One tile of R rows and V vectors, in a place for RMAX and VMAX.
    #[inline(always)]
    fn tile<S: Simd, const R: usize, const V: usize, const RMAX: usize, const VMAX: usize>(
        &mut self,
        simd: S,
        steps: &Steps,
        a: &[f32],
        b: &[f32],
        place: Place,
        waiting: &mut Waiting<RMAX, VMAX>,
    ) {
        let a = &a.as_chunks::<R>().0[..steps.panel_len()];
        let b = &b.as_chunks::<LANES>().0.as_chunks::<V>().0[..steps.panel_len()];
        let continues = steps.order == Order::Chain && (steps.from > 0 || matches!(self.finish, Finish::Add));
        if steps.order == Order::Chain && (place.n_rows, place.n_cols) == (R, V * LANES) {
            return self.whole_tile(simd, a, b, place, continues);
        }
        let n_passes = match steps.order {
            Order::Lanes => LANES,
            Order::Chain => 1,
        };
        if continues {
            self.load::<RMAX, VMAX>(place, &mut waiting[0]);
        }
        let (per_pass, gap) = steps.pass();
        let mut level = 0;
        for pass in 0..n_passes {
            let mut sums = [[simd.splat(0.0); V]; R];
            if continues {
                sums = make(|r| make(|v| simd.load(&waiting[0][r][v])));
            }
            let start = pass * (per_pass + gap);
            let range = start..start + per_pass;
            sums = multiply(simd, sums, &a[range.clone()], &b[range]);
            level = 0;
            while pass >> level & 1 == 1 {
                sums = make(|r| make(|v| simd.add(simd.load(&waiting[level][r][v]), sums[r][v])));
                level += 1;
            }
            for r in 0..R {
                for v in 0..V {
                    simd.store(sums[r][v], &mut waiting[level][r][v]);
                }
            }
        }
        self.store::<RMAX, VMAX>(steps, place, &mut waiting[level]);
    }

    /// A chain's tile of which no element is missing: from C to registers and back.
    #[inline(always)]
    fn whole_tile<S: Simd, const R: usize, const V: usize>(
        &mut self,
        simd: S,
        a: &[[f32; R]],
        b: &[[[f32; LANES]; V]],
        place: Place,
        continues: bool,
    ) {
        let mut sums = [[simd.splat(0.0); V]; R];
        let mut lanes = [0.0; LANES];
        if continues {
            for (r, sums) in sums.iter_mut().enumerate() {
                for (v, sums) in sums.iter_mut().enumerate() {
                    self.c.get(place.row + r, place.col + v * LANES, &mut lanes);
                    *sums = simd.load(&lanes);
                }
            }
        }
        let sums = multiply(simd, sums, a, b);
        for (r, sums) in sums.iter().enumerate() {
            for (v, sums) in sums.iter().enumerate() {
                simd.store(*sums, &mut lanes);
                self.c.set(place.row + r, place.col + v * LANES, &lanes);
            }
        }
    }

    #[inline(always)]
    fn load<const R: usize, const V: usize>(&self, place: Place, to: &mut [[[f32; LANES]; V]; R]) {
        for (r, to) in to.iter_mut().enumerate().take(place.n_rows) {
            for (v, to) in to.iter_mut().enumerate() {
                match place.n_cols.saturating_sub(v * LANES) {
                    0 => {}
                    n @ 1..LANES => self.c.get(place.row + r, place.col + v * LANES, &mut to[..n]),
                    _ => self.c.get(place.row + r, place.col + v * LANES, &mut to[..]),
                }
            }
        }
    }

    #[inline(always)]
    fn store<const R: usize, const V: usize>(
        &mut self,
        steps: &Steps,
        place: Place,
        sums: &mut [[[f32; LANES]; V]; R],
    ) {
        for (r, sums) in sums.iter_mut().enumerate().take(place.n_rows) {
            let row = place.row + r;
            for (v, sums) in sums.iter_mut().enumerate() {
                let col = place.col + v * LANES;
                match place.n_cols.saturating_sub(v * LANES) {
                    0 => {}
                    n @ 1..LANES => self.store_lanes(steps.order, row, col, &mut sums[..n]),
                    _ => self.store_lanes(steps.order, row, col, &mut sums[..LANES]),
                }
            }
        }
    }

    #[inline(always)]
    fn store_lanes(&mut self, order: Order, row: usize, col: usize, sums: &mut [f32]) {
        match self.finish {
            Finish::Bias(bias) => sums.iter_mut().zip(&bias[col..]).for_each(|(sum, bias)| *sum += bias),
            Finish::Add if order == Order::Lanes => {
                let mut old = [0.0; LANES];
                let old = &mut old[..sums.len()];
                self.c.get(row, col, old);
                sums.iter_mut().zip(old).for_each(|(sum, old)| *sum += *old);
            }
            _ => {}
        }
        self.c.set(row, col, sums);
    }
}

/// Where a tile lies in C, and how much of it.
#[derive(Clone, Copy)]
struct Place {
    row: usize,
    col: usize,
    n_rows: usize,
    n_cols: usize,
}

/// sums + Σ over the panels' steps, one after the other.
#[inline(always)]
fn multiply<S: Simd, const R: usize, const V: usize>(
    simd: S,
    mut sums: [[S::F32; V]; R],
    a: &[[f32; R]],
    b: &[[[f32; LANES]; V]],
) -> [[S::F32; V]; R] {
    for (a, b) in a.iter().zip(b) {
        let b: [S::F32; V] = make(|v| simd.load(&b[v]));
        for r in 0..R {
            let a = simd.splat(a[r]);
            for v in 0..V {
                sums[r][v] = simd.mul_add(a, b[v], sums[r][v]);
            }
        }
    }
    sums
}

/// Steps of k that panels hold, padded with products of zeros to a multiple of the lanes.
struct Steps {
    from: usize,
    to: usize,
    order: Order,
}

impl Steps {
    fn n_padded(&self) -> usize {
        (self.to - self.from).next_multiple_of(LANES)
    }

    /// Steps of a pass over a panel, and what lies between two of them.
    fn pass(&self) -> (usize, usize) {
        match self.order {
            Order::Chain => (self.n_padded(), 0),
            Order::Lanes => (self.n_padded() / LANES, PASS_GAP),
        }
    }

    /// Steps that a panel has room for.
    fn panel_len(&self) -> usize {
        panel_len(self.order, self.n_padded())
    }

    /// Where step 16c + j of k stands in a panel, as (place for c = 0, distance from c to c + 1).
    #[inline(always)]
    fn place(&self, j: usize) -> (usize, usize) {
        match self.order {
            Order::Chain => (j, LANES),
            Order::Lanes => (REVERSED[j] * (self.n_padded() / LANES + PASS_GAP), 1),
        }
    }

    /// Packs lines into panels of `width` lines, a constant to whoever inlines this; the last panel may have fewer. Lines
    /// beyond the last hold anything.
    #[inline(always)]
    fn pack<S: Simd>(
        &self,
        simd: S,
        from: &Operand<'_>,
        lines: Range<usize>,
        width: usize,
        scratch: &mut [f32],
        panels: &mut [f32],
    ) {
        if let Operand::Across { values, stride } = *from {
            return self.pack_across(values, stride, lines, width, panels);
        }
        let n_steps = self.to - self.from;
        let panels = panels.chunks_mut((self.panel_len() * width).max(1));
        for (first, panel) in lines.clone().step_by(width).zip(panels) {
            for group in (first..first + width).step_by(LANES) {
                // Lines of this group; repeated where the transposition has room for more.
                let n = LANES.min(first + width - group).min(lines.end - group);
                let columns: Columns<'_, f32> = match from {
                    Operand::Across { .. } => return,
                    Operand::Along(rows) => make(|i| &rows.row(group + i.min(n - 1), self.to)[self.from..]),
                    Operand::Weight(w) => {
                        assert_eq!(n_steps, w.cols, "weights are decoded by whole rows");
                        for (i, line) in scratch.chunks_exact_mut(n_steps.max(1)).enumerate().take(n) {
                            decode(simd, w, group + i, line);
                        }
                        let scratch = &*scratch;
                        make(|i| &scratch[i.min(n - 1) * n_steps..][..n_steps])
                    }
                };
                self.pack_along(simd, columns, width, group - first, panel);
            }
        }
    }

    /// Packs lines whose values lie side by side as the columns `at..` of a panel.
    #[inline(always)]
    fn pack_along<S: Simd>(&self, simd: S, columns: Columns<'_, f32>, width: usize, at: usize, panel: &mut [f32]) {
        let places: [(usize, usize); LANES] = make(|j| self.place(j));
        for c in 0..self.n_padded() / LANES {
            let steps: [[f32; LANES]; LANES] = square(simd, columns, c, 0.0);
            for ((place, distance), step) in places.iter().zip(&steps) {
                let start = (place + c * distance) * width + at;
                if width < LANES {
                    panel[start..start + width].copy_from_slice(&step[..width]);
                } else {
                    panel[start..start + LANES].copy_from_slice(step);
                }
            }
        }
    }

    /// Packs lines whose values for one step lie side by side.
    #[inline(always)]
    fn pack_across(&self, values: &[f32], stride: usize, lines: Range<usize>, width: usize, panels: &mut [f32]) {
        let panel_len = (self.panel_len() * width).max(1);
        let places: [(usize, usize); LANES] = make(|j| self.place(j));
        for c in 0..self.n_padded() / LANES {
            for (k, (place, distance)) in (self.from + c * LANES..).zip(places) {
                // A whole line of memory after the other: the processor sees them coming.
                let at = (place + c * distance) * width;
                for (first, panel) in lines.clone().step_by(width).zip(panels.chunks_mut(panel_len)) {
                    let n = width.min(lines.end - first);
                    let step = &mut panel[at..][..width];
                    if k >= self.to {
                        step.fill(0.0);
                    } else if n == width {
                        step.copy_from_slice(&values[k * stride + first..][..width]);
                    } else {
                        step[..n].copy_from_slice(&values[k * stride + first..][..n]);
                    }
                }
            }
        }
    }
}

/// The four bits of each lane in reverse: when a lane's pass comes, and which lane comes when.
const REVERSED: [usize; LANES] = [0, 8, 4, 12, 2, 10, 6, 14, 1, 9, 5, 13, 3, 11, 7, 15];
