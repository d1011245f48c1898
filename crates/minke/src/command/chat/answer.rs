//! One answer: a conversation's tokens to the engine, its events back to text.
//!
//! Owns the engine of a conversation, made for its first turn and kept for the next ones, so that only what is new is
//! computed. Must not print.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use cpu::Cpu;
use engine::{
    Engine, Event, FinishReason, Limits, MaskTimes, Miss, ModelRunner, Reply, Request, Reuse, Runner, Sampling, Sink,
    Thinking, TokenMask, Usage,
};
use indicatif::ProgressBar;
use model::Model;
use server::Mask;
use text::{ArmedGrammar, Delta, GrammarFactory, GrammarSpec, Message, OutputStream, StopStrings, ThinkTokens};

use super::Args;
use super::printer::Printer;
use crate::device::cpu;
use crate::engine_of::EngineOf;
use crate::failure::Failure;
use crate::memory::{bytes, memory};
use crate::progress::progress_bar;
use crate::source::{Source, Text, read_file, utf8};

/// Longest conversation in the terminal where nothing else is asked for.
const CONTEXT_DEFAULT: usize = 16_384;

/// The largest grammar that is read.
const GRAMMAR_BYTES_MAX: u64 = 16 << 20;

/// An answer.
pub(super) struct Answer {
    pub(super) reasoning: String,
    pub(super) content: String,
    pub(super) reason: FinishReason,
    /// Prompt and answer.
    pub(super) tokens: Vec<u32>,
    reuse: Reuse,
    usage: Usage,
    masks: Option<MaskTimes>,
}

impl Answer {
    /// In the shape of OpenAI's chat completions.
    pub(super) fn to_json(&self) -> serde_json::Value {
        let reason = match self.reason {
            FinishReason::Length => "length",
            FinishReason::Loop => "loop",
            FinishReason::Mask => "grammar",
            _ => "stop",
        };
        let usage = &self.usage;
        let mut json = serde_json::json!({
            "reasoning_content": self.reasoning,
            "content": self.content,
            "finish_reason": reason,
            "usage": {
                "prompt_tokens": usage.n_prompt,
                "completion_tokens": usage.n_completion,
                "total_tokens": usage.n_prompt + usage.n_completion,
                "prompt_tokens_details": {
                    "cached_tokens": usage.n_cached,
                    "restored_tokens": self.reuse.n_disk,
                    "miss": match self.reuse.miss {
                        Miss::New => "new",
                        Miss::Diverged => "diverged",
                        Miss::Evicted => "evicted",
                        Miss::None => "none",
                    },
                },
            },
        });
        if let Some(masks) = &self.masks {
            let ms = |time: std::time::Duration| time.as_secs_f64() * 1e3;
            json["grammar"] = serde_json::json!({
                "masks": masks.n,
                "computed_ms_mean": ms(masks.computed) / masks.n.max(1) as f64,
                "computed_ms_max": ms(masks.computed_max),
                "waited_ms": ms(masks.waited),
            });
        }
        json
    }
}

/// What the sink has heard since it was last asked.
struct Heard {
    stream: OutputStream,
    deltas: Vec<Delta>,
    tokens: Vec<u32>,
    n_read: Option<(usize, usize)>,
    reuse: Reuse,
    end: Option<(FinishReason, Usage)>,
}

impl Heard {
    fn hear(&mut self, event: &Event<'_>, end_tokens: &[u32]) -> Reply {
        match *event {
            Event::Started(reuse) => self.reuse = reuse,
            Event::Read { n_read, n_prompt } => self.n_read = Some((n_read, n_prompt)),
            Event::Token { token, .. } => {
                self.tokens.push(token);
                if !end_tokens.contains(&token) {
                    self.deltas.extend(self.stream.push(token));
                }
                if self.stream.stopped() {
                    return Reply::Stop;
                }
            }
            Event::Finished { reason, usage, .. } => {
                self.deltas.extend(self.stream.finish());
                self.end = Some((reason, usage));
            }
        }
        Reply::Continue
    }
}

/// Answers a conversation, turn by turn.
pub(super) struct Answerer<'a> {
    args: &'a Args,
    source: &'a Source,
    text: Text,
    cpu: Arc<Cpu>,
    model: Arc<Model<Cpu>>,
    /// Identity of the model, in hexadecimal digits.
    name: String,
    identity: [u8; 32],
    keeps_blocks: bool,
    engine: Option<Engine<ModelRunner<Cpu, Arc<Cpu>>>>,
}

