//! What the server says of itself: models, health, metrics, its own description.

use axum::extract::{Path, State};
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::ToSchema;

use crate::app::App;
use crate::error::{ApiError, Errors};
use crate::stream::json;

/// The models that are served.
#[derive(Serialize, ToSchema)]
pub(crate) struct ModelList {
    /// Always `list`.
    object: &'static str,
    data: Vec<ModelEntry>,
}

/// A model that is served.
#[derive(Serialize, ToSchema)]
pub(crate) struct ModelEntry {
    /// Its name.
    id: String,
    /// Always `model`.
    object: &'static str,
    /// Seconds since 1970.
    created: u64,
    owned_by: &'static str,
    /// Longest sequence in tokens.
    max_model_len: usize,
}

fn entry(app: &App) -> ModelEntry {
    let facts = &app.model.facts;
    ModelEntry {
        id: facts.name.clone(),
        object: "model",
        created: facts.created_s,
        owned_by: "minke",
        max_model_len: facts.n_context,
    }
}

/// List the models.
#[utoipa::path(get, path = "/v1/models", tag = "OpenAI", responses((status = 200, body = ModelList), Errors))]
pub(crate) async fn models(State(app): State<App>) -> Response {
    json(&ModelList { object: "list", data: vec![entry(&app)] })
}

/// Describe a model.
#[utoipa::path(
    get,
    path = "/v1/models/{id}",
    tag = "OpenAI",
    params(("id" = String, Path, description = "The model's name")),
    responses((status = 200, body = ModelEntry), Errors)
)]
pub(crate) async fn model(State(app): State<App>, Path(id): Path<String>) -> Result<Response, ApiError> {
    match id == app.model.facts.name {
        true => Ok(json(&entry(&app))),
        false => Err(ApiError::not_found(format!("there is no model {id:?}; /v1/models lists what there is"))),
    }
}

/// How a server is.
#[derive(Serialize, ToSchema)]
pub(crate) struct Health {
    /// `ok`
    status: &'static str,
}

/// Whether the server lives.
#[utoipa::path(get, path = "/health", tag = "Minke", responses((status = 200, body = Health), Errors))]
pub(crate) async fn health() -> Response {
    json(&Health { status: "ok" })
}

/// Whether the server takes requests.
#[utoipa::path(get, path = "/ready", tag = "Minke", responses((status = 200, body = Health), Errors))]
pub(crate) async fn ready(State(app): State<App>) -> Result<Response, ApiError> {
    if app.draining() {
        return Err(ApiError::unavailable("the server is shutting down"));
    }
    match stats(&app).await {
        Some(_) => Ok(json(&Health { status: "ok" })),
        None => Err(ApiError::unavailable(app.engine.trouble().unwrap_or_else(|| "the engine has stopped".into()))),
    }
}

/// What has been counted, in Prometheus' text format.
#[utoipa::path(
    get,
    path = "/metrics",
    tag = "Minke",
    responses((status = 200, body = String, content_type = "text/plain"), Errors)
)]
pub(crate) async fn metrics(State(app): State<App>) -> Response {
    let stats = stats(&app).await;
    let mut response = app.metrics.text(stats.as_ref()).into_response();
    let kind = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}

/// The engine's own counters, which it gives between two steps.
pub(crate) async fn stats(app: &App) -> Option<engine::Stats> {
    let engine = app.engine.clone();
    tokio::task::spawn_blocking(move || engine.stats()).await.ok().flatten()
}

/// This description.
#[utoipa::path(get, path = "/openapi.json", tag = "Minke", responses((status = 200, body = serde_json::Value), Errors))]
pub(crate) async fn openapi(State(app): State<App>) -> Response {
    let mut response = app.openapi.get().cloned().unwrap_or_default().into_response();
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}
