//! `tidegate healthcheck`: asks a running tidegate whether it is ready.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, ToSocketAddrs};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Args;

use super::{EXIT_CONFIG, EXIT_FAILED};
use crate::config::{self, Format, Overrides, Report};

/// Exit with 0 if a running tidegate is ready, else with 1.
#[derive(Args, Clone, Debug)]
pub struct HealthcheckArgs {
    /// The admin address of the running tidegate [default: that of the configuration]
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
        Ok(status) if status.split(' ').nth(1) == Some("200") => {
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
        Some(path) => config::load(path, &environment, &Overrides::default())
            .or_else(|_| config::load(path, &environment, &flags))?,
        None => config::from_flags(&environment, &flags)?,
    };
    Ok(loaded.config.admin.listen.to_string())
}

/// The status line of `GET /ready`, within so long in all.
fn ask(admin: &str, limit: Duration) -> io::Result<String> {
    let deadline = Instant::now() + limit;
    let mut error = io::Error::new(io::ErrorKind::NotFound, "the address cannot be resolved");
    for address in admin.to_socket_addrs()? {
        match ask_one(reachable(address), deadline) {
            Ok(status) => return Ok(status),
            Err(failed) => error = failed,
        }
    }
    Err(error)
}

/// The address that is listened on may be the unspecified one; it is reached on loopback.
fn reachable(mut address: SocketAddr) -> SocketAddr {
    match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => address.set_ip(Ipv4Addr::LOCALHOST.into()),
        IpAddr::V6(ip) if ip.is_unspecified() => address.set_ip(Ipv6Addr::LOCALHOST.into()),
        IpAddr::V4(_) | IpAddr::V6(_) => {}
    }
    address
}

fn ask_one(address: SocketAddr, deadline: Instant) -> io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&address, left(deadline)?)?;
    stream.set_write_timeout(Some(left(deadline)?))?;
    stream.write_all(b"GET /ready HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")?;
    let mut answer = Vec::new();
    let mut buffer = [0; 512];
    // The status line is short; more than this is not an answer of tidegate.
    while answer.len() < 4096 && !answer.contains(&b'\n') {
        stream.set_read_timeout(Some(left(deadline)?))?;
        match stream.read(&mut buffer)? {
            0 => break,
            read => answer.extend_from_slice(&buffer[..read]),
        }
    }
    let line = String::from_utf8_lossy(&answer).lines().next().unwrap_or_default().to_owned();
    Ok(line)
}

fn left(deadline: Instant) -> io::Result<Duration> {
    let left = deadline.saturating_duration_since(Instant::now());
    if left.is_zero() { Err(io::ErrorKind::TimedOut.into()) } else { Ok(left) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_unspecified_is_reached_on_loopback() {
        for (listened, asked) in [
            ("0.0.0.0:9909", "127.0.0.1:9909"),
            ("[::]:9909", "[::1]:9909"),
            ("10.0.0.0:9909", "10.0.0.0:9909"),
        ] {
            assert_eq!(reachable(listened.parse().unwrap()), asked.parse().unwrap());
        }
    }
}
