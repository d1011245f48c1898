//! From a client's wishes to the engine's request.
//!
//! Owns defaults, grammars and budgets of one request. It works: rendering, encoding and compiling take up to some tenths
//! of a second, so it is not for the threads that serve sockets. Must not wait for the engine.

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use engine::{Request, Sampling, Thinking, TokenMask};
use text::{ArmedGrammar, Detokenizer, GrammarSpec, OutputStream, StopMatcher, StopStrings, Tool, ToolChoice};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use super::mask::{Mask, ReadBack, ToolMask};
use super::prompt::{Encoded, encode};
use super::sink::{Hearing, Output, Stream};
use super::{Choose, GenerationRequest, Prompt, random};
use crate::error::{ApiError, of_grammar};
use crate::model::Model;

/// Most tokens of an answer for which none are asked: a request holds its longest answer's place in the cache, so that
/// the whole context would leave room for few others.
const MAX_TOKENS_DEFAULT: usize = 8192;

/// A request that the engine can take, and where its events arrive.
pub(super) struct Prepared {
    pub(super) request: Request,
    pub(super) outputs: UnboundedReceiver<Output>,
    pub(super) waiting: Arc<AtomicUsize>,
    pub(super) prompt: Arc<[u32]>,
}

/// Prepares a request on behalf of `owner`.
pub(super) fn prepare(model: &Model, wish: &GenerationRequest, owner: u64) -> Result<Prepared, ApiError> {
    let facts = &model.facts;
    let sampling = sampling(model, wish);
    sampling.check(facts.vocab).map_err(ApiError::named)?;
    if wish.n == 0 || wish.n > facts.n_running {
        let problem = format!("expected 1 to {} completions, found {}", facts.n_running, wish.n);
        return Err(ApiError::field("n", problem));
    }
    let Encoded { tokens, in_reasoning } = encode(model, wish)?;
    if tokens.is_empty() {
        return Err(ApiError::field(wish.prompt.field(), "expected at least one token, found none"));
    }
    if tokens.len() >= facts.n_context {
        return Err(ApiError::context_length(wish.prompt.field(), tokens.len(), facts.n_context));
    }
    let n_left = facts.n_context - tokens.len();
    let max_tokens = match wish.max_tokens {
        Some(0) => return Err(ApiError::field("max_tokens", "expected at least 1, found 0")),
        Some(n) => n.min(n_left),
        None => n_left.min(MAX_TOKENS_DEFAULT),
    };
    let mask = mask(model, wish, in_reasoning)?;
    let thinking = thinking(model, wish, in_reasoning)?;
    let has_tools = !wish.tools.list.is_empty() && wish.tools.choice != Choose::None;
    let stream = stream(model, wish, in_reasoning, has_tools)?;
    let (sender, outputs) = unbounded_channel();
    let waiting = Arc::new(AtomicUsize::new(0));
    let hearing = Hearing {
        stream,
        n: wish.n,
        end_tokens: facts.end_tokens.clone(),
        tokenizer: facts.tokenizer.clone(),
        logprobs: wish.top_logprobs.is_some(),
        single_call: has_tools && wish.tools.single,
        outputs: sender,
        waiting: waiting.clone(),
    };
    let prompt: Arc<[u32]> = tokens.as_slice().into();
    let request = Request {
        prompt: tokens,
        max_tokens,
        end_tokens: facts.end_tokens.clone(),
        sampling,
        n: wish.n,
        thinking,
        mask,
        stops_loops: true,
        speculates: true,
        owner,
        sink: hearing.sink(),
    };
    Ok(Prepared { request, outputs, waiting, prompt })
}

/// How the answer becomes text.
fn stream(model: &Model, wish: &GenerationRequest, in_reasoning: bool, has_tools: bool) -> Result<Stream, ApiError> {
    let tokenizer = model.facts.tokenizer.clone();
    let stop = Arc::new(StopStrings::new(&wish.stop).map_err(|e| ApiError::field("stop", e))?);
    if !matches!(wish.prompt, Prompt::Chat(_)) {
        return Ok(Stream::Raw(Detokenizer::new(tokenizer, true), StopMatcher::new(stop)));
    }
    let stream = OutputStream::new(tokenizer, in_reasoning, stop);
    Ok(Stream::Chat(Box::new(if has_tools { stream.with_tools(model.tool_format) } else { stream })))
}

/// A request that reads a text back, to learn the log-probability of each of its tokens but the first.
///
/// # Errors
/// The text is too long, or its log-probabilities too many
pub(super) fn prepare_read_back(
    model: &Model,
    tokens: &[u32],
    top_logprobs: usize,
    owner: u64,
) -> Result<Prepared, ApiError> {
    let facts = &model.facts;
    if tokens.len() >= facts.n_context {
        return Err(ApiError::context_length("prompt", tokens.len(), facts.n_context));
    }
    let Some((first, rest)) = tokens.split_first().filter(|(_, rest)| !rest.is_empty()) else {
        return Err(ApiError::field("prompt", "expected at least two tokens, of which the second has a probability"));
    };
    let sampling = Sampling { top_logprobs: Some(top_logprobs), ..Sampling::GREEDY };
    sampling.check(facts.vocab).map_err(ApiError::named)?;
    let stop = Arc::new(StopStrings::new::<&str>(&[]).map_err(|e| ApiError::internal(e.to_string()))?);
    let (sender, outputs) = unbounded_channel();
    let waiting = Arc::new(AtomicUsize::new(0));
    let hearing = Hearing {
        stream: Stream::Raw(Detokenizer::new(facts.tokenizer.clone(), false), StopMatcher::new(stop)),
        n: 1,
        end_tokens: Arc::new([]),
        tokenizer: facts.tokenizer.clone(),
        logprobs: true,
        single_call: false,
        outputs: sender,
        waiting: waiting.clone(),
    };
    let request = Request {
        prompt: vec![*first],
        max_tokens: rest.len(),
        end_tokens: Arc::new([]),
        sampling,
        n: 1,
        thinking: None,
        mask: Some(Box::new(ReadBack::new(rest.into()))),
        stops_loops: false,
        speculates: false,
        owner,
        sink: hearing.sink(),
    };
    Ok(Prepared { request, outputs, waiting, prompt: tokens.into() })
}

