//! What the oracles know of training: the loss of prompt a, its gradient, and eight steps of AdamW.
//!
//! Owns reading `ref.json`. Must not train.

use std::path::Path;

use serde_json::Value;

/// A parameter's gradient, as far as it is stored.
#[derive(Clone, Debug)]
pub struct GradientStats {
    /// Name in transformers 5, where routed experts are stacked: `…mlp.experts.gate_up_proj [E, 2I, d]`.
    pub name: String,
    /// Root of the sum of squares.
    pub norm: f64,
    /// Sum of all values.
    pub sum: f64,
    /// The first values.
    pub first: Vec<f64>,
}

impl GradientStats {
    /// The largest relative distance of a gradient to what is stored of it: of its norm, of its first values, which count as
    /// no smaller than the typical one, and of its sum, which counts as no smaller than the norm.
    #[must_use]
    pub fn distance(&self, gradient: &[f32]) -> f64 {
        let values = || gradient.iter().map(|v| f64::from(*v));
        let norm = values().map(|v| v * v).sum::<f64>().sqrt();
        let typical = self.norm / (gradient.len() as f64).sqrt();
        let first = values().zip(&self.first).map(|(v, first)| (v - first).abs() / (first.abs() + typical));
        let off = first.fold((norm - self.norm).abs() / self.norm, f64::max);
        off.max((values().sum::<f64>() - self.sum).abs() / (self.sum.abs() + self.norm))
    }
}

/// What training computes on prompt a.
#[derive(Clone, Debug)]
pub struct Training {
    /// Mean cross-entropy of the next tokens.
    pub loss: f64,
    /// Of every parameter.
    pub gradients: Vec<GradientStats>,
    /// Learning rate, betas, epsilon and weight decay (of all parameters) of AdamW, without clipping.
    pub adamw: [f64; 5],
    /// The loss before each step.
    pub losses: Vec<f64>,
}

impl Training {
    /// Reads `ref.json` in an oracle's folder; none if it says nothing of training.
    pub(crate) fn read(dir: &Path) -> Option<Self> {
        let text = std::fs::read(dir.join("ref.json")).expect("ref.json");
        let json: Value = serde_json::from_slice(&text).expect("ref.json");
        let number = |value: &Value| value.as_f64().expect("a number");
        let numbers = |value: &Value| value.as_array().expect("numbers").iter().map(number).collect::<Vec<_>>();
        let stats = json.get("grad_stats_hf_names")?.as_object().expect("gradients");
        let adamw = &json["adamw"];
        let betas = numbers(&adamw["betas"]);
        let setting = |key: &str| number(&adamw[key]);
        Some(Self {
            loss: number(&json["loss_a"]),
            gradients: stats
                .iter()
                .map(|(name, stats)| GradientStats {
                    name: name.clone(),
                    norm: number(&stats["norm"]),
                    sum: number(&stats["sum"]),
                    first: numbers(&stats["first8"]),
                })
                .collect(),
            adamw: [setting("lr"), betas[0], betas[1], setting("eps"), setting("weight_decay")],
            losses: numbers(&adamw["losses"]),
        })
    }
}
