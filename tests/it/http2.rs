//! HTTP/2 with clients and with the application, in every combination with HTTP/1.

use bytes::Bytes;
use h2::SendStream;
use h2::client::ResponseFuture;
use http::header::{CONTENT_LENGTH, COOKIE, HOST, HeaderValue, TE, VIA};
use http::{HeaderMap, Method, Request, Response};

use crate::support::http2::{H2App, H2Call, H2Client, H2c, before, read, request, rest};
use crate::support::{App, Tide, soon};

/// One slot, one place.
const ONE: &str = "[server]\nworkers = 1\n[upstream]\nmax_in_flight = 1\n\
    [defaults]\nmax_queue = 1\nmax_wait = \"60s\"\n";

fn post(path: &str) -> Request<()> {
    request(Method::POST, path)
}

fn call_of_grpc(timeout: &'static str) -> Request<()> {
    let mut head = post("/call");
    head.headers_mut().insert("content-type", HeaderValue::from_static("application/grpc"));
    head.headers_mut().insert("grpc-timeout", HeaderValue::from_static(timeout));
    head
}

// === in ===

#[tokio::test]
async fn a_request_of_http2_reaches_an_application_of_http1() {
    let app = App::start().await;
    let tide = Tide::before(app.address, "");
    let mut client = H2Client::connect(tide.address).await;
    let mut head = request(Method::GET, "/a?b=%2F");
    let fields = head.headers_mut();
    fields.append(COOKIE, HeaderValue::from_static("a=1"));
    fields.append(COOKIE, HeaderValue::from_static("b=2"));
    fields.insert(TE, HeaderValue::from_static("trailers"));
    let (response, _) = client.send(head, true).await;
    let (_conn, seen) = app.serve("hello").await;
    assert_eq!(seen.head.line, "GET /a?b=%2F HTTP/1.1");
    assert_eq!(seen.field("host"), Some("a"));
    assert_eq!(seen.field("cookie"), Some("a=1; b=2"), "{}", seen.head.raw);
    assert_eq!(seen.field("te"), Some("trailers"));
    assert_eq!(seen.field("via"), Some("2 tidegate"));
    assert_eq!(seen.field("transfer-encoding"), None, "{}", seen.head.raw);
    let response = read(response).await.unwrap();
    assert_eq!((response.status, &response.body[..]), (200, &b"hello"[..]));
    assert_eq!(response.headers[CONTENT_LENGTH], "5");
    tide.at_rest().await;
}

#[tokio::test]
async fn a_body_of_unknown_length_is_chunked_for_http1() {
    let app = App::start().await;
    let tide = Tide::before(app.address, "");
    let mut client = H2Client::connect(tide.address).await;
    for method in [Method::POST, Method::GET] {
        let (response, mut body) = client.send(request(method, "/"), false).await;
        body.send_data(Bytes::from_static(b"one"), false).unwrap();
        body.send_data(Bytes::from_static(b"two"), true).unwrap();
        let (conn, seen) = app.serve("").await;
        assert_eq!(seen.field("transfer-encoding"), Some("chunked"), "{}", seen.head.raw);
        assert_eq!(seen.body, b"onetwo");
        assert_eq!(read(response).await.unwrap().status, 200);
        drop(conn);
    }
}

#[tokio::test]
async fn requests_side_by_side_are_admitted_one_by_one() {
    let app = App::start().await;
    let tide = Tide::before(app.address, ONE);
    let mut client = H2Client::connect(tide.address).await;
    let first = client.get("/first").await;
    let mut conn = app.accept().await;
    conn.request().await;
    let second = client.get("/second").await;
    tide.until_queued(1).await;
    let refused = read(client.get("/third").await).await.unwrap();
    assert_eq!(refused.status, 503);
    assert!(refused.headers.contains_key("retry-after"), "{refused:?}");
    assert!(!refused.headers.contains_key("connection"), "{refused:?}");
    conn.send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await;
    assert_eq!(read(first).await.unwrap().status, 200);
    let request = conn.request().await;
    assert_eq!(request.head.line, "GET /second HTTP/1.1");
    conn.send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await;
    assert_eq!(read(second).await.unwrap().status, 200);
    tide.at_rest().await;
}

