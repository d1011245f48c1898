//! Answers on their way to the client, as events or whole.
//!
//! Owns server-sent events and keeping silent connections alive. Must not know what a dialect's events say.

use std::convert::Infallible;
use std::sync::LazyLock;
use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderValue, header};
use axum::response::Response;
use bytes::Bytes;
use futures_util::stream::unfold;
use serde_json::Value;
use tokio::time::{Instant, sleep_until, timeout, timeout_at};

use crate::error::ApiError;
use crate::generate::{Choice, Generation, Output, collect};

/// Turns events into a dialect's own.
pub(crate) trait Render: Send + 'static {
    /// What is sent before anything has happened.
    fn open(&mut self, out: &mut String);

    /// What an output, which is not a failure, is to the client.
    fn output(&mut self, output: Output, out: &mut String);

    /// The request has failed after all.
    fn failed(&mut self, error: &ApiError, out: &mut String);

    /// What is sent at the end of an answer.
    fn close(&mut self, out: &mut String);
}

/// Appends an event without a name.
pub(crate) fn data(out: &mut String, value: &impl serde::Serialize) {
    // Our own types have no keys that JSON lacks.
    let json = serde_json::to_string(value).unwrap_or_default();
    out.push_str("data: ");
    out.push_str(&json);
    out.push_str("\n\n");
}

/// Appends an event with a name.
pub(crate) fn event(out: &mut String, name: &str, value: &impl serde::Serialize) {
    out.push_str("event: ");
    out.push_str(name);
    out.push('\n');
    data(out, value);
}

/// A stream is written to no more often than this, as often as screens show something new. Where a token takes a small model
/// a tenth of a millisecond, sending each by itself would cost as much again.
const PACE: Duration = Duration::from_millis(16);

/// The next time at which streams are written to: the same for all of them, so that they wake the machine once.
fn next_turn() -> Instant {
    static FIRST: LazyLock<Instant> = LazyLock::new(Instant::now);
    let since = FIRST.elapsed().as_nanos() / PACE.as_nanos() + 1;
    *FIRST + PACE * u32::try_from(since).unwrap_or(u32::MAX)
}

struct Events<R> {
    generation: Generation,
    render: R,
    keep_alive: Duration,
    open: bool,
    done: bool,
    /// When the next piece may go out.
    not_before: Option<Instant>,
}

impl<R: Render> Events<R> {
    /// The next bytes; none at the end.
    async fn next(&mut self) -> Option<String> {
        let mut out = String::new();
        let is_first = !std::mem::replace(&mut self.open, true);
        if is_first {
            self.render.open(&mut out);
        }
        if let Some(not_before) = self.not_before {
            sleep_until(not_before).await;
        }
        let deadline = Instant::now() + self.keep_alive;
        while out.is_empty() && !self.done {
            let Ok(mut output) = timeout_at(deadline, self.generation.next()).await else {
                return Some(": keep-alive\n\n".into());
            };
            // What has happened meanwhile goes out in the same piece, and what goes on a text in the same event.
            while let Some(held @ (Output::Token { .. } | Output::Finished { .. })) = &mut output
                && let Some(next) = self.generation.next_ready()
            {
                if let Some(next) = held.join(next) {
                    self.take(output.replace(next), &mut out);
                }
            }
            self.take(output, &mut out);
            if self.generation.is_over() && !self.done {
                self.take(None, &mut out);
            }
        }
        // The first token follows the headers at once.
        self.not_before = (!is_first).then(next_turn);
        (!out.is_empty()).then_some(out)
    }

    fn take(&mut self, output: Option<Output>, out: &mut String) {
        match output {
            Some(Output::Failed(error)) => {
                self.render.failed(&error, out);
                self.done = true;
            }
            Some(output) => self.render.output(output, out),
            None => {
                self.render.close(out);
                self.done = true;
            }
        }
    }
}

/// An answer as events. Its headers go out at once.
pub(crate) fn events<R: Render>(generation: Generation, render: R, keep_alive: Duration) -> Response {
    let events = Events { generation, render, keep_alive, open: false, done: false, not_before: None };
    let stream = unfold(events, |mut events| async move {
        let bytes = events.next().await?;
        Some((Ok::<_, Infallible>(Bytes::from(bytes)), events))
    });
    let mut response = Response::new(Body::from_stream(stream));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    // Proxies that buffer would hold back what is meant to be read now.
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    response
}

/// A JSON answer.
pub(crate) fn json(value: &impl serde::Serialize) -> Response {
    // Our own types have no keys that JSON lacks.
    let mut response = Response::new(Body::from(serde_json::to_vec(value).unwrap_or_default()));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// A whole answer. One that takes long begins with blank lines, which JSON ignores, so that nobody on the way takes the
/// silence for an end; one that then fails breaks the connection, because its status has been sent.
///
/// # Errors
/// The request failed before anything was sent
pub(crate) async fn whole(
    mut generation: Generation,
    n: usize,
    keep_alive: Duration,
    answer: impl FnOnce(Vec<Choice>) -> Value + Send + 'static,
) -> Result<Response, ApiError> {
    let work = async move { collect(&mut generation, n).await.map(answer) };
    patient(work, keep_alive).await
}

/// The same for any work that ends in JSON.
///
/// # Errors
/// As [`whole`]
pub(crate) async fn patient(
    work: impl Future<Output = Result<Value, ApiError>> + Send + 'static,
    keep_alive: Duration,
) -> Result<Response, ApiError> {
    let mut work = Box::pin(work);
    if let Ok(done) = timeout(keep_alive, &mut work).await {
        return done.map(|value| json(&value));
    }
    let stream = unfold((Some(work), true), move |(work, first)| async move {
        let mut work = work?;
        if first {
            return Some((Ok(Bytes::from_static(b"\n")), (Some(work), false)));
        }
        match timeout(keep_alive, &mut work).await {
            Err(_) => Some((Ok(Bytes::from_static(b"\n")), (Some(work), false))),
            Ok(Ok(value)) => Some((Ok(Bytes::from(value.to_string())), (None, false))),
            Ok(Err(error)) => Some((Err(std::io::Error::other(error.message)), (None, false))),
        }
    });
    let mut response = Response::new(Body::from_stream(stream));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    Ok(response)
}
