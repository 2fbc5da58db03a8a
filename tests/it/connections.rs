//! Client connections: how many, who goes when there are too many, and what happens when the
//! process runs out of file descriptors. Large bodies in little memory.

use std::fs;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit};

use crate::support::{App, Echo, End, Process, Tide, Wire};

const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";

#[tokio::test]
async fn at_the_bound_the_longest_idle_client_makes_room() {
    let app = App::start().await;
    let tide = Tide::before(app.address, "[server]\nmax_connections = 3\nworkers = 1\n");
    let mut busy = tide.client().await;
    busy.send(GET).await;
    let mut conn = app.accept().await;
    conn.head().await;
    // One that has been served and is idle, one that never said anything.
    let mut served = tide.client().await;
    served.send(GET).await;
    let (mut other, _) = app.serve("1").await;
    assert_eq!(served.response().await.text(), "1");
    let mut silent = tide.client().await;
    tide.until("all are known", |m| m.sum("tidegate_connections", &[]) == 3.0).await;

    let mut newcomer = tide.client().await;
    assert!(served.rest().await.is_empty(), "the longest idle goes first, without a word");
    newcomer.send(GET).await;
    other.head().await;
    let _another = tide.client().await;
    assert!(silent.rest().await.is_empty());
    // The busy ones were left alone.
    conn.send(OK).await;
    other.send(OK).await;
    assert_eq!(busy.response().await.status(), 200);
    assert_eq!(newcomer.response().await.status(), 200);
    let metrics = tide.at_rest().await;
    assert_eq!(metrics.sum("tidegate_connections_total", &[]), 5.0);
    assert_eq!(metrics.sum("tidegate_connections_refused_total", &[]), 0.0);
    assert_eq!(metrics.sum("tidegate_connections", &[]), 3.0);
}

#[tokio::test]
async fn if_none_is_idle_there_is_a_canned_503() {
    let app = App::start().await;
    let tide = Tide::before(app.address, "[server]\nmax_connections = 2\n");
    let (mut first, mut second) = (tide.client().await, tide.client().await);
    first.send(GET).await;
    let mut conn = app.accept().await;
    conn.head().await;
    second.send(GET).await;
    let mut other = app.accept().await;
    other.head().await;
    let refused = |request: String| {
        let client = tide.client();
        async move {
            let mut client = client.await;
            client.send(request).await;
            let raw = client.head().await.raw;
            client.shut().await;
            assert_eq!(client.end().await, End::Closed);
            raw
        }
    };
    let posted =
        format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\n{}", "x".repeat(9));
    for request in [GET.to_owned(), posted] {
        assert_eq!(
            refused(request).await,
            "HTTP/1.1 503 Service Unavailable\r\n\
             retry-after: 1\r\n\
             proxy-status: tidegate; error=connection_limit_reached; details=\"max_connections\"\r\n\
             cache-control: no-store\r\n\
             connection: close\r\n\
             content-length: 0\r\n\r\n"
        );
    }
    let metrics = tide.metrics().await;
    assert_eq!(metrics.sum("tidegate_connections_refused_total", &[]), 2.0);
    assert_eq!(metrics.sum("tidegate_arrivals_total", &[]), 2.0);
    // As soon as one has closed there is a place again.
    conn.send(OK).await;
    assert_eq!(first.response().await.status(), 200);
    drop(first);
    tide.until("one has gone", |m| m.sum("tidegate_connections", &[]) == 1.0).await;
    let mut client = tide.client().await;
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    tide.until("it was let in", |m| m.sum("tidegate_arrivals_total", &[]) == 3.0).await;
}

#[tokio::test]
async fn who_is_left_to_read_its_rejection_holds_its_place() {
    let app = App::start().await;
    let tide = Tide::before(
        app.address,
        "[server]\nmax_connections = 2\n[upstream]\nmax_in_flight = 1\n[defaults]\nmax_queue = 0\n",
    );
    let mut busy = tide.client().await;
    busy.send(GET).await;
    let mut conn = app.accept().await;
    conn.head().await;
    let mut lingering = tide.client().await;
    lingering.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\n").await;
    assert_eq!(lingering.response().await.status(), 503);
    // The end of its answer has come; the connection is still there.
    assert!(lingering.rest().await.is_empty());
    let mut newcomer = tide.client().await;
    newcomer.send(GET).await;
    let details = "connection_limit_reached; details=\"max_connections\"";
    newcomer.response().await.assert_own(503, details);
    drop(lingering);
    tide.until("it has gone", |m| m.sum("tidegate_connections", &[]) == 1.0).await;
}

#[tokio::test]
async fn running_out_of_descriptors_is_survived_without_spinning() {
    let app = App::start().await;
    let process = Process::start(app.address, "[server]\nworkers = 1\n");
    let mut busy = process.client().await;
    busy.send(GET).await;
    let mut conn = app.accept().await;
    conn.head().await;
    // From now on there is not a single descriptor left.
    let pid = i32::try_from(process.pid()).ok().and_then(Pid::from_raw);
    let maximum = getrlimit(Resource::Nofile).maximum;
    let none_left = Rlimit { current: Some(0), maximum };
    let before = prlimit(pid, Resource::Nofile, none_left).unwrap();

    let spent = cpu_time(&process);
    let started = Instant::now();
    let mut late = process.client().await;
    late.send(GET).await;
    process.line("cannot accept connections");
    late.stays_silent(Duration::from_millis(600)).await;
    let (spent, lasted) = (cpu_time(&process) - spent, started.elapsed());
    assert!(spent < lasted / 4, "{spent:?} of CPU time in {lasted:?}");
    // What is open goes on.
    conn.send(OK).await;
    assert_eq!(busy.response().await.status(), 200);

    prlimit(pid, Resource::Nofile, before).unwrap();
    conn.head().await;
    conn.send(OK).await;
    assert_eq!(late.response().await.status(), 200);
}

