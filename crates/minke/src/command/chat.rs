//! `minke chat`: a conversation in the terminal or in a pipe.
//!
//! Owns the loop of turns and where each part of an answer is printed: content to stdout, reasoning and remarks to
//! stderr. Must not know templates or sampling.

use std::io::{BufRead, IsTerminal, Write};
use std::sync::Arc;

use cpu::Cpu;
use engine::{Sampler, Session, SessionOptions};
use model::{Form, Model};
use text::{Delta, Message, OutputStream, StopStrings};

use super::logits::CacheArg;
use crate::device::cpu;
use crate::failure::{Failure, print};
use crate::memory::{bytes, memory};
use crate::progress::progress_bar;
use crate::source::{Source, Text, read_all, utf8};

/// The longest prompt that is read from a pipe: as much as the tokenizer takes.
const PROMPT_BYTES_MAX: u64 = 256 << 20;

/// Tokens per forward pass while reading a prompt.
const CHUNK: usize = 128;

/// Arguments of `minke chat`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// What to say. Without it, the prompt is read from stdin; in a terminal, a conversation begins.
    prompt: Option<String>,
    /// Model folder or .gguf file.
    #[arg(short, long, default_value = "tiny")]
    model: String,
    /// Instructions that come before the conversation.
    #[arg(long)]
    system: Option<String>,
    /// Most tokens of an answer, reasoning included.
    #[arg(long, default_value_t = 4096, value_name = "N")]
    max_tokens: usize,
    /// 0 always takes the most probable token [default: the model's own, else 0.6].
    #[arg(long, value_parser = temperature, allow_negative_numbers = true)]
    temperature: Option<f32>,
    /// Keeps the most probable tokens that hold this much probability [default: the model's own, else 0.95].
    #[arg(long, value_parser = probability, allow_negative_numbers = true)]
    top_p: Option<f32>,
    /// Keeps this many most probable tokens; 0 keeps all [default: the model's own, else 0].
    #[arg(long)]
    top_k: Option<usize>,
    /// Seed of the draws: the same seed gives the same answer.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Ends the answer before this text; may be repeated.
    #[arg(long)]
    stop: Vec<String>,
    /// Longest conversation, in tokens [default: the prompt and --max-tokens, within the model's context].
    #[arg(long, value_name = "N")]
    context: Option<usize>,
    /// Continue the prompt as plain text, without the chat template.
    #[arg(long)]
    raw: bool,
    /// Variable of the chat template, such as enable_thinking=false; may be repeated.
    #[arg(long = "template-var", value_name = "KEY=VALUE", value_parser = template_var)]
    template_vars: Vec<(String, serde_json::Value)>,
    /// How cache rows are stored.
    #[arg(long, value_enum, default_value = "bf16")]
    cache: CacheArg,
    /// Print the answer as one JSON object at its end.
    #[arg(long)]
    json: bool,
}

fn temperature(text: &str) -> Result<f32, String> {
    match text.parse::<f32>() {
        Ok(t) if (0.0..=10.0).contains(&t) => Ok(t),
        _ => Err("expected a number from 0 to 10".into()),
    }
}

fn probability(text: &str) -> Result<f32, String> {
    match text.parse::<f32>() {
        Ok(p) if p > 0.0 && p <= 1.0 => Ok(p),
        _ => Err("expected a number above 0, at most 1".into()),
    }
}

fn template_var(text: &str) -> Result<(String, serde_json::Value), String> {
    let (key, value) = text.split_once('=').ok_or("expected KEY=VALUE")?;
    let value = serde_json::from_str(value).unwrap_or_else(|_| value.into());
    Ok((key.to_owned(), value))
}

/// One answer.
#[derive(Default)]
struct Answer {
    reasoning: String,
    content: String,
    n_prompt: usize,
    n_completion: usize,
    finish_reason: &'static str,
}

