//! Cases of matmul with block-quantised weights: what integer kernels, tiles and rounded activations may get wrong.
//!
//! Owns inputs that are hard to round. Must not compute bounds.

use ops::{Device, WeightFormat, WeightMatrix};

use super::case::Suite;
use super::linear::Matmul;
use super::random::{NON_FINITE, Random, Side, Spread, places};
use super::weights::{matrix, scale_offsets, uniform, with_half};

const N_BLOCKS: [usize; 6] = [1, 2, 3, 4, 5, 9];
/// Around where kernels change from rows to panels, and around their tiles.
pub(super) const N_ROWS: [usize; 12] = [1, 2, 3, 4, 5, 6, 7, 8, 9, 16, 17, 33];
const ROWS: [usize; 12] = [1, 2, 3, 4, 5, 8, 15, 16, 17, 31, 33, 48];

/// Activations, by what is hard about their groups.
#[derive(Clone, Copy, Debug)]
pub(super) enum Data {
    Spread(Spread),
    /// One value thousands of times as large as the rest of its group.
    Outlier,
    /// Every other group is zero.
    ZeroGroups,
    /// Every third group is subnormal or nearly so.
    TinyGroups,
    /// Groups around the size from which they may no longer count as zeros.
    NearlyZero,
    /// One value that is not zero per group.
    Single,
    /// Values halfway between two codes.
    Ties,
    /// Every code ±127: the largest whole sums.
    Full,
    /// The same number everywhere.
    Constant,
    Huge,
}

impl Data {
    pub(super) const ALL: [Self; 12] = [
        Self::Spread(Spread::Even),
        Self::Outlier,
        Self::ZeroGroups,
        Self::Spread(Spread::Cancelling),
        Self::Single,
        Self::TinyGroups,
        Self::Ties,
        Self::Spread(Spread::Wide),
        Self::Full,
        Self::NearlyZero,
        Self::Constant,
        Self::Huge,
    ];

    /// `n_rows` rows of `n_blocks · group` activations.
    pub(super) fn rows(self, rng: &mut Random, n_rows: usize, n_blocks: usize, group: usize) -> Vec<f32> {
        let spread = if let Self::Spread(spread) = self { spread } else { Spread::Even };
        let mut x = rng.rows(n_rows, n_blocks * group, spread, Side::Activation);
        for (i, values) in x.chunks_exact_mut(group).enumerate() {
            let one = rng.below(group);
            let mut map = |f: &mut dyn FnMut(usize, f32) -> f32| {
                values.iter_mut().enumerate().for_each(|(i, v)| *v = f(i, *v));
            };
            match self {
                Self::Spread(_) => {}
                Self::Outlier => map(&mut |i, v| if i == one { v.signum() * 4096.0 } else { v }),
                Self::ZeroGroups => map(&mut |_, v| if i % 2 == 0 { 0.0 } else { v }),
                Self::TinyGroups => map(&mut |_, v| if i % 3 == 1 { v * 1e-38 } else { v }),
                Self::NearlyZero => map(&mut |_, v| v * (rng.below(9) as f32 - 103.0).exp2()),
                Self::Single => map(&mut |i, v| if i == one { v } else { 0.0 }),
                Self::Ties => map(&mut |i, v| if i == one { 127.0 } else { (v * 126.0).floor() + 0.5 }),
                Self::Full => map(&mut |_, v| v.signum() * 0.37),
                Self::Constant => map(&mut |_, _| -1.7),
                Self::Huge => map(&mut |_, v| v * 1e30),
            }
        }
        x
    }
}

pub(super) fn matmul<D: Device>(suite: &mut Suite<'_, D>) {
    let mut rng = Random::new(21);
    for format in WeightFormat::ALL.into_iter().filter(|f| f.block_len() > 1) {
        shapes(suite, &mut rng, format);
        extremes(suite, &mut rng, format);
        inputs_not_finite(suite, &mut rng, format);
        scales_not_finite(suite, &mut rng, format);
    }
}

fn check<D: Device>(suite: &mut Suite<'_, D>, w: WeightMatrix, x: Vec<f32>, bias: Option<Vec<f32>>, data: String) {
    suite.check(&Matmul { n_rows: x.len() / w.cols, x, w, bias, data });
}

/// Every number of rows with every number of blocks, where that is not both large and many.
fn shapes<D: Device>(suite: &mut Suite<'_, D>, rng: &mut Random, format: WeightFormat) {
    let group = format.block_len();
    for (i, n_blocks) in N_BLOCKS.into_iter().enumerate() {
        for (j, n_rows) in N_ROWS.into_iter().enumerate() {
            let (rows, data) =
                (ROWS[(5 * i + 7 * j + format as usize) % 12], Data::ALL[(i + j + format as usize) % 12]);
            if n_rows * n_blocks * group * rows > 1 << 20 {
                continue;
            }
            let w = matrix(rng, format, rows, n_blocks * group, Spread::Even);
            let bias = (j % 3 == 1).then(|| rng.values(rows));
            let x = data.rows(rng, n_rows, n_blocks, group);
            check(suite, w, x, bias, format!("{data:?}"));
        }
    }
}

/// Codes, and scales of sub-blocks, at both ends.
fn extremes<D: Device>(suite: &mut Suite<'_, D>, rng: &mut Random, format: WeightFormat) {
    for byte in [0x00, 0x7f, 0x80, 0xff] {
        for (n_rows, data) in [(1, Data::Full), (5, Data::Constant), (8, Data::Full), (9, Data::Ties)] {
            let w = uniform(rng, format, 9, 2 * format.block_len(), byte);
            let x = data.rows(rng, n_rows, 2, format.block_len());
            check(suite, w, x, None, format!("{data:?}, bytes {byte:#x}"));
        }
    }
}

fn inputs_not_finite<D: Device>(suite: &mut Suite<'_, D>, rng: &mut Random, format: WeightFormat) {
    let cols = 3 * format.block_len();
    for (value, place) in NON_FINITE.into_iter().flat_map(|v| places(cols).map(|p| (v, p))) {
        for (n_rows, data) in [(3, Data::Spread(Spread::Even)), (9, Data::ZeroGroups)] {
            let w = matrix(rng, format, 5, cols, Spread::Even);
            let mut x = data.rows(rng, n_rows, 3, format.block_len());
            x[cols + place] = value;
            check(suite, w, x, None, format!("{data:?}, {value} at {place} of row 1"));
        }
    }
}

fn scales_not_finite<D: Device>(suite: &mut Suite<'_, D>, rng: &mut Random, format: WeightFormat) {
    let cols = 3 * format.block_len();
    for (value, &at) in NON_FINITE.into_iter().flat_map(|v| scale_offsets(format).iter().map(move |at| (v, at))) {
        for (n_rows, data) in [(1, Data::ZeroGroups), (9, Data::TinyGroups), (5, Data::Spread(Spread::Even))] {
            let w = matrix(rng, format, 9, cols, Spread::Even);
            let place = places(cols)[n_rows % 3];
            let w = with_half(&w, 4, place, at, value);
            let x = data.rows(rng, n_rows, 3, format.block_len());
            check(suite, w, x, None, format!("{data:?}, scale {value} at byte {at}, column {place} of row 4"));
        }
    }
}
