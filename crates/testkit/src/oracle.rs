//! Tiny models with outputs that nobody here computed: made by transformers in f32 from random weights.
//!
//! Owns reading them and running a device over them. Must not loosen a tolerance for a device.

use std::path::{Path, PathBuf};

use checkpoint::Checkpoint;
use engine::{Session, SessionOptions, argmax};
pub use model::Form;
use model::{Config, Model};
use ops::{Device, RowFormat};

use crate::training::Training;

/// Largest difference of a logit accepted from any device that computes in f32.
pub const LOGIT_TOLERANCE: f32 = 5e-4;

/// One oracle folder.
pub struct Oracle {
    /// Its folder's name.
    pub name: String,
    dir: PathBuf,
    reference: Checkpoint,
}

/// One prompt with what the reference computed for it.
pub struct Prompt {
    /// a, b or c.
    pub name: String,
    /// Token ids.
    pub ids: Vec<u32>,
    /// Positions whose logits are stored.
    pub logit_pos: Vec<usize>,
    /// `[logit_pos, vocab]`
    pub logits: Vec<f32>,
    /// Prompt and greedy continuation.
    pub greedy_ids: Vec<u32>,
    /// `[T − 1, vocab]`: at index i the distribution of token i + 2, where the model has an MTP module.
    pub mtp_logits: Option<Vec<f32>>,
}

/// The folder of the oracles that are part of the repository.
#[must_use]
pub fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/oracles")
}

/// The folder of further oracles, each with one switch of its config set otherwise.
#[must_use]
pub fn switches() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/switches")
}

