//! The curves of a run, drawn into a grid of characters.
//!
//! Owns which curves there are, how much of them is kept, and how they are laid out. Must not read files or the clock, and
//! must not write to a terminal.

use train::log::StepRecord;
use train::rl::RlStats;

use super::grid::{Colour, Grid};

/// Points of a curve that are kept: more than a terminal shows. Beyond it neighbours become their mean.
const POINTS_MAX: usize = 1024;
/// Smallest panel that says something.
const PANEL_WIDTH_MIN: usize = 34;
const PANEL_HEIGHT_MIN: usize = 7;
/// Largest panel: beyond it nothing more is seen.
const PANEL_HEIGHT_MAX: usize = 14;
/// Columns of the numbers left of a plot.
const SCALE_WIDTH: usize = 9;
const COLOURS: [Colour; 2] = [Colour::First, Colour::Second];

/// What a curve shows of a step.
type Pick = fn(&StepRecord) -> Option<f64>;

/// A panel: its title, which stages it belongs to, and one or two curves with their names.
struct Panel {
    title: &'static str,
    of: Stages,
    curves: &'static [(&'static str, Pick)],
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stages {
    /// Those that learn from data.
    Data,
    /// Those that learn from own samples.
    Samples,
    Both,
}

fn rl(record: &StepRecord, pick: fn(&RlStats) -> f64) -> Option<f64> {
    record.rl.as_ref().map(pick)
}

