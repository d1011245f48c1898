//! The fixtures' checksums: `SHA256SUMS` in the form of coreutils, so `sha256sum -c` reads it too.
//!
//! A fixture is evidence; the list makes sure that it changes only on purpose, and that none is added unlisted.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use sha2::{Digest, Sha256};

use crate::repo::Finding;

const LIST: &str = "SHA256SUMS";

/// Path from the fixtures' folder → digest in hex.
type Sums = BTreeMap<String, String>;

/// Compares the files of `dir` with its list; gives the number of files and the differences.
///
/// # Errors
/// The list or a file cannot be read.
pub(crate) fn verify(dir: &Path) -> Result<(usize, Vec<Finding>), String> {
    let list = fs::read_to_string(dir.join(LIST)).map_err(|e| format!("{}: {e}", dir.join(LIST).display()))?;
    let found = digest_files(dir)?;
    Ok((found.len(), compare(&parse(&list)?, &found)))
}

/// Writes the list anew; gives the number of files.
///
/// # Errors
/// A file cannot be read or the list cannot be written.
pub(crate) fn write(dir: &Path) -> Result<usize, String> {
    let found = digest_files(dir)?;
    let mut text = String::new();
    for (path, digest) in &found {
        let _ = writeln!(text, "{digest}  {path}");
    }
    fs::write(dir.join(LIST), text).map_err(|e| format!("{}: {e}", dir.join(LIST).display()))?;
    Ok(found.len())
}

fn compare(listed: &Sums, found: &Sums) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (path, digest) in listed {
        match found.get(path) {
            None => findings.push(Finding::new(path, "listed in SHA256SUMS but missing")),
            Some(actual) if actual != digest => {
                findings.push(Finding::new(path, format!("sha256 is {actual}, SHA256SUMS says {digest}")));
            }
            Some(_) => {}
        }
    }
    let unlisted = found.keys().filter(|path| !listed.contains_key(*path));
    findings.extend(unlisted.map(|path| Finding::new(path, "not in SHA256SUMS; add it with `fixtures --write`")));
    findings
}

fn parse(list: &str) -> Result<Sums, String> {
    let mut sums = Sums::new();
    for (line, number) in list.lines().zip(1..) {
        let (digest, path) =
            line.split_once("  ").ok_or_else(|| format!("{LIST}:{number}: expected `digest  path`, found `{line}`"))?;
        sums.insert(path.to_owned(), digest.to_owned());
    }
    Ok(sums)
}

fn digest_files(dir: &Path) -> Result<Sums, String> {
    let mut sums = Sums::new();
    walk(dir, "", &mut sums)?;
    sums.remove(LIST);
    Ok(sums)
}

fn walk(dir: &Path, prefix: &str, sums: &mut Sums) -> Result<(), String> {
    for entry in fs::read_dir(dir).map_err(|e| format!("{}: {e}", dir.display()))? {
        let entry = entry.map_err(|e| format!("{}: {e}", dir.display()))?;
        let path = entry.path();
        let name = format!("{prefix}{}", entry.file_name().to_string_lossy());
        if path.is_dir() {
            walk(&path, &format!("{name}/"), sums)?;
        } else {
            let bytes = fs::read(&path).map_err(|e| format!("{}: {e}", path.display()))?;
            sums.insert(name, hex(&Sha256::digest(&bytes)));
        }
    }
    Ok(())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::repo::Repo;

    fn sums(pairs: &[(&str, &str)]) -> Sums {
        pairs.iter().map(|(path, digest)| ((*path).to_owned(), (*digest).to_owned())).collect()
    }

    #[test]
    fn altered_missing_and_unlisted_files_are_found() {
        let listed = sums(&[("a", "1"), ("b", "2"), ("c", "3")]);
        let found = sums(&[("a", "1"), ("b", "9"), ("d", "4")]);
        let places: Vec<String> = compare(&listed, &found).into_iter().map(|f| f.place).collect();
        assert_eq!(places, ["b", "c", "d"]);
    }

    #[test]
    fn a_broken_list_is_an_error_with_its_line() {
        assert_eq!(parse("0  a\nrubbish\n"), Err("SHA256SUMS:2: expected `digest  path`, found `rubbish`".to_owned()));
    }

    #[test]
    fn digest_of_the_standard_example() {
        let expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(hex(&Sha256::digest(b"abc")), expected);
    }

    #[test]
    fn the_fixtures_are_what_their_list_says() {
        let (n_files, findings) = verify(&Repo::fixtures_dir()).expect("fixtures");
        assert!(n_files > 0);
        assert!(findings.is_empty(), "{findings:#?}");
    }
}
