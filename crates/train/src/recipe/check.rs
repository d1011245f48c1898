//! Whether a recipe makes sense: all that can be known before anything starts. Owns the checks and their words.

mod sampled;

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use super::spec::{Data, Document, OptimizerKind, OptimizerSpec, Stage, TokenizerSpec};
use super::{ModelStart, Problem, Recipe, Step, model};
use crate::bpe::{VOCAB_SIZE_MAX, VOCAB_SIZE_MIN};
use crate::data::{Definition, VerifierSpec, expand};
use crate::external::Limits;
use crate::lora::LoraSpec;
use crate::tasks;

/// Most tokens of a row.
const SEQUENCE_LENGTH_MAX: usize = 1 << 20;
/// Most tokens of a step.
const BATCH_TOKENS_MAX: u64 = 1 << 32;
/// Most rows of an adapter's inner factor.
const LORA_RANK_MAX: usize = 4096;
/// Longest file that a verifier may write: it judges text from a model, and may be led to write without end.
const VERIFIER_FILE_BYTES: u64 = 64 << 20;
/// Most steps of a stage.
const STEPS_MAX: u64 = 1 << 40;

fn key(name: &str) -> Step {
    Step::Key(name.to_owned())
}

pub(super) fn check(document: Document, file: &Path) -> Result<Recipe, Problem> {
    let folder = match file.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    };
    if !(0.0..=0.5).contains(&document.held_out) {
        return Err(Problem::new(
            &[],
            "held_out",
            format!("expected a share from 0 to 0.5, found {}", document.held_out),
        ));
    }
    if document.keep_checkpoints == 0 {
        return Err(Problem::new(&[], "keep_checkpoints", "expected at least 1, found 0"));
    }
    if document.data.is_empty() {
        return Err(Problem::new(&[], "data", "expected at least one source, [data.NAME]"));
    }
    let start = model::read(&document.model, folder)?;
    if let Some(lora) = &document.lora {
        check_lora(lora, &start)?;
    }
    let data = (document.data.iter())
        .map(|(name, data)| Ok((name.clone(), definition(name, data, folder)?)))
        .collect::<Result<BTreeMap<_, _>, Problem>>()?;
    let tokenizer = tokenizer(document.tokenizer, &start, &data, folder)?;
    if document.stages.is_empty() {
        return Err(Problem::new(&[], "stage", "expected at least one stage, [[stage]]"));
    }
    let mut stages = document.stages;
    for (at, stage) in stages.iter_mut().enumerate() {
        let path = [key("stage"), Step::Index(at)];
        sampled::check(&path, stage, &data, folder)?;
        check_stage(&path, stage, &data, &start, document.held_out)?;
        stage.steps = Some(stage.n_steps());
    }
    let output = folder.join(document.output);
    Ok(Recipe {
        file: file.to_owned(),
        seed: document.seed,
        held_out: document.held_out,
        cache: document.cache.map_or_else(|| output.join("cache"), |cache| folder.join(cache)),
        output,
        keep_checkpoints: document.keep_checkpoints,
        model: start,
        lora: document.lora,
        tokenizer,
        data,
        stages,
        fingerprint: String::new(),
    })
}

fn check_lora(lora: &LoraSpec, start: &ModelStart) -> Result<(), Problem> {
    let path = [key("lora")];
    if !matches!(start, ModelStart::From(_)) {
        return Err(Problem::new(
            &[],
            "lora",
            "expected `from` in [model]: adapters are added to a model that is there",
        ));
    }
    if !(1..=LORA_RANK_MAX).contains(&lora.rank) {
        return Err(Problem::new(&path, "rank", format!("expected 1 to {LORA_RANK_MAX}, found {}", lora.rank)));
    }
    if !(lora.alpha > 0.0 && lora.alpha <= 1e6) {
        return Err(Problem::new(
            &path,
            "alpha",
            format!("expected a number above 0, at most 1e6, found {}", lora.alpha),
        ));
    }
    let is_twice = |(i, target)| lora.targets[..i].contains(target);
    if lora.targets.is_empty() || lora.targets.iter().enumerate().any(is_twice) {
        return Err(Problem::new(
            &path,
            "targets",
            format!("expected each map once, at least one, found {:?}", lora.targets),
        ));
    }
    Ok(())
}

