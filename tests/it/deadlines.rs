//! What a client says of its own patience: understood, kept to, and passed on.

use std::time::{Duration, Instant};

use crate::support::{App, Message, Tide, Wire};

const ONE: &str = "[server]\nworkers = 1\n[upstream]\nmax_in_flight = 1\n[defaults]\n\
                   max_wait = \"10s\"\ndeadline_header = \"X-Deadline-Ms\"\n";
const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";

/// A request with these fields, sent.
async fn ask(tide: &Tide, path: &str, fields: &str) -> Wire {
    let mut client = tide.client().await;
    client.send(format!("GET {path} HTTP/1.1\r\nHost: a\r\n{fields}\r\n")).await;
    client
}

/// What reaches the application of a request with these fields, after a wait of so long at least,
/// and how long the wait was at most.
async fn forwarded_after(wait: Duration, fields: &str) -> (Message, Duration) {
    let app = App::start().await;
    let tide = Tide::before(app.address, ONE);
    let mut first = ask(&tide, "/first", "").await;
    let mut conn = app.accept().await;
    conn.request().await;
    let begun = Instant::now();
    let mut second = ask(&tide, "/second", fields).await;
    tide.until_queued(1).await;
    conn.pause(wait).await;
    conn.send(OK).await;
    assert_eq!(first.response().await.status(), 200);
    let request = conn.request().await;
    let waited = begun.elapsed();
    conn.send(OK).await;
    assert_eq!(second.response().await.status(), 200);
    tide.at_rest().await;
    (request, waited)
}

#[tokio::test]
async fn a_wait_is_taken_off_the_timeout_of_a_grpc_request() {
    let wait = Duration::from_millis(60);
    let fields = "Content-Type: application/grpc\r\nGrpc-Timeout: 30S\r\nX-Deadline-Ms: 40000\r\n";
    let (request, at_most) = forwarded_after(wait, fields).await;
    let timeout = request.field("grpc-timeout").unwrap();
    let micros: u64 = timeout.strip_suffix('u').unwrap().parse().unwrap();
    let taken_off = Duration::from_secs(30) - Duration::from_micros(micros);
    assert!(taken_off >= wait && taken_off <= at_most, "{timeout}: {taken_off:?}, {at_most:?}");
    let millis: u64 = request.field("x-deadline-ms").unwrap().parse().unwrap();
    assert!(millis <= 39_940 && millis >= 39_999 - at_most.as_millis() as u64, "{millis}");
}

#[tokio::test]
async fn a_request_that_does_not_wait_is_forwarded_as_it_is() {
    let app = App::start().await;
    let tide = Tide::before(app.address, ONE);
    let fields = "Content-Type: application/grpc\r\nGrpc-Timeout: 2M\r\nX-Deadline-Ms: 090000\r\n";
    let mut client = ask(&tide, "/", fields).await;
    let (_conn, request) = app.serve("").await;
    assert_eq!(request.field("grpc-timeout"), Some("2M"));
    assert_eq!(request.field("x-deadline-ms"), Some("090000"));
    assert_eq!(client.response().await.status(), 200);
}

#[tokio::test]
async fn what_is_no_deadline_is_forwarded_as_it_is() {
    for fields in [
        "Content-Type: application/json\r\nGrpc-Timeout: 30S\r\nX-Deadline-Ms: soon\r\n",
        "Content-Type: application/grpc\r\nGrpc-Timeout: 30s\r\nX-Deadline-Ms: 0\r\n",
        "Grpc-Timeout: 30S\r\nX-Deadline-Ms: 1.5\r\n",
    ] {
        let (request, _) = forwarded_after(Duration::from_millis(1), fields).await;
        let sent = |name: &str| {
            let line = fields.split("\r\n").find(|line| line.to_lowercase().starts_with(name));
            line.unwrap().split_once(": ").unwrap().1.to_owned()
        };
        for name in ["grpc-timeout", "x-deadline-ms"] {
            assert_eq!(request.field(name).unwrap(), sent(name), "{fields}");
        }
    }
}

#[tokio::test]
async fn who_no_longer_waits_is_told_at_once() {
    let app = App::start().await;
    let tide = Tide::before(app.address, ONE);
    let expired = "Content-Type: application/grpc\r\nGrpc-Timeout: 0n\r\n";
    let refused = ask(&tide, "/", expired).await.response().await;
    refused.assert_own(200, "connection_limit_reached; details=\"deadline\"");
    assert_eq!(refused.field("grpc-status"), Some("4"), "{}", refused.head.raw);

    let mut first = ask(&tide, "/first", "").await;
    let mut conn = app.accept().await;
    conn.request().await;
    // Long before `max_wait`, and from anybody: a client can only shorten its own wait.
    let begun = Instant::now();
    let refused = ask(&tide, "/second", "X-Deadline-Ms: 30\r\n").await.response().await;
    refused.assert_own(503, "connection_limit_reached; details=\"deadline\"");
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    conn.send(OK).await;
    assert_eq!(first.response().await.status(), 200);
    let metrics = tide.at_rest().await;
    assert_eq!(metrics.rejected("deadline"), 2.0);
}

#[tokio::test]
async fn who_cannot_be_answered_in_time_is_told_on_arrival() {
    let app = App::start().await;
    let tide = Tide::before(app.address, ONE);
    // The gate learns that a request takes about 40 ms.
    let mut client = ask(&tide, "/", "").await;
    let mut conn = app.accept().await;
    while tide.service_p50().await.is_none() {
        for _ in 0..10 {
            conn.request().await;
            conn.pause(Duration::from_millis(40)).await;
            conn.send(OK).await;
            assert_eq!(client.response().await.status(), 200);
            client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
        }
    }
    conn.request().await;
    conn.send(OK).await;
    assert_eq!(client.response().await.status(), 200);
    let _held = ask(&tide, "/held", "").await;
    conn.request().await;
    // Half of what one request takes, and one is ahead.
    let hopeless = ask(&tide, "/hopeless", "X-Deadline-Ms: 20\r\n").await.response().await;
    hopeless.assert_own(503, "connection_limit_reached; details=\"deadline\"");
    let metrics = tide.metrics().await;
    let waits = metrics.sum("tidegate_queue_wait_seconds_count", &[]);
    assert_eq!(waits, metrics.sum("tidegate_admitted_total", &[]), "it never waited\n{metrics}");
}
