//! `minke serve`: a model behind the APIs that clients already speak.
//!
//! Owns the command's flags, the engine's limits, and what is printed. Must not know HTTP.

use std::net::{SocketAddr, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use engine::{EngineThread, Limits};
use model::Config;
use ops::RowFormat;
use server::{ApiKey, MemoryUse, Options, ServedModel, Server, StartError, Tls};

use super::logits::CacheArg;
use crate::device::cpu;
use crate::engine_of::{EngineOf, queue_bytes};
use crate::failure::{Failure, print, remark};
use crate::folders;
use crate::memory::{bytes, grouped, memory};
use crate::runs;
use crate::source::{Source, Text, read_file, utf8};

/// Longest conversation where nothing else is asked for.
const CONTEXT_DEFAULT: usize = 32_768;
/// The largest file of keys or certificates that is read.
const FILE_BYTES_MAX: u64 = 1 << 20;
/// A key that comes from the environment.
const KEY_VARIABLE: &str = "MINKE_API_KEY";

/// Serve a model to clients of OpenAI's, DeepSeek's and Anthropic's APIs.
///
/// The address in a browser is a chat page. Without flags the server listens on 127.0.0.1 for this machine alone. On any
/// other address it wants API keys: in a file, one per line, each as KEY or NAME=KEY, or one in the variable MINKE_API_KEY.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    minke serve -m model.gguf\n  \
    minke serve -m model.gguf --addr 0.0.0.0:8080 --keys keys.txt --tls-cert cert.pem --tls-key key.pem\n  \
    curl http://127.0.0.1:8080/v1/chat/completions -H 'Content-Type: application/json' \\\n    \
    -d '{\"messages\": [{\"role\": \"user\", \"content\": \"Hello\"}]}'")]
pub(crate) struct Args {
    /// Model folder or .gguf file; `tiny` is the model inside this program.
    #[arg(short, long, default_value = "tiny")]
    model: String,
    /// Where to listen; port 0 takes any that is free.
    #[arg(long, default_value = "127.0.0.1:8080", value_name = "HOST:PORT")]
    addr: String,
    /// Name under which clients find the model [default: that of its file or folder].
    #[arg(long)]
    name: Option<String>,
    /// Longest conversation, in tokens [default: up to 32,768, within the model's context and half of the free memory].
    #[arg(long, value_name = "N")]
    context: Option<usize>,
    /// Requests that are answered at once; others wait.
    #[arg(long, default_value_t = 16, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    parallel: u16,
    /// Requests that wait; more are told to come again.
    #[arg(long, default_value_t = 256, value_name = "N")]
    queue: u16,
    /// How cache rows are stored.
    #[arg(long, value_enum, default_value = "bf16")]
    cache: CacheArg,
    /// File of API keys.
    #[arg(long, value_name = "FILE")]
    keys: Option<PathBuf>,
    /// Requests of one key in a minute; 0 for any number.
    #[arg(long, default_value_t = 0, value_name = "N")]
    rate: u32,
    /// Requests of one key that run or wait at once [default: as many as there is place for].
    #[arg(long, value_name = "N")]
    key_parallel: Option<u16>,
    /// Origin whose web pages may use the server, or *; may be repeated.
    #[arg(long, value_name = "ORIGIN")]
    cors: Vec<String>,
    /// Further name under which the server is reached without keys; may be repeated.
    #[arg(long, value_name = "NAME")]
    host: Vec<String>,
    /// Certificate, with those that sign it, as PEM.
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    tls_cert: Option<PathBuf>,
    /// Its key, as PEM.
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<PathBuf>,
    /// File of stored chats [default: chats.sqlite in the user's data folder].
    #[arg(long, value_name = "FILE", conflicts_with = "no_chats")]
    chats: Option<PathBuf>,
    /// Store no chats.
    #[arg(long)]
    no_chats: bool,
    /// The same answers bit by bit, whatever was found of a prompt; reads long prompts more slowly.
    #[arg(long)]
    deterministic: bool,
    /// Print the description of the API (OpenAPI), and end.
    #[arg(long)]
    openapi: bool,
}

/// Runs the command.
pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    if args.openapi {
        return print(&format!("{}\n", server::openapi()));
    }
    let options = options(args)?;
    let source = Source::open(&args.model)?;
    let text = source.text()?;
    let limits = limits(args, &source.config)?;
    let cpu = Arc::new(cpu(None)?);
    let weights = source.weights()?;
    let model = Arc::new(model::load(&*cpu, source.config.clone(), weights)?);
    let identity = model::identity(&source.config, weights);
    let engine = EngineOf { cpu: &cpu, model: &model, identity: &identity }.start(limits, true)?;
    report(&source, &limits);
    let options = Options { memory: uses(&source, &limits), ..options };
    let engine = EngineThread::start(engine)?;
    let served = served(args.name.clone(), &source, text, &limits)?;
    let server = Server::bind(served, engine.handle(), options).map_err(refused)?;
    remark(&format!("serving at {}\n", server.url()));
    server.run()?;
    engine.handle().drain();
    Ok(())
}

