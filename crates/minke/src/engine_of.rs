//! An engine over a model on the processor, with the blocks that outlive the process.
//!
//! Owns how device, model and limits become an engine, and where blocks are kept. Must not choose the limits.

use std::sync::Arc;

use cpu::Cpu;
use engine::prefix::{BlockKey, Fingerprint, Store, StoreOptions};
use engine::{BLOCK_LEN, Engine, Limits, ModelRunner, Runner};
use model::{Config, Model};
use ops::Device;

use crate::failure::{Failure, remark};
use crate::folders;

/// Most bytes on disk that blocks of conversations take; the least recently used give way.
const STORE_BYTES: u64 = 16 << 30;

/// Most blocks on disk: opening a store lists its folder, which takes a second for so many, and each is known by its name
/// in memory. Only very small models have blocks so small that this comes first.
const STORE_BLOCKS: u64 = 100_000;

/// Most bytes on their way to the disk.
const STORE_QUEUE_BYTES: u64 = 256 << 20;

/// Memory for what is on its way to the disk: never more than the cache that it comes from, which may be small.
pub(crate) fn queue_bytes(config: &Config, limits: &Limits) -> u64 {
    limits.memory(config).cache.min(STORE_QUEUE_BYTES)
}

/// What an engine is made of.
pub(crate) struct EngineOf<'a> {
    pub(crate) cpu: &'a Arc<Cpu>,
    pub(crate) model: &'a Arc<Model<Cpu>>,
    /// Which weights these are.
    pub(crate) identity: &'a [u8; 32],
}

impl EngineOf<'_> {
    /// Allocates everything; with `keeps_blocks`, what is computed is kept on disk.
    pub(crate) fn start(
        &self,
        limits: Limits,
        keeps_blocks: bool,
    ) -> Result<Engine<ModelRunner<Cpu, Arc<Cpu>>>, Failure> {
        let runner = ModelRunner::new(self.cpu.clone(), self.model.clone(), &limits)?;
        let spec = model::cache_spec(&self.model.config, limits.n_blocks, BLOCK_LEN, limits.row_format);
        let deterministic = limits.deterministic;
        let arithmetic = format!("{} {:?} {deterministic}", self.cpu.level().name(), self.cpu.activations());
        let fingerprint = Fingerprint::new(self.identity, &spec, runner.has_mtp(), &arithmetic);
        let queue_bytes = queue_bytes(&self.model.config, &limits) as usize;
        let store = if keeps_blocks { store(fingerprint, runner.block_bytes(), queue_bytes) } else { None };
        Ok(Engine::new(runner, limits, BlockKey::root(&fingerprint), store)?)
    }
}

/// The store of blocks; without one a conversation goes on all the same.
fn store(fingerprint: Fingerprint, payload_bytes: usize, queue_bytes: usize) -> Option<Store> {
    let options = StoreOptions {
        fingerprint,
        block_len: BLOCK_LEN,
        payload_bytes,
        budget_bytes: STORE_BYTES.min(STORE_BLOCKS * payload_bytes as u64),
        queue_bytes,
    };
    let store = folders::cache().map_err(|e| e.to_string());
    let store = store.and_then(|path| Store::open(path.join("blocks"), options).map_err(|e| e.to_string()));
    store.map_err(|e| remark(&format!("[what is computed is not kept: {e}]\n"))).ok()
}
