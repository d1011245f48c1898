//! The file of stored chats.
//!
//! SQLite with a write-ahead log: what was acknowledged is on the disk, whenever the process ends. Owns the tables, their
//! version and every statement. Must not know HTTP. Text and names are hostile: they reach SQL as parameters only.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rusqlite::{Connection, OptionalExtension, Row, Transaction, params};
use serde_json::{Map, Value, json};

use super::wire::{Chat, ChatChange, Hit, MessageChange, NewChat, NewMessage, StoredMessage, Summary};
use crate::generate::fresh_id;

/// The version of the tables below: each batch leads from one to the next.
const VERSION: i64 = 2;
const UPGRADES: [&str; VERSION as usize] = [TABLES, BRANCHES];
/// How long a conversation that was forgotten can be brought back.
const KEPT_MS: i64 = 60 * 60 * 1000;
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

/// Messages that follow one another as a tree, and what people do with conversations.
const BRANCHES: &str = "
ALTER TABLE conversations ADD COLUMN pinned INTEGER NOT NULL DEFAULT 0;
ALTER TABLE conversations ADD COLUMN deleted_ms INTEGER;
ALTER TABLE conversations ADD COLUMN current INTEGER NOT NULL DEFAULT 0;
ALTER TABLE conversations ADD COLUMN settings TEXT;
ALTER TABLE messages ADD COLUMN parent INTEGER NOT NULL DEFAULT 0;
ALTER TABLE messages ADD COLUMN meta TEXT;
UPDATE messages SET parent = coalesce((SELECT max(prior.id) FROM messages prior
    WHERE prior.conversation = messages.conversation AND prior.id < messages.id), 0);
