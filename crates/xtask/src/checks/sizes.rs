//! File sizes, held by a ratchet: at most 700 lines, and the exceptions may only shrink.
//!
//! `crates/xtask/ratchet.txt` lists each longer file with its length. A listed file that has grown is a finding; so is
//! one that has shrunk, until its number is lowered, so the list never keeps room to grow back. The length of functions
//! is clippy's (`too_many_lines`).

use std::collections::BTreeMap;

use super::flatten;
use crate::repo::{Finding, Repo, TextFile};

const LINES_MAX: usize = 700;
const RATCHET: &str = "crates/xtask/ratchet.txt";

pub(crate) fn check(repo: &Repo) -> Vec<Finding> {
    flatten(repo.text(RATCHET).and_then(parse).map(|ratchet| compare(&ratchet, repo.rust_files())))
}

/// Lines of `lines path`; `#` opens a comment.
fn parse(text: &str) -> Result<BTreeMap<&str, usize>, Finding> {
    let mut ratchet = BTreeMap::new();
    for (line, number) in text.lines().zip(1..).filter(|(line, _)| !line.starts_with('#') && !line.trim().is_empty()) {
        let parsed = line.split_once(' ').and_then(|(count, path)| Some((path.trim(), count.parse().ok()?)));
        let (path, count) =
            parsed.ok_or_else(|| Finding::at(RATCHET, number, format!("expected `lines path`, found `{line}`")))?;
        ratchet.insert(path, count);
    }
    Ok(ratchet)
}

fn compare<'r>(ratchet: &BTreeMap<&str, usize>, files: impl Iterator<Item = &'r TextFile>) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut listed = ratchet.clone();
    for file in files {
        let n_lines = file.text.lines().count();
        let message = match listed.remove(file.path.as_str()) {
            None if n_lines > LINES_MAX => format!("{n_lines} lines; split it (at most {LINES_MAX})"),
            Some(_) if n_lines <= LINES_MAX => format!("short enough now: take it out of {RATCHET}"),
            Some(limit) if n_lines > limit => format!("{n_lines} lines, it had {limit}; exceptions only shrink"),
            Some(limit) if n_lines < limit => format!("only {n_lines} lines now: lower its {limit} in {RATCHET}"),
            _ => continue,
        };
        findings.push(Finding::new(&file.path, message));
    }
    findings.extend(listed.keys().map(|path| Finding::new(RATCHET, format!("{path} does not exist"))));
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn new_giants_and_every_change_of_an_old_one_are_found() {
        let file = |path: &str, n_lines: usize| TextFile::new(path, &"x\n".repeat(n_lines));
        let ratchet =
            parse("# why\n800 same.rs\n800 grown.rs\n800 shrunk.rs\n800 small.rs\n800 gone.rs\n").expect("ratchet");
        let files = [
            file("new.rs", LINES_MAX + 1),
            file("fine.rs", LINES_MAX),
            file("same.rs", 800),
            file("grown.rs", 801),
            file("shrunk.rs", 799),
            file("small.rs", LINES_MAX),
        ];
        let places: Vec<String> = compare(&ratchet, files.iter()).into_iter().map(|f| f.place).collect();
        assert_eq!(places, ["new.rs", "grown.rs", "shrunk.rs", "small.rs", RATCHET]);
        assert!(parse("many same.rs\n").is_err());
    }
}
