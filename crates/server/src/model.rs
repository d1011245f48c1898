//! What the server knows of the model: how it reads and writes text, and its limits.
//!
//! Owns those facts and what follows from them alone. Must not know requests.

use std::sync::{Arc, OnceLock};

use engine::ThinkingBudget;
use serde_json::Value;
use text::{ChatTemplate, GrammarFactory, ThinkTokens, Tokenizer, ToolFormat};

use crate::error::{ApiError, of_grammar};

/// A model as its server needs to know it.
pub struct ServedModel {
    /// Name under which clients find it.
    pub name: String,
    /// Seconds since 1970 at which it was made, or served.
    pub created_s: u64,
    /// Its tokenizer.
    pub tokenizer: Arc<Tokenizer>,
    /// Its chat template, if it has one.
    pub template: Option<ChatTemplate>,
    /// The template's source, which tells how tools are written.
    pub template_source: Option<String>,
    /// generation_config.json: how the model wants to be sampled.
    pub generation: Value,
    /// The token that text to be continued begins with, if it is wanted there.
    pub bos_token: Option<u32>,
    /// Every token that ends an answer.
    pub end_tokens: Arc<[u32]>,
    /// How reasoning is brought to its end, where the model has tokens around it; its limits are each request's.
    pub thinking: Option<ThinkingBudget>,
    /// Size of the model's vocabulary: logits per token.
    pub vocab: usize,
    /// Longest sequence in tokens.
    pub n_context: usize,
    /// Sequences that run at once.
    pub n_running: usize,
}

/// A served model with what is made of it once.
pub(crate) struct Model {
    pub(crate) facts: ServedModel,
    pub(crate) think: Option<ThinkTokens>,
    /// How it writes tool calls. A model that was never told about tools is told Hermes' way.
    pub(crate) tool_format: ToolFormat,
    pub(crate) fim: Option<FimTokens>,
    grammars: OnceLock<Result<GrammarFactory, text::GrammarError>>,
}

/// Tokens that set off what stands before and behind a gap in a text.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FimTokens {
    pub(crate) prefix: u32,
    pub(crate) suffix: u32,
    pub(crate) middle: u32,
}

impl Model {
    pub(crate) fn new(facts: ServedModel) -> Self {
        let think = ThinkTokens::of(&facts.tokenizer);
        let format = ToolFormat::of(facts.template_source.as_deref(), &facts.tokenizer);
        let fim = FimTokens::of(&facts.tokenizer);
        Self { think, tool_format: format.unwrap_or(ToolFormat::Hermes), fim, grammars: OnceLock::new(), facts }
    }

    /// What compiles grammars, made when the first is wanted: it takes a second or so for a large vocabulary.
    pub(crate) fn grammars(&self) -> Result<&GrammarFactory, ApiError> {
        let (n_text, n_model) = (self.facts.tokenizer.vocab_size(), self.facts.vocab);
        if n_text > n_model {
            let message =
                format!("grammars: expected at most {n_model} tokens, the model's, in the tokenizer, found {n_text}");
            return Err(ApiError::internal(message));
        }
        let make = || GrammarFactory::new(&self.facts.tokenizer, &self.facts.end_tokens);
        self.grammars.get_or_init(make).as_ref().map_err(|error| of_grammar("response_format", error))
    }

    /// Whether the template's source says `word`.
    pub(crate) fn template_says(&self, word: &str) -> bool {
        self.facts.template_source.as_deref().is_some_and(|source| source.contains(word))
    }

    /// The token that opens a tool call, where it is one.
    pub(crate) fn tool_opener(&self) -> Option<u32> {
        let opener = match self.tool_format {
            ToolFormat::DeepSeekFenced | ToolFormat::DeepSeek => "<｜tool▁calls▁begin｜>",
            ToolFormat::Hermes => "<tool_call>",
            _ => return None,
        };
        self.facts.tokenizer.added_token_id(opener)
    }

    /// A number of generation_config.json.
    pub(crate) fn own(&self, key: &str) -> Option<f64> {
        self.facts.generation[key].as_f64()
    }
}

impl FimTokens {
    fn of(tokenizer: &Tokenizer) -> Option<Self> {
        const SPELLINGS: [[&str; 3]; 4] = [
            // DeepSeek puts the hole between prefix and suffix, and writes behind the end.
            ["<｜fim▁begin｜>", "<｜fim▁hole｜>", "<｜fim▁end｜>"],
            ["<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"],
            ["<fim_prefix>", "<fim_suffix>", "<fim_middle>"],
            ["<fim-prefix>", "<fim-suffix>", "<fim-middle>"],
        ];
        SPELLINGS.iter().find_map(|words| {
            let [prefix, suffix, middle] = words.map(|word| tokenizer.added_token_id(word));
            Some(Self { prefix: prefix?, suffix: suffix?, middle: middle? })
        })
    }
}
