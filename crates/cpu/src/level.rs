//! Instruction-set levels, detected once, and the vector operations that kernels are written in.
//!
//! Owns the vocabulary of vector operations ([`Simd`]) and the choice of a level; the instructions of each level stand
//! below `level/`. A level's token can only be made by detection, so that holding one proves the instructions exist.
//! Must not contain arithmetic of models: kernel bodies are generic over [`Simd`].
//!
//! A vector is sixteen lanes wide on every level (one register of AVX-512, two of AVX2), so that kernels, their tiles
//! and the order of their sums are the same everywhere.
#![cfg_attr(
    target_arch = "x86_64",
    expect(unsafe_code, reason = "enters functions compiled for a level, behind tokens that only detection makes")
)]

#[cfg(target_arch = "x86_64")]
mod amx;
#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod scalar;
#[cfg(target_arch = "x86_64")]
mod x86;

#[cfg(target_arch = "x86_64")]
pub(crate) use amx::Tiles;
#[cfg(not(target_arch = "x86_64"))]
pub(crate) use scalar::Tiles;

/// Values in a vector.
pub(crate) const LANES: usize = 16;

/// As many bytes as a vector has: in a panel, something of each of its sixteen rows.
pub(crate) type Line = [u8; 64];

/// What four tiles give: sums of sixteen rows with sixteen columns, four times.
#[derive(Clone, Copy)]
#[repr(align(64))]
pub(crate) struct Sums<T = i32>(pub(crate) [[[T; LANES]; LANES]; 4]);

impl Sums {
    pub(crate) const ZERO: Self = Self([[[0; LANES]; LANES]; 4]);
}

impl Sums<f32> {
    pub(crate) const ZERO_F32: Self = Self([[[0.0; LANES]; LANES]; 4]);
}

/// What a tile's sums are: four bytes each.
pub(crate) trait Sum: Copy {}
impl Sum for i32 {}
impl Sum for f32 {}

/// `[f(0), f(1), …]`. Unlike [`std::array::from_fn`] always inlined: else what it calls is compiled without the level's
/// instructions.
#[inline(always)]
pub(crate) fn make<T: Copy, const N: usize>(mut f: impl FnMut(usize) -> T) -> [T; N] {
    let mut values = [f(0); N];
    #[expect(clippy::needless_range_loop, reason = "an iterator in between is one more thing that must inline")]
    for i in 1..N {
        values[i] = f(i);
    }
    values
}

/// `[f(a₀), f(a₁), …]`, for the same reason.
#[inline(always)]
pub(crate) fn map<A: Copy, T: Copy, const N: usize>(a: [A; N], mut f: impl FnMut(A) -> T) -> [T; N] {
    make(|i| f(a[i]))
}

/// Which instructions kernels use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// Plain Rust, on every machine; the twin that the others are held to.
    Scalar,
    /// AVX2, FMA and F16C (x86-64 since about 2013).
    #[cfg(target_arch = "x86_64")]
    Avx2,
    /// AVX-512 F, BW, DQ and VL with VNNI (servers since 2019, AMD since Zen 4).
    #[cfg(target_arch = "x86_64")]
    Avx512,
    /// AVX-512 and tiles of bytes (AMX; Intel servers since 2023): many rows at once are multiplied by tiles.
    #[cfg(target_arch = "x86_64")]
    Amx,
}

impl Level {
    /// The best level of this machine.
    #[must_use]
    pub fn detect() -> Self {
        *Self::available().last().unwrap_or(&Self::Scalar)
    }

    /// Every level of this machine, slowest first.
    #[cfg(target_arch = "x86_64")]
    #[must_use]
    pub fn available() -> Vec<Self> {
        let avx2 = avx2::Avx2::detect().map(|_| Self::Avx2);
        let avx512 = avx512::Avx512::detect().map(|_| Self::Avx512);
        let amx = avx512::Avx512::detect_with_tiles().map(|_| Self::Amx);
        [Some(Self::Scalar), avx2, avx512, amx].into_iter().flatten().collect()
    }

    /// Every level of this machine, slowest first.
    #[cfg(not(target_arch = "x86_64"))]
    #[must_use]
    pub fn available() -> Vec<Self> {
        vec![Self::Scalar]
    }

