//! Rotary position embedding: which frequencies, which pairs, which magnitude.
//!
//! Owns the RoPE maths as pure functions. Must not know layers or configs.

/// Which channels of a head form a rotated pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RopePairing {
    /// Channels (2i, 2i+1): DeepSeek's main attention, and GGUF files of the `llama` architecture.
    Interleaved,
    /// Channels (i, i + D/2): Qwen2, Qwen3, Llama in their published form.
    Halved,
}

/// How the base frequencies are stretched for long contexts.
#[derive(Clone, Debug, PartialEq)]
pub enum RopeScaling {
    /// Plain RoPE.
    None,
    /// All frequencies divided by `factor`.
    Linear {
        /// Context extension factor.
        factor: f64,
    },
    /// Wavelengths longer than the original context are divided by `factor`, with a smooth band between.
    Llama3 {
        /// Context extension factor.
        factor: f64,
        /// Wavelengths above `original / low_freq_factor` are scaled fully.
        low_freq_factor: f64,
        /// Wavelengths below `original / high_freq_factor` are kept.
        high_freq_factor: f64,
        /// Context length of pretraining.
        original_max_position_embeddings: f64,
    },
    /// YaRN (arXiv 2309.00071): a linear ramp between kept and divided frequencies.
    Yarn {
        /// Context extension factor.
        factor: f64,
        /// Context length of pretraining.
        original_max_position_embeddings: f64,
        /// Rotations above which a frequency is kept.
        beta_fast: f64,
        /// Rotations below which a frequency is divided.
        beta_slow: f64,
        /// Whether the ends of the ramp are rounded to whole channels.
        truncate: bool,
        /// Multiplier of cos and sin.
        magnitude: f64,
    },
    /// Each frequency divided by a stored factor (GGUF `rope_freqs.weight`).
    Factors(Vec<f32>),
}

/// YaRN's magnitude correction `m(a) = 0.1·a·ln(factor) + 1`, 1 where the context is not extended.
#[must_use]
pub fn yarn_mscale(factor: f64, mscale: f64) -> f64 {
    if factor <= 1.0 { 1.0 } else { 0.1 * mscale * factor.ln() + 1.0 }
}

/// Frequencies of one rotary embedding.
///
/// cos and sin of `position · inv_freq[i]` are taken of the f32 product, as the training frameworks do: at long
/// contexts that rounding is part of the model.
///
/// # Shapes   `inv_freq [D/2]`
#[derive(Clone, Debug, PartialEq)]
pub struct RopeTable {
    /// Angle per position of each pair, in radians.
    pub inv_freq: Vec<f32>,
    /// Multiplier of cos and sin.
    pub magnitude: f32,
    /// Which channels pair up.
    pub pairing: RopePairing,
    /// [`RopeTable::cos_sin`] of the first positions, `[KNOWN, D/2]`; none where there are more pairs than any model has.
    known: std::sync::Arc<[(f32, f32)]>,
}

/// Positions whose angles are kept: most of training's, and of prompts.
const KNOWN: u32 = 2048;
/// Pairs from which on no angles are kept: a config is hostile input, and names any number.
const KNOWN_PAIRS_MAX: usize = 1024;

