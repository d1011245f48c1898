//! Files that name training runs, so that `minke serve` can show their curves.
//!
//! Owns their form and their folder: `runs/` in the user's data folder, a file for each run, called after the run's own
//! folder. Must not fail a run: a file that cannot be written is only missed by the page.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::path::{Path, PathBuf, absolute};
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use crate::failure::Failure;
use crate::folders;

/// The folder of these files.
pub(crate) fn folder() -> Result<PathBuf, Failure> {
    Ok(folders::data()?.join("runs"))
}

/// Writes the file of a run that begins or goes on, and removes those whose folder is gone.
///
/// # Errors
/// The folder or the file cannot be written
pub(crate) fn announce(folder: &Path, output: &Path, recipe: &Path) -> io::Result<()> {
    let (output, recipe) = (absolute(output)?, absolute(recipe)?);
    create_private(folder)?;
    prune(folder, &output)?;
    let mut hasher = DefaultHasher::new();
    output.hash(&mut hasher);
    let name = format!("{:016x}", hasher.finish());
    let started = rfc3339(SystemTime::now());
    let run = json!({ "output": output, "recipe": recipe, "pid": std::process::id(), "started": started });
    // A reader meets the whole file or none.
    let unfinished = folder.join(format!("{name}.new"));
    std::fs::write(&unfinished, format!("{run}\n"))?;
    std::fs::rename(unfinished, folder.join(format!("{name}.json")))
}

/// Removes files whose run's folder is gone, and others of `output`.
fn prune(folder: &Path, output: &Path) -> io::Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if path.extension().is_none_or(|ending| ending != "json") {
            continue;
        }
        let text = std::fs::read_to_string(&path).unwrap_or_default();
        let run: Value = serde_json::from_str(&text).unwrap_or_default();
        let place = run["output"].as_str().map(Path::new);
        if place.is_none_or(|place| place == output || !place.is_dir()) {
            std::fs::remove_file(path)?;
        }
    }
    Ok(())
}

/// Makes a folder and those above it, for this user alone.
fn create_private(folder: &Path) -> io::Result<()> {
    let mut builder = std::fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    {
        use std::os::unix::fs::DirBuilderExt;
        builder.mode(0o700);
    }
    builder.create(folder)
}

/// A time as RFC 3339 has it, in UTC, to the second.
fn rfc3339(time: SystemTime) -> String {
    // A clock before 1970 is wrong in a way that matters little here.
    let seconds = time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    // Years begin in March, so that a leap day is the last of its year; 719,468 days from there to 1970.
    let shifted = days + 719_468;
    let (era, of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let from_march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    let (hour, minute, second) = (rest / 3600, rest / 60 % 60, rest % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn times_are_written_as_others_read_them() {
        for (seconds, expected) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (1_709_251_199, "2024-02-29T23:59:59Z"),
            (1_798_761_600, "2027-01-01T00:00:00Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
        ] {
            assert_eq!(rfc3339(UNIX_EPOCH + Duration::from_secs(seconds)), expected);
        }
    }

    #[test]
    fn a_run_has_one_file_and_those_that_are_gone_have_none() {
        let home = tempfile::tempdir().unwrap();
        let folder = home.path().join("deep/runs");
        let (a, b) = (home.path().join("a"), home.path().join("b"));
        std::fs::create_dir(&a).unwrap();
        std::fs::create_dir(&b).unwrap();
        let recipe = home.path().join("r.toml");
        announce(&folder, &a, &recipe).unwrap();
        announce(&folder, &b, &recipe).unwrap();
        announce(&folder, &a, &recipe).unwrap();
        let files = || -> Vec<PathBuf> {
            let mut found: Vec<_> = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
            found.sort();
            found
        };
        assert_eq!(files().len(), 2);
        std::fs::remove_dir(&b).unwrap();
        announce(&folder, &a, &recipe).unwrap();
        let files = files();
        assert_eq!(files.len(), 1);
        let run: Value = serde_json::from_slice(&std::fs::read(&files[0]).unwrap()).unwrap();
        assert_eq!((run["output"].as_str(), run["pid"].as_u64()), (a.to_str(), Some(u64::from(std::process::id()))));
    }
}
