//! Sixteen weight rows with sixteen rows of activations at a time, where the level has register tiles.
//!
//! Both factors are packed as tiles read them: weights by panels of sixteen rows that lie as in the file, unpacked;
//! activations in blocks of sixteen rows, transposed, since they are packed once for many weights. Each group's codes come
//! first, then its scales and sums. Codes times a sub-block's whole-numbered scale are split into two digits of a byte, so
//! that a group's sum is a whole number here as well. Owns that layout. The integers are those of the other kernels, and
//! so the bits are.

use std::marker::PhantomData;
use std::ops::Range;

use super::groups::{Group, Group32, Group256};
use super::panel::{SmallPanel, SuperPanel, numbers, scale_and_add};
use super::small::Small;
use super::super_block::{Factors, Super};
use super::{Format, Product, UNIT, ask};
use crate::level::{Kernel, LANES, Line, Simd, Sums, Tiles, make, map};

/// Lines of weights that are unpacked together: they stay in the second-level cache while a pair of blocks meets them.
const PANEL_LINES: usize = (512 << 10) / 64;

/// As many panels at most.
const PANELS_MAX: usize = 8;

/// Lines of activations that are packed together: each worker has its own, and rows may be long.
const TOKEN_LINES: usize = (1 << 20) / 64;

/// Columns of a pair of blocks that meet all panels before the next: so many stay in the first-level cache.
const COLUMNS: usize = 512;

/// A product, by tiles.
pub(crate) struct TileProducts<'a, F: Format, P> {
    pub(crate) product: Product<'a, F::Group>,
    /// Scratch, as much as [`n_lines`] says.
    pub(crate) lines: &'a mut [Line],
    pub(crate) kind: PhantomData<P>,
}

/// Panels of sixteen of `n_rows` weight rows that are unpacked together.
fn panels_at_once<F: Format, P: TilePanel<F>>(n_rows: usize, n_groups: usize) -> usize {
    (PANEL_LINES / (n_groups * P::WEIGHTS).max(1)).clamp(1, PANELS_MAX).min(n_rows.div_ceil(UNIT))
}

/// Blocks of sixteen of `n` rows of activations that are packed together; they meet weights in pairs.
fn blocks_at_once<F: Format, P: TilePanel<F>>(n: usize, n_groups: usize) -> usize {
    (TOKEN_LINES / (n_groups * P::TOKENS).max(1)).max(2).next_multiple_of(2).min(n.div_ceil(LANES))
}

/// Lines that a product of `n` rows of activations with `n_rows` of weights needs, each of `n_groups` groups.
pub(crate) fn n_lines<F: Format, P: TilePanel<F>>(n: usize, n_rows: usize, n_groups: usize) -> usize {
    let (n_panels, n_blocks) = (panels_at_once::<F, P>(n_rows, n_groups), blocks_at_once::<F, P>(n, n_groups));
    n_groups * (n_panels * P::WEIGHTS + n_blocks * P::TOKENS)
}

/// How blocks of weights and groups of activations become tiles, and meet.
pub(crate) trait TilePanel<F: Format> {
    /// Columns of a tile of bytes.
    const BYTES: usize;
    /// Lines of a group of sixteen weight rows.
    const WEIGHTS: usize;
    /// Lines of a group of sixteen rows of activations.
    const TOKENS: usize;
    /// Unpacks one block of each weight row.
    fn pack_weights<S: Simd>(simd: S, tiles: &Tiles, blocks: [&F::Block; UNIT], to: &mut [Line]);
    /// Transposes one group of each row of activations.
    fn pack_tokens<S: Simd>(simd: S, groups: [&F::Group; LANES], to: &mut [Line]);
    /// Adds the products of some groups of T blocks with those of every panel.
    fn multiply<S: Simd, const T: usize>(
        simd: S,
        tiles: &Tiles,
        factors: &Pair<'_, T>,
        groups: Range<usize>,
        products: &mut [Sums; 2],
        sums: &mut [Floats<T>],
    );
}

