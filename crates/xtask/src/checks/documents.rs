//! What the documents promise: file headers, the changelog's head, and that CI runs the README's own test command.

use super::flatten;
use crate::repo::{Finding, Repo, TextFile, fenced_block};

/// Every source file opens with a `//!` header that says what it owns.
pub(crate) fn headers(repo: &Repo) -> Vec<Finding> {
    let bare = |file: &&TextFile| !first_line(&file.text).starts_with("//! ");
    let message = "opens without a `//!` header: say what the file owns and what it must not do";
    repo.rust_files().filter(bare).map(|file| Finding::at(&file.path, 1, message)).collect()
}

/// The first line of content; a script's `#!` line may stand before it.
fn first_line(text: &str) -> &str {
    text.lines().find(|line| !line.trim().is_empty() && !line.starts_with("#!/")).unwrap_or_default()
}

pub(crate) fn documents(repo: &Repo) -> Vec<Finding> {
    let mut findings = flatten(repo.text("CHANGELOG.md").map(changelog));
    findings.extend(flatten(repo.text("README.md").and_then(|readme| {
        let ci = repo.text(".ci/run")?;
        Ok(readme_commands(readme, ci))
    })));
    findings
}

fn changelog(text: &str) -> Vec<Finding> {
    let head = text.lines().find(|line| line.starts_with("## "));
    if head == Some("## Unreleased") {
        return Vec::new();
    }
    vec![Finding::new("CHANGELOG.md", "its first section must be `## Unreleased`")]
}

/// The README's first `sh` block holds the two commands; the second is the one that CI calls.
fn readme_commands(readme: &str, ci: &str) -> Vec<Finding> {
    let block = fenced_block(readme, "sh").unwrap_or_default();
    let commands: Vec<&str> = block.iter().map(|(_, line)| line.split(" #").next().unwrap_or(line).trim()).collect();
    let [_, test] = commands.as_slice() else {
        let message = format!("its first `sh` block must hold exactly two commands, it holds {}", commands.len());
        return vec![Finding::new("README.md", message)];
    };
    let test: Vec<&str> = test.split_whitespace().collect();
    let called = ci.lines().filter(|line| !line.trim_start().starts_with('#')).any(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        words.windows(test.len()).any(|window| window == test)
    });
    if called {
        return Vec::new();
    }
    vec![Finding::new(".ci/run", format!("does not call the README's test command `{}`", test.join(" ")))]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn header_may_follow_a_script_line_only() {
        assert_eq!(first_line("#!/usr/bin/env cargo\n\n//! Owns x.\n"), "//! Owns x.");
        assert_eq!(first_line("use x;\n//! Late.\n"), "use x;");
        assert_eq!(first_line(""), "");
    }

    #[test]
    fn changelog_opens_with_what_is_unreleased() {
        assert!(changelog("# Changelog\n\n## Unreleased\n\n## 0.1\n").is_empty());
        assert_eq!(changelog("# Changelog\n\n## 0.1\n\n## Unreleased\n").len(), 1);
    }

    #[test]
    fn ci_runs_what_the_readme_says() {
        let readme = "```sh\n./minke chat   # talk\n./test         # check\n```\n";
        assert!(readme_commands(readme, "stage test ./test 2>&1\n").is_empty());
        assert_eq!(readme_commands(readme, "# ./test\nstage test cargo test\n").len(), 1);
        assert_eq!(readme_commands("```sh\n./test\n```\n", "stage test ./test\n").len(), 1);
    }
}
