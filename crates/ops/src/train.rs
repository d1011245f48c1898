//! The operations of a training step that inference has no use for: products with weights that change, forwards that
//! keep what their gradients read, and the gradients.
//!
//! Owns `trait TrainDevice` and the shapes it speaks of. Must not know models, losses' weights, or optimisers.
//!
//! Weights and their gradients lie in two arenas of the same layout, so operations take slices of them: training happens
//! in the host's memory. A gradient's name is its value's with `d_` before it: `d_x` = ∂loss/∂x.

use std::ops::Range;

use crate::route::route_token;
use crate::{Device, HeadLayout, RopeTable, RouterSpec};

/// Which operand of [`TrainDevice::gemm`] is transposed; all are row-major.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GemmLayout {
    /// c = a·bᵀ with `a [m, k]`, `b [n, k]`: a linear map, y = x·Wᵀ.
    Nt,
    /// c = a·b with `a [m, k]`, `b [k, n]`: its input's gradient, d_x = d_y·W.
    Nn,
    /// c = aᵀ·b with `a [k, m]`, `b [k, n]`: its weight's gradient, d_W = d_yᵀ·x.
    Tn,
}

/// How exact a [`TrainDevice::gemm`] is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Precision {
    /// [`GemmLayout::Nt`] has the very bits of inference's products, [`Device::matmul`]; other layouts have no counterpart
    /// there and are [`Self::Highest`].
    Inference,
    /// That of a sum in f32.
    Highest,
    /// A device may round each factor to two BF16 numbers, 16 bits, where it multiplies those faster: what PyTorch's
    /// `set_float32_matmul_precision` calls "high" where there is no TF32.
    High,
}

/// Shapes of [`TrainDevice::gemm`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gemm {
    /// Which operand is transposed.
    pub layout: GemmLayout,
    /// Rows of c.
    pub m: usize,
    /// Columns of c.
    pub n: usize,
    /// Terms of each sum.
    pub k: usize,
    /// Values from one stored row of a to the next.
    pub a_stride: usize,
    /// The same of b.
    pub b_stride: usize,
    /// The same of c.
    pub c_stride: usize,
    /// Whether the products are added to what c holds.
    pub accumulate: bool,
    /// How exact the products are.
    pub precision: Precision,
}

impl Gemm {
    /// Contiguous operands: c `[m, n]` with sums of k terms. [`GemmLayout::Nt`] is [`Precision::Highest`]; gradients, which
    /// the other layouts are, [`Precision::High`].
    #[must_use]
    pub fn new(layout: GemmLayout, [m, n, k]: [usize; 3]) -> Self {
        let (a_stride, b_stride, precision) = match layout {
            GemmLayout::Nt => (k, k, Precision::Highest),
            GemmLayout::Nn => (k, n, Precision::High),
            GemmLayout::Tn => (m, n, Precision::High),
        };
        Self { layout, m, n, k, a_stride, b_stride, c_stride: n, accumulate: false, precision }
    }

    /// The same, added to c.
    #[must_use]
    pub fn accumulate(self) -> Self {
        Self { accumulate: true, ..self }
    }
}

/// Rows of [`TrainDevice::norm`]; x and y may be parts of wider rows.
#[derive(Clone, Copy, Debug)]
pub struct NormRows {
    /// Number of rows.
    pub n_rows: usize,
    /// Values normalised together.
    pub dim: usize,
    /// Values from one row of x to the next.
    pub x_stride: usize,
    /// The same of y.
    pub y_stride: usize,
    /// Added to the mean square.
    pub eps: f32,
}

/// Vectors of heads inside a buffer: row t's vector of head h begins at `start + t·row_stride + h·head_stride`.
#[derive(Clone, Copy, Debug)]
pub struct HeadRows {
    /// Of row 0, head 0.
    pub start: usize,
    /// From one row to the next.
    pub row_stride: usize,
    /// From one head to the next.
    pub head_stride: usize,
}

