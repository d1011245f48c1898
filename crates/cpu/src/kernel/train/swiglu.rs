//! silu(gate)·up that keeps its inputs, and its gradient.
//!
//! Owns both formulas. Must not know whose rows they are.

use super::{lanes, set_lanes};
use crate::kernel::exp::exp;
use crate::level::{Kernel, LANES, Simd};

/// 1 + e^(−x)
#[inline(always)]
fn one_more<S: Simd>(simd: S, x: S::F32) -> S::F32 {
    simd.add(exp(simd, simd.sub(simd.splat(0.0), x)), simd.splat(1.0))
}

/// out = silu(gate)·up: the operations of [`crate::kernel::swiglu::Swiglu`], and so its bits.
pub(crate) struct SwigluTo<'a> {
    pub(crate) gate: &'a [f32],
    pub(crate) up: &'a [f32],
    pub(crate) out: &'a mut [f32],
}

impl Kernel for SwigluTo<'_> {
    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let Self { gate, up, out } = self;
        for c in 0..out.len().div_ceil(LANES) {
            let (x, up) = (simd.load(&lanes(gate, c)), simd.load(&lanes(up, c)));
            let mut to = [0.0; LANES];
            simd.store(simd.mul(simd.div(x, one_more(simd, x)), up), &mut to);
            set_lanes(out, c, to);
        }
    }
}

/// d_up = d_out·gate·σ, d_gate = d_out·up·σ·(1 + gate·(1 − σ)).
pub(crate) struct SwigluBackward<'a> {
    pub(crate) gate: &'a [f32],
    pub(crate) up: &'a [f32],
    pub(crate) d_out: &'a [f32],
    pub(crate) d_gate: &'a mut [f32],
    pub(crate) d_up: &'a mut [f32],
}

impl Kernel for SwigluBackward<'_> {
    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let Self { gate, up, d_out, d_gate, d_up } = self;
        let one = simd.splat(1.0);
        for c in 0..d_gate.len().div_ceil(LANES) {
            let (g, up, d) = (simd.load(&lanes(gate, c)), simd.load(&lanes(up, c)), simd.load(&lanes(d_out, c)));
            let sigmoid = simd.div(one, one_more(simd, g));
            let slope = simd.mul_add(g, simd.sub(one, sigmoid), one);
            let mut to = [0.0; LANES];
            simd.store(simd.mul(simd.mul(simd.mul(d, up), sigmoid), slope), &mut to);
            set_lanes(d_gate, c, to);
            simd.store(simd.mul(simd.mul(d, g), sigmoid), &mut to);
            set_lanes(d_up, c, to);
        }
    }
}
