//! Which path leads where, and what stands before all of them.
//!
//! Owns the routes, their description, and the checks that every request passes: its host, its key, panics, CORS. Must
//! not know what a handler does.

use std::any::Any;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::{HeaderValue, Method, StatusCode, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::cors::{AllowHeaders, AllowOrigin, CorsLayer};
use utoipa::OpenApi;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::app::App;
use crate::error::{AnthropicErrorBody, ApiError, ErrorBody};
use crate::options::{Options, StartError};
use crate::{chats, dialect, machine, page, runs, status, tokens};

/// Paths that need no key: whoever watches over a server has none.
const OPEN: [&str; 2] = ["/health", "/ready"];

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Minke",
        description = "A language model behind the APIs of OpenAI, DeepSeek and Anthropic. Fields that are not named here \
                       are ignored."
    ),
    components(schemas(ErrorBody, AnthropicErrorBody))
)]
struct Description;

fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::with_openapi(Description::openapi())
        .routes(routes!(dialect::chat::create))
        .routes(routes!(dialect::completions::create))
        .routes(routes!(dialect::responses::create))
        .routes(routes!(dialect::responses::retrieve, dialect::responses::delete))
        .routes(routes!(dialect::messages::create))
        .routes(routes!(dialect::messages::count_tokens))
        .routes(routes!(status::models))
        .routes(routes!(status::model))
        .routes(routes!(status::health))
        .routes(routes!(status::ready))
        .routes(routes!(status::metrics))
        .routes(routes!(status::openapi))
        .routes(routes!(machine::machine))
        .routes(routes!(runs::list))
        .routes(routes!(runs::find))
        .routes(routes!(page::index))
        .routes(routes!(page::asset))
        .routes(routes!(tokens::tokenize))
        .routes(routes!(tokens::detokenize))
        .merge(chats::routes())
}

/// The description of everything that is served, in OpenAPI's form, as JSON.
#[must_use]
pub fn openapi() -> String {
    // Its types have no keys that JSON lacks.
    serde_json::to_string_pretty(&routes().split_for_parts().1).unwrap_or_default()
}

/// Where a path of another service's leads here, if it is one: DeepSeek's has no `/v1`, its beta features are under `/beta`,
/// its Anthropic dialect under `/anthropic`.
pub(crate) fn canonical(path: &str) -> Option<String> {
    const WITHOUT_VERSION: [&str; 4] = ["/chat/completions", "/completions", "/responses", "/models"];
    let rest = ["/beta", "/anthropic"].iter().find_map(|prefix| path.strip_prefix(prefix)).unwrap_or(path);
    let is_known =
        |known: &&&str| rest.strip_prefix(**known).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
    match WITHOUT_VERSION.iter().find(is_known) {
        Some(_) => Some(format!("/v1{rest}")),
        None if rest.len() < path.len() && rest.starts_with("/v1/") => Some(rest.to_owned()),
        None => None,
    }
}

/// All routes of a server.
pub(crate) fn router(app: &App) -> Router {
    let (router, description) = routes().split_for_parts();
    let json = serde_json::to_string(&description).unwrap_or_default();
    let _ = app.openapi.set(json);
    router
        .fallback(|request: Request| async move {
            ApiError::not_found(format!("there is no {}; /openapi.json lists what there is", request.uri().path()))
        })
        .method_not_allowed_fallback(|request: Request| async move {
            let message = format!("{} does not take {}", request.uri().path(), request.method());
            ApiError::new(StatusCode::METHOD_NOT_ALLOWED, message)
        })
        .layer(CatchPanicLayer::custom(panicked))
        .layer(from_fn_with_state(app.clone(), admit))
        .layer(cors(&app.options))
        .layer(from_fn_with_state(app.clone(), watch))
        .with_state(app.clone())
}

fn panicked(_: Box<dyn Any + Send>) -> Response {
    ApiError::internal("this request met a bug of the server").into_response()
}

