//! What `-m MODEL` names, opened.
//!
//! Owns finding config, weights, tokenizer and template of a model on disk. Must not print.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use checkpoint::gguf::Metadata;
use checkpoint::{Checkpoint, Kind};
use engine::ThinkingBudget;
use model::Config;
use ops::WeightFormat;
use text::{ChatTemplate, Message, RenderOptions, ThinkTokens, Tokenizer, TokenizerConfig};
use train::bpe::TokenizerFiles;

use crate::failure::Failure;
use crate::tiny;

/// The largest tokenizer file that is read; published ones have up to 35 MB.
const TOKENIZER_BYTES_MAX: u64 = 256 << 20;

/// The path that a model's name stands for.
///
/// # Errors
/// It is neither a path nor something this version can find by another name
pub(crate) fn locate(name: &str) -> Result<PathBuf, Failure> {
    let path = PathBuf::from(name);
    if path.exists() {
        return Ok(path);
    }
    let hint = if name.split('/').count() == 2 && !name.starts_with('.') && !name.ends_with(".gguf") {
        "; models are not downloaded yet: fetch it by other means and name its folder"
    } else {
        ""
    };
    Err(Failure::input(format!(
        "{name}: expected a folder with config.json and safetensors, a .gguf file, or tiny (the model inside this program), \
         found nothing there{hint}"
    )))
}

/// A model on disk: its config, and its weights if they are there.
#[derive(Debug)]
pub(crate) struct Source {
    pub(crate) path: PathBuf,
    pub(crate) config: Config,
    pub(crate) checkpoint: Option<Checkpoint>,
    /// Whether it is part of the program, so that there is no file of it.
    pub(crate) is_embedded: bool,
}

impl Source {
    /// Opens config and weights; a folder or file of config.json alone has no weights. `tiny` is the model inside the
    /// program (`./tiny` a folder of that name).
    pub(crate) fn open(name: &str) -> Result<Self, Failure> {
        if name == tiny::NAME {
            let checkpoint = tiny::open()?;
            let config = Config::from_gguf(&checkpoint)?;
            return Ok(Self { path: name.into(), config, checkpoint: Some(checkpoint), is_embedded: true });
        }
        let path = locate(name)?;
        let is_json = path.extension().is_some_and(|e| e == "json") && !name.ends_with(".index.json");
        if is_json || (path.is_dir() && !has_weights(&path)) {
            let config = Config::from_json(&checkpoint::read_config(&path)?)?;
            return Ok(Self { path, config, checkpoint: None, is_embedded: false });
        }
        let checkpoint = Checkpoint::open(&path)?;
        let mut config = match checkpoint.kind() {
            Kind::Gguf => Config::from_gguf(&checkpoint)?,
            Kind::Safetensors => Config::from_json(&checkpoint::read_config(folder_of(&path))?)?,
        };
        model::fit_to_file(&mut config, &checkpoint);
        Ok(Self { path, config, checkpoint: Some(checkpoint), is_embedded: false })
    }

    /// The weights.
    pub(crate) fn weights(&self) -> Result<&Checkpoint, Failure> {
        self.checkpoint.as_ref().ok_or_else(|| {
            let path = self.path.display();
            Failure::input(format!("{path}: expected weights (model.safetensors or .gguf), found only config.json"))
        })
    }

    /// What the files hold, by type; nothing where there are no weights.
    pub(crate) fn stored_by_type(&self) -> BTreeMap<String, Stored> {
        let mut by_type: BTreeMap<String, Stored> = BTreeMap::new();
        for tensor in self.checkpoint.iter().flat_map(Checkpoint::tensors) {
            let stored = by_type.entry(tensor.dtype.to_string()).or_default();
            stored.tensors += 1;
            stored.bytes += tensor.bytes.len() as u64;
        }
        by_type
    }

    /// The format in which most bytes of weights are stored.
    pub(crate) fn main_format(&self) -> Option<WeightFormat> {
        let (name, _) = self.stored_by_type().into_iter().max_by_key(|(_, stored)| stored.bytes)?;
        WeightFormat::ALL.into_iter().find(|format| format.name() == name)
    }