    /// Name as users read it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Scalar => "scalar",
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => "avx2",
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => "avx512",
            #[cfg(target_arch = "x86_64")]
            Self::Amx => "amx",
        }
    }

    /// Whether kernels may ask for [`Simd::tiles`].
    pub(crate) fn has_tiles(self) -> bool {
        #[cfg(target_arch = "x86_64")]
        return self == Self::Amx;
        #[cfg(not(target_arch = "x86_64"))]
        false
    }

    /// Runs a kernel at this level.
    ///
    /// # Panics
    /// If the machine lacks the level
    pub(crate) fn run<K: Kernel>(self, kernel: K) {
        match self {
            Self::Scalar => kernel.run(scalar::Scalar),
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => match avx2::Avx2::detect() {
                // SAFETY: detection made the token, so the features that `enter` enables exist.
                Some(token) => unsafe { avx2::enter(token, kernel) },
                None => panic!("the AVX2 level on a machine without AVX2, FMA and F16C"),
            },
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => match avx512::Avx512::detect() {
                // SAFETY: as above.
                Some(token) => unsafe { avx512::enter(token, kernel) },
                None => panic!("the AVX-512 level on a machine without AVX-512 F, BW, DQ, VL and VNNI"),
            },
            #[cfg(target_arch = "x86_64")]
            Self::Amx => match avx512::Avx512::detect_with_tiles() {
                // SAFETY: as above.
                Some(token) => unsafe { avx512::enter(token, kernel) },
                None => panic!("the AMX level on a machine without AMX"),
            },
        }
    }
}

/// Numbers of at most four bytes, of which any bits are one.
pub(crate) trait Plain: Copy {}
impl Plain for u8 {}
impl Plain for i8 {}
impl Plain for u16 {}
impl Plain for i16 {}
impl Plain for f32 {}

/// A computation written once for every level.
pub(crate) trait Kernel {
    /// The body; implementations are `#[inline(always)]`, so that it is compiled with the level's instructions.
    fn run<S: Simd>(self, simd: S);
}

/// Vectors of [`LANES`] values, and what the kernels need of them.
///
/// A *half* is 32 consecutive bytes of a vector of 64, and the eight 32-bit lanes above them; a *quarter* is 16 of them.
/// Where four weight rows are read side by side, each has a quarter. Integer operations give
/// the same bits on every level, and so do those on f32 that name a single IEEE operation.
pub(crate) trait Simd: Copy {
    /// Sixteen f32.
    type F32: Copy;
    /// Sixteen i32.
    type I32: Copy;
    /// Thirty-two i16: sixteen pairs.
    type I16: Copy;
    /// Sixty-four bytes: sixteen fours. Signed where an operation says so.
    type Bytes: Copy;
    /// Four f32: one value of each of four rows.
    type F4: Copy;
    /// Four i32.
    type I4: Copy;
    /// Half of a vector: thirty-two bytes, or sixteen i16.
    type Half: Copy;
    /// Eight i32: the fours of a half.
    type I8: Copy;

    /// Added to weights that take all 256 values of a byte before they meet [`Simd::dot_wide`], whose instruction may
    /// want them unsigned: 128, or 0 where it takes them signed.
    const BIAS: u8;
    /// Rows of activations that [`Simd::panel_dots`] can keep in registers.
    const PANEL_TOKENS: usize;
    /// Vectors of sums that a register tile keeps beside its operands: 4 or 8.
    const TILE_ROWS: usize;

    // --- f32
    fn splat(self, value: f32) -> Self::F32;
    fn load(self, values: &[f32; LANES]) -> Self::F32;
    fn store(self, vector: Self::F32, to: &mut [f32; LANES]);
    fn load_f16(self, bits: &[[u8; 2]; LANES]) -> Self::F32;
    fn load_bf16(self, bits: &[[u8; 2]; LANES]) -> Self::F32;
    /// Bytes as numbers.
    fn load_i8(self, bytes: &[i8; LANES]) -> Self::F32;
    fn add(self, a: Self::F32, b: Self::F32) -> Self::F32;
    fn sub(self, a: Self::F32, b: Self::F32) -> Self::F32;
    fn mul(self, a: Self::F32, b: Self::F32) -> Self::F32;
    /// The larger of each pair; `b` where either is NaN.
    fn max(self, a: Self::F32, b: Self::F32) -> Self::F32;
    /// The smaller of each pair; `b` where either is NaN.
    fn min(self, a: Self::F32, b: Self::F32) -> Self::F32;
    fn div(self, a: Self::F32, b: Self::F32) -> Self::F32;
    /// The magnitudes.
    fn abs(self, a: Self::F32) -> Self::F32;
    /// a·b + c, rounded once.
    fn mul_add(self, a: Self::F32, b: Self::F32, c: Self::F32) -> Self::F32;
    /// The sum of all lanes, in a fixed order.
    fn sum(self, vector: Self::F32) -> f32;
    /// The largest lane; any value where one is NaN.
    fn max_lane(self, vector: Self::F32) -> f32;
    /// The nearest integers, ties to even; any value where out of range.
    fn round(self, vector: Self::F32) -> Self::I32;
    fn to_f32(self, vector: Self::I32) -> Self::F32;
    /// a·2^e, rounded once, for whole e of −250..=250: infinities, subnormals and NaN arise as they should.
    fn mul_power(self, a: Self::F32, e: Self::F32) -> Self::F32;

