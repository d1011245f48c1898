//! What goes wrong with a request, and how each dialect says so.
//!
//! Owns the kinds of errors, their status codes and bodies. Must not decide when they occur.

use axum::body::Body;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use engine::Rejected;
use serde::Serialize;
use serde_json::json;
use text::{GrammarError, TemplateError, TokenizerError};
use utoipa::{IntoResponses, ToSchema};

/// Seconds after which a client whose request met a full queue may try again.
pub(crate) const RETRY_AFTER_S: u64 = 2;

/// Why a request is not answered.
#[derive(Clone, Debug)]
pub(crate) struct ApiError {
    pub(crate) status: StatusCode,
    /// The field that is wrong, as a path: `messages[2].content`.
    pub(crate) param: Option<String>,
    /// A word for programs, where the status alone does not say it.
    pub(crate) code: Option<&'static str>,
    /// What was expected, what was found, what to do.
    pub(crate) message: String,
    /// Tokens of the prompt and of the context, where the one exceeds the other.
    pub(crate) tokens: Option<(usize, usize)>,
    pub(crate) retry_after_s: Option<u64>,
}

impl ApiError {
    pub(crate) fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self { status, param: None, code: None, message: message.into(), tokens: None, retry_after_s: None }
    }

    /// A field that cannot be used: 400.
    pub(crate) fn field(param: impl Into<String>, problem: impl std::fmt::Display) -> Self {
        let param = param.into();
        let message = format!("{param}: {problem}");
        let code = Some("invalid_value");
        Self { param: Some(param), code, ..Self::new(StatusCode::BAD_REQUEST, message) }
    }

    /// The same for a message that begins with the field's name, as `engine` and `text` write them.
    pub(crate) fn named(problem: impl std::fmt::Display) -> Self {
        let message = problem.to_string();
        let is_name = |c: char| c.is_ascii_alphanumeric() || "_.[]".contains(c);
        let name = message.split_once(": ").map(|(name, _)| name).filter(|name| name.chars().all(is_name));
        let param = name.map(str::to_owned);
        Self { param, code: Some("invalid_value"), ..Self::new(StatusCode::BAD_REQUEST, message) }
    }

    /// The prompt does not fit.
    pub(crate) fn context_length(param: &str, n_prompt: usize, n_context: usize) -> Self {
        let message = format!(
            "{param}: expected a prompt of fewer than {n_context} tokens, the context, found {n_prompt}; shorten it, or \
             serve the model with a longer --context"
        );
        Self {
            param: Some(param.into()),
            code: Some("context_length_exceeded"),
            tokens: Some((n_prompt, n_context)),
            ..Self::new(StatusCode::BAD_REQUEST, message)
        }
    }

    /// Too much at once.
    pub(crate) fn busy(message: impl Into<String>, retry_after_s: u64) -> Self {
        let code = Some("rate_limit_exceeded");
        Self { code, retry_after_s: Some(retry_after_s), ..Self::new(StatusCode::TOO_MANY_REQUESTS, message) }
    }

    /// Something there is not.
    pub(crate) fn not_found(message: impl Into<String>) -> Self {
        Self { code: Some("not_found"), ..Self::new(StatusCode::NOT_FOUND, message) }
    }

    /// A failure of ours.
    pub(crate) fn internal(message: impl Into<String>) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, message)
    }

    /// The server ends, or its engine has.
    pub(crate) fn unavailable(message: impl Into<String>) -> Self {
        let retry_after_s = Some(RETRY_AFTER_S);
        Self { retry_after_s, ..Self::new(StatusCode::SERVICE_UNAVAILABLE, message) }
    }

    /// As OpenAI classes it.
    fn openai_type(&self) -> &'static str {
        match self.status.as_u16() {
            401 => "authentication_error",
            403 => "permission_error",
            404 => "not_found_error",
            429 => "rate_limit_error",
            400..=499 => "invalid_request_error",
            503 => "service_unavailable_error",
            _ => "server_error",
        }
    }

    /// As Anthropic classes it.
    fn anthropic_type(&self) -> &'static str {
        match self.status.as_u16() {
            401 => "authentication_error",
            403 => "permission_error",
            404 => "not_found_error",
            413 => "request_too_large",
            429 => "rate_limit_error",
            400..=499 => "invalid_request_error",
            503 => "overloaded_error",
            _ => "api_error",
        }
    }

    /// OpenAI's and DeepSeek's body.
    pub(crate) fn openai_body(&self) -> serde_json::Value {
        let mut error = json!({
            "message": self.message, "type": self.openai_type(), "param": self.param, "code": self.code,
        });
        if let Some((n_prompt, n_context)) = self.tokens {
            error["n_prompt_tokens"] = n_prompt.into();
            error["n_ctx"] = n_context.into();
        }
        json!({ "error": error })
    }

    /// Anthropic's body.
    pub(crate) fn anthropic_body(&self) -> serde_json::Value {
        json!({ "type": "error", "error": { "type": self.anthropic_type(), "message": self.message } })
    }

    /// The answer in Anthropic's dialect.
    pub(crate) fn into_anthropic(self) -> Response {
        let body = self.anthropic_body();
        self.respond(&body)
    }

    fn respond(&self, body: &serde_json::Value) -> Response {
        let mut response = Response::new(Body::from(body.to_string()));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if let Some(seconds) = self.retry_after_s {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if self.status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let body = self.openai_body();
        self.respond(&body)
    }
}

