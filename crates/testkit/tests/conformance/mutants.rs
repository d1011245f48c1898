//! Planted faults, and which operation's cases must find each.
//!
//! Owns the list. A fault is carried out in `naive.rs`, where it stands beside the line that is right.

use testkit::conformance::{Operation, first_mismatch, run};

use crate::naive::Naive;

/// Mistakes of devices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    NoMemory,
    LittleMemory,
    MemoryNotCleared,
    ScalesIgnored,
    LastRowSkipped,
    ConcatSwapped,
    TailValuesDropped,
    EpsIgnored,
    EpsOutsideOfRoot,
    StrideIgnored,
    DeltaNotKept,
    BiasMissing,
    TailColumnsDropped,
    RelativeError,
    Accumulates,
    NonFiniteDropped,
    OrderByBatch,
    NotRepeatable,
    Bf16Products,
    HeadStartIgnored,
    TransposeIgnored,
    SideIgnored,
    InputStartIgnored,
    WrongPairing,
    PositionIsRow,
    AngleUnrounded,
    MagnitudeIgnored,
    RopeStartIgnored,
    RotatedBackwards,
    Bf16Truncated,
    Bf16NanLost,
    Q8ScalePerRow,
    Q8TailRounded,
    Q8HalvesAway,
    Q8ScaleInverted,
    Q8NanLost,
    PartsSwapped,
    SlotsIgnored,
    LayerIgnored,
    CopiesOneLayer,
    CopiesShort,
    BlockOfOneLayer,
    BlockBigEndian,
    BlockRoundedAgain,
    BlockBytesOnly,
    ScaleIgnored,
    QPeIgnored,
    FutureSeen,
    OwnPositionUnseen,
    CachedForgotten,
    BlockTableIgnored,
    BlockRangeIgnored,
    SpanStartIgnored,
    OutsideRowsCleared,
    MaxNotSubtracted,
    NotRescaled,
    EmptyTileIsNan,
    MaskedByZero,
    HeadsInterleaved,
    SigmoidOverflows,
    LanesRoundOtherwise,
    GroupsMaskedWithZero,
    GroupsByMaximum,
    RouterBiasIgnored,
    BiasInWeights,
    NotNormalised,
    FactorIgnored,
    HigherIndexWins,
    ExpertWeightsIgnored,
    LastChoiceDropped,
    GateIsUp,
    RoutesOfFirstToken,
    RoundsUnsaid,
    SevenBits,
    ZeroPointMissing,
    OffsetMissing,
    ScaleOfNeighbour,
    PairsSaturate,
    NanSwallowed,
    SmallGroupsDropped,
    StoredColumnsRounded,
}