fn tokenizer(
    spec: Option<TokenizerSpec>,
    start: &ModelStart,
    data: &BTreeMap<String, Definition>,
    folder: &Path,
) -> Result<TokenizerSpec, Problem> {
    let path = [key("tokenizer")];
    let has_own = matches!(start, ModelStart::From(_));
    let mut spec = match spec {
        Some(spec) => spec,
        None if has_own => TokenizerSpec::default(),
        None => {
            let message =
                "expected [tokenizer] with `vocab_size` (train one) or `from` (a folder), for a model that is new";
            return Err(Problem::new(&[], "tokenizer", message));
        }
    };
    match (&spec.from, spec.vocab_size) {
        (Some(_), Some(_)) => {
            return Err(Problem::new(&path, "vocab_size", "expected either this or `from`, found both"));
        }
        (None, None) if !has_own => {
            return Err(Problem::new(
                &[],
                "tokenizer",
                "expected `vocab_size` (train one) or `from` (a folder), found neither",
            ));
        }
        (_, Some(_)) if has_own => {
            let message = "expected no new vocabulary for a model that has weights for its own";
            return Err(Problem::new(&path, "vocab_size", message));
        }
        (_, Some(size)) if !(VOCAB_SIZE_MIN..=VOCAB_SIZE_MAX).contains(&size) => {
            let message = format!("expected {VOCAB_SIZE_MIN} to {VOCAB_SIZE_MAX}, found {size}");
            return Err(Problem::new(&path, "vocab_size", message));
        }
        _ => {}
    }
    if let Some(name) = spec.sources.iter().flatten().find(|name| !data.contains_key(*name)) {
        return Err(Problem::new(&path, "sources", unknown_source(name, data)));
    }
    if let Some(from) = &mut spec.from {
        *from = folder.join(&*from);
        let missing = ["tokenizer.json", "tokenizer_config.json"].into_iter().find(|name| !from.join(name).is_file());
        if let Some(name) = missing {
            return Err(Problem::new(&path, "from", format!("{} has no {name}", from.display())));
        }
    }
    Ok(spec)
}

fn unknown_source<T>(name: &str, data: &BTreeMap<String, T>) -> String {
    let known: Vec<&str> = data.keys().map(String::as_str).collect();
    format!("expected a source of [data], found {name:?}; there are {}", known.join(", "))
}

fn definition(name: &str, data: &Data, folder: &Path) -> Result<Definition, Problem> {
    let path = [key("data"), key(name)];
    let kinds = [
        ("text", data.text.is_some()),
        ("chat", data.chat.is_some()),
        ("task", data.task.is_some()),
        ("command", data.command.is_some()),
    ];
    let given: Vec<&str> = kinds.iter().filter(|(_, given)| *given).map(|(kind, _)| *kind).collect();
    let [kind] = given[..] else {
        let found = if given.is_empty() { "none".to_owned() } else { given.join(" and ") };
        let message = format!("expected exactly one of `text`, `chat`, `task` and `command`, found {found}");
        return Err(Problem::new(&path[..1], name, message));
    };
    for (option, owner, given) in [
        ("separator", "text", data.separator.is_some()),
        ("parameters", "task", data.parameters.is_some()),
        (
            "count",
            "command` or a `task` with `teacher",
            data.count.is_some() && !(kind == "task" && data.teacher.is_some()),
        ),
        ("verifier", "chat", data.verifier.is_some()),
        ("line_seconds", "command` or a `verifier", data.line_seconds.is_some() && data.verifier.is_none()),
    ] {
        if given && !owner.starts_with(kind) {
            return Err(Problem::new(&path, option, format!("belongs to `{owner}`, this source is a `{kind}`")));
        }
    }
    let files = |patterns: &Option<Vec<String>>| {
        let patterns = patterns.as_deref().unwrap_or_default();
        if patterns.is_empty() {
            return Err(Problem::new(&path, kind, "expected at least one file, found an empty list"));
        }
        expand(folder, patterns).map_err(|e| Problem::new(&path, kind, e.to_string()))
    };
    let definition = match kind {
        "text" => match data.separator.as_deref() {
            Some("") => Err(Problem::new(&path, "separator", "expected some text, found an empty one")),
            separator => Ok(Definition::Text { files: files(&data.text)?, separator: separator.map(str::to_owned) }),
        },
        "chat" => Ok(Definition::Chat { files: files(&data.chat)?, verifier: verifier(&path, data, folder)? }),
        "task" => task(&path, data),
        _ => command(&path, data, folder),
    }?;
    match &data.teacher {
        Some(teacher) => sampled::traces(&path, (data, teacher), definition, folder),
        None => Ok(definition),
    }
}

