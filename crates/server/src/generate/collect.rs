//! A whole answer, for those who do not stream.
//!
//! Owns putting an answer's parts together. Must not know a wire format.

use text::Delta;

use super::{End, Generation, LogProb, Output};
use crate::error::ApiError;

/// One completion.
#[derive(Clone, Debug, Default)]
pub(crate) struct Choice {
    pub(crate) reasoning: String,
    pub(crate) content: String,
    pub(crate) calls: Vec<Call>,
    pub(crate) logprobs: Vec<LogProb>,
    pub(crate) end: Option<End>,
}

/// A tool call.
#[derive(Clone, Debug, Default)]
pub(crate) struct Call {
    pub(crate) name: String,
    /// The text of a JSON object, whole unless the answer was cut.
    pub(crate) arguments: String,
}

impl Choice {
    fn add(&mut self, deltas: Vec<Delta>) {
        for delta in deltas {
            match delta {
                Delta::Reasoning(text) => self.reasoning.push_str(&text),
                Delta::Content(text) => self.content.push_str(&text),
                Delta::ToolCallStart { name, .. } => self.calls.push(Call { name, arguments: String::new() }),
                Delta::ToolCallArguments { fragment, .. } => {
                    self.calls.iter_mut().last().into_iter().for_each(|call| call.arguments.push_str(&fragment));
                }
                Delta::ToolCallEnd { .. } => {}
            }
        }
    }
}

/// Waits for all `n` completions.
///
/// # Errors
/// The request failed
pub(crate) async fn collect(generation: &mut Generation, n: usize) -> Result<Vec<Choice>, ApiError> {
    let mut choices = vec![Choice::default(); n];
    while let Some(output) = generation.next().await {
        match output {
            Output::Token { index, deltas, logprob, .. } => {
                choices[index].add(deltas);
                choices[index].logprobs.extend(logprob);
            }
            Output::Finished { index, deltas, end } => {
                choices[index].add(deltas);
                choices[index].end = Some(end);
            }
            Output::Failed(error) => return Err(error),
        }
    }
    Ok(choices)
}
