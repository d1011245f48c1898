//! Stored chats over a real socket.
#![allow(clippy::unwrap_used, reason = "a test fails where it unwraps")]

mod common;

use std::net::SocketAddr;

use common::http::{Answer, get, post, send};
use common::scripted::Size;
use common::{Served, options, serve};
use serde_json::{Value, json};
use server::{ApiKey, Options};

const PATH: &str = "/api/conversations";

fn server(folder: &tempfile::TempDir) -> Served {
    serve(Size::default(), Options { chats: Some(folder.path().join("deep/chats.sqlite")), ..options() })
}

fn begin(addr: SocketAddr, chat: &Value) -> Value {
    let answer = post(addr, PATH, chat);
    assert_eq!(answer.status, 201, "{}", answer.body);
    answer.json()
}

fn path_of(chat: &Value) -> String {
    format!("{PATH}/{}", chat["id"].as_str().unwrap())
}

fn delete(addr: SocketAddr, path: &str) -> Answer {
    send(addr, "DELETE", path, &[], "").answer()
}

fn message(role: &str, content: &str) -> Value {
    json!({ "role": role, "content": content })
}

#[test]
fn a_conversation_is_made_grows_is_renamed_cut_and_forgotten() {
    let folder = tempfile::tempdir().unwrap();
    let served = server(&folder);
    let chat = begin(served.addr, &json!({ "model": "m" }));
    assert_eq!((chat["title"].as_str(), chat["messages"].as_array().unwrap().len()), (Some(""), 0));
    let path = path_of(&chat);
    let messages = json!({ "messages": [message("user", "Why is  the sky\nblue?"),
        { "role": "assistant", "content": "Scattering.", "reasoning_content": "Rayleigh…",
          "tool_calls": [{ "id": "1", "type": "function", "function": { "name": "f", "arguments": "{}" } }] }] });
    let kept = post(served.addr, &format!("{path}/messages"), &messages);
    assert_eq!(kept.status, 201);
    let kept = kept.json()["messages"].clone();
    let found = get(served.addr, &path).json();
    assert_eq!(found["messages"], kept);
    assert_eq!((found["title"].as_str(), found["n_messages"].as_i64()), (Some("Why is the sky blue?"), Some(2)));
    assert_eq!(found["messages"][1]["tool_calls"], messages["messages"][1]["tool_calls"]);
    let renamed = send(served.addr, "PATCH", &path, &[], &json!({ "title": "Sky" }).to_string()).answer();
    assert_eq!((renamed.status, renamed.body.as_str()), (204, ""));
    assert_eq!(delete(served.addr, &format!("{path}/messages/{}", kept[1]["id"])).status, 204);
    let found = get(served.addr, &path).json();
    assert_eq!((found["title"].as_str(), found["n_messages"].as_i64()), (Some("Sky"), Some(1)));
    let listed = get(served.addr, &format!("{PATH}?limit=1")).json();
    assert_eq!((listed["data"][0]["id"].clone(), listed["has_more"].as_bool()), (chat["id"].clone(), Some(false)));
    assert_eq!(delete(served.addr, &path).status, 204);
    for answer in
        [get(served.addr, &path), delete(served.addr, &path), post(served.addr, &format!("{path}/messages"), &messages)]
    {
        assert_eq!((answer.status, answer.json()["error"]["code"].as_str()), (404, Some("not_found")));
    }
}

