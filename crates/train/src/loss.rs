//! What a step minimises, and its gradient.
//!
//! Owns the objective (next tokens, the MTP module's tokens, balance of the experts) and the head, whose logits exist for
//! a bounded number of rows at a time. Must not know optimisers or data.

use ops::{Gemm, GemmLayout, TrainDevice};

use crate::batch::Batch;
use crate::forward::Pass;
use crate::net::Net;
use crate::workspace::{Workspace, logit_rows};

/// What is added to the loss of the next tokens.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Objective {
    /// λ of the MTP module's loss (DeepSeek-V3: 0.3, later 0.1). At 0 the module is not computed.
    pub mtp: f32,
    /// α of the sequence-wise balance loss (DeepSeek-V3: 1e-4).
    pub balance: f32,
}

impl Objective {
    /// The loss of the next tokens alone.
    pub const NEXT_TOKEN: Self = Self { mtp: 0.0, balance: 0.0 };
}

/// The losses of a step.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Losses {
    /// Σ weight·nll of the next tokens.
    pub main: f64,
    /// Σ weight·nll of the MTP module, without λ.
    pub mtp: f64,
    /// Balance loss of all layers, α included.
    pub balance: f64,
    /// main + λ·mtp + balance: what is minimised.
    pub total: f64,
    /// Negative log-likelihood of each row's target, `[T]`, in nats.
    pub nll: Vec<f64>,
}

/// The losses of a batch; their gradient is added to `g`.
///
/// # Shapes   `params, g [net.layout.len()]`
/// # Panics   if the batch has more rows than the workspace, a token is not in the vocabulary, or the arenas are of
/// another layout (bugs of the caller)
pub fn loss_and_gradient<D: TrainDevice>(
    dev: &D,
    net: &Net,
    params: &[f32],
    batch: &Batch,
    objective: Objective,
    ws: &mut Workspace,
    g: &mut [f32],
) -> Losses {
    assert_eq!(g.len(), net.layout.len(), "gradients of another layout");
    let pass = Pass::new(dev, net, params, batch, ws);
    if batch.is_empty() {
        return Losses::default();
    }
    pass.main(batch, ws);
    let mut losses = Losses::default();
    let logits = &mut ws.scratch.logits;
    losses.nll = pass.head(batch, 1.0, &ws.h, logits, Some((&mut ws.d_final, &mut *g)));
    losses.main = weighted(batch, &losses.nll);
    if let Some(w) = &net.mtp
        && objective.mtp != 0.0
    {
        let (shifted, from) = batch.shifted();
        pass.mtp(w, (&shifted, &from), ws);
        if let Some(kept) = &mut ws.mtp {
            let gradient = Some((&mut ws.d_x, &mut *g));
            let nll = pass.head(&shifted, objective.mtp, &kept.h, &mut ws.scratch.logits, gradient);
            losses.mtp = weighted(&shifted, &nll);
            // The head has read its input: the gradient takes its place.
            std::mem::swap(&mut kept.h, &mut ws.d_x);
        }
        losses.balance += pass.mtp_backward(w, (&shifted, &from), objective.balance, ws, g);
    }
    losses.balance += pass.main_backward(batch, objective.balance, ws, g);
    losses.total = losses.main + f64::from(objective.mtp) * losses.mtp + losses.balance;
    losses
}

/// Negative log-likelihood of each row's target, `[T]`, in nats, by the main model.
///
/// # Panics   as [`loss_and_gradient`]
pub fn nll<D: TrainDevice>(dev: &D, net: &Net, params: &[f32], batch: &Batch, ws: &mut Workspace) -> Vec<f64> {
    let pass = Pass::new(dev, net, params, batch, ws);
    pass.main(batch, ws);
    pass.head(batch, 0.0, &ws.h, &mut ws.scratch.logits, None)
}

fn weighted(batch: &Batch, nll: &[f64]) -> f64 {
    batch.weights.iter().zip(nll).map(|(w, nll)| f64::from(*w) * nll).sum()
}

impl<'a, D: TrainDevice> Pass<'a, D> {
    fn new(dev: &'a D, net: &'a Net, params: &'a [f32], batch: &Batch, ws: &Workspace) -> Self {
        assert!(batch.len() <= ws.n_rows, "a step of {} rows in a workspace of {}", batch.len(), ws.n_rows);
        assert_eq!(params.len(), net.layout.len(), "weights of another layout");
        let vocab = net.config.vocab_size;
        assert!(
            batch.tokens.iter().chain(&batch.targets).all(|t| (*t as usize) < vocab),
            "a token out of the vocabulary"
        );
        Self { dev, net, params }
    }

    /// Negative log-likelihoods of the targets, and of `scale` times their weighted sum the gradient: into the first buffer
    /// that of h `[T, d]`, and into the arena that of the head.
    fn head(
        &self,
        batch: &Batch,
        scale: f32,
        h: &[f32],
        logits: &mut [f32],
        mut gradient: Option<(&mut Vec<f32>, &mut [f32])>,
    ) -> Vec<f64> {
        let (d, vocab, head) = (self.net.config.hidden_size, self.net.config.vocab_size, &self.net.head);
        let coefficients: Vec<f32> = batch.weights.iter().map(|w| w * scale).collect();
        let mut nll = vec![0.0; batch.len()];
        let n_rows = logit_rows(vocab);
        for start in (0..batch.len()).step_by(n_rows) {
            let rows = start..batch.len().min(start + n_rows);
            let n = rows.len();
            let h = &h[start * d..][..n * d];
            self.dev.gemm(&Gemm::new(GemmLayout::Nt, [n, vocab, d]), h, self.w(head), logits);
            let (targets, coefficients) = (&batch.targets[rows.clone()], &coefficients[rows.clone()]);
            self.dev.cross_entropy(&mut logits[..n * vocab], vocab, targets, coefficients, &mut nll[rows]);
            if let Some((d_h, g)) = &mut gradient {
                let d_h = &mut d_h[start * d..][..n * d];
                self.dev.gemm(&Gemm::new(GemmLayout::Nn, [n, d, vocab]), logits, self.w(head), d_h);
                let outer = Gemm::new(GemmLayout::Tn, [vocab, d, n]).accumulate();
                self.dev.gemm(&outer, logits, h, &mut g[head.clone()]);
            }
        }
        nll
    }
}
