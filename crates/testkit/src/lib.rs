//! What tests share: oracle models with their reference outputs, the conformance suite of devices, comparisons.
//!
//! Owns test data and bounds. Only ever a dev-dependency; must not hold anything the program runs.

#![allow(
    clippy::expect_used,
    clippy::unwrap_used,
    clippy::missing_panics_doc,
    reason = "a test that cannot go on panics, and the message is its report"
)]

pub mod conformance;
pub mod oracle;
pub mod scripted;
pub mod training;
