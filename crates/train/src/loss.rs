//! What a step minimises, and its gradient.
//!
//! Owns the objective (next tokens, the MTP module's tokens, balance of the experts; or how far the model is from a
//! teacher) and the head, whose logits exist for a bounded number of rows at a time. Must not know optimisers or data.

use std::cell::Cell;

use ops::{Gemm, GemmLayout, Precision, TrainDevice};

use crate::backward::Gradients;
use crate::batch::Batch;
use crate::forward::Pass;
use crate::net::Net;
use crate::rl::reverse_kl;
use crate::teacher::Teacher;
use crate::workspace::{Scratch, Workspace, logit_rows};

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
    /// Negative log-likelihood of each row's target, `[T]`, in nats; 0 where the row is masked.
    pub nll: Vec<f64>,
}

/// The losses of a batch; their gradient is added to `g`.
///
/// # Shapes   `params [net.n_values()]` · `g [net.trained().len()]`
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
    let g = &mut Gradients::new(net, g);
    let pass = Pass::new(dev, net, params, batch, ws);
    if batch.is_empty() {
        return Losses::default();
    }
    pass.main(batch, ws);
    let mut losses = Losses::default();
    let gradient = Some((&mut ws.d_final, &mut *g));
    losses.nll = pass.head(batch, &mut pass.cross_entropy(batch, 1.0), &ws.h, &mut ws.scratch, gradient);
    losses.main = weighted(batch, &losses.nll);
    if let Some(w) = &net.mtp
        && objective.mtp != 0.0
    {
        let (shifted, from) = batch.shifted();
        pass.mtp(w, (&shifted, &from), ws);
        if let Some(kept) = &mut ws.mtp {
            let gradient = Some((&mut ws.d_x, &mut *g));
            let mut score = pass.cross_entropy(&shifted, objective.mtp);
            let nll = pass.head(&shifted, &mut score, &kept.h, &mut ws.scratch, gradient);
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

/// Negative log-likelihood of each row's target, `[T]`, in nats, by the main model; 0 where the row is masked. Its products are
/// inference's, bit by bit, where those of [`loss_and_gradient`] are as fast as the device has them.
///
/// # Panics   as [`loss_and_gradient`]
pub fn nll<D: TrainDevice>(dev: &D, net: &Net, params: &[f32], batch: &Batch, ws: &mut Workspace) -> Vec<f64> {
    let pass = Pass { precision: Precision::Inference, ..Pass::new(dev, net, params, batch, ws) };
    pass.main(batch, ws);
    pass.head(batch, &mut pass.cross_entropy(batch, 0.0), &ws.h, &mut ws.scratch, None)
}

/// How far the model is from a teacher on a batch's rows: Σ weight·KL(π_θ ‖ π_T) in `main` and each row's KL in place of
/// its `nll`; the gradient, with that of the balance loss of weight α, is added to `g`. What the rows say is taken as given.
///
/// # Panics   as [`loss_and_gradient`], and if the teacher's workspace is smaller than the batch
pub fn divergence_and_gradient<D: TrainDevice>(
    dev: &D,
    net: &Net,
    params: &[f32],
    batch: &Batch,
    (teacher, balance): (&mut Teacher, f32),
    ws: &mut Workspace,
    g: &mut [f32],
) -> Losses {
    let g = &mut Gradients::new(net, g);
    let pass = Pass::new(dev, net, params, batch, ws);
    if batch.is_empty() {
        return Losses::default();
    }
    teacher.read(dev, batch);
    pass.main(batch, ws);
    let vocab = net.config.vocab_size;
    let mut score = |rows: &[u32], logits: &mut [f32], found: &mut [f64]| {
        let theirs = teacher.logits(dev, rows);
        let their_vocab = theirs.len() / rows.len();
        let pairs = logits.chunks_exact_mut(vocab).zip(theirs.chunks_exact(their_vocab));
        for (((own, theirs), row), found) in pairs.zip(rows).zip(found) {
            *found = reverse_kl(own, &theirs[..vocab], batch.weights[*row as usize]);
        }
    };
    let mut losses = Losses::default();
    losses.nll = pass.head(batch, &mut score, &ws.h, &mut ws.scratch, Some((&mut ws.d_final, &mut *g)));
    losses.main = weighted(batch, &losses.nll);
    losses.balance = pass.main_backward(batch, balance, ws, g);
    losses.total = losses.main + losses.balance;
    losses
}

/// Turns the logits of some of a batch's rows into their gradient, and says what each row's loss is: rows, logits
/// `[rows, vocab]`, losses `[rows]`.
type Score<'s> = &'s mut dyn FnMut(&[u32], &mut [f32], &mut [f64]);

fn weighted(batch: &Batch, nll: &[f64]) -> f64 {
    batch.weights.iter().zip(nll).map(|(w, nll)| f64::from(*w) * nll).sum()
}

impl<'a, D: TrainDevice> Pass<'a, D> {
    pub(crate) fn new(dev: &'a D, net: &'a Net, params: &'a [f32], batch: &Batch, ws: &Workspace) -> Self {
        assert!(batch.len() <= ws.n_rows, "a step of {} rows in a workspace of {}", batch.len(), ws.n_rows);
        assert_eq!(params.len(), net.n_values(), "weights of another layout");
        let vocab = net.config.vocab_size;
        assert!(
            batch.tokens.iter().chain(&batch.targets).all(|t| (*t as usize) < vocab),
            "a token out of the vocabulary"
        );
        Self { dev, net, params, precision: Precision::Highest, inner: Cell::default() }
    }

    /// Negative log-likelihoods of the targets, and the gradient of `scale` times their weighted sum.
    fn cross_entropy(&self, batch: &Batch, scale: f32) -> impl FnMut(&[u32], &mut [f32], &mut [f64]) {
        move |rows, logits, found| {
            let targets: Vec<u32> = rows.iter().map(|t| batch.targets[*t as usize]).collect();
            let coefficients: Vec<f32> = rows.iter().map(|t| batch.weights[*t as usize] * scale).collect();
            self.dev.cross_entropy(logits, self.net.config.vocab_size, &targets, &coefficients, found);
        }
    }

    /// The rows' losses as `score` finds them, and their gradient: into the first buffer that of h `[T, d]`, and into the
    /// arena that of the head. Logits are made of the rows that count alone: in fine-tuning most are masked, and the head
    /// is the largest product of a small model.
    fn head(
        &self,
        batch: &Batch,
        score: Score<'_>,
        h: &[f32],
        s: &mut Scratch,
        mut gradient: Option<(&mut Vec<f32>, &mut Gradients<'_>)>,
    ) -> Vec<f64> {
        let (dev, d, vocab, head) = (self.dev, self.net.config.hidden_size, self.net.config.vocab_size, &self.net.head);
        let (logits, [x, d_x]) = (&mut s.logits, &mut s.head);
        let counted: Vec<u32> = (0u32..).zip(&batch.weights).filter(|(_, w)| **w != 0.0).map(|(t, _)| t).collect();
        let mut losses = vec![0.0; batch.len()];
        if let Some((d_h, _)) = &mut gradient {
            d_h[..batch.len() * d].fill(0.0);
        }
        for rows in counted.chunks(logit_rows(vocab)) {
            let n = rows.len();
            let mut found = vec![0.0; n];
            dev.gather_rows(h, rows, d, x);
            dev.gemm(&self.linear_gemm([n, vocab, d]), x, self.w(head), logits);
            score(rows, &mut logits[..n * vocab], &mut found);
            rows.iter().zip(found).for_each(|(t, found)| losses[*t as usize] = found);
            let Some((d_h, g)) = &mut gradient else { continue };
            dev.gemm(&Gemm::new(GemmLayout::Nn, [n, d, vocab]), logits, self.w(head), d_x);
            dev.scatter_add(d_x, rows, d, d_h);
            if let Some(d_head) = g.of(head) {
                dev.gemm(&Gemm::new(GemmLayout::Tn, [vocab, d, n]).accumulate(), logits, x, d_head);
            }
        }
        losses
    }
}
