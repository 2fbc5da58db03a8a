//! What the service manager hears, over a socket such as systemd gives.

use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::Path;

use rustix::process::Signal;

use crate::support::{App, PATIENCE, Process};

/// What came next.
fn heard(manager: &UnixDatagram) -> String {
    manager.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut buffer = [0; 512];
    let length = manager.recv(&mut buffer).expect("a message within the test's patience");
    String::from_utf8_lossy(&buffer[..length]).into_owned()
}

async fn a_whole_life(manager: &UnixDatagram, name: &str) {
    let app = App::start().await;
    let run = format!("export NOTIFY_SOCKET='{name}'; exec \"$@\"");
    let mut process = Process::start_by(&run, app.address, "");
    assert_eq!(heard(manager), "READY=1\nSTATUS=Accepting clients\n");
    // It was no empty promise.
    let mut client = process.client().await;
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    let (_conn, _) = app.serve("ok").await;
    assert_eq!(client.response().await.text(), "ok");
    process.signal(Signal::TERM);
    assert_eq!(heard(manager), "STOPPING=1\nSTATUS=Draining\n");
    assert_eq!(process.exit().await.code(), Some(0));
    manager.set_nonblocking(true).unwrap();
    assert!(manager.recv(&mut [0; 8]).is_err(), "each is said once");
}

#[tokio::test]
async fn a_manager_with_a_path_is_told() {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("n{}", std::process::id()));
    let _ = std::fs::remove_file(&path);
    let manager = UnixDatagram::bind(&path).unwrap();
    a_whole_life(&manager, path.to_str().unwrap()).await;
    std::fs::remove_file(&path).unwrap();
}

#[tokio::test]
async fn a_manager_with_an_abstract_name_is_told() {
    let name = format!("tidegate-notify-{}", std::process::id());
    let address = SocketAddr::from_abstract_name(&name).unwrap();
    let manager = UnixDatagram::bind_addr(&address).unwrap();
    a_whole_life(&manager, &format!("@{name}")).await;
}

#[tokio::test]
async fn a_manager_that_cannot_be_told_ends_nothing() {
    for name in ["nonsense", "/nowhere/at/all"] {
        let app = App::start().await;
        let run = format!("export NOTIFY_SOCKET='{name}'; exec \"$@\"");
        let mut process = Process::start_by(&run, app.address, "");
        let said = if name == "nonsense" { "NOTIFY_SOCKET is not" } else { "the service manager" };
        process.line(said);
        process.signal(Signal::TERM);
        assert_eq!(process.exit().await.code(), Some(0));
    }
}
