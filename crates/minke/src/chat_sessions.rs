//! Conversations with names, on disk.
//!
//! A folder of this user holds one JSON file per conversation, `NAME.json`, which appears whole or not at all. What the
//! model computed for it is not in it: its cache blocks are in the store of blocks under the keys of its tokens, or are
//! computed again.
//! Owns names, files and their version. A name is hostile, and so is what a file holds: names have no way out of the folder,
//! memory is bounded. Must not know what a message means, nor the time.

use std::fs;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::anyhow;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::failure::Failure;

/// What these files are, for readers of later versions.
const VERSION: u32 = 1;
/// The largest file that is written or read; the longest context takes two megabytes.
const BYTES_MAX: u64 = 16 << 20;
const NAME_CHARS_MAX: usize = 64;
/// With what is put around a name it still is a file's name on every system.
const NAME_BYTES_MAX: usize = 192;
/// After this time an unfinished file is what a process left that was ended.
const ABANDONED: Duration = Duration::from_secs(600);

/// A conversation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ChatSession {
    version: u32,
    /// Its name; see [`check_name`].
    pub(crate) name: String,
    /// The identity of the model that wrote it, in hexadecimal digits (`model::identity`).
    pub(crate) model: String,
    /// When it began, in seconds since 1970.
    pub(crate) created_s: u64,
    /// When it was saved last.
    pub(crate) updated_s: u64,
    /// What was said, as the chat template takes it.
    pub(crate) messages: Vec<Value>,
    /// The tokens so far, so that its prefix is found bit by bit.
    pub(crate) tokens: Vec<u32>,
}

/// A conversation of the list; an error where its file cannot be used.
pub(crate) struct Listed {
    /// Its name.
    pub(crate) name: String,
    /// What is in it.
    pub(crate) session: Result<ChatSession, Failure>,
}

/// A folder of conversations.
pub(crate) struct ChatSessions {
    folder: PathBuf,
}

impl ChatSession {
    /// One in which nothing was said yet.
    ///
    /// # Errors
    /// The name is none
    pub(crate) fn new(name: &str, model: &str, now_s: u64) -> Result<Self, Failure> {
        check_name(name)?;
        let (name, model) = (name.to_owned(), model.to_owned());
        let (messages, tokens) = (Vec::new(), Vec::new());
        Ok(Self { version: VERSION, name, model, created_s: now_s, updated_s: now_s, messages, tokens })
    }
}

/// Letters and digits of any script, and `-`, `_` and `.` but not in front.
///
/// # Errors
/// It is no such name, or too long
fn check_name(name: &str) -> Result<(), Failure> {
    let is_inner = |c: char| c.is_alphanumeric() || matches!(c, '-' | '_' | '.');
    let n_chars = name.chars().take(NAME_CHARS_MAX + 1).count();
    let wrong = match name.chars().find(|c| !is_inner(*c)) {
        _ if n_chars > NAME_CHARS_MAX || name.len() > NAME_BYTES_MAX => "a longer one".to_owned(),
        Some(c) => format!("{c:?} in it"),
        None if name.starts_with(['-', '.']) => format!("{name:?}"),
        None if name.is_empty() => "none".to_owned(),
        None => return Ok(()),
    };
    let expected = format!("letters, digits, '-', '_' and '.', not '-' or '.' in front, at most {NAME_CHARS_MAX}");
    Err(Failure::input(format!("name of a conversation: expected {expected}; found {wrong}")))
}

impl ChatSessions {
    /// Opens a folder, which is made where it is missing, and removes what was left in the middle of writing.
    ///
    /// # Errors
    /// It cannot be made or listed
    pub(crate) fn open(folder: impl Into<PathBuf>) -> Result<Self, Failure> {
        let sessions = Self { folder: folder.into() };
        private_folder(&sessions.folder).map_err(|e| sessions.failed("make the folder", e))?;
        for entry in sessions.entries()? {
            let name = entry.file_name();
            let is_unfinished = name.to_str().is_some_and(|name| name.starts_with('.') && name.contains(".json.tmp-"));
            let changed = entry.metadata().and_then(|about| about.modified());
            let age = changed.map(|time| SystemTime::now().duration_since(time).unwrap_or_default());
            if is_unfinished && age.is_ok_and(|age| age > ABANDONED) {
                // It is in nobody's way.
                let _ = fs::remove_file(entry.path());
            }
        }
        Ok(sessions)
    }

