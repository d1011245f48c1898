//! The operations a device provides, named as in the papers.
//!
//! Owns the contract: shapes, numerics and panics of every operation. Must not contain arithmetic; the values are
//! defined by [`crate::Reference`], and every other device is held to it by the conformance suite in `testkit`.
//!
//! Only the memory operations can fail. The others assert what their caller promised: a wrong length is a bug.

use thiserror::Error;

use crate::{CacheSpec, RopeTable, RouterSpec, SeqSpan, WeightMatrix};

/// Why a device could not provide or move memory.
#[derive(Debug, Error)]
pub enum DeviceError {
    /// The device has not the memory asked for.
    #[error("out of memory: {wanted} bytes wanted for {what}")]
    OutOfMemory {
        /// What the memory was for.
        what: &'static str,
        /// Bytes asked for.
        wanted: u64,
    },
}

/// A vector of zeros in main memory, or the error that the machine refused it.
///
/// # Errors
/// There is not so much memory
pub fn zeroed<T: Clone + Default>(len: usize, what: &'static str) -> Result<Vec<T>, DeviceError> {
    let mut values = Vec::new();
    let wanted = (len as u64).saturating_mul(size_of::<T>() as u64);
    values.try_reserve_exact(len).map_err(|_| DeviceError::OutOfMemory { what, wanted })?;
    values.resize(len, T::default());
    Ok(values)
}

/// To how many bits a device rounds the inputs of products with block-quantised weights: the formats whose
/// [`crate::WeightFormat::block_len`] is above 1. With other weights nothing is rounded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activations {
    /// Not at all.
    F32,
    /// To 8 bits with one scale per group: the block_len columns that the weights' blocks span.
    ///
    /// m = max|xᵢ| · d = m/127 · qᵢ = round(xᵢ·(127/m)) to nearest, in −127..=127 · x̂ᵢ = d·qᵢ, in place of xᵢ
    ///
    /// Products are then exact in integers: with w = d_w·s·c − d_m·o (block scales d_w and d_m; scale s, code c and
    /// offset o whole numbers, the code's zero point subtracted), y = Σ_groups (d_w·d)·Σ s·c·q − (d_m·d)·Σ o·q. The two
    /// sums of a group are exact; they are converted, scaled and added up in f32. Offsets of Q4_1 and Q5_1 are numbers
    /// in half precision, for which Σ q is what is exact.
    ///
    /// Where the roundings of x·(127/m) decide between two codes, either is right. A group with m below about 2^−100 may
    /// count as zeros. A group that holds a NaN or an infinity makes all products with it
    /// NaN or infinite, either one, wherever [`crate::Reference`] has one of them.
    Int8,
}

/// Rows to normalise: `dim` leading values of each `row_stride`.
#[derive(Clone, Copy, Debug)]
pub struct NormLayout {
    /// Number of rows.
    pub n_rows: usize,
    /// Distance between rows.
    pub row_stride: usize,
    /// Values normalised together.
    pub dim: usize,
    /// Added to the mean square.
    pub eps: f32,
}

/// Where the rotated channels of each head lie: `[T, n_heads, head_dim]`, channels `start..start + rope dim`.
#[derive(Clone, Copy, Debug)]
pub struct HeadLayout {
    /// Heads per row.
    pub n_heads: usize,
    /// Values per head.
    pub head_dim: usize,
    /// First channel of interest.
    pub start: usize,
}

/// One matrix per head, kept as consecutive rows of a larger matrix so that any file layout is used as it lies.
///
/// The stored matrix of head h is rows `h·head_stride + head_start ..` (`head_rows` of them); the logical matrix
/// L_h is that, or its transpose when `transposed`.
#[derive(Clone, Debug)]
pub struct HeadWeights<W> {
    /// The larger matrix.
    pub weight: W,
    /// Number of heads.
    pub n_heads: usize,
    /// Rows from one head to the next.
    pub head_stride: usize,
    /// First row inside a head's rows.
    pub head_start: usize,
    /// Rows per head.
    pub head_rows: usize,
    /// Whether the logical matrix is the transpose of what is stored (GGUF `attn_k_b`).
    pub transposed: bool,
}

