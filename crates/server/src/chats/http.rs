//! The routes of stored chats.

use std::sync::Arc;

use axum::Extension;
use axum::body::Body;
use axum::extract::{Path, Query as FromQuery, Request, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::markdown;
use super::store::{Chats, ChatsError};
use super::wire::{
    Chat, ChatChange, Export, ExportForm, Hits, Import, MessageChange, NewChat, NewMessages, Page, Query,
    StoredMessage, StoredMessages, Summaries,
};
use crate::app::App;
use crate::auth::Caller;
use crate::body;
use crate::error::{ApiError, Errors};
use crate::stream::json;

const LIMIT_DEFAULT: u32 = 50;
const LIMIT_MAX: u32 = 500;
const ROLES: [&str; 4] = ["system", "user", "assistant", "tool"];

pub(crate) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(list, create))
        .routes(routes!(find, change, remove))
        .routes(routes!(restore))
        .routes(routes!(append))
        .routes(routes!(change_message, cut))
        .routes(routes!(export))
        .routes(routes!(import))
        .routes(routes!(search))
}

/// Does something with the store, on a thread that may wait for the disk.
async fn with<T: Send + 'static>(
    app: &App,
    caller: &Caller,
    work: impl FnOnce(&Chats, &str) -> Result<T, ChatsError> + Send + 'static,
) -> Result<T, ApiError> {
    if app.chats.is_none() {
        return Err(ApiError::not_found("chats are not stored: the server was started without a file for them"));
    }
    let (app, account): (App, Arc<_>) = (app.clone(), caller.0.clone());
    let done = tokio::task::spawn_blocking(move || app.chats.as_ref().map(|chats| work(chats, &account.owner)));
    let done = done.await.map_err(|_| ApiError::internal("this request met a bug of the server"))?;
    done.ok_or_else(|| ApiError::not_found("chats are not stored"))?.map_err(|error| match error {
        ChatsError::Message(_) => ApiError::field("parent_id or current_id", error),
        _ => ApiError::internal(format!("stored chats: {error}")),
    })
}

fn missing(id: &str) -> ApiError {
    ApiError::not_found(format!("there is no conversation {id:?}"))
}

fn missing_message(id: &str, message: &str) -> ApiError {
    ApiError::not_found(format!("there is no message {message} in a conversation {id:?}"))
}

fn limit(limit: Option<u32>) -> u32 {
    limit.unwrap_or(LIMIT_DEFAULT).clamp(1, LIMIT_MAX)
}

fn check(messages: &[super::wire::NewMessage], field: &str) -> Result<(), ApiError> {
    match messages.iter().position(|message| !ROLES.contains(&message.role.as_str())) {
        None => Ok(()),
        Some(i) => {
            let problem = format!("expected system, user, assistant or tool, found {:?}", messages[i].role);
            Err(ApiError::field(format!("{field}[{i}].role"), problem))
        }
    }
}

/// A query that cannot be read.
fn query<T>(parsed: Result<FromQuery<T>, axum::extract::rejection::QueryRejection>) -> Result<T, ApiError> {
    parsed.map(|FromQuery(query)| query).map_err(|error| ApiError::field("query", error.body_text()))
}

fn number(text: &str) -> Result<i64, ApiError> {
    text.parse().map_err(|_| ApiError::field("message_id", format!("expected a number, found {text:?}")))
}

type Queried<T> = Result<FromQuery<T>, axum::extract::rejection::QueryRejection>;

/// List conversations, pinned ones first, then those that changed last.
#[utoipa::path(
    get, path = "/api/conversations", tag = "Chats", params(Page), responses((status = 200, body = Summaries), Errors)
)]
async fn list(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    page: Queried<Page>,
) -> Result<Response, ApiError> {
    let page = query(page)?;
    let (limit, offset) = (limit(page.limit), page.offset.unwrap_or(0));
    let mut data = with(&app, &caller, move |chats, owner| chats.list(owner, limit + 1, offset)).await?;
    let has_more = data.len() > limit as usize;
    data.truncate(limit as usize);
    Ok(json(&Summaries { data, has_more }))
}

