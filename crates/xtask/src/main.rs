//! Repository tasks: `cargo run -p xtask -- check` and `cargo run -p xtask -- fixtures [--write]`.
//!
//! The checks also run as tests (`cargo test -p xtask`), so the test command alone holds the repository to its plan.
//! Owns no knowledge of models: nothing here may depend on another crate of the workspace.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a command line tool reports on its streams")]

mod checks;
mod fixtures;
mod repo;

use std::process::ExitCode;

use repo::{Finding, Repo};

const USAGE: &str = "\
usage: cargo run -p xtask -- check               every repository check; lists what to change
       cargo run -p xtask -- fixtures            compare the fixtures with their SHA256SUMS
       cargo run -p xtask -- fixtures --write    renew SHA256SUMS after a deliberate change";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let outcome = match args.as_slice() {
        ["check"] => check(),
        ["fixtures"] => fixtures(),
        ["fixtures", "--write"] => fixtures::write(&Repo::fixtures_dir()).map(|n| {
            println!("SHA256SUMS: {n} files");
            true
        }),
        _ => {
            eprintln!("{USAGE}");
            return ExitCode::from(1);
        }
    };
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(message) => {
            eprintln!("xtask: {message}");
            ExitCode::from(2)
        }
    }
}

fn check() -> Result<bool, String> {
    let repo = Repo::open()?;
    let mut n_findings = 0;
    for (name, check) in checks::ALL {
        let findings = check(&repo);
        n_findings += findings.len();
        println!("{name:<14} {}", if findings.is_empty() { "ok" } else { "FAILED" });
        report(&findings);
    }
    if n_findings > 0 {
        println!("\n{n_findings} to change. The rules and their reasons: ARCHITECTURE.md and docs/style.md.");
    }
    Ok(n_findings == 0)
}

fn fixtures() -> Result<bool, String> {
    let (n_files, findings) = fixtures::verify(&Repo::fixtures_dir())?;
    report(&findings);
    println!("fixtures: {n_files} files, {} differences", findings.len());
    Ok(findings.is_empty())
}

fn report(findings: &[Finding]) {
    for finding in findings {
        println!("  {finding}");
    }
}
