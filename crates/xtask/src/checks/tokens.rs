//! Checks on Rust tokens, so that comments and strings do not count: where `unsafe` stands, and placeholders.
//!
//! Clippy sees only what is compiled; these see every file, whatever its target or feature.

use std::collections::BTreeSet;
use std::str::FromStr;

use proc_macro2::{Spacing, TokenStream, TokenTree};

use super::flatten;
use crate::repo::{Finding, Repo, TextFile, fenced_block};

const PLAN: &str = "ARCHITECTURE.md";
/// How the reason is given: alone, or where `unsafe` stands behind a `cfg`, for that `cfg` (an expectation that nothing
/// meets is a warning).
const EXPECTATION: [&str; 2] = ["#![expect(unsafe_code,reason", ",expect(unsafe_code,reason"];
const PLACEHOLDERS: [&str; 3] = ["todo", "unimplemented", "dbg"];

/// `unsafe` stands only in files that the plan lists, and each of them gives its reason at the top.
pub(crate) fn unsafe_code(repo: &Repo) -> Vec<Finding> {
    flatten(repo.text(PLAN).and_then(|plan| {
        let lines = fenced_block(plan, "unsafe")
            .ok_or_else(|| Finding::new(PLAN, "no fenced block called `unsafe`; the check of unsafe code reads it"))?;
        let listed = lines.iter().filter_map(|(_, line)| line.split_whitespace().next()).collect();
        Ok(unsafe_in(&listed, repo.rust_files()))
    }))
}

fn unsafe_in<'r>(listed: &BTreeSet<&str>, files: impl Iterator<Item = &'r TextFile>) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut seen = BTreeSet::new();
    for file in files {
        let lines = match lines_of(file, |ident, _| ident == "unsafe") {
            Ok(lines) => lines,
            Err(finding) => {
                findings.push(finding);
                continue;
            }
        };
        let Some(&line) = lines.first() else { continue };
        seen.insert(file.path.as_str());
        if !listed.contains(file.path.as_str()) {
            let message = format!("`unsafe` here, but the file is not in the `unsafe` block of {PLAN}");
            findings.push(Finding::at(&file.path, line, message));
        }
        let dense: String = file.text.chars().filter(|c| !c.is_whitespace()).collect();
        if !EXPECTATION.iter().any(|expectation| dense.contains(expectation)) {
            let message = "has `unsafe` without `#![expect(unsafe_code, reason = \"…\")]` at its top";
            findings.push(Finding::new(&file.path, message));
        }
    }
    let stale = listed.iter().filter(|path| !seen.contains(*path));
    findings.extend(stale.map(|path| Finding::new(PLAN, format!("{path} in the `unsafe` block has no unsafe code"))));
    findings
}

/// Macros that mark unfinished work.
pub(crate) fn placeholders(repo: &Repo) -> Vec<Finding> {
    placeholders_in(repo.rust_files())
}

fn placeholders_in<'r>(files: impl Iterator<Item = &'r TextFile>) -> Vec<Finding> {
    let mut findings = Vec::new();
    for file in files {
        match lines_of(file, |ident, next| next == Some('!') && PLACEHOLDERS.contains(&ident)) {
            Ok(lines) => {
                findings.extend(lines.iter().map(|&line| {
                    Finding::at(&file.path, line, "a placeholder macro: finish it, or return a typed error")
                }))
            }
            Err(finding) => findings.push(finding),
        }
    }
    findings
}

/// Lines of the identifiers that `wanted` accepts; its second argument is the sign after the identifier, if it stands
/// alone (`!` as in a macro, not `!=`).
fn lines_of(file: &TextFile, wanted: impl Fn(&str, Option<char>) -> bool) -> Result<Vec<usize>, Finding> {
    let stream = TokenStream::from_str(&file.text)
        .map_err(|e| Finding::at(&file.path, e.span().start().line, "these are no Rust tokens"))?;
    let mut lines = Vec::new();
    walk(stream, &wanted, &mut lines);
    Ok(lines)
}

fn walk(stream: TokenStream, wanted: &impl Fn(&str, Option<char>) -> bool, lines: &mut Vec<usize>) {
    let mut tokens = stream.into_iter().peekable();
    while let Some(token) = tokens.next() {
        match token {
            TokenTree::Group(group) => walk(group.stream(), wanted, lines),
            TokenTree::Ident(ident) => {
                let next = match tokens.peek() {
                    Some(TokenTree::Punct(punct)) if punct.spacing() == Spacing::Alone => Some(punct.as_char()),
                    _ => None,
                };
                if wanted(&ident.to_string(), next) {
                    lines.push(ident.span().start().line);
                }
            }
            TokenTree::Punct(_) | TokenTree::Literal(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places(findings: &[Finding]) -> Vec<&str> {
        findings.iter().map(|finding| finding.place.as_str()).collect()
    }

    #[test]
    fn unsafe_counts_as_a_token_only() {
        let file = TextFile::new(
            "a.rs",
            "//! unsafe\n/* unsafe /* unsafe */ */\nfn f<'a>() { let _ = (\"unsafe\", r#\"unsafe\"#, '\"'); }\n",
        );
        assert!(unsafe_in(&BTreeSet::new(), [file].iter()).is_empty());
    }

    #[test]
    fn unsafe_outside_the_list_or_without_a_reason_is_found() {
        let reasoned = "//! Map.\n#![expect(\n    unsafe_code,\n    reason = \"mmap\"\n)]\nfn f() { unsafe {} }\n";
        let on_x86 = "#![cfg_attr(\n    target_arch = \"x86_64\",\n    expect(unsafe_code, reason = \"asm\")\n)]\n";
        let files = [
            TextFile::new("listed.rs", reasoned),
            TextFile::new("listed_too.rs", &format!("{on_x86}fn f() {{ unsafe {{}} }}\n")),
            TextFile::new("other.rs", "macro_rules! m { () => { unsafe {} } }\n"),
        ];
        let listed = BTreeSet::from(["listed.rs", "listed_too.rs", "stale.rs"]);
        assert_eq!(places(&unsafe_in(&listed, files.iter())), ["other.rs:1", "other.rs", PLAN]);
    }

    #[test]
    fn placeholders_are_macros_not_words() {
        let text = "//! todo! in a comment\nfn f(todo: u8) -> bool { todo != 0 }\n\nfn g() {\n    todo!()\n}\n";
        let found = placeholders_in([TextFile::new("a.rs", text)].iter());
        assert_eq!(places(&found), ["a.rs:5"]);
    }

    #[test]
    fn a_file_that_is_not_rust_is_named() {
        assert_eq!(places(&placeholders_in([TextFile::new("a.rs", "fn f() {\n")].iter())).len(), 1);
    }
}
