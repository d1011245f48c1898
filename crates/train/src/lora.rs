//! Low-rank adapters: y = x·(W + s·B·A)ᵀ with W frozen and s = alpha/rank.
//!
//! Owns which maps have one, where A `[r, cols]` and B `[rows, r]` lie in the arena (after the model's weights), their
//! first values, their gradients, and merging. Only the dense models have adapters. Must not know recipes or files.
//!
//! With u = s·x·Aᵀ: y += u·Bᵀ, d_B += d_yᵀ·u, d_u = s·d_y·B, d_A += d_uᵀ·x, d_x += d_u·A. Neither B·A nor a gradient of W
//! is ever made in a step.
//!
//! Source: Hu et al., LoRA (arXiv 2106.09685), section 4.1

use std::ops::Range;

use ops::{DeviceError, Gemm, GemmLayout, TrainDevice};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::backward::Gradients;
use crate::forward::Pass;
use crate::net::{AttentionParams, FfnParams, LayerParams, Linear, Net};
use crate::rng::Rng;

/// The linear maps of a layer that can have an adapter, by their published names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs, reason = "the variants carry the published names")]
pub enum Target {
    QProj,
    KProj,
    VProj,
    OProj,
    GateProj,
    UpProj,
    DownProj,
}

impl Target {
    const ALL: [Self; 7] =
        [Self::QProj, Self::KProj, Self::VProj, Self::OProj, Self::GateProj, Self::UpProj, Self::DownProj];

    /// Its published name, and the module it belongs to.
    fn name(self) -> (&'static str, &'static str) {
        match self {
            Self::QProj => ("self_attn", "q_proj"),
            Self::KProj => ("self_attn", "k_proj"),
            Self::VProj => ("self_attn", "v_proj"),
            Self::OProj => ("self_attn", "o_proj"),
            Self::GateProj => ("mlp", "gate_proj"),
            Self::UpProj => ("mlp", "up_proj"),
            Self::DownProj => ("mlp", "down_proj"),
        }
    }

    fn of(self, layer: &mut LayerParams) -> Option<&mut Linear> {
        let (AttentionParams::Gqa(attention), FfnParams::Dense(ffn)) = (&mut layer.attention, &mut layer.ffn) else {
            return None;
        };
        Some(match self {
            Self::QProj => &mut attention.w_q,
            Self::KProj => &mut attention.w_k,
            Self::VProj => &mut attention.w_v,
            Self::OProj => &mut attention.w_o,
            Self::GateProj => &mut ffn.w_gate,
            Self::UpProj => &mut ffn.w_up,
            Self::DownProj => &mut ffn.w_down,
        })
    }
}

/// `[lora]` of a recipe: train a small addition to a model instead of the model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LoraSpec {
    /// r: rows of A and columns of B.
    pub rank: usize,
    /// The addition counts alpha / rank times.
    pub alpha: f32,
    /// The maps that get one; all linear maps of attention and FFN where this is absent.
    #[serde(default = "all_targets")]
    pub targets: Vec<Target>,
}

fn all_targets() -> Vec<Target> {
    Target::ALL.to_vec()
}

/// One map's addition.
#[derive(Clone, Debug)]
pub(crate) struct Adapter {
    /// `[rank, cols]`
    a: Range<usize>,
    /// `[rows, rank]`
    b: Range<usize>,
    rank: usize,
    /// alpha / rank
    scale: f32,
}

/// A model's adapters.
#[derive(Clone, Debug)]
pub(crate) struct Adapters {
    pub(crate) spec: LoraSpec,
    /// A and B of each map in turn.
    pub(crate) tensors: Vec<AdapterTensor>,
    /// Values of all.
    pub(crate) len: usize,
}

/// A or B of one map.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AdapterTensor {
    /// Its name in PEFT's files.
    pub name: String,
    /// `[rank, cols]` of A, `[rows, rank]` of B.
    pub shape: [usize; 2],
    /// Its values in the arena.
    pub range: Range<usize>,
}

impl Net {
    /// Freezes the model and lays out an adapter for each of the targets. Their values begin at the layout's end.
    ///
    /// # Errors
    /// The model is not one of the dense ones: what it is
    pub fn adapt(&mut self, spec: &LoraSpec) -> Result<(), String> {
        let mut adapters = Adapters { spec: spec.clone(), tensors: Vec::new(), len: 0 };
        let first = self.layout.len();
        for (i, layer) in self.layers.iter_mut().enumerate() {
            for target in &spec.targets {
                let (module, name) = target.name();
                let Some(linear) = target.of(layer) else {
                    let found = self.config.family.model_type();
                    return Err(format!(
                        "expected a dense model (qwen2, qwen3 or llama) under adapters, found {found}"
                    ));
                };
                let module = format!("base_model.model.model.layers.{i}.{module}.{name}");
                let mut place = |kind: &str, shape: [usize; 2]| {
                    let start = first + adapters.len;
                    let range = start..start + shape[0] * shape[1];
                    adapters.len += range.len();
                    let name = format!("{module}.lora_{kind}.weight");
                    adapters.tensors.push(AdapterTensor { name, shape, range: range.clone() });
                    range
                };
                let a = place("A", [spec.rank, linear.cols]);
                let b = place("B", [linear.rows, spec.rank]);
                linear.adapter = Some(Adapter { a, b, rank: spec.rank, scale: spec.alpha / spec.rank as f32 });
            }
        }
        self.adapters = Some(adapters);
        Ok(())
    }

