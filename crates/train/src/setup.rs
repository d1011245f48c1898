//! From a recipe to what a training loop reads: its tokenizer, its sources, the rows of a stage.
//!
//! Owns the order of these steps and where a trained tokenizer is kept. Must not touch models or weights.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::bpe::{self, BpeError, TokenizerFiles};
use crate::data::{self, DataError, Definition, Encoder, Packer, PackerSpec, Source, VerifierSpec};
use crate::hash;
use crate::pretrained::{self, TextError};
use crate::recipe::{Recipe, Stage, StageKind};
use crate::rl::{Asked, Judge, QuestionSet, QuestionSource};
use crate::rng::Rng;
use crate::split::Split;

/// Bytes of text that a tokenizer learns from, of each source, where the recipe says nothing.
const BYTES_PER_SOURCE: usize = 16 << 20;
/// The files of a tokenizer, in its folder.
const FILES: [&str; 2] = ["tokenizer.json", "tokenizer_config.json"];
/// Written last: a hash of what the tokenizer was trained from.
const MADE_FROM: &str = "made_from";

/// Why a recipe's data cannot be made ready.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// A source is not as it should be.
    #[error(transparent)]
    Data(#[from] DataError),
    /// No tokenizer can be trained.
    #[error("[tokenizer]: {0}")]
    Bpe(#[from] BpeError),
    /// A file of the tokenizer cannot be written.
    #[error(transparent)]
    Write(#[from] checkpoint::Error),
    /// The tokenizer of the model that training starts from.
    #[error(transparent)]
    Pretrained(#[from] TextError),
    /// A file of the tokenizer cannot be read.
    #[error("{}: cannot read the tokenizer: {source}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// Training starts from a model, and it has no tokenizer beside it.
    #[error("the recipe names no tokenizer and the model brings none; add [tokenizer] with `from`")]
    NoTokenizer,
}

/// The recipe's tokenizer: read where it lies, or trained into `OUTPUT/tokenizer` unless it is there from an earlier run
/// of the same data. `model` is the model that training starts from, if it does.
///
/// # Errors
/// A source or file is not as it should be, or there is too little text for the vocabulary
pub fn tokenizer(recipe: &Recipe, model: Option<&Path>) -> Result<TokenizerFiles, SetupError> {
    let spec = &recipe.tokenizer;
    let Some(vocab_size) = spec.vocab_size else {
        let from = spec.from.as_deref().or(model).ok_or(SetupError::NoTokenizer)?;
        return Ok(pretrained::tokenizer(from)?);
    };
    let names: Vec<&String> = match &spec.sources {
        Some(names) => names.iter().collect(),
        None => recipe.data.keys().collect(),
    };
    let bytes = spec.bytes_per_source.unwrap_or(BYTES_PER_SOURCE);
    let mut texts = Vec::new();
    for name in names {
        if let Some(definition) = recipe.data.get(name) {
            texts.extend(data::texts(definition, recipe.seed, recipe.held_out, bytes)?);
        }
    }
    let parts: Vec<&[u8]> = texts.iter().map(String::as_bytes).collect();
    let made_from = hash::hex(&[hash::hex(&parts).as_bytes(), &vocab_size.to_le_bytes()]);
    let folder = recipe.output.join("tokenizer");
    if fs::read_to_string(folder.join(MADE_FROM)).is_ok_and(|found| found == made_from)
        && let Ok(files) = read(&folder)
    {
        return Ok(files);
    }
    let files = bpe::train(texts.into_iter(), vocab_size)?;
    write(&folder, &files, &made_from)?;
    Ok(files)
}

fn read(folder: &Path) -> Result<TokenizerFiles, SetupError> {
    let read = |name: &str| {
        let path = folder.join(name);
        fs::read(&path).map_err(|source| SetupError::Read { path, source })
    };
    Ok(TokenizerFiles { tokenizer: read(FILES[0])?, config: read(FILES[1])? })
}

fn write(folder: &Path, files: &TokenizerFiles, made_from: &str) -> Result<(), SetupError> {
    fs::create_dir_all(folder).map_err(|source| SetupError::Read { path: folder.to_owned(), source })?;
    // What it was made from comes last, and goes first: the files in between are never believed half changed.
    let _ = fs::remove_file(folder.join(MADE_FROM));
    for (name, content) in
        [(FILES[0], &files.tokenizer[..]), (FILES[1], &files.config), (MADE_FROM, made_from.as_bytes())]
    {
        checkpoint::write::atomically(&folder.join(name).into(), |out| out.write_all(content))?;
    }
    Ok(())
}

/// The sources that any stage uses, made ready; those that a teacher still has to write are left out.
///
/// # Errors
/// A file or command is not as it should be, or the cache cannot be written
pub fn sources(recipe: &Recipe, encoder: &Arc<Encoder>) -> Result<BTreeMap<String, Source>, SetupError> {
    // Conversations that are only asked and judged are not tokenised: they need not have answers.
    let is_used = |(name, definition): &(&String, &Definition)| {
        let reads = |stage: &Stage| !stage.kind.samples() || matches!(definition, Definition::Task { .. });
        let is_written = !matches!(definition, Definition::Traces { .. });
        is_written && recipe.stages.iter().any(|stage| stage.uses(name) && reads(stage))
    };
    let used = recipe.data.iter().filter(is_used);
    used.map(|(name, definition)| {
        let source = data::prepare(name, definition, encoder, &recipe.cache, recipe.seed, recipe.held_out)?;
        Ok((name.clone(), source))
    })
    .collect()
}

fn spec(recipe: &Recipe, at: usize, stage: &Stage, side: Split, padding: u32) -> PackerSpec {
    let seed = stage.seed.unwrap_or_else(|| Rng::new(&[recipe.seed, at as u64]).next_u64());
    let only_learnt = stage.kind == StageKind::Sft;
    PackerSpec { sequence_length: stage.sequence_length, side, only_learnt, seed, padding }
}

/// The rows that stage `at` is trained on: `fill` it with [`Stage::n_rows`] for each step.
///
/// # Errors
/// A source has nothing to train on
///
/// # Panics
/// If the recipe has no such stage, or `sources` are another recipe's
pub fn training<'a>(
    recipe: &Recipe,
    at: usize,
    sources: &'a BTreeMap<String, Source>,
    encoder: &Encoder,
) -> Result<Packer<'a>, SetupError> {
    let stage = &recipe.stages[at];
    let weighted = match &stage.mixture {
        Some(mixture) => mixture.iter().map(|(name, weight)| (&sources[name], *weight)).collect(),
        None => sources.values().map(|source| (source, 1.0)).collect(),
    };
    Ok(Packer::new(weighted, spec(recipe, at, stage, Split::Train, encoder.eos()))?)
}

/// The questions of stage `at`, which samples, and who judges the answers of each source.
///
/// # Errors
/// A file of questions is not as it should be
///
/// # Panics
/// As [`training`]
pub fn questions<'a>(
    recipe: &Recipe,
    at: usize,
    sources: &'a BTreeMap<String, Source>,
    encoder: &Arc<Encoder>,
) -> Result<(QuestionSet<'a>, Vec<Judge>), SetupError> {
    let stage = &recipe.stages[at];
    let format_share = stage.samples().map_or(0.0, |samples| samples.format_share);
    let (mut found, mut judges) = (Vec::new(), Vec::new());
    for (name, definition) in recipe.data.iter().filter(|(name, _)| stage.uses(name)) {
        let weight = stage.mixture.as_ref().map_or(1.0, |mixture| mixture[name]);
        let (source, verifier) = match definition {
            Definition::Chat { files, verifier } => {
                let source = QuestionSource::asked(name, weight, asked(files)?, recipe.held_out);
                if source.len(Split::Train) == Some(0) {
                    let advice = "give it conversations, or lower the share that is held out";
                    return Err(DataError::Empty { name: name.clone(), side: "training", advice }.into());
                }
                (Some(source), verifier.as_ref())
            }
            _ => (QuestionSource::task(&sources[name], weight), None),
        };
        found.extend(source);
        judges.push(Judge { verifier: verifier.map(VerifierSpec::start), format_share, ..Judge::default() });
    }
    let seed = stage.seed.unwrap_or_else(|| Rng::new(&[recipe.seed, at as u64]).next_u64());
    Ok((QuestionSet::new(found, encoder.clone(), seed), judges))
}

