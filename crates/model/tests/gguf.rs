//! The oracle models as GGUF files, written by the format's own library and checked with llama.cpp: same logits.
#![allow(clippy::unwrap_used, reason = "a test fails where it unwraps")]

use std::path::{Path, PathBuf};

use model::Form;
use ops::Reference;
use testkit::oracle::{LOGIT_TOLERANCE, compare, fixtures, oracles};

fn gguf_files() -> Vec<PathBuf> {
    let folder = std::env::var_os("MINKE_GGUF_ORACLES")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../testkit/fixtures/gguf"), Into::into);
    let mut files: Vec<PathBuf> = std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().path()).collect();
    let is_first_part = |name: &str| !name.contains("-of-") || name.contains("-00001-of-");
    files.retain(|f| f.extension().is_some_and(|e| e == "gguf") && is_first_part(&f.to_string_lossy()));
    files.sort();
    assert!(!files.is_empty());
    files
}

/// How far logits may be from those of the BF16 weights. A lossless type moves nothing; the others move every weight,
/// and their tolerance only tells a wrong layout (logits off by whole units) from a coarse type.
fn tolerance(file: &str) -> f32 {
    match file {
        f if ["bf16", "f32"].iter().any(|t| f.contains(t)) => LOGIT_TOLERANCE,
        f if f.contains("f16") => 0.01,
        _ => f32::INFINITY,
    }
}

#[test]
fn every_gguf_has_the_logits_of_its_oracle() {
    let oracles = oracles(&fixtures());
    let mut failures = Vec::new();
    for file in gguf_files() {
        let name = file.file_name().unwrap().to_string_lossy().into_owned();
        let oracle = oracles.iter().find(|o| o.name == name.split('.').next().unwrap()).unwrap();
        let model = match oracle.load_gguf(&Reference, &file) {
            Ok(model) => model,
            Err(e) => {
                failures.push(e);
                continue;
            }
        };
        for form in [Form::Absorbed, Form::Expanded] {
            let (mut worst, mut greedy, mut mtp) = (0f32, true, 0f32);
            for prompt in oracle.prompts() {
                let found = compare(&Reference, &model, &prompt, form, 7);
                worst = worst.max(found.logits);
                greedy &= found.same_greedy;
                mtp = mtp.max(if model.mtp.is_some() { found.mtp_logits.unwrap_or(0.0) } else { 0.0 });
            }
            let line = format!("{name:36} {form:?} max|Δ| {worst:.2e}  mtp {mtp:.2e}  greedy {greedy}");
            println!("{line}");
            let tolerance = tolerance(&name);
            if worst.max(mtp) > tolerance || (!greedy && tolerance == LOGIT_TOLERANCE) {
                failures.push(line);
            }
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}
