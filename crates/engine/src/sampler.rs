//! Choosing the next token from logits.
//!
//! Owns the distribution and the draw. A draw depends on seed and position alone, so a result can be repeated and does
//! not depend on what else runs. Must not know text.

/// How to choose.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sampler {
    /// Divides the logits; 0 takes the most probable token.
    pub temperature: f32,
    /// Keeps this many most probable tokens; 0 keeps all.
    pub top_k: usize,
    /// Keeps the smallest set of most probable tokens that holds this much probability.
    pub top_p: f32,
    /// Seed of every draw.
    pub seed: u64,
}

impl Sampler {
    /// Always the most probable token.
    pub const GREEDY: Self = Self { temperature: 0.0, top_k: 0, top_p: 1.0, seed: 0 };

    /// The token at `position` of its sequence.
    ///
    /// # Shapes   `logits [vocab]`
    /// # Panics
    /// If `logits` is empty
    #[must_use]
    pub fn choose(&self, logits: &[f32], position: usize) -> u32 {
        if self.temperature <= 0.0 || self.top_k == 1 {
            return argmax(logits);
        }
        let mut ranked: Vec<(u32, f32)> = (0u32..).zip(logits.iter().copied()).collect();
        ranked.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
        if self.top_k > 0 {
            ranked.truncate(self.top_k);
        }
        let max = f64::from(ranked[0].1);
        let weight = |logit: f32| ((f64::from(logit) - max) / f64::from(self.temperature)).exp();
        let total: f64 = ranked.iter().map(|(_, logit)| weight(*logit)).sum();
        let mut kept = 0.0;
        let n_kept = ranked.iter().position(|(_, logit)| {
            kept += weight(*logit);
            kept >= f64::from(self.top_p) * total
        });
        ranked.truncate(n_kept.map_or(ranked.len(), |n| n + 1));
        let mut left = uniform(self.seed, position as u64) * kept.min(total);
        for (token, logit) in &ranked {
            left -= weight(*logit);
            if left < 0.0 {
                return *token;
            }
        }
        ranked[ranked.len() - 1].0
    }
}

/// Index of the largest logit; of equal ones the lowest.
///
/// # Panics
/// If `logits` is empty
#[must_use]
pub fn argmax(logits: &[f32]) -> u32 {
    let mut best = 0;
    for (i, logit) in logits.iter().enumerate() {
        if *logit > logits[best] {
            best = i;
        }
    }
    assert!(!logits.is_empty(), "no logits to choose from");
    best as u32
}

/// A number in [0, 1) from a seed and a counter: SplitMix64's finalizer over both.
///
/// # Source   Steele, Lea, Flood: "Fast splittable pseudorandom number generators", OOPSLA 2014
fn uniform(seed: u64, counter: u64) -> f64 {
    let mix = |mut z: u64| {
        z = z.wrapping_add(0x9e37_79b9_7f4a_7c15);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    };
    (mix(mix(seed) ^ counter) >> 11) as f64 / (1u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    const WARM: Sampler = Sampler { temperature: 1.0, top_k: 0, top_p: 1.0, seed: 7 };

    fn shares(sampler: &Sampler, logits: &[f32], n: usize) -> Vec<f64> {
        let mut counts = vec![0u32; logits.len()];
        (0..n).for_each(|position| counts[sampler.choose(logits, position) as usize] += 1);
        counts.into_iter().map(|count| f64::from(count) / n as f64).collect()
    }

    #[test]
    fn draws_follow_the_softmax() {
        let logits = [0.0, 1.0, 2.0, -1.0];
        let total: f64 = logits.iter().map(|l: &f32| f64::from(*l).exp()).sum();
        for (share, logit) in shares(&WARM, &logits, 40_000).iter().zip(logits) {
            // Five standard deviations of a share of 40,000 draws are below 0.0125.
            assert!((share - f64::from(logit).exp() / total).abs() < 0.0125, "{share} for logit {logit}");
        }
    }

    #[test]
    fn top_k_and_top_p_cut_the_tail() {
        let logits = [0.0, 1.0, 2.0, -1.0];
        let top_k = Sampler { top_k: 2, ..WARM };
        assert!(shares(&top_k, &logits, 2000).iter().enumerate().all(|(i, s)| (*s > 0.0) == (i == 1 || i == 2)));
        let top_p = Sampler { top_p: 0.6, ..WARM };
        assert_eq!(shares(&top_p, &logits, 2000)[2], 1.0);
    }

    #[test]
    fn zero_temperature_is_greedy_and_ties_go_to_the_lower_id() {
        assert_eq!(Sampler::GREEDY.choose(&[1.0, 3.0, 3.0], 0), 1);
        assert_eq!(Sampler { temperature: 1e-6, ..WARM }.choose(&[1.0, 3.0, 2.0], 9), 1);
    }

    #[test]
    fn the_same_seed_and_position_draw_the_same_token() {
        let logits: Vec<f32> = (0..100).map(|i| (i as f32).sin()).collect();
        let draw = |seed| (0..50).map(|p| Sampler { seed, ..WARM }.choose(&logits, p)).collect::<Vec<_>>();
        assert_eq!(draw(1), draw(1));
        assert_ne!(draw(1), draw(2));
    }
}
