//! Many clients at once, some of whom leave, some of whom dawdle: no errors, and memory that does not grow.
//!
//! MINKE_LOAD_CLIENTS (16), MINKE_LOAD_IDLE (20) and MINKE_LOAD_SLOW (10) say how many, MINKE_LOAD_SECONDS (2) how long,
//! MINKE_TEST_SERVER which server. With `--nocapture` it prints what it saw.
#![allow(clippy::unwrap_used, reason = "a test fails where it unwraps")]

mod common;

use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use common::http::send;
use common::process::{Process, number};
use serde_json::{Value, json};

/// How much memory may grow from a tenth of the time to its end, where there is time enough to tell.
const GROWTH_MAX: f64 = 0.05;
const SECONDS_TO_TELL: usize = 300;

/// What a client saw.
#[derive(Default)]
struct Seen {
    n_answers: usize,
    n_left: usize,
    n_refused: usize,
    n_tokens: usize,
    errors: Vec<String>,
    /// Milliseconds between the parts of an answer.
    gaps: Vec<f32>,
    /// Milliseconds until the first part.
    first: Vec<f32>,
}

/// Asks until `stop`, leaving one answer in ten.
fn client(addr: SocketAddr, number: usize, stop: &AtomicBool) -> Seen {
    let mut seen = Seen::default();
    for turn in 0.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let n = 20 + (number * 7 + turn * 13) % 60;
        let request = json!({ "messages": [{ "role": "user", "content": format!("count {n}") }], "stream": true,
                              "max_tokens": 4 * n,
                              "stream_options": { "include_usage": true, "continuous_usage_stats": true } });
        let leaves = (number + turn).is_multiple_of(10);
        let start = Instant::now();
        let mut pending = send(addr, "POST", "/v1/chat/completions", &[], &request.to_string());
        let status = pending.line();
        if status.starts_with("HTTP/1.1 429") {
            seen.n_refused += 1;
            std::thread::sleep(Duration::from_millis(50));
            continue;
        }
        if !status.starts_with("HTTP/1.1 200") {
            seen.errors.push(status);
            continue;
        }
        answer(&mut seen, &mut pending, leaves, start);
    }
    seen
}

/// Reads an answer's events, or half of them.
fn answer(seen: &mut Seen, pending: &mut common::http::Pending, leaves: bool, start: Instant) {
    let (mut n_parts, mut n_tokens, mut last) = (0, 0, start);
    loop {
        let line = pending.line();
        if line.is_empty() {
            seen.errors.push(format!("an answer broke off after {n_parts} parts"));
            return;
        }
        let Some(data) = line.strip_prefix("data: ") else { continue };
        if data.starts_with("[DONE]") {
            seen.n_answers += 1;
            seen.n_tokens += n_tokens;
            return;
        }
        if data.contains("\"error\"") {
            seen.errors.push(data.to_owned());
            return;
        }
        let gap = last.elapsed().as_secs_f32() * 1e3;
        // The first part says who speaks, the second is a token.
        match n_parts {
            0 => {}
            1 => seen.first.push(start.elapsed().as_secs_f32() * 1e3),
            _ => seen.gaps.push(gap),
        }
        last = Instant::now();
        n_parts += 1;
        let event: Value = serde_json::from_str(data).unwrap();
        n_tokens = event["usage"]["completion_tokens"].as_u64().unwrap() as usize;
        if leaves && n_tokens > 10 {
            seen.n_left += 1;
            seen.n_tokens += n_tokens;
            return;
        }
    }
}

/// Those who come to say nothing, or a letter in a while. Whoever is hung up on comes again.
struct Loiterer {
    socket: TcpStream,
    n_sent: usize,
}

impl Loiterer {
    const HEAD: &[u8] = b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n";

    fn new(addr: SocketAddr) -> Self {
        let socket = TcpStream::connect(addr).unwrap();
        socket.set_nonblocking(true).unwrap();
        Self { socket, n_sent: 0 }
    }

    /// Whether it is still connected; whoever is not comes again.
    fn stay(&mut self, addr: SocketAddr) -> bool {
        let stays = matches!(self.socket.peek(&mut [0]), Err(e) if e.kind() == std::io::ErrorKind::WouldBlock);
        if !stays {
            *self = Self::new(addr);
        }
        stays
    }

