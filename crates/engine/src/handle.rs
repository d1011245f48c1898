//! The engine on a thread of its own, and the handles that reach it.
//!
//! Owns the loop: a bounded number of commands, then a step. Must not know what a step does.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use crate::engine::Engine;
use crate::request::{Rejected, Request, RequestId};
use crate::runner::Runner;
use crate::stats::Stats;

/// Commands between two steps: streams must not wait for a flood of requests.
const COMMANDS_MAX: usize = 64;

enum Command {
    Submit(Box<Request>, Sender<Result<RequestId, Rejected>>),
    Abort(RequestId),
    Stats(Sender<Stats>),
    Drain,
    Stop,
}

/// Reaches the engine from any thread.
#[derive(Clone)]
pub struct Handle {
    commands: Sender<Command>,
    trouble: Arc<Mutex<Option<String>>>,
}

/// The engine's thread. Dropped, it stops the engine: what runs ends as failed.
pub struct EngineThread {
    handle: Handle,
    thread: Option<JoinHandle<()>>,
}

impl Handle {
    /// As [`Engine::submit`]; waits for at most one step.
    ///
    /// # Errors
    /// As there, or the engine has stopped
    pub fn submit(&self, request: Request) -> Result<RequestId, Rejected> {
        let (answer, outcome) = channel();
        self.commands.send(Command::Submit(Box::new(request), answer)).map_err(|_| Rejected::Stopped)?;
        outcome.recv().unwrap_or(Err(Rejected::Stopped))
    }

    /// As [`Engine::abort`], soon.
    pub fn abort(&self, id: RequestId) {
        // An engine that has stopped has ended every request.
        let _ = self.commands.send(Command::Abort(id));
    }

    /// As [`Engine::stats`]; none if the engine has stopped.
    #[must_use]
    pub fn stats(&self) -> Option<Stats> {
        let (answer, stats) = channel();
        self.commands.send(Command::Stats(answer)).ok()?;
        stats.recv().ok()
    }

    /// No request is taken any more; the engine stops when all that it has are answered.
    pub fn drain(&self) {
        let _ = self.commands.send(Command::Drain);
    }

    /// What the device last complained about, if it failed.
    #[must_use]
    pub fn trouble(&self) -> Option<String> {
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl EngineThread {
    /// Runs an engine.
    ///
    /// # Errors
    /// No thread could be started
    pub fn start<R: Runner + Send + 'static>(engine: Engine<R>) -> io::Result<Self> {
        let (commands, inbox) = channel();
        let trouble = Arc::new(Mutex::new(None));
        let run = {
            let trouble = trouble.clone();
            move || run(engine, &inbox, &trouble)
        };
        let thread = std::thread::Builder::new().name("engine".into()).spawn(run)?;
        Ok(Self { handle: Handle { commands, trouble }, thread: Some(thread) })
    }

    /// A way to reach it.
    #[must_use]
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// Waits until it has stopped, which [`Handle::drain`] asks for.
    pub fn join(mut self) {
        self.wait();
    }

    fn wait(&mut self) {
        if let Some(thread) = self.thread.take() {
            // A panic has been reported by its hook, and there is nothing left to stop.
            let _ = thread.join();
        }
    }
}

impl Drop for EngineThread {
    fn drop(&mut self) {
        let _ = self.handle.commands.send(Command::Stop);
        self.wait();
    }
}

fn run<R: Runner>(mut engine: Engine<R>, inbox: &Receiver<Command>, trouble: &Mutex<Option<String>>) {
    let mut drains = false;
    loop {
        for i in 0..COMMANDS_MAX {
            let command = match engine.has_work() || drains || i > 0 {
                true => inbox.try_recv().ok(),
                false => Some(inbox.recv().unwrap_or(Command::Stop)),
            };
            match command {
                Some(Command::Submit(request, answer)) => {
                    let outcome = if drains { Err(Rejected::Stopped) } else { engine.submit(*request) };
                    // Who asked may be gone; the sink will say so.
                    let _ = answer.send(outcome);
                }
                Some(Command::Abort(id)) => engine.abort(id),
                Some(Command::Stats(answer)) => drop(answer.send(engine.stats())),
                Some(Command::Drain) => drains = true,
                Some(Command::Stop) => return engine.fail_all(),
                None => break,
            }
        }
        if engine.has_work() {
            let say = |text: String| *trouble.lock().unwrap_or_else(PoisonError::into_inner) = Some(text);
            match catch_unwind(AssertUnwindSafe(|| engine.step())) {
                Ok(Ok(())) => {}
                Ok(Err(error)) => {
                    say(error.to_string());
                    engine.fail_all();
                }
                // A bug. The state may be anything, so the engine ends, and everybody hears of it.
                Err(_) => {
                    say("the engine met a bug and has stopped".into());
                    engine.fail_all();
                    return;
                }
            }
        } else if drains {
            return;
        }
    }
}
