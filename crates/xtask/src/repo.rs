//! The repository as the checks see it: its root, its text files, and what a check has to say about them.
//!
//! Reads everything once; the checks are functions from this to findings and touch no file themselves.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

/// Folders that hold no source of ours: build outputs, data, other people's code.
const SKIPPED_DIRS: [&str; 8] =
    [".git", "target", "node_modules", "fixtures", "corpus", "artifacts", "coverage", "__pycache__"];

/// Endings of the files that the checks read; files without an ending count when they start with `#!`.
const TEXT_ENDINGS: [&str; 8] = ["rs", "toml", "md", "py", "sh", "txt", "json", "yml"];

/// One thing to change: where, and what to do about it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Finding {
    /// Path from the root, with `:line` where a line is meant.
    pub(crate) place: String,
    /// What is wrong and what to do.
    pub(crate) message: String,
}

impl Finding {
    pub(crate) fn new(place: impl Into<String>, message: impl Into<String>) -> Self {
        Finding { place: place.into(), message: message.into() }
    }

    pub(crate) fn at(path: &str, line: usize, message: impl Into<String>) -> Self {
        Finding::new(format!("{path}:{line}"), message)
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.message)
    }
}

/// A text file of the repository.
#[derive(Debug)]
pub(crate) struct TextFile {
    /// Path from the root, with `/` on every system.
    pub(crate) path: String,
    /// The whole content.
    pub(crate) text: String,
}

impl TextFile {
    #[cfg(test)]
    pub(crate) fn new(path: &str, text: &str) -> Self {
        TextFile { path: path.to_owned(), text: text.to_owned() }
    }

    pub(crate) fn is_rust(&self) -> bool {
        self.path.ends_with(".rs")
    }
}

/// Everything the checks look at.
#[derive(Debug)]
pub(crate) struct Repo {
    /// Absolute path of the workspace.
    pub(crate) root: PathBuf,
    /// Every text file outside build outputs and fixtures, sorted by path.
    pub(crate) files: Vec<TextFile>,
}

impl Repo {
    /// Reads the repository that this program was built from.
    ///
    /// # Errors
    /// A folder or text file that cannot be read.
    pub(crate) fn open() -> Result<Repo, String> {
        let root = Self::root();
        let mut files = Vec::new();
        collect(&root, &root, &mut files)?;
        files.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(Repo { root, files })
    }

    /// The workspace's root, two levels above this crate.
    pub(crate) fn root() -> PathBuf {
        let crate_dir = Path::new(env!("CARGO_MANIFEST_DIR"));
        crate_dir.ancestors().nth(2).unwrap_or(crate_dir).to_path_buf()
    }

    pub(crate) fn fixtures_dir() -> PathBuf {
        Self::root().join("crates/testkit/fixtures")
    }

    /// The text of a file that the checks depend on, or a finding that it is missing.
    pub(crate) fn text(&self, path: &str) -> Result<&str, Finding> {
        match self.files.iter().find(|file| file.path == path) {
            Some(file) => Ok(&file.text),
            None => Err(Finding::new(path, "missing; the repository checks read it")),
        }
    }

    pub(crate) fn rust_files(&self) -> impl Iterator<Item = &TextFile> {
        self.files.iter().filter(|file| file.is_rust())
    }
}

fn collect(root: &Path, dir: &Path, files: &mut Vec<TextFile>) -> Result<(), String> {
    for entry in fs::read_dir(dir).map_err(|e| format!("{}: {e}", dir.display()))? {
        let entry = entry.map_err(|e| format!("{}: {e}", dir.display()))?;
        let path = entry.path();
        let name = entry.file_name().to_string_lossy().into_owned();
        let kind = entry.file_type().map_err(|e| format!("{}: {e}", path.display()))?;
        if kind.is_dir() {
            if !SKIPPED_DIRS.contains(&name.as_str()) {
                collect(root, &path, files)?;
            }
        } else if kind.is_file()
            && let Some(text) = read_text(&path)?
        {
            let relative = path.strip_prefix(root).unwrap_or(&path);
            files.push(TextFile { path: relative.to_string_lossy().replace('\\', "/"), text });
        }
    }
    Ok(())
}

/// `None` for files that are not ours to check: other endings, and files without an ending that are not scripts.
fn read_text(path: &Path) -> Result<Option<String>, String> {
    let ending = path.extension().map(|e| e.to_string_lossy().into_owned());
    if ending.as_ref().is_some_and(|e| !TEXT_ENDINGS.contains(&e.as_str())) {
        return Ok(None);
    }
    let bytes = fs::read(path).map_err(|e| format!("{}: {e}", path.display()))?;
    if ending.is_none() && !bytes.starts_with(b"#!") {
        return Ok(None);
    }
    String::from_utf8(bytes).map(Some).map_err(|_| format!("{}: not UTF-8", path.display()))
}

/// The lines of the first fenced block called `name` in a Markdown text, with their line numbers (from 1).
pub(crate) fn fenced_block<'t>(markdown: &'t str, name: &str) -> Option<Vec<(usize, &'t str)>> {
    let fence = format!("```{name}");
    let mut lines = markdown.lines().zip(1..).skip_while(|(line, _)| line.trim_end() != fence);
    lines.next()?;
    Some(
        lines
            .take_while(|(line, _)| !line.starts_with("```"))
            .filter(|(line, _)| !line.trim().is_empty())
            .map(|(line, number)| (number, line))
            .collect(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fenced_block_is_found_by_name_and_numbered() {
        let text = "a\n```x\nno\n```\n```edges\nops ->\n\nmodel -> ops\n```\nb\n";
        assert_eq!(fenced_block(text, "edges"), Some(vec![(6, "ops ->"), (8, "model -> ops")]));
        assert_eq!(fenced_block(text, "edge"), None);
    }
}
