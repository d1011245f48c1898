//! Where each weight lies in the arena, and its gradient in another of the same layout.
//!
//! Owns the order (the weight plan's), names and ranges. Must not hold values.

use std::collections::HashMap;
use std::ops::Range;

use model::Config;
use model::plan::{PlannedTensor, Role, plan};

/// One line of the plan with its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Param {
    /// Names, shape and role.
    pub planned: PlannedTensor,
    /// Its values in the arena.
    pub range: Range<usize>,
}

impl Param {
    /// Whether it has a gradient. The router's bias moves by the experts' load instead.
    #[must_use]
    pub fn is_trained(&self) -> bool {
        !(self.planned.role == Role::Router && self.planned.shape.len() == 1)
    }
}

/// All weights of a config, end to end.
#[derive(Clone, Debug)]
pub struct Layout {
    params: Vec<Param>,
    by_name: HashMap<String, usize>,
    len: usize,
}

/// A tensor of a published checkpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Published {
    /// Its name there.
    pub name: String,
    /// Its shape there.
    pub shape: Vec<usize>,
    /// Its values in the arena.
    pub range: Range<usize>,
    /// As [`Param::is_trained`].
    pub is_trained: bool,
}

impl Layout {
    /// The layout of a config's weight plan.
    #[must_use]
    pub fn new(config: &Config) -> Self {
        let (mut params, mut len) = (Vec::new(), 0);
        for planned in plan(config) {
            let numel: usize = planned.shape.iter().product();
            params.push(Param { range: len..len + numel, planned });
            len += numel;
        }
        let by_name = params.iter().enumerate().map(|(i, p)| (p.planned.name.clone(), i)).collect();
        Self { params, by_name, len }
    }

    /// Values in the arena.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are no weights.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// All weights, in order.
    #[must_use]
    pub fn params(&self) -> &[Param] {
        &self.params
    }

    /// A weight by our name for it (`layers.3.w_o`).
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Param> {
        self.by_name.get(name).map(|&i| &self.params[i])
    }

    /// The tensors of a published safetensors checkpoint: routed experts one by one.
    pub fn published(&self) -> impl Iterator<Item = Published> {
        self.params.iter().flat_map(|param| {
            let (planned, range) = (&param.planned, &param.range);
            let stacked = planned.safetensors.contains("{}");
            let (n, shape) = match stacked {
                true => (planned.shape[0], planned.shape[1..].to_vec()),
                false => (1, planned.shape.clone()),
            };
            let each = range.len() / n.max(1);
            (0..n).map(move |e| Published {
                name: planned.safetensors.replace("{}", &e.to_string()),
                shape: shape.clone(),
                range: range.start + e * each..range.start + (e + 1) * each,
                is_trained: param.is_trained(),
            })
        })
    }
}
