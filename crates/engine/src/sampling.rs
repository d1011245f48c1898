//! What a request may ask of the choice of tokens, and its limits.
//!
//! Owns [`Sampling`] and its checks. The choice itself is [`Sampler::choose`]. Must not know text, requests or clocks.
//!
//! The steps and their order, which are Hugging Face's (and vLLM's, but for min-p, which it applies before top-k):
//!
//! 1. `logit_bias` is added; then what stands in prompt or completion is penalised: `repetition_penalty` r makes a logit
//!    x/r where positive and x·r where not (CTRL paper), `frequency_penalty` takes off f per occurrence in the completion
//!    and `presence_penalty` once (OpenAI). The multiplicative penalty makes the order matter; both programs bias first.
//! 2. Tokens outside the mask, and banned ones, become impossible.
//! 3. Temperature divides; below [`TEMPERATURE_GREEDY`] the largest logit is taken, and the rest is skipped.
//! 4. `top_k` keeps the k most probable, `top_p` of these the fewest most probable that hold p of *their* probability,
//!    `min_p` of these the ones at least `min_p` times as probable as the best.
//! 5. One draw; see [`Place`] for what it depends on.
//!
//! In every step the lower id wins among equals, and NaN is impossible.

mod draw;
mod history;
mod sampler;
mod scan;

pub use draw::Place;
pub use history::History;
pub use sampler::{Choice, NoToken, Sampler, TokenLogprob};
pub use scan::argmax;

/// Temperatures below this are greedy: dividing by them would leave the range of f32.
pub const TEMPERATURE_GREEDY: f32 = 1e-5;
/// Largest temperature.
pub const TEMPERATURE_MAX: f32 = 10.0;
/// Largest repetition penalty.
pub const REPETITION_PENALTY_MAX: f32 = 10.0;
/// Largest magnitude of frequency and presence penalties.
pub const PENALTY_MAX: f32 = 2.0;
/// Largest magnitude of a bias.
pub const LOGIT_BIAS_MAX: f32 = 100.0;
/// Most tokens that may have a bias.
pub const N_LOGIT_BIAS_MAX: usize = 1024;
/// Most log-probabilities per token.
pub const TOP_LOGPROBS_MAX: usize = 20;

/// How a request wants its tokens chosen.
#[derive(Clone, Debug, PartialEq)]
pub struct Sampling {
    /// Divides the logits; 0 takes the most probable token.
    pub temperature: f32,
    /// Keeps this many most probable tokens; 0 keeps all.
    pub top_k: usize,
    /// Keeps the fewest most probable tokens that hold this much probability.
    pub top_p: f32,
    /// Keeps tokens that are at least this many times as probable as the most probable one.
    pub min_p: f32,
    /// Divides positive and multiplies negative logits of tokens in prompt or completion; 1 is off.
    pub repetition_penalty: f32,
    /// Taken off a logit once per occurrence in the completion.
    pub frequency_penalty: f32,
    /// Taken off a logit once if the token is in the completion.
    pub presence_penalty: f32,
    /// Added to the logits of these tokens; of a token named twice, both are added.
    pub logit_bias: Vec<(u32, f32)>,
    /// Seed of every draw.
    pub seed: u64,
    /// Log-probabilities to report: of the chosen token, and of this many most probable ones. `None`: of none.
    pub top_logprobs: Option<usize>,
    /// End tokens are forbidden before this many tokens of the completion; see [`Sampling::banned`].
    pub min_tokens: usize,
}

impl Sampling {
    /// Always the most probable token.
    pub const GREEDY: Self = Self {
        temperature: 0.0,
        top_k: 0,
        top_p: 1.0,
        min_p: 0.0,
        repetition_penalty: 1.0,
        frequency_penalty: 0.0,
        presence_penalty: 0.0,
        logit_bias: Vec::new(),
        seed: 0,
        top_logprobs: None,
        min_tokens: 0,
    };

    /// Holds every field against its range and against a vocabulary of `vocab` tokens.
    ///
    /// # Errors
    /// A field is out of its range or not a number, a bias is for a token beyond the vocabulary, or there are too many
    pub fn check(&self, vocab: usize) -> Result<(), SamplingError> {
        within("temperature", self.temperature, 0.0, TEMPERATURE_MAX)?;
        above_zero("top_p", self.top_p, 1.0)?;
        within("min_p", self.min_p, 0.0, 1.0)?;
        above_zero("repetition_penalty", self.repetition_penalty, REPETITION_PENALTY_MAX)?;
        within("frequency_penalty", self.frequency_penalty, -PENALTY_MAX, PENALTY_MAX)?;
        within("presence_penalty", self.presence_penalty, -PENALTY_MAX, PENALTY_MAX)?;
        at_most("top_logprobs", self.top_logprobs.unwrap_or(0), TOP_LOGPROBS_MAX)?;
        at_most("logit_bias", self.logit_bias.len(), N_LOGIT_BIAS_MAX)?;
        for (token, bias) in &self.logit_bias {
            within("logit_bias", *bias, -LOGIT_BIAS_MAX, LOGIT_BIAS_MAX)?;
            if *token as usize >= vocab {
                return Err(SamplingError::Token { vocab, found: *token });
            }
        }
        Ok(())
    }

