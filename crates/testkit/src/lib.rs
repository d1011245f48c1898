//! What tests share: oracle models with their reference outputs, the conformance suite of devices, comparisons.
//!
//! Owns test data and bounds. Only ever a dev-dependency; must not hold anything the program runs.

pub mod oracle;
