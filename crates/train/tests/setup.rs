//! A whole recipe made ready: tokenizer, sources of every kind, rows of every stage, and the same again on resuming.
#![allow(clippy::unwrap_used, reason = "a test stops where something fails")]

use std::fs;
use std::sync::Arc;

use train::data::{Encoder, Rows};
use train::recipe::Recipe;
use train::setup;

const RECIPE: &str = r#"
seed = 3
held_out = 0.1
output = "run"
[model]
[tokenizer]
vocab_size = 400
bytes_per_source = 20_000
[data.prose]
text = ["prose.txt"]
separator = "\n"
[data.talks]
chat = ["talks.jsonl"]
[data.sums]
task = "chain_sum"
[data.aside]
task = "gcd"
[[stage]]
type = "pretrain"
steps = 3
batch_tokens = 1024
sequence_length = 256
mixture = { prose = 1.0, sums = 1.0 }
evaluate_rows = 2
optimizer = { type = "muon", lr = 0.01 }
[[stage]]
type = "sft"
steps = 3
batch_tokens = 1024
sequence_length = 512
mixture = { talks = 1.0, sums = 3.0 }
evaluate_rows = 2
optimizer = { type = "adamw", lr = 1e-3 }
"#;

#[test]
fn a_recipe_becomes_rows() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let prose: String = (0..200).map(|i| format!("This is sentence number {i} of a rather dull book.\n")).collect();
    fs::write(at("prose.txt"), prose).unwrap();
    let talk = |i: usize| {
        format!(
            "{{\"messages\": [{{\"role\": \"user\", \"content\": \"hello {i}\"}}, {{\"role\": \"assistant\", \"content\": \"hi {i}\"}}]}}\n"
        )
    };
    fs::write(at("talks.jsonl"), (0..100).map(talk).collect::<String>()).unwrap();
    let recipe = Recipe::parse(RECIPE, &at("r.toml")).unwrap();
    let files = setup::tokenizer(&recipe, None).unwrap();
    let made = || fs::metadata(at("run/tokenizer/tokenizer.json")).unwrap().modified().unwrap();
    let first_made = made();
    assert_eq!(setup::tokenizer(&recipe, None).unwrap(), files);
    assert_eq!(made(), first_made, "the same data does not train again");
    let encoder = Arc::new(Encoder::new(&files.tokenizer, &files.config).unwrap());
    assert_eq!(encoder.tokenizer().vocab_size(), 400);

    let sources = setup::sources(&recipe, &encoder).unwrap();
    assert_eq!(sources.keys().collect::<Vec<_>>(), ["prose", "sums", "talks"], "what no stage uses is not prepared");
    let mut rows = Rows::default();
    for (stage, learnt_all) in [(0, true), (1, false)] {
        let mut packer = setup::training(&recipe, stage, &sources, &encoder).unwrap();
        packer.fill(recipe.stages[stage].n_rows(), &mut rows).unwrap();
        assert_eq!(rows.tokens.len(), 1024);
        let n_covered: usize = rows.spans.iter().map(|span| span.len).sum();
        assert_eq!(rows.n_targets(1) + rows.spans.len() == n_covered, learnt_all);
        let held_out = setup::evaluation(&recipe, stage, &sources, &encoder).unwrap();
        assert_eq!(held_out.len(), 2);
        assert!(held_out.values().all(|rows| rows.n_targets(1) > 20));
        assert_eq!(setup::evaluation(&recipe, stage, &sources, &encoder).unwrap(), held_out);
    }

    let other = Recipe::parse(&RECIPE.replace("400", "420"), &at("r.toml")).unwrap();
    assert_ne!(setup::tokenizer(&other, None).unwrap(), files, "another vocabulary is trained anew");
    let taken = RECIPE.replace("vocab_size = 400", "from = \"run/tokenizer\"").replace("bytes_per_source = 20_000", "");
    let taken = Recipe::parse(&taken, &at("r.toml")).unwrap();
    assert_eq!(setup::tokenizer(&taken, None).unwrap(), setup::tokenizer(&other, None).unwrap());
}
