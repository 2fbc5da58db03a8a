//! A reused connection that closed under its request: sent once more if that is safe, never
//! otherwise.

use std::time::Duration;

use crate::support::{App, Away, Message, Tide, Wire};

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";

/// A sidecar with one connection to the application that has served a request.
async fn warm(app: &App) -> (Tide, Wire, Wire) {
    let tide = Tide::before(app.address, "[server]\nworkers = 1\n");
    let mut client = tide.client().await;
    client.send("GET /warm HTTP/1.1\r\nHost: a\r\n\r\n").await;
    let (conn, _) = app.serve("warm").await;
    assert_eq!(client.response().await.text(), "warm");
    (tide, client, conn)
}

/// Sends a request on a warm connection, which reads it and then ends without an answer.
async fn lose(request: &str, partial: &str, reset: bool) -> (App, Tide, Wire) {
    let app = App::apart().await;
    let (tide, mut client, mut conn) = warm(&app).await;
    client.send(request).await;
    conn.head().await;
    if !partial.is_empty() {
        conn.send(partial).await;
    }
    if reset {
        conn.reset()
    } else {
        drop(conn)
    }
    (app, tide, client)
}

fn retries(metrics: &crate::support::Metrics) -> f64 {
    metrics.sum("tidegate_upstream_retries_total", &[])
}

#[tokio::test]
async fn idempotent_requests_without_a_body_are_sent_once_more() {
    for method in ["GET", "HEAD", "OPTIONS", "PUT", "DELETE", "TRACE"] {
        for reset in [false, true] {
            println!("{method}, reset: {reset}");
            let request = format!("{method} /x?y HTTP/1.1\r\nHost: a\r\nX-Mine: 1\r\n\r\n");
            let (app, tide, mut client) = lose(&request, "", reset).await;
            let mut conn = app.accept().await;
            let again = conn.request().await;
            assert_eq!(again.head.line, format!("{method} /x?y HTTP/1.1"));
            assert_eq!((again.field("host"), again.field("x-mine")), (Some("a"), Some("1")));
            assert_eq!(again.head.all("via"), ["1.1 tidegate"]);
            conn.send(OK).await;
            assert_eq!(client.response_to(method).await.status(), 200);
            let metrics = tide.at_rest().await;
            assert_eq!(retries(&metrics), 1.0);
            assert_eq!(metrics.sum("tidegate_upstream_errors_total", &[]), 0.0);
            assert_eq!(metrics.sum("tidegate_admitted_total", &[]), 2.0);
        }
    }
}

#[tokio::test]
async fn interim_responses_to_the_second_attempt_reach_the_client() {
    let (app, _tide, mut client) = lose("GET / HTTP/1.1\r\nHost: a\r\n\r\n", "", false).await;
    let mut conn = app.accept().await;
    conn.request().await;
    conn.send("HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n").await;
    let hints = client.through("\r\n\r\n").await;
    assert_eq!(hints, "HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n");
    conn.send(OK).await;
    assert_eq!(client.response().await.status(), 200);
}

#[tokio::test]
async fn only_once() {
    let (app, tide, mut client) = lose("GET /x HTTP/1.1\r\nHost: a\r\n\r\n", "", false).await;
    let mut conn = app.accept().await;
    conn.head().await;
    drop(conn);
    client.response().await.assert_own(502, "connection_terminated");
    app.stays_alone(Duration::from_millis(20)).await;
    let metrics = tide.at_rest().await;
    assert_eq!((retries(&metrics), metrics.errors("connection_terminated")), (1.0, 1.0));
}

/// What must not be sent twice ends in a 502.
async fn never(request: &str, partial: &str) -> Message {
    for reset in [false, true] {
        println!("{request:?}, answered {partial:?}, reset: {reset}");
        let (app, tide, mut client) = lose(request, partial, reset).await;
        told(&mut client).await.assert_own(502, "connection_terminated");
        app.stays_alone(Duration::from_millis(20)).await;
        let metrics = tide.at_rest().await;
        assert_eq!((retries(&metrics), metrics.errors("connection_terminated")), (0.0, 1.0));
    }
    let (_app, _tide, mut client) = lose(request, partial, false).await;
    told(&mut client).await
}

/// The response, after what comes before it.
async fn told(client: &mut Wire) -> Message {
    loop {
        let response = client.response().await;
        if response.status() >= 200 {
            return response;
        }
    }
}

#[tokio::test]
async fn requests_that_may_have_had_an_effect_are_not_sent_again() {
    never("POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n", "").await;
    never("PATCH /x HTTP/1.1\r\nHost: a\r\n\r\n", "").await;
    never("FOO /x HTTP/1.1\r\nHost: a\r\n\r\n", "").await;
}

#[tokio::test]
async fn requests_with_a_body_are_not_sent_again() {
    never("PUT /x HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc", "").await;
    let chunked =
        "PUT /x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n";
    never(chunked, "").await;
}

#[tokio::test]
async fn requests_that_had_some_answer_are_not_sent_again() {
    never("GET /x HTTP/1.1\r\nHost: a\r\n\r\n", "HTTP/1.1 200 O").await;
    never("GET /x HTTP/1.1\r\nHost: a\r\n\r\n", "HTTP/1.1 103 Early Hints\r\n\r\n").await;
}

#[tokio::test]
async fn requests_on_a_fresh_connection_are_not_sent_again() {
    let app = App::apart().await;
    let tide = Tide::before(app.address, "");
    let mut client = tide.client().await;
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    let mut conn = app.accept().await;
    conn.head().await;
    drop(conn);
    client.response().await.assert_own(502, "connection_terminated");
    app.stays_alone(Duration::from_millis(20)).await;
    assert_eq!(retries(&tide.at_rest().await), 0.0);
}

/// Nothing was written yet, so that any request may take another connection.
#[tokio::test]
async fn connections_that_closed_while_unused_cost_nothing() {
    let app = App::apart().await;
    let (tide, mut client, mut conn) = warm(&app).await;
    for round in 0..50 {
        // In the very moment of the next request, or just before.
        drop(conn);
        client.send("POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi").await;
        conn = app.accept().await;
        let request = conn.request().await;
        assert_eq!(request.text(), "hi");
        conn.send(OK).await;
        assert_eq!(client.response().await.status(), 200, "round {round}");
    }
    // Long before.
    drop(conn);
    tide.until("the pool has noticed", |m| m.sum("tidegate_upstream_connections", &[]) == 0.0)
        .await;
    client.send("POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi").await;
    let (_conn, request) = app.serve("").await;
    assert_eq!(request.text(), "hi");
    assert_eq!(client.response().await.status(), 200);
    let metrics = tide.at_rest().await;
    assert_eq!(metrics.sum("tidegate_upstream_errors_total", &[]), 0.0);
}

#[tokio::test]
async fn an_application_that_restarts_is_found_again() {
    let app = App::apart().await;
    let (tide, mut client, conn) = warm(&app).await;
    let address = app.address;
    drop((app, conn));
    client.get("/").await.assert_own(502, "connection_refused");
    let metrics = tide.until("down", |m| m.sum("tidegate_upstream_up", &[]) == 0.0).await;
    assert_eq!(metrics.errors("connection_refused"), 1.0);
    let app = Away::at(address).comes();
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    let (_conn, _) = app.serve("back").await;
    assert_eq!(client.response().await.text(), "back");
    tide.until("up", |m| m.sum("tidegate_upstream_up", &[]) == 1.0).await;
}
