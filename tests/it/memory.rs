//! How much memory many clients cost, and greedy ones: what the README promises ("Memory").

use std::fs;
use std::time::{Duration, Instant};

use rustix::process::{Resource, Rlimit, Signal, getrlimit, setrlimit};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;
use tokio::task::{JoinHandle, JoinSet};

use crate::support::{End, Process, Wire, soon};

const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
const LARGE: usize = 8 * 1024 * 1024;
const SLOW: usize = 100;
const CLIENTS: usize = 2_000;
/// What a container with 64 MiB has left for clients, in KiB: three quarters of it, less what is
/// there before they come.
const MOST: u64 = 40 * 1024;
/// What a client costs that has just been served, and one that has been silent for a second, in
/// KiB.
const BUSY: u64 = 20;
const SILENT: u64 = 6;

/// Answers `/large` with a large body, everything else with little, and reads what is uploaded.
async fn application(listener: TcpListener) {
    while let Ok((stream, _)) = listener.accept().await {
        tokio::spawn(async move {
            let mut wire = Wire::new(stream);
            while let Some(request) = wire.try_request().await {
                let length = if request.head.line.contains("/large") { LARGE } else { 2 };
                let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n");
                let body = vec![b'x'; length];
                // Slow clients are what is tested: no patience is too long.
                let stream = &mut wire.stream;
                if stream.write_all(head.as_bytes()).await.is_err()
                    || stream.write_all(&body).await.is_err()
                {
                    return;
                }
            }
        });
    }
}

/// Memory of a process, in KiB: now, and at most so far.
fn memory(process: &Process) -> (u64, u64) {
    let status = fs::read_to_string(format!("/proc/{}/status", process.pid())).expect("it runs");
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        let size = line.expect("as proc(5) says").trim().trim_end_matches(" kB");
        size.parse().expect("a number")
    };
    (field("VmRSS:"), field("VmHWM:"))
}

async fn start(toml: &str) -> (JoinHandle<()>, Process) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    (tokio::spawn(application(listener)), Process::start(address, toml))
}

/// Clients that have been served and sit there; who comes too fast is turned away.
async fn served(process: &Process, count: usize) -> Vec<Wire> {
    let mut all = Vec::new();
    for _ in (0..count).step_by(100) {
        let mut clients = JoinSet::new();
        for _ in 0..100 {
            let mut client = process.client().await;
            clients.spawn(async move {
                let status = client.exchange(GET).await.status();
                assert!(matches!(status, 200 | 503), "{status}");
                (status == 200).then_some(client)
            });
        }
        all.extend(clients.join_all().await.into_iter().flatten());
    }
    all
}

#[tokio::test]
async fn many_clients_and_greedy_ones_fit_into_little() {
    let toml = "[server]\nworkers = 2\nmax_connections = 398\n\
                [upstream]\nmax_in_flight = 220\n[defaults]\nmax_wait = \"30s\"\n";
    let (app, process) = start(toml).await;
    let mut canary = process.client().await;
    assert_eq!(canary.exchange(GET).await.status(), 200);
    let (idle, _) = memory(&process);

    let mut readers = Vec::new();
    for _ in 0..SLOW {
        let mut client = process.client().await;
        client.small_buffers();
        client.send("GET /large HTTP/1.1\r\nHost: a\r\n\r\n").await;
        assert_eq!(client.head().await.status(), 200);
        readers.push(client);
    }
    let (reading, _) = memory(&process);

    let mut uploads = Vec::new();
    let head = format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {LARGE}\r\n\r\n");
    for _ in 0..SLOW {
        let mut client = process.client().await;
        client.send(&head).await;
        client.send(vec![b'x'; 256 * 1024]).await;
        uploads.push(client);
    }
    let (uploading, _) = memory(&process);

    let mut clients = served(&process, CLIENTS).await;
    let (connected, _) = memory(&process);
    // After a second of silence a connection costs next to nothing.
    canary.pause(Duration::from_millis(1_500)).await;
    let (parked, _) = memory(&process);
    // All at once; those that made room for others are gone.
    for client in &mut clients {
        let _ = client.try_send(GET).await;
    }
    let mut good = 0;
    for client in &mut clients {
        match client.try_exactly("HTTP/1.1 200".len()).await.as_deref() {
            Some(b"HTTP/1.1 200") => good += 1,
            Some(line) => assert_eq!(line, b"HTTP/1.1 503", "shed, not failed"),
            None => {}
        }
    }
    assert!(good >= 150, "{good} of {CLIENTS}");
    let mut newcomer = process.client().await;
    assert_eq!(newcomer.exchange(GET).await.status(), 200);
    let (_, peak) = memory(&process);
    println!(
        "KiB: idle {idle}, + slow readers {reading}, + slow uploads {uploading}, \
         + clients {connected}, parked {parked}, at most {peak}; {good} answers"
    );
    assert!(peak - idle < MOST, "{peak} KiB");

    // The slow ones were not forgotten.
    let mut reader = readers.pop().unwrap();
    assert_eq!(reader.exactly(LARGE).await.len(), LARGE);
    let mut upload = uploads.pop().unwrap();
    upload.send(vec![b'x'; LARGE - 256 * 1024]).await;
    assert_eq!(upload.response().await.status(), 200);
    app.abort();
}