#[tokio::test]
async fn a_reset_stream_leaves_the_queue_and_the_application_at_once() {
    let app = App::start().await;
    let tide = Tide::before(app.address, ONE);
    let mut client = H2Client::connect(tide.address).await;
    let first = client.get("/first").await;
    let mut conn = app.accept().await;
    conn.request().await;
    let second = client.get("/second").await;
    tide.until_queued(1).await;
    drop(second);
    tide.until_queued(0).await;
    drop(first);
    assert!(conn.rest().await.is_empty());
    let metrics = tide.at_rest().await;
    assert_eq!(metrics.sum("tidegate_abandoned_total", &[]), 1.0);
    let aborts = |stage| metrics.sum("tidegate_client_aborts_total", &[("stage", stage)]);
    assert_eq!((aborts("queued"), aborts("upstream")), (1.0, 1.0), "{metrics}");
    // The connection goes on.
    let third = client.get("/third").await;
    app.serve("").await;
    assert_eq!(read(third).await.unwrap().status, 200);
}

#[tokio::test]
async fn a_refused_upload_is_read_to_its_end() {
    let app = App::start().await;
    let tide = Tide::before(app.address, &ONE.replace("max_queue = 1", "max_queue = 0"));
    let mut client = H2Client::connect(tide.address).await;
    let _first = client.get("/first").await;
    let mut conn = app.accept().await;
    conn.request().await;
    let (response, mut body) = client.send(post("/upload"), false).await;
    // Twice as much as a stream may send ahead.
    for _ in 0..8 {
        body.reserve_capacity(16 * 1024);
        while body.capacity() < 16 * 1024 {
            let more = std::future::poll_fn(|task| body.poll_capacity(task));
            soon("room to send", more).await.expect("not reset").unwrap();
        }
        body.send_data(Bytes::from(vec![0; 16 * 1024]), false).unwrap();
    }
    body.send_data(Bytes::new(), true).unwrap();
    assert_eq!(read(response).await.unwrap().status, 503);
}

#[tokio::test]
async fn authority_and_host_are_one() {
    let app = App::start().await;
    let tide = Tide::before(app.address, "");
    let mut client = H2Client::connect(tide.address).await;
    let with = |fields: &[(&'static str, &'static str)]| {
        let mut request = request(Method::GET, "/");
        for (name, value) in fields {
            request.headers_mut().append(*name, HeaderValue::from_static(value));
        }
        request
    };
    let host = HOST.as_str();
    let bad = [
        &[("host", "b")][..],
        &[(host, "a"), (host, "a")],
        &[("x-blank", " b")],
        &[("x-blank", "b\t")],
    ];
    for fields in bad {
        let response = read(client.send(with(fields), true).await.0).await.unwrap();
        assert_eq!(response.status, 400, "{fields:?}");
    }
    let (response, _) = client.send(with(&[("host", "A")]), true).await;
    let (_conn, seen) = app.serve("").await;
    assert_eq!(seen.head.raw.matches("\r\nhost:").count(), 1, "{}", seen.head.raw);
    assert_eq!(read(response).await.unwrap().status, 200);
    let connect = Request::builder().method(Method::CONNECT).uri("a:80").body(()).unwrap();
    assert_eq!(read(client.send(connect, true).await.0).await.unwrap().status, 405);
}

#[tokio::test]
async fn a_response_that_breaks_off_resets_its_stream() {
    let app = App::start().await;
    let tide = Tide::before(app.address, "");
    let mut client = H2Client::connect(tide.address).await;
    let response = client.get("/").await;
    let mut conn = app.accept().await;
    conn.request().await;
    conn.send("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf").await;
    let mut response = soon("the head", response).await.unwrap();
    assert_eq!(response.status(), 200);
    drop(conn);
    let error = rest(response.body_mut()).await.unwrap_err();
    assert!(error.is_reset(), "{error:?}");
    let again = client.get("/").await;
    app.serve("").await;
    assert_eq!(read(again).await.unwrap().status, 200);
}

