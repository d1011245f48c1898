//! From a checkpoint to weights on a device.
//!
//! Owns finding each planned tensor under its file's name, checking its shape, and handing it to the device without a
//! copy. Every planned tensor is used exactly once, and a tensor inside a computed layer that the plan does not know is
//! an error: it would be part of a computation that this program does not do.

use std::collections::HashSet;
use std::path::PathBuf;

use checkpoint::{Checkpoint, Kind, Tensor};
use ops::{Device, DeviceError, ExpertWeights, HeadWeights, WeightMatrix};
use thiserror::Error;

use crate::config::{Attention, Config, ConfigError, Gqa, Mla, Moe};
use crate::plan::{PlannedTensor, gguf_split_kv_b, plan};
use crate::weights::{
    AttentionWeights, FfnWeights, GqaWeights, LayerWeights, Linear, MlaQuery, MlaWeights, Model, MtpWeights, SwiGlu,
};

/// Why a model could not be loaded.
#[derive(Debug, Error)]
pub enum LoadError {
    /// The config asks for something this program does not compute.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A file is damaged or a tensor unusable.
    #[error(transparent)]
    Checkpoint(#[from] checkpoint::Error),
    /// The device is out of memory.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// The weights lack a tensor.
    #[error("{}: no tensor {name}: expected shape {shape:?} for {what}; the checkpoint is incomplete or of another model", file.display())]
    Missing {
        /// Where it was looked for.
        file: PathBuf,
        /// Its name in the file.
        name: String,
        /// Our name for it.
        what: String,
        /// Its shape.
        shape: Vec<usize>,
    },
    /// A tensor has another shape than the config says.
    #[error("{}: tensor {name}: expected shape {expected:?}, found {found:?}; config and weights are of different models", file.display())]
    Shape {
        /// The file.
        file: PathBuf,
        /// Its name in the file.
        name: String,
        /// By the config.
        expected: Vec<usize>,
        /// In the file.
        found: Vec<usize>,
    },
    /// A layer holds a tensor that the config does not account for.
    #[error("{}: tensor {name} is not part of a {family} model with this config; expected none of that name", file.display())]
    Unplanned {
        /// The file.
        file: PathBuf,
        /// Its name in the file.
        name: String,
        /// `model_type`
        family: &'static str,
    },
}

/// Loads a model onto a device, after [`fit_to_file`].
///
/// # Errors
/// a tensor is missing, unplanned, misshapen or undecodable, or the device is out of memory
pub fn load<D: Device>(dev: &D, mut config: Config, file: &Checkpoint) -> Result<Model<D>, LoadError> {
    fit_to_file(&mut config, file);
    let mut loader = Loader { dev, config: &config, file, plan: plan(&config), used: HashSet::new() };
    let n_layers = config.num_hidden_layers;
    let embed = loader.weight("embed")?;
    let layers = (0..n_layers).map(|i| loader.layer(i)).collect::<Result<_, _>>()?;
    let norm = loader.vector("norm")?;
    let head = if config.tie_word_embeddings { None } else { Some(loader.weight("head")?) };
    let mtp = if config.num_nextn_predict_layers > 0 { Some(loader.mtp(n_layers)?) } else { None };
    loader.refuse_unplanned()?;
    let rope = config.rope_table();
    Ok(Model { rope, embed, layers, norm, head, mtp, config })
}

/// Settles what only the files can tell: MTP modules that a published quantisation dropped are not there, and a head
/// that is stored is used, even if the config calls it tied.
pub fn fit_to_file(config: &mut Config, file: &Checkpoint) {
    let first = config.num_hidden_layers;
    let (mtp, head) = match file.kind() {
        Kind::Safetensors => (format!("model.layers.{first}.eh_proj.weight"), "lm_head.weight"),
        Kind::Gguf => (format!("blk.{first}.nextn.eh_proj.weight"), "output.weight"),
    };
    if file.tensor(&mtp).is_none() {
        config.num_nextn_predict_layers = 0;
    }
    if file.tensor(head).is_some() {
        config.tie_word_embeddings = false;
    }
}

/// The tensors of the file that hold a planned tensor: one, one per expert, or the two halves of a split `w_ukv`;
/// FP8 scales are left out. Absent ones are skipped.
pub fn stored<'f>(file: &'f Checkpoint, config: &Config, planned: &PlannedTensor) -> Vec<&'f Tensor> {
    if file.kind() == Kind::Gguf {
        if let Some(tensor) = file.tensor(&planned.gguf) {
            return vec![tensor];
        }
        let layer = planned.name.split('.').nth(1).and_then(|layer| layer.parse().ok());
        return match (&config.attention, layer, planned.name.ends_with(".w_ukv")) {
            (Attention::Mla(mla), Some(layer), true) => {
                gguf_split_kv_b(mla, layer).iter().filter_map(|(name, _)| file.tensor(name)).collect()
            }
            _ => Vec::new(),
        };
    }
    let n = if planned.safetensors.contains("{}") { planned.shape[0] } else { 1 };
    (0..n).filter_map(|e| file.tensor(&planned.safetensors.replace("{}", &e.to_string()))).collect()
}