/// The questions of some files of conversations.
pub(crate) fn asked(files: &[PathBuf]) -> Result<Vec<Asked>, DataError> {
    let mut asked = Vec::new();
    for path in files {
        data::examples(path, &mut |example, _| {
            asked.extend(example.messages.map(|messages| Asked::of(messages, example.data)));
            Ok(())
        })?;
    }
    Ok(asked)
}

/// The rows that stage `at` is evaluated on, by source: always the same, [`Stage::evaluate_rows`] of each. A source of
/// which nothing is held out is not among them.
///
/// # Errors
/// A source fails, or nothing it has fits into a row
///
/// # Panics
/// As [`training`]
pub fn evaluation(
    recipe: &Recipe,
    at: usize,
    sources: &BTreeMap<String, Source>,
    encoder: &Encoder,
) -> Result<BTreeMap<String, data::Rows>, SetupError> {
    let stage = &recipe.stages[at];
    let mut found = BTreeMap::new();
    for (name, source) in sources.iter().filter(|(name, _)| stage.uses(name)) {
        if recipe.held_out == 0.0 || source.n_documents(Split::HeldOut) == Some(0) {
            continue;
        }
        let mut packer = Packer::new(vec![(source, 1.0)], spec(recipe, at, stage, Split::HeldOut, encoder.eos()))?;
        let mut rows = data::Rows::default();
        packer.fill(stage.evaluate_rows, &mut rows)?;
        found.insert(name.clone(), rows);
    }
    Ok(found)
}