#[tokio::test]
async fn a_client_that_does_not_take_its_response_loses_it_and_no_other() {
    let app = App::start().await;
    let toml = "[server]\nworkers = 1\n[upstream]\nmax_in_flight = 1\n\
        [defaults]\nidle_body_timeout = \"50ms\"\nmax_wait = \"60s\"\n";
    let tide = Tide::before(app.address, toml);
    let mut client = H2Client::connect(tide.address).await;
    let stalled = client.get("/stalled").await;
    let mut conn = app.accept().await;
    conn.request().await;
    conn.send("HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n").await;
    let stalled = soon("the head", stalled).await.unwrap();
    // More than the stream's window and all buffers on the way take.
    let pushed = conn.try_send(vec![b'x'; 999_999]);
    let other = async {
        let other = client.get("/other").await;
        app.serve("other").await;
        read(other).await.unwrap()
    };
    let (_, other) = tokio::join!(pushed, other);
    assert_eq!((other.status, &other.body[..]), (200, &b"other"[..]));
    let metrics = tide.at_rest().await;
    let aborts = metrics.sum("tidegate_client_aborts_total", &[("stage", "response_body")]);
    assert_eq!(aborts, 1.0, "{metrics}");
    let mut body = stalled.into_body();
    assert!(rest(&mut body).await.unwrap_err().is_reset());
}

#[tokio::test]
async fn an_idle_connection_and_a_draining_one_take_leave() {
    let app = App::start().await;
    let tide = Tide::before(app.address, "[server]\nidle_timeout = \"50ms\"\n");
    let mut client = H2Client::connect(tide.address).await;
    let response = client.get("/").await;
    app.serve("").await;
    assert_eq!(read(response).await.unwrap().status, 200);
    client.ended().await.unwrap();

    let tide = Tide::before(app.address, "[server]\nworkers = 1\n");
    let mut client = H2Client::connect(tide.address).await;
    let response = client.get("/last").await;
    let mut conn = app.accept().await;
    conn.request().await;
    let draining = async {
        tide.sidecar.drain().await;
    };
    let answering = async {
        tide.until("draining", |metrics| metrics.sum("tidegate_draining", &[]) == 1.0).await;
        conn.send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await;
        assert_eq!(read(response).await.unwrap().status, 200);
        client.ended().await.unwrap();
    };
    soon("the drain", async { tokio::join!(draining, answering) }).await;
}

// === out ===

#[tokio::test]
async fn a_request_of_http1_reaches_an_application_of_http2() {
    let app = H2App::start().await;
    let tide = before(&app, "");
    let mut client = tide.client().await;
    client.send("POST /a?b HTTP/1.1\r\nHost: x:1\r\nTransfer-Encoding: chunked\r\n\r\n").await;
    client.send("3\r\none\r\n0\r\n\r\n").await;
    let mut call = app.call().await;
    let (head, mut body) = call.request.into_parts();
    assert_eq!(head.uri.to_string(), "http://x:1/a?b");
    assert_eq!(head.headers.get(HOST), None);
    assert_eq!(head.headers[VIA], "1.1 tidegate");
    assert_eq!(head.headers.get("transfer-encoding"), None);
    assert_eq!(rest(&mut body).await.unwrap().0, b"one");
    let mut stream = call.respond.send_response(Response::new(()), false).unwrap();
    stream.send_data(Bytes::from_static(b"two"), true).unwrap();
    let response = client.response().await;
    assert_eq!((response.status(), &response.body[..]), (200, &b"two"[..]));
    tide.at_rest().await;
}

#[tokio::test]
async fn trailers_pass_both_ways() {
    let app = H2App::start().await;
    let tide = before(&app, "");
    let mut client = H2Client::connect(tide.address).await;
    let mut head = post("/call");
    head.headers_mut().insert(TE, HeaderValue::from_static("trailers"));
    let (response, mut body) = client.send(head, false).await;
    let trailers = |name: &'static str| {
        HeaderMap::from_iter([
            (name.parse().unwrap(), HeaderValue::from_static("1")),
            (HOST, HeaderValue::from_static("evil")),
        ])
    };
    body.send_data(Bytes::from_static(b"ping"), false).unwrap();
    body.send_trailers(trailers("x-up")).unwrap();
    let H2Call { mut request, mut respond } = app.call().await;
    assert_eq!(request.headers()[TE], "trailers");
    let (bytes, up) = rest(request.body_mut()).await.unwrap();
    assert_eq!((&bytes[..], up.as_ref().unwrap().len()), (&b"ping"[..], 1), "{up:?}");
    let mut stream = respond.send_response(Response::new(()), false).unwrap();
    stream.send_data(Bytes::from_static(b"pong"), false).unwrap();
    stream.send_trailers(trailers("grpc-status")).unwrap();
    let response = read(response).await.unwrap();
    assert_eq!(response.body, b"pong");
    let down = response.trailers.unwrap();
    assert_eq!((down.len(), &down["grpc-status"]), (1, &HeaderValue::from_static("1")));
}