UPDATE conversations SET current = coalesce((SELECT max(id) FROM messages WHERE conversation = conversations.id), 0);
CREATE INDEX messages_by_parent ON messages (parent);
CREATE TRIGGER messages_changed AFTER UPDATE OF content, reasoning ON messages BEGIN
    INSERT INTO words (words, rowid, content, reasoning) VALUES ('delete', old.id, old.content, old.reasoning);
    INSERT INTO words (rowid, content, reasoning) VALUES (new.id, new.content, new.reasoning);
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
    /// A message names another that there is not.
    #[error("expected the id of a message of this conversation that stands before it, or 0; found {0}")]
    Message(i64),
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
        let done = usize::try_from(version).ok().filter(|done| *done <= UPGRADES.len());
        for upgrade in &UPGRADES[done.ok_or(ChatsError::Version(version))?..] {
            change.execute_batch(upgrade)?;
        }
        change.pragma_update(None, "user_version", VERSION)?;
        purge(&change)?;
        change.commit()?;
        Ok(Self(Mutex::new(db)))
    }

    fn db(&self) -> MutexGuard<'_, Connection> {
        // A panic in the middle of a transaction has rolled it back.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Conversations of `owner`, pinned ones first, then those that changed last.
    pub(super) fn list(&self, owner: &str, limit: u32, offset: u32) -> Result<Vec<Summary>, ChatsError> {
        let db = self.db();
        let sql = format!(
            "{SUMMARY} WHERE owner = ?1 AND deleted_ms IS NULL \
                 ORDER BY pinned DESC, updated_ms DESC, c.id DESC LIMIT ?2 OFFSET ?3"
        );
        let mut statement = db.prepare_cached(&sql)?;
        let rows = statement.query_map(params![owner, limit, offset], summary)?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// The conversations of these names, without their messages.
    pub(super) fn summaries(&self, names: &[String]) -> Result<Vec<Summary>, ChatsError> {
        let db = self.db();
        let mut statement = db.prepare_cached(&format!("{SUMMARY} WHERE name = ?1"))?;
        let found = names.iter().map(|name| statement.query_row([name], summary));
        Ok(found.collect::<Result<_, _>>()?)
    }

    /// A conversation with its messages; none if there is none of this owner.
    pub(super) fn find(&self, owner: &str, name: &str) -> Result<Option<Chat>, ChatsError> {
        let mut db = self.db();
        let view = db.transaction()?;
        let Some(id) = id_of(&view, owner, name)? else { return Ok(None) };
        let summary = view.query_row(&format!("{SUMMARY} WHERE c.id = ?1"), [id], summary)?;
        let sql = "SELECT settings FROM conversations WHERE id = ?1";
        let settings: Option<String> = view.query_row(sql, [id], |row| row.get(0))?;
        let messages = messages(&view, id, 0)?;
        Ok(Some(Chat { summary, settings: settings.as_deref().and_then(object), messages }))
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
                "INSERT INTO conversations (name, owner, title, model, created_ms, updated_ms, pinned, settings) \
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
                params![name, owner, title, chat.model, created, now, chat.pinned, text(chat.settings.as_ref())],
            )?;
            let id = change.last_insert_rowid();
            let ids = insert(&change, id, &chat.messages, now)?;
            if let Some(current) = chat.current_id.filter(|id| *id != 0) {
                let current = ids.get(&current).copied().ok_or(ChatsError::Message(current))?;
                change.execute("UPDATE conversations SET current = ?2 WHERE id = ?1", params![id, current])?;
            }
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

    /// Changes what is said of a conversation; whether there is one.
    pub(super) fn change(&self, owner: &str, name: &str, to: &ChatChange) -> Result<bool, ChatsError> {
        let mut db = self.db();
        let change = db.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
        let Some(id) = id_of(&change, owner, name)? else { return Ok(false) };
        if let Some(current) = to.current_id.filter(|id| *id != 0) {
            held(&change, id, current)?;
        }
        let title = to.title.as_ref().map(|title| title.chars().take(TITLE_CHARS_MAX).collect::<String>());
        change.execute(
            "UPDATE conversations SET title = coalesce(?2, title), pinned = coalesce(?3, pinned), \
             current = coalesce(?4, current), settings = coalesce(?5, settings) WHERE id = ?1",
            params![id, title, to.pinned, to.current_id, text(to.settings.as_ref())],
        )?;
        change.commit()?;
        Ok(true)
    }

    /// Changes a message; whether there is one.
    pub(super) fn change_message(
        &self,
        owner: &str,
        name: &str,
        message: i64,
        to: &MessageChange,
    ) -> Result<bool, ChatsError> {
        let mut db = self.db();
        let change = db.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
        let Some(id) = id_of(&change, owner, name)? else { return Ok(false) };
        let n = change.execute(
            "UPDATE messages SET content = coalesce(?3, content), reasoning = coalesce(?4, reasoning), \
             meta = coalesce(?5, meta) WHERE conversation = ?1 AND id = ?2",
            params![id, message, to.content, to.reasoning_content, text(to.meta.as_ref())],
        )?;
        change.commit()?;
        Ok(n > 0)
    }

    /// Forgets a conversation, which can be brought back for a while; whether there was one.
    pub(super) fn remove(&self, owner: &str, name: &str) -> Result<bool, ChatsError> {
        let db = self.db();
        purge(&db)?;
        let sql = "UPDATE conversations SET deleted_ms = ?3 WHERE owner = ?1 AND name = ?2 AND deleted_ms IS NULL";
        Ok(db.execute(sql, params![owner, name, now_ms()])? > 0)
    }

    /// Brings a conversation back that was forgotten lately; whether there was one.
    pub(super) fn restore(&self, owner: &str, name: &str) -> Result<bool, ChatsError> {
        let db = self.db();
        purge(&db)?;
        let sql =
            "UPDATE conversations SET deleted_ms = NULL WHERE owner = ?1 AND name = ?2 AND deleted_ms IS NOT NULL";
        Ok(db.execute(sql, params![owner, name])? > 0)
    }

    /// Forgets a message and all that follow it; whether there was one.
    pub(super) fn cut(&self, owner: &str, name: &str, message: i64) -> Result<bool, ChatsError> {
        let mut db = self.db();
        let change = db.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
        let Some(id) = id_of(&change, owner, name)? else { return Ok(false) };
        let sql = "SELECT parent FROM messages WHERE conversation = ?1 AND id = ?2";
        let Some(parent) = change.query_row(sql, params![id, message], |row| row.get::<_, i64>(0)).optional()? else {
            return Ok(false);
        };
        change.execute(
            "WITH RECURSIVE gone (id) AS (SELECT ?1 UNION ALL SELECT m.id FROM messages m JOIN gone ON m.parent = gone.id) \
             DELETE FROM messages WHERE id IN gone",
            [message],
        )?;
        change.execute(
            "UPDATE conversations SET updated_ms = ?2, current = CASE WHEN EXISTS \
             (SELECT 1 FROM messages WHERE id = current) THEN current ELSE ?3 END WHERE id = ?1",
            params![id, now_ms(), parent],
        )?;
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
                 WHERE words MATCH ?1 AND c.owner = ?2 AND c.deleted_ms IS NULL ORDER BY m.id DESC LIMIT ?3"
            );
            let mut statement = db.prepare_cached(&sql)?;
            let hits = statement.query_map(params![quoted.join(" "), owner, limit], hit)?;
            return Ok(hits.collect::<Result<_, _>>()?);
        }
        let sql = format!(
            "{COLUMNS}, substr(m.content, max(1, instr(lower(m.content), lower(?1)) - 20), 120) FROM messages m {JOIN} \
             WHERE c.owner = ?2 AND c.deleted_ms IS NULL AND (SELECT min(instr(lower(m.content || ' ' || coalesce(m.reasoning, '')), \
             lower(word.value)) > 0) FROM json_each(?4) word) ORDER BY m.id DESC LIMIT ?3"
        );
        let mut statement = db.prepare_cached(&sql)?;
        let hits = statement.query_map(params![words[0], owner, limit, json!(words).to_string()], hit)?;
        Ok(hits.collect::<Result<_, _>>()?)
    }
}

