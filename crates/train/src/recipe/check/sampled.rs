//! What samples have to say: stages that learn from the model's own answers, and sources that a teacher writes. Owns their
//! checks.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::{Problem, Step, key};
use crate::data::Definition;
use crate::recipe::spec::{Data, Stage, StageKind};
use crate::traces::TeacherSpec;

/// Rows of the longest samples that are computed at once where the recipe says nothing.
const MICRO_ROWS: u64 = 8;
/// Most answers of a teacher to one question.
const SAMPLES_MAX: usize = 1024;
/// Most tokens of a teacher's context.
const CONTEXT_MAX: usize = 1 << 20;

/// Names, whether the value is accepted, what is accepted, and the value.
type Rules<'a> = Vec<(&'a str, bool, &'a str, String)>;

fn hold(path: &[Step], rules: Rules<'_>) -> Result<(), Problem> {
    match rules.into_iter().find(|(_, is_right, ..)| !is_right) {
        Some((name, _, expected, found)) => {
            Err(Problem::new(path, name, format!("expected {expected}, found {found}")))
        }
        None => Ok(()),
    }
}

fn within(value: f64, lowest: f64, highest: f64) -> bool {
    (lowest..=highest).contains(&value)
}

/// Checks what a stage that samples has of its own, and sets the tokens that its steps hold at most.
pub(super) fn check(
    path: &[Step],
    stage: &mut Stage,
    data: &BTreeMap<String, Definition>,
    folder: &Path,
) -> Result<(), Problem> {
    let wrong = |key: &str, message: &str| Err(Problem::new(path, key, message));
    let tables =
        [(StageKind::Grpo, "grpo", stage.grpo.is_some()), (StageKind::Distill, "distill", stage.distill.is_some())];
    if let Some((_, name, _)) = tables.iter().find(|(kind, _, is_given)| *is_given && stage.kind != *kind) {
        return wrong(name, &format!("belongs to type {name:?}"));
    }
    if let Some((kind, name, _)) = tables.iter().find(|(kind, _, is_given)| !is_given && stage.kind == *kind) {
        let more = if *kind == StageKind::Distill { "`teacher`, " } else { "" };
        return wrong(name, &format!("expected [stage.{name}] with {more}`prompts`, `group_size`, `max_tokens`"));
    }
    let Some(samples) = stage.samples() else {
        return match stage.batch_tokens {
            0 => wrong("batch_tokens", "expected tokens of a step, found none"),
            _ => Ok(()),
        };
    };
    if stage.batch_tokens != 0 || stage.tokens.is_some() {
        return wrong("batch_tokens", "expected `steps`, and no tokens: they follow from the samples");
    }
    check_questions(path, stage, data)?;
    let length = stage.sequence_length as u64;
    stage.batch_tokens = (samples.prompts as u64).saturating_mul(samples.group_size as u64).saturating_mul(length);
    stage.micro_batch_tokens = stage.micro_batch_tokens.or(Some(stage.batch_tokens.min(MICRO_ROWS * length)));
    let is_judged = stage.kind == StageKind::Grpo;
    let path: Vec<Step> = path.iter().cloned().chain([key(if is_judged { "grpo" } else { "distill" })]).collect();
    let least = if is_judged { (2.0, "2 to 1024") } else { (1.0, "1 to 1024") };
    hold(
        &path,
        vec![
            ("prompts", within(samples.prompts as f64, 1.0, 65_536.0), "1 to 65536", samples.prompts.to_string()),
            ("group_size", within(samples.group_size as f64, least.0, 1024.0), least.1, samples.group_size.to_string()),
            (
                "max_tokens",
                (1..stage.sequence_length).contains(&samples.max_tokens),
                "at least 1 and less than `sequence_length`, which holds the prompt too",
                samples.max_tokens.to_string(),
            ),
            (
                "temperature",
                within(samples.temperature.into(), 0.01, 10.0),
                "0.01 to 10",
                samples.temperature.to_string(),
            ),
        ],
    )?;
    if let Some(distill) = &mut stage.distill {
        distill.teacher = model(&path, "teacher", &distill.teacher, folder)?;
    }
    let Some(grpo) = &stage.grpo else { return Ok(()) };
    hold(
        &path,
        vec![
            ("updates", (1..=grpo.prompts).contains(&grpo.updates), "1 to `prompts`", grpo.updates.to_string()),
            ("clip", within(grpo.clip.into(), 1e-6, 1e6), "a number above 0", grpo.clip.to_string()),
            ("kl", within(grpo.kl.into(), 0.0, 100.0), "0 to 100", grpo.kl.to_string()),
            ("format_share", within(grpo.format_share, 0.0, 1.0), "0 to 1", grpo.format_share.to_string()),
        ],
    )
}

