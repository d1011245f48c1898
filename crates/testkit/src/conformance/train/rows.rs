//! Cases of operations on rows: products, norms, sums and rotations.

use ops::{Gemm, GemmLayout, HeadLayout, NormRows, Precision, RopePairing, RopeScaling, RopeTable, TrainDevice};

use super::{Suite, both};
use crate::conformance::arithmetic::{EPS, TINY, gamma, norm, rotation, sum};
use crate::conformance::buffers::CANARY;
use crate::conformance::random::{NON_FINITE, Random};
use crate::conformance::report::Bound;

pub(super) fn check<D: TrainDevice>(suite: &mut Suite<'_, D>) {
    let mut rng = Random::new(80);
    for layout in [GemmLayout::Nt, GemmLayout::Nn, GemmLayout::Tn] {
        for dims in [[0, 3, 2], [3, 0, 2], [2, 3, 0], [1, 1, 1], [3, 17, 15], [17, 33, 16], [5, 16, 31], [65, 40, 33]] {
            for (gap, accumulate) in [(0, false), (2, true)] {
                let g = Gemm { accumulate, precision: Precision::Highest, ..Gemm::new(layout, dims) };
                gemm(suite, &mut rng, "gemm", g, gap);
                gemm(suite, &mut rng, "gemm of high precision", Gemm { precision: Precision::High, ..g }, gap);
                if layout == GemmLayout::Nt {
                    let precision = Precision::Inference;
                    gemm(suite, &mut rng, "gemm as inference", Gemm { precision, ..g }, gap);
                }
            }
        }
        groups(suite, &mut rng, layout);
    }
    for dim in [1, 3, 15, 16, 17, 31, 33, 64, 520] {
        for n_rows in [0, 1, 2, 31, 33, 65] {
            biases(suite, &mut rng, n_rows, dim);
            for (x_gap, y_gap) in [(0, 0), (3, 5)] {
                let rows = NormRows { n_rows, dim, x_stride: dim + x_gap, y_stride: dim + y_gap, eps: 1e-3 };
                norms(suite, &mut rng, rows);
            }
        }
    }
    rotations(suite, &mut rng);
}

fn size(value: f32) -> f64 {
    f64::from(value.abs())
}

/// What rounding both factors may cost, relative to |a·b|.
fn rounding(precision: Precision) -> f64 {
    match precision {
        Precision::Inference | Precision::Highest => 0.0,
        // 2⁻¹⁶ of each factor, and the product of their second terms.
        Precision::High => 3.1 / f64::from(1 << 16),
    }
}

fn gemm<D: TrainDevice>(suite: &mut Suite<'_, D>, rng: &mut Random, operation: &'static str, tight: Gemm, gap: usize) {
    let strides = [tight.a_stride, tight.b_stride, tight.c_stride].map(|stride| stride + gap);
    let g = Gemm { a_stride: strides[0], b_stride: strides[1], c_stride: strides[2], ..tight };
    let [mut a, b, c] = strides.map(|stride| rng.values(80 * stride));
    let magnitude = |of: &[f32]| of.iter().map(|v| v.abs()).collect::<Vec<_>>();
    let mut terms = magnitude(&c);
    let sizes = Gemm { accumulate: true, ..g };
    ops::Reference.gemm(&sizes, &magnitude(&a), &magnitude(&b), &mut terms);
    let inside = |at: usize| at / g.c_stride.max(1) < g.m && at % g.c_stride.max(1) < g.n;
    let bounds = terms.iter().enumerate().map(|(at, terms)| match inside(at) {
        true => Bound::Within((sum(g.k) + rounding(g.precision)) * size(*terms) * (1.0 + 2.0 * EPS) + TINY),
        false => Bound::Bits,
    });
    let bounds: Vec<_> = bounds.collect();
    for value in [0.0, f32::NAN] {
        if let (Some(first), true) = (a.first_mut(), value.is_nan()) {
            *first = value;
        }
        let values = both!(suite, dev => {
            let mut c = c.clone();
            dev.gemm(&g, &a, &b, &mut c);
            c
        });
        suite.check(operation, &format!("{g:?}, {value}"), values, &bounds);
    }
}

/// Each group is a product, whose bits may not depend on its neighbours.
fn groups<D: TrainDevice>(suite: &mut Suite<'_, D>, rng: &mut Random, layout: GemmLayout) {
    let (offsets, d, width) = ([0, 3, 3, 20], 17, 5);
    let dims = match layout {
        GemmLayout::Nt => [0, width, d],
        GemmLayout::Nn => [0, d, width],
        GemmLayout::Tn => [width, d, 0],
    };
    let g = Gemm::new(layout, dims).accumulate();
    let [a, b, c] = [0; 3].map(|_| rng.values(20 * d));
    let bounds: Vec<_> = c.iter().map(|_| Bound::Within((sum(20) + rounding(g.precision)) * 21.0)).collect();
    let values = both!(suite, dev => {
        let mut c = c.clone();
        dev.gemm_groups(&g, &offsets, &a, &b, &mut c);
        c
    });
    suite.check("gemm_groups", &format!("{g:?}"), values, &bounds);
}