/// T packed blocks of activations, and the panels they meet.
pub(crate) struct Pair<'a, const T: usize> {
    blocks: [&'a [Line]; T],
    panels: &'a [Line],
    n_groups: usize,
}

impl<'a, const T: usize> Pair<'a, T> {
    /// Group `g` of panel `p`, of `N` lines.
    #[inline(always)]
    fn weights<const N: usize>(&self, p: usize, g: usize) -> &'a [Line; N] {
        head(&self.panels[(p * self.n_groups + g) * N..])
    }

    /// Group `g` of block `i`, of `N` lines.
    #[inline(always)]
    fn tokens<const N: usize>(&self, i: usize, g: usize) -> &'a [Line; N] {
        head(&self.blocks[i][g * N..])
    }
}

/// Sums of a panel with T blocks: of every weight row those of sixteen rows of activations. Aligned, so that none straddles
/// a cache line.
#[derive(Clone, Copy)]
#[repr(align(64))]
pub(crate) struct Floats<const T: usize>([[[f32; LANES]; LANES]; T]);

/// The first lines.
#[inline(always)]
fn head<const N: usize>(lines: &[Line]) -> &[Line; N] {
    match lines.first_chunk() {
        Some(lines) => lines,
        None => unreachable!("as many were packed"),
    }
}

impl<F: Format, P: TilePanel<F>> Kernel for TileProducts<'_, F, P> {
    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let Some(tiles) = simd.tiles(P::BYTES) else { panic!("tiles at a level without them") };
        let Self { product, lines, .. } = self;
        let (n, n_groups) = (product.x.n, product.w.cols / F::Group::LEN);
        let n_panels = panels_at_once::<F, P>(product.w_rows.len(), n_groups);
        let n_blocks = blocks_at_once::<F, P>(n, n_groups);
        let (panels, blocks) = lines.split_at_mut(n_panels * n_groups * P::WEIGHTS);
        let (panel_len, block_len) = ((n_groups * P::WEIGHTS).max(1), (n_groups * P::TOKENS).max(1));
        let mut products = [Sums::ZERO; 2];
        for first in (0..n).step_by((n_blocks * LANES).max(1)) {
            let tokens = first..n.min(first + n_blocks * LANES);
            for (t, block) in tokens.clone().step_by(LANES).zip(blocks.chunks_exact_mut(block_len)) {
                pack_block::<F, P, S>(simd, &product, t..tokens.end.min(t + LANES), block);
            }
            for first in product.w_rows.clone().step_by(n_panels * UNIT) {
                let rows = first..product.w_rows.end.min(first + n_panels * UNIT);
                for (row, panel) in rows.clone().step_by(UNIT).zip(panels.chunks_exact_mut(panel_len)) {
                    pack_panel::<F, P, S>(simd, &tiles, &product, row, panel);
                }
                let starts = tokens.clone().step_by(2 * LANES);
                for (t, pair) in starts.zip(blocks.chunks(2 * block_len)) {
                    let (one, two) = pair.split_at(block_len);
                    match tokens.end - t > LANES {
                        true => {
                            let pair = Pair { blocks: [one, two], panels, n_groups };
                            meet::<F, P, S, 2>(simd, &tiles, &product, &pair, (t, rows.clone()), &mut products);
                        }
                        false => {
                            let pair = Pair { blocks: [one], panels, n_groups };
                            meet::<F, P, S, 1>(simd, &tiles, &product, &pair, (t, rows.clone()), &mut products);
                        }
                    }
                }
            }
        }
    }
}

