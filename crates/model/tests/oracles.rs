//! Every oracle model, in both forms of MLA and in chunks of 1, 7 and the whole prompt, against transformers.

use model::Form;
use ops::Reference;
use testkit::oracle::{LOGIT_TOLERANCE, compare, fixtures, oracles, switches};

/// Prints the table that the README of the oracles describes; `cargo test -p model --test oracles -- --nocapture`.
#[test]
fn every_oracle_in_every_form_and_chunk() {
    // Further oracles can be named without being part of the repository.
    let folders = std::env::var_os("MINKE_ORACLES").map_or_else(|| vec![fixtures(), switches()], |f| vec![f.into()]);
    let mut failures = Vec::new();
    for oracle in folders.iter().flat_map(|folder| oracles(folder)) {
        let model = match oracle.load(&Reference) {
            Ok(model) => model,
            Err(e) => {
                failures.push(e);
                continue;
            }
        };
        for form in [Form::Absorbed, Form::Expanded, Form::Auto] {
            for chunk in [1, 7, usize::MAX] {
                let (mut worst, mut worst_mtp, mut greedy) = (0f32, None, true);
                for prompt in oracle.prompts() {
                    let found = compare(&Reference, &model, &prompt, form, chunk);
                    worst = worst.max(found.logits);
                    worst_mtp = found.mtp_logits.map(|m| m.max(worst_mtp.unwrap_or(0.0))).or(worst_mtp);
                    greedy &= found.same_greedy;
                }
                let chunk = if chunk == usize::MAX { "whole".to_owned() } else { chunk.to_string() };
                let mtp = worst_mtp.map_or_else(String::new, |m| format!("  mtp {m:.2e}"));
                let line =
                    format!("{:16} {form:?} chunk {chunk:5} max|Δ| {worst:.2e}{mtp}  greedy {greedy}", oracle.name);
                println!("{line}");
                if worst.max(worst_mtp.unwrap_or(0.0)) > LOGIT_TOLERANCE || !greedy {
                    failures.push(line);
                }
            }
        }
    }
    assert!(failures.is_empty(), "beyond {LOGIT_TOLERANCE:e}:\n{}", failures.join("\n"));
}