/// All oracles in a folder, by name.
///
/// # Panics
/// If the folder cannot be read or holds none
#[must_use]
pub fn oracles(folder: &Path) -> Vec<Oracle> {
    let entries = std::fs::read_dir(folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    let mut dirs: Vec<PathBuf> = entries.map(|e| e.expect("a readable folder").path()).collect();
    dirs.retain(|dir| dir.join("ref.safetensors").exists());
    dirs.sort();
    assert!(!dirs.is_empty(), "no oracles in {}", folder.display());
    let open = |dir: PathBuf| Oracle {
        name: dir.file_name().map_or_else(String::new, |n| n.to_string_lossy().into_owned()),
        reference: Checkpoint::open(dir.join("ref.safetensors")).expect("a readable oracle"),
        dir,
    };
    dirs.into_iter().map(open).collect()
}

impl Oracle {
    /// Loads the oracle's model.
    ///
    /// # Errors
    /// The loader's own message
    pub fn load<D: Device>(&self, dev: &D) -> Result<Model<D>, String> {
        let describe = |e: &dyn std::fmt::Display| format!("{}: {e}", self.name);
        let weights = Checkpoint::open(&self.dir).map_err(|e| describe(&e))?;
        model::load(dev, self.config("config.json")?, &weights).map_err(|e| describe(&e))
    }

    /// Loads the same model from a GGUF file, which brings its own config.
    ///
    /// # Errors
    /// The loader's own message
    pub fn load_gguf<D: Device>(&self, dev: &D, file: &Path) -> Result<Model<D>, String> {
        let weights = Checkpoint::open(file).map_err(|e| e.to_string())?;
        let config = Config::from_gguf(&weights).map_err(|e| format!("{}: {e}", file.display()))?;
        model::load(dev, config, &weights).map_err(|e| e.to_string())
    }

    /// One of the oracle's config files.
    ///
    /// # Errors
    /// The reader's own message
    pub fn config(&self, file: &str) -> Result<Config, String> {
        let json = checkpoint::read_config(self.dir.join(file)).map_err(|e| e.to_string())?;
        Config::from_json(&json).map_err(|e| format!("{}: {e}", self.name))
    }

    /// The oracle's model file and config, for whoever loads it otherwise.
    ///
    /// # Errors
    /// The reader's own message
    pub fn weights(&self) -> Result<(Config, Checkpoint), String> {
        let weights = Checkpoint::open(&self.dir).map_err(|e| format!("{}: {e}", self.name))?;
        Ok((self.config("config.json")?, weights))
    }

    /// What the reference computed in training; none where the oracle has no such part.
    #[must_use]
    pub fn training(&self) -> Option<Training> {
        Training::read(&self.dir)
    }

    /// The stored prompts.
    ///
    /// # Panics
    /// If a stored tensor is missing
    #[must_use]
    pub fn prompts(&self) -> Vec<Prompt> {
        let tensor = |kind: &str, name: &str| self.reference.tensor(&format!("{kind}.{name}"));
        let ids = |kind: &str, name: &str| -> Vec<u32> {
            let values = tensor(kind, name).expect("a stored tensor").to_i64().expect("integers");
            values.into_iter().map(|v| u32::try_from(v).expect("an id")).collect()
        };
        let floats = |kind: &str, name: &str| tensor(kind, name).map(|t| t.to_f32().expect("floats"));
        ["a", "b", "c"]
            .into_iter()
            .filter(|name| tensor("prompt_ids", name).is_some())
            .map(|name| Prompt {
                name: name.to_owned(),
                ids: ids("prompt_ids", name),
                logit_pos: ids("logit_pos", name).into_iter().map(|p| p as usize).collect(),
                logits: floats("logits", name).expect("stored logits"),
                greedy_ids: ids("greedy_ids", name),
                mtp_logits: floats("mtp_logits", name),
            })
            .collect()
    }
}

/// How far a device was from the reference on one prompt.
#[derive(Clone, Copy, Debug)]
pub struct Deviation {
    /// Largest |Δ| of the stored logits.
    pub logits: f32,
    /// Largest |Δ| of the stored MTP logits.
    pub mtp_logits: Option<f32>,
    /// Whether the greedy continuation is the stored one.
    pub same_greedy: bool,
}

/// The logits behind each token of a sequence, `[T, vocab]`, as the engine computes them.
///
/// # Panics
/// If the device fails
#[must_use]
pub fn logits<D: Device>(dev: &D, model: &Model<D>, ids: &[u32], form: Form, chunk: usize) -> Vec<f32> {
    let options = SessionOptions { n_context: ids.len(), chunk, form, row_format: RowFormat::F32 };
    let mut session = Session::new(dev, model, options).expect("memory");
    let mut logits = Vec::new();
    session.push_all(ids, |row| logits.extend_from_slice(row), |_| {}).expect("logits");
    logits
}

/// Runs a prompt and compares everything stored for it.
///
/// # Panics
/// If the device fails
#[must_use]
pub fn compare<D: Device>(dev: &D, model: &Model<D>, prompt: &Prompt, form: Form, chunk: usize) -> Deviation {
    let vocab = model.config.vocab_size;
    let options = SessionOptions { n_context: prompt.greedy_ids.len(), chunk, form, row_format: RowFormat::F32 };
    let mut session = Session::new(dev, model, options).expect("memory");
    let (mut logits, mut mtp_logits) = (Vec::new(), Vec::new());
    let keep_mtp = |row: &[f32]| mtp_logits.extend_from_slice(row);
    session.push_all(&prompt.ids, |row| logits.extend_from_slice(row), keep_mtp).expect("logits");
    let stored: Vec<f32> =
        prompt.logit_pos.iter().flat_map(|p| logits[p * vocab..(p + 1) * vocab].iter().copied()).collect();
    let mut next = argmax(&logits[logits.len() - vocab..]);
    while session.tokens().len() + 1 < prompt.greedy_ids.len() {
        next = argmax(session.push(&[next]).expect("logits"));
    }
    let mut greedy = session.tokens().to_vec();
    greedy.push(next);
    Deviation {
        logits: max_difference(&stored, &prompt.logits),
        mtp_logits: prompt.mtp_logits.as_ref().map(|reference| max_difference(&mtp_logits, reference)),
        same_greedy: greedy == prompt.greedy_ids,
    }
}

/// Largest |a − b|; a NaN on either side, or unequal lengths, are infinitely far.
#[must_use]
pub fn max_difference(a: &[f32], b: &[f32]) -> f32 {
    if a.len() != b.len() {
        return f32::INFINITY;
    }
    let distance = |(x, y): (&f32, &f32)| if x.is_nan() || y.is_nan() { f32::INFINITY } else { (x - y).abs() };
    a.iter().zip(b).map(distance).fold(0.0, f32::max)
}
