//! Bodies over HTTP/2: delivered to their end however slowly they are taken, and none where none
//! may be.

use std::time::Duration;

use bytes::Bytes;
use h2::Reason;
use http::header::{CONTENT_LENGTH, HeaderValue};
use http::{Method, Response, StatusCode};
use tokio::net::TcpSocket;

use crate::support::http2::{H2App, H2Client, before, read, request, rest};
use crate::support::{App, Tide, Wire, soon};

/// Comes from the application in one piece: it is done with it at once.
const ONE_PIECE: usize = 7_000;
const WINDOW: u32 = 1_000;

#[tokio::test]
async fn what_is_taken_slowly_is_delivered_after_all() {
    let app = App::start().await;
    let tide = Tide::before(app.address, "[server]\nidle_timeout = \"10ms\"\n");
    let mut client = H2Client::with_window(tide.address, WINDOW).await;
    let response = client.get("/").await;
    let body = "x".repeat(ONE_PIECE);
    let (_conn, _) = app.serve(&body).await;
    let (_, mut body) = soon("the head", response).await.unwrap().into_parts();
    tide.until("the application is done", |metrics| metrics.answered(200) == 1.0).await;
    // Longer than the idle timeout, and than a client has to take leave.
    tokio::time::sleep(Duration::from_millis(1_300)).await;
    let (bytes, _) = rest(&mut body).await.unwrap();
    assert_eq!(bytes.len(), ONE_PIECE);
    // Only now it is idle.
    drop(body);
    client.ended().await.unwrap();
}

/// All of it has been written, and much of it waits in the kernel, when the connection takes leave.
#[tokio::test]
async fn a_farewell_destroys_nothing_that_is_on_its_way() {
    const SIZE: usize = 40_000;
    // A frame is its length, its kind, its flags, its stream and its payload: SETTINGS and
    // WINDOW_UPDATE with windows of 2^24, and GET / (RFC 7541, appendix A).
    const ASK: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\
        \0\0\x06\x04\0\0\0\0\0\0\x04\x01\0\0\0\0\0\x04\x08\0\0\0\0\0\x01\0\0\0\
        \0\0\x06\x01\x05\0\0\0\x01\x82\x86\x84\x41\x01a";
    let app = App::start().await;
    let tide = Tide::before(app.address, "[server]\nidle_timeout = \"10ms\"\n");
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(8 * 1024).unwrap();
    let mut wire = Wire::new(socket.connect(tide.address).await.unwrap());
    wire.send(ASK).await;
    let (_conn, _) = app.serve(&"x".repeat(SIZE)).await;
    tide.until("it is done", |metrics| metrics.answered(200) == 1.0).await;
    // Longer than a client has to take leave.
    tokio::time::sleep(Duration::from_millis(1_300)).await;
    let mut came = 0;
    while came < SIZE {
        let head = wire.try_exactly(9).await.expect("all of it");
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
        wire.try_exactly(length).await.expect("all of it");
        came += if head[3] == 0 { length } else { 0 };
    }
}

#[tokio::test]
async fn what_nobody_takes_is_given_up() {
    let app = App::start().await;
    let limits = "[server]\nidle_timeout = \"10ms\"\n[defaults]\nidle_body_timeout = \"100ms\"\n";
    let tide = Tide::before(app.address, limits);
    let mut client = H2Client::with_window(tide.address, WINDOW).await;
    let response = client.get("/").await;
    let (_conn, _) = app.serve(&"x".repeat(ONE_PIECE)).await;
    let (_, mut body) = soon("the head", response).await.unwrap().into_parts();
    let end = std::future::poll_fn(|task| body.poll_data(task));
    assert_eq!(soon("a part", end).await.unwrap().unwrap().len(), WINDOW as usize);
    let end = std::future::poll_fn(|task| body.poll_data(task));
    let reset = soon("the reset", end).await.unwrap().unwrap_err();
    assert_eq!(reset.reason(), Some(Reason::CANCEL));
    tide.at_rest().await;
    // The connection has done nothing wrong.
    client.ended().await.unwrap();
}

#[tokio::test]
async fn a_window_of_one_byte_is_a_window() {
    let app = App::start().await;
    let tide = Tide::before(app.address, "");
    let mut client = H2Client::with_window(tide.address, 1).await;
    for _ in 0..2 {
        let response = client.get("/").await;
        let (_conn, _) = app.serve(&"x".repeat(3_000)).await;
        assert_eq!(read(response).await.unwrap().body.len(), 3_000);
    }
}

#[tokio::test]
async fn an_answer_to_head_of_tidegates_own_has_no_body() {
    let app = App::start().await;
    let tide = Tide::before(
        app.address,
        "[[route]]\nname = \"no\"\nmatch = { path = \"/no\" }\nadmission = \"deny\"\n",
    );
    let mut client = H2Client::connect(tide.address).await;
    let got = read(client.get("/no").await).await.unwrap();
    let (response, _) = client.send(request(Method::HEAD, "/no"), true).await;
    let response = read(response).await.unwrap();
    assert_eq!((response.status, response.body.len()), (404, 0));
    assert_eq!(response.headers[CONTENT_LENGTH], got.body.len().to_string());
}

