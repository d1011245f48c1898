//! What stood in a sequence before: the counts that penalties need.
//!
//! Owns one sequence's counts. Must not know what a penalty is.

use super::Sampling;

/// Marks a slot of the hash table without an entry.
const FREE: u32 = u32::MAX;

/// A token that stood in prompt or completion.
#[derive(Clone, Copy, Debug)]
pub(super) struct Seen {
    pub(super) token: u32,
    pub(super) n_completion: u32,
}

/// Counts of the tokens of one sequence. All memory is taken at creation: 8 bytes per distinct token, and up to 16 for the
/// table that finds them. Counts nothing for a request without penalties.
#[derive(Clone, Debug)]
pub struct History {
    seen: Vec<Seen>,
    /// Open addressing, at most half full: indices into `seen`.
    slots: Vec<u32>,
    n_seen_max: usize,
    counts: bool,
}

impl History {
    /// For requests without penalties: takes no memory, counts nothing.
    pub const NONE: Self = Self { seen: Vec::new(), slots: Vec::new(), n_seen_max: 0, counts: false };

    /// Room for `n_distinct` different tokens: no more than the longest sequence or the vocabulary has.
    #[must_use]
    pub fn with_capacity(n_distinct: usize) -> Self {
        let slots = vec![FREE; (2 * n_distinct).next_power_of_two()];
        Self { seen: Vec::with_capacity(n_distinct), slots, n_seen_max: n_distinct, counts: true }
    }

    /// Forgets everything, for a new sequence; counts from now on only if `sampling` penalises.
    pub fn restart(&mut self, sampling: &Sampling) {
        if !self.seen.is_empty() {
            self.seen.clear();
            self.slots.fill(FREE);
        }
        self.counts = sampling.penalizes();
    }

    /// Counts the tokens of a prompt.
    ///
    /// # Panics
    /// If there are more different tokens than there is room for
    pub fn push_prompt(&mut self, tokens: &[u32]) {
        if self.counts {
            tokens.iter().for_each(|token| _ = self.entry(*token));
        }
    }

    /// Counts a token of the completion.
    ///
    /// # Panics
    /// As [`History::push_prompt`]
    pub fn push(&mut self, token: u32) {
        if self.counts {
            self.entry(token).n_completion += 1;
        }
    }

    /// Every different token, in the order of its first occurrence.
    pub(super) fn seen(&self) -> &[Seen] {
        &self.seen
    }

    fn entry(&mut self, token: u32) -> &mut Seen {
        let mask = self.slots.len().wrapping_sub(1);
        // Fibonacci hashing: the upper half of the product depends on every bit of the token.
        let mut slot = (u64::from(token).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32) as usize & mask;
        loop {
            let at = self.slots.get(slot).copied().unwrap_or(FREE);
            if at == FREE {
                let n = self.seen.len();
                assert!(n < self.n_seen_max, "a history with room for {n} different tokens got one more");
                self.slots[slot] = n as u32;
                self.seen.push(Seen { token, n_completion: 0 });
                return &mut self.seen[n];
            }
            if self.seen[at as usize].token == token {
                return &mut self.seen[at as usize];
            }
            slot = (slot + 1) & mask;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn counts(history: &History) -> BTreeMap<u32, u32> {
        history.seen().iter().map(|seen| (seen.token, seen.n_completion)).collect()
    }

    proptest::proptest! {
        #[test]
        fn counts_as_a_map_does(prompt in proptest::collection::vec(0u32..300, 0..200),
                                completion in proptest::collection::vec(0u32..300, 0..200)) {
            let mut history = History::with_capacity(300);
            // What stood before a restart leaves no trace.
            history.push_prompt(&completion);
            history.restart(&Sampling { presence_penalty: 1.0, ..Sampling::GREEDY });
            history.push_prompt(&prompt);
            let mut expected: BTreeMap<u32, u32> = prompt.iter().map(|token| (*token, 0)).collect();
            for token in completion {
                history.push(token);
                *expected.entry(token).or_default() += 1;
            }
            proptest::prop_assert_eq!(counts(&history), expected);
        }
    }

    #[test]
    fn counts_nothing_without_penalties() {
        let mut history = History::with_capacity(1);
        history.restart(&Sampling::GREEDY);
        history.push_prompt(&[1, 2, 3]);
        history.push(4);
        assert!(history.seen().is_empty());
    }

    #[test]
    fn a_full_history_takes_more_of_what_it_knows() {
        let mut history = History::with_capacity(2);
        history.push_prompt(&[8, 9]);
        history.push(9);
        assert_eq!(counts(&history), BTreeMap::from([(8, 0), (9, 1)]));
    }

    #[test]
    #[should_panic(expected = "a history with room for 1 different tokens got one more")]
    fn too_many_different_tokens_are_a_bug() {
        History::with_capacity(1).push_prompt(&[1, 2]);
    }
}
