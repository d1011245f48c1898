//! Sixteen weight rows with sixteen rows of activations at a time, where the level has register tiles.
//!
//! Both factors are packed as tiles read them: weights by panels of sixteen rows as in `panel.rs`, activations in blocks of
//! sixteen rows, each group's codes, then its scales and sums. Codes times a sub-block's whole-numbered scale are split into
//! two digits of a byte, so that a group's sum is a whole number here as well. Owns that layout. The integers are those of
//! the other kernels, and so the bits are.

use std::marker::PhantomData;

use super::groups::{Group, Group32, Group256};
use super::panel::{Panel, SmallPanel, SuperPanel, scale_and_add, subs_line};
use super::small::Small;
use super::super_block::Super;
use super::{Format, Product, UNIT, ask};
use crate::level::{Kernel, LANES, Line, Simd, Sums, Tiles, make, map};

/// Lines of weights that are unpacked together: a pair of blocks stays in the second-level cache while it meets them.
const PANEL_LINES: usize = (512 << 10) / 64;

/// Lines of activations that are packed together: each worker has its own, and rows may be long.
const TOKEN_LINES: usize = (1 << 20) / 64;

/// A product, by tiles.
pub(crate) struct TileProducts<'a, F: Format, P> {
    pub(crate) product: Product<'a, F::Group>,
    /// Scratch, as much as [`n_lines`] says.
    pub(crate) lines: &'a mut [Line],
    pub(crate) kind: PhantomData<P>,
}

/// Panels of sixteen of `n_rows` weight rows that are unpacked together.
fn panels_at_once<F: Format, P: TilePanel<F>>(n_rows: usize, n_groups: usize) -> usize {
    (PANEL_LINES / (n_groups * P::LINES).max(1)).clamp(1, 8).min(n_rows.div_ceil(UNIT))
}

/// Blocks of sixteen of `n` rows of activations that are packed together; they meet weights in pairs.
fn blocks_at_once<F: Format, P: TilePanel<F>>(n: usize, n_groups: usize) -> usize {
    (TOKEN_LINES / (n_groups * P::TOKENS).max(1)).max(2).next_multiple_of(2).min(n.div_ceil(LANES))
}

/// Lines that a product of `n` rows of activations with `n_rows` of weights needs, each of `n_groups` groups.
pub(crate) fn n_lines<F: Format, P: TilePanel<F>>(n: usize, n_rows: usize, n_groups: usize) -> usize {
    let (n_panels, n_blocks) = (panels_at_once::<F, P>(n_rows, n_groups), blocks_at_once::<F, P>(n, n_groups));
    n_groups * (n_panels * P::LINES + n_blocks * P::TOKENS)
}

