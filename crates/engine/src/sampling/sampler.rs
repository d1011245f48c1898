//! Choosing a token from logits.
//!
//! Owns the scratch for one vocabulary and the order of the steps. Allocates at creation only. Must not keep anything
//! from one choice to the next but the log-probabilities that were asked for.
//!
//! Nothing is sorted but a handful. `top_k` looks only into blocks whose maximum reaches the k-th largest of the blocks'
//! maxima, since k logits do at least. `top_p` draws from all and asks whether the token is in the nucleus, which one
//! pass answers: it is if what ranks above it holds less than p. If not, neither is anything that ranks below it, and the
//! next draw is among those above. Every draw has the tokens of the nucleus in the right proportions, so the accepted one
//! does; the first is accepted with probability p or more.

use std::cmp::Ordering;

use super::draw::uniform;
use super::scan::{BLOCK, IMPOSSIBLE, Weighing, block_maxima, finite, ln, sum_above};
use super::{History, Place, Sampling, TOP_LOGPROBS_MAX};

/// A chosen token.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Choice {
    /// Its id.
    pub token: u32,
    /// Its log-probability, if asked for: see [`TokenLogprob::logprob`].
    pub logprob: Option<f32>,
}

/// A token and its log-probability.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TokenLogprob {
    /// Its id.
    pub token: u32,
    /// Log-softmax of the model's own logits, before bias, penalties, mask, temperature and cuts; at least `f32::MIN`,
    /// never NaN.
    pub logprob: f32,
}

/// There is no token to choose.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoToken {
    /// The mask and the banned tokens leave none: whoever made the mask led into a dead end.
    #[error("no token is permitted here: the mask and the banned tokens exclude all")]
    Forbidden,
    /// Tokens are permitted, but the logits of all are NaN or −inf: the model's numbers are broken.
    #[error("the logits of all permitted tokens are NaN or -inf")]
    Impossible,
}

/// Chooses tokens of one vocabulary. Holds no state between choices, so one serves every sequence of an engine.
#[derive(Clone, Debug)]
pub struct Sampler {
    /// Logits after bias, penalties and mask, where there are any.
    edited: Vec<f32>,
    chooser: Chooser,
    top: Vec<TokenLogprob>,
}

impl Sampler {
    /// Scratch for a vocabulary: some 16 bytes per token.
    #[must_use]
    pub fn new(vocab: usize) -> Self {
        let n_blocks = vocab.div_ceil(BLOCK);
        let chooser = Chooser {
            maxima: vec![0.0; n_blocks],
            ranked: vec![0.0; n_blocks],
            weights: vec![0.0; vocab],
            sums: vec![0.0; n_blocks],
            sums_above: vec![0.0; n_blocks],
            candidates: Vec::with_capacity(vocab),
        };
        Self { edited: vec![0.0; vocab], chooser, top: Vec::with_capacity(TOP_LOGPROBS_MAX) }
    }

    /// The token at `place`: the same for the same arguments, on every machine.
    ///
    /// `allowed` is a mask of permitted tokens, bit t mod 32 of word ⌊t/32⌋; `banned` are impossible besides, and may name
    /// tokens beyond the vocabulary.
    ///
    /// # Shapes   `logits [vocab]`, `allowed [⌈vocab/32⌉]`
    /// # Errors
    /// No token is possible
    /// # Panics
    /// If a length is not the vocabulary's, or a bias or the history has a token beyond it
    pub fn choose(
        &mut self,
        logits: &[f32],
        sampling: &Sampling,
        history: &History,
        allowed: Option<&[u32]>,
        banned: &[u32],
        place: Place,
    ) -> Result<Choice, NoToken> {
        let vocab = self.edited.len();
        assert_eq!(logits.len(), vocab, "logits of another vocabulary");
        let penalized = sampling.penalizes() && !history.seen().is_empty();
        let edits = penalized || !sampling.logit_bias.is_empty() || allowed.is_some() || !banned.is_empty();
        let chosen = if edits {
            edit(&mut self.edited, logits, sampling, history);
            exclude(&mut self.edited, allowed, banned);
            self.chooser.choose(&self.edited, sampling, place)
        } else {
            self.chooser.choose(logits, sampling, place)
        };
        self.top.clear();
        let token = chosen.ok_or_else(|| why_none(vocab, allowed, banned))?;
        let logprob = sampling.top_logprobs.map(|n_top| self.logprobs(logits, n_top, token, edits));
        Ok(Choice { token, logprob })
    }

    /// The most probable tokens of the last choice, best first: as many as it asked for, fewer if fewer are possible.
    #[must_use]
    pub fn top(&self) -> &[TokenLogprob] {
        &self.top
    }

