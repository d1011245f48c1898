//! What the suite found.
//!
//! Owns mismatches, skips and their presentation. Must not compute bounds.

use std::collections::BTreeMap;
use std::fmt;

use super::Operation;

/// How far a value may be from the reference.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Bound {
    /// The same bits, or NaN on both sides (a NaN's payload is not defined).
    Bits,
    /// At most this far; +0 and −0 are equal. Where the reference is not finite the value must be of the same class.
    Within(f64),
    /// The device rounds activations to 8 bits. Where the reference is not finite the value must not be either, NaN or
    /// infinity; elsewhere it must be finite.
    Rounded {
        /// At most this far from the reference.
        reference: f64,
        /// The result with activations rounded as [`ops::Activations::Int8`] says …
        value: f64,
        /// … and at most this far from that.
        around: f64,
    },
}

impl Bound {
    /// |got − expected| / bound: at most 1 where the value is accepted.
    #[must_use]
    pub fn ratio(self, got: f32, expected: f32) -> f64 {
        let same = match self {
            Self::Bits => got.to_bits() == expected.to_bits() || got.is_nan() && expected.is_nan(),
            Self::Within(_) => got == expected || got.is_nan() && expected.is_nan(),
            Self::Rounded { .. } => !got.is_finite() && !expected.is_finite(),
        };
        match self {
            _ if same => 0.0,
            Self::Within(bound) if got.is_finite() && expected.is_finite() && bound > 0.0 => {
                (f64::from(got) - f64::from(expected)).abs() / bound
            }
            Self::Rounded { reference, value, around }
                if got.is_finite() && expected.is_finite() && around > 0.0 && (reference + around).is_finite() =>
            {
                let far = |from: f64, bound: f64| (f64::from(got) - from).abs() / bound;
                far(expected.into(), reference).max(far(value, around))
            }
            _ => f64::INFINITY,
        }
    }
}

/// What a mismatching value was compared with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Test {
    /// The reference's value.
    Value,
    /// The same call, made again.
    Repeated,
    /// The same row, computed without the rest of its batch.
    Alone,
    /// The other form of attention, on the same device.
    Form,
}

/// The worst value of a case that failed.
#[derive(Clone, Debug)]
pub struct Mismatch {
    /// Whose case it is.
    pub operation: Operation,
    /// The case's shape and data.
    pub case: String,
    /// What the value was compared with.
    pub test: Test,
    /// How many values of the case are outside of their bounds.
    pub n_values: usize,
    /// Index of the worst one in everything the call may write, margins included.
    pub index: usize,
    /// The device's value.
    pub got: f32,
    /// The value it was compared with.
    pub expected: f32,
    /// How far apart the two may be.
    pub bound: Bound,
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { operation, case, test, n_values, index, got, expected, bound } = self;
        let test = match test {
            Test::Value => "the reference has",
            Test::Repeated => "the second run gave",
            Test::Alone => "the row alone gave",
            Test::Form => "the expanded form gave",
        };
        write!(f, "{operation:?} ({case}): value {index} is {got:e}, {test} {expected:e}")?;
        match bound {
            Bound::Bits => write!(f, ", must be equal")?,
            Bound::Within(bound) => write!(f, ", bound {bound:.1e}")?,
            Bound::Rounded { reference, value, around } => {
                write!(f, ", bound {reference:.1e}; with rounded activations {value:e}, bound {around:.1e}")?;
            }
        }
        write!(f, "; {n_values} values differ")
    }
}

/// A case that the device could not run.
#[derive(Clone, Debug)]
pub struct Skip {
    /// Whose case it is.
    pub operation: Operation,
    /// The case's shape and data.
    pub case: String,
    /// The device's reason.
    pub reason: String,
}

/// How one operation fared.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tally {
    /// Cases that ran.
    pub n_run: usize,
    /// Cases that the device could not run.
    pub n_skipped: usize,
    /// Largest |error| / bound.
    pub worst_ratio: f64,
}

/// What the suite found on one device.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Per operation.
    pub tallies: BTreeMap<Operation, Tally>,
    /// One per case and kind of comparison that failed.
    pub mismatches: Vec<Mismatch>,
    /// Cases that did not run.
    pub skips: Vec<Skip>,
}

impl Report {
    /// Whether nothing mismatched and every operation that was asked for ran at least one case.
    #[must_use]
    pub fn conforms(&self) -> bool {
        self.mismatches.is_empty() && self.tallies.values().all(|tally| tally.n_run > 0)
    }

    /// Adds what another run found.
    pub fn merge(&mut self, other: Self) {
        for (operation, tally) in other.tallies {
            let sum = self.tallies.entry(operation).or_default();
            sum.n_run += tally.n_run;
            sum.n_skipped += tally.n_skipped;
            sum.worst_ratio = sum.worst_ratio.max(tally.worst_ratio);
        }
        self.mismatches.extend(other.mismatches);
        self.skips.extend(other.skips);
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (operation, Tally { n_run, n_skipped, worst_ratio }) in &self.tallies {
            write!(f, "{operation:?}: {n_run} cases, worst error {worst_ratio:.3} of its bound")?;
            match n_skipped {
                0 => writeln!(f)?,
                n => writeln!(f, ", {n} SKIPPED")?,
            }
        }
        for Skip { operation, case, reason } in &self.skips {
            writeln!(f, "skipped: {operation:?} ({case}): {reason}")?;
        }
        for mismatch in &self.mismatches {
            writeln!(f, "MISMATCH {mismatch}")?;
        }
        Ok(())
    }
}
