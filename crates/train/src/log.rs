//! The record of a run: one JSON line per step, appended.
//!
//! Owns the file and its repair: a line is written in one call, so that readers meet whole lines, and a line cut short by a
//! kill is dropped when the run goes on. Steps after the checkpoint that a run resumes from are dropped too, so that each
//! step is there once.

use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Seek, SeekFrom, Write};
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::rl::RlStats;

/// What one step was like.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct StepRecord {
    /// Steps of the whole run, this one included.
    pub step: u64,
    /// The stage's number in the recipe, from 0.
    pub stage: usize,
    /// Tokens that were predicted in the run so far.
    pub tokens: u64,
    /// Mean cross-entropy of the next token, in nats; with reinforcement learning, what is minimised.
    pub loss: f64,
    /// The same of the MTP layers, without its weight.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtp_loss: Option<f64>,
    /// The balance loss, without its weight.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub balance_loss: Option<f64>,
    /// Norm of all gradients before clipping.
    pub grad_norm: f64,
    /// Learning rate.
    pub lr: f64,
    /// Tokens per second of this step.
    pub tokens_per_s: f64,
    /// Loads of the experts, where there are any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expert_load: Option<ExpertLoad>,
    /// What reinforcement learning sees of a step, where it is that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rl: Option<RlStats>,
    /// Where this step evaluated, by source: losses on what is held out, or with reinforcement learning the share of held
    /// out questions that are answered right.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held_out: Option<serde_json::Map<String, serde_json::Value>>,
}

/// How evenly the routers spread a batch, over all MoE layers; 1 is even.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct ExpertLoad {
    /// The busiest expert's load by the mean, in the worst layer.
    pub max_over_mean: f64,
    /// The idlest expert's load by the mean, in the worst layer.
    pub min_over_mean: f64,
}

impl ExpertLoad {
    /// The spread of `layers`, each the tokens that its experts received; `None` without a layer that received any.
    #[must_use]
    pub fn of(layers: &[Vec<u64>]) -> Option<Self> {
        let spread = |loads: &Vec<u64>| {
            let mean = loads.iter().sum::<u64>() as f64 / loads.len() as f64;
            let (max, min) = (loads.iter().max()?, loads.iter().min()?);
            (mean > 0.0).then(|| (*max as f64 / mean, *min as f64 / mean))
        };
        let spreads = layers.iter().filter_map(spread);
        let worst = spreads.reduce(|a, b| (a.0.max(b.0), a.1.min(b.1)));
        worst.map(|(max_over_mean, min_over_mean)| Self { max_over_mean, min_over_mean })
    }
}

/// An open record.
#[derive(Debug)]
pub struct StepLog {
    file: File,
}

impl StepLog {
    /// Opens the record at `path` for a run that has done `steps` steps: what it says of later ones is cut off, as is a
    /// line that is no record.
    ///
    /// # Errors
    /// The file cannot be opened, read or shortened
    pub fn open(path: &Path, steps: u64) -> io::Result<Self> {
        let mut file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
        let mut kept = 0;
        let mut reader = BufReader::new(&file);
        let mut line = Vec::new();
        loop {
            line.clear();
            let n_bytes = reader.read_until(b'\n', &mut line)?;
            let record: Option<StepRecord> = serde_json::from_slice(&line).ok();
            if n_bytes == 0 || !line.ends_with(b"\n") || record.is_none_or(|record| record.step > steps) {
                break;
            }
            kept += n_bytes as u64;
        }
        file.set_len(kept)?;
        file.seek(SeekFrom::Start(kept))?;
        Ok(Self { file })
    }

    /// Appends a step. A number that is not finite is written as `null`.
    ///
    /// # Errors
    /// The disk is full or gone
    pub fn append(&mut self, record: &StepRecord) -> io::Result<()> {
        let mut line = serde_json::to_vec(record)?;
        line.push(b'\n');
        self.file.write_all(&line)
    }

    /// Brings what was appended to the disk, which a checkpoint does before it speaks of these steps.
    ///
    /// # Errors
    /// The disk is full or gone
    pub fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(step: u64) -> StepRecord {
        StepRecord { step, loss: 2.5, lr: 1e-3, mtp_loss: (step == 2).then_some(3.0), ..StepRecord::default() }
    }

    #[test]
    fn steps_stand_once_whatever_happened() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log.jsonl");
        let mut log = StepLog::open(&path, 0).unwrap();
        (1..=5).for_each(|step| log.append(&record(step)).unwrap());
        log.sync().unwrap();
        let whole = std::fs::read(&path).unwrap();
        // Killed in the middle of a line, at every byte, and resumed from step 3.
        for n in 0..=whole.len() {
            std::fs::write(&path, &whole[..n]).unwrap();
            let mut log = StepLog::open(&path, 3).unwrap();
            let text = std::fs::read_to_string(&path).unwrap();
            let first = text.lines().count() as u64;
            assert!(first <= 3 && (text.is_empty() || text.ends_with('\n')));
            (first + 1..=5).for_each(|step| log.append(&record(step)).unwrap());
            assert_eq!(std::fs::read(&path).unwrap(), whole);
        }
        let lines: Vec<StepRecord> =
            String::from_utf8(whole).unwrap().lines().map(|l| serde_json::from_str(l).unwrap()).collect();
        assert_eq!(lines, (1..=5).map(record).collect::<Vec<_>>());
    }

    #[test]
    fn a_loss_that_is_no_number_leaves_a_line_that_can_be_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log.jsonl");
        StepLog::open(&path, 0).unwrap().append(&StepRecord { loss: f64::NAN, ..record(1) }).unwrap();
        let value: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        assert!(value["loss"].is_null());
        assert!(StepLog::open(&path, 0).is_ok());
    }

    #[test]
    fn loads() {
        let load = ExpertLoad::of(&[vec![2, 2], vec![3, 1], vec![0, 0]]).unwrap();
        assert_eq!((load.max_over_mean, load.min_over_mean), (1.5, 0.5));
        assert_eq!(ExpertLoad::of(&[]), None);
    }
}