impl HeadRows {
    /// Where the vector of a row and head begins.
    #[must_use]
    pub fn at(&self, row: usize, head: usize) -> usize {
        self.start + row * self.row_stride + head * self.head_stride
    }
}

/// Causal attention over sequences that lie end to end; a row sees the rows of its own sequence up to itself.
///
/// A key is `[k | shared]`: channels of its own head, then channels that all heads share (MLA's `k_pe`; none for
/// grouped-query attention). Keys and values lie in one buffer: MLA makes both with one matrix.
#[derive(Clone, Copy, Debug)]
pub struct PackedAttention<'a> {
    /// Rows of each sequence.
    pub sequences: &'a [Range<usize>],
    /// Query heads, H.
    pub n_heads: usize,
    /// Key-value heads; each serves `H / n_kv_heads` consecutive query heads.
    pub n_kv_heads: usize,
    /// Key channels per head, n.
    pub k_dim: usize,
    /// Key channels shared by all heads, R.
    pub shared_dim: usize,
    /// Value channels per head, v.
    pub v_dim: usize,
    /// Where keys lie in the buffer of keys and values.
    pub k: HeadRows,
    /// Where values lie in it.
    pub v: HeadRows,
    /// Where shared channels lie in their buffer; the head stride is 0.
    pub shared: HeadRows,
    /// Multiplies scores.
    pub scale: f32,
}

impl PackedAttention<'_> {
    /// Channels of a query, n + R.
    #[must_use]
    pub fn q_dim(&self) -> usize {
        self.k_dim + self.shared_dim
    }
}

/// What [`TrainDevice::attend_packed`] read and made.
#[derive(Clone, Copy, Debug)]
pub struct Attended<'a> {
    /// `[T, H, n + R]`
    pub q: &'a [f32],
    /// Keys and values.
    pub kv: &'a [f32],
    /// Shared key channels.
    pub shared: &'a [f32],
    /// `[T, H, v]`
    pub out: &'a [f32],
    /// `[T, H]`
    pub lse: &'a [f32],
}

/// A machine that computes training steps in the host's memory.
///
/// Names and notation as in [`Device`]; every operation may be given longer slices than it needs. Sums in gradients are
/// taken in a fixed order, so that a step gives the same bits every time.
///
/// # Numerics |err| ≤ γ(n)·Σ|terms| for the n terms of each sum, in f32
/// # Panics   if slices are shorter than the shapes say (bugs of the caller)
pub trait TrainDevice: Device<Buffer = Vec<f32>> {
    /// c = op(a)·op(b), or c += op(a)·op(b); see [`GemmLayout`].
    ///
    /// # Shapes   as [`GemmLayout`], rows `a_stride`, `b_stride` and `c_stride` apart
    /// # Numerics k = 0 gives zeros, or leaves c alone where it accumulates; m = 0 and n = 0 do nothing
    fn gemm(&self, g: &Gemm, a: &[f32], b: &[f32], c: &mut [f32]);

    /// [`TrainDevice::gemm`] for each of E groups of consecutive rows, with one weight matrix each: the experts.
    ///
    /// Group e is rows `offsets[e]..offsets[e + 1]`, which replace m (Nt, Nn) or k (Tn). Its weight is the e-th of E equal
    /// matrices end to end: b for Nt and Nn, c for Tn.
    ///
    /// # Shapes   `offsets [E + 1]`, ascending
    fn gemm_groups(&self, g: &Gemm, offsets: &[usize], a: &[f32], b: &[f32], c: &mut [f32]) {
        for (e, group) in offsets.windows(2).enumerate() {
            let (first, len) = (group[0], group[1] - group[0]);
            let a = &a[first * g.a_stride..];
            match g.layout {
                GemmLayout::Nt => {
                    self.gemm(&Gemm { m: len, ..*g }, a, &b[e * g.n * g.b_stride..], &mut c[first * g.c_stride..]);
                }
                GemmLayout::Nn => {
                    self.gemm(&Gemm { m: len, ..*g }, a, &b[e * g.k * g.b_stride..], &mut c[first * g.c_stride..]);
                }
                GemmLayout::Tn => {
                    let c = &mut c[e * g.m * g.c_stride..];
                    self.gemm(&Gemm { k: len, ..*g }, a, &b[first * g.b_stride..], c);
                }
            }
        }
    }

