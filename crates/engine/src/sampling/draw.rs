//! Random numbers that depend on where they are used and on nothing else.
//!
//! Owns the generator. There is no state: a draw can be repeated, in any order, by any thread.

/// Where a token is chosen. With the seed, all that its draw depends on, so that a sequence's tokens do not depend on
/// what else runs, nor on how many of them a step verified.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Which sequence of those with the same seed, such as the index of a choice.
    pub sequence: u64,
    /// Position of the token to choose.
    pub position: u64,
}

/// A number in [0, 1), of 53 bits, for one place; `round` numbers the draws at that place.
pub(super) fn uniform(seed: u64, place: Place, round: u64) -> f64 {
    // Each finalizer is a bijection and spreads every bit, so that neighbouring counters share nothing.
    let bits = mix(mix(mix(mix(seed) ^ place.sequence) ^ place.position) ^ round);
    (bits >> 11) as f64 / (1u64 << 53) as f64
}

/// SplitMix64's increment and finalizer.
///
/// # Source   Steele, Lea, Flood: "Fast splittable pseudorandom number generators", OOPSLA 2014
fn mix(z: u64) -> u64 {
    let z = z.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chi_square::assert_follows;

    const CELLS: usize = 16;

    fn at(seed: u64, sequence: u64, position: u64, round: u64) -> f64 {
        uniform(seed, Place { sequence, position }, round)
    }

    /// Pairs of neighbours fill a square evenly: each is uniform, and they are independent.
    fn assert_independent(name: &str, pair: impl Fn(u64) -> (f64, f64)) {
        let mut counts = vec![0; CELLS * CELLS];
        for i in 0..100_000 {
            let (a, b) = pair(i);
            counts[(a * CELLS as f64) as usize * CELLS + (b * CELLS as f64) as usize] += 1;
        }
        assert_follows(name, &counts, &[1.0; CELLS * CELLS]);
    }

    #[test]
    fn neighbours_in_every_argument_are_independent() {
        assert_independent("positions", |i| (at(1, 2, i, 0), at(1, 2, i + 1, 0)));
        assert_independent("sequences", |i| (at(1, i, 3, 0), at(1, i + 1, 3, 0)));
        assert_independent("seeds", |i| (at(i, 0, 0, 0), at(i + 1, 0, 0, 0)));
        assert_independent("rounds", |i| (at(0, 0, i, 0), at(0, 0, i, 1)));
        // What a sum or an exclusive or of the arguments would confuse.
        assert_independent("swapped", |i| (at(0, i, i + 1, 0), at(0, i + 1, i, 0)));
        assert_independent("seed for sequence", |i| (at(i, 7, 0, 0), at(7, i, 0, 0)));
    }
}