/// Runs the command.
pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    let source = Source::open(&args.model)?;
    let text = source.text()?;
    let cpu = cpu(None)?;
    let model = model::load(&cpu, source.config.clone(), source.weights()?)?;
    let chat = Chat { args, source: &source, text: &text, cpu: &cpu, model: &model };
    let mut messages: Vec<Message> = args.system.iter().map(Message::system).collect();
    if let Some(prompt) = &args.prompt {
        messages.push(Message::user(prompt));
        return chat.answer(&messages).map(drop);
    }
    if !std::io::stdin().is_terminal() {
        let prompt = utf8(read_all(std::io::stdin(), "stdin", PROMPT_BYTES_MAX)?, "stdin")?;
        messages.push(Message::user(prompt.trim_end_matches('\n')));
        return chat.answer(&messages).map(drop);
    }
    chat.converse(messages)
}

struct Chat<'a> {
    args: &'a Args,
    source: &'a Source,
    text: &'a Text,
    cpu: &'a Cpu,
    model: &'a Model<Cpu>,
}

impl Chat<'_> {
    /// Turns until the person ends the input.
    fn converse(&self, mut messages: Vec<Message>) -> Result<(), Failure> {
        remark(&format!("{}; an empty line or Ctrl-D ends the conversation\n", self.source.path.display()));
        let mut lines = std::io::stdin().lock().lines();
        loop {
            remark("> ");
            let line = match lines.next() {
                Some(line) => line.map_err(|e| Failure::input(format!("stdin: {e}")))?,
                None => return Ok(()),
            };
            if line.trim().is_empty() {
                return Ok(());
            }
            messages.push(Message::user(line));
            let answer = self.answer(&messages)?;
            messages.push(Message { reasoning_content: Some(answer.reasoning), ..Message::assistant(answer.content) });
        }
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

    fn sampler(&self) -> Sampler {
        let own = |key: &str| self.text.generation[key].as_f64();
        let args = self.args;
        Sampler {
            temperature: args.temperature.or(own("temperature").map(|t| t as f32)).unwrap_or(0.6),
            top_p: args.top_p.or(own("top_p").map(|p| p as f32)).unwrap_or(0.95),
            top_k: args.top_k.or(own("top_k").map(|k| k as usize)).unwrap_or(0),
            seed: args.seed,
        }
    }

    /// Tokens that the conversation may have in all, checked against model and memory.
    fn context(&self, n_prompt: usize) -> Result<usize, Failure> {
        let limit = self.source.config.max_position_embeddings;
        let wanted = self.args.context.unwrap_or((n_prompt + self.args.max_tokens).min(limit));
        if wanted > limit {
            return Err(Failure::input(format!(
                "--context: expected at most {limit}, this model's context, found {wanted}"
            )));
        }
        if n_prompt >= wanted {
            let message = format!("prompt: expected fewer than {wanted} tokens, the context, found {n_prompt}");
            return Err(Failure::input(message));
        }
        let row_format = self.args.cache.row_format();
        let needed = model::counts::cache_bytes_per_token(&self.source.config, row_format).own * wanted as u64;
        let available = memory().available;
        if needed > available {
            let (needed, available) = (bytes(needed), bytes(available));
            let message = format!("the cache of {wanted} tokens takes {needed}, {available} are free; lower --context");
            return Err(Failure::input(message));
        }
        Ok(wanted)
    }

    /// Answers the conversation, printing as it goes.
    fn answer(&self, messages: &[Message]) -> Result<Answer, Failure> {
        let (ids, starts_in_reasoning) = self.encode(messages)?;
        if ids.is_empty() {
            return Err(Failure::input("prompt: expected text, found none"));
        }
        let n_context = self.context(ids.len())?;
        let options =
            SessionOptions { n_context, chunk: CHUNK, form: Form::Auto, row_format: self.args.cache.row_format() };
        let mut session = Session::new(self.cpu, self.model, options)?;
        let stop = Arc::new(StopStrings::new(&self.args.stop)?);
        let mut stream = OutputStream::new(self.text.tokenizer.clone(), starts_in_reasoning, stop);
        let mut answer = Answer { n_prompt: ids.len(), finish_reason: "length", ..Answer::default() };
        let (sampler, ends) = (self.sampler(), self.text.end_tokens(&self.source.config));
        let mut printer = Printer { quiet: self.args.json, in_reasoning: false };
        let mut pending = read_ahead(&mut session, ids)?;
        while session.tokens().len() + pending.len() < n_context && answer.n_completion < self.args.max_tokens {
            let position = session.tokens().len() + pending.len();
            let next = sampler.choose(session.push(&pending)?, position);
            answer.n_completion += 1;
            if ends.contains(&next) {
                answer.finish_reason = "stop";
                break;
            }
            printer.print(stream.push(next), &mut answer)?;
            if stream.stopped() {
                answer.finish_reason = "stop";
                break;
            }
            pending = vec![next];
        }
        printer.print(stream.finish(), &mut answer)?;
        printer.end(&answer)?;
        Ok(answer)
    }
}