    // --- i32
    fn splat_i32(self, value: i32) -> Self::I32;
    fn load_i32(self, values: &[i32; LANES]) -> Self::I32;
    /// a·2^BITS + b; what does not fit is lost.
    fn shl_add<const BITS: u32>(self, a: Self::I32, b: Self::I32) -> Self::I32;
    fn sum_i32(self, vector: Self::I32) -> i32;
    /// Stores values of −128..=127 as bytes.
    fn store_i8(self, vector: Self::I32, to: &mut [i8; LANES]);
    /// Stores values of −32768..=32767, `a` then `b`.
    fn store_i16(self, a: Self::I32, b: Self::I32, to: &mut [i16; 2 * LANES]);

    // --- pairs of i16
    fn load_i16(self, values: &[i16; 2 * LANES]) -> Self::I16;
    fn splat_i16(self, value: i16) -> Self::I16;
    /// The pair in every lane.
    fn splat_pair(self, pair: [i16; 2]) -> Self::I16;
    /// Sign-extended bytes.
    fn widen_i8(self, bytes: &[i8; 2 * LANES]) -> Self::I16;
    /// Pairs (aᵢ, bᵢ) of sign-extended bytes.
    fn zip_i8(self, a: &[i8; LANES], b: &[i8; LANES]) -> Self::I16;
    /// Pairs (aᵢ, bᵢ).
    fn zip_i16(self, a: &[i16; LANES], b: &[i16; LANES]) -> Self::I16;
    fn store_pairs(self, a: Self::I16, to: &mut [i16; 2 * LANES]);
    /// Pairs of sign-extended bytes: the even ones of each lane's four, then the odd ones.
    fn split_i8(self, bytes: &[i8; 4 * LANES]) -> [Self::I16; 2];
    /// The first BF16 number of each lane's two, then the second.
    fn split_bf16(self, bits: &[u16; 2 * LANES]) -> [Self::F32; 2];
    /// acc + a₀·b₀ + a₁·b₁ of each pair.
    fn dot2(self, acc: Self::I32, a: Self::I16, b: Self::I16) -> Self::I32;

    // --- bytes
    fn load_u8(self, bytes: &[u8; 64]) -> Self::Bytes;
    fn or(self, a: Self::Bytes, b: Self::Bytes) -> Self::Bytes;
    /// The bytes as thirty-two i16.
    fn as_i16(self, bytes: Self::Bytes) -> Self::I16;
    /// The bytes as sixteen f32.
    fn as_f32(self, bytes: Self::Bytes) -> Self::F32;

    /// acc\[t\] + scale·Σ w·x over STEPS fours of columns: lane r of `w[i]` holds row r's weights of four columns, `x[t][i]`
    /// row t's activations. Weights have BITS bits; 8 stands for all 256 values with [`Simd::BIAS`] added. `scale` is a
    /// pair of equals per lane, and 1 unless SCALED.
    fn panel_dots<const T: usize, const STEPS: usize, const BITS: u32, const SCALED: bool>(
        self,
        acc: [Self::I32; T],
        w: &[[u8; 64]; STEPS],
        x: [&[[i8; 4]; STEPS]; T],
        scale: Self::I16,
    ) -> [Self::I32; T];
    /// Sixteen rows of 64 bytes as sixteen steps of a panel: `to[i]` holds the bytes 4i..4i + 4 of every row.
    fn transpose<T: Plain, const N: usize>(self, rows: [&[T; N]; 16], to: &mut [[T; N]; 16]);

    /// Whether the level has register tiles.
    #[inline(always)]
    fn has_tiles(self) -> bool {
        false
    }
    /// This thread's register tiles of activations and weights, `bytes` wide, where the level has any.
    #[inline(always)]
    fn tiles(self, bytes: usize) -> Option<Tiles> {
        self.has_tiles().then(|| Tiles::new(bytes))
    }

