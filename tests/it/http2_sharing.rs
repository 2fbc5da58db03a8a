//! What one client of HTTP/2 does, or does not take, costs nobody else on the same connection, to
//! tidegate or to the application.

use std::future::poll_fn;

use bytes::Bytes;
use h2::{Reason, SendStream};
use http::Method;

use crate::support::http2::{H2App, H2Client, H2c, before, read, request, rest};
use crate::support::{App, Tide, soon};

/// As much as a stream's window has room for, in frames of this size.
const WINDOW: usize = 65_535;
const SMALL: usize = 10;

/// Sends what a window has room for in small frames, and waits until the connection has it.
async fn send_small(stream: &mut SendStream<Bytes>) {
    stream.reserve_capacity(WINDOW);
    while stream.capacity() < WINDOW {
        let capacity = poll_fn(|task| stream.poll_capacity(task));
        soon("the window", capacity).await.unwrap().unwrap();
    }
    for index in 0..WINDOW / SMALL {
        stream.send_data(Bytes::from(vec![index as u8; SMALL]), false).unwrap();
        if index % 100 == 0 {
            tokio::task::yield_now().await;
        }
    }
}

fn is_as_sent(bytes: &[u8]) -> bool {
    bytes.len() == WINDOW / SMALL * SMALL
        && bytes
            .chunks(SMALL)
            .enumerate()
            .all(|(index, part)| part.iter().all(|b| *b == index as u8))
}

#[tokio::test]
async fn many_small_frames_for_clients_that_do_not_read() {
    let app = H2App::start().await;
    let tide = before(&app, "[server]\nworkers = 1\n[upstream]\nmax_in_flight = 100\n");
    let mut slow = H2Client::with_window(tide.address, 0).await;
    let mut responses = Vec::new();
    for _ in 0..8 {
        let response = slow.get("/").await;
        let mut down = app.call().await.begin(false);
        send_small(&mut down).await;
        responses.push((response, down));
    }
    let mut other = H2Client::connect(tide.address).await;
    let response = other.get("/").await;
    app.call().await.answer("other");
    assert_eq!(read(response).await.unwrap().body, b"other");
    assert_eq!(app.connections(), 1);
    drop((slow, responses));
    tide.at_rest().await;
}

/// The application answers what it has not read yet was taken back.
#[tokio::test]
async fn many_requests_taken_back_before_a_late_answer() {
    const SETTINGS: &[u8] = &[0, 0, 0, 4, 0, 0, 0, 0, 0];
    let ok = |stream: u32| [&[0, 0, 1, 1, 5][..], &stream.to_be_bytes(), &[0x88]].concat();
    let app = App::start().await;
    let address = app.address;
    let toml = "[server]\nworkers = 1\n[upstream]\nmax_in_flight = 100\n";
    let tide = Tide::connecting(address, toml, &|_| Box::new(H2c(address)));
    let mut client = H2Client::connect(tide.address).await;
    let mut responses = vec![client.get("/").await];
    let mut conn = app.accept().await;
    conn.send(SETTINGS).await;
    let mut stream = 1;
    // More than h2 lets pass in the life of a connection.
    for _ in 0..15 {
        while responses.len() < 90 {
            responses.push(client.get("/").await);
        }
        tide.until("sent", |metrics| metrics.sum("tidegate_in_flight", &[]) == 90.0).await;
        responses.clear();
        tide.until("taken back", |metrics| metrics.sum("tidegate_in_flight", &[]) == 0.0).await;
        for _ in 0..90 {
            conn.send(ok(stream)).await;
            stream += 2;
        }
        // Each connection has a credit.
        client = H2Client::connect(tide.address).await;
    }
    let response = client.get("/").await;
    tide.until("sent", |metrics| metrics.sum("tidegate_in_flight", &[]) == 1.0).await;
    conn.send(ok(stream)).await;
    assert_eq!(read(response).await.unwrap().status, 200);
    tide.at_rest().await;
}