impl<'a> Answerer<'a> {
    pub(super) fn open(args: &'a Args, source: &'a Source) -> Result<Self, Failure> {
        let text = source.text()?;
        let cpu = Arc::new(cpu(None)?);
        let model = Arc::new(model::load(&*cpu, source.config.clone(), source.weights()?)?);
        let identity = model::identity(&source.config, source.weights()?);
        let name = identity.iter().map(|byte| format!("{byte:02x}")).collect();
        Ok(Self { args, source, text, cpu, model, name, identity, keeps_blocks: false, engine: None })
    }

    /// Which model it is.
    pub(super) fn model_name(&self) -> &str {
        &self.name
    }

    /// Computed blocks are to outlive this process.
    pub(super) fn keep_blocks(&mut self) {
        self.keeps_blocks = true;
    }

    /// The prompt's ids, and whether the answer begins inside the reasoning.
    fn encode(&self, messages: &[Message]) -> Result<(Vec<u32>, bool), Failure> {
        if !self.args.raw {
            let extra = self.args.template_vars.iter().cloned().collect();
            if let Some(encoded) = self.text.encode_chat(messages, extra)? {
                return Ok(encoded);
            }
        }
        let prompt: Vec<&str> = messages.iter().filter_map(|m| m.content.as_deref()).collect();
        Ok((self.text.encode_raw(&prompt.join("\n"), &self.source.config)?, false))
    }

    fn sampling(&self) -> Sampling {
        let own = |key: &str| self.text.generation[key].as_f64();
        let args = self.args;
        Sampling {
            temperature: args.temperature.or(own("temperature").map(|t| t as f32)).unwrap_or(0.6),
            top_p: args.top_p.or(own("top_p").map(|p| p as f32)).unwrap_or(0.95),
            top_k: args.top_k.or(own("top_k").map(|k| k as usize)).unwrap_or(0),
            min_p: args.min_p.unwrap_or(0.0),
            seed: args.seed,
            ..Sampling::GREEDY
        }
    }

    fn thinking(&self, starts_in_reasoning: bool) -> Result<Option<Thinking>, Failure> {
        let Some(hard) = self.args.thinking_budget else { return Ok(None) };
        let Some(budget) = self.text.thinking_budget(hard, hard + hard / 4)? else {
            return Err(Failure::input("--thinking-budget: expected a model with <think> tokens, found none"));
        };
        Ok(Some(Thinking::new(budget, starts_in_reasoning).map_err(|e| Failure::input(e.to_string()))?))
    }

    /// What the answer is held to, behind the reasoning if the prompt opened it.
    fn mask(&self, in_reasoning: bool, end_tokens: &[u32]) -> Result<Option<Box<dyn TokenMask>>, Failure> {
        let read = |path: &Path| utf8(read_file(path, GRAMMAR_BYTES_MAX)?, &path.display().to_string());
        let args = self.args;
        let spec = match (&args.schema, &args.regex, &args.lark) {
            (Some(path), ..) => {
                let schema = serde_json::from_str(&read(path)?);
                let wrong = |e| Failure::input(format!("{}: expected a JSON schema: {e}", path.display()));
                GrammarSpec::JsonSchema(schema.map_err(wrong)?)
            }
            (_, Some(pattern), _) => GrammarSpec::Regex(pattern.clone()),
            (.., Some(path)) => GrammarSpec::Lark(read(path)?),
            _ => return Ok(None),
        };
        let (n_text, n_model) = (self.text.tokenizer.vocab_size(), self.source.config.vocab_size);
        if n_text > n_model {
            let message =
                format!("a grammar: expected at most {n_model} tokens, the model's, in the tokenizer, found {n_text}");
            return Err(Failure::input(message));
        }
        let grammar = GrammarFactory::new(&self.text.tokenizer, end_tokens)?.compile(&spec)?;
        let think = ThinkTokens::of(&self.text.tokenizer);
        Ok(Some(Box::new(Mask(ArmedGrammar::new(grammar, in_reasoning, think)))))
    }

