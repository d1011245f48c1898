//! Every backward operation of `Reference` against differences of its forward, along random directions.
//!
//! A forward f(x) is projected on random coefficients c, so that the gradient of c·f is what the backward gives for
//! d_out = c; (c·f(x + hu) − c·f(x − hu))/2h must be the gradient along u.

use std::ops::Range;

use ops::route::gradient;
use ops::{
    Attended, Device, Gemm, GemmLayout, HeadLayout, HeadRows, NormRows, PackedAttention, Reference, RopePairing,
    RopeScaling, RopeTable, RouterSpec, Scoring, Selection, TrainDevice,
};

/// Uniform in −1..1, from a seed.
struct Random(u64);

impl Random {
    fn next(&mut self) -> f32 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 40) as f32 / (1 << 23) as f32 - 1.0
    }

    fn values(&mut self, n: usize) -> Vec<f32> {
        (0..n).map(|_| self.next()).collect()
    }
}

fn project(values: &[f32], coefficients: &[f32]) -> f64 {
    values.iter().zip(coefficients).map(|(v, c)| f64::from(*v) * f64::from(*c)).sum()
}

/// Step of the differences: its square and the rounding of f32 over it are both some 1e-4.
const H: f32 = 4e-3;

/// Compares `gradient` with differences of `f` at `x` along a few directions.
fn check(what: &str, x: &[f32], gradient: &[f32], mut f: impl FnMut(&[f32]) -> f64) {
    assert_eq!(x.len(), gradient.len(), "{what}");
    let mut random = Random(x.len() as u64);
    for _ in 0..4 {
        let direction = random.values(x.len());
        let mut moved = |h: f32| {
            let x: Vec<f32> = x.iter().zip(&direction).map(|(x, u)| x + h * u).collect();
            f(&x)
        };
        let difference = (moved(H) - moved(-H)) / (2.0 * f64::from(H));
        let along = project(gradient, &direction);
        let size = gradient.iter().map(|g| f64::from(g.abs())).sum::<f64>().max(1e-2);
        assert!((difference - along).abs() <= 2e-3 * size, "{what}: difference {difference}, gradient {along}");
    }
}

/// c·(a·b) by its definition, with each operand's strides.
fn product(g: &Gemm, a: &[f32], b: &[f32], i: usize, j: usize) -> f64 {
    let term = |p: usize| {
        let (a, b) = match g.layout {
            GemmLayout::Nt => (a[i * g.a_stride + p], b[j * g.b_stride + p]),
            GemmLayout::Nn => (a[i * g.a_stride + p], b[p * g.b_stride + j]),
            GemmLayout::Tn => (a[p * g.a_stride + i], b[p * g.b_stride + j]),
        };
        f64::from(a) * f64::from(b)
    };
    (0..g.k).map(term).sum()
}

#[test]
fn gemm_multiplies_in_every_layout_and_leaves_gaps_alone() {
    let mut random = Random(1);
    for layout in [GemmLayout::Nt, GemmLayout::Nn, GemmLayout::Tn] {
        for (dims, gap) in [([0, 3, 2], 0), ([3, 0, 2], 0), ([2, 3, 0], 1), ([1, 1, 1], 0), ([5, 4, 3], 2)] {
            for accumulate in [false, true] {
                let tight = Gemm { accumulate, ..Gemm::new(layout, dims) };
                let g = Gemm {
                    a_stride: tight.a_stride + gap,
                    b_stride: tight.b_stride + gap,
                    c_stride: tight.c_stride + gap,
                    ..tight
                };
                let [a, b, before] = [0; 3].map(|_| random.values(64));
                let mut c = before.clone();
                Reference.gemm(&g, &a, &b, &mut c);
                for (at, (c, before)) in c.iter().zip(&before).enumerate() {
                    let (i, j) = (at / g.c_stride.max(1), at % g.c_stride.max(1));
                    let kept = f64::from(*before);
                    let expected = match i < g.m && j < g.n {
                        true => product(&g, &a, &b, i, j) + if accumulate { kept } else { 0.0 },
                        false => kept,
                    };
                    assert_eq!(*c, expected as f32, "{g:?} at {i}, {j}");
                }
            }
        }
    }
}

