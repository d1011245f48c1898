//! Recipes: what a good one means, and that every wrong one is refused before anything starts, by file, line and key.
#![allow(clippy::unwrap_used, reason = "a test stops where something fails")]

mod exercise;

use std::fs;
use std::path::Path;

use proptest::prelude::*;
use train::data::Definition;
use train::optim::{Method, Schedule};
use train::recipe::{ModelStart, Recipe, StageKind, config_json};

const GOOD: &str = r#"
seed = 7
held_out = 0.05
output = "run"

[model]
hidden_size = 64
num_hidden_layers = 3
num_attention_heads = 4

[tokenizer]
vocab_size = 512
sources = ["sums", "prose"]

[data.prose]
text = ["*.txt"]
separator = "\n\n"

[data.talks]
chat = ["talks.jsonl"]

[data.sums]
task = "chain_sum"
parameters = { terms = [2, 3], digits = [1, 2] }

[data.made]
command = ["python3", "make.py"]
count = 100

[[stage]]
type = "pretrain"
tokens = 100_000
batch_tokens = 2048
micro_batch_tokens = 512
sequence_length = 256
mixture = { prose = 1.0, sums = 3 }
schedule = { type = "wsd", warmup_steps = 5, decay_steps = 10 }

[stage.optimizer]
type = "muon"
lr = 0.01
adamw = { betas = [0.9, 0.99] }

[[stage]]
type = "sft"
steps = 20
batch_tokens = 1024
sequence_length = 256
[stage.optimizer]
type = "adamw"
lr = 3e-4
"#;

fn parse(text: &str) -> Result<Recipe, String> {
    let folder = tempfile::tempdir().unwrap();
    for name in ["a.txt", "talks.jsonl"] {
        fs::write(folder.path().join(name), "x").unwrap();
    }
    Recipe::parse(text, &folder.path().join("r.toml")).map_err(|e| {
        let text = e.to_string();
        text.rsplit_once("r.toml").map_or(text.clone(), |(_, rest)| format!("r.toml{rest}"))
    })
}

#[test]
fn a_good_recipe() {
    let recipe = parse(GOOD).unwrap();
    assert_eq!((recipe.seed, recipe.held_out, recipe.keep_checkpoints), (7, 0.05, 2));
    assert!(recipe.output.ends_with("run") && recipe.cache.ends_with("run/cache"));
    let ModelStart::Shape(shape) = &recipe.model else { panic!("{:?}", recipe.model) };
    let config = config_json(shape, 512, Some(0), 1);
    let config = model::Config::from_json(&config).unwrap();
    assert_eq!((config.hidden_size, config.num_hidden_layers, config.num_nextn_predict_layers), (64, 3, 1));
    assert!(matches!(&recipe.data["prose"], Definition::Text { files, .. } if files.len() == 1));
    assert!(matches!(&recipe.data["made"], Definition::Command { count: 100, .. }));
    let [pretrain, sft] = &recipe.stages[..] else { panic!("two stages") };
    assert_eq!(
        (pretrain.kind, pretrain.n_steps(), pretrain.n_rows(), pretrain.n_micro_rows()),
        (StageKind::Pretrain, 49, 8, 2)
    );
    assert!(
        matches!(pretrain.optimizer.method(), Method::Muon(muon, adamw) if muon.momentum == 0.95 && adamw.betas[1] == 0.99)
    );
    assert_eq!((pretrain.lr(0), pretrain.lr(10), pretrain.lr(48)), (0.01 / 5.0, 0.01, 0.0));
    assert_eq!((sft.kind, sft.n_steps(), sft.schedule, sft.clip_norm), (StageKind::Sft, 20, Schedule::default(), 1.0));
    // The name is that of the content.
    let respelled = GOOD.replace("seed = 7\n", "# a remark\nseed  =  7 \n\n");
    assert_eq!(parse(&respelled).unwrap().fingerprint(), recipe.fingerprint());
    assert_ne!(parse(&GOOD.replace("seed = 7", "seed = 8")).unwrap().fingerprint(), recipe.fingerprint());
}