/// How blocks of weights and groups of activations become tiles, and meet.
pub(crate) trait TilePanel<F: Format> {
    /// Columns of a tile of bytes.
    const BYTES: usize;
    /// Lines of a group of sixteen weight rows.
    const LINES: usize;
    /// Lines of a group of sixteen rows of activations.
    const TOKENS: usize;
    /// Unpacks one block of each weight row.
    fn pack<S: Simd>(simd: S, tiles: &Tiles, blocks: [&F::Block; UNIT], to: &mut [Line]);
    /// Copies row `r`'s group.
    fn pack_group(group: &F::Group, r: usize, to: &mut [Line]);
    /// Multiplies a quarter of a group's codes with those of T blocks; `to` has their sums after the fourth.
    fn multiply<const T: usize>(tiles: &Tiles, w: &[Line], x: [&[Line]; T], quarter: usize, to: &mut Sums);
    /// Scales a quarter of what came of it, and adds it to the sums.
    fn add<S: Simd, const T: usize>(simd: S, done: &Done<'_, T>, quarter: usize, sums: &mut Floats<T>);
}

/// A group that has been multiplied.
pub(crate) struct Done<'a, const T: usize> {
    products: &'a Sums,
    w: &'a [Line],
    x: [&'a [Line]; T],
}

/// Sums of T blocks, aligned so that none straddles a cache line.
#[repr(align(64))]
pub(crate) struct Floats<const T: usize>([[[f32; LANES]; LANES]; T]);

/// Rows of a block of which a quarter of T blocks has some: `(block, rows)`.
#[inline(always)]
fn quarter_rows<const T: usize>(quarter: usize) -> (usize, std::ops::Range<usize>) {
    let n = T * LANES / 4;
    let first = quarter * n;
    (first / LANES, first % LANES..first % LANES + n)
}

impl<F: Format, P: TilePanel<F>> Kernel for TileProducts<'_, F, P> {
    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let Some(tiles) = simd.tiles(P::BYTES) else { panic!("tiles at a level without them") };
        let Self { product, lines, .. } = self;
        let (n, n_groups) = (product.x.n, product.w.cols / F::Group::LEN);
        let n_panels = panels_at_once::<F, P>(product.w_rows.len(), n_groups);
        let n_blocks = blocks_at_once::<F, P>(n, n_groups);
        let (panels, blocks) = lines.split_at_mut(n_panels * n_groups * P::LINES);
        let mut products = [Sums::ZERO; 2];
        for tokens in (0..n).step_by((n_blocks * LANES).max(1)).map(|from| from..n.min(from + n_blocks * LANES)) {
            for (b, block) in blocks.chunks_exact_mut((n_groups * P::TOKENS).max(1)).enumerate() {
                let first = tokens.start + b * LANES;
                let rows = first..tokens.end.min(first + LANES);
                if rows.len() < LANES {
                    block.fill([0; 64]);
                }
                for (r, t) in rows.enumerate() {
                    let groups = product.x.row(t).iter().zip(block.chunks_exact_mut(P::TOKENS));
                    groups.for_each(|(group, to)| P::pack_group(group, r, to));
                }
            }
            let blocks = &*blocks;
            for first in product.w_rows.clone().step_by(n_panels * UNIT) {
                let rows = || (first..product.w_rows.end).step_by(UNIT).take(n_panels);
                for (row, panel) in rows().zip(panels.chunks_exact_mut((n_groups * P::LINES).max(1))) {
                    pack_panel::<F, P, S>(simd, &tiles, &product, row, panel);
                }
                for start in tokens.clone().step_by(2 * LANES) {
                    let at = (start - tokens.start) / LANES;
                    let block = |i: usize| &blocks[(at + i) * n_groups * P::TOKENS..][..n_groups * P::TOKENS];
                    for (row, panel) in rows().zip(panels.chunks_exact((n_groups * P::LINES).max(1))) {
                        if tokens.end - start > LANES {
                            let x = [block(0), block(1)];
                            tile::<F, P, S, 2>(simd, &tiles, &product, panel, x, (start, row), &mut products);
                        } else {
                            tile::<F, P, S, 1>(simd, &tiles, &product, panel, [block(0)], (start, row), &mut products);
                        }
                    }
                }
            }
        }
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
    let (last, n_groups) = (product.w_rows.end - 1, panel.len() / P::LINES);
    let rows: [&[F::Block]; UNIT] = make(|r| &F::blocks(product.w.row((row + r).min(last)))[..n_groups]);
    for (g, lines) in panel.chunks_exact_mut(P::LINES).enumerate() {
        ask(simd, rows, g, 1);
        P::pack(simd, tiles, map(rows, |row| &row[g]), lines);
    }
}

/// A panel with T blocks of activations, the first of which begins with row `t`. A quarter of each group is multiplied, then a
/// quarter of what came of the one before it is scaled: tiles work beside the other units, but only what comes soon after
/// them is begun before they are done, and what they store cannot be read at once.
#[inline(always)]
fn tile<F: Format, P: TilePanel<F>, S: Simd, const T: usize>(
    simd: S,
    tiles: &Tiles,
    product: &Product<'_, F::Group>,
    panel: &[Line],
    blocks: [&[Line]; T],
    (t, row): (usize, usize),
    products: &mut [Sums; 2],
) {
    let n_groups = panel.len() / P::LINES;
    let mut sums = Floats([[[0.0; LANES]; LANES]; T]);
    let mut done: Option<Done<'_, T>> = None;
    let [mut now, mut before] = products.each_mut();
    for g in 0..n_groups {
        let (w, x) = (&panel[g * P::LINES..][..P::LINES], map(blocks, |x| &x[g * P::TOKENS..][..P::TOKENS]));
        for quarter in 0..4 {
            P::multiply(tiles, w, x, quarter, now);
            if let Some(done) = &done {
                P::add(simd, done, quarter, &mut sums);
            }
        }
        (now, before) = (before, now);
        done = Some(Done { products: before, w, x });
    }
    if let Some(done) = &done {
        for quarter in 0..4 {
            P::add(simd, done, quarter, &mut sums);
        }
    }
    for (i, sums) in sums.0.as_flattened().iter().enumerate().take(product.x.n - t) {
        product.set(t + i, row, *sums);
    }
}

