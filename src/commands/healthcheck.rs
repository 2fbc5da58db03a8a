//! `tidegate healthcheck`: asks a running tidegate whether it is ready.

use std::process::ExitCode;
use std::time::Duration;

use clap::Args;

use super::EXIT_FAILED;
use super::order::with_address;
use super::remote::{Remote, ask};

/// Exit with 0 if a running tidegate is ready, else with 1.
#[derive(Args, Clone, Debug)]
pub struct HealthcheckArgs {
    #[command(flatten)]
    remote: Remote,
    /// How long to wait for the answer, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 2)]
    #[arg(value_parser = clap::value_parser!(u64).range(1..=60))]
    timeout: u64,
}

/// Asks once.
#[must_use]
pub fn run(args: &HealthcheckArgs) -> ExitCode {
    with_address(&args.remote, |admin| {
        match ask(admin, "GET", "/ready", Duration::from_secs(args.timeout)) {
            Ok(answer) if answer.status == 200 => {
                println!("ready");
                ExitCode::SUCCESS
            }
            Ok(answer) => {
                let (status, body) = (answer.status, answer.body.trim());
                eprintln!("tidegate: {admin} is not ready: {status} {body}");
                ExitCode::from(EXIT_FAILED)
            }
            Err(error) => {
                eprintln!("tidegate: no answer from {admin}: {error}");
                ExitCode::from(EXIT_FAILED)
            }
        }
    })
}