/// Packs the rows `tokens` of activations, sixteen at most; others count as zero.
#[inline(always)]
fn pack_block<F: Format, P: TilePanel<F>, S: Simd>(
    simd: S,
    product: &Product<'_, F::Group>,
    tokens: Range<usize>,
    block: &mut [Line],
) {
    let none = F::Group::default();
    let last = tokens.end - 1;
    let rows: [&[F::Group]; LANES] = make(|r| product.x.row((tokens.start + r).min(last)));
    for (g, lines) in block.chunks_exact_mut(P::TOKENS).enumerate() {
        P::pack_tokens(simd, make(|r| if tokens.start + r > last { &none } else { &rows[r][g] }), lines);
    }
}

/// Unpacks the weight rows from `row` on.
#[inline(always)]
fn pack_panel<F: Format, P: TilePanel<F>, S: Simd>(
    simd: S,
    tiles: &Tiles,
    product: &Product<'_, F::Group>,
    row: usize,
    panel: &mut [Line],
) {
    let (last, n_groups) = (product.w_rows.end - 1, panel.len() / P::WEIGHTS);
    let rows: [&[F::Block]; UNIT] = make(|r| &F::blocks(product.w.row((row + r).min(last)))[..n_groups]);
    for (g, lines) in panel.chunks_exact_mut(P::WEIGHTS).enumerate() {
        ask(simd, rows, g, 1);
        P::pack_weights(simd, tiles, map(rows, |row| &row[g]), lines);
    }
}

/// T blocks of activations, the first of which begins with row `t`, with the panels of some weight rows.
#[inline(always)]
fn meet<F: Format, P: TilePanel<F>, S: Simd, const T: usize>(
    simd: S,
    tiles: &Tiles,
    product: &Product<'_, F::Group>,
    pair: &Pair<'_, T>,
    (t, rows): (usize, Range<usize>),
    products: &mut [Sums; 2],
) {
    let mut sums = [Floats([[[0.0; LANES]; LANES]; T]); PANELS_MAX];
    let sums = &mut sums[..rows.len().div_ceil(UNIT)];
    for g in (0..pair.n_groups).step_by(COLUMNS / F::Group::LEN) {
        let groups = g..pair.n_groups.min(g + COLUMNS / F::Group::LEN);
        P::multiply::<S, T>(simd, tiles, pair, groups, products, sums);
    }
    for (row, sums) in rows.step_by(UNIT).zip(sums) {
        for (i, block) in sums.0.iter().enumerate() {
            let mut values = [[0.0; LANES]; LANES];
            simd.transpose(block.each_ref(), &mut values);
            let t = t + i * LANES;
            for (i, values) in values.into_iter().enumerate().take(product.x.n - t) {
                product.set(t + i, row, values);
            }
        }
    }
}

/// Value `i` of a line of numbers of four bytes.
#[inline(always)]
fn four(line: &Line, i: usize) -> [u8; 4] {
    line.as_chunks().0[i]
}

/// Value `i` of a line of pairs.
#[inline(always)]
fn pair(line: &Line, i: usize) -> [i16; 2] {
    let [a, b, c, d] = four(line, i);
    [i16::from_le_bytes([a, b]), i16::from_le_bytes([c, d])]
}

#[inline(always)]
fn set_pair(line: &mut Line, i: usize, [a, b]: [i16; 2]) {
    let ([a, b], [c, d]) = (a.to_le_bytes(), b.to_le_bytes());
    line.as_chunks_mut().0[i] = [a, b, c, d];
}

#[inline(always)]
fn set_f32(line: &mut Line, i: usize, value: f32) {
    line.as_chunks_mut().0[i] = value.to_le_bytes();
}

/// Of weights and of activations: 32 columns of codes, then d; then o, or the sum of the codes.
const SMALL: usize = 10;
const SMALL_D: usize = 8;
const SMALL_O: usize = 9;

impl<F: Small> TilePanel<F> for SmallPanel {
    const BYTES: usize = 32;
    const WEIGHTS: usize = SMALL;
    const TOKENS: usize = SMALL;

