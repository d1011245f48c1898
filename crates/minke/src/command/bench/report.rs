//! The results as a table and as JSON.
//!
//! Owns wording, units and key names: keys end in their unit, shares are fractions of 1. Must not measure.

use std::fmt::Write;

use cpu::Cpu;
use engine::LanesOptions;
use model::counts;
use model::traffic::WeightBytes;
use serde_json::{Value, json};

use super::clock::Spent;
use super::limits::Limits;
use super::measure::Series;
use super::profile::Profile;
use super::{Pair, Start};
use crate::memory::{bytes, grouped};
use crate::source::{Source, stored_json};

/// Everything that was found out.
pub(super) struct Report<'a> {
    pub(super) source: &'a Source,
    pub(super) options: LanesOptions,
    pub(super) cpu: &'a Cpu,
    pub(super) limits: Limits,
    pub(super) start: Start,
    pub(super) weights: &'a WeightBytes,
    pub(super) anonymous_bytes: Option<u64>,
    pub(super) series: &'a [Series],
    pub(super) vs: Option<&'a str>,
    pub(super) pairs: &'a [Pair],
    /// Empty unless asked for.
    pub(super) profiles: &'a [Profile],
}

/// Of several rounds.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Spread {
    median: f64,
    min: f64,
    max: f64,
}

impl Spread {
    /// `None` if there are no values, or one of them is unknown.
    fn new(values: impl Iterator<Item = Option<f64>>) -> Option<Self> {
        let mut values: Vec<f64> = values.collect::<Option<_>>()?;
        values.sort_by(f64::total_cmp);
        let (min, max) = (*values.first()?, *values.last()?);
        let upper = values[values.len() / 2];
        let median = if values.len() % 2 == 1 { upper } else { (values[values.len() / 2 - 1] + upper) / 2.0 };
        Some(Self { median, min, max })
    }

    fn map(self, f: impl Fn(f64) -> f64) -> Self {
        Self { median: f(self.median), min: f(self.min), max: f(self.max) }
    }

    fn to_json(self) -> Value {
        json!({ "median": self.median, "min": self.min, "max": self.max })
    }
}

/// One line, in the units that it is reported in.
struct Line {
    wall_s: Spread,
    cpu_s: Option<Spread>,
    tokens_per_s: Spread,
    bytes_per_token: f64,
    flops_per_token: f64,
    share_of_reads: f64,
    share_of_peak: f64,
}

impl Line {
    fn new(series: &Series, limits: &Limits) -> Option<Self> {
        let wall_s = Spread::new(series.rounds.iter().map(|r| Some(r.wall_s)))?;
        let n = series.cell.n_total() as f64;
        let rate = wall_s.map(|s| n / s);
        Some(Self {
            wall_s,
            cpu_s: Spread::new(series.rounds.iter().map(|r| r.cpu_s)),
            // The shortest time is the highest rate.
            tokens_per_s: Spread { min: rate.max, max: rate.min, ..rate },
            bytes_per_token: series.work.bytes as f64 / n,
            flops_per_token: series.work.flops as f64 / n,
            share_of_reads: series.work.bytes as f64 / wall_s.median / limits.read_bytes_per_s,
            share_of_peak: series.work.flops as f64 / wall_s.median / limits.arithmetic().1,
        })
    }
}

