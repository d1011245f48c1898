//! Checkpoints of a run: one folder `step-N` for each, complete or not there.
//!
//! ```text
//! RUN/step-00000040/run.json              step, stage, data position, hashes; written last
//!                   model.safetensors     tensors under their published names, f32; adapter_model.safetensors where
//!                                         adapters are trained
//!                   optimizer.safetensors the optimiser's arenas
//!                   …                     files that the caller adds (config.json, tokenizer)
//! ```
//! A checkpoint is written into a hidden folder beside it, every file brought to the disk, and renamed: a process that is
//! killed leaves either the whole or a hidden folder that the next one removes. `run.json` holds the length and SHA-256 of
//! the other files, so a checkpoint that a disk has damaged is seen, skipped with a warning, and the one before is taken.
//!
//! Owns the folder. Must not know what the tensors mean.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use checkpoint::write::Item;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::hash;

const STATE: &str = "run.json";
/// The weights of a checkpoint.
pub const WEIGHTS: &str = "model.safetensors";
/// The weights of a checkpoint of adapters, by PEFT's name.
pub const ADAPTERS: &str = "adapter_model.safetensors";
/// The optimiser's state.
pub const OPTIMIZER: &str = "optimizer.safetensors";
const VERSION: u32 = 1;
const PREFIX: &str = "step-";
const HIDDEN_PREFIX: &str = ".step-";

/// Why a checkpoint could not be written or read.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    /// A file or folder refuses.
    #[error("{}: cannot {doing}: {source}", path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// What was tried.
        doing: &'static str,
        /// The system's reason.
        source: io::Error,
    },
    /// A file of tensors refuses.
    #[error(transparent)]
    Tensors(#[from] checkpoint::Error),
    /// A checkpoint is not what it should be.
    #[error("{}: {problem}", path.display())]
    Damaged {
        /// Which.
        path: PathBuf,
        /// How.
        problem: String,
    },
}

fn io_at(path: &Path, doing: &'static str) -> impl FnOnce(io::Error) -> CheckpointError {
    let path = path.to_owned();
    move |source| CheckpointError::Io { path, doing, source }
}

/// Where a run is, beside its tensors.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RunState {
    /// Steps done in the run.
    pub step: u64,
    /// The stage that goes on, from 0.
    pub stage: usize,
    /// Steps done in that stage.
    pub stage_step: u64,
    /// Tokens predicted in the run.
    pub tokens: u64,
    /// Where the stage's data goes on.
    pub position: crate::data::Position,
    /// The generator of whatever draws while training.
    pub rng: crate::rng::Rng,
    /// [`crate::recipe::Recipe::fingerprint`] of the recipe that the run follows.
    pub recipe: String,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StateFile {
    version: u32,
    state: RunState,
    files: BTreeMap<String, FileSum>,
    /// Of the two above, as they are written here.
    sha256: String,
}

impl StateFile {
    fn sum(state: &RunState, files: &BTreeMap<String, FileSum>) -> serde_json::Result<String> {
        Ok(hash::hex(&[&serde_json::to_vec(state)?, &serde_json::to_vec(files)?]))
    }
}

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct FileSum {
    n_bytes: u64,
    sha256: String,
}

/// The folder of a run's checkpoints.
#[derive(Debug)]
pub struct Checkpoints {
    folder: PathBuf,
    n_kept: usize,
    weights: &'static str,
}

/// A checkpoint that was found whole.
#[derive(Debug)]
pub struct Found {
    /// Its folder.
    pub path: PathBuf,
    /// Where the run was.
    pub state: RunState,
}

impl Found {
    /// Its weights, [`WEIGHTS`] or [`ADAPTERS`].
    ///
    /// # Errors
    /// The file has changed since it was checked
    pub fn weights(&self, name: &str) -> Result<checkpoint::Checkpoint, CheckpointError> {
        Ok(checkpoint::Checkpoint::open(self.path.join(name))?)
    }

    /// The optimiser's arenas.
    ///
    /// # Errors
    /// The file has changed since it was checked
    pub fn optimizer(&self) -> Result<checkpoint::Checkpoint, CheckpointError> {
        Ok(checkpoint::Checkpoint::open(self.path.join(OPTIMIZER))?)
    }
}

