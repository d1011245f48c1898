//! Reading sources: texts cut into documents of bounded size, examples line by line. Owns what is accepted in a file and
//! the errors that say where it is not. Must not tokenise.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use serde::Deserialize;
use text::Message;

use super::DataError;

/// Texts are cut near this many bytes, so that one large file is many documents: it can be shuffled, and a part kept aside.
const DOCUMENT_BYTES: usize = 64 << 10;
/// Longest line of a JSONL file.
const LINE_BYTES_MAX: usize = 16 << 20;
/// Most files of one source.
const FILES_MAX: usize = 1 << 20;

/// A line of a JSONL file, or of a generator's output: a conversation in OpenAI's form or a text.
#[derive(Clone, Debug, Deserialize)]
pub struct Example {
    /// A conversation.
    pub messages: Option<Vec<Message>>,
    /// The tools that it may call.
    pub tools: Option<Vec<serde_json::Value>>,
    /// A text.
    pub text: Option<String>,
    /// Whatever a verifier needs to know, such as the right answer.
    #[serde(default)]
    pub data: serde_json::Value,
}

/// What the examples are, in errors.
pub(super) const EXAMPLE: &str = "an object with \"messages\" (a conversation) or \"text\"";

/// The files that `patterns` name, below `base`, in alphabetical order: files, folders with all that is in them, or names
/// with `*` in their last part.
///
/// # Errors
/// A pattern names nothing, or a folder cannot be read
pub fn expand(base: &Path, patterns: &[String]) -> Result<Vec<PathBuf>, DataError> {
    let mut files = Vec::new();
    for pattern in patterns {
        let path = base.join(pattern);
        let n_before = files.len();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        match path.parent() {
            Some(folder) if name.contains('*') && folder.is_dir() => {
                let entries = list(folder)?;
                files.extend(entries.into_iter().filter(|entry| {
                    let entry_name = entry.file_name().and_then(|name| name.to_str());
                    entry.is_file() && entry_name.is_some_and(|entry_name| matches(name, entry_name))
                }));
            }
            _ if path.is_dir() => walk(&path, &mut files)?,
            _ if path.is_file() => files.push(path.clone()),
            _ => {}
        }
        if files.len() == n_before {
            return Err(DataError::Missing(path));
        }
    }
    files.sort();
    files.dedup();
    Ok(files)
}

fn list(folder: &Path) -> Result<Vec<PathBuf>, DataError> {
    let entries = fs::read_dir(folder).map_err(DataError::io(folder, "list the folder"))?;
    let paths = entries.map(|entry| entry.map(|entry| entry.path()));
    paths.collect::<Result<_, _>>().map_err(DataError::io(folder, "list the folder"))
}

/// All files below `folder`, but hidden ones. Links are not followed, so there is an end.
fn walk(folder: &Path, files: &mut Vec<PathBuf>) -> Result<(), DataError> {
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for path in list(&folder)? {
            let is_hidden = path.file_name().and_then(|name| name.to_str()).is_none_or(|name| name.starts_with('.'));
            let kind = fs::symlink_metadata(&path).map_err(DataError::io(&path, "read the kind of"))?.file_type();
            match () {
                () if is_hidden => {}
                () if kind.is_dir() => folders.push(path),
                () if kind.is_file() && files.len() < FILES_MAX => files.push(path),
                () => {}
            }
        }
    }
    Ok(())
}

/// Whether `name` fits `pattern`, in which `*` stands for any characters.
fn matches(pattern: &str, name: &str) -> bool {
    let parts: Vec<&str> = pattern.split('*').collect();
    let [first, middle @ .., last] = parts.as_slice() else { return pattern == name };
    let Some(mut rest) = name.strip_prefix(first) else { return false };
    for part in middle {
        let Some(at) = rest.find(part) else { return false };
        rest = &rest[at + part.len()..];
    }
    rest.ends_with(last)
}

/// Calls `each` with every document of a text file: what stands between `separator`s, or the whole, cut where it is long.
///
/// # Errors
/// The file cannot be read or is not UTF-8, and those of `each`
pub(super) fn documents(
    path: &Path,
    separator: Option<&str>,
    each: &mut dyn FnMut(&str) -> Result<(), DataError>,
) -> Result<(), DataError> {
    let mut reader = File::open(path).map_err(DataError::io(path, "open"))?;
    let mut pending: Vec<u8> = Vec::new();
    let mut n_before = 0;
    loop {
        let n_read = reader.by_ref().take(DOCUMENT_BYTES as u64 * 4).read_to_end(&mut pending);
        let is_last = n_read.map_err(DataError::io(path, "read"))? == 0;
        let valid = match std::str::from_utf8(&pending) {
            Ok(text) => text,
            // A character may be cut by the buffer's end.
            Err(e) if !is_last && e.error_len().is_none() => utf8_prefix(&pending, e.valid_up_to()),
            Err(e) => {
                let place = format!(", byte {}", n_before + e.valid_up_to());
                let (expected, found) = ("text in UTF-8".to_owned(), "other bytes".to_owned());
                return Err(DataError::Content { path: path.to_owned(), place, expected, found });
            }
        };
        let mut rest = valid;
        while let Some(end) = document_end(rest, separator, is_last) {
            let (document, after) = rest.split_at(end);
            let document = separator.and_then(|separator| document.strip_suffix(separator)).unwrap_or(document);
            if !document.trim().is_empty() {
                each(document)?;
            }
            rest = after;
        }
        let n_done = valid.len() - rest.len();
        n_before += n_done;
        pending.drain(..n_done);
        if is_last {
            return Ok(());
        }
    }
}