/// What is replaced in the good recipe, by what, and what the error then says.
const WRONG: &[(&str, &str, &str)] = &[
    // Form.
    ("seed = 7", "sed = 7", "r.toml:2: unknown field `sed`, expected one of `seed`"),
    ("seed = 7", "seed = \"x\"", "r.toml:2: invalid type"),
    ("seed = 7", "seed = ", "r.toml:2: "),
    ("lr = 0.01", "lr = 0.01\nrl = 2", "unknown field `rl`"),
    (
        "type = \"sft\"",
        "type = \"grow\"",
        "unknown variant `grow`, expected one of `pretrain`, `sft`, `grpo`, `distill`",
    ),
    ("warmup_steps = 5", "warmup = 5", "unknown field `warmup`"),
    ("output = \"run\"", "", "missing field `output`"),
    // The whole.
    ("held_out = 0.05", "held_out = 0.9", "r.toml:3: `held_out`: expected a share from 0 to 0.5, found 0.9"),
    ("held_out = 0.05", "held_out = nan", "r.toml:3: `held_out`"),
    // Model.
    ("hidden_size = 64", "hiden_size = 64", "r.toml:7: `model.hiden_size`: expected `from` (a model), `config`"),
    ("hidden_size = 64", "hidden_size = -1", "r.toml:7: `model.hidden_size`: expected"),
    ("hidden_size = 64", "num_experts_per_tok = 99", "`model.num_experts_per_tok`: expected at most 8"),
    ("hidden_size = 64", "from = \"x\"", "r.toml:9: `model.num_"),
    ("hidden_size = 64", "initializer_range = 0", "`model.initializer_range`: expected a number above 0"),
    // Adapters.
    ("[tokenizer]", "[lora]\nrank = 8\nalpha = 16\n[tokenizer]", "`lora`: expected `from` in [model]"),
    // Tokenizer.
    ("vocab_size = 512", "vocab_size = 100", "r.toml:12: `tokenizer.vocab_size`: expected 272 to 262144, found 100"),
    ("vocab_size = 512", "", "`tokenizer`: expected `vocab_size` (train one) or `from`"),
    ("vocab_size = 512", "from = \"tok\"", "`tokenizer.from`: "),
    (
        "\"sums\", \"prose\"",
        "\"sum\"",
        "`tokenizer.sources`: expected a source of [data], found \"sum\"; there are made, prose",
    ),
    // Data.
    ("text = [\"*.txt\"]", "text = [\"*.rst\"]", "r.toml:16: `data.prose.text`: "),
    ("text = [\"*.txt\"]", "text = []", "`data.prose.text`: expected at least one file"),
    ("text = [\"*.txt\"]", "text = [\"*.txt\"]\ntask = \"gcd\"", "r.toml:15: `data.prose`: expected exactly one of"),
    (
        "chat = [\"talks.jsonl\"]",
        "",
        "`data.talks`: expected exactly one of `text`, `chat`, `task` and `command`, found none",
    ),
    ("chat = [\"talks.jsonl\"]", "chat = [\"gone.jsonl\"]", "gone.jsonl: no such file"),
    ("chat = [\"talks.jsonl\"]", "chat = [\"talks.jsonl\"]\ncount = 3", "`data.talks.count`: belongs to `command`"),
    (
        "task = \"chain_sum\"",
        "task = \"chain\"",
        "r.toml:23: `data.sums.task`: task \"chain\" is not known; there are chain_sum",
    ),
    (
        "terms = [2, 3]",
        "terms = [3, 2]",
        "r.toml:24: `data.sums.parameters`: parameters of task \"chain_sum\": `terms` is [3, 2]",
    ),
    ("count = 100", "", "r.toml:26: `data.made.count`: expected how many examples"),
    ("command = [\"python3\", \"make.py\"]", "command = []", "`data.made.command`: expected a program"),
    // Stages.
    ("tokens = 100_000", "tokens = 100_000\nsteps = 3", "`stage[0].tokens`: expected either this or `steps`"),
    ("steps = 20", "", "r.toml:44: `stage[1].steps`: expected `steps` or `tokens`, found neither"),
    ("steps = 20", "steps = 0", "r.toml:46: `stage[1].steps`: expected 1 to"),
    (
        "batch_tokens = 2048",
        "batch_tokens = 2000",
        "r.toml:33: `stage[0].batch_tokens`: expected a multiple of sequence_length 256",
    ),
    ("micro_batch_tokens = 512", "micro_batch_tokens = 768", "`stage[0].micro_batch_tokens`"),
    ("sequence_length = 256\nmixture", "sequence_length = 1\nmixture", "`stage[0].sequence_length`: expected 2 to"),
    (
        "num_attention_heads = 4",
        "max_position_embeddings = 128",
        "expected at most the model's max_position_embeddings 128",
    ),
    ("sums = 3", "sum = 3", "r.toml:36: `stage[0].mixture.sum`: expected a source of [data]"),
    ("sums = 3", "sums = 0", "`stage[0].mixture.sums`: expected a share above 0, found 0"),
    ("decay_steps = 10", "decay_steps = 1000", "`stage[0].schedule`: warmup_steps 5 and decay_steps 1000 exceed"),
    ("lr = 0.01", "lr = 0", "r.toml:41: `stage[0].optimizer.lr`: expected a number above 0"),
    ("betas = [0.9, 0.99]", "betas = [0.9, 1.0]", "`stage[0].optimizer.adamw.betas`: expected 0 or more and below 1"),
    ("lr = 3e-4", "lr = 3e-4\nmuon = {}", "`stage[1].optimizer.muon`: belongs to type \"muon\""),
    ("steps = 20", "steps = 20\nclip_norm = 0.0", "`stage[1].clip_norm`: expected a number from above 0"),
    ("steps = 20", "steps = 20\ncheckpoint_every = 0", "`stage[1].checkpoint_every`"),
    ("held_out = 0.05", "held_out = 0.0", "`stage[0].evaluate_every`: expected 0 where `held_out` is 0"),
];

