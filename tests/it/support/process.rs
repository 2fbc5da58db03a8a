//! The real binary, for what only a process has: signals, exit statuses, descriptors, standard
//! error.

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use super::PATIENCE;
use super::metrics::Metrics;
use super::wire::Wire;

/// A running `tidegate run`. Dropped, it is killed.
pub struct Process {
    child: Child,
    log: Receiver<Value>,
    /// Where clients connect.
    pub address: SocketAddr,
    pub admin: SocketAddr,
    /// Its configuration.
    pub config: PathBuf,
}

// === impl Process ===

impl Process {
    /// In front of an application, configured by TOML that leaves out the addresses.
    pub fn start(upstream: SocketAddr, toml: &str) -> Process {
        let run = "exec \"$@\"";
        Process::start_by(run, upstream, toml)
    }

    /// The same, by a shell script that ends in `exec "$@"`, to set limits before.
    pub fn start_by(script: &str, upstream: SocketAddr, toml: &str) -> Process {
        let config = written(toml);
        let mut child = command_with(script, upstream, &config)
            .stderr(Stdio::piped())
            .spawn()
            .expect("sh starts the binary");
        let log = follow(child.stderr.take().expect("piped"));
        let mut process = Process { child, log, address: NOWHERE, admin: NOWHERE, config };
        process.address = process.announced("listening");
        process.admin = process.announced("admin: ");
        process
    }

    /// Puts another configuration in the place of its own, in one step.
    pub fn replace_config(&self, toml: &str) {
        fs::rename(written(toml), &self.config).expect("both are files in one directory");
    }

    /// A new connection of a client.
    pub async fn client(&self) -> Wire {
        Wire::connect(self.address).await
    }

    /// Waits until the metrics say so.
    pub async fn until(&self, what: &str, holds: impl Fn(&Metrics) -> bool) -> Metrics {
        Metrics::until(self.admin, what, holds).await
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        kill_process(pid.expect("a process id"), signal).expect("it runs");
    }

    /// Waits for a line of the log whose message begins so.
    pub fn line(&self, message: &str) -> Value {
        let deadline = Instant::now() + PATIENCE;
        let mut seen = Vec::new();
        loop {
            match self.log.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(line) => {
                    if line["message"].as_str().is_some_and(|said| said.starts_with(message)) {
                        return line;
                    }
                    seen.push(line);
                }
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {
                    panic!("no line {message:?} among {seen:#?}")
                }
            }
        }
    }

    /// Waits until it has ended by itself.
    pub async fn exit(&mut self) -> ExitStatus {
        exit_of(&mut self.child).await
    }

    fn announced(&self, message: &str) -> SocketAddr {
        let line = self.line(message);
        let address = line["address"].as_str().expect("an address");
        address.parse().expect("an address")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

const NOWHERE: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED), 0);

/// `tidegate run` by a shell script that ends in `exec "$@"`.
pub fn command(script: &str, upstream: SocketAddr, toml: &str) -> Command {
    command_with(script, upstream, &written(toml))
}

fn command_with(script: &str, upstream: SocketAddr, config: &Path) -> Command {
    let mut command = Command::new("sh");
    command
        .args(["-c", script, "sh", env!("CARGO_BIN_EXE_tidegate"), "run", "--config"])
        .arg(config)
        .args(["--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"])
        .args(["--log-format", "json", "--upstream", &format!("http://{upstream}")])
        .stdin(Stdio::null())
        .stdout(Stdio::null());
    command
}

/// Waits until a process has ended by itself.
pub async fn exit_of(child: &mut Child) -> ExitStatus {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(status) = child.try_wait().expect("a child") {
            return status;
        }
        assert!(Instant::now() < deadline, "still running after {PATIENCE:?}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// The configuration in a file of its own.
fn written(toml: &str) -> PathBuf {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let name = format!("tidegate-{}-{number}.toml", std::process::id());
    let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
    fs::write(&path, toml).expect("the directory for tests is writable");
    path
}

/// Reads a log, line by line. Other lines (the diagnostics of the configuration) are passed over.
fn follow(stderr: std::process::ChildStderr) -> Receiver<Value> {
    let (sender, receiver) = channel();
    std::thread::spawn(move || {
        for line in BufReader::new(stderr).lines().map_while(Result::ok) {
            if let Ok(value) = serde_json::from_str(&line)
                && sender.send(value).is_err()
            {
                return;
            }
        }
    });
    receiver
}
