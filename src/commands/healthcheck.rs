//! `tidegate healthcheck`: asks a running tidegate whether it is ready.

use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;

use super::EXIT_FAILED;

/// Exit with 0 if a running tidegate is ready, else with 1.
#[derive(Args, Clone, Debug)]
pub struct HealthcheckArgs {
    /// The admin address of the running tidegate
    #[arg(
        long,
        value_name = "ADDRESS",
        env = "TIDEGATE_ADMIN_LISTEN",
        default_value = "127.0.0.1:9909"
    )]
    admin: String,
    /// How long to wait for the answer, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 2, value_parser = clap::value_parser!(u64).range(1..=60))]
    timeout: u64,
}

/// Asks once.
#[must_use]
pub fn run(args: &HealthcheckArgs) -> ExitCode {
    match ask(&args.admin, Duration::from_secs(args.timeout)) {
        Ok(status) if status.contains(" 200 ") => {
            println!("ready");
            ExitCode::SUCCESS
        }
        Ok(status) => {
            eprintln!("tidegate: not ready: {status}");
            ExitCode::from(EXIT_FAILED)
        }
        Err(error) => {
            eprintln!("tidegate: no answer from {}: {error}", args.admin);
            ExitCode::from(EXIT_FAILED)
        }
    }
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