    #[inline(always)]
    fn pack_weights<S: Simd>(simd: S, tiles: &Tiles, blocks: [&F::Block; UNIT], to: &mut [Line]) {
        for (block, to) in blocks.iter().zip(to.as_flattened_mut().as_chunks_mut::<32>().0) {
            simd.store_half(F::codes(simd, block), to);
        }
        // Every code fits a byte with a sign once its zero point is gone.
        if F::zero::<S>() != 0 {
            to[..SMALL_D].iter_mut().for_each(|line| tiles.subtract(line, F::zero::<S>() as u8));
        }
        numbers(simd, blocks, |four| F::scale4(simd, four), &mut to[SMALL_D]);
        if F::OFFSET {
            numbers(simd, blocks, |four| F::offset4(simd, four), &mut to[SMALL_O]);
        }
    }

    #[inline(always)]
    fn pack_tokens<S: Simd>(simd: S, groups: [&Group32; LANES], to: &mut [Line]) {
        // Half of the square goes unused.
        let mut rows = [[0; 64]; LANES];
        for (r, (group, row)) in groups.iter().zip(&mut rows).enumerate() {
            row.as_chunks_mut::<32>().0[0] = group.q.map(|q| q as u8);
            set_f32(&mut to[SMALL_D], r, group.d);
            // At most 32·127
            set_pair(&mut to[SMALL_O], r, [-group.minus_sum as i16, 0]);
        }
        let mut square = [[0; 64]; LANES];
        simd.transpose(rows.each_ref(), &mut square);
        to[..SMALL_D].copy_from_slice(&square[..SMALL_D]);
    }

    #[inline(always)]
    fn multiply<S: Simd, const T: usize>(
        simd: S,
        tiles: &Tiles,
        factors: &Pair<'_, T>,
        groups: Range<usize>,
        products: &mut [Sums; 2],
        sums: &mut [Floats<T>],
    ) {
        for (p, Floats(sums)) in sums.iter_mut().enumerate() {
            for (i, to) in sums.iter_mut().enumerate() {
                let factors = |g: usize| (factors.weights::<SMALL>(p, g), factors.tokens::<SMALL>(i, g));
                let mut sums: [S::F32; LANES] = make(|r| simd.load(&to[r]));
                let [mut now, mut before] = products.each_mut().map(|sums| &mut sums.0[0]);
                // Tiles work on a group while the one before it is scaled.
                for g in groups.clone() {
                    let (w, x) = factors(g);
                    tiles.codes(head(w), head(x), now);
                    if g > groups.start {
                        let (w, x) = factors(g - 1);
                        sums = add_small::<F, S>(simd, before, w, x, sums);
                    }
                    (now, before) = (before, now);
                }
                let (w, x) = factors(groups.end - 1);
                sums = add_small::<F, S>(simd, before, w, x, sums);
                for (sum, to) in sums.into_iter().zip(to) {
                    simd.store(sum, to);
                }
            }
        }
    }
}

/// A group's products, scaled and added to the sums. A loop: a closure so large would not be inlined.
#[inline(always)]
fn add_small<F: Small, S: Simd>(
    simd: S,
    products: &[[i32; LANES]; LANES],
    w: &[Line; SMALL],
    x: &[Line; SMALL],
    mut sums: [S::F32; LANES],
) -> [S::F32; LANES] {
    let number = |line: &Line, r: usize| [f32::from_le_bytes(four(line, r))];
    for r in 0..LANES {
        let mut sum = [sums[r]];
        scale_and_add(simd, &x[SMALL_D], number(&w[SMALL_D], r), [simd.load_i32(&products[r])], &mut sum);
        if F::OFFSET {
            let codes = simd.as_i16(simd.load_u8(&x[SMALL_O]));
            let codes = simd.dot2(simd.splat_i32(0), codes, simd.splat_pair([1, 0]));
            scale_and_add(simd, &x[SMALL_D], number(&w[SMALL_O], r), [codes], &mut sum);
        }
        sums[r] = sum[0];
    }
    sums
}