/// Which side of the logical per-head matrix a vector is multiplied from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeadSide {
    /// y = L x
    Apply,
    /// y = Lᵀ x: how `w_uk` is absorbed into the query.
    ApplyTransposed,
}

/// The routed experts of one layer.
#[derive(Clone, Debug)]
pub struct ExpertWeights<W> {
    /// `[I, d]` per expert.
    pub w_gate: Vec<W>,
    /// `[I, d]` per expert.
    pub w_up: Vec<W>,
    /// `[d, I]` per expert.
    pub w_down: Vec<W>,
}

/// Arguments of [`Device::attend_latent`].
#[derive(Debug)]
pub struct AttendLatent<'a, D: Device + ?Sized> {
    /// Absorbed queries `[T, H, C]`.
    pub q_lat: &'a D::Buffer,
    /// Queries whose rotated channels are `q_pe`.
    pub q: &'a D::Buffer,
    /// Where `q_pe` lies in `q`.
    pub q_pe: HeadLayout,
    /// Cached rows `[c_kv | k_pe]`.
    pub cache: &'a D::Cache,
    /// Layer of the cache.
    pub layer: usize,
    /// Rows to attend for.
    pub spans: &'a [SeqSpan],
    /// Block tables the spans point into.
    pub block_tables: &'a [u32],
    /// C
    pub kv_lora_rank: usize,
    /// Multiplies scores.
    pub scale: f32,
}

/// Arguments of [`Device::attend_expanded`].
#[derive(Debug)]
pub struct AttendExpanded<'a, D: Device + ?Sized> {
    /// Queries `[T, H, n + R]`, rotated channels last.
    pub q: &'a D::Buffer,
    /// Where `q_pe` lies in `q`.
    pub q_pe: HeadLayout,
    /// Cached rows `[c_kv | k_pe]`.
    pub cache: &'a D::Cache,
    /// Layer of the cache.
    pub layer: usize,
    /// Rows to attend for.
    pub spans: &'a [SeqSpan],
    /// Block tables the spans point into.
    pub block_tables: &'a [u32],
    /// Latent to keys, logical `[n, C]` per head.
    pub w_uk: &'a HeadWeights<D::Weight>,
    /// Latent to values, logical `[v, C]` per head.
    pub w_uv: &'a HeadWeights<D::Weight>,
    /// v
    pub v_head_dim: usize,
    /// Multiplies scores.
    pub scale: f32,
}

/// Arguments of [`Device::attend_kv`].
#[derive(Debug)]
pub struct AttendKv<'a, D: Device + ?Sized> {
    /// Queries `[T, H, head_dim]`, rotated.
    pub q: &'a D::Buffer,
    /// Cached rows `[v heads | k heads]`: as in a latent row, what is rotated comes last.
    pub cache: &'a D::Cache,
    /// Layer of the cache.
    pub layer: usize,
    /// Rows to attend for.
    pub spans: &'a [SeqSpan],
    /// Block tables the spans point into.
    pub block_tables: &'a [u32],
    /// H
    pub n_heads: usize,
    /// Key-value heads; each serves `H / n_kv_heads` consecutive query heads.
    pub n_kv_heads: usize,
    /// Values per head.
    pub head_dim: usize,
    /// Multiplies scores.
    pub scale: f32,
}

/// A machine that computes the model's operations.
///
/// Buffers hold f32 values, row-major, and may be longer than an operation needs; only the leading rows are used.
/// T is the number of rows of a step, d the hidden size, H heads, C `kv_lora_rank`, R `qk_rope_head_dim`,
/// n `qk_nope_head_dim`, v `v_head_dim`, E experts, k experts per token, I an FFN width.
///
/// # Numerics |err| is the distance to [`crate::Reference`], ε = 2^−24, γ(n) = nε / (1 − nε); docs/numerics.md derives
/// every bound. NaN and infinities arise where they do in the reference. A call gives the same bits every
/// time, and a row (for attention: a span) the same alone as among others.
pub trait Device: Send + Sync {
    /// f32 activations.
    type Buffer: Send;
    /// A weight matrix in its file's format.
    type Weight: Send + Sync;
    /// Cached rows of all layers.
    type Cache: Send;
    /// Chosen experts and their weights.
    type Routes: Send;

