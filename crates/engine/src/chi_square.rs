//! Pearson's χ² test, for tests that draw.

/// Asserts that counts follow weights, at p > 0.01. What has no weight must have no count; cells that expect fewer than
/// five are taken together.
pub(crate) fn assert_follows(name: &str, counts: &[u64], weights: &[f64]) {
    assert_eq!(counts.len(), weights.len(), "{name}");
    let n = counts.iter().sum::<u64>() as f64;
    let scale = n / weights.iter().sum::<f64>();
    let (mut statistic, mut n_cells, mut rest) = (0.0, 0.0, (0.0, 0.0));
    let mut add = |count: f64, expected: f64| {
        statistic += (count - expected).powi(2) / expected;
        n_cells += 1.0;
    };
    for (i, (count, weight)) in counts.iter().zip(weights).enumerate() {
        let (count, expected) = (*count as f64, weight * scale);
        assert!(expected > 0.0 || count == 0.0, "{name}: {count} draws of {i}, which is impossible");
        if expected >= 5.0 {
            add(count, expected);
        } else {
            rest = (rest.0 + count, rest.1 + expected);
        }
    }
    if rest.1 >= 5.0 {
        add(rest.0, rest.1);
    }
    let freedom: f64 = n_cells - 1.0;
    // Wilson and Hilferty's approximation of the 99 % quantile.
    let spread = 2.0 / (9.0 * freedom);
    let bound = freedom * (1.0 - spread + 2.326 * spread.sqrt()).powi(3);
    assert!(
        freedom == 0.0 || statistic < bound,
        "{name}: χ² {statistic:.1} of {freedom} degrees, below {bound:.1} expected"
    );
}

#[test]
#[should_panic(expected = "below")]
fn a_skewed_count_is_refused() {
    assert_follows("skewed", &[5_300, 4_700], &[1.0, 1.0]);
}

#[test]
fn a_count_within_two_deviations_is_accepted() {
    assert_follows("even", &[5_100, 4_900, 0], &[1.0, 1.0, 0.0]);
}
