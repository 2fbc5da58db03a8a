//! A running tidegate, as its other commands reach it: through its admin listener.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, ToSocketAddrs};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Args;

use super::EXIT_FAILED;
use crate::config::{self, Overrides, Report};

/// The most of an answer that is read.
const MAX_ANSWER: u64 = 4 * 1024 * 1024;

/// How long to wait for a look.
const PATIENCE: Duration = Duration::from_secs(5);

/// Which tidegate is meant.
#[derive(Args, Clone, Debug)]
pub struct Remote {
    /// The admin address of the running tidegate [default: that of the configuration]
    #[arg(long, value_name = "ADDRESS")]
    admin: Option<String>,
    /// The configuration that it runs with
    #[arg(short, long, value_name = "FILE", env = "TIDEGATE_CONFIG")]
    config: Option<PathBuf>,
}

/// What the admin listener answered.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) body: String,
}

// === impl Remote ===

impl Remote {
    /// Where `tidegate run` would listen, given the same file and variables.
    ///
    /// # Errors
    ///
    /// The configuration is invalid.
    pub(super) fn address(&self) -> Result<String, Report> {
        if let Some(admin) = &self.admin {
            let bare = admin.strip_prefix("http://").unwrap_or(admin);
            return Ok(bare.trim_end_matches('/').to_owned());
        }
        let environment = config::environment();
        // The upstream is of no interest here, and may have been given by a flag.
        let flags =
            Overrides { upstream: Some("http://127.0.0.1:1".to_owned()), ..Overrides::default() };
        let loaded = match &self.config {
            Some(path) => config::load(path, &environment, &Overrides::default())
                .or_else(|_| config::load(path, &environment, &flags))?,
            None => config::from_flags(&environment, &flags)?,
        };
        Ok(loaded.config.admin.listen.to_string())
    }
}

/// Sends a request without a body, and waits for the whole answer within so long in all.
///
/// # Errors
///
/// Nobody answers there, or not in time, or not in HTTP.
pub(super) fn ask(admin: &str, method: &str, path: &str, limit: Duration) -> io::Result<Answer> {
    let deadline = Instant::now() + limit;
    let mut error = io::Error::new(io::ErrorKind::NotFound, "the address cannot be resolved");
    for address in admin.to_socket_addrs()? {
        match ask_one(reachable(address), method, path, deadline) {
            Ok(answer) => return Ok(answer),
            Err(failed) => error = failed,
        }
    }
    Err(error)
}

/// `/status.json`.
///
/// # Errors
///
/// As those of [`ask`], or it is not a tidegate that answers.
pub(super) fn status(admin: &str) -> io::Result<serde_json::Value> {
    let odd = |why: String| io::Error::new(io::ErrorKind::InvalidData, why);
    let answer = ask(admin, "GET", "/status.json", PATIENCE)?;
    if answer.status != 200 {
        return Err(odd(format!("it has no /status.json: {}", answer.status)));
    }
    serde_json::from_str(&answer.body).map_err(|error| odd(error.to_string()))
}

/// Says that there was no answer.
pub(super) fn unanswered(admin: &str, error: &io::Error) -> ExitCode {
    eprintln!("tidegate: no answer from {admin}: {error}");
    ExitCode::from(EXIT_FAILED)
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

fn ask_one(address: SocketAddr, method: &str, path: &str, deadline: Instant) -> io::Result<Answer> {
    let mut stream = TcpStream::connect_timeout(&address, left(deadline)?)?;
    stream.set_write_timeout(Some(left(deadline)?))?;
    let head = format!("{method} {path} HTTP/1.0\r\nhost: localhost\r\ncontent-length: 0\r\n\r\n");
    stream.write_all(head.as_bytes())?;
    let mut answer = Vec::new();
    let mut buffer = [0; 4096];
    // In HTTP/1.0 the end of the connection is that of the answer.
    while (answer.len() as u64) < MAX_ANSWER {
        stream.set_read_timeout(Some(left(deadline)?))?;
        match stream.read(&mut buffer)? {
            0 => break,
            read => answer.extend_from_slice(&buffer[..read]),
        }
    }
    parse(&String::from_utf8_lossy(&answer))
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "that is no answer of tidegate"))
}

fn parse(answer: &str) -> Option<Answer> {
    let (head, body) = answer.split_once("\r\n\r\n")?;
    let status = head.strip_prefix("HTTP/1.")?.split(' ').nth(1)?.parse().ok()?;
    Some(Answer { status, body: body.to_owned() })
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
