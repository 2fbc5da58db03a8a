//! `tidegate healthcheck`: asks a running tidegate whether it is ready.

use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;

use super::{EXIT_CONFIG, EXIT_FAILED};
use crate::config::{self, Format, Overrides, Report};

/// Exit with 0 if a running tidegate is ready, else with 1.
#[derive(Args, Clone, Debug)]
pub struct HealthcheckArgs {
    /// The admin address of the running tidegate [default: that of the configuration, or 127.0.0.1:9909]
    #[arg(long, value_name = "ADDRESS")]
    admin: Option<String>,
    /// The configuration that it runs with
    #[arg(short, long, value_name = "FILE", env = "TIDEGATE_CONFIG")]
    config: Option<PathBuf>,
    /// How long to wait for the answer, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 2)]
    #[arg(value_parser = clap::value_parser!(u64).range(1..=60))]
    timeout: u64,
}

/// Asks once.
#[must_use]
pub fn run(args: &HealthcheckArgs) -> ExitCode {
    let admin = match admin_address(args) {
        Ok(admin) => admin,
        Err(report) => {
            eprint!("{}", report.render(Format::Human, false));
            return ExitCode::from(EXIT_CONFIG);
        }
    };
    match ask(&admin, Duration::from_secs(args.timeout)) {
        Ok(status) if status.contains(" 200 ") => {
            println!("ready");
            ExitCode::SUCCESS
        }
        Ok(status) => {
            eprintln!("tidegate: {admin} is not ready: {status}");
            ExitCode::from(EXIT_FAILED)
        }
        Err(error) => {
            eprintln!("tidegate: no answer from {admin}: {error}");
            ExitCode::from(EXIT_FAILED)
        }
    }
}

/// Where `tidegate run` would listen, given the same file and variables.
fn admin_address(args: &HealthcheckArgs) -> Result<String, Report> {
    if let Some(admin) = &args.admin {
        return Ok(admin.clone());
    }
    let environment = config::environment();
    // The upstream is of no interest here, and may have been given by a flag.
    let flags =
        Overrides { upstream: Some("http://127.0.0.1:1".to_owned()), ..Overrides::default() };
    let loaded = match &args.config {
        Some(path) => config::load(path, &environment, &Overrides::default())?,
        None => config::from_flags(&environment, &flags)?,
    };
    Ok(loaded.config.admin.listen.to_string())
}

/// The status line of `GET /ready`.
fn ask(admin: &str, limit: Duration) -> io::Result<String> {
    // The address that is listened on may be the unspecified one; it is reached on loopback.
    let address = admin.replace("0.0.0.0", "127.0.0.1").replace("[::]", "[::1]");
    let mut error = io::Error::new(io::ErrorKind::NotFound, "the address cannot be resolved");
    for address in address.to_socket_addrs()? {
        match ask_one(&address, limit) {
            Ok(status) => return Ok(status),
            Err(failed) => error = failed,
        }
    }
    Err(error)
}

fn ask_one(address: &std::net::SocketAddr, limit: Duration) -> io::Result<String> {
    let mut stream = TcpStream::connect_timeout(address, limit)?;
    stream.set_read_timeout(Some(limit))?;
    stream.set_write_timeout(Some(limit))?;
    stream.write_all(b"GET /ready HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.take(4096).read_to_string(&mut answer)?;
    Ok(answer.lines().next().unwrap_or_default().to_owned())
}