    fn say(&mut self) {
        let letter = [Self::HEAD[self.n_sent % Self::HEAD.len()]];
        // Whoever has been hung up on is found by `stay`.
        self.n_sent += self.socket.write(&letter).unwrap_or(0);
    }
}

fn percentile(values: &mut [f32], p: f64) -> f32 {
    values.sort_by(f32::total_cmp);
    values.get((values.len() as f64 * p) as usize).or(values.last()).copied().unwrap_or(0.0)
}

#[test]
fn a_crowd_is_served_without_errors_and_without_growth() {
    let (n_clients, n_seconds) = (number("MINKE_LOAD_CLIENTS", 16), number("MINKE_LOAD_SECONDS", 2));
    let (n_idle, n_slow) = (number("MINKE_LOAD_IDLE", 20), number("MINKE_LOAD_SLOW", 10));
    let folder = tempfile::tempdir().unwrap();
    let server = Process::start(&folder.path().join("chats.sqlite"));
    let addr = server.addr;
    let stop = AtomicBool::new(false);
    let mut idle: Vec<Loiterer> = (0..n_idle).map(|_| Loiterer::new(addr)).collect();
    let mut slow: Vec<Loiterer> = (0..n_slow).map(|_| Loiterer::new(addr)).collect();
    let mut n_hung_up = 0;
    let (seen, memory) = std::thread::scope(|scope| {
        let clients: Vec<_> = (0..n_clients)
            .map(|i| {
                scope.spawn({
                    let stop = &stop;
                    move || client(addr, i, stop)
                })
            })
            .collect();
        let mut memory = Vec::new();
        let start = Instant::now();
        let time = Duration::from_secs(n_seconds as u64);
        let mut n_ticks = 0;
        // Where the machine is busy a tick takes longer than it should.
        while start.elapsed() < time {
            if n_ticks % 10 == 0 {
                n_hung_up += idle.iter_mut().chain(&mut slow).filter_map(|l| (!l.stay(addr)).then_some(())).count();
                slow.iter_mut().for_each(Loiterer::say);
            }
            if start.elapsed() >= time / 10 {
                memory.push(server.memory());
            }
            n_ticks += 1;
            std::thread::sleep(Duration::from_millis(100));
        }
        stop.store(true, Ordering::Relaxed);
        let seen: Vec<Seen> = clients.into_iter().map(|client| client.join().unwrap()).collect();
        (seen, memory)
    });
    let sum = |of: fn(&Seen) -> usize| seen.iter().map(of).sum::<usize>();
    let mut gaps: Vec<f32> = seen.iter().flat_map(|seen| seen.gaps.clone()).collect();
    let mut first: Vec<f32> = seen.iter().flat_map(|seen| seen.first.clone()).collect();
    let errors: Vec<&String> = seen.iter().flat_map(|seen| &seen.errors).collect();
    let (begin, end) = (memory[0] as f64, *memory.last().unwrap() as f64);
    eprintln!(
        "{n_clients} clients, {n_seconds} s: {} answers, {} left, {} refused, {} errors, {:.0} tokens/s; \
         {n_idle} idle and {n_slow} slow connections, hung up on {n_hung_up} times",
        sum(|s| s.n_answers),
        sum(|s| s.n_left),
        sum(|s| s.n_refused),
        errors.len(),
        sum(|s| s.n_tokens) as f64 / n_seconds as f64,
    );
    eprintln!(
        "between tokens: median {:.1} ms, p99 {:.1} ms; first token: median {:.1} ms, p99 {:.1} ms; memory {:.1} to {:.1} MB",
        percentile(&mut gaps, 0.5),
        percentile(&mut gaps, 0.99),
        percentile(&mut first, 0.5),
        percentile(&mut first, 0.99),
        begin / 1e6,
        end / 1e6,
    );
    assert!(errors.is_empty(), "{errors:?}");
    assert!(sum(|s| s.n_answers) > 0 && sum(|s| s.n_left) > 0);
    if n_seconds >= SECONDS_TO_TELL {
        assert!(end <= begin * (1.0 + GROWTH_MAX), "memory grew from {begin} to {end} bytes");
    }
}
