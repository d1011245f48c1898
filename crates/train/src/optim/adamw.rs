//! AdamW: Adam with weight decay that does not pass through the moments.

use super::Rule;

/// AdamW's constants. Defaults are DeepSeek-V3's, but for ε.
///
/// m ← β₁m + (1−β₁)g,  v ← β₂v + (1−β₂)g²,  w ← w − lr·λ·w − lr·m̂/(√v̂ + ε),  m̂ = m/(1−β₁ᵗ), v̂ = v/(1−β₂ᵗ)
///
/// # Source  Loshchilov and Hutter, Decoupled Weight Decay Regularization, algorithm 2
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AdamW {
    /// β₁ and β₂.
    pub betas: [f32; 2],
    /// ε, beside the root.
    pub eps: f32,
    /// λ; norms and biases have none, whatever this says.
    pub weight_decay: f32,
}

impl Default for AdamW {
    fn default() -> Self {
        Self { betas: [0.9, 0.95], eps: 1e-8, weight_decay: 0.1 }
    }
}

impl AdamW {
    /// Moves one parameter; `step` counts from 1.
    #[expect(clippy::too_many_arguments, reason = "the rule's own variables, each a slice of another arena")]
    pub(super) fn update(
        &self,
        step: u64,
        lr: f32,
        rule: Rule,
        weights: &mut [f32],
        gradients: &[f32],
        first: &mut [f32],
        second: &mut [f32],
    ) {
        let [beta1, beta2] = self.betas;
        // In f64, since 1 − βᵗ loses digits at the first steps.
        let correction = |beta: f32| 1.0 - f64::from(beta).powf(step as f64);
        let step_size = (f64::from(lr) / correction(beta1)) as f32;
        let root_correction = correction(beta2).sqrt() as f32;
        let decay = if rule == Rule::Vector { 0.0 } else { self.weight_decay };
        let keep = 1.0 - lr * decay;
        for (((w, g), m), v) in weights.iter_mut().zip(gradients).zip(first).zip(second) {
            *m += (g - *m) * (1.0 - beta1);
            *v = *v * beta2 + g * g * (1.0 - beta2);
            *w = *w * keep - step_size * (*m / (v.sqrt() / root_correction + self.eps));
        }
    }
}
