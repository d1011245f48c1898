//! A model learns from another one: from examples that it writes, and from what it thinks of the student's own answers.

#![allow(clippy::unwrap_used, reason = "a test fails where it unwraps")]
#![cfg(unix)]

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use serde_json::Value;

const MODEL: &str = r#"
hidden_size = 32
intermediate_size = 64
moe_intermediate_size = 16
num_hidden_layers = 2
num_attention_heads = 2
kv_lora_rank = 16
qk_nope_head_dim = 8
qk_rope_head_dim = 4
v_head_dim = 8
n_routed_experts = 4
num_experts_per_tok = 2
max_position_embeddings = 256
"#;

const TEACHER: &str = r#"
seed = 5
output = "taught"
held_out = 0.0
[model]
MODEL
[tokenizer]
vocab_size = 280
[data.digits]
chat = ["digits.jsonl"]
[[stage]]
type = "sft"
steps = 80
batch_tokens = 1024
sequence_length = 128
evaluate_every = 0
optimizer = { type = "adamw", lr = 0.01 }
"#;

const STUDENT: &str = r#"
seed = 6
output = "out"
held_out = 0.1
[model]
MODEL
[tokenizer]
from = "taught/step-00000080"
[data.questions]
chat = ["digits.jsonl"]
verifier = ["sh", "verifier.sh"]
[data.traces]
chat = ["digits.jsonl"]
verifier = ["sh", "verifier.sh"]
teacher = { model = "taught/step-00000080", samples = 4, max_tokens = 24, sequence_length = 64, temperature = 1.0, only_right = true }
[[stage]]
type = "sft"
steps = 24
batch_tokens = 512
sequence_length = 128
mixture = { traces = 1.0 }
checkpoint_every = 4
evaluate_every = 0
optimizer = { type = "adamw", lr = 0.01 }
[[stage]]
type = "distill"
steps = 48
sequence_length = 96
mixture = { questions = 1.0 }
checkpoint_every = 3
evaluate_every = 12
evaluate_rows = 6
optimizer = { type = "adamw", lr = 0.006 }
distill = { teacher = "taught/step-00000080", prompts = 8, group_size = 2, max_tokens = 20, transcripts_every = 6 }
"#;

/// Every digit but 0 is right.
const VERIFIER: &str = r#"
while read -r line; do
    case "$line" in
        *'"answer":"'[1-9]'"'*) echo '{"reward": 1}' ;;
        *) echo '{"reward": 0}' ;;
    esac
done
"#;

fn folder_with(recipes: &[(&str, &str)]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in recipes {
        fs::write(folder.path().join(name), text.replace("MODEL", MODEL)).unwrap();
    }
    let line = |i: usize| {
        let answer =
            serde_json::json!({"role": "assistant", "reasoning_content": "Any.", "content": (i % 10).to_string()});
        let ask = format!("Say a digit, number {i}");
        format!("{}\n", serde_json::json!({"messages": [{"role": "user", "content": ask}, answer]}))
    };
    fs::write(folder.path().join("digits.jsonl"), (0..60).map(line).collect::<String>()).unwrap();
    fs::write(folder.path().join("verifier.sh"), VERIFIER).unwrap();
    folder
}

fn train(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_minke"));
    command.arg("train").args(arguments).current_dir(folder).stdout(Stdio::null()).stderr(Stdio::piped());
    command
}

fn succeed(output: &Output) -> String {
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{said}");
    said
}

/// A run's record without what the clock says.
fn record(folder: &Path) -> Vec<Value> {
    let text = fs::read_to_string(folder.join("out/log.jsonl")).unwrap();
    let mut lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    for line in &mut lines {
        line.as_object_mut().unwrap().remove("tokens_per_s");
        let Some(rl) = line.get_mut("rl") else { continue };
        for name in ["rollout_tokens_per_s", "rollout_share", "update_share"] {
            rl.as_object_mut().unwrap().remove(name).unwrap();
        }
    }
    lines
}

/// The teacher's examples: the one file of them in the cache.
fn traces(folder: &Path) -> String {
    let names = fs::read_dir(folder.join("out/cache")).unwrap().map(|entry| entry.unwrap().path());
    let found: Vec<_> = names.filter(|path| path.to_string_lossy().contains("traces-")).collect();
    assert_eq!(found.len(), 1, "{found:?}");
    fs::read_to_string(&found[0]).unwrap()
}