impl Checkpoints {
    /// Opens the folder of a run, which is made if need be; what a killed process left half written is removed. The newest
    /// `n_kept` checkpoints are kept, at least one. `weights` is what their weights are called.
    ///
    /// # Errors
    /// The folder cannot be made, read or cleaned
    pub fn open(folder: &Path, n_kept: usize, weights: &'static str) -> Result<Self, CheckpointError> {
        fs::create_dir_all(folder).map_err(io_at(folder, "create the folder"))?;
        let checkpoints = Self { folder: folder.to_owned(), n_kept: n_kept.max(1), weights };
        for name in checkpoints.names()?.iter().filter(|name| name.starts_with(HIDDEN_PREFIX)) {
            let path = folder.join(name);
            fs::remove_dir_all(&path).map_err(io_at(&path, "remove what an earlier run left unfinished"))?;
        }
        Ok(checkpoints)
    }

    fn names(&self) -> Result<Vec<String>, CheckpointError> {
        let entries = fs::read_dir(&self.folder).map_err(io_at(&self.folder, "list the folder"))?;
        let names = entries.map(|entry| entry.map(|entry| entry.file_name().to_string_lossy().into_owned()));
        let mut names = names.collect::<Result<Vec<_>, _>>().map_err(io_at(&self.folder, "list the folder"))?;
        names.sort();
        Ok(names)
    }

    /// Steps of the checkpoints that are there, oldest first, whether they are whole or not.
    fn steps(&self) -> Result<Vec<u64>, CheckpointError> {
        let names = self.names()?;
        let mut steps: Vec<u64> = names.iter().filter_map(|name| name.strip_prefix(PREFIX)?.parse().ok()).collect();
        steps.sort_unstable();
        Ok(steps)
    }

    fn path(&self, step: u64) -> PathBuf {
        self.folder.join(format!("{PREFIX}{step:08}"))
    }

