//! Who is let in, who waits, who is turned away; and that nobody waits beside a free slot.

use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::support::{App, Echo, Tide, Wire, soon};

const ONE: &str = "[upstream]\nmax_in_flight = 1\n";
const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";

async fn get(tide: &Tide, path: &str) -> Wire {
    let mut client = tide.client().await;
    client.send(format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n")).await;
    client
}

#[tokio::test]
async fn requests_beyond_the_limit_wait_in_order_and_beyond_the_queue_are_turned_away() {
    let app = App::apart().await;
    let tide = Tide::before(
        app.address,
        "[upstream]\nmax_in_flight = 1\n[defaults]\nmax_queue = 2\nmax_wait = \"10s\"\n",
    );
    let mut first = get(&tide, "/1").await;
    let mut conn = app.accept().await;
    assert_eq!(conn.head().await.line, "GET /1 HTTP/1.1");
    let mut second = get(&tide, "/2").await;
    tide.until_queued(1).await;
    let mut third = get(&tide, "/3").await;
    tide.until_queued(2).await;
    for _ in 0..3 {
        let refused = get(&tide, "/4").await.response().await;
        refused.assert_own(503, "connection_limit_reached; details=\"queue_full\"");
    }
    app.stays_alone(Duration::from_millis(5)).await;

    conn.send(OK).await;
    assert_eq!(first.response().await.status(), 200);
    // The next may come on a connection of its own: it is another worker's, perhaps.
    let mut conn = next(&app, conn, "/2").await;
    tide.until_queued(1).await;
    conn.send(OK).await;
    assert_eq!(second.response().await.status(), 200);
    let mut conn = next(&app, conn, "/3").await;
    conn.send(OK).await;
    assert_eq!(third.response().await.status(), 200);
    let metrics = tide.at_rest().await;
    assert_eq!(metrics.rejected("queue_full"), 3.0);
    assert_eq!(metrics.answered(503), 3.0);
    assert_eq!(metrics.sum("tidegate_admitted_total", &[]), 3.0);
}

/// The connection on which the next request comes: this one or a new one.
async fn next(app: &App, conn: Wire, path: &str) -> Wire {
    let mut conn = tokio::select! {
        new = app.accept() => new,
        read = conn.stream.readable() => {
            read.expect("open");
            conn
        }
    };
    assert_eq!(conn.head().await.line, format!("GET {path} HTTP/1.1"));
    conn
}

#[tokio::test]
async fn a_slot_is_free_only_when_the_body_has_ended() {
    let app = App::apart().await;
    let tide = Tide::before(app.address, ONE);
    let mut first = get(&tide, "/1").await;
    let mut conn = app.accept().await;
    conn.head().await;
    conn.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n").await;
    first.through("a\r\n").await;
    let mut second = get(&tide, "/2").await;
    let metrics = tide.until_queued(1).await;
    assert_eq!(metrics.sum("tidegate_in_flight", &[]), 1.0);
    app.stays_alone(Duration::from_millis(20)).await;
    conn.send("0\r\n\r\n").await;
    let mut conn = next(&app, conn, "/2").await;
    conn.send(OK).await;
    assert_eq!(second.response().await.status(), 200);
    first.through("0\r\n\r\n").await;
    tide.at_rest().await;
}

#[tokio::test]
async fn who_waited_for_max_wait_is_turned_away() {
    let app = App::start().await;
    let tide = Tide::before(
        app.address,
        "[upstream]\nmax_in_flight = 1\n[defaults]\nmax_wait = \"100ms\"\n",
    );
    let mut first = get(&tide, "/1").await;
    let mut conn = app.accept().await;
    conn.head().await;
    let started = std::time::Instant::now();
    let mut second = get(&tide, "/2").await;
    let refused = second.response().await;
    refused.assert_own(503, "connection_limit_reached; details=\"max_wait\"");
    let waited = started.elapsed();
    assert!(waited >= Duration::from_millis(100), "{waited:?}");
    // The refusal came while the slot was still taken, and the connection goes on.
    conn.send(OK).await;
    assert_eq!(first.response().await.status(), 200);
    second.send("GET /3 HTTP/1.1\r\nHost: a\r\n\r\n").await;
    next(&app, conn, "/3").await.send(OK).await;
    assert_eq!(second.response().await.status(), 200);
    let metrics = tide.at_rest().await;
    assert_eq!(metrics.rejected("max_wait"), 1.0);
    assert_eq!(metrics.sum("tidegate_queue_wait_seconds_count", &[]), 3.0);
}

#[tokio::test]
async fn the_body_of_a_request_is_not_read_before_it_is_admitted() {
    let app = App::start().await;
    let tide = Tide::before(
        app.address,
        "[upstream]\nmax_in_flight = 1\n[defaults]\nmax_wait = \"10s\"\n",
    );
    let mut first = get(&tide, "/1").await;
    let mut conn = app.accept().await;
    conn.head().await;
    // An upload far larger than what the kernel buffers gets stuck, until it is its turn.
    let mut second = tide.client().await;
    let size = 32 * 1024 * 1024;
    second.send(format!("POST /2 HTTP/1.1\r\nHost: a\r\nContent-Length: {size}\r\n\r\n")).await;
    let chunk = vec![b'x'; 64 * 1024];
    let mut sent = 0;
    while let Ok(written) = tokio::time::timeout(
        Duration::from_millis(200),
        tokio::io::AsyncWriteExt::write(&mut second.stream, &chunk),
    )
    .await
    {
        sent += written.expect("open");
        assert!(sent < size / 2, "{sent} bytes were taken from a request that waits");
    }
    tide.until_queued(1).await;
    conn.send(OK).await;
    assert_eq!(first.response().await.status(), 200);
    let mut conn = tokio::select! {
        new = app.accept() => new,
        read = conn.stream.readable() => { read.expect("open"); conn }
    };
    let rest = vec![b'x'; size - sent];
    let (request, ()) = tokio::join!(conn.request(), second.send(rest));
    assert_eq!(request.body.len(), size);
    conn.send(OK).await;
    assert_eq!(second.response().await.status(), 200);
    tide.at_rest().await;
}

#[tokio::test]
async fn no_request_waits_beside_a_free_slot() {
    let app = Echo::start(Duration::from_millis(1)).await;
    let tide = Tide::before(
        app.address,
        "[upstream]\nmax_in_flight = 1\n[defaults]\nmax_wait = \"60s\"\n",
    );
    // Staggered arrivals: each waits for exactly one before it, again and again.
    let clients = (0..8).map(|number| {
        let address = tide.address;
        tokio::spawn(async move {
            let mut client = Wire::connect(address).await;
            for round in 0..25 {
                let path = format!("/{number}/{round}");
                assert_eq!(client.get(&path).await.text(), path);
                tokio::time::sleep(Duration::from_micros(number * 300)).await;
            }
        })
    });
    for client in clients.collect::<Vec<_>>() {
        soon("every request is answered", client).await.expect("answered");
    }
    assert_eq!(app.counts.most.load(Ordering::Relaxed), 1);
    assert_eq!(app.counts.requests.load(Ordering::Relaxed), 200);
    let metrics = tide.at_rest().await;
    assert_eq!(metrics.sum("tidegate_admitted_total", &[]), 200.0);
    assert_eq!(metrics.answered(200), 200.0);
}

#[tokio::test]
async fn one_route_that_is_full_does_not_hold_up_another() {
    let app = App::start().await;
    let tide = Tide::before(
        app.address,
        "[server]\nworkers = 1\n[upstream]\nmax_in_flight = 4\n[defaults]\nmax_queue = 1\nmax_wait = \"10s\"\n\
         [[route]]\nname = \"slow\"\nmatch = { path = \"/slow\" }\nmax_in_flight = 1\n\
         [[route]]\nname = \"probe\"\nmatch = { path = \"/healthz\", exact = true }\n\
         admission = \"exempt\"\n",
    );
    let mut slow = get(&tide, "/slow").await;
    let mut slow_conn = app.accept().await;
    slow_conn.head().await;
    let _waiting = get(&tide, "/slow").await;
    tide.until_queued(1).await;
    let refused = get(&tide, "/slow").await.response().await;
    refused.assert_own(503, "connection_limit_reached; details=\"queue_full\"");
    let mut fast = get(&tide, "/fast").await;
    let (mut conn, request) = app.serve("fast").await;
    assert_eq!(request.head.line, "GET /fast HTTP/1.1");
    assert_eq!(fast.response().await.text(), "fast");
    let mut probe = get(&tide, "/healthz").await;
    assert_eq!(conn.head().await.line, "GET /healthz HTTP/1.1");
    conn.send(OK).await;
    assert_eq!(probe.response().await.status(), 200);
    slow_conn.send(OK).await;
    assert_eq!(slow.response().await.status(), 200);
}

#[tokio::test]
async fn streams_have_a_bound_of_their_own() {
    let app = App::start().await;
    let tide = Tide::before(
        app.address,
        "[server]\nworkers = 1\n[upstream]\nmax_in_flight = 1\n[defaults]\nmax_queue = 0\n\
         [[route]]\nname = \"events\"\nmatch = { path = \"/events\" }\nkind = \"stream\"\n\
         max_in_flight = 2\n",
    );
    let mut streams = Vec::new();
    for _ in 0..2 {
        let mut client = get(&tide, "/events").await;
        let mut conn = app.accept().await;
        conn.head().await;
        conn.send("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\ndata: 1\n\n").await;
        client.through("data: 1\n\n").await;
        streams.push((client, conn));
    }
    let refused = get(&tide, "/events").await.response().await;
    refused.assert_own(503, "connection_limit_reached; details=\"queue_full\"");
    let mut plain = get(&tide, "/plain").await;
    let (_conn, _) = app.serve("plain").await;
    assert_eq!(plain.response().await.text(), "plain");
    // An end of either side is an end of the stream, and makes room for another.
    let (client, mut conn) = streams.remove(0);
    drop(client);
    conn.end().await;
    let (mut client, conn) = streams.remove(0);
    drop(conn);
    client.through("0\r\n\r\n").await;
    tide.at_rest().await;
}

#[tokio::test]
async fn everything_adds_up_after_clients_were_killed_in_every_phase() {
    for way in ["cancel", "finish"] {
        add_up_after_chaos(way).await;
    }
}

async fn add_up_after_chaos(on_client_abort: &str) {
    let app = Echo::start(Duration::from_millis(3)).await;
    let tide = Tide::before(
        app.address,
        &format!(
            "[upstream]\nmax_in_flight = 2\n[defaults]\nmax_queue = 8\nmax_wait = \"30ms\"\n\
             idle_body_timeout = \"200ms\"\non_client_abort = \"{on_client_abort}\"\n"
        ),
    );
    for seed in crate::random::seeds([1, 2, 3]) {
        let clients = (0..24).map(|number| tokio::spawn(chaos(tide.address, seed * 100 + number)));
        for client in clients.collect::<Vec<_>>() {
            soon("every client ends", client).await.expect("ended");
        }
        let metrics = tide.at_rest().await;
        assert!(metrics.sum("tidegate_abandoned_total", &[]) > 0.0, "seed {seed}\n{metrics}");
        assert!(metrics.sum("tidegate_rejected_total", &[]) > 0.0, "seed {seed}\n{metrics}");
        tide.until("no client is left", |m| m.sum("tidegate_connections", &[]) == 0.0).await;
    }
    assert!(app.counts.most.load(Ordering::Relaxed) <= 2);
}

/// Sends requests and leaves in the middle of some, in order or with a reset.
async fn chaos(address: std::net::SocketAddr, seed: u64) {
    let mut random = crate::random::Random::new(seed);
    for _ in 0..12 {
        let mut client = Wire::connect(address).await;
        let whole: &[u8] = if random.chance(50) {
            b"GET /x HTTP/1.1\r\nHost: a\r\n\r\n"
        } else {
            b"POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n0123456789"
        };
        let sent = if random.chance(40) { random.below(whole.len() as u64) } else { u64::MAX };
        let sent = whole.len().min(sent as usize);
        if client.try_send(&whole[..sent]).await.is_err() {
            continue;
        }
        if random.chance(60) {
            tokio::time::sleep(Duration::from_micros(random.below(6000))).await;
        } else if sent == whole.len() {
            let status = client.response().await.status();
            assert!(matches!(status, 200 | 503), "{status}");
        }
        if random.chance(50) {
            client.reset();
        }
    }
}
