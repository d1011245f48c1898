//! A completions request as the one form of all dialects.

use super::wire::{CompletionRequest, Prompts};
use crate::dialect::parts::logit_bias;
use crate::error::ApiError;
use crate::generate::{GenerationRequest, Prompt, ReasoningWish, SamplingWish, ToolWish};

/// Prompts of one request.
const PROMPTS_MAX: usize = 128;
/// What OpenAI's completions have where nothing is said.
const MAX_TOKENS_DEFAULT: usize = 16;

impl CompletionRequest {
    /// Tokens of each completion.
    pub(super) fn n_tokens(&self) -> usize {
        self.max_tokens.unwrap_or(MAX_TOKENS_DEFAULT)
    }

    /// One wish for each prompt.
    ///
    /// # Errors
    /// A field cannot be used
    pub(super) fn wishes(&self) -> Result<Vec<GenerationRequest>, ApiError> {
        let text = |text: &String| Prompt::Text { text: text.clone(), suffix: self.suffix.clone() };
        let prompts: Vec<Prompt> = match &self.prompt {
            Prompts::Text(prompt) => vec![text(prompt)],
            Prompts::Texts(prompts) => prompts.iter().map(text).collect(),
            Prompts::Tokens(tokens) => vec![Prompt::Tokens(tokens.clone())],
            Prompts::TokenLists(lists) => lists.iter().cloned().map(Prompt::Tokens).collect(),
        };
        if prompts.is_empty() || prompts.len() > PROMPTS_MAX {
            let problem = format!("expected 1 to {PROMPTS_MAX} prompts, found {}", prompts.len());
            return Err(ApiError::field("prompt", problem));
        }
        if self.suffix.is_some() && self.echo == Some(true) {
            return Err(ApiError::field("suffix", "expected none where echo is set"));
        }
        prompts.into_iter().map(|prompt| self.wish(prompt)).collect()
    }

    fn wish(&self, prompt: Prompt) -> Result<GenerationRequest, ApiError> {
        Ok(GenerationRequest {
            prompt,
            max_tokens: Some(self.n_tokens()),
            sampling: SamplingWish {
                temperature: self.temperature,
                top_p: self.top_p,
                top_k: self.top_k,
                min_p: self.min_p,
                repetition_penalty: self.repetition_penalty,
                frequency_penalty: self.frequency_penalty,
                presence_penalty: self.presence_penalty,
                logit_bias: logit_bias(self.logit_bias.clone())?,
                seed: self.seed.map(i64::cast_unsigned),
                min_tokens: self.min_tokens.unwrap_or(0),
            },
            n: self.n.unwrap_or(1),
            stop: self.stop.clone().into_vec(),
            reasoning: ReasoningWish::default(),
            tools: ToolWish::default(),
            format: self.response_format.clone().map_or(Ok(None), |format| format.into_spec())?,
            format_field: "response_format",
            top_logprobs: self.logprobs,
            user: self.user.clone(),
        })
    }
}
