//! Drafts: tokens that are proposed cheaply, and verified by one forward pass over all of them.
//!
//! Owns where drafts come from ([`Lookup`]) and how many are worth their rows ([`Gate`]). Must not run a model.
//!
//! # Why the output stays exact
//!
//! The rows of drafts d₁ … d_k give the model's distributions p₁ … p_{k+1}. At each the caller *chooses* as it would
//! without drafts ([`Sampler::choose`](crate::Sampler::choose) with the history so far and the position's own
//! [`Place`](crate::Place)); while the choice equals the draft, the next row's distribution has the right tokens before
//! it and is used too. The first choice that differs is kept, and what was drafted behind it is dropped.
//!
//! Every token is so drawn from the target distribution itself, by the very draw that it would have had without drafts:
//! seeded output is token-identical with and without them, whoever drafts and however well. It is also what rejection
//! sampling (Leviathan, Kalman, Matias 2023) comes to for a proposal that is certain of one token d: accept d with
//! probability min(1, p(d)/1) = p(d), else draw from p without d, renormalised. The choice equals d with probability p(d);
//! given that it differs, it is distributed as p without d. So nothing is lost by the simpler rule.

mod drafter;
mod gate;
mod lookup;

pub(crate) use drafter::Drafter;

pub use gate::Gate;
pub use lookup::Lookup;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chi_square::assert_follows;
    use crate::{History, Place, Sampler, Sampling};

    const VOCAB: usize = 8;

    /// A model that looks at the last token alone, and prefers the one that follows it in a circle.
    fn logits(last: u32) -> [f32; VOCAB] {
        std::array::from_fn(|token| {
            let next = if token as u32 == (last + 1) % VOCAB as u32 { 1.5 } else { 0.0 };
            next + ((last as usize * 5 + token * 3) % 7) as f32 * 0.3
        })
    }

    struct Generator {
        sampler: Sampler,
        history: History,
        sampling: Sampling,
        sequence: u64,
        tokens: Vec<u32>,
    }

    impl Generator {
        fn new(sampling: Sampling) -> Self {
            let history = History::with_capacity(VOCAB);
            Self { sampler: Sampler::new(VOCAB), history, sampling, sequence: 0, tokens: vec![0] }
        }

        fn restart(&mut self, sequence: u64) {
            self.history.restart(&self.sampling);
            self.sequence = sequence;
            self.tokens.truncate(1);
        }

        fn choose(&mut self) -> u32 {
            let place = Place { sequence: self.sequence, position: self.tokens.len() as u64 };
            let logits = logits(self.tokens[self.tokens.len() - 1]);
            let choice = self.sampler.choose(&logits, &self.sampling, &self.history, None, &[], place).unwrap();
            self.history.push(choice.token);
            self.tokens.push(choice.token);
            choice.token
        }

        /// One step: the rows of the drafts, and one more; returns how many were accepted.
        fn verify(&mut self, drafts: &[u32]) -> usize {
            let n_accepted = drafts.iter().take_while(|draft| self.choose() == **draft).count();
            if n_accepted == drafts.len() {
                self.choose();
            }
            n_accepted
        }
    }

    #[test]
    fn verified_drafts_leave_the_distribution_as_it_is() {
        let mut generator = Generator::new(Sampling { temperature: 1.0, seed: 1, ..Sampling::GREEDY });
        let (mut counts, mut n_accepted) = (vec![0; VOCAB * VOCAB], 0);
        for sequence in 0..100_000 {
            generator.restart(sequence);
            // One that is likely to be accepted, and one that is not.
            n_accepted += generator.verify(&[1, 5]);
            if generator.tokens.len() == 2 {
                generator.verify(&[3]);
            }
            counts[generator.tokens[1] as usize * VOCAB + generator.tokens[2] as usize] += 1;
        }
        let softmax = |last: u32| {
            let weights = logits(last).map(|x| f64::from(x).exp());
            weights.map(|weight| weight / weights.iter().sum::<f64>())
        };
        let pairs = (0..VOCAB as u32).flat_map(|a| softmax(a).map(|p| softmax(0)[a as usize] * p));
        assert_follows("pairs", &counts, &pairs.collect::<Vec<_>>());
        assert!((20_000..80_000).contains(&n_accepted), "{n_accepted} accepted: both outcomes must be common");
    }

    #[test]
    fn seeded_output_is_the_same_with_and_without_drafts() {
        let warm = Sampling { temperature: 0.4, seed: 5, ..Sampling::GREEDY };
        for sampling in [
            Sampling { top_p: 0.9, ..warm.clone() },
            Sampling { top_k: 3, min_p: 0.1, ..warm.clone() },
            Sampling { frequency_penalty: 0.01, repetition_penalty: 1.2, ..warm },
        ] {
            let mut plain = Generator::new(sampling.clone());
            (0..2000).for_each(|_| _ = plain.choose());
            let (mut drafted, mut lookup, mut gate) =
                (Generator::new(sampling), Lookup::with_capacity(2100), Gate::default());
            let costs = [1.0, 1.05, 1.1, 1.15, 1.2];
            let (mut n_known, mut n_steps, mut drafts) = (0, 0, [0; 4]);
            while drafted.tokens.len() < plain.tokens.len() {
                drafted.tokens[n_known..].iter().for_each(|token| lookup.push(*token));
                n_known = drafted.tokens.len();
                let n_found = lookup.propose(&mut drafts);
                let n_drafts = gate.n_drafts(n_found, &costs);
                let n_accepted = drafted.verify(&drafts[..n_drafts]);
                gate.record(n_drafts, n_accepted, costs[n_drafts]);
                n_steps += 1;
            }
            assert_eq!(drafted.tokens[..plain.tokens.len()], plain.tokens);
            assert!(n_steps < 1700, "{n_steps} steps: drafts must have been accepted");
        }
    }
}
