//! A server whose model says what it is told, for tests of clients that are not written in Rust:
//! `cargo run -p server --example scripted -- [ADDR [CHATS]]`. It prints its URL. See `tests/common/scripted.rs` for what
//! it can be told; the variables SCRIPTED_KEY, SCRIPTED_RUNS, SCRIPTED_STEP_US, SCRIPTED_RUNNING and SCRIPTED_QUEUED set a
//! key, the folder of training runs, the time of a step and limits.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a tool of tests")]

#[path = "../tests/common/scripted.rs"]
mod scripted;

use std::time::Duration;

use scripted::{Size, scripted};
use server::{ApiKey, MemoryUse, Options, Server};

fn number(variable: &str, otherwise: usize) -> usize {
    std::env::var(variable).map_or(otherwise, |text| text.parse().unwrap())
}

fn main() {
    let mut args = std::env::args().skip(1);
    let addr = args.next().unwrap_or_else(|| "127.0.0.1:0".into()).parse().unwrap();
    let n_running = number("SCRIPTED_RUNNING", 16);
    let n_queued = number("SCRIPTED_QUEUED", 256);
    let step = Duration::from_micros(number("SCRIPTED_STEP_US", 0) as u64);
    let (engine, model) = scripted(Size { n_context: 8192, n_running, n_queued, step });
    let chats = args.next().map(Into::into);
    let keys = std::env::var("SCRIPTED_KEY").ok().map(|secret| ApiKey { name: "test".into(), secret });
    let runs = std::env::var_os("SCRIPTED_RUNS").map(Into::into);
    let memory = [("weights", 671_000_000), ("cache", 268_000_000), ("workspace", 41_000_000)];
    let memory = memory.map(|(name, bytes)| MemoryUse { name: name.into(), bytes }).into();
    let keys = keys.into_iter().collect();
    let options = Options { chats, keys, runs, memory, n_requests: n_running + n_queued, ..Options::new(addr) };
    let options = Options { n_requests_per_key: options.n_requests, ..options };
    let server = Server::bind(model, engine.handle(), options).unwrap();
    println!("{}", server.url());
    server.run().unwrap();
}
