//! Sources and packing: every token is predicted once, rows resume exactly, sides stay apart, and what is wrong with a
//! file is said with its place.
#![allow(clippy::unwrap_used, reason = "a test stops where something fails")]

use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use serde_json::json;
use train::bpe;
use train::data::{Definition, Encoder, Packer, PackerSpec, Position, Rows, Source, expand, prepare, texts};
use train::external::Limits;
use train::split::Split;

fn encoder() -> Arc<Encoder> {
    static ENCODER: OnceLock<Arc<Encoder>> = OnceLock::new();
    let make = || {
        let files = bpe::train(std::iter::empty(), bpe::VOCAB_SIZE_MIN).unwrap();
        Arc::new(Encoder::new(&files.tokenizer, &files.config).unwrap())
    };
    ENCODER.get_or_init(make).clone()
}

struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn write(&self, name: &str, content: &str) -> PathBuf {
        let path = self.0.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, content).unwrap();
        path
    }

    fn prepare(&self, definition: &Definition, held_out: f64) -> Result<Source, String> {
        prepare("s", definition, &encoder(), &self.0.path().join("cache"), 1, held_out).map_err(|e| e.to_string())
    }

    /// Texts of many lengths, apart by `|`.
    fn texts(&self, n: usize) -> Definition {
        let all: String = (0..n).map(|i| format!("{i}{}|", "ab".repeat(i * 7 % 50))).collect();
        Definition::Text { files: vec![self.write("texts.txt", &all)], separator: Some("|".into()) }
    }

    fn chats(&self, n: usize) -> Definition {
        let line = |i: usize| {
            let messages = json!([
                {"role": "user", "content": format!("question {i}")},
                {"role": "assistant", "content": "x".repeat(i % 30 + 1), "reasoning_content": format!("think {i}")},
            ]);
            format!("{}\n", json!({ "messages": messages }))
        };
        Definition::Chat {
            files: vec![self.write("chats.jsonl", &(0..n).map(line).collect::<String>())],
            verifier: None,
        }
    }
}

fn task(name: &str) -> Definition {
    Definition::Task { task: name.into(), parameters: toml::Table::new() }
}

fn spec(sequence_length: usize, only_learnt: bool) -> PackerSpec {
    PackerSpec { sequence_length, side: Split::Train, only_learnt, seed: 9, padding: 1 }
}

fn check_rows(rows: &Rows, n_rows: usize) {
    assert_eq!(rows.tokens.len(), n_rows * rows.sequence_length);
    assert_eq!(rows.is_learnt.len(), rows.tokens.len());
    let mut end = 0;
    for span in &rows.spans {
        assert!(span.start >= end && span.len >= 2);
        assert_eq!(span.start / rows.sequence_length, (span.start + span.len - 1) / rows.sequence_length);
        assert!(!rows.is_learnt[end..span.start].contains(&true), "padding is learnt");
        end = span.start + span.len;
    }
    assert!(rows.targets(1).iter().flatten().all(|id| *id < 300));
}

#[test]
fn every_token_but_the_first_is_predicted_once_per_epoch() {
    let folder = Folder::new();
    let source = folder.prepare(&folder.texts(40), 0.0).unwrap();
    let mut wanted: BTreeMap<u32, usize> = BTreeMap::new();
    for i in 0..source.n_documents(Split::Train).unwrap() {
        let document = source.document(Split::Train, i).unwrap();
        document.tokens[1..].iter().for_each(|token| *wanted.entry(token.id()).or_default() += 1);
    }
    for length in [2, 3, 16, 61] {
        let mut packer = Packer::new(vec![(&source, 1.0)], spec(length, false)).unwrap();
        let mut found: BTreeMap<u32, usize> = BTreeMap::new();
        let (mut rows, mut n_rows, mut n_unused) = (Rows::default(), 0, 0);
        while packer.epoch() == 0 {
            packer.fill(1, &mut rows).unwrap();
            check_rows(&rows, 1);
            rows.targets(1).iter().flatten().for_each(|id| *found.entry(*id).or_default() += 1);
            n_unused += length - rows.spans.iter().map(|span| span.len).sum::<usize>();
            n_rows += 1;
        }
        assert!(n_unused <= n_rows, "at most one token of a row is padding");
        // The last row may have begun the second epoch: it can only add.
        for (id, n) in &wanted {
            let surplus = found[id] as isize - *n as isize;
            assert!((0..=length as isize).contains(&surplus), "{id}: {n} and {}", found[id]);
        }
        assert!(found.values().sum::<usize>() < wanted.values().sum::<usize>() + length);
    }
}

