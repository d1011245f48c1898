//! A run as it goes on, seen: plots in a terminal, lines where there is none.
//!
//! Owns when something is shown and where; also of a run that another process is training, whose log is read. Must not
//! train.

use std::fs::File;
use std::io::{BufRead, BufReader, IsTerminal, Seek, SeekFrom};
use std::path::Path;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use train::log::StepRecord;
use train::recipe::{Recipe, Stage};
use train::run::RunLock;

use super::plots::Plots;
use crate::failure::{Failure, remark};

/// Time between two looks at a log, and between two drawings.
const PAUSE: Duration = Duration::from_millis(300);
/// Lines of a whole run, about, where they stand for the plots.
const LINES: u64 = 100;
/// What is taken where the terminal does not say.
const SIZE: [usize; 2] = [100, 30];

/// Shows a run.
pub(super) struct Watch {
    name: String,
    n_steps: u64,
    plots: Plots,
    /// The place of the plots; none where stderr is no terminal.
    screen: Option<ProgressBar>,
    drawn: Option<Instant>,
    /// Seconds of a step, lately.
    step_seconds: Option<f64>,
}

impl Watch {
    pub(super) fn new(recipe: &Recipe) -> Self {
        let screen = std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::new_spinner();
            let style = ProgressStyle::with_template("{msg}");
            style.map_or_else(|_| bar.clone(), |style| bar.clone().with_style(style))
        });
        Self {
            name: recipe.file.display().to_string(),
            n_steps: recipe.stages.iter().map(Stage::n_steps).sum(),
            plots: Plots::new(),
            screen,
            drawn: None,
            step_seconds: None,
        }
    }

    /// Takes in what a run's log says already, if there is one.
    pub(super) fn read_before(&mut self, recipe: &Recipe) {
        let Ok(mut log) = LogReader::open(&recipe.output.join("log.jsonl")) else { return };
        while let Some(record) = log.next() {
            self.plots.push(&record);
        }
    }

    /// Shows a step.
    pub(super) fn step(&mut self, record: &StepRecord) {
        let before = self.plots.last().filter(|last| last.step + 1 == record.step).map(|last| last.tokens);
        if let Some(seconds) = before.map(|before| (record.tokens.saturating_sub(before)) as f64 / record.tokens_per_s)
        {
            self.step_seconds = Some(self.step_seconds.map_or(seconds, |mean| 0.9 * mean + 0.1 * seconds));
        }
        self.plots.push(record);
        match &self.screen {
            None => {
                let every = self.n_steps.div_ceil(LINES).max(1);
                if record.step.is_multiple_of(every) || record.held_out.is_some() || record.step == self.n_steps {
                    remark(&format!("{}\n", line(record, self.n_steps)));
                }
            }
            Some(_) if self.drawn.is_some_and(|drawn| drawn.elapsed() < PAUSE) && record.step < self.n_steps => {}
            Some(screen) => {
                let [columns, rows] = terminal_size();
                let size = [columns.saturating_sub(1), rows.saturating_sub(2)];
                screen.set_message(self.plots.draw(&self.heading(record), size).text(true).trim_end().to_owned());
                self.drawn = Some(Instant::now());
            }
        }
    }

    /// Says something beside the plots.
    pub(super) fn say(&self, text: &str) {
        match &self.screen {
            Some(screen) => screen.println(text),
            None => remark(&format!("{text}\n")),
        }
    }

    /// Leaves the last plots where they are.
    pub(super) fn finish(&self) {
        self.screen.iter().for_each(ProgressBar::abandon);
    }

    fn heading(&self, record: &StepRecord) -> String {
        let left = self.n_steps.saturating_sub(record.step) as f64;
        let left = self.step_seconds.map(|seconds| format!("  {} left", duration(seconds * left))).unwrap_or_default();
        let (step, of, stage, rate) = (record.step, self.n_steps, record.stage, record.tokens_per_s);
        format!("{}  step {step} of {of}, stage {stage}  {rate:.0} tokens/s{left}", self.name)
    }
}

/// What a step was like, as a line.
fn line(record: &StepRecord, n_steps: u64) -> String {
    let StepRecord { step, loss, lr, grad_norm, tokens_per_s, .. } = record;
    let mut line = format!("step {step} of {n_steps}: loss {loss:.4}  lr {lr:.2e}  |g| {grad_norm:.2}");
    if let Some(rl) = &record.rl {
        line += &format!(
            "  reward {:.3}  right {:.3}  length {:.0}  entropy {:.3}  clipped {:.4}  KL {:.4}",
            rl.reward, rl.accuracy, rl.length, rl.entropy, rl.clip_fraction, rl.kl
        );
    }
    if let Some(load) = &record.expert_load {
        line += &format!("  load {:.2}", load.max_over_mean);
    }
    line += &format!("  {tokens_per_s:.0} tokens/s");
    if let Some(held_out) = record.held_out.as_ref().filter(|held_out| !held_out.is_empty()) {
        line += &format!("; held out: {}", super::by_source(held_out));
    }
    line
}

