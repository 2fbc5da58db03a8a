//! The command line: one file a subcommand.

pub mod check;
pub mod demo;
pub mod export;
pub mod healthcheck;
mod notify;
pub mod order;
pub mod remote;
pub mod run;
pub mod simulate;
pub mod status;
mod table;
pub mod tune;

use std::io::{self, Write};
use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// The exit status of a failure that is none of the others.
pub const EXIT_FAILED: u8 = 1;
/// The exit status for an invalid configuration (`EX_CONFIG` of sysexits.h).
pub const EXIT_CONFIG: u8 = 78;

/// Prints to standard output, for as long as somebody reads: `| head` is no failure.
fn print(text: &str) {
    let mut out = io::stdout().lock();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

/// tidegate keeps an application at its best throughput: it lets in as many requests as the
/// application can work on, queues a few, and turns the rest away at once.
#[derive(Debug, Parser)]
#[command(
    name = "tidegate",
    version,
    arg_required_else_help = true,
    after_help = "\
Examples:
  tidegate run --upstream http://127.0.0.1:8000
  tidegate run -c tidegate.toml
  tidegate check -c tidegate.toml --explain \"GET /api/x\"
  tidegate status --watch
  tidegate demo

Exit status: 0 ok, 1 failed, 2 wrong usage, 78 invalid configuration."
)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the proxy
    Run(run::RunArgs),
    /// Check a configuration without running it, or explain what it does with a request
    Check(check::CheckArgs),
    /// See overload, and what tidegate does about it, on this machine
    Demo(demo::DemoArgs),
    /// See what the gate does with an application and its load, in virtual time
    Simulate(Box<simulate::SimulateArgs>),
    /// Show what a running tidegate does, in the terminal
    Status(status::StatusArgs),
    /// Look at a running tidegate, and say which limits the evidence supports
    Tune(tune::TuneArgs),
    /// Print the files that go with this version: schema, dashboard, alerts, manifests
    Export(export::ExportArgs),
    /// Exit with 0 if a running tidegate is ready, for images without curl
    Healthcheck(healthcheck::HealthcheckArgs),
    /// Have a running tidegate load its configuration again
    Reload(order::ReloadArgs),
    /// Have a running tidegate drain, and wait for it
    Drain(order::DrainArgs),
}

// === impl Cli ===

impl Cli {
    /// Runs the chosen subcommand.
    #[must_use]
    pub fn run(self) -> ExitCode {
        match self.command {
            Command::Run(args) => run::run(&args),
            Command::Check(args) => check::run(&args),
            Command::Demo(args) => demo::run(&args),
            Command::Simulate(args) => simulate::run(&args),
            Command::Status(args) => status::run(&args),
            Command::Tune(args) => tune::run(&args),
            Command::Export(args) => export::run(&args),
            Command::Healthcheck(args) => healthcheck::run(&args),
            Command::Reload(args) => order::reload(&args),
            Command::Drain(args) => order::drain(&args),
        }
    }
}

/// Prints an error with its causes, once.
pub(crate) fn fail(error: &dyn std::error::Error) -> ExitCode {
    let mut text = format!("tidegate: {error}");
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    eprintln!("{text}");
    ExitCode::from(EXIT_FAILED)
}