    /// Fills `top`; returns the log-probability of `token`.
    fn logprobs(&mut self, logits: &[f32], n_top: usize, token: u32, edits: bool) -> f32 {
        let chooser = &mut self.chooser;
        if edits {
            block_maxima(logits, &mut chooser.maxima);
        }
        let max = finite(chooser.maxima.iter().copied().fold(IMPOSSIBLE, f32::max));
        let log_sum = ln(Weighing::new(max, 1.0).sum(logits));
        let logprob = |logit: f32| ((f64::from(finite(logit)) - f64::from(max) - log_sum) as f32).max(f32::MIN);
        if n_top > 0 {
            chooser.rank(logits, n_top.min(TOP_LOGPROBS_MAX));
            let ranked = chooser.candidates.iter();
            self.top.extend(ranked.map(|(logit, token)| TokenLogprob { token: *token, logprob: logprob(*logit) }));
        }
        logprob(logits[token as usize])
    }
}

/// Bias, then penalties.
fn edit(edited: &mut [f32], logits: &[f32], sampling: &Sampling, history: &History) {
    for (edited, logit) in edited.iter_mut().zip(logits) {
        *edited = finite(*logit);
    }
    // What is impossible stays so: biases and subtracted penalties vanish beside it, and division is kept from it.
    for (token, bias) in &sampling.logit_bias {
        edited[*token as usize] += bias;
    }
    if !sampling.penalizes() {
        return;
    }
    for seen in history.seen() {
        let logit = &mut edited[seen.token as usize];
        if *logit > IMPOSSIBLE {
            let r = sampling.repetition_penalty;
            let scaled = if *logit > 0.0 { *logit / r } else { *logit * r };
            let present = if seen.n_completion > 0 { sampling.presence_penalty } else { 0.0 };
            *logit = finite(scaled - sampling.frequency_penalty * seen.n_completion as f32 - present);
        }
    }
}

/// Makes tokens outside the mask, and banned ones, impossible.
fn exclude(edited: &mut [f32], allowed: Option<&[u32]>, banned: &[u32]) {
    if let Some(allowed) = allowed {
        assert_eq!(allowed.len(), edited.len().div_ceil(32), "a mask of another vocabulary");
        for (logits, word) in edited.chunks_mut(32).zip(allowed) {
            match *word {
                0 => logits.fill(IMPOSSIBLE),
                u32::MAX => {}
                word => {
                    for (bit, logit) in logits.iter_mut().enumerate() {
                        *logit = if word >> bit & 1 == 1 { *logit } else { IMPOSSIBLE };
                    }
                }
            }
        }
    }
    for token in banned {
        // A checkpoint may name an end token that its vocabulary does not have: it is never chosen as it is.
        if let Some(logit) = edited.get_mut(*token as usize) {
            *logit = IMPOSSIBLE;
        }
    }
}

/// Why no token is possible.
fn why_none(vocab: usize, allowed: Option<&[u32]>, banned: &[u32]) -> NoToken {
    let permitted = |token: u32| {
        allowed.is_none_or(|words| words[token as usize / 32] >> (token % 32) & 1 == 1) && !banned.contains(&token)
    };
    if (0..vocab as u32).any(permitted) { NoToken::Impossible } else { NoToken::Forbidden }
}

/// The steps from temperature to draw, over logits that are final.
#[derive(Clone, Debug)]
struct Chooser {
    /// Of each block of the logits.
    maxima: Vec<f32>,
    /// A copy of `maxima` to select in.
    ranked: Vec<f32>,
    weights: Vec<f32>,
    /// Of the weights of each block that are still in the draw.
    sums: Vec<f64>,
    /// Of the weights of each block that rank above the token drawn last.
    sums_above: Vec<f64>,
    /// Logits and tokens.
    candidates: Vec<(f32, u32)>,
}

impl Chooser {
    /// A token, if one is possible. Leaves the maxima of the logits' blocks.
    fn choose(&mut self, logits: &[f32], sampling: &Sampling, place: Place) -> Option<u32> {
        let max = block_maxima(logits, &mut self.maxima);
        if max <= IMPOSSIBLE {
            return None;
        }
        if sampling.greedy() {
            return self.first_equal(logits, max);
        }
        let weighing = Weighing::new(max, sampling.temperature);
        if (1..logits.len()).contains(&sampling.top_k) {
            return self.choose_ranked(logits, weighing, sampling, place);
        }
        if sampling.top_p < 1.0 {
            return self.choose_nucleus(logits, weighing, sampling, place);
        }
        let total = weighing.with_floor(sampling.min_p).weigh(logits, &mut self.weights, &mut self.sums);
        self.draw(uniform(sampling.seed, place, 0) * total, None).map(|token| token as u32)
    }

