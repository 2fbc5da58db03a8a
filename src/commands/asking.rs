//! Asking a running tidegate: which address its admin listener has, and one GET.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, ToSocketAddrs};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Args;

use super::{EXIT_CONFIG, EXIT_FAILED};
use crate::config::{self, Format, Overrides, Report};

/// The most of an answer that is read: `/status.json` of a thousand routes has 1 MB.
const MAX_ANSWER: usize = 16 << 20;

/// Where the running tidegate is.
#[derive(Args, Clone, Debug)]
pub(super) struct AdminArgs {
    /// The admin address of the running tidegate, such as http://127.0.0.1:9909 [default: that of
    /// the configuration]
    #[arg(long, value_name = "URL")]
    admin: Option<String>,
    /// The configuration that it runs with
    #[arg(short, long, value_name = "FILE", env = "TIDEGATE_CONFIG")]
    config: Option<PathBuf>,
    /// How long to wait for an answer, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 2)]
    #[arg(value_parser = clap::value_parser!(u64).range(1..=3600))]
    timeout: u64,
}

/// An admin listener.
#[derive(Clone, Debug)]
pub(super) struct Running {
    address: String,
    timeout: Duration,
}

/// What it answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Answer {
    /// The first line.
    pub(super) line: String,
    pub(super) body: String,
}

// === impl AdminArgs ===

impl AdminArgs {
    /// Where `tidegate run` would listen, given the same file and variables.
    ///
    /// # Errors
    ///
    /// The configuration is not valid: it has been said why, and this is the exit status.
    pub(super) fn running(&self) -> Result<Running, ExitCode> {
        let address = self.address().map_err(|report| {
            eprint!("{}", report.render(Format::Human, false));
            ExitCode::from(EXIT_CONFIG)
        })?;
        Ok(Running { address, timeout: Duration::from_secs(self.timeout) })
    }

    fn address(&self) -> Result<String, Report> {
        if let Some(admin) = &self.admin {
            return Ok(bare(admin).to_owned());
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

/// The address of a URL.
fn bare(admin: &str) -> &str {
    let rest = admin.strip_prefix("http://").unwrap_or(admin);
    rest.split('/').next().unwrap_or(rest)
}

// === impl Running ===

impl Running {
    pub(super) fn address(&self) -> &str {
        &self.address
    }

    /// The same, waiting for at least so long.
    pub(super) fn patient(mut self, least: Duration) -> Running {
        self.timeout = self.timeout.max(least);
        self
    }

    /// One GET, answered within the timeout.
    ///
    /// # Errors
    ///
    /// Nobody answers, or what comes is no HTTP.
    pub(super) fn get(&self, path: &str) -> io::Result<Answer> {
        self.ask("GET", path)
    }

    /// One POST without a body, answered within the timeout.
    ///
    /// # Errors
    ///
    /// As [`Running::get`].
    pub(super) fn post(&self, path: &str) -> io::Result<Answer> {
        self.ask("POST", path)
    }

    fn ask(&self, method: &str, path: &str) -> io::Result<Answer> {
        let deadline = Instant::now() + self.timeout;
        let nowhere = "the address cannot be resolved";
        let mut error = io::Error::new(io::ErrorKind::NotFound, nowhere);
        for address in self.address.to_socket_addrs()? {
            match ask_at(reachable(address), method, path, deadline) {
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
    /// Nobody answers, or not in this way.
    pub(super) fn status(&self) -> io::Result<serde_json::Value> {
        let answer = self.get("/status.json")?;
        let odd = |why: String| io::Error::new(io::ErrorKind::InvalidData, why);
        if !answer.is_ok() {
            return Err(odd(format!("no tidegate of this version: {}", answer.line)));
        }
        serde_json::from_str(&answer.body).map_err(|error| odd(error.to_string()))
    }

    /// Says that there was no answer.
    pub(super) fn fail(&self, error: &io::Error) -> ExitCode {
        eprintln!("tidegate: no answer from {}: {error}", self.address);
        ExitCode::from(EXIT_FAILED)
    }
}

// === impl Answer ===

impl Answer {
    pub(super) fn is_ok(&self) -> bool {
        self.status() == Some("200")
    }

    pub(super) fn status(&self) -> Option<&str> {
        self.line.split(' ').nth(1)
    }
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

fn ask_at(address: SocketAddr, method: &str, path: &str, deadline: Instant) -> io::Result<Answer> {
    let mut stream = TcpStream::connect_timeout(&address, left(deadline)?)?;
    stream.set_write_timeout(Some(left(deadline)?))?;
    let request =
        format!("{method} {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes())?;
    let mut answer = Vec::new();
    let mut buffer = [0; 16 * 1024];
    while answer.len() < MAX_ANSWER {
        stream.set_read_timeout(Some(left(deadline)?))?;
        match stream.read(&mut buffer)? {
            0 => break,
            read => answer.extend_from_slice(&buffer[..read]),
        }
    }
    let text = String::from_utf8_lossy(&answer);
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
    let line = head.lines().next().unwrap_or_default().to_owned();
    Ok(Answer { line, body: body.to_owned() })
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

    #[test]
    fn a_url_is_an_address() {
        for admin in ["http://h:1/", "http://h:1", "h:1", "http://h:1/status.json"] {
            assert_eq!(bare(admin), "h:1");
        }
    }
}
