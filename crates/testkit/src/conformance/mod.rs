//! The conformance suite: every operation of [`Device`] against [`Reference`], the same body for every device.
//!
//! Owns what is asked of a device: values within derived bounds (docs/numerics.md), NaN and infinities in the same
//! places, nothing written outside of the named rows, and bits that do not depend on what else is in the batch.
//! Must not know any device by name, and must not loosen a bound for one.
//!
//! Each operation has a list of cases. A case is one call with all of its inputs; it is run on the device, run again,
//! run in parts, and compared with the same call on [`Reference`].

mod arithmetic;
mod attention;
mod buffers;
mod cache;
mod case;
mod copies;
mod experts;
mod forms;
mod heads;
mod linear;
mod norms;
mod position;
mod random;
mod report;
mod routing;
mod scene;
mod swiglu;
mod weights;

use ops::Device;

use case::Suite;
pub use forms::forms_agree;
pub use report::{Bound, Mismatch, Report, Skip, Test};

/// One or two methods of [`Device`] that are checked together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs, reason = "the variants carry the methods' names")]
pub enum Operation {
    Memory,
    Embed,
    Gather,
    Concat,
    Add,
    Rmsnorm,
    AddRmsnorm,
    Matmul,
    MatmulHeads,
    Rope,
    CacheStore,
    CacheCopyBlock,
    AttendLatent,
    AttendExpanded,
    AttendKv,
    Swiglu,
    Route,
    Experts,
    /// Absorbed and expanded attention agree.
    Forms,
}

impl Operation {
    /// Every operation.
    pub const ALL: [Self; 19] = [
        Self::Memory,
        Self::Embed,
        Self::Gather,
        Self::Concat,
        Self::Add,
        Self::Rmsnorm,
        Self::AddRmsnorm,
        Self::Matmul,
        Self::MatmulHeads,
        Self::Rope,
        Self::CacheStore,
        Self::CacheCopyBlock,
        Self::AttendLatent,
        Self::AttendExpanded,
        Self::AttendKv,
        Self::Swiglu,
        Self::Route,
        Self::Experts,
        Self::Forms,
    ];
}

/// Runs the cases of one operation.
#[must_use]
pub fn run<D: Device>(dev: &D, operation: Operation) -> Report {
    let mut suite = Suite::new(dev, operation);
    match operation {
        Operation::Memory => copies::memory(&mut suite),
        Operation::Embed => copies::embed(&mut suite),
        Operation::Gather => copies::gather(&mut suite),
        Operation::Concat => copies::concat(&mut suite),
        Operation::Add => copies::add(&mut suite),
        Operation::Rmsnorm => norms::rmsnorm(&mut suite),
        Operation::AddRmsnorm => norms::add_rmsnorm(&mut suite),
        Operation::Matmul => linear::matmul(&mut suite),
        Operation::MatmulHeads => heads::matmul_heads(&mut suite),
        Operation::Rope => position::rope(&mut suite),
        Operation::CacheStore => cache::cache_store(&mut suite),
        Operation::CacheCopyBlock => cache::cache_copy_block(&mut suite),
        Operation::AttendLatent => attention::latent::check(&mut suite),
        Operation::AttendExpanded => attention::expanded::check(&mut suite),
        Operation::AttendKv => attention::key_value::check(&mut suite),
        Operation::Swiglu => swiglu::check(&mut suite),
        Operation::Route => routing::check(&mut suite),
        Operation::Experts => experts::check(&mut suite),
        Operation::Forms => forms::check(&mut suite),
    }
    suite.finish()
}

/// Runs the cases of every operation.
#[must_use]
pub fn run_all<D: Device>(dev: &D) -> Report {
    let mut report = Report::default();
    for operation in Operation::ALL {
        report.merge(run(dev, operation));
    }
    report
}

/// Runs everything, prints what was skipped and how close to its bound each operation came.
///
/// # Panics
/// If the device does not conform, or if every case of an operation was skipped; the message is the report
#[expect(clippy::print_stderr, reason = "a case that did not run must be seen")]
pub fn assert_conforms<D: Device>(dev: &D) {
    let report = run_all(dev);
    eprintln!("{report}");
    assert!(report.conforms(), "the device does not conform:\n{report}");
}
