//! Cached rows: how many values a row has and how they are stored.
//!
//! Owns the geometry of a cache, and a row's bytes: what a row is rounded to and how a block is written down are the
//! same on every device. Must not hold rows, or know whose they are.

use half::bf16;

use crate::DeviceError;

/// How a cache row's numbers are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RowFormat {
    /// 4 bytes per value.
    F32,
    /// 2 bytes per value, rounded to nearest even.
    BF16,
    /// 8 bits per value and one f32 scale per group of [`RowLayout::group_len`] values ([`quantise`]); the last
    /// [`RowLayout::tail_len`] values of a row as BF16.
    Q8,
}

impl RowFormat {
    /// Every format, most precise first.
    pub const ALL: [Self; 3] = [Self::F32, Self::BF16, Self::Q8];

    /// Name as users write it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::BF16 => "bf16",
            Self::Q8 => "q8",
        }
    }
}

/// What a row holds, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RowLayout {
    /// Values per row: `[c_kv | k_pe]` of MLA, or `[v heads | k heads]` of a dense model.
    pub row_len: usize,
    /// Values that share a scale where rows are 8 bits: C of MLA; they divide what is not the tail.
    pub group_len: usize,
    /// Values at a row's end that stay in 16 bits where rows are 8 bits: R of MLA, whose rotated channels are few and
    /// carry the order of words; the keys of a dense model, some of whose channels are a hundred times the others.
    pub tail_len: usize,
    /// How values are stored.
    pub row_format: RowFormat,
}

impl RowLayout {
    /// Scales of a row of 8 bits.
    ///
    /// # Panics
    /// If groups do not divide the row without its tail
    #[must_use]
    pub fn n_groups(&self) -> usize {
        let n = self.row_len - self.tail_len;
        assert!(n.is_multiple_of(self.group_len), "groups of {} values in {n}", self.group_len);
        n / self.group_len
    }

    /// Bytes of a row, scales included.
    #[must_use]
    pub fn row_bytes(&self) -> usize {
        match self.row_format {
            RowFormat::F32 => 4 * self.row_len,
            RowFormat::BF16 => 2 * self.row_len,
            RowFormat::Q8 => self.row_len - self.tail_len + 4 * self.n_groups() + 2 * self.tail_len,
        }
    }

    /// A row as bytes, little endian and without gaps: the executable definition of what a cache keeps.
    ///
    /// F32: `row_len` numbers of 4 bytes. BF16: `row_len` of 2 bytes, rounded to nearest even. Q8: of the values
    /// without the tail first the codes ([`quantise`], one byte each), then the f32 scales of their groups
    /// ([`group_scale`]), then the tail in BF16.
    ///
    /// # Shapes   `row [row_len]` · `bytes [row_bytes]`
    /// # Panics
    /// If either has another length
    pub fn encode(&self, row: &[f32], bytes: &mut [u8]) {
        assert_eq!((row.len(), bytes.len()), (self.row_len, self.row_bytes()));
        match self.row_format {
            RowFormat::F32 => put(row, bytes, f32::to_le_bytes),
            RowFormat::BF16 => put(row, bytes, |v| bf16::from_f32(v).to_le_bytes()),
            RowFormat::Q8 => {
                let (groups, tail) = row.split_at(self.row_len - self.tail_len);
                let [codes, scales, tail_bytes] = self.q8_parts_mut(bytes);
                let codes = codes.chunks_exact_mut(self.group_len);
                for ((group, codes), scale) in
                    groups.chunks_exact(self.group_len).zip(codes).zip(scales.as_chunks_mut().0)
                {
                    let d = group_scale(group);
                    *scale = d.to_le_bytes();
                    put(group, codes, |v| quantise(v, d).to_le_bytes());
                }
                put(tail, tail_bytes, |v| bf16::from_f32(v).to_le_bytes());
            }
        }
    }

