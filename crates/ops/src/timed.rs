//! A device that notes how long each operation of another takes.
//!
//! Owns the clock around every call. Must not change what is computed. Only for devices that return when an operation
//! is done.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::{
    Activations, AttendExpanded, AttendKv, AttendLatent, CacheSpec, Device, DeviceError, ExpertWeights, HeadLayout,
    HeadSide, HeadWeights, NormLayout, RopeTable, RouterSpec, WeightMatrix,
};

/// Calls of an operation, and the time in them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Spent {
    /// Calls.
    pub n_calls: u64,
    /// Time in all of them.
    pub time: Duration,
}

/// Wraps a device.
#[derive(Debug)]
pub struct Timed<'a, D> {
    dev: &'a D,
    spent: Mutex<BTreeMap<&'static str, Spent>>,
}

impl<'a, D: Device> Timed<'a, D> {
    /// A wrapper that has noted nothing.
    pub fn new(dev: &'a D) -> Self {
        Self { dev, spent: Mutex::default() }
    }

    /// What was noted since the last call of this, by the operations' names.
    pub fn take(&self) -> BTreeMap<&'static str, Spent> {
        std::mem::take(&mut *self.spent.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn time<R>(&self, name: &'static str, operation: impl FnOnce(&D) -> R) -> R {
        let start = Instant::now();
        let result = operation(self.dev);
        let time = start.elapsed();
        let mut all = self.spent.lock().unwrap_or_else(PoisonError::into_inner);
        let spent = all.entry(name).or_default();
        spent.n_calls += 1;
        spent.time += time;
        result
    }
}

impl<D: Device> Device for Timed<'_, D> {
    type Buffer = D::Buffer;
    type Weight = D::Weight;
    type Cache = D::Cache;
    type Routes = D::Routes;

    fn activations(&self) -> Activations {
        self.dev.activations()
    }

    fn upload(&self, weight: &WeightMatrix) -> Result<D::Weight, DeviceError> {
        self.dev.upload(weight)
    }

    fn alloc(&self, len: usize) -> Result<D::Buffer, DeviceError> {
        self.dev.alloc(len)
    }

    fn alloc_routes(&self, n_tokens: usize, top_k: usize) -> Result<D::Routes, DeviceError> {
        self.dev.alloc_routes(n_tokens, top_k)
    }

    fn alloc_cache(&self, spec: &CacheSpec) -> Result<D::Cache, DeviceError> {
        self.dev.alloc_cache(spec)
    }

    fn write(&self, src: &[f32], dst: &mut D::Buffer) -> Result<(), DeviceError> {
        self.time("write", |dev| dev.write(src, dst))
    }

    fn read(&self, src: &D::Buffer, dst: &mut [f32]) -> Result<(), DeviceError> {
        self.time("read", |dev| dev.read(src, dst))
    }

    fn read_routes(&self, src: &D::Routes, ids: &mut [u32], weights: &mut [f32]) -> Result<(), DeviceError> {
        self.time("read_routes", |dev| dev.read_routes(src, ids, weights))
    }

    fn cache_read_block(&self, cache: &D::Cache, block: u32, out: &mut [u8]) -> Result<(), DeviceError> {
        self.time("cache_read_block", |dev| dev.cache_read_block(cache, block, out))
    }

    fn cache_write_block(&self, cache: &mut D::Cache, block: u32, bytes: &[u8]) -> Result<(), DeviceError> {
        self.time("cache_write_block", |dev| dev.cache_write_block(cache, block, bytes))
    }

    fn embed(&self, w: &D::Weight, tokens: &[u32], out: &mut D::Buffer) {
        self.time("embed", |dev| dev.embed(w, tokens, out));
    }

    fn add_rmsnorm(
        &self,
        x: &mut D::Buffer,
        delta: Option<&D::Buffer>,
        w: &D::Buffer,
        layout: NormLayout,
        out: &mut D::Buffer,
    ) {
        self.time("add_rmsnorm", |dev| dev.add_rmsnorm(x, delta, w, layout, out));
    }

    fn rmsnorm(&self, x: &mut D::Buffer, w: &D::Buffer, layout: NormLayout) {
        self.time("rmsnorm", |dev| dev.rmsnorm(x, w, layout));
    }

    fn matmul(&self, x: &D::Buffer, n_rows: usize, w: &D::Weight, bias: Option<&D::Buffer>, out: &mut D::Buffer) {
        self.time("matmul", |dev| dev.matmul(x, n_rows, w, bias, out));
    }