#[test]
fn an_interrupted_run_sees_the_same_rows() {
    let folder = Folder::new();
    let sources = [
        (folder.prepare(&folder.texts(30), 0.1).unwrap(), 1.0),
        (folder.prepare(&folder.chats(30), 0.1).unwrap(), 2.5),
        (folder.prepare(&task("gcd"), 0.1).unwrap(), 0.5),
    ];
    let mixture = || sources.iter().map(|(source, weight)| (source, *weight)).collect::<Vec<_>>();
    for only_learnt in [false, true] {
        let mut undisturbed = Packer::new(mixture(), spec(96, only_learnt)).unwrap();
        let mut expected = Rows::default();
        let mut found = Rows::default();
        for step in 0..40 {
            let kept = serde_json::to_string(undisturbed.position()).unwrap();
            undisturbed.fill(3, &mut expected).unwrap();
            check_rows(&expected, 3);
            let mut resumed = Packer::new(mixture(), spec(96, only_learnt)).unwrap();
            resumed.seek(serde_json::from_str::<Position>(&kept).unwrap()).unwrap();
            // As one batch, or row by row.
            if step % 2 == 0 {
                resumed.fill(3, &mut found).unwrap();
                assert_eq!(found, expected, "step {step}");
            } else {
                for row in 0..3 {
                    resumed.fill(1, &mut found).unwrap();
                    assert_eq!(found.tokens, expected.tokens[row * 96..(row + 1) * 96]);
                }
            }
            assert_eq!(resumed.position(), undisturbed.position());
        }
        assert!(undisturbed.epoch() > 0, "the finite sources were passed more than once");
    }
    let alone = Packer::new(vec![(&sources[0].0, 1.0)], spec(96, false)).unwrap();
    let error = Packer::new(mixture(), spec(96, false)).unwrap().seek(alone.position().clone()).unwrap_err();
    assert!(error.contains("1 sources, the recipe has 3"), "{error}");
}

#[test]
fn mixtures_keep_their_shares() {
    let folder = Folder::new();
    let (few, many) =
        (folder.prepare(&folder.texts(30), 0.0).unwrap(), folder.prepare(&task("chain_sum"), 0.0).unwrap());
    let mut packer = Packer::new(vec![(&few, 1.0), (&many, 3.0)], spec(128, false)).unwrap();
    let mut rows = Rows::default();
    packer.fill(200, &mut rows).unwrap();
    // No question of this task has an "ab", and every text but the first is made of them.
    let is_text = |span: &&train::data::Span| {
        let ids = &rows.tokens[span.start..span.start + span.len];
        encoder().tokenizer().decode(ids, false).unwrap().contains("ab")
    };
    let n_text: usize = rows.spans.iter().filter(is_text).map(|span| span.len).sum();
    let share = n_text as f64 / (200.0 * 128.0);
    assert!((0.23..0.27).contains(&share), "{share}");
}

