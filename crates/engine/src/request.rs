//! What a client asks of the engine, and what it hears.
//!
//! Owns the types on both sides of the seam. No text: prompts, stops and answers are token ids.

use std::sync::Arc;

use crate::mask::TokenMask;
use crate::sampling::{Sampling, SamplingError, TokenLogprob};
use crate::thinking::Thinking;

/// Names a request for as long as the engine lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(pub u64);

/// What a client asks for.
pub struct Request {
    /// Tokens to continue; at least one.
    pub prompt: Vec<u32>,
    /// Most tokens of a completion.
    pub max_tokens: usize,
    /// Tokens that end a completion; they are its last token.
    pub end_tokens: Arc<[u32]>,
    /// How tokens are chosen.
    pub sampling: Sampling,
    /// Completions of the prompt, which is read once for all.
    pub n: usize,
    /// Bounds the reasoning.
    pub thinking: Option<Thinking>,
    /// Restricts the tokens.
    pub mask: Option<Box<dyn TokenMask>>,
    /// Whether a completion that only repeats itself is ended.
    pub stops_loops: bool,
    /// Whether drafts may be tried. They change the speed, never the answer.
    pub speculates: bool,
    /// On whose behalf: those who wait take turns.
    pub owner: u64,
    /// Hears of everything that becomes of the request, on the engine's thread: it must not block.
    pub sink: Sink,
}

/// Where events go.
pub type Sink = Box<dyn FnMut(Event<'_>) -> Reply + Send>;

/// What a sink wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reply {
    /// More of it.
    Continue,
    /// End this completion: its text holds a stop string. The token just heard is its last.
    Stop,
    /// Nobody listens any more: drop the request.
    Abort,
}

/// What becomes of a request.
#[derive(Clone, Debug, PartialEq)]
pub enum Event<'a> {
    /// It is no longer waiting.
    Started(Reuse),
    /// This many tokens of the prompt have been read.
    Read {
        /// Tokens in the cache so far.
        n_read: usize,
        /// Tokens of the prompt.
        n_prompt: usize,
    },
    /// A completion has one more token.
    Token {
        /// Which completion.
        index: usize,
        /// The token.
        token: u32,
        /// Whether it came out of a draw, or had to be.
        forced: bool,
        /// Its log-probability before temperature, penalties and masks, if wanted; a forced token has none.
        logprob: Option<f32>,
        /// The most probable tokens, if wanted.
        top: &'a [TokenLogprob],
    },
    /// A completion has ended. The last event of each.
    Finished {
        /// Which completion.
        index: usize,
        /// Why.
        reason: FinishReason,
        /// What it took.
        usage: Usage,
    },
}

/// Why a completion ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FinishReason {
    /// An end token, or the sink found a stop string.
    Stop,
    /// `max_tokens`, or the context is full.
    Length,
    /// It only repeated itself.
    Loop,
    /// The client left.
    Aborted,
    /// No token was allowed, or the mask broke.
    Mask,
    /// The device failed, or the engine stopped.
    Failed,
}

/// How much of a prompt did not have to be computed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reuse {
    /// Tokens of the prompt.
    pub n_prompt: usize,
    /// Found in memory.
    pub n_memory: usize,
    /// Restored from disk.
    pub n_disk: usize,
    /// Why the next token was not found.
    pub miss: Miss,
}

impl Reuse {
    /// Tokens that were not computed.
    #[must_use]
    pub fn n_cached(&self) -> usize {
        self.n_memory + self.n_disk
    }
}

/// Why a prefix ends where it does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Miss {
    /// Nothing that begins like this was seen.
    #[default]
    New,
    /// What was seen goes on with another token from here.
    Diverged,
    /// It was seen, and gave way to something else.
    Evicted,
    /// All but the last token was found; that one is always computed.
    None,
}

/// What a completion took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Tokens of the prompt.
    pub n_prompt: usize,
    /// Tokens of the prompt that were not computed.
    pub n_cached: usize,
    /// Tokens of the completion.
    pub n_completion: usize,
    /// Tokens of the completion that are reasoning, where a thinking budget counts them.
    pub n_reasoning: usize,
    /// Drafts that were tried, and how many of them were right.
    pub n_drafted: usize,
    /// See `n_drafted`.
    pub n_accepted: usize,
}

/// Why a request is not taken.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum Rejected {
    /// Nothing to continue.
    #[error("prompt: expected at least one token, found none")]
    EmptyPrompt,
    /// An id that the model does not know.
    #[error("prompt: expected token ids below {vocab}, found {token}")]
    UnknownToken {
        /// What was found.
        token: u32,
        /// Size of the vocabulary.
        vocab: usize,
    },
    /// More than the context holds.
    #[error("prompt: expected fewer than {limit} tokens, the context, found {found}")]
    ContextLength {
        /// Tokens of the prompt.
        found: usize,
        /// Tokens of the context.
        limit: usize,
    },
    /// The cache could not hold it even if nothing else ran.
    #[error("n, max_tokens: {n} completions of up to {tokens} tokens need {needed} cache blocks, there are {limit}")]
    CacheSize {
        /// Completions.
        n: usize,
        /// Tokens of prompt and completion.
        tokens: usize,
        /// Blocks for all of them.
        needed: usize,
        /// Blocks of the cache.
        limit: usize,
    },
    /// More completions than can run.
    #[error("n: expected 1 to {limit} completions, found {found}")]
    Completions {
        /// What was asked for.
        found: usize,
        /// Sequences that run at once.
        limit: usize,
    },
    /// A completion of nothing.
    #[error("max_tokens: expected at least 1, found 0")]
    NoTokens,
    /// A parameter of sampling.
    #[error(transparent)]
    Sampling(#[from] SamplingError),
    /// Too many wait.
    #[error("{waiting} requests wait already; try again later")]
    QueueFull {
        /// How many.
        waiting: usize,
    },
    /// The engine has stopped.
    #[error("the engine has stopped")]
    Stopped,
}