    /// out\[t\] = row: the bias that a product is then added to.
    ///
    /// # Shapes   `row [dim]` · `out [n_rows, dim]`
    fn repeat_row(&self, row: &[f32], n_rows: usize, out: &mut [f32]);

    /// out += Σ_t x\[t\]: a bias's gradient.
    ///
    /// # Shapes   `x [n_rows, dim]` · `out [dim]`
    fn sum_rows(&self, x: &[f32], n_rows: usize, out: &mut [f32]);

    /// out = x + y over the first `len` values: the residual stream, where the old one is kept.
    fn sum(&self, x: &[f32], y: &[f32], len: usize, out: &mut [f32]);

    /// y = x · w / rms(x), rms(x) = √(mean(x²) + eps): [`Device::rmsnorm`] that keeps its input.
    ///
    /// # Shapes   `x, y [n_rows, dim]`, rows apart as said · `w [dim]`
    fn norm(&self, rows: &NormRows, x: &[f32], w: &[f32], y: &mut [f32]);

    /// With i = 1/rms(x) and x̂ = i·x: d_x += i·(d_y·w − x̂·mean(d_y·w·x̂)), d_w += Σ_t d_y·x̂.
    ///
    /// # Shapes   `x, d_x` as x, `d_y` as y of [`TrainDevice::norm`] · `w, d_w [dim]`
    fn norm_backward(&self, rows: &NormRows, x: &[f32], w: &[f32], d_y: &[f32], d_x: &mut [f32], d_w: &mut [f32]);

    /// Turns the gradient of [`Device::rope`]'s result into that of its input: the rotation the other way, times the same
    /// magnitude.
    fn rope_backward(&self, x: &mut [f32], layout: HeadLayout, positions: &[u32], table: &RopeTable);

    /// out\[t,h\] = Σ_s softmax_s(scale·q\[t,h\]·[k\[s\] | shared\[s\]])·v\[s\], s ≤ t in t's sequence; lse = ln Σ_s e^score.
    ///
    /// # Shapes   `q [T, H, n + R]` · `kv, shared` as `a` says · `out [T, H, v]` · `lse [T, H]`
    /// # Source   FlashAttention-2 (arXiv 2307.08691), section 3.1
    fn attend_packed(
        &self,
        a: &PackedAttention<'_>,
        q: &[f32],
        kv: &[f32],
        shared: &[f32],
        out: &mut [f32],
        lse: &mut [f32],
    );

    /// With p = e^(score − lse) and D\[t\] = d_out\[t\]·out\[t\]: d_v\[s\] = Σ_t p·d_out\[t\], and each score's gradient
    /// p·(d_out\[t\]·v\[s\] − D\[t\])·scale goes to d_q\[t\] times the key and to the key times q\[t\].
    ///
    /// `d_q`, and in `d_kv` and `d_shared` the channels that `a` names, are overwritten; other channels are left alone.
    ///
    /// # Shapes   `d_out` as out, `d_q` as q, `d_kv` as kv, `d_shared` as shared
    fn attend_packed_backward(
        &self,
        a: &PackedAttention<'_>,
        saved: &Attended<'_>,
        d_out: &[f32],
        d_q: &mut [f32],
        d_kv: &mut [f32],
        d_shared: &mut [f32],
    );

    /// out = silu(gate)·up over the first `len` values: [`Device::swiglu`] that keeps its inputs.
    fn swiglu_to(&self, gate: &[f32], up: &[f32], len: usize, out: &mut [f32]);

    /// With σ = 1/(1 + e^(−gate)): d_up = d_out·gate·σ, d_gate = d_out·up·σ·(1 + gate·(1 − σ)).
    fn swiglu_backward(
        &self,
        gate: &[f32],
        up: &[f32],
        d_out: &[f32],
        len: usize,
        d_gate: &mut [f32],
        d_up: &mut [f32],
    );