#[tokio::test]
async fn many_small_frames_of_uploads_that_wait() {
    let app = App::start().await;
    let tide = Tide::before(app.address, "[upstream]\nmax_in_flight = 1\n");
    let mut client = H2Client::connect(tide.address).await;
    let first = client.get("/first").await;
    let mut conn = app.accept().await;
    conn.head().await;
    let mut waiting = Vec::new();
    for count in 1..=4 {
        let (response, mut up) = client.send(request(Method::POST, "/"), false).await;
        tide.until_queued(count).await;
        send_small(&mut up).await;
        waiting.push((response, up));
    }
    conn.send("HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n").await;
    assert_eq!(read(first).await.unwrap().status, 204);
    for _ in 0..4 {
        let mut conn = app.accept().await;
        conn.head().await;
        let mut body = Vec::new();
        while body.len() < WINDOW / SMALL * SMALL {
            let mut line = Vec::new();
            while !line.ends_with(b"\r\n") {
                line.extend(conn.exactly(1).await);
            }
            let digits = std::str::from_utf8(&line[..line.len() - 2]).unwrap();
            let chunk = conn.exactly(usize::from_str_radix(digits, 16).unwrap() + 2).await;
            body.extend_from_slice(&chunk[..chunk.len() - 2]);
        }
        assert!(is_as_sent(&body));
        conn.send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n").await;
    }
    for (response, _up) in waiting {
        assert_eq!(soon("a response", response).await.unwrap().status(), 200);
    }
}

/// Nothing, many times, and then one byte.
fn send_nothing(stream: &mut SendStream<Bytes>) {
    for _ in 0..300 {
        stream.send_data(Bytes::new(), false).unwrap();
    }
    stream.send_data(Bytes::from_static(b"x"), true).unwrap();
}

/// RFC 9113, section 6.1, allows it.
#[tokio::test]
async fn many_frames_of_nothing() {
    let app = H2App::start().await;
    let tide = before(&app, "");
    let mut client = H2Client::connect(tide.address).await;
    let (response, mut up) = client.send(request(Method::POST, "/"), false).await;
    let mut call = app.call().await;
    send_nothing(&mut up);
    assert_eq!(rest(call.request.body_mut()).await.unwrap().0, b"x");
    send_nothing(&mut call.begin(false));
    assert_eq!(read(response).await.unwrap().body, b"x");
    let again = client.get("/").await;
    app.call().await.answer("");
    assert_eq!(read(again).await.unwrap().status, 200);
    tide.at_rest().await;
    assert_eq!(app.connections(), 1);
}

#[tokio::test]
async fn a_refusal_that_nobody_takes_is_given_up() {
    let app = App::start().await;
    let toml = "[upstream]\nmax_in_flight = 1\n[defaults]\nmax_queue = 0\n\
        idle_body_timeout = \"100ms\"\n";
    let tide = Tide::before(app.address, toml);
    let mut first = tide.client().await;
    first.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    let mut conn = app.accept().await;
    conn.head().await;
    let mut client = H2Client::with_window(tide.address, 0).await;
    let response = client.get("/").await;
    let (head, mut body) = soon("the head", response).await.unwrap().into_parts();
    assert_eq!(head.status, 503);
    assert_eq!(rest(&mut body).await.unwrap_err().reason(), Some(Reason::CANCEL));
    drop(body);
    client.ended().await.unwrap();
}

#[tokio::test]
async fn a_connection_on_which_nothing_comes_any_more_is_not_used_again() {
    let app = H2App::start().await;
    let toml = "[server]\nworkers = 1\n[defaults]\nresponse_timeout = \"100ms\"\n";
    let tide = before(&app, toml);
    let mut client = H2Client::connect(tide.address).await;
    for path in ["/settles", "/answered"] {
        let response = client.get(path).await;
        app.call().await.answer("");
        assert_eq!(read(response).await.unwrap().status, 200);
    }
    let response = client.get("/hangs").await;
    let _silent = app.call().await;
    assert_eq!(read(response).await.unwrap().status, 504);
    let response = client.get("/again").await;
    app.call().await.answer("");
    assert_eq!(read(response).await.unwrap().status, 200);
    tide.at_rest().await;
    assert_eq!(app.connections(), 2);
}
