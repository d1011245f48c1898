//! `minke bench --http`: what the server adds to the engine.
//!
//! Owns one measurement and its report: the same streams through HTTP and handed to the engine itself, in turns, within
//! one process. Wall time is what users feel; processor time, in which the clients' threads are left out, is the steady
//! figure where the machine has other work. Answers are checked: both ways must give as many tokens. Must not know the
//! other measurements.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::time::Duration;

use anyhow::{Context, bail};
use engine::prefix::{BlockKey, Fingerprint};
use engine::{Engine, EngineThread, Event, Handle, Limits, ModelRunner, Reply, Request, Sampling};
use serde_json::{Value, json};
use server::{Options, Server};

use super::Args;
use super::clock::Clock;
use super::engine::quantile;
use super::measure::prompt;
use crate::command::serve::served;
use crate::device::cpu;
use crate::failure::{Failure, print};
use crate::source::Source;

/// Tokens of a prompt. Every round finds them computed, so that rounds are alike.
const N_PROMPT: usize = 16;
/// A stream that is silent for so long has failed.
const PATIENCE: Duration = Duration::from_secs(600);

/// Runs the measurement.
pub(super) fn run(args: &Args) -> Result<(), Failure> {
    let source = Source::open(&args.model)?;
    let text = source.text()?;
    let cpu = Arc::new(cpu(args.threads.map(|n| n as usize))?);
    let model = Arc::new(model::load(&*cpu, source.config.clone(), source.weights()?)?);
    let n_streams = args.lanes().n_lanes;
    let n_decode = args.decode.max(1) as usize;
    let n_context = N_PROMPT + n_decode + 1;
    let limits =
        Limits { n_drafts: 0, ..Limits::new(n_context, n_streams, 2 * n_streams * n_context, args.cache.row_format()) };
    let runner = ModelRunner::new(cpu.clone(), model, &limits)?;
    // Nothing here outlives the process, so any name will do.
    let root = BlockKey::root(&Fingerprint::from([0; 32]));
    let engine = EngineThread::start(Engine::new(runner, limits, root, None)?)?;
    let end_tokens = text.end_tokens(&source.config).into();
    let served = served(None, &source, text, &limits)?;
    let server = Server::bind(served, engine.handle(), Options::new(SocketAddr::from(([127, 0, 0, 1], 0))));
    let server = server.map_err(|e| Failure::Failed(e.into()))?;
    let bench = Bench {
        prompts: prompts(n_streams, source.config.vocab_size),
        n_decode,
        addr: server.addr(),
        engine: engine.handle(),
        end_tokens,
    };
    // It serves until the process ends, which is soon.
    std::thread::Builder::new().name("server".into()).spawn(move || server.run())?;
    let mut report = bench.rounds(args.repeat as usize).map_err(Failure::Failed)?;
    report["model"] = args.model.clone().into();
    report["threads"] = cpu.n_threads().into();
    match args.json {
        true => print(&format!("{report:#}\n")),
        false => print(&to_text(&report)),
    }
}

/// Prompts no two of which begin alike.
fn prompts(n: usize, vocab: usize) -> Vec<Vec<u32>> {
    let text = prompt(n * N_PROMPT, vocab);
    let mut prompts: Vec<Vec<u32>> = text.chunks(N_PROMPT).map(<[u32]>::to_vec).collect();
    prompts.iter_mut().zip(0..).for_each(|(prompt, i)| prompt[0] = i % vocab as u32);
    prompts
}

struct Bench {
    prompts: Vec<Vec<u32>>,
    n_decode: usize,
    addr: SocketAddr,
    engine: Handle,
    end_tokens: Arc<[u32]>,
}

impl Bench {
    /// Both ways in turns, the order changing, behind one round each that warms up.
    fn rounds(&self, n: usize) -> anyhow::Result<Value> {
        let (mut http, mut own) = (Vec::new(), Vec::new());
        let (mut http_cpu_s, mut own_cpu_s) = (0.0, 0.0);
        let mut n_tokens = None;
        for i in 0..2 * (n + 1) {
            let is_http = i % 4 == 1 || i % 4 == 2;
            let clock = Clock::start();
            let n_heard = if is_http { self.through_http()? } else { self.by_the_engine()? };
            let spent = clock.spent();
            if i >= 2 {
                let (rates, cpu_s) = if is_http { (&mut http, &mut http_cpu_s) } else { (&mut own, &mut own_cpu_s) };
                rates.push(n_heard as f64 / spent.wall_s);
                *cpu_s += spent.cpu_s.unwrap_or(f64::NAN);
            }
            if *n_tokens.get_or_insert(n_heard) != n_heard {
                bail!("{n_heard} tokens were heard in round {i}, {n_tokens:?} before");
            }
        }
        let mut ratios: Vec<f64> = http.iter().zip(&own).map(|(http, own)| http / own).collect();
        Ok(json!({
            "streams": self.prompts.len(),
            "decode": self.n_decode,
            "tokens": n_tokens,
            "http_tokens_per_s": quantile(&mut http, 0.5),
            "engine_tokens_per_s": quantile(&mut own, 0.5),
            "ratio": quantile(&mut ratios, 0.5),
            "ratios": ratios,
            "http_cpu_s": http_cpu_s,
            "engine_cpu_s": own_cpu_s,
            "cpu_ratio": own_cpu_s / http_cpu_s,
        }))
    }

