//! Silence, on either side, in every phase; and that nothing is cut off that goes on.

use std::time::Duration;

use crate::support::{App, End, Tide, Wire};

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";

#[tokio::test]
async fn a_head_that_does_not_end_becomes_408() {
    let app = App::apart().await;
    let tide = Tide::before(app.address, "[server]\nheader_timeout = \"150ms\"\n");
    for start in ["G", "\r\n", "GET / HTTP/1.1\r\nHost: a\r\n", "GET / HTTP/1.1\r\nX: "] {
        let mut client = tide.client().await;
        client.send(start).await;
        let response = client.response().await;
        assert_eq!(response.status(), 408, "{start:?}");
        assert_eq!(response.field("connection"), Some("close"));
        client.shut().await;
        assert_eq!(client.end().await, End::Closed);
    }
    // Byte by byte does not help: the time runs from the first.
    let mut client = tide.client().await;
    let answered = async {
        let mut sent = 0;
        loop {
            let (byte, wait) = (&GET.as_bytes()[sent..=sent], Duration::from_millis(40));
            match client.try_send(byte).await {
                Ok(()) if sent + 3 < GET.len() => sent += 1,
                _ => return client,
            }
            if tokio::time::timeout(wait, client.stream.readable()).await.is_ok() {
                return client;
            }
        }
    };
    let mut client = crate::support::soon("an end to it", answered).await;
    assert_eq!(client.response().await.status(), 408);
    app.stays_alone(Duration::from_millis(5)).await;
}

#[tokio::test]
async fn the_second_head_has_its_own_time() {
    let app = App::start().await;
    let toml = "[server]\nheader_timeout = \"150ms\"\nworkers = 1\n";
    let tide = Tide::before(app.address, toml);
    let mut client = tide.client().await;
    client.send(GET).await;
    let (mut conn, _) = app.serve("1").await;
    assert_eq!(client.response().await.text(), "1");
    client.stays_silent(Duration::from_millis(300)).await;
    client.send(GET).await;
    conn.head().await;
    conn.send(OK).await;
    assert_eq!(client.response().await.status(), 200);
    client.send("GET /").await;
    assert_eq!(client.response().await.status(), 408);
    // Together with a whole request: the rest of its packet.
    let mut client = tide.client().await;
    client.send(format!("{GET}GET /half")).await;
    conn.head().await;
    conn.send(OK).await;
    assert_eq!(client.response().await.status(), 200);
    assert_eq!(client.response().await.status(), 408);
}

#[tokio::test]
async fn silent_connections_are_closed_without_a_word() {
    let app = App::start().await;
    let tide = Tide::before(app.address, "[server]\nidle_timeout = \"100ms\"\n");
    let started = std::time::Instant::now();
    let mut client = tide.client().await;
    assert!(client.rest().await.is_empty());
    assert!(started.elapsed() >= Duration::from_millis(100));
    let mut client = tide.client().await;
    client.send(GET).await;
    let (_conn, _) = app.serve("1").await;
    assert_eq!(client.response().await.text(), "1");
    let started = std::time::Instant::now();
    assert!(client.rest().await.is_empty());
    let lasted = started.elapsed();
    assert!(lasted >= Duration::from_millis(90), "{lasted:?}");
    assert!(lasted < Duration::from_millis(900), "{lasted:?}");
    tide.until("no connection", |m| m.sum("tidegate_connections", &[]) == 0.0).await;
}

#[tokio::test]
async fn parked_connections_still_work() {
    let app = App::start().await;
    let tide = Tide::before(app.address, "[server]\nworkers = 1\n");
    let mut client = tide.client().await;
    let mut half = tide.client().await;
    client.send(GET).await;
    let (mut conn, _) = app.serve("1").await;
    assert_eq!(client.response().await.text(), "1");
    // One with nothing, one with the beginning of a head in hyper's buffer, one with it in the
    // socket.
    half.send(format!("{GET}GET /half HTTP/1.1\r\nHo")).await;
    conn.head().await;
    conn.send(OK).await;
    assert_eq!(half.response().await.status(), 200);
    client.stays_silent(Duration::from_millis(1500)).await;
    half.send("st: a\r\n\r\n").await;
    assert_eq!(conn.head().await.line, "GET /half HTTP/1.1");
    conn.send(OK).await;
    assert_eq!(half.response().await.status(), 200);
    for path in ["/2", "/3"] {
        client.send(format!("POST {path} HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx")).await;
        assert_eq!(conn.request().await.text(), "x");
        conn.send(OK).await;
        assert_eq!(client.response().await.status(), 200);
    }
    assert_eq!(tide.at_rest().await.sum("tidegate_arrivals_total", &[]), 5.0);
}