#[tokio::test]
async fn messages_pass_one_by_one_in_both_directions() {
    let app = H2App::start().await;
    let tide = before(&app, "");
    let mut client = H2Client::connect(tide.address).await;
    let (response, mut up) = client.send(post("/chat"), false).await;
    let mut call = app.call().await;
    let mut down = call.begin(false);
    let mut answers = soon("the head", response).await.unwrap().into_body();
    for _ in 0..3 {
        up.send_data(Bytes::from_static(b"ping"), false).unwrap();
        let heard = soon("ping", call.request.body_mut().data()).await.unwrap().unwrap();
        assert_eq!(heard, "ping");
        down.send_data(Bytes::from_static(b"pong"), false).unwrap();
        assert_eq!(soon("pong", answers.data()).await.unwrap().unwrap(), "pong");
    }
    // The client leaves in the middle: the application is told.
    up.send_reset(h2::Reason::CANCEL);
    let end = soon("the end", call.request.body_mut().data()).await.unwrap();
    assert!(end.is_err(), "{end:?}");
    tide.at_rest().await;
}

#[tokio::test]
async fn no_more_streams_are_opened_than_the_application_allows() {
    let app = H2App::with_streams(2).await;
    let tide = before(&app, "[server]\nworkers = 1\n[upstream]\nmax_in_flight = 8\n");
    let mut client = H2Client::connect(tide.address).await;
    let mut responses = Vec::new();
    for number in 0..6 {
        responses.push(client.get(&format!("/{number}")).await);
    }
    // Were one hidden behind the bound of a connection, it would not come before another ends.
    let mut calls = Vec::new();
    for _ in 0..6 {
        calls.push(app.call().await);
    }
    let metrics = tide.metrics().await;
    assert_eq!(metrics.sum("tidegate_upstream_connections", &[]), 3.0, "{metrics}");
    calls.into_iter().for_each(|call| call.answer(""));
    for response in responses {
        assert_eq!(read(response).await.unwrap().status, 200);
    }
    tide.at_rest().await;
}

#[tokio::test]
async fn a_connection_that_takes_leave_is_not_used_again_and_nothing_is_lost() {
    let app = H2App::start().await;
    let tide = before(&app, "[server]\nworkers = 1\n");
    let mut client = H2Client::connect(tide.address).await;
    let first = client.get("/first").await;
    let call = app.call().await;
    app.leave();
    for number in 0..20 {
        let next = client.get(&format!("/{number}")).await;
        app.call().await.answer("next");
        assert_eq!(read(next).await.unwrap().body, b"next");
    }
    call.answer("first");
    assert_eq!(read(first).await.unwrap().body, b"first");
    tide.at_rest().await;
}

