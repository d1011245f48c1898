//! What the server says of itself: models, health, metrics, its own description.

use axum::extract::{Path, State};
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::ToSchema;

use crate::app::App;
use crate::error::{ApiError, Errors};
use crate::stream::json;

/// The models that are served, in OpenAI's form and Anthropic's at once.
#[derive(Serialize, ToSchema)]
pub(crate) struct ModelList {
    /// Always `list`.
    object: &'static str,
    data: Vec<ModelEntry>,
    /// Always false: there are no further pages.
    has_more: bool,
    first_id: String,
    last_id: String,
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
    /// Always `model`.
    r#type: &'static str,
    /// Its name.
    display_name: String,
    /// The time of `created`, as RFC 3339 has it.
    created_at: String,
    /// Longest sequence in tokens.
    max_model_len: usize,
}

/// Seconds since 1970 as a date and a time of day, in UTC.
fn rfc_3339(seconds: u64) -> String {
    let (mut day, rest) = (seconds / 86_400, seconds % 86_400);
    let is_leap = |year: u64| year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    let mut year = 1970;
    // A file's time may be anything; no year beyond four digits can be written.
    while year < 9999 && day >= 365 + u64::from(is_leap(year)) {
        day -= 365 + u64::from(is_leap(year));
        year += 1;
    }
    let lengths = [31, 28 + u64::from(is_leap(year)), 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let mut month = 0;
    while month < 11 && day >= lengths[month] {
        day -= lengths[month];
        month += 1;
    }
    let (month, day) = (month + 1, day.min(30) + 1);
    let (hour, minute, second) = (rest / 3600, rest / 60 % 60, rest % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

fn entry(app: &App) -> ModelEntry {
    let facts = &app.model.facts;
    ModelEntry {
        id: facts.name.clone(),
        object: "model",
        created: facts.created_s,
        owned_by: "minke",
        r#type: "model",
        display_name: facts.name.clone(),
        created_at: rfc_3339(facts.created_s),
        max_model_len: facts.n_context,
    }
}

/// List the models.
#[utoipa::path(get, path = "/v1/models", tag = "OpenAI", responses((status = 200, body = ModelList), Errors))]
pub(crate) async fn models(State(app): State<App>) -> Response {
    let id = || app.model.facts.name.clone();
    json(&ModelList { object: "list", data: vec![entry(&app)], has_more: false, first_id: id(), last_id: id() })
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_dates() {
        for (seconds, expected) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_827_696, "2000-02-29T12:34:56Z"),
            (1_709_251_199, "2024-02-29T23:59:59Z"),
            (1_704_067_199, "2023-12-31T23:59:59Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
        ] {
            assert_eq!(rfc_3339(seconds), expected);
        }
        assert!(rfc_3339(u64::MAX).starts_with("9999-"));
    }
}
