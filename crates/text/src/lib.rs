//! Text in, token ids out, and back: tokenizers, chat templates, and the parsers of a model's output stream.
//!
//! This crate owns everything between a conversation and its token ids, and between sampled ids and the text a
//! client sees. It must not know tensors, sockets, schedules, or any file it was not handed as bytes. Everything it
//! reads (tokenizer.json, GGUF vocabularies, templates, messages, ids) is treated as hostile: a bad input is an
//! error, never a panic, a hang or an unbounded allocation.
//!
//! The one promise that shapes the crate: **text from a user can never become a special token.** Added tokens come
//! only from the template's own source text; see [`template`] for how.

pub mod error;
pub mod grammar;
pub mod stream;
pub mod template;
pub mod tokenizer;

pub use error::{GrammarError, TemplateError, TokenizerError};
pub use grammar::{ArmedGrammar, Grammar, GrammarFactory, GrammarSpec, Tool, ToolChoice};
pub use stream::{
    Delta, Detokenizer, OutputStream, ReasoningParser, StopMatcher, StopStrings, ThinkTokens, ToolFormat, ToolParser,
};
pub use template::{ChatTemplate, Message, RenderOptions, Rendered, RenderedPiece, Role};
pub use tokenizer::{GgufVocab, Tokenizer, TokenizerConfig};