    /// Hands all requests to the engine, and waits for their ends.
    fn by_the_engine(&self) -> anyhow::Result<usize> {
        let (ended, ends) = channel();
        for (prompt, seed) in self.prompts.iter().zip(0..) {
            let ended = ended.clone();
            let sink = move |event: Event<'_>| {
                if let Event::Finished { usage, .. } = event {
                    // Nobody waits once the measurement has failed.
                    let _ = ended.send(usage.n_completion);
                }
                Reply::Continue
            };
            self.engine.submit(Request {
                prompt: prompt.clone(),
                max_tokens: self.n_decode,
                end_tokens: self.end_tokens.clone(),
                sampling: Sampling { temperature: 1.0, seed, min_tokens: self.n_decode, ..Sampling::GREEDY },
                n: 1,
                thinking: None,
                mask: None,
                stops_loops: true,
                speculates: true,
                owner: 0,
                sink: Box::new(sink),
            })?;
        }
        let heard = self.prompts.iter().map(|_| ends.recv_timeout(PATIENCE));
        Ok(heard.sum::<Result<usize, _>>()?)
    }

    /// Asks the server for the same, each stream on a connection and a thread of its own.
    fn through_http(&self) -> anyhow::Result<usize> {
        std::thread::scope(|scope| {
            let clients =
                self.prompts.iter().zip(0..).map(|(prompt, seed)| scope.spawn(move || self.client(prompt, seed)));
            let clients: Vec<_> = clients.collect();
            let heard = clients.into_iter().map(|client| client.join().unwrap_or_else(|_| bail!("a client broke")));
            heard.sum()
        })
    }

    fn client(&self, prompt: &[u32], seed: u64) -> anyhow::Result<usize> {
        let request = json!({
            "prompt": prompt, "max_tokens": self.n_decode, "min_tokens": self.n_decode, "temperature": 1, "top_p": 1,
            "top_k": 0, "repetition_penalty": 1, "seed": seed, "stream": true, "stream_options": { "include_usage": true },
        })
        .to_string();
        let mut socket = TcpStream::connect(self.addr)?;
        socket.set_read_timeout(Some(PATIENCE))?;
        let n_bytes = request.len();
        let head = format!(
            "POST /v1/completions HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-type: application/json\r\n\
             content-length: {n_bytes}\r\n\r\n{request}"
        );
        socket.write_all(head.as_bytes())?;
        let mut n_tokens = None;
        for line in BufReader::new(socket).lines() {
            let line = line?;
            let Some(data) = line.strip_prefix("data: ") else { continue };
            if data == "[DONE]" {
                return n_tokens.context("a stream said nothing of its usage");
            }
            // What a client would do with every part, too.
            let event: Value = serde_json::from_str(data)?;
            if let Some(n) = event["usage"]["completion_tokens"].as_u64() {
                n_tokens = Some(n as usize);
            }
            if let Some(error) = event["error"]["message"].as_str() {
                bail!("a stream failed: {error}");
            }
        }
        bail!("a stream broke off")
    }
}

fn to_text(report: &Value) -> String {
    let n = |value: &Value| value.as_f64().unwrap_or(f64::NAN);
    let ratios: Vec<String> =
        report["ratios"].as_array().into_iter().flatten().map(|ratio| format!("{:.3}", n(ratio))).collect();
    format!(
        "{} streams of {} tokens: {:.1} tokens/s through HTTP, {:.1} by the engine itself: {:.1} %  (rounds: {})\n\
         processor time: {:.2} s through HTTP, {:.2} s by the engine itself: {:.1} %\n",
        report["streams"],
        report["decode"],
        n(&report["http_tokens_per_s"]),
        n(&report["engine_tokens_per_s"]),
        100.0 * n(&report["ratio"]),
        ratios.join(" "),
        n(&report["http_cpu_s"]),
        n(&report["engine_cpu_s"]),
        100.0 * n(&report["cpu_ratio"]),
    )
}
