//! How models write tool calls. Owns the list of formats, their markers, and telling which one a model was trained
//! on. Must not parse.

use crate::tokenizer::Tokenizer;

pub(super) const CALLS_BEGIN: &str = "<｜tool▁calls▁begin｜>";
pub(super) const CALLS_END: &str = "<｜tool▁calls▁end｜>";
pub(super) const CALL_BEGIN: &str = "<｜tool▁call▁begin｜>";
pub(super) const CALL_END: &str = "<｜tool▁call▁end｜>";
pub(super) const SEPARATOR: &str = "<｜tool▁sep｜>";
pub(super) const HERMES_BEGIN: &str = "<tool_call>";
pub(super) const HERMES_END: &str = "</tool_call>";
pub(super) const PYTHON_TAG: &str = "<|python_tag|>";
pub(super) const DSML: &str = "｜DSML｜";

/// The markers that a vocabulary may have as tokens.
const MARKERS: [&str; 9] =
    [CALLS_BEGIN, CALLS_END, CALL_BEGIN, CALL_END, SEPARATOR, HERMES_BEGIN, HERMES_END, PYTHON_TAG, DSML];

/// A way of writing tool calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ToolFormat {
    /// V3 and R1: marker tokens, the arguments in a fenced block after `function`, separator and name.
    DeepSeekFenced,
    /// V3.1: marker tokens, `name`, separator, arguments.
    DeepSeek,
    /// V3.2: DSML in `<｜DSML｜function_calls>`.
    DsmlFunctionCalls,
    /// V4: DSML in `<｜DSML｜tool_calls>`.
    DsmlToolCalls,
    /// V4.1: DSML in `<｜DSML｜ calls>`, with a space in every tag.
    DsmlCalls,
    /// Qwen and Hermes: `<tool_call>{"name": …, "arguments": …}</tool_call>`.
    Hermes,
    /// Llama 3: a message that is `{"name": …, "parameters": …}`.
    Llama,
}

impl ToolFormat {
    /// The format that a chat template writes an assistant's calls in; without a template, the one whose marker only
    /// V4's vocabularies have. `None` when neither knows of tools.
    #[must_use]
    pub fn of(template: Option<&str>, tokenizer: &Tokenizer) -> Option<Self> {
        let has = |text: &str| template.is_some_and(|template| template.contains(text));
        if has(DSML) || (template.is_none() && tokenizer.added_token_id(DSML).is_some()) {
            // In the fourth generation the tag's name alone tells; without a template, V4.1's new role token.
            let has_system = template.is_none() && tokenizer.added_token_id("<｜System｜>").is_some();
            return Some(match () {
                () if has("function_calls") => Self::DsmlFunctionCalls,
                () if has("｜DSML｜ ") || has_system => Self::DsmlCalls,
                () => Self::DsmlToolCalls,
            });
        }
        if has(CALLS_BEGIN) {
            return Some(if has("```json") { Self::DeepSeekFenced } else { Self::DeepSeek });
        }
        // Qwen3-Coder's calls are another language between the same tags.
        if has(HERMES_BEGIN) && !has("<function=") {
            return Some(Self::Hermes);
        }
        (has("<|start_header_id|>") && has("\"parameters\": ")).then_some(Self::Llama)
    }

    /// The ids of the markers that `tokenizer` has as tokens. They carry meaning, so a decode keeps them even where
    /// it leaves out special tokens.
    #[must_use]
    pub fn marker_tokens(self, tokenizer: &Tokenizer) -> Vec<u32> {
        MARKERS.iter().filter_map(|marker| tokenizer.added_token_id(marker)).collect()
    }

    /// What stands between `｜DSML｜` and a tag's name, if this is DSML.
    pub(crate) fn dsml_space(self) -> Option<&'static str> {
        match self {
            Self::DsmlFunctionCalls | Self::DsmlToolCalls => Some(""),
            Self::DsmlCalls => Some(" "),
            _ => None,
        }
    }

    /// What opens a call, or a block of them, in running text.
    pub(super) fn openers(self) -> &'static [&'static str] {
        match self {
            Self::DeepSeekFenced | Self::DeepSeek => &[CALLS_BEGIN, CALL_BEGIN],
            Self::DsmlFunctionCalls | Self::DsmlToolCalls | Self::DsmlCalls => &[
                "<｜DSML｜function_calls>",
                "<｜DSML｜tool_calls>",
                "<｜DSML｜ calls>",
                "<｜DSML｜invoke ",
                "<｜DSML｜ invoke ",
            ],
            Self::Hermes => &[HERMES_BEGIN],
            Self::Llama => &[PYTHON_TAG],
        }
    }
}