#[tokio::test]
async fn an_application_may_take_leave_several_times_before_it_looks_at_a_request() {
    // A frame is its length, its kind, its flags, its stream and its payload.
    const SETTINGS: &[u8] = &[0, 0, 0, 4, 0, 0, 0, 0, 0];
    const GOAWAY: &[u8] = &[0, 0, 8, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    const OK: &[u8] = &[0, 0, 1, 1, 5, 0, 0, 0, 1, 0x88];
    let app = App::start().await;
    let address = app.address;
    let tide = Tide::connecting(address, "", &|_| Box::new(H2c(address)));
    let mut client = H2Client::connect(tide.address).await;
    let (response, _) = client.send(post("/"), true).await;
    let mut conns = Vec::new();
    for time in 0..5 {
        let mut conn = app.accept().await;
        conn.send(SETTINGS).await;
        // Its HEADERS have come: the name :authority, and a value for it.
        while conn.exactly(1).await != *b"\x41" {}
        conn.send(if time < 4 { GOAWAY } else { OK }).await;
        conns.push(conn);
    }
    assert_eq!(read(response).await.unwrap().status, 200);
    let metrics = tide.at_rest().await;
    assert_eq!(metrics.sum("tidegate_upstream_retries_total", &[]), 4.0);
}

#[tokio::test]
async fn a_switch_of_protocols_is_no_answer_of_http2() {
    let app = H2App::start().await;
    let tide = before(&app, "");
    let mut client = H2Client::connect(tide.address).await;
    let response = client.get("/").await;
    let mut call = app.call().await;
    let switching = Response::builder().status(101).body(()).unwrap();
    call.respond.send_informational(switching).unwrap();
    assert_eq!(read(response).await.unwrap().status, 502);
    let end = std::future::poll_fn(|task| call.respond.poll_reset(task));
    soon("a reset", end).await.unwrap();
    tide.at_rest().await;
}

#[tokio::test]
async fn a_refused_stream_is_tried_once_more_if_that_is_safe() {
    let app = H2App::start().await;
    let tide = before(&app, "");
    let mut client = H2Client::connect(tide.address).await;
    let response = client.get("/").await;
    app.call().await.respond.send_reset(h2::Reason::REFUSED_STREAM);
    app.call().await.answer("again");
    assert_eq!(read(response).await.unwrap().body, b"again");

    // That it was not looked at holds for any method; but a body is gone.
    let (response, _) = client.send(post("/"), true).await;
    app.call().await.respond.send_reset(h2::Reason::REFUSED_STREAM);
    app.call().await.answer("again");
    assert_eq!(read(response).await.unwrap().body, b"again");
    let (response, mut body) = client.send(post("/"), false).await;
    body.send_data(Bytes::from_static(b"x"), true).unwrap();
    app.call().await.respond.send_reset(h2::Reason::REFUSED_STREAM);
    assert_eq!(read(response).await.unwrap().status, 502);
    let metrics = tide.at_rest().await;
    assert_eq!(metrics.sum("tidegate_upstream_retries_total", &[]), 2.0);
}

#[tokio::test]
async fn a_connection_that_had_served_and_is_lost_costs_idempotent_requests_nothing() {
    let app = H2App::start().await;
    let tide = before(&app, "[server]\nworkers = 1\n");
    let mut client = H2Client::connect(tide.address).await;
    let first = client.get("/").await;
    let _call = app.call().await;
    app.break_off();
    assert_eq!(read(first).await.unwrap().status, 502, "a fresh connection is no stale one");
    let warm = client.get("/").await;
    app.call().await.answer("warm");
    assert_eq!(read(warm).await.unwrap().body, b"warm");
    let response = client.get("/").await;
    let _call = app.call().await;
    app.break_off();
    app.call().await.answer("again");
    assert_eq!(read(response).await.unwrap().body, b"again");
    let (response, _) = client.send(post("/"), true).await;
    let _call = app.call().await;
    app.break_off();
    assert_eq!(read(response).await.unwrap().status, 502);
    let metrics = tide.at_rest().await;
    assert_eq!(metrics.sum("tidegate_upstream_retries_total", &[]), 1.0);
}

#[tokio::test]
async fn a_slow_reader_stalls_nobody_else() {
    let app = H2App::start().await;
    let tide = before(&app, "[server]\nworkers = 1\n");
    let mut slow = H2Client::connect(tide.address).await;
    let stalled = slow.get("/stalled").await;
    let mut call = app.call().await;
    let mut stream = call.begin(false);
    let _stalled = soon("the head", stalled).await.unwrap();
    // As much as the stream takes, which its client does not.
    stream.reserve_capacity(1_000_000);
    let more = std::future::poll_fn(|task| stream.poll_capacity(task));
    let room = soon("room", more).await.unwrap().unwrap();
    stream.send_data(Bytes::from(vec![0; room]), false).unwrap();
    let mut client = H2Client::connect(tide.address).await;
    for _ in 0..50 {
        let response = client.get("/").await;
        app.call().await.answer("moves");
        assert_eq!(read(response).await.unwrap().body, b"moves");
    }
}

#[tokio::test]
async fn an_application_that_speaks_something_else_is_a_failure() {
    let app = App::start().await;
    let address = app.address;
    let tide = Tide::connecting(address, "", &|_| Box::new(H2c(address)));
    let mut client = tide.client().await;
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    let mut conn = app.accept().await;
    conn.send("HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n").await;
    let response = client.response().await;
    response.assert_own(502, "http_protocol_error");
    tide.at_rest().await;
}

#[tokio::test]
async fn a_deadline_bounds_the_call_and_is_told_in_its_own_form() {
    let app = H2App::start().await;
    let tide = before(&app, "");
    let mut client = H2Client::connect(tide.address).await;
    let head = call_of_grpc("50m");
    let (response, _body) = client.send(head, false).await;
    let mut call = app.call().await;
    let response = read(response).await.unwrap();
    assert_eq!(response.status, 200);
    assert_eq!(response.headers["grpc-status"], "4", "{response:?}");
    assert_eq!(response.headers["content-type"], "application/grpc");
    // The application is told that nobody waits.
    let end = std::future::poll_fn(|task| call.respond.poll_reset(task));
    assert_eq!(soon("a reset", end).await.unwrap(), h2::Reason::CANCEL);
    tide.until("the slot back", |m| m.sum("tidegate_in_flight", &[]) == 0.0).await;
}

/// A call of gRPC with so much time, whose request has ended or not, and whose response has begun.
async fn begun(
    client: &mut H2Client,
    app: &H2App,
    timeout: &'static str,
    ends: bool,
) -> (ResponseFuture, SendStream<Bytes>, SendStream<Bytes>) {
    let head = call_of_grpc(timeout);
    let (response, up) = client.send(head, ends).await;
    let mut down = app.call().await.begin(false);
    down.send_data(Bytes::from_static(b"half"), false).unwrap();
    (response, up, down)
}

#[tokio::test]
async fn a_deadline_ends_a_call_that_has_begun_and_that_nobody_else_ends() {
    let app = H2App::start().await;
    let tide = before(&app, "");
    let mut client = H2Client::connect(tide.address).await;
    for ends in [true, false] {
        let (response, _up, mut down) = begun(&mut client, &app, "50m", ends).await;
        let response = read(response).await.unwrap();
        assert_eq!((response.status, &*response.body), (200, &b"half"[..]));
        assert_eq!(response.trailers.unwrap()["grpc-status"], "4");
        let end = std::future::poll_fn(|task| down.poll_reset(task));
        let reason = soon("a reset", end).await.unwrap();
        assert!([h2::Reason::CANCEL, h2::Reason::INTERNAL_ERROR].contains(&reason), "{reason}");
    }
    let metrics = tide.at_rest().await;
    assert_eq!(metrics.errors("http_response_timeout"), 2.0);
    assert_eq!(metrics.sum("tidegate_client_aborts_total", &[]), 0.0);
}

#[tokio::test]
async fn a_deadline_ends_a_call_whose_client_takes_nothing() {
    let app = H2App::start().await;
    let tide = before(&app, "");
    let mut client = H2Client::with_window(tide.address, 0).await;
    let (response, _up, _down) = begun(&mut client, &app, "50m", true).await;
    let mut body = soon("the head", response).await.unwrap().into_body();
    // Trailers need no window.
    let trailers = soon("trailers", std::future::poll_fn(|task| body.poll_trailers(task))).await;
    assert_eq!(trailers.unwrap().unwrap()["grpc-status"], "4");
    tide.at_rest().await;
}

#[tokio::test]
async fn a_deadline_ends_an_upload_that_the_application_does_not_take() {
    let app = H2App::start().await;
    let tide = before(&app, "");
    let mut client = H2Client::connect(tide.address).await;
    let head = call_of_grpc("1S");
    let (response, mut up) = client.send(head, false).await;
    let mut call = app.call().await;
    // More than the windows on the way have room for.
    up.send_data(Bytes::from(vec![0; 1 << 20]), false).unwrap();
    assert_eq!(read(response).await.unwrap().headers["grpc-status"], "4");
    let end = std::future::poll_fn(|task| call.respond.poll_reset(task));
    assert_eq!(soon("a reset", end).await.unwrap(), h2::Reason::CANCEL);
    tide.until("the slot back", |m| m.sum("tidegate_in_flight", &[]) == 0.0).await;
}

#[tokio::test]
async fn an_application_that_keeps_to_a_deadline_has_the_last_word() {
    let app = H2App::start().await;
    let tide = before(&app, "");
    let mut client = H2Client::connect(tide.address).await;
    let (response, _up, mut down) = begun(&mut client, &app, "50m", true).await;
    // A little later than its client's clock says.
    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    let trailers = [("grpc-status", "4"), ("grpc-message", "in its own words")];
    let trailers = trailers.map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()));
    down.send_trailers(HeaderMap::from_iter(trailers)).unwrap();
    let response = read(response).await.unwrap();
    assert_eq!(response.trailers.unwrap()["grpc-message"], "in its own words");
    assert_eq!(tide.at_rest().await.errors("http_response_timeout"), 0.0);
}

#[tokio::test]
async fn upgrades_are_not_offered_to_an_application_of_http2() {
    let app = H2App::start().await;
    let tide = before(&app, "");
    let mut client = tide.client().await;
    client
        .send("GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n")
        .await;
    let call = app.call().await;
    assert_eq!(call.request.headers().get("upgrade"), None);
    call.answer("");
    assert_eq!(client.response().await.status(), 200);
}