/// Reads all of a prompt but its last chunk, showing how far it is; returns that chunk.
fn read_ahead(session: &mut Session<'_, Cpu>, mut ids: Vec<u32>) -> Result<Vec<u32>, Failure> {
    let last = (ids.len() - 1) / CHUNK * CHUNK;
    let bar = progress_bar(ids.len() as u64);
    for chunk in ids[..last].chunks(CHUNK) {
        session.push(chunk)?;
        bar.inc(chunk.len() as u64);
    }
    bar.finish_and_clear();
    Ok(ids.split_off(last))
}

/// Prints an answer's parts where they belong.
struct Printer {
    quiet: bool,
    in_reasoning: bool,
}

impl Printer {
    fn print(&mut self, deltas: Vec<Delta>, answer: &mut Answer) -> Result<(), Failure> {
        for delta in deltas {
            match delta {
                Delta::Reasoning(text) => {
                    answer.reasoning.push_str(&text);
                    if !self.quiet {
                        self.switch(true);
                        remark(&text);
                    }
                }
                Delta::Content(text) => self.content(&text, answer)?,
                // This command offers no tools; a caller that did would see the calls as text.
                Delta::ToolCallStart { name, .. } => self.content(&format!("\n[{name} "), answer)?,
                Delta::ToolCallArguments { fragment, .. } => self.content(&fragment, answer)?,
                Delta::ToolCallEnd { complete, .. } => self.content(if complete { "]\n" } else { " …]\n" }, answer)?,
            }
        }
        Ok(())
    }

    fn content(&mut self, text: &str, answer: &mut Answer) -> Result<(), Failure> {
        answer.content.push_str(text);
        if !self.quiet {
            self.switch(false);
            print(text)?;
        }
        Ok(())
    }

    /// Dims the reasoning in a terminal, and sets it off from the answer by a blank line.
    fn switch(&mut self, to_reasoning: bool) {
        if self.in_reasoning == to_reasoning {
            return;
        }
        self.in_reasoning = to_reasoning;
        let dims = std::io::stderr().is_terminal();
        match (to_reasoning, dims) {
            (true, true) => remark("\x1b[2m"),
            (false, true) => remark("\x1b[0m\n\n"),
            (true, false) => {}
            (false, false) => remark("\n\n"),
        }
    }

    fn end(&mut self, answer: &Answer) -> Result<(), Failure> {
        if !self.quiet {
            self.switch(false);
            print("\n")?;
            if answer.finish_reason == "length" {
                remark("[the answer was cut: the token limit is reached]\n");
            }
            return Ok(());
        }
        let report = serde_json::json!({
            "reasoning_content": answer.reasoning,
            "content": answer.content,
            "finish_reason": answer.finish_reason,
            "usage": {
                "prompt_tokens": answer.n_prompt,
                "completion_tokens": answer.n_completion,
                "total_tokens": answer.n_prompt + answer.n_completion,
            },
        });
        print(&format!("{report}\n"))
    }
}

/// Writes to stderr; nobody reading it is no failure.
fn remark(text: &str) {
    let mut err = std::io::stderr().lock();
    let _ = err.write_all(text.as_bytes()).and_then(|()| err.flush());
}
