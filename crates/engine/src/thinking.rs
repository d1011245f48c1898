//! A budget for reasoning, as a state machine over tokens.
//!
//! Owns whether the reasoning is open, how many tokens it took, and when its end is forced. Knows ids only: what they
//! say is the caller's.
//!
//! A reasoning that is cut in the middle of a sentence leaves the model without a conclusion, so that its answer
//! suffers; behind `soft` tokens the end is forced at the next token that is good to stop after, such as a line's end,
//! and only behind `hard` tokens anywhere.

/// When reasoning has to end, and how. The same for every request to a model but for the limits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ThinkingBudget {
    /// Opens the reasoning when the model writes it itself, such as `<think>`.
    pub open_token: Option<u32>,
    /// Closes the reasoning, such as `</think>`.
    pub close_token: u32,
    /// What to force, such as the tokens of `"\n</think>\n\n"`. Holds `close_token`.
    pub close: Vec<u32>,
    /// Tokens that are good to stop after, in any order.
    pub breaks: Vec<u32>,
    /// Tokens of reasoning after which it ends at the next break.
    pub soft: usize,
    /// Tokens of reasoning after which it ends at once; `usize::MAX` never.
    pub hard: usize,
}

/// A budget that cannot be kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ThinkingError {
    /// The forced tokens would not close.
    #[error("the tokens that end the reasoning: expected token {close_token} among them, found none")]
    DoesNotClose {
        /// The token that closes.
        close_token: u32,
    },
    /// The limits are the wrong way round.
    #[error("soft limit of the reasoning: expected at most the hard limit, {hard}, found {soft}")]
    SoftBeyondHard {
        /// Soft limit.
        soft: usize,
        /// Hard limit.
        hard: usize,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Closed,
    Open,
    /// The end has been forced and is on its way.
    Closing,
}

/// The reasoning of one completion.
#[derive(Clone, Debug)]
pub struct Thinking {
    budget: ThinkingBudget,
    state: State,
    n_tokens: usize,
}

impl Thinking {
    /// A completion's reasoning, which is open from the start if the prompt ends with its opening.
    ///
    /// # Errors
    /// The forced tokens do not close the reasoning, or the soft limit is beyond the hard one
    pub fn new(mut budget: ThinkingBudget, starts_in_reasoning: bool) -> Result<Self, ThinkingError> {
        let ThinkingBudget { close_token, soft, hard, .. } = budget;
        if !budget.close.contains(&close_token) {
            return Err(ThinkingError::DoesNotClose { close_token });
        }
        if soft > hard {
            return Err(ThinkingError::SoftBeyondHard { soft, hard });
        }
        budget.breaks.sort_unstable();
        Ok(Self { budget, state: if starts_in_reasoning { State::Open } else { State::Closed }, n_tokens: 0 })
    }

    /// Tokens to force before the first one is chosen: those of a budget of none whose reasoning the prompt opened.
    pub fn start(&mut self) -> Option<&[u32]> {
        self.force_if(self.state == State::Open && self.budget.hard == 0)
    }

    /// Takes note of the completion's next token, forced ones included; returns tokens to force behind it. Whatever was
    /// drafted or chosen behind `token` must be dropped then, and the forced tokens fed in one step.
    pub fn on_token(&mut self, token: u32) -> Option<&[u32]> {
        if self.state == State::Closed {
            if Some(token) != self.budget.open_token {
                return None;
            }
            self.state = State::Open;
        }
        self.n_tokens += 1;
        if token == self.budget.close_token {
            self.state = State::Closed;
        }
        let n = self.n_tokens;
        let at_break = n >= self.budget.soft && self.budget.breaks.binary_search(&token).is_ok();
        self.force_if(self.state == State::Open && (at_break || n >= self.budget.hard))
    }

