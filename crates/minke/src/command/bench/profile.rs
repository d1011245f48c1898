//! Where the time goes: every operation of the forward pass, timed.
//!
//! Owns the runs with a timed device. Must not be part of a measurement: the clock costs time of its own.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use cpu::Cpu;
use engine::{Lanes, greedily};
use ops::timed::{Spent, Timed};
use serde_json::{Value, json};

use super::measure::{Cell, Kind, prompt};
use super::{Args, Failure};
use crate::source::Source;

/// The operations of one cell.
pub(super) struct Profile {
    cell: Cell,
    spent: BTreeMap<&'static str, Spent>,
}

/// Runs every cell once more, after one run that warms it up.
pub(super) fn profiles(args: &Args, cpu: &Cpu, source: &Source) -> Result<Vec<Profile>, Failure> {
    let timed = Timed::new(cpu);
    let model = model::load(&timed, source.config.clone(), source.weights()?)?;
    let mut lanes = Lanes::new(&timed, &model, args.lanes())?;
    let prompt = prompt(args.prefill_max().max(512), model.config.vocab_size);
    lanes.fill_contexts(&prompt)?;
    let mut profiles = Vec::new();
    for cell in args.cells() {
        lanes.set_depth(cell.depth);
        for _ in 0..2 {
            timed.take();
            match cell.kind {
                Kind::Prefill => lanes.prefill(&prompt[..cell.n_tokens], |_| Ok(()))?,
                Kind::Decode => {
                    lanes.decode(0..cell.batch, cell.n_tokens, greedily(|lane| prompt[lane % prompt.len()]), |_| {
                        Ok(())
                    })?;
                }
            }
        }
        profiles.push(Profile { cell, spent: timed.take() });
    }
    Ok(profiles)
}

impl Profile {
    /// Milliseconds per token of an operation.
    fn ms_per_token(&self, spent: &Spent) -> f64 {
        1e3 * spent.time.as_secs_f64() / self.cell.n_total() as f64
    }

    pub(super) fn write_text(&self, out: &mut String) {
        let Cell { kind, depth, batch, n_tokens } = self.cell;
        let total: f64 = self.spent.values().map(|spent| self.ms_per_token(spent)).sum();
        let _ = writeln!(out, "\n{} of {n_tokens} at {depth}, batch {batch}: {total:.2} ms per token", kind.name());
        let mut rows: Vec<_> = self.spent.iter().collect();
        rows.sort_by_key(|(_, spent)| std::cmp::Reverse(spent.time));
        for (name, spent) in rows {
            let ms = self.ms_per_token(spent);
            let _ = writeln!(out, "  {name:<18}{ms:>9.3} ms {:>6.1} % {:>9} calls", 100.0 * ms / total, spent.n_calls);
        }
    }

    pub(super) fn to_json(&self) -> Value {
        let Cell { kind, depth, batch, n_tokens } = self.cell;
        let of = |(name, spent): (&&'static str, &Spent)| {
            let value = json!({ "calls": spent.n_calls, "ms_per_token": self.ms_per_token(spent) });
            ((*name).to_owned(), value)
        };
        let operations: serde_json::Map<String, Value> = self.spent.iter().map(of).collect();
        json!({ "kind": kind.name(), "depth": depth, "batch": batch, "tokens": n_tokens, "operations": operations })
    }
}
