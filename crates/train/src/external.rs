//! Commands outside the program that make examples or judge answers, over JSON lines.
//!
//! Owns their limits: time, output, memory and what they write to files, and what a broken one costs (an error that names
//! it, never the run). A command gets no shell, its standard error is kept for the message, and one that breaks or is no
//! longer wanted is ended with all that it started.
//!
//! Memory and files are limited on Linux alone, per process, from just after the start; elsewhere, and against malice,
//! run the trainer in a container: a command has the rights of who runs it.
//!
//! A *verifier* reads one line `{"prompt": …, "completion": …, "answer": …, "data": …}` for each sample, and writes one
//! line `{"reward": 0.0 to 1.0}` for each, in order. A *generator* reads nothing and writes examples; `MINKE_SEED` is in
//! its environment.

use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// What a command may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Longest wait for one line.
    pub line_time: Duration,
    /// Longest line, in bytes.
    pub line_bytes: usize,
    /// Most bytes that it may write to us in all.
    pub output_bytes: u64,
    /// Most address space of each of its processes, in bytes (Linux).
    pub memory_bytes: u64,
    /// Longest file that it may write, in bytes (Linux).
    pub file_bytes: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            line_time: Duration::from_secs(10),
            line_bytes: 1 << 20,
            output_bytes: 4 << 30,
            memory_bytes: 8 << 30,
            file_bytes: 1 << 30,
        }
    }
}

/// Why a command is of no use. Every message names it.
#[derive(Debug, thiserror::Error)]
pub enum ExternalError {
    /// It could not be started.
    #[error("command {command:?} cannot be started: {source}; check the name, that it is executable, and its path")]
    Start {
        /// The command line.
        command: String,
        /// The system's reason.
        source: std::io::Error,
    },
    /// It was silent for too long, and was ended.
    #[error(
        "command {command:?} wrote no line within {seconds} s and was ended; answer faster or raise the time limit"
    )]
    Hangs {
        /// The command line.
        command: String,
        /// The limit.
        seconds: f64,
    },
    /// It ended, or closed its output, before it had answered.
    #[error("command {command:?} ended ({status}) before it had answered; its last words: {stderr:?}")]
    Died {
        /// The command line.
        command: String,
        /// How it ended.
        status: String,
        /// The end of its standard error.
        stderr: String,
    },
    /// It wrote more than it may, and was ended.
    #[error("command {command:?} wrote more than {limit} bytes ({what}) and was ended")]
    Floods {
        /// The command line.
        command: String,
        /// The limit.
        limit: u64,
        /// Of what.
        what: &'static str,
    },
    /// It wrote something else than what is expected.
    #[error("command {command:?}, line {line}: expected {expected}, found {found:?}")]
    Rubbish {
        /// The command line.
        command: String,
        /// Which of its lines, from 1.
        line: u64,
        /// What would have been right.
        expected: String,
        /// The line's beginning.
        found: String,
    },
}

/// A running command.
#[derive(Debug)]
pub struct External {
    command: String,
    limits: Limits,
    child: Child,
    stdin: Option<SyncSender<Vec<u8>>>,
    lines: Receiver<Line>,
    errors: Receiver<String>,
    n_lines: u64,
    n_bytes: u64,
}

#[derive(Debug)]
enum Line {
    Text(Vec<u8>),
    TooLong,
}

impl External {
    /// Starts `command`, its program first, in `folder`, with `environment` beside the program's own.
    ///
    /// # Errors
    /// The list is empty or the program cannot be started
    pub fn start(
        command: &[String],
        folder: &Path,
        environment: &[(&str, String)],
        limits: Limits,
    ) -> Result<Self, ExternalError> {
        let name = clip(&command.join(" "));
        let refused = |source| ExternalError::Start { command: name.clone(), source };
        let Some((program, arguments)) = command.split_first() else {
            return Err(refused(std::io::Error::new(std::io::ErrorKind::InvalidInput, "the command is empty")));
        };
        let mut prepared = Command::new(program);
        in_its_own_group(&mut prepared);
        let mut child = prepared
            .args(arguments)
            .current_dir(folder)
            .envs(environment.iter().map(|(key, value)| (key, value)))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(refused)?;
        limit(&child, &limits);
        let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let stdin = stdin.map(write_behind);
        // A small channel: a command that floods waits for us, not we for memory.
        let (send, lines) = sync_channel(4);
        if let Some(stdout) = stdout {
            thread::spawn(move || read_lines(stdout, limits.line_bytes, &send));
        }
        let (send, errors) = sync_channel(1);
        if let Some(stderr) = stderr {
            thread::spawn(move || drop(send.send(last_words(stderr))));
        }
        Ok(Self { command: name, limits, child, stdin, lines, errors, n_lines: 0, n_bytes: 0 })
    }