/// Counts answers by the class of their status.
async fn watch(State(app): State<App>, request: Request, next: Next) -> Response {
    let response = next.run(request).await;
    let class = usize::from(response.status().as_u16() / 100);
    if let Some(n) = app.metrics.n_by_class.get(class) {
        n.fetch_add(1, Ordering::Relaxed);
    }
    response
}

/// Lets a request in whose host and key are right.
async fn admit(State(app): State<App>, mut request: Request, next: Next) -> Response {
    let path = request.uri().path();
    let speaks_anthropic = path.starts_with("/v1/messages");
    if page::is_page(path) {
        if !app.keys.required()
            && let Err(error) = check_host(&app, &request)
        {
            return error.into_response();
        }
    } else if !OPEN.contains(&path) {
        let caller = match app.keys.required() {
            true => app.keys.caller(request.headers()),
            false => check_host(&app, &request).and_then(|()| app.keys.caller(request.headers())),
        };
        match caller {
            Ok(caller) => drop(request.extensions_mut().insert(caller)),
            Err(error) if speaks_anthropic => return error.into_anthropic(),
            Err(error) => return error.into_response(),
        }
    }
    next.run(request).await
}

/// Without keys, only requests under this machine's own names are let in: a page on the web can make a name of its own
/// point here, and would then read what the server answers.
fn check_host(app: &App, request: &Request) -> Result<(), ApiError> {
    let Some(host) = request.headers().get(header::HOST).and_then(|host| host.to_str().ok()) else {
        // Browsers always name a host.
        return Ok(());
    };
    let without_port = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    };
    let name = without_port.trim_start_matches('[').trim_end_matches(']');
    let is_address = name.parse::<std::net::IpAddr>().is_ok();
    let is_known = name.eq_ignore_ascii_case("localhost")
        || name.to_ascii_lowercase().ends_with(".localhost")
        || app.options.hosts.iter().any(|known| known.eq_ignore_ascii_case(name));
    match is_address || is_known {
        true => Ok(()),
        false => {
            let message =
                format!("host: expected localhost or an address, found {name:?}; name it with --host, or use keys");
            Err(ApiError::new(StatusCode::FORBIDDEN, message))
        }
    }
}

/// Holds the origins against what browsers send.
///
/// # Errors
/// One is none
pub(crate) fn check_origins(options: &Options) -> Result<(), StartError> {
    let is_origin = |origin: &str| {
        let rest = origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://"));
        rest.is_some_and(|rest| !rest.is_empty() && !rest.contains('/')) && HeaderValue::from_str(origin).is_ok()
    };
    match options.cors.iter().find(|origin| *origin != "*" && !is_origin(origin)) {
        Some(origin) => Err(StartError::Origin(origin.clone())),
        None => Ok(()),
    }
}

/// Pages of no origin but those named; of none by default.
fn cors(options: &Options) -> CorsLayer {
    let layer = CorsLayer::new()
        .allow_methods([Method::GET, Method::POST, Method::PATCH, Method::DELETE])
        .allow_headers(AllowHeaders::mirror_request());
    if options.cors.iter().any(|origin| origin == "*") {
        return layer.allow_origin(AllowOrigin::any());
    }
    let origins: Vec<HeaderValue> = options.cors.iter().filter_map(|o| HeaderValue::from_str(o).ok()).collect();
    let origins = Arc::new(origins);
    layer.allow_origin(AllowOrigin::predicate(move |origin, _| origins.contains(origin)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_of_other_services_lead_here() {
        let cases = [
            ("/chat/completions", Some("/v1/chat/completions")),
            ("/beta/completions", Some("/v1/completions")),
            ("/beta/v1/chat/completions", Some("/v1/chat/completions")),
            ("/anthropic/v1/messages", Some("/v1/messages")),
            ("/models/x", Some("/v1/models/x")),
            ("/v1/chat/completions", None),
            ("/modelsx", None),
            ("/anthropic", None),
            ("/health", None),
        ];
        for (path, expected) in cases {
            assert_eq!(canonical(path).as_deref(), expected, "{path}");
        }
    }
}
