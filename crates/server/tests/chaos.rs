//! A server that is killed while people chat: nothing that was acknowledged is lost, and it starts again; what it had
//! computed and kept on disk is usable or passed over.
//!
//! MINKE_CHAOS_KILLS says how often (3); MINKE_TEST_SERVER which server. It must be deterministic to be held to its answers
//! (`minke serve --deterministic`); the scripted one keeps nothing on disk.
#![allow(clippy::unwrap_used, reason = "a test fails where it unwraps")]

mod common;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use common::http::{get, post};
use common::process::{Process, number};
use serde_json::{Value, json};

/// Sends a request that may never be answered; the answer's body, if its status is one of success and it came whole.
fn try_post(addr: SocketAddr, path: &str, body: &Value) -> Option<Value> {
    let mut socket = TcpStream::connect(addr).ok()?;
    socket.set_read_timeout(Some(Duration::from_secs(30))).ok()?;
    let body = body.to_string();
    let head = format!(
        "POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\nconnection: close\r\n\
         content-length: {}\r\n\r\n{body}",
        body.len()
    );
    socket.write_all(head.as_bytes()).ok()?;
    let mut answer = String::new();
    socket.read_to_string(&mut answer).ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    head.starts_with("HTTP/1.1 20").then(|| serde_json::from_str(body).ok()).flatten()
}

/// Chats until the server is gone; what it acknowledged is in `kept`.
fn chat(addr: SocketAddr, path: &str, kept: &Mutex<Vec<String>>) {
    for turn in 0.. {
        // Long enough to fill blocks of the cache, which are written to disk meanwhile.
        let text = format!("{path} {turn} {}", kept.lock().unwrap().len()).repeat(8);
        let question = json!({ "messages": [{ "role": "user", "content": text }], "max_tokens": 8 });
        let Some(answer) = try_post(addr, "/v1/chat/completions", &question) else { return };
        let said = answer["choices"][0]["message"]["content"].as_str().unwrap().to_owned();
        let messages = json!({ "messages": [{ "role": "user", "content": text },
                               { "role": "assistant", "content": said, "reasoning_content": text }] });
        let Some(stored) = try_post(addr, &format!("{path}/messages"), &messages) else { return };
        let ids = stored["messages"].as_array().unwrap().iter().map(|message| message["id"].to_string());
        kept.lock().unwrap().extend(ids);
    }
}

/// The answer to a question that is always the same, and how much of its prompt was there already.
fn known_answer(addr: SocketAddr) -> (Value, u64) {
    let text = "What outlives a process that is killed while it writes? ".repeat(30);
    let question = json!({ "messages": [{ "role": "user", "content": text }], "max_tokens": 8, "temperature": 0 });
    let answer = post(addr, "/v1/chat/completions", &question).json();
    let n_cached = answer["usage"]["prompt_tokens_details"]["cached_tokens"].as_u64().unwrap();
    (answer["choices"][0]["message"]["content"].clone(), n_cached)
}

#[test]
fn what_was_acknowledged_outlives_a_kill() {
    let n_kills = number("MINKE_CHAOS_KILLS", 3);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("chats.sqlite");
    let kept: Arc<Mutex<Vec<String>>> = Arc::default();
    let mut path = None;
    let (mut known, mut n_restored) = (None, 0);
    let mut pause = 1u64;
    for kill in 0..=n_kills {
        let mut server = Process::start(&file);
        let path = path.get_or_insert_with(|| {
            let chat = post(server.addr, "/api/conversations", &json!({ "title": "t" })).json();
            format!("/api/conversations/{}", chat["id"].as_str().unwrap())
        });
        // The server has just begun, so that what it does not compute comes from the disk.
        let (answer, n_cached) = known_answer(server.addr);
        n_restored += n_cached;
        assert_eq!(known.get_or_insert_with(|| answer.clone()), &answer, "another answer after kill {kill}");
        let found = get(server.addr, path).json();
        let ids: Vec<String> = found["messages"].as_array().unwrap().iter().map(|m| m["id"].to_string()).collect();
        for id in kept.lock().unwrap().iter() {
            assert!(ids.contains(id), "message {id} is lost after kill {kill}");
        }
        // A question and its answer are kept together or not at all.
        assert_eq!(ids.len() % 2, 0);
        if kill == n_kills {
            break;
        }
        let addr = server.addr;
        let people: Vec<_> = (0..3)
            .map(|_| {
                let (path, kept) = (path.clone(), kept.clone());
                std::thread::spawn(move || chat(addr, &path, &kept))
            })
            .collect();
        // Some moment within a third of a second.
        pause = pause.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        std::thread::sleep(Duration::from_millis(20 + (pause >> 33) % 300));
        server.kill();
        people.into_iter().for_each(|person| person.join().unwrap());
    }
    let n_kept = kept.lock().unwrap().len();
    assert!(n_kept > 0, "nothing was acknowledged");
    eprintln!("{n_kills} kills, {n_kept} acknowledged messages, none lost; {n_restored} tokens restored from disk");
}
