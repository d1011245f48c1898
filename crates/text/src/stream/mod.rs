//! Parsers of a model's output stream: ids → text at safe boundaries → reasoning, content and tool calls, cut at
//! stop strings. Owns five small machines and the one that joins them. Each gives the same result however its input is cut.
//! Must not sample, count tokens, or know wire formats.

mod detokenizer;
mod output;
mod reasoning;
mod stop;
mod tools;

pub use detokenizer::Detokenizer;
pub use output::OutputStream;
pub use reasoning::{Delta, ReasoningParser, ThinkTokens};
pub use stop::{StopMatcher, StopStrings};
pub use tools::{ToolFormat, ToolParser};