#[tokio::test]
async fn an_application_that_does_not_answer_becomes_504() {
    let app = App::start().await;
    let tide = Tide::before(app.address, "[defaults]\nresponse_timeout = \"100ms\"\n");
    for (request, partial) in [
        (GET, ""),
        (GET, "HTTP/1.1 200 OK\r\nX: "),
        ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi", ""),
    ] {
        let mut client = tide.client().await;
        client.send(request).await;
        let mut conn = app.accept().await;
        conn.head().await;
        conn.send(partial).await;
        let response = client.response().await;
        response.assert_own(504, "http_response_timeout");
        // The slot is free because the connection is closed, not before.
        conn.end().await;
    }
    let metrics = tide.at_rest().await;
    assert_eq!(metrics.errors("http_response_timeout"), 3.0);
}

#[tokio::test]
async fn the_time_for_an_answer_runs_from_the_last_of_the_request() {
    let app = App::start().await;
    let tide = Tide::before(
        app.address,
        "[defaults]\nresponse_timeout = \"300ms\"\nidle_body_timeout = \"5s\"\n",
    );
    let mut client = tide.client().await;
    client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 8\r\n\r\n").await;
    let mut conn = app.accept().await;
    conn.head().await;
    for _ in 0..8 {
        client.send("x").await;
        conn.exactly(1).await;
        conn.stays_silent(Duration::from_millis(100)).await;
    }
    conn.send(OK).await;
    assert_eq!(client.response().await.status(), 200);
}

#[tokio::test]
async fn an_application_that_accepts_no_connection_becomes_504() {
    // A backlog that is full takes no more connections: the kernel drops the attempts.
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.bind(&"127.0.0.1:0".parse::<std::net::SocketAddr>().unwrap().into()).unwrap();
    socket.listen(0).unwrap();
    let address = socket.local_addr().unwrap().as_socket().unwrap();
    let mut filling = Vec::new();
    for _ in 0..8 {
        let filler = tokio::net::TcpStream::connect(address);
        filling.push(tokio::time::timeout(Duration::from_millis(50), filler).await);
    }
    let tide = Tide::before(address, "[upstream]\nconnect_timeout = \"100ms\"\n");
    let mut client = tide.client().await;
    client.get("/").await.assert_own(504, "connection_timeout");
    client.get("/").await.assert_own(504, "connection_timeout");
    let metrics = tide.at_rest().await;
    assert_eq!(metrics.errors("connection_timeout"), 2.0);
    tide.until("given up", |m| m.sum("tidegate_upstream_connections", &[]) == 0.0).await;
}

#[tokio::test]
async fn an_application_that_cannot_be_reached_becomes_502() {
    let tide = Tide::before("127.0.0.1:1".parse().unwrap(), "[upstream]\nmax_in_flight = 1\n");
    for _ in 0..3 {
        tide.client().await.get("/").await.assert_own(502, "connection_refused");
    }
    assert_eq!(tide.at_rest().await.answered(502), 3.0);
}

#[tokio::test]
async fn an_upload_that_falls_silent_becomes_408() {
    let app = App::start().await;
    let tide = Tide::before(app.address, "[defaults]\nidle_body_timeout = \"100ms\"\n");
    for body in [
        "Content-Length: 10\r\n\r\n",
        "Content-Length: 10\r\n\r\nhalf",
        "Transfer-Encoding: chunked\r\n\r\n",
        "Transfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n",
        "Transfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n0\r\n",
    ] {
        let mut client = tide.client().await;
        client.send(format!("POST / HTTP/1.1\r\nHost: a\r\n{body}")).await;
        let mut conn = app.accept().await;
        conn.head().await;
        let response = client.response().await;
        assert_eq!(response.status(), 408, "{body:?}");
        assert_eq!(response.field("connection"), Some("close"));
        conn.end().await;
        let there = String::from_utf8_lossy(&conn.buffer);
        assert!(!there.contains("0\r\n\r\n"), "{body:?} arrived whole");
    }
    let metrics = tide.at_rest().await;
    assert_eq!(metrics.answered(408), 5.0);
    assert_eq!(metrics.sum("tidegate_upstream_errors_total", &[]), 0.0);
}

#[tokio::test]
async fn a_response_that_falls_silent_breaks_off() {
    let app = App::start().await;
    let tide = Tide::before(app.address, "[defaults]\nidle_body_timeout = \"100ms\"\n");
    let mut client = tide.client().await;
    client.send(GET).await;
    let mut conn = app.accept().await;
    conn.head().await;
    conn.send("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf").await;
    let response = client.response().await;
    assert_eq!((response.text(), response.whole), ("half", false));
    conn.end().await;
    assert_eq!(tide.at_rest().await.errors("http_response_incomplete"), 1.0);

    // As long as something comes it goes on, however slowly.
    let mut client = tide.client().await;
    client.send(GET).await;
    let mut conn = app.accept().await;
    conn.head().await;
    conn.send("HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\n").await;
    for _ in 0..8 {
        conn.stays_silent(Duration::from_millis(40)).await;
        conn.send("x").await;
    }
    assert!(client.response().await.whole);
}

