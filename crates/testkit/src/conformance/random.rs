//! Seeded inputs, easy and hard.
//!
//! Owns the generator. Must not draw from anything but its seed: a failing case must fail again.

/// How the numbers of a vector relate to each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Spread {
    /// Uniform in ±1.
    Even,
    /// Exponents uniform in ±20: the sum is decided by few terms.
    Wide,
    /// Neighbours nearly cancel when both sides of a product are drawn so: sums thousands of times smaller than terms.
    Cancelling,
}

impl Spread {
    pub(super) const ALL: [Self; 3] = [Self::Even, Self::Wide, Self::Cancelling];
}

/// The two sides of a product; they differ only in how they cancel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    Activation,
    Weight,
}

/// Values that spread through sums.
pub(super) const NON_FINITE: [f32; 3] = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY];

/// First, middle and last index of `len`.
pub(super) fn places(len: usize) -> [usize; 3] {
    [0, len / 2, len - 1]
}

/// SplitMix64 (Steele, Lea, Flood 2014).
#[derive(Clone, Debug)]
pub(super) struct Random(u64);

impl Random {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(super) fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// Uniform in 0..n.
    pub(super) fn below(&mut self, n: usize) -> usize {
        (self.bits() % n as u64) as usize
    }

    /// Uniform in ±1, never 0.
    pub(super) fn unit(&mut self) -> f32 {
        let odd = (self.bits() >> 40) | 1;
        odd as f32 / (1u64 << 23) as f32 - 1.0
    }

    pub(super) fn values(&mut self, len: usize) -> Vec<f32> {
        (0..len).map(|_| self.unit()).collect()
    }

    /// `n_rows` vectors of `len` numbers.
    pub(super) fn rows(&mut self, n_rows: usize, len: usize, spread: Spread, side: Side) -> Vec<f32> {
        let mut values = self.values(n_rows * len);
        match spread {
            Spread::Even => {}
            Spread::Wide => {
                for v in &mut values {
                    *v *= (self.below(41) as f32 - 20.0).exp2();
                }
            }
            Spread::Cancelling => {
                for pair in values.chunks_mut(len.max(1)).flat_map(|row| row.chunks_exact_mut(2)) {
                    pair[1] = match side {
                        Side::Weight => pair[0],
                        Side::Activation => -pair[0] * (1.0 + self.unit() / 4096.0),
                    };
                }
            }
        }
        values
    }

    pub(super) fn shuffle<T>(&mut self, values: &mut [T]) {
        for i in (1..values.len()).rev() {
            let j = self.below(i + 1);
            values.swap(i, j);
        }
    }
}