fn refused(error: StartError) -> Failure {
    match error {
        StartError::Io(_) => Failure::Failed(error.into()),
        _ => Failure::Input(error.into()),
    }
}

/// What the server needs to know of the model.
pub(super) fn served(
    name: Option<String>,
    source: &Source,
    text: Text,
    limits: &Limits,
) -> Result<ServedModel, Failure> {
    let stem = || source.path.canonicalize().ok().and_then(|p| p.file_stem().map(|n| n.to_string_lossy().into_owned()));
    let config = &source.config;
    let bos = || text.config.bos_id(&text.tokenizer).or(config.bos_token_id);
    let modified = std::fs::metadata(&source.path).and_then(|meta| meta.modified()).ok();
    let created = modified.and_then(|time| time.duration_since(std::time::UNIX_EPOCH).ok());
    Ok(ServedModel {
        name: name.or_else(stem).unwrap_or_else(|| source.path.display().to_string()),
        created_s: created.map_or(0, |since| since.as_secs()),
        bos_token: text.config.add_bos_token.unwrap_or(false).then(bos).flatten(),
        end_tokens: text.end_tokens(config).into(),
        thinking: text.thinking_budget(0, 0)?,
        vocab: config.vocab_size,
        n_context: limits.n_context,
        n_running: limits.n_running,
        tokenizer: text.tokenizer,
        template: text.template,
        template_source: text.config.chat_template,
        generation: text.generation,
    })
}

/// The largest limits that fit into half of the free memory, up to what is asked for.
fn limits(args: &Args, config: &Config) -> Result<Limits, Failure> {
    let most = config.max_position_embeddings;
    let n_running = usize::from(args.parallel);
    let limits_of = |n_context: usize, n_tokens: usize| Limits {
        n_queued: usize::from(args.queue),
        deterministic: args.deterministic,
        ..Limits::new(n_context, n_running, n_tokens, args.cache.row_format())
    };
    if let Some(asked) = args.context.filter(|n| *n > most || *n == 0) {
        return Err(Failure::input(format!("--context: expected 1 to {most}, this model's context, found {asked}")));
    }
    let free = memory().available;
    let fits = |limits: &Limits| limits.memory(config).total() <= free / 2;
    let mut n_context = args.context.unwrap_or(most.min(CONTEXT_DEFAULT));
    loop {
        let mut n_tokens = n_context.saturating_mul(n_running);
        while n_tokens > n_context && !fits(&limits_of(n_context, n_tokens)) {
            n_tokens = (n_tokens / 2).max(n_context);
        }
        let limits = limits_of(n_context, n_tokens);
        if fits(&limits) {
            return Ok(limits);
        }
        if args.context.is_some() || n_context <= 1024 {
            let needed = limits.memory(config).total();
            let (needed, free) = (bytes(needed), bytes(free));
            let message = format!(
                "a context of {n_context} tokens takes {needed}, half of the {free} that are free is offered; lower \
                 --context or --parallel, or use --cache q8"
            );
            return Err(Failure::input(message));
        }
        n_context /= 2;
    }
}

