//! The conformance suite on the devices of this repository that need no hardware, and on devices with planted faults.
//!
//! Owns the proof that the suite passes what is right and fails what is wrong.

mod mutants;
mod naive;

use ops::Reference;
use testkit::conformance::{assert_conforms, forms_agree};

#[test]
fn reference_conforms() {
    assert_conforms(&Reference);
}

#[test]
fn naive_conforms() {
    assert_conforms(&naive::Naive::default());
}

#[test]
fn naive_with_rounded_activations_conforms() {
    assert_conforms(&naive::Naive { int8: true, ..naive::Naive::default() });
}

#[test]
fn absorbed_and_expanded_agree() {
    let report = forms_agree();
    println!("{report}");
    assert!(report.conforms(), "{report}");
}
