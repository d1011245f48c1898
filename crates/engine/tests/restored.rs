//! A context that comes back from files is the one that was computed: the same logits, bit by bit.
//!
//! Owns the way from a cache to the store and back, on oracle models and the scalar reference, with the MTP module's rows
//! behind the model's.
#![allow(clippy::unwrap_used, reason = "a test stops where something fails")]

use std::path::Path;

use engine::prefix::{BlockKey, Fingerprint, Load, Saved, Store, StoreOptions};
use model::{Cache, Form, Model, Workspace, forward, forward_mtp};
use ops::{Batch, Device, DeviceError, Reference, RowFormat};
use testkit::oracle::{fixtures, oracles, switches};

const BLOCK_LEN: usize = 4;
const N_BLOCKS: usize = 3;
/// Tokens behind the stored blocks.
const N_REST: usize = 3;

/// A sequence of one model with a cache of its own.
struct Sequence<'a> {
    model: &'a Model<Reference>,
    cache: Cache<Reference>,
    mtp_cache: Option<Cache<Reference>>,
    /// Where its blocks lie.
    table: Vec<u32>,
}

impl<'a> Sequence<'a> {
    fn new(model: &'a Model<Reference>, row_format: RowFormat, table: Vec<u32>) -> Self {
        let cache = Cache::new(model, &Reference, 6, BLOCK_LEN, row_format).unwrap();
        let mtp_cache = Cache::new_mtp(model, &Reference, 6, BLOCK_LEN, row_format);
        Self { model, cache, mtp_cache: model.mtp.as_ref().map(|_| mtp_cache.unwrap()), table }
    }

    fn block_bytes(&self) -> usize {
        self.cache.block_bytes() + self.mtp_cache.as_ref().map_or(0, Cache::block_bytes)
    }

    fn read_block(&self, i: usize, out: &mut [u8]) -> Result<(), DeviceError> {
        let (rows, mtp_rows) = out.split_at_mut(self.cache.block_bytes());
        self.cache.read_block(&Reference, self.table[i], rows)?;
        self.mtp_cache.as_ref().map_or(Ok(()), |cache| cache.read_block(&Reference, self.table[i], mtp_rows))
    }

    fn write_block(&mut self, i: usize, bytes: &[u8]) -> Result<(), DeviceError> {
        let (rows, mtp_rows) = bytes.split_at(self.cache.block_bytes());
        self.cache.write_block(&Reference, self.table[i], rows)?;
        self.mtp_cache.as_mut().map_or(Ok(()), |cache| cache.write_block(&Reference, self.table[i], mtp_rows))
    }

    /// Logits behind every token, then those of the MTP module; the token behind the last is 1.
    fn push(&mut self, tokens: &[u32], n_cached: usize) -> Vec<f32> {
        let n = tokens.len();
        let mut workspace = Workspace::new(self.model, &Reference, n, n).unwrap();
        let mut batch = Batch::with_capacity(n, 1, self.table.len());
        let mut seen = vec![0.0; n * self.model.config.vocab_size];
        batch.push_span(tokens, n_cached, &self.table, BLOCK_LEN);
        batch.sample_rows.extend(0..n as u32);
        forward(self.model, &Reference, Form::Auto, &batch, &mut self.cache, &mut workspace);
        Reference.read(workspace.logits(), &mut seen).unwrap();
        let Some(mtp_cache) = &mut self.mtp_cache else { return seen };
        let next: Vec<u32> = tokens[1..].iter().copied().chain([1]).collect();
        batch.clear();
        batch.push_span(&next, n_cached, &self.table, BLOCK_LEN);
        batch.sample_rows.extend(0..n as u32);
        let rows = &batch.sample_rows;
        forward_mtp(self.model, &Reference, Form::Auto, &batch, rows, mtp_cache, &mut workspace);
        let mut mtp_seen = vec![0.0; seen.len()];
        Reference.read(workspace.logits(), &mut mtp_seen).unwrap();
        seen.extend(mtp_seen);
        seen
    }
}

fn restored(folder: &Path, model: &Model<Reference>, row_format: RowFormat) {
    let tokens: Vec<u32> = (0..(N_BLOCKS * BLOCK_LEN + N_REST) as u32).map(|i| (i * 37 + 5) % 512).collect();
    let (context, rest) = tokens.split_at(N_BLOCKS * BLOCK_LEN);
    let mut first = Sequence::new(model, row_format, vec![0, 1, 2, 3]);
    let fingerprint = Fingerprint::new(&[1; 32], first.cache.spec(), first.mtp_cache.is_some(), "reference");
    let payload_bytes = first.block_bytes();
    let (budget_bytes, queue_bytes) = (1 << 24, 1 << 20);
    let options = StoreOptions { fingerprint, block_len: BLOCK_LEN, payload_bytes, budget_bytes, queue_bytes };
    first.push(context, 0);
    let store = Store::open(folder, options).unwrap();
    let mut parent = BlockKey::root(&fingerprint);
    for (i, tokens) in context.chunks_exact(BLOCK_LEN).enumerate() {
        let key = parent.child(tokens);
        let saved = store.save(&key, &parent, tokens, |out| first.read_block(i, out)).unwrap();
        assert_eq!(saved, Saved::Queued);
        parent = key;
    }
    let expected = first.push(rest, context.len());
    drop(store);

    let store = Store::open(folder, options).unwrap();
    let mut second = Sequence::new(model, row_format, vec![5, 0, 3, 1]);
    let mut bytes = vec![0; payload_bytes];
    let mut key = BlockKey::root(&fingerprint);
    for (i, tokens) in context.chunks_exact(BLOCK_LEN).enumerate() {
        key = key.child(tokens);
        assert_eq!(store.load(&key, tokens, &mut bytes), Load::Loaded);
        second.write_block(i, &bytes).unwrap();
    }
    assert_eq!(second.push(rest, context.len()), expected);
    let nothing = Sequence::new(model, row_format, vec![5, 0, 3, 1]).push(rest, context.len());
    assert_ne!(nothing, expected);
}

#[test]
fn a_context_from_files_is_the_one_that_was_computed() {
    let wanted = |name: &str| ["dsv2_lite", "qwen2", "dsv3_fp8_mtp"].contains(&name);
    let all = oracles(&fixtures()).into_iter().chain(oracles(&switches()));
    let models: Vec<_> = all.filter(|o| wanted(&o.name)).map(|o| o.load(&Reference).unwrap()).collect();
    assert_eq!((models.len(), models.iter().filter(|m| m.mtp.is_some()).count()), (3, 1));
    for model in &models {
        // One folder for all formats: no block is another's.
        let folder = tempfile::tempdir().unwrap();
        RowFormat::ALL.into_iter().for_each(|row_format| restored(folder.path(), model, row_format));
    }
}
