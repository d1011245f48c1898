//! A request's body as JSON.
//!
//! Owns its limits and the naming of the field that is wrong. Must not know dialects.

use axum::body::{Body, to_bytes};
use axum::extract::Request;
use axum::http::{HeaderMap, StatusCode, header};
use bytes::Bytes;
use serde::de::DeserializeOwned;

use crate::app::App;
use crate::error::ApiError;

/// Bodies up to this size are parsed where they arrive; parsing larger ones would hold up other sockets.
const PARSE_HERE_BYTES: usize = 64 << 10;

/// Reads and parses a body.
///
/// # Errors
/// It is not declared as JSON, is too large, takes too long, is no JSON, or a field is wrong
pub(crate) async fn json<T: DeserializeOwned + Send + 'static>(app: &App, request: Request) -> Result<T, ApiError> {
    // A page of another origin can send other types without asking, JSON it cannot: see CORS.
    if !is_json(request.headers()) {
        let message = "content-type: expected application/json; with curl, add -H 'Content-Type: application/json'";
        return Err(ApiError::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, message));
    }
    check_encoding(request.headers())?;
    let bytes = read(app, request.into_body()).await?;
    match bytes.len() <= PARSE_HERE_BYTES {
        true => parse(&bytes),
        false => app.work(move || parse(&bytes)).await?,
    }
}

/// Reads a body of any type.
///
/// # Errors
/// It is too large, or takes too long
pub(crate) async fn read(app: &App, body: Body) -> Result<Bytes, ApiError> {
    let limit = app.options.body_bytes;
    match tokio::time::timeout(app.options.body_timeout, to_bytes(body, limit)).await {
        Ok(Ok(bytes)) => Ok(bytes),
        Ok(Err(_)) => {
            let message = format!("body: expected at most {limit} bytes, found more, or the connection broke");
            Err(ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, message))
        }
        Err(_) => {
            let seconds = app.options.body_timeout.as_secs();
            Err(ApiError::new(
                StatusCode::REQUEST_TIMEOUT,
                format!("body: expected the whole of it within {seconds} s"),
            ))
        }
    }
}

/// A body is read as it stands: one that was packed would be taken for broken JSON.
fn check_encoding(headers: &HeaderMap) -> Result<(), ApiError> {
    let encoding = headers.get(header::CONTENT_ENCODING).map(|value| value.to_str().unwrap_or("?").trim());
    match encoding.filter(|encoding| !encoding.is_empty() && !encoding.eq_ignore_ascii_case("identity")) {
        None => Ok(()),
        Some(found) => {
            let message = format!("content-encoding: expected none, found {found:?}; send the body as it is");
            Err(ApiError::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, message))
        }
    }
}

fn is_json(headers: &HeaderMap) -> bool {
    let value = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let essence = value.split(';').next().unwrap_or_default().trim();
    essence.eq_ignore_ascii_case("application/json")
}

/// Parses JSON; an error names the field.
///
/// # Errors
/// It is no JSON, or a field is wrong
pub(crate) fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, ApiError> {
    let mut json = serde_json::Deserializer::from_slice(bytes);
    let parsed = serde_path_to_error::deserialize(&mut json);
    let value = parsed.map_err(|error| {
        let path = error.path().to_string();
        let inner = error.inner();
        let problem = inner.to_string();
        let problem = plain(problem.rsplit_once(" at line ").map_or(problem.as_str(), |(problem, _)| problem));
        match path.as_str() {
            _ if !inner.is_data() => not_json(inner),
            "." => missing(&problem),
            path => ApiError::field(path, problem),
        }
    })?;
    json.end().map_err(|error| not_json(&error))?;
    Ok(value)
}

/// What a type of ours is called outside.
fn plain(problem: &str) -> String {
    let Some((before, expected)) = problem.split_once(", expected ") else { return problem.to_owned() };
    let word = expected.split(' ').next().unwrap_or_default();
    let said = match word {
        "usize" | "u32" | "u64" => "a whole number from 0 on",
        "i64" => "a whole number",
        "f32" | "f64" => "a number",
        "struct" | "internally" => "an object",
        "a" if expected == "a sequence" => "a list",
        "a" if expected == "a map" => "an object",
        _ => expected,
    };
    format!("{before}, expected {said}")
}

fn not_json(error: &serde_json::Error) -> ApiError {
    ApiError { code: Some("invalid_json"), ..ApiError::named(format!("body: expected JSON: {error}")) }
}

/// An error about the whole body, which mostly is a field that is missing.
fn missing(problem: &str) -> ApiError {
    let name = problem.strip_prefix("missing field `").and_then(|rest| rest.strip_suffix('`'));
    match name {
        Some(name) => ApiError::field(name, "expected this field, found none"),
        None => ApiError::named(format!("body: {problem}")),
    }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Deserialize)]
    #[expect(dead_code, reason = "only parsed")]
    struct Outer {
        inner: Vec<Inner>,
    }

    #[derive(Debug, Deserialize)]
    #[expect(dead_code, reason = "only parsed")]
    struct Inner {
        number: u32,
    }

    #[test]
    fn errors_name_the_field() {
        let param = |text: &str| parse::<Outer>(text.as_bytes()).unwrap_err().param;
        assert_eq!(param(r#"{"inner": [{"number": 1}, {"number": "x"}]}"#), Some("inner[1].number".into()));
        assert_eq!(param(r#"{"inner": [{"number": -1}]}"#), Some("inner[0].number".into()));
        assert_eq!(param("{}"), Some("inner".into()));
        assert_eq!(param(r#"{"inner": [}"#), Some("body".into()));
        assert_eq!(param(r#"{"inner": []} x"#), Some("body".into()));
        assert_eq!(param("[]"), Some("body".into()));
        for (text, expected) in [
            (r#"{"inner": [{"number": "x"}]}"#, "a whole number from 0 on"),
            (r#"{"inner": [7]}"#, "an object"),
            (r#"{"inner": {}}"#, "a list"),
            ("7", "an object"),
        ] {
            let message = parse::<Outer>(text.as_bytes()).unwrap_err().message;
            assert!(message.ends_with(&format!("expected {expected}")), "{message}");
        }
        assert!(parse::<Outer>(br#"{"inner": [{"number": 1, "unknown": [1]}], "more": 1}"#).is_ok());
    }
}
