//! Instruction-set levels, detected once, and the vector operations that kernels are written in.
//!
//! Owns the few `unsafe` calls of intrinsics. A level's token can only be made by detection, so that holding one
//! proves the instructions exist. Must not contain arithmetic of models: kernel bodies are generic over [`Simd`].
#![expect(unsafe_code, reason = "intrinsics, behind tokens that only detection makes")]

/// Values in a vector.
pub(crate) const LANES: usize = 8;

/// Which instructions kernels use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// Plain Rust, on every machine; the twin that the others are held to.
    Scalar,
    /// AVX2, FMA and F16C (x86-64 since about 2013).
    #[cfg(target_arch = "x86_64")]
    Avx2,
}

impl Level {
    /// The best level of this machine.
    #[must_use]
    pub fn detect() -> Self {
        *Self::available().last().unwrap_or(&Self::Scalar)
    }

    /// Every level of this machine, slowest first.
    #[must_use]
    pub fn available() -> Vec<Self> {
        [Some(Self::Scalar), Self::avx2()].into_iter().flatten().collect()
    }

    #[cfg(target_arch = "x86_64")]
    fn avx2() -> Option<Self> {
        avx2::Avx2::detect().map(|_| Self::Avx2)
    }

    #[cfg(not(target_arch = "x86_64"))]
    fn avx2() -> Option<Self> {
        None
    }

    /// Name as users read it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Scalar => "scalar",
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => "avx2",
        }
    }

    /// Runs a kernel at this level.
    ///
    /// # Panics
    /// If the machine lacks the level
    pub(crate) fn run<K: Kernel>(self, kernel: K) {
        match self {
            Self::Scalar => kernel.run(Scalar),
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => match avx2::Avx2::detect() {
                // SAFETY: detection made the token, so the features that `enter` enables exist.
                Some(token) => unsafe { avx2::enter(token, kernel) },
                None => panic!("the AVX2 level on a machine without AVX2, FMA and F16C"),
            },
        }
    }
}

/// A computation written once for every level.
pub(crate) trait Kernel {
    /// The body; implementations are `#[inline(always)]`, so that it is compiled with the level's instructions.
    fn run<S: Simd>(self, simd: S);
}

/// Vectors of [`LANES`] f32 values, and what the kernels need of them.
pub(crate) trait Simd: Copy {
    /// A vector.
    type F32: Copy;
    fn splat(self, value: f32) -> Self::F32;
    fn load(self, values: &[f32; LANES]) -> Self::F32;
    fn store(self, vector: Self::F32, to: &mut [f32; LANES]);
    fn load_f16(self, bits: &[[u8; 2]; LANES]) -> Self::F32;
    fn load_bf16(self, bits: &[[u8; 2]; LANES]) -> Self::F32;
    fn add(self, a: Self::F32, b: Self::F32) -> Self::F32;
    /// a·b + c; the scalar level rounds twice.
    fn mul_add(self, a: Self::F32, b: Self::F32, c: Self::F32) -> Self::F32;
    /// The sum of all lanes, in a fixed order.
    fn sum(self, vector: Self::F32) -> f32;
}

/// Plain Rust.
#[derive(Clone, Copy)]
pub(crate) struct Scalar;

impl Simd for Scalar {
    type F32 = [f32; LANES];
    #[inline(always)]
    fn splat(self, value: f32) -> Self::F32 {
        [value; LANES]
    }
    #[inline(always)]
    fn load(self, values: &[f32; LANES]) -> Self::F32 {
        *values
    }
    #[inline(always)]
    fn store(self, vector: Self::F32, to: &mut [f32; LANES]) {
        *to = vector;
    }
    #[inline(always)]
    fn load_f16(self, bits: &[[u8; 2]; LANES]) -> Self::F32 {
        bits.map(|b| half::f16::from_le_bytes(b).to_f32())
    }
    #[inline(always)]
    fn load_bf16(self, bits: &[[u8; 2]; LANES]) -> Self::F32 {
        bits.map(|b| f32::from_bits(u32::from(u16::from_le_bytes(b)) << 16))
    }
    #[inline(always)]
    fn add(self, a: Self::F32, b: Self::F32) -> Self::F32 {
        std::array::from_fn(|i| a[i] + b[i])
    }
    #[inline(always)]
    fn mul_add(self, a: Self::F32, b: Self::F32, c: Self::F32) -> Self::F32 {
        std::array::from_fn(|i| a[i] * b[i] + c[i])
    }
    #[inline(always)]
    fn sum(self, v: Self::F32) -> f32 {
        ((v[0] + v[4]) + (v[2] + v[6])) + ((v[1] + v[5]) + (v[3] + v[7]))
    }
}

#[cfg(target_arch = "x86_64")]
mod avx2 {
    //! AVX2, FMA and F16C. Must not be reached without its token.

