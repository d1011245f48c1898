//! GRPO's arithmetic: from rewards and log-probabilities to what each token's negative log-likelihood counts.
//!
//! Owns advantages, ratios, clipping, KL and how they are averaged. Pure functions: must not know models, text or threads.
//!
//! Source: GRPO as DeepSeek-R1 (arXiv 2501.12948, section 2.2.1) states it, ratio and KL per token as implementations
//! have it. Where this departs from the papers:
//! * What is minimised is written as Σ coefficient·nll over the sampled tokens, where nll is the current policy's and the
//!   coefficient is a constant of the step. The gradient is the papers'; the value of that sum is not their objective, which
//!   [`Terms`] gives apart.
//! * The old policy's log-probabilities are those that the engine sampled with, not a second forward pass of the trainer.
//! * A group whose rewards are all equal has advantage 0, not 0/0; its standard deviation is that of its G samples
//!   (divided by G), and 1e-6 is added to it.
//! * Rollouts sample from the whole distribution (no top-p, no top-k), so V3.2's Keep Sampling Mask has nothing to keep.
//!
//! Switches: [`DrGrpo`] (arXiv 2503.20783), [`Dapo`] (arXiv 2503.14476), [`V32`] (DeepSeek-V3.2, section 3.1).

use serde::Deserialize;

/// Added to a standard deviation before something is divided by it.
const STD_EPS: f64 = 1e-6;

/// `[stage.dr_grpo]`: removes the bias to long wrong answers and to questions of little spread.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DrGrpo {
    /// Sums over a sample's tokens are divided by `max_tokens` instead of the sample's length.
    pub constant_length: bool,
    /// Advantages are not divided by the group's standard deviation.
    pub no_std: bool,
}

/// `[stage.dapo]`
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Dapo {
    /// ε above 1 (clip-higher); 0: the same as below.
    pub clip_high: f32,
    /// Groups whose rewards are all equal are dropped, and others drawn in their place.
    pub dynamic_sampling: bool,
    /// The mean is over all tokens of the batch, not over samples' means.
    pub token_mean: bool,
    /// Tokens before `max_tokens` over which a reward falls by up to 1 (soft over-length penalty); 0: none.
    pub overlong_cushion: usize,
}

impl Default for Dapo {
    fn default() -> Self {
        Self { clip_high: 0.0, dynamic_sampling: false, token_mean: false, overlong_cushion: 0 }
    }
}

/// `[stage.v32]`
#[derive(Clone, Copy, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct V32 {
    /// Advantages are not divided by the group's standard deviation.
    pub no_std: bool,
    /// The KL term is multiplied by the ratio, so that its gradient is that of the reverse KL.
    pub unbiased_kl: bool,
    /// δ: a sample of negative advantage whose mean ln(old/new) is above it counts nothing; 0: none is masked.
    pub off_policy_mask: f32,
}

/// What a GRPO step minimises.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Spec {
    /// ε: how far a ratio may be below 1, and above unless DAPO says otherwise. DeepSeek-R1's second stage used 10.
    pub clip: f32,
    /// β of the KL to the reference policy; 0: there is no reference.
    pub kl: f32,
    /// Most tokens of a completion.
    pub max_tokens: usize,
    /// Switches.
    pub dr_grpo: DrGrpo,
    /// Switches.
    pub dapo: Dapo,
    /// Switches.
    pub v32: V32,
}

impl Spec {
    /// No switch, and DeepSeek-R1's customary ε.
    pub const PLAIN: Self = Self {
        clip: 0.2,
        kl: 0.0,
        max_tokens: 0,
        dr_grpo: DrGrpo { constant_length: false, no_std: false },
        dapo: Dapo { clip_high: 0.0, dynamic_sampling: false, token_mean: false, overlong_cushion: 0 },
        v32: V32 { no_std: false, unbiased_kl: false, off_policy_mask: 0.0 },
    };
}

/// A sample as the arithmetic sees it.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample<'a> {
    /// Its advantage.
    pub advantage: f64,
    /// ln π_old of its tokens.
    pub old: &'a [f32],
    /// ln π_θ of its tokens, as they are before the update.
    pub new: &'a [f32],
    /// ln π_ref of its tokens, where there is a reference.
    pub reference: Option<&'a [f32]>,
}

/// What was met on the way, over a batch's tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Terms {
    /// Tokens that count.
    pub n_tokens: usize,
    /// Of them, those whose ratio was clipped, so that they give no gradient.
    pub n_clipped: usize,
    /// Samples masked as off-policy.
    pub n_masked: usize,
    /// Σ of the KL estimate to the reference (k3, in nats).
    pub kl: f64,
    /// Σ |ln π_θ − ln π_old|.
    pub drift: f64,
    /// The objective's value, to be maximised: surrogate − β·KL, averaged as the switches say.
    pub objective: f64,
}

