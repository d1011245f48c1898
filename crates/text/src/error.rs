//! What can go wrong with a tokenizer, a template or a grammar. Owns the error types only; every message says what was
//! expected, what was found, and where. Must not hold user text beyond a short excerpt.

/// A tokenizer that cannot be loaded, or text and ids it cannot convert.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TokenizerError {
    /// The bytes are not the JSON document that was expected.
    #[error("{what}: not the expected JSON: {source}")]
    Json {
        /// Which document was being read.
        what: &'static str,
        /// The parser's own report, with line and column.
        source: serde_json::Error,
    },
    /// A part of the file asks for something this crate does not do.
    #[error("{field}: expected {expected}, found {found}")]
    Unsupported {
        /// Path of the field inside the file.
        field: String,
        /// What this crate accepts there.
        expected: &'static str,
        /// What the file says, shortened.
        found: String,
    },
    /// The vocabulary contradicts itself.
    #[error("{field}: {problem}")]
    Invalid {
        /// Path of the field inside the file.
        field: String,
        /// The contradiction, with the offending entry.
        problem: String,
    },
    /// A size is beyond what any real tokenizer needs.
    #[error("{field}: {found} is over the limit of {limit}")]
    TooLarge {
        /// What was counted.
        field: String,
        /// The count.
        found: usize,
        /// The most that is accepted.
        limit: usize,
    },
    /// The GGUF names a pre-tokenizer that is not known here.
    #[error("tokenizer.ggml.pre: unknown pre-tokenizer {found:?}; known: {known}")]
    UnknownPreTokenizer {
        /// The name in the file.
        found: String,
        /// The names that are accepted.
        known: String,
    },
    /// The BPE library refused the vocabulary or the text.
    #[error("BPE: {0}")]
    Bpe(String),
    /// An id that no token has.
    #[error("token id {id} at position {position} is outside the vocabulary of {vocab_size} ids")]
    UnknownId {
        /// The id.
        id: u32,
        /// Its index in the sequence.
        position: usize,
        /// One more than the highest id.
        vocab_size: usize,
    },
}

/// A chat template that cannot be compiled or rendered, or messages it cannot take.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TemplateError {
    /// The template, the configuration or the messages are not the JSON that was expected.
    #[error("{what}: not the expected JSON: {source}")]
    Json {
        /// Which document was being read.
        what: &'static str,
        /// The parser's own report, with line and column.
        source: serde_json::Error,
    },
    /// The template is not valid Jinja.
    #[error("chat template, line {line}: {problem}")]
    Syntax {
        /// Line in the template's source, from 1; 0 when unknown.
        line: usize,
        /// What the parser expected and found.
        problem: String,
    },
    /// The template called `raise_exception`: it does not accept this conversation.
    #[error("the chat template refuses this conversation: {0}")]
    Refused(String),
    /// Rendering failed, for instance on a message without the content the template reads.
    #[error("chat template, line {line}: cannot render: {problem}")]
    Render {
        /// Line in the template's source, from 1; 0 when unknown.
        line: usize,
        /// What the engine reported.
        problem: String,
    },
    /// The template does more work than any honest one: a loop or an expansion without end.
    #[error("the chat template ran out of its budget of {budget} steps")]
    Budget {
        /// Steps that were allowed.
        budget: u64,
    },
    /// A size is over its limit.
    #[error("{field}: {found} is over the limit of {limit}")]
    TooLarge {
        /// What was counted.
        field: &'static str,
        /// The count.
        found: usize,
        /// The most that is accepted.
        limit: usize,
    },
    /// The messages use so many private-use characters that none is left to mark special tokens with.
    #[error("the messages use up the private-use characters (U+F0000 to U+10FFFD); remove some")]
    NoSentinel,
}

/// A grammar that cannot be compiled, or output that does not follow it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum GrammarError {
    /// A JSON schema asks for something that cannot be enforced.
    #[error("JSON schema, at {path}: {problem}")]
    Schema {
        /// Where, as a JSON pointer that starts with `#`.
        path: String,
        /// What is not supported there, and what to do.
        problem: String,
    },
    /// A size is over its limit.
    #[error("{field}: {found} is over the limit of {limit}")]
    TooLarge {
        /// What was counted.
        field: &'static str,
        /// The count.
        found: usize,
        /// The most that is accepted.
        limit: usize,
    },
    /// The grammar library refused the grammar.
    #[error("the grammar cannot be compiled: {0}")]
    Compile(String),
    /// A tool that no call can be forced to, or none of the name that was asked for.
    #[error("tools: {0}")]
    Tools(String),
    /// The vocabulary is not one that grammars can work on.
    #[error("vocabulary: {0}")]
    Vocabulary(String),
    /// A token came that the grammar does not allow here.
    #[error("the grammar does not allow token {token} here")]
    NotAllowed {
        /// Its id.
        token: u32,
    },
    /// The text so far leaves no token, or more work than the limits allow.
    #[error("the grammar cannot go on: {0}")]
    Stuck(String),
}

/// At most 60 characters of `text`, for an error message.
pub(crate) fn excerpt(text: &str) -> String {
    const LIMIT: usize = 60;
    if text.chars().count() <= LIMIT {
        text.to_owned()
    } else {
        let head: String = text.chars().take(LIMIT).collect();
        format!("{head}…")
    }
}
