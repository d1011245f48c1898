//! Serving a model over HTTP, in the languages that clients already speak.
//!
//! Owns sockets, wire formats, keys, limits and stored chats. Requests become tokens by `text` and are answered by
//! `engine`, of which only its [`engine::Handle`] is known here. Must not contain tensors, blocks or kernels, print, or
//! write outside of the file that it is given.

mod activity;
mod app;
mod auth;
mod body;
mod chats;
mod dialect;
mod error;
mod generate;
mod listen;
mod machine;
mod metrics;
mod model;
mod options;
mod page;
mod router;
mod runs;
mod status;
mod stream;
mod tokens;

pub use chats::{Chats, ChatsError};
pub use generate::Mask;
pub use machine::MemoryUse;
pub use model::ServedModel;
pub use options::{ApiKey, Options, StartError, Tls};
pub use router::openapi;

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;

use engine::Handle;
use tokio_rustls::TlsAcceptor;

use app::{App, Shared};
use model::Model;

/// Threads that serve sockets. They only move bytes, so few are enough, and the processors are the engine's.
const N_SOCKET_THREADS: usize = 2;
/// Threads that may wait for the engine or work on prompts at once.
const N_BLOCKING_THREADS: usize = 512;

/// A server that listens.
pub struct Server {
    app: App,
    listener: TcpListener,
    tls: Option<TlsAcceptor>,
    addr: SocketAddr,
}

impl Server {
    /// Opens the socket and the stored chats.
    ///
    /// # Errors
    /// The address, the keys, the certificate or the stored chats cannot be used
    pub fn bind(model: ServedModel, engine: Handle, options: Options) -> Result<Self, StartError> {
        options.check()?;
        router::check_origins(&options)?;
        let tls = options.tls.as_ref().map(listen::tls).transpose()?;
        let chats = match &options.chats {
            Some(path) => {
                Some(Chats::open(path).map_err(|e| StartError::Chats { path: path.clone(), problem: e.to_string() })?)
            }
            None => None,
        };
        let listener = listen::bind(options.addr)?;
        let addr = listener.local_addr()?;
        let app = Arc::new(Shared::new(Arc::new(Model::new(model)), engine, options, chats));
        Ok(Self { app, listener, tls, addr })
    }

    /// Where it listens.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// What a client is to be told.
    #[must_use]
    pub fn url(&self) -> String {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        format!("{scheme}://{}", self.addr)
    }

    /// Serves until `stop`, then lets what runs come to its end for as long as the options say.
    ///
    /// # Errors
    /// The socket cannot be used
    pub async fn serve(self, stop: impl Future<Output = ()>) -> std::io::Result<()> {
        let router = router::router(&self.app);
        let watched = machine::watch(self.app.clone());
        tokio::select! {
            served = listen::serve(self.listener, self.tls, router, self.app, stop) => served,
            () = watched => Ok(()),
        }
    }

    /// Serves on threads of its own until the process is asked to end (SIGTERM or SIGINT); asked twice, it ends at once.
    ///
    /// # Errors
    /// There are no threads, or the socket cannot be used
    pub fn run(self) -> std::io::Result<()> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(N_SOCKET_THREADS)
            .max_blocking_threads(N_BLOCKING_THREADS)
            .thread_name("socket")
            .enable_all()
            .build()?;
        let served = runtime.block_on(async {
            let mut signals = Signals::new()?;
            let (asked, stop) = tokio::sync::oneshot::channel();
            let again = async {
                signals.next().await;
                // The server may have ended by itself.
                let _ = asked.send(());
                signals.next().await;
            };
            let stop = async {
                let _ = stop.await;
            };
            tokio::select! {
                served = self.serve(stop) => served,
                () = again => Ok(()),
            }
        });
        // Threads that wait for the engine would wait for its end.
        runtime.shutdown_background();
        served
    }
}

/// The ways in which a process is asked to end.
struct Signals {
    #[cfg(unix)]
    terminate: tokio::signal::unix::Signal,
}

impl Signals {
    fn new() -> std::io::Result<Self> {
        #[cfg(unix)]
        let terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
        Ok(Self {
            #[cfg(unix)]
            terminate,
        })
    }

    async fn next(&mut self) {
        #[cfg(unix)]
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = tokio::signal::ctrl_c() => {}
        }
        #[cfg(not(unix))]
        let _ = tokio::signal::ctrl_c().await;
    }
}