    /// The tokenizer's files, as a folder has them.
    pub(crate) fn tokenizer_files(&self) -> Result<TokenizerFiles, Failure> {
        Ok(match self.checkpoint.as_ref().and_then(Checkpoint::gguf) {
            Some(metadata) => train::pretrained::tokenizer_of(&self.path, metadata)?,
            None => train::pretrained::tokenizer(&self.path)?,
        })
    }

    /// Tokenizer and chat template.
    pub(crate) fn text(&self) -> Result<Text, Failure> {
        match self.weights()?.gguf() {
            Some(metadata) if self.is_embedded => Text::from_gguf(metadata, tiny::generation()),
            Some(metadata) => Text::from_gguf(metadata, serde_json::json!({})),
            None => Text::from_folder(folder_of(&self.path)),
        }
    }
}

/// Stored tensors of one type.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Stored {
    pub(crate) tensors: u64,
    pub(crate) bytes: u64,
}

/// As an object, type by type.
pub(crate) fn stored_json(by_type: &BTreeMap<String, Stored>) -> serde_json::Value {
    let entry = |(name, stored): (&String, &Stored)| {
        (name.clone(), serde_json::json!({ "tensors": stored.tensors, "bytes": stored.bytes }))
    };
    serde_json::Value::Object(by_type.iter().map(entry).collect())
}

fn has_weights(folder: &Path) -> bool {
    ["model.safetensors", "model.safetensors.index.json"].iter().any(|name| folder.join(name).exists())
}

fn folder_of(path: &Path) -> &Path {
    if path.is_dir() { path } else { path.parent().unwrap_or(Path::new(".")) }
}

/// How a model reads and writes text.
#[derive(Debug)]
pub(crate) struct Text {
    pub(crate) tokenizer: Arc<Tokenizer>,
    pub(crate) config: TokenizerConfig,
    pub(crate) template: Option<ChatTemplate>,
    /// generation_config.json, or an empty object.
    pub(crate) generation: serde_json::Value,
}

impl Text {
    fn from_folder(folder: &Path) -> Result<Self, Failure> {
        let Some(json) = read(folder, "tokenizer.json")? else {
            let file = folder.join("tokenizer.json");
            return Err(Failure::input(format!("{}: expected the model's tokenizer, found no file", file.display())));
        };
        let tokenizer = Tokenizer::from_json(&json)?;
        let mut config = match read(folder, "tokenizer_config.json")? {
            Some(json) => TokenizerConfig::from_json(&json)?,
            None => TokenizerConfig::default(),
        };
        if let Some(source) = read(folder, "chat_template.jinja")? {
            config.chat_template = Some(String::from_utf8_lossy(&source).into_owned());
        }
        let generation_file = folder.join("generation_config.json");
        let generation = match generation_file.exists() {
            true => checkpoint::read_config(generation_file)?,
            false => serde_json::json!({}),
        };
        Self::new(tokenizer, config, generation)
    }

    fn from_gguf(metadata: &Metadata, generation: serde_json::Value) -> Result<Self, Failure> {
        let vocab = train::pretrained::vocab(metadata)?;
        Self::new(Tokenizer::from_gguf(&vocab)?, TokenizerConfig::from_gguf(&vocab), generation)
    }

    fn new(tokenizer: Tokenizer, config: TokenizerConfig, generation: serde_json::Value) -> Result<Self, Failure> {
        let template = ChatTemplate::new(&config, &tokenizer)?;
        Ok(Self { tokenizer: Arc::new(tokenizer), config, template, generation })
    }

    /// Ids of text that is to be continued as it stands: plain, after the start-of-text token where the model wants it.
    pub(crate) fn encode_raw(&self, text: &str, model: &Config) -> Result<Vec<u32>, Failure> {
        let mut ids = self.tokenizer.encode_plain(text)?;
        if self.config.add_bos_token.unwrap_or(false) {
            ids.splice(0..0, self.config.bos_id(&self.tokenizer).or(model.bos_token_id));
        }
        Ok(ids)
    }

    /// Ids of a conversation up to where the model answers, and whether the answer begins inside the reasoning.
    /// `None` for models without a chat template.
    pub(crate) fn encode_chat(
        &self,
        messages: &[Message],
        extra: serde_json::Map<String, serde_json::Value>,
    ) -> Result<Option<(Vec<u32>, bool)>, Failure> {
        let Some(template) = &self.template else { return Ok(None) };
        let now = SystemTime::now().duration_since(UNIX_EPOCH).ok();
        let options = RenderOptions {
            add_generation_prompt: true,
            extra,
            now_unix_s: now.map(|now| now.as_secs() as i64),
            ..RenderOptions::default()
        };
        let rendered = template.render(messages, &options)?;
        Ok(Some((self.tokenizer.encode_rendered(&rendered)?, rendered.starts_in_reasoning())))
    }

