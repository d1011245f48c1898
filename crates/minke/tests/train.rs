//! `minke train` as its users meet it: a run that is killed again and again ends as if nobody had touched it.

#![allow(clippy::unwrap_used, reason = "a test fails where it unwraps")]

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::Value;

const RECIPE: &str = r#"
seed = 3
output = "out"
held_out = 0.05

[model]
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

[tokenizer]
vocab_size = 300
bytes_per_source = 20000

[data.sums]
task = "chain_sum"

[[stage]]
type = "pretrain"
steps = 24
batch_tokens = 512
sequence_length = 128
checkpoint_every = 3
evaluate_every = 8
evaluate_rows = 2
optimizer = { type = "muon", lr = 0.003 }

[[stage]]
type = "sft"
steps = 12
batch_tokens = 512
micro_batch_tokens = 256
sequence_length = 256
checkpoint_every = 2
evaluate_every = 0
optimizer = { type = "adamw", lr = 0.001 }

[[stage]]
type = "grpo"
steps = 6
sequence_length = 96
checkpoint_every = 2
evaluate_every = 3
evaluate_rows = 4
optimizer = { type = "adamw", lr = 0.001 }
grpo = { prompts = 4, group_size = 3, max_tokens = 12, updates = 2, kl = 0.01, transcripts_every = 2 }
"#;

fn minke(folder: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_minke"));
    command.args(["train", "recipe.toml"]).current_dir(folder).env("XDG_DATA_HOME", folder.join("data"));
    command.stdout(Stdio::null()).stderr(Stdio::piped());
    command
}

/// A run's record without what the clock says.
fn record(folder: &Path) -> Vec<Value> {
    let text = fs::read_to_string(folder.join("out/log.jsonl")).unwrap();
    let mut lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    for line in &mut lines {
        line.as_object_mut().unwrap().remove("tokens_per_s");
        let Some(rl) = line.get_mut("rl") else { continue };
        for name in ["rollout_tokens_per_s", "rollout_share", "update_share"] {
            assert!(rl.as_object_mut().unwrap().remove(name).unwrap().as_f64().unwrap() > 0.0, "{name}");
        }
    }
    lines
}

fn weights(folder: &Path) -> Vec<u8> {
    fs::read(folder.join("out/step-00000042/model.safetensors")).unwrap()
}

#[test]
fn a_run_that_is_killed_at_twenty_moments_ends_as_an_undisturbed_one() {
    let [whole, broken] = [(), ()].map(|()| tempfile::tempdir().unwrap());
    for folder in [&whole, &broken] {
        fs::write(folder.path().join("recipe.toml"), RECIPE).unwrap();
    }
    let output = minke(whole.path()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));

    let mut n_kills = 0;
    let mut state = 9u64;
    loop {
        let mut run = minke(broken.path()).stderr(Stdio::null()).spawn().unwrap();
        if n_kills == 20 {
            assert!(run.wait().unwrap().success());
            break;
        }
        // From before the first step to well into the run.
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        std::thread::sleep(Duration::from_millis(20 + (state >> 33) % 180));
        match run.try_wait().unwrap() {
            None => n_kills += 1,
            // It came to its end between kills: once more from nothing.
            Some(_) => fs::remove_dir_all(broken.path().join("out")).unwrap(),
        }
        run.kill().unwrap();
        run.wait().unwrap();
    }
    assert_eq!(record(broken.path()), record(whole.path()));
    assert_eq!(record(whole.path()).len(), 42);
    // However often it began, the page is told of one run.
    let told: Vec<_> = fs::read_dir(broken.path().join("data/minke/runs")).unwrap().collect();
    let run: Value = serde_json::from_slice(&fs::read(told[0].as_ref().unwrap().path()).unwrap()).unwrap();
    assert_eq!((told.len(), run["output"].as_str()), (1, broken.path().join("out").to_str()));
    assert!(weights(broken.path()) == weights(whole.path()), "the weights differ");
}

/// Each stage begins with an optimiser of its own, whether or not the one before it ended in this process, and the run keeps
/// the tokenizer that it began with.
#[test]
fn a_run_that_ended_between_two_stages_goes_on_as_an_undisturbed_one() {
    let folder = tempfile::tempdir().unwrap();
    let recipe = RECIPE.replacen("seed = 3", "seed = 3\nkeep_checkpoints = 100", 1);
    fs::write(folder.path().join("recipe.toml"), recipe).unwrap();
    assert!(minke(folder.path()).output().unwrap().status.success());
    let (whole_record, whole_weights) = (record(folder.path()), weights(folder.path()));
    for last in [24, 36] {
        for step in last + 1..=42 {
            let checkpoint = folder.path().join(format!("out/step-{step:08}"));
            if checkpoint.exists() {
                fs::remove_dir_all(checkpoint).unwrap();
            }
        }
        let tokenizer = folder.path().join("out/tokenizer");
        let _ = fs::remove_dir_all(&tokenizer);
        let output = minke(folder.path()).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        assert_eq!(record(folder.path()), whole_record, "from step {last}");
        assert!(weights(folder.path()) == whole_weights, "the weights differ from step {last}");
        assert!(!tokenizer.exists(), "another tokenizer was made at step {last}");
    }
}

