//! `tidegate healthcheck`: asks a running tidegate whether it is ready.

use std::process::ExitCode;

use clap::Args;

use super::EXIT_FAILED;
use super::asking::AdminArgs;

/// Exit with 0 if a running tidegate is ready, else with 1.
#[derive(Args, Clone, Debug)]
pub struct HealthcheckArgs {
    #[command(flatten)]
    admin: AdminArgs,
}

/// Asks once.
#[must_use]
pub fn run(args: &HealthcheckArgs) -> ExitCode {
    let running = match args.admin.running() {
        Ok(running) => running,
        Err(code) => return code,
    };
    match running.get("/ready") {
        Ok(answer) if answer.is_ok() => {
            println!("ready");
            ExitCode::SUCCESS
        }
        Ok(answer) => {
            eprintln!("tidegate: {} is not ready: {}", running.address(), answer.line);
            ExitCode::from(EXIT_FAILED)
        }
        Err(error) => running.fail(&error),
    }
}