/// A_i of a group: rewards less their mean, over their standard deviation unless a switch leaves that out.
#[must_use]
pub fn advantages(rewards: &[f64], spec: &Spec) -> Vec<f64> {
    if is_flat(rewards) {
        // Not what is left of rounding, over next to nothing.
        return vec![0.0; rewards.len()];
    }
    let n = rewards.len().max(1) as f64;
    let mean = rewards.iter().sum::<f64>() / n;
    let variance = rewards.iter().map(|r| (r - mean).powi(2)).sum::<f64>() / n;
    let over = match spec.dr_grpo.no_std || spec.v32.no_std {
        true => 1.0,
        false => variance.sqrt() + STD_EPS,
    };
    rewards.iter().map(|r| (r - mean) / over).collect()
}

/// Whether a group's rewards are all equal, so that nothing can be learnt from it.
#[must_use]
pub fn is_flat(rewards: &[f64]) -> bool {
    rewards.windows(2).all(|pair| pair[0] == pair[1])
}

/// DAPO's soft over-length penalty, at most 0: nothing up to `max_tokens − cushion`, then falling to −1.
#[must_use]
pub fn overlong_penalty(n_tokens: usize, spec: &Spec) -> f64 {
    let cushion = spec.dapo.overlong_cushion.min(spec.max_tokens);
    let over = n_tokens.saturating_sub(spec.max_tokens - cushion);
    if cushion == 0 { 0.0 } else { -(over.min(cushion) as f64 / cushion as f64) }
}