#[tokio::test]
async fn a_client_that_does_not_read_is_cut_off() {
    let app = App::start().await;
    let tide = Tide::before(app.address, "[defaults]\nidle_body_timeout = \"1s\"\n");
    let mut client = tide.client().await;
    client.small_buffers();
    client.send(GET).await;
    let mut conn = app.accept().await;
    conn.head().await;
    let size = 64 * 1024 * 1024;
    conn.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {size}\r\n\r\n")).await;
    // It stops coming through, and then the connection to the application is closed.
    let cut = conn.try_send(vec![b'x'; size]).await;
    assert!(cut.is_err(), "the application could write everything to a client that reads nothing");
    let metrics = tide.at_rest().await;
    assert_eq!(metrics.aborts("response_body"), 1.0);
    assert_eq!(client.end().await, End::Reset);
    assert!(client.buffer.len() < size);
}

/// A response of so many bytes on its way to a client that does not read.
async fn unread(tide: &Tide, app: &App, size: usize) -> Wire {
    let mut client = tide.client().await;
    client.small_buffers();
    client.send(GET).await;
    let mut conn = app.accept().await;
    conn.head().await;
    tokio::spawn(async move {
        let head = "HTTP/1.1 200 OK\r\nConnection: close\r\n";
        conn.send(format!("{head}Content-Length: {size}\r\n\r\n")).await;
        // Fails for the sizes that are given up.
        let _ = conn.try_send(vec![b'x'; size]).await;
    });
    client
}

/// The application is done with a response before a slow client has it: its end waits in a buffer.
#[tokio::test]
async fn the_end_of_a_response_waits_for_a_slow_client() {
    let app = App::start().await;
    let toml = "[defaults]\nidle_body_timeout = \"off\"\n[server]\nidle_timeout = \"1s\"\n";
    let tide = Tide::before(app.address, toml);
    // How much fits into the buffers of the kernel and of hyper: with less the application is done.
    let (mut fits, mut beyond) = (0, 32_000_000);
    while beyond - fits > 8_000 {
        let size = (fits + beyond) / 2;
        let mut client = unread(&tide, &app, size).await;
        client.pause(Duration::from_millis(30)).await;
        let done = tide.metrics().await.sum("tidegate_in_flight", &[]) == 0.0;
        if done {
            fits = size
        } else {
            beyond = size
        }
        drop(client);
        tide.at_rest().await;
    }
    let mut waiting = Vec::new();
    for less in 0..8 {
        let size = fits - less * 12_000;
        waiting.push((unread(&tide, &app, size).await, size));
    }
    waiting[0].0.pause(Duration::from_millis(1500)).await;
    println!("about {fits} bytes fit");
    for (mut client, size) in waiting {
        println!("{size}");
        client.head().await;
        client.exactly(size).await;
    }
    tide.at_rest().await;
}

#[tokio::test]
async fn unused_connections_to_the_application_are_closed() {
    let app = App::start().await;
    let tide = Tide::before(app.address, "[upstream]\nidle_timeout = \"100ms\"\n");
    let mut client = tide.client().await;
    client.send(GET).await;
    let (mut conn, _) = app.serve("1").await;
    assert_eq!(client.response().await.text(), "1");
    assert_eq!(conn.end().await, End::Closed);
    tide.until("none open", |m| m.sum("tidegate_upstream_connections", &[]) == 0.0).await;
}

#[tokio::test]
async fn a_client_that_reads_slowly_but_steadily_is_not_cut_off() {
    let app = App::start().await;
    let tide = Tide::before(app.address, "[defaults]\nidle_body_timeout = \"700ms\"\n");
    let mut client = tide.client().await;
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    let mut conn = app.accept().await;
    conn.head().await;
    let body = vec![b'x'; 64 << 20];
    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len());
    let sending = tokio::spawn(async move {
        conn.send(head).await;
        // It is not read to its end.
        let _ = conn.try_send(body).await;
        conn
    });
    client.head().await;
    // 1.6 MB/s for three seconds: no silence, but less than the kernel would like to see.
    let mut pace = tokio::time::interval(Duration::from_millis(10));
    for _ in 0..300 {
        pace.tick().await;
        assert_eq!(client.exactly(16 << 10).await.len(), 16 << 10);
    }
    assert_eq!(tide.metrics().await.sum("tidegate_in_flight", &[]), 1.0);
    client.reset();
    tide.at_rest().await;
    drop(sending.await);
}