#[test]
fn grouped_products_are_the_groups_products() {
    let mut random = Random(2);
    let (offsets, d, width) = ([0, 2, 2, 5], 3, 4);
    let [x, w, dy] = [5 * d, 3 * width * d, 5 * width].map(|n| random.values(n));
    let nt = Gemm::new(GemmLayout::Nt, [0, width, d]);
    let nn = Gemm::new(GemmLayout::Nn, [0, d, width]);
    let tn = Gemm::new(GemmLayout::Tn, [width, d, 0]).accumulate();
    let (mut y, mut dx, mut dw) = (vec![0.0; 5 * width], vec![0.0; 5 * d], vec![0.0; w.len()]);
    Reference.gemm_groups(&nt, &offsets, &x, &w, &mut y);
    Reference.gemm_groups(&nn, &offsets, &dy, &w, &mut dx);
    Reference.gemm_groups(&tn, &offsets, &dy, &x, &mut dw);
    for (group, e) in offsets.windows(2).zip(0..) {
        let (rows, w, dw) = (group[0]..group[1], &w[e * width * d..], &dw[e * width * d..]);
        for t in rows.clone() {
            for j in 0..width {
                assert_eq!(y[t * width + j], product(&nt, &x[t * d..], w, 0, j) as f32);
            }
            for j in 0..d {
                assert_eq!(dx[t * d + j], product(&nn, &dy[t * width..], w, 0, j) as f32);
            }
        }
        for (i, j) in (0..width).flat_map(|i| (0..d).map(move |j| (i, j))) {
            let g = Gemm { k: rows.len(), ..tn };
            assert_eq!(dw[i * d + j], product(&g, &dy[rows.start * width..], &x[rows.start * d..], i, j) as f32);
        }
    }
}

#[test]
fn the_bias_and_the_rows_that_it_moves() {
    let mut out = [9.0; 7];
    Reference.repeat_row(&[1.0, 2.0, 3.0], 2, &mut out);
    assert_eq!(out, [1.0, 2.0, 3.0, 1.0, 2.0, 3.0, 9.0]);
    let mut sums = [0.5, 0.0, 0.0];
    Reference.sum_rows(&out, 2, &mut sums);
    assert_eq!(sums, [2.5, 4.0, 6.0]);
    Reference.sum_rows(&out, 0, &mut sums);
    assert_eq!(sums, [2.5, 4.0, 6.0]);
}

#[test]
fn norms_follow_differences() {
    let mut random = Random(3);
    for (n_rows, dim, x_gap, y_gap) in [(0, 3, 0, 0), (1, 1, 0, 0), (3, 8, 0, 0), (4, 5, 3, 2)] {
        let rows = NormRows { n_rows, dim, x_stride: dim + x_gap, y_stride: dim + y_gap, eps: 0.1 };
        let (x, w) = (random.values(n_rows * rows.x_stride), random.values(dim));
        let mut c = random.values(n_rows * rows.y_stride);
        // The gaps of y belong to somebody else: nothing of them may arrive.
        c.chunks_exact_mut(rows.y_stride).for_each(|row| row[dim..].fill(0.0));
        let (before_x, before_w) = (random.values(x.len()), random.values(dim));
        let (mut d_x, mut d_w) = (before_x.clone(), before_w.clone());
        Reference.norm_backward(&rows, &x, &w, &c, &mut d_x, &mut d_w);
        let less = |after: Vec<f32>, before: &[f32]| after.iter().zip(before).map(|(a, b)| a - b).collect::<Vec<_>>();
        let f = |x: &[f32], w: &[f32]| {
            let mut y = vec![0.0; c.len()];
            Reference.norm(&rows, x, w, &mut y);
            project(&y, &c)
        };
        check("norm, x", &x, &less(d_x, &before_x), |x| f(x, &w));
        check("norm, w", &w, &less(d_w, &before_w), |w| f(&x, w));
    }
}

#[test]
fn rotations_turn_back() {
    let mut random = Random(4);
    let yarn = RopeScaling::Yarn {
        factor: 4.0,
        original_max_position_embeddings: 16.0,
        beta_fast: 32.0,
        beta_slow: 1.0,
        truncate: true,
        magnitude: 1.2,
    };
    for pairing in [RopePairing::Interleaved, RopePairing::Halved] {
        let table = RopeTable::new(4, 100.0, &yarn, pairing);
        let layout = HeadLayout { n_heads: 2, head_dim: 7, start: 2 };
        let positions = [0, 5, 31];
        let (x, c) = (random.values(42), random.values(42));
        let mut d_x = c.clone();
        Reference.rope_backward(&mut d_x, layout, &positions, &table);
        check("rope", &x, &d_x, |x| {
            let mut y = x.to_vec();
            Reference.rope(&mut y, layout, &positions, &table);
            project(&y, &c)
        });
    }
}