#[test]
fn wrong_recipes_are_refused_by_line_and_key() {
    for (from, to, said) in WRONG {
        assert!(GOOD.contains(from), "{from}");
        let error = parse(&GOOD.replacen(from, to, 1)).unwrap_err();
        assert!(error.starts_with("r.toml") && error.contains(said), "{to}\n  gives {error}\n  not   {said}");
    }
    let error = Recipe::load(Path::new("gone.toml")).unwrap_err().to_string();
    assert!(error.starts_with("gone.toml: cannot read the recipe"), "{error}");
}

#[test]
fn shapes_are_validated_as_configs_are() {
    let with = |line: &str| parse(&GOOD.replacen("hidden_size = 64", line, 1));
    assert!(with("n_routed_experts = 0\nnum_nextn_predict_layers = 0").is_ok());
    assert!(with("q_lora_rank = 32\nn_group = 4\ntopk_group = 2").is_ok());
    let yarn = "rope_scaling = { type = \"yarn\", factor = 4.0, original_max_position_embeddings = 1024 }";
    assert!(with(yarn).is_ok());
    assert!(
        with("rope_scaling = { type = \"spiral\" }").unwrap_err().contains("`model.type`")
            || with("rope_scaling = { type = \"spiral\" }").is_err()
    );
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn no_text_is_a_panic(from in 0..GOOD.len(), n in 0usize..40, put in "[a-z0-9=\\[\\]{}\", .\n-]{0,12}|\\PC{0,4}") {
        let mut text = GOOD.to_owned();
        text.replace_range(from..(from + n).min(GOOD.len()), &put);
        exercise::recipe(&text, Path::new("no such folder/r.toml"));
        if let Err(error) = parse(&text) {
            prop_assert!(error.starts_with("r.toml"), "{}", error);
        }
    }
}

const TEACHERS: &str = r#"
output = "run"
[model]
[tokenizer]
vocab_size = 300
[data.asked]
chat = ["talks.jsonl"]
[data.traces]
chat = ["talks.jsonl"]
verifier = ["sh", "judge.sh"]
teacher = { model = "big", max_tokens = 100, only_right = true }
[data.sums]
task = "chain_sum"
count = 50
teacher = { model = "big", max_tokens = 100, samples = 2, temperature = 0 }
[[stage]]
type = "sft"
steps = 2
batch_tokens = 64
sequence_length = 64
mixture = { traces = 1, sums = 1 }
optimizer = { type = "adamw", lr = 0.001 }
[[stage]]
type = "distill"
steps = 2
sequence_length = 64
mixture = { asked = 1 }
optimizer = { type = "adamw", lr = 0.001 }
[stage.distill]
teacher = "big"
prompts = 4
max_tokens = 16
"#;

