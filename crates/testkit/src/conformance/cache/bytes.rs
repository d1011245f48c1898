//! Cases of cache_read_block and cache_write_block: a block's bytes are the same on every device.
//!
//! Owns bytes that were stored as rows, and bytes that no row has. Must not allow one of them to differ.

use ops::{CacheSpec, Device, DeviceError};

use super::{Step, copies, some_slots, specs, store};
use crate::conformance::buffers::input;
use crate::conformance::case::{Case, Suite};
use crate::conformance::random::Random;
use crate::conformance::report::Bound;

struct BytesCase {
    spec: CacheSpec,
    /// Rows for every slot of every layer, where they come from there.
    rows: Vec<Step>,
    /// Blocks that are written, in this order, after the rows.
    blocks: Vec<(u32, Vec<u8>)>,
}

impl Case for BytesCase {
    fn label(&self) -> String {
        format!("{} blocks written over {} layers of rows, {:?}", self.blocks.len(), self.rows.len(), self.spec)
    }

    /// Every block's bytes, each as a number.
    fn run<D: Device>(&self, dev: &D) -> Result<Vec<f32>, DeviceError> {
        let mut cache = dev.alloc_cache(&self.spec)?;
        for step in &self.rows {
            let Step::Store { layer, slots, parts } = step else { unreachable!("rows are stored") };
            let (values, len) = &parts[0];
            dev.cache_store(&mut cache, *layer, slots, &[(&input(dev, values)?, *len)]);
        }
        for (block, bytes) in &self.blocks {
            dev.cache_write_block(&mut cache, *block, bytes)?;
        }
        let mut seen = Vec::new();
        for block in 0..self.spec.n_blocks as u32 {
            let mut bytes = vec![0xee; self.spec.block_bytes()];
            dev.cache_read_block(&cache, block, &mut bytes)?;
            seen.extend(bytes.into_iter().map(f32::from));
        }
        Ok(seen)
    }

    fn bounds(&self) -> Vec<Bound> {
        vec![Bound::Bits; self.spec.n_blocks * self.spec.block_bytes()]
    }
}

pub(in crate::conformance) fn check<D: Device>(suite: &mut Suite<'_, D>) {
    let mut rng = Random::new(72);
    for spec in specs() {
        let n_slots = spec.n_blocks * spec.block_len;
        let rows = |rng: &mut Random| -> Vec<Step> {
            let layers = 0..spec.n_layers;
            let every = |layer| {
                let slots = some_slots(rng, &spec, n_slots);
                store(rng, layer, slots, &[spec.row.row_len])
            };
            layers.map(every).collect()
        };
        // Any byte there is: numbers that are not finite and codes that no rounding makes come back as they were.
        let any = |rng: &mut Random| (0..spec.block_bytes()).map(|_| rng.below(256) as u8).collect::<Vec<u8>>();
        suite.check(&BytesCase { spec, rows: Vec::new(), blocks: Vec::new() });
        suite.check(&BytesCase { spec, rows: rows(&mut rng), blocks: Vec::new() });
        for blocks in [&[3][..], &[0, 4], &[2, 2]] {
            let blocks = blocks.iter().map(|block| (*block, any(&mut rng))).collect();
            suite.check(&BytesCase { spec, rows: rows(&mut rng), blocks });
        }
        suite.check(&BytesCase { spec, rows: rows(&mut rng), blocks: vec![(1, vec![0xff; spec.block_bytes()])] });
    }
    // What attention sees of them.
    copies(suite, rng, |from, to| Step::Move { from, to });
}
