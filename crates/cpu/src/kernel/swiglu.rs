//! silu(gate)·up, silu(x) = x / (1 + e^(−x)).
//!
//! Owns that formula. Must not know whose rows they are.

use super::exp::exp;
use crate::level::{Kernel, LANES, Simd};
use crate::pool::Shared32;

/// gate = silu(gate)·up over values that other threads leave alone.
pub(crate) struct Swiglu<'a, U> {
    pub(crate) gate: &'a [Shared32],
    pub(crate) up: &'a [U],
}

/// A value, alone or shared.
pub(crate) trait Value {
    fn value(&self) -> f32;
}

impl Value for f32 {
    #[inline(always)]
    fn value(&self) -> f32 {
        *self
    }
}

impl Value for Shared32 {
    #[inline(always)]
    fn value(&self) -> f32 {
        self.get()
    }
}

impl<U: Value> Kernel for Swiglu<'_, U> {
    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        for (gate, up) in self.gate.chunks(LANES).zip(self.up.chunks(LANES)) {
            let (mut g, mut u) = ([0.0; LANES], [0.0; LANES]);
            g.iter_mut().zip(gate).for_each(|(g, gate)| *g = gate.get());
            u.iter_mut().zip(up).for_each(|(u, up)| *u = up.value());
            let x = simd.load(&g);
            let one_more = simd.add(exp(simd, simd.sub(simd.splat(0.0), x)), simd.splat(1.0));
            simd.store(simd.mul(simd.div(x, one_more), simd.load(&u)), &mut g);
            gate.iter().zip(g).for_each(|(gate, g)| gate.set(g));
        }
    }
}
