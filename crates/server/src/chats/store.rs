//! The file of stored chats.
//!
//! SQLite with a write-ahead log: what was acknowledged is on the disk, whenever the process ends. Owns the tables, their
//! version and every statement. Must not know HTTP. Text and names are hostile: they reach SQL as parameters only.

use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rusqlite::{Connection, OptionalExtension, Row, Transaction, params};
use serde_json::{Value, json};

use super::wire::{Chat, Hit, NewChat, NewMessage, StoredMessage, Summary};
use crate::generate::fresh_id;

/// The version of the tables below.
const VERSION: i64 = 1;
/// How long another process may hold the file.
const PATIENCE: Duration = Duration::from_secs(5);
/// Characters of a title.
const TITLE_CHARS_MAX: usize = 200;
/// Characters of a title that is made from a message.
const TITLE_CHARS: usize = 60;
/// Shorter words are not in the index, which is one of three letters each, so that it finds parts of words and words of
/// languages that do not separate them.
const INDEXED_CHARS: usize = 3;

const TABLES: &str = "
CREATE TABLE conversations (
    id INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    owner TEXT NOT NULL,
    title TEXT NOT NULL,
    model TEXT,
    created_ms INTEGER NOT NULL,
    updated_ms INTEGER NOT NULL
);
CREATE INDEX conversations_by_time ON conversations (owner, updated_ms DESC, id DESC);
CREATE TABLE messages (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    conversation INTEGER NOT NULL REFERENCES conversations (id) ON DELETE CASCADE,
    role TEXT NOT NULL,
    content TEXT NOT NULL,
    reasoning TEXT,
    more TEXT,
    created_ms INTEGER NOT NULL
);
CREATE INDEX messages_by_conversation ON messages (conversation, id);
CREATE VIRTUAL TABLE words USING fts5 (content, reasoning, content='messages', content_rowid='id', tokenize='trigram');
CREATE TRIGGER messages_added AFTER INSERT ON messages BEGIN
    INSERT INTO words (rowid, content, reasoning) VALUES (new.id, new.content, new.reasoning);
END;
CREATE TRIGGER messages_removed AFTER DELETE ON messages BEGIN
    INSERT INTO words (words, rowid, content, reasoning) VALUES ('delete', old.id, old.content, old.reasoning);
END;
";

/// Stored chats.
pub struct Chats(Mutex<Connection>);

