//! `--vs`: another program, run in turn with our own rounds.
//!
//! Owns the child process. Its output goes to stderr, for stdout is ours. Must not read what it prints.

use std::process::{Command, Stdio};

use super::clock::{Clock, Spent};
use crate::failure::Failure;

/// Runs the command in the system's shell and waits for it.
pub(super) fn run(command: &str) -> Result<Spent, Failure> {
    let (shell, flag) = if cfg!(windows) { ("cmd", "/C") } else { ("sh", "-c") };
    let clock = Clock::start_for_children();
    let status = Command::new(shell).args([flag, command]).stdin(Stdio::null()).stdout(std::io::stderr()).status();
    let spent = clock.spent();
    match status {
        Ok(status) if status.success() => Ok(spent),
        Ok(status) => Err(Failure::input(format!("--vs: expected a command that succeeds, found {status}: {command}"))),
        Err(error) => Err(Failure::input(format!("--vs: {shell} cannot be run: {error}"))),
    }
}
