//! `minke chat`: a conversation in the terminal or in a pipe.
//!
//! Owns the command's flags, the loop of turns, and conversations with names. Must not know templates, sampling
//! (`chat/answer.rs`) or terminals (`chat/printer.rs`).

mod answer;
mod printer;

use std::io::{BufRead, IsTerminal};
use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::json;
use text::Message;

use self::answer::Answerer;
use self::printer::Printer;
use super::logits::CacheArg;
use crate::chat_sessions::{ChatSession, ChatSessions, Listed};
use crate::failure::{Failure, print, remark};
use crate::folders;
use crate::source::{Source, read_all, utf8};

/// The longest prompt that is read from a pipe: as much as the tokenizer takes.
const PROMPT_BYTES_MAX: u64 = 256 << 20;

/// Talk to a model: one question, a pipe, or a conversation in the terminal.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    minke chat -m model.gguf \"Why is the sky blue?\"\n  \
    minke chat -m model.gguf --session travel \"Where were we?\"\n  \
    minke chat --session again --from travel -m model.gguf \"And by train?\"\n  \
    minke chat --sessions")]
pub(crate) struct Args {
    /// What to say. Without it, the prompt is read from stdin; in a terminal, a conversation begins.
    prompt: Option<String>,
    /// Model folder or .gguf file; `tiny` is the model inside this program.
    #[arg(short, long, default_value = "tiny")]
    model: String,
    /// Instructions that come before the conversation.
    #[arg(long)]
    system: Option<String>,
    /// Most tokens of an answer, reasoning included.
    #[arg(long, default_value_t = 4096, value_name = "N", value_parser = at_least_one)]
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
    /// Keeps tokens at least this probable beside the most probable one [default: 0].
    #[arg(long, value_parser = share, allow_negative_numbers = true)]
    min_p: Option<f32>,
    /// Seed of the draws: the same seed gives the same answer.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Ends the answer before this text; may be repeated.
    #[arg(long)]
    stop: Vec<String>,
    /// Tokens after which the reasoning is brought to its end: at the next line's end, and at a quarter more at once.
    #[arg(long, value_name = "N")]
    thinking_budget: Option<usize>,
    /// Hold the answer, not its reasoning, to the JSON schema in this file.
    #[arg(long, value_name = "FILE", group = "grammars")]
    schema: Option<PathBuf>,
    /// Hold the answer to this regular expression.
    #[arg(long, value_name = "PATTERN", group = "grammars")]
    regex: Option<String>,
    /// Hold the answer to the Lark grammar in this file.
    #[arg(long, value_name = "FILE", group = "grammars")]
    lark: Option<PathBuf>,
    /// Longest conversation, in tokens [default: what is asked for; for conversations up to 16,384; within the model's
    /// context and half of the free memory].
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
    /// Keep the conversation under this name, and go on with it if there is one. What the model has read is kept on disk
    /// too, so that it is not computed again.
    #[arg(long, value_name = "NAME", conflicts_with = "raw")]
    session: Option<String>,
    /// Begin --session as a copy of this conversation.
    #[arg(long, value_name = "NAME", requires = "session")]
    from: Option<String>,
    /// List the conversations that are kept, and end.
    #[arg(long, conflicts_with_all = ["prompt", "session"])]
    sessions: bool,
    /// Delete a conversation, and end.
    #[arg(long, value_name = "NAME", conflicts_with_all = ["prompt", "session", "sessions"])]
    delete_session: Option<String>,
    /// The same answer bit by bit, whatever was found of the prompt; reads long prompts more slowly.
    #[arg(long)]
    deterministic: bool,
    /// Print the answer as one JSON object at its end.
    #[arg(long)]
    json: bool,
}

fn at_least_one(text: &str) -> Result<usize, String> {
    text.parse().ok().filter(|n| *n > 0).ok_or("expected a whole number above 0".into())
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

fn share(text: &str) -> Result<f32, String> {
    match text.parse::<f32>() {
        Ok(p) if (0.0..=1.0).contains(&p) => Ok(p),
        _ => Err("expected a number from 0 to 1".into()),
    }
}

fn template_var(text: &str) -> Result<(String, serde_json::Value), String> {
    let (key, value) = text.split_once('=').ok_or("expected KEY=VALUE")?;
    let value = serde_json::from_str(value).unwrap_or_else(|_| value.into());
    Ok((key.to_owned(), value))
}

fn now_s() -> u64 {
    // A clock before 1970 is wrong in a way that matters little here.
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_secs())
}

