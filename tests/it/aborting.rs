//! Clients that leave: from the queue, in the middle of an upload, while the application works,
//! while they read.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use tidegate::upstream::{Connect, Connected, Connecting, Protocol};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;

use crate::support::{App, End, Metrics, Tide, Wire};

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
const ONE: &str = "[server]\nworkers = 1\n[upstream]\nmax_in_flight = 1\n\
                   [defaults]\nmax_wait = \"10s\"\n";

async fn get(tide: &Tide, path: &str) -> Wire {
    let mut client = tide.client().await;
    client.send(format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n")).await;
    client
}

/// How a client leaves.
#[derive(Clone, Copy, Debug)]
enum Leave {
    Close,
    Reset,
    /// It half-closes: it counts as gone.
    Shut,
}

const WAYS: [Leave; 3] = [Leave::Close, Leave::Reset, Leave::Shut];

/// Leaves; what is returned keeps a half-closed connection open.
async fn leave(mut client: Wire, way: Leave) -> Option<Wire> {
    match way {
        Leave::Close => None,
        Leave::Reset => {
            client.reset();
            None
        }
        Leave::Shut => {
            client.shut().await;
            Some(client)
        }
    }
}

#[tokio::test]
async fn who_leaves_the_queue_never_reaches_the_application() {
    let app = App::apart().await;
    let tide = Tide::before(app.address, ONE);
    let mut first = get(&tide, "/first").await;
    let mut conn = app.accept().await;
    conn.head().await;
    let requests = [
        "GET /gone HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(),
        // In the middle of a body, with less than it promised, and with more than a buffer.
        "POST /gone HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\nhalf".to_owned(),
        format!(
            "POST /gone HTTP/1.1\r\nHost: a\r\nContent-Length: 900000\r\n\r\n{}",
            "x".repeat(60_000)
        ),
        "POST /gone HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n"
            .to_owned(),
        "POST /gone HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nbody".to_owned(),
        // With another request behind it.
        "GET /gone HTTP/1.1\r\nHost: a\r\n\r\nGET /gone HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(),
    ];
    let mut left = 0.0;
    let mut half_closed = Vec::new();
    for request in &requests {
        for way in WAYS {
            println!("{way:?} after {:?}", &request[..request.len().min(80)]);
            let mut client = tide.client().await;
            client.send(request).await;
            tide.until_queued(1).await;
            half_closed.extend(leave(client, way).await);
            left += 1.0;
            // A scrape reads the gate before the counters: each is waited for.
            let abandoned = |m: &Metrics| m.sum("tidegate_abandoned_total", &[]) == left;
            let gone = |m: &Metrics| m.aborts("queued") == left && abandoned(m);
            let metrics = tide.until("it has left", gone).await;
            assert_eq!(metrics.sum("tidegate_queue_depth", &[]), 0.0);
        }
    }
    // The next that reaches the application is one that stayed.
    let mut stays = get(&tide, "/stays").await;
    tide.until_queued(1).await;
    conn.send(OK).await;
    assert_eq!(first.response().await.status(), 200);
    assert_eq!(conn.head().await.line, "GET /stays HTTP/1.1");
    conn.send(OK).await;
    assert_eq!(stays.response().await.status(), 200);
    for client in &mut half_closed {
        assert!(matches!(client.end().await, End::Closed | End::Reset));
        assert!(client.buffer.is_empty(), "an answer to who had left");
    }
    app.stays_alone(Duration::from_millis(20)).await;
    let metrics = tide.at_rest().await;
    assert_eq!(metrics.sum("tidegate_admitted_total", &[]), 2.0);
}

#[tokio::test]
async fn urgent_data_is_no_end() {
    let app = App::apart().await;
    let tide = Tide::before(app.address, ONE);
    let mut first = get(&tide, "/first").await;
    let mut conn = app.accept().await;
    conn.head().await;
    let mut urgent = get(&tide, "/urgent").await;
    tide.until_queued(1).await;
    for client in [&first, &urgent] {
        socket2::SockRef::from(&client.stream).send_out_of_band(b"!").unwrap();
    }
    app.stays_alone(Duration::from_millis(50)).await;
    conn.send(OK).await;
    assert_eq!(first.response().await.status(), 200);
    assert_eq!(conn.head().await.line, "GET /urgent HTTP/1.1");
    conn.send(OK).await;
    assert_eq!(urgent.response().await.status(), 200);
    assert_eq!(tide.at_rest().await.sum("tidegate_abandoned_total", &[]), 0.0);
}

#[tokio::test]
async fn who_leaves_in_flight_cancels_the_request() {
    let app = App::start().await;
    let tide = Tide::before(app.address, ONE);
    let mut left = 0.0;
    for way in WAYS {
        println!("{way:?}");
        let client = get(&tide, "/gone").await;
        let mut conn = app.accept().await;
        conn.head().await;
        assert!(!conn.has_ended());
        let mut waiting = get(&tide, "/next").await;
        tide.until_queued(1).await;
        let _half = leave(client, way).await;
        // The slot is free once the connection is closed: whoever comes next comes after that.
        let mut next = app.accept().await;
        assert_eq!(next.head().await.line, "GET /next HTTP/1.1");
        assert!(conn.has_ended(), "{way:?}: the slot came before the connection was closed");
        next.send("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n").await;
        assert_eq!(waiting.response().await.status(), 200);
        left += 1.0;
        assert_eq!(tide.at_rest().await.aborts("upstream"), left);
    }
}

/// A connection to the application that takes its time to close.
struct SlowToClose {
    stream: TcpStream,
    open: Arc<AtomicU32>,
}

impl Drop for SlowToClose {
    fn drop(&mut self) {
        // Blocks its worker, not that of the client that waits for the slot.
        std::thread::sleep(Duration::from_millis(100));
        self.open.fetch_sub(1, Ordering::SeqCst);
    }
}

impl AsyncRead for SlowToClose {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buf)
    }
}