#[test]
fn fine_tuning_learns_what_the_assistant_writes() {
    let encoder = encoder();
    let messages = serde_json::from_value::<Vec<text::Message>>(json!([
        {"role": "system", "content": "S"},
        {"role": "user", "content": "U1"},
        {"role": "assistant", "content": "A1"},
        {"role": "user", "content": "U2"},
        {"role": "assistant", "content": "<think>R2</think>A2"},
        {"role": "user", "content": "U3"},
        {"role": "assistant", "content": "A3", "reasoning_content": "R3"},
    ]))
    .unwrap();
    let show = |learnt: bool, document: &train::data::Document| {
        let ids: Vec<u32> = document.tokens.iter().filter(|t| t.is_learnt() == learnt).map(|t| t.id()).collect();
        encoder.tokenizer().decode(&ids, false).unwrap()
    };
    let documents = encoder.chat(&messages, None, "here").unwrap();
    let learnt: Vec<String> = documents.iter().map(|document| show(true, document)).collect();
    // The second turn continues the first; the third's prompt has lost the second's reasoning.
    assert_eq!(
        learnt,
        ["A1<｜end▁of▁sentence｜>R2</think>A2<｜end▁of▁sentence｜>", "R3</think>A3<｜end▁of▁sentence｜>"]
    );
    assert!(show(false, &documents[0]).ends_with("<｜User｜>U2<｜Assistant｜><think>"));
    assert!(show(false, &documents[1]).contains("</think>A2<｜end▁of▁sentence｜><｜User｜>U3"));
    let error = encoder.chat(&messages[..2], None, "here").unwrap_err().to_string();
    assert_eq!(error, "here: expected a message of the assistant, found none");

    let folder = Folder::new();
    let source = folder.prepare(&folder.chats(10), 0.0).unwrap();
    let mut packer = Packer::new(vec![(&source, 1.0)], spec(128, true)).unwrap();
    let mut rows = Rows::default();
    packer.fill(4, &mut rows).unwrap();
    check_rows(&rows, 4);
    let targets: Vec<u32> = rows.targets(1).into_iter().flatten().collect();
    assert_eq!(targets.len(), rows.n_targets(1));
    let text = encoder.tokenizer().decode(&targets, false).unwrap();
    assert!(text.starts_with("think ") && text.contains("</think>x") && !text.contains("question"), "{text}");
    assert_eq!(text.matches("<｜end▁of▁sentence｜>").count(), rows.spans.len());
    assert!(rows.n_targets(2) >= rows.n_targets(1) - rows.spans.len());
}

#[test]
fn sides_are_disjoint_and_cover_all() {
    let folder = Folder::new();
    let definition = folder.texts(200);
    let source = folder.prepare(&definition, 0.2).unwrap();
    let all = |side| -> HashSet<Vec<u32>> {
        let n = source.n_documents(side).unwrap();
        let ids = |i| source.document(side, i).unwrap().tokens.iter().map(|token| token.id()).collect();
        (0..n).map(ids).collect()
    };
    let (train, held_out) = (all(Split::Train), all(Split::HeldOut));
    assert!(train.is_disjoint(&held_out) && train.len() + held_out.len() == 200 && held_out.len() > 15);
    // A tokenizer learns from the training side alone.
    assert_eq!(texts(&definition, 1, 0.2, usize::MAX).unwrap().len(), train.len());
    let none = folder.prepare(&definition, 0.0).unwrap();
    let held_out = PackerSpec { side: Split::HeldOut, ..spec(16, false) };
    let error = Packer::new(vec![(&none, 1.0)], held_out).unwrap_err().to_string();
    assert!(error.contains("\"s\" has no held-out documents"), "{error}");
}

#[test]
fn documents_that_never_fit_are_counted_or_named() {
    let folder = Folder::new();
    let source = folder.prepare(&folder.chats(30), 0.0).unwrap();
    let mut rows = Rows::default();
    let mut packer = Packer::new(vec![(&source, 1.0)], spec(45, true)).unwrap();
    packer.fill(20, &mut rows).unwrap();
    assert!(packer.position().n_skipped > 0);
    let error = Packer::new(vec![(&source, 1.0)], spec(8, true)).unwrap().fill(1, &mut rows).unwrap_err().to_string();
    assert!(error.contains("\"s\"") && error.contains("raise the stage's sequence_length"), "{error}");
}

#[test]
fn the_cache_is_used_and_renewed() {
    let folder = Folder::new();
    let n_cached = || fs::read_dir(folder.0.path().join("cache")).unwrap().count();
    let definition = folder.texts(10);
    let first = folder.prepare(&definition, 0.0).unwrap().document(Split::Train, 3).unwrap();
    assert_eq!(
        (folder.prepare(&definition, 0.0).unwrap().document(Split::Train, 3).unwrap(), n_cached()),
        (first.clone(), 1)
    );
    folder.prepare(&folder.texts(11), 0.0).unwrap();
    assert_eq!(n_cached(), 2, "another content has another name");
    for entry in fs::read_dir(folder.0.path().join("cache")).unwrap() {
        fs::write(entry.unwrap().path(), "damaged").unwrap();
    }
    assert_eq!(folder.prepare(&folder.texts(10), 0.0).unwrap().document(Split::Train, 3).unwrap(), first);
}

