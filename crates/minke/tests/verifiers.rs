//! Rewards by a command of the user's own: the recipe that is shipped, and commands that break in every way there is.

#![allow(clippy::unwrap_used, reason = "a test fails where it unwraps")]
#![cfg(unix)]

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use serde_json::{Value, json};

fn train(folder: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_minke"));
    command.arg("train").args(arguments).current_dir(folder).output().unwrap()
}

fn succeed(output: &Output) -> String {
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{said}");
    said
}

fn log(folder: &Path) -> Vec<Value> {
    let text = fs::read_to_string(folder.join("log.jsonl")).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// The recipe with the 0.5B model of its text exchanged for a tiny one, and its script for one without Python.
#[test]
fn the_recipe_for_ones_own_verifier_runs() {
    let recipes = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../recipes");
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    fs::create_dir(at("base")).unwrap();
    let oracle = testkit::oracle::fixtures().join("qwen2");
    for name in ["config.json", "model.safetensors", "tokenizer.json"] {
        fs::copy(oracle.join(name), at("base").join(name)).unwrap();
    }
    let template = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}assistant:";
    let mut config: Value = serde_json::from_slice(&fs::read(oracle.join("tokenizer_config.json")).unwrap()).unwrap();
    config["chat_template"] = template.into();
    fs::write(at("base/tokenizer_config.json"), config.to_string()).unwrap();
    fs::copy(recipes.join("own-verifier.jsonl"), at("own-verifier.jsonl")).unwrap();
    // Whatever comes to an end is worth something, so that there is something to learn.
    let script = "while read -r line; do echo '{\"reward\": 0.75}'; done";
    fs::write(at("verifier.sh"), script).unwrap();
    let mut text = fs::read_to_string(recipes.join("own-verifier.toml")).unwrap();
    for (from, to) in [
        ("\"qwen2.5-coder-0.5b-instruct-q4_k_m.gguf\"", "\"base\""),
        ("[\"python3\", \"own-verifier.py\"]", "[\"sh\", \"verifier.sh\"]"),
        ("steps = 40", "steps = 2"),
        ("sequence_length = 192", "sequence_length = 256"),
        ("evaluate_every = 10", "evaluate_every = 2"),
    ] {
        assert!(text.contains(from), "{from}");
        text = text.replace(from, to);
    }
    fs::write(at("own-verifier.toml"), text).unwrap();

    let plan = train(folder.path(), &["own-verifier.toml", "--dry-run", "--json"]);
    succeed(&plan);
    let plan: Value = serde_json::from_slice(&plan.stdout).unwrap();
    assert!(plan["trained_parameters"].as_u64().unwrap() < plan["parameters"].as_u64().unwrap(), "{plan}");
    succeed(&train(folder.path(), &["own-verifier.toml"]));
    let lines = log(&at("own-verifier"));
    assert_eq!(lines.len(), 2);
    for line in &lines {
        let rl = &line["rl"];
        assert_eq!(rl["verifier_failures"], 0, "{line}");
        assert!(rl["length"].as_f64().unwrap() > 1.0 && rl["entropy"].as_f64().unwrap() > 0.1, "{line}");
    }
    assert!(lines[1]["held_out"]["questions"].is_number(), "{}", lines[1]);
    assert!(at("own-verifier/merged/model.safetensors").exists());
    assert!(at("own-verifier/step-00000002/adapter_model.safetensors").exists());
}

#[cfg(target_os = "linux")]
const RECIPE: &str = r#"
seed = 5
output = "out"
held_out = 0.0
[model]
hidden_size = 32
intermediate_size = 64
num_hidden_layers = 2
num_attention_heads = 2
kv_lora_rank = 16
qk_nope_head_dim = 8
qk_rope_head_dim = 4
v_head_dim = 8
n_routed_experts = 0
num_nextn_predict_layers = 0
[tokenizer]
vocab_size = 280
[data.digits]
chat = ["digits.jsonl"]
verifier = ["sh", "verifier.sh"]
line_seconds = 1.0
[[stage]]
type = "sft"
steps = 60
batch_tokens = 1024
sequence_length = 128
evaluate_every = 0
optimizer = { type = "adamw", lr = 0.01 }
[[stage]]
type = "grpo"
steps = 3
sequence_length = 128
evaluate_every = 0
optimizer = { type = "adamw", lr = 0.001 }
grpo = { prompts = 4, group_size = 8, max_tokens = 16, format_share = 0.0 }
"#;
/// A line for each failure, so that they can be counted from outside. The file is longer than a verifier may write.
#[cfg(target_os = "linux")]
const VERIFIER: &str = r#"
while read -r line; do
    case "$line" in
        *'"answer":"1"'*) echo crash >> broken; exit 3 ;;
        *'"answer":"2"'*) echo hang >> broken; sleep 1000 ;;
        *'"answer":"3"'*) echo rubbish >> broken; echo 'well done' ;;
        *'"answer":"4"'*) echo fill >> broken; head -c 100000000 /dev/zero > filled || exit 9; echo '{"reward": 1}' ;;
        *'"answer":"7"'*) echo right >> sound; echo '{"reward": 1}' ;;
        *) echo wrong >> sound; echo '{"reward": 0}' ;;
    esac
done
"#;

#[test]
#[cfg(target_os = "linux")]
fn a_broken_verifier_costs_its_own_samples() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| fs::write(folder.path().join(name), text).unwrap();
    write("recipe.toml", RECIPE);
    write("verifier.sh", VERIFIER);
    let line = |i: usize| {
        let answer = json!({"role": "assistant", "reasoning_content": "Any.", "content": (i * 7 % 10).to_string()});
        let ask = json!({"role": "user", "content": format!("Say a digit, number {i}")});
        format!("{}\n", json!({ "messages": [ask, answer] }))
    };
    write("digits.jsonl", &(0..80).map(line).collect::<String>());
    let said = succeed(&train(folder.path(), &["recipe.toml"]));

    let read = |name: &str| fs::read_to_string(folder.path().join(name)).unwrap();
    let (broken, sound) = (read("broken"), read("sound"));
    let n = |kind: &str| broken.lines().filter(|line| *line == kind).count() as u64;
    for kind in ["crash", "hang", "rubbish", "fill"] {
        assert!(n(kind) > 0, "no sample made the verifier {kind}");
    }
    let lines = log(&folder.path().join("out"));
    assert_eq!(lines.len(), 63);
    let failures: u64 = lines[60..].iter().map(|line| line["rl"]["verifier_failures"].as_u64().unwrap()).sum();
    assert_eq!(failures, n("crash") + n("hang") + n("rubbish") + n("fill"), "each costs its own sample and no other");
    let n_right = sound.lines().filter(|line| *line == "right").count() as f64;
    let rewards: f64 = lines[60..].iter().map(|line| line["rl"]["reward"].as_f64().unwrap() * 32.0).sum();
    assert!((rewards - n_right).abs() < 1e-6, "{rewards} for {n_right} right answers");
    assert!(said.contains("source \"digits\": the verifier broke on "), "{said}");
    assert!(fs::metadata(folder.path().join("filled")).unwrap().len() <= 64 << 20);
}
