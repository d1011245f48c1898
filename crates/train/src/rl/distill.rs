//! On-policy distillation's arithmetic: how far a token's distribution is from a teacher's.
//!
//! Owns the divergence of one token and its slope. Pure functions: must not know models, text or threads.
//!
//! Source: on-policy distillation (generalised knowledge distillation, arXiv 2306.13649, with λ = 1 and reverse KL), over
//! the whole vocabulary as DeepSeek-V4's post-training has it. Where this departs: the samples are taken as given. The
//! expectation over them depends on the policy too, and that part of the gradient, which needs the return of a whole
//! sample and is what makes policy gradients noisy, is left out, as both sources do.

/// KL(p ‖ q) = Σ_v p_v (ln p_v − ln q_v) in nats, p and q the distributions that the logits `student` and `teacher` stand
/// for. `student` becomes `coefficient` times the slope along its logits: p_v (ln p_v − ln q_v − KL).
///
/// # Panics   if the two have not the same tokens (a bug of the caller)
pub fn reverse_kl(student: &mut [f32], teacher: &[f32], coefficient: f32) -> f64 {
    assert_eq!(student.len(), teacher.len(), "logits of one vocabulary");
    let (own, theirs) = (log_sum_exp(student), log_sum_exp(teacher));
    // Their difference is small where both are large, so it is taken between the logits first.
    let gap = |z: f32, t: f32| f64::from(z - t) - (own - theirs);
    let p = |z: f32| f64::from((f64::from(z) - own) as f32).exp();
    let kl: f64 = student.iter().zip(teacher).map(|(z, t)| p(*z) * gap(*z, *t)).sum();
    for (z, t) in student.iter_mut().zip(teacher) {
        *z = (f64::from(coefficient) * p(*z) * (gap(*z, *t) - kl)) as f32;
    }
    kl
}

fn log_sum_exp(logits: &[f32]) -> f64 {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().map(|z| f64::from((z - max).exp())).sum();
    f64::from(max) + sum.ln()
}

#[cfg(test)]
mod tests {
    use super::*;

    const STUDENT: [f32; 5] = [0.5, -1.25, 2.0, 0.0, -3.5];
    const TEACHER: [f32; 5] = [1.0, -0.5, 1.5, -2.0, 0.25];

    fn kl(student: &[f32]) -> f64 {
        reverse_kl(&mut student.to_vec(), &TEACHER, 1.0)
    }

    #[test]
    fn the_gradient_is_the_slope() {
        let mut slopes = STUDENT.to_vec();
        reverse_kl(&mut slopes, &TEACHER, 0.5);
        for (v, slope) in slopes.iter().enumerate() {
            let moved = |by: f32| {
                let mut student = STUDENT;
                student[v] += by;
                kl(&student)
            };
            let h = 1.0 / 256.0;
            let expected = 0.5 * (moved(h) - moved(-h)) / f64::from(2.0 * h);
            assert!((f64::from(*slope) - expected).abs() < 1e-5, "{v}: {slope} for {expected}");
        }
        let sum: f32 = slopes.iter().sum();
        assert!(sum.abs() < 1e-7, "a constant added to all logits changes nothing: {sum}");
    }

    #[test]
    fn it_is_the_divergence() {
        let softmax = |z: &[f32]| {
            let sum: f64 = z.iter().map(|z| f64::from(*z).exp()).sum();
            z.iter().map(|z| f64::from(*z).exp() / sum).collect::<Vec<_>>()
        };
        let (p, q) = (softmax(&STUDENT), softmax(&TEACHER));
        let expected: f64 = p.iter().zip(&q).map(|(p, q)| p * (p / q).ln()).sum();
        assert!((kl(&STUDENT) - expected).abs() < 1e-6, "{} for {expected}", kl(&STUDENT));
        let shifted: Vec<f32> = TEACHER.iter().map(|z| z + 7.0).collect();
        assert!(kl(&shifted).abs() < 1e-9, "equal distributions");
    }

    #[test]
    fn large_logits_are_no_trouble() {
        let mut sure = [200.0, -200.0, 0.0];
        let found = reverse_kl(&mut sure, &[180.0, -300.0, 20.0], 1.0);
        assert!(found.abs() < 1e-9 && sure.iter().all(|slope| slope.abs() < 1e-6), "{found} {sure:?}");
    }
}
