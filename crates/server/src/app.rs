//! What all requests share.
//!
//! Owns the parts of a running server and how work is handed to threads that may block. Must not know routes.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use engine::Handle;
use tokio::sync::Semaphore;

use crate::activity::Activity;
use crate::auth::Keys;
use crate::chats::Chats;
use crate::dialect::responses::Remembered;
use crate::error::ApiError;
use crate::machine::History;
use crate::metrics::Metrics;
use crate::model::Model;
use crate::options::Options;
use crate::page::Compressed;

/// A running server; clones share it.
pub(crate) type App = Arc<Shared>;

/// What requests share.
pub(crate) struct Shared {
    pub(crate) model: Arc<Model>,
    pub(crate) engine: Handle,
    pub(crate) options: Options,
    pub(crate) keys: Keys,
    pub(crate) metrics: Metrics,
    pub(crate) chats: Option<Chats>,
    pub(crate) activity: Arc<Activity>,
    pub(crate) history: History,
    pub(crate) compressed: Compressed,
    pub(crate) remembered: Remembered,
    /// The description of all routes, as JSON.
    pub(crate) openapi: OnceLock<String>,
    /// A place for each request that runs or waits.
    pub(crate) places: Arc<Semaphore>,
    /// Rendering and compiling take a processor each.
    workers: Arc<Semaphore>,
    draining: AtomicBool,
}

impl Shared {
    pub(crate) fn new(model: Arc<Model>, engine: Handle, options: Options, chats: Option<Chats>) -> Self {
        let n_workers = std::thread::available_parallelism().map_or(2, usize::from);
        Self {
            model,
            engine,
            keys: Keys::new(&options),
            metrics: Metrics::default(),
            chats,
            activity: Arc::default(),
            history: History::default(),
            compressed: Compressed::default(),
            remembered: Remembered::default(),
            openapi: OnceLock::new(),
            places: Arc::new(Semaphore::new(options.n_requests)),
            workers: Arc::new(Semaphore::new(n_workers)),
            draining: AtomicBool::new(false),
            options,
        }
    }

    /// Whether the server is to end.
    pub(crate) fn draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    /// The server is to end.
    pub(crate) fn drain(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }

    /// Does work that takes a processor for a while, on a thread that serves no socket.
    ///
    /// # Errors
    /// It panicked: a bug, which ends the request alone
    pub(crate) async fn work<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, ApiError> {
        // The semaphore is never closed.
        let permit = self.workers.clone().acquire_owned().await.ok();
        let done = tokio::task::spawn_blocking(move || {
            let done = work();
            drop(permit);
            done
        });
        done.await.map_err(|_| ApiError::internal("this request met a bug of the server"))
    }
}