    /// How inputs of [`Device::matmul`], [`Device::matmul_heads`] and [`Device::experts`] are rounded where the weights
    /// are block-quantised.
    fn activations(&self) -> Activations {
        Activations::F32
    }

    /// Makes a matrix usable by this device, without copying where the device reads the file's memory.
    ///
    /// # Errors
    /// the device is out of memory
    fn upload(&self, weight: &WeightMatrix) -> Result<Self::Weight, DeviceError>;

    /// A zeroed buffer of `len` values.
    ///
    /// # Errors
    /// the device is out of memory
    fn alloc(&self, len: usize) -> Result<Self::Buffer, DeviceError>;

    /// Room for the routes of `n_tokens` tokens with `top_k` experts each.
    ///
    /// # Errors
    /// the device is out of memory
    fn alloc_routes(&self, n_tokens: usize, top_k: usize) -> Result<Self::Routes, DeviceError>;

    /// A cache whose rows are zero.
    ///
    /// # Errors
    /// the device is out of memory
    fn alloc_cache(&self, spec: &CacheSpec) -> Result<Self::Cache, DeviceError>;

    /// Copies `src` to the start of `dst`.
    ///
    /// # Errors
    /// the copy failed
    fn write(&self, src: &[f32], dst: &mut Self::Buffer) -> Result<(), DeviceError>;

    /// Copies the start of `src` to `dst`, after everything submitted before.
    ///
    /// # Errors
    /// the copy, or an operation before it, failed
    fn read(&self, src: &Self::Buffer, dst: &mut [f32]) -> Result<(), DeviceError>;

    /// Copies the routes of the first `ids.len() / k` tokens.
    ///
    /// # Errors
    /// the copy, or an operation before it, failed
    fn read_routes(&self, src: &Self::Routes, ids: &mut [u32], weights: &mut [f32]) -> Result<(), DeviceError>;

    /// A block's rows in all layers as bytes, in the layout of [`CacheSpec::block_bytes`], after everything submitted
    /// before.
    ///
    /// # Shapes   `out [block_bytes]`
    /// # Errors
    /// the copy, or an operation before it, failed
    /// # Panics
    /// If there is no such block, or `out` has another length
    fn cache_read_block(&self, cache: &Self::Cache, block: u32, out: &mut [u8]) -> Result<(), DeviceError>;

    /// Replaces a block's rows in all layers by those that [`Device::cache_read_block`] gave, on this device or another;
    /// read again they are the same bytes, whatever they are.
    ///
    /// # Shapes   `bytes [block_bytes]`
    /// # Errors
    /// the copy failed
    /// # Panics
    /// If there is no such block, or `bytes` has another length
    fn cache_write_block(&self, cache: &mut Self::Cache, block: u32, bytes: &[u8]) -> Result<(), DeviceError>;

    /// Rows of the embedding matrix.
    ///
    /// # Shapes   `w [vocab, d]` · `tokens [T]` · `out [T, d]`
    /// # Numerics the weights bit by bit
    /// # Panics   if a token is not below the vocabulary's size
    fn embed(&self, w: &Self::Weight, tokens: &[u32], out: &mut Self::Buffer);

    /// x += delta, then out = rmsnorm(x)·w; without `delta` only the norm.
    ///
    /// rmsnorm(x) = x · (mean(x²) + eps)^(−1/2)
    ///
    /// # Shapes   `x, delta, out [n_rows, dim]`, contiguous · `w [dim]`
    /// # Numerics x + delta is one f32 addition; sum of squares in f32 or better; |err| ≤ γ(dim/2 + 8)·|out|
    fn add_rmsnorm(
        &self,
        x: &mut Self::Buffer,
        delta: Option<&Self::Buffer>,
        w: &Self::Buffer,
        layout: NormLayout,
        out: &mut Self::Buffer,
    );

