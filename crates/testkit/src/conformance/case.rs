//! The body that every case goes through.
//!
//! Owns the order of runs and comparisons. Must not know what an operation computes.

use std::ops::Range;

use ops::{Activations, Device, DeviceError, Reference};

use super::Operation;
use super::report::{Bound, Mismatch, Report, Skip, Test};

/// One call of an operation with all of its inputs.
pub(super) trait Case: Sized {
    /// Shape and data, for people.
    fn label(&self) -> String;

    /// Makes the call and reads back everything it may write, margins included.
    fn run<D: Device>(&self, dev: &D) -> Result<Vec<f32>, DeviceError>;

    /// One bound per value of [`Case::run`].
    fn bounds(&self) -> Vec<Bound>;

    /// The same for a device that rounds activations to 8 bits, where that makes a difference.
    fn int8_bounds(&self) -> Vec<Bound> {
        self.bounds()
    }

    /// Calls that compute some rows of this one without the others.
    fn parts(&self) -> Vec<Part<Self>> {
        Vec::new()
    }
}

/// A call that computes some rows of another.
pub(super) struct Part<C> {
    /// The call.
    pub(super) case: C,
    /// Values of the whole call's run, and where they begin in the part's.
    pub(super) values: Vec<(Range<usize>, usize)>,
}

/// A device under test and what was found so far.
pub(super) struct Suite<'d, D> {
    dev: &'d D,
    operation: Operation,
    report: Report,
    /// Whether the rest is left out once something mismatched.
    stops: bool,
}

impl<'d, D: Device> Suite<'d, D> {
    pub(super) fn new(dev: &'d D, operation: Operation) -> Self {
        let mut report = Report::default();
        report.tallies.entry(operation).or_default();
        Self { dev, operation, report, stops: false }
    }

    /// A suite that runs no further case once one has failed.
    pub(super) fn until_mismatch(dev: &'d D, operation: Operation) -> Self {
        Self { stops: true, ..Self::new(dev, operation) }
    }

    pub(super) fn operation(&self) -> Operation {
        self.operation
    }

    pub(super) fn activations(&self) -> Activations {
        self.dev.activations()
    }

    pub(super) fn finish(self) -> Report {
        self.report
    }

    /// Runs a case; if the device's memory operations fail, it counts as skipped.
    pub(super) fn check<C: Case>(&mut self, case: &C) {
        if self.stops && !self.report.mismatches.is_empty() {
            return;
        }
        let outcome = self.compare(case);
        self.count(outcome, || case.label());
    }

    /// Holds two results of the device to each other.
    pub(super) fn compare_forms(
        &mut self,
        label: &str,
        run: impl Fn(&D) -> Result<[Vec<f32>; 2], DeviceError>,
        bounds: &[Bound],
    ) {
        let label = || label.to_owned();
        let outcome = run(self.dev).map(|[absorbed, expanded]| {
            assert_eq!(absorbed.len(), bounds.len());
            self.note(&label, Test::Form, &absorbed, &expanded, bounds)
        });
        self.count(outcome, label);
    }

    fn count(&mut self, outcome: Result<f64, DeviceError>, label: impl Fn() -> String) {
        let tally = self.report.tallies.entry(self.operation).or_default();
        match outcome {
            Ok(worst_ratio) => {
                tally.n_run += 1;
                tally.worst_ratio = tally.worst_ratio.max(worst_ratio);
            }
            Err(error) => {
                tally.n_skipped += 1;
                self.report.skips.push(Skip { operation: self.operation, case: label(), reason: error.to_string() });
            }
        }
    }

    fn compare<C: Case>(&mut self, case: &C) -> Result<f64, DeviceError> {
        let got = case.run(self.dev)?;
        let expected = case.run(&Reference).expect("memory for the reference");
        let bounds = match self.dev.activations() {
            Activations::F32 => case.bounds(),
            Activations::Int8 => case.int8_bounds(),
        };
        assert_eq!((got.len(), bounds.len()), (expected.len(), expected.len()), "{}", case.label());
        let label = || case.label();
        let worst = self.note(&label, Test::Value, &got, &expected, &bounds);
        let again = case.run(self.dev)?;
        self.note(&label, Test::Repeated, &got, &again, &vec![Bound::Bits; got.len()]);
        for part in case.parts() {
            let alone = part.case.run(self.dev)?;
            for (range, start) in part.values {
                let alone = &alone[start..start + range.len()];
                self.note(&label, Test::Alone, &got[range], alone, &vec![Bound::Bits; alone.len()]);
            }
        }
        Ok(worst)
    }

    /// Compares values and returns the worst ratio of error to bound.
    fn note(
        &mut self,
        label: &impl Fn() -> String,
        test: Test,
        got: &[f32],
        expected: &[f32],
        bounds: &[Bound],
    ) -> f64 {
        let ratios: Vec<f64> = got.iter().zip(expected).zip(bounds).map(|((g, e), b)| b.ratio(*g, *e)).collect();
        let Some((index, &worst)) = ratios.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1)) else { return 0.0 };
        if worst > 1.0 {
            self.report.mismatches.push(Mismatch {
                operation: self.operation,
                case: label(),
                test,
                n_values: ratios.iter().filter(|r| **r > 1.0).count(),
                index,
                got: got[index],
                expected: expected[index],
                bound: bounds[index],
            });
        }
        worst
    }
}