/// Shapes of attention: `[heads, kv heads, k_dim, shared_dim, v_dim]`.
fn attention(sequences: &[Range<usize>], dims: [usize; 5]) -> PackedAttention<'_> {
    let [n_heads, n_kv_heads, k_dim, shared_dim, v_dim] = dims;
    let head_stride = k_dim + v_dim;
    let k = HeadRows { start: 0, row_stride: n_kv_heads * head_stride, head_stride };
    PackedAttention {
        sequences,
        n_heads,
        n_kv_heads,
        k_dim,
        shared_dim,
        v_dim,
        k,
        v: HeadRows { start: k_dim, ..k },
        // A latent's channels lie before the shared ones.
        shared: HeadRows { start: 3, row_stride: 3 + shared_dim, head_stride: 0 },
        scale: 0.7,
    }
}

#[test]
fn attention_follows_differences() {
    let mut random = Random(5);
    for (sequences, dims) in [
        (vec![], [1, 1, 1, 0, 1]),
        (vec![0..1, 1..1], [2, 2, 3, 2, 4]),
        (vec![0..3, 3..3, 3..4, 4..9], [4, 4, 3, 2, 5]),
        (vec![0..5, 5..7], [6, 2, 4, 0, 4]),
    ] {
        let a = attention(&sequences, dims);
        let n_rows = sequences.last().map_or(0, |s| s.end);
        let (n_q, n_out) = (n_rows * a.n_heads * a.q_dim(), n_rows * a.n_heads * a.v_dim);
        let [q, kv, shared, c] =
            [n_q, n_rows * a.k.row_stride, n_rows * a.shared.row_stride, n_out].map(|n| random.values(n));
        let forward = |q: &[f32], kv: &[f32], shared: &[f32]| {
            let (mut out, mut lse) = (vec![0.0; n_out], vec![0.0; n_rows * a.n_heads]);
            Reference.attend_packed(&a, q, kv, shared, &mut out, &mut lse);
            (out, lse)
        };
        let (out, lse) = forward(&q, &kv, &shared);
        let saved = Attended { q: &q, kv: &kv, shared: &shared, out: &out, lse: &lse };
        let (mut d_q, mut d_kv, mut d_shared) = (vec![9.0; q.len()], vec![9.0; kv.len()], vec![0.0; shared.len()]);
        Reference.attend_packed_backward(&a, &saved, &c, &mut d_q, &mut d_kv, &mut d_shared);
        check("attention, q", &q, &d_q, |q| project(&forward(q, &kv, &shared).0, &c));
        check("attention, kv", &kv, &d_kv, |kv| project(&forward(&q, kv, &shared).0, &c));
        check("attention, shared", &shared, &d_shared, |shared| project(&forward(&q, &kv, shared).0, &c));
    }
}

#[test]
fn a_sequence_sees_nothing_of_its_neighbours() {
    let mut random = Random(6);
    let dims = [2, 1, 3, 2, 3];
    let (together, apart) = ([0..2, 2..5], [0..3, 3..3]);
    let (a, alone) = (attention(&together, dims), attention(&apart, dims));
    let [q, kv, shared] = [a.n_heads * a.q_dim(), a.k.row_stride, a.shared.row_stride].map(|n| random.values(5 * n));
    let (mut out, mut lse) = (vec![0.0; 5 * 6], vec![0.0; 5 * 2]);
    Reference.attend_packed(&a, &q, &kv, &shared, &mut out, &mut lse);
    let (mut out_alone, mut lse_alone) = (vec![0.0; 3 * 6], vec![0.0; 3 * 2]);
    let (kv, shared) = (&kv[2 * a.k.row_stride..], &shared[2 * a.shared.row_stride..]);
    Reference.attend_packed(&alone, &q[2 * 2 * 5..], kv, shared, &mut out_alone, &mut lse_alone);
    assert_eq!((&out[2 * 6..], &lse[2 * 2..]), (&out_alone[..], &lse_alone[..]));
}

