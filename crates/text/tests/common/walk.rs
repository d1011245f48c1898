//! A model of random weights that follows a grammar: what it writes is as hostile to the grammar's promises as text
//! can be. Shared by the grammar tests and the `grammar` example.
#![allow(dead_code, reason = "each binary uses its own part")]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::time::{Duration, Instant};

use text::{Grammar, GrammarError, Tokenizer};

/// Enough randomness for tests (xorshift64*).
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    pub(crate) fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        ((self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) as usize) % n
    }
}

/// How a walk ended.
pub(crate) enum Outcome {
    /// The grammar let it end.
    Finished(Vec<u8>),
    /// The tokens were used up.
    Unfinished,
    /// The grammar could not go on.
    Stuck(GrammarError),
}

/// Follows `grammar` with random tokens, at most `n_max`; `end` ends the text. Draws the end and closing brackets
/// more often than chance would, so that texts come to an end. Times each mask into `masks`.
///
/// # Panics
/// If the grammar contradicts itself.
pub(crate) fn walk(
    grammar: &mut Grammar,
    tokenizer: &Tokenizer,
    end: u32,
    n_max: usize,
    random: &mut Random,
    masks: &mut Vec<Duration>,
) -> Outcome {
    let mut bits = vec![0u32; tokenizer.vocab_size().div_ceil(32) + 1];
    let mut text = Vec::new();
    let mut forced = Vec::new();
    let mut allowed = Vec::new();
    for _ in 0..n_max {
        let start = Instant::now();
        if let Err(error) = grammar.allowed(&mut bits) {
            return Outcome::Stuck(error);
        }
        masks.push(start.elapsed());
        allowed.clear();
        for (at, &word) in bits.iter().enumerate() {
            let mut rest = word;
            while rest != 0 {
                allowed.push(at as u32 * 32 + rest.trailing_zeros());
                rest &= rest - 1;
            }
        }
        let may_end = grammar.may_end().unwrap();
        assert_eq!(may_end, allowed.contains(&end), "the end is allowed exactly where the grammar may end");
        assert!(!grammar.is_complete() || allowed == [end], "complete, but more may follow");
        forced.clear();
        grammar.forced(&mut forced);
        if let Some(&first) = forced.first() {
            assert!(allowed.contains(&first), "forced, but not allowed");
        }
        let token = match forced.first() {
            Some(&first) => first,
            None => draw(&allowed, tokenizer, end, random),
        };
        match grammar.accept(token) {
            Ok(()) => {}
            Err(error @ GrammarError::Stuck(_)) => return Outcome::Stuck(error),
            Err(error) => panic!("{error}"),
        }
        if token == end {
            assert!(grammar.is_complete() && grammar.accept(end).is_err());
            return Outcome::Finished(text);
        }
        text.extend_from_slice(tokenizer.token_bytes(token).unwrap());
    }
    Outcome::Unfinished
}

fn draw(allowed: &[u32], tokenizer: &Tokenizer, end: u32, random: &mut Random) -> u32 {
    if allowed.contains(&end) && random.below(3) > 0 {
        return end;
    }
    if random.below(2) == 0 {
        let closes = |&&id: &&u32| {
            let bytes = tokenizer.token_bytes(id).unwrap_or_default();
            matches!(bytes.first(), Some(b'"' | b'}' | b']'))
        };
        let closing: Vec<u32> = allowed.iter().filter(closes).copied().collect();
        if !closing.is_empty() {
            return closing[random.below(closing.len())];
        }
    }
    allowed[random.below(allowed.len())]
}

/// Whether the grammar accepts `text` as a whole.
pub(crate) fn accepts(grammar: &Grammar, tokenizer: &Tokenizer, text: &str) -> bool {
    let mut grammar = grammar.clone();
    let ids = tokenizer.encode_plain(text).unwrap();
    ids.into_iter().all(|id| grammar.accept(id).is_ok()) && grammar.may_end().unwrap_or(false)
}
