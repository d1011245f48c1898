//! Training runs on this machine, and their curves.
//!
//! Owns finding them (a file for each in a folder, which `minke train` writes) and reading their logs, thinned out to what a
//! plot can show. Must not know how anything is trained. Paths stay here: a client sees names alone.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path as FilePath, PathBuf};

use axum::extract::{Path, State};
use axum::response::Response;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::ToSchema;

use crate::app::App;
use crate::error::{ApiError, Errors};
use crate::stream::json;

/// Runs that are listed.
const N_RUNS: usize = 100;
/// Points of a curve at most.
const N_POINTS: usize = 600;
/// The longest line of a log that is read.
const LINE_BYTES_MAX: u64 = 64 << 10;
/// The largest file that names a run.
const FILE_BYTES_MAX: u64 = 64 << 10;

/// A file that names a run.
#[derive(Deserialize)]
struct RunFile {
    output: PathBuf,
    recipe: PathBuf,
    pid: u32,
    started: String,
}

/// A training run.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(crate) struct RunSummary {
    pub(crate) id: String,
    /// The name of its folder.
    pub(crate) name: String,
    /// The name of its recipe.
    pub(crate) recipe: String,
    /// When it began, or was last resumed (RFC 3339).
    pub(crate) started: String,
    /// Whether its process is there.
    pub(crate) is_running: bool,
}

/// Runs, those that began last first.
#[derive(Serialize, ToSchema)]
pub(crate) struct Runs {
    data: Vec<RunSummary>,
}

/// A run and its curves.
#[derive(Serialize, ToSchema)]
pub(crate) struct RunCurves {
    #[serde(flatten)]
    run: RunSummary,
    /// Steps that it has done.
    n_steps: u64,
    /// The last line of its log.
    #[schema(value_type = Option<Map<String, Value>>)]
    last: Option<Value>,
    /// A list of pairs of step and value for each number of its log's lines, by its name; nested ones by `outer.inner`.
    #[schema(value_type = Map<String, Value>)]
    curves: Map<String, Value>,
}

/// List training runs on this machine.
#[utoipa::path(get, path = "/api/runs", tag = "Minke", responses((status = 200, body = Runs), Errors))]
pub(crate) async fn list(State(app): State<App>) -> Result<Response, ApiError> {
    let folder = app.options.runs.clone();
    let runs = app.work(move || folder.map(|folder| all(&folder)).unwrap_or_default()).await?;
    Ok(json(&Runs { data: runs.into_iter().map(|(run, _)| run).collect() }))
}

/// Read the curves of a training run.
#[utoipa::path(
    get,
    path = "/api/runs/{id}",
    tag = "Minke",
    params(("id" = String, Path, description = "The run")),
    responses((status = 200, body = RunCurves), Errors)
)]
pub(crate) async fn find(State(app): State<App>, Path(id): Path<String>) -> Result<Response, ApiError> {
    let folder = app.options.runs.clone();
    let name = id.clone();
    let found = app.work(move || {
        let (run, output) = all(&folder?).into_iter().find(|(run, _)| run.id == name)?;
        Some(curves(run, &output.join("log.jsonl")))
    });
    let found = found.await?.ok_or_else(|| ApiError::not_found(format!("there is no run {id:?}")))?;
    Ok(json(&found))
}

/// The runs that a folder's files name, those that began last first, each with its own folder.
fn all(folder: &FilePath) -> Vec<(RunSummary, PathBuf)> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    let mut runs: Vec<_> = entries.filter_map(|entry| of_file(&entry.ok()?.path())).collect();
    runs.sort_by(|(a, _), (b, _)| b.started.cmp(&a.started).then_with(|| a.id.cmp(&b.id)));
    runs.truncate(N_RUNS);
    runs
}

/// The run that a file names, if it does and the run's folder is there.
fn of_file(path: &FilePath) -> Option<(RunSummary, PathBuf)> {
    let id = path.file_name()?.to_str()?.strip_suffix(".json")?.to_owned();
    let mut text = String::new();
    File::open(path).ok()?.take(FILE_BYTES_MAX).read_to_string(&mut text).ok()?;
    let file: RunFile = serde_json::from_str(&text).ok()?;
    if !file.output.is_dir() {
        return None;
    }
    let last = |path: &FilePath| path.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned());
    let run = RunSummary {
        id,
        name: last(&file.output),
        recipe: last(&file.recipe),
        started: file.started,
        is_running: is_there(file.pid),
    };
    Some((run, file.output))
}

/// Whether a process is there, as far as the system tells.
fn is_there(pid: u32) -> bool {
    FilePath::new("/proc").join(pid.to_string()).exists()
}

/// What is evaluated now and then.
const HELD_OUT: &str = "held_out";

