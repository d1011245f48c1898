//! Cases of cache_store and cache_copy_block.
//!
//! Owns what a cache holds after some stores, copies and moves, seen through attention; a block's bytes are looked at in
//! `bytes.rs`. Must not rely on a device's layout.

pub(super) mod bytes;

use ops::{AttendKv, CacheSpec, Device, DeviceError, RowFormat, RowLayout, SeqSpan};

use super::attention::{head_bounds, score};
use super::buffers::{MARGIN, input, output, read, with_margin_bounds};
use super::case::{Case, Suite};
use super::random::Random;
use super::report::Bound;
use super::scene::stored;

#[derive(Clone)]
enum Step {
    Store {
        layer: usize,
        slots: Vec<u32>,
        parts: Vec<(Vec<f32>, usize)>,
    },
    Copy {
        from: u32,
        to: u32,
    },
    /// The same by way of bytes.
    Move {
        from: u32,
        to: u32,
    },
}

struct CacheCase {
    spec: CacheSpec,
    steps: Vec<Step>,
    /// Queries that look at each block, `[n_blocks, D]`.
    q: Vec<f32>,
    data: String,
}

impl CacheCase {
    fn new(rng: &mut Random, spec: CacheSpec, steps: Vec<Step>, data: &str) -> Self {
        let q = rng.values(spec.n_blocks * spec.row.row_len / 2);
        Self { data: format!("{data}, {spec:?}"), spec, steps, q }
    }

    /// Every layer's rows after the steps: `[n_layers, slots, row_len]`.
    fn rows(&self) -> Vec<f32> {
        let CacheSpec { n_layers, n_blocks, block_len, row: layout } = self.spec;
        let row_len = layout.row_len;
        let layer_len = n_blocks * block_len * row_len;
        let mut rows = vec![0f32; n_layers * layer_len];
        for step in &self.steps {
            match step {
                Step::Store { layer, slots, parts } => {
                    for (t, &slot) in slots.iter().enumerate() {
                        let row = parts.iter().flat_map(|(part, len)| part[t * len..(t + 1) * len].to_vec());
                        let at = layer * layer_len + slot as usize * row_len;
                        rows[at..at + row_len].copy_from_slice(&stored(&row.collect::<Vec<_>>(), &layout));
                    }
                }
                Step::Copy { from, to } | Step::Move { from, to } => {
                    for layer in rows.chunks_exact_mut(layer_len) {
                        let from = *from as usize * block_len * row_len;
                        layer.copy_within(from..from + block_len * row_len, *to as usize * block_len * row_len);
                    }
                }
            }
        }
        rows
    }
}

impl Case for CacheCase {
    fn label(&self) -> String {
        self.data.clone()
    }

    fn run<D: Device>(&self, dev: &D) -> Result<Vec<f32>, DeviceError> {
        let CacheSpec { n_layers, n_blocks, block_len, row: RowLayout { row_len, .. } } = self.spec;
        let mut cache = dev.alloc_cache(&self.spec)?;
        for step in &self.steps {
            match step {
                Step::Store { layer, slots, parts } => {
                    let buffers = parts.iter().map(|(part, len)| Ok((input(dev, part)?, *len)));
                    let buffers: Vec<_> = buffers.collect::<Result<_, DeviceError>>()?;
                    let parts: Vec<_> = buffers.iter().map(|(buffer, len)| (buffer, *len)).collect();
                    dev.cache_store(&mut cache, *layer, slots, &parts);
                }
                Step::Copy { from, to } => dev.cache_copy_block(&mut cache, *from, *to),
                Step::Move { from, to } => {
                    let mut bytes = vec![0xee; self.spec.block_bytes()];
                    dev.cache_read_block(&cache, *from, &mut bytes)?;
                    dev.cache_write_block(&mut cache, *to, &bytes)?;
                }
            }
        }
        let block = |b: usize| SeqSpan { q_start: b, n_new: 1, n_cached: block_len - 1, blocks: b..b + 1 };
        let spans: Vec<SeqSpan> = (0..n_blocks).map(block).collect();
        let block_tables: Vec<u32> = (0..n_blocks as u32).collect();
        let q = input(dev, &self.q)?;
        let mut seen = Vec::new();
        for layer in 0..n_layers {
            let mut out = output(dev, self.q.len())?;
            let args = AttendKv {
                q: &q,
                cache: &cache,
                layer,
                spans: &spans,
                block_tables: &block_tables,
                n_heads: 1,
                n_kv_heads: 1,
                head_dim: row_len / 2,
                scale: 1.0,
            };
            dev.attend_kv(&args, &mut out);
            seen.extend(read(dev, &out, self.q.len())?);
        }
        Ok(seen)
    }

