//! Cases of swiglu.
//!
//! Owns silu(gate)·up, where e^(−x) overflows too. Must not know FFN shapes.

use ops::{Device, DeviceError};

use super::arithmetic::{TINY, silu, silu_value};
use super::buffers::{in_out, input, read, with_margin_bounds};
use super::case::{Case, Part, Suite};
use super::random::{NON_FINITE, Random, places};
use super::report::Bound;

struct Swiglu {
    gate: Vec<f32>,
    up: Vec<f32>,
    /// Leading values computed.
    len: usize,
    data: String,
}

/// Bound of silu(gate)·up.
pub(super) fn bound(gate: f64, up: f64) -> f64 {
    let (relative, lost) = silu();
    relative * (silu_value(gate) * up).abs() + lost * up.abs() + TINY
}

impl Case for Swiglu {
    fn label(&self) -> String {
        format!("{} of {} values, {}", self.len, self.gate.len(), self.data)
    }

    fn run<D: Device>(&self, dev: &D) -> Result<Vec<f32>, DeviceError> {
        let mut gate = in_out(dev, &self.gate)?;
        dev.swiglu(&mut gate, &input(dev, &self.up)?, self.len);
        read(dev, &gate, self.gate.len())
    }

    fn bounds(&self) -> Vec<Bound> {
        let pairs = self.gate.iter().zip(&self.up).enumerate();
        let bound = |(i, (g, u)): (usize, (&f32, &f32))| match i < self.len {
            true => Bound::Within(bound(f64::from(*g), f64::from(*u))),
            false => Bound::Bits,
        };
        with_margin_bounds(pairs.map(bound).collect())
    }

    fn parts(&self) -> Vec<Part<Self>> {
        let alone = |i: usize| Part {
            case: Self { gate: vec![self.gate[i]], up: vec![self.up[i]], len: 1, data: String::new() },
            values: vec![(i..i + 1, 0)],
        };
        (0..self.len).map(alone).collect()
    }
}

/// Arguments around which exponentials overflow, underflow or lose their sign.
const EDGES: [f32; 22] = [
    0.0, -0.0, 1e-30, -1e-30, 1e-6, -1e-6, 1.0, -1.0, 20.0, -20.0, 87.0, -87.0, 88.8, -88.8, 104.0, -104.0, 710.0,
    -710.0, 1e4, -1e4, 3e38, -3e38,
];

pub(super) fn check<D: Device>(suite: &mut Suite<'_, D>) {
    let mut rng = Random::new(50);
    for len in [0, 1, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 65] {
        for scale in [1.0, 10.0, 60.0] {
            let gate = rng.values(len + 3).iter().map(|v| v * scale).collect();
            suite.check(&Swiglu { gate, up: rng.values(len + 3), len, data: format!("±{scale}") });
        }
        if len > 0 {
            for (value, place) in NON_FINITE.into_iter().flat_map(|v| places(len).map(|p| (v, p))) {
                let [mut gate, mut up] = [0, 1].map(|_| rng.values(len));
                gate[place] = value;
                suite.check(&Swiglu { gate, up: up.clone(), len, data: format!("gate {value} at {place}") });
                up[place] = value;
                suite.check(&Swiglu { gate: rng.values(len), up, len, data: format!("up {value} at {place}") });
            }
        }
    }
    let up = rng.values(EDGES.len());
    suite.check(&Swiglu { gate: EDGES.to_vec(), up, len: EDGES.len(), data: "edges of exp".to_owned() });
}