impl AsyncWrite for SlowToClose {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

/// Opens such connections, and counts them.
struct Counting {
    application: SocketAddr,
    open: Arc<AtomicU32>,
    most: Arc<AtomicU32>,
}

impl Connect for Counting {
    fn connect(&self, _: Option<Protocol>) -> Connecting<'_> {
        Box::pin(async {
            let stream = TcpStream::connect(self.application).await.expect("it listens");
            let open = self.open.fetch_add(1, Ordering::SeqCst) + 1;
            self.most.fetch_max(open, Ordering::SeqCst);
            let open = Arc::clone(&self.open);
            let stream = Box::new(SlowToClose { stream, open });
            Ok(Connected { stream, protocol: Protocol::Http1, address: None })
        })
    }

    fn protocol(&self) -> Option<Protocol> {
        Some(Protocol::Http1)
    }
}

#[tokio::test]
async fn a_slot_is_not_given_on_before_the_connection_is_closed() {
    let app = App::start().await;
    let (open, most) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicU32::new(0)));
    let tide = Tide::connecting(app.address, &ONE.replace("workers = 1", "workers = 2"), &|_| {
        let (open, most) = (Arc::clone(&open), Arc::clone(&most));
        Box::new(Counting { application: app.address, open, most })
    });
    for leaves_while_reading in [false, true] {
        let client = get(&tide, "/gone").await;
        let mut conn = app.accept().await;
        conn.head().await;
        let mut client = client;
        if leaves_while_reading {
            conn.send("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf").await;
            client.through("half").await;
        }
        // On the other worker: it has fewer connections.
        let mut waiting = get(&tide, "/next").await;
        tide.until_queued(1).await;
        drop(client);
        let mut next = app.accept().await;
        next.head().await;
        next.send("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n").await;
        assert_eq!(waiting.response().await.status(), 200);
        assert_eq!(most.load(Ordering::SeqCst), 1);
        drop(waiting);
        let idle = |m: &Metrics| m.sum("tidegate_connections", &[]) == 0.0;
        tide.until("both have gone", idle).await;
        tide.until("all closed", |m| m.sum("tidegate_upstream_connections", &[]) == 0.0).await;
    }
    tide.at_rest().await;
}