/// The mean over all sources of what is held out.
fn held_out(record: &StepRecord) -> Option<f64> {
    let values: Vec<f64> = record.held_out.iter().flatten().filter_map(|(_, value)| value.as_f64()).collect();
    (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
}

/// In the order of their weight: where there is room for some alone, the first are shown.
const PANELS: [Panel; 11] = [
    Panel { title: "reward", of: Stages::Samples, curves: &[("", |r| rl(r, |rl| rl.reward))] },
    Panel {
        title: "right answers",
        of: Stages::Samples,
        curves: &[("sampled", |r| rl(r, |rl| rl.accuracy)), ("held out", held_out)],
    },
    Panel { title: "tokens of an answer", of: Stages::Samples, curves: &[("", |r| rl(r, |rl| rl.length))] },
    Panel { title: "entropy", of: Stages::Samples, curves: &[("", |r| rl(r, |rl| rl.entropy))] },
    Panel { title: "KL", of: Stages::Samples, curves: &[("", |r| rl(r, |rl| rl.kl))] },
    Panel { title: "clipped tokens", of: Stages::Samples, curves: &[("", |r| rl(r, |rl| rl.clip_fraction))] },
    Panel { title: "loss", of: Stages::Data, curves: &[("training", |r| Some(r.loss)), ("held out", held_out)] },
    Panel { title: "learning rate", of: Stages::Both, curves: &[("", |r| Some(r.lr))] },
    Panel { title: "gradient norm", of: Stages::Both, curves: &[("", |r| Some(r.grad_norm))] },
    Panel {
        title: "expert load / mean",
        of: Stages::Both,
        curves: &[
            ("busiest", |r| r.expert_load.map(|load| load.max_over_mean)),
            ("idlest", |r| r.expert_load.map(|load| load.min_over_mean)),
        ],
    },
    Panel { title: "minimised", of: Stages::Samples, curves: &[("", |r| Some(r.loss))] },
];

/// Points of one curve, in bounded memory.
#[derive(Clone, Debug, Default)]
struct Curve {
    points: Vec<(f64, f64)>,
    /// Steps that a point stands for.
    stride: usize,
    /// Sum and number of those that are no point yet.
    open: (f64, usize),
}

impl Curve {
    fn push(&mut self, step: f64, value: f64) {
        if !value.is_finite() {
            return;
        }
        self.stride = self.stride.max(1);
        self.open = (self.open.0 + value, self.open.1 + 1);
        if self.open.1 < self.stride {
            return;
        }
        self.points.push((step, self.open.0 / self.open.1 as f64));
        self.open = (0.0, 0);
        if self.points.len() == POINTS_MAX {
            let halves = self.points.chunks_exact(2).map(|pair| (pair[1].0, (pair[0].1 + pair[1].1) / 2.0));
            self.points = halves.collect();
            self.stride *= 2;
        }
    }
}

/// What is known of a run's curves.
#[derive(Debug)]
pub(super) struct Plots {
    /// By panel and curve.
    curves: Vec<[Curve; 2]>,
    last: Option<StepRecord>,
}

impl Plots {
    pub(super) fn new() -> Self {
        Self { curves: vec![Default::default(); PANELS.len()], last: None }
    }

    /// The step that was seen last.
    pub(super) fn last(&self) -> Option<&StepRecord> {
        self.last.as_ref()
    }

    /// Takes in a step. One that is not behind the last begins anew: the run went on from an earlier checkpoint.
    pub(super) fn push(&mut self, record: &StepRecord) {
        if self.last.as_ref().is_some_and(|last| record.step <= last.step) {
            self.rewind(record.step);
        }
        let kind = kind(record);
        for (panel, curves) in PANELS.iter().zip(&mut self.curves).filter(|(panel, _)| panel.shows(kind)) {
            for ((_, pick), curve) in panel.curves.iter().zip(curves) {
                if let Some(value) = pick(record) {
                    curve.push(record.step as f64, value);
                }
            }
        }
        self.last = Some(record.clone());
    }

    /// Forgets `step` and what came after it.
    fn rewind(&mut self, step: u64) {
        for curve in self.curves.iter_mut().flatten() {
            curve.points.retain(|(at, _)| *at < step as f64);
            curve.open = (0.0, 0);
        }
    }

    /// The panels of the stage that is under way, below a line of text, in at most that many columns and rows.
    pub(super) fn draw(&self, heading: &str, [width, height]: [usize; 2]) -> Grid {
        let Some(last) = &self.last else {
            let mut grid = Grid::new(width, height.min(1));
            grid.put([0, 0], heading, Colour::Bold);
            return grid;
        };
        let kind = kind(last);
        let shown = PANELS.iter().zip(&self.curves);
        let shown: Vec<_> = shown.filter(|(panel, curves)| panel.shows(kind) && !curves[0].points.is_empty()).collect();
        let n_columns = (width / PANEL_WIDTH_MIN).clamp(1, 3).min(shown.len().max(1));
        let n_rows_max = (height.saturating_sub(1) / PANEL_HEIGHT_MIN).max(1);
        let n_rows = shown.len().div_ceil(n_columns).min(n_rows_max);
        let panel_height = (height.saturating_sub(1) / n_rows.max(1)).min(PANEL_HEIGHT_MAX);
        let panel_width = width / n_columns;
        let mut grid = Grid::new(width, (1 + n_rows * panel_height).min(height));
        grid.put([0, 0], heading, Colour::Bold);
        for (i, (panel, curves)) in shown.into_iter().take(n_columns * n_rows).enumerate() {
            let at = [i % n_columns * panel_width, 1 + i / n_columns * panel_height];
            panel.draw(curves, last, (at, [panel_width, panel_height]), &mut grid);
        }
        grid
    }
}

fn kind(record: &StepRecord) -> Stages {
    if record.rl.is_some() { Stages::Samples } else { Stages::Data }
}

impl Panel {
    fn shows(&self, stage: Stages) -> bool {
        self.of == Stages::Both || self.of == stage
    }

    /// A title with the newest values, the curves below it, and their scales.
    fn draw(&self, curves: &[Curve; 2], last: &StepRecord, (at, size): ([usize; 2], [usize; 2]), grid: &mut Grid) {
        let mut end = grid.put(at, self.title, Colour::Bold);
        for (((name, pick), colour), curve) in self.curves.iter().zip(COLOURS).zip(curves) {
            let newest = pick(last).filter(|value| value.is_finite()).or(curve.points.last().map(|(_, value)| *value));
            let Some(value) = newest else { continue };
            let gap = if name.is_empty() { "" } else { " " };
            end = grid.put([end + 2, at[1]], &format!("{name}{gap}{}", short(value)), colour);
        }
        // Below the title the plot, then the steps, then a free line.
        let (Some(width), Some(height)) = (size[0].checked_sub(SCALE_WIDTH + 2), size[1].checked_sub(3)) else {
            return;
        };
        if width == 0 || height == 0 {
            return;
        }
        let points = || curves.iter().flat_map(|curve| &curve.points);
        let x = bounds(points().map(|(step, _)| *step), 0.0);
        let y = bounds(points().map(|(_, value)| *value), 0.05);
        let [left, top] = [at[0] + SCALE_WIDTH, at[1] + 1];
        let right_aligned = |text: String| format!("{text:>width$} ", width = SCALE_WIDTH - 1);
        grid.put([at[0], top], &right_aligned(short(y[1])), Colour::Dim);
        grid.put([at[0], top + height - 1], &right_aligned(short(y[0])), Colour::Dim);
        grid.put([left, top + height], &short(x[0]), Colour::Dim);
        let to = short(x[1]);
        grid.put([left + width.saturating_sub(to.len()), top + height], &to, Colour::Dim);
        for (curve, colour) in curves.iter().zip(COLOURS) {
            grid.curve(([left, top], [width, height]), &curve.points, [x, y], colour);
        }
    }
}

/// Smallest and largest, apart even where all are equal, with a share of room on both sides.
fn bounds(values: impl Iterator<Item = f64>, room: f64) -> [f64; 2] {
    let [low, high] = values.fold([f64::INFINITY, f64::NEG_INFINITY], |[low, high], v| [low.min(v), high.max(v)]);
    if low > high {
        return [0.0, 1.0];
    }
    let room = if high > low { (high - low) * room } else { (high.abs() * 0.1).max(1e-9) };
    [low - room, high + room]
}

/// A number in at most seven characters or so.
fn short(value: f64) -> String {
    let size = value.abs();
    match () {
        () if size == 0.0 => "0".to_owned(),
        () if !(1e-3..1e5).contains(&size) => format!("{value:.1e}"),
        () if size >= 100.0 || value.fract() == 0.0 => format!("{value:.0}"),
        () => format!("{value:.3}"),
    }
}

#[cfg(test)]
mod tests {
    use train::log::ExpertLoad;

    use super::*;

    fn record(step: u64) -> StepRecord {
        let t = step as f64;
        StepRecord {
            step,
            loss: 4.0 / (1.0 + t / 10.0),
            lr: 1e-3,
            grad_norm: 1.0 + (t / 5.0).sin(),
            expert_load: Some(ExpertLoad { max_over_mean: 1.5, min_over_mean: 0.5 }),
            held_out: step.is_multiple_of(10).then(|| [("sums".to_owned(), 2.0.into())].into_iter().collect()),
            ..StepRecord::default()
        }
    }

    fn sampled(step: u64) -> StepRecord {
        let rl = RlStats { reward: 0.25, accuracy: step as f64 / 200.0, length: 120.0, ..RlStats::default() };
        StepRecord { rl: Some(rl), ..record(step) }
    }

    fn drawn(plots: &Plots, width: usize, height: usize) -> String {
        plots.draw("recipe.toml", [width, height]).text(false)
    }

    #[test]
    fn panels_of_data_and_of_samples() {
        let mut plots = Plots::new();
        assert_eq!(drawn(&plots, 80, 24), "recipe.toml\n");
        (1..=100).for_each(|step| plots.push(&record(step)));
        let text = drawn(&plots, 120, 40);
        for said in ["recipe.toml", "loss  training 0.364  held out 2", "learning rate", "gradient norm", "busiest 1.5"]
        {
            assert!(text.contains(said), "{said:?} is not in\n{text}");
        }
        assert!(!text.contains("reward"), "{text}");
        let is_braille = |c: &char| ('\u{2801}'..='\u{28ff}').contains(c);
        assert!(text.chars().filter(is_braille).count() > 100, "{text}");
        (101..=150).for_each(|step| plots.push(&sampled(step)));
        let text = drawn(&plots, 160, 60);
        for said in
            ["reward  0.250", "right answers  sampled 0.750  held out 2", "tokens of an answer  120", "entropy", "KL"]
        {
            assert!(text.contains(said), "{said:?} is not in\n{text}");
        }
        assert!(text.contains("clipped tokens") && !text.contains("loss"), "{text}");
    }

    #[test]
    fn every_size_is_drawn() {
        let mut plots = Plots::new();
        (1..=30).for_each(|step| plots.push(&sampled(step)));
        for width in [0, 1, 5, 33, 34, 80, 200] {
            for height in [0, 1, 2, 3, 8, 24, 100] {
                let text = drawn(&plots, width, height);
                assert!(text.lines().count() <= height && text.lines().all(|l| l.chars().count() <= width));
            }
        }
    }

    #[test]
    fn long_runs_take_bounded_memory_and_keep_their_shape() {
        let mut curve = Curve::default();
        (0..100_000).for_each(|step| curve.push(f64::from(step), f64::from(step)));
        curve.push(1.0, f64::NAN);
        assert!(curve.points.len() < POINTS_MAX && curve.points.len() >= POINTS_MAX / 4);
        assert!(curve.points.iter().all(|(step, value)| (step - value).abs() <= curve.stride as f64));
    }

    #[test]
    fn a_run_that_went_back_is_drawn_once() {
        let mut plots = Plots::new();
        (1..=20).chain(11..=30).for_each(|step| plots.push(&record(step)));
        let lr = PANELS.iter().position(|panel| panel.title == "learning rate").unwrap();
        let steps: Vec<f64> = plots.curves[lr][0].points.iter().map(|(step, _)| *step).collect();
        assert_eq!(steps, (1..=30).map(f64::from).collect::<Vec<_>>());
    }
}
