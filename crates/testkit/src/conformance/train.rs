//! The operations of [`TrainDevice`] against [`Reference`], the same body for every device.
//!
//! Owns cases and bounds of training, as the rest of this folder owns those of inference: |err| ≤ γ(n)·Σ|terms|. Must not
//! know any device by name. Every result is handed back, so that a caller can hold devices to each other bit by bit.
#![expect(clippy::single_range_in_vec_init, reason = "sequences are ranges, and one is a list of them too")]

mod attention;
mod elements;
mod picks;
mod rows;

use std::collections::BTreeMap;

use ops::{Reference, TrainDevice};

use super::report::Bound;

/// Calls on the device and on the reference: `[got, expected]`.
macro_rules! both {
    ($suite:expr, $dev:ident => $body:expr) => {{
        let got = {
            let $dev = $suite.dev;
            $body
        };
        let $dev = &$crate::conformance::train::Reference;
        [got, $body]
    }};
}
use both;

/// What a device computed.
#[derive(Clone, Debug, Default)]
pub struct Trained {
    /// Every value of every case, by operation.
    pub values: BTreeMap<&'static str, Vec<f32>>,
    /// Largest |error| / bound of each operation.
    pub worst_ratios: BTreeMap<&'static str, f64>,
}

/// A device under test and what it computed so far.
struct Suite<'d, D> {
    dev: &'d D,
    found: Trained,
}

impl<D: TrainDevice> Suite<'_, D> {
    /// Holds the values of one case to their bounds.
    fn check(&mut self, operation: &'static str, label: &str, [got, expected]: [Vec<f32>; 2], bounds: &[Bound]) {
        assert_eq!((got.len(), bounds.len()), (expected.len(), expected.len()), "{operation} ({label})");
        let worst = self.found.worst_ratios.entry(operation).or_default();
        for (i, ((got, expected), bound)) in got.iter().zip(&expected).zip(bounds).enumerate() {
            let ratio = bound.ratio(*got, *expected);
            assert!(ratio <= 1.0, "{operation} ({label}): value {i} is {got:e}, not {expected:e}, {bound:?}");
            *worst = worst.max(ratio);
        }
        self.found.values.entry(operation).or_default().extend(got);
    }
}

/// Runs every operation.
///
/// # Panics
/// If a value is outside of its bound; the message tells which
#[must_use]
#[expect(clippy::print_stderr, reason = "how close to its bound a device came must be seen")]
pub fn assert_trains<D: TrainDevice>(dev: &D) -> Trained {
    let mut suite = Suite { dev, found: Trained::default() };
    rows::check(&mut suite);
    elements::check(&mut suite);
    picks::check(&mut suite);
    attention::check(&mut suite);
    for (operation, worst) in &suite.found.worst_ratios {
        eprintln!("{operation}: worst error {worst:.3} of its bound");
    }
    suite.found
}