    /// Says that nothing more will be asked: the command reads an end of file.
    pub fn close_input(&mut self) {
        self.stdin = None;
    }

    /// The next line that is not blank, as `T`; `None` when the command has ended well.
    ///
    /// # Errors
    /// It hangs, died, flooded or wrote something else; then it has been ended and every later call fails too
    pub fn next<T: for<'de> Deserialize<'de>>(&mut self, expected: &str) -> Result<Option<T>, ExternalError> {
        let deadline = Instant::now() + self.limits.line_time;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let line = match self.lines.recv_timeout(left) {
                Ok(Line::Text(line)) => line,
                Ok(Line::TooLong) => return Err(self.floods(self.limits.line_bytes as u64, "in one line")),
                Err(RecvTimeoutError::Timeout) => return Err(self.hangs()),
                Err(RecvTimeoutError::Disconnected) => return self.ended(deadline).map(|()| None),
            };
            self.n_lines += 1;
            self.n_bytes += line.len() as u64 + 1;
            if self.n_bytes > self.limits.output_bytes {
                return Err(self.floods(self.limits.output_bytes, "in all"));
            }
            if line.iter().all(u8::is_ascii_whitespace) {
                continue;
            }
            return match serde_json::from_slice(&line) {
                Ok(value) => Ok(Some(value)),
                Err(problem) => {
                    self.end();
                    Err(ExternalError::Rubbish {
                        command: self.command.clone(),
                        line: self.n_lines,
                        expected: format!("{expected} ({problem})"),
                        found: clip(&String::from_utf8_lossy(&line)),
                    })
                }
            };
        }
    }

    /// Sends one line and waits for one.
    ///
    /// # Errors
    /// As [`Self::next`], and if the command ended instead
    pub fn ask<T: for<'de> Deserialize<'de>>(
        &mut self,
        question: &impl Serialize,
        expected: &str,
    ) -> Result<T, ExternalError> {
        let line = serde_json::to_vec(question).unwrap_or_default();
        // A command that has gone away is found when its answer is missing.
        let sent = self.stdin.as_ref().is_some_and(|stdin| stdin.send(line).is_ok());
        match self.next(expected)? {
            Some(answer) if sent => Ok(answer),
            _ => Err(self.died()),
        }
    }

    /// After its output is closed: waits for the end, and asks how it was.
    fn ended(&mut self, deadline: Instant) -> Result<(), ExternalError> {
        loop {
            match self.child.try_wait() {
                Ok(Some(status)) if status.success() => return Ok(()),
                Ok(None) if Instant::now() < deadline => thread::sleep(Duration::from_millis(2)),
                Ok(None) => return Err(self.hangs()),
                _ => return Err(self.died()),
            }
        }
    }

    fn hangs(&mut self) -> ExternalError {
        self.end();
        ExternalError::Hangs { command: self.command.clone(), seconds: self.limits.line_time.as_secs_f64() }
    }

    fn floods(&mut self, limit: u64, what: &'static str) -> ExternalError {
        self.end();
        ExternalError::Floods { command: self.command.clone(), limit, what }
    }

    fn died(&mut self) -> ExternalError {
        self.end();
        let status = self.child.wait().map_or_else(|e| e.to_string(), |status| status.to_string());
        // The reader of its errors ends with it, unless a grandchild holds the pipe open.
        let stderr = self.errors.recv_timeout(Duration::from_millis(500)).unwrap_or_default();
        ExternalError::Died { command: self.command.clone(), status, stderr }
    }

    fn end(&mut self) {
        self.stdin = None;
        // It may have ended by itself; waiting collects it either way. What it started first: its number is still its own.
        if matches!(self.child.try_wait(), Ok(None)) {
            end_group(&self.child);
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for External {
    fn drop(&mut self) {
        self.end();
    }
}

#[cfg(unix)]
fn in_its_own_group(command: &mut Command) {
    use std::os::unix::process::CommandExt as _;
    command.process_group(0);
}

#[cfg(not(unix))]
fn in_its_own_group(_: &mut Command) {}

/// Ends the child and all of its group. A child that has been waited for is gone, and its number may be another's.
#[cfg(unix)]
fn end_group(child: &Child) {
    use rustix::process::{Pid, Signal, kill_process_group};
    if let Some(pid) = i32::try_from(child.id()).ok().and_then(Pid::from_raw) {
        // The group may have ended by itself.
        let _ = kill_process_group(pid, Signal::KILL);
    }
}

#[cfg(not(unix))]
fn end_group(_: &Child) {}

#[cfg(target_os = "linux")]
fn limit(child: &Child, limits: &Limits) {
    use rustix::process::{Pid, Resource, Rlimit, prlimit};
    let Some(pid) = i32::try_from(child.id()).ok().and_then(Pid::from_raw) else { return };
    for (resource, most) in
        [(Resource::As, limits.memory_bytes), (Resource::Fsize, limits.file_bytes), (Resource::Core, 0)]
    {
        // It fails if the command has ended already, or has a lower limit that it may not raise.
        let _ = prlimit(Some(pid), resource, Rlimit { current: Some(most), maximum: Some(most) });
    }
}

#[cfg(not(target_os = "linux"))]
fn limit(_: &Child, _: &Limits) {}

/// Writes from a thread, so that a command which does not read cannot hold up the trainer: its answer is awaited with a
/// limit, and ending it ends the write.
fn write_behind(mut stdin: ChildStdin) -> SyncSender<Vec<u8>> {
    let (send, receive) = sync_channel::<Vec<u8>>(1);
    thread::spawn(move || {
        for mut line in receive {
            line.push(b'\n');
            if stdin.write_all(&line).and_then(|()| stdin.flush()).is_err() {
                return;
            }
        }
    });
    send
}

fn read_lines(stdout: ChildStdout, line_bytes: usize, send: &SyncSender<Line>) {
    let mut reader = BufReader::new(stdout);
    loop {
        let mut line = Vec::new();
        let read = reader.by_ref().take(line_bytes as u64 + 1).read_until(b'\n', &mut line);
        match read {
            Ok(0) | Err(_) => return,
            Ok(_) if line.ends_with(b"\n") => drop(line.pop()),
            Ok(n) if n > line_bytes => return drop(send.send(Line::TooLong)),
            Ok(_) => {}
        }
        if send.send(Line::Text(line)).is_err() {
            return;
        }
    }
}

/// The end of what a command wrote to its standard error, in bounded memory.
fn last_words(mut stderr: ChildStderr) -> String {
    const KEPT: usize = 1000;
    let mut kept = Vec::new();
    let mut chunk = [0; 4096];
    while let Ok(n @ 1..) = stderr.read(&mut chunk) {
        kept.extend_from_slice(&chunk[..n]);
        kept.drain(..kept.len().saturating_sub(KEPT));
    }
    String::from_utf8_lossy(&kept).trim().to_owned()
}

fn clip(text: &str) -> String {
    const CHARS_MAX: usize = 160;
    match text.char_indices().nth(CHARS_MAX) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

/// A sample to be judged.
#[derive(Clone, Debug, Serialize)]
pub struct Sample<'a> {
    /// What was asked.
    pub prompt: &'a str,
    /// All that the model wrote, reasoning included.
    pub completion: &'a str,
    /// What stands after the reasoning.
    pub answer: &'a str,
    /// Whatever came with the question.
    pub data: &'a Value,
}

#[derive(Deserialize)]
struct Verdict {
    reward: f64,
}

/// A verifier outside the program, started when first asked and again after it has broken.
#[derive(Debug)]
pub struct Verifier {
    command: Vec<String>,
    folder: PathBuf,
    limits: Limits,
    running: Option<External>,
}

impl Verifier {
    /// A verifier that is not started yet; its command runs in `folder`.
    #[must_use]
    pub fn new(command: Vec<String>, folder: PathBuf, limits: Limits) -> Self {
        Self { command, folder, limits, running: None }
    }

    /// The reward of a sample, from 0 to 1.
    ///
    /// # Errors
    /// The command broke on this sample. It has been ended, and the next sample gets a fresh one
    pub fn reward(&mut self, sample: &Sample<'_>) -> Result<f64, ExternalError> {
        const EXPECTED: &str = "{\"reward\": a number from 0 to 1}";
        let mut external = match self.running.take() {
            Some(running) => running,
            None => External::start(&self.command, &self.folder, &[], self.limits)?,
        };
        let verdict: Verdict = external.ask(sample, EXPECTED)?;
        if !(0.0..=1.0).contains(&verdict.reward) {
            return Err(ExternalError::Rubbish {
                command: external.command.clone(),
                line: external.n_lines,
                expected: EXPECTED.to_owned(),
                found: verdict.reward.to_string(),
            });
        }
        self.running = Some(external);
        Ok(verdict.reward)
    }
}
