//! `tidegate reload` and `tidegate drain`: orders to a running tidegate on this machine.

use std::process::ExitCode;
use std::time::Duration;

use clap::Args;

use super::asking::AdminArgs;
use super::{EXIT_CONFIG, EXIT_FAILED, print};

/// Have a running tidegate load its configuration again, and say what changed. Exit with 78 if the
/// new one is invalid: the old one stays in force.
#[derive(Args, Clone, Debug)]
pub struct ReloadArgs {
    #[command(flatten)]
    admin: AdminArgs,
}

/// Have a running tidegate drain, and wait until nothing is under way any more: for a preStop hook.
/// It waits for a minute, or longer if --timeout says so. tidegate goes on answering /metrics, and
/// ends with SIGTERM.
#[derive(Args, Clone, Debug)]
pub struct DrainArgs {
    #[command(flatten)]
    admin: AdminArgs,
}

/// The least time that an order may take: a drain has its grace, a reload reads files.
const PATIENCE: Duration = Duration::from_secs(60);

/// `tidegate reload`.
#[must_use]
pub fn reload(args: &ReloadArgs) -> ExitCode {
    give(&args.admin, "/reload")
}

/// `tidegate drain`.
#[must_use]
pub fn drain(args: &DrainArgs) -> ExitCode {
    give(&args.admin, "/drain")
}

fn give(admin: &AdminArgs, path: &str) -> ExitCode {
    let running = match admin.running() {
        Ok(running) => running.patient(PATIENCE),
        Err(code) => return code,
    };
    match running.post(path) {
        Ok(answer) if answer.is_ok() => {
            print(&answer.body);
            ExitCode::SUCCESS
        }
        Ok(answer) => {
            eprint!("{}", answer.body);
            ExitCode::from(if answer.status() == Some("422") { EXIT_CONFIG } else { EXIT_FAILED })
        }
        Err(error) => running.fail(&error),
    }
}