fn duration(seconds: f64) -> String {
    let minutes = (seconds / 60.0).ceil() as u64;
    if minutes < 60 { format!("{minutes} min") } else { format!("{} h {:02} min", minutes / 60, minutes % 60) }
}

/// Columns and rows.
fn terminal_size() -> [usize; 2] {
    console::Term::stderr().size_checked().map_or(SIZE, |(rows, columns)| [columns.into(), rows.into()])
}

/// Reads the lines of a log that another process is writing.
struct LogReader {
    reader: BufReader<File>,
    /// Bytes of whole lines that were read.
    n_bytes: u64,
}

impl LogReader {
    fn open(path: &Path) -> std::io::Result<Self> {
        Ok(Self { reader: BufReader::new(File::open(path)?), n_bytes: 0 })
    }

    /// The next whole line; none while there is none. A log that was cut, because its run went on from an earlier
    /// checkpoint, is read from its beginning again.
    fn next(&mut self) -> Option<StepRecord> {
        let n_now = self.reader.get_ref().metadata().ok()?.len();
        if n_now < self.n_bytes {
            self.n_bytes = 0;
        }
        self.reader.seek(SeekFrom::Start(self.n_bytes)).ok()?;
        loop {
            let mut line = Vec::new();
            self.reader.read_until(b'\n', &mut line).ok()?;
            if !line.ends_with(b"\n") {
                return None;
            }
            self.n_bytes += line.len() as u64;
            // A loss that is no number is written as null: there is nothing to draw.
            if let Ok(record) = serde_json::from_slice(&line) {
                return Some(record);
            }
        }
    }
}

/// Follows a run that another process is training, to its end.
///
/// # Errors
/// The log is there and cannot be opened
pub(super) fn follow(recipe: &Recipe) -> Result<(), Failure> {
    let mut watch = Watch::new(recipe);
    watch.say(&format!("{}: another process is training here, and is followed", recipe.output.display()));
    let path = recipe.output.join("log.jsonl");
    let mut log = None;
    loop {
        // Asked before the log is read: what it writes between the two is read too.
        let is_active = RunLock::is_held(&recipe.output);
        if log.is_none() && path.exists() {
            let opened = LogReader::open(&path);
            log = Some(opened.map_err(|e| Failure::input(format!("{}: cannot be read: {e}", path.display())))?);
        }
        while let Some(record) = log.as_mut().and_then(LogReader::next) {
            watch.step(&record);
        }
        if !is_active {
            watch.finish();
            return Ok(());
        }
        std::thread::sleep(PAUSE);
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    fn record(step: u64) -> StepRecord {
        StepRecord { step, loss: 2.0, ..StepRecord::default() }
    }

    #[test]
    fn a_log_is_read_as_it_grows_and_after_it_was_cut() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log.jsonl");
        let mut file = File::create(&path).unwrap();
        let mut log = LogReader::open(&path).unwrap();
        assert_eq!(log.next(), None);
        let line = |step| serde_json::to_string(&record(step)).unwrap() + "\n";
        for step in 1..=3 {
            let line = line(step);
            let (first, second) = line.split_at(9);
            file.write_all(first.as_bytes()).unwrap();
            assert_eq!(log.next(), None, "half a line");
            file.write_all(second.as_bytes()).unwrap();
            assert_eq!(log.next(), Some(record(step)));
        }
        let diverged = StepRecord { loss: f64::NAN, ..record(4) };
        file.write_all(format!("{}\n{}", serde_json::to_string(&diverged).unwrap(), line(5)).as_bytes()).unwrap();
        assert_eq!(log.next(), Some(record(5)), "what cannot be drawn is passed over");
        file.set_len(line(1).len() as u64).unwrap();
        assert_eq!(log.next(), Some(record(1)));
        assert_eq!(log.next(), None);
    }

    #[test]
    fn lines_say_what_a_stage_has() {
        let found = line(&record(7), 20);
        assert!(found.starts_with("step 7 of 20: loss 2.0000") && !found.contains("reward"), "{found}");
        let rl = Some(train::rl::RlStats { reward: 0.5, ..Default::default() });
        let held_out = Some([("sums".to_owned(), 0.25.into())].into_iter().collect());
        let found = line(&StepRecord { rl, held_out, ..record(7) }, 20);
        assert!(found.contains("reward 0.500") && found.ends_with("; held out: sums 0.2500"), "{found}");
    }

    #[test]
    fn durations() {
        assert_eq!([duration(1.0), duration(3599.0), duration(3661.0)], ["1 min", "1 h 00 min", "1 h 02 min"]);
    }
}
