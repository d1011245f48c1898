//! Drafts from the sequence itself: what followed when its last tokens stood before.
//!
//! Owns the sequence's tokens and an index of their n-grams. All memory is taken at creation.
//!
//! # Source   Saxena: "Prompt lookup decoding", 2023

/// Lengths of the suffixes that are looked up, the first that matches wins: three tokens are rarely the same by
/// chance; two find more, and the gate learns whether they are worth it.
const N_GRAMS: [usize; 2] = [3, 2];
/// Slots that one search looks at, so that no input makes it long. At half load a longer search is rare, and then the
/// oldest n-gram found is replaced.
const N_PROBES: usize = 8;
/// Marks a slot without an n-gram, and a suffix without a match: no n-gram ends before the first token.
const FREE: u32 = 0;

/// An index over one sequence, prompt and completion.
#[derive(Clone, Debug)]
pub struct Lookup {
    tokens: Vec<u32>,
    n_tokens_max: usize,
    /// Per length: where the last occurrence of an n-gram ends.
    indices: [Vec<u32>; N_GRAMS.len()],
    /// Where what followed the last tokens begins, or [`FREE`].
    continuation: u32,
}

impl Lookup {
    /// An index of up to `n_tokens_max` tokens, which takes about 20 to 36 bytes for each.
    #[must_use]
    pub fn with_capacity(n_tokens_max: usize) -> Self {
        let slots = vec![FREE; (2 * n_tokens_max).next_power_of_two()];
        let indices = std::array::from_fn(|_| slots.clone());
        Self { tokens: Vec::with_capacity(n_tokens_max), n_tokens_max, indices, continuation: FREE }
    }

    /// Forgets everything, for a new sequence.
    pub fn clear(&mut self) {
        self.tokens.clear();
        self.indices.iter_mut().for_each(|index| index.fill(FREE));
        self.continuation = FREE;
    }

    /// Appends a token that is certain; drafts are not pushed before they are verified.
    ///
    /// # Panics
    /// If there are more tokens than there is room for
    pub fn push(&mut self, token: u32) {
        assert!(self.tokens.len() < self.n_tokens_max, "a lookup for {} tokens got one more", self.n_tokens_max);
        self.tokens.push(token);
        self.continuation = FREE;
        for (n, index) in N_GRAMS.into_iter().zip(&mut self.indices) {
            let before = note(&self.tokens, n, index);
            if self.continuation == FREE {
                self.continuation = before;
            }
        }
    }

    /// Fills `out` with what followed the sequence's last tokens when they stood before; returns how many tokens that
    /// are: all of `out`, or none without a match. A continuation that reaches the sequence's end goes on with itself,
    /// as loops do.
    pub fn propose(&self, out: &mut [u32]) -> usize {
        if self.continuation == FREE {
            return 0;
        }
        let known = &self.tokens[self.continuation as usize..];
        for (i, out) in out.iter_mut().enumerate() {
            *out = known[i % known.len()];
        }
        out.len()
    }
}

/// Notes where the last `n` tokens end; returns where their last occurrence before ended.
fn note(tokens: &[u32], n: usize, index: &mut [u32]) -> u32 {
    let Some(suffix) = tokens.len().checked_sub(n).map(|start| &tokens[start..]) else { return FREE };
    let mask = index.len() - 1;
    let hash = suffix
        .iter()
        .fold(0u64, |hash, token| (hash ^ u64::from(*token)).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29));
    let first = (hash.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32) as usize;
    let mut replaced = first & mask;
    for probe in 0..N_PROBES {
        let slot = (first + probe) & mask;
        let end = index[slot];
        if end == FREE || tokens[end as usize - n..end as usize] == *suffix {
            index[slot] = tokens.len() as u32;
            return end;
        }
        if end < index[replaced] {
            replaced = slot;
        }
    }
    index[replaced] = tokens.len() as u32;
    FREE
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proposal(tokens: &[u32], k: usize) -> Vec<u32> {
        // So much room that no search is cut short.
        let mut lookup = Lookup::with_capacity(4096);
        tokens.iter().for_each(|token| lookup.push(*token));
        let mut out = vec![u32::MAX; k];
        let n = lookup.propose(&mut out);
        out.truncate(n);
        out
    }

    /// The same by searching backwards.
    fn searched(tokens: &[u32], k: usize) -> Vec<u32> {
        let n_tokens = tokens.len();
        for n in N_GRAMS.into_iter().filter(|n| *n <= n_tokens) {
            for end in (n..n_tokens).rev() {
                if tokens[end - n..end] == tokens[n_tokens - n..] {
                    return (0..k).map(|i| tokens[end + i % (n_tokens - end)]).collect();
                }
            }
        }
        Vec::new()
    }

    #[test]
    fn three_tokens_go_before_two_and_the_latest_before_earlier() {
        assert_eq!(proposal(&[1, 2, 3, 7, 9, 2, 3, 8, 1, 2, 3], 2), [7, 9]);
        assert_eq!(proposal(&[1, 2, 3, 7, 9, 2, 3, 8, 5, 2, 3], 2), [8, 5]);
        assert_eq!(proposal(&[1, 2, 3, 7, 1, 2, 3, 8, 1, 2, 3], 1), [8]);
        assert_eq!(proposal(&[1, 2, 3, 4], 3), [0u32; 0]);
        assert_eq!(proposal(&[], 3), [0u32; 0]);
        assert_eq!(proposal(&[5, 5], 3), [0u32; 0]);
    }

    #[test]
    fn a_continuation_that_ends_goes_on_as_a_loop() {
        assert_eq!(proposal(&[4, 1, 2, 1, 2, 1], 5), [2, 1, 2, 1, 2]);
        assert_eq!(proposal(&[5, 5, 5], 4), [5, 5, 5, 5]);
    }

    proptest::proptest! {
        #[test]
        fn proposes_what_a_search_finds(tokens in proptest::collection::vec(0u32..6, 0..120)) {
            for n in 0..tokens.len() {
                proptest::prop_assert_eq!(proposal(&tokens[..n], 6), searched(&tokens[..n], 6));
            }
        }
    }

    #[test]
    fn hardly_an_n_gram_is_lost_in_a_full_index() {
        // Random pairs first, then each again: all tokens differ within a pair of neighbours.
        let head: Vec<u32> = (0..4000u64).map(|i| (i.wrapping_mul(6_364_136_223_846_793_005) >> 40) as u32).collect();
        let mut lookup = Lookup::with_capacity(8000);
        head.iter().for_each(|token| lookup.push(*token));
        let mut n_found = 0;
        for pair in head.windows(2) {
            lookup.push(pair[0]);
            let mut next = [0];
            n_found += usize::from(lookup.propose(&mut next) == 1 && next[0] == pair[1]);
        }
        assert!(n_found >= 3_990, "{n_found} of 3,999 found");
    }

    #[test]
    fn a_cleared_index_knows_nothing() {
        let mut lookup = Lookup::with_capacity(6);
        [1, 2, 3, 1, 2, 3].iter().for_each(|token| lookup.push(*token));
        lookup.clear();
        [1, 2, 3].iter().for_each(|token| lookup.push(*token));
        assert_eq!(lookup.propose(&mut [0; 4]), 0);
    }
}
