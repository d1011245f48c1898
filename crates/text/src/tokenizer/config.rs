//! tokenizer_config.json: which tokens open and close a text, and the chat template. Owns reading those few keys
//! and their GGUF twins. Must not compile templates.

use serde::Deserialize;

use super::{GgufVocab, Tokenizer};
use crate::error::TemplateError;

/// What a tokenizer needs beside its vocabulary.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TokenizerConfig {
    /// Spelling of the token that opens a text.
    pub bos_token: Option<String>,
    /// Spelling of the token that ends a text or a turn.
    pub eos_token: Option<String>,
    /// Whether raw text is to be opened with `bos_token`. Chat templates write it themselves, whatever this says.
    pub add_bos_token: Option<bool>,
    /// Source of the chat template. Base models have none: complete raw text with them.
    pub chat_template: Option<String>,
}

#[derive(Deserialize)]
struct Document {
    bos_token: Option<TokenField>,
    eos_token: Option<TokenField>,
    add_bos_token: Option<bool>,
    chat_template: Option<TemplateField>,
}

/// A token is its spelling, or an object that holds it.
#[derive(Deserialize)]
#[serde(untagged)]
enum TokenField {
    Plain(String),
    Object { content: String },
}

/// A template is its source, or a list of named ones.
#[derive(Deserialize)]
#[serde(untagged)]
enum TemplateField {
    Source(String),
    Named(Vec<NamedTemplate>),
}

#[derive(Deserialize)]
struct NamedTemplate {
    name: String,
    template: String,
}

impl TokenizerConfig {
    /// Reads a tokenizer_config.json. Of several named templates, takes `default`.
    ///
    /// # Errors
    /// The bytes are not JSON, or one of the keys read here has another type.
    pub fn from_json(bytes: &[u8]) -> Result<Self, TemplateError> {
        let document: Document = serde_json::from_slice(bytes)
            .map_err(|source| TemplateError::Json { what: "tokenizer_config.json", source })?;
        let spelling = |field: Option<TokenField>| {
            field.map(|field| match field {
                TokenField::Plain(content) | TokenField::Object { content } => content,
            })
        };
        Ok(Self {
            bos_token: spelling(document.bos_token),
            eos_token: spelling(document.eos_token),
            add_bos_token: document.add_bos_token,
            chat_template: document.chat_template.and_then(|field| match field {
                TemplateField::Source(source) => Some(source),
                TemplateField::Named(list) => list.into_iter().find(|t| t.name == "default").map(|t| t.template),
            }),
        })
    }

    /// The same facts from GGUF metadata.
    #[must_use]
    pub fn from_gguf(vocab: &GgufVocab) -> Self {
        let spelling = |id: Option<u32>| id.and_then(|id| vocab.tokens.get(id as usize)).cloned();
        Self {
            bos_token: spelling(vocab.bos_token_id),
            eos_token: spelling(vocab.eos_token_id),
            add_bos_token: vocab.add_bos_token,
            chat_template: vocab.chat_template.clone(),
        }
    }

    /// The id of `bos_token`, if it is an added token of `tokenizer`.
    #[must_use]
    pub fn bos_id(&self, tokenizer: &Tokenizer) -> Option<u32> {
        self.bos_token.as_deref().and_then(|token| tokenizer.added_token_id(token))
    }

    /// The id of `eos_token`, if it is an added token of `tokenizer`.
    #[must_use]
    pub fn eos_id(&self, tokenizer: &Tokenizer) -> Option<u32> {
        self.eos_token.as_deref().and_then(|token| tokenizer.added_token_id(token))
    }
}
