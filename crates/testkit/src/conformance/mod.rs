//! The conformance suite: every operation of [`Device`] against [`ops::Reference`], the same body for every device.
//!
//! Owns what is asked of a device: values within derived bounds (docs/numerics.md), NaN and infinities in the same
//! places, nothing written outside of the named rows, and bits that do not depend on what else is in the batch.
//! Must not know any device by name, and must not loosen a bound for one.
//!
//! Each operation has a list of cases. A case is one call with all of its inputs; it is run on the device, run again,
//! run in parts, and compared with the same call on the reference.

mod arithmetic;
mod attention;
mod blocks;
mod buffers;
mod cache;
mod case;
mod copies;
mod experts;
mod forms;
mod heads;
mod int8;
mod linear;
mod norms;
mod position;
mod random;
mod report;
mod routing;
mod scene;
mod swiglu;
mod train;
mod weights;

use ops::Device;

use case::Suite;
pub use forms::forms_agree;
pub use report::{Bound, Mismatch, Report, Skip, Test};
pub use train::{Trained, assert_trains};

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
    /// `cache_read_block` and `cache_write_block`.
    CacheBlockBytes,
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
    pub const ALL: [Self; 20] = [
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
        Self::CacheBlockBytes,
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
    run_cases(&mut suite);
    suite.finish()
}

/// Runs the cases of one operation until one of them fails.
#[must_use]
pub fn first_mismatch<D: Device>(dev: &D, operation: Operation) -> Option<Mismatch> {
    let mut suite = Suite::until_mismatch(dev, operation);
    run_cases(&mut suite);
    suite.finish().mismatches.into_iter().next()
}

fn run_cases<D: Device>(suite: &mut Suite<'_, D>) {
    match suite.operation() {
        Operation::Memory => copies::memory(suite),
        Operation::Embed => copies::embed(suite),
        Operation::Gather => copies::gather(suite),
        Operation::Concat => copies::concat(suite),
        Operation::Add => copies::add(suite),
        Operation::Rmsnorm => norms::rmsnorm(suite),
        Operation::AddRmsnorm => norms::add_rmsnorm(suite),
        Operation::Matmul => linear::matmul(suite),
        Operation::MatmulHeads => heads::matmul_heads(suite),
        Operation::Rope => position::rope(suite),
        Operation::CacheStore => cache::cache_store(suite),
        Operation::CacheCopyBlock => cache::cache_copy_block(suite),
        Operation::CacheBlockBytes => cache::bytes::check(suite),
        Operation::AttendLatent => attention::latent::check(suite),
        Operation::AttendExpanded => attention::expanded::check(suite),
        Operation::AttendKv => attention::key_value::check(suite),
        Operation::Swiglu => swiglu::check(suite),
        Operation::Route => routing::check(suite),
        Operation::Experts => experts::check(suite),
        Operation::Forms => forms::check(suite),
    }
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