fn task(path: &[Step], data: &Data) -> Result<Definition, Problem> {
    let (task, parameters) = (data.task.clone().unwrap_or_default(), data.parameters.clone().unwrap_or_default());
    tasks::task(&task, &parameters).map_err(|e| {
        let at = if matches!(e, tasks::TaskError::Unknown { .. }) { "task" } else { "parameters" };
        Problem::new(path, at, e.to_string())
    })?;
    Ok(Definition::Task { task, parameters })
}

fn command(path: &[Step], data: &Data, folder: &Path) -> Result<Definition, Problem> {
    let command = data.command.clone().unwrap_or_default();
    if command.first().is_none_or(String::is_empty) {
        return Err(Problem::new(path, "command", "expected a program and its arguments, found an empty list"));
    }
    let Some(count) = data.count.filter(|count| *count > 0) else {
        return Err(Problem::new(path, "count", "expected how many examples to take from the command, at least 1"));
    };
    Ok(Definition::Command { command, folder: folder.to_owned(), count, limits: limits(path, data)? })
}

fn limits(path: &[Step], data: &Data) -> Result<Limits, Problem> {
    let mut limits = Limits::default();
    if let Some(seconds) = data.line_seconds {
        if !(0.001..=86_400.0).contains(&seconds) {
            return Err(Problem::new(path, "line_seconds", format!("expected 0.001 to 86400, found {seconds}")));
        }
        limits.line_time = Duration::from_secs_f64(seconds);
    }
    Ok(limits)
}

fn verifier(path: &[Step], data: &Data, folder: &Path) -> Result<Option<VerifierSpec>, Problem> {
    let Some(command) = data.verifier.clone() else { return Ok(None) };
    if command.first().is_none_or(String::is_empty) {
        return Err(Problem::new(path, "verifier", "expected a program and its arguments, found an empty list"));
    }
    let limits = Limits { file_bytes: VERIFIER_FILE_BYTES, ..limits(path, data)? };
    Ok(Some(VerifierSpec { command, folder: folder.to_owned(), limits }))
}

