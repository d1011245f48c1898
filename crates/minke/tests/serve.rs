//! `minke serve` as its users start and end it. What it answers is tested in `crates/server`.
#![allow(clippy::unwrap_used, reason = "a test fails where it unwraps")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use serde_json::{Value, json};
use testkit::oracle::fixtures;

fn minke(args: &[&str], home: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_minke"));
    command.args(args).env("XDG_DATA_HOME", home).env("XDG_CACHE_HOME", home).env_remove("MINKE_API_KEY");
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Starts a server of a small model; its address.
fn serve(args: &[&str], home: &Path) -> (Child, String) {
    let model = fixtures().join("dsv3");
    start(&[&["-m", model.to_str().unwrap()], args].concat(), home)
}

fn start(args: &[&str], home: &Path) -> (Child, String) {
    let args = [&["serve", "--addr", "127.0.0.1:0"], args].concat();
    let mut child = minke(&args, home).spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let mut said = Vec::new();
    let addr = loop {
        let line = lines.next().unwrap_or_else(|| panic!("it ended: {said:?}")).unwrap();
        if let Some((_, addr)) = line.split_once("serving at http://") {
            break addr.to_owned();
        }
        said.push(line);
    };
    assert!(said.iter().any(|line| line.starts_with("cache")), "memory is told before anybody is served: {said:?}");
    (child, addr)
}

fn ask(addr: &str, method: &str, path: &str, headers: &str, body: &str) -> (u16, String) {
    let mut socket = TcpStream::connect(addr).unwrap();
    let n = body.len();
    let head = format!(
        "{method} {path} HTTP/1.1\r\nhost: {addr}\r\nconnection: close\r\ncontent-type: application/json\r\n{headers}\
         content-length: {n}\r\n\r\n{body}"
    );
    socket.write_all(head.as_bytes()).unwrap();
    let mut answer = String::new();
    socket.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head[9..12].parse().unwrap(), body.to_owned())
}

#[cfg(unix)]
#[test]
fn it_serves_keeps_chats_and_ends_when_asked() {
    let home = tempfile::tempdir().unwrap();
    let (mut child, addr) = serve(&["--name", "small"], home.path());
    let question =
        json!({ "messages": [{ "role": "user", "content": "Hello there" }], "max_tokens": 6, "seed": 1 }).to_string();
    let (status, body) = ask(&addr, "POST", "/v1/chat/completions", "", &question);
    let answer: Value = serde_json::from_str(&body).unwrap();
    assert_eq!((status, answer["model"].as_str()), (200, Some("small")), "{body}");
    assert!(answer["usage"]["completion_tokens"].as_u64().unwrap() > 0);
    assert_eq!(ask(&addr, "POST", "/api/conversations", "", "{\"title\": \"kept\"}").0, 201);
    assert!(home.path().join("minke/chats.sqlite").exists());
    let asked = Command::new("kill").args(["-TERM", &child.id().to_string()]).status().unwrap();
    assert!(asked.success() && child.wait().unwrap().success());
    // Again, for those with a key alone.
    let keys = home.path().join("keys");
    std::fs::write(&keys, "# comment\nann = secret-of-ann\n").unwrap();
    let (mut child, addr) = serve(&["--keys", keys.to_str().unwrap()], home.path());
    assert_eq!(ask(&addr, "GET", "/v1/models", "", "").0, 401);
    assert_eq!(ask(&addr, "GET", "/v1/models", "authorization: Bearer secret-of-ann\r\n", "").0, 200);
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn without_a_model_the_embedded_one_is_served_with_its_reasoning_apart() {
    let home = tempfile::tempdir().unwrap();
    let (mut child, addr) = start(&[], home.path());
    let question = json!({ "messages": [{ "role": "user", "content": "What is 47 * 36?" }] }).to_string();
    let (status, body) = ask(&addr, "POST", "/v1/chat/completions", "", &question);
    child.kill().unwrap();
    child.wait().unwrap();
    let answer: Value = serde_json::from_str(&body).unwrap();
    assert_eq!((status, answer["model"].as_str()), (200, Some("tiny")), "{body}");
    let message = &answer["choices"][0]["message"];
    assert_eq!(message["content"], "1692", "{body}");
    assert!(message["reasoning_content"].as_str().unwrap().starts_with("47 * 36"), "{body}");
}

#[test]
fn what_cannot_be_served_is_refused_before_it_starts() {
    let home = tempfile::tempdir().unwrap();
    let model = fixtures().join("dsv3");
    let model = model.to_str().unwrap();
    let empty = home.path().join("empty");
    std::fs::write(&empty, "\n# none\n").unwrap();
    let cases: [(&[&str], &str); 6] = [
        (&["serve", "-m", model, "--addr", "0.0.0.0:0"], "API key"),
        (&["serve", "-m", model, "--addr", "nowhere"], "--addr nowhere"),
        (&["serve", "-m", model, "--context", "9999999"], "--context"),
        (&["serve", "-m", model, "--keys", empty.to_str().unwrap()], "at least one API key"),
        (&["serve", "-m", model, "--addr", "127.0.0.1:0", "--cors", "example.org"], "example.org"),
        (&["serve", "-m", model, "--tls-cert", "x"], "--tls-key"),
    ];
    for (args, word) in cases {
        let output = minke(args, home.path()).output().unwrap();
        let error = String::from_utf8(output.stderr).unwrap();
        assert_eq!((output.status.code(), output.stdout.is_empty()), (Some(2), true), "{args:?}: {error}");
        assert!(error.contains(word), "{args:?} should say {word:?}, says {error}");
    }
    let described = minke(&["serve", "--openapi"], home.path()).output().unwrap();
    let described: Value = serde_json::from_slice(&described.stdout).unwrap();
    assert!(described["paths"]["/v1/messages"].is_object());
}
