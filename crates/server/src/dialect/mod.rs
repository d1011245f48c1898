//! The languages that clients speak, a folder each: `chat` (OpenAI's and DeepSeek's chat completions), `completions` (their
//! older form), `responses` (OpenAI's newer form), `messages` (Anthropic's).
//!
//! Each owns its wire types (`wire.rs`), their conversion into a [`crate::generate::GenerationRequest`] (`request.rs`) and
//! the rendering of what comes back (`render.rs`). Must not know the engine, tokens or one another; what several use is in
//! `parts.rs`.

pub(crate) mod chat;
pub(crate) mod completions;
pub(crate) mod messages;
mod parts;
pub(crate) mod responses;

pub(crate) use parts::FunctionTool;

use engine::FinishReason;

use crate::generate::End;

/// Why an answer ended, before each dialect's own word for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    /// The model had said all, or a stop string came.
    Stop,
    /// A limit was reached, or what came only repeated itself, or the grammar had no way to go on.
    Length,
    /// Tools are to be called.
    ToolCalls,
}

impl Ending {
    pub(crate) fn of(end: Option<&End>) -> Self {
        match end {
            Some(end) => match end.reason {
                FinishReason::Stop if end.n_calls > 0 => Self::ToolCalls,
                FinishReason::Stop => Self::Stop,
                _ => Self::Length,
            },
            None => Self::Length,
        }
    }

    /// OpenAI's word.
    pub(crate) fn openai(self) -> &'static str {
        match self {
            Self::Stop => "stop",
            Self::Length => "length",
            Self::ToolCalls => "tool_calls",
        }
    }
}
