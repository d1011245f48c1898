//! Rows of c (+)= op(a)·op(b) without packing: the plain body.
//!
//! Owns nothing that lasts: the packed kernel takes its place. Must not be tuned.

use ops::{Gemm, GemmLayout};

use crate::kernel::dot::{add_scaled, dots};
use crate::level::{Kernel, Simd};

/// Rows from `first` on.
pub(crate) struct Product<'a> {
    pub(crate) g: &'a Gemm,
    pub(crate) first: usize,
    pub(crate) a: &'a [f32],
    pub(crate) b: &'a [f32],
    /// Of these rows alone.
    pub(crate) c: &'a mut [f32],
}

impl Kernel for Product<'_> {
    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let Self { g, first, a, b, c } = self;
        for (i, c) in (first..).zip(c.chunks_mut(g.c_stride)) {
            let c = &mut c[..g.n];
            if !g.accumulate {
                c.fill(0.0);
            }
            match g.layout {
                GemmLayout::Nt => {
                    let a = &a[i * g.a_stride..][..g.k];
                    for (j, c) in c.iter_mut().enumerate() {
                        let [[sum]] = dots(simd, [a], [&b[j * g.b_stride..][..g.k]]);
                        *c += sum;
                    }
                }
                GemmLayout::Nn => {
                    for p in 0..g.k {
                        add_scaled(simd, [a[i * g.a_stride + p]], [&b[p * g.b_stride..][..g.n]], c);
                    }
                }
                GemmLayout::Tn => {
                    for p in 0..g.k {
                        add_scaled(simd, [a[p * g.a_stride + i]], [&b[p * g.b_stride..][..g.n]], c);
                    }
                }
            }
        }
    }
}