/// Value `t` of a line of numbers of four bytes.
#[inline(always)]
fn four(line: &Line, t: usize) -> [u8; 4] {
    line.as_chunks().0[t]
}

#[inline(always)]
fn set_four(line: &mut Line, t: usize, value: [u8; 4]) {
    line.as_chunks_mut().0[t] = value;
}

#[inline(always)]
fn pair(line: &Line, t: usize) -> [i16; 2] {
    let [a, b, c, d] = four(line, t);
    [i16::from_le_bytes([a, b]), i16::from_le_bytes([c, d])]
}

#[inline(always)]
fn set_pair(line: &mut Line, t: usize, [a, b]: [i16; 2]) {
    let ([a, b], [c, d]) = (a.to_le_bytes(), b.to_le_bytes());
    set_four(line, t, [a, b, c, d]);
}

/// Activations of 32 columns: codes, d, −Σq.
const SMALL_D: usize = 8;
const SMALL_MINUS: usize = 9;

impl<F: Small> TilePanel<F> for SmallPanel {
    const BYTES: usize = 32;
    const LINES: usize = <Self as Panel<F>>::LINES;
    const TOKENS: usize = 10;

    #[inline(always)]
    fn pack<S: Simd>(simd: S, _tiles: &Tiles, blocks: [&F::Block; UNIT], to: &mut [Line]) {
        <Self as Panel<F>>::pack(simd, blocks, to);
    }

    #[inline(always)]
    fn pack_group(group: &Group32, r: usize, to: &mut [Line]) {
        let half = &mut to[r / 2].as_chunks_mut::<32>().0[r % 2];
        *half = group.q.map(|q| q as u8);
        set_four(&mut to[SMALL_D], r, group.d.to_le_bytes());
        // At most 32·127
        set_pair(&mut to[SMALL_MINUS], r, [group.minus_sum as i16, 0]);
    }

    #[inline(always)]
    fn multiply<const T: usize>(tiles: &Tiles, w: &[Line], x: [&[Line]; T], quarter: usize, to: &mut Sums) {
        // They are but half a tile wide.
        if quarter == 0 {
            tiles.codes(map(x, head), head(w), to);
        }
    }

    #[inline(always)]
    fn add<S: Simd, const T: usize>(simd: S, done: &Done<'_, T>, quarter: usize, sums: &mut Floats<T>) {
        let (i, rows) = quarter_rows::<T>(quarter);
        let (w, x) = (&done.w[..10], &done.x[i][..SMALL_MINUS + 1]);
        let zero = simd.splat_i16(F::zero::<S>() as i16);
        for t in rows {
            let minus = pair(&x[SMALL_MINUS], t);
            let d = [f32::from_le_bytes(four(&x[SMALL_D], t))];
            let to = &mut sums.0[i][t];
            let mut sum = [simd.load(to)];
            let acc = simd.dot2(simd.load_i32(&done.products.0[i][t]), zero, simd.splat_pair(minus));
            scale_and_add(simd, &w[8], d, [acc], &mut sum);
            if F::OFFSET {
                scale_and_add(simd, &w[9], d, [simd.splat_i32(-i32::from(minus[0]))], &mut sum);
            }
            simd.store(sum[0], to);
        }
    }
}

/// The first lines of a group.
#[inline(always)]
fn head<const N: usize>(lines: &[Line]) -> &[Line; N] {
    match lines.first_chunk() {
        Some(lines) => lines,
        None => unreachable!("a group has them"),
    }
}

/// Weights of 256 columns: 64 lines of high digits, 64 of low ones, terms that meet −Σq, d, o.
const LOW: usize = 64;
const TERMS: usize = 2 * LOW;
const D: usize = TERMS + 8;
const O: usize = D + 1;

