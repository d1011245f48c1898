//! The program as its users meet it: output, files, exit codes, errors.
#![allow(clippy::unwrap_used, reason = "a test fails where it unwraps")]

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use checkpoint::Checkpoint;
use serde_json::{Value, json};
use testkit::oracle::{fixtures, max_difference};

fn minke(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_minke")).args(args).stdin(Stdio::null()).output().unwrap()
}

fn oracle(name: &str) -> PathBuf {
    fixtures().join(name)
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

fn stdout(output: &Output) -> String {
    assert!(output.status.success(), "exit {:?}: {}", output.status.code(), text(&output.stderr));
    text(&output.stdout)
}

/// Bad input: exit code 2, nothing on stdout, and an error that says all of `parts`.
fn refused(args: &[&str], parts: &[&str]) {
    let output = minke(args);
    let error = text(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{args:?}: {error}");
    assert_eq!(text(&output.stdout), "", "{args:?}");
    for part in parts {
        assert!(error.contains(part), "{args:?} should say {part:?}, says {error}");
    }
}

/// A copy of an oracle's model that may be damaged.
fn copy(name: &str) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for file in ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"] {
        fs::copy(oracle(name).join(file), dir.path().join(file)).unwrap();
    }
    dir
}

fn edit_config(dir: &Path, key: &str, value: Value) {
    let path = dir.join("config.json");
    let mut config: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    config[key] = value;
    fs::write(path, config.to_string()).unwrap();
}

#[test]
fn inspect_derives_the_published_cache_figures_from_a_config_alone() {
    let dir = tempfile::tempdir().unwrap();
    let config = json!({
        "model_type": "deepseek_v3", "hidden_act": "silu", "vocab_size": 129280, "hidden_size": 7168,
        "intermediate_size": 18432, "moe_intermediate_size": 2048, "num_hidden_layers": 61,
        "num_attention_heads": 128, "num_key_value_heads": 128, "n_shared_experts": 1, "n_routed_experts": 256,
        "routed_scaling_factor": 2.5, "kv_lora_rank": 512, "q_lora_rank": 1536, "qk_rope_head_dim": 64,
        "v_head_dim": 128, "qk_nope_head_dim": 128, "n_group": 8, "topk_group": 4, "num_experts_per_tok": 8,
        "first_k_dense_replace": 3, "max_position_embeddings": 163840
    });
    fs::write(dir.path().join("config.json"), config.to_string()).unwrap();
    let path = dir.path().to_str().unwrap();
    let report: Value = serde_json::from_str(&stdout(&minke(&["inspect", path, "--json"]))).unwrap();
    assert_eq!(report["cache"]["bytes_per_token"]["bf16"], 70_272);
    assert_eq!(report["cache"]["mha_bytes_per_token_bf16"], 3_997_696);
    assert_eq!(report["cache"]["gqa8_bytes_per_token_bf16"], 249_856);
    assert!((report["cache"]["percent_of_mha"].as_f64().unwrap() - 1.758).abs() < 1e-3);
    assert_eq!(report["weights"]["present"], false);
    let human = stdout(&minke(&["inspect", "-m", path]));
    assert!(human.contains("70,272 bytes per token in bf16") && human.contains("1.76 %"), "{human}");
    refused(&["chat", "-m", path, "hello"], &["expected weights", "found only config.json"]);
}

#[test]
fn inspect_counts_what_the_file_holds() {
    let path = oracle("dsv3_fp8");
    let report: Value = serde_json::from_str(&stdout(&minke(&["inspect", path.to_str().unwrap(), "--json"]))).unwrap();
    let by_type = report["weights"]["by_type"].as_object().unwrap();
    let sum: u64 = by_type.values().map(|t| t["bytes"].as_u64().unwrap()).sum();
    assert_eq!(report["weights"]["bytes"], sum);
    assert!(by_type["F8_E4M3"]["bytes"].as_u64().unwrap() > sum / 3);
    assert_eq!(report["family"], "deepseek_v3");
}