/// CPU time of the process so far.
fn cpu_time(process: &Process) -> Duration {
    let stat = fs::read_to_string(format!("/proc/{}/stat", process.pid())).expect("it runs");
    let (_, fields) = stat.rsplit_once(") ").expect("as proc(5) says");
    let ticks = fields.split(' ').skip(11).take(2).map(|n| n.parse::<u64>().expect("a number"));
    let ticks: u64 = ticks.sum();
    Duration::from_millis(ticks * 10)
}

#[tokio::test]
async fn few_descriptors_bound_the_connections() {
    let app = Echo::start(Duration::ZERO).await;
    let limited = "ulimit -n 64; exec \"$@\"";
    let process = Process::start_by(limited, app.address, "[server]\nworkers = 2\n");
    let mut clients = Vec::new();
    // Each is served, and then sits there; the longest idle makes room.
    for _ in 0..80 {
        let mut client = process.client().await;
        assert_eq!(client.get("/served").await.text(), "/served");
        clients.push(client);
    }
    // Who makes room has given up its place, and is closed by its worker a moment later.
    let within = |m: &crate::support::Metrics| {
        m.sum("tidegate_connections_total", &[]) == 80.0
            && m.sum("tidegate_connections", &[]) <= 16.0
    };
    let metrics = process.until("all were accepted, and most made room", within).await;
    assert_eq!(metrics.sum("tidegate_connections_refused_total", &[]), 0.0);
}

/// The most memory that the process has had, in KiB.
fn peak_memory(process: &Process) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", process.pid())).expect("it runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let size = line.expect("as proc(5) says").trim().trim_end_matches(" kB");
    size.parse().expect("a number")
}

#[tokio::test]
async fn large_bodies_pass_both_ways_in_little_memory() {
    const SIZE: usize = 16 * 1024 * 1024;
    let app = App::start().await;
    let process = Process::start(app.address, "[server]\nworkers = 1\n");
    let mut client = process.client().await;
    client.send(GET).await;
    let (mut conn, _) = app.serve("warm").await;
    assert_eq!(client.response().await.text(), "warm");
    let before = peak_memory(&process);

    let body: Vec<u8> = (0..SIZE).map(|n| (n % 251) as u8).collect();
    for chunked in [false, true] {
        let framing = if chunked {
            "Transfer-Encoding: chunked".to_owned()
        } else {
            format!("Content-Length: {SIZE}")
        };
        let framed = if chunked { chunks(&body) } else { body.clone() };
        let upload = async {
            client.send(format!("POST / HTTP/1.1\r\nHost: a\r\n{framing}\r\n\r\n")).await;
            client.send(&framed).await;
        };
        // The reader begins late, so that everything piles up that can.
        let receive = async {
            conn.pause(Duration::from_millis(100)).await;
            conn.request().await
        };
        let ((), request) = tokio::join!(upload, receive);
        assert!(request.body == body, "{} bytes arrived", request.body.len());
        let download = async {
            conn.send(format!("HTTP/1.1 200 OK\r\n{framing}\r\n\r\n")).await;
            conn.send(&framed).await;
        };
        let receive = async {
            client.pause(Duration::from_millis(100)).await;
            client.response().await
        };
        let ((), response) = tokio::join!(download, receive);
        assert!(response.body == body, "{} bytes arrived", response.body.len());
    }
    let grown = peak_memory(&process) - before;
    assert!(grown < 4 * 1024, "{grown} KiB more for bodies of {SIZE} bytes");
}

fn chunks(body: &[u8]) -> Vec<u8> {
    let mut framed = Vec::new();
    for chunk in body.chunks(50_000) {
        framed.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
        framed.extend_from_slice(chunk);
        framed.extend_from_slice(b"\r\n");
    }
    framed.extend_from_slice(b"0\r\n\r\n");
    framed
}

#[tokio::test]
async fn connections_to_the_application_are_bounded() {
    let app = App::start().await;
    let tide = Tide::before(
        app.address,
        "[upstream]\nmax_in_flight = 2\nmax_connections = 2\nconnect_timeout = \"5s\"\n\
         [server]\nworkers = 2\n[defaults]\nmax_wait = \"10s\"\n",
    );
    // Both connections end up unused in the pool of one worker, perhaps; the other borrows.
    let mut clients: Vec<Wire> = Vec::new();
    for _ in 0..4 {
        clients.push(tide.client().await);
    }
    clients[0].send(GET).await;
    let mut first = app.accept().await;
    first.head().await;
    clients[1].send(GET).await;
    let mut second = app.accept().await;
    second.head().await;
    for conn in [&mut first, &mut second] {
        conn.send(OK).await;
    }
    for client in &mut clients[..2] {
        assert_eq!(client.response().await.status(), 200);
    }
    for round in 0..8 {
        let client = &mut clients[round % 4];
        client.send(GET).await;
        let conn = tokio::select! {
            _ = app.accept() => panic!("a third connection"),
            read = first.stream.readable() => { read.unwrap(); &mut first }
            read = second.stream.readable() => { read.unwrap(); &mut second }
        };
        // `readable` may be an echo of what has been read.
        match tokio::time::timeout(Duration::from_millis(300), conn.head()).await {
            Ok(_) => conn.send(OK).await,
            Err(_) => {
                let other = if round % 2 == 0 { &mut second } else { &mut first };
                other.head().await;
                other.send(OK).await;
            }
        }
        assert_eq!(clients[round % 4].response().await.status(), 200);
    }
    assert!(tide.at_rest().await.sum("tidegate_upstream_connections", &[]) <= 2.0);
}
