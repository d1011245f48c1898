//! The models: from a checkpoint's config to a forward pass that reads like the paper.
//!
//! Owns Config, the weight plan, loading, the forward pass, the cache and the counts derived from the plan.
//! Must not know requests, schedules or threads. Once a model is loaded nothing here can fail.

mod cache;
pub mod config;
pub mod counts;
pub mod export;
mod forward;
mod identity;
mod load;
pub mod plan;
pub mod traffic;
pub mod weights;
mod workspace;

pub use cache::{Cache, KvCache, LatentCache, cache_spec, row_layout};
pub use config::{Config, ConfigError};
pub use forward::{Form, forward, forward_mtp, forward_stages, n_stages};
pub use identity::identity;
pub use load::{LoadError, fit_to_file, load, stored};
pub use weights::Model;
pub use workspace::{Workspace, workspace_bytes};