/// hyper reads nothing while a next request is waiting, so that it does not see its client leave.
#[tokio::test]
async fn who_leaves_in_flight_is_missed_behind_a_next_request_too() {
    let app = App::start().await;
    let tide = Tide::before(app.address, ONE);
    let mut left = 0.0;
    for way in WAYS {
        println!("{way:?}");
        let mut client = tide.client().await;
        let get = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
        client.send(format!("{get}{get}GET /half HTTP")).await;
        let mut conn = app.accept().await;
        conn.head().await;
        let _half = leave(client, way).await;
        conn.end().await;
        left += 1.0;
        assert_eq!(tide.at_rest().await.aborts("upstream"), left);
    }
    assert_eq!(tide.metrics().await.sum("tidegate_arrivals_total", &[]), left);
}

/// Nor does it while an upload is stuck.
#[tokio::test]
async fn who_leaves_in_an_upload_that_is_stuck_is_missed_too() {
    let app = App::start().await;
    let tide = Tide::before(app.address, ONE);
    let mut left = 0.0;
    for way in [Leave::Close, Leave::Reset] {
        println!("{way:?}");
        let mut client = tide.client().await;
        let size = 64 * 1024 * 1024;
        client.send(format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {size}\r\n\r\n")).await;
        let mut conn = app.accept().await;
        conn.head().await;
        // Until the application's end takes no more.
        let chunk = vec![b'x'; 64 * 1024];
        let patience = Duration::from_millis(200);
        while tokio::time::timeout(patience, client.stream.write(&chunk)).await.is_ok() {}
        leave(client, way).await;
        // A close is behind the bytes that nobody reads, and cannot be seen; a reset can.
        if matches!(way, Leave::Reset) {
            tide.until("it is missed", |m| m.aborts("request_body") == left + 1.0).await;
        }
        conn.end().await;
        left += 1.0;
        assert_eq!(tide.at_rest().await.aborts("request_body"), left);
    }
}

#[tokio::test]
async fn who_leaves_in_an_upload_cancels_the_request() {
    let app = App::start().await;
    let tide = Tide::before(app.address, ONE);
    let mut left = 0.0;
    for framing in
        ["Content-Length: 100\r\n\r\nhalf", "Transfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n"]
    {
        for way in WAYS {
            println!("{way:?} {framing:?}");
            let mut client = tide.client().await;
            client.send(format!("POST / HTTP/1.1\r\nHost: a\r\n{framing}")).await;
            let mut conn = app.accept().await;
            conn.through("half").await;
            let _half = leave(client, way).await;
            conn.end().await;
            let rest = String::from_utf8_lossy(&conn.buffer);
            assert!(
                !rest.contains("0\r\n\r\n"),
                "an upload that broke off arrived whole: {rest:?}"
            );
            left += 1.0;
            assert_eq!(tide.at_rest().await.aborts("request_body"), left);
        }
    }
    assert_eq!(tide.metrics().await.sum("tidegate_upstream_errors_total", &[]), 0.0);
}

#[tokio::test]
async fn who_leaves_while_reading_cancels_the_request() {
    let app = App::start().await;
    let tide = Tide::before(app.address, ONE);
    let mut left = 0.0;
    for way in [Leave::Close, Leave::Reset] {
        println!("{way:?}");
        let mut client = get(&tide, "/").await;
        let mut conn = app.accept().await;
        conn.head().await;
        conn.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n").await;
        client.through("half\r\n").await;
        leave(client, way).await;
        // Nothing more comes from the application, and nothing is written to the client.
        conn.end().await;
        left += 1.0;
        let metrics = tide.at_rest().await;
        assert_eq!(metrics.aborts("response_body"), left);
        assert_eq!(metrics.sum("tidegate_upstream_errors_total", &[]), 0.0);
    }
}

const FINISH: &str = "[server]\nworkers = 1\n[upstream]\nmax_in_flight = 1\n\
                      [defaults]\nmax_wait = \"10s\"\non_client_abort = \"finish\"\n";

#[tokio::test]
async fn finish_holds_the_slot_until_the_application_is_done() {
    let app = App::apart().await;
    let tide = Tide::before(app.address, FINISH);
    let first = get(&tide, "/gone").await;
    let mut conn = app.accept().await;
    conn.head().await;
    let mut waiting = get(&tide, "/next").await;
    tide.until_queued(1).await;
    drop(first);
    let metrics = tide.until("the client has left", |m| m.aborts("upstream") == 1.0).await;
    assert_eq!(metrics.sum("tidegate_in_flight", &[]), 1.0);
    app.stays_alone(Duration::from_millis(20)).await;
    conn.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n").await;
    conn.stays_silent(Duration::from_millis(20)).await;
    assert_eq!(tide.metrics().await.sum("tidegate_queue_depth", &[]), 1.0);
    conn.send("0\r\n\r\n").await;
    // The connection has come through it whole, and serves the next.
    assert_eq!(conn.head().await.line, "GET /next HTTP/1.1");
    conn.send(OK).await;
    assert_eq!(waiting.response().await.status(), 200);
    tide.at_rest().await;
}

#[tokio::test]
async fn finish_holds_the_slot_also_while_the_client_was_reading() {
    let app = App::start().await;
    let tide = Tide::before(app.address, FINISH);
    let mut first = tide.client().await;
    first.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nbody").await;
    let mut conn = app.accept().await;
    assert_eq!(conn.request().await.text(), "body");
    conn.send("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello").await;
    first.through("hello").await;
    first.reset();
    tide.until("the client has left", |m| m.aborts("response_body") == 1.0).await;
    let mut waiting = get(&tide, "/next").await;
    tide.until_queued(1).await;
    conn.send("world").await;
    assert_eq!(conn.head().await.line, "GET /next HTTP/1.1");
    conn.send(OK).await;
    assert_eq!(waiting.response().await.status(), 200);
    tide.at_rest().await;
}

#[tokio::test]
async fn finish_does_not_wait_for_an_upload_that_broke_off() {
    let app = App::start().await;
    let tide = Tide::before(app.address, FINISH);
    let mut client = tide.client().await;
    client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nhalf").await;
    let mut conn = app.accept().await;
    conn.through("half").await;
    drop(client);
    conn.end().await;
    tide.at_rest().await;
}

#[tokio::test]
async fn finish_is_bounded_by_the_timeouts() {
    let app = App::start().await;
    let tide = Tide::before(
        app.address,
        &format!("{FINISH}response_timeout = \"100ms\"\nidle_body_timeout = \"100ms\"\n"),
    );
    let client = get(&tide, "/1").await;
    let mut conn = app.accept().await;
    conn.head().await;
    drop(client);
    conn.end().await;
    tide.at_rest().await;
    let mut client = get(&tide, "/2").await;
    let mut conn = app.accept().await;
    conn.head().await;
    conn.send("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello").await;
    client.through("hello").await;
    drop(client);
    conn.end().await;
    tide.at_rest().await;
}

#[tokio::test]
async fn finish_holds_the_slot_of_a_request_that_took_too_long() {
    let app = App::start().await;
    let toml = format!("{FINISH}response_timeout = \"100ms\"\n");
    let tide = Tide::before(app.address, &toml);
    let mut first = get(&tide, "/slow").await;
    let mut conn = app.accept().await;
    conn.head().await;
    assert_eq!(first.response().await.status(), 504);
    let mut waiting = get(&tide, "/next").await;
    tide.until_queued(1).await;
    conn.stays_silent(Duration::from_millis(20)).await;
    conn.send(OK).await;
    assert_eq!(conn.head().await.line, "GET /next HTTP/1.1");
    conn.send(OK).await;
    assert_eq!(waiting.response().await.status(), 200);
    tide.at_rest().await;
}
