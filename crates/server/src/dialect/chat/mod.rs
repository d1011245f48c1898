//! `/v1/chat/completions`: OpenAI's chat completions with DeepSeek's additions.
//!
//! Owns the route. See the folder's files for types, conversion and rendering.

mod render;
mod request;
mod wire;

use axum::Extension;
use axum::extract::{Request, State};
use axum::response::Response;

use crate::app::App;
use crate::auth::Caller;
use crate::body;
use crate::dialect::parts::{RunningUsage, TellsUsage};
use crate::error::{ApiError, Errors};
use crate::generate::start;
use crate::stream::{events, whole};
use render::{Chunks, answer};
pub(crate) use request::reasoning;
pub(crate) use wire::{ChatChunk, ChatCompletion, ChatMessage, ChatRequest, ChatRole, ThinkingOptions};

/// Answer a conversation.
#[utoipa::path(
    post,
    path = "/v1/chat/completions",
    tag = "OpenAI",
    request_body = ChatRequest,
    responses(
        (
            status = 200,
            description = "The answer, whole or, with `stream`, as events",
            content((ChatCompletion = "application/json"), (ChatChunk = "text/event-stream"))
        ),
        Errors
    )
)]
pub(crate) async fn create(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    request: Request,
) -> Result<Response, ApiError> {
    let request: ChatRequest = body::json(&app, request).await?;
    let streams = request.stream.unwrap_or(false);
    let tells_usage = TellsUsage::of(request.stream_options.as_ref());
    let wish = request.into_wish()?;
    let n = wish.n;
    let generation = start(&app, &caller, wish).await?;
    let (model, keep_alive) = (app.model.facts.name.clone(), app.options.keep_alive);
    match streams {
        true => {
            let usage = RunningUsage::new(tells_usage, generation.prompt.len(), n);
            Ok(events(generation, Chunks::new(model, n, usage), keep_alive))
        }
        false => whole(generation, n, keep_alive, move |choices| answer(&model, choices)).await,
    }
}
