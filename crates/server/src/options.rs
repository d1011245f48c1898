//! What a server is told when it starts.
//!
//! Owns the options and what they must be together. Must not read files or variables.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use crate::machine::MemoryUse;

/// How to serve.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where to listen; port 0 takes any that is free.
    pub addr: SocketAddr,
    /// Keys of those who may use it; none: everybody who reaches it.
    pub keys: Vec<ApiKey>,
    /// Origins whose pages may use it; `*` for all. None: no pages but its own.
    pub cors: Vec<String>,
    /// Names beside its address under which it is reached, for requests without keys.
    pub hosts: Vec<String>,
    /// Certificate and key, as PEM text.
    pub tls: Option<Tls>,
    /// The file of stored chats; none: chats are not stored.
    pub chats: Option<PathBuf>,
    /// The folder of files that name training runs; none: none are shown.
    pub runs: Option<PathBuf>,
    /// What memory is taken for, to be shown.
    pub memory: Vec<MemoryUse>,
    /// Requests that run or wait; more are told to come again.
    pub n_requests: usize,
    /// Requests of one key that run or wait at once.
    pub n_requests_per_key: usize,
    /// Requests of one key in a minute; 0 for any number.
    pub rate_per_minute: u32,
    /// The largest body of a request.
    pub body_bytes: usize,
    /// Connections at once; more wait to be accepted.
    pub n_connections: usize,
    /// How long a client may take to send a request's head, and how long a connection may be idle.
    pub head_timeout: Duration,
    /// How long a client may take to send a request's body.
    pub body_timeout: Duration,
    /// How long a client may take no bytes of an answer.
    pub write_timeout: Duration,
    /// How long requests may go on once the server is to end.
    pub drain_timeout: Duration,
    /// Silence on a stream after which a comment is sent.
    pub keep_alive: Duration,
}

/// A key and the name that logs may show.
#[derive(Clone)]
pub struct ApiKey {
    /// Shown in place of the key.
    pub name: String,
    /// The secret.
    pub secret: String,
}

impl std::fmt::Debug for ApiKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ApiKey").field("name", &self.name).finish_non_exhaustive()
    }
}

/// What a server needs to speak TLS.
#[derive(Clone)]
pub struct Tls {
    /// The certificate and those that sign it.
    pub certificates: Vec<u8>,
    /// The certificate's key.
    pub key: Vec<u8>,
}

impl std::fmt::Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tls").finish_non_exhaustive()
    }
}

/// A server that cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Anybody could use it.
    #[error(
        "{0} is reached from other machines: expected at least one API key, found none; name a file of keys, or listen on \
         127.0.0.1"
    )]
    KeysRequired(SocketAddr),
    /// A key that is no secret, or that no client can send.
    #[error("API key {name:?}: expected at least {min} visible ASCII characters")]
    Key {
        /// The key's name.
        name: String,
        /// Characters that a key has at least.
        min: usize,
    },
    /// The address is taken, or is not this machine's.
    #[error("{addr}: cannot listen: {source}")]
    Listen {
        /// The address.
        addr: SocketAddr,
        /// The system's answer.
        source: std::io::Error,
    },
    /// Certificate or key cannot be used.
    #[error("TLS: {0}")]
    Tls(String),
    /// The stored chats cannot be used.
    #[error("{path}: stored chats cannot be opened: {problem}")]
    Chats {
        /// Their file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// An origin that no browser sends.
    #[error("CORS: expected origins such as https://example.org, or *; found {0:?}")]
    Origin(String),
    /// The system gives no threads.
    #[error("cannot start: {0}")]
    Io(#[from] std::io::Error),
}

/// Characters of a key at least.
const KEY_CHARS_MIN: usize = 8;

impl Options {
    /// The defaults for an address.
    #[must_use]
    pub fn new(addr: SocketAddr) -> Self {
        Self {
            addr,
            keys: Vec::new(),
            cors: Vec::new(),
            hosts: Vec::new(),
            tls: None,
            chats: None,
            runs: None,
            memory: Vec::new(),
            n_requests: 256,
            n_requests_per_key: 256,
            rate_per_minute: 0,
            body_bytes: 32 << 20,
            n_connections: 4096,
            head_timeout: Duration::from_secs(60),
            body_timeout: Duration::from_secs(60),
            write_timeout: Duration::from_secs(60),
            drain_timeout: Duration::from_secs(30),
            keep_alive: Duration::from_secs(4),
        }
    }

    /// Holds the options against each other.
    ///
    /// # Errors
    /// The server would be open to other machines without a key, or a key is unfit
    pub(crate) fn check(&self) -> Result<(), StartError> {
        if !self.addr.ip().is_loopback() && self.keys.is_empty() {
            return Err(StartError::KeysRequired(self.addr));
        }
        let is_unfit =
            |key: &&ApiKey| key.secret.len() < KEY_CHARS_MIN || !key.secret.bytes().all(|byte| byte.is_ascii_graphic());
        match self.keys.iter().find(is_unfit) {
            Some(key) => Err(StartError::Key { name: key.name.clone(), min: KEY_CHARS_MIN }),
            None => Ok(()),
        }
    }
}
