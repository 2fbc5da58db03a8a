//! The end: a signal, what is still served after it, and the exit status.

use std::os::unix::process::ExitStatusExt;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::support::{App, End, Process, Tide, Wire};

const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

async fn admin(process: &Process, path: &str) -> u16 {
    Wire::connect(process.admin).await.get(path).await.status()
}

#[tokio::test]
async fn sigterm_lets_everybody_finish() {
    let app = App::start().await;
    let toml = "[upstream]\nmax_in_flight = 1\n[defaults]\nmax_wait = \"10s\"\n\
                [server]\nworkers = 1\n";
    let mut process = Process::start(app.address, toml);
    let mut idle = process.client().await;
    let mut silent = process.client().await;
    idle.send(GET).await;
    let (mut conn, _) = app.serve("ok").await;
    assert_eq!(idle.response().await.text(), "ok");
    let mut in_flight = process.client().await;
    in_flight.send(GET).await;
    conn.head().await;
    let mut queued = process.client().await;
    queued.send("POST /q HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nbo").await;
    process.until("one is queued", |m| m.sum("tidegate_queue_depth", &[]) == 1.0).await;
    assert_eq!(admin(&process, "/ready").await, 200);

    process.signal(Signal::TERM);
    process.line("draining");
    assert!(idle.rest().await.is_empty());
    assert!(silent.rest().await.is_empty());
    assert_eq!(admin(&process, "/ready").await, 503);
    assert_eq!(admin(&process, "/live").await, 200);
    refuses_connections(&process).await;

    conn.send(OK).await;
    let response = in_flight.response().await;
    assert_eq!((response.text(), response.field("connection")), ("ok", Some("close")));
    assert!(in_flight.rest().await.is_empty());
    // The one that was queued has its turn, with the rest of its body.
    queued.send("dy").await;
    assert_eq!(conn.request().await.text(), "body");
    conn.send(OK).await;
    let response = queued.response().await;
    assert_eq!((response.text(), response.field("connection")), ("ok", Some("close")));
    assert!(queued.rest().await.is_empty());
    assert_eq!(process.exit().await.code(), Some(0));
    process.line("drained");
}

async fn refuses_connections(process: &Process) {
    let deadline = Instant::now() + crate::support::PATIENCE;
    while tokio::net::TcpStream::connect(process.address).await.is_ok() {
        assert!(Instant::now() < deadline, "still accepting");
    }
}

#[tokio::test]
async fn an_idle_process_ends_at_once() {
    let app = App::start().await;
    for signal in [Signal::TERM, Signal::INT] {
        let mut process = Process::start(app.address, "");
        let started = Instant::now();
        process.signal(signal);
        assert_eq!(process.exit().await.code(), Some(0));
        assert!(started.elapsed() < Duration::from_secs(2), "{:?}", started.elapsed());
    }
}

#[tokio::test]
async fn a_second_signal_ends_at_once() {
    let app = App::start().await;
    for (second, code) in [(Signal::TERM, 143), (Signal::INT, 130)] {
        let mut process = Process::start(app.address, "");
        let mut client = process.client().await;
        client.send(GET).await;
        let mut conn = app.accept().await;
        conn.head().await;
        process.signal(Signal::TERM);
        process.line("draining");
        process.signal(second);
        let status = process.exit().await;
        assert_eq!((status.code(), status.signal()), (Some(code), None));
        client.end().await;
        conn.end().await;
    }
}

#[tokio::test]
async fn drain_delay_goes_on_accepting() {
    let app = App::start().await;
    let toml = "[server]\ndrain_delay = \"500ms\"\nworkers = 1\n";
    let mut process = Process::start(app.address, toml);
    let mut before = process.client().await;
    process.signal(Signal::TERM);
    process.line("draining");
    assert_eq!(admin(&process, "/ready").await, 503);
    // Old and new connections are served as ever.
    before.send(GET).await;
    let (mut conn, _) = app.serve("ok").await;
    let response = before.response().await;
    assert_eq!((response.text(), response.field("connection")), ("ok", None));
    let mut new = process.client().await;
    new.send(GET).await;
    conn.head().await;
    conn.send(OK).await;
    assert_eq!(new.response().await.text(), "ok");
    assert_eq!(process.exit().await.code(), Some(0));
    assert!(before.rest().await.is_empty());
}

