//! Responses that others may follow.
//!
//! Owns them, in memory and up to a limit; the oldest go first. Must not outlive the process: chats that are to be kept are
//! `chats`.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use text::Message;

/// Responses and bytes of text that are remembered.
const RESPONSES_MAX: usize = 1024;
const BYTES_MAX: usize = 64 << 20;

struct Entry {
    id: String,
    owner: String,
    messages: Arc<Vec<Message>>,
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

    pub(crate) fn keep(&self, owner: &str, id: &str, messages: Vec<Message>) {
        let text = |text: &Option<String>| text.as_ref().map_or(0, String::len);
        let calls = |m: &Message| m.tool_calls.iter().flatten().map(|call| call.to_string().len()).sum::<usize>();
        let n_bytes = messages.iter().map(|m| 256 + text(&m.content) + text(&m.reasoning_content) + calls(m)).sum();
        let entry = Entry { id: id.to_owned(), owner: owner.to_owned(), messages: Arc::new(messages), n_bytes };
        let mut entries = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        entries.push_back(entry);
        while entries.len() > RESPONSES_MAX || entries.iter().map(|entry| entry.n_bytes).sum::<usize>() > BYTES_MAX {
            entries.pop_front();
        }
    }
}
