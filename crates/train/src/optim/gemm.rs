//! The products that an optimiser needs, behind a trait so that a fast body can take their place.

/// Products of row-major f32 matrices; `c` is overwritten. Sizes are `[m, n, k]`: c is `[m, n]`, k is summed over.
pub trait Gemm {
    /// c = a·bᵀ, a `[m, k]`, b `[n, k]`.
    fn nt(&mut self, sizes: [usize; 3], a: &[f32], b: &[f32], c: &mut [f32]);
    /// c = a·b, a `[m, k]`, b `[k, n]`.
    fn nn(&mut self, sizes: [usize; 3], a: &[f32], b: &[f32], c: &mut [f32]);
    /// c = aᵀ·b, a `[k, m]`, b `[k, n]`.
    fn tn(&mut self, sizes: [usize; 3], a: &[f32], b: &[f32], c: &mut [f32]);
}

/// Three loops: the definition, for tests and small models.
#[derive(Clone, Copy, Debug, Default)]
pub struct Naive;

impl Naive {
    fn run([m, n, k]: [usize; 3], c: &mut [f32], a: impl Fn(usize, usize) -> f32, b: impl Fn(usize, usize) -> f32) {
        assert_eq!(c.len(), m * n, "output of [{m}, {n}]");
        for i in 0..m {
            for j in 0..n {
                c[i * n + j] = (0..k).map(|p| a(i, p) * b(p, j)).sum();
            }
        }
    }
}

impl Gemm for Naive {
    fn nt(&mut self, sizes: [usize; 3], a: &[f32], b: &[f32], c: &mut [f32]) {
        let k = sizes[2];
        Self::run(sizes, c, |i, p| a[i * k + p], |p, j| b[j * k + p]);
    }

    fn nn(&mut self, sizes: [usize; 3], a: &[f32], b: &[f32], c: &mut [f32]) {
        let [_, n, k] = sizes;
        Self::run(sizes, c, |i, p| a[i * k + p], |p, j| b[p * n + j]);
    }

    fn tn(&mut self, sizes: [usize; 3], a: &[f32], b: &[f32], c: &mut [f32]) {
        let [m, n, _] = sizes;
        Self::run(sizes, c, |i, p| a[p * m + i], |p, j| b[p * n + j]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_three_forms_are_one_product() {
        // a = [[1,2,3],[4,5,6]], b = [[1,0],[0,1],[2,2]], a·b = [[7,8],[16,17]]
        let mut c = [0.0; 4];
        Naive.nn([2, 2, 3], &[1., 2., 3., 4., 5., 6.], &[1., 0., 0., 1., 2., 2.], &mut c);
        assert_eq!(c, [7., 8., 16., 17.]);
        Naive.nt([2, 2, 3], &[1., 2., 3., 4., 5., 6.], &[1., 0., 2., 0., 1., 2.], &mut c);
        assert_eq!(c, [7., 8., 16., 17.]);
        Naive.tn([2, 2, 3], &[1., 4., 2., 5., 3., 6.], &[1., 0., 0., 1., 2., 2.], &mut c);
        assert_eq!(c, [7., 8., 16., 17.]);
    }
}