    /// Whether the most probable token is taken without a draw.
    #[must_use]
    pub fn greedy(&self) -> bool {
        self.temperature < TEMPERATURE_GREEDY || self.top_k == 1
    }

    /// Whether the choice depends on the tokens before, so that a [`History`] must be kept.
    #[must_use]
    pub fn penalizes(&self) -> bool {
        self.repetition_penalty != 1.0 || self.frequency_penalty != 0.0 || self.presence_penalty != 0.0
    }

    /// The end tokens while they are forbidden: before `min_tokens` tokens of completion, else none.
    #[must_use]
    pub fn banned<'a>(&self, n_completion: usize, end_tokens: &'a [u32]) -> &'a [u32] {
        if n_completion < self.min_tokens { end_tokens } else { &[] }
    }
}

/// A request asked for what cannot be.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum SamplingError {
    /// A number outside its range.
    #[error("{field}: expected a number from {min} to {max}, found {found}")]
    Range {
        /// Field of [`Sampling`].
        field: &'static str,
        /// Smallest accepted.
        min: f32,
        /// Largest accepted.
        max: f32,
        /// What the request has.
        found: f32,
    },
    /// A number that must be positive.
    #[error("{field}: expected a number above 0, at most {max}, found {found}")]
    Positive {
        /// Field of [`Sampling`].
        field: &'static str,
        /// Largest accepted.
        max: f32,
        /// What the request has.
        found: f32,
    },
    /// Too many of something.
    #[error("{field}: expected at most {max}, found {found}")]
    Count {
        /// Field of [`Sampling`].
        field: &'static str,
        /// Most accepted.
        max: usize,
        /// What the request has.
        found: usize,
    },
    /// A bias for a token that does not exist.
    #[error("logit_bias: expected tokens below {vocab}, the vocabulary, found {found}")]
    Token {
        /// Tokens of the vocabulary.
        vocab: usize,
        /// What the request has.
        found: u32,
    },
}

fn within(field: &'static str, found: f32, min: f32, max: f32) -> Result<(), SamplingError> {
    if (min..=max).contains(&found) { Ok(()) } else { Err(SamplingError::Range { field, min, max, found }) }
}

fn above_zero(field: &'static str, found: f32, max: f32) -> Result<(), SamplingError> {
    if found > 0.0 && found <= max { Ok(()) } else { Err(SamplingError::Positive { field, max, found }) }
}

fn at_most(field: &'static str, found: usize, max: usize) -> Result<(), SamplingError> {
    if found <= max { Ok(()) } else { Err(SamplingError::Count { field, max, found }) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_name_the_field_its_range_and_what_was_found() {
        let bad = [
            (
                Sampling { temperature: -0.5, ..Sampling::GREEDY },
                "temperature: expected a number from 0 to 10, found -0.5",
            ),
            (
                Sampling { temperature: f32::NAN, ..Sampling::GREEDY },
                "temperature: expected a number from 0 to 10, found NaN",
            ),
            (Sampling { top_p: 0.0, ..Sampling::GREEDY }, "top_p: expected a number above 0, at most 1, found 0"),
            (Sampling { min_p: 1.5, ..Sampling::GREEDY }, "min_p: expected a number from 0 to 1, found 1.5"),
            (
                Sampling { repetition_penalty: f32::INFINITY, ..Sampling::GREEDY },
                "repetition_penalty: expected a number above 0, at most 10, found inf",
            ),
            (
                Sampling { presence_penalty: 3.0, ..Sampling::GREEDY },
                "presence_penalty: expected a number from -2 to 2, found 3",
            ),
            (Sampling { top_logprobs: Some(21), ..Sampling::GREEDY }, "top_logprobs: expected at most 20, found 21"),
            (
                Sampling { logit_bias: vec![(1, 1.0), (50, 1.0)], ..Sampling::GREEDY },
                "logit_bias: expected tokens below 50, the vocabulary, found 50",
            ),
            (
                Sampling { logit_bias: vec![(0, 0.0); 1025], ..Sampling::GREEDY },
                "logit_bias: expected at most 1024, found 1025",
            ),
        ];
        for (sampling, message) in bad {
            assert_eq!(sampling.check(50).unwrap_err().to_string(), message);
        }
        assert_eq!(Sampling::GREEDY.check(50), Ok(()));
    }
}