    /// A budget of `soft` and at most `hard` tokens of reasoning, where the model has tokens around its reasoning.
    pub(crate) fn thinking_budget(&self, soft: usize, hard: usize) -> Result<Option<ThinkingBudget>, Failure> {
        let Some(think) = ThinkTokens::of(&self.tokenizer) else { return Ok(None) };
        let mut close = self.tokenizer.encode_plain("\n")?;
        close.push(think.close);
        close.extend(self.tokenizer.encode_plain("\n\n")?);
        let ends_line = |id: &u32| self.tokenizer.token_bytes(*id).is_some_and(|bytes| bytes.ends_with(b"\n"));
        let breaks = (0..self.tokenizer.vocab_size() as u32).filter(ends_line).collect();
        let (open_token, close_token) = (Some(think.open), think.close);
        Ok(Some(ThinkingBudget { open_token, close_token, close, breaks, soft, hard }))
    }

    /// Every token that ends an answer.
    pub(crate) fn end_tokens(&self, model: &Config) -> Vec<u32> {
        // Tokens that end a turn in the families' templates, whichever of them the files call eos.
        const TURN_ENDS: [&str; 5] =
            ["<｜end▁of▁sentence｜>", "<|im_end|>", "<|endoftext|>", "<|eot_id|>", "<|end_of_text|>"];
        let mut ids = model.eos_token_ids.clone();
        let from_generation = match &self.generation["eos_token_id"] {
            serde_json::Value::Array(ids) => ids.clone(),
            id => vec![id.clone()],
        };
        ids.extend(from_generation.iter().filter_map(|id| id.as_u64().and_then(|id| u32::try_from(id).ok())));
        ids.extend(self.config.eos_id(&self.tokenizer));
        ids.extend(TURN_ENDS.iter().filter_map(|token| self.tokenizer.added_token_id(token)));
        ids.sort_unstable();
        ids.dedup();
        ids
    }
}

/// A file of the folder, if it is there.
fn read(folder: &Path, name: &str) -> Result<Option<Vec<u8>>, Failure> {
    let path = folder.join(name);
    if !path.exists() {
        return Ok(None);
    }
    read_file(&path, TOKENIZER_BYTES_MAX).map(Some)
}

/// A whole file of at most `bytes_max` bytes.
pub(crate) fn read_file(path: &Path, bytes_max: u64) -> Result<Vec<u8>, Failure> {
    let name = path.display().to_string();
    let file = std::fs::File::open(path).map_err(|e| Failure::input(format!("{name}: cannot be read: {e}")))?;
    read_all(file, &name, bytes_max)
}

/// All that `input`, called `name` in errors, gives: at most `bytes_max` bytes.
pub(crate) fn read_all(input: impl Read, name: &str, bytes_max: u64) -> Result<Vec<u8>, Failure> {
    let mut bytes = Vec::new();
    let read = input.take(bytes_max + 1).read_to_end(&mut bytes);
    read.map_err(|e| Failure::input(format!("{name}: cannot be read: {e}")))?;
    if bytes.len() as u64 > bytes_max {
        return Err(Failure::input(format!("{name}: expected at most {bytes_max} bytes, found more")));
    }
    Ok(bytes)
}

/// As text, or the error that it is none.
pub(crate) fn utf8(bytes: Vec<u8>, name: &str) -> Result<String, Failure> {
    String::from_utf8(bytes).map_err(|e| Failure::input(format!("{name}: expected UTF-8 text: {e}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn input_is_read_up_to_its_limit() {
        assert_eq!(read_all(&b"four"[..], "stdin", 4).unwrap(), b"four");
        let error = read_all(std::io::repeat(b'x'), "stdin", 4).unwrap_err();
        assert!(matches!(&error, Failure::Input(e) if e.to_string() == "stdin: expected at most 4 bytes, found more"));
        assert!(utf8(vec![0xff], "stdin").is_err());
    }
}