#[test]
fn wrong_files_are_named_with_their_place() {
    let folder = Folder::new();
    let good = r#"{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}"#;
    for (line, said) in [
        ("{", "bad.jsonl:3: expected an object with \"messages\""),
        ("[1]", "bad.jsonl:3: expected an object"),
        ("{}", "bad.jsonl:3: expected an object with \"messages\" (a conversation) or \"text\", found {}"),
        (r#"{"messages": [{"role": "robot", "content": "a"}]}"#, "unknown variant `robot`"),
        (r#"{"messages": [{"role": "user", "content": 7}]}"#, "bad.jsonl:3"),
        (r#"{"messages": []}"#, "bad.jsonl:3: expected a message of the assistant"),
    ] {
        let path = folder.write("bad.jsonl", &format!("{good}\n\n{line}\n"));
        let error = folder.prepare(&Definition::Chat { files: vec![path], verifier: None }, 0.0).unwrap_err();
        assert!(error.contains(said), "{error}");
        let left: Vec<_> = fs::read_dir(folder.0.path().join("cache")).unwrap().collect();
        assert!(left.is_empty(), "a failed source leaves {left:?}");
    }
    let empty = Definition::Chat { files: vec![folder.write("empty.jsonl", "\n")], verifier: None };
    assert!(folder.prepare(&empty, 0.0).unwrap_err().contains("\"s\" has no training documents"));
    let gone = Definition::Text { files: vec!["gone.txt".into()], separator: None };
    assert!(folder.prepare(&gone, 0.0).unwrap_err().starts_with("gone.txt: cannot find"));
}

#[test]
fn patterns_name_files() {
    let folder = Folder::new();
    for name in ["a.txt", "b.txt", "c.md", "sub/d.txt", "sub/.hidden"] {
        folder.write(name, "x");
    }
    let base = folder.0.path();
    let names = |patterns: &[&str]| {
        let patterns: Vec<String> = patterns.iter().map(|p| (*p).to_owned()).collect();
        let short = |path: PathBuf| path.strip_prefix(base).unwrap().display().to_string();
        expand(base, &patterns).map(|paths| paths.into_iter().map(short).collect::<Vec<_>>())
    };
    assert_eq!(names(&["*.txt", "a.txt"]).unwrap(), ["a.txt", "b.txt"]);
    assert_eq!(names(&["sub"]).unwrap(), ["sub/d.txt"]);
    assert_eq!(names(&["."]).unwrap().len(), 4);
    for missing in ["*.rs", "e.txt", "gone/*.txt"] {
        let error = names(&["a.txt", missing]).unwrap_err().to_string();
        assert!(error.contains(missing) && error.contains("no such file"), "{error}");
    }
}

#[cfg(unix)]
#[test]
fn commands_are_sources() {
    let folder = Folder::new();
    let run = |script: &str, count| {
        let command = ["sh", "-c", script].map(str::to_owned).to_vec();
        let folder_path: &Path = folder.0.path();
        folder.prepare(
            &Definition::Command { command, folder: folder_path.into(), count, limits: Limits::default() },
            0.0,
        )
    };
    let source =
        run(r#"i=0; while :; do echo "{\"text\": \"number $i of $MINKE_SEED\"}"; i=$((i+1)); done"#, 25).unwrap();
    assert_eq!(source.n_documents(Split::Train), Some(25));
    let error = run("echo '{\"text\": \"a\"}'; echo rubbish", 10).unwrap_err();
    assert!(error.contains("sh -c") && error.contains("line 2") && error.contains("rubbish"), "{error}");
    let error = run("echo '{\"number\": 1}'", 10).unwrap_err();
    assert!(error.contains("example 1"), "{error}");
}
