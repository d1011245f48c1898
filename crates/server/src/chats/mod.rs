//! Chats that are kept: conversations and their messages in one SQLite file, each belonging to the key that made it.
//!
//! Owns the file (`store.rs`), what a chat looks like outside of it (`wire.rs`, `markdown.rs`), and the routes (`http.rs`).
//! Must not know the engine: who wants a conversation to be answered asks for that elsewhere.

mod http;
mod markdown;
mod store;
mod wire;

pub(crate) use http::routes;
pub use store::{Chats, ChatsError};