/// What memory is taken for, as the page shows it.
fn uses(source: &Source, limits: &Limits) -> Vec<MemoryUse> {
    let plan = limits.memory(&source.config);
    let weights = source.stored_by_type().values().map(|stored| stored.bytes).sum();
    let uses = [("weights", weights), ("cache", plan.cache), ("workspace", plan.prefill + plan.decode)];
    uses.map(|(name, bytes)| MemoryUse { name: name.into(), bytes }).into()
}

/// What memory is taken for, before anybody is served.
fn report(source: &Source, limits: &Limits) {
    let plan = limits.memory(&source.config);
    let weights: u64 = source.stored_by_type().values().map(|stored| stored.bytes).sum();
    let n_tokens = (limits.n_blocks * engine::BLOCK_LEN) as u64;
    let format = match limits.row_format {
        RowFormat::F32 => "f32",
        RowFormat::BF16 => "bf16",
        RowFormat::Q8 => "q8",
    };
    remark(&format!(
        "weights  {:>9}\ncache    {:>9}  {} tokens in {format}, {} each at most, {} at once\nworkspace{:>9}\nto disk  {:>9}\n",
        bytes(weights),
        bytes(plan.cache),
        grouped(n_tokens),
        grouped(limits.n_context as u64),
        limits.n_running,
        bytes(plan.prefill + plan.decode),
        bytes(queue_bytes(&source.config, limits)),
    ));
}

fn options(args: &Args) -> Result<Options, Failure> {
    let addr = resolve(&args.addr)?;
    let read = |path: &Path| read_file(path, FILE_BYTES_MAX);
    let tls = match (&args.tls_cert, &args.tls_key) {
        (Some(certificates), Some(key)) => Some(Tls { certificates: read(certificates)?, key: read(key)? }),
        _ => None,
    };
    let chats = match (&args.chats, args.no_chats) {
        (_, true) => None,
        (Some(path), _) => Some(path.clone()),
        (None, false) => Some(folders::data()?.join("chats.sqlite")),
    };
    let n_requests = usize::from(args.parallel) + usize::from(args.queue);
    Ok(Options {
        keys: keys(args)?,
        cors: args.cors.clone(),
        hosts: args.host.clone(),
        tls,
        chats,
        runs: runs::folder().ok(),
        n_requests,
        n_requests_per_key: args.key_parallel.map_or(n_requests, usize::from).max(1),
        rate_per_minute: args.rate,
        drain_timeout: Duration::from_secs(30),
        ..Options::new(addr)
    })
}

fn resolve(addr: &str) -> Result<SocketAddr, Failure> {
    let wrong = |problem: String| Failure::input(format!("--addr {addr}: expected HOST:PORT: {problem}"));
    let mut found = addr.to_socket_addrs().map_err(|e| wrong(e.to_string()))?;
    found.next().ok_or_else(|| wrong("this name has no address".into()))
}

/// The keys of the file and of the environment.
fn keys(args: &Args) -> Result<Vec<ApiKey>, Failure> {
    let mut keys = Vec::new();
    if let Some(path) = &args.keys {
        let text = utf8(read_file(path, FILE_BYTES_MAX)?, &path.display().to_string())?;
        let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
        keys.extend(lines.zip(1..).map(|(line, number)| match line.split_once('=') {
            Some((name, secret)) => ApiKey { name: name.trim().into(), secret: secret.trim().into() },
            None => ApiKey { name: format!("key {number}"), secret: line.into() },
        }));
        if keys.is_empty() {
            return Err(Failure::input(format!("{}: expected at least one API key, found none", path.display())));
        }
    }
    if let Some(secret) = std::env::var_os(KEY_VARIABLE) {
        let secret = secret.into_string().map_err(|_| Failure::input(format!("{KEY_VARIABLE}: expected ASCII")))?;
        keys.push(ApiKey { name: KEY_VARIABLE.into(), secret });
    }
    Ok(keys)
}
