//! Drafts: tokens that are proposed cheaply, and verified by one forward pass over all of them.
//!
//! Owns where drafts come from ([`Lookup`]) and how many are worth their rows ([`Gate`]). Must not run a model.
//!
//! # Why the output stays exact
//!
//! The rows of drafts d₁ … d_k give the model's distributions p₁ … p_{k+1}. At each the caller *chooses* as it would
//! without drafts ([`Sampler::choose`](crate::Sampler::choose) with the history so far and the position's own
//! [`Place`](crate::Place)); while the choice equals the draft, the next row's distribution has the right tokens before
//! it and is used too. The first choice that differs is kept, and what was drafted behind it is dropped.
//!
//! Every token is so drawn from the target distribution itself, by the very draw that it would have had without drafts:
//! seeded output is token-identical with and without them, whoever drafts and however well. It is also what rejection
//! sampling (Leviathan, Kalman, Matias 2023) comes to for a proposal that is certain of one token d: accept d with
//! probability min(1, p(d)/1) = p(d), else draw from p without d, renormalised. The choice equals d with probability p(d);
//! given that it differs, it is distributed as p without d. So nothing is lost by the simpler rule.

mod gate;
mod lookup;

pub use gate::Gate;
pub use lookup::Lookup;