#[test]
fn logits_are_the_oracles_in_every_form_and_chunk() {
    let dir = tempfile::tempdir().unwrap();
    let (model, out) = (oracle("dsv3"), dir.path().join("out.safetensors"));
    let reference = Checkpoint::open(model.join("ref.safetensors")).unwrap();
    let stored = |name: &str| reference.tensor(name).unwrap().clone();
    let ids: Vec<String> = stored("prompt_ids.a").to_i64().unwrap().iter().map(i64::to_string).collect();
    let tokens = dir.path().join("tokens.txt");
    for (separator, form, chunk) in [(",", "absorbed", "7"), (" ", "expanded", "1"), ("\n", "auto", "0")] {
        fs::write(&tokens, ids.join(separator)).unwrap();
        let args = [
            "logits",
            "-m",
            model.to_str().unwrap(),
            "--tokens-file",
            tokens.to_str().unwrap(),
            "--form",
            form,
            "--chunk",
            chunk,
            "--greedy",
            "24",
            "--json",
            "--out",
            out.to_str().unwrap(),
        ];
        let report: Value = serde_json::from_str(&stdout(&minke(&args))).unwrap();
        assert_eq!(report["tensors"]["logits"], json!([64, 512]));
        let found = Checkpoint::open(&out).unwrap();
        for (name, reference) in [("logits", "logits.a"), ("mtp_logits", "mtp_logits.a")] {
            let (found, reference) = (found.tensor(name).unwrap(), stored(reference));
            assert_eq!(found.shape, reference.shape);
            assert!(max_difference(&found.to_f32().unwrap(), &reference.to_f32().unwrap()) < 5e-4, "{name}");
        }
        assert_eq!(found.tensor("greedy_ids").unwrap().to_i64().unwrap(), stored("greedy_ids.a").to_i64().unwrap());
    }
}

#[test]
fn text_is_encoded_as_the_tokenizer_cases_say() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out.safetensors");
    for name in ["dsv3", "llama3", "qwen2"] {
        let model = oracle(name);
        let cases: Value = serde_json::from_slice(&fs::read(model.join("tokenizer_cases.json")).unwrap()).unwrap();
        let case = &cases["cases"][0];
        let text = case["text"].as_str().unwrap();
        let args = ["logits", "-m", model.to_str().unwrap(), "--text", text, "--out", out.to_str().unwrap()];
        stdout(&minke(&args));
        let ids = Checkpoint::open(&out).unwrap().tensor("token_ids").unwrap().to_i64().unwrap();
        let stored: Vec<i64> = serde_json::from_value(case["ids"].clone()).unwrap();
        assert_eq!(ids, [&[0], &stored[..]].concat(), "{name}: the start-of-text token, then the case's ids");
    }
}

#[test]
fn bad_usage_and_requests_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (model, out) = (oracle("qwen2"), dir.path().join("out.safetensors"));
    let (model, out) = (model.to_str().unwrap(), out.to_str().unwrap());
    refused(&["logits", "-m", model, "--tokens", "1,512", "--out", out], &["below 512", "found 512"]);
    refused(&["logits", "-m", model, "--tokens", "1,-2", "--out", out], &["--tokens"]);
    refused(&["logits", "-m", model, "--tokens-file", "/no/such/file", "--out", out], &["/no/such/file"]);
    refused(&["logits", "-m", model, "--out", out], &["--tokens"]);
    refused(&["logits", "-m", model, "--text", "a", "--tokens", "1", "--out", out], &["--tokens", "--text"]);
    refused(&["logits", "-m", model, "--chat", "hello", "--out", out], &["chat template"]);
    refused(&["logits", "-m", model, "--tokens", "1", "--greedy", "5000", "--out", out], &["at most 2048"]);
    refused(&["logits", "-m", "no/such/model", "--tokens", "1", "--out", out], &["no/such/model", "found nothing"]);
    refused(&["chat", "-m", "./tiny", "hello"], &["./tiny", "found nothing"]);
    refused(&["chat", "-m", model, "--temperature", "-1", "hello"], &["from 0 to 10"]);
    refused(&["chat", "-m", model, "--context", "9999", "hello"], &["at most 2048", "found 9999"]);
    refused(&["chat", "-m", model, "--context", "2", "a long prompt of many words"], &["fewer than 2 tokens"]);
    refused(&["frobnicate"], &["frobnicate"]);
    assert!(!Path::new(out).exists());
}

#[test]
fn a_file_cut_anywhere_names_itself() {
    let dir = copy("dsv2_lite");
    let path = dir.path().join("model.safetensors");
    let whole = fs::read(&path).unwrap();
    for i in 0..200 {
        let len = i * whole.len() / 200;
        fs::write(&path, &whole[..len]).unwrap();
        refused(&["inspect", dir.path().to_str().unwrap()], &["model.safetensors", "expected", "found"]);
    }
}