struct Loader<'a, D: Device> {
    dev: &'a D,
    config: &'a Config,
    file: &'a Checkpoint,
    plan: Vec<PlannedTensor>,
    /// Names in the file that the model took.
    used: HashSet<String>,
}

impl<D: Device> Loader<'_, D> {
    /// The plan's line of a logical name.
    fn planned(&self, name: &str) -> PlannedTensor {
        let found = self.plan.iter().find(|t| t.name == name).cloned();
        found.unwrap_or_else(|| unreachable!("{name} is loaded but not planned"))
    }

    fn name_in_file(&self, planned: &PlannedTensor) -> String {
        match self.file.kind() {
            Kind::Safetensors => planned.safetensors.clone(),
            Kind::Gguf => planned.gguf.clone(),
        }
    }

    /// The tensor called `name` in the file, if its shape is right.
    fn find(&mut self, name: &str, what: &str, shape: &[usize]) -> Result<&Tensor, LoadError> {
        let Some(tensor) = self.file.tensor(name) else {
            let (file, name, what) = (self.file.path().to_owned(), name.to_owned(), what.to_owned());
            return Err(LoadError::Missing { file, name, what, shape: shape.to_vec() });
        };
        if tensor.shape != shape {
            let (file, name) = (tensor.file.to_path_buf(), name.to_owned());
            let (expected, found) = (shape.to_vec(), tensor.shape.clone());
            return Err(LoadError::Shape { file, name, expected, found });
        }
        self.used.insert(name.to_owned());
        Ok(tensor)
    }

    /// A matrix by its name in the file, with its FP8 scales where it has them.
    fn matrix_named(&mut self, name: &str, what: &str, shape: &[usize]) -> Result<WeightMatrix, LoadError> {
        self.find(name, what, shape)?;
        self.used.insert(format!("{name}_scale_inv"));
        Ok(self.file.matrix_of(name, self.config.fp8_block)?)
    }

    fn matrix(&mut self, name: &str) -> Result<WeightMatrix, LoadError> {
        let planned = self.planned(name);
        self.matrix_named(&self.name_in_file(&planned), name, &planned.shape)
    }

    fn weight(&mut self, name: &str) -> Result<D::Weight, LoadError> {
        let matrix = self.matrix(name)?;
        Ok(self.dev.upload(&matrix)?)
    }

    /// A norm or bias as f32.
    fn vector(&mut self, name: &str) -> Result<D::Buffer, LoadError> {
        let planned = self.planned(name);
        let values = self.find(&self.name_in_file(&planned), name, &planned.shape)?.to_f32()?;
        let mut buffer = self.dev.alloc(values.len())?;
        self.dev.write(&values, &mut buffer)?;
        Ok(buffer)
    }

    /// A linear map `{prefix}w_{name}` with the bias `{prefix}b_{name}`, if planned.
    fn linear(&mut self, prefix: &str, name: &str, bias: bool) -> Result<Linear<D>, LoadError> {
        let w = self.weight(&format!("{prefix}w_{name}"))?;
        let b = if bias { Some(self.vector(&format!("{prefix}b_{name}"))?) } else { None };
        Ok(Linear { w, b })
    }

    fn layer(&mut self, i: usize) -> Result<LayerWeights<D>, LoadError> {
        let prefix = format!("layers.{i}.");
        let config = self.config;
        Ok(LayerWeights {
            input_norm: self.vector(&format!("{prefix}input_norm"))?,
            attention: match &config.attention {
                Attention::Mla(mla) => AttentionWeights::Mla(self.mla(&prefix, i, mla)?),
                Attention::Gqa(gqa) => AttentionWeights::Gqa(self.gqa(&prefix, gqa)?),
            },
            post_attention_norm: self.vector(&format!("{prefix}post_attention_norm"))?,
            ffn: match config.moe_of(i) {
                Some(moe) => self.moe(&prefix, moe)?,
                None => FfnWeights::Dense(self.swiglu(&prefix, config.intermediate_size, config.mlp_bias)?),
            },
        })
    }

    fn mtp(&mut self, i: usize) -> Result<MtpWeights<D>, LoadError> {
        Ok(MtpWeights {
            enorm: self.vector(&format!("layers.{i}.enorm"))?,
            hnorm: self.vector(&format!("layers.{i}.hnorm"))?,
            w_eh: self.weight(&format!("layers.{i}.w_eh"))?,
            layer: self.layer(i)?,
            head_norm: self.vector(&format!("layers.{i}.head_norm"))?,
        })
    }

    fn mla(&mut self, prefix: &str, layer: usize, mla: &Mla) -> Result<MlaWeights<D>, LoadError> {
        let query = match mla.q_lora_rank {
            None => MlaQuery::Direct(self.linear(prefix, "q", false)?),
            Some(rank) => MlaQuery::Latent {
                w_dq: self.linear(prefix, "dq", mla.bias)?,
                q_norm: self.vector(&format!("{prefix}q_norm"))?,
                w_uq: self.linear(prefix, "uq", false)?,
                rank,
            },
        };
        let w_dkv = self.linear(prefix, "dkv", mla.bias)?;
        let kv_norm = self.vector(&format!("{prefix}kv_norm"))?;
        let [w_uk, w_uv] = self.w_ukv(prefix, layer, mla)?;
        Ok(MlaWeights { query, w_dkv, kv_norm, w_uk, w_uv, w_o: self.linear(prefix, "o", mla.bias)? })
    }

    /// W_UK and W_UV as the file lays them out: together, `[H, n + v, C]`, or split with W_UK transposed per head.
    fn w_ukv(&mut self, prefix: &str, layer: usize, mla: &Mla) -> Result<[HeadWeights<D::Weight>; 2], LoadError> {
        let (n_heads, nope, v) = (mla.num_attention_heads, mla.qk_nope_head_dim, mla.v_head_dim);
        let [(k_b, k_shape), (v_b, v_shape)] = gguf_split_kv_b(mla, layer);
        if self.file.kind() == Kind::Gguf && self.file.tensor(&k_b).is_some() {
            // Files made for old and new programs hold the unsplit form as well.
            self.used.insert(format!("blk.{layer}.attn_kv_b.weight"));
            let mut stacked = |name: &str, shape: [usize; 3], transposed| {
                let [n_heads, rows, cols] = shape;
                let tensor = self.find(name, "w_ukv", &shape)?;
                let matrix = Tensor { shape: vec![n_heads * rows, cols], ..tensor.clone() }.matrix()?;
                let weight = self.dev.upload(&matrix)?;
                Ok::<_, LoadError>(HeadWeights {
                    weight,
                    n_heads,
                    head_stride: rows,
                    head_start: 0,
                    head_rows: rows,
                    transposed,
                })
            };
            return Ok([stacked(&k_b, k_shape, true)?, stacked(&v_b, v_shape, false)?]);
        }
        let matrix = self.matrix(&format!("{prefix}w_ukv"))?;
        let part = |head_start, head_rows| {
            let weight = self.dev.upload(&matrix)?;
            let head_stride = nope + v;
            Ok::<_, LoadError>(HeadWeights { weight, n_heads, head_stride, head_start, head_rows, transposed: false })
        };
        Ok([part(0, nope)?, part(nope, v)?])
    }

    fn gqa(&mut self, prefix: &str, gqa: &Gqa) -> Result<GqaWeights<D>, LoadError> {
        Ok(GqaWeights {
            w_q: self.linear(prefix, "q", gqa.qkv_bias)?,
            w_k: self.linear(prefix, "k", gqa.qkv_bias)?,
            w_v: self.linear(prefix, "v", gqa.qkv_bias)?,
            w_o: self.linear(prefix, "o", gqa.o_bias)?,
            qk_norm: match gqa.qk_norm {
                true => Some([self.vector(&format!("{prefix}q_norm"))?, self.vector(&format!("{prefix}k_norm"))?]),
                false => None,
            },
        })
    }

    fn swiglu(&mut self, prefix: &str, width: usize, bias: bool) -> Result<SwiGlu<D>, LoadError> {
        Ok(SwiGlu {
            w_gate: self.linear(prefix, "gate", bias)?,
            w_up: self.linear(prefix, "up", bias)?,
            w_down: self.linear(prefix, "down", bias)?,
            width,
        })
    }

    fn moe(&mut self, prefix: &str, moe: &Moe) -> Result<FfnWeights<D>, LoadError> {
        let router = self.weight(&format!("{prefix}router"))?;
        let router_bias = if moe.router_bias { Some(self.vector(&format!("{prefix}router_bias"))?) } else { None };
        let experts = ExpertWeights {
            w_gate: self.expert_matrices(&format!("{prefix}experts.w_gate"))?,
            w_up: self.expert_matrices(&format!("{prefix}experts.w_up"))?,
            w_down: self.expert_matrices(&format!("{prefix}experts.w_down"))?,
        };
        let shared = match moe.n_shared_experts {
            0 => None,
            n => Some(self.swiglu(&format!("{prefix}shared."), n * moe.moe_intermediate_size, false)?),
        };
        Ok(FfnWeights::Moe { router, router_bias, experts, shared })
    }

    /// One matrix per expert: stacked in GGUF, one by one in safetensors.
    fn expert_matrices(&mut self, name: &str) -> Result<Vec<D::Weight>, LoadError> {
        let planned = self.planned(name);
        let matrices = match self.file.kind() {
            Kind::Gguf => self.find(&planned.gguf, name, &planned.shape)?.matrices()?,
            Kind::Safetensors => (0..planned.shape[0])
                .map(|e| {
                    let in_file = planned.safetensors.replace("{}", &e.to_string());
                    self.matrix_named(&in_file, name, &planned.shape[1..])
                })
                .collect::<Result<_, _>>()?,
        };
        Ok(matrices.iter().map(|m| self.dev.upload(m)).collect::<Result<_, _>>()?)
    }

    fn refuse_unplanned(&self) -> Result<(), LoadError> {
        for tensor in self.file.tensors() {
            if self.used.contains(&tensor.name) || !self.in_computed_layer(&tensor.name) {
                continue;
            }
            let (file, name) = (tensor.file.to_path_buf(), tensor.name.clone());
            return Err(LoadError::Unplanned { file, name, family: self.config.family.model_type() });
        }
        Ok(())
    }

    /// Whether a tensor's name places it inside a layer of the main model, where only buffers may be ignored.
    fn in_computed_layer(&self, name: &str) -> bool {
        let inside = name.strip_prefix("model.layers.").or_else(|| name.strip_prefix("blk."));
        let Some((layer, rest)) = inside.and_then(|rest| rest.split_once('.')) else { return false };
        let in_main_model = layer.parse::<usize>().is_ok_and(|layer| layer < self.config.num_hidden_layers);
        in_main_model && !rest.ends_with("rotary_emb.inv_freq")
    }
}
