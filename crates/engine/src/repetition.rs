//! Completions that have fallen into a loop.
//!
//! Owns the last tokens of one completion and how long each period has held. Decides nothing: what to do about a loop is
//! the caller's.
//!
//! For every period p ≤ 256 it counts how many tokens in a row equalled the one p before. One pass over 256 counters per
//! token is exact, needs no hashing and takes some tens of nanoseconds, beside milliseconds that the token took.

/// Longest period. Loops of small and coarsely quantised models are sentences or short paragraphs.
const PERIOD_MAX: usize = 256;
/// Repetitions in a row. Lists and tables repeat their frame, but between two rows something differs.
const N_REPEATS_MIN: usize = 8;
/// Tokens that the repetitions hold together: a ruler, a row of dashes or a small matrix of zeros may be meant.
const N_TOKENS_MIN: usize = 512;

/// The tail of a completion, if it is one period again and again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Loop {
    /// Tokens until it repeats.
    pub period: usize,
    /// Tokens that the repetitions hold, the first included.
    pub n_tokens: usize,
}

/// Watches one completion. Takes about 3 KiB, and no more.
#[derive(Clone, Debug)]
pub struct LoopDetector {
    /// The last [`PERIOD_MAX`] tokens twice over, so that they can be read as one slice from any point.
    ring: Box<[u32; 2 * PERIOD_MAX]>,
    /// `runs[i]`: tokens in a row that equalled the one `PERIOD_MAX − i` before.
    runs: Box<[u32; PERIOD_MAX]>,
    n_tokens: usize,
}

impl Default for LoopDetector {
    fn default() -> Self {
        Self { ring: Box::new([0; 2 * PERIOD_MAX]), runs: Box::new([0; PERIOD_MAX]), n_tokens: 0 }
    }
}

impl LoopDetector {
    /// Takes note of the completion's next token; returns the shortest loop that it is in, if any.
    pub fn push(&mut self, token: u32) -> Option<Loop> {
        let at = self.n_tokens % PERIOD_MAX;
        let n_known = self.n_tokens.min(PERIOD_MAX);
        let mut longest = 0;
        // Oldest first: the token p before stands at PERIOD_MAX − p.
        let last: &[u32] = &self.ring[at..at + PERIOD_MAX];
        for (run, before) in self.runs.iter_mut().zip(last) {
            *run = if *before == token { *run + 1 } else { 0 };
            longest = longest.max(*run);
        }
        // What stands before the first token equals nothing.
        self.runs[..PERIOD_MAX - n_known].fill(0);
        self.ring[at] = token;
        self.ring[at + PERIOD_MAX] = token;
        self.n_tokens += 1;
        if longest as usize + PERIOD_MAX < N_TOKENS_MIN {
            return None;
        }
        (1..=PERIOD_MAX).find_map(|period| {
            let n_tokens = self.runs[PERIOD_MAX - period] as usize + period;
            (n_tokens >= N_TOKENS_MIN.max(N_REPEATS_MIN * period)).then_some(Loop { period, n_tokens })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Pushes all; at every report the tail must be exactly periodic, and the period must be the shortest.
    fn first_loop(tokens: impl IntoIterator<Item = u32>) -> Option<(usize, Loop)> {
        let (mut detector, mut seen, mut first) = (LoopDetector::default(), Vec::new(), None);
        for token in tokens {
            seen.push(token);
            let Some(found) = detector.push(token) else { continue };
            let tail = &seen[seen.len() - found.n_tokens..];
            let periodic = |p: usize| tail[p..].iter().zip(tail).all(|(a, b)| a == b);
            assert!(periodic(found.period), "{found:?} is none");
            assert!(!(1..found.period).any(periodic), "{found:?} has a shorter period");
            first = first.or(Some((seen.len(), found)));
        }
        first
    }

    #[test]
    fn a_loop_is_found_as_soon_as_it_is_long_enough() {
        for period in [1, 2, 3, 60, 64, 65, 128, 255, 256] {
            let expected = N_TOKENS_MIN.max(N_REPEATS_MIN * period);
            let head = (1000..1100).map(|t| t * 7);
            let found = first_loop(head.chain((0..3000).map(|i| i % period as u32))).unwrap();
            assert_eq!(found, (100 + expected, Loop { period, n_tokens: expected }), "period {period}");
        }
    }

    #[test]
    fn zeros_count_from_the_first_token() {
        assert_eq!(first_loop([0; 600]), Some((512, Loop { period: 1, n_tokens: 512 })));
    }

    #[test]
    fn tables_and_numbered_lists_are_no_loops() {
        // "| name | 17 | 42 |": the frame repeats, and a number counts up.
        assert_eq!(first_loop((0..20_000).map(|i| if i % 9 == 4 { 100 + i / 9 } else { i % 9 })), None);
        // The number's last digit alone differs from row to row: the period is that of ten rows of 30 tokens, 300.
        assert_eq!(first_loop((0..20_000).map(|i| if i % 30 == 0 { 100 + i / 30 % 10 } else { i % 30 })), None);
        // The unit matrix, with ends of lines: a row is like the one before but for two tokens.
        assert_eq!(first_loop((0..101 * 100).map(|i| if i % 101 == 100 { 7 } else { u32::from(i % 102 == 0) })), None);
    }

    proptest::proptest! {
        #[test]
        fn what_is_found_is_periodic(period in 1usize..300, noise in 1usize..2000, alphabet in 1u32..4) {
            first_loop((0..3000usize).map(|i| {
                let token = (i % period) as u32 * 7919 % 97 % alphabet;
                if i % noise == noise - 1 { token + 1 } else { token }
            }));
        }
    }
}
