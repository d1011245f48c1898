//! e^x for vectors.
//!
//! Owns the approximation: x = n·ln 2 + r with |r| ≤ ln 2 / 2, e^x = 2^n · e^r, e^r by a polynomial. The same
//! operations on every level, so the same bits. Must not know what it is used for.

use crate::level::Simd;

/// ln 2 in two parts, of which the first has so few digits that its product with n is exact.
const LN_2: [f32; 2] = [0.693_359_4, -2.121_944_4e-4];
/// Of (e^r − 1 − r) / r², highest power first (Cephes, expf).
const POLYNOMIAL: [f32; 6] =
    [1.987_569_1e-4, 1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 5.000_000_3e-1];
/// Below the first e^x rounds to 0, above the second to infinity.
const LIMITS: [f32; 2] = [-104.0, 89.0];

/// e^x.
///
/// # Numerics
/// |err| ≤ 2 units in the last place; 0, infinities and NaN where they belong, subnormals rounded once more
#[inline(always)]
pub(crate) fn exp<S: Simd>(simd: S, x: S::F32) -> S::F32 {
    let x = simd.min(simd.splat(LIMITS[1]), simd.max(simd.splat(LIMITS[0]), x));
    let n = simd.to_f32(simd.round(simd.mul(x, simd.splat(std::f32::consts::LOG2_E))));
    let r = simd.mul_add(n, simd.splat(-LN_2[0]), x);
    let r = simd.mul_add(n, simd.splat(-LN_2[1]), r);
    let mut sum = simd.splat(POLYNOMIAL[0]);
    for factor in &POLYNOMIAL[1..] {
        sum = simd.mul_add(sum, r, simd.splat(*factor));
    }
    let sum = simd.mul_add(sum, simd.mul(r, r), simd.add(r, simd.splat(1.0)));
    simd.mul_power(sum, n)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::level::{Kernel, LANES, Level};

    struct Exp<'a>(&'a mut [[f32; LANES]]);

    impl Kernel for Exp<'_> {
        #[inline(always)]
        fn run<S: Simd>(self, simd: S) {
            for x in self.0 {
                simd.store(exp(simd, simd.load(x)), x);
            }
        }
    }

    fn exp_at(level: Level, x: &[f32]) -> Vec<f32> {
        let mut lanes: Vec<[f32; LANES]> =
            x.chunks(LANES).map(|c| std::array::from_fn(|i| c[i.min(c.len() - 1)])).collect();
        level.run(Exp(&mut lanes));
        lanes.as_flattened()[..x.len()].to_vec()
    }

    #[test]
    fn two_units_in_the_last_place_and_the_same_bits_on_every_level() {
        let x: Vec<f32> = (-1_030_000..=887_000).map(|i| i as f32 * 1e-4).collect();
        let scalar = exp_at(Level::Scalar, &x);
        for (x, y) in x.iter().zip(&scalar) {
            let exact = f64::from(*x).exp();
            let ulp = f64::from(f32::from_bits(y.to_bits() + 1) - y);
            assert!((f64::from(*y) - exact).abs() <= 2.0 * ulp, "e^{x}: {y:e}, not {exact:e}");
        }
        for level in Level::available() {
            assert!(exp_at(level, &x).iter().zip(&scalar).all(|(a, b)| a.to_bits() == b.to_bits()), "{}", level.name());
        }
    }

    #[test]
    fn ends_are_exact() {
        for level in Level::available() {
            let y = exp_at(level, &[0.0, -0.0, -104.0, -1e30, f32::NEG_INFINITY, 88.8, 1e30, f32::INFINITY, f32::NAN]);
            assert_eq!(
                y[..8],
                [1.0, 1.0, 0.0, 0.0, 0.0, f32::INFINITY, f32::INFINITY, f32::INFINITY],
                "{}",
                level.name()
            );
            assert!(y[8].is_nan());
        }
    }
}
