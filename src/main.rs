//! The `tidegate` binary.

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use tidegate::commands::check;

/// Bounded queues in front of one application.
#[derive(Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Check(check::CheckArgs),
}

fn main() -> ExitCode {
    match Cli::parse().command {
        Command::Check(args) => check::run(&args),
    }
}