    // --- quarters: something of each of four rows
    fn load_quarters(self, rows: [&[u8; 16]; 4]) -> Self::Bytes;
    /// Byte `order[i]` of its quarter in byte i; 0 where that is 128.
    fn shuffle(self, bytes: Self::Bytes, order: [u8; 16]) -> Self::Bytes;
    /// Each quarter's four words of 32 bits, shifted to the right.
    fn shr32(self, bytes: Self::Bytes, by: [u32; 4]) -> Self::Bytes;
    /// The same sixteen bytes and each quarter's.
    fn and_quarters(self, bytes: Self::Bytes, mask: [u8; 16]) -> Self::Bytes;
    /// The first eight bytes of each quarter as i16, and the last eight.
    fn widen_quarters(self, bytes: Self::Bytes) -> [Self::I16; 2];
    /// The same of signed bytes.
    fn widen_quarters_i8(self, bytes: Self::Bytes) -> [Self::I16; 2];
    fn add_i16(self, a: Self::I16, b: Self::I16) -> Self::I16;
    /// The lower half of each product.
    fn mul_i16(self, a: Self::I16, b: Self::I16) -> Self::I16;
    /// Each quarter's pairs: the first pair of every row, then the second and so on.
    fn pairs_of_rows(self, a: Self::I16) -> Self::I16;

    // --- halves
    fn load_half(self, bytes: &[u8; 32]) -> Self::Half;
    fn load_half_i8(self, bytes: &[i8; 32]) -> Self::Half;
    fn store_half(self, half: Self::Half, to: &mut [u8; 32]);
    fn splat_half(self, value: u8) -> Self::Half;
    fn or_half(self, a: Self::Half, b: Self::Half) -> Self::Half;
    fn xor_half(self, a: Self::Half, b: Self::Half) -> Self::Half;
    /// The N bits of each byte from bit FROM on, moved to bit TO; 0 around them.
    fn bits<const FROM: u32, const TO: u32, const N: u32>(self, half: Self::Half) -> Self::Half;
    /// The sixteen lower nibbles, then the sixteen upper ones.
    fn nibbles(self, bytes: &[u8; 16]) -> Self::Half;
    /// `mask` in byte i where bit i of the 32 is set, else 0.
    fn spread_bits(self, bits: [u8; 4], mask: u8) -> Self::Half;
    /// `table[byte]` for bytes below 16.
    fn lookup(self, table: &[u8; 16], half: Self::Half) -> Self::Half;
    /// Pair `a` in the first four lanes, pair `b` in the others.
    fn pairs(self, a: [i16; 2], b: [i16; 2]) -> Self::Half;
    fn splat_i8(self, value: i32) -> Self::I8;
    /// acc + Σ w·x over the four bytes of each lane: w below 64, x signed above −128.
    fn dot_codes(self, acc: Self::I8, w: Self::Half, x: Self::Half) -> Self::I8;
    /// The same for w of all 256 values with [`Simd::BIAS`] added.
    fn dot_wide(self, acc: Self::I8, w: Self::Half, x: Self::Half) -> Self::I8;
    /// acc + s₀·Σ w₀·x₀ + s₁·Σ w₁·x₁ over the four bytes of each lane: `scales[0]` in the first four lanes, `scales[1]` in the
    /// others, which is the same unless TWO_SCALES. Codes have BITS bits; 8 stands for all 256 values with [`Simd::BIAS`]
    /// added.
    fn dot_two<const BITS: u32, const TWO_SCALES: bool>(
        self,
        acc: Self::I8,
        w: [Self::Half; 2],
        x: [Self::Half; 2],
        scales: [[i16; 2]; 2],
    ) -> Self::I8;
    /// acc + a₀·b₀ + a₁·b₁ of each pair of i16.
    fn dot_pairs(self, acc: Self::I8, a: &[i16; 16], b: Self::Half) -> Self::I8;
    /// Both as they are, `next` not before `sums` is known: the compiler would else do everything that it can see side by
    /// side, and run out of registers.
    fn in_turn<T>(self, sums: Self::I8, next: &T) -> (Self::I8, &T);

    // --- four rows
    fn splat4(self, value: f32) -> Self::F4;
    fn splat4_i32(self, value: i32) -> Self::I4;
    fn load4(self, values: [f32; 4]) -> Self::F4;
    fn load4_f16(self, bits: [[u8; 2]; 4]) -> Self::F4;
    fn store4(self, values: Self::F4) -> [f32; 4];
    fn mul4(self, a: Self::F4, b: Self::F4) -> Self::F4;
    /// a·b + c, rounded once.
    fn mul_add4(self, a: Self::F4, b: Self::F4, c: Self::F4) -> Self::F4;
    fn to_f4(self, a: Self::I4) -> Self::F4;
    fn add4_i32(self, a: Self::I4, b: Self::I4) -> Self::I4;
    /// Sums of lanes i and i + 4.
    fn fold(self, a: Self::I8) -> Self::I4;
    /// Each row's sum of lanes.
    fn sum_rows(self, rows: [Self::I8; 4]) -> Self::I4;

    /// Asks for the cache line of the value at `offset`, which may lie beyond the end.
    fn prefetch<T>(self, values: &[T], offset: usize);
}