    /// x = rmsnorm(x)·w in place, on the leading `dim` values of each row: latents and per-head q/k norms.
    ///
    /// # Shapes   `x [n_rows, row_stride]` · `w [dim]`
    /// # Numerics as [`Device::add_rmsnorm`]
    fn rmsnorm(&self, x: &mut Self::Buffer, w: &Self::Buffer, layout: NormLayout);

    /// y = x·Wᵀ (+ bias).
    ///
    /// # Shapes   `x [n_rows, cols]` · `w [rows, cols]` · `bias [rows]` · `out [n_rows, rows]`
    /// # Numerics sums in f32 or better; |err| ≤ γ(cols + 4)·(Σ|x·w| + |bias|). With [`Activations::Int8`] and
    /// block-quantised weights x̂ stands for x, and what is made of it is off by at most
    /// γ(2·groups + 23)·(Σ|x̂·d_w·s·c| + Σ|x̂·d_m·o| + |bias|): then |err| ≤ Σ_groups (m/254)·Σ|w|, and that.
    /// NaN and infinity may stand for each other there
    fn matmul(
        &self,
        x: &Self::Buffer,
        n_rows: usize,
        w: &Self::Weight,
        bias: Option<&Self::Buffer>,
        out: &mut Self::Buffer,
    );

    /// Per head h: out\[t,h\] = L_h · x\[t,h\], or L_hᵀ · x\[t,h\].
    ///
    /// # Shapes   `x [T, H, x_layout.head_dim]` from `x_layout.start` · `out [T, H, outputs of L or Lᵀ]`
    /// # Numerics as [`Device::matmul`]; x is never rounded where it multiplies whole stored rows by a number each and
    /// adds them up: `transposed` and [`HeadSide::Apply`], or neither
    fn matmul_heads(
        &self,
        x: &Self::Buffer,
        x_layout: HeadLayout,
        n_rows: usize,
        w: &HeadWeights<Self::Weight>,
        side: HeadSide,
        out: &mut Self::Buffer,
    );

    /// Rotates channels `start..start + table.dim()` of every head in place.
    ///
    /// (a, b) → (a·cos − b·sin, a·sin + b·cos)
    ///
    /// # Shapes   `x [T, n_heads, head_dim]` · `positions [T]`
    /// # Numerics the angle is the f32 product position · `inv_freq`; |err| ≤ γ(9)·(|a·cos| + |b·sin|)
    fn rope(&self, x: &mut Self::Buffer, layout: HeadLayout, positions: &[u32], table: &RopeTable);

    /// Writes rows into the cache: row t is the concatenation of each part's row t.
    ///
    /// # Shapes   `parts: (buffer [T, len], len)` with Σ len = `row_len` · `slots [T]`
    /// # Numerics [`crate::RowLayout::encode`], the same bits; a NaN stays one
    /// # Panics   if a slot lies outside of the cache (a scheduler bug)
    fn cache_store(&self, cache: &mut Self::Cache, layer: usize, slots: &[u32], parts: &[(&Self::Buffer, usize)]);

    /// Copies block `from` to block `to` in every layer.
    fn cache_copy_block(&self, cache: &mut Self::Cache, from: u32, to: u32);

