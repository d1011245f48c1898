//! Optimisers over plain slices: what a gradient does to weights.
//!
//! Owns the update rules, their groups and their state. One arena each holds weights, gradients and state, laid out by
//! the caller's list of [`Parameter`]s. Must not know models, files or threads: large products come through [`Gemm`].

mod adamw;
mod gemm;
mod muon;
mod router_bias;
mod schedule;

use std::ops::Range;

pub use adamw::AdamW;
pub use gemm::{Gemm, Naive};
pub use muon::{Muon, NewtonSchulz, Scale};
pub use router_bias::update_router_bias;
pub use schedule::Schedule;

/// Which rule moves a parameter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Rule {
    /// Hidden matrices: Muon, where it is chosen.
    Matrix,
    /// Embeddings, heads and routers: AdamW with weight decay.
    Table,
    /// Norms and biases: AdamW without weight decay.
    Vector,
}

impl Rule {
    /// The rule of a tensor by its published name and shape: hidden matrices are what Muon orthogonalises, and a table of
    /// rows that are looked up (embedding, head, router) is not a map between hidden states.
    #[must_use]
    pub fn of(name: &str, shape: &[usize]) -> Self {
        let is_table = ["embed_tokens.weight", "lm_head.weight", "shared_head.head.weight", "mlp.gate.weight"];
        match shape.len() {
            0 | 1 => Self::Vector,
            _ if is_table.iter().any(|end| name.ends_with(end)) => Self::Table,
            _ => Self::Matrix,
        }
    }
}

/// A tensor's place in the arenas.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parameter {
    /// Its published name.
    pub name: String,
    /// First element in every arena.
    pub offset: usize,
    /// `[rows, columns]` of a matrix; `[n, rows, columns]` of n matrices that are moved one by one; otherwise any.
    pub shape: Vec<usize>,
    /// Which rule moves it.
    pub rule: Rule,
}

impl Parameter {
    /// Elements.
    #[must_use]
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// Whether there is nothing to move.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Its elements in every arena.
    #[must_use]
    pub fn range(&self) -> Range<usize> {
        self.offset..self.offset + self.len()
    }
}

/// Which optimiser, and its constants.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub enum Method {
    /// AdamW for everything.
    AdamW(AdamW),
    /// Muon for [`Rule::Matrix`], AdamW for the rest.
    Muon(Muon, AdamW),
}

/// An optimiser with its state.
///
/// AdamW keeps two moments of each weight, Muon one: the second arena is as long as what AdamW moves.
#[derive(Debug)]
pub struct Optimizer {
    method: Method,
    parameters: Vec<Parameter>,
    /// Steps done.
    step: u64,
    /// Momentum (Muon) or first moment (AdamW), laid out as the weights are.
    first: Vec<f32>,
    /// Second moment, laid out by `second_offsets`.
    second: Vec<f32>,
    /// Where each parameter's second moment begins; none where Muon moves it.
    second_offsets: Vec<Option<usize>>,
    scratch: muon::Scratch,
}

impl Optimizer {
    /// An optimiser at its first step.
    ///
    /// # Panics
    /// If parameters overlap or leave gaps: their layout is the program's own
    #[must_use]
    pub fn new(method: Method, parameters: Vec<Parameter>) -> Self {
        let mut end = 0;
        let mut n_second = 0;
        let mut second_offsets = Vec::with_capacity(parameters.len());
        for parameter in &parameters {
            assert_eq!(parameter.offset, end, "{} does not begin where the one before ends", parameter.name);
            end += parameter.len();
            let by_muon = matches!(method, Method::Muon(..)) && parameter.rule == Rule::Matrix;
            assert!(!by_muon || matches!(parameter.shape.len(), 2 | 3), "{} is no matrix", parameter.name);
            second_offsets.push((!by_muon).then_some(n_second));
            n_second += if by_muon { 0 } else { parameter.len() };
        }
        let scratch = muon::Scratch::default();
        Self {
            method,
            parameters,
            step: 0,
            first: vec![0.0; end],
            second: vec![0.0; n_second],
            second_offsets,
            scratch,
        }
    }

    /// The tensors it moves.
    #[must_use]
    pub fn parameters(&self) -> &[Parameter] {
        &self.parameters
    }

    /// Steps done.
    #[must_use]
    pub fn step(&self) -> u64 {
        self.step
    }

    /// The two arenas of state, for a checkpoint.
    #[must_use]
    pub fn state(&self) -> [&[f32]; 2] {
        [&self.first, &self.second]
    }

    /// Takes up the state of a checkpoint.
    ///
    /// # Errors
    /// If an arena has another length than this optimiser's: which lengths, in words
    pub fn restore(&mut self, step: u64, first: &[f32], second: &[f32]) -> Result<(), String> {
        let (expected, found) = ((self.first.len(), self.second.len()), (first.len(), second.len()));
        if expected != found {
            return Err(format!("the optimiser's state has lengths {found:?}, expected {expected:?}"));
        }
        self.step = step;
        self.first.copy_from_slice(first);
        self.second.copy_from_slice(second);
        Ok(())
    }

    /// Moves the weights by one step at learning rate `lr`.
    ///
    /// # Panics
    /// If an arena has another length than the parameters have
    pub fn update(&mut self, lr: f32, weights: &mut [f32], gradients: &[f32], gemm: &mut impl Gemm) {
        assert_eq!((weights.len(), gradients.len()), (self.first.len(), self.first.len()), "arenas");
        self.step += 1;
        let (adamw, muon) = match &self.method {
            Method::AdamW(adamw) => (adamw, None),
            Method::Muon(muon, adamw) => (adamw, Some(muon)),
        };
        for (parameter, second_offset) in self.parameters.iter().zip(&self.second_offsets) {
            let range = parameter.range();
            let (weights, gradients) = (&mut weights[range.clone()], &gradients[range.clone()]);
            let first = &mut self.first[range];
            match (second_offset, muon) {
                (Some(offset), _) => {
                    let second = &mut self.second[*offset..offset + parameter.len()];
                    adamw.update(self.step, lr, parameter.rule, weights, gradients, first, second);
                }
                (None, Some(muon)) => {
                    let (rows, columns) = match parameter.shape[..] {
                        [_, rows, columns] | [rows, columns] => (rows, columns),
                        _ => continue,
                    };
                    let matrices = weights.chunks_exact_mut(rows * columns).zip(gradients.chunks_exact(rows * columns));
                    for ((weights, gradients), momentum) in matrices.zip(first.chunks_exact_mut(rows * columns)) {
                        muon.update(lr, [rows, columns], weights, gradients, momentum, &mut self.scratch, gemm);
                    }
                }
                (None, None) => {}
            }
        }
    }
}

/// Scales gradients so that their norm over all of them is at most `norm_max`, and returns the norm they had.
///
/// The sum runs in f64, so it does not depend on the order beyond its last bits. A norm that is not finite leaves the
/// gradients alone: the caller must look at what is returned and skip the step.
pub fn clip_norm(gradients: &mut [f32], norm_max: f32) -> f32 {
    let norm = gradients.iter().map(|g| f64::from(*g) * f64::from(*g)).sum::<f64>().sqrt();
    if norm.is_finite() && norm > f64::from(norm_max) {
        let factor = (f64::from(norm_max) / norm) as f32;
        gradients.iter_mut().for_each(|g| *g *= factor);
    }
    norm as f32
}
