//! `minke bench` as its users meet it: the report's shape, its checks, refusals.
#![allow(clippy::unwrap_used, reason = "a test fails where it unwraps")]

use std::process::{Command, Output, Stdio};

use serde_json::Value;
use testkit::oracle::fixtures;

fn bench(model: &str, args: &[&str]) -> Output {
    let model = fixtures().join(model);
    let mut command = Command::new(env!("CARGO_BIN_EXE_minke"));
    command.args(["bench", "-m", model.to_str().unwrap()]).args(args).stdin(Stdio::null()).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

fn stdout(output: &Output) -> String {
    assert!(output.status.success(), "exit {:?}: {}", output.status.code(), text(&output.stderr));
    text(&output.stdout)
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("{value} should be a number"))
}

/// Median, least and greatest, all above zero and in order.
fn assert_spread(value: &Value) {
    let [median, min, max] = ["median", "min", "max"].map(|key| number(&value[key]));
    assert!(0.0 < min && min <= median && median <= max, "{value}");
}

#[test]
fn the_report_holds_machine_model_and_a_checked_line_for_each_cell() {
    let args = ["--prefill", "16,70", "--decode", "3", "--depth", "0,100,700", "--batch", "1,3", "--threads", "2"];
    let more = ["--chunk", "32", "--repeat", "2", "--cache", "f32", "--json"];
    let report: Value = serde_json::from_str(&stdout(&bench("dsv2_lite", &[&args[..], &more].concat()))).unwrap();
    assert_eq!(report["check_passed"], true);
    assert_eq!(report["machine"]["threads"], 2);
    assert!(number(&report["machine"]["read_bytes_per_s"]) > 1e8);
    assert!(number(&report["machine"]["f32_flops"]) > 1e8);
    assert_eq!(report["model"]["family"], "deepseek_v2");
    assert_eq!(report["cache"]["bytes_per_token"], 3 * 40 * 4);
    assert!(number(&report["start"]["first_token_s"]) > number(&report["start"]["load_s"]));
    assert_eq!(report["start"]["prompt_tokens"], 16);
    assert_eq!(report["memory"]["anonymous_bytes"].is_u64(), cfg!(target_os = "linux"));
    assert_eq!(report["vs"], Value::Null);
    let weights = number(&report["model"]["bytes"]);
    let per_token = number(&report["model"]["bytes_per_decoded_token"]);
    assert!(per_token < weights);
    let results = report["results"].as_array().unwrap();
    let cells: Vec<String> = results
        .iter()
        .map(|r| format!("{} {} {} {}", r["kind"], r["depth"], r["batch"], r["tokens_per_sequence"]))
        .collect();
    let at = |depth: usize| {
        let lines = [("prefill", 1, 16), ("prefill", 1, 70), ("decode", 1, 3), ("decode", 3, 3)];
        lines.map(|(kind, batch, n)| format!("\"{kind}\" {depth} {batch} {n}"))
    };
    assert_eq!(cells, [0, 100, 700].map(at).concat());
    for result in results {
        assert_eq!(result["check"]["passed"], true, "{result}");
        assert_eq!(result["check"]["logits_difference_max"], 0.0, "{result}");
        assert_eq!(result["rounds"], 2);
        assert_spread(&result["wall_s"]);
        assert_spread(&result["tokens_per_s"]);
        assert!(number(&result["share_of_reads"]) > 0.0 && number(&result["share_of_peak"]) > 0.0);
        assert!(number(&result["flops_per_token"]) > 0.0);
    }
    // One token reads its share of the weights; three at once share what they have in common; a context is read too.
    let moved = |i: usize| number(&results[i]["bytes_per_token"]);
    let cached = |rows: f64| rows * 3.0 * 40.0 * 4.0;
    assert_eq!(moved(2), per_token + cached(3.0), "rows 0 to 2 and the new one, written and read: three on average");
    assert_eq!(moved(6), per_token + cached(103.0));
    assert!(moved(3) < moved(2) && moved(3) > per_token / 3.0);
}

#[test]
fn a_dense_model_prints_a_table_and_a_rival_is_run_in_turn() {
    let args = ["--prefill", "8", "--decode", "2", "--batch", "2", "--repeat", "2", "--vs", "echo from the rival"];
    let output = bench("qwen2", &args);
    let table = stdout(&output);
    for part in ["prefill", "decode", "% reads", "theirs over ours: wall", "qwen2"] {
        assert!(table.contains(part), "{part:?} in {table}");
    }
    assert_eq!(table.matches(" ok\n").count(), 2, "{table}");
    assert!(!table.contains("\nfrom the rival"));
    assert_eq!(text(&output.stderr).matches("from the rival\n").count(), 3, "once to warm up, then once a round");
    let json = stdout(&bench("qwen2", &["--prefill", "0", "--decode", "1", "--repeat", "1", "--vs", "true", "--json"]));
    let report: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(report["results"].as_array().unwrap().len(), 1);
    assert_eq!(report["vs"]["pairs"], 1);
    assert_spread(&report["vs"]["wall_ratio"]);
    assert_spread(&report["vs"]["theirs"]["wall_s"]);
}

#[test]
fn the_server_is_measured_beside_the_engine_with_the_same_answers() {
    let args = ["--http", "--batch", "3", "--decode", "20", "--repeat", "2", "--threads", "1", "--json"];
    let report: Value = serde_json::from_str(&stdout(&bench("dsv3_flat", &args))).unwrap();
    assert_eq!((&report["streams"], &report["tokens"]), (&3.into(), &60.into()));
    assert_eq!(report["ratios"].as_array().unwrap().len(), 2);
    let ratio = number(&report["http_tokens_per_s"]) / number(&report["engine_tokens_per_s"]);
    assert!(ratio > 0.0 && number(&report["ratio"]) > 0.0, "{report}");
}

#[test]
fn bad_usage_and_requests_are_refused() {
    let refused = |args: &[&str], parts: &[&str]| {
        let output = bench("dsv2_lite", args);
        let error = text(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{args:?}: {error}");
        assert_eq!(text(&output.stdout), "", "{args:?}");
        for part in parts {
            assert!(error.contains(part), "{args:?} should say {part:?}, says {error}");
        }
    };
    refused(&["--depth", "x"], &["--depth", "x"]);
    refused(&["--batch", "0"], &["--batch", "0"]);
    refused(&["--threads", "0"], &["--threads", "0"]);
    refused(&["--repeat", "0"], &["--repeat", "0"]);
    refused(&["--cache", "q1"], &["--cache", "q1", "bf16"]);
    refused(&["--prefill", "0", "--decode", "0"], &["--prefill", "--decode", "nothing to do"]);
    refused(
        &["--depth", "0,2500", "--prefill", "16", "--decode", "64"],
        &["--depth 2500", "at most 2560", "found 2564"],
    );
    refused(
        &["--batch", "1000000", "--depth", "2000", "--cache", "f32"],
        &["1000000 sequences", "free", "lower --batch"],
    );
    refused(&["--prefill", "4", "--decode", "1", "--vs", "exit 3"], &["--vs", "succeeds", "exit 3"]);
}
