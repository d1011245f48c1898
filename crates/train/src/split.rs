//! Which examples are trained on and which are kept aside, by a hash of their content.
//!
//! Owns that one rule. An example's side depends on nothing but itself: not on its source, its place or the seed, so the
//! same question in another file, wording or run is never on both sides.

use sha2::{Digest, Sha256};

/// A side.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Split {
    /// Trained on.
    Train,
    /// Kept aside for evaluation.
    HeldOut,
}

impl Split {
    /// The side of `content` when the share `held_out` (0 to 1) of all is kept aside.
    #[must_use]
    pub fn of(content: &[u8], held_out: f64) -> Self {
        let digest = Sha256::digest(content);
        let mut first = [0; 8];
        first.copy_from_slice(&digest[..8]);
        // 53 bits, as many as the share has.
        let unit = (u64::from_le_bytes(first) >> 11) as f64 / (1u64 << 53) as f64;
        if unit < held_out { Self::HeldOut } else { Self::Train }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_kept() {
        let n_held_out = |share| (0..2000u32).filter(|i| Split::of(&i.to_le_bytes(), share) == Split::HeldOut).count();
        assert_eq!((n_held_out(0.0), n_held_out(1.0)), (0, 2000));
        // Six deviations of a binomial with n = 2000, p = 0.1.
        assert!((120..=280).contains(&n_held_out(0.1)));
    }
}