    /// The values that a row's bytes stand for; in 8 bits code · scale.
    ///
    /// # Shapes   `bytes [row_bytes]` · `row [row_len]`
    /// # Panics
    /// If either has another length
    pub fn decode(&self, bytes: &[u8], row: &mut [f32]) {
        assert_eq!((row.len(), bytes.len()), (self.row_len, self.row_bytes()));
        match self.row_format {
            RowFormat::F32 => take(bytes, row, f32::from_le_bytes),
            RowFormat::BF16 => take(bytes, row, |b| bf16::from_le_bytes(b).to_f32()),
            RowFormat::Q8 => {
                let [codes, scales, tail_bytes] = self.q8_parts(bytes);
                let (groups, tail) = row.split_at_mut(self.row_len - self.tail_len);
                let codes = codes.chunks_exact(self.group_len);
                for ((group, codes), scale) in
                    groups.chunks_exact_mut(self.group_len).zip(codes).zip(scales.as_chunks().0)
                {
                    let d = f32::from_le_bytes(*scale);
                    take(codes, group, |q| f32::from(i8::from_le_bytes(q)) * d);
                }
                take(tail_bytes, tail, |b| bf16::from_le_bytes(b).to_f32());
            }
        }
    }

    /// Codes, scales and tail of a row of 8 bits.
    ///
    /// # Panics
    /// If the bytes are not a row's
    #[must_use]
    pub fn q8_parts<'b>(&self, bytes: &'b [u8]) -> [&'b [u8]; 3] {
        let (codes, rest) = bytes.split_at(self.row_len - self.tail_len);
        let (scales, tail) = rest.split_at(4 * self.n_groups());
        [codes, scales, tail]
    }

    /// As [`RowLayout::q8_parts`].
    ///
    /// # Panics
    /// If the bytes are not a row's
    #[must_use]
    pub fn q8_parts_mut<'b>(&self, bytes: &'b mut [u8]) -> [&'b mut [u8]; 3] {
        let (codes, rest) = bytes.split_at_mut(self.row_len - self.tail_len);
        let (scales, tail) = rest.split_at_mut(4 * self.n_groups());
        [codes, scales, tail]
    }
}

/// Values as bytes, N each; no faster way is needed, because compilers make one copy of it where nothing is converted.
pub fn put<T: Copy, const N: usize>(values: &[T], bytes: &mut [u8], to: impl Fn(T) -> [u8; N]) {
    bytes.as_chunks_mut().0.iter_mut().zip(values).for_each(|(bytes, value)| *bytes = to(*value));
}

/// Bytes as values, N each; the other way of [`put`].
pub fn take<T, const N: usize>(bytes: &[u8], values: &mut [T], from: impl Fn([u8; N]) -> T) {
    values.iter_mut().zip(bytes.as_chunks().0).for_each(|(value, bytes)| *value = from(*bytes));
}

/// The scale of a group: max|x| / 127, or NaN where a value is not finite, so that all of the group reads as NaN.
#[must_use]
pub fn group_scale(values: &[f32]) -> f32 {
    match values.iter().all(|v| v.is_finite()) {
        true => values.iter().fold(0f32, |max, v| max.max(v.abs())) / 127.0,
        false => f32::NAN,
    }
}

/// q = round(x / d) to nearest even, in −127..=127, so that x ≈ q·d; 0 where d is 0 or NaN.
///
/// One IEEE division in f32, subnormal scales included: those are rounded so coarsely that only the limits keep q in
/// its range.
#[must_use]
pub fn quantise(x: f32, d: f32) -> i8 {
    match d > 0.0 {
        true => (x / d).round_ties_even().clamp(-127.0, 127.0) as i8,
        false => 0,
    }
}

/// Geometry of a cache: rows in blocks, the same for every layer.
///
/// # Memory   n_layers · n_blocks · block_len · row.row_bytes()
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CacheSpec {
    /// Layers that cache.
    pub n_layers: usize,
    /// Blocks per layer.
    pub n_blocks: usize,
    /// Rows (positions) per block.
    pub block_len: usize,
    /// What a row holds.
    pub row: RowLayout,
}

impl CacheSpec {
    /// Rows of all layers, times `per_row`.
    ///
    /// # Errors
    /// No machine has that much memory
    pub fn n_values(&self, per_row: usize) -> Result<usize, DeviceError> {
        let sizes = [self.n_blocks, self.block_len, per_row];
        let n = sizes.iter().try_fold(self.n_layers, |n, &size| n.checked_mul(size));
        n.ok_or(DeviceError::OutOfMemory { what: "cache", wanted: u64::MAX })
    }

    /// Bytes of a block in all layers: layer by layer, in each its `block_len` rows in the order of their positions, each
    /// as [`RowLayout::encode`] writes it.
    ///
    /// n_layers · block_len · row.row_bytes()
    #[must_use]
    pub fn block_bytes(&self) -> usize {
        self.n_layers * self.layer_bytes()
    }