impl Report<'_> {
    pub(super) fn to_json(&self) -> Value {
        let (config, parameters) = (&self.source.config, counts::parameters(&self.source.config));
        json!({
            "machine": {
                "cpu_level": self.cpu.level().name(),
                "threads": self.cpu.n_threads(),
                "read_bytes_per_s": self.limits.read_bytes_per_s,
                "f32_flops": self.limits.f32_flops,
                "int8_ops": self.limits.int8_ops.map(|(_, ops)| ops),
                "int8_format": self.limits.int8_ops.map(|(format, _)| format.name()),
            },
            "model": {
                "path": self.source.path,
                "family": config.family.model_type(),
                "parameters": { "total": parameters.total, "active": parameters.active },
                "bytes": self.weight_bytes(),
                "by_type": stored_json(&self.source.stored_by_type()),
                "bytes_per_decoded_token": self.weights.per_token(config),
            },
            "cache": {
                "format": self.options.row_format.name(),
                "bytes_per_token": self.options.token_bytes(config),
                "bytes": self.options.cache_bytes(config),
            },
            "start": {
                "load_s": self.start.load_s,
                "first_token_s": self.start.first_token_s,
                "prompt_tokens": self.start.n_prompt,
            },
            "profiles": self.profiles.iter().map(Profile::to_json).collect::<Vec<_>>(),
            "memory": {
                "anonymous_bytes": self.anonymous_bytes,
                "activation_bytes": self.options.workspace_bytes(config),
            },
            "chunk": self.options.chunk,
            "results": self.series.iter().map(|s| self.series_json(s)).collect::<Vec<_>>(),
            "vs": self.vs_json(),
            "check_passed": self.series.iter().all(|s| s.check.passed()),
        })
    }

    fn series_json(&self, series: &Series) -> Value {
        let cell = &series.cell;
        let mut object = json!({
            "kind": cell.kind.name(), "depth": cell.depth, "batch": cell.batch, "tokens_per_sequence": cell.n_tokens,
        });
        let check = json!({
            "passed": series.check.passed(), "finite": series.check.finite, "repeats": series.check.repeats,
            "as_alone": series.check.as_alone, "logits_difference_max": series.check.logits_difference_max,
        });
        let figures = Line::new(series, &self.limits).map(|line| {
            json!({
                "rounds": series.rounds.len(),
                "wall_s": line.wall_s.to_json(),
                "cpu_s": line.cpu_s.map(Spread::to_json),
                "tokens_per_s": line.tokens_per_s.to_json(),
                "bytes_per_token": line.bytes_per_token,
                "flops_per_token": line.flops_per_token,
                "share_of_reads": line.share_of_reads,
                "peak": self.limits.arithmetic().0,
                "share_of_peak": line.share_of_peak,
                "check": check,
            })
        });
        if let (Some(object), Some(Value::Object(figures))) = (object.as_object_mut(), figures) {
            object.extend(figures);
        }
        object
    }

    fn vs_json(&self) -> Value {
        let Some(command) = self.vs else { return Value::Null };
        let side = |side: fn(&Pair) -> Spent| {
            let wall_s = Spread::new(self.pairs.iter().map(|p| Some(side(p).wall_s))).map(Spread::to_json);
            json!({ "wall_s": wall_s, "cpu_s": Spread::new(self.pairs.iter().map(|p| side(p).cpu_s)).map(Spread::to_json) })
        };
        let [wall, cpu] = self.ratios();
        json!({
            "command": command, "pairs": self.pairs.len(), "ours": side(|p| p.ours), "theirs": side(|p| p.theirs),
            "wall_ratio": wall.map(Spread::to_json), "cpu_ratio": cpu.map(Spread::to_json),
        })
    }

    /// Theirs over ours, pair by pair, in wall and processor time.
    fn ratios(&self) -> [Option<Spread>; 2] {
        let wall = self.pairs.iter().map(|p| Some(p.theirs.wall_s / p.ours.wall_s));
        let cpu = self.pairs.iter().map(|p| Some(p.theirs.cpu_s? / p.ours.cpu_s?));
        [Spread::new(wall), Spread::new(cpu)]
    }

    fn weight_bytes(&self) -> u64 {
        self.source.stored_by_type().values().map(|stored| stored.bytes).sum()
    }

    pub(super) fn to_text(&self) -> String {
        let (mut out, config) = (String::new(), &self.source.config);
        let mut line = |name: &str, value: String| {
            let _ = writeln!(out, "{name:<10} {value}");
        };
        let (level, n_threads) = (self.cpu.level().name(), self.cpu.n_threads());
        let (reads, gflops) = (bytes(self.limits.read_bytes_per_s as u64), self.limits.f32_flops / 1e9);
        let int8 = self.limits.int8_ops.map(|(format, ops)| format!(", int8 {:.0} GOP/s ({format})", ops / 1e9));
        let int8 = int8.unwrap_or_default();
        line("machine", format!("{level}, {n_threads} threads; reads {reads}/s, f32 {gflops:.0} GFLOP/s{int8}"));
        line("model", format!("{}, {}", self.source.path.display(), config.family.model_type()));
        let mut by_type: Vec<_> = self.source.stored_by_type().into_iter().collect();
        by_type.sort_by_key(|(_, stored)| std::cmp::Reverse(stored.bytes));
        let mix: Vec<String> = by_type.iter().map(|(name, stored)| format!("{name} {}", bytes(stored.bytes))).collect();
        line("weights", format!("{}: {}", bytes(self.weight_bytes()), mix.join(", ")));
        let (per_token, cached) = (self.weights.per_token(config), self.options.token_bytes(config));
        let format = self.options.row_format.name();
        line("per token", format!("{} of weights, {} bytes of {format} cache", bytes(per_token), grouped(cached)));
        let Start { load_s, first_token_s, n_prompt } = self.start;
        line("start", format!("ready after {load_s:.2} s, first token of {n_prompt} after {first_token_s:.2} s"));
        let anonymous = self.anonymous_bytes.map_or("unknown".into(), bytes);
        let (cache, activations) = (self.options.cache_bytes(config), self.options.workspace_bytes(config));
        line("memory", format!("{anonymous} own; cache {}, activations {}", bytes(cache), bytes(activations)));
        out.push('\n');
        self.table(&mut out);
        self.vs_text(&mut out);
        self.profiles.iter().for_each(|profile| profile.write_text(&mut out));
        out
    }

    fn table(&self, out: &mut String) {
        let _ = writeln!(
            out,
            "{:<8}{:>7}{:>6}{:>7} {:>10} {:>21} {:>11} {:>12} {:>7} {:>6}  answers",
            "",
            "depth",
            "batch",
            "tokens",
            "tokens/s",
            "min … max",
            "CPU ms/tok",
            "MB/token",
            "% reads",
            format!("% {}", self.limits.arithmetic().0)
        );
        for series in self.series {
            let (cell, Some(line)) = (&series.cell, Line::new(series, &self.limits)) else { continue };
            let rate = line.tokens_per_s;
            let cpu_ms = line.cpu_s.map_or("-".into(), |s| format!("{:.2}", 1e3 * s.median / cell.n_total() as f64));
            let _ = writeln!(
                out,
                "{:<8}{:>7}{:>6}{:>7} {:>10.2} {:>21} {:>11} {:>12.2} {:>7.1} {:>6.1}  {}",
                cell.kind.name(),
                cell.depth,
                cell.batch,
                cell.n_tokens,
                rate.median,
                format!("{:.2} … {:.2}", rate.min, rate.max),
                cpu_ms,
                line.bytes_per_token / 1e6,
                100.0 * line.share_of_reads,
                100.0 * line.share_of_peak,
                verdict(series)
            );
        }
    }

    fn vs_text(&self, out: &mut String) {
        let [Some(wall), cpu] = self.ratios() else { return };
        let _ = writeln!(out, "\nagainst    {}", self.vs.unwrap_or_default());
        for (i, Pair { ours, theirs }) in self.pairs.iter().enumerate() {
            let cpu_s = |spent: &Spent| spent.cpu_s.map_or("unknown".into(), |s| format!("{s:.2} s"));
            let _ = writeln!(
                out,
                "round {:<4} ours {:.2} s, CPU {}; theirs {:.2} s, CPU {}",
                i + 1,
                ours.wall_s,
                cpu_s(ours),
                theirs.wall_s,
                cpu_s(theirs)
            );
        }
        let ratio = |r: Spread| format!("{:.2} ({:.2} … {:.2})", r.median, r.min, r.max);
        let cpu = cpu.map_or("unknown".into(), ratio);
        let _ = writeln!(out, "theirs over ours: wall {}, CPU {cpu}", ratio(wall));
    }
}

/// Whether the answers hold, in a word or more.
fn verdict(series: &Series) -> String {
    let check = &series.check;
    let failures = [
        (!check.finite, "not finite"),
        (!check.repeats, "rounds differ"),
        (!check.as_alone, "batch differs from alone"),
    ];
    let said: Vec<&str> = failures.iter().filter(|(failed, _)| *failed).map(|(_, word)| *word).collect();
    if said.is_empty() { "ok".into() } else { said.join(", ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spreads_are_medians_and_extremes() {
        let spread = |values: &[f64]| Spread::new(values.iter().map(|v| Some(*v)));
        assert_eq!(spread(&[3.0, 1.0, 2.0]), Some(Spread { median: 2.0, min: 1.0, max: 3.0 }));
        assert_eq!(spread(&[4.0, 1.0]), Some(Spread { median: 2.5, min: 1.0, max: 4.0 }));
        assert_eq!(spread(&[]), None);
        assert_eq!(Spread::new([Some(1.0), None].into_iter()), None);
    }
}