#[tokio::test]
async fn when_the_grace_ends_the_queued_are_told_and_the_rest_is_cut() {
    let app = App::start().await;
    let toml = "[upstream]\nmax_in_flight = 1\n[defaults]\nmax_wait = \"10s\"\n\
                [server]\nshutdown_grace = \"300ms\"\nworkers = 1\n";
    let mut process = Process::start(app.address, toml);
    let mut in_flight = process.client().await;
    in_flight.send(GET).await;
    let mut conn = app.accept().await;
    conn.head().await;
    let mut queued = process.client().await;
    queued.send(GET).await;
    process.until("one is queued", |m| m.sum("tidegate_queue_depth", &[]) == 1.0).await;
    let mut half = process.client().await;
    half.send("GET / HT").await;
    let started = Instant::now();
    process.signal(Signal::TERM);
    let told = queued.response().await;
    told.assert_own(503, "destination_unavailable; details=\"draining\"");
    assert_eq!(told.field("connection"), Some("close"));
    assert!(started.elapsed() >= Duration::from_millis(300));
    assert!(matches!(in_flight.end().await, End::Reset | End::Closed));
    assert!(in_flight.buffer.is_empty());
    conn.end().await;
    half.end().await;
    assert_eq!(process.exit().await.code(), Some(0));
    let said = process.line("the grace has ended");
    assert!(said["connections"].as_u64().is_some_and(|count| count >= 1), "{said}");
    assert!(started.elapsed() < Duration::from_secs(3), "{:?}", started.elapsed());
}

#[tokio::test]
async fn a_response_under_way_is_finished() {
    let app = App::start().await;
    let tide = Tide::before(app.address, "[server]\nshutdown_grace = \"30s\"\nworkers = 1\n");
    let mut client = tide.client().await;
    client.send(GET).await;
    let mut conn = app.accept().await;
    conn.head().await;
    conn.send("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello").await;
    client.through("hello").await;
    // Half a head: it may come to its end.
    let mut half = tide.client().await;
    half.send("GET / HTTP/1.1\r\nHo").await;
    let known = |m: &crate::support::Metrics| m.sum("tidegate_connections", &[]) == 2.0;
    tide.until("both are known", known).await;
    let drained = async { tide.sidecar.drain().await };
    let rest = async {
        conn.send("world").await;
        assert_eq!(client.through("world").await, "world");
        assert!(client.rest().await.is_empty());
        half.send("st: a\r\n\r\n").await;
        conn.head().await;
        conn.send(OK).await;
        let response = half.response().await;
        assert_eq!((response.text(), response.field("connection")), ("ok", Some("close")));
        assert!(half.rest().await.is_empty());
    };
    let (drained, ()) = tokio::join!(drained, rest);
    assert_eq!(drained, tidegate::sidecar::Drained::Whole);
}

#[tokio::test]
async fn work_for_a_client_that_left_is_finished_too() {
    let app = App::start().await;
    let toml = "[upstream]\nmax_in_flight = 1\n[defaults]\non_client_abort = \"finish\"\n";
    let mut process = Process::start(app.address, toml);
    let mut client = process.client().await;
    client.send(GET).await;
    let mut conn = app.accept().await;
    conn.head().await;
    drop(client);
    process.until("the client has left", |m| m.aborts("upstream") == 1.0).await;
    process.signal(Signal::TERM);
    process.line("draining");
    conn.stays_silent(Duration::from_millis(50)).await;
    conn.send(OK).await;
    process.line("drained");
    assert_eq!(process.exit().await.code(), Some(0));
}

#[tokio::test]
async fn who_had_connected_before_the_signal_is_served() {
    let app = App::start().await;
    let mut process = Process::start(app.address, "[upstream]\nmax_in_flight = 4\n");
    let mut kept = process.client().await;
    kept.send(GET).await;
    let (mut conn, _) = app.serve("ok").await;
    assert_eq!(kept.response().await.text(), "ok");
    // All of this comes to the process at the same moment.
    process.signal(Signal::STOP);
    let mut fresh = process.client().await;
    fresh.send(GET).await;
    kept.send(GET).await;
    process.signal(Signal::TERM);
    process.signal(Signal::CONT);
    conn.head().await;
    conn.send(OK).await;
    app.serve("ok").await;
    for client in [&mut kept, &mut fresh] {
        assert_eq!(client.response().await.text(), "ok");
        assert!(client.rest().await.is_empty());
    }
    assert_eq!(process.exit().await.code(), Some(0));
}

#[tokio::test]
async fn a_hangup_loads_the_configuration_again_and_ends_nothing() {
    let app = App::start().await;
    let process = Process::start(app.address, "[upstream]\nmax_in_flight = 4\n");
    process.signal(Signal::HUP);
    process.line("the configuration was loaded again");
    let mut client = process.client().await;
    client.send(GET).await;
    app.serve("ok").await;
    assert_eq!(client.response().await.text(), "ok");
}
