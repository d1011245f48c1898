//! What steps cost: how much of a prompt is read between two tokens of the streams that run, and what drafts cost.
//!
//! Owns the estimates. They decide how a chunk's stages are spread over steps and how many drafts are tried, never what is
//! computed. Must not read a clock.

use std::time::Duration;

use crate::limits::DRAFT_MAX;

/// Time that reading may add to a step, in decode steps: a stream then waits 2.5 times its usual pace.
const STALL_MAX: f64 = 1.5;

/// Time of a step that only reads: commands are heard between steps.
const ALONE_SECS: f64 = 0.2;

/// Weight of the newest measurement.
const NEWEST: f64 = 0.1;

/// What a row adds to a decode step, as a share of a step of one row, until steps of different sizes have been seen.
const ROW_SHARE: f64 = 0.3;

/// Estimates, in seconds.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Pace {
    /// Weighted means over decode steps: rows, seconds, and their products.
    rows: f64,
    secs: f64,
    rows_rows: f64,
    rows_secs: f64,
    /// A stage of a chunk, per row.
    stage_per_row: f64,
}

impl Pace {
    /// A decode step of `n_rows` rows took so long.
    pub(crate) fn saw_decode(&mut self, n_rows: usize, took: Duration) {
        let (rows, secs) = (n_rows as f64, took.as_secs_f64());
        let newest = if self.secs == 0.0 { 1.0 } else { NEWEST };
        let blend = |mean: &mut f64, seen: f64| *mean += newest * (seen - *mean);
        blend(&mut self.rows, rows);
        blend(&mut self.secs, secs);
        blend(&mut self.rows_rows, rows * rows);
        blend(&mut self.rows_secs, rows * secs);
    }

    /// Stages of a chunk of `n_rows` rows took so long.
    pub(crate) fn saw_stages(&mut self, n_stages: usize, n_rows: usize, took: Duration) {
        let seen = took.as_secs_f64() / (n_stages * n_rows).max(1) as f64;
        let newest = if self.stage_per_row == 0.0 { 1.0 } else { 2.5 * NEWEST };
        self.stage_per_row += newest * (seen - self.stage_per_row);
    }

    /// How many stages of a chunk of `n_rows` the next step may run, at least one.
    pub(crate) fn n_stages(&self, n_rows: usize, decodes: bool) -> usize {
        let allowed = if decodes { STALL_MAX * self.secs } else { ALONE_SECS };
        let cost = self.stage_per_row * n_rows as f64;
        match cost > 0.0 {
            true => ((allowed / cost) as usize).max(1),
            false => 1,
        }
    }

    /// Time of a step of `n_rows` rows with k rows more, beside one without; by k.
    ///
    /// Steps are taken to cost a + b·rows; b comes from steps of different sizes (least squares), within what is possible.
    pub(crate) fn costs(&self, n_rows: usize) -> [f32; DRAFT_MAX + 1] {
        let spread = self.rows_rows - self.rows * self.rows;
        let prior = ROW_SHARE * self.secs / (1.0 + ROW_SHARE * (self.rows - 1.0)).max(1.0);
        let slope = match spread > 1e-3 {
            true => (self.rows_secs - self.rows * self.secs) / spread,
            false => prior,
        };
        let per_row = slope.clamp(0.0, self.secs / self.rows.max(1.0));
        let step = self.secs + per_row * (n_rows as f64 - self.rows);
        std::array::from_fn(|k| if step > 0.0 { (1.0 + per_row * k as f64 / step) as f32 } else { 1.0 + k as f32 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reading_gives_way_to_streams_and_always_advances() {
        let mut pace = Pace::default();
        assert_eq!(pace.n_stages(512, true), 1);
        pace.saw_decode(4, Duration::from_millis(100));
        pace.saw_stages(1, 512, Duration::from_millis(50));
        assert_eq!(pace.n_stages(512, true), 3);
        assert_eq!(pace.n_stages(64, true), 24);
        assert_eq!(pace.n_stages(512, false), 4);
        pace.saw_stages(1, 512, Duration::from_secs(100));
        assert_eq!(pace.n_stages(512, true), 1);
    }

    #[test]
    fn the_cost_of_a_row_is_learnt_from_steps_of_different_sizes() {
        let mut pace = Pace::default();
        assert_eq!(pace.costs(1)[2], 3.0);
        for i in 0..100 {
            let n_rows = 1 + i % 4;
            pace.saw_decode(n_rows, Duration::from_millis(80 + 20 * n_rows as u64));
        }
        let costs = pace.costs(1);
        assert!((costs[1] - 1.2).abs() < 1e-3 && (costs[5] - 2.0).abs() < 1e-3, "{costs:?}");
        assert!((pace.costs(6)[1] - 1.1).abs() < 1e-3);
    }
}