/// Begin a conversation.
#[utoipa::path(
    post,
    path = "/api/conversations",
    tag = "Chats",
    request_body = NewChat,
    responses((status = 201, body = Chat), Errors)
)]
async fn create(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    request: Request,
) -> Result<Response, ApiError> {
    let chat: NewChat = body::json(&app, request).await?;
    check(&chat.messages, "messages")?;
    let made = with(&app, &caller, move |chats, owner| {
        let names = chats.add(owner, &[chat])?;
        chats.find(owner, &names[0])
    });
    let made = made.await?.ok_or_else(|| ApiError::internal("stored chats: a new conversation is gone"))?;
    Ok((StatusCode::CREATED, json(&made)).into_response())
}

/// Read a conversation.
#[utoipa::path(
    get,
    path = "/api/conversations/{id}",
    tag = "Chats",
    params(("id" = String, Path, description = "The conversation")),
    responses((status = 200, body = Chat), Errors)
)]
async fn find(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
) -> Result<Response, ApiError> {
    Ok(json(&read(&app, &caller, id).await?))
}

async fn read(app: &App, caller: &Caller, id: String) -> Result<Chat, ApiError> {
    let name = id.clone();
    let found = with(app, caller, move |chats, owner| chats.find(owner, &name)).await?;
    found.ok_or_else(|| missing(&id))
}

/// Change what is said of a conversation: its title, whether it is pinned, the branch that is on show.
#[utoipa::path(
    patch,
    path = "/api/conversations/{id}",
    tag = "Chats",
    params(("id" = String, Path, description = "The conversation")),
    request_body = ChatChange,
    responses((status = 204, description = "Done"), Errors)
)]
async fn change(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
    request: Request,
) -> Result<StatusCode, ApiError> {
    let change: ChatChange = body::json(&app, request).await?;
    let name = id.clone();
    match with(&app, &caller, move |chats, owner| chats.change(owner, &name, &change)).await? {
        true => Ok(StatusCode::NO_CONTENT),
        false => Err(missing(&id)),
    }
}

/// Forget a conversation. For an hour it can be brought back.
#[utoipa::path(
    delete,
    path = "/api/conversations/{id}",
    tag = "Chats",
    params(("id" = String, Path, description = "The conversation")),
    responses((status = 204, description = "Done"), Errors)
)]
async fn remove(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
) -> Result<StatusCode, ApiError> {
    let name = id.clone();
    match with(&app, &caller, move |chats, owner| chats.remove(owner, &name)).await? {
        true => Ok(StatusCode::NO_CONTENT),
        false => Err(missing(&id)),
    }
}

/// Bring a conversation back that was forgotten within the hour.
#[utoipa::path(
    post,
    path = "/api/conversations/{id}/restore",
    tag = "Chats",
    params(("id" = String, Path, description = "The conversation")),
    responses((status = 204, description = "Done"), Errors)
)]
async fn restore(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
) -> Result<StatusCode, ApiError> {
    let name = id.clone();
    match with(&app, &caller, move |chats, owner| chats.restore(owner, &name)).await? {
        true => Ok(StatusCode::NO_CONTENT),
        false => Err(missing(&id)),
    }
}

/// Append messages to a conversation. When this has been answered, they are on the disk.
#[utoipa::path(
    post,
    path = "/api/conversations/{id}/messages",
    tag = "Chats",
    params(("id" = String, Path, description = "The conversation")),
    request_body = NewMessages,
    responses((status = 201, body = StoredMessages), Errors)
)]
async fn append(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
    request: Request,
) -> Result<Response, ApiError> {
    let new: NewMessages = body::json(&app, request).await?;
    check(&new.messages, "messages")?;
    let name = id.clone();
    let kept = with(&app, &caller, move |chats, owner| chats.append(owner, &name, &new.messages)).await?;
    let messages = kept.ok_or_else(|| missing(&id))?;
    Ok((StatusCode::CREATED, json(&StoredMessages { messages })).into_response())
}

