//! Connections that leave HTTP: WebSocket and other upgrades.

use std::time::Duration;

use crate::support::{App, End, Metrics, Tide, Wire};

const ASK: &str = "GET /chat HTTP/1.1\r\nHost: a\r\nConnection: keep-alive, Upgrade\r\n\
    Upgrade: websocket\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
const SWITCH: &str = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\n\
    Upgrade: WebSocket\r\nSec-WebSocket-Accept: x\r\n\r\n";
const ONE: &str = "[server]\nworkers = 1\n[upstream]\nmax_in_flight = 1\n\
    [defaults]\nmax_queue = 1\nmax_wait = \"60s\"\n";

/// A tunnel: the client's end and the application's.
async fn open(tide: &Tide, app: &App) -> (Wire, Wire) {
    let mut client = tide.client().await;
    client.send(ASK).await;
    let mut conn = app.accept().await;
    let request = conn.request().await;
    assert_eq!(request.field("connection"), Some("upgrade"), "{}", request.head.raw);
    assert_eq!(request.field("upgrade"), Some("websocket"));
    assert!(request.field("sec-websocket-key").is_some());
    conn.send(SWITCH).await;
    let head = client.head().await;
    assert_eq!(head.status(), 101, "{}", head.raw);
    assert_eq!(head.field("connection"), Some("upgrade"));
    assert_eq!(head.field("upgrade"), Some("WebSocket"));
    assert_eq!(head.field("sec-websocket-accept"), Some("x"));
    assert!(!head.has("content-length") && !head.has("transfer-encoding"), "{}", head.raw);
    (client, conn)
}

#[tokio::test]
async fn bytes_pass_both_ways_and_the_slot_is_held() {
    let app = App::start().await;
    let tide = Tide::before(app.address, ONE);
    let (mut client, mut conn) = open(&tide, &app).await;
    for round in 0..3 {
        client.send(format!("ping {round};")).await;
        assert_eq!(conn.through(";").await, format!("ping {round};"));
        conn.send(format!("pong {round};")).await;
        assert_eq!(client.through(";").await, format!("pong {round};"));
    }
    let mut other = tide.client().await;
    other.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    tide.until_queued(1).await;
    // One end says that it is done; the other still may say something.
    client.shut().await;
    assert!(conn.rest().await.is_empty());
    conn.send("the last").await;
    drop(conn);
    assert_eq!(client.rest().await, b"the last");
    let (_conn, _) = app.serve("").await;
    assert_eq!(other.response().await.status(), 200);
    let metrics = tide.at_rest().await;
    let switched = metrics.sum("tidegate_requests_total", &[("code", "101")]);
    assert_eq!(switched, 1.0, "{metrics}");
    assert_eq!(metrics.sum("tidegate_client_aborts_total", &[]), 0.0);
}

#[tokio::test]
async fn what_comes_too_early_waits_for_the_tunnel() {
    let app = App::start().await;
    let tide = Tide::before(app.address, "");
    let mut client = tide.client().await;
    client.send(format!("{ASK}early;")).await;
    let mut conn = app.accept().await;
    conn.request().await;
    conn.stays_silent(Duration::from_millis(20)).await;
    conn.send(format!("{SWITCH}eager;")).await;
    assert_eq!(client.head().await.status(), 101);
    assert_eq!(client.through(";").await, "eager;");
    assert_eq!(conn.through(";").await, "early;");
}

#[tokio::test]
async fn who_is_refused_goes_on_in_http() {
    let app = App::start().await;
    let tide = Tide::before(app.address, "");
    let mut client = tide.client().await;
    client.send(ASK).await;
    let mut conn = app.accept().await;
    conn.request().await;
    conn.send("HTTP/1.1 426 Upgrade Required\r\nUpgrade: x\r\nContent-Length: 2\r\n\r\nno").await;
    let response = client.response().await;
    assert_eq!((response.status(), response.text()), (426, "no"));
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    conn.request().await;
    conn.send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await;
    assert_eq!(client.response().await.status(), 200);
    tide.at_rest().await;
}

#[tokio::test]
async fn a_switch_that_nobody_asked_for_is_a_failure() {
    let app = App::start().await;
    let tide = Tide::before(app.address, "");
    let other = SWITCH.replace("WebSocket\r\n", "chess\r\n");
    let nameless = SWITCH.replace("Upgrade: WebSocket\r\n", "");
    for (ask, answer) in [
        ("GET / HTTP/1.1\r\nHost: a\r\n\r\n", SWITCH),
        ("GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\n\r\n", SWITCH),
        (ASK, &other),
        (ASK, &nameless),
    ] {
        let mut client = tide.client().await;
        client.send(ask).await;
        let mut conn = app.accept().await;
        conn.request().await;
        conn.send(answer).await;
        client.response().await.assert_own(502, "http_protocol_error");
        assert!(conn.rest().await.is_empty());
    }
    tide.at_rest().await;
}

