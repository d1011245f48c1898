//! What tests of the server share: a scripted model behind a real socket.
#![allow(clippy::unwrap_used, dead_code, reason = "a test fails where it unwraps, and not every test uses all of it")]

pub(crate) mod http;
pub(crate) mod process;
pub(crate) mod scripted;

use std::net::SocketAddr;
use std::thread::JoinHandle;

use engine::{EngineThread, Handle};
use scripted::{Size, scripted};
use server::{Options, Server};

/// A server that ends with this.
pub(crate) struct Served {
    pub(crate) addr: SocketAddr,
    pub(crate) engine: Handle,
    stop: Option<tokio::sync::oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
    _engine: EngineThread,
}

pub(crate) fn options() -> Options {
    Options::new("127.0.0.1:0".parse().unwrap())
}

pub(crate) fn serve(size: Size, options: Options) -> Served {
    let (engine, model) = scripted(size);
    let handle = engine.handle();
    let server = Server::bind(model, handle.clone(), options).unwrap();
    let addr = server.addr();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let thread = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        runtime.block_on(server.serve(async { drop(stopped.await) })).unwrap();
        runtime.shutdown_background();
    });
    Served { addr, engine: handle, stop: Some(stop), thread: Some(thread), _engine: engine }
}

impl Served {
    /// Asks it to end, and gives the thread that does.
    pub(crate) fn stop(&mut self) -> Option<JoinHandle<()>> {
        drop(self.stop.take());
        self.thread.take()
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        if let Some(thread) = self.stop() {
            thread.join().unwrap();
        }
    }
}
