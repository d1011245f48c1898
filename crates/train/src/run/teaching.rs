//! What a teacher makes of samples: reverse KL's losses and gradients.
//!
//! Owns the frozen teacher of a stage. Must not sample or judge.

use ops::TrainDevice;

use super::samples::Policy;
use super::{Losses, RunError, Work};
use crate::loss::divergence_and_gradient;
use crate::recipe::{DistillSpec, Stage};
use crate::rl::{Experience, Place};
use crate::{Net, Teacher};

/// What on-policy distillation keeps from step to step.
pub(super) struct Teaching {
    teacher: Teacher,
}

impl Teaching {
    /// Loads the teacher.
    pub(super) fn new(student: &Net, stage: &Stage, spec: &DistillSpec) -> Result<Self, RunError> {
        let n_rows = stage.n_micro_rows() * stage.sequence_length;
        Ok(Self { teacher: Teacher::load(&spec.teacher, student.config.vocab_size, n_rows)? })
    }

    /// The mean of KL(π_θ ‖ π_T) over the samples' tokens, and its gradient into `work.gradients`.
    pub(super) fn gradients<D: TrainDevice>(
        &mut self,
        policy: &mut Policy<'_, D>,
        stage: &Stage,
        experience: &mut Experience,
        places: &[Place],
        work: &mut Work,
    ) -> Losses {
        let cuts = experience.micro_batches(places, stage.n_micro_rows() * stage.sequence_length);
        let n_tokens = |(g, c): &Place| experience.groups[*g].completions[*c].tokens.len();
        let share = 1.0 / places.iter().map(n_tokens).sum::<usize>().max(1) as f32;
        let balance = stage.balance_weight as f32 / cuts.len().max(1) as f32;
        let mut losses = Losses::default();
        work.gradients.fill(0.0);
        for cut in cuts {
            let places = &places[cut];
            let shares: Vec<Vec<f32>> = places.iter().map(|place| vec![share; n_tokens(place)]).collect();
            experience.fill(places, &shares, &mut work.batch);
            let (ws, g) = (&mut work.ws, &mut work.gradients);
            let with = (&mut self.teacher, balance);
            let found = divergence_and_gradient(policy.dev, policy.net, policy.params, &work.batch, with, ws, g);
            losses.main += found.main;
            losses.balance += found.balance;
            losses.add_loads(&work.ws);
        }
        experience.stats.kl = losses.main;
        losses
    }
}
