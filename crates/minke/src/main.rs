//! The `minke` program: flags in, calls out.
//!
//! Owns the command line, its exit codes (0 done, 1 failed, 2 bad usage or input) and everything printed: results to
//! stdout, all else to stderr. Must not contain logic that another front end would need.

mod chat_sessions;
mod command;
mod device;
mod engine_of;
mod failure;
mod folders;
mod memory;
mod progress;
mod runs;
mod source;
mod tiny;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use command::{bench, chat, eval, inspect, logits, quantize, serve, train};

/// A server's small requests come and go on many threads, and the system's allocator keeps a little of each thread's.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Runs and explains DeepSeek-family models on the machine at hand.
///
/// A MODEL is a folder with config.json and safetensors, or a .gguf file (any part of a split one).
#[derive(Debug, Parser)]
#[command(version, propagate_version = true, max_term_width = 110)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    // Without a line here, so that the help at `bench::Args` is shown whole.
    Bench(bench::Args),
    /// Talk to a model: the answer goes to stdout, its reasoning to stderr.
    Chat(chat::Args),
    // Without a line here, so that the help at `eval::Args` is shown whole.
    Eval(eval::Args),
    /// Explain a model before loading it: shapes, parameters, cache and memory.
    Inspect(inspect::Args),
    /// Write the logits behind every token of a sequence to a safetensors file.
    Logits(logits::Args),
    // Without a line here, so that the help at `quantize::Args` is shown whole.
    Quantize(quantize::Args),
    // Without a line here, so that the help at `serve::Args` is shown whole.
    Serve(serve::Args),
    // Without a line here, so that the help at `train::Args` is shown whole.
    Train(train::Args),
}

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Bench(args) => bench::run(&args),
        Command::Chat(args) => chat::run(&args),
        Command::Eval(args) => eval::run(&args),
        Command::Inspect(args) => inspect::run(&args),
        Command::Logits(args) => logits::run(&args),
        Command::Quantize(args) => quantize::run(&args),
        Command::Serve(args) => serve::run(&args),
        Command::Train(args) => train::run(&args),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}
