//! Gradients of the routers, for one token, and the loss that keeps experts evenly used.
//!
//! Owns d_logits as pure functions. The choice of experts is a constant: its gradient is zero almost everywhere, which is
//! why the bias that enters the choice alone is moved by rule and not by gradient.

use super::{Candidate, RouterSpec, Scoring, best, score};

/// Keeps a sum of scores that all underflowed from dividing.
const TINY: f64 = 1e-20;

/// Scores of all experts, by index.
fn scores(spec: &RouterSpec, logits: &[f32]) -> Vec<Candidate> {
    let mut experts = vec![Candidate::default(); spec.n_experts];
    score(spec.scoring, logits, &mut experts);
    experts
}

/// d_logits = ∂scores/∂logits ᵀ · d_scores.
fn into_logits(scoring: Scoring, experts: &[Candidate], d_scores: &[f64], mut set: impl FnMut(usize, f64)) {
    let mean = match scoring {
        Scoring::Sigmoid => 0.0,
        Scoring::Softmax => experts.iter().zip(d_scores).map(|(e, d)| e.score * d).sum(),
    };
    for (i, (expert, d)) in experts.iter().zip(d_scores).enumerate() {
        let s = expert.score;
        set(
            i,
            match scoring {
                Scoring::Sigmoid => d * s * (1.0 - s),
                Scoring::Softmax => s * (d - mean),
            },
        );
    }
}

/// From the chosen experts' weights to the logits; the inverse order of [`super::route_token`].
///
/// w_i = f·s_i, or f·s_i/Σ_chosen s with `norm_topk_prob`; then d_s_i = f·d_w_i, or f·(d_w_i − Σ_j d_w_j·s_j/Σ)/Σ.
///
/// # Shapes   `logits, d_logits [E]` · `ids, d_weights [k]`
/// # Panics   if an id is not below E (a bug of the caller)
pub fn token(spec: &RouterSpec, logits: &[f32], ids: &[u32], d_weights: &[f32], d_logits: &mut [f32]) {
    let experts = scores(spec, logits);
    let factor = f64::from(spec.routed_scaling_factor);
    let chosen = || ids.iter().zip(d_weights).map(|(id, d)| (*id as usize, f64::from(*d)));
    let (sum, mean) = match spec.norm_topk_prob {
        false => (1.0, 0.0),
        true => {
            let sum = chosen().map(|(e, _)| experts[e].score).sum::<f64>() + TINY;
            (sum, chosen().map(|(e, d)| d * experts[e].score).sum::<f64>() / sum)
        }
    };
    let mut d_scores = vec![0f64; spec.n_experts];
    for (e, d) in chosen() {
        d_scores[e] = factor * (d - mean) / sum;
    }
    into_logits(spec.scoring, &experts, &d_scores, |i, d| d_logits[i] = d as f32);
}

/// Balance loss of one sequence, α·Σ_i f_i·P_i, whose gradient is added to `d_logits`.
///
/// f_i = E/(k·T) times how often expert i is among the k best plain scores, P_i = mean_t s_i/Σ_j s_j. The counts are
/// constants; the gradient flows through P.
///
/// # Shapes   `logits, d_logits [T, E]`
/// # Source   DeepSeek-V3 2.1.2, equations 17 to 20
pub fn balance(spec: &RouterSpec, logits: &[f32], alpha: f64, d_logits: &mut [f32]) -> f64 {
    let (n_experts, top_k) = (spec.n_experts, spec.top_k);
    let rows: Vec<Vec<Candidate>> = logits.chunks_exact(n_experts).map(|row| scores(spec, row)).collect();
    let mut load = vec![0f64; n_experts];
    let share = n_experts as f64 / (top_k * rows.len()) as f64;
    for row in &rows {
        for chosen in best(&mut row.clone(), top_k) {
            load[chosen.index as usize] += share;
        }
    }
    let per_row = alpha / rows.len() as f64;
    let mut loss = 0.0;
    for (row, d_logits) in rows.iter().zip(d_logits.chunks_exact_mut(n_experts)) {
        let sum = row.iter().map(|e| e.score).sum::<f64>() + TINY;
        let mean = row.iter().zip(&load).map(|(e, f)| f * e.score).sum::<f64>() / sum;
        loss += per_row * mean;
        let d_scores: Vec<f64> = load.iter().map(|f| per_row * (f - mean) / sum).collect();
        into_logits(spec.scoring, row, &d_scores, |i, d| d_logits[i] += d as f32);
    }
    loss
}