    /// Tokens that the conversation may have in all, checked against model and memory.
    fn context(&self, n_prompt: usize) -> Result<usize, Failure> {
        let limit = self.source.config.max_position_embeddings;
        let row_format = self.args.cache.row_format();
        let per_token = model::counts::cache_bytes_per_token(&self.source.config, row_format).own.max(1);
        let available = memory().available;
        let asked = n_prompt + self.args.max_tokens;
        let goes_on = self.args.prompt.is_none() || self.keeps_blocks;
        let fits = (available / 2 / per_token) as usize;
        let default = if goes_on { asked.max(CONTEXT_DEFAULT.min(fits)) } else { asked };
        let wanted = self.args.context.unwrap_or(default.min(limit));
        if wanted > limit {
            return Err(Failure::input(format!(
                "--context: expected at most {limit}, this model's context, found {wanted}"
            )));
        }
        if n_prompt >= wanted {
            let message = format!("prompt: expected fewer than {wanted} tokens, the context, found {n_prompt}");
            return Err(Failure::input(message));
        }
        let needed = per_token * wanted as u64;
        if needed > available {
            let (needed, available) = (bytes(needed), bytes(available));
            let message = format!("the cache of {wanted} tokens takes {needed}, {available} are free; lower --context");
            return Err(Failure::input(message));
        }
        Ok(wanted)
    }

    /// An engine for this one conversation.
    fn engine(&self, n_prompt: usize) -> Result<Engine<ModelRunner<Cpu, Arc<Cpu>>>, Failure> {
        let n_context = self.context(n_prompt)?;
        let deterministic = self.args.deterministic;
        let limits = Limits { deterministic, ..Limits::new(n_context, 1, n_context, self.args.cache.row_format()) };
        let engine = EngineOf { cpu: &self.cpu, model: &self.model, identity: &self.identity };
        engine.start(limits, self.keeps_blocks)
    }

    /// Answers the conversation; `printer` gets the parts as they come.
    pub(super) fn answer(&mut self, messages: &[Message], printer: &mut Printer) -> Result<Answer, Failure> {
        let (prompt, starts_in_reasoning) = self.encode(messages)?;
        if prompt.is_empty() {
            return Err(Failure::input("prompt: expected text, found none"));
        }
        let thinking = self.thinking(starts_in_reasoning)?;
        let stop = Arc::new(StopStrings::new(&self.args.stop)?);
        let stream = OutputStream::new(self.text.tokenizer.clone(), starts_in_reasoning, stop);
        let heard = Arc::new(Mutex::new(Heard {
            stream,
            deltas: Vec::new(),
            tokens: prompt.clone(),
            n_read: None,
            reuse: Reuse::default(),
            end: None,
        }));
        let end_tokens: Arc<[u32]> = self.text.end_tokens(&self.source.config).into();
        let sink: Sink = {
            let (heard, end_tokens) = (heard.clone(), end_tokens.clone());
            Box::new(move |event| heard.lock().unwrap_or_else(PoisonError::into_inner).hear(&event, &end_tokens))
        };
        let mask = self.mask(starts_in_reasoning, &end_tokens)?;
        let request = Request {
            max_tokens: self.args.max_tokens,
            end_tokens,
            sampling: self.sampling(),
            n: 1,
            thinking,
            mask,
            stops_loops: true,
            speculates: true,
            owner: 0,
            sink,
            prompt,
        };
        let mut engine = match self.engine.take() {
            Some(engine) => engine,
            None => self.engine(request.prompt.len())?,
        };
        engine.submit(request).map_err(|e| Failure::input(e.to_string()))?;
        let answer = finish(&mut engine, &heard, printer);
        self.engine = Some(engine);
        answer
    }
}

/// Steps until the one request has its answer.
fn finish<R: Runner>(engine: &mut Engine<R>, heard: &Mutex<Heard>, printer: &mut Printer) -> Result<Answer, Failure> {
    let (mut reasoning, mut content) = (String::new(), String::new());
    let mut bar: Option<ProgressBar> = None;
    loop {
        engine.step()?;
        let mut heard = heard.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((n_read, n_prompt)) = heard.n_read.take() {
            bar.get_or_insert_with(|| progress_bar(n_prompt as u64)).set_position(n_read as u64);
        }
        for delta in heard.deltas.drain(..) {
            bar.take().iter().for_each(ProgressBar::finish_and_clear);
            match &delta {
                Delta::Reasoning(text) => reasoning.push_str(text),
                Delta::Content(text) => content.push_str(text),
                // This command offers no tools, so none is called.
                _ => {}
            }
            printer.print(&delta)?;
        }
        if let Some((reason, usage)) = heard.end {
            bar.iter().for_each(ProgressBar::finish_and_clear);
            let (tokens, reuse) = (std::mem::take(&mut heard.tokens), heard.reuse);
            let masks = Some(engine.stats().masks).filter(|masks| masks.n > 0);
            return Ok(Answer { reasoning, content, reason, tokens, reuse, usage, masks });
        }
    }
}
