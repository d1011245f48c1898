//! The routed experts: tokens grouped by expert, so that every weight row is read once per step.
//!
//! Two passes over the chosen experts' weights: gate, up and their product together, then down; between them every pick's
//! hidden row waits in scratch. Owns that plan. Must not route.

use std::ops::Range;

use ops::{ExpertWeights, WeightMatrix};

use super::products::{Part, Rounded, Rows, Source};
use super::{Cpu, Routes};
use crate::kernel::int::UNIT;
use crate::kernel::matmul::Outputs;
use crate::kernel::swiglu::Swiglu;
use crate::pool::{Shared32, shared};

/// Picks of one expert: positions in the routes, all with the same id.
fn groups(routes: &Routes, n_picks: usize) -> impl Iterator<Item = &[u32]> {
    let same = |a: &u32, b: &u32| routes.ids[*a as usize] == routes.ids[*b as usize];
    routes.by_expert[..n_picks].chunk_by(same)
}

pub(super) fn run(
    cpu: &Cpu,
    x: &[f32],
    n_rows: usize,
    routes: &Routes,
    w: &ExpertWeights<WeightMatrix>,
    out: &mut [f32],
) {
    let (Some(gate), Some(down)) = (w.w_gate.first(), w.w_down.first()) else { return };
    let (d, width, n_picks) = (gate.cols, gate.rows, n_rows * routes.top_k);
    assert_eq!((down.rows, down.cols), (d, width));
    let (some_gate, some_up, some_down) = (&w.w_gate[0], &w.w_up[0], &w.w_down[0]);
    cpu.shared_scratch.lend(0, 2 * n_picks * width, |hidden| {
        let (gate, up) = hidden.split_at_mut(n_picks * width);
        cpu.round(Source { values: x, stride: d, n: n_rows, cols: d }, &[some_gate, some_up], |x| {
            let (gate, up) = (shared(gate), shared(up));
            each_unit(cpu, routes, n_picks, width.div_ceil(UNIT), &|worker, expert, picks, units| {
                let rows = Rows { first: 0, stride: 1, picks: Some((picks, routes.top_k)), n: picks.len() };
                part(cpu, worker, &w.w_gate[expert], &units, x, rows, gate, picks);
                part(cpu, worker, &w.w_up[expert], &units, x, rows, up, picks);
                for &pick in picks {
                    let start = pick as usize * width;
                    let part = start + units.start * UNIT..start + (units.end * UNIT).min(width);
                    cpu.level.run(Swiglu { gate: &gate[part.clone()], up: &up[part] });
                }
            });
        });
        cpu.shared_scratch.lend(1, n_picks * d, |y| {
            cpu.round(Source { values: gate, stride: width, n: n_picks, cols: width }, &[some_down], |x| {
                let y = shared(y);
                each_unit(cpu, routes, n_picks, d.div_ceil(UNIT), &|worker, expert, picks, units| {
                    let rows = Rows { first: 0, stride: 1, picks: Some((picks, 1)), n: picks.len() };
                    part(cpu, worker, &w.w_down[expert], &units, x, rows, y, picks);
                });
            });
            cpu.pool.split_rows(out, n_rows, d, &|_, first, out| {
                for (t, out) in out.chunks_exact_mut(d).enumerate() {
                    let picks = (first + t) * routes.top_k..(first + t + 1) * routes.top_k;
                    out.fill(0.0);
                    for p in picks {
                        let weight = routes.weights[p];
                        out.iter_mut().zip(&y[p * d..]).for_each(|(o, y)| *o += weight * y);
                    }
                }
            });
        });
    });
}

/// `job(worker, expert, its picks, some of its units)`
type UnitJob<'a> = &'a (dyn Fn(usize, usize, &[u32], Range<usize>) + Sync);

/// All experts' units of weight rows, weighted by their picks, in one line that is cut evenly.
fn each_unit(cpu: &Cpu, routes: &Routes, n_picks: usize, n_units: usize, job: UnitJob<'_>) {
    // A unit costs its unpacking, about as much as one pick, and its picks.
    let cost = |picks: &[u32]| 1 + picks.len();
    let total: usize = groups(routes, n_picks).map(|picks| n_units * cost(picks)).sum();
    cpu.pool.split(total, &|worker, line| {
        let mut at = 0;
        for picks in groups(routes, n_picks) {
            let (start, cost) = (at, cost(picks));
            at += n_units * cost;
            // A unit belongs to the part of the line that holds its beginning.
            let unit = |place: usize| place.saturating_sub(start).div_ceil(cost).min(n_units);
            let units = unit(line.start)..unit(line.end);
            if !units.is_empty() {
                job(worker, routes.ids[picks[0] as usize] as usize, picks, units);
            }
        }
    });
}

/// Some units of one expert's matrix with its picks; the result of each pick goes to the pick's own row.
#[expect(clippy::too_many_arguments, reason = "one private call three times, all arguments distinct in type")]
fn part(
    cpu: &Cpu,
    worker: usize,
    w: &WeightMatrix,
    units: &Range<usize>,
    x: &Rounded<'_>,
    rows: Rows<'_>,
    out: &[Shared32],
    picks: &[u32],
) {
    let w_rows = units.start * UNIT..(units.end * UNIT).min(w.rows);
    let out = Outputs { values: out, stride: w.rows, start: 0, places: Some(picks) };
    cpu.part(worker, Part { w, w_rows, first: 0, bias: None, out }, x, rows);
}