#[test]
fn a_gguf_cut_anywhere_names_itself() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("cut.gguf");
    let whole = fs::read(fixtures().join("../gguf/qwen3_yarn.bf16.gguf")).unwrap();
    for i in 0..200 {
        fs::write(&path, &whole[..i * whole.len() / 200]).unwrap();
        refused(&["inspect", path.to_str().unwrap()], &["cut.gguf", "expected", "found"]);
    }
}

#[test]
fn weights_of_another_shape_or_model_name_tensor_expected_and_found() {
    let dir = copy("dsv3");
    let path = dir.path().to_str().unwrap();
    edit_config(dir.path(), "intermediate_size", json!(97));
    let parts =
        ["model.safetensors", "model.layers.0.mlp.gate_proj.weight", "expected shape [97, 64]", "found [96, 64]"];
    refused(&["inspect", path], &parts);
    edit_config(dir.path(), "intermediate_size", json!(96));
    edit_config(dir.path(), "n_shared_experts", json!(0));
    refused(&["inspect", path], &["model.layers.1.mlp.shared_experts.", "not part of a deepseek_v3 model"]);
    edit_config(dir.path(), "n_shared_experts", json!(1));
    edit_config(dir.path(), "n_routed_experts", json!(20));
    refused(&["inspect", path], &["model.layers.1.mlp.gate.weight", "expected shape [20, 64]", "found [16, 64]"]);
    edit_config(dir.path(), "n_routed_experts", json!(16));
    edit_config(dir.path(), "num_hidden_layers", json!(9));
    refused(&["inspect", path], &["model.layers.4.", "no tensor", "expected shape"]);
    edit_config(dir.path(), "num_hidden_layers", json!(3));
    edit_config(dir.path(), "topk_method", json!("magic"));
    refused(&["inspect", path], &["config.json: topk_method", "noaux_tc", "\"magic\""]);
}

#[test]
fn damaged_tokenizers_and_configs_are_refused() {
    let dir = copy("qwen2");
    let path = dir.path().to_str().unwrap();
    for (file, text) in [("tokenizer.json", "{"), ("tokenizer_config.json", "[]"), ("config.json", "{\"a\":")] {
        let whole = fs::read(dir.path().join(file)).unwrap();
        fs::write(dir.path().join(file), text).unwrap();
        refused(&["chat", "-m", path, "hello"], &[file]);
        fs::write(dir.path().join(file), whole).unwrap();
    }
    fs::remove_file(dir.path().join("tokenizer.json")).unwrap();
    refused(&["chat", "-m", path, "hello"], &["tokenizer.json", "found no file"]);
}