    fn matmul_heads(
        &self,
        x: &D::Buffer,
        x_layout: HeadLayout,
        n_rows: usize,
        w: &HeadWeights<D::Weight>,
        side: HeadSide,
        out: &mut D::Buffer,
    ) {
        self.time("matmul_heads", |dev| dev.matmul_heads(x, x_layout, n_rows, w, side, out));
    }

    fn rope(&self, x: &mut D::Buffer, layout: HeadLayout, positions: &[u32], table: &RopeTable) {
        self.time("rope", |dev| dev.rope(x, layout, positions, table));
    }

    fn cache_store(&self, cache: &mut D::Cache, layer: usize, slots: &[u32], parts: &[(&D::Buffer, usize)]) {
        self.time("cache_store", |dev| dev.cache_store(cache, layer, slots, parts));
    }

    fn cache_copy_block(&self, cache: &mut D::Cache, from: u32, to: u32) {
        self.time("cache_copy_block", |dev| dev.cache_copy_block(cache, from, to));
    }

    fn attend_latent(&self, args: &AttendLatent<'_, Self>, out: &mut D::Buffer) {
        let AttendLatent { q_lat, q, q_pe, cache, layer, spans, block_tables, kv_lora_rank, scale } = *args;
        let args = AttendLatent { q_lat, q, q_pe, cache, layer, spans, block_tables, kv_lora_rank, scale };
        self.time("attend_latent", |dev| dev.attend_latent(&args, out));
    }

    fn attend_expanded(&self, args: &AttendExpanded<'_, Self>, out: &mut D::Buffer) {
        let AttendExpanded { q, q_pe, cache, layer, spans, block_tables, w_uk, w_uv, v_head_dim, scale } = *args;
        let args = AttendExpanded { q, q_pe, cache, layer, spans, block_tables, w_uk, w_uv, v_head_dim, scale };
        self.time("attend_expanded", |dev| dev.attend_expanded(&args, out));
    }

    fn attend_kv(&self, args: &AttendKv<'_, Self>, out: &mut D::Buffer) {
        let AttendKv { q, cache, layer, spans, block_tables, n_heads, n_kv_heads, head_dim, scale } = *args;
        let args = AttendKv { q, cache, layer, spans, block_tables, n_heads, n_kv_heads, head_dim, scale };
        self.time("attend_kv", |dev| dev.attend_kv(&args, out));
    }

    fn swiglu(&self, gate: &mut D::Buffer, up: &D::Buffer, len: usize) {
        self.time("swiglu", |dev| dev.swiglu(gate, up, len));
    }

    fn route(
        &self,
        spec: &RouterSpec,
        logits: &D::Buffer,
        bias: Option<&D::Buffer>,
        n_rows: usize,
        out: &mut D::Routes,
    ) {
        self.time("route", |dev| dev.route(spec, logits, bias, n_rows, out));
    }

    fn experts(
        &self,
        x: &D::Buffer,
        n_rows: usize,
        routes: &D::Routes,
        w: &ExpertWeights<D::Weight>,
        out: &mut D::Buffer,
    ) {
        self.time("experts", |dev| dev.experts(x, n_rows, routes, w, out));
    }

    fn add(&self, x: &mut D::Buffer, y: &D::Buffer, len: usize) {
        self.time("add", |dev| dev.add(x, y, len));
    }

    fn concat(&self, a: &D::Buffer, b: &D::Buffer, n_rows: usize, dim: usize, out: &mut D::Buffer) {
        self.time("concat", |dev| dev.concat(a, b, n_rows, dim, out));
    }

    fn gather(&self, x: &D::Buffer, rows: &[u32], dim: usize, out: &mut D::Buffer) {
        self.time("gather", |dev| dev.gather(x, rows, dim, out));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Reference;

    #[test]
    fn calls_are_counted_and_results_are_the_devices_own() {
        let timed = Timed::new(&Reference);
        let mut x = vec![1.0, 2.0, 3.0];
        timed.add(&mut x, &vec![1.0; 3], 2);
        timed.add(&mut x, &vec![1.0; 3], 3);
        assert_eq!(x, [3.0, 4.0, 4.0]);
        let spent = timed.take();
        assert_eq!(spent.iter().map(|(name, spent)| (*name, spent.n_calls)).collect::<Vec<_>>(), [("add", 2)]);
        assert!(timed.take().is_empty());
    }
}