#[test]
fn a_student_becomes_its_teacher_and_a_killed_run_ends_the_same() {
    let whole = folder_with(&[("teacher.toml", TEACHER), ("student.toml", STUDENT)]);
    succeed(&train(whole.path(), &["teacher.toml"]).output().unwrap());
    succeed(&train(whole.path(), &["student.toml"]).output().unwrap());
    let lines = record(whole.path());
    assert_eq!(lines.len(), 72);

    // Only right answers were kept, each once for a question, reasoning apart.
    let examples = traces(whole.path());
    let examples: Vec<Value> = examples.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(examples.len() >= 20, "{} examples", examples.len());
    for example in &examples {
        let said = example["messages"].as_array().unwrap();
        let content = said[1]["content"].as_str().unwrap();
        assert!(("1"..="9").contains(&content) && content.len() == 1, "{example}");
        assert_eq!((said.len(), &said[0]["role"]), (2, &Value::from("user")));
        assert!(said[1]["reasoning_content"].is_string(), "{example}");
    }
    let unique: std::collections::HashSet<String> = examples.iter().map(Value::to_string).collect();
    assert_eq!(unique.len(), examples.len());

    // The student approaches the teacher, who gives every digit.
    let kl: Vec<f64> = lines[24..].iter().map(|line| line["rl"]["kl"].as_f64().unwrap()).collect();
    let mean = |part: &[f64]| part.iter().sum::<f64>() / part.len() as f64;
    let (first, last) = (mean(&kl[..3]), mean(&kl[45..]));
    assert!(last < 0.3 * first, "KL {first} → {last}");
    assert!((lines[28]["loss"].as_f64().unwrap() - kl[4]).abs() < 1e-12);
    assert!(lines[71]["held_out"]["questions"].is_number(), "the verifier judges held-out questions");
    assert!(whole.path().join("out/transcripts/step-00000030.json").exists());

    // Killed again and again: while the teacher writes, and in both stages.
    let broken = folder_with(&[("student.toml", STUDENT)]);
    let copied = Command::new("cp").args(["-r", "taught"]).arg(broken.path()).current_dir(whole.path()).status();
    assert!(copied.unwrap().success());
    let mut n_kills = 0;
    while n_kills < 8 {
        let mut run = train(broken.path(), &["student.toml"]).stderr(Stdio::null()).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(30 + n_kills * 37 % 200));
        match run.try_wait().unwrap() {
            None => n_kills += 1,
            Some(_) => fs::remove_dir_all(broken.path().join("out")).unwrap(),
        }
        run.kill().unwrap();
        run.wait().unwrap();
    }
    succeed(&train(broken.path(), &["student.toml"]).output().unwrap());
    assert_eq!(traces(broken.path()), traces(whole.path()));
    assert_eq!(record(broken.path()), lines);
    let weights = |folder: &Path| fs::read(folder.join("out/step-00000072/model.safetensors")).unwrap();
    assert!(weights(broken.path()) == weights(whole.path()), "the weights differ");
}

#[test]
fn a_teacher_of_other_tokens_writes_examples_and_nothing_else() {
    let other = STUDENT.replace("from = \"taught/step-00000080\"", "vocab_size = 276\nsources = [\"questions\"]");
    let (examples_alone, _) = other.split_once("[[stage]]\ntype = \"distill\"").unwrap();
    let folder = folder_with(&[("teacher.toml", TEACHER), ("both.toml", &other), ("examples.toml", examples_alone)]);
    succeed(&train(folder.path(), &["teacher.toml"]).output().unwrap());
    let refused = train(folder.path(), &["both.toml"]).output().unwrap();
    let said = String::from_utf8_lossy(&refused.stderr);
    assert_eq!(refused.status.code(), Some(2), "{said}");
    assert!(said.contains("step-00000080: expected the student's tokens, found "), "{said}");
    succeed(&train(folder.path(), &["examples.toml"]).output().unwrap());
    assert!(folder.path().join("out/step-00000024").exists());
    // What is checked before a run asks no teacher.
    fs::remove_dir_all(folder.path().join("out")).unwrap();
    succeed(&train(folder.path(), &["examples.toml", "--dry-run"]).output().unwrap());
    assert!(!folder.path().join("out/cache").exists());
}

#[test]
fn a_folder_is_trained_in_once_and_can_be_watched() {
    let long = TEACHER.replace("steps = 80", "steps = 600\ncheckpoint_every = 50");
    let folder = folder_with(&[("teacher.toml", &long)]);
    let mut run = train(folder.path(), &["teacher.toml"]).stderr(Stdio::null()).spawn().unwrap();
    let log = folder.path().join("taught/log.jsonl");
    let mut wait_for = |n_steps| {
        while fs::read_to_string(&log).map_or(0, |text| text.lines().count()) < n_steps {
            assert_eq!(run.try_wait().unwrap(), None, "the run ended before it was seen");
            std::thread::sleep(Duration::from_millis(20));
        }
    };
    wait_for(3);
    let second = train(folder.path(), &["teacher.toml"]).output().unwrap();
    let said = String::from_utf8_lossy(&second.stderr);
    assert_eq!(second.status.code(), Some(2), "{said}");
    let mut watcher = train(folder.path(), &["teacher.toml", "--watch"]).spawn().unwrap();
    let mut lines = BufReader::new(watcher.stderr.take().unwrap()).lines();
    let first = lines.next().unwrap().unwrap();
    assert!(first.ends_with("another process is training here, and is followed"), "{first}");
    wait_for(12);
    assert!(said.contains(&format!("another process ({}) is training here", run.id())), "{said}");
    run.kill().unwrap();
    run.wait().unwrap();
    let followed: Vec<String> = lines.map(Result::unwrap).collect();
    assert!(watcher.wait().unwrap().success());
    assert!(followed[0].starts_with("step 6 of 600: loss "), "lines where there is no terminal: {followed:?}");

    // The lock went with the process; the run goes on, and shows itself.
    let short = train(folder.path(), &["teacher.toml", "--watch"]).output().unwrap();
    let said = succeed(&short);
    assert!(said.contains("going on from step ") || said.contains("step 600 of 600"), "{said}");
    assert!(said.contains("step 600 of 600: loss "), "{said}");
}
