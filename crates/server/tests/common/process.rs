//! A server as a process of its own, which can be killed and whose memory can be seen.
//!
//! It is the scripted one, or what the variable MINKE_TEST_SERVER says, such as `target/release/minke serve -m MODEL`.
#![allow(clippy::unwrap_used, dead_code, reason = "a test fails where it unwraps, and not every test uses all of it")]

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::http::get;

const COMMAND: &str = "MINKE_TEST_SERVER";
const PATIENCE: Duration = Duration::from_secs(120);

pub(crate) struct Process {
    child: Child,
    pub(crate) addr: SocketAddr,
}

/// A number that a variable may set.
pub(crate) fn number(variable: &str, otherwise: usize) -> usize {
    std::env::var(variable).map_or(otherwise, |text| text.parse().unwrap())
}

/// Cargo puts examples beside the folder of tests.
fn scripted() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    test.parent().unwrap().parent().unwrap().join("examples/scripted")
}

impl Process {
    /// Starts a server whose chats are in a file, and waits until it takes requests.
    pub(crate) fn start(chats: &Path) -> Self {
        let addr = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let mut command = match std::env::var(COMMAND) {
            Ok(line) => {
                let mut words = line.split_whitespace();
                let mut command = Command::new(words.next().unwrap());
                command.args(words).arg("--addr").arg(addr.to_string()).arg("--chats").arg(chats);
                command
            }
            Err(_) => {
                let mut command = Command::new(scripted());
                command.arg(addr.to_string()).arg(chats);
                command
            }
        };
        let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let mut process = Self { child, addr };
        let start = Instant::now();
        while TcpStream::connect(addr).is_err() || get(addr, "/ready").status != 200 {
            assert!(process.child.try_wait().unwrap().is_none(), "the server has ended");
            assert!(start.elapsed() < PATIENCE, "the server does not start");
            std::thread::sleep(Duration::from_millis(5));
        }
        process
    }

    /// Ends it without a warning.
    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Bytes of memory that it holds; 0 where the system does not say.
    pub(crate) fn memory(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or("0 kB");
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