#[tokio::test]
async fn what_cannot_be_a_tunnel_is_an_ordinary_request() {
    let app = App::start().await;
    let tide = Tide::before(app.address, "");
    for ask in [
        "GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: h2c\r\n\
         HTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket, h2c\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: a\r\nUpgrade: b\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade:\r\n\r\n",
        "GET / HTTP/1.0\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\
         Content-Length: 1\r\n\r\nx",
    ] {
        let mut client = tide.client().await;
        client.send(ask).await;
        let (_conn, request) = app.serve("").await;
        for field in ["upgrade", "connection", "http2-settings"] {
            assert_eq!(request.field(field), None, "{}", request.head.raw);
        }
        assert_eq!(client.response().await.status(), 200, "{ask}");
    }
}

#[tokio::test]
async fn each_end_is_told_when_the_other_breaks() {
    let app = App::start().await;
    let tide = Tide::before(app.address, ONE);
    let (client, mut conn) = open(&tide, &app).await;
    client.reset();
    conn.end().await;
    tide.at_rest().await;
    let (mut client, conn) = open(&tide, &app).await;
    conn.reset();
    client.end().await;
    tide.at_rest().await;
}

#[tokio::test]
async fn a_silent_tunnel_ends() {
    let app = App::start().await;
    let toml = "[defaults]\ntunnel_idle_timeout = \"50ms\"\n";
    let tide = Tide::before(app.address, toml);
    let (mut client, mut conn) = open(&tide, &app).await;
    assert!(matches!(client.end().await, End::Closed | End::Reset));
    conn.end().await;
    tide.at_rest().await;
}

#[tokio::test]
async fn a_tunnel_lives_until_the_grace_ends() {
    let app = App::start().await;
    let tide = Tide::before(app.address, "[server]\nshutdown_grace = \"200ms\"\n");
    let (mut client, mut conn) = open(&tide, &app).await;
    let draining = tide.sidecar.drain();
    let talking = async {
        tide.until("draining", |metrics| metrics.sum("tidegate_draining", &[]) == 1.0).await;
        client.send("still;").await;
        assert_eq!(conn.through(";").await, "still;");
        conn.end().await;
        client.end().await;
    };
    tokio::join!(draining, talking);
}

/// What the gate has in flight, its limit, and those of them that stay open.
fn slots(metrics: &Metrics) -> [f64; 3] {
    let families = ["in_flight", "in_flight_limit", "open_responses"];
    families.map(|family| metrics.sum(&format!("tidegate_upstream_{family}"), &[]))
}

#[tokio::test]
async fn what_stays_open_comes_on_top_of_a_limit_that_finds_itself() {
    let app = App::start().await;
    // Without a queue whoever finds no slot is turned away.
    let tide = Tide::before(app.address, "[defaults]\nmax_queue = 0\n");
    let mut tunnels = Vec::new();
    for _ in 0..12 {
        tunnels.push(open(&tide, &app).await);
    }
    let mut listener = tide.client().await;
    listener.send("GET /events HTTP/1.1\r\nHost: a\r\n\r\n").await;
    let mut conn = app.accept().await;
    conn.request().await;
    conn.send("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\ndata: 1\n\n").await;
    assert_eq!(listener.head().await.status(), 200);
    assert_eq!(slots(&tide.metrics().await), [13.0, 8.0 + 13.0, 13.0]);

    // Events that answer a POST are work, as any response is.
    let mut other = tide.client().await;
    other.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n").await;
    let mut work = app.accept().await;
    work.request().await;
    work.send("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\ndata: 1\n\n").await;
    assert_eq!(other.head().await.status(), 200);
    assert_eq!(slots(&tide.metrics().await), [14.0, 8.0 + 13.0, 13.0]);
    drop((other, work));

    tunnels.truncate(3);
    drop((listener, conn));
    let metrics = tide.until("the others have ended", |metrics| slots(metrics)[0] == 3.0).await;
    assert_eq!(slots(&metrics), [3.0, 8.0 + 3.0, 3.0]);
    drop(tunnels);
    let metrics = tide.at_rest().await;
    assert_eq!(slots(&metrics), [0.0, 8.0, 0.0]);
}

#[tokio::test]
async fn what_stays_open_counts_within_a_number() {
    let app = App::start().await;
    let tide =
        Tide::before(app.address, "[upstream]\nmax_in_flight = 2\n[defaults]\nmax_queue = 0\n");
    let tunnels = [open(&tide, &app).await, open(&tide, &app).await];
    let refused = tide.client().await.exchange("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    assert_eq!(refused.status(), 503);
    let metrics = tide.metrics().await;
    assert_eq!(slots(&metrics), [2.0, 2.0, 2.0]);
    let status = tide.status().await;
    assert_eq!(status["upstreams"][0]["open_responses"], 2, "{status}");
    drop(tunnels);
    tide.at_rest().await;
}
