//! Cases of rope.
//!
//! Owns both pairings, ranges of channels and far positions. Must not compute angles: those are `RopeTable`'s.

use ops::{Device, DeviceError, HeadLayout, RopePairing, RopeScaling, RopeTable};

use super::arithmetic::{TINY, rotation};
use super::buffers::{in_out, read, with_margin_bounds};
use super::case::{Case, Part, Suite};
use super::random::{NON_FINITE, Random, Side, Spread};
use super::report::Bound;

#[derive(Clone)]
struct Rope {
    x: Vec<f32>,
    layout: HeadLayout,
    positions: Vec<u32>,
    table: RopeTable,
}

impl Case for Rope {
    fn label(&self) -> String {
        let HeadLayout { n_heads, head_dim, start } = self.layout;
        let RopeTable { pairing, magnitude, .. } = self.table;
        format!(
            "{pairing:?}, {} of {head_dim} channels from {start}, {n_heads} heads, positions {:?}, magnitude {magnitude}",
            self.table.dim(),
            self.positions
        )
    }

    fn run<D: Device>(&self, dev: &D) -> Result<Vec<f32>, DeviceError> {
        let mut x = in_out(dev, &self.x)?;
        dev.rope(&mut x, self.layout, &self.positions, &self.table);
        read(dev, &x, self.x.len())
    }

    fn bounds(&self) -> Vec<Bound> {
        let HeadLayout { n_heads, head_dim, start } = self.layout;
        let mut bounds = vec![Bound::Bits; self.x.len()];
        for (i, head) in self.x.chunks_exact(head_dim).enumerate() {
            for pair in 0..self.table.dim() / 2 {
                let (cos, sin) = self.table.cos_sin(self.positions[i / n_heads], pair);
                let (first, second) = self.table.pair(pair);
                let [a, b] = [first, second].map(|c| f64::from(head[start + c].abs()));
                let (cos, sin) = (f64::from(cos.abs()), f64::from(sin.abs()));
                let bound = |terms: f64| Bound::Within(rotation() * terms + 3.0 * TINY);
                bounds[i * head_dim + start + first] = bound(a * cos + b * sin);
                bounds[i * head_dim + start + second] = bound(a * sin + b * cos);
            }
        }
        with_margin_bounds(bounds)
    }

    fn parts(&self) -> Vec<Part<Self>> {
        let row = self.layout.n_heads * self.layout.head_dim;
        let alone = |(t, x): (usize, &[f32])| Part {
            case: Self { x: x.to_vec(), positions: vec![self.positions[t]], ..self.clone() },
            values: vec![(t * row..(t + 1) * row, 0)],
        };
        self.x.chunks_exact(row).enumerate().map(alone).collect()
    }
}

fn tables(dim: usize) -> [RopeTable; 4] {
    let yarn = RopeScaling::Yarn {
        factor: 40.0,
        original_max_position_embeddings: 4096.0,
        beta_fast: 32.0,
        beta_slow: 1.0,
        truncate: true,
        magnitude: 1.25,
    };
    let pairings = [RopePairing::Interleaved, RopePairing::Halved];
    let [a, b] = pairings.map(|pairing| RopeTable::new(dim, 10_000.0, &RopeScaling::None, pairing));
    let [c, d] = pairings.map(|pairing| RopeTable::new(dim, 10_000.0, &yarn, pairing));
    [a, b, c, d]
}

pub(super) fn rope<D: Device>(suite: &mut Suite<'_, D>) {
    let mut rng = Random::new(40);
    for dim in [2, 4, 6, 8, 14, 16, 18, 30, 32, 34, 64] {
        for table in tables(dim) {
            for (n_heads, start, after) in [(1, 0, 0), (3, 5, 0), (2, 3, 4), (1, 512, 0)] {
                let layout = HeadLayout { n_heads, head_dim: start + dim + after, start };
                for positions in [vec![], vec![0], vec![1], vec![163_839], vec![7, 0, 163_839, 4095, 7]] {
                    let spread = if positions.len() > 1 { Spread::Wide } else { Spread::Even };
                    let x = rng.rows(positions.len() * n_heads, layout.head_dim, spread, Side::Activation);
                    suite.check(&Rope { x, layout, positions, table: table.clone() });
                }
                for value in NON_FINITE {
                    let mut x = rng.values(3 * n_heads * layout.head_dim);
                    for head in x.chunks_exact_mut(layout.head_dim).step_by(2) {
                        head[start + rng.below(dim)] = value;
                    }
                    suite.check(&Rope { x, layout, positions: vec![3, 0, 163_839], table: table.clone() });
                }
            }
        }
    }
}
