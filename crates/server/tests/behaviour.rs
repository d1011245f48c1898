//! How the server behaves when clients do not: leaving, crowding, dawdling, asking for what is not theirs.
#![allow(clippy::unwrap_used, reason = "a test fails where it unwraps")]

mod common;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use common::http::{get, post, send};
use common::scripted::{Size, scripted};
use common::{Served, options, serve};
use serde_json::{Value, json};
use server::{ApiKey, Options, Server, Tls};

const PATH: &str = "/v1/chat/completions";
const STEP: Duration = Duration::from_millis(10);

fn count(n: usize, stream: bool) -> Value {
    json!({ "messages": [{ "role": "user", "content": format!("count {n}") }], "stream": stream })
}

/// Waits until `is_so`, for long.
fn eventually(what: &str, is_so: impl Fn() -> bool) {
    let start = Instant::now();
    while !is_so() {
        assert!(start.elapsed() < Duration::from_secs(20), "never: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn n_running(served: &Served) -> usize {
    let stats = served.engine.stats().unwrap();
    stats.n_running + stats.n_queued
}

#[test]
fn work_of_a_client_that_leaves_is_freed_within_a_step() {
    let served = serve(Size { step: STEP, ..Size::default() }, options());
    for stream in [true, false] {
        let pending = send(served.addr, "POST", PATH, &[], &count(400, stream).to_string());
        eventually("it runs", || n_running(&served) == 1);
        let before = served.engine.stats().unwrap().n_steps;
        drop(pending);
        eventually("it is gone", || n_running(&served) == 0);
        // It would have taken hundreds of steps. A few pass until the system has told of the end of the connection.
        let n_steps = served.engine.stats().unwrap().n_steps - before;
        assert!(n_steps < 50, "{n_steps} steps");
    }
    // One that waits leaves the queue.
    let served = serve(Size { step: STEP, n_running: 1, ..Size::default() }, options());
    let first = send(served.addr, "POST", PATH, &[], &count(400, true).to_string());
    eventually("it runs", || n_running(&served) == 1);
    let second = send(served.addr, "POST", PATH, &[], &count(400, true).to_string());
    eventually("it waits", || n_running(&served) == 2);
    drop(second);
    eventually("it waits no more", || n_running(&served) == 1);
    drop(first);
    eventually("all are gone", || n_running(&served) == 0);
    assert!(get(served.addr, "/metrics").body.contains("\nminke_requests_abandoned_total 2\n"));
}

#[test]
fn a_full_queue_says_when_to_come_again() {
    let small = Size { step: STEP, n_running: 1, n_queued: 1, ..Size::default() };
    let served = serve(small, Options { n_requests: 2, ..options() });
    let running: Vec<_> = (0..2).map(|_| send(served.addr, "POST", PATH, &[], &count(300, true).to_string())).collect();
    eventually("the queue is full", || n_running(&served) == 2);
    for path in [PATH, "/v1/messages", "/v1/responses"] {
        let mut request = count(3, false);
        request["max_tokens"] = 5.into();
        request["input"] = "x".into();
        let refused = post(served.addr, path, &request);
        assert_eq!((refused.status, refused.header("retry-after")), (429, Some("2")), "{path}: {}", refused.body);
        assert_eq!(refused.json()["error"]["type"], "rate_limit_error");
    }
    assert_eq!(get(served.addr, "/health").status, 200);
    drop(running);
    eventually("the queue is empty", || n_running(&served) == 0);
    assert_eq!(post(served.addr, PATH, &count(3, false)).status, 200);
}

#[test]
fn a_silent_stream_is_kept_alive_and_its_headers_come_at_once() {
    let slow = Size { step: Duration::from_millis(300), ..Size::default() };
    let served = serve(slow, Options { keep_alive: Duration::from_millis(50), ..options() });
    let mut pending = send(served.addr, "POST", PATH, &[], &count(2, true).to_string());
    let mut comments = 0;
    loop {
        let line = pending.line();
        comments += usize::from(line.starts_with(": keep-alive"));
        if line.contains("[DONE]") {
            break;
        }
    }
    assert!(comments >= 3, "{comments}");
    // An answer that does not stream begins with blank lines.
    let whole = post(served.addr, PATH, &count(2, false));
    assert!(whole.body.starts_with("\n\n"), "{:?}", whole.body);
    assert_eq!(whole.json()["choices"][0]["message"]["content"], "1 2");
}

#[test]
fn a_server_that_is_to_end_lets_answers_end_and_takes_no_more() {
    let mut served = serve(Size { step: STEP, ..Size::default() }, options());
    let pending = send(served.addr, "POST", PATH, &[], &count(30, true).to_string());
    eventually("it runs", || n_running(&served) == 1);
    let thread = served.stop();
    let answer = pending.answer();
    assert!(answer.body.ends_with("data: [DONE]\n\n"));
    let said =
        answer.events().into_iter().map(|e| e["choices"][0]["delta"]["content"].as_str().unwrap_or("").to_owned());
    assert!(said.collect::<String>().ends_with(" 29 30"));
    thread.unwrap().join().unwrap();
    assert!(TcpStream::connect(served.addr).is_err());
    // One that goes on for too long is ended.
    let brief = Options { drain_timeout: Duration::from_millis(100), ..options() };
    let mut served = serve(Size { step: STEP, ..Size::default() }, brief);
    let pending = send(served.addr, "POST", PATH, &[], &count(400, true).to_string());
    eventually("it runs", || n_running(&served) == 1);
    served.stop().unwrap().join().unwrap();
    eventually("it is gone", || n_running(&served) == 0);
    drop(pending);
}

#[test]
fn heads_and_bodies_have_limits_in_size_and_time() {
    let limits = Options {
        body_bytes: 10_000,
        head_timeout: Duration::from_millis(300),
        body_timeout: Duration::from_millis(300),
        ..options()
    };
    let served = serve(Size::default(), limits);
    let large = json!({ "messages": [{ "role": "user", "content": "x".repeat(20_000) }] });
    let refused = post(served.addr, PATH, &large);
    assert_eq!((refused.status, refused.json()["error"]["type"].as_str()), (413, Some("invalid_request_error")));
    let many: Vec<(String, String)> = (0..200).map(|i| (format!("x-{i}"), "y".into())).collect();
    let many: Vec<(&str, &str)> = many.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    assert_eq!(send(served.addr, "GET", "/health", &many, "").answer().status, 431);
    // A body that never comes.
    let mut socket = TcpStream::connect(served.addr).unwrap();
    let head = format!(
        "POST {PATH} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: 99\r\n\r\n{{"
    );
    socket.write_all(head.as_bytes()).unwrap();
    let mut answer = String::new();
    socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let _ = socket.read_to_string(&mut answer);
    assert!(answer.starts_with("HTTP/1.1 408"), "{answer}");
    // A head that never ends, and a client that says nothing, are hung up on.
    for said in ["GET /health HT", ""] {
        let mut socket = TcpStream::connect(served.addr).unwrap();
        socket.write_all(said.as_bytes()).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let _ = socket.read_to_string(&mut String::new()).unwrap();
    }
    let typed = send(served.addr, "POST", PATH, &[("content-type", "text/plain")], "{}").answer();
    assert_eq!(typed.status, 415);
    let packed = send(served.addr, "POST", PATH, &[("content-encoding", "gzip")], "{}").answer();
    assert_eq!(packed.status, 415);
    assert!(packed.body.contains("content-encoding") && packed.body.contains("gzip"), "{}", packed.body);
}

#[test]
fn idle_and_slow_clients_hold_nobody_up() {
    let served = serve(Size::default(), options());
    let sockets: Vec<TcpStream> = (0..300)
        .map(|i| {
            let mut socket = TcpStream::connect(served.addr).unwrap();
            if i % 2 == 0 {
                socket.write_all(b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-le").unwrap();
            }
            socket
        })
        .collect();
    for _ in 0..20 {
        assert_eq!(post(served.addr, PATH, &count(5, false)).status, 200);
    }
    drop(sockets);
}

fn key(name: &str) -> ApiKey {
    ApiKey { name: name.into(), secret: format!("secret-of-{name}") }
}

#[test]
fn keys_are_asked_for_and_count_their_requests() {
    let limits = Options { keys: vec![key("ann"), key("bob")], rate_per_minute: 3, n_requests_per_key: 1, ..options() };
    let served = serve(Size { step: STEP, ..Size::default() }, limits);
    let ask = |headers: &[(&str, &str)], n| send(served.addr, "POST", PATH, headers, &count(n, false).to_string());
    for headers in
        [vec![], vec![("authorization", "Bearer secret-of-eve")], vec![("authorization", "Basic secret-of-ann")]]
    {
        let refused = ask(&headers, 2).answer();
        assert_eq!((refused.status, refused.header("www-authenticate")), (401, Some("Bearer")));
        assert_eq!(refused.json()["error"]["code"], "invalid_api_key");
    }
    let anthropic = send(served.addr, "POST", "/v1/messages", &[("x-api-key", "wrong")], "{}").answer();
    assert_eq!((anthropic.status, anthropic.json()["error"]["type"].as_str()), (401, Some("authentication_error")));
    assert_eq!(get(served.addr, "/health").status, 200);
    for path in ["/metrics", "/v1/models", "/openapi.json"] {
        assert_eq!(get(served.addr, path).status, 401);
    }
    let ann = [("authorization", "Bearer secret-of-ann")];
    let long = ask(&ann, 200);
    eventually("it runs", || n_running(&served) == 1);
    assert_eq!(ask(&ann, 2).answer().status, 429, "more at once than may");
    drop(long);
    eventually("it is gone", || n_running(&served) == 0);
    let statuses: Vec<u16> = (0..4).map(|_| ask(&ann, 2).answer().status).collect();
    assert_eq!(statuses, [200, 200, 429, 429]);
    assert_eq!(ask(&[("x-api-key", "secret-of-bob")], 2).answer().status, 200);
}

#[test]
fn a_server_that_others_reach_needs_keys() {
    let bind = |options: Options| {
        let (engine, model) = scripted(Size::default());
        Server::bind(model, engine.handle(), options).map(|server| server.url()).map_err(|e| e.to_string())
    };
    let open = Options::new("0.0.0.0:0".parse().unwrap());
    assert!(bind(open.clone()).unwrap_err().contains("API key"));
    assert!(bind(Options { keys: vec![key("ann")], ..open.clone() }).is_ok());
    let short = ApiKey { name: "short".into(), secret: "x".into() };
    assert!(bind(Options { keys: vec![short], ..open }).unwrap_err().contains("short"));
    assert!(bind(Options { cors: vec!["example.org".into()], ..options() }).unwrap_err().contains("example.org"));
    let tls = Tls { certificates: b"none".to_vec(), key: b"none".to_vec() };
    assert!(bind(Options { tls: Some(tls), ..options() }).unwrap_err().contains("TLS"));
}

#[test]
fn pages_of_other_origins_are_kept_out_unless_they_are_named() {
    let named = Options { cors: vec!["https://chat.example".into()], hosts: vec!["box.example".into()], ..options() };
    let served = serve(Size::default(), named);
    let asks = |origin: &str| {
        let headers = [
            ("origin", origin),
            ("access-control-request-method", "POST"),
            ("access-control-request-headers", "content-type"),
        ];
        let answer = send(served.addr, "OPTIONS", PATH, &headers, "").answer();
        answer.header("access-control-allow-origin").map(str::to_owned)
    };
    assert_eq!(asks("https://chat.example"), Some("https://chat.example".into()));
    assert_eq!(asks("https://evil.example"), None);
    // A page can point a name of its own at this machine.
    let status = |host: &str| {
        let mut socket = TcpStream::connect(served.addr).unwrap();
        socket
            .write_all(format!("GET /v1/models HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n").as_bytes())
            .unwrap();
        let mut answer = String::new();
        socket.read_to_string(&mut answer).unwrap();
        answer[9..12].parse::<u16>().unwrap()
    };
    for (host, expected) in [
        ("evil.example", 403),
        ("localhost.evil.example", 403),
        ("localhost:8080", 200),
        ("127.0.0.1", 200),
        ("[::1]:80", 200),
        ("box.example:1", 200),
        ("api.localhost", 200),
        ("127.0.0.1.evil.example", 403),
    ] {
        assert_eq!(status(host), expected, "{host}");
    }
}

#[test]
fn the_description_names_exactly_what_is_served() {
    let described: Value = serde_json::from_str(&server::openapi()).unwrap();
    let served = serve(Size::default(), options());
    let mut n = 0;
    for (path, operations) in described["paths"].as_object().unwrap() {
        let concrete = path.replace("{id}", "x").replace("{message_id}", "1").replace("{name}", "x");
        for method in ["get", "post", "put", "patch", "delete"] {
            let answer = send(served.addr, &method.to_uppercase(), &concrete, &[], "").answer();
            let status = answer.status.to_string();
            match operations.get(method) {
                Some(operation) => {
                    assert!(operation["responses"].get(&status).is_some(), "{method} {path} answers {status}");
                    n += 1;
                }
                None => assert_eq!(answer.status, 405, "{method} {path}"),
            }
        }
    }
    assert!(n >= 20, "{n}");
    // Every reference leads somewhere.
    let text = described.to_string();
    let names = text.split("#/components/schemas/").skip(1).map(|rest| rest.split('"').next().unwrap());
    let missing: Vec<&str> = names.filter(|name| described["components"]["schemas"].get(name).is_none()).collect();
    assert!(missing.is_empty(), "{missing:?}");
}
