//! The chat page: the files that `web/` is built into, embedded.
//!
//! Owns how they are sent: types, compression, what browsers may keep, and the policy that lets the page load nothing but
//! itself. Must not know what the page does.

use std::collections::HashMap;
use std::io::Write;
use std::sync::{Mutex, PoisonError};

use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::Response;
use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use rust_embed::RustEmbed;

use crate::app::App;
use crate::error::{ApiError, Errors};

#[derive(RustEmbed)]
#[folder = "../../web/dist"]
struct Files;

/// What a browser lets the page do: run its own scripts, show its own styles and fonts, talk to this server. Nothing that
/// is written into the page, by whatever way, runs.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; font-src 'self'; img-src 'self' data:; \
                      connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; \
                      require-trusted-types-for 'script'; trusted-types svelte-trusted-html dompurify";
/// The names of built files change with their content.
const FOR_EVER: &str = "public, max-age=31536000, immutable";
/// The page itself is asked for again, and mostly answered by "not modified".
const ASK_AGAIN: &str = "no-cache";

/// Files that were compressed, by name.
#[derive(Default)]
pub(crate) struct Compressed(Mutex<HashMap<String, Bytes>>);

/// Whether a path is one of the page's, which holds nothing that is anybody's: it needs no key.
pub(crate) fn is_page(path: &str) -> bool {
    path == "/" || path.starts_with("/assets/")
}

/// The chat page.
#[utoipa::path(
    get,
    path = "/",
    tag = "Page",
    responses(
        (status = 200, body = String, content_type = "text/html"),
        (status = 304, description = "As it was"),
        Errors
    )
)]
pub(crate) async fn index(State(app): State<App>, headers: HeaderMap) -> Result<Response, ApiError> {
    file(&app, "index.html", &headers)
}

/// A part of the chat page.
#[utoipa::path(
    get,
    path = "/assets/{name}",
    tag = "Page",
    params(("name" = String, Path, description = "The file")),
    responses(
        (status = 200, description = "The file", body = String, content_type = "application/octet-stream"),
        (status = 304, description = "As it was"),
        Errors
    )
)]
pub(crate) async fn asset(
    State(app): State<App>,
    Path(name): Path<String>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    file(&app, &format!("assets/{name}"), &headers)
}

fn file(app: &App, name: &str, headers: &HeaderMap) -> Result<Response, ApiError> {
    let found = Files::get(name).ok_or_else(|| ApiError::not_found(format!("the page has no {name}")))?;
    let digest: String = found.metadata.sha256_hash().iter().take(16).map(|byte| format!("{byte:02x}")).collect();
    let tag = format!("\"{digest}\"");
    let kind = kind(name);
    let is_known = accepts(headers, header::IF_NONE_MATCH, &tag);
    let is_small = kind.is_compressible && !is_known && accepts(headers, header::ACCEPT_ENCODING, "gzip");
    let body = match (is_known, is_small) {
        (true, _) => Bytes::new(),
        (_, true) => app.compressed.of(name, &found.data),
        (_, false) => bytes_of(found.data),
    };
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = if is_known { StatusCode::NOT_MODIFIED } else { StatusCode::OK };
    let out = response.headers_mut();
    let mut set = |name: HeaderName, value: &str| {
        // All of them are visible ASCII.
        out.extend(HeaderValue::from_str(value).ok().map(|value| (name, value)));
    };
    set(header::CONTENT_TYPE, kind.name);
    set(header::ETAG, &tag);
    set(header::CACHE_CONTROL, if name == "index.html" { ASK_AGAIN } else { FOR_EVER });
    set(header::VARY, "accept-encoding");
    set(header::CONTENT_SECURITY_POLICY, POLICY);
    set(header::X_CONTENT_TYPE_OPTIONS, "nosniff");
    set(header::REFERRER_POLICY, "no-referrer");
    set(HeaderName::from_static("cross-origin-opener-policy"), "same-origin");
    if is_small {
        set(header::CONTENT_ENCODING, "gzip");
    }
    Ok(response)
}

fn bytes_of(data: std::borrow::Cow<'static, [u8]>) -> Bytes {
    match data {
        std::borrow::Cow::Borrowed(data) => Bytes::from_static(data),
        std::borrow::Cow::Owned(data) => Bytes::from(data),
    }
}

/// Whether a header lists `wanted` among others.
fn accepts(headers: &HeaderMap, name: HeaderName, wanted: &str) -> bool {
    let values = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).any(|part| {
        let part = part.trim().trim_start_matches("W/");
        let (part, weight) = part.split_once(';').unwrap_or((part, ""));
        part.trim() == wanted && weight.trim() != "q=0"
    })
}

/// What a browser needs to know of a file.
struct Kind {
    name: &'static str,
    is_compressible: bool,
}

fn kind(name: &str) -> Kind {
    let ending = name.rsplit_once('.').map_or("", |(_, ending)| ending);
    let (name, is_compressible) = match ending {
        "html" => ("text/html; charset=utf-8", true),
        "js" => ("text/javascript; charset=utf-8", true),
        "css" => ("text/css; charset=utf-8", true),
        "svg" => ("image/svg+xml", true),
        "woff2" => ("font/woff2", false),
        _ => ("application/octet-stream", false),
    };
    Kind { name, is_compressible }
}

impl Compressed {
    /// A file, compressed when it is first asked for.
    fn of(&self, name: &str, data: &[u8]) -> Bytes {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.entry(name.to_owned()).or_insert_with(|| Bytes::from(gzip(data))).clone()
    }
}

fn gzip(data: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    // Memory takes all that is written.
    let _ = encoder.write_all(data);
    encoder.finish().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_headers_are_read_as_browsers_write_them() {
        let asks = |value: &'static str, wanted: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::ACCEPT_ENCODING, HeaderValue::from_static(value));
            accepts(&headers, header::ACCEPT_ENCODING, wanted)
        };
        assert!(asks("gzip, deflate, br", "gzip") && asks("br;q=1.0, gzip;q=0.8", "gzip"));
        assert!(!asks("br", "gzip") && !asks("gzip;q=0", "gzip"));
        assert!(asks("W/\"a\", \"b\"", "\"a\""));
    }

    #[test]
    fn every_built_file_has_a_type_and_the_page_names_no_other_place() {
        let names: Vec<_> = Files::iter().collect();
        assert!(names.iter().any(|name| name == "index.html"));
        for name in &names {
            assert_ne!(kind(name).name, "application/octet-stream", "{name}");
        }
        let index = Files::get("index.html").unwrap();
        let text = std::str::from_utf8(&index.data).unwrap();
        assert!(!text.contains("http://") && !text.contains("https://"), "{text}");
        assert!(!text.contains("<style") && !text.contains("style="), "{text}");
    }
}