#[test]
fn words_are_found_in_any_script_whatever_they_mean_to_the_database() {
    let folder = tempfile::tempdir().unwrap();
    let served = server(&folder);
    let texts = ["The quick brown fox", "一只敏捷的狐狸跳过懒狗", "SELECT * FROM x; -- \" OR 1", "Brownian motion"];
    let messages: Vec<Value> = texts.iter().map(|text| message("user", text)).collect();
    let chat = begin(served.addr, &json!({ "title": "t", "messages": messages }));
    let search = |words: &str| -> Vec<String> {
        let encoded: String = words.bytes().map(|byte| format!("%{byte:02x}")).collect();
        let answer = get(served.addr, &format!("/api/search?q={encoded}"));
        assert_eq!(answer.status, 200, "{words}: {}", answer.body);
        let hits = answer.json()["data"].as_array().unwrap().clone();
        assert!(hits.iter().all(|hit| hit["conversation_id"] == chat["id"]));
        hits.iter().map(|hit| hit["snippet"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(search("brown").len(), 2);
    assert_eq!(search("brown fox"), ["The quick brown fox"]);
    assert_eq!(search("狐狸").len(), 1);
    assert_eq!(search("敏捷的狐狸").len(), 1);
    assert_eq!(search("\" OR").len(), 1);
    for none in ["zebra", "", " ", "\"", "fox*", "NEAR(a b)", "content:fox", "'; DROP TABLE messages"] {
        assert!(search(none).len() <= usize::from(none == "\""), "{none}");
    }
    // What is cut is not found any more.
    delete(served.addr, &path_of(&chat));
    assert!(search("brown").is_empty());
}

#[test]
fn exports_come_back_as_they_were() {
    let folder = tempfile::tempdir().unwrap();
    let served = server(&folder);
    let chat = begin(
        served.addr,
        &json!({ "title": "A\nB", "messages": [
        message("user", "### User\n\n<!-- minke:content {} -->"),
        { "role": "assistant", "content": "yes\n", "reasoning_content": "\nhm" }] }),
    );
    let strip = |chat: &Value| {
        let messages = chat["messages"].as_array().unwrap().iter();
        let kept = ["role", "content", "reasoning_content", "created_ms"];
        messages.map(|m| kept.map(|key| m[key].clone())).collect::<Vec<_>>()
    };
    let exported = get(served.addr, &format!("{}/export", path_of(&chat))).json();
    let markdown = get(served.addr, &format!("{}/export?format=markdown", path_of(&chat)));
    assert!(markdown.header("content-type").unwrap().starts_with("text/markdown"));
    for import in [exported, json!({ "markdown": markdown.body })] {
        let taken = post(served.addr, &format!("{PATH}/import"), &import);
        assert_eq!(taken.status, 201, "{}", taken.body);
        let copy = get(served.addr, &path_of(&taken.json()["data"][0])).json();
        assert_ne!(copy["id"], chat["id"]);
        assert_eq!((&copy["title"], strip(&copy)), (&chat["title"], strip(&chat)));
    }
    let wrong =
        [json!({}), json!({ "markdown": "hello" }), json!({ "conversations": [{ "messages": [{ "role": "x" }] }] })];
    for import in wrong {
        assert_eq!(post(served.addr, &format!("{PATH}/import"), &import).status, 400);
    }
}

#[test]
fn chats_outlive_the_server_and_belong_to_their_key() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("chats.sqlite");
    let key = |name: &str| ApiKey { name: name.into(), secret: format!("secret-of-{name}") };
    let with_keys = || {
        let keys = vec![key("ann"), key("bob")];
        serve(Size::default(), Options { chats: Some(path.clone()), keys, ..options() })
    };
    let as_key = |served: &Served, name: &str, method: &str, path: &str, body: &str| {
        let bearer = format!("Bearer secret-of-{name}");
        send(served.addr, method, path, &[("authorization", bearer.as_str())], body).answer()
    };
    let body = json!({ "messages": [message("user", "a secret")] }).to_string();
    let chat = {
        let served = with_keys();
        as_key(&served, "ann", "POST", PATH, &body).json()
    };
    let served = with_keys();
    let path = path_of(&chat);
    assert_eq!(as_key(&served, "ann", "GET", &path, "").json(), chat);
    let export = format!("{path}/export");
    for (method, path) in [("GET", &path), ("DELETE", &path), ("GET", &export)] {
        assert_eq!(as_key(&served, "bob", method, path, "").status, 404);
    }
    assert_eq!(as_key(&served, "bob", "GET", PATH, "").json()["data"], json!([]));
    assert_eq!(as_key(&served, "bob", "GET", "/api/search?q=secret", "").json()["data"], json!([]));
    assert_eq!(as_key(&served, "ann", "GET", "/api/search?q=secret", "").json()["data"].as_array().unwrap().len(), 1);
}

#[test]
fn a_server_without_a_file_says_so_and_one_with_a_bad_file_does_not_start() {
    let served = serve(Size::default(), options());
    assert_eq!(get(served.addr, PATH).status, 404);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("chats.sqlite");
    std::fs::write(&path, "this is no database at all, however long it is").unwrap();
    assert!(server::Chats::open(&path).is_err());
}

#[test]
fn messages_branch_and_one_branch_is_on_show() {
    let folder = tempfile::tempdir().unwrap();
    let served = server(&folder);
    let chat = begin(served.addr, &json!({ "messages": [message("user", "Whale?"), message("assistant", "A fish.")] }));
    let path = path_of(&chat);
    let ids: Vec<i64> = chat["messages"].as_array().unwrap().iter().map(|m| m["id"].as_i64().unwrap()).collect();
    assert_eq!((chat["messages"][0]["parent_id"].as_i64(), chat["current_id"].as_i64()), (Some(0), Some(ids[1])));
    // Another answer to the same question, and another question.
    let again = json!({ "messages": [{ "role": "assistant", "content": "A mammal.", "parent_id": ids[0], "meta": { "n": 1 } }] });
    let again = post(served.addr, &format!("{path}/messages"), &again).json()["messages"][0].clone();
    let other = json!({ "messages": [{ "id": 7, "role": "user", "content": "Seal?", "parent_id": 0 },
        { "role": "assistant", "content": "Also.", "parent_id": 7 }] });
    let other = post(served.addr, &format!("{path}/messages"), &other).json()["messages"].clone();
    assert_eq!((again["parent_id"].as_i64(), &again["meta"]), (Some(ids[0]), &json!({ "n": 1 })));
    assert_eq!((&other[0]["parent_id"], &other[1]["parent_id"]), (&json!(0), &other[0]["id"]));
    assert_eq!(get(served.addr, &path).json()["current_id"], other[1]["id"]);
    let patch = |path: &str, body: Value| send(served.addr, "PATCH", path, &[], &body.to_string()).answer().status;
    assert_eq!(patch(&path, json!({ "current_id": again["id"], "pinned": true, "settings": { "t": 0.5 } })), 204);
    assert_eq!(patch(&path, json!({ "current_id": 999_999 })), 400);
    let wrong = json!({ "messages": [{ "role": "user", "parent_id": 999_999 }] });
    assert_eq!(post(served.addr, &format!("{path}/messages"), &wrong).status, 400);
    let of_message = format!("{path}/messages/{}", again["id"]);
    assert_eq!(patch(&of_message, json!({ "content": "A baleen whale.", "reasoning_content": "hm" })), 204);
    assert_eq!(patch(&format!("{path}/messages/999999"), json!({})), 404);
    assert_eq!(get(served.addr, "/api/search?q=baleen").json()["data"][0]["message_id"], again["id"]);
    assert_eq!(get(served.addr, "/api/search?q=mammal").json()["data"], json!([]));
    // Markdown holds what is on show, JSON everything.
    let shown = get(served.addr, &format!("{path}/export?format=markdown")).body;
    assert!(shown.contains("baleen") && !shown.contains("A fish") && !shown.contains("Seal"), "{shown}");
    let exported = get(served.addr, &format!("{path}/export")).json();
    let copy = post(served.addr, &format!("{PATH}/import"), &exported).json();
    let copy = get(served.addr, &path_of(&copy["data"][0])).json();
    assert_eq!((copy["pinned"].as_bool(), &copy["settings"]), (Some(true), &json!({ "t": 0.5 })));
    let place = |id: &Value| copy["messages"].as_array().unwrap().iter().position(|m| m["id"] == *id);
    let parents: Vec<_> = copy["messages"].as_array().unwrap().iter().map(|m| place(&m["parent_id"])).collect();
    assert_eq!(parents, [None, Some(0), Some(0), None, Some(3)]);
    assert_eq!(place(&copy["current_id"]), Some(2));
    // What follows a message goes with it, other branches stay, and what is on show is there.
    assert_eq!(delete(served.addr, &format!("{path}/messages/{}", ids[0])).status, 204);
    let left = get(served.addr, &path).json();
    assert_eq!((left["n_messages"].as_i64(), left["current_id"].as_i64()), (Some(2), Some(0)));
}

#[test]
fn what_was_forgotten_comes_back_within_the_hour() {
    let folder = tempfile::tempdir().unwrap();
    let served = server(&folder);
    let chat = begin(served.addr, &json!({ "messages": [message("user", "narwhal")] }));
    let (path, restore) = (path_of(&chat), format!("{}/restore", path_of(&chat)));
    let restored = || send(served.addr, "POST", &restore, &[], "").answer().status;
    assert_eq!(restored(), 404);
    assert_eq!(delete(served.addr, &path).status, 204);
    assert_eq!(get(served.addr, PATH).json()["data"], json!([]));
    assert_eq!(get(served.addr, "/api/search?q=narwhal").json()["data"], json!([]));
    assert_eq!((restored(), restored()), (204, 404));
    assert_eq!(get(served.addr, &path).json(), chat);
    assert_eq!(get(served.addr, "/api/search?q=narwhal").json()["data"].as_array().unwrap().len(), 1);
}