    /// Absorbed MLA attention over the latent cache; rows outside of `spans` are left alone.
    ///
    /// o\[t,h\] = softmax_s(scale · (q_lat\[t,h\]·c_kv\[s\] + q_pe\[t,h\]·k_pe\[s\])) · c_kv\[s\],  s ≤ position\[t\]
    ///
    /// # Shapes   `q_lat [T, H, C]` · `q_pe [T, H, R]` · `cache rows [C + R]` · `out [T, H, C]`
    /// # Numerics scores, softmax and sums in f32 or better. With S visible positions, D = C + R and
    /// A = max_s |scale|·Σ|q·k\[s\]|, every weight is within ρ = exp(ε·((D + 10)·A + 5·(S + 1))) − 1 of itself
    /// and |err| ≤ r/(1 − r) · Σ_s p_s·|c_kv\[s\]|, r = 2ρ + γ(2S + 6). A score of −∞ has weight 0. Over rows of
    /// [`crate::RowFormat::Q8`] queries and weights may be rounded to whole numbers of 16 bits, which adds what
    /// docs/numerics.md derives
    /// # Memory   reads (C+R) values per cached token and layer
    /// # Panics   if a span exceeds its block table (a scheduler bug)
    /// # Source   DeepSeek-V2 paper, section 2.1
    fn attend_latent(&self, args: &AttendLatent<'_, Self>, out: &mut Self::Buffer);

    /// Expanded MLA attention: keys and values are made from the latent rows by `w_uk` and `w_uv`; rows outside of
    /// `spans` are left alone.
    ///
    /// o\[t,h\] = Σ_s softmax_s(scale · (q_nope·W_UK c_kv\[s\] + q_pe·k_pe\[s\])) · W_UV c_kv\[s\],  s ≤ position\[t\]
    ///
    /// # Shapes   `q [T, H, n + R]` · `cache rows [C + R]` · `out [T, H, v]`
    /// # Numerics as [`Device::attend_latent`] with D = n + R + C + 4, r + γ(C + 4), and Σ|w·c_kv| for keys and values;
    /// with [`Activations::Int8`] in whole numbers of 16 bits where all is finite, as docs/numerics.md derives
    /// # Memory   keys and values of a bounded range of positions are scratch of the device
    /// # Source   DeepSeek-V2 paper, section 2.1
    fn attend_expanded(&self, args: &AttendExpanded<'_, Self>, out: &mut Self::Buffer);

    /// Grouped-query attention of the dense models; rows outside of `spans` are left alone.
    ///
    /// # Shapes   `q [T, H, D]` · `cache rows [v: n_kv_heads·D | k: n_kv_heads·D]` · `out [T, H, D]`
    /// # Numerics as [`Device::attend_latent`] with its D for C + R
    fn attend_kv(&self, args: &AttendKv<'_, Self>, out: &mut Self::Buffer);

    /// gate = silu(gate) · up, silu(x) = x / (1 + e^(−x)).
    ///
    /// # Shapes   `gate, up [len]`
    /// # Numerics |err| ≤ γ(9)·|out| + 2^−121·|up|: silu may become 0 where e^(−x) overflows
    fn swiglu(&self, gate: &mut Self::Buffer, up: &Self::Buffer, len: usize);

    /// Chooses experts for each token; see [`crate::route::route_token`].
    ///
    /// # Shapes   `logits [T, E]` · `bias [E]`
    /// # Numerics scores in f32 or better; the same choice unless scores are closer than their errors
    fn route(
        &self,
        spec: &RouterSpec,
        logits: &Self::Buffer,
        bias: Option<&Self::Buffer>,
        n_rows: usize,
        out: &mut Self::Routes,
    );

    /// out\[t\] = Σ_i weight_i · W_down(silu(W_gate x) · W_up x) over the token's experts, best first.
    ///
    /// # Shapes   `x, out [T, d]`
    /// # Numerics each product as [`Device::matmul`], silu as [`Device::swiglu`]; with [`Activations::Int8`] the hidden
    /// row silu(W_gate x) · W_up x is rounded before W_down as x is before W_gate and W_up
    fn experts(
        &self,
        x: &Self::Buffer,
        n_rows: usize,
        routes: &Self::Routes,
        w: &ExpertWeights<Self::Weight>,
        out: &mut Self::Buffer,
    );

    /// x += y over the first `len` values.
    fn add(&self, x: &mut Self::Buffer, y: &Self::Buffer, len: usize);

    /// out\[t\] = [a\[t\] | b\[t\]]: the input of an MTP module.
    ///
    /// # Shapes   `a, b [n_rows, dim]` · `out [n_rows, 2·dim]`
    fn concat(&self, a: &Self::Buffer, b: &Self::Buffer, n_rows: usize, dim: usize, out: &mut Self::Buffer);

    /// out\[i\] = x\[rows\[i\]\]: the rows that sample, or that an MTP module continues.
    ///
    /// # Shapes   `x [T, dim]` · rows: indices below T · `out [rows.len(), dim]`
    fn gather(&self, x: &Self::Buffer, rows: &[u32], dim: usize, out: &mut Self::Buffer);
}