/// Weights of 256 columns: high digits, low ones, terms that meet −Σq, d, o. Digits come by quarters, of sixteen rows each.
const LOW: usize = 64;
const TERMS: usize = 2 * LOW;
const D: usize = TERMS + 8;
const O: usize = D + 1;
const SUPER: usize = O + 1;

/// Activations of 256 columns: codes by quarters, d, pairs of −Σq of each 32 columns, and of each 16.
const TOKENS_D: usize = 64;
const MINUS32: usize = TOKENS_D + 1;
const MINUS16: usize = MINUS32 + 4;
const TOKENS: usize = MINUS16 + 8;

/// Where a quarter's lanes, of two columns each, find their scale in a row's [`Factors`], behind that of the first.
#[inline(always)]
fn scale_places<F: Super>() -> [u16; 32] {
    make(|lane| match F::N_SUB {
        8 => lane as u16 / 16,
        // Pairs are of every other sub-block; from one to the next are four rows of two.
        _ => lane as u16 / 8 % 2 * 8 + lane as u16 / 16,
    })
}

impl<F: Super> TilePanel<F> for SuperPanel {
    const BYTES: usize = 64;
    const WEIGHTS: usize = SUPER;
    const TOKENS: usize = TOKENS;

    #[inline(always)]
    fn pack_weights<S: Simd>(simd: S, tiles: &Tiles, blocks: [&F::Block; UNIT], to: &mut [Line]) {
        let (high, rest) = to.split_at_mut(LOW);
        let (low, rest) = rest.split_at_mut(LOW);
        let places = scale_places::<F>();
        for (i, four) in blocks.as_chunks::<4>().0.iter().enumerate() {
            let mut factors = Factors::NONE;
            F::factors(simd, *four, &mut factors);
            for (r, block) in four.iter().enumerate() {
                for half in 0..2 {
                    let mut codes = Codes([[0; 64]; 2]);
                    let parts = F::codes(simd, block, half);
                    for (part, to) in parts.into_iter().zip(codes.0.as_flattened_mut().as_chunks_mut().0) {
                        simd.store_half(part, to);
                    }
                    for (j, codes) in codes.0.iter().enumerate() {
                        let quarter = 2 * half + j;
                        // A quarter has one pair of scales, or two; there are four to a vector.
                        let (scales, first) = match F::N_SUB {
                            8 => (&factors.scales[0], 8 * quarter),
                            _ => (&factors.scales[half], 16 * j),
                        };
                        let at = LANES * quarter + 4 * i + r;
                        tiles.split(codes, scales, (&places, first + 2 * r), [&mut high[at], &mut low[at]]);
                    }
                }
            }
            for (pair, line) in rest.iter_mut().enumerate().take(F::N_SUB / 2) {
                let rows = &factors.minus[pair / 4].as_chunks::<8>().0[pair % 4];
                for (term, to) in rows.iter().zip(line[16 * i..].as_chunks_mut().0) {
                    *to = term.to_le_bytes();
                }
            }
        }
        numbers(simd, blocks, |four| F::scale4(simd, four), &mut rest[D - TERMS]);
        if F::OFFSET {
            numbers(simd, blocks, |four| F::offset4(simd, four), &mut rest[O - TERMS]);
        }
    }

    #[inline(always)]
    fn pack_tokens<S: Simd>(simd: S, groups: [&Group256; LANES], to: &mut [Line]) {
        for (quarter, to) in to.as_chunks_mut::<LANES>().0.iter_mut().enumerate().take(4) {
            let mut square = [[0; 64]; LANES];
            simd.transpose(map(groups, |group| &group.q.as_chunks().0[quarter]), &mut square);
            for (to, line) in to.iter_mut().zip(square) {
                *to = line.map(|q| q as u8);
            }
        }
        for (r, group) in groups.iter().enumerate() {
            set_f32(&mut to[TOKENS_D], r, group.d);
            for (i, minus) in group.minus_sums32.into_iter().enumerate() {
                set_pair(&mut to[MINUS32 + i], r, minus);
            }
            for (i, minus) in group.minus_sums16.into_iter().enumerate() {
                set_pair(&mut to[MINUS16 + i], r, minus);
            }
        }
    }

