//! Text to tokens and back, for clients that count or inspect.

use axum::extract::{Request, State};
use axum::response::Response;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::app::App;
use crate::body;
use crate::dialect::FunctionTool;
use crate::dialect::chat::{ChatMessage, ChatRequest};
use crate::error::{ApiError, Errors};
use crate::generate::encode;
use crate::stream::json;

/// A text or a conversation.
#[derive(Deserialize, ToSchema)]
pub(crate) struct TokenizeRequest {
    /// The text; its tokens are ordinary ones, whatever it spells.
    #[serde(default, alias = "content", alias = "text")]
    prompt: Option<String>,
    /// Put the token before it that the model wants at the beginning.
    #[serde(default)]
    add_special_tokens: Option<bool>,
    /// Or a conversation, as it would be answered.
    #[serde(default)]
    messages: Option<Vec<ChatMessage>>,
    /// With the tools of it.
    #[serde(default)]
    tools: Option<Vec<FunctionTool>>,
}

/// Tokens.
#[derive(Serialize, ToSchema)]
pub(crate) struct Tokens {
    /// How many.
    count: usize,
    /// Their ids.
    tokens: Vec<u32>,
    /// Longest sequence of the model, in tokens.
    max_model_len: usize,
}

/// Encode a text or a conversation.
#[utoipa::path(
    post,
    path = "/tokenize",
    tag = "Minke",
    request_body = TokenizeRequest,
    responses((status = 200, body = Tokens), Errors)
)]
pub(crate) async fn tokenize(State(app): State<App>, request: Request) -> Result<Response, ApiError> {
    let request: TokenizeRequest = body::json(&app, request).await?;
    let model = app.model.clone();
    let tokens = app
        .work(move || match (request.prompt, request.messages) {
            (Some(text), None) => {
                let mut tokens = model.facts.tokenizer.encode_plain(&text)?;
                if request.add_special_tokens == Some(true) {
                    tokens.splice(0..0, model.facts.bos_token);
                }
                Ok(tokens)
            }
            (None, Some(messages)) => {
                let chat = ChatRequest { messages, tools: request.tools, ..ChatRequest::default() };
                Ok(encode(&model, &chat.into_wish()?)?.tokens)
            }
            _ => Err(ApiError::field("prompt", "expected either prompt or messages")),
        })
        .await??;
    Ok(json(&Tokens { count: tokens.len(), tokens, max_model_len: app.model.facts.n_context }))
}

/// Ids of tokens.
#[derive(Deserialize, ToSchema)]
pub(crate) struct DetokenizeRequest {
    /// The ids.
    tokens: Vec<u32>,
}

/// Their text.
#[derive(Serialize, ToSchema)]
pub(crate) struct Text {
    /// What is not UTF-8 in it is U+FFFD.
    prompt: String,
}

/// Decode tokens.
#[utoipa::path(
    post,
    path = "/detokenize",
    tag = "Minke",
    request_body = DetokenizeRequest,
    responses((status = 200, body = Text), Errors)
)]
pub(crate) async fn detokenize(State(app): State<App>, request: Request) -> Result<Response, ApiError> {
    let request: DetokenizeRequest = body::json(&app, request).await?;
    let text = app.model.facts.tokenizer.decode(&request.tokens, false);
    Ok(json(&Text { prompt: text.map_err(|e| ApiError::field("tokens", e))? }))
}