/// Change a message, for instance one that is being written. When this has been answered, it is on the disk.
#[utoipa::path(
    patch,
    path = "/api/conversations/{id}/messages/{message_id}",
    tag = "Chats",
    params(
        ("id" = String, Path, description = "The conversation"),
        ("message_id" = i64, Path, description = "The message")
    ),
    request_body = MessageChange,
    responses((status = 204, description = "Done"), Errors)
)]
async fn change_message(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    Path((id, message)): Path<(String, String)>,
    request: Request,
) -> Result<StatusCode, ApiError> {
    let change: MessageChange = body::json(&app, request).await?;
    let (name, number) = (id.clone(), number(&message)?);
    match with(&app, &caller, move |chats, owner| chats.change_message(owner, &name, number, &change)).await? {
        true => Ok(StatusCode::NO_CONTENT),
        false => Err(missing_message(&id, &message)),
    }
}

/// Forget a message and all that follow it.
#[utoipa::path(
    delete,
    path = "/api/conversations/{id}/messages/{message_id}",
    tag = "Chats",
    params(
        ("id" = String, Path, description = "The conversation"),
        ("message_id" = i64, Path, description = "The message")
    ),
    responses((status = 204, description = "Done"), Errors)
)]
async fn cut(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    Path((id, message)): Path<(String, String)>,
) -> Result<StatusCode, ApiError> {
    let (name, number) = (id.clone(), number(&message)?);
    match with(&app, &caller, move |chats, owner| chats.cut(owner, &name, number)).await? {
        true => Ok(StatusCode::NO_CONTENT),
        false => Err(missing_message(&id, &message)),
    }
}

/// A conversation as a file: of JSON with all branches, or of Markdown with the one on show.
#[utoipa::path(
    get,
    path = "/api/conversations/{id}/export",
    tag = "Chats",
    params(("id" = String, Path, description = "The conversation"), ExportForm),
    responses(
        (status = 200, description = "The file", content((Export = "application/json"), (String = "text/markdown"))),
        Errors
    )
)]
async fn export(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
    form: Queried<ExportForm>,
) -> Result<Response, ApiError> {
    let form = query(form)?.format;
    let chat = read(&app, &caller, id).await?;
    match form.as_deref().unwrap_or("json") {
        "json" => Ok(json(&Export { conversations: vec![chat.to_export()] })),
        "markdown" => {
            let messages = chat.branch().into_iter().map(StoredMessage::to_new).collect();
            let chat = NewChat { messages, ..chat.to_export() };
            let mut response = Response::new(Body::from(markdown::write(&chat)));
            let kind = HeaderValue::from_static("text/markdown; charset=utf-8");
            response.headers_mut().insert(header::CONTENT_TYPE, kind);
            Ok(response)
        }
        other => Err(ApiError::field("format", format!("expected json or markdown, found {other:?}"))),
    }
}

/// Take in conversations that were exported, as new ones: all or none.
#[utoipa::path(
    post,
    path = "/api/conversations/import",
    tag = "Chats",
    request_body = Import,
    responses((status = 201, body = Summaries), Errors)
)]
async fn import(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    request: Request,
) -> Result<Response, ApiError> {
    let import: Import = body::json(&app, request).await?;
    let chats = match (import.conversations, import.markdown) {
        (Some(chats), None) => chats,
        (None, Some(text)) => vec![markdown::read(&text).map_err(|e| ApiError::field("markdown", e))?],
        _ => return Err(ApiError::field("conversations", "expected either conversations or markdown")),
    };
    for (i, chat) in chats.iter().enumerate() {
        check(&chat.messages, &format!("conversations[{i}].messages"))?;
    }
    let data = with(&app, &caller, move |store, owner| {
        let names = store.add(owner, &chats)?;
        store.summaries(&names)
    });
    Ok((StatusCode::CREATED, json(&Summaries { data: data.await?, has_more: false })).into_response())
}

/// Find messages by their words.
#[utoipa::path(get, path = "/api/search", tag = "Chats", params(Query), responses((status = 200, body = Hits), Errors))]
async fn search(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    asked: Queried<Query>,
) -> Result<Response, ApiError> {
    let Query { q, limit: n } = query(asked)?;
    let n = limit(n);
    Ok(json(&Hits { data: with(&app, &caller, move |chats, owner| chats.search(owner, &q, n)).await? }))
}