#[test]
fn teachers_are_checked() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("talks.jsonl"), "x").unwrap();
    fs::create_dir(folder.path().join("big")).unwrap();
    let parse = |from: &str, to: &str| {
        assert!(TEACHERS.contains(from), "{from}");
        Recipe::parse(&TEACHERS.replacen(from, to, 1), &folder.path().join("r.toml")).map_err(|e| e.to_string())
    };
    let recipe = parse("steps = 2", "steps = 2").unwrap();
    let Definition::Traces { prompts, count: None, teacher } = &recipe.data["traces"] else {
        panic!("{:?}", recipe.data["traces"])
    };
    assert!(matches!(&**prompts, Definition::Chat { verifier: Some(_), .. }));
    assert_eq!((teacher.samples, teacher.sequence_length, teacher.only_right), (1, 2048, true));
    assert!(teacher.model.ends_with("big") && teacher.model.is_dir());
    let Definition::Traces { count: Some(50), .. } = &recipe.data["sums"] else { panic!("{:?}", recipe.data["sums"]) };
    let stage = &recipe.stages[1];
    assert_eq!((stage.kind, stage.batch_tokens, stage.n_micro_rows()), (StageKind::Distill, 4 * 64, 4));
    assert!(stage.distill.as_ref().unwrap().teacher.is_dir());
    for (from, to, said) in [
        ("teacher = \"big\"", "teacher = \"gone\"", "r.toml:30: `stage[1].distill.teacher`: "),
        ("teacher = \"big\"", "", "missing field `teacher`"),
        (
            "max_tokens = 16",
            "max_tokens = 64",
            "r.toml:32: `stage[1].distill.max_tokens`: expected at least 1 and less",
        ),
        ("prompts = 4", "prompts = 0", "`stage[1].distill.prompts`: expected 1 to 65536, found 0"),
        ("prompts = 4", "prompts = 4\nclip = 0.2", "unknown field `clip`"),
        ("type = \"distill\"", "type = \"grpo\"", "`stage[1].distill`: belongs to type \"distill\""),
        ("mixture = { asked = 1 }", "mixture = { traces = 1 }", "`stage[1].mixture`: expected a task or a chat"),
        ("mixture = { asked = 1 }", "batch_tokens = 64", "`stage[1].batch_tokens`: expected `steps`, and no tokens"),
        ("model = \"big\", max", "model = \"gone.gguf\", max", "r.toml:11: `data.traces.teacher.model`: "),
        ("max_tokens = 100, only", "max_tokens = 2048, only", "`data.traces.teacher.max_tokens`: expected at least 1"),
        ("verifier = [\"sh\", \"judge.sh\"]", "", "`data.traces.teacher.only_right`: expected a task, or a chat with"),
        ("count = 50", "", "`data.sums.count`: expected how many of the task's questions to ask"),
        ("samples = 2", "samples = 0", "r.toml:15: `data.sums.teacher.samples`: expected 1 to 1024, found 0"),
        ("samples = 2", "sample = 2", "unknown field `sample`"),
        ("temperature = 0", "temperature = -1", "`data.sums.teacher.temperature`: expected 0 to 10, found -1"),
        (
            "chat = [\"talks.jsonl\"]\nverifier",
            "text = [\"talks.jsonl\"]\nteacher = { model = \"big\", max_tokens = 9 }\n[data.other]\nchat = [\"talks.jsonl\"]\nverifier",
            "r.toml:10: `data.traces.teacher`: belongs to `task` or `chat`",
        ),
    ] {
        let error = parse(from, to).unwrap_err();
        assert!(error.contains(said), "{to}\n  gives {error}\n  not   {said}");
    }
}

#[test]
fn adapters_are_checked() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("a.txt"), "x").unwrap();
    fs::create_dir(folder.path().join("base")).unwrap();
    let good = r#"
output = "run"
held_out = 0.0
[model]
from = "base"
[lora]
rank = 8
alpha = 16
[data.prose]
text = ["a.txt"]
[[stage]]
type = "sft"
steps = 2
batch_tokens = 64
sequence_length = 64
evaluate_every = 0
optimizer = { type = "adamw", lr = 0.001 }
"#;
    let parse = |from: &str, to: &str| {
        assert!(good.contains(from), "{from}");
        Recipe::parse(&good.replacen(from, to, 1), &folder.path().join("r.toml")).map_err(|e| e.to_string())
    };
    let recipe = parse("rank = 8", "rank = 8").unwrap();
    assert!(matches!(&recipe.model, ModelStart::From(path) if path.ends_with("base")));
    assert_eq!(recipe.lora.unwrap().targets.len(), 7);
    let some = parse("alpha = 16", "alpha = 0.5\ntargets = [\"q_proj\", \"down_proj\"]").unwrap();
    assert_eq!(some.lora.unwrap().targets.len(), 2);
    for (from, to, said) in [
        ("rank = 8", "rank = 0", "r.toml:7: `lora.rank`: expected 1 to 4096, found 0"),
        ("rank = 8", "", "missing field `rank`"),
        ("alpha = 16", "alpha = -1", "r.toml:8: `lora.alpha`: expected a number above 0"),
        ("alpha = 16", "alpha = 16\ndropout = 0.1", "unknown field `dropout`, expected one of `rank`, `alpha`"),
        ("alpha = 16", "alpha = 16\ntargets = []", "`lora.targets`: expected each map once"),
        ("alpha = 16", "alpha = 16\ntargets = [\"q_proj\", \"q_proj\"]", "`lora.targets`: expected each map once"),
        ("alpha = 16", "alpha = 16\ntargets = [\"lm_head\"]", "unknown variant `lm_head`, expected one of `q_proj`"),
        ("from = \"base\"", "from = \"gone.gguf\"", "gone.gguf: expected a model's folder or .gguf file"),
    ] {
        let error = parse(from, to).unwrap_err();
        assert!(error.contains(said), "{to}\n  gives {error}\n  not   {said}");
    }
}