const SUMMARY: &str = "SELECT name, title, model, created_ms, updated_ms, \
                       (SELECT count(*) FROM messages WHERE conversation = c.id), pinned, current FROM conversations c";

fn summary(row: &Row<'_>) -> rusqlite::Result<Summary> {
    Ok(Summary {
        id: row.get(0)?,
        title: row.get(1)?,
        model: row.get(2)?,
        created_ms: row.get(3)?,
        updated_ms: row.get(4)?,
        n_messages: row.get(5)?,
        pinned: row.get(6)?,
        current_id: row.get(7)?,
    })
}

fn id_of(db: &Transaction<'_>, owner: &str, name: &str) -> rusqlite::Result<Option<i64>> {
    let sql = "SELECT id FROM conversations WHERE owner = ?1 AND name = ?2 AND deleted_ms IS NULL";
    db.query_row(sql, params![owner, name], |row| row.get(0)).optional()
}

/// Messages of a conversation behind the one of id `after`.
fn messages(db: &Transaction<'_>, conversation: i64, after: i64) -> rusqlite::Result<Vec<StoredMessage>> {
    let sql = "SELECT id, role, content, reasoning, more, created_ms, parent, meta FROM messages \
               WHERE conversation = ?1 AND id > ?2 ORDER BY id";
    let mut statement = db.prepare_cached(sql)?;
    let message = |row: &Row<'_>| {
        let more: Option<String> = row.get(4)?;
        let more: Value = more.and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default();
        let meta: Option<String> = row.get(7)?;
        Ok(StoredMessage {
            id: row.get(0)?,
            parent_id: row.get(6)?,
            role: row.get(1)?,
            content: row.get(2)?,
            reasoning_content: row.get(3)?,
            tool_calls: more["tool_calls"].as_array().cloned(),
            tool_call_id: more["tool_call_id"].as_str().map(str::to_owned),
            meta: meta.as_deref().and_then(object),
            created_ms: row.get(5)?,
        })
    };
    statement.query_map(params![conversation, after], message)?.collect()
}

/// Puts messages behind those that they follow, and shows the last one's branch; the new ids of those that came with one.
fn insert(
    db: &Transaction<'_>,
    conversation: i64,
    messages: &[NewMessage],
    now: i64,
) -> Result<HashMap<i64, i64>, ChatsError> {
    let sql = "INSERT INTO messages (conversation, role, content, reasoning, more, created_ms, parent, meta) \
               VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)";
    let mut statement = db.prepare_cached(sql)?;
    let current = "SELECT current FROM conversations WHERE id = ?1";
    let mut last: i64 = db.query_row(current, [conversation], |row| row.get(0))?;
    let mut ids = HashMap::new();
    for m in messages {
        let parent = match m.parent_id {
            None => last,
            Some(0) => 0,
            Some(named) => match ids.get(&named) {
                Some(id) => *id,
                None => held(db, conversation, named)?,
            },
        };
        let more = (m.tool_calls.is_some() || m.tool_call_id.is_some())
            .then(|| json!({ "tool_calls": m.tool_calls, "tool_call_id": m.tool_call_id }).to_string());
        let created = m.created_ms.unwrap_or(now);
        let (reasoning, meta) = (&m.reasoning_content, text(m.meta.as_ref()));
        statement.execute(params![conversation, m.role, m.content, reasoning, more, created, parent, meta])?;
        last = db.last_insert_rowid();
        ids.extend(m.id.map(|id| (id, last)));
    }
    db.execute("UPDATE conversations SET current = ?2 WHERE id = ?1", params![conversation, last])?;
    Ok(ids)
}

/// The id of a message, if it is one of this conversation.
fn held(db: &Transaction<'_>, conversation: i64, message: i64) -> Result<i64, ChatsError> {
    let sql = "SELECT id FROM messages WHERE conversation = ?1 AND id = ?2";
    let found = db.query_row(sql, params![conversation, message], |row| row.get(0)).optional()?;
    found.ok_or(ChatsError::Message(message))
}

/// Forgets for good what was forgotten long enough ago.
fn purge(db: &Connection) -> rusqlite::Result<()> {
    db.execute("DELETE FROM conversations WHERE deleted_ms < ?1", [now_ms() - KEPT_MS]).map(drop)
}

fn object(text: &str) -> Option<Map<String, Value>> {
    serde_json::from_str(text).ok()
}

fn text(object: Option<&Map<String, Value>>) -> Option<String> {
    object.and_then(|object| serde_json::to_string(object).ok())
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