/// Every fault with the operations that must find it, each on its own.
const FAULTS: [(Fault, &[Operation]); 70] = {
    use Fault as F;
    use Operation as O;
    const ATTENTION: &[Operation] = &[O::AttendLatent, O::AttendExpanded, O::AttendKv];
    [
        (F::MemoryNotCleared, &[O::Memory]),
        (F::ScalesIgnored, &[O::Embed, O::Matmul, O::MatmulHeads, O::Experts]),
        (F::LastRowSkipped, &[O::Embed, O::Gather, O::Matmul]),
        (F::ConcatSwapped, &[O::Concat]),
        (F::TailValuesDropped, &[O::Add, O::AddRmsnorm]),
        (F::EpsIgnored, &[O::Rmsnorm, O::AddRmsnorm]),
        (F::EpsOutsideOfRoot, &[O::Rmsnorm]),
        (F::StrideIgnored, &[O::Rmsnorm]),
        (F::DeltaNotKept, &[O::AddRmsnorm]),
        (F::BiasMissing, &[O::Matmul]),
        (F::TailColumnsDropped, &[O::Matmul, O::MatmulHeads, O::AttendLatent, O::AttendExpanded, O::Experts]),
        (F::RelativeError, &[O::Matmul, O::MatmulHeads, O::AttendExpanded, O::Experts]),
        (F::Accumulates, &[O::Matmul]),
        (F::NonFiniteDropped, &[O::Matmul, O::MatmulHeads, O::AttendLatent, O::AttendKv, O::Experts]),
        (F::OrderByBatch, &[O::Matmul]),
        (F::NotRepeatable, &[O::Matmul]),
        (F::Bf16Products, &[O::Matmul, O::MatmulHeads, O::AttendKv, O::Experts]),
        (F::HeadStartIgnored, &[O::MatmulHeads, O::AttendExpanded]),
        (F::TransposeIgnored, &[O::MatmulHeads, O::AttendExpanded]),
        (F::SideIgnored, &[O::MatmulHeads, O::Forms]),
        (F::InputStartIgnored, &[O::MatmulHeads]),
        (F::WrongPairing, &[O::Rope]),
        (F::PositionIsRow, &[O::Rope]),
        (F::AngleUnrounded, &[O::Rope]),
        (F::MagnitudeIgnored, &[O::Rope]),
        (F::RopeStartIgnored, &[O::Rope]),
        (F::RotatedBackwards, &[O::Rope]),
        (F::Bf16Truncated, &[O::CacheStore, O::AttendLatent, O::AttendKv]),
        (F::Bf16NanLost, &[O::CacheStore]),
        (F::Q8ScalePerRow, &[O::CacheStore, O::AttendKv]),
        (F::Q8TailRounded, &[O::CacheStore, O::AttendLatent]),
        (F::Q8HalvesAway, &[O::CacheStore]),
        (F::Q8ScaleInverted, &[O::CacheStore]),
        (F::Q8NanLost, &[O::CacheStore]),
        (F::PartsSwapped, &[O::CacheStore, O::AttendLatent, O::AttendKv]),
        (F::SlotsIgnored, &[O::CacheStore, O::AttendLatent]),
        (F::LayerIgnored, &[O::CacheStore, O::AttendLatent, O::AttendExpanded, O::AttendKv]),
        (F::CopiesOneLayer, &[O::CacheCopyBlock]),
        (F::CopiesShort, &[O::CacheCopyBlock]),
        (F::BlockOfOneLayer, &[O::CacheBlockBytes]),
        (F::BlockBigEndian, &[O::CacheBlockBytes]),
        (F::BlockRoundedAgain, &[O::CacheBlockBytes]),
        (F::BlockBytesOnly, &[O::CacheBlockBytes]),
        (F::ScaleIgnored, &[O::AttendLatent, O::Forms]),
        (F::QPeIgnored, &[O::AttendLatent, O::Forms]),
        (F::FutureSeen, ATTENTION),
        (F::OwnPositionUnseen, ATTENTION),
        (F::CachedForgotten, ATTENTION),
        (F::BlockTableIgnored, ATTENTION),
        (F::BlockRangeIgnored, ATTENTION),
        (F::SpanStartIgnored, ATTENTION),
        (F::OutsideRowsCleared, &[O::AttendLatent]),
        (F::MaxNotSubtracted, ATTENTION),
        (F::NotRescaled, ATTENTION),
        (F::EmptyTileIsNan, &[O::AttendLatent, O::AttendKv]),
        (F::MaskedByZero, ATTENTION),
        (F::HeadsInterleaved, &[O::AttendKv]),
        (F::SigmoidOverflows, &[O::Swiglu]),
        (F::LanesRoundOtherwise, &[O::Swiglu]),
        (F::GroupsMaskedWithZero, &[O::Route]),
        (F::GroupsByMaximum, &[O::Route]),
        (F::RouterBiasIgnored, &[O::Route]),
        (F::BiasInWeights, &[O::Route]),
        (F::NotNormalised, &[O::Route, O::Experts]),
        (F::FactorIgnored, &[O::Route, O::Experts]),
        (F::HigherIndexWins, &[O::Route]),
        (F::ExpertWeightsIgnored, &[O::Experts]),
        (F::LastChoiceDropped, &[O::Experts]),
        (F::GateIsUp, &[O::Experts]),
        (F::RoutesOfFirstToken, &[O::Experts]),
    ]
};

/// Faults of a device that rounds activations to 8 bits.
const INT8_FAULTS: [(Fault, &[Operation]); 11] = {
    use Fault as F;
    use Operation as O;
    const PRODUCTS: &[Operation] = &[O::Matmul, O::MatmulHeads, O::Experts];
    [
        (F::RoundsUnsaid, PRODUCTS),
        (F::SevenBits, PRODUCTS),
        (F::ZeroPointMissing, PRODUCTS),
        (F::OffsetMissing, PRODUCTS),
        (F::ScaleOfNeighbour, PRODUCTS),
        (F::PairsSaturate, PRODUCTS),
        (F::NanSwallowed, PRODUCTS),
        (F::SmallGroupsDropped, PRODUCTS),
        (F::StoredColumnsRounded, &[O::MatmulHeads]),
        (F::NotRepeatable, &[O::Matmul]),
        (F::BiasMissing, &[O::Matmul]),
    ]
};

#[test]
fn every_fault_is_found() {
    all_found(&FAULTS, false);
}

#[test]
fn every_fault_of_rounded_activations_is_found() {
    all_found(&INT8_FAULTS, true);
}

#[expect(clippy::print_stdout, reason = "what found a fault is worth a look when a test fails")]
fn all_found(faults: &[(Fault, &[Operation])], int8: bool) {
    let mut missed = Vec::new();
    for &(fault, operations) in faults {
        for &operation in operations {
            match first_mismatch(&Naive { fault: Some(fault), int8, ..Naive::default() }, operation) {
                Some(mismatch) => println!("{fault:?}: {mismatch}"),
                None => missed.push((fault, operation)),
            }
        }
    }
    assert!(missed.is_empty(), "the suite passed {missed:?}");
}

#[test]
fn what_does_not_run_is_named_and_does_not_count_as_passed() {
    let report = run(&Naive { fault: Some(Fault::LittleMemory), ..Naive::default() }, Operation::Matmul);
    assert!(report.conforms() && !report.skips.is_empty());
    assert!(report.to_string().contains("skipped: Matmul (F32 "), "{report}");
    let report = run(&Naive { fault: Some(Fault::NoMemory), ..Naive::default() }, Operation::Matmul);
    assert!(report.mismatches.is_empty() && !report.conforms());
}