#[test]
fn swiglu_follows_differences() {
    let mut random = Random(7);
    let [mut gate, up, c] = [0; 3].map(|_| random.values(9));
    gate[0] = 40.0;
    gate[1] = -40.0;
    let forward = |gate: &[f32], up: &[f32]| {
        let mut out = vec![0.0; 9];
        Reference.swiglu_to(gate, up, 9, &mut out);
        project(&out, &c)
    };
    let (mut d_gate, mut d_up) = (vec![0.0; 9], vec![0.0; 9]);
    Reference.swiglu_backward(&gate, &up, &c, 9, &mut d_gate, &mut d_up);
    check("swiglu, gate", &gate, &d_gate, |gate| forward(gate, &up));
    check("swiglu, up", &up, &d_up, |up| forward(&gate, up));
    Reference.swiglu_backward(&[-1e4], &[1.0], &[1.0], 1, &mut d_gate, &mut d_up);
    assert_eq!((d_gate[0], d_up[0]), (0.0, 0.0));
}

#[test]
fn gathering_and_scattering_are_transposes() {
    let mut random = Random(8);
    let (rows, dim) = ([2, 0, 2, 2, 1], 3);
    let (x, c) = (random.values(4 * dim), random.values(rows.len() * dim));
    let mut d_x = vec![0.0; x.len()];
    Reference.scatter_add(&c, &rows, dim, &mut d_x);
    check("gather", &x, &d_x, |x| {
        let mut out = vec![0.0; c.len()];
        Reference.gather_rows(x, &rows, dim, &mut out);
        project(&out, &c)
    });
    assert!(d_x[9..].iter().all(|v| *v == 0.0), "a row that nobody took has no gradient");
}

#[test]
fn expert_weights_follow_differences() {
    // Two tokens, two experts each; W_down is one matrix, since only the weights are of interest.
    let mut random = Random(9);
    let (top_k, d, width) = (2, 3, 4);
    let (slots, at) = ([1, 2, 0, 3], [2, 0, 1, 3]);
    let [hidden, w_down, weights, c] = [4 * width, d * width, 4, 2 * d].map(|n| random.values(n));
    let forward = |hidden: &[f32], weights: &[f32], w_down: &[f32]| {
        let (mut y, mut out) = (vec![0.0; 4 * d], vec![0.0; 2 * d]);
        Reference.gemm(&Gemm::new(GemmLayout::Nt, [4, d, width]), hidden, w_down, &mut y);
        Reference.combine(&y, weights, &at, top_k, d, &mut out);
        project(&out, &c)
    };
    let tokens = slots.map(|slot| slot / top_k as u32);
    let (mut d_y, mut d_hidden, mut d_weights) = (vec![0.0; 4 * d], vec![0.0; 4 * width], vec![0.0; 4]);
    Reference.gather_rows(&c, &tokens, d, &mut d_y);
    Reference.gemm(&Gemm::new(GemmLayout::Nn, [4, width, d]), &d_y, &w_down, &mut d_hidden);
    let mut weighed = hidden.clone();
    Reference.weigh_backward(&weights, &slots, width, &mut weighed, &mut d_hidden, &mut d_weights);
    let mut d_w_down = vec![0.0; d * width];
    Reference.gemm(&Gemm::new(GemmLayout::Tn, [d, width, 4]), &d_y, &weighed, &mut d_w_down);
    check("experts, hidden", &hidden, &d_hidden, |hidden| forward(hidden, &weights, &w_down));
    check("experts, weights", &weights, &d_weights, |weights| forward(&hidden, weights, &w_down));
    check("experts, W_down", &w_down, &d_w_down, |w_down| forward(&hidden, &weights, w_down));
}

fn routers() -> impl Iterator<Item = RouterSpec> {
    let v2 = (Scoring::Softmax, Selection::GroupLimitedGreedy { n_group: 4, topk_group: 2 });
    let v3 = (Scoring::Sigmoid, Selection::NoAuxTc { n_group: 4, topk_group: 2 });
    [(Scoring::Softmax, Selection::Greedy), v2, v3].into_iter().flat_map(|(scoring, selection)| {
        [(false, 2), (true, 2), (true, 1)].map(|(norm_topk_prob, top_k)| RouterSpec {
            n_experts: 8,
            top_k,
            scoring,
            selection,
            norm_topk_prob,
            routed_scaling_factor: 2.5,
        })
    })
}

/// Logits without near ties, so that a small step changes no choice.
fn spread(random: &mut Random, n_rows: usize) -> Vec<f32> {
    (0..n_rows * 8).map(|i| ((i * 5 + i / 8) % 8) as f32 * 0.4 - 1.5 + 0.05 * random.next()).collect()
}

