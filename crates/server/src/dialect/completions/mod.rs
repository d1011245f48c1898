//! `/v1/completions`: OpenAI's older form, which evaluations and editors use.
//!
//! Owns the route, several prompts in one request, and giving prompts back. See the folder's files for the rest.

mod render;
mod request;
mod wire;

use axum::Extension;
use axum::extract::{Request, State};
use axum::response::Response;
use serde_json::Value;

use crate::app::App;
use crate::auth::Caller;
use crate::body;
use crate::dialect::parts::{RunningUsage, TellsUsage, Usage};
use crate::error::{ApiError, Errors};
use crate::generate::{Choice, GenerationRequest, LogProb, Prompt, collect, encode, read_back, start};
use crate::stream::{events, patient};
use render::{Chunks, Echo, choice, completion};
use wire::{Completion, CompletionLogprobs, CompletionRequest};

/// Continue a text.
#[utoipa::path(
    post,
    path = "/v1/completions",
    tag = "OpenAI",
    request_body = CompletionRequest,
    responses(
        (
            status = 200,
            description = "The completions, whole or, with `stream`, as events",
            content((Completion = "application/json"), (Completion = "text/event-stream"))
        ),
        Errors
    )
)]
pub(crate) async fn create(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    request: Request,
) -> Result<Response, ApiError> {
    let request: CompletionRequest = body::json(&app, request).await?;
    let echoes = request.echo.unwrap_or(false);
    let wishes = request.wishes()?;
    let (model, keep_alive) = (app.model.facts.name.clone(), app.options.keep_alive);
    if request.stream == Some(true) {
        let mut wishes = wishes.into_iter();
        let (Some(wish), None) = (wishes.next(), wishes.next()) else {
            return Err(ApiError::field("prompt", "expected one prompt where stream is set, found several"));
        };
        let echo = if echoes { echo_text(&app, &wish)? } else { String::new() };
        let n = wish.n;
        let tells_usage = TellsUsage::of(request.stream_options.as_ref());
        let generation = start(&app, &caller, wish).await?;
        let usage = RunningUsage::new(tells_usage, generation.prompt.len(), n);
        return Ok(events(generation, Chunks::new(model, n, echo, usage), keep_alive));
    }
    // What is wrong with a request is found when its first prompt starts, before anything has been sent.
    let writes = request.n_tokens() > 0 || !echoes;
    let with_logprobs = request.logprobs;
    let work = async move {
        let mut answer = completion(model);
        let mut usage = Usage::default();
        for wish in wishes {
            let n = wish.n;
            let echo = if echoes { echo(&app, &caller, &wish, with_logprobs).await? } else { Echo::default() };
            let choices = match writes {
                true => collect(&mut start(&app, &caller, wish).await?, n).await?,
                false => vec![Choice::default(); n],
            };
            match writes {
                true => add_usage(&mut usage, &choices),
                false => usage.prompt_tokens += echo.n_tokens,
            }
            usage.total_tokens = usage.prompt_tokens + usage.completion_tokens;
            for one in &choices {
                let index = answer.choices.len();
                answer.choices.push(choice(index, one, &echo, with_logprobs.is_some()));
            }
        }
        answer.usage = Some(usage);
        Ok(serde_json::to_value(answer).unwrap_or(Value::Null))
    };
    patient(work, keep_alive).await
}

/// Adds the completions of one prompt.
fn add_usage(usage: &mut Usage, choices: &[Choice]) {
    let mut own = Usage::default();
    choices.iter().filter_map(|choice| choice.end.as_ref()).for_each(|end| own.add(end));
    usage.prompt_tokens += own.prompt_tokens;
    usage.completion_tokens += own.completion_tokens;
    usage.prompt_cache_hit_tokens += own.prompt_cache_hit_tokens;
    usage.prompt_cache_miss_tokens += own.prompt_cache_miss_tokens;
    usage.prompt_tokens_details.cached_tokens += own.prompt_tokens_details.cached_tokens;
}

/// The prompt as text.
fn echo_text(app: &App, wish: &GenerationRequest) -> Result<String, ApiError> {
    match &wish.prompt {
        Prompt::Text { text, .. } => Ok(text.clone()),
        Prompt::Tokens(tokens) => {
            app.model.facts.tokenizer.decode(tokens, false).map_err(|e| ApiError::field("prompt", e))
        }
        Prompt::Chat(_) => Ok(String::new()),
    }
}

/// The prompt, with the log-probabilities of its tokens if they are wanted.
async fn echo(
    app: &App,
    caller: &Caller,
    wish: &GenerationRequest,
    top_logprobs: Option<usize>,
) -> Result<Echo, ApiError> {
    let text = echo_text(app, wish)?;
    let tokens = encode(&app.model, wish)?.tokens;
    let n_tokens = tokens.len();
    let Some(top_logprobs) = top_logprobs else { return Ok(Echo { text, n_tokens, ..Echo::default() }) };
    let added = app.model.facts.bos_token.filter(|_| matches!(wish.prompt, Prompt::Text { .. }));
    let n_added = usize::from(added.is_some());
    let (mut logprobs, mut offset) = (CompletionLogprobs::default(), 0);
    // A text whose first token was added has a log-probability at its own first token too.
    if let Some(&first) = tokens.first().filter(|_| n_added == 0) {
        let bytes = app.model.facts.tokenizer.token_bytes(first).unwrap_or_default().to_vec();
        let token = LogProb { bytes, logprob: None, top: Vec::new(), in_reasoning: false };
        logprobs.push(&token, &mut offset, true);
    }
    if tokens.len() > 1 {
        let mut generation = read_back(app, caller, tokens, top_logprobs).await?;
        let choices = collect(&mut generation, 1).await?;
        choices.iter().flat_map(|c| &c.logprobs).for_each(|token| logprobs.push(token, &mut offset, false));
    }
    Ok(Echo { text, n_tokens, logprobs })
}
