//! Characters that never belong: white space at line ends, tabs in Rust, and paths of somebody's own machine.

use crate::repo::{Finding, Repo, TextFile};

/// Folders whose children are people; a path into one works on one machine only.
const PRIVATE_DIRS: [&str; 3] = ["home", "Users", "root"];

pub(crate) fn check(repo: &Repo) -> Vec<Finding> {
    repo.files.iter().flat_map(check_file).collect()
}

fn check_file(file: &TextFile) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (line, number) in file.text.split('\n').zip(1..) {
        let mut find = |message: &str| findings.push(Finding::at(&file.path, number, message));
        if line.ends_with([' ', '\t', '\r']) {
            find("white space at the end of the line");
        }
        if file.is_rust() && line.contains('\t') {
            find("a tab; write it as \\t in strings");
        }
        if PRIVATE_DIRS.iter().any(|dir| has_private_path(line, dir)) {
            find("a path of one machine; use a relative path or an argument");
        }
    }
    if !file.text.is_empty() && !file.text.ends_with('\n') {
        findings.push(Finding::new(&file.path, "no newline at the end of the file"));
    }
    findings
}

/// Whether `/dir/name` stands at the start of a path, not inside one.
fn has_private_path(line: &str, dir: &str) -> bool {
    let needle = format!("/{dir}/");
    line.match_indices(&needle).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        let after = line[at + needle.len()..].chars().next();
        before.is_none_or(|c| !c.is_alphanumeric() && !"._-}/".contains(c)) && after.is_some_and(char::is_alphanumeric)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn n_findings(path: &str, text: &str) -> usize {
        check_file(&TextFile::new(path, text)).len()
    }

    #[test]
    fn clean_text_passes() {
        assert_eq!(n_findings("a.rs", "fn main() {}\n"), 0);
        assert_eq!(n_findings("a.md", "see https://example.org/home/page and docs/root/x\n"), 0);
        assert_eq!(n_findings("a.rs", ""), 0);
    }

    #[test]
    fn each_stray_thing_is_found() {
        assert_eq!(n_findings("a.md", "x \n"), 1);
        assert_eq!(n_findings("a.rs", "\tx\n"), 1);
        assert_eq!(n_findings("a.py", "\tx\n"), 0);
        assert_eq!(n_findings("a.md", "x"), 1);
        assert_eq!(n_findings("a.md", &format!("run {}/me/x\n", "/home")), 1);
    }
}