#[test]
fn routers_follow_differences() {
    let mut random = Random(10);
    for spec in routers() {
        let n_rows = 3;
        let (logits, c) = (spread(&mut random, n_rows), random.values(n_rows * spec.top_k));
        let bias: Vec<f32> = (0..8).map(|e| if e % 2 == 0 { 0.3 } else { -0.3 }).collect();
        let route = |logits: &[f32]| {
            let mut routes = Reference.alloc_routes(n_rows, spec.top_k).unwrap();
            Reference.route(&spec, &logits.to_vec(), Some(&bias), n_rows, &mut routes);
            let (mut ids, mut weights) = (vec![0; c.len()], vec![0.0; c.len()]);
            Reference.read_routes(&routes, &mut ids, &mut weights).unwrap();
            (ids, weights)
        };
        let ids = route(&logits).0;
        let mut d_logits = vec![9.0; logits.len()];
        Reference.route_backward(&spec, &logits, &ids, &c, &mut d_logits);
        check(&format!("{spec:?}"), &logits, &d_logits, |logits| {
            let (moved, weights) = route(logits);
            assert_eq!(ids, moved, "the step is too large for this test");
            project(&weights, &c)
        });
    }
}

#[test]
fn a_router_whose_scores_underflow_has_finite_gradients() {
    for spec in routers() {
        let mut d_logits = [0.0; 8];
        gradient::token(&spec, &[-1e4; 8], &[0, 1][..spec.top_k], &[1.0, -1.0][..spec.top_k], &mut d_logits);
        let loss = gradient::balance(&spec, &[-1e4; 8], 1.0, &mut d_logits);
        assert!(loss.is_finite() && d_logits.iter().all(|d| d.is_finite()), "{spec:?}: {d_logits:?}");
    }
}

#[test]
fn the_balance_loss_follows_differences() {
    let mut random = Random(11);
    for spec in routers() {
        for sequences in [vec![], vec![0..1, 1..1], vec![0..2, 2..2, 2..6]] {
            let n_rows = sequences.last().map_or(0, |s| s.end);
            let logits = spread(&mut random, n_rows);
            let before = random.values(logits.len());
            let mut d_logits = before.clone();
            Reference.balance(&spec, &logits, &sequences, 0.3, &mut d_logits);
            let added: Vec<f32> = d_logits.iter().zip(&before).map(|(d, b)| d - b).collect();
            check(&format!("balance, {spec:?}"), &logits, &added, |logits| {
                Reference.balance(&spec, logits, &sequences, 0.3, &mut vec![0.0; logits.len()])
            });
        }
    }
}

#[test]
fn the_balance_loss_is_least_when_all_experts_are_used_alike() {
    let spec = RouterSpec { top_k: 1, ..routers().next().unwrap() };
    let even: Vec<f32> = (0..64).map(|i| if i / 8 == i % 8 { 3.0 } else { 0.0 }).collect();
    let uneven: Vec<f32> = (0..64).map(|i| if i % 8 == 0 { 3.0 } else { 0.0 }).collect();
    let loss = |logits: &[f32]| gradient::balance(&spec, logits, 1.0, &mut [0.0; 64]);
    assert!((loss(&even) - 1.0).abs() < 1e-12);
    assert!(loss(&uneven) > 5.0);
}

#[test]
fn cross_entropy_follows_differences_and_masks() {
    let mut random = Random(12);
    let vocab = 6;
    let (logits, targets, coefficients) = (random.values(4 * vocab), [0, 5, 3, 3], [0.25, 0.5, 0.0, -1.0]);
    let (mut d_logits, mut nll) = (logits.clone(), [0.0; 4]);
    Reference.cross_entropy(&mut d_logits, vocab, &targets, &coefficients, &mut nll);
    assert!(d_logits[2 * vocab..3 * vocab].iter().all(|d| *d == 0.0) && nll[2] > 0.0);
    check("cross entropy", &logits, &d_logits, |logits| {
        let mut nll = [0.0; 4];
        Reference.cross_entropy(&mut logits.to_vec(), vocab, &targets, &coefficients, &mut nll);
        nll.iter().zip(coefficients).map(|(n, c)| n * f64::from(c)).sum()
    });
    // Far apart, nothing overflows: the loss is the distance.
    let mut row = [-3e4, 3e4];
    Reference.cross_entropy(&mut row, 2, &[0], &[1.0], &mut nll);
    assert_eq!((nll[0], row), (6e4, [-1.0, 1.0]));
}
