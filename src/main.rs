//! The `tidegate` binary: see `commands`.

use std::process::ExitCode;

use clap::Parser;
use tidegate::commands::Cli;

fn main() -> ExitCode {
    Cli::parse().run()
}
