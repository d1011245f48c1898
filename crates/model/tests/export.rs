//! What is written is what was read: every oracle model through both forms, with the same logits.
#![allow(clippy::unwrap_used, reason = "a test fails where it unwraps")]

use std::collections::HashMap;

use checkpoint::Checkpoint;
use model::export::{ExportFormat, GgufTokenizer, config_json, to_gguf, to_safetensors};
use model::plan::{PlannedTensor, plan};
use model::{Config, Form};
use ops::Reference;
use testkit::oracle::{LOGIT_TOLERANCE, compare, fixtures, oracles, switches};

/// Every planned tensor's values, experts stacked.
fn values(weights: &Checkpoint, tensors: &[PlannedTensor]) -> HashMap<String, Vec<f32>> {
    let read = |name: &str| weights.tensor(name).unwrap().to_f32().unwrap();
    let stacked = |tensor: &PlannedTensor| match tensor.safetensors.contains("{}") {
        true => (0..tensor.shape[0]).flat_map(|e| read(&tensor.safetensors.replace("{}", &e.to_string()))).collect(),
        false => read(&tensor.safetensors),
    };
    tensors.iter().map(|tensor| (tensor.name.clone(), stacked(tensor))).collect()
}

#[test]
fn exported_models_have_the_logits_of_their_oracles() {
    let tokenizer = |vocab: usize| GgufTokenizer {
        pre: "smollm".into(),
        tokens: (0..vocab).map(|i| format!("t{i}")).collect(),
        token_types: vec![1; vocab],
        merges: vec!["t 1".into()],
        bos_token_id: Some(0),
        eos_token_id: Some(1),
        add_bos_token: false,
        chat_template: None,
    };
    let mut failures = Vec::new();
    for oracle in oracles(&fixtures()).into_iter().filter(|oracle| oracle.name != "dsv3_fp8") {
        let folder = fixtures().join(&oracle.name);
        let config = oracle.config("config.json").unwrap();
        // As it would be written by us, which says the same as the published one.
        let json = config_json(&config).unwrap();
        assert_eq!(Config::from_json(&json).unwrap(), config, "{}", oracle.name);
        let weights = Checkpoint::open(&folder).unwrap();
        let tensors = plan(&config);
        let all = values(&weights, &tensors);
        let give = |tensor: &PlannedTensor| &all[&tensor.name][..];
        for format in [ExportFormat::F32, ExportFormat::BF16] {
            let out = tempfile::tempdir().unwrap();
            to_safetensors(out.path(), &json, &config, format, give).unwrap();
            let reloaded = Checkpoint::open(out.path()).unwrap();
            assert_eq!(
                checkpoint::read_config(out.path().join("config.json")).unwrap()["torch_dtype"],
                format.torch_dtype().unwrap()
            );
            let file = out.path().join("model.gguf");
            to_gguf(&file, &oracle.name, &config, &tokenizer(config.vocab_size), format, give).unwrap();
            let models = [
                ("safetensors", model::load(&Reference, config.clone(), &reloaded).map_err(|e| e.to_string())),
                ("gguf", oracle.load_gguf(&Reference, &file)),
            ];
            for (form, model) in models {
                let model = model.unwrap_or_else(|e| panic!("{} {form}: {e}", oracle.name));
                for prompt in oracle.prompts() {
                    let found = compare(&Reference, &model, &prompt, Form::Absorbed, 7);
                    let mtp = if model.mtp.is_some() { found.mtp_logits.unwrap_or(0.0) } else { 0.0 };
                    // The oracles' weights are BF16, so neither form rounds anything.
                    if found.logits.max(mtp) > LOGIT_TOLERANCE || !found.same_greedy {
                        failures.push(format!("{} {form} {format:?}: max|Δ| {:.2e}", oracle.name, found.logits));
                    }
                }
            }
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[test]
fn a_config_is_written_as_it_is_read_or_refused() {
    for oracle in oracles(&fixtures()).into_iter().chain(oracles(&switches())) {
        let config = Config { fp8_block: None, ..oracle.config("config.json").unwrap() };
        let json = config_json(&config).unwrap_or_else(|e| panic!("{}: {e}", oracle.name));
        assert_eq!(Config::from_json(&json).unwrap(), config, "{}", oracle.name);
    }
    let llama = oracles(&fixtures()).into_iter().find(|oracle| oracle.name == "llama3").unwrap();
    let mut config = llama.config("config.json").unwrap();
    let n = config.rope_table().inv_freq.len();
    config.rope.scaling = ops::RopeScaling::Factors((0..n).map(|i| 1.0 + i as f32).collect());
    let error = config_json(&config).unwrap_err().to_string();
    assert!(error.contains("rope_scaling") && error.contains("only GGUF has"), "{error}");
}