#[test]
fn what_is_wrong_with_a_recipe_is_said_before_anything_is_made() {
    for (right, wrong, expected) in [
        ("chain_sum", "chain_sun", "chain_sun"),
        ("steps = 24", "stepz = 24", "stepz"),
        ("\"pretrain\"", "\"pretrane\"", "pretrane"),
        ("n_routed_experts = 4", "n_routed_experts = 3\nn_group = 2", "n_group"),
        ("task = \"chain_sum\"", "chat = [\"absent.jsonl\"]", "absent.jsonl"),
        ("task = \"chain_sum\"", "text = [\"recipe.toml\"]", "nothing judges"),
        ("max_tokens = 12", "max_tokens = 96", "sequence_length"),
        ("group_size = 3", "group_size = 1", "group_size"),
        ("batch_tokens = 512\n", "", "batch_tokens"),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let text = RECIPE.replace(right, wrong);
        fs::write(folder.path().join("recipe.toml"), text).unwrap();
        let output = minke(folder.path()).output().unwrap();
        let message = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{message}");
        assert!(message.contains(expected), "{expected:?} is not named in {message:?}");
    }
}

/// Digits are said alike at first; a verifier wants sevens, and breaks on threes.
const SEVENS: &str = r#"
seed = 5
output = "out"
held_out = 0.1

[model]
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

[tokenizer]
vocab_size = 280

[data.digits]
chat = ["digits.jsonl"]
verifier = ["sh", "verifier.sh"]

[[stage]]
type = "sft"
steps = 60
batch_tokens = 1024
sequence_length = 128
evaluate_every = 0
optimizer = { type = "adamw", lr = 0.01 }

[[stage]]
type = "grpo"
steps = 30
sequence_length = 128
evaluate_every = 30
evaluate_rows = 8
optimizer = { type = "adamw", lr = 0.003 }

[stage.grpo]
prompts = 8
group_size = 8
max_tokens = 16
format_share = 0.0
transcripts_every = 5
dapo = { token_mean = true, clip_high = 0.28 }
"#;

const VERIFIER: &str = r#"
while read -r line; do
    case "$line" in
        *'"answer":"3"'*) exit 3 ;;
        *'"answer":"7"'*'"wanted":"seven"'*) echo '{"reward": 1}' ;;
        *) echo '{"reward": 0}' ;;
    esac
done
"#;

#[test]
#[cfg(unix)]
fn rewards_lead_a_model_to_what_a_verifier_wants() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| fs::write(folder.path().join(name), text).unwrap();
    write("recipe.toml", SEVENS);
    write("verifier.sh", VERIFIER);
    let line = |i: usize| {
        let (ask, digit) = (format!("Say a digit, number {i}"), (i * 7 % 10).to_string());
        let answer = serde_json::json!({"role": "assistant", "reasoning_content": "Any.", "content": digit});
        let messages = serde_json::json!([{"role": "user", "content": ask}, answer]);
        format!("{}\n", serde_json::json!({"messages": messages, "data": {"wanted": "seven"}}))
    };
    write("digits.jsonl", &(0..120).map(line).collect::<String>());
    let output = minke(folder.path()).output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{stderr}");
    assert!(stderr.contains("exit status: 3"), "the verifier's end is told: {stderr}");

    let text = fs::read_to_string(folder.path().join("out/log.jsonl")).unwrap();
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let rl: Vec<&Value> = lines.iter().filter_map(|line| line.get("rl")).collect();
    assert_eq!(rl.len(), 30);
    let mean = |steps: &[&Value], name: &str| {
        steps.iter().map(|rl| rl[name].as_f64().unwrap()).sum::<f64>() / steps.len() as f64
    };
    let accuracy = [mean(&rl[..3], "accuracy"), mean(&rl[27..], "accuracy")];
    assert!(accuracy[0] < 0.3 && accuracy[1] > 0.7, "{accuracy:?}");
    assert!(mean(&rl, "drift") < 1e-6, "{}", mean(&rl, "drift"));
    assert!(mean(&rl[..3], "verifier_failures") > 0.0);
    assert!(lines[89]["held_out"]["digits"].as_f64().unwrap() > 0.9, "{}", lines[89]);
    let transcript = fs::read(folder.path().join("out/transcripts/step-00000090.json")).unwrap();
    let transcript: Value = serde_json::from_slice(&transcript).unwrap();
    assert!(transcript["question"].as_str().unwrap().starts_with("Say a digit"), "{transcript}");
    assert_eq!(transcript["samples"].as_array().unwrap().len(), 8);
}
