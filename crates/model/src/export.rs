//! Weights out of this program, in the two forms that others read: a Hugging Face folder and a GGUF file.
//!
//! Owns which tensors and keys a file of each form holds, from the same tables that reading uses (`plan.rs`,
//! `config/gguf.rs`). Must not know how weights came to be, and writes through `checkpoint`.

mod config;
mod gguf;

use std::collections::BTreeMap;
use std::path::Path;

use checkpoint::Dtype;
use checkpoint::write::{self, Data, Item};
use ops::WeightFormat;

use crate::Config;
use crate::plan::{PlannedTensor, Role, plan};

pub use config::config_json;
pub use gguf::{GgufTokenizer, to_gguf};

/// How matrices are stored. Norms, biases and routers keep 32 bits in GGUF; in safetensors all but the router's bias
/// follow, as published checkpoints do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the variants carry the formats' published names")]
#[allow(non_camel_case_types, reason = "the variants carry the formats' published names")]
pub enum ExportFormat {
    F32,
    F16,
    BF16,
    /// 8.5 bits a weight. In GGUF alone.
    Q8_0,
    /// 4.5 bits a weight, embedding and head in [`Self::Q8_0`]. In GGUF alone.
    Q4_0,
}

impl ExportFormat {
    fn weight_format(self) -> WeightFormat {
        match self {
            Self::F32 => WeightFormat::F32,
            Self::F16 => WeightFormat::F16,
            Self::BF16 => WeightFormat::BF16,
            Self::Q8_0 => WeightFormat::Q8_0,
            Self::Q4_0 => WeightFormat::Q4_0,
        }
    }

    /// As config.json names it (`torch_dtype`); none where safetensors has no such type.
    #[must_use]
    pub fn torch_dtype(self) -> Option<&'static str> {
        match self {
            Self::F32 => Some("float32"),
            Self::F16 => Some("float16"),
            Self::BF16 => Some("bfloat16"),
            Self::Q8_0 | Self::Q4_0 => None,
        }
    }
}

/// A tensor of a file: name, type, shape, and where its values are.
struct Entry<'a> {
    name: String,
    format: WeightFormat,
    shape: Vec<usize>,
    values: std::borrow::Cow<'a, [f32]>,
}

impl Entry<'_> {
    fn item(&self) -> Item<'_> {
        Item { name: &self.name, dtype: Dtype::Weight(self.format), shape: &self.shape, data: Data::F32(&self.values) }
    }
}

/// Writes `model.safetensors` and `config.json` into a folder: what transformers loads.
///
/// `config_json` is the published form of `config` (one that is there, or [`config_json`]'s); `values` gives each tensor of
/// the plan, row-major, experts stacked.
///
/// # Errors
/// The format is one that safetensors lacks, a tensor's values do not fill its shape, or a file cannot be written; each
/// file appears whole or not at all
pub fn to_safetensors<'a>(
    folder: &Path,
    config_json: &serde_json::Value,
    config: &Config,
    format: ExportFormat,
    values: impl Fn(&PlannedTensor) -> &'a [f32],
) -> Result<(), checkpoint::Error> {
    let Some(torch_dtype) = format.torch_dtype() else {
        return Err(checkpoint::Error::File {
            file: folder.into(),
            at: "the weights' format".into(),
            expected: "F32, F16 or BF16".into(),
            found: format!("{format:?}"),
            advice: "write a .gguf file, or choose one of these",
        });
    };
    let entries = entries(config, format, values);
    let items: Vec<Item<'_>> = entries.iter().map(Entry::item).collect();
    let metadata = BTreeMap::from([("format".to_owned(), "pt".to_owned())]);
    write::safetensors(folder.join("model.safetensors"), &metadata, &items)?;
    let mut json = config_json.clone();
    json["torch_dtype"] = torch_dtype.into();
    let text = format!("{json:#}\n");
    write::atomically(&folder.join("config.json").into(), |out| std::io::Write::write_all(out, text.as_bytes()))
}

/// The bytes of `model.safetensors` in 32 bits, for weights that are handed on within the program.
///
/// # Errors
/// A tensor's values do not fill its shape
pub fn to_bytes<'a>(
    config: &Config,
    values: impl Fn(&PlannedTensor) -> &'a [f32],
) -> Result<Vec<u8>, checkpoint::Error> {
    let entries = entries(config, ExportFormat::F32, values);
    let items: Vec<Item<'_>> = entries.iter().map(Entry::item).collect();
    write::safetensors_bytes("weights in memory", &items)
}

/// The tensors of a published safetensors file: experts one by one.
fn entries<'a>(config: &Config, format: ExportFormat, values: impl Fn(&PlannedTensor) -> &'a [f32]) -> Vec<Entry<'a>> {
    let mut entries = Vec::new();
    for tensor in plan(config) {
        let all = values(&tensor);
        // The bias decides between experts by small differences.
        let is_bias = tensor.safetensors.ends_with("e_score_correction_bias");
        let format = if is_bias { WeightFormat::F32 } else { format.weight_format() };
        if tensor.role != Role::Expert {
            let (name, shape) = (tensor.safetensors, tensor.shape);
            entries.push(Entry { name, format, shape, values: all.into() });
            continue;
        }
        let one: usize = tensor.shape[1..].iter().product();
        for (e, values) in all.chunks_exact(one.max(1)).enumerate() {
            let name = tensor.safetensors.replace("{}", &e.to_string());
            entries.push(Entry { name, format, shape: tensor.shape[1..].to_vec(), values: values.into() });
        }
    }
    entries
}
