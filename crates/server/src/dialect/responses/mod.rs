//! `/v1/responses`: OpenAI's newer form.
//!
//! Owns the routes. See the folder's files for types, conversion, rendering and what is remembered.

mod memory;
mod render;
mod request;
mod wire;

pub(crate) use memory::Remembered;

use axum::Extension;
use axum::extract::{Path, Request, State};
use axum::response::Response;
use serde_json::{Value, json};

use crate::app::App;
use crate::auth::Caller;
use crate::body;
use crate::error::{ApiError, Errors};
use crate::generate::{Generation, Output, fresh_id, now_s, start};
use crate::stream::{Render, events, json, patient};
use render::{Events, Keeping};
use wire::{Deleted, ResponseAnswer, ResponsesRequest};

/// Answer a conversation.
#[utoipa::path(
    post,
    path = "/v1/responses",
    tag = "OpenAI",
    request_body = ResponsesRequest,
    responses(
        (
            status = 200,
            description = "The response, whole or, with `stream`, as events",
            content((ResponseAnswer = "application/json"), (serde_json::Value = "text/event-stream"))
        ),
        Errors
    )
)]
pub(crate) async fn create(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    request: Request,
) -> Result<Response, ApiError> {
    let request: ResponsesRequest = body::json(&app, request).await?;
    let owner = caller.0.owner.clone();
    let mut messages = match &request.previous_response_id {
        None => Vec::new(),
        Some(id) => {
            let found = app.remembered.find(&owner, id);
            let unknown = || {
                let problem =
                    format!("there is no response {id:?}, or it was not stored, or long ago; send the whole input");
                ApiError {
                    code: Some("previous_response_not_found"),
                    ..ApiError::field("previous_response_id", problem)
                }
            };
            found.ok_or_else(unknown)?.to_vec()
        }
    };
    messages.extend(request.messages()?);
    let wish = request.wish(messages.clone())?;
    let answer = begin(&app, &request, &wish.tools.list);
    let keeps = request.store.unwrap_or(true);
    let generation = start(&app, &caller, wish).await?;
    let render = Events::new(answer, Keeping { app: app.clone(), owner, messages, keeps });
    match request.stream == Some(true) {
        true => Ok(events(generation, render, app.options.keep_alive)),
        false => patient(whole(generation, render), app.options.keep_alive).await,
    }
}

/// Give a stored response again.
#[utoipa::path(
    get,
    path = "/v1/responses/{id}",
    tag = "OpenAI",
    params(("id" = String, Path, description = "The response's id")),
    responses((status = 200, body = ResponseAnswer), Errors)
)]
pub(crate) async fn retrieve(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
) -> Result<Response, ApiError> {
    let answer = app.remembered.answer(&caller.0.owner, &id).ok_or_else(|| unknown(&id))?;
    Ok(json(&*answer))
}

/// Forget a stored response.
#[utoipa::path(
    delete,
    path = "/v1/responses/{id}",
    tag = "OpenAI",
    params(("id" = String, Path, description = "The response's id")),
    responses((status = 200, body = Deleted), Errors)
)]
pub(crate) async fn delete(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
) -> Result<Response, ApiError> {
    match app.remembered.forget(&caller.0.owner, &id) {
        true => Ok(json(&Deleted { id, object: "response", deleted: true })),
        false => Err(unknown(&id)),
    }
}

fn unknown(id: &str) -> ApiError {
    ApiError::not_found(format!("there is no response {id:?}, or it was not stored, or long ago"))
}

/// The response before anything was said.
fn begin(app: &App, request: &ResponsesRequest, tools: &[Value]) -> ResponseAnswer {
    let flat = |tool: &Value| {
        let mut function = tool["function"].clone();
        function["type"] = "function".into();
        // OpenAI's clients want these to be there.
        for key in ["parameters", "strict"] {
            if function[key].is_null() {
                function[key] = Value::Null;
            }
        }
        function
    };
    let format = request.text.as_ref().and_then(|text| text.format.as_ref());
    let format = format.map_or("text", |format| format.r#type.as_str());
    let effort = request.reasoning.as_ref().and_then(|reasoning| reasoning.effort.as_deref());
    ResponseAnswer {
        id: fresh_id("resp_"),
        object: "response",
        created_at: now_s(),
        status: "in_progress",
        error: None,
        incomplete_details: None,
        instructions: request.instructions.clone(),
        max_output_tokens: request.max_output_tokens,
        model: app.model.facts.name.clone(),
        output: Vec::new(),
        parallel_tool_calls: request.parallel_tool_calls.unwrap_or(true),
        previous_response_id: request.previous_response_id.clone(),
        store: request.store.unwrap_or(true),
        temperature: request.temperature,
        tool_choice: request.tool_choice.clone().unwrap_or_else(|| "auto".into()),
        tools: tools.iter().map(flat).collect(),
        top_p: request.top_p,
        truncation: "disabled",
        text: json!({ "format": { "type": format } }),
        reasoning: json!({ "effort": effort, "summary": null }),
        usage: None,
        metadata: request.metadata.clone().unwrap_or_default(),
    }
}

/// The response when all has been said: the same as its events tell, without them.
async fn whole(mut generation: Generation, mut render: Events) -> Result<Value, ApiError> {
    let mut unheard = String::new();
    while let Some(output) = generation.next().await {
        match output {
            Output::Failed(error) => return Err(error),
            output => render.output(output, &mut unheard),
        }
        unheard.clear();
    }
    Ok(serde_json::to_value(render.into_answer()).unwrap_or_default())
}