fn biases<D: TrainDevice>(suite: &mut Suite<'_, D>, rng: &mut Random, n_rows: usize, dim: usize) {
    let (row, x) = (rng.values(dim), rng.values(n_rows * dim));
    let label = format!("{n_rows} rows of {dim}");
    let values = both!(suite, dev => {
        let mut out = vec![CANARY; (n_rows + 1) * dim];
        dev.repeat_row(&row, n_rows, &mut out);
        out
    });
    suite.check("repeat_row", &label, values, &vec![Bound::Bits; (n_rows + 1) * dim]);
    let bound = |i: usize| {
        let terms = x.iter().skip(i).step_by(dim).map(|v| size(*v)).sum::<f64>();
        Bound::Within(gamma(n_rows as f64 + 2.0) * (terms + size(row[i])) + TINY)
    };
    let bounds: Vec<_> = (0..dim).map(bound).collect();
    let values = both!(suite, dev => {
        let mut out = row.clone();
        dev.sum_rows(&x, n_rows, &mut out);
        out
    });
    suite.check("sum_rows", &label, values, &bounds);
}

/// d_x = i·d_y·w − x·i²·mean: i carries n/2 + 1 + e roundings, the mean n more and an i.
fn norms<D: TrainDevice>(suite: &mut Suite<'_, D>, rng: &mut Random, rows: NormRows) {
    let NormRows { n_rows, dim, x_stride, y_stride, .. } = rows;
    let reach = |stride: usize| n_rows.saturating_sub(1) * stride + if n_rows == 0 { 0 } else { dim };
    let (mut x, d_y, w) = (rng.values(reach(x_stride)), rng.values(reach(y_stride)), rng.values(dim));
    let (d_x, d_w) = (rng.values(x.len()), rng.values(dim));
    if n_rows == 33 {
        x[2 * x_stride] = NON_FINITE[dim % 3];
    }
    let label = format!("{rows:?}");
    let forward = both!(suite, dev => {
        let mut y = vec![CANARY; d_y.len()];
        dev.norm(&rows, &x, &w, &mut y);
        y
    });
    let within = |i: usize, stride: usize| i % stride < dim;
    let bounds = forward[1].iter().enumerate().map(|(i, y)| match within(i, y_stride) {
        true => Bound::Within(norm(dim) * size(*y) + TINY),
        false => Bound::Bits,
    });
    let bounds: Vec<_> = bounds.collect();
    suite.check("norm", &label, forward, &bounds);
    let mut bounds = vec![Bound::Bits; d_x.len()];
    let mut d_w_terms: Vec<f64> = d_w.iter().map(|d| size(*d)).collect();
    let relative = gamma(2.5 * dim as f64 + 30.0);
    for t in 0..n_rows {
        let (x, d_y) = (&x[t * x_stride..][..dim], &d_y[t * y_stride..][..dim]);
        let square = x.iter().map(|v| size(*v).powi(2)).sum::<f64>() / dim as f64;
        let inverse = 1.0 / (square + f64::from(rows.eps)).sqrt();
        let mean = (0..dim).map(|i| size(d_y[i]) * size(w[i]) * size(x[i])).sum::<f64>() * inverse / dim as f64;
        for i in 0..dim {
            let terms =
                size(d_x[t * x_stride + i]) + inverse * (size(d_y[i]) * size(w[i]) + size(x[i]) * inverse * mean);
            bounds[t * x_stride + i] = Bound::Within(relative * terms + TINY);
            d_w_terms[i] += size(d_y[i]) * size(x[i]) * inverse;
        }
    }
    let relative = gamma(dim as f64 / 2.0 + 10.0 + n_rows as f64);
    bounds.extend(d_w_terms.iter().map(|terms| Bound::Within(relative * terms + TINY)));
    let values = both!(suite, dev => {
        let (mut d_x, mut d_w) = (d_x.clone(), d_w.clone());
        dev.norm_backward(&rows, &x, &w, &d_y, &mut d_x, &mut d_w);
        d_x.extend(d_w);
        d_x
    });
    suite.check("norm_backward", &label, values, &bounds);
}

fn rotations<D: TrainDevice>(suite: &mut Suite<'_, D>, rng: &mut Random) {
    let layout = HeadLayout { n_heads: 3, head_dim: 21, start: 4 };
    for (pairing, n_rows) in [RopePairing::Interleaved, RopePairing::Halved].into_iter().zip([7, 300]) {
        let table = RopeTable::new(16, 100.0, &RopeScaling::Linear { factor: 2.0 }, pairing);
        let positions: Vec<u32> = (0..n_rows).map(|t| t * 131 % 4096).collect();
        let x = rng.values(positions.len() * 63 + 1);
        let mut bounds = vec![Bound::Bits; x.len()];
        for ((t, position), (h, i)) in
            positions.iter().enumerate().flat_map(|t| (0..3).flat_map(move |h| (0..8).map(move |i| (t, (h, i)))))
        {
            let at = t * 63 + h * 21 + 4;
            let ((cos, sin), (first, second)) = (table.cos_sin(*position, i), table.pair(i));
            let (a, b) = (size(x[at + first]), size(x[at + second]));
            let bound = |a: f64, b: f64| Bound::Within(rotation() * (a * size(cos) + b * size(sin)) + TINY);
            (bounds[at + first], bounds[at + second]) = (bound(a, b), bound(b, a));
        }
        let values = both!(suite, dev => {
            let mut x = x.clone();
            dev.rope_backward(&mut x, layout, &positions, &table);
            x
        });
        suite.check("rope_backward", &format!("{n_rows} rows, {pairing:?}"), values, &bounds);
    }
}
