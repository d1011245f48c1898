//! What a step reads from memory: bytes of weights as they are stored, and cached rows.
//!
//! Owns arithmetic on the plan and the file's sizes. Scales of FP8 blocks, norms of activations and the activations
//! themselves are left out: they are below a percent. Must not load or measure anything.

use checkpoint::Checkpoint;

use crate::Config;
use crate::load::stored;
use crate::plan::{Role, plan};

/// Bytes of a model's weights, by when they are read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WeightBytes {
    /// Read by every step, however many rows it has.
    pub always: u64,
    /// Read where a row samples: the output head.
    pub head: u64,
    /// One row of the embedding.
    pub embedding_row: u64,
    /// One routed expert of each layer; 0 for a dense layer.
    pub expert: Vec<u64>,
}

impl WeightBytes {
    /// Of the main model, as the file stores it.
    #[must_use]
    pub fn new(config: &Config, file: &Checkpoint) -> Self {
        let mut bytes = Self { always: 0, head: 0, embedding_row: 0, expert: vec![0; config.num_hidden_layers] };
        for planned in plan(config).iter().filter(|t| !t.mtp) {
            let n: u64 = stored(file, config, planned).iter().map(|t| t.bytes.len() as u64).sum();
            match (planned.role, &config.moe, layer_of(&planned.name)) {
                (Role::Embedding, _, _) => {
                    bytes.embedding_row = n / config.vocab_size as u64;
                    if config.tie_word_embeddings {
                        bytes.head = n;
                    }
                }
                (Role::Head, _, _) => bytes.head = n,
                (Role::Expert, Some(moe), Some(layer)) => bytes.expert[layer] += n / moe.router.n_experts as u64,
                _ => bytes.always += n,
            }
        }
        bytes
    }

    /// Of a step of `n_rows` rows that needs `n_experts` distinct experts in each layer, and logits.
    #[must_use]
    pub fn of_step(&self, n_rows: usize, n_experts: &[usize]) -> u64 {
        let experts: u64 = self.expert.iter().zip(n_experts).map(|(bytes, n)| bytes * *n as u64).sum();
        self.always + self.head + self.embedding_row * n_rows as u64 + experts
    }

    /// Of decoding one token: k experts in each layer that has any.
    #[must_use]
    pub fn per_token(&self, config: &Config) -> u64 {
        let top_k = config.moe.as_ref().map_or(0, |moe| moe.router.top_k);
        self.of_step(1, &vec![top_k; self.expert.len()])
    }
}

/// The layer that a planned tensor's name tells.
fn layer_of(name: &str) -> Option<usize> {
    name.strip_prefix("layers.")?.split('.').next()?.parse().ok()
}