/// The worst that clients of HTTP/1 can do to each connection: heads of nearly the longest length
/// that never end.
#[tokio::test]
async fn endless_heads_cost_what_they_may() {
    const HEADS: usize = 400;
    let toml = "[server]\nworkers = 2\nmax_header_bytes = \"32KiB\"\n";
    let (app, process) = start(toml).await;
    let mut canary = process.client().await;
    assert_eq!(canary.exchange(GET).await.status(), 200);
    let (before, _) = memory(&process);
    let head = format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}", "x".repeat(32_000));
    let mut clients = Vec::new();
    for _ in 0..HEADS {
        let mut client = process.client().await;
        client.send(&head).await;
        clients.push(client);
    }
    // They have been read when the one that came last is refused or answered.
    let mut last = clients.pop().unwrap();
    last.send("\r\n\r\n").await;
    assert_eq!(soon("an answer", last.response()).await.status(), 200);
    let (_, peak) = memory(&process);
    let each = (peak - before) / HEADS as u64;
    println!("KiB: {before} before, {peak} at most, {each} for each head of 32 KiB");
    assert!(each < 80, "{each} KiB each");
    assert_eq!(canary.exchange(GET).await.status(), 200);
    app.abort();
}

/// Raises the limit on descriptors so far, for this process and those that it starts.
fn need_descriptors(count: u64) {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current.is_none_or(|current| current >= count) {
        return;
    }
    assert!(maximum.is_none_or(|most| most >= count), "ulimit -Hn is below {count}: {maximum:?}");
    setrlimit(Resource::Nofile, Rlimit { current: Some(count), maximum }).expect("within it");
}

/// Opens so many connections, each of which is served once; a few at a time.
async fn opened(process: &Process, count: usize) -> Vec<Wire> {
    let mut all = Vec::with_capacity(count);
    while all.len() < count {
        let mut few = JoinSet::new();
        for _ in 0..100 {
            let mut client = process.client().await;
            few.spawn(async move {
                assert_eq!(client.exchange(GET).await.status(), 200);
                client
            });
        }
        all.extend(few.join_all().await);
    }
    all
}

/// Each group of clients comes when those before it have been silent for longer than a connection
/// keeps what it needs while it is busy. `ulimit -n`: each end of a connection has a descriptor.
#[tokio::test]
#[ignore = "takes too long in a debug build; needs `ulimit -Hn` of 11,000"]
async fn ten_thousand_clients_sit_there() {
    const GROUPS: usize = 5;
    const GROUP: usize = 2_000;
    const MANY: usize = GROUPS * GROUP;
    need_descriptors(MANY as u64 + 1_000);
    let toml = "[server]\nmax_connections = 12000\nidle_timeout = \"10m\"\n\
                shutdown_grace = \"30s\"\n[defaults]\nmax_wait = \"30s\"\n\
                [upstream]\nmax_connections = 64\n";
    let (app, mut process) = start(toml).await;
    let mut canary = process.client().await;
    assert_eq!(canary.exchange(GET).await.status(), 200);
    let (before, _) = memory(&process);
    let begun = Instant::now();
    let mut clients = Vec::with_capacity(MANY);
    let mut sizes = Vec::with_capacity(GROUPS);
    for _ in 0..GROUPS {
        clients.extend(opened(&process, GROUP).await);
        sizes.push(memory(&process).0 - before);
        canary.pause(Duration::from_millis(1_500)).await;
    }
    let open = process.until("all", |m| m.sum("tidegate_connections", &[]) > MANY as f64).await;
    assert_eq!(open.sum("tidegate_connections_refused_total", &[]), 0.0);
    let busy = sizes[0] / GROUP as u64;
    let silent = (sizes[GROUPS - 1] - sizes[0]) / (MANY - GROUP) as u64;
    println!(
        "KiB: {before} before, + {sizes:?} with each group; {busy} for a client that has just been \
         served, {silent} for one that is silent; opened in {:?}",
        begun.elapsed()
    );
    assert!(busy <= BUSY && silent <= SILENT, "KiB each: {busy} busy, {silent} silent");

    let asked = Instant::now();
    assert_eq!(process.client().await.exchange(GET).await.status(), 200);
    assert!(asked.elapsed() < Duration::from_secs(1), "a newcomer: {:?}", asked.elapsed());
    for few in clients.chunks_mut(100) {
        for client in &mut *few {
            client.send(GET).await;
        }
        for client in few {
            assert_eq!(client.response().await.status(), 200);
        }
    }
    // One is in the middle of its response when the end comes.
    let mut reader = process.client().await;
    reader.small_buffers();
    reader.send("GET /large HTTP/1.1\r\nHost: a\r\n\r\n").await;
    assert_eq!(reader.head().await.status(), 200);
    process.signal(Signal::TERM);
    for client in &mut clients {
        assert_eq!(client.end().await, End::Closed);
        assert!(client.buffer.is_empty(), "said unasked: {:?}", client.buffer);
    }
    assert_eq!(reader.exactly(LARGE).await.len(), LARGE);
    assert!(process.exit().await.success());
    app.abort();
}
