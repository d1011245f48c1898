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

/// The map from logits to weights: e^((x − max)·scale), and 0 below a floor.
#[derive(Clone, Copy)]
pub(super) struct Weighing {
    max: f32,
    scale: f32,
    floor: f32,
}

impl Weighing {
    /// `max` is the largest of the logits to weigh; its weight is 1.
    pub(super) fn new(max: f32, temperature: f32) -> Self {
        Self { max: finite(max), scale: 1.0 / temperature, floor: SMALLEST }
    }

    /// The same, with no weight for what is less than `min_p` times as probable as the best.
    pub(super) fn with_floor(self, min_p: f32) -> Self {
        Self { floor: min_p.max(SMALLEST), ..self }
    }

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

/// The lanes' sum: by halves down to four, and from there on in f64.
#[inline(always)]
fn sum_lanes(lanes: [f32; LANES]) -> f64 {
    let quarter: [f32; LANES / 4] = std::array::from_fn(|i| (lanes[i] + lanes[i + 8]) + (lanes[i + 4] + lanes[i + 12]));
    (f64::from(quarter[0]) + f64::from(quarter[2])) + (f64::from(quarter[1]) + f64::from(quarter[3]))
}

/// The smallest weight; what is less is none. Just above what [`exp`] gives for all that is too small for it.
const SMALLEST: f32 = 2e-38;

/// e^z for −87 ≤ z ≤ 0; for what is below −87, as for it, which is less than [`SMALLEST`].
///
/// e^z = 2^n · e^r with n the integer nearest z/ln 2 and |r| ≤ ln 2 / 2; e^r = 1 + r + r²·q(r), q fitted to a relative
/// error of 3.1e-9. The error is measured in the tests over all of the range.
#[inline(always)]
fn exp(z: f32) -> f32 {
    /// 1.5·2²³: adding it leaves the nearest integer in the low bits of the sum.
    const ROUND: f32 = 12_582_912.0;
    /// ln 2 in two parts; the first has so few bits that its product with n is exact.
    const LN2_HIGH: f32 = 0.693_359_4;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    // Below this 2^n would leave the normal numbers.
    let z = if z > -87.0 { z } else { -87.0 };
    let rounded = z * std::f32::consts::LOG2_E + ROUND;
    let n = rounded - ROUND;
    let r = z - n * LN2_HIGH - n * LN2_LOW;
    // Pairs of terms, so that fewer of them wait for each other.
    let r2 = r * r;
    let (q01, q23) = (4.999_999_4e-1 + 1.666_652_1e-1 * r, 4.166_839e-2 + 8.368_724e-3 * r);
    let e_r = r2 * (q01 + r2 * (q23 + r2 * 1.381_458_4e-3)) + r + 1.0;
    // Adding n to the exponent's bits multiplies by 2^n; the shift drops all bits of ROUND.
    f32::from_bits(e_r.to_bits().wrapping_add(rounded.to_bits() << 23))
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
        assert_eq!([-1e30, f32::NEG_INFINITY].map(exp), [exp(-87.0); 2]);
        assert!(exp(-87.0) < SMALLEST && SMALLEST < exp(-86.0));
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