    /// Whether the next token belongs to the reasoning.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.state != State::Closed
    }

    /// Tokens of the completion that were reasoning, opening and closing ones included.
    #[must_use]
    pub fn n_tokens(&self) -> usize {
        self.n_tokens
    }

    fn force_if(&mut self, forces: bool) -> Option<&[u32]> {
        forces.then(|| {
            self.state = State::Closing;
            self.budget.close.as_slice()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OPEN: u32 = 1;
    const CLOSE: u32 = 2;
    const NEWLINE: u32 = 10;

    fn thinking(soft: usize, hard: usize, starts_in_reasoning: bool) -> Thinking {
        let budget = ThinkingBudget {
            open_token: Some(OPEN),
            close_token: CLOSE,
            close: vec![NEWLINE, CLOSE, 11],
            breaks: vec![NEWLINE, 5],
            soft,
            hard,
        };
        Thinking::new(budget, starts_in_reasoning).unwrap()
    }

    /// What a model that writes `model(i)` as its i-th token ends up with, within `n` tokens.
    fn completion(thinking: &mut Thinking, model: impl Fn(usize) -> u32, n: usize) -> Vec<u32> {
        let mut out = Vec::new();
        let mut forced: Vec<u32> = thinking.start().map_or(Vec::new(), <[u32]>::to_vec);
        while out.len() < n {
            let next = if forced.is_empty() { vec![model(out.len())] } else { std::mem::take(&mut forced) };
            for token in next {
                out.push(token);
                forced.extend(thinking.on_token(token).unwrap_or_default());
            }
        }
        out
    }

    #[test]
    fn the_end_comes_at_the_first_break_behind_the_soft_limit() {
        let mut t = thinking(4, 8, true);
        let written = completion(&mut t, |i| if i % 3 == 2 { NEWLINE } else { 20 }, 12);
        assert_eq!(written, [20, 20, 10, 20, 20, 10, 10, CLOSE, 11, 20, 20, 10]);
        assert_eq!(t.n_tokens(), 8);
        assert!(!t.is_open());
    }

    #[test]
    fn the_end_comes_at_the_hard_limit_without_a_break() {
        let mut t = thinking(2, 4, true);
        assert_eq!(completion(&mut t, |_| 20, 9), [20, 20, 20, 20, 10, CLOSE, 11, 20, 20]);
        assert_eq!(t.n_tokens(), 6);
    }

    #[test]
    fn a_budget_of_none_ends_before_the_first_token() {
        assert_eq!(completion(&mut thinking(0, 0, true), |_| 20, 4), [10, CLOSE, 11, 20]);
        // A model that opens by itself is ended at once.
        assert_eq!(
            completion(&mut thinking(0, 0, false), |i| if i == 0 { OPEN } else { 20 }, 5),
            [OPEN, 10, CLOSE, 11, 20]
        );
    }

    #[test]
    fn an_end_of_the_models_own_is_respected() {
        let mut t = thinking(3, 100, true);
        assert_eq!(completion(&mut t, |i| [20, 20, CLOSE, 10, 10, 5][i.min(5)], 8), [20, 20, CLOSE, 10, 10, 5, 5, 5]);
        assert_eq!(t.n_tokens(), 3);
    }

    #[test]
    fn what_is_not_reasoning_is_not_counted() {
        let mut t = thinking(0, 1, false);
        assert_eq!(completion(&mut t, |_| NEWLINE, 5), [10; 5]);
        assert_eq!((t.n_tokens(), t.is_open()), (0, false));
    }

    #[test]
    fn budgets_that_cannot_be_kept_are_refused() {
        let budget = ThinkingBudget { close: vec![3], soft: 1, hard: 2, ..thinking(1, 1, true).budget };
        let error = Thinking::new(budget.clone(), true).unwrap_err();
        assert_eq!(error, ThinkingError::DoesNotClose { close_token: CLOSE });
        let error = Thinking::new(ThinkingBudget { close: vec![CLOSE], soft: 3, ..budget }, true).unwrap_err();
        assert_eq!(error, ThinkingError::SoftBeyondHard { soft: 3, hard: 2 });
    }
}