/// What each token's nll counts, sample after sample: the gradient of −objective.
///
/// With ratio r = e^(new − old): the surrogate min(r·A, clip(r)·A) has gradient r·A·∇new where it is not clipped, else
/// none; the KL estimate k = e^d − d − 1, d = ref − new, has gradient (1 − e^d)·∇new, and r·k (unbiased) has
/// r·(k + 1 − e^d)·∇new = −r·d·∇new.
#[must_use]
pub fn coefficients(samples: &[Sample<'_>], spec: &Spec) -> (Vec<Vec<f32>>, Terms) {
    let mut terms = Terms::default();
    let n_tokens: usize = samples.iter().map(|sample| sample.new.len()).sum();
    let [low, high] = spec.clip_range();
    let mut all = Vec::with_capacity(samples.len());
    for sample in samples {
        let n = sample.new.len();
        let share = match () {
            () if spec.dapo.token_mean => 1.0 / n_tokens.max(1) as f64,
            () if spec.dr_grpo.constant_length => 1.0 / (samples.len() * spec.max_tokens.max(1)) as f64,
            () => 1.0 / (samples.len() * n.max(1)) as f64,
        };
        if spec.masks(sample) {
            terms.n_masked += 1;
            all.push(vec![0.0; n]);
            continue;
        }
        let mut own = Vec::with_capacity(n);
        for (i, (&new, &old)) in sample.new.iter().zip(sample.old).enumerate() {
            let (new, old, a) = (f64::from(new), f64::from(old), sample.advantage);
            let ratio = (new - old).exp();
            let is_clipped = if a > 0.0 { ratio > high } else { ratio < low };
            let mut gradient = if is_clipped { 0.0 } else { ratio * a };
            let mut objective = a * if is_clipped { ratio.clamp(low, high) } else { ratio };
            if let Some(reference) = sample.reference {
                let d = f64::from(reference[i]) - new;
                let k3 = d.exp() - d - 1.0;
                let beta = f64::from(spec.kl);
                let (value, slope) = match spec.v32.unbiased_kl {
                    true => (ratio * k3, -ratio * d),
                    false => (k3, 1.0 - d.exp()),
                };
                gradient -= beta * slope;
                objective -= beta * value;
                terms.kl += k3;
            }
            terms.n_tokens += 1;
            terms.n_clipped += usize::from(is_clipped && a != 0.0);
            terms.drift += (new - old).abs();
            terms.objective += share * objective;
            // nll = −ln π_θ, so ∂(−objective)/∂nll is the objective's slope along ln π_θ.
            own.push((share * gradient) as f32);
        }
        all.push(own);
    }
    (all, terms)
}

impl Spec {
    /// The ratios beyond which nothing more is gained.
    fn clip_range(&self) -> [f64; 2] {
        let low = f64::from(self.clip);
        let high = if self.dapo.clip_high > 0.0 { f64::from(self.dapo.clip_high) } else { low };
        [1.0 - low, 1.0 + high]
    }

    /// V3.2's off-policy sequence masking.
    fn masks(&self, sample: &Sample<'_>) -> bool {
        let delta = f64::from(self.v32.off_policy_mask);
        let away: f64 = sample.old.iter().zip(sample.new).map(|(old, new)| f64::from(old - new)).sum();
        delta > 0.0 && sample.advantage < 0.0 && away > delta * sample.new.len() as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: Spec = Spec { max_tokens: 10, ..Spec::PLAIN };

    /// Every coefficient is the objective's slope along its token's log-probability.
    fn hold_to_differences(spec: &Spec) {
        let old = [[-0.5f32, -1.0, -2.0], [-0.1, -0.7, -1.5], [-0.9, -1.1, -0.2]];
        let new = [[-0.45f32, -0.7, -2.3], [-0.12, -0.4, -1.9], [-0.85, -1.3, -0.25]];
        let reference = [[-0.6f32, -0.8, -2.0], [-0.2, -0.6, -1.4], [-0.7, -1.2, -0.4]];
        let advantages = advantages(&[1.0, 0.0, 0.25], spec);
        let lengths = [3, 2, 3];
        let at = |new: &[[f32; 3]; 3]| {
            let samples: Vec<Sample<'_>> = (0..3)
                .map(|i| Sample {
                    advantage: advantages[i],
                    old: &old[i][..lengths[i]],
                    new: &new[i][..lengths[i]],
                    reference: (spec.kl > 0.0).then_some(&reference[i][..lengths[i]]),
                })
                .collect();
            coefficients(&samples, spec)
        };
        let (found, terms) = at(&new);
        assert_eq!(terms.n_tokens, 8);
        for (i, own) in found.iter().enumerate() {
            for (t, found) in own.iter().enumerate() {
                let h = 1.0 / 1024.0;
                let moved = |by: f32| {
                    let mut new = new;
                    new[i][t] += by;
                    at(&new).1.objective
                };
                let slope = (moved(h) - moved(-h)) / f64::from(2.0 * h);
                assert!((slope - f64::from(*found)).abs() < 1e-4, "{spec:?} {i} {t}: {found} for {slope}");
            }
        }
    }

    #[test]
    fn coefficients_are_slopes_of_the_objective() {
        for token_mean in [false, true] {
            for constant_length in [false, true] {
                for (kl, unbiased_kl) in [(0.0, false), (0.3, false), (0.3, true)] {
                    hold_to_differences(&Spec {
                        kl,
                        dr_grpo: DrGrpo { constant_length, no_std: constant_length },
                        dapo: Dapo { token_mean, clip_high: 0.28, ..Dapo::default() },
                        v32: V32 { unbiased_kl, ..V32::default() },
                        ..PLAIN
                    });
                }
            }
        }
    }

    #[test]
    fn advantages_are_centred_and_scaled() {
        let found = advantages(&[1.0, 0.0, 0.0, 1.0], &PLAIN);
        for (found, expected) in found.iter().zip([1.0, -1.0, -1.0, 1.0]) {
            assert!((found - expected).abs() < 1e-5);
        }
        let no_std = Spec { v32: V32 { no_std: true, ..V32::default() }, ..PLAIN };
        assert_eq!(advantages(&[1.0, 0.0, 0.0, 1.0], &no_std), [0.5, -0.5, -0.5, 0.5]);
        assert_eq!(advantages(&[0.7, 0.7], &PLAIN), [0.0, 0.0]);
        assert!(is_flat(&[0.7, 0.7]) && !is_flat(&[0.7, 0.0]) && is_flat(&[]));
    }

    #[test]
    fn a_ratio_is_clipped_on_the_side_where_more_would_be_gained() {
        let sample = |advantage, new: &'static [f32]| Sample { advantage, old: &[-1.0], new, reference: None };
        let clipped = |advantage, new| coefficients(&[sample(advantage, new)], &PLAIN).1.n_clipped == 1;
        assert!(clipped(1.0, &[-0.7]) && !clipped(1.0, &[-1.3]));
        assert!(clipped(-1.0, &[-1.3]) && !clipped(-1.0, &[-0.7]));
        let higher = Spec { dapo: Dapo { clip_high: 0.5, ..Dapo::default() }, ..PLAIN };
        assert_eq!(coefficients(&[sample(1.0, &[-0.7])], &higher).1.n_clipped, 0);
    }

    #[test]
    fn samples_far_off_the_policy_are_masked_where_they_were_bad() {
        let spec = Spec { v32: V32 { off_policy_mask: 0.1, ..V32::default() }, ..PLAIN };
        let sample = |advantage| Sample { advantage, old: &[-1.0, -1.0], new: &[-1.3, -1.0], reference: None };
        let (found, terms) = coefficients(&[sample(-1.0), sample(1.0)], &spec);
        assert_eq!((terms.n_masked, &found[0][..]), (1, &[0.0, 0.0][..]));
        assert!(found[1].iter().all(|c| *c > 0.0));
    }

    #[test]
    fn long_answers_lose_up_to_one() {
        let spec = Spec { dapo: Dapo { overlong_cushion: 4, ..Dapo::default() }, ..PLAIN };
        let penalties = [0, 6, 7, 8, 10, 12].map(|n| overlong_penalty(n, &spec));
        assert_eq!(penalties, [0.0, 0.0, -0.25, -0.5, -1.0, -1.0]);
        assert_eq!(overlong_penalty(10, &PLAIN), 0.0);
    }
}
