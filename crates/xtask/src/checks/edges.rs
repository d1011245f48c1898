//! The crates and their edges: the plan in ARCHITECTURE.md against `cargo metadata`.
//!
//! A new edge is a design decision: it is written in the plan first. The block reads `crate -> its dependencies`, one
//! crate a line; `(dev only)` at the end of a line marks a crate that others may use in tests alone.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use serde_json::Value;

use super::flatten;
use crate::repo::{Finding, Repo, fenced_block};

const PLAN: &str = "ARCHITECTURE.md";

/// One line of the plan.
#[derive(Debug, Default, PartialEq, Eq)]
struct Planned {
    line: usize,
    targets: BTreeSet<String>,
    dev_only: bool,
}

type Plan = BTreeMap<String, Planned>;

/// A dependency between two crates of the workspace.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Edge {
    from: String,
    to: String,
    dev: bool,
}

pub(crate) fn check(repo: &Repo) -> Vec<Finding> {
    flatten(run(repo))
}

fn run(repo: &Repo) -> Result<Vec<Finding>, Finding> {
    let text = repo.text(PLAN)?;
    let edges = parse(text, "edges")?;
    let planned = parse(text, "planned")?;
    let metadata = metadata(repo).map_err(|message| Finding::new("Cargo.toml", message))?;
    let (crates, actual) = workspace_edges(&metadata);
    let mut findings = compare(&edges, &crates, &actual);
    findings.extend(compare_planned(&planned, &edges, &crates));
    Ok(findings)
}

fn parse(markdown: &str, name: &str) -> Result<Plan, Finding> {
    let lines = fenced_block(markdown, name)
        .ok_or_else(|| Finding::new(PLAN, format!("no fenced block called `{name}`; the edge check reads it")))?;
    let mut plan = Plan::new();
    for (line, text) in lines {
        let (from, to) = text
            .split_once("->")
            .ok_or_else(|| Finding::at(PLAN, line, format!("expected `crate -> dependencies`, found `{text}`")))?;
        let (to, dev_only) = match to.split_once("(dev only)") {
            Some((to, _)) => (to, true),
            None => (to, false),
        };
        let targets = to.split_whitespace().map(str::to_owned).collect();
        if plan.insert(from.trim().to_owned(), Planned { line, targets, dev_only }).is_some() {
            return Err(Finding::at(PLAN, line, format!("`{}` stands here a second time", from.trim())));
        }
    }
    Ok(plan)
}

fn metadata(repo: &Repo) -> Result<Value, String> {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    let output = Command::new(cargo)
        .args(["metadata", "--format-version", "1", "--no-deps", "--offline"])
        .current_dir(&repo.root)
        .output()
        .map_err(|e| format!("cargo metadata does not start: {e}"))?;
    if !output.status.success() {
        return Err(format!("cargo metadata failed: {}", String::from_utf8_lossy(&output.stderr)));
    }
    serde_json::from_slice(&output.stdout).map_err(|e| format!("cargo metadata gave no JSON: {e}"))
}

/// The workspace's crates, and the edges between them (build dependencies count as normal ones).
fn workspace_edges(metadata: &Value) -> (BTreeSet<String>, Vec<Edge>) {
    let empty = Vec::new();
    let packages = metadata["packages"].as_array().unwrap_or(&empty);
    let name_of = |value: &Value| value["name"].as_str().unwrap_or_default().to_owned();
    let crates: BTreeSet<String> = packages.iter().map(name_of).collect();
    let mut edges = Vec::new();
    for package in packages {
        for dependency in package["dependencies"].as_array().unwrap_or(&empty) {
            let to = name_of(dependency);
            if crates.contains(&to) && !dependency["path"].is_null() {
                edges.push(Edge { from: name_of(package), to, dev: dependency["kind"] == "dev" });
            }
        }
    }
    edges.sort();
    edges.dedup();
    (crates, edges)
}

