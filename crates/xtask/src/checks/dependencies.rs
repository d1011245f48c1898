//! Dependencies: every version in the workspace's Cargo.toml, every choice with its reason in ARCHITECTURE.md.
//!
//! Members say `name.workspace = true` and nothing else about versions. A dependency that no crate uses is deleted.

use std::collections::BTreeSet;

use toml::{Table, Value};

use super::flatten;
use crate::repo::{Finding, Repo};

const PLAN: &str = "ARCHITECTURE.md";
const HEADING: &str = "## Dependencies";

pub(crate) fn check(repo: &Repo) -> Vec<Finding> {
    flatten(run(repo))
}

fn run(repo: &Repo) -> Result<Vec<Finding>, Finding> {
    let root = parse("Cargo.toml", repo.text("Cargo.toml")?)?;
    let declared = external_dependencies(&root);
    let mut findings = Vec::new();
    let mut used = BTreeSet::new();
    for file in repo.files.iter().filter(|f| f.path.starts_with("crates/") && f.path.ends_with("/Cargo.toml")) {
        let manifest = parse(&file.path, &file.text)?;
        for (name, value) in member_dependencies(&manifest) {
            if !is_inherited(value) {
                let message =
                    format!("`{name}`: write `{name}.workspace = true`; versions stand in the root Cargo.toml");
                findings.push(Finding::new(&file.path, message));
            }
            used.insert(name.clone());
        }
    }
    let documented = documented_names(repo.text(PLAN)?)?;
    for name in &declared {
        if !documented.contains(name) {
            findings.push(Finding::new(PLAN, format!("`{name}` has no row in the table under \"{HEADING}\"")));
        }
        if !used.contains(name) {
            findings.push(Finding::new("Cargo.toml", format!("`{name}` is used by no crate: delete it")));
        }
    }
    for name in documented.difference(&declared) {
        findings.push(Finding::new(PLAN, format!("`{name}` stands under \"{HEADING}\" but is not a dependency")));
    }
    Ok(findings)
}

fn parse(path: &str, text: &str) -> Result<Table, Finding> {
    text.parse().map_err(|e| Finding::new(path, format!("is not TOML: {e}")))
}

/// Names in `[workspace.dependencies]` that come from outside the workspace.
fn external_dependencies(root: &Table) -> BTreeSet<String> {
    let Some(table) = root.get("workspace").and_then(|w| w.get("dependencies")).and_then(Value::as_table) else {
        return BTreeSet::new();
    };
    table.iter().filter(|(_, value)| value.get("path").is_none()).map(|(name, _)| name.clone()).collect()
}

/// Every dependency of a member: normal, dev and build, and the same under `[target.'…']`.
fn member_dependencies(manifest: &Table) -> Vec<(&String, &Value)> {
    let targets = manifest.get("target").and_then(Value::as_table);
    let tables =
        std::iter::once(manifest).chain(targets.into_iter().flat_map(Table::values).filter_map(Value::as_table));
    let kinds = ["dependencies", "dev-dependencies", "build-dependencies"];
    tables
        .flat_map(|table| kinds.iter().filter_map(|kind| table.get(*kind).and_then(Value::as_table)))
        .flat_map(|dependencies| dependencies.iter())
        .collect()
}

fn is_inherited(dependency: &Value) -> bool {
    dependency.get("workspace").and_then(Value::as_bool) == Some(true)
}

/// The names in backticks in the second column ("pick") of the dependencies' table.
fn documented_names(plan: &str) -> Result<BTreeSet<String>, Finding> {
    let section = plan
        .split_once(&format!("\n{HEADING}\n"))
        .map(|(_, rest)| rest.split("\n## ").next().unwrap_or(rest))
        .ok_or_else(|| Finding::new(PLAN, format!("no heading \"{HEADING}\"")))?;
    let rows = section.lines().filter(|line| line.starts_with('|'));
    let picks = rows.filter_map(|row| row.split('|').nth(2));
    Ok(picks.flat_map(|pick| pick.split('`').skip(1).step_by(2)).map(str::to_owned).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::repo::TextFile;

    fn repo(member: &str, table: &str) -> Repo {
        let root =
            "[workspace.dependencies]\nops = { path = \"crates/ops\" }\nhalf = \"2\"\nserde = { version = \"1\" }\n";
        let plan = format!(
            "# Plan\n\n## Dependencies\n\n| need | pick | why |\n|---|---|---|\n{table}\n## Next\n\n| `no` | `no` |\n"
        );
        Repo {
            root: "/".into(),
            files: vec![
                TextFile::new("ARCHITECTURE.md", &plan),
                TextFile::new("Cargo.toml", root),
                TextFile::new("crates/a/Cargo.toml", member),
            ],
        }
    }

    #[test]
    fn inherited_used_and_documented_passes() {
        let member = "[dependencies]\nhalf.workspace = true\n[target.'cfg(unix)'.dev-dependencies]\nserde = { workspace = true }\n";
        let findings = check(&repo(member, "| numbers | `half`, `serde` | w |\n"));
        assert!(findings.is_empty(), "{findings:?}");
    }

    #[test]
    fn a_version_in_a_member_and_rows_too_few_or_too_many_are_found() {
        let findings = check(&repo("[build-dependencies]\nhalf = \"2\"\n", "| numbers | `half`, `ghost` | `w` |\n"));
        let text: Vec<String> = findings.iter().map(ToString::to_string).collect();
        assert_eq!(findings.len(), 4, "{text:#?}");
        assert!(text[0].starts_with("crates/a/Cargo.toml: `half`"));
        assert!(text[1].contains("`serde` has no row"));
        assert!(text[2].contains("`serde` is used by no crate"));
        assert!(text[3].contains("`ghost` stands under"));
    }
}