    /// Writes a checkpoint, then removes the oldest beyond those that are kept. `more` are small files to lie beside the
    /// tensors.
    ///
    /// # Errors
    /// The disk is full or gone, or `items` are not well formed; then every earlier checkpoint is as it was
    pub fn save(
        &self,
        state: &RunState,
        weights: &[Item<'_>],
        optimizer: &[Item<'_>],
        more: &[(&str, &[u8])],
    ) -> Result<PathBuf, CheckpointError> {
        let path = self.path(state.step);
        let hidden = self.folder.join(format!("{HIDDEN_PREFIX}{:08}", state.step));
        if hidden.exists() {
            fs::remove_dir_all(&hidden).map_err(io_at(&hidden, "remove an unfinished checkpoint"))?;
        }
        fs::create_dir(&hidden).map_err(io_at(&hidden, "create the folder"))?;
        let outcome = write_all(&hidden, state, (self.weights, weights), optimizer, more);
        let outcome = outcome.and_then(|()| self.publish(&hidden, &path));
        if outcome.is_err() {
            // A full disk gets its space back; the error is the first one.
            let _ = fs::remove_dir_all(&hidden);
        }
        outcome?;
        self.remove_old()?;
        Ok(path)
    }

    fn publish(&self, hidden: &Path, path: &Path) -> Result<(), CheckpointError> {
        sync(hidden)?;
        if path.exists() {
            // Of the same step: one that was found damaged, or the run was told to begin anew.
            fs::remove_dir_all(path).map_err(io_at(path, "replace the checkpoint"))?;
        }
        fs::rename(hidden, path).map_err(io_at(path, "move the finished checkpoint into place"))?;
        sync(&self.folder)
    }

    fn remove_old(&self) -> Result<(), CheckpointError> {
        let steps = self.steps()?;
        for step in &steps[..steps.len().saturating_sub(self.n_kept)] {
            // Renamed first: a kill in between leaves nothing that looks like a checkpoint.
            let (path, hidden) = (self.path(*step), self.folder.join(format!("{HIDDEN_PREFIX}{step:08}")));
            fs::rename(&path, &hidden).map_err(io_at(&path, "remove the old checkpoint"))?;
            fs::remove_dir_all(&hidden).map_err(io_at(&hidden, "remove the old checkpoint"))?;
        }
        Ok(())
    }

    /// The newest checkpoint that is whole; none in a new run. Each damaged one that was passed over is told to `warn`.
    ///
    /// # Errors
    /// The folder cannot be read
    pub fn newest(&self, warn: &mut dyn FnMut(&CheckpointError)) -> Result<Option<Found>, CheckpointError> {
        for step in self.steps()?.into_iter().rev() {
            let path = self.path(step);
            match read_state(&path, step, self.weights) {
                Ok(state) => return Ok(Some(Found { path, state })),
                Err(error) => warn(&error),
            }
        }
        Ok(None)
    }
}

fn write_all(
    folder: &Path,
    state: &RunState,
    (name, weights): (&str, &[Item<'_>]),
    optimizer: &[Item<'_>],
    more: &[(&str, &[u8])],
) -> Result<(), CheckpointError> {
    let none = BTreeMap::new();
    checkpoint::write::safetensors(folder.join(name), &none, weights)?;
    checkpoint::write::safetensors(folder.join(OPTIMIZER), &none, optimizer)?;
    let mut names = vec![name.to_owned(), OPTIMIZER.to_owned()];
    for (name, content) in more {
        write_file(&folder.join(name), content)?;
        names.push((*name).to_owned());
    }
    let mut files = BTreeMap::new();
    for name in names {
        let sum = sum_of(&folder.join(&name))?;
        files.insert(name, sum);
    }
    let path = folder.join(STATE);
    let sha256 = StateFile::sum(state, &files).map_err(|e| damaged(&path, &e))?;
    let state = StateFile { version: VERSION, state: state.clone(), files, sha256 };
    let text = serde_json::to_vec_pretty(&state).map_err(|e| damaged(&path, &e))?;
    write_file(&path, &text)
}

fn write_file(path: &Path, content: &[u8]) -> Result<(), CheckpointError> {
    use io::Write as _;
    Ok(checkpoint::write::atomically(&path.into(), |out| out.write_all(content))?)
}

fn damaged(path: &Path, problem: &dyn std::fmt::Display) -> CheckpointError {
    CheckpointError::Damaged { path: path.to_owned(), problem: problem.to_string() }
}

fn sum_of(path: &Path) -> Result<FileSum, CheckpointError> {
    let mut file = File::open(path).map_err(io_at(path, "open"))?;
    let mut hasher = Sha256::new();
    let mut chunk = vec![0; 1 << 18];
    let mut n_bytes = 0;
    loop {
        let n = file.read(&mut chunk).map_err(io_at(path, "read"))?;
        if n == 0 {
            break;
        }
        hasher.update(&chunk[..n]);
        n_bytes += n as u64;
    }
    let sha256 = hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(FileSum { n_bytes, sha256 })
}

/// Reads a checkpoint's state if every file is as it was written.
fn read_state(folder: &Path, step: u64, weights: &str) -> Result<RunState, CheckpointError> {
    let path = folder.join(STATE);
    let text = fs::read(&path).map_err(io_at(&path, "read"))?;
    let file: StateFile = serde_json::from_slice(&text).map_err(|e| damaged(&path, &e))?;
    if file.version != VERSION {
        return Err(damaged(&path, &format!("version {}, expected {VERSION}", file.version)));
    }
    if file.state.step != step {
        return Err(damaged(&path, &format!("is of step {}, expected {step} as the folder says", file.state.step)));
    }
    if StateFile::sum(&file.state, &file.files).map_err(|e| damaged(&path, &e))? != file.sha256 {
        return Err(damaged(&path, &"the content is not what was written"));
    }
    for required in [weights, OPTIMIZER] {
        if !file.files.contains_key(required) {
            return Err(damaged(&path, &format!("names no {required}")));
        }
    }
    for (name, expected) in &file.files {
        // A name is a file of this folder and nothing else.
        if name.contains(['/', '\\']) || name.starts_with('.') {
            return Err(damaged(&path, &format!("names the file {name:?}")));
        }
        let path = folder.join(name);
        if sum_of(&path)? != *expected {
            return Err(damaged(&path, &"the content is not what was written; the checkpoint before it is taken"));
        }
    }
    Ok(file.state)
}

/// Makes names durable, where a folder can be opened like a file.
fn sync(folder: &Path) -> Result<(), CheckpointError> {
    match File::open(folder) {
        Ok(handle) => handle.sync_all().or_else(|e| {
            // Some systems cannot; then a power cut may lose the renaming, and nothing else.
            if e.kind() == io::ErrorKind::Unsupported || e.kind() == io::ErrorKind::InvalidInput {
                Ok(())
            } else {
                Err(e)
            }
        }),
        Err(_) => Ok(()),
    }
    .map_err(io_at(folder, "bring the folder to the disk"))
}
