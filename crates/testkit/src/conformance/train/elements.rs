//! Cases of operations on single values, and of the loss.

use ops::TrainDevice;

use super::{Suite, both};
use crate::conformance::arithmetic::{EPS, TINY, gamma};
use crate::conformance::buffers::{CANARY, MARGIN};
use crate::conformance::random::{NON_FINITE, Random};
use crate::conformance::report::Bound;
use crate::conformance::swiglu::bound as silu_bound;

const LENS: [usize; 11] = [0, 1, 3, 15, 16, 17, 31, 33, 64, 65, 16_400];

/// Arguments of an exponential below this give 0.
const UNDERFLOW: f64 = 104.0;

pub(super) fn check<D: TrainDevice>(suite: &mut Suite<'_, D>) {
    let mut rng = Random::new(81);
    for len in LENS {
        for scale in [1.0, 60.0, 1e4] {
            let [mut gate, mut up, d_out] = [0; 3].map(|_| rng.values(len + MARGIN));
            gate.iter_mut().for_each(|g| *g *= scale);
            if len > 30 {
                (gate[3], gate[7], up[20]) = (NON_FINITE[1], NON_FINITE[2], NON_FINITE[0]);
            }
            elements(suite, &gate, &up, &d_out, len);
        }
    }
    for vocab in [1, 2, 15, 16, 17, 33, 255, 1000, 4100] {
        for scale in [1.0, 30.0, 1e3] {
            losses(suite, &mut rng, vocab, scale);
        }
    }
}

fn elements<D: TrainDevice>(suite: &mut Suite<'_, D>, gate: &[f32], up: &[f32], d_out: &[f32], len: usize) {
    let label = format!("{len} values");
    let bounds = |bound: &dyn Fn(usize) -> Bound| -> Vec<Bound> {
        (0..len + MARGIN).map(|i| if i < len { bound(i) } else { Bound::Bits }).collect()
    };
    let values = both!(suite, dev => {
        let mut out = vec![CANARY; len + MARGIN];
        dev.sum(gate, up, len, &mut out);
        out
    });
    suite.check("sum", &label, values, &bounds(&|_| Bound::Bits));
    let values = both!(suite, dev => {
        let mut out = vec![CANARY; len + MARGIN];
        dev.swiglu_to(gate, up, len, &mut out);
        out
    });
    let at = |i: usize| [gate, up, d_out].map(|values| f64::from(values[i]));
    suite.check("swiglu_to", &label, values, &bounds(&|i| Bound::Within(silu_bound(at(i)[0], at(i)[1]))));
    // σ carries e + 2 roundings, 1 − σ what σ does of 1; silu's bound is lost where e^(−gate) overflows.
    let d_gate = |i: usize| {
        let [g, u, d] = at(i);
        let sigmoid = 1.0 / (1.0 + (-g).exp());
        let terms = sigmoid * (1.0 + g.abs() * (1.0 + sigmoid));
        Bound::Within((d * u).abs() * (gamma(20.0) * terms + 100.0 * TINY) + TINY)
    };
    let d_up = |i: usize| Bound::Within(silu_bound(at(i)[0], at(i)[2]));
    let values = both!(suite, dev => {
        let (mut d_gate, mut d_up) = (vec![CANARY; len + MARGIN], vec![CANARY; len + MARGIN]);
        dev.swiglu_backward(gate, up, d_out, len, &mut d_gate, &mut d_up);
        d_gate.extend(d_up);
        d_gate
    });
    let bounds: Vec<_> = [bounds(&d_gate), bounds(&d_up)].concat();
    suite.check("swiglu_backward", &label, values, &bounds);
}

/// p = e^(l − max)/Σ: the exponent is rounded once, numerator and sum carry e and the sum's additions.
fn losses<D: TrainDevice>(suite: &mut Suite<'_, D>, rng: &mut Random, vocab: usize, scale: f32) {
    let coefficients = [0.25, 1.0, 0.0, -2.0, 1e-3];
    let n = coefficients.len();
    let mut logits: Vec<f32> = rng.values(n * vocab).iter().map(|l| l * scale).collect();
    if vocab == 33 {
        (logits[3], logits[4 * vocab + 32]) = (f32::NAN, f32::NEG_INFINITY);
    }
    let targets: Vec<u32> = (0..n).map(|_| rng.below(vocab) as u32).collect();
    let mut bounds = Vec::new();
    let mut nll_bounds = Vec::new();
    for ((row, target), coefficient) in logits.chunks_exact(vocab).zip(&targets).zip(coefficients) {
        let max = f64::from(row.iter().copied().fold(f32::NEG_INFINITY, f32::max));
        let sum: f64 = row.iter().map(|l| (f64::from(*l) - max).exp()).sum();
        let range = (2.0 * f64::from(scale)).min(UNDERFLOW);
        let relative = 2.0 * EPS * range + gamma(vocab as f64 + 16.0);
        let own = (max - f64::from(row[*target as usize])).abs();
        // One rounding more because the suite looks at it in f32.
        nll_bounds.push(Bound::Within(relative + 2.0 * EPS * own + 2.0 * EPS * sum.ln().abs()));
        for (i, l) in row.iter().enumerate() {
            let p = (f64::from(*l) - max).exp() / sum;
            let terms = if i == *target as usize { p + 1.0 } else { p };
            let c = f64::from(coefficient).abs();
            bounds.push(if c == 0.0 { Bound::Bits } else { Bound::Within(c * relative * terms + (1.0 + c) * TINY) });
        }
    }
    bounds.extend(nll_bounds);
    let values = both!(suite, dev => {
        let (mut logits, mut nll) = (logits.clone(), vec![0.0; n]);
        dev.cross_entropy(&mut logits, vocab, &targets, &coefficients, &mut nll);
        logits.extend(nll.iter().map(|nll| *nll as f32));
        logits
    });
    suite.check("cross_entropy", &format!("{vocab} words, ±{scale}"), values, &bounds);
}
