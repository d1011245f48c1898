//! Where each part of an answer is printed: content to stdout, reasoning and remarks to stderr.
//!
//! Owns the output. Must not know tokens.

use std::io::IsTerminal;

use engine::FinishReason;
use text::Delta;

use super::answer::Answer;
use crate::failure::{Failure, print, remark};

/// Prints an answer's parts as they come, or all as JSON at the end.
pub(super) struct Printer {
    as_json: bool,
    in_reasoning: bool,
}

impl Printer {
    pub(super) fn new(as_json: bool) -> Self {
        Self { as_json, in_reasoning: false }
    }

    pub(super) fn print(&mut self, delta: &Delta) -> Result<(), Failure> {
        if self.as_json {
            return Ok(());
        }
        match delta {
            Delta::Reasoning(text) => {
                self.switch(true);
                remark(text);
            }
            Delta::Content(text) => {
                self.switch(false);
                print(text)?;
            }
            // This command offers no tools, so none is called.
            _ => {}
        }
        Ok(())
    }

    /// Dims the reasoning in a terminal, and sets it off from the answer by a blank line.
    fn switch(&mut self, to_reasoning: bool) {
        if self.in_reasoning == to_reasoning {
            return;
        }
        self.in_reasoning = to_reasoning;
        let dims = std::io::stderr().is_terminal();
        match (to_reasoning, dims) {
            (true, true) => remark("\x1b[2m"),
            (false, true) => remark("\x1b[0m\n\n"),
            (true, false) => {}
            (false, false) => remark("\n\n"),
        }
    }

    pub(super) fn end(&mut self, answer: &Answer) -> Result<(), Failure> {
        if self.as_json {
            return print(&format!("{}\n", answer.to_json()));
        }
        self.switch(false);
        print("\n")?;
        match answer.reason {
            FinishReason::Length => remark("[the answer was cut: the token limit is reached]\n"),
            FinishReason::Loop => remark("[the answer was ended: it only repeated itself]\n"),
            FinishReason::Mask => {
                remark("[the answer was ended: the grammar allows nothing more that the model can say]\n")
            }
            _ => {}
        }
        Ok(())
    }
}