/// A run with the curves of its log. What is evaluated is thinned out apart, since it is in few of the lines.
fn curves(run: RunSummary, log: &FilePath) -> RunCurves {
    let (mut steps, mut evaluated) = (Thinned::default(), Thinned::default());
    let mut last = None;
    for (step, mut line) in lines(log) {
        last = Some((step, line.clone()));
        if let Some(held_out) = line.as_object_mut().and_then(|line| line.shift_remove(HELD_OUT)) {
            evaluated.add(step, held_out);
        }
        steps.add(step, line);
    }
    let mut curves = Map::new();
    steps.all().for_each(|(step, line)| numbers(&mut curves, *step, "", line));
    evaluated.all().for_each(|(step, held_out)| numbers(&mut curves, *step, HELD_OUT, held_out));
    RunCurves { run, n_steps: last.as_ref().map_or(0, |(step, _)| *step), last: last.map(|(_, line)| line), curves }
}

/// Every k-th of what was added, and the last; k doubles when there are too many.
struct Thinned {
    kept: Vec<(u64, Value)>,
    last: Option<(u64, Value)>,
    stride: u64,
    n: u64,
}

impl Default for Thinned {
    fn default() -> Self {
        Self { kept: Vec::new(), last: None, stride: 1, n: 0 }
    }
}

impl Thinned {
    fn add(&mut self, step: u64, value: Value) {
        self.last = None;
        match self.n.is_multiple_of(self.stride) {
            true => self.kept.push((step, value)),
            // The newest one is wanted, wherever it falls.
            false => self.last = Some((step, value)),
        }
        self.n += 1;
        if self.kept.len() > 2 * N_POINTS {
            let mut place = 0;
            self.kept.retain(|_| {
                place += 1;
                place % 2 == 1
            });
            self.stride *= 2;
        }
    }

    fn all(&self) -> impl Iterator<Item = &(u64, Value)> {
        self.kept.iter().chain(&self.last)
    }
}

/// The lines of a log that are records, with their steps.
fn lines(log: &FilePath) -> impl Iterator<Item = (u64, Value)> {
    let mut reader = File::open(log).ok().map(BufReader::new);
    std::iter::from_fn(move || {
        let reader = reader.as_mut()?;
        let mut line = Vec::new();
        let n = reader.by_ref().take(LINE_BYTES_MAX).read_until(b'\n', &mut line).ok()?;
        (n > 0).then_some(line)
    })
    // The last line may be on its way.
    .filter_map(|line| {
        let value: Value = serde_json::from_slice(&line).ok()?;
        Some((value["step"].as_u64()?, value))
    })
}

/// Adds the numbers in `value` to the curves of their names.
fn numbers(curves: &mut Map<String, Value>, step: u64, name: &str, value: &Value) {
    match value {
        Value::Number(number) if !name.is_empty() => {
            let curve = curves.entry(name).or_insert_with(|| Value::Array(Vec::new()));
            if let Value::Array(points) = curve {
                points.push(serde_json::json!([step, number]));
            }
        }
        Value::Object(fields) => {
            for (key, value) in fields.iter().filter(|(key, _)| *key != "step") {
                let name = if name.is_empty() { key.clone() } else { format!("{name}.{key}") };
                numbers(curves, step, &name, value);
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_are_found_and_their_logs_become_curves() {
        let folder = tempfile::tempdir().unwrap();
        let output = folder.path().join("my-run");
        std::fs::create_dir(&output).unwrap();
        let files = folder.path().join("runs");
        std::fs::create_dir(&files).unwrap();
        let file = |output: &FilePath| {
            serde_json::json!({ "output": output, "recipe": "/some/where/tiny.toml", "pid": std::process::id(),
                "started": "2026-01-02T03:04:05Z" })
            .to_string()
        };
        std::fs::write(files.join("a.json"), file(&output)).unwrap();
        std::fs::write(files.join("gone.json"), file(&folder.path().join("gone"))).unwrap();
        std::fs::write(files.join("bad.json"), "{").unwrap();
        let n_steps = 5000;
        let mut log: String = (1..=n_steps)
            .map(|step| {
                format!("{{\"step\":{step},\"loss\":{},\"expert_load\":{{\"max_over_mean\":2}}}}\n", 1.0 / step as f64)
            })
            .collect();
        log = log.replace("{\"step\":5000,", "{\"step\":5000,\"held_out\":{\"web\":2.5},");
        log.push_str("{\"step\":5001,\"lo");
        std::fs::write(output.join("log.jsonl"), log).unwrap();
        let runs = all(&files);
        assert_eq!(runs.len(), 1);
        let (run, output) = runs.into_iter().next().unwrap();
        assert_eq!((run.name.as_str(), run.recipe.as_str(), run.id.as_str()), ("my-run", "tiny.toml", "a"));
        assert_eq!(run.is_running, cfg!(target_os = "linux"));
        let curves = curves(run, &output.join("log.jsonl"));
        assert_eq!(curves.n_steps, n_steps);
        let loss = curves.curves["loss"].as_array().unwrap();
        assert!((N_POINTS / 2..=2 * N_POINTS + 1).contains(&loss.len()), "{}", loss.len());
        assert_eq!(curves.curves["held_out.web"], serde_json::json!([[n_steps, 2.5]]));
        assert_eq!((&loss[0][0], &loss[loss.len() - 1][0]), (&Value::from(1), &Value::from(n_steps)));
        assert!(curves.curves.contains_key("expert_load.max_over_mean") && !curves.curves.contains_key("step"));
        assert!(all(&folder.path().join("nowhere")).is_empty());
    }
}
