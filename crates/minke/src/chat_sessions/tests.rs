//! Conversations on disk: what was saved comes back, names stay in their folder, damage is said.
#![allow(clippy::unwrap_used, reason = "a test stops where something fails")]

use serde_json::json;

use super::*;

fn text(failure: &Failure) -> String {
    match failure {
        Failure::Input(error) | Failure::Failed(error) => format!("{error:#}"),
        Failure::ReaderGone => String::new(),
    }
}

fn session(name: &str, updated_s: u64) -> ChatSession {
    let mut session = ChatSession::new(name, "0123abcd", 100).unwrap();
    session.updated_s = updated_s;
    session.messages =
        vec![json!({"role": "user", "content": "日本 \u{0} \"quoted\"", "x": [1.5, null]}), json!("odd")];
    session.tokens = vec![0, 1, u32::MAX];
    session
}

fn opened() -> (tempfile::TempDir, ChatSessions) {
    let folder = tempfile::tempdir().unwrap();
    let sessions = ChatSessions::open(folder.path().join("a/b")).unwrap();
    (folder, sessions)
}

fn names(sessions: &ChatSessions) -> Vec<String> {
    sessions.list().unwrap().into_iter().map(|listed| listed.name).collect()
}

#[test]
fn what_is_saved_comes_back() {
    let (_folder, sessions) = opened();
    assert!(sessions.load("one").unwrap().is_none());
    sessions.save(&session("one", 200)).unwrap();
    assert_eq!(sessions.load("one").unwrap(), Some(session("one", 200)));
    let longer = ChatSession { tokens: (0..10_000).collect(), ..session("one", 300) };
    sessions.save(&longer).unwrap();
    sessions.save(&session("one", 250)).unwrap();
    assert_eq!(sessions.load("one").unwrap(), Some(session("one", 250)));
    assert_eq!(sessions.entries().unwrap().len(), 1);
}

#[test]
fn the_last_saved_comes_first() {
    let (_folder, sessions) = opened();
    for (name, updated_s) in [("old", 1), ("new", 9), ("b", 5), ("a", 5), ("日本語", 7)] {
        sessions.save(&session(name, updated_s)).unwrap();
    }
    fs::write(sessions.folder.join("broken.json"), "{").unwrap();
    assert_eq!(names(&sessions), ["new", "日本語", "a", "b", "old", "broken"]);
    assert!(sessions.list().unwrap()[5].session.is_err());
}

#[test]
fn a_fork_goes_its_own_way() {
    let (_folder, sessions) = opened();
    sessions.save(&session("one", 200)).unwrap();
    let fork = sessions.fork("one", "two", 300).unwrap();
    assert_eq!(fork, ChatSession { name: "two".into(), created_s: 300, ..session("one", 300) });
    sessions.save(&ChatSession { tokens: vec![7], ..fork }).unwrap();
    assert_eq!(sessions.load("one").unwrap(), Some(session("one", 200)));
    assert!(text(&sessions.fork("one", "two", 400).unwrap_err()).contains("already"));
    assert!(text(&sessions.fork("three", "four", 400).unwrap_err()).contains("no conversation \"three\""));
    assert!(sessions.fork("one", "../two", 400).is_err());
    assert_eq!((sessions.delete("one").unwrap(), sessions.delete("one").unwrap()), (true, false));
    assert_eq!(names(&sessions), ["two"]);
}

#[test]
fn names_stay_in_their_folder() {
    let (folder, sessions) = opened();
    fs::write(folder.path().join("a/outside.json"), "{}").unwrap();
    let long = "x".repeat(65);
    let longer = "𠀀".repeat(64);
    let wrong = [
        "",
        ".",
        "..",
        "../outside",
        "/etc/passwd",
        "a/b",
        "a\\b",
        ".hidden",
        "-flag",
        "a b",
        "a\nb",
        "a\u{0}",
        "a:b",
        "\u{202e}gnp",
        "a\u{7f}",
        "~",
        "*",
        &long,
        &longer,
    ];
    for name in wrong {
        assert!(ChatSession::new(name, "m", 1).is_err(), "{name:?}");
        assert!(sessions.load(name).is_err() && sessions.delete(name).is_err(), "{name:?}");
        let error = text(&sessions.save(&ChatSession { name: name.into(), ..session("x", 1) }).unwrap_err());
        assert!(error.starts_with("name of a conversation: expected") && error.len() < 300, "{error}");
    }
    assert!(folder.path().join("a/outside.json").exists() && sessions.entries().unwrap().is_empty());
    for name in ["a", "A.b-c_d", "2026", "Gespräch-über-Wale", "鲸", &"x".repeat(64), &"鲸".repeat(64)] {
        sessions.save(&session(name, 1)).unwrap();
        assert_eq!(sessions.load(name).unwrap().unwrap().name, name);
    }
}