fn utf8_prefix(bytes: &[u8], n_valid: usize) -> &str {
    std::str::from_utf8(&bytes[..n_valid]).unwrap_or_default()
}

/// Where the first document of `text` ends, its separator included; `None` when more text is needed or none is left.
fn document_end(text: &str, separator: Option<&str>, is_last: bool) -> Option<usize> {
    let at_separator =
        separator.and_then(|separator| text.find(separator).map(|at| at + separator.len())).filter(|end| *end > 0);
    match at_separator {
        Some(end) if end <= DOCUMENT_BYTES * 2 => Some(end),
        _ if text.len() > DOCUMENT_BYTES * 2 => Some(cut(text)),
        _ if is_last && !text.is_empty() => Some(text.len()),
        _ => None,
    }
}

/// A good place to cut a long text: after an empty line, else a line, else a word, else a character.
fn cut(text: &str) -> usize {
    let end = text.floor_char_boundary(DOCUMENT_BYTES);
    let head = &text[..end];
    let last = |mark: &str| head.rfind(mark).map(|at| at + mark.len()).filter(|at| *at > DOCUMENT_BYTES / 2);
    last("\n\n").or_else(|| last("\n")).or_else(|| last(" ")).unwrap_or(end)
}

/// Calls `each` with every example of a JSONL file and its line.
///
/// # Errors
/// The file cannot be read, a line is no example (which line, and why), and those of `each`
pub(crate) fn examples(
    path: &Path,
    each: &mut dyn FnMut(Example, &str) -> Result<(), DataError>,
) -> Result<(), DataError> {
    let mut reader = BufReader::new(File::open(path).map_err(DataError::io(path, "open"))?);
    let mut line = Vec::new();
    for number in 1u64.. {
        line.clear();
        let n_read = reader.by_ref().take(LINE_BYTES_MAX as u64 + 1).read_until(b'\n', &mut line);
        if n_read.map_err(DataError::io(path, "read"))? == 0 {
            break;
        }
        let wrong = |expected: String, found: String| DataError::Content {
            path: path.to_owned(),
            place: format!(":{number}"),
            expected,
            found,
        };
        if line.len() > LINE_BYTES_MAX {
            return Err(wrong(format!("a line of at most {LINE_BYTES_MAX} bytes"), "a longer one".into()));
        }
        if line.iter().all(u8::is_ascii_whitespace) {
            continue;
        }
        let beginning = || String::from_utf8_lossy(&line).trim().chars().take(80).collect::<String>();
        let example: Example =
            serde_json::from_slice(&line).map_err(|e| wrong(format!("{EXAMPLE} ({e})"), beginning()))?;
        if example.messages.is_none() && example.text.is_none() {
            return Err(wrong(EXAMPLE.to_owned(), beginning()));
        }
        each(example, &format!("{}:{number}", path.display()))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(bytes: &[u8], separator: Option<&str>) -> Result<Vec<String>, String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.txt");
        fs::write(&path, bytes).unwrap();
        let mut found = Vec::new();
        documents(&path, separator, &mut |text| {
            found.push(text.to_owned());
            Ok(())
        })
        .map_err(|e| e.to_string())?;
        Ok(found)
    }

    #[test]
    fn texts_are_cut_without_loss() {
        assert_eq!(all(b"a\n\nb\n\n\n\nc", Some("\n\n")).unwrap(), ["a", "b", "c"]);
        assert_eq!(all(b"", None).unwrap(), [""; 0]);
        let long: String = (0..90_000).map(|i| if i % 1000 == 999 { "é\n\n" } else { "é " }).collect();
        let parts = all(long.as_bytes(), None).unwrap();
        assert_eq!(parts.concat(), long);
        assert!(parts.len() > 3 && parts.iter().all(|part| part.len() <= DOCUMENT_BYTES * 2));
        assert!(parts[0].ends_with("\n\n"));
        let unbroken = "é".repeat(200_000);
        assert_eq!(all(unbroken.as_bytes(), Some("#")).unwrap().concat(), unbroken);
        let error = all(b"ab\xff", None).unwrap_err();
        assert!(error.ends_with("a.txt, byte 2: expected text in UTF-8, found other bytes"), "{error}");
        assert!(all(b"ab\xc3", None).is_err());
    }

    #[test]
    fn patterns() {
        for (pattern, name, fits) in [
            ("*.txt", "a.txt", true),
            ("*.txt", "a.txt.gz", false),
            ("a*b*c", "abc", true),
            ("a*b*c", "aXbYc", true),
            ("a*b*c", "acb", false),
            ("ab*ba", "aba", false),
            ("*", "", true),
        ] {
            assert_eq!(matches(pattern, name), fits, "{pattern} {name}");
        }
    }
}
