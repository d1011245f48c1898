//! Where this program keeps files: XDG's folders of the user.
//!
//! Owns their names. Must not make or read them.

use std::env::var_os;
use std::path::PathBuf;

use crate::failure::Failure;

/// What is the user's own: conversations.
pub(crate) fn data() -> Result<PathBuf, Failure> {
    folder("XDG_DATA_HOME", ".local/share")
}

/// What can be computed again: blocks of the cache.
pub(crate) fn cache() -> Result<PathBuf, Failure> {
    folder("XDG_CACHE_HOME", ".cache")
}

/// As the XDG Base Directory Specification has it: a relative path does not count.
fn folder(variable: &str, in_home: &str) -> Result<PathBuf, Failure> {
    let absolute = |name: &str| var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let folder = absolute(variable).or_else(|| absolute("HOME").map(|home| home.join(in_home)));
    let expected = || Failure::input(format!("expected HOME or {variable} to name a folder; found neither"));
    folder.map(|folder| folder.join("minke")).ok_or_else(expected)
}
