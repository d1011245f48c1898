//! Passes over a vocabulary of logits: their maxima, exponentials and sums.
//!
//! Owns the loops that touch every logit, written so that the compiler makes vectors of them: blocks of a fixed size,
//! lanes of sums, selections instead of branches. No fused multiply-add and no library's `exp`: every machine and level
//! gets the same bits. Must not know what is chosen from the results.

/// Logits per block. Each has a maximum and a sum of its own, so that what follows looks into few blocks.
pub(super) const BLOCK: usize = 128;
/// Independent sums and maxima of a block.
const LANES: usize = 16;

/// A logit of an impossible token. Everything not above it, and NaN, counts as it.
pub(super) const IMPOSSIBLE: f32 = f32::MIN;

/// A logit within f32's finite range: NaN and −inf are impossible, +inf is as good as the largest number.
#[inline(always)]
pub(super) fn finite(logit: f32) -> f32 {
    let logit = if logit > IMPOSSIBLE { logit } else { IMPOSSIBLE };
    if logit < f32::MAX { logit } else { f32::MAX }
}

/// Index of the largest logit; of equal ones the lowest. NaN is never the largest; 0 if every logit is NaN or −inf.
///
/// # Panics
/// If `logits` is empty
#[must_use]
pub fn argmax(logits: &[f32]) -> u32 {
    assert!(!logits.is_empty(), "no logits to choose from");
    let (mut best, mut best_block) = (f32::NEG_INFINITY, 0);
    for (i, block) in logits.chunks(BLOCK).enumerate() {
        let max = block_max(block);
        if max > best {
            (best, best_block) = (max, i);
        }
    }
    let start = best_block * BLOCK;
    logits[start..].iter().position(|logit| *logit == best).map_or(0, |i| (start + i) as u32)
}

/// The maximum of every block into `maxima`, and of all.
pub(super) fn block_maxima(logits: &[f32], maxima: &mut [f32]) -> f32 {
    let mut best = f32::NEG_INFINITY;
    for (block, out) in logits.chunks(BLOCK).zip(maxima) {
        *out = block_max(block);
        best = if *out > best { *out } else { best };
    }
    best
}

fn block_max(block: &[f32]) -> f32 {
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let (rows, rest) = block.as_chunks::<LANES>();
    for row in rows {
        for (lane, logit) in lanes.iter_mut().zip(row) {
            *lane = if *logit > *lane { *logit } else { *lane };
        }
    }
    rest.iter().chain(&lanes).fold(f32::NEG_INFINITY, |best, x| if *x > best { *x } else { best })
}

/// The map from logits to weights: e^((x − max)·scale), and 0 below `floor`.
#[derive(Clone, Copy)]
pub(super) struct Weighing {
    pub(super) max: f32,
    pub(super) scale: f32,
    pub(super) floor: f32,
}

impl Weighing {
    #[inline(always)]
    pub(super) fn weight(self, logit: f32) -> f32 {
        let weight = exp((finite(logit) - self.max) * self.scale);
        if weight >= self.floor { weight } else { 0.0 }
    }

    /// The weight of every logit into `weights`, their sum per block into `sums`; returns the sum of all.
    pub(super) fn weigh(self, logits: &[f32], weights: &mut [f32], sums: &mut [f64]) -> f64 {
        let mut total = 0.0;
        for ((block, out), sum) in logits.chunks(BLOCK).zip(weights.chunks_mut(BLOCK)).zip(sums) {
            let (rows, rest) = block.as_chunks::<LANES>();
            let (out_rows, out_rest) = out.as_chunks_mut::<LANES>();
            let mut lanes = [0.0; LANES];
            for (row, out) in rows.iter().zip(out_rows) {
                for i in 0..LANES {
                    out[i] = self.weight(row[i]);
                    lanes[i] += out[i];
                }
            }
            let mut rest_sum = 0.0;
            for (logit, out) in rest.iter().zip(out_rest) {
                *out = self.weight(*logit);
                rest_sum += *out;
            }
            *sum = sum_lanes(lanes) + f64::from(rest_sum);
            total += *sum;
        }
        total
    }