#[test]
fn chat_answers_from_arguments_and_pipes_and_repeats_itself_by_seed() {
    let model = oracle("dsv3");
    let model = model.to_str().unwrap();
    let base = ["chat", "-m", model, "--max-tokens", "12", "--json", "--temperature", "2", "--top-p", "1"];
    let say = |more: &[&str]| -> Value {
        let output = minke(&[&base[..], more].concat());
        serde_json::from_str(&stdout(&output)).unwrap()
    };
    let first = say(&["--seed", "1", "The lighthouse"]);
    assert_eq!(first, say(&["--seed", "1", "The lighthouse"]));
    assert_ne!(first["content"], say(&["--seed", "2", "The lighthouse"])["content"]);
    let usage = &first["usage"];
    assert_eq!(usage["completion_tokens"], 12);
    assert_eq!(usage["total_tokens"], usage["prompt_tokens"].as_u64().unwrap() + 12);
    let mut piped = Command::new(env!("CARGO_BIN_EXE_minke"))
        .args(base)
        .args(["--seed", "1"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    piped.stdin.take().unwrap().write_all(b"The lighthouse\n").unwrap();
    let output = piped.wait_with_output().unwrap();
    assert_eq!(first, serde_json::from_str::<Value>(&stdout(&output)).unwrap());
}

#[test]
fn chat_shows_reasoning_apart_from_the_answer() {
    // A template that prefills the opening tag, as R1's does: what the model writes is reasoning until it closes it.
    let dir = copy("dsv3");
    let template = "{% for m in messages %}<｜User｜>{{ m.content }}{% endfor %}<｜Assistant｜><think>\n";
    let config = json!({ "chat_template": template });
    fs::write(dir.path().join("tokenizer_config.json"), config.to_string()).unwrap();
    let output = minke(&["chat", "-m", dir.path().to_str().unwrap(), "--temperature", "0", "--max-tokens", "8", "hi"]);
    assert_eq!(stdout(&output), "\n", "nothing but reasoning was written");
    assert!(text(&output.stderr).contains("the token limit is reached"));
    assert!(text(&output.stderr).len() > 60, "the reasoning goes to stderr: {}", text(&output.stderr));
}

/// `minke` with folders of its own.
fn minke_in(home: &std::path::Path, args: &[&str]) -> std::process::Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_minke"));
    command.args(args).env("XDG_DATA_HOME", home.join("data")).env("XDG_CACHE_HOME", home.join("cache"));
    command.stdin(Stdio::null()).output().unwrap()
}

#[test]
fn chat_takes_conversations_up_again_and_restores_what_was_computed() {
    let home = tempfile::tempdir().unwrap();
    let model = oracle("dsv3");
    let model = model.to_str().unwrap();
    let say = |more: &[&str]| -> Value {
        let base = ["chat", "-m", model, "--max-tokens", "40", "--temperature", "0", "--json"];
        serde_json::from_str(&stdout(&minke_in(home.path(), &[&base[..], more].concat()))).unwrap()
    };
    let long = "The lighthouse keeper counted the ships, and ".repeat(12);
    let first = say(&["--session", "travel", &long]);
    let n_first = first["usage"]["total_tokens"].as_u64().unwrap();
    assert_eq!(first["usage"]["prompt_tokens_details"]["cached_tokens"], 0);
    let second = say(&["--session", "travel", "And then?"]);
    let details = &second["usage"]["prompt_tokens_details"];
    assert!(second["usage"]["prompt_tokens"].as_u64().unwrap() > n_first);
    let restored = details["restored_tokens"].as_u64().unwrap();
    assert!(restored >= 64 && restored.is_multiple_of(64) && details["cached_tokens"] == restored, "{details}");
    let fork = say(&["--session", "home", "--from", "travel", "And then?"]);
    assert!(fork["usage"]["prompt_tokens"].as_u64() > second["usage"]["prompt_tokens"].as_u64());

    let list = |args: &[&str]| minke_in(home.path(), args);
    let all: Value = serde_json::from_str(&stdout(&list(&["chat", "--sessions", "--json"]))).unwrap();
    let sizes: Vec<_> = all.as_array().unwrap().iter().map(|s| (s["name"].as_str().unwrap(), &s["messages"])).collect();
    assert_eq!(sizes.len(), 2);
    assert!(sizes.contains(&("travel", &json!(4))) && sizes.contains(&("home", &json!(6))), "{all}");
    assert!(list(&["chat", "--delete-session", "travel"]).status.success());
    assert_eq!(list(&["chat", "--delete-session", "travel"]).status.code(), Some(2));
    assert!(stdout(&list(&["chat", "--sessions"])).starts_with("home "));
    assert_eq!(list(&["chat", "-m", model, "--session", "../x", "hi"]).status.code(), Some(2));
}

#[test]
fn chat_holds_answers_to_grammars() {
    let dir = tempfile::tempdir().unwrap();
    let (schema, broken) = (dir.path().join("schema.json"), dir.path().join("broken.json"));
    let text = r#"{"type": "object", "properties": {"n": {"enum": [1, 22, 333]}}, "required": ["n"],
                   "additionalProperties": false}"#;
    fs::write(&schema, text).unwrap();
    fs::write(&broken, r#"{"type": "elephant"}"#).unwrap();
    let model = oracle("dsv3");
    let base = ["chat", "-m", model.to_str().unwrap(), "--max-tokens", "200", "--temperature", "1", "--json"];
    for seed in ["1", "2", "3"] {
        let output = minke(&[&base[..], &["--seed", seed, "--schema", schema.to_str().unwrap(), "hi"]].concat());
        let answer: Value = serde_json::from_str(&stdout(&output)).unwrap();
        let value: Value = serde_json::from_str(answer["content"].as_str().unwrap()).unwrap();
        assert!([1, 22, 333].map(|n| json!({ "n": n })).contains(&value), "{value}");
        assert!(answer["grammar"]["masks"].as_u64().unwrap() > 0);
    }
    let output = minke(&[&base[..], &["--regex", "[a-c]{3}-[0-9]+x", "hi"]].concat());
    let answer: Value = serde_json::from_str(&stdout(&output)).unwrap();
    assert!(answer["content"].as_str().unwrap().split('-').next().is_some_and(|s| s.len() == 3), "{answer}");
    refused(&[&base[..], &["--schema", broken.to_str().unwrap(), "hi"]].concat(), &["elephant"]);
    refused(&[&base[..], &["--schema", "absent.json", "hi"]].concat(), &["absent.json"]);
    refused(&[&base[..], &["--regex", "(", "hi"]].concat(), &["("]);
}

/// What the README's first screen promises.
#[test]
fn the_embedded_model_answers_where_none_is_named() {
    let output = minke(&["chat", "Hello"]);
    let (answer, said) = (stdout(&output), String::from_utf8_lossy(&output.stderr).into_owned());
    assert!(answer.contains("I am tiny") && !answer.contains("think>"), "{answer}");
    assert!(said.contains("This is a question about me"), "{said}");
    let countdown = minke(&["chat", "Use 3, 7, 25 and 50 to make 175"]);
    assert!(!stdout(&countdown).trim().is_empty() && !countdown.stderr.is_empty());
    let report: Value = serde_json::from_str(&stdout(&minke(&["inspect", "--json"]))).unwrap();
    assert_eq!(report["model"], "tiny");
    let folder = tempfile::tempdir().unwrap();
    let copied = folder.path().join("copy.gguf");
    stdout(&minke(&["quantize", copied.to_str().unwrap(), "--format", "f16"]));
    assert!(fs::metadata(&copied).unwrap().len() < 12 << 20, "the binary holds no more than was promised");
}

#[test]
fn eval_asks_and_judges() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name).display().to_string();
    let model = oracle("dsv3").display().to_string();
    let report =
        stdout(&minke(&["eval", "-m", &model, "--count", "3", "--samples", "2", "--max-tokens", "8", "--json"]));
    let report: Value = serde_json::from_str(&report).unwrap();
    let tasks = report["tasks"].as_array().unwrap();
    assert_eq!(tasks.len(), 8);
    for task in tasks {
        assert_eq!((&task["questions"], &task["samples"], &task["right"]), (&json!(3), &json!(6), &json!(0)), "{task}");
        assert!(task["mean_tokens"].as_f64().unwrap() > 0.0 && task["interval_95"][1].as_f64().unwrap() < 0.5);
    }
    let line = |text: &str| json!({"messages": [{"role": "user", "content": text}], "data": {"answer": "no"}});
    fs::write(at("q.jsonl"), format!("{}\n\n{}\n", line("one"), line("two"))).unwrap();
    // Right is what the data calls "one"; the second question breaks the command.
    let script =
        r#"while read -r l; do case "$l" in *'"prompt":"one"'*) echo '{"reward": 1}';; *) exit 5;; esac; done"#;
    fs::write(at("judge.sh"), script).unwrap();
    let args = ["eval", "-m", &model, "--questions", &at("q.jsonl"), "--max-tokens", "400", "--transcripts", &at("t")];
    let table = stdout(&minke(&args));
    assert!(table.contains("0.0 %") && table.lines().count() == 2, "{table}");
    let judge = format!("sh {}", at("judge.sh"));
    let output = minke(&[&args[..], &["--verifier", &judge, "--json"]].concat());
    let report: Value = serde_json::from_str(&stdout(&output)).unwrap();
    let task = &report["tasks"][0];
    let n_ended = 2 - task["cut_off"].as_u64().unwrap();
    // An answer that was cut off is not shown to the verifier.
    assert!(task["right"].as_u64().unwrap() + task["verifier_failures"].as_u64().unwrap() == n_ended, "{report}");
    assert_eq!(fs::read_to_string(at("t")).unwrap().lines().count(), 2);
    refused(&["eval", "-m", &model, "--task", "countdwn"], &["countdwn", "countdown"]);
    refused(&["eval", "-m", &model, "--task", "gcd", "--parameters", "x = 1"], &["gcd", "x"]);
    fs::write(at("bad.jsonl"), "{\"messages\": [{\"role\": \"user\", \"content\": \"x\"}]}").unwrap();
    refused(&["eval", "-m", &model, "--questions", &at("bad.jsonl")], &["bad.jsonl:1", "data.answer"]);
}
