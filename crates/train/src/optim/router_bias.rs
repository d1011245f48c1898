//! Balance without a loss: the router's bias leans towards experts that got too little.

/// Moves the selection bias of one MoE layer after a step.
///
/// b ← b + γ·sign(mean load − load)
///
/// `loads` counts the tokens that each expert received in the whole batch. The bias takes part in choosing experts alone,
/// never in their weights, and is no parameter of the loss.
///
/// # Shapes  bias `[E]` · loads `[E]`
/// # Panics  if the lengths differ
/// # Source  DeepSeek-V3 report, section 2.1.2
pub fn update_router_bias(bias: &mut [f32], loads: &[u64], speed: f32) {
    assert_eq!(bias.len(), loads.len(), "a load for each expert");
    // In whole numbers, so that a balanced expert stays exactly where it is.
    let total: u128 = loads.iter().map(|load| u128::from(*load)).sum();
    for (b, load) in bias.iter_mut().zip(loads) {
        match (u128::from(*load) * loads.len() as u128).cmp(&total) {
            std::cmp::Ordering::Less => *b += speed,
            std::cmp::Ordering::Equal => {}
            std::cmp::Ordering::Greater => *b -= speed,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn under_loaded_experts_rise_and_balance_is_reached() {
        let mut bias = [0.0, 0.5, -0.25, 0.0];
        update_router_bias(&mut bias, &[0, 2, 5, 1], 0.125);
        assert_eq!(bias, [0.125, 0.5, -0.375, 0.125]);
        // A router whose scores prefer expert 0 until the bias has made up for it.
        let scores = [0.4, 0.3, 0.2, 0.1f32];
        let mut bias = [0.0; 4];
        let mut seen = [0u64; 4];
        for step in 0..2000 {
            let best = (0..4).max_by(|&a, &b| (scores[a] + bias[a]).total_cmp(&(scores[b] + bias[b]))).unwrap();
            let mut loads = [0; 4];
            loads[best] = 1;
            update_router_bias(&mut bias, &loads, 0.001);
            if step >= 1000 {
                seen[best] += 1;
            }
        }
        assert!(seen.iter().all(|n| (200..300).contains(n)), "{seen:?}");
    }
}