    /// The sum of all weights.
    pub(super) fn sum(self, logits: &[f32]) -> f64 {
        let block_sum = |block: &[f32]| {
            let (rows, rest) = block.as_chunks::<LANES>();
            let mut lanes = [0.0; LANES];
            for row in rows {
                for i in 0..LANES {
                    lanes[i] += self.weight(row[i]);
                }
            }
            sum_lanes(lanes) + rest.iter().map(|logit| f64::from(self.weight(*logit))).sum::<f64>()
        };
        logits.chunks(BLOCK).map(block_sum).sum()
    }
}

/// The weights that rank above `pivot`'s, that is, are larger, or as large with a lower index: their sum per block into
/// `sums`; returns the sum of all.
pub(super) fn sum_above(weights: &[f32], pivot: usize, sums: &mut [f64]) -> f64 {
    let bar = weights[pivot];
    let mut total = 0.0;
    for (i, (block, sum)) in weights.chunks(BLOCK).zip(sums).enumerate() {
        *sum = match i.cmp(&(pivot / BLOCK)) {
            std::cmp::Ordering::Less => sum_where(block, |weight| weight >= bar),
            std::cmp::Ordering::Greater => sum_where(block, |weight| weight > bar),
            std::cmp::Ordering::Equal => {
                let (before, after) = block.split_at(pivot % BLOCK);
                sum_where(before, |weight| weight >= bar) + sum_where(after, |weight| weight > bar)
            }
        };
        total += *sum;
    }
    total
}

#[inline(always)]
fn sum_where(block: &[f32], counts: impl Fn(f32) -> bool) -> f64 {
    let (rows, rest) = block.as_chunks::<LANES>();
    let mut lanes = [0.0; LANES];
    for row in rows {
        for (lane, weight) in lanes.iter_mut().zip(row) {
            *lane += if counts(*weight) { *weight } else { 0.0 };
        }
    }
    let rest_sum = rest.iter().map(|weight| if counts(*weight) { f64::from(*weight) } else { 0.0 }).sum::<f64>();
    sum_lanes(lanes) + rest_sum
}

/// Each lane is a sum of [`BLOCK`] / [`LANES`] weights; beyond that sums are in f64.
fn sum_lanes(lanes: [f32; LANES]) -> f64 {
    lanes.iter().map(|lane| f64::from(*lane)).sum()
}

/// e^z for z ≤ 0, and 0 where it would be below f32's normal numbers.
///
/// e^z = 2^n · e^r with n the integer nearest z/ln 2 and |r| ≤ ln 2 / 2; e^r = 1 + r + r²·q(r), q fitted to a relative
/// error of 3.1e-9. The error is measured in the tests over all of the range.
#[inline(always)]
pub(super) fn exp(z: f32) -> f32 {
    /// 1.5·2²³: adding it leaves the nearest integer in the low bits of the sum.
    const ROUND: f32 = 12_582_912.0;
    /// ln 2 in two parts; the first has so few bits that its product with n is exact.
    const LN2_HIGH: f32 = 0.693_359_4;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    /// Below this 2^n would leave the normal numbers.
    const SMALLEST: f32 = -87.0;
    let inside = if z > SMALLEST { z } else { SMALLEST };
    let rounded = inside * std::f32::consts::LOG2_E + ROUND;
    let n = rounded - ROUND;
    let r = inside - n * LN2_HIGH - n * LN2_LOW;
    let q = 1.381_458_4e-3;
    let q = q * r + 8.368_724e-3;
    let q = q * r + 4.166_839e-2;
    let q = q * r + 1.666_652_1e-1;
    let q = q * r + 4.999_999_4e-1;
    let e_r = r * r * q + r + 1.0;
    // Adding n to the exponent's bits multiplies by 2^n.
    let scaled = f32::from_bits(e_r.to_bits().wrapping_add(rounded.to_bits().wrapping_sub(ROUND.to_bits()) << 23));
    if z > SMALLEST { scaled } else { 0.0 }
}