/// Stored chats that cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum ChatsError {
    /// The file, its folder or the disk.
    #[error("{0}")]
    Io(#[from] std::io::Error),
    /// The database.
    #[error("{0}")]
    Sqlite(#[from] rusqlite::Error),
    /// A later version of this program made the file.
    #[error("expected version {VERSION} of its tables at most, found {0}; use a later version of this program")]
    Version(i64),
}

impl Chats {
    /// Opens the file, and makes it and its folder if there is none.
    ///
    /// # Errors
    /// It cannot be opened, is no database, or is of a later version
    pub fn open(path: &Path) -> Result<Self, ChatsError> {
        create_private(path)?;
        let mut db = Connection::open(path)?;
        db.busy_timeout(PATIENCE)?;
        // The journal's mode comes back as a row.
        db.pragma_update_and_check(None, "journal_mode", "WAL", |_| Ok(()))?;
        // A commit is on the disk before it is acknowledged, so that a failing machine loses nothing either.
        db.pragma_update(None, "synchronous", "FULL")?;
        db.pragma_update(None, "foreign_keys", true)?;
        let change = db.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
        let version: i64 = change.pragma_query_value(None, "user_version", |row| row.get(0))?;
        match version {
            0 => {
                change.execute_batch(TABLES)?;
                change.pragma_update(None, "user_version", VERSION)?;
            }
            VERSION => {}
            later => return Err(ChatsError::Version(later)),
        }
        change.commit()?;
        Ok(Self(Mutex::new(db)))
    }

    fn db(&self) -> MutexGuard<'_, Connection> {
        // A panic in the middle of a transaction has rolled it back.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Conversations of `owner`, those that changed last first.
    pub(super) fn list(&self, owner: &str, limit: u32, offset: u32) -> Result<Vec<Summary>, ChatsError> {
        let db = self.db();
        let sql = format!("{SUMMARY} WHERE owner = ?1 ORDER BY updated_ms DESC, c.id DESC LIMIT ?2 OFFSET ?3");
        let mut statement = db.prepare_cached(&sql)?;
        let rows = statement.query_map(params![owner, limit, offset], summary)?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// A conversation with its messages; none if there is none of this owner.
    pub(super) fn find(&self, owner: &str, name: &str) -> Result<Option<Chat>, ChatsError> {
        let mut db = self.db();
        let view = db.transaction()?;
        let Some(id) = id_of(&view, owner, name)? else { return Ok(None) };
        let summary = view.query_row(&format!("{SUMMARY} WHERE c.id = ?1"), [id], summary)?;
        let messages = messages(&view, id, 0)?;
        Ok(Some(Chat { summary, messages }))
    }

    /// Keeps new conversations, all or none; their names.
    pub(super) fn add(&self, owner: &str, chats: &[NewChat]) -> Result<Vec<String>, ChatsError> {
        let mut db = self.db();
        let change = db.transaction()?;
        let now = now_ms();
        let mut names = Vec::with_capacity(chats.len());
        for chat in chats {
            let name = fresh_id("conv_");
            let created = chat.created_ms.unwrap_or(now);
            let title = title(chat);
            change.execute(
                "INSERT INTO conversations (name, owner, title, model, created_ms, updated_ms) \
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
                params![name, owner, title, chat.model, created, now],
            )?;
            let id = change.last_insert_rowid();
            insert(&change, id, &chat.messages, now)?;
            names.push(name);
        }
        change.commit()?;
        Ok(names)
    }

    /// Appends messages, all or none, and gives them as they are kept; none if there is no such conversation.
    pub(super) fn append(
        &self,
        owner: &str,
        name: &str,
        new: &[NewMessage],
    ) -> Result<Option<Vec<StoredMessage>>, ChatsError> {
        let mut db = self.db();
        let change = db.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
        let Some(id) = id_of(&change, owner, name)? else { return Ok(None) };
        let now = now_ms();
        let before: i64 = change.query_row("SELECT coalesce(max(id), 0) FROM messages", [], |row| row.get(0))?;
        insert(&change, id, new, now)?;
        change.execute("UPDATE conversations SET updated_ms = ?2 WHERE id = ?1", params![id, now])?;
        // A conversation that began without words is called after its first ones.
        if let Some(first) = new.iter().find(|message| message.role == "user") {
            let title = shortened(&first.content);
            change.execute("UPDATE conversations SET title = ?2 WHERE id = ?1 AND title = ''", params![id, title])?;
        }
        let added = messages(&change, id, before)?;
        change.commit()?;
        Ok(Some(added))
    }

    /// Calls a conversation otherwise; whether there is one.
    pub(super) fn rename(&self, owner: &str, name: &str, title: &str) -> Result<bool, ChatsError> {
        let title: String = title.chars().take(TITLE_CHARS_MAX).collect();
        let sql = "UPDATE conversations SET title = ?3 WHERE owner = ?1 AND name = ?2";
        Ok(self.db().execute(sql, params![owner, name, title])? > 0)
    }

    /// Forgets a conversation; whether there was one.
    pub(super) fn remove(&self, owner: &str, name: &str) -> Result<bool, ChatsError> {
        let sql = "DELETE FROM conversations WHERE owner = ?1 AND name = ?2";
        Ok(self.db().execute(sql, params![owner, name])? > 0)
    }

    /// Forgets a message and all behind it; whether there was one.
    pub(super) fn cut(&self, owner: &str, name: &str, message: i64) -> Result<bool, ChatsError> {
        let mut db = self.db();
        let change = db.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
        let Some(id) = id_of(&change, owner, name)? else { return Ok(false) };
        let sql = "SELECT 1 FROM messages WHERE conversation = ?1 AND id = ?2";
        if change.query_row(sql, params![id, message], |_| Ok(())).optional()?.is_none() {
            return Ok(false);
        }
        change.execute("DELETE FROM messages WHERE conversation = ?1 AND id >= ?2", params![id, message])?;
        change.execute("UPDATE conversations SET updated_ms = ?2 WHERE id = ?1", params![id, now_ms()])?;
        change.commit()?;
        Ok(true)
    }

    /// Messages that hold all words of `query`, those of the latest first.
    pub(super) fn search(&self, owner: &str, query: &str, limit: u32) -> Result<Vec<Hit>, ChatsError> {
        let words: Vec<&str> = query.split_whitespace().collect();
        if words.is_empty() {
            return Ok(Vec::new());
        }
        let indexed = words.iter().all(|word| word.chars().count() >= INDEXED_CHARS);
        let db = self.db();
        let hit = |row: &Row<'_>| {
            Ok(Hit {
                conversation_id: row.get(0)?,
                title: row.get(1)?,
                message_id: row.get(2)?,
                role: row.get(3)?,
                snippet: row.get(4)?,
            })
        };
        const COLUMNS: &str = "SELECT c.name, c.title, m.id, m.role";
        const JOIN: &str = "JOIN conversations c ON c.id = m.conversation";
        if indexed {
            // In quotes, a word is only a word.
            let quoted: Vec<String> = words.iter().map(|word| format!("\"{}\"", word.replace('"', "\"\""))).collect();
            let sql = format!(
                "{COLUMNS}, snippet(words, -1, '', '', '…', 40) FROM words JOIN messages m ON m.id = words.rowid {JOIN} \
                 WHERE words MATCH ?1 AND c.owner = ?2 ORDER BY m.id DESC LIMIT ?3"
            );
            let mut statement = db.prepare_cached(&sql)?;
            let hits = statement.query_map(params![quoted.join(" "), owner, limit], hit)?;
            return Ok(hits.collect::<Result<_, _>>()?);
        }
        let sql = format!(
            "{COLUMNS}, substr(m.content, max(1, instr(lower(m.content), lower(?1)) - 20), 120) FROM messages m {JOIN} \
             WHERE c.owner = ?2 AND (SELECT min(instr(lower(m.content || ' ' || coalesce(m.reasoning, '')), \
             lower(word.value)) > 0) FROM json_each(?4) word) ORDER BY m.id DESC LIMIT ?3"
        );
        let mut statement = db.prepare_cached(&sql)?;
        let hits = statement.query_map(params![words[0], owner, limit, json!(words).to_string()], hit)?;
        Ok(hits.collect::<Result<_, _>>()?)
    }
}

const SUMMARY: &str = "SELECT name, title, model, created_ms, updated_ms, \
                       (SELECT count(*) FROM messages WHERE conversation = c.id) FROM conversations c";

fn summary(row: &Row<'_>) -> rusqlite::Result<Summary> {
    Ok(Summary {
        id: row.get(0)?,
        title: row.get(1)?,
        model: row.get(2)?,
        created_ms: row.get(3)?,
        updated_ms: row.get(4)?,
        n_messages: row.get(5)?,
    })
}

fn id_of(db: &Transaction<'_>, owner: &str, name: &str) -> rusqlite::Result<Option<i64>> {
    let sql = "SELECT id FROM conversations WHERE owner = ?1 AND name = ?2";
    db.query_row(sql, params![owner, name], |row| row.get(0)).optional()
}

/// Messages of a conversation behind the one of id `after`.
fn messages(db: &Transaction<'_>, conversation: i64, after: i64) -> rusqlite::Result<Vec<StoredMessage>> {
    let sql = "SELECT id, role, content, reasoning, more, created_ms FROM messages \
               WHERE conversation = ?1 AND id > ?2 ORDER BY id";
    let mut statement = db.prepare_cached(sql)?;
    let message = |row: &Row<'_>| {
        let more: Option<String> = row.get(4)?;
        let more: Value = more.and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default();
        let message = NewMessage {
            role: row.get(1)?,
            content: row.get(2)?,
            reasoning_content: row.get(3)?,
            tool_calls: more["tool_calls"].as_array().cloned(),
            tool_call_id: more["tool_call_id"].as_str().map(str::to_owned),
            created_ms: row.get(5)?,
        };
        Ok(StoredMessage { id: row.get(0)?, message })
    };
    statement.query_map(params![conversation, after], message)?.collect()
}

