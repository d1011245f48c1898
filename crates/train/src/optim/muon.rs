//! Muon: momentum of a matrix, orthogonalised.
//!
//! The update keeps the momentum's row and column spaces and gives every direction in them about the same length, so that
//! rare directions learn as fast as common ones.

use super::Gemm;

/// How the orthogonalised momentum is scaled.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scale {
    /// 0.18·√max(rows, columns): entries of about 0.18 in root mean square, as Adam's, so that one learning rate and
    /// weight decay fit both (DeepSeek-V4).
    #[default]
    DeepseekV4,
    /// 0.2·√max(rows, columns), the same idea (Moonlight).
    MatchRmsAdamw,
    /// √max(1, rows/columns) (Keller Jordan).
    Original,
}

/// Which iteration orthogonalises.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NewtonSchulz {
    /// 8 steps with (3.4445, −4.7750, 2.0315), then 2 with (2, −1.5, 0.5), which converge to 1 (DeepSeek-V4).
    #[default]
    DeepseekV4,
    /// 5 steps with (3.4445, −4.7750, 2.0315), which stay between about 0.7 and 1.2 (Keller Jordan).
    Five,
}

/// Muon's constants. Defaults are DeepSeek-V4's.
///
/// m ← μm + (1−μ)g,  u = μm + (1−μ)g,  X = u/‖u‖,  repeatedly X ← aX + b(XXᵀ)X + c(XXᵀ)²X,
/// w ← w − lr·λ·w − lr·scale·X
///
/// The momentum averages (PyTorch) where DeepSeek's text sums; X is the same, since u is normalised.
///
/// # Source  DeepSeek-V4 report; Jordan, Muon: an optimizer for hidden layers in neural networks
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Muon {
    /// μ
    pub momentum: f32,
    /// λ
    pub weight_decay: f32,
    /// How the update is scaled.
    pub scale: Scale,
    /// How it is orthogonalised.
    pub newton_schulz: NewtonSchulz,
}

impl Default for Muon {
    fn default() -> Self {
        Self { momentum: 0.95, weight_decay: 0.1, scale: Scale::DeepseekV4, newton_schulz: NewtonSchulz::DeepseekV4 }
    }
}

const FAST: [f32; 3] = [3.4445, -4.7750, 2.0315];
const EXACT: [f32; 3] = [2.0, -1.5, 0.5];

/// Buffers that grow to the largest matrix and stay.
#[derive(Debug, Default)]
pub(super) struct Scratch {
    x: Vec<f32>,
    next: Vec<f32>,
    gram: Vec<f32>,
    square: Vec<f32>,
}

impl Muon {
    /// Moves one matrix of `[rows, columns]`.
    #[expect(clippy::too_many_arguments, reason = "the rule's own variables, each a slice of another arena")]
    pub(super) fn update(
        &self,
        lr: f32,
        [rows, columns]: [usize; 2],
        weights: &mut [f32],
        gradients: &[f32],
        momentum: &mut [f32],
        scratch: &mut Scratch,
        gemm: &mut impl Gemm,
    ) {
        let mu = self.momentum;
        for (m, g) in momentum.iter_mut().zip(gradients) {
            *m += (g - *m) * (1.0 - mu);
        }
        let nesterov = gradients.iter().zip(&*momentum).map(|(g, m)| g + mu * (m - g));
        // The products are those of the shorter side, so a tall matrix is turned.
        let is_tall = rows > columns;
        scratch.x.clear();
        scratch.x.resize(rows * columns, 0.0);
        for (i, u) in nesterov.enumerate() {
            let at = if is_tall { (i % columns) * rows + i / columns } else { i };
            scratch.x[at] = u;
        }
        orthogonalise(self.newton_schulz, rows.min(columns), rows.max(columns), scratch, gemm);
        let longest = rows.max(columns) as f32;
        let scale = match self.scale {
            Scale::DeepseekV4 => 0.18 * longest.sqrt(),
            Scale::MatchRmsAdamw => 0.2 * longest.sqrt(),
            Scale::Original => (rows as f32 / columns as f32).max(1.0).sqrt(),
        };
        let keep = 1.0 - lr * self.weight_decay;
        for (i, w) in weights.iter_mut().enumerate() {
            let at = if is_tall { (i % columns) * rows + i / columns } else { i };
            *w = *w * keep - lr * scale * scratch.x[at];
        }
    }
}

/// Brings the singular values of `scratch.x` `[m, n]`, m ≤ n, near 1.
fn orthogonalise(steps: NewtonSchulz, m: usize, n: usize, scratch: &mut Scratch, gemm: &mut impl Gemm) {
    let Scratch { x, next, gram, square } = scratch;
    let norm = x.iter().map(|v| f64::from(*v) * f64::from(*v)).sum::<f64>().sqrt();
    // Of a gradient that is nothing, nothing is made.
    let inverse = (1.0 / norm.max(1e-7)) as f32;
    x.iter_mut().for_each(|v| *v *= inverse);
    next.resize(m * n, 0.0);
    gram.resize(m * m, 0.0);
    square.resize(m * m, 0.0);
    let (n_fast, n_exact) = match steps {
        NewtonSchulz::DeepseekV4 => (8, 2),
        NewtonSchulz::Five => (5, 0),
    };
    for [a, b, c] in std::iter::repeat_n(FAST, n_fast).chain(std::iter::repeat_n(EXACT, n_exact)) {
        gemm.nt([m, m, n], x, x, &mut gram[..m * m]);
        // Symmetric, so its square is a product with itself in any order.
        gemm.nn([m, m, m], &gram[..m * m], &gram[..m * m], &mut square[..m * m]);
        gram.iter_mut().zip(&*square).take(m * m).for_each(|(g, s)| *g = b * *g + c * s);
        gemm.nn([m, n, m], &gram[..m * m], x, &mut next[..m * n]);
        x.iter_mut().zip(&*next).for_each(|(x, y)| *x = a * *x + y);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::optim::Naive;
    use crate::rng::Rng;

    #[test]
    fn singular_values_become_one() {
        for (m, n) in [(1, 1), (3, 3), (5, 12), (16, 40)] {
            let mut rng = Rng::new(&[m as u64, n as u64]);
            let mut scratch = Scratch { x: (0..m * n).map(|_| rng.normal() as f32).collect(), ..Scratch::default() };
            orthogonalise(NewtonSchulz::DeepseekV4, m, n, &mut scratch, &mut Naive);
            let mut gram = vec![0.0; m * m];
            Naive.nt([m, m, n], &scratch.x, &scratch.x, &mut gram);
            for (i, value) in gram.iter().enumerate() {
                let identity = f32::from(u8::from(i / m == i % m));
                assert!((value - identity).abs() < 0.02, "{m}×{n} at {i}: {value}");
            }
        }
        let mut nothing = Scratch { x: vec![0.0; 6], ..Scratch::default() };
        orthogonalise(NewtonSchulz::Five, 2, 3, &mut nothing, &mut Naive);
        assert_eq!(nothing.x, [0.0; 6]);
    }
}