    fn bounds(&self) -> Vec<Bound> {
        let CacheSpec { n_layers, n_blocks, block_len, row: RowLayout { row_len, .. } } = self.spec;
        let rows: Vec<f64> = self.rows().iter().map(|v| f64::from(*v)).collect();
        let (d, block) = (row_len / 2, block_len * row_len);
        let mut bounds = Vec::new();
        for layer in rows.chunks_exact(n_blocks * block) {
            let blocks = layer.chunks_exact(block).zip(self.q.chunks_exact(d));
            let looks = blocks.flat_map(|(rows, q)| {
                let q = || q.iter().map(|v| f64::from(*v));
                let scores: Vec<_> =
                    rows.chunks_exact(row_len).map(|row| score(1.0, q(), row[d..].iter().copied())).collect();
                head_bounds(&scores, d, 0.0, d, |s, i| rows[s * row_len + i].abs())
            });
            bounds.extend(with_margin_bounds(looks.collect()));
        }
        assert_eq!(bounds.len(), n_layers * (self.q.len() + MARGIN));
        bounds
    }
}

/// Rows for some of the slots, in any order, put together of parts of the given lengths.
fn store(rng: &mut Random, layer: usize, slots: Vec<u32>, lens: &[usize]) -> Step {
    let parts = lens.iter().map(|&len| (rng.values(slots.len() * len), len)).collect();
    Step::Store { layer, slots, parts }
}

fn some_slots(rng: &mut Random, spec: &CacheSpec, n: usize) -> Vec<u32> {
    let mut slots: Vec<u32> = (0..(spec.n_blocks * spec.block_len) as u32).collect();
    rng.shuffle(&mut slots);
    slots.truncate(n);
    slots
}

fn specs() -> impl Iterator<Item = CacheSpec> {
    // block_len, n_layers, and a row's values, group and tail
    let shapes = [(1, 1, [2, 1, 0]), (3, 2, [10, 4, 2]), (16, 3, [34, 16, 2]), (5, 2, [64, 32, 0])];
    shapes.into_iter().flat_map(|(block_len, n_layers, [row_len, group_len, tail_len])| {
        RowFormat::ALL.map(|row_format| {
            let row = RowLayout { row_len, group_len, tail_len, row_format };
            CacheSpec { n_layers, n_blocks: 5, block_len, row }
        })
    })
}

pub(super) fn cache_store<D: Device>(suite: &mut Suite<'_, D>) {
    let mut rng = Random::new(70);
    for spec in specs() {
        let (row_len, last) = (spec.row.row_len, spec.n_layers - 1);
        suite.check(&CacheCase::new(&mut rng, spec, Vec::new(), "fresh"));
        for lens in [vec![row_len], vec![row_len - 1, 1], vec![row_len / 2; 2]] {
            for n in [0, 1, 3, spec.n_blocks * spec.block_len] {
                let first = some_slots(&mut rng, &spec, n);
                let again = some_slots(&mut rng, &spec, n / 2);
                let steps = vec![store(&mut rng, last, first, &lens), store(&mut rng, 0, again, &lens)];
                suite.check(&CacheCase::new(&mut rng, spec, steps, &format!("{n} rows of parts {lens:?}")));
            }
        }
    }
    rounding(suite, &mut rng);
}