impl RopeTable {
    /// Frequencies for a rotary width of `dim` channels and base `theta`.
    ///
    /// f_i = theta^(−2i/dim); YaRN: f_i/s·ramp_i + f_i·(1−ramp_i), ramp_i = clamp((i−lo)/(hi−lo), 0, 1).
    ///
    /// # Source   DeepSeek-V3 inference code; transformers `modeling_rope_utils`
    #[must_use]
    pub fn new(dim: usize, theta: f64, scaling: &RopeScaling, pairing: RopePairing) -> Self {
        let base = (0..dim / 2).map(|i| theta.powf(-2.0 * i as f64 / dim as f64));
        let mut magnitude = 1.0;
        let inv_freq: Vec<f64> = match scaling {
            RopeScaling::None => base.collect(),
            RopeScaling::Linear { factor } => base.map(|f| f / factor).collect(),
            RopeScaling::Factors(factors) => {
                base.enumerate().map(|(i, f)| f / f64::from(factors.get(i).copied().unwrap_or(1.0))).collect()
            }
            RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_max_position_embeddings } => base
                .map(|f| {
                    let rotations = original_max_position_embeddings * f / std::f64::consts::TAU;
                    let keep = ((rotations - low_freq_factor) / (high_freq_factor - low_freq_factor)).clamp(0.0, 1.0);
                    f * keep + f / factor * (1.0 - keep)
                })
                .collect(),
            RopeScaling::Yarn {
                factor,
                original_max_position_embeddings,
                beta_fast,
                beta_slow,
                truncate,
                magnitude: m,
            } => {
                magnitude = *m;
                let channel = |rotations: f64| {
                    dim as f64 * (original_max_position_embeddings / (std::f64::consts::TAU * rotations)).ln()
                        / (2.0 * theta.ln())
                };
                let (mut lo, mut hi) = (channel(*beta_fast), channel(*beta_slow));
                if *truncate {
                    (lo, hi) = (lo.floor(), hi.ceil());
                }
                (lo, hi) = (lo.max(0.0), hi.min(dim as f64 - 1.0));
                if lo == hi {
                    hi += 0.001;
                }
                base.enumerate()
                    .map(|(i, f)| {
                        let ramp = ((i as f64 - lo) / (hi - lo)).clamp(0.0, 1.0);
                        f / factor * ramp + f * (1.0 - ramp)
                    })
                    .collect()
            }
        };
        let inv_freq = inv_freq.into_iter().map(|f| f as f32).collect();
        let table = Self { inv_freq, magnitude: magnitude as f32, pairing, known: [].into() };
        let pairs = 0..table.inv_freq.len();
        let n_known = if pairs.len() <= KNOWN_PAIRS_MAX { KNOWN } else { 0 };
        let known = (0..n_known).flat_map(|position| pairs.clone().map(move |i| (position, i)));
        Self { known: known.map(|(position, i)| table.angle(position, i)).collect(), ..table }
    }

    /// Number of channels rotated, D.
    #[must_use]
    pub fn dim(&self) -> usize {
        2 * self.inv_freq.len()
    }

    /// The two channels of pair `i`.
    #[must_use]
    pub fn pair(&self, i: usize) -> (usize, usize) {
        match self.pairing {
            RopePairing::Interleaved => (2 * i, 2 * i + 1),
            RopePairing::Halved => (i, i + self.inv_freq.len()),
        }
    }

    /// `(cos, sin)` of pair `i` at `position`, magnitude included.
    #[must_use]
    pub fn cos_sin(&self, position: u32, i: usize) -> (f32, f32) {
        match self.known.get(position as usize * self.inv_freq.len() + i) {
            Some(known) => *known,
            None => self.angle(position, i),
        }
    }

    fn angle(&self, position: u32, i: usize) -> (f32, f32) {
        let angle = f64::from(position as f32 * self.inv_freq[i]);
        let m = f64::from(self.magnitude);
        ((angle.cos() * m) as f32, (angle.sin() * m) as f32)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn angles_are_the_same_whether_they_are_kept_or_not() {
        for dim in [8, 4 * KNOWN_PAIRS_MAX] {
            let table = RopeTable::new(dim, 10_000.0, &RopeScaling::None, RopePairing::Halved);
            assert!(table.known.len() <= KNOWN as usize * KNOWN_PAIRS_MAX);
            for position in [0, 1, KNOWN - 1, KNOWN, 3 * KNOWN] {
                for i in [0, 1, dim / 2 - 1] {
                    assert_eq!(table.cos_sin(position, i), table.angle(position, i));
                }
            }
        }
    }

    #[test]
    fn yarn_magnitudes_of_released_models() {
        // Published figures: V3 has m(1)² = 1.873854, V2-Lite m(0.707)² = 1.589626.
        assert!((yarn_mscale(40.0, 1.0).powi(2) - 1.873_854).abs() < 1e-6);
        assert!((yarn_mscale(40.0, 0.707).powi(2) - 1.589_626).abs() < 1e-6);
        assert_eq!(yarn_mscale(1.0, 1.0), 1.0);
    }

    #[test]
    fn yarn_keeps_fast_and_divides_slow_channels() {
        let scaling = RopeScaling::Yarn {
            factor: 40.0,
            original_max_position_embeddings: 4096.0,
            beta_fast: 32.0,
            beta_slow: 1.0,
            truncate: true,
            magnitude: 1.0,
        };
        let plain = RopeTable::new(64, 10000.0, &RopeScaling::None, RopePairing::Interleaved);
        let yarn = RopeTable::new(64, 10000.0, &scaling, RopePairing::Interleaved);
        // lo = floor(64·ln(4096/(64π))/(2·ln 10⁴)) = 10, hi = ceil(64·ln(4096/2π)/(2·ln 10⁴)) = 23
        assert_eq!(yarn.inv_freq[..=10], plain.inv_freq[..=10]);
        assert!((yarn.inv_freq[23] - plain.inv_freq[23] / 40.0).abs() < 1e-12);
        assert!(yarn.inv_freq[11] < plain.inv_freq[11] && yarn.inv_freq[22] > plain.inv_freq[22] / 40.0);
    }

    #[test]
    fn llama3_band_joins_both_ends() {
        let scaling = RopeScaling::Llama3 {
            factor: 8.0,
            low_freq_factor: 1.0,
            high_freq_factor: 4.0,
            original_max_position_embeddings: 8192.0,
        };
        let plain = RopeTable::new(128, 500_000.0, &RopeScaling::None, RopePairing::Halved);
        let scaled = RopeTable::new(128, 500_000.0, &scaling, RopePairing::Halved);
        assert_eq!(scaled.inv_freq[0], plain.inv_freq[0]);
        assert_eq!(scaled.inv_freq[63], plain.inv_freq[63] / 8.0);
        assert!(scaled.inv_freq.windows(2).all(|w| w[1] < w[0]));
    }
}
