//! What verdicts add up to. Owns the counting and its two forms, a table's row and JSON. Must not judge.

use serde_json::{Value, json};

/// Quantile of the normal distribution that leaves out 5 %.
const Z: f64 = 1.959_964;

/// A set's counts.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Score {
    name: String,
    n_questions: usize,
    n_samples: usize,
    n_right: usize,
    /// Questions of which any sample is right.
    n_passed: usize,
    n_cut_off: usize,
    n_tokens: usize,
    pub(super) verifier_failures: u64,
    pub(super) seconds: f64,
}

/// Wilson's interval for `right` of `n`, at 95 %.
fn interval(right: usize, n: usize) -> [f64; 2] {
    let (p, n) = (right as f64 / n.max(1) as f64, n.max(1) as f64);
    let (middle, over) = (p + Z * Z / (2.0 * n), 1.0 + Z * Z / n);
    let half = Z * (p * (1.0 - p) / n + Z * Z / (4.0 * n * n)).sqrt();
    [((middle - half) / over).max(0.0), ((middle + half) / over).min(1.0)]
}

impl Score {
    pub(super) fn new(name: &str) -> Self {
        Self { name: name.to_owned(), ..Self::default() }
    }

    /// Counts a question: its samples' verdicts, tokens, and whether they were cut off.
    pub(super) fn add(&mut self, verdicts: &[bool], samples: impl Iterator<Item = (usize, bool)>) {
        self.n_questions += 1;
        self.n_samples += verdicts.len();
        self.n_right += verdicts.iter().filter(|right| **right).count();
        self.n_passed += usize::from(verdicts.contains(&true));
        for (n_tokens, is_cut_off) in samples {
            self.n_tokens += n_tokens;
            self.n_cut_off += usize::from(is_cut_off);
        }
    }

    fn accuracy(&self) -> f64 {
        self.n_right as f64 / self.n_samples.max(1) as f64
    }

    fn pass(&self) -> f64 {
        self.n_passed as f64 / self.n_questions.max(1) as f64
    }

    fn mean_tokens(&self) -> f64 {
        self.n_tokens as f64 / self.n_samples.max(1) as f64
    }

    pub(super) fn heading(samples: u16) -> String {
        let pass = if samples > 1 { format!("  {:>8}", format!("pass@{samples}")) } else { String::new() };
        format!(
            "{:<18} {:>9}  {:>8}  {:>15}{pass}  {:>8}  {:>8}\n",
            "task", "questions", "right", "95 %", "tokens", "cut off"
        )
    }

    pub(super) fn row(&self, samples: u16) -> String {
        let percent = |share: f64| format!("{:.1} %", 100.0 * share);
        let [low, high] = interval(self.n_right, self.n_samples);
        let pass = if samples > 1 { format!("  {:>8}", percent(self.pass())) } else { String::new() };
        let cut_off = self.n_cut_off as f64 / self.n_samples.max(1) as f64;
        let between = format!("{:.1} to {:.1} %", 100.0 * low, 100.0 * high);
        format!(
            "{:<18} {:>9}  {:>8}  {between:>15}{pass}  {:>8.0}  {:>8}\n",
            self.name,
            self.n_questions,
            percent(self.accuracy()),
            self.mean_tokens(),
            percent(cut_off),
        )
    }

    pub(super) fn to_json(&self) -> Value {
        json!({
            "task": self.name,
            "questions": self.n_questions,
            "samples": self.n_samples,
            "right": self.n_right,
            "accuracy": self.accuracy(),
            "interval_95": interval(self.n_right, self.n_samples),
            "pass": self.pass(),
            "cut_off": self.n_cut_off,
            "mean_tokens": self.mean_tokens(),
            "verifier_failures": self.verifier_failures,
            "seconds": self.seconds,
            "tokens_per_s": self.n_tokens as f64 / self.seconds.max(1e-9),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals_are_wilsons() {
        // R: binom::binom.wilson(c(0, 8, 10, 95), c(10, 10, 10, 100))
        for (right, n, expected) in [
            (0, 10, [0.0, 0.277_533]),
            (8, 10, [0.490_162, 0.943_318]),
            (10, 10, [0.722_467, 1.0]),
            (95, 100, [0.888_249, 0.978_464]),
        ] {
            let found = interval(right, n);
            assert!(found.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-5), "{right} of {n}: {found:?}");
        }
        assert!(interval(0, 0).iter().all(|p| p.is_finite()));
    }

    #[test]
    fn samples_and_questions_count_apart() {
        let mut score = Score::new("x");
        score.add(&[true, false], [(10, false), (20, true)].into_iter());
        score.add(&[false, false], [(30, false), (40, false)].into_iter());
        assert_eq!((score.accuracy(), score.pass(), score.mean_tokens(), score.n_cut_off), (0.25, 0.5, 25.0, 1));
    }
}
