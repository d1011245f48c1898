//! `/v1/messages`: Anthropic's messages.
//!
//! Owns the routes. See the folder's files for types, conversion and rendering.

mod render;
mod request;
mod wire;

use axum::Extension;
use axum::extract::{Request, State};
use axum::response::Response;

use crate::app::App;
use crate::auth::Caller;
use crate::body;
use crate::error::{AnthropicErrors, ApiError};
use crate::generate::{count, start};
use crate::stream::{events, json, whole};
use render::{Events, answer};
use wire::{CountRequest, MessageAnswer, MessagesRequest, TokenCount};

/// Answer a conversation.
#[utoipa::path(
    post,
    path = "/v1/messages",
    tag = "Anthropic",
    request_body = MessagesRequest,
    responses(
        (
            status = 200,
            description = "The answer, whole or, with `stream`, as events",
            content((MessageAnswer = "application/json"), (serde_json::Value = "text/event-stream"))
        ),
        AnthropicErrors
    )
)]
pub(crate) async fn create(State(app): State<App>, Extension(caller): Extension<Caller>, request: Request) -> Response {
    run(&app, &caller, request).await.unwrap_or_else(ApiError::into_anthropic)
}

async fn run(app: &App, caller: &Caller, request: Request) -> Result<Response, ApiError> {
    let request: MessagesRequest = body::json(app, request).await?;
    let streams = request.stream.unwrap_or(false);
    let generation = start(app, caller, request.into_wish()?).await?;
    let (model, keep_alive) = (app.model.facts.name.clone(), app.options.keep_alive);
    match streams {
        true => {
            let n_prompt = generation.prompt.len();
            Ok(events(generation, Events::new(&model, n_prompt), keep_alive))
        }
        false => whole(generation, 1, keep_alive, move |choices| answer(&model, choices)).await,
    }
}

/// Count the tokens of a conversation.
#[utoipa::path(
    post,
    path = "/v1/messages/count_tokens",
    tag = "Anthropic",
    request_body = CountRequest,
    responses((status = 200, body = TokenCount), AnthropicErrors)
)]
pub(crate) async fn count_tokens(State(app): State<App>, request: Request) -> Response {
    counted(&app, request).await.unwrap_or_else(ApiError::into_anthropic)
}

async fn counted(app: &App, request: Request) -> Result<Response, ApiError> {
    let request: CountRequest = body::json(app, request).await?;
    let (conversation, tools) = request.into_parts()?;
    let model = app.model.clone();
    let input_tokens = app.work(move || count(&model, &conversation, &tools)).await??;
    Ok(json(&TokenCount { input_tokens }))
}