/// The natural logarithm of a number that is at least 1, with an error of some ulps of f64.
///
/// ln(m·2^e) = e·ln 2 + 2·artanh((m − 1)/(m + 1)) with m within √2 of 1, by artanh's series. A library's logarithm may
/// take other instructions on other machines; this one is plain arithmetic.
pub(super) fn ln(x: f64) -> f64 {
    let bits = x.to_bits();
    let (mut exponent, mut m) = ((bits >> 52) as i64 - 1023, f64::from_bits(bits & (u64::MAX >> 12) | 1f64.to_bits()));
    if m > std::f64::consts::SQRT_2 {
        (exponent, m) = (exponent + 1, m / 2.0);
    }
    let s = (m - 1.0) / (m + 1.0);
    // |s| ≤ 0.172: the first term left out is below 2⁻⁵³ of the sum.
    let series = (0..=11).rev().fold(0.0, |sum, k| sum * (s * s) + 1.0 / f64::from(2 * k + 1));
    exponent as f64 * std::f64::consts::LN_2 + 2.0 * s * series
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_is_within_two_units_in_the_last_place() {
        // Every 997th number from −0 to −87: dense near zero, where weights are large.
        for bits in ((-0f32).to_bits()..(-87f32).to_bits()).step_by(997) {
            let z = f32::from_bits(bits);
            let (found, expected) = (f64::from(exp(z)), f64::from(z).exp());
            assert!(
                (found - expected).abs() <= 2.0 * f64::from(f32::EPSILON) * expected,
                "{z}: {found} for {expected}"
            );
        }
        assert_eq!(exp(0.0), 1.0);
        assert_eq!([exp(-87.0), exp(-1e30), exp(f32::NEG_INFINITY)], [0.0; 3]);
    }

    #[test]
    fn ln_is_the_logarithm() {
        for i in 0..10_000 {
            let x = 1.003f64.powi(i) + 1e-9 * f64::from(i);
            assert!(
                (ln(x) - x.ln()).abs() <= 4.0 * f64::EPSILON * x.ln().max(f64::EPSILON),
                "{x}: {} for {}",
                ln(x),
                x.ln()
            );
        }
        assert_eq!(ln(1.0), 0.0);
    }

    #[test]
    fn argmax_takes_the_lowest_of_the_largest_and_never_nan() {
        for n in [1, 2, 15, 16, 17, 127, 128, 129, 1000] {
            for at in [0, n / 2, n - 1] {
                let mut logits = vec![f32::NAN; n];
                logits[at] = -3.0;
                assert_eq!(argmax(&logits), at as u32, "{at} of {n}");
                logits[at..].fill(f32::INFINITY);
                assert_eq!(argmax(&logits), at as u32, "{at} of {n}");
            }
        }
        assert_eq!(argmax(&[f32::NAN, f32::NAN]), 0);
    }

    #[test]
    fn sums_above_a_pivot_are_of_the_weights_that_rank_above_it() {
        // Few distinct weights, so that ties decide.
        let weights: Vec<f32> = (0..777).map(|i| ((i * 7919) % 13) as f32).collect();
        let mut sums = vec![0.0; weights.len().div_ceil(BLOCK)];
        for pivot in [0, 1, 127, 128, 500, 776] {
            let above = |i: usize| weights[i] > weights[pivot] || (weights[i] == weights[pivot] && i < pivot);
            let expected: f32 = (0..weights.len()).filter(|i| above(*i)).map(|i| weights[i]).sum();
            assert_eq!(sum_above(&weights, pivot, &mut sums), f64::from(expected), "pivot {pivot}");
            assert_eq!(sums.iter().sum::<f64>(), f64::from(expected));
        }
    }
}
