//! The subcommands, one file each. Must not share state.

pub(crate) mod bench;
pub(crate) mod chat;
pub(crate) mod eval;
pub(crate) mod inspect;
pub(crate) mod logits;
pub(crate) mod quantize;
pub(crate) mod serve;
pub(crate) mod train;
