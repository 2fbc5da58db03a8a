//! What an application says before its response (1xx), from and to either version of HTTP.

use std::future::poll_fn;

use bytes::Bytes;
use h2::client::ResponseFuture;
use http::{Method, Request, Response, StatusCode};

use crate::support::http2::{H2App, H2Call, H2Client, before, read, request};
use crate::support::{App, Tide, soon};

/// The next interim response; `None`: the response has come.
async fn next(response: &mut ResponseFuture) -> Option<Response<()>> {
    let next = poll_fn(|task| response.poll_informational(task));
    soon("an interim response", next).await.map(|interim| interim.expect("an open stream"))
}

fn expecting() -> Request<()> {
    let mut request = request(Method::POST, "/");
    request.headers_mut().insert("expect", "100-continue".parse().unwrap());
    request
}

impl H2Call {
    fn say(&mut self, status: StatusCode, link: Option<&str>) {
        let mut said = Response::builder().status(status);
        if let Some(link) = link {
            said = said.header("link", link);
        }
        self.respond.send_informational(said.body(()).unwrap()).expect("an open stream");
    }
}

#[tokio::test]
async fn hints_of_an_application_of_http1_reach_a_client_of_http2() {
    let app = App::start().await;
    let tide = Tide::before(app.address, "");
    let mut client = H2Client::connect(tide.address).await;
    let mut response = client.get("/").await;
    let mut conn = app.accept().await;
    conn.head().await;
    for link in ["</a>", "</b>"] {
        let fields = format!("Link: {link}\r\nConnection: x\r\nX: 1\r\nTransfer-Encoding: y");
        conn.send(format!("HTTP/1.1 103 Early Hints\r\n{fields}\r\n\r\n")).await;
        let hints = next(&mut response).await.unwrap();
        assert_eq!(hints.status(), StatusCode::EARLY_HINTS);
        let fields: Vec<_> = hints.headers().iter().collect();
        assert_eq!(fields, [(&http::header::LINK, &link.parse().unwrap())]);
    }
    // With the next thing said at once.
    let both = "HTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
    conn.send(both).await;
    assert_eq!(next(&mut response).await.unwrap().status(), StatusCode::PROCESSING);
    assert!(next(&mut response).await.is_none());
    assert_eq!(read(response).await.unwrap().body, b"ok");
    tide.at_rest().await;
}

#[tokio::test]
async fn hints_of_an_application_of_http2_reach_everybody() {
    let app = H2App::start().await;
    let tide = before(&app, "");
    let mut client = H2Client::connect(tide.address).await;
    let mut response = client.get("/").await;
    let mut call = app.call().await;
    call.say(StatusCode::EARLY_HINTS, Some("</a>"));
    let hints = next(&mut response).await.unwrap();
    assert_eq!((hints.status(), hints.headers().len()), (StatusCode::EARLY_HINTS, 1));
    call.answer("ok");
    assert_eq!(read(response).await.unwrap().body, b"ok");

    let mut client = tide.client().await;
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    let mut call = app.call().await;
    call.say(StatusCode::EARLY_HINTS, Some("</b>"));
    let hints = client.response().await.head.raw;
    assert_eq!(hints, "HTTP/1.1 103 Early Hints\r\nlink: </b>\r\n\r\n");
    call.answer("ok");
    assert_eq!(client.response().await.text(), "ok");

    // Who would not understand them is told nothing.
    let mut client = tide.client().await;
    client.send("GET / HTTP/1.0\r\nHost: a\r\n\r\n").await;
    let mut call = app.call().await;
    call.say(StatusCode::EARLY_HINTS, None);
    call.answer("ok");
    assert_eq!(client.response().await.text(), "ok");
    tide.at_rest().await;
}

#[tokio::test]
async fn a_client_of_http2_is_asked_for_its_body_when_the_application_wants_it() {
    let app = App::start().await;
    let tide = Tide::before(app.address, "");
    let mut client = H2Client::connect(tide.address).await;
    let (mut response, mut up) = client.send(expecting(), false).await;
    let mut conn = app.accept().await;
    assert_eq!(conn.head().await.field("expect"), Some("100-continue"));
    conn.send("HTTP/1.1 103 Early Hints\r\n\r\n").await;
    assert_eq!(next(&mut response).await.unwrap().status(), StatusCode::EARLY_HINTS);
    conn.send("HTTP/1.1 100 Continue\r\n\r\n").await;
    assert_eq!(next(&mut response).await.unwrap().status(), StatusCode::CONTINUE);
    up.send_data(Bytes::from_static(b"body"), true).unwrap();
    assert_eq!(conn.exactly(9).await, b"4\r\nbody\r\n");
    conn.send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await;
    assert!(next(&mut response).await.is_none(), "and only once");
    assert_eq!(read(response).await.unwrap().status, 200);
    tide.at_rest().await;
}

#[tokio::test]
async fn who_has_begun_to_send_is_not_asked_and_not_held_back() {
    let app = App::start().await;
    let tide = Tide::before(app.address, "");
    let mut client = H2Client::connect(tide.address).await;
    for at_once in [true, false] {
        let (mut response, mut up) = client.send(expecting(), false).await;
        let started = std::time::Instant::now();
        let send = |up: &mut h2::SendStream<Bytes>| {
            up.send_data(Bytes::from_static(b"body"), true).unwrap();
        };
        if at_once {
            send(&mut up);
        }
        let mut conn = app.accept().await;
        conn.head().await;
        if !at_once {
            send(&mut up);
        }
        assert_eq!(conn.exactly(9).await, b"4\r\nbody\r\n");
        assert!(started.elapsed().as_millis() < 900, "the wait for a 100");
        let fields = "Content-Length: 0\r\nConnection: close";
        conn.send(format!("HTTP/1.1 200 OK\r\n{fields}\r\n\r\n")).await;
        assert!(next(&mut response).await.is_none());
    }
    tide.at_rest().await;
}

#[tokio::test]
async fn an_application_of_http2_asks_for_a_body() {
    let app = H2App::start().await;
    let tide = before(&app, "");
    let mut client = H2Client::connect(tide.address).await;
    let (mut response, mut up) = client.send(expecting(), false).await;
    let mut call = app.call().await;
    assert_eq!(call.request.headers()["expect"], "100-continue");
    call.say(StatusCode::CONTINUE, None);
    assert_eq!(next(&mut response).await.unwrap().status(), StatusCode::CONTINUE);
    up.send_data(Bytes::from_static(b"body"), true).unwrap();
    let body = call.request.body_mut();
    assert_eq!(soon("the body", body.data()).await.unwrap().unwrap(), "body");
    call.answer("ok");
    assert_eq!(read(response).await.unwrap().body, b"ok");
    tide.at_rest().await;
}

#[tokio::test]
async fn a_refused_client_of_http2_is_not_asked_for_its_body() {
    let app = App::start().await;
    let tide =
        Tide::before(app.address, "[upstream]\nmax_in_flight = 1\n[defaults]\nmax_queue = 0\n");
    let mut client = H2Client::connect(tide.address).await;
    let first = client.get("/").await;
    let mut conn = app.accept().await;
    conn.head().await;
    let (mut response, _up) = client.send(expecting(), false).await;
    assert!(next(&mut response).await.is_none());
    assert_eq!(read(response).await.unwrap().status, 503);
    conn.send("HTTP/1.1 204 No Content\r\n\r\n").await;
    assert_eq!(read(first).await.unwrap().status, 204);
    tide.at_rest().await;
}
