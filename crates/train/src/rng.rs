//! Random numbers that depend on their names alone: (seed, stream, index) gives a generator, so that any instance of
//! any task, any shuffle and any initial weight can be computed without those before it.
//!
//! Owns the one generator of training. Must not be used where somebody could gain by guessing.

/// SplitMix64: a counter and a mixer. Its 64 bits of state are all that a checkpoint has to keep.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Rng {
    state: u64,
}

/// The finaliser of SplitMix64: every bit of the input moves every bit of the output.
fn mix(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    x ^ (x >> 31)
}

const GOLDEN: u64 = 0x9E37_79B9_7F4A_7C15;

impl Rng {
    /// The generator of `parts`: other parts, or the same in another order, give unrelated numbers.
    #[must_use]
    pub fn new(parts: &[u64]) -> Self {
        let state = parts.iter().fold(GOLDEN, |state, &part| mix(state.wrapping_add(GOLDEN) ^ mix(part)));
        Self { state }
    }

    /// 64 random bits.
    pub fn next_u64(&mut self) -> u64 {
        self.state = self.state.wrapping_add(GOLDEN);
        mix(self.state)
    }

    /// A number in `0..n`, every one equally likely.
    ///
    /// # Panics
    /// If `n` is 0
    pub fn below(&mut self, n: u64) -> u64 {
        assert!(n > 0, "a number below 0 was asked for");
        // Lemire's: the high half of a product is uniform once the few low halves that occur too often are drawn again.
        let surplus = n.wrapping_neg() % n;
        loop {
            let product = u128::from(self.next_u64()) * u128::from(n);
            if product as u64 >= surplus {
                return (product >> 64) as u64;
            }
        }
    }

    /// A number in `low..=high`.
    ///
    /// # Panics
    /// If `low > high`, or they are further apart than 63 bits
    pub fn between(&mut self, low: i64, high: i64) -> i64 {
        let n = high.checked_sub(low).filter(|n| *n >= 0).and_then(|n| n.checked_add(1));
        let Some(n) = n else { panic!("a number in {low}..={high} was asked for") };
        low + self.below(n as u64) as i64
    }

    /// One of `items`.
    ///
    /// # Panics
    /// If there are none
    pub fn choose<'a, T>(&mut self, items: &'a [T]) -> &'a T {
        &items[self.below(items.len() as u64) as usize]
    }

    /// Whether an event of probability `p` happens.
    pub fn chance(&mut self, p: f64) -> bool {
        self.unit() < p
    }

    /// A number in [0, 1).
    pub fn unit(&mut self) -> f64 {
        (self.next_u64() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// A draw of the normal distribution with mean 0 and deviation 1, by Box and Muller.
    pub fn normal(&mut self) -> f64 {
        let radius = (-2.0 * (1.0 - self.unit()).ln()).sqrt();
        radius * (std::f64::consts::TAU * self.unit()).cos()
    }

    /// Brings `items` into a random order.
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for i in (1..items.len()).rev() {
            items.swap(i, self.below(i as u64 + 1) as usize);
        }
    }
}

/// A random order of `0..n` of which any place can be computed on its own, in no memory.
///
/// Four rounds of a Feistel network over the next even number of bits, walked until the value is below `n`.
#[derive(Clone, Debug)]
pub struct Permutation {
    n: u64,
    half_bits: u32,
    keys: [u64; 4],
}

impl Permutation {
    /// The order named by `parts`.
    #[must_use]
    pub fn new(n: u64, parts: &[u64]) -> Self {
        let mut rng = Rng::new(parts);
        let bits = 64 - n.saturating_sub(1).leading_zeros();
        Self { n, half_bits: bits.div_ceil(2).max(1), keys: std::array::from_fn(|_| rng.next_u64()) }
    }

    /// What stands at place `i`.
    ///
    /// # Panics
    /// If `i` is not below `n`
    #[must_use]
    pub fn at(&self, i: u64) -> u64 {
        assert!(i < self.n, "place {i} of {}", self.n);
        let mask = (1u64 << self.half_bits) - 1;
        let mut value = i;
        // The network permutes 0..4^half_bits, at most four times n, so that few steps lead back below n.
        loop {
            let (mut left, mut right) = (value >> self.half_bits, value & mask);
            for key in self.keys {
                (left, right) = (right, left ^ (mix(right ^ key) & mask));
            }
            value = (left << self.half_bits) | right;
            if value < self.n {
                return value;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn permutations_hold_every_place_once_and_differ_by_name() {
        for n in [1, 2, 3, 4, 5, 16, 17, 1000, 4097] {
            let order = |seed| {
                let permutation = Permutation::new(n, &[seed, 7]);
                (0..n).map(|i| permutation.at(i)).collect::<Vec<_>>()
            };
            let mut sorted = order(1);
            sorted.sort_unstable();
            assert_eq!(sorted, (0..n).collect::<Vec<_>>());
            assert!(n < 16 || order(1) != order(2));
        }
        let huge = Permutation::new(u64::MAX, &[3]);
        assert_ne!(huge.at(0), huge.at(1));
    }

    #[test]
    fn draws_are_uniform_and_named() {
        let mut rng = Rng::new(&[1, 2]);
        let mut counts = [0; 7];
        (0..7000).for_each(|_| counts[rng.below(7) as usize] += 1);
        // Six deviations of a binomial with n = 7000, p = 1/7.
        assert!(counts.iter().all(|&count| (1000 - 176..=1000 + 176).contains(&count)), "{counts:?}");
        let values: Vec<f64> = (0..4000).map(|_| rng.normal()).collect();
        let mean = values.iter().sum::<f64>() / 4000.0;
        let variance = values.iter().map(|x| x * x).sum::<f64>() / 4000.0;
        assert!(mean.abs() < 0.1 && (variance - 1.0).abs() < 0.15, "{mean} {variance}");
        assert_eq!(Rng::new(&[1, 2]).next_u64(), Rng::new(&[1, 2]).next_u64());
        assert_ne!(Rng::new(&[1, 2]).next_u64(), Rng::new(&[2, 1]).next_u64());
        assert_eq!(rng.between(-3, -3), -3);
        assert!((i64::MIN / 4..=i64::MAX / 4).contains(&rng.between(i64::MIN / 4, i64::MAX / 4)));
    }
}