fn insert(db: &Transaction<'_>, conversation: i64, messages: &[NewMessage], now: i64) -> rusqlite::Result<()> {
    let sql = "INSERT INTO messages (conversation, role, content, reasoning, more, created_ms) \
               VALUES (?1, ?2, ?3, ?4, ?5, ?6)";
    let mut statement = db.prepare_cached(sql)?;
    for m in messages {
        let more = (m.tool_calls.is_some() || m.tool_call_id.is_some())
            .then(|| json!({ "tool_calls": m.tool_calls, "tool_call_id": m.tool_call_id }).to_string());
        let created = m.created_ms.unwrap_or(now);
        statement.execute(params![conversation, m.role, m.content, m.reasoning_content, more, created])?;
    }
    Ok(())
}

/// The title that was given, or what the person said first.
fn title(chat: &NewChat) -> String {
    match &chat.title {
        Some(title) => title.chars().take(TITLE_CHARS_MAX).collect(),
        None => {
            let first = chat.messages.iter().find(|message| message.role == "user");
            first.map(|message| shortened(&message.content)).unwrap_or_default()
        }
    }
}

fn shortened(text: &str) -> String {
    let words = text.split_whitespace().collect::<Vec<_>>().join(" ");
    match words.char_indices().nth(TITLE_CHARS) {
        Some((at, _)) => format!("{}…", &words[..at]),
        None => words,
    }
}

fn now_ms() -> i64 {
    // A clock before 1970 is wrong in a way that matters little here.
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(now.as_millis()).unwrap_or(i64::MAX)
}

/// Makes the file and its folder, for this user alone.
fn create_private(path: &Path) -> std::io::Result<()> {
    if path.exists() {
        return Ok(());
    }
    let (mut folders, mut file) = (std::fs::DirBuilder::new(), std::fs::OpenOptions::new());
    folders.recursive(true);
    file.create(true).append(true);
    #[cfg(unix)]
    {
        use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
        folders.mode(0o700);
        file.mode(0o600);
    }
    if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        folders.create(folder)?;
    }
    file.open(path).map(drop)
}
