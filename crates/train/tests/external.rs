//! Commands that behave and commands that do not: each failure costs one sample or one source, in bounded time, and is
//! named.
#![allow(clippy::unwrap_used, reason = "a test stops where something fails")]
#![cfg(unix)]

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use train::external::{External, Limits, Sample, Verifier};

const LIMITS: Limits = Limits {
    line_time: Duration::from_secs(20),
    line_bytes: 4096,
    output_bytes: 100_000,
    memory_bytes: 1 << 30,
    file_bytes: 1 << 20,
};
const IMPATIENT: Limits = Limits { line_time: Duration::from_millis(200), ..LIMITS };

fn shell(script: &str) -> Vec<String> {
    ["sh", "-c", script].map(str::to_owned).to_vec()
}

fn judge(verifier: &mut Verifier, answer: &str) -> Result<f64, String> {
    let sample = Sample { prompt: "1 + 1", completion: answer, answer, data: &json!({"n": 1}) };
    verifier.reward(&sample).map_err(|e| e.to_string())
}

#[test]
fn a_verifier_answers_in_order() {
    // Right when the line holds the answer 2.
    let script = r#"while read -r line; do case "$line" in *'"answer":"2"'*) echo '{"reward": 1}';; *) echo '{"reward":0.25}';; esac; done"#;
    let mut verifier = Verifier::new(shell(script), ".".into(), LIMITS);
    for (answer, reward) in [("2", 1.0), ("3", 0.25), ("2", 1.0), ("a\nb", 0.25)] {
        assert_eq!(judge(&mut verifier, answer), Ok(reward));
    }
}

#[test]
fn broken_verifiers_are_named_and_started_again() {
    for (script, limits, said) in [
        ("sleep 100", IMPATIENT, "no line within 0.2 s"),
        ("cat > /dev/null", IMPATIENT, "no line within"),
        ("echo boom >&2; exit 3", LIMITS, "boom"),
        ("kill -9 $$", LIMITS, "signal: 9"),
        ("echo rubbish", LIMITS, "expected {\"reward\": a number from 0 to 1}"),
        ("echo '{\"reward\": 7}'", LIMITS, "found \"7\""),
        ("echo '{\"reward\": NaN}'", LIMITS, "line 1"),
        ("echo '{\"score\": 1}'", LIMITS, "missing field `reward`"),
        ("yes a | tr -d '\\n'", LIMITS, "more than 4096 bytes (in one line)"),
        ("yes ''", LIMITS, "more than 100000 bytes (in all)"),
        ("exec >&-; sleep 100", IMPATIENT, "no line within"),
    ] {
        let started = Instant::now();
        let mut verifier = Verifier::new(shell(script), ".".into(), limits);
        for _ in 0..2 {
            let error = judge(&mut verifier, "2").unwrap_err();
            assert!(error.contains(said) && error.contains("sh -c"), "{script}: {error}");
        }
        assert!(started.elapsed() < Duration::from_secs(60), "{script} held up the run");
    }
    // Broken by one sample, sound for the next.
    let script = r#"while read -r line; do case "$line" in *bad*) exit 1;; *) echo '{"reward":1}';; esac; done"#;
    let mut verifier = Verifier::new(shell(script), ".".into(), LIMITS);
    assert_eq!(judge(&mut verifier, "good"), Ok(1.0));
    assert!(judge(&mut verifier, "bad").is_err());
    assert_eq!(judge(&mut verifier, "good"), Ok(1.0));
    let missing = Verifier::new(vec!["no-such-program-here".into()], ".".into(), LIMITS).reward(&Sample {
        prompt: "",
        completion: "",
        answer: "",
        data: &Value::Null,
    });
    assert!(missing.unwrap_err().to_string().contains("\"no-such-program-here\" cannot be started"));
}

#[test]
fn large_questions_do_not_block_on_a_command_that_does_not_read() {
    let large = "x".repeat(1 << 20);
    let error = judge(&mut Verifier::new(shell("sleep 100"), ".".into(), IMPATIENT), &large).unwrap_err();
    assert!(error.contains("no line within"), "{error}");
}

#[test]
fn a_generator_is_read_to_its_end() {
    let script = r#"echo "{\"seed\": $MINKE_SEED}"; echo; echo '{"seed": 8}'"#;
    let mut generator = External::start(&shell(script), ".".as_ref(), &[("MINKE_SEED", "7".into())], LIMITS).unwrap();
    generator.close_input();
    let mut seeds = Vec::new();
    while let Some(value) = generator.next::<Value>("an example").unwrap() {
        seeds.push(value["seed"].as_u64());
    }
    assert_eq!(seeds, [Some(7), Some(8)]);
    let mut fails = External::start(&shell("echo 1; exit 2"), ".".as_ref(), &[], LIMITS).unwrap();
    assert_eq!(fails.next::<u8>("a number").unwrap(), Some(1));
    assert!(fails.next::<u8>("a number").unwrap_err().to_string().contains("exit status: 2"));
}

#[cfg(target_os = "linux")]
#[test]
fn memory_and_files_are_limited() {
    let folder = tempfile::tempdir().unwrap();
    // The limits are set just after the start, so the commands begin by reading their question.
    let hog =
        "read -r line; head -c 500000000 /dev/zero | tail -c 400000000 > /dev/null || exit 9; echo '{\"reward\": 1}'";
    let narrow = Limits { memory_bytes: 200 << 20, ..LIMITS };
    let error = judge(&mut Verifier::new(shell(hog), ".".into(), narrow), "2").unwrap_err();
    assert!(error.contains("exit status: 9"), "{error}");
    let filler = "read -r line; head -c 50000000 /dev/zero > filled || exit 9; echo '{\"reward\": 1}'";
    let error = judge(&mut Verifier::new(shell(filler), folder.path().into(), LIMITS), "2").unwrap_err();
    assert!(error.contains("exit status: 9"), "{error}");
    assert!(std::fs::metadata(folder.path().join("filled")).unwrap().len() <= 1 << 20);
}

#[cfg(target_os = "linux")]
#[test]
fn what_a_command_started_ends_with_it() {
    let folder = tempfile::tempdir().unwrap();
    let script = "sleep 1000 & echo $! > pid; read -r line; sleep 1000";
    let error = judge(&mut Verifier::new(shell(script), folder.path().into(), IMPATIENT), "2").unwrap_err();
    assert!(error.contains("no line within"), "{error}");
    let pid = std::fs::read_to_string(folder.path().join("pid")).unwrap();
    let status = format!("/proc/{}/stat", pid.trim());
    // Gone, or ended and not yet collected by whoever took it over.
    let has_ended = || std::fs::read_to_string(&status).map_or(true, |stat| stat.contains(") Z "));
    let started = Instant::now();
    while !has_ended() && started.elapsed() < Duration::from_secs(20) {
        std::thread::sleep(Duration::from_millis(5));
    }
    assert!(has_ended(), "the grandchild lives on");
}