    use std::arch::x86_64::{
        __m256, _mm_add_ps, _mm_add_ss, _mm_cvtss_f32, _mm_loadu_si128, _mm_movehl_ps, _mm_shuffle_ps, _mm256_add_ps,
        _mm256_castps256_ps128, _mm256_castsi256_ps, _mm256_cvtepu16_epi32, _mm256_cvtph_ps, _mm256_extractf128_ps,
        _mm256_fmadd_ps, _mm256_loadu_ps, _mm256_set1_ps, _mm256_slli_epi32, _mm256_storeu_ps,
    };

    use super::{Kernel, LANES, Simd};

    /// Proof that the machine has AVX2, FMA and F16C.
    #[derive(Clone, Copy)]
    pub(crate) struct Avx2 {
        _private: (),
    }

    impl Avx2 {
        pub(crate) fn detect() -> Option<Self> {
            let has =
                is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") && is_x86_feature_detected!("f16c");
            has.then_some(Self { _private: () })
        }
    }

    /// Compiles the kernel with the level's instructions.
    ///
    /// # Safety
    /// The machine has AVX2, FMA and F16C, which `token` proves.
    #[target_feature(enable = "avx2,fma,f16c")]
    pub(super) unsafe fn enter<K: Kernel>(token: Avx2, kernel: K) {
        kernel.run(token);
    }

    impl Simd for Avx2 {
        type F32 = __m256;
        #[inline(always)]
        fn splat(self, value: f32) -> __m256 {
            // SAFETY: the token proves AVX.
            unsafe { _mm256_set1_ps(value) }
        }
        #[inline(always)]
        fn load(self, values: &[f32; LANES]) -> __m256 {
            // SAFETY: the token proves AVX; the reference covers the eight values, and the load needs no alignment.
            unsafe { _mm256_loadu_ps(values.as_ptr()) }
        }
        #[inline(always)]
        fn store(self, vector: __m256, to: &mut [f32; LANES]) {
            // SAFETY: as for `load`.
            unsafe { _mm256_storeu_ps(to.as_mut_ptr(), vector) }
        }
        #[inline(always)]
        fn load_f16(self, bits: &[[u8; 2]; LANES]) -> __m256 {
            // SAFETY: the token proves F16C; the reference covers the sixteen bytes, and the load needs no alignment.
            unsafe { _mm256_cvtph_ps(_mm_loadu_si128(bits.as_ptr().cast())) }
        }
        #[inline(always)]
        fn load_bf16(self, bits: &[[u8; 2]; LANES]) -> __m256 {
            // SAFETY: the token proves AVX2; the reference covers the sixteen bytes, and the load needs no alignment.
            unsafe {
                let wide = _mm256_cvtepu16_epi32(_mm_loadu_si128(bits.as_ptr().cast()));
                _mm256_castsi256_ps(_mm256_slli_epi32::<16>(wide))
            }
        }
        #[inline(always)]
        fn add(self, a: __m256, b: __m256) -> __m256 {
            // SAFETY: the token proves AVX.
            unsafe { _mm256_add_ps(a, b) }
        }
        #[inline(always)]
        fn mul_add(self, a: __m256, b: __m256, c: __m256) -> __m256 {
            // SAFETY: the token proves FMA.
            unsafe { _mm256_fmadd_ps(a, b, c) }
        }
        #[inline(always)]
        fn sum(self, v: __m256) -> f32 {
            // SAFETY: the token proves AVX.
            unsafe {
                let four = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps::<1>(v));
                let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
                _mm_cvtss_f32(_mm_add_ss(two, _mm_shuffle_ps::<1>(two, two)))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Writes what every operation gives on awkward values, as bits.
    struct Probe<'a>(&'a mut Vec<u32>);

    impl Kernel for Probe<'_> {
        #[inline(always)]
        fn run<S: Simd>(self, simd: S) {
            let halves: [[u8; 2]; LANES] =
                [0x0000u16, 0x8001, 0x3c00, 0x7bff, 0x0400, 0xc500, 0x7c00, 0x3555].map(u16::to_le_bytes);
            let a = simd.load(&[1.5, -2.25, 0.0, 1e30, 1e-30, -0.0, 3.0, 7.0]);
            let b = simd.load(&[2.0, 4.0, 8.0, 0.5, 2.0, 1.0, -1.0, 0.25]);
            for vector in [
                simd.splat(0.1),
                simd.load_f16(&halves),
                simd.load_bf16(&halves),
                simd.add(a, b),
                simd.mul_add(a, b, simd.splat(1.0)),
            ] {
                let mut out = [0.0; LANES];
                simd.store(vector, &mut out);
                self.0.extend(out.map(f32::to_bits));
            }
            self.0.push(simd.sum(simd.load(&[1.0, 1e8, -1e8, 3.0, 0.5, 0.25, 7.0, -2.0])).to_bits());
        }
    }

    #[test]
    fn every_level_agrees_with_scalar_on_exact_operations() {
        let mut expected = Vec::new();
        Level::Scalar.run(Probe(&mut expected));
        for level in Level::available() {
            let mut found = Vec::new();
            level.run(Probe(&mut found));
            assert_eq!(found, expected, "{}", level.name());
        }
        if Level::available().len() == 1 {
            println!("skipped: no level above scalar on this machine");
        }
    }
}
