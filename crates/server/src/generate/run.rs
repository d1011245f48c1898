//! A request on its way through the engine.
//!
//! Owns submitting, waiting and leaving: whoever drops a [`Generation`] frees its work within one step. Must not know text.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use engine::{Handle, Rejected, RequestId};
use tokio::sync::OwnedSemaphorePermit;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::task::JoinHandle;

use super::prepare::{Prepared, prepare, prepare_read_back};
use super::{GenerationRequest, Output};
use crate::activity::Listed;
use crate::app::App;
use crate::auth::{Caller, Ticket};
use crate::error::{ApiError, RETRY_AFTER_S};
use crate::model::Model;

/// How long an answer's headers wait for the engine to take the request, which it does between two steps.
const SUBMIT_WAIT: Duration = Duration::from_secs(1);

/// A request that runs.
pub(crate) struct Generation {
    /// When it came.
    pub(crate) begun: Instant,
    /// Tokens of its prompt.
    pub(crate) prompt: Arc<[u32]>,
    handle: Handle,
    id: Option<RequestId>,
    submitting: Option<JoinHandle<Result<RequestId, Rejected>>>,
    outputs: UnboundedReceiver<Output>,
    waiting: Arc<AtomicUsize>,
    n_left: usize,
    /// Its place in the list of requests.
    listed: Listed,
    /// A token has been heard.
    spoke: bool,
    app: App,
    /// Its places in the queue and among its key's requests; freed with it.
    _places: (OwnedSemaphorePermit, Ticket),
}

/// Prepares and submits a request.
///
/// # Errors
/// It cannot be used, or there is no place for it
pub(crate) async fn start(app: &App, caller: &Caller, wish: GenerationRequest) -> Result<Generation, ApiError> {
    let owner = caller.owner(wish.user.as_deref());
    let n = wish.n;
    begin(app, caller, n, move |model| prepare(model, &wish, owner)).await
}

/// Reads a text back: the outputs are its tokens but the first, with their log-probabilities.
///
/// # Errors
/// It cannot be used, or there is no place for it
pub(crate) async fn read_back(
    app: &App,
    caller: &Caller,
    tokens: Vec<u32>,
    top_logprobs: usize,
) -> Result<Generation, ApiError> {
    let owner = caller.owner(None);
    begin(app, caller, 1, move |model| prepare_read_back(model, &tokens, top_logprobs, owner)).await
}

async fn begin(
    app: &App,
    caller: &Caller,
    n: usize,
    prepare: impl FnOnce(&Model) -> Result<Prepared, ApiError> + Send + 'static,
) -> Result<Generation, ApiError> {
    let begun = Instant::now();
    if app.draining() {
        return Err(ApiError::unavailable("the server is shutting down"));
    }
    let ticket = caller.ticket()?;
    let place = app.places.clone().try_acquire_owned().map_err(|_| {
        app.metrics.n_refused.fetch_add(1, Ordering::Relaxed);
        ApiError::busy("as many requests wait as the queue holds; try again later", RETRY_AFTER_S)
    })?;
    let model = app.model.clone();
    let Prepared { request, outputs, waiting, prompt } = app.work(move || prepare(&model)).await??;
    let handle = app.engine.clone();
    let submitting = {
        let handle = handle.clone();
        tokio::task::spawn_blocking(move || handle.submit(request))
    };
    let listed = app.activity.list(begun, prompt.len());
    let mut generation = Generation {
        begun,
        prompt,
        handle,
        id: None,
        submitting: Some(submitting),
        outputs,
        waiting,
        n_left: n,
        listed,
        spoke: false,
        app: app.clone(),
        _places: (place, ticket),
    };
    match tokio::time::timeout(SUBMIT_WAIT, generation.submitted()).await {
        Ok(Err(error)) => Err(error),
        _ => Ok(generation),
    }
}

impl Generation {
    /// Waits until the engine has taken the request. May be dropped and called again.
    async fn submitted(&mut self) -> Result<(), ApiError> {
        let Some(submitting) = &mut self.submitting else { return Ok(()) };
        let outcome = submitting.await;
        self.submitting = None;
        match outcome {
            Ok(Ok(id)) => {
                self.id = Some(id);
                Ok(())
            }
            Ok(Err(rejected)) => {
                self.n_left = 0;
                Err(rejected.into())
            }
            Err(_) => {
                self.n_left = 0;
                Err(ApiError::internal("the request could not be handed to the engine"))
            }
        }
    }

    /// What happens next; none after the end of the last completion. May be dropped and called again.
    pub(crate) async fn next(&mut self) -> Option<Output> {
        if let Err(error) = self.submitted().await {
            return Some(Output::Failed(error));
        }
        if self.n_left == 0 {
            return None;
        }
        let output = self.outputs.recv().await;
        Some(self.took(output))
    }

    /// What has happened already.
    pub(crate) fn next_ready(&mut self) -> Option<Output> {
        let output = self.outputs.try_recv().ok()?;
        Some(self.took(Some(output)))
    }

    /// Whether nothing will happen any more.
    pub(crate) fn is_over(&self) -> bool {
        self.n_left == 0
    }

    fn took(&mut self, output: Option<Output>) -> Output {
        self.waiting.fetch_sub(1, Ordering::Relaxed);
        match output {
            Some(Output::Finished { index, deltas, end }) => {
                self.n_left -= 1;
                match end.reason {
                    engine::FinishReason::Failed | engine::FinishReason::Aborted => {
                        self.n_left = 0;
                        Output::Failed(self.failure())
                    }
                    _ => {
                        self.app.metrics.answered(self.begun.elapsed(), &end);
                        Output::Finished { index, deltas, end }
                    }
                }
            }
            Some(output) => {
                if matches!(output, Output::Token { .. }) {
                    self.listed.token();
                    if !std::mem::replace(&mut self.spoke, true) {
                        self.app.metrics.first_token.add(self.begun.elapsed());
                    }
                }
                output
            }
            // The sink is gone without a word: it panicked, or the engine did.
            None => {
                self.n_left = 0;
                Output::Failed(self.failure())
            }
        }
    }

    fn failure(&self) -> ApiError {
        self.app.metrics.n_failed.fetch_add(1, Ordering::Relaxed);
        match self.handle.trouble() {
            Some(trouble) => ApiError::internal(format!("the engine failed: {trouble}")),
            None => ApiError::unavailable("the request was ended: the server is shutting down, or its client too slow"),
        }
    }
}

impl Drop for Generation {
    fn drop(&mut self) {
        if self.n_left == 0 {
            return;
        }
        self.app.metrics.n_left.fetch_add(1, Ordering::Relaxed);
        // Where the engine has not answered yet, the sink tells it at the first event.
        if let Some(id) = self.id {
            self.handle.abort(id);
        }
    }
}