#[test]
fn a_file_that_is_not_understood_is_neither_used_nor_replaced() {
    let good = serde_json::to_string(&session("one", 200)).unwrap();
    let cases = [
        (String::new(), "EOF"),
        (good[..good.len() / 2].into(), "EOF"),
        (good.replace("\"version\":1", "\"version\":2"), "expected version 1; found version 2"),
        ("{\"version\": 2, \"all\": \"else\"}".into(), "version 2"),
        (good.replace("\"one\"", "\"two\""), "expected the name \"one\"; found \"two\""),
        (good.replace("4294967295", "4294967296"), "u32"),
        (good.replace("\"model\"", "\"models\""), "models"),
        (good.replace("\"model\"", &format!("\"\\u001b[2J{}\"", "x".repeat(1 << 20))), "unknown field ` [2Jxxx"),
        (good.replace("[0,1,", &format!("{}0,1,", "[".repeat(100_000))), "at line"),
        ("[]".into(), "a conversation of this program"),
        (format!("{good}{}", " ".repeat(BYTES_MAX as usize)), "at most 16777216 bytes"),
    ];
    for (text_of_file, wanted) in cases {
        let (_folder, sessions) = opened();
        let path = sessions.folder.join("one.json");
        fs::write(&path, &text_of_file).unwrap();
        let error = text(&sessions.load("one").unwrap_err());
        assert!(error.contains(wanted) && error.contains("one.json") && error.len() < 500, "{error}");
        assert!(sessions.save(&session("one", 300)).is_err());
        assert_eq!(fs::read_to_string(&path).unwrap(), text_of_file);
        assert!(sessions.delete("one").unwrap());
        sessions.save(&session("one", 300)).unwrap();
    }
}

#[test]
fn what_could_not_be_read_again_is_not_saved() {
    let (_folder, sessions) = opened();
    sessions.save(&session("one", 200)).unwrap();
    let huge = ChatSession { messages: vec![Value::String("x".repeat(BYTES_MAX as usize))], ..session("one", 300) };
    assert!(text(&sessions.save(&huge).unwrap_err()).contains("begin another"));
    assert_eq!(sessions.load("one").unwrap(), Some(session("one", 200)));
}

#[cfg(unix)]
#[test]
fn links_are_not_followed_and_the_folder_is_private() {
    use std::os::unix::fs::PermissionsExt;
    let (folder, sessions) = opened();
    let target = folder.path().join("target.json");
    fs::write(&target, serde_json::to_string(&session("one", 200)).unwrap()).unwrap();
    std::os::unix::fs::symlink(&target, sessions.folder.join("one.json")).unwrap();
    assert!(text(&sessions.load("one").unwrap_err()).contains("a regular file"));
    assert!(sessions.save(&session("one", 300)).is_err());
    assert!(sessions.delete("one").unwrap() && target.exists());
    assert_eq!(sessions.folder.metadata().unwrap().permissions().mode() & 0o777, 0o700);
}

#[test]
fn what_was_left_in_the_middle_of_saving_goes_when_it_is_old() {
    let (_folder, sessions) = opened();
    sessions.save(&session("one", 200)).unwrap();
    let [old, new] = ["1-0", "2-0"].map(|end| sessions.folder.join(format!(".one.json.tmp-{end}")));
    fs::File::create(&old).unwrap().set_modified(SystemTime::UNIX_EPOCH).unwrap();
    fs::write(&new, "{").unwrap();
    assert_eq!(names(&sessions), ["one"]);
    let again = ChatSessions::open(&sessions.folder).unwrap();
    assert!(!old.exists() && new.exists());
    assert_eq!(again.load("one").unwrap(), Some(session("one", 200)));
}