    /// The conversation of this name, if there is one.
    ///
    /// # Errors
    /// The name is none, or the file cannot be read or is not a conversation of this name and version
    pub(crate) fn load(&self, name: &str) -> Result<Option<ChatSession>, Failure> {
        let path = self.path_of(name)?;
        // Links are not followed, and opening a pipe would wait for a writer.
        let about = match fs::symlink_metadata(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            about => about.map_err(|e| failed(&path, "find it", e))?,
        };
        if !about.is_file() {
            return Err(damaged(&path, "a regular file", "another kind"));
        }
        let mut text = Vec::new();
        let file = fs::File::open(&path).map_err(|e| failed(&path, "open it", e))?;
        file.take(BYTES_MAX + 1).read_to_end(&mut text).map_err(|e| failed(&path, "read it", e))?;
        if text.len() as u64 > BYTES_MAX {
            return Err(damaged(&path, &format!("at most {BYTES_MAX} bytes"), "more"));
        }
        // The version first: what else is in a file of another one is unknown.
        #[derive(Deserialize)]
        struct Versioned {
            version: u32,
        }
        let expected = "a conversation of this program";
        let Versioned { version } =
            serde_json::from_slice(&text).map_err(|e| damaged(&path, expected, &e.to_string()))?;
        if version != VERSION {
            return Err(damaged(&path, &format!("version {VERSION}"), &format!("version {version}")));
        }
        let session: ChatSession =
            serde_json::from_slice(&text).map_err(|e| damaged(&path, expected, &e.to_string()))?;
        match session.name == name {
            true => Ok(Some(session)),
            // Another file was put there, or the file system takes two names for one.
            false => Err(damaged(&path, &format!("the name {name:?}"), &format!("{:?}", session.name))),
        }
    }

    /// Saves a conversation in place of what was saved under its name. Of two programs that save one, the later wins.
    ///
    /// # Errors
    /// The name is none, the conversation is too large, the disk fails, or a file of this name is not one that
    /// [`ChatSessions::load`] reads; then what was there is as it was
    pub(crate) fn save(&self, session: &ChatSession) -> Result<(), Failure> {
        // A file that is not understood, such as a later version's, is not this program's to replace.
        self.load(&session.name)?;
        let path = self.path_of(&session.name)?;
        let text = serde_json::to_vec(session).map_err(|e| failed(&path, "write it", e.into()))?;
        if text.len() as u64 > BYTES_MAX {
            let found = format!("{} bytes; begin another conversation", text.len());
            return Err(damaged(&path, &format!("a conversation of at most {BYTES_MAX} bytes"), &found));
        }
        let path: Arc<Path> = path.into();
        Ok(checkpoint::write::atomically(&path, |out| out.write_all(&text))?)
    }

    /// Every conversation, the last saved first; files that cannot be used come last.
    ///
    /// # Errors
    /// The folder cannot be listed
    pub(crate) fn list(&self) -> Result<Vec<Listed>, Failure> {
        let mut all = Vec::new();
        for entry in self.entries()? {
            let file_name = entry.file_name();
            let name = file_name.to_str().and_then(|name| name.strip_suffix(".json"));
            let Some(name) = name.filter(|name| check_name(name).is_ok()) else { continue };
            // It may have been deleted since.
            if let Some(session) = self.load(name).transpose() {
                all.push(Listed { name: name.to_owned(), session });
            }
        }
        let updated_s = |listed: &Listed| listed.session.as_ref().map_or(0, |session| session.updated_s);
        all.sort_by(|a, b| updated_s(b).cmp(&updated_s(a)).then_with(|| a.name.cmp(&b.name)));
        Ok(all)
    }

    /// Saves a conversation under another name too, from where both go on apart.
    ///
    /// # Errors
    /// There is none of the first name or already one of the second, or as [`ChatSessions::save`]
    pub(crate) fn fork(&self, from: &str, to: &str, now_s: u64) -> Result<ChatSession, Failure> {
        let Some(session) = self.load(from)? else {
            return Err(Failure::input(format!("there is no conversation {from:?} in {}", self.folder.display())));
        };
        if self.load(to)?.is_some() {
            return Err(Failure::input(format!(
                "there is a conversation {to:?} already: delete it or choose another name"
            )));
        }
        let fork = ChatSession { name: to.to_owned(), created_s: now_s, updated_s: now_s, ..session };
        self.save(&fork)?;
        Ok(fork)
    }

    /// Deletes a conversation, also one whose file is damaged; whether there was one.
    ///
    /// # Errors
    /// The name is none, or the file cannot be removed
    pub(crate) fn delete(&self, name: &str) -> Result<bool, Failure> {
        let path = self.path_of(name)?;
        match fs::remove_file(&path) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(failed(&path, "delete it", error)),
        }
    }

    fn path_of(&self, name: &str) -> Result<PathBuf, Failure> {
        check_name(name)?;
        Ok(self.folder.join(format!("{name}.json")))
    }

    fn entries(&self) -> Result<Vec<fs::DirEntry>, Failure> {
        let entries = fs::read_dir(&self.folder).and_then(Iterator::collect);
        entries.map_err(|e| self.failed("list the folder", e))
    }

    fn failed(&self, action: &str, error: io::Error) -> Failure {
        failed(&self.folder, action, error)
    }
}

fn failed(path: &Path, action: &str, error: io::Error) -> Failure {
    Failure::Failed(anyhow!(error).context(format!("{}: could not {action}", path.display())))
}

/// `found` may be what a hostile file says: little of it is shown, and nothing that moves a terminal's cursor.
fn damaged(path: &Path, expected: &str, found: &str) -> Failure {
    let found: String = found.chars().take(200).map(|c| if c.is_control() { ' ' } else { c }).collect();
    Failure::input(format!("{}: expected {expected}; found {found}", path.display()))
}

/// Conversations are nobody else's business.
fn private_folder(path: &Path) -> io::Result<()> {
    let mut builder = fs::DirBuilder::new();
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.recursive(true).create(path)
}

#[cfg(test)]
mod tests;
