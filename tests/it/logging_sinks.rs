//! Where log lines go is no business of requests: a sink that blocks or fails costs lines, nothing
//! else.

use std::fs;
use std::net::SocketAddr;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use crate::support::{Echo, Metrics, PATIENCE, Wire, command, exit_of};

/// Every request is a line, and a long one.
const TOML: &str = "[log]\naccess = \"all\"\n[upstream]\nmax_in_flight = 8\n";

/// A process of which nobody reads a line; killed when dropped.
struct Mute(Child);

impl Drop for Mute {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The addresses on which a process listens, for one whose log cannot be read: for clients, for
/// admin.
async fn addresses(process: &Child) -> (SocketAddr, SocketAddr) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let mut listening = listening(process.id());
        if listening.len() == 2 {
            let admin = is_admin(listening[0]).await;
            let admin = listening.remove(usize::from(!admin));
            return (listening[0], admin);
        }
        assert!(Instant::now() < deadline, "it listens on {listening:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn listening(pid: u32) -> Vec<SocketAddr> {
    let Ok(descriptors) = fs::read_dir(format!("/proc/{pid}/fd")) else { return Vec::new() };
    let inodes: Vec<String> = descriptors
        .filter_map(|descriptor| fs::read_link(descriptor.ok()?.path()).ok())
        .filter_map(|link| {
            let link = link.to_str()?.to_owned();
            Some(link.strip_prefix("socket:[")?.trim_end_matches(']').to_owned())
        })
        .collect();
    let table = fs::read_to_string("/proc/net/tcp").expect("Linux");
    let rows = table.lines().skip(1).map(|row| row.split_whitespace().collect::<Vec<_>>());
    // 0A: LISTEN.
    let rows = rows.filter(|row| row[3] == "0A" && inodes.iter().any(|inode| inode == row[9]));
    let ports = rows.map(|row| u16::from_str_radix(&row[1][9..], 16).expect("a port"));
    ports.map(|port| SocketAddr::from(([127, 0, 0, 1], port))).collect()
}

async fn is_admin(address: SocketAddr) -> bool {
    Wire::connect(address).await.get("/live").await.text() == "live\n"
}

/// More lines than the buffers of the process and of the kernel hold; each request is answered at
/// once.
async fn requests_do_not_care(process: &Child) {
    let (address, admin) = addresses(process).await;
    let mut client = Wire::connect(address).await;
    let path = format!("/{}", "x".repeat(6000));
    let mut slowest = Duration::ZERO;
    let mut after = 0;
    // For a while longer than until the first line is lost.
    for count in 0..5000 {
        let started = Instant::now();
        assert_eq!(client.get(&path).await.text(), path);
        slowest = slowest.max(started.elapsed());
        if after == 0 && count % 100 == 99 {
            let lost = Metrics::scrape(admin).await.sum("tidegate_log_lines_lost_total", &[]);
            after = if lost > 0.0 { count + 200 } else { 0 };
        }
        if after == count && after > 0 {
            assert!(slowest < Duration::from_secs(1), "a request took {slowest:?}");
            return;
        }
    }
    panic!("no line was lost");
}

#[tokio::test]
async fn a_pipe_that_nobody_reads() {
    let app = Echo::start(Duration::ZERO).await;
    let mut child =
        command("exec \"$@\"", app.address, TOML).stderr(Stdio::piped()).spawn().unwrap();
    let pipe = child.stderr.take();
    let mut mute = Mute(child);
    requests_do_not_care(&mute.0).await;
    // It ends, too.
    let pid = rustix::process::Pid::from_raw(i32::try_from(mute.0.id()).unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    assert_eq!(exit_of(&mut mute.0).await.code(), Some(0));
    drop(pipe);
}

#[tokio::test]
async fn a_disk_that_is_full() {
    let app = Echo::start(Duration::ZERO).await;
    let full = "exec \"$@\" 2>/dev/full";
    let child = command(full, app.address, TOML).stderr(Stdio::null()).spawn().unwrap();
    requests_do_not_care(&Mute(child).0).await;
}

#[tokio::test]
async fn a_pipe_whose_reader_has_gone() {
    let app = Echo::start(Duration::ZERO).await;
    let mut child =
        command("exec \"$@\"", app.address, TOML).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stderr.take());
    requests_do_not_care(&Mute(child).0).await;
}