/// Activations of 256 columns: 64 lines of codes, d, pairs of −Σq of each 32 columns, and of each 16.
const SUPER_D: usize = 64;
const MINUS32: usize = SUPER_D + 1;
const MINUS16: usize = MINUS32 + 4;

impl<F: Super> TilePanel<F> for SuperPanel {
    const BYTES: usize = 64;
    const LINES: usize = O + 1;
    const TOKENS: usize = MINUS16 + 8;

    #[inline(always)]
    fn pack<S: Simd>(simd: S, tiles: &Tiles, blocks: [&F::Block; UNIT], to: &mut [Line]) {
        let mut lines = Unpacked([[0; 64]; SUPER_LINES]);
        let Unpacked(lines) = &mut lines;
        <Self as Panel<F>>::pack(simd, blocks, lines);
        let (high, rest) = to.split_at_mut(LOW);
        let (low, rest) = rest.split_at_mut(LOW);
        for (i, (high, low)) in high.iter_mut().zip(low).enumerate() {
            tiles.split(&lines[i], &lines[subs_line::<F>(i)], [high, low]);
        }
        rest[..O + 1 - TERMS].copy_from_slice(&lines[SUPER_LINES - (O + 1 - TERMS)..]);
    }

    #[inline(always)]
    fn pack_group(group: &Group256, r: usize, to: &mut [Line]) {
        for (i, q) in group.q.as_chunks::<64>().0.iter().enumerate() {
            to[LANES * i + r] = q.map(|q| q as u8);
        }
        set_four(&mut to[SUPER_D], r, group.d.to_le_bytes());
        for (i, minus) in group.minus_sums32.into_iter().enumerate() {
            set_pair(&mut to[MINUS32 + i], r, minus);
        }
        for (i, minus) in group.minus_sums16.into_iter().enumerate() {
            set_pair(&mut to[MINUS16 + i], r, minus);
        }
    }

    #[inline(always)]
    fn multiply<const T: usize>(tiles: &Tiles, w: &[Line], x: [&[Line]; T], quarter: usize, to: &mut Sums) {
        if quarter == 0 {
            tiles.clear::<T>();
        }
        let at = LANES * quarter;
        tiles.digits(map(x, |x| head(&x[at..])), [head(&w[at..]), head(&w[LOW + at..])]);
        if quarter == 3 {
            tiles.take::<T>(to);
        }
    }

    #[inline(always)]
    fn add<S: Simd, const T: usize>(simd: S, done: &Done<'_, T>, quarter: usize, sums: &mut Floats<T>) {
        let (i, rows) = quarter_rows::<T>(quarter);
        let (w, x) = (&done.w[..O + 1], &done.x[i][..MINUS16 + 8]);
        for t in rows {
            let (high, low) = (&done.products.0[2 * i][t], &done.products.0[2 * i + 1][t]);
            let acc = simd.shl_add::<7>(simd.load_i32(high), simd.load_i32(low));
            let mut minus = if F::OFFSET { simd.splat_i32(0) } else { acc };
            for p in 0..F::N_SUB / 2 {
                let terms = simd.as_i16(simd.load_u8(&w[TERMS + p]));
                let line = if F::N_SUB == 8 { MINUS32 + p % 4 } else { MINUS16 + p };
                minus = simd.dot2(minus, terms, simd.splat_pair(pair(&x[line], t)));
            }
            let d = [f32::from_le_bytes(four(&x[SUPER_D], t))];
            let to = &mut sums.0[i][t];
            let mut sum = [simd.load(to)];
            if F::OFFSET {
                scale_and_add(simd, &w[D], d, [acc], &mut sum);
                scale_and_add(simd, &w[O], d, [minus], &mut sum);
            } else {
                scale_and_add(simd, &w[D], d, [minus], &mut sum);
            }
            simd.store(sum[0], to);
        }
    }
}

/// A panel's group, aligned as the lines of a panel are.
#[repr(align(64))]
struct Unpacked([Line; SUPER_LINES]);

/// Lines of a panel of super-blocks, the last ten of which are what follows the scales.
const SUPER_LINES: usize = <SuperPanel as Panel<super::super_block::Q4K>>::LINES;