    /// Bytes of a block in one layer.
    #[must_use]
    pub fn layer_bytes(&self) -> usize {
        self.block_len * self.row.row_bytes()
    }

    /// Which of all rows `[n_layers, n_blocks · block_len]` is that of `slot` in layer `layer`.
    ///
    /// # Panics
    /// If the cache has no such layer or slot (a scheduler bug)
    #[must_use]
    pub fn row_index(&self, layer: usize, slot: usize) -> usize {
        let slots = self.n_blocks * self.block_len;
        assert!(layer < self.n_layers, "layer {layer} of a cache of {} layers", self.n_layers);
        assert!(slot < slots, "slot {slot} of a cache of {slots} rows");
        layer * slots + slot
    }

    /// As [`CacheSpec::row_index`], for the row that a sequence's position has through its block table.
    #[must_use]
    pub fn row_of(&self, layer: usize, block_table: &[u32], position: usize) -> usize {
        let block = block_table[position / self.block_len] as usize;
        self.row_index(layer, block * self.block_len + position % self.block_len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layout(row_len: usize, group_len: usize, tail_len: usize) -> RowLayout {
        RowLayout { row_len, group_len, tail_len, row_format: RowFormat::Q8 }
    }

    #[test]
    fn v2_rows_take_644_bytes() {
        assert_eq!(layout(576, 512, 64).row_bytes(), 644);
        assert_eq!(layout(2048, 32, 0).row_bytes(), 2048 + 4 * 64);
    }

    fn round(layout: RowLayout, row: &mut [f32]) {
        let mut bytes = vec![0; layout.row_bytes()];
        layout.encode(row, &mut bytes);
        layout.decode(&bytes, row);
    }

    #[test]
    fn bytes_are_little_endian_and_have_no_gaps() {
        let row = [1.0, -2.0, 127.0, 0.5, 1.0 + 1.0 / 256.0];
        let bytes = |row_format| {
            let layout = RowLayout { row_format, ..layout(5, 2, 1) };
            let mut bytes = vec![0xee; layout.row_bytes()];
            layout.encode(&row, &mut bytes);
            bytes
        };
        assert_eq!(bytes(RowFormat::F32)[..8], [0, 0, 0x80, 0x3f, 0, 0, 0, 0xc0]);
        assert_eq!(bytes(RowFormat::BF16), [0x80, 0x3f, 0x00, 0xc0, 0xfe, 0x42, 0x00, 0x3f, 0x80, 0x3f]);
        let d = (2.0f32 / 127.0).to_le_bytes();
        let codes_and_scales = [[64, 0x81, 127, 0], d, [0, 0, 0x80, 0x3f]].concat();
        assert_eq!(bytes(RowFormat::Q8), [&codes_and_scales[..], &[0x80, 0x3f]].concat());
    }

    #[test]
    fn rows_round_group_by_group_with_a_tail_in_16_bits() {
        let mut row = [127.0, -3.5, 2.5, 1.0, 0.0, -0.0, 1.01];
        round(layout(7, 2, 1), &mut row);
        assert_eq!(row[..2], [127.0, -4.0]);
        let d = 2.5f32 / 127.0;
        assert_eq!(row[2..4], [127.0 * d, (1.0f32 / d).round_ties_even() * d]);
        assert_eq!(row[4..], [0.0, 0.0, 1.0078125]);
    }

    #[test]
    fn what_is_not_finite_makes_a_group_nan_and_leaves_its_neighbours() {
        for value in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut row = [1.0, 2.0, value, 4.0, 5.0, 6.0];
            round(layout(6, 2, 0), &mut row);
            assert!(row[2].is_nan() && row[3].is_nan());
            assert!(row[..2].iter().chain(&row[4..]).all(|v| v.is_finite()));
        }
    }

    #[test]
    fn subnormal_scales_stay_in_range() {
        let least = f32::from_bits(1);
        for max in [least, 127.0 * least, 128.0 * least, 190.0 * least, f32::MIN_POSITIVE] {
            let d = group_scale(&[max, -max]);
            assert!(d <= max && quantise(max, d) >= 0 && quantise(-max, d) == -quantise(max, d));
        }
        assert_eq!(group_scale(&[60.0 * least]), 0.0);
    }
}
