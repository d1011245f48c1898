//! Responses that others may follow.
//!
//! Owns them, in memory and up to a limit; the oldest go first. Must not outlive the process: chats that are to be kept are
//! `chats`.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use serde_json::Value;
use text::Message;

/// Responses and bytes of text that are remembered.
const RESPONSES_MAX: usize = 1024;
const BYTES_MAX: usize = 64 << 20;

struct Entry {
    id: String,
    owner: String,
    messages: Arc<Vec<Message>>,
    /// The response as it was answered.
    answer: Arc<Value>,
    n_bytes: usize,
}

/// The last responses.
#[derive(Default)]
pub(crate) struct Remembered(Mutex<VecDeque<Entry>>);

impl Remembered {
    /// The conversation up to a response of the same owner.
    pub(crate) fn find(&self, owner: &str, id: &str) -> Option<Arc<Vec<Message>>> {
        let entries = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        entries.iter().find(|entry| entry.id == id && entry.owner == owner).map(|entry| entry.messages.clone())
    }

    /// A response of the same owner, as it was answered.
    pub(crate) fn answer(&self, owner: &str, id: &str) -> Option<Arc<Value>> {
        let entries = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        entries.iter().find(|entry| entry.id == id && entry.owner == owner).map(|entry| entry.answer.clone())
    }

    /// Forgets a response of the same owner; whether there was one.
    pub(crate) fn forget(&self, owner: &str, id: &str) -> bool {
        let mut entries = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let n = entries.len();
        entries.retain(|entry| entry.id != id || entry.owner != owner);
        entries.len() < n
    }

    pub(crate) fn keep(&self, owner: &str, id: &str, messages: Vec<Message>, answer: Value) {
        let text = |text: &Option<String>| text.as_ref().map_or(0, String::len);
        let calls = |m: &Message| m.tool_calls.iter().flatten().map(|call| call.to_string().len()).sum::<usize>();
        let n_said: usize =
            messages.iter().map(|m| 256 + text(&m.content) + text(&m.reasoning_content) + calls(m)).sum();
        // As text; the tree of it takes a few times as much.
        let n_bytes = n_said + 4 * answer.to_string().len();
        let (id, owner) = (id.to_owned(), owner.to_owned());
        let entry = Entry { id, owner, messages: Arc::new(messages), answer: Arc::new(answer), n_bytes };
        let mut entries = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        entries.push_back(entry);
        while entries.len() > RESPONSES_MAX || entries.iter().map(|entry| entry.n_bytes).sum::<usize>() > BYTES_MAX {
            entries.pop_front();
        }
    }
}
