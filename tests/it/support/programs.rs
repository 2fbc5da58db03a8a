//! Programs that the machine has, and places for them to work in.

use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use super::soon;

/// A program that ends with its test.
pub struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // SIGTERM: nginx and Prometheus have files to clear away.
        let _ = Command::new("kill").arg(self.0.id().to_string()).status();
        let _ = self.0.wait();
    }
}

/// Starts one that says nothing.
pub fn start(program: &str, arguments: &[&str]) -> Running {
    let child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    Running(child.unwrap_or_else(|error| panic!("{program} cannot be started: {error}")))
}

/// Runs one to its end.
pub fn output(program: &str, arguments: &[&str]) -> Output {
    let output = Command::new(program).args(arguments).stdin(Stdio::null()).output();
    output.unwrap_or_else(|error| panic!("{program} cannot be started: {error}"))
}

/// What a command that succeeded printed.
pub fn printed(program: &str, arguments: &[&str]) -> String {
    let output = output(program, arguments);
    let (stdout, stderr) = (&output.stdout, &output.stderr);
    let text = String::from_utf8_lossy(stdout).into_owned();
    let error = String::from_utf8_lossy(stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {text}{error}");
    text
}

/// A directory for one test.
pub fn scratch(name: &str) -> PathBuf {
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let _ = std::fs::remove_dir_all(&directory);
    std::fs::create_dir_all(&directory).unwrap();
    directory
}

/// A port that was free a moment ago, for programs that cannot take port 0.
pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// Waits until somebody accepts there.
pub async fn listens(address: SocketAddr) {
    soon(address, async {
        while tokio::net::TcpStream::connect(address).await.is_err() {
            tokio::task::yield_now().await;
        }
    })
    .await;
}