#[tokio::test]
async fn a_response_without_content_has_none_whatever_comes() {
    let app = H2App::start().await;
    let tide = before(&app, "");
    for status in [StatusCode::NO_CONTENT, StatusCode::NOT_MODIFIED] {
        let mut client = H2Client::connect(tide.address).await;
        let response = client.get("/").await;
        let mut call = app.call().await;
        let mut head = Response::new(());
        *head.status_mut() = status;
        let mut stream = call.respond.send_response(head, false).unwrap();
        stream.send_data(Bytes::from_static(b"abc"), true).unwrap();
        let response = read(response).await.unwrap();
        assert_eq!((response.status, response.body.len()), (status.as_u16(), 0));
    }
    let app = App::start().await;
    let tide = Tide::before(app.address, "");
    let mut client = H2Client::connect(tide.address).await;
    let response = client.get("/").await;
    let mut conn = app.accept().await;
    conn.request().await;
    conn.send("HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\n").await;
    let response = read(response).await.unwrap();
    assert_eq!((response.status, response.headers.get(CONTENT_LENGTH)), (204, None));
}

#[tokio::test]
async fn a_stream_that_is_reset_without_an_error_broke_off_too() {
    let app = H2App::start().await;
    let tide = before(&app, "");
    for (length, uploads) in [(None, false), (Some("10"), false), (None, true)] {
        let mut client = H2Client::connect(tide.address).await;
        let method = if uploads { Method::POST } else { Method::GET };
        let (response, _up) = client.send(request(method, "/"), !uploads).await;
        let mut call = app.call().await;
        let mut head = Response::new(());
        if let Some(length) = length {
            head.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from_static(length));
        }
        let mut stream = call.respond.send_response(head, false).unwrap();
        stream.send_data(Bytes::from_static(b"part"), false).unwrap();
        let (_, mut body) = soon("the head", response).await.unwrap().into_parts();
        assert_eq!(&soon("the part", body.data()).await.unwrap().unwrap()[..], b"part");
        stream.send_reset(Reason::NO_ERROR);
        let error = soon("the end", body.data()).await.unwrap().unwrap_err();
        assert!(error.is_reset(), "{error}");
    }
    tide.at_rest().await;
}

#[tokio::test]
async fn an_application_that_needs_no_more_of_an_upload_has_answered_whole() {
    let app = H2App::start().await;
    let tide = before(&app, "");
    let mut client = H2Client::connect(tide.address).await;
    let (response, _upload) = client.send(request(Method::POST, "/"), false).await;
    let mut call = app.call().await;
    let mut stream = call.begin(false);
    stream.send_data(Bytes::from_static(b"enough"), true).unwrap();
    // h2 now resets the stream, with NO_ERROR.
    drop((stream, call));
    assert_eq!(read(response).await.unwrap().body, b"enough");
    tide.at_rest().await;
}

#[tokio::test]
async fn a_post_without_a_body_says_so_to_http1() {
    let app = App::start().await;
    let tide = Tide::before(app.address, "");
    let mut client = H2Client::connect(tide.address).await;
    let (response, _) = client.send(request(Method::POST, "/"), true).await;
    let (mut conn, seen) = app.serve("").await;
    assert_eq!(seen.field("content-length"), Some("0"));
    assert_eq!(read(response).await.unwrap().status, 200);
    let _response = client.get("/").await;
    assert_eq!(conn.request().await.field("content-length"), None);
}

#[tokio::test]
async fn an_upload_that_is_taken_back_never_looks_whole() {
    let app = App::start().await;
    let tide = Tide::before(app.address, "");
    for reason in [Reason::CANCEL, Reason::NO_ERROR] {
        let mut client = H2Client::connect(tide.address).await;
        let (_response, mut up) = client.send(request(Method::POST, "/"), false).await;
        up.send_data(Bytes::from_static(b"part"), false).unwrap();
        let mut conn = app.accept().await;
        conn.head().await;
        assert_eq!(conn.exactly(9).await, b"4\r\npart\r\n");
        up.send_reset(reason);
        conn.end().await;
        assert!(conn.buffer.is_empty(), "{reason:?}: {:?}", conn.buffer);
    }
    tide.at_rest().await;
}

#[tokio::test]
async fn an_application_hears_of_a_client_that_left_while_its_window_is_shut() {
    let app = H2App::start().await;
    let tide = before(&app, "");
    let mut client = H2Client::connect(tide.address).await;
    let (response, mut up) = client.send(request(Method::POST, "/"), false).await;
    let mut call = app.call().await;
    let mut down = call.begin(false);
    let (_, body) = soon("the head", response).await.unwrap().into_parts();
    // More than the windows on the way have room for, and none of it is read.
    up.send_data(Bytes::from(vec![0; 1 << 20]), false).unwrap();
    down.send_data(Bytes::from_static(b"x"), false).unwrap();
    up.send_reset(Reason::CANCEL);
    drop(body);
    let end = std::future::poll_fn(|task| down.poll_reset(task));
    assert_eq!(soon("a reset", end).await.unwrap(), Reason::CANCEL);
    // Whose connection goes on.
    let again = client.get("/").await;
    app.call().await.answer("");
    assert_eq!(read(again).await.unwrap().status, 200);
    tide.at_rest().await;
}