    /// The adapters' tensors, in order; none where the model itself is trained.
    #[must_use]
    pub fn adapter_tensors(&self) -> &[AdapterTensor] {
        self.adapters.as_ref().map_or(&[], |adapters| &adapters.tensors)
    }

    /// PEFT's adapter_config.json for the adapters, if there are any.
    #[must_use]
    pub fn adapter_config(&self, base: &str) -> Option<Value> {
        let LoraSpec { rank, alpha, targets } = &self.adapters.as_ref()?.spec;
        let targets: Vec<&str> = targets.iter().map(|target| target.name().1).collect();
        Some(json!({
            "peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": base, "r": rank,
            "lora_alpha": alpha, "target_modules": targets, "lora_dropout": 0.0, "bias": "none",
            "fan_in_fan_out": false, "inference_mode": true
        }))
    }

    /// Appends the adapters' first values to the weights: A normal with deviation 1/√cols, so that u is as large as x; B
    /// zero, so that the model is what it was.
    ///
    /// # Errors
    /// There is not enough memory
    pub fn start_adapters(&self, seed: u64, params: &mut Vec<f32>) -> Result<(), DeviceError> {
        let wanted = 4 * (self.n_values() - params.len()) as u64;
        let room = params.try_reserve_exact(self.n_values() - params.len());
        room.map_err(|_| DeviceError::OutOfMemory { what: "adapters", wanted })?;
        params.resize(self.n_values(), 0.0);
        for (i, tensor) in self.adapter_tensors().iter().enumerate().step_by(2) {
            let mut rng = Rng::new(&[seed, 0x10A, i as u64]);
            let deviation = (tensor.shape[1] as f64).powf(-0.5);
            params[tensor.range.clone()].iter_mut().for_each(|a| *a = (rng.normal() * deviation) as f32);
        }
        Ok(())
    }

    /// W ← W + s·B·A, B ← 0: the same model, without need of its adapters.
    pub fn merge<D: TrainDevice>(&self, dev: &D, params: &mut [f32]) {
        let (weights, values) = params.split_at_mut(self.layout.len());
        let first = weights.len();
        let of = |range: &Range<usize>| range.start - first..range.end - first;
        let mut layers = self.layers.clone();
        for linear in layers.iter_mut().flat_map(|layer| Target::ALL.map(|t| t.of(layer).cloned())).flatten() {
            let Some(Adapter { a, b, rank, scale }) = linear.adapter else { continue };
            let scaled: Vec<f32> = values[of(&b)].iter().map(|b| b * scale).collect();
            let product = Gemm::new(GemmLayout::Nn, [linear.rows, linear.cols, rank]).accumulate();
            dev.gemm(&product, &scaled, &values[of(&a)], &mut weights[linear.w.clone()]);
            values[of(&b)].fill(0.0);
        }
    }
}

impl<D: TrainDevice> Pass<'_, D> {
    /// u = s·x·Aᵀ
    fn inner(&self, w: &Linear, adapter: &Adapter, x: &[f32], n_rows: usize, u: &mut Vec<f32>) {
        u.resize(n_rows * adapter.rank, 0.0);
        self.dev.gemm(&self.linear_gemm([n_rows, adapter.rank, w.cols]), x, self.w(&adapter.a), u);
        u.iter_mut().for_each(|u| *u *= adapter.scale);
    }

    /// y += u·Bᵀ
    pub(crate) fn adapter(&self, w: &Linear, adapter: &Adapter, x: &[f32], n_rows: usize, y: &mut [f32]) {
        let [mut u, d_u] = self.inner.take();
        self.inner(w, adapter, x, n_rows, &mut u);
        let outer = self.linear_gemm([n_rows, w.rows, adapter.rank]).accumulate();
        self.dev.gemm(&outer, &u, self.w(&adapter.b), y);
        self.inner.set([u, d_u]);
    }

    /// Gradients of A and B, and what goes through them to `d_x`.
    pub(crate) fn adapter_backward(
        &self,
        (w, adapter): (&Linear, &Adapter),
        x: &[f32],
        d_y: &[f32],
        n_rows: usize,
        d_x: &mut [f32],
        g: &mut Gradients<'_>,
    ) {
        let (dev, rank) = (self.dev, adapter.rank);
        let [mut u, mut d_u] = self.inner.take();
        self.inner(w, adapter, x, n_rows, &mut u);
        d_u.resize(n_rows * rank, 0.0);
        dev.gemm(&Gemm::new(GemmLayout::Nn, [n_rows, rank, w.rows]), d_y, self.w(&adapter.b), &mut d_u);
        d_u.iter_mut().for_each(|u| *u *= adapter.scale);
        if let Some(d_b) = g.of(&adapter.b) {
            dev.gemm(&Gemm::new(GemmLayout::Tn, [w.rows, rank, n_rows]).accumulate(), d_y, &u, d_b);
        }
        if let Some(d_a) = g.of(&adapter.a) {
            dev.gemm(&Gemm::new(GemmLayout::Tn, [rank, w.cols, n_rows]).accumulate(), &d_u, x, d_a);
        }
        dev.gemm(&Gemm::new(GemmLayout::Nn, [n_rows, w.cols, rank]).accumulate(), &d_u, self.w(&adapter.a), d_x);
        self.inner.set([u, d_u]);
    }
}