fn check_stage(
    path: &[Step],
    stage: &Stage,
    data: &BTreeMap<String, Definition>,
    start: &ModelStart,
    held_out: f64,
) -> Result<(), Problem> {
    let wrong = |key: &str, message: String| Err(Problem::new(path, key, message));
    let length = stage.sequence_length;
    if !(2..=SEQUENCE_LENGTH_MAX).contains(&length) {
        return wrong("sequence_length", format!("expected 2 to {SEQUENCE_LENGTH_MAX}, found {length}"));
    }
    if let Some(longest) = start.max_position_embeddings().filter(|longest| length as u64 > *longest) {
        return wrong(
            "sequence_length",
            format!("expected at most the model's max_position_embeddings {longest}, found {length}"),
        );
    }
    let batch = stage.batch_tokens;
    if batch == 0 || !batch.is_multiple_of(length as u64) || batch > BATCH_TOKENS_MAX {
        return wrong(
            "batch_tokens",
            format!("expected a multiple of sequence_length {length}, at most {BATCH_TOKENS_MAX}, found {batch}"),
        );
    }
    let divides = |micro: u64| stage.kind.samples() || batch.is_multiple_of(micro);
    if let Some(micro) = stage.micro_batch_tokens
        && (micro == 0 || !micro.is_multiple_of(length as u64) || !divides(micro))
    {
        return wrong(
            "micro_batch_tokens",
            format!("expected a multiple of sequence_length {length} that divides batch_tokens {batch}, found {micro}"),
        );
    }
    match (stage.steps, stage.tokens) {
        (Some(_), Some(_)) => return wrong("tokens", "expected either this or `steps`, found both".into()),
        (None, None) => return wrong("steps", "expected `steps` or `tokens`, found neither".into()),
        _ => {}
    }
    let steps = stage.n_steps();
    if !(1..=STEPS_MAX).contains(&steps) {
        let given = if stage.steps.is_some() { "steps" } else { "tokens" };
        return wrong(given, format!("expected 1 to {STEPS_MAX} steps, found {steps}"));
    }
    stage.schedule.check(steps).or_else(|message| wrong("schedule", message))?;
    for (name, value, highest) in [
        ("clip_norm", f64::from(stage.clip_norm), f64::MAX),
        ("mtp_weight", stage.mtp_weight, 100.0),
        ("balance_weight", stage.balance_weight, 100.0),
        ("bias_update_speed", f64::from(stage.bias_update_speed), 1.0),
    ] {
        let lowest = if name == "clip_norm" { f64::MIN_POSITIVE } else { 0.0 };
        if !(lowest..=highest).contains(&value) {
            return wrong(
                name,
                format!(
                    "expected a number from {} to {highest}, found {value}",
                    if lowest > 0.0 { "above 0" } else { "0" }
                ),
            );
        }
    }
    if stage.checkpoint_every == 0 {
        return wrong("checkpoint_every", "expected at least 1, found 0".into());
    }
    if stage.evaluate_every > 0 && stage.evaluate_rows == 0 {
        return wrong("evaluate_rows", "expected at least 1, found 0; `evaluate_every = 0` evaluates never".into());
    }
    if stage.evaluate_every > 0 && held_out == 0.0 {
        return wrong("evaluate_every", "expected 0 where `held_out` is 0: there is nothing to evaluate on".into());
    }
    check_mixture(path, stage, data)?;
    check_optimizer(path, &stage.optimizer)
}

fn check_mixture(path: &[Step], stage: &Stage, data: &BTreeMap<String, Definition>) -> Result<(), Problem> {
    let Some(mixture) = &stage.mixture else { return Ok(()) };
    if mixture.is_empty() {
        return Err(Problem::new(path, "mixture", "expected at least one source, found none"));
    }
    let path: Vec<Step> = path.iter().cloned().chain([key("mixture")]).collect();
    for (name, weight) in mixture {
        if !data.contains_key(name) {
            return Err(Problem::new(&path, name, unknown_source(name, data)));
        }
        if !(*weight > 0.0 && weight.is_finite()) {
            return Err(Problem::new(&path, name, format!("expected a share above 0, found {weight}")));
        }
    }
    Ok(())
}

fn check_optimizer(path: &[Step], optimizer: &OptimizerSpec) -> Result<(), Problem> {
    let path: Vec<Step> = path.iter().cloned().chain([key("optimizer")]).collect();
    if !(optimizer.lr > 0.0 && optimizer.lr <= 10.0) {
        return Err(Problem::new(
            &path,
            "lr",
            format!("expected a number above 0, at most 10, found {}", optimizer.lr),
        ));
    }
    if optimizer.kind == OptimizerKind::Adamw && optimizer.muon.is_some() {
        return Err(Problem::new(&path, "muon", "belongs to type \"muon\", this optimiser is \"adamw\""));
    }
    let adamw = &optimizer.adamw;
    let muon = optimizer.muon.clone().unwrap_or_default();
    let below_one = |value: f32| (0.0..1.0).contains(&value);
    for (table, name, is_right, found) in [
        ("adamw", "betas", adamw.betas.into_iter().all(below_one), format!("{:?}", adamw.betas)),
        ("adamw", "eps", adamw.eps > 0.0 && adamw.eps < 1.0, adamw.eps.to_string()),
        ("adamw", "weight_decay", below_one(adamw.weight_decay), adamw.weight_decay.to_string()),
        ("muon", "momentum", below_one(muon.momentum), muon.momentum.to_string()),
        ("muon", "weight_decay", below_one(muon.weight_decay), muon.weight_decay.to_string()),
    ] {
        if !is_right {
            let path: Vec<Step> = path.iter().cloned().chain([key(table)]).collect();
            return Err(Problem::new(&path, name, format!("expected 0 or more and below 1, found {found}")));
        }
    }
    Ok(())
}