    fn first_equal(&self, logits: &[f32], max: f32) -> Option<u32> {
        let start = self.maxima.iter().position(|block| *block == max)? * BLOCK;
        logits[start..].iter().position(|logit| *logit == max).map(|i| (start + i) as u32)
    }

    /// Top-k, and of these top-p and min-p.
    fn choose_ranked(&mut self, logits: &[f32], weighing: Weighing, s: &Sampling, place: Place) -> Option<u32> {
        self.rank(logits, s.top_k);
        for candidate in &mut self.candidates {
            candidate.0 = weighing.weight(candidate.0);
        }
        let total: f64 = self.candidates.iter().map(|(weight, _)| f64::from(*weight)).sum();
        let (mut kept, mut n_kept) = (0.0, 0);
        for (weight, _) in &self.candidates {
            // The best is kept whatever the cuts: its weight is 1, and nothing is above it.
            if kept >= f64::from(s.top_p) * total || *weight < s.min_p {
                break;
            }
            kept += f64::from(*weight);
            n_kept += 1;
        }
        self.candidates.truncate(n_kept);
        let mut left = uniform(s.seed, place, 0) * kept;
        for (weight, token) in &self.candidates {
            left -= f64::from(*weight);
            if left < 0.0 {
                return Some(*token);
            }
        }
        self.candidates.last().map(|(_, token)| *token)
    }

    /// The `n` largest possible logits and their tokens into `candidates`, best first.
    fn rank(&mut self, logits: &[f32], n: usize) {
        self.ranked.copy_from_slice(&self.maxima);
        let bar = match self.ranked.len() {
            n_blocks if n <= n_blocks => *self.ranked.select_nth_unstable_by(n - 1, |a, b| b.total_cmp(a)).1,
            _ => IMPOSSIBLE,
        };
        self.candidates.clear();
        for (i, (block, max)) in logits.chunks(BLOCK).zip(&self.maxima).enumerate() {
            if *max >= bar {
                let tokens = (i * BLOCK) as u32..;
                let reach = block.iter().copied().zip(tokens).filter(|(x, _)| *x >= bar && *x > IMPOSSIBLE);
                self.candidates.extend(reach);
            }
        }
        if n < self.candidates.len() {
            self.candidates.select_nth_unstable_by(n - 1, better);
            self.candidates.truncate(n);
        }
        self.candidates.sort_unstable_by(better);
    }

    /// Top-p of everything, and of these min-p.
    fn choose_nucleus(&mut self, logits: &[f32], weighing: Weighing, s: &Sampling, place: Place) -> Option<u32> {
        let mut total = weighing.weigh(logits, &mut self.weights, &mut self.sums);
        let nucleus = f64::from(s.top_p) * total;
        let mut pivot = None;
        let mut round = 0;
        loop {
            let token = self.draw(uniform(s.seed, place, round) * total, pivot)?;
            let above = sum_above(&self.weights, token, &mut self.sums_above);
            if above < nucleus && self.weights[token] >= s.min_p {
                return Some(token as u32);
            }
            // Something ranks above it, or it would have been accepted: every round leaves fewer.
            std::mem::swap(&mut self.sums, &mut self.sums_above);
            (total, pivot, round) = (above, Some(token), round + 1);
        }
    }

    /// The token at which the running sum of weights exceeds `left`, of all or of those that rank above `pivot`.
    fn draw(&self, mut left: f64, pivot: Option<usize>) -> Option<usize> {
        let mut block = None;
        for (i, sum) in self.sums.iter().enumerate().filter(|(_, sum)| **sum > 0.0) {
            block = Some(i);
            if left < *sum {
                break;
            }
            left -= sum;
        }
        let start = block? * BLOCK;
        let above = |i: usize, weight: f32| {
            pivot.is_none_or(|pivot| weight > self.weights[pivot] || (weight == self.weights[pivot] && i < pivot))
        };
        // Sums in another order can leave a rest of some rounding errors, which the last token takes.
        let mut last = None;
        for (i, weight) in (start..).zip(&self.weights[start..self.weights.len().min(start + BLOCK)]) {
            if *weight > 0.0 && above(i, *weight) {
                last = Some(i);
                left -= f64::from(*weight);
                if left < 0.0 {
                    break;
                }
            }
        }
        last
    }
}

/// Larger logits first, of equal ones the lower token.
fn better(a: &(f32, u32), b: &(f32, u32)) -> Ordering {
    b.0.partial_cmp(&a.0).unwrap_or(Ordering::Equal).then(a.1.cmp(&b.1))
}

#[cfg(test)]
mod tests;
