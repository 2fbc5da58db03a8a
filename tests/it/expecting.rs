//! `Expect: 100-continue`: the body is asked for only when the application wants it.

use std::time::{Duration, Instant};

use crate::support::{App, End, Tide};

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
const EXPECTING: &str =
    "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n";

#[tokio::test]
async fn the_body_comes_after_the_applications_100() {
    let app = App::start().await;
    let tide = Tide::before(app.address, "");
    let mut client = tide.client().await;
    client.send(EXPECTING).await;
    let mut conn = app.accept().await;
    let head = conn.head().await;
    assert_eq!(head.field("expect"), Some("100-continue"));
    client.stays_silent(Duration::from_millis(50)).await;
    conn.send("HTTP/1.1 100 Continue\r\n\r\n").await;
    assert_eq!(client.response().await.head.raw, "HTTP/1.1 100 Continue\r\n\r\n");
    client.send("body").await;
    assert_eq!(conn.exactly(4).await, b"body");
    conn.send(OK).await;
    assert_eq!(client.response().await.status(), 200);
    // The connection goes on.
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    conn.head().await;
    conn.send(OK).await;
    assert_eq!(client.response().await.status(), 200);
    tide.at_rest().await;
}

#[tokio::test]
async fn or_after_a_second() {
    let app = App::start().await;
    let tide = Tide::before(app.address, "");
    let mut client = tide.client().await;
    client.send(EXPECTING).await;
    let mut conn = app.accept().await;
    conn.head().await;
    let started = Instant::now();
    assert_eq!(client.response().await.status(), 100);
    let waited = started.elapsed();
    assert!(waited > Duration::from_millis(900), "{waited:?}");
    client.send("body").await;
    assert_eq!(conn.exactly(4).await, b"body");
    conn.send(OK).await;
    assert_eq!(client.response().await.status(), 200);
}

#[tokio::test]
async fn a_client_that_does_not_wait_any_longer_is_not_held_back() {
    let app = App::start().await;
    let tide = Tide::before(app.address, "");
    let mut client = tide.client().await;
    client.send(EXPECTING).await;
    let mut conn = app.accept().await;
    conn.head().await;
    let started = Instant::now();
    client.send("body").await;
    assert_eq!(conn.exactly(4).await, b"body");
    assert!(started.elapsed() < Duration::from_millis(900), "the wait for a 100");
    conn.send(OK).await;
    assert_eq!(client.response().await.status(), 100);
    assert_eq!(client.response().await.status(), 200);
    tide.at_rest().await;
}

#[tokio::test]
async fn an_application_that_says_no_gets_no_body() {
    let app = App::start().await;
    let tide = Tide::before(app.address, "");
    for answer in ["417 Expectation Failed", "401 Unauthorized", "200 OK"] {
        let mut client = tide.client().await;
        client.send(EXPECTING).await;
        let mut conn = app.accept().await;
        conn.head().await;
        conn.send(format!("HTTP/1.1 {answer}\r\nContent-Length: 2\r\n\r\nno")).await;
        let response = client.response().await;
        assert_eq!(
            (response.head.line.as_str(), response.text()),
            (&*format!("HTTP/1.1 {answer}"), "no")
        );
        // Nobody knows whether the client will send the body now: the connection ends.
        assert_eq!(response.field("connection"), Some("close"));
        client.shut().await;
        assert_eq!(client.end().await, End::Closed);
        conn.end().await;
        assert!(conn.buffer.is_empty(), "{:?}", conn.buffer);
    }
    tide.at_rest().await;
}

#[tokio::test]
async fn a_rejected_upload_is_never_asked_for() {
    let app = App::apart().await;
    let tide =
        Tide::before(app.address, "[upstream]\nmax_in_flight = 1\n[defaults]\nmax_queue = 0\n");
    let mut first = tide.client().await;
    first.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    let mut conn = app.accept().await;
    conn.head().await;
    let mut client = tide.client().await;
    client.send(EXPECTING).await;
    let response = client.response().await;
    response.assert_own(503, "connection_limit_reached; details=\"queue_full\"");
    client.shut().await;
    assert_eq!(client.end().await, End::Closed);
    app.stays_alone(Duration::from_millis(5)).await;
}

#[tokio::test]
async fn a_queued_upload_is_asked_for_once_admitted() {
    let app = App::start().await;
    let tide = Tide::before(
        app.address,
        "[upstream]\nmax_in_flight = 1\n[defaults]\nmax_wait = \"10s\"\n[server]\nworkers = 1\n",
    );
    let mut first = tide.client().await;
    first.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    let mut conn = app.accept().await;
    conn.head().await;
    let mut client = tide.client().await;
    client.send(EXPECTING).await;
    tide.until_queued(1).await;
    client.stays_silent(Duration::from_millis(20)).await;
    conn.send(OK).await;
    assert_eq!(first.response().await.status(), 200);
    conn.head().await;
    conn.send("HTTP/1.1 100 Continue\r\n\r\n").await;
    assert_eq!(client.response().await.status(), 100);
    client.send("body").await;
    assert_eq!(conn.exactly(4).await, b"body");
    conn.send(OK).await;
    assert_eq!(client.response().await.status(), 200);
    tide.at_rest().await;
}

#[tokio::test]
async fn without_a_body_there_is_nothing_to_expect() {
    let app = App::start().await;
    let tide = Tide::before(app.address, "");
    for request in [
        "GET / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\n\r\n",
        "POST / HTTP/1.0\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\nbody",
    ] {
        let mut client = tide.client().await;
        client.send(request).await;
        let (_conn, request) = app.serve("").await;
        assert!(!request.head.has("expect"));
        assert_eq!(client.response().await.status(), 200);
    }
}

/// Whatever else a client expects is the application's to refuse (RFC 9110, section 10.1.1).
#[tokio::test]
async fn other_expectations_pass() {
    let app = App::start().await;
    let tide = Tide::before(app.address, "");
    let mut client = tide.client().await;
    client.send("POST / HTTP/1.1\r\nHost: a\r\nExpect: tea\r\nContent-Length: 2\r\n\r\nhi").await;
    let mut conn = app.accept().await;
    let request = conn.request().await;
    assert_eq!((request.field("expect"), request.text()), (Some("tea"), "hi"));
    conn.send("HTTP/1.1 417 Expectation Failed\r\nContent-Length: 0\r\n\r\n").await;
    assert_eq!(client.response().await.status(), 417);
}

#[tokio::test]
async fn who_does_not_wait_for_the_100_is_served_too() {
    let app = App::start().await;
    let tide = Tide::before(app.address, "");
    let mut client = tide.client().await;
    let started = Instant::now();
    client.send(format!("{EXPECTING}body")).await;
    let mut conn = app.accept().await;
    conn.head().await;
    // Nor does the application have to ask for it.
    assert_eq!(conn.exactly(4).await, b"body");
    assert!(started.elapsed() < Duration::from_millis(900), "it was held back");
    conn.send("HTTP/1.1 100 Continue\r\n\r\n").await;
    conn.send(OK).await;
    let mut response = client.response().await;
    if response.status() == 100 {
        response = client.response().await;
    }
    assert_eq!(response.status(), 200);
}