    /// out\[i\] = x\[rows\[i\]\]: embeddings of tokens, or the rows that experts work on.
    ///
    /// # Shapes   `x [.., dim]` · `out [rows.len(), dim]`
    fn gather_rows(&self, x: &[f32], rows: &[u32], dim: usize, out: &mut [f32]);

    /// out\[rows\[i\]\] += x\[i\], in the order of i: the gradient of [`TrainDevice::gather_rows`].
    ///
    /// # Shapes   `x [rows.len(), dim]` · `out [.., dim]`
    fn scatter_add(&self, x: &[f32], rows: &[u32], dim: usize, out: &mut [f32]);

    /// out\[t\] = Σ_i weights\[t,i\]·y\[at\[t,i\]\]: the experts' outputs, best first.
    ///
    /// # Shapes   `weights, at [T, k]` · `y [T·k, dim]` · `out [T, dim]`
    fn combine(&self, y: &[f32], weights: &[f32], at: &[u32], top_k: usize, dim: usize, out: &mut [f32]);

    /// The weights of [`TrainDevice::combine`], moved to the experts' hidden rows h before their W_down.
    ///
    /// Given g = d_out·W_down in `d_hidden`: d_weights\[slot\] = g·h, then g ← weight·g, which is d_h, and h ← weight·h,
    /// whose product with d_out is d_W_down. So the experts' outputs need not be kept.
    ///
    /// # Shapes   `hidden, d_hidden [slots.len(), dim]` · `weights, d_weights [T·k]`, `slots` below T·k
    fn weigh_backward(
        &self,
        weights: &[f32],
        slots: &[u32],
        dim: usize,
        hidden: &mut [f32],
        d_hidden: &mut [f32],
        d_weights: &mut [f32],
    );

    /// Chooses experts for each row, best first; see [`crate::route::route_token`].
    ///
    /// # Shapes   `logits [T, E]` · `bias [E]` · `ids, weights [T, k]`
    fn route_rows(
        &self,
        spec: &RouterSpec,
        logits: &[f32],
        bias: Option<&[f32]>,
        ids: &mut [u32],
        weights: &mut [f32],
    ) {
        let chosen = ids.chunks_exact_mut(spec.top_k).zip(weights.chunks_exact_mut(spec.top_k));
        for (logits, (ids, weights)) in logits.chunks_exact(spec.n_experts).zip(chosen) {
            route_token(spec, logits, bias, ids, weights);
        }
    }

    /// Gradient of the chosen experts' weights into the router's logits; see [`crate::route::gradient::token`].
    ///
    /// # Shapes   `logits, d_logits [T, E]` · `ids, d_weights [T, k]`; `d_logits` is overwritten
    fn route_backward(&self, spec: &RouterSpec, logits: &[f32], ids: &[u32], d_weights: &[f32], d_logits: &mut [f32]);

    /// Sequence-wise balance loss, averaged over sequences, times `factor`; its gradient is added to `d_logits`. See
    /// [`crate::route::gradient::balance`].
    ///
    /// # Shapes   `logits, d_logits [T, E]`
    fn balance(
        &self,
        spec: &RouterSpec,
        logits: &[f32],
        sequences: &[Range<usize>],
        factor: f32,
        d_logits: &mut [f32],
    ) -> f64;

    /// nll\[t\] = lse(logits\[t\]) − logits\[t, target\], and logits\[t\] ← coefficient\[t\]·(softmax(logits\[t\]) − onehot):
    /// the gradient of Σ coefficient·nll. A row whose coefficient is 0 is masked: its gradient is exactly 0, and its `nll`
    /// still tells.
    ///
    /// # Shapes   `logits [targets.len(), vocab]` · `coefficients, nll [targets.len()]` · targets below vocab
    fn cross_entropy(&self, logits: &mut [f32], vocab: usize, targets: &[u32], coefficients: &[f32], nll: &mut [f64]);
}
