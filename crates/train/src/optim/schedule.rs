//! Learning rate by step.

/// The shape after the warm-up.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub enum Schedule {
    /// As it is.
    Constant {
        /// Steps from 0 to the whole.
        #[serde(default)]
        warmup_steps: u64,
    },
    /// Half a cosine from 1 to `final_share` at the last step.
    Cosine {
        /// Steps from 0 to the whole.
        #[serde(default)]
        warmup_steps: u64,
        /// What is left at the end.
        #[serde(default = "tenth")]
        final_share: f64,
    },
    /// Warm-up, stable, decay: constant, then straight down to `final_share` over the last `decay_steps`.
    Wsd {
        /// Steps from 0 to the whole.
        #[serde(default)]
        warmup_steps: u64,
        /// Steps of the way down.
        decay_steps: u64,
        /// What is left at the end.
        #[serde(default)]
        final_share: f64,
    },
}

fn tenth() -> f64 {
    0.1
}

impl Default for Schedule {
    fn default() -> Self {
        Self::Cosine { warmup_steps: 0, final_share: tenth() }
    }
}

impl Schedule {
    /// Steps of warm-up.
    #[must_use]
    pub fn warmup_steps(&self) -> u64 {
        let (Self::Constant { warmup_steps } | Self::Cosine { warmup_steps, .. } | Self::Wsd { warmup_steps, .. }) =
            self;
        *warmup_steps
    }

    /// The share of the learning rate at `step` (from 0) of `steps`. The first step of a warm-up over n has share 1/n.
    #[must_use]
    pub fn share(&self, step: u64, steps: u64) -> f64 {
        let warmup = self.warmup_steps();
        if step < warmup {
            return (step + 1) as f64 / warmup as f64;
        }
        // 0 at the first step after the warm-up, 1 at the last of all.
        let way = |from: u64| {
            let length = steps.saturating_sub(from).saturating_sub(1).max(1);
            (step.saturating_sub(from) as f64 / length as f64).min(1.0)
        };
        match *self {
            Self::Constant { .. } => 1.0,
            Self::Cosine { final_share, .. } => {
                final_share + (1.0 - final_share) * 0.5 * (1.0 + (std::f64::consts::PI * way(warmup)).cos())
            }
            Self::Wsd { decay_steps, final_share, .. } => {
                let from = steps.saturating_sub(decay_steps + 1).max(warmup);
                if step < from { 1.0 } else { 1.0 - (1.0 - final_share) * way(from) }
            }
        }
    }

    /// # Errors
    /// If the parts do not fit into `steps`, or a share is not one: what is wrong and what is accepted
    pub(crate) fn check(&self, steps: u64) -> Result<(), String> {
        let (decay_steps, final_share) = match *self {
            Self::Constant { .. } => (0, 0.0),
            Self::Cosine { final_share, .. } => (0, final_share),
            Self::Wsd { decay_steps, final_share, .. } => (decay_steps, final_share),
        };
        let warmup = self.warmup_steps();
        if warmup.saturating_add(decay_steps) > steps {
            return Err(format!(
                "warmup_steps {warmup} and decay_steps {decay_steps} exceed the stage's {steps} steps"
            ));
        }
        if !(0.0..=1.0).contains(&final_share) {
            return Err(format!("final_share is {final_share}; expected a share from 0 to 1"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shapes() {
        let near = |a: f64, b: f64| assert!((a - b).abs() < 1e-12, "{a} {b}");
        let cosine = Schedule::Cosine { warmup_steps: 10, final_share: 0.1 };
        for (step, share) in [(0, 0.1), (4, 0.5), (9, 1.0), (10, 1.0), (55, 0.55), (100, 0.1), (5000, 0.1)] {
            near(cosine.share(step, 101), share);
        }
        let wsd = Schedule::Wsd { warmup_steps: 2, decay_steps: 4, final_share: 0.0 };
        for (step, share) in [(0, 0.5), (1, 1.0), (2, 1.0), (15, 1.0), (16, 0.75), (19, 0.0)] {
            near(wsd.share(step, 20), share);
        }
        near(Schedule::Constant { warmup_steps: 4 }.share(1, 9), 0.5);
        near(Schedule::Constant { warmup_steps: 0 }.share(8, 9), 1.0);
        near(Schedule::default().share(0, 1), 1.0);
        assert!(wsd.check(6).is_ok() && wsd.check(5).is_err());
    }
}