/// Every source of a stage that samples has to ask, and for rewards something has to judge the answers.
fn check_questions(path: &[Step], stage: &Stage, data: &BTreeMap<String, Definition>) -> Result<(), Problem> {
    for (name, source) in data.iter().filter(|(name, _)| stage.uses(name)) {
        let message = match (stage.kind, source) {
            (_, Definition::Task { .. } | Definition::Chat { verifier: Some(_), .. }) => continue,
            (StageKind::Distill, Definition::Chat { .. }) => continue,
            (StageKind::Distill, _) => {
                format!("expected a task or a chat, whose questions are asked; {name:?} is neither")
            }
            _ => format!("expected a task, or a chat with a `verifier`; nothing judges answers to {name:?}"),
        };
        return Err(Problem::new(path, "mixture", message));
    }
    Ok(())
}

/// The questions of `prompts` with a teacher's answers.
pub(super) fn traces(
    path: &[Step],
    (data, teacher): (&Data, &TeacherSpec),
    prompts: Definition,
    folder: &Path,
) -> Result<Definition, Problem> {
    let is_task = matches!(prompts, Definition::Task { .. });
    match (&prompts, data.count) {
        (Definition::Task { .. }, None | Some(0)) => {
            return Err(Problem::new(path, "count", "expected how many of the task's questions to ask, at least 1"));
        }
        (Definition::Task { .. } | Definition::Chat { .. }, _) => {}
        _ => {
            let message = "belongs to `task` or `chat`: a teacher answers questions";
            return Err(Problem::new(path, "teacher", message));
        }
    }
    let is_judged = is_task || matches!(prompts, Definition::Chat { verifier: Some(_), .. });
    let path: Vec<Step> = path.iter().cloned().chain([key("teacher")]).collect();
    hold(
        &path,
        vec![
            ("samples", (1..=SAMPLES_MAX).contains(&teacher.samples), "1 to 1024", teacher.samples.to_string()),
            (
                "sequence_length",
                (2..=CONTEXT_MAX).contains(&teacher.sequence_length),
                "2 to 1048576",
                teacher.sequence_length.to_string(),
            ),
            (
                "max_tokens",
                (1..teacher.sequence_length).contains(&teacher.max_tokens),
                "at least 1 and less than `sequence_length`, which holds the question too",
                teacher.max_tokens.to_string(),
            ),
            ("temperature", within(teacher.temperature.into(), 0.0, 10.0), "0 to 10", teacher.temperature.to_string()),
            (
                "only_right",
                is_judged || !teacher.only_right,
                "a task, or a chat with a `verifier`, to tell what is right",
                "neither".to_owned(),
            ),
        ],
    )?;
    let model = model(&path, "model", &teacher.model, folder)?;
    let teacher = TeacherSpec { model, ..teacher.clone() };
    Ok(Definition::Traces { prompts: Box::new(prompts), count: data.count, teacher })
}

/// The model that `name` names, seen from the recipe's folder.
fn model(path: &[Step], name: &str, model: &Path, folder: &Path) -> Result<PathBuf, Problem> {
    let file = folder.join(model);
    if model.as_os_str().is_empty() || !file.exists() {
        let message = format!("{}: expected a model's folder or .gguf file, found nothing there", file.display());
        return Err(Problem::new(path, name, message));
    }
    Ok(file)
}
