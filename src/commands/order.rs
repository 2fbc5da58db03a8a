//! `tidegate reload` and `tidegate drain`: orders to a running tidegate on this machine.

use std::process::ExitCode;
use std::time::Duration;

use clap::Args;

use super::remote::{Remote, ask};
use super::{EXIT_CONFIG, EXIT_FAILED, print};
use crate::config::Format;

/// Have a running tidegate load its configuration again, and say what changed. Exit with 78 if the
/// new one is invalid: the old one stays in force.
#[derive(Args, Clone, Debug)]
pub struct ReloadArgs {
    #[command(flatten)]
    remote: Remote,
}

/// Have a running tidegate drain, and wait until nothing is under way any more: for a preStop hook.
/// It goes on answering /metrics, and ends with SIGTERM.
#[derive(Args, Clone, Debug)]
pub struct DrainArgs {
    #[command(flatten)]
    remote: Remote,
    /// How long to wait for it, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    #[arg(value_parser = clap::value_parser!(u64).range(1..=3600))]
    timeout: u64,
}

/// Reloading reads a file; a moment is enough.
const RELOAD_PATIENCE: Duration = Duration::from_secs(30);

/// `tidegate reload`.
#[must_use]
pub fn reload(args: &ReloadArgs) -> ExitCode {
    give(&args.remote, "/reload", RELOAD_PATIENCE)
}

/// `tidegate drain`.
#[must_use]
pub fn drain(args: &DrainArgs) -> ExitCode {
    give(&args.remote, "/drain", Duration::from_secs(args.timeout))
}

fn give(remote: &Remote, path: &str, limit: Duration) -> ExitCode {
    with_address(remote, |admin| match ask(admin, "POST", path, limit) {
        Ok(answer) if answer.status == 200 => {
            print(&answer.body);
            ExitCode::SUCCESS
        }
        Ok(answer) => {
            eprint!("{}", answer.body);
            ExitCode::from(if answer.status == 422 { EXIT_CONFIG } else { EXIT_FAILED })
        }
        Err(error) => {
            eprintln!("tidegate: no answer from {admin}: {error}");
            ExitCode::from(EXIT_FAILED)
        }
    })
}

/// Does something with the admin address, if the configuration tells it.
pub(super) fn with_address(remote: &Remote, then: impl FnOnce(&str) -> ExitCode) -> ExitCode {
    match remote.address() {
        Ok(admin) => then(&admin),
        Err(report) => {
            eprint!("{}", report.render(Format::Human, false));
            ExitCode::from(EXIT_CONFIG)
        }
    }
}