/// The client's wishes before the model's own settings before ours.
fn sampling(model: &Model, wish: &GenerationRequest) -> Sampling {
    let asked = &wish.sampling;
    let own = |key: &str| model.own(key).map(|n| n as f32);
    Sampling {
        temperature: asked.temperature.or_else(|| own("temperature")).unwrap_or(0.6),
        top_p: asked.top_p.or_else(|| own("top_p")).unwrap_or(0.95),
        top_k: asked.top_k.or_else(|| model.own("top_k").map(|k| k as usize)).unwrap_or(0),
        min_p: asked.min_p.unwrap_or(0.0),
        repetition_penalty: asked.repetition_penalty.or_else(|| own("repetition_penalty")).unwrap_or(1.0),
        frequency_penalty: asked.frequency_penalty.unwrap_or(0.0),
        presence_penalty: asked.presence_penalty.unwrap_or(0.0),
        logit_bias: asked.logit_bias.clone(),
        seed: asked.seed.unwrap_or_else(random),
        top_logprobs: wish.top_logprobs,
        min_tokens: asked.min_tokens,
    }
}

/// The budget that was asked for, or that follows from the effort where the template cannot be told of it.
fn thinking(model: &Model, wish: &GenerationRequest, in_reasoning: bool) -> Result<Option<Thinking>, ApiError> {
    let effort = wish.reasoning.effort.filter(|_| !model.template_says("reasoning_effort"));
    let Some(soft) = wish.reasoning.budget.or_else(|| effort?.budget()) else { return Ok(None) };
    // A model without tokens around its reasoning has nothing to be brought to its end.
    let Some(budget) = model.facts.thinking.clone() else { return Ok(None) };
    let budget = engine::ThinkingBudget { soft, hard: soft.saturating_add(soft / 4), ..budget };
    Thinking::new(budget, in_reasoning).map(Some).map_err(|e| ApiError::internal(e.to_string()))
}

/// What the answer is held to.
fn mask(model: &Model, wish: &GenerationRequest, in_reasoning: bool) -> Result<Option<Box<dyn TokenMask>>, ApiError> {
    let armed = |grammar| ArmedGrammar::new(grammar, in_reasoning, model.think);
    let must_call = |choice: ToolChoice| -> Result<Option<Box<dyn TokenMask>>, ApiError> {
        let grammar = calls(model, wish, choice, wish.tools.single)?;
        Ok(Some(Box::new(Mask(armed(grammar)))))
    };
    match &wish.tools.choice {
        Choose::Required => return must_call(ToolChoice::Required),
        Choose::Named(name) => return must_call(ToolChoice::Named(name.clone())),
        Choose::Auto | Choose::None => {}
    }
    let answer = match &wish.format {
        Some(spec) => {
            let grammar = model.grammars()?.compile(spec);
            Some(armed(grammar.map_err(|e| of_grammar(wish.format_field, &e))?))
        }
        None => None,
    };
    let may_call = wish.tools.choice == Choose::Auto && !wish.tools.list.is_empty();
    match (answer, model.tool_opener().filter(|_| may_call)) {
        (answer, Some(opener)) => match calls(model, wish, ToolChoice::Required, wish.tools.single) {
            Ok(calls) => Ok(Some(Box::new(ToolMask::new(calls, opener, answer)))),
            Err(error) if answer.is_some() || wish.tools.list.iter().any(is_strict) => Err(error),
            // The model may still call; nothing but its own skill holds the call to its schema.
            Err(_) => Ok(None),
        },
        // Without a token that opens calls nothing tells a call from an answer early enough.
        (Some(answer), None) if !may_call => Ok(Some(Box::new(Mask(answer)))),
        _ => Ok(None),
    }
}

/// Whether a tool's calls must follow its schema to the letter.
fn is_strict(tool: &serde_json::Value) -> bool {
    tool["function"]["strict"] == true
}

/// The grammar of calls. A schema that cannot be enforced is an error where it is to be followed to the letter, else any
/// object will do.
fn calls(model: &Model, wish: &GenerationRequest, choice: ToolChoice, single: bool) -> Result<text::Grammar, ApiError> {
    let mut tools = Tool::from_openai(&wish.tools.list).map_err(|e| of_grammar("tools", &e))?;
    let factory = model.grammars()?;
    let compile = |tools: &[Tool]| {
        let (format, choice) = (model.tool_format, choice.clone());
        factory.compile(&GrammarSpec::ToolCalls { format, tools: tools.to_vec(), choice, parallel: !single })
    };
    let error = match compile(&tools) {
        Ok(grammar) => return Ok(grammar),
        Err(error) => error,
    };
    let field = if matches!(choice, ToolChoice::Named(_)) { "tool_choice" } else { "tools" };
    let mut loosened = false;
    for (tool, value) in tools.iter_mut().zip(&wish.tools.list).filter(|(_, value)| !is_strict(value)) {
        loosened |= value["function"]["parameters"].is_object();
        tool.parameters = serde_json::json!({ "type": "object" });
    }
    if !loosened {
        return Err(of_grammar(field, &error));
    }
    compile(&tools).map_err(|_| of_grammar(field, &error))
}