    /// A quarter of each group is multiplied, then a quarter of what came of the one before it is scaled: tiles work beside
    /// the other units, but only what comes soon after them is begun before they are done, and what they store cannot be
    /// read at once.
    #[inline(always)]
    fn multiply<S: Simd, const T: usize>(
        simd: S,
        tiles: &Tiles,
        factors: &Pair<'_, T>,
        groups: Range<usize>,
        products: &mut [Sums; 2],
        sums: &mut [Floats<T>],
    ) {
        let mut done: Option<(usize, usize)> = None;
        let [mut now, mut before] = products.each_mut();
        for p in 0..sums.len() {
            for g in groups.clone() {
                let w = factors.weights::<SUPER>(p, g);
                let x: [&[Line; TOKENS]; T] = make(|i| factors.tokens(i, g));
                for quarter in 0..4 {
                    if quarter == 0 {
                        tiles.clear::<T>();
                    }
                    let at = LANES * quarter;
                    tiles.digits([head(&w[at..]), head(&w[LOW + at..])], map(x, |x| head(&x[at..])));
                    if quarter == 3 {
                        tiles.take::<T>(now);
                    }
                    if let Some((p, g)) = done {
                        add_quarter::<F, S, T>(simd, before, factors, (p, g), quarter, &mut sums[p]);
                    }
                }
                (now, before) = (before, now);
                done = Some((p, g));
            }
        }
        if let Some((p, g)) = done {
            for quarter in 0..4 {
                add_quarter::<F, S, T>(simd, before, factors, (p, g), quarter, &mut sums[p]);
            }
        }
    }
}

/// Two lines of codes, aligned as the lines of a panel are.
#[repr(align(64))]
struct Codes([Line; 2]);

/// Scales a quarter of a group's products, of panel `p` and group `g`, and adds it to the sums.
#[inline(always)]
fn add_quarter<F: Super, S: Simd, const T: usize>(
    simd: S,
    products: &Sums,
    factors: &Pair<'_, T>,
    (p, g): (usize, usize),
    quarter: usize,
    Floats(sums): &mut Floats<T>,
) {
    let first = quarter * T * LANES / 4;
    let (i, rows) = (first / LANES, first % LANES..first % LANES + T * LANES / 4);
    let (w, x) = (factors.weights::<SUPER>(p, g), factors.tokens::<TOKENS>(i, g));
    for r in rows {
        let (high, low) = (&products.0[2 * i][r], &products.0[2 * i + 1][r]);
        let acc = simd.shl_add::<7>(simd.load_i32(high), simd.load_i32(low));
        let mut minus = if F::OFFSET { simd.splat_i32(0) } else { acc };
        for p in 0..F::N_SUB / 2 {
            let line = if F::N_SUB == 8 { MINUS32 + p % 4 } else { MINUS16 + p };
            minus = simd.dot2(minus, simd.as_i16(simd.load_u8(&x[line])), simd.splat_pair(pair(&w[TERMS + p], r)));
        }
        let d = [f32::from_le_bytes(four(&w[D], r))];
        let mut sum = [simd.load(&sums[i][r])];
        if F::OFFSET {
            scale_and_add(simd, &x[TOKENS_D], d, [acc], &mut sum);
            let o = [f32::from_le_bytes(four(&w[O], r))];
            scale_and_add(simd, &x[TOKENS_D], o, [minus], &mut sum);
        } else {
            scale_and_add(simd, &x[TOKENS_D], d, [minus], &mut sum);
        }
        simd.store(sum[0], &mut sums[i][r]);
    }
}