impl From<Rejected> for ApiError {
    fn from(rejected: Rejected) -> Self {
        match rejected {
            Rejected::ContextLength { found, limit } => Self::context_length("prompt", found, limit),
            Rejected::QueueFull { .. } => Self::busy(rejected.to_string(), RETRY_AFTER_S),
            Rejected::Stopped => Self::unavailable("the server is shutting down"),
            Rejected::CacheSize { .. } => Self { param: Some("n".into()), ..Self::named(rejected) },
            other => Self::named(other),
        }
    }
}

impl From<TokenizerError> for ApiError {
    fn from(error: TokenizerError) -> Self {
        Self::named(error)
    }
}

impl From<TemplateError> for ApiError {
    fn from(error: TemplateError) -> Self {
        Self::field("messages", error)
    }
}

/// An error about a grammar, and the field that asked for it.
pub(crate) fn of_grammar(param: &str, error: &GrammarError) -> ApiError {
    match error {
        GrammarError::Vocabulary(_) => ApiError::internal(error.to_string()),
        _ => ApiError::field(param, error),
    }
}

/// An error in OpenAI's and DeepSeek's shape.
#[derive(Serialize, ToSchema)]
pub(crate) struct ErrorBody {
    error: ErrorDetail,
}

/// What went wrong.
#[derive(Serialize, ToSchema)]
pub(crate) struct ErrorDetail {
    /// What was expected, what was found, what to do.
    message: String,
    /// A class of errors.
    r#type: String,
    /// The field that is wrong.
    param: Option<String>,
    /// A word for programs, such as `context_length_exceeded`.
    code: Option<String>,
    /// Tokens of a prompt that exceeds the context.
    #[serde(skip_serializing_if = "Option::is_none")]
    n_prompt_tokens: Option<usize>,
    /// Tokens of the context.
    #[serde(skip_serializing_if = "Option::is_none")]
    n_ctx: Option<usize>,
}

/// An error in Anthropic's shape.
#[derive(Serialize, ToSchema)]
pub(crate) struct AnthropicErrorBody {
    /// Always `error`.
    r#type: String,
    error: AnthropicErrorDetail,
}

/// What went wrong.
#[derive(Serialize, ToSchema)]
pub(crate) struct AnthropicErrorDetail {
    /// A class of errors.
    r#type: String,
    /// What was expected, what was found, what to do.
    message: String,
}

/// The errors that any path may answer with.
#[derive(IntoResponses)]
#[expect(dead_code, reason = "only described, in /openapi.json; `ApiError` is what is sent")]
pub(crate) enum Errors {
    /// The request, or a field of it, cannot be used.
    #[response(status = 400)]
    Request(ErrorBody),
    /// The API key is missing or unknown.
    #[response(status = 401)]
    Key(ErrorBody),
    /// The request came under a name that is not this server's.
    #[response(status = 403)]
    Host(ErrorBody),
    /// There is none.
    #[response(status = 404)]
    Missing(ErrorBody),
    /// The body did not arrive in time.
    #[response(status = 408)]
    Slow(ErrorBody),
    /// The body is too large.
    #[response(status = 413)]
    Large(ErrorBody),
    /// The body is not declared as JSON.
    #[response(status = 415)]
    MediaType(ErrorBody),
    /// Too many requests at once; `Retry-After` says when to come again.
    #[response(status = 429)]
    Busy(ErrorBody),
    /// A failure of the server.
    #[response(status = 500)]
    Failed(ErrorBody),
    /// The server is starting or ending.
    #[response(status = 503)]
    Unavailable(ErrorBody),
}

/// The same in Anthropic's shape.
#[derive(IntoResponses)]
#[expect(dead_code, reason = "only described, in /openapi.json; `ApiError` is what is sent")]
pub(crate) enum AnthropicErrors {
    /// The request, or a field of it, cannot be used.
    #[response(status = 400)]
    Request(AnthropicErrorBody),
    /// The API key is missing or unknown.
    #[response(status = 401)]
    Key(AnthropicErrorBody),
    /// The request came under a name that is not this server's.
    #[response(status = 403)]
    Host(AnthropicErrorBody),
    /// There is none.
    #[response(status = 404)]
    Missing(AnthropicErrorBody),
    /// The body did not arrive in time.
    #[response(status = 408)]
    Slow(AnthropicErrorBody),
    /// The body is too large.
    #[response(status = 413)]
    Large(AnthropicErrorBody),
    /// The body is not declared as JSON.
    #[response(status = 415)]
    MediaType(AnthropicErrorBody),
    /// Too many requests at once; `Retry-After` says when to come again.
    #[response(status = 429)]
    Busy(AnthropicErrorBody),
    /// A failure of the server.
    #[response(status = 500)]
    Failed(AnthropicErrorBody),
    /// The server is starting or ending.
    #[response(status = 503)]
    Unavailable(AnthropicErrorBody),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_field_is_named_where_the_message_names_it() {
        let named = |text: &str| ApiError::named(text).param;
        assert_eq!(named("temperature: expected a number from 0 to 10, found 11"), Some("temperature".into()));
        assert_eq!(named("the chat template refuses this: no"), None);
        let error = ApiError::from(Rejected::ContextLength { found: 9, limit: 5 });
        assert_eq!((error.status.as_u16(), error.tokens), (400, Some((9, 5))));
        assert_eq!(error.openai_body()["error"]["code"], "context_length_exceeded");
    }
}
