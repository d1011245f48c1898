//! A model on disk that training starts from: a folder or a GGUF file.
//!
//! Owns reading its config, weights and tokenizer in the forms that training wants: weights decoded to f32, the tokenizer
//! as the two files of a folder. Must not know recipes.

use std::fs;
use std::path::{Path, PathBuf};

use checkpoint::gguf::Metadata;
use checkpoint::{Checkpoint, Kind};
use model::{Config, LoadError};
use serde_json::Value;
use text::{GgufVocab, TokenizerError};

use crate::Net;
use crate::bpe::TokenizerFiles;

/// Why a model's tokenizer cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum TextError {
    /// A file cannot be read.
    #[error("{}: cannot read the tokenizer: {source}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// The model's file is damaged, or lacks a key.
    #[error(transparent)]
    File(#[from] checkpoint::Error),
    /// A file is no tokenizer.
    #[error("{}: {source}", path.display())]
    Tokenizer {
        /// Which.
        path: PathBuf,
        /// What is the matter.
        source: TokenizerError,
    },
    /// A file is no JSON.
    #[error("{}: {problem}", path.display())]
    Json {
        /// Which.
        path: PathBuf,
        /// What is the matter.
        problem: String,
    },
}

/// A GGUF file's vocabulary and chat template.
///
/// # Errors
/// A key is missing, or of another type
pub fn vocab(metadata: &Metadata) -> Result<GgufVocab, checkpoint::Error> {
    let texts = |key: &str| -> Result<Vec<String>, checkpoint::Error> {
        let found = metadata.optional::<Vec<&str>>(key)?.unwrap_or_default();
        Ok(found.into_iter().map(str::to_owned).collect())
    };
    Ok(GgufVocab {
        model: metadata.required::<&str>("tokenizer.ggml.model")?.to_owned(),
        pre: metadata.optional::<&str>("tokenizer.ggml.pre")?.unwrap_or("default").to_owned(),
        tokens: texts("tokenizer.ggml.tokens")?,
        token_types: metadata.optional("tokenizer.ggml.token_type")?,
        merges: texts("tokenizer.ggml.merges")?,
        bos_token_id: metadata.optional("tokenizer.ggml.bos_token_id")?,
        eos_token_id: metadata.optional("tokenizer.ggml.eos_token_id")?,
        add_bos_token: metadata.optional("tokenizer.ggml.add_bos_token")?,
        chat_template: metadata.optional::<&str>("tokenizer.chat_template")?.map(str::to_owned),
    })
}

/// The tokenizer of a GGUF model, as the files of a folder. `model` is its name in errors.
///
/// # Errors
/// The vocabulary is missing or cannot be used
pub fn tokenizer_of(model: &Path, metadata: &Metadata) -> Result<TokenizerFiles, TextError> {
    let refused = |source| TextError::Tokenizer { path: model.to_owned(), source };
    let [tokenizer, config] = vocab(metadata)?.to_files().map_err(refused)?;
    Ok(TokenizerFiles { tokenizer, config })
}

/// The tokenizer of a model, a folder or a file of weights: its files where it lies in a folder, made from the metadata
/// where it is in a GGUF file. A chat template in a file of its own goes into tokenizer_config.json.
///
/// # Errors
/// A file is missing, cannot be read, or is not what its name says
pub fn tokenizer(model: &Path) -> Result<TokenizerFiles, TextError> {
    if !model.is_dir() && model.extension().is_some_and(|extension| extension == "gguf") {
        let file = Checkpoint::open(model)?;
        if let Some(metadata) = file.gguf() {
            return tokenizer_of(model, metadata);
        }
    }
    let folder = if model.is_dir() { model } else { model.parent().unwrap_or(Path::new(".")) };
    let read = |name: &str| {
        let path = folder.join(name);
        fs::read(&path).map_err(|source| TextError::Read { path, source })
    };
    let (tokenizer, mut config) = (read("tokenizer.json")?, read("tokenizer_config.json")?);
    if folder.join("chat_template.jinja").is_file() {
        let path = folder.join("tokenizer_config.json");
        let wrong = |e: serde_json::Error| TextError::Json { path: path.clone(), problem: e.to_string() };
        let mut json: Value = serde_json::from_slice(&config).map_err(wrong)?;
        if !json.is_object() {
            return Err(TextError::Json { path, problem: "expected an object".into() });
        }
        json["chat_template"] = String::from_utf8_lossy(&read("chat_template.jinja")?).into();
        config = format!("{json:#}\n").into_bytes();
    }
    Ok(TokenizerFiles { tokenizer, config })
}

/// A model's config, whatever its form.
///
/// # Errors
/// It is not there, or of a kind that is not computed
pub fn config(model: &Path) -> Result<Config, LoadError> {
    config_of(model, &Checkpoint::open(model)?)
}

fn config_of(model: &Path, file: &Checkpoint) -> Result<Config, LoadError> {
    Ok(match file.kind() {
        Kind::Gguf => Config::from_gguf(file)?,
        Kind::Safetensors => {
            let folder = if model.is_dir() { model } else { model.parent().unwrap_or(Path::new(".")) };
            Config::from_json(&checkpoint::read_config(folder)?)?
        }
    })
}

/// A model's places and weights, and its config.json.
///
/// # Errors
/// It is not there, is of a kind that is not computed or that config.json has no words for, or does not fit into memory
pub fn load(model: &Path) -> Result<(Net, Value, Vec<f32>), LoadError> {
    let file = Checkpoint::open(model)?;
    let config = config_of(model, &file)?;
    let (net, params) = crate::load(config, &file)?;
    let json = model::export::config_json(&net.config)?;
    Ok((net, json, params))
}