/// Numbers that show how a row rounds, each the value of a single visible position.
fn rounding<D: Device>(suite: &mut Suite<'_, D>, rng: &mut Random) {
    let bits: [u32; 16] = [
        0x3f80_8000, // ties: down to even, up to even, and the two beside them
        0x3f81_8000,
        0x3f80_8001,
        0x3f80_7fff,
        0xbf80_8000,
        0xbf81_8000,
        0x7f7f_7fff, // the largest number that stays finite, and the first that does not
        0x7f7f_8000,
        0x7f80_0000,
        0xff80_0000,
        0x7fc0_0000, // NaN, also with a payload that truncation or a carry would lose
        0x7f80_0001,
        0xff80_0001,
        0x7fff_ffff,
        0x8000_0000,
        0x0080_8000,
    ];
    for row_format in RowFormat::ALL {
        let (d, n_blocks) = (bits.len(), 3);
        let row = RowLayout { row_len: 2 * d, group_len: 1, tail_len: 0, row_format };
        let spec = CacheSpec { n_layers: 1, n_blocks, block_len: 1, row };
        let mut values: Vec<f32> = bits.iter().map(|b| f32::from_bits(*b)).collect();
        values.extend(rng.values(2 * d));
        let parts = vec![(values, d), (vec![0.0; n_blocks * d], d)];
        let steps = vec![Step::Store { layer: 0, slots: vec![2, 0, 1], parts }];
        suite.check(&CacheCase::new(rng, spec, steps, "rounding"));
    }
    // Groups of 8 bits whose scale is 1, subnormal, too small to be one, and of which one value is not finite.
    let least = f32::from_bits(1);
    let groups = [
        [127.0, 0.5, 1.5, 2.5, -0.5, -1.5, 126.5, -126.5],
        [-127.0, 0.49999997, 0.50000006, 1.4999999, 63.5, 64.5, -125.5, 0.0],
        [0.0, 128.0, -190.0, 64.0, 1.0, -1.0, 7.0, 3.0].map(|v: f32| v * least),
        [1.0, 60.0, -63.0, 0.0, 2.0, 3.0, 4.0, 5.0].map(|v: f32| v * least),
        [1e38, -1e38, 1e30, 3.9e35, -4e35, 0.0, 1.0, -1.0],
        [1.0, 2.0, f32::NAN, 4.0, 5.0, 6.0, 7.0, 8.0],
        [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, f32::NEG_INFINITY],
        [0.0; 8],
    ];
    let (values, tail_len) = (groups.concat(), 8);
    let d = values.len();
    let row = RowLayout { row_len: 2 * d, group_len: 8, tail_len, row_format: RowFormat::Q8 };
    let spec = CacheSpec { n_layers: 1, n_blocks: 1, block_len: 1, row };
    let steps = vec![Step::Store { layer: 0, slots: vec![0], parts: vec![(values, d), (vec![0.0; d], d)] }];
    suite.check(&CacheCase::new(rng, spec, steps, "rounding of groups"));
}

pub(super) fn cache_copy_block<D: Device>(suite: &mut Suite<'_, D>) {
    copies(suite, Random::new(71), |from, to| Step::Copy { from, to });
}

/// Blocks that `step` copies, seen through attention.
fn copies<D: Device>(suite: &mut Suite<'_, D>, mut rng: Random, step: impl Fn(u32, u32) -> Step) {
    for spec in specs() {
        let n_slots = spec.n_blocks * spec.block_len;
        let mut steps = Vec::new();
        for layer in 0..spec.n_layers {
            let slots = some_slots(&mut rng, &spec, n_slots);
            steps.push(store(&mut rng, layer, slots, &[spec.row.row_len]));
        }
        steps.push(step(1, 3));
        suite.check(&CacheCase::new(&mut rng, spec, steps.clone(), "one copy"));
        steps.push(step(4, 0));
        suite.check(&CacheCase::new(&mut rng, spec, steps.clone(), "two copies"));
        // Source and copy do not share memory.
        let source = (spec.block_len..2 * spec.block_len).map(|slot| slot as u32).collect();
        steps.push(store(&mut rng, 0, source, &[spec.row.row_len]));
        suite.check(&CacheCase::new(&mut rng, spec, steps, "source overwritten"));
    }
}