fn compare(plan: &Plan, crates: &BTreeSet<String>, actual: &[Edge]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for name in crates.iter().filter(|name| !plan.contains_key(*name)) {
        findings.push(Finding::new(format!("crates/{name}"), format!("no line in the `edges` block of {PLAN}")));
    }
    for Edge { from, to, dev } in actual {
        let to_dev_only = plan.get(to).is_some_and(|planned| planned.dev_only);
        if to_dev_only && !dev {
            let message = format!("`{to}` is dev only by {PLAN}; move it to [dev-dependencies]");
            findings.push(Finding::new(format!("crates/{from}/Cargo.toml"), message));
        } else if !to_dev_only && plan.get(from).is_some_and(|planned| !planned.targets.contains(to)) {
            let message =
                format!("edge `{from} -> {to}` is not in {PLAN}; a new edge is a design decision, made there");
            findings.push(Finding::new(format!("crates/{from}/Cargo.toml"), message));
        }
    }
    for (from, planned) in plan {
        if !crates.contains(from) {
            let message = format!("`{from}` does not exist; crates still to come stand in the `planned` block");
            findings.push(Finding::at(PLAN, planned.line, message));
            continue;
        }
        let used = |to: &String| actual.iter().any(|edge| edge.from == *from && edge.to == *to);
        for to in planned.targets.iter().filter(|to| !used(to)) {
            findings.push(Finding::at(PLAN, planned.line, format!("edge `{from} -> {to}` is not in the workspace")));
        }
    }
    findings
}

fn compare_planned(planned: &Plan, edges: &Plan, crates: &BTreeSet<String>) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (name, plan) in planned {
        if crates.contains(name) {
            let message = format!("`{name}` exists now: move its line to the `edges` block");
            findings.push(Finding::at(PLAN, plan.line, message));
        }
        for to in plan.targets.iter().filter(|to| !edges.contains_key(*to) && !planned.contains_key(*to)) {
            findings.push(Finding::at(PLAN, plan.line, format!("`{to}` is neither a crate nor planned")));
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "```edges\na ->\nb -> a\nt -> a (dev only)\n```\n```planned\nc -> b\n```\n";

    fn edge(from: &str, to: &str, dev: bool) -> Edge {
        Edge { from: from.to_owned(), to: to.to_owned(), dev }
    }

    fn crates(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    fn messages(crate_names: &[&str], actual: &[Edge]) -> Vec<String> {
        let plan = parse(TEXT, "edges").expect("plan");
        compare(&plan, &crates(crate_names), actual).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn the_planned_workspace_passes() {
        let actual = [edge("b", "a", false), edge("b", "t", true), edge("a", "t", true), edge("t", "a", false)];
        assert_eq!(messages(&["a", "b", "t"], &actual), Vec::<String>::new());
    }

    #[test]
    fn a_new_edge_a_lost_edge_and_a_misused_dev_crate_are_found() {
        let actual = [edge("a", "b", false), edge("b", "t", false), edge("t", "a", false)];
        let found = messages(&["a", "b", "t", "x"], &actual);
        assert_eq!(found.len(), 4, "{found:#?}");
        assert!(found[0].contains("crates/x: no line"));
        assert!(found[1].contains("edge `a -> b` is not in ARCHITECTURE.md"));
        assert!(found[2].contains("`t` is dev only"));
        assert!(found[3].contains("edge `b -> a` is not in the workspace"));
    }

    #[test]
    fn a_planned_crate_must_not_exist_yet() {
        let (edges, planned) = (parse(TEXT, "edges").expect("edges"), parse(TEXT, "planned").expect("planned"));
        assert!(compare_planned(&planned, &edges, &crates(&["a", "b", "t"])).is_empty());
        assert_eq!(compare_planned(&planned, &edges, &crates(&["a", "b", "c", "t"])).len(), 1);
    }

    #[test]
    fn a_line_without_an_arrow_is_named() {
        let finding = parse("```edges\na\n```\n", "edges").expect_err("no arrow");
        assert_eq!(finding.place, "ARCHITECTURE.md:2");
    }
}