/// Runs the command.
pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    if args.sessions {
        return list(args.json);
    }
    if let Some(name) = &args.delete_session {
        if !conversations()?.delete(name)? {
            return Err(Failure::input(format!(
                "there is no conversation {name:?}; `minke chat --sessions` lists them"
            )));
        }
        remark(&format!("deleted {name:?}\n"));
        return Ok(());
    }
    let source = Source::open(&args.model)?;
    let prompt = match &args.prompt {
        Some(prompt) => Some(prompt.clone()),
        None if std::io::stdin().is_terminal() => None,
        None => {
            let prompt = utf8(read_all(std::io::stdin(), "stdin", PROMPT_BYTES_MAX)?, "stdin")?;
            Some(prompt.trim_end_matches('\n').to_owned())
        }
    };
    let mut chat = Chat::begin(args, &source)?;
    match prompt {
        Some(prompt) => chat.turn(prompt),
        None => chat.converse(),
    }
}

fn conversations() -> Result<ChatSessions, Failure> {
    ChatSessions::open(folders::data()?.join("chats"))
}

/// Prints the conversations that are kept.
fn list(as_json: bool) -> Result<(), Failure> {
    let all = conversations()?.list()?;
    let entry = |listed: &Listed| match &listed.session {
        Ok(s) => json!({ "name": s.name, "messages": s.messages.len(), "tokens": s.tokens.len(),
                         "created_s": s.created_s, "updated_s": s.updated_s, "model": s.model }),
        Err(error) => json!({ "name": listed.name, "error": error.to_string() }),
    };
    if as_json {
        let all: Vec<_> = all.iter().map(entry).collect();
        return print(&format!("{}\n", json!(all)));
    }
    for listed in &all {
        match &listed.session {
            Ok(s) => {
                print(&format!("{:<32} {:>4} messages  {:>7} tokens\n", s.name, s.messages.len(), s.tokens.len()))?
            }
            Err(error) => remark(&format!("{}: {error}\n", listed.name)),
        }
    }
    if all.is_empty() {
        remark("no conversation is kept; `minke chat --session NAME` begins one\n");
    }
    Ok(())
}

/// A conversation on its way.
struct Chat<'a> {
    args: &'a Args,
    messages: Vec<Message>,
    answerer: Answerer<'a>,
    /// Where it is kept, if it has a name.
    kept: Option<(ChatSessions, ChatSession)>,
}

impl<'a> Chat<'a> {
    fn begin(args: &'a Args, source: &'a Source) -> Result<Self, Failure> {
        let mut answerer = Answerer::open(args, source)?;
        let mut messages = Vec::new();
        let mut kept = None;
        if let Some(name) = &args.session {
            let sessions = conversations()?;
            let session = match &args.from {
                Some(from) => sessions.fork(from, name, now_s())?,
                None => match sessions.load(name)? {
                    Some(session) => session,
                    None => ChatSession::new(name, answerer.model_name(), now_s())?,
                },
            };
            if session.model != answerer.model_name() {
                remark("[this conversation was held with another model, which reads it anew]\n");
            }
            for message in &session.messages {
                let message = serde_json::from_value(message.clone());
                messages.push(message.map_err(|e| Failure::input(format!("conversation {name:?}: message: {e}")))?);
            }
            answerer.keep_blocks();
            kept = Some((sessions, session));
        }
        if messages.is_empty() {
            messages.extend(args.system.iter().map(Message::system));
        } else if args.system.is_some() {
            return Err(Failure::input("--system: the conversation has begun; expected none"));
        }
        Ok(Self { args, messages, answerer, kept })
    }

    /// Turns until the person ends the input.
    fn converse(&mut self) -> Result<(), Failure> {
        remark(&format!("{}; an empty line or Ctrl-D ends the conversation\n", self.args.model));
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
            self.turn(line)?;
        }
    }

    /// One question and its answer.
    fn turn(&mut self, prompt: String) -> Result<(), Failure> {
        self.messages.push(Message::user(prompt));
        let mut printer = Printer::new(self.args.json);
        let answer = self.answerer.answer(&self.messages, &mut printer)?;
        let reasoning_content = Some(answer.reasoning.clone()).filter(|reasoning| !reasoning.is_empty());
        self.messages.push(Message { reasoning_content, ..Message::assistant(answer.content.clone()) });
        printer.end(&answer)?;
        if let Some((sessions, session)) = &mut self.kept {
            let value = |message: &Message| serde_json::to_value(message).unwrap_or_default();
            session.messages = self.messages.iter().map(value).collect();
            session.tokens = answer.tokens;
            session.updated_s = now_s();
            self.answerer.model_name().clone_into(&mut session.model);
            sessions.save(session)?;
        }
        Ok(())
    }
}
