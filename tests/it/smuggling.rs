//! One request stays one request: whatever a client says of its framing, the application reads the
//! same message as tidegate, and what comes behind it is the next.
//!
//! The cases are those of golang/go `src/net/http/httputil/reverseproxy_test.go`, haproxy/haproxy
//! `reg-tests/http-messaging`, nginx/nginx-tests `proxy_chunked_extra.t`, narfindustries/http-garden
//! and of the advisories for pingora (CVE-2026-2833, -2835), Go (CVE-2025-22871), Kestrel
//! (CVE-2025-55315) and fasthttp (valyala/fasthttp#1899), in bytes of our own.

use std::time::Duration;

use crate::support::{App, Echo, End, Tide, Wire};

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
const NEXT: &str = "GET /next HTTP/1.1\r\nHost: b\r\n\r\n";

/// What a client says after `POST /first HTTP/1.1` and its Host, and the body that this means.
const REQUESTS: [(&str, &str); 22] = [
    ("\r\n", ""),
    ("Content-Length: 0\r\n\r\n", ""),
    ("Content-Length: 5\r\n\r\nhello", "hello"),
    ("Content-Length:\t5 \t\r\n\r\nhello", "hello"),
    ("Content-Length: 005\r\n\r\nhello", "hello"),
    ("Content-Length: 5\r\nContent-Length: 5\r\n\r\nhello", "hello"),
    ("Connection: Content-Length\r\nContent-Length: 5\r\n\r\nhello", "hello"),
    ("Content_Length: 5\r\n\r\n", ""),
    ("Transfer_Encoding: chunked\r\nContent-Length: 0\r\n\r\n", ""),
    ("X-Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n", "0\r\n\r\n"),
    ("Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n", ""),
    ("tRANSFER-eNCODING:\tcHUNKED \t\r\n\r\n3\r\nabc\r\n0\r\n\r\n", "abc"),
    ("Connection: Transfer-Encoding\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n", "x"),
    ("Transfer-Encoding: chunked\r\n\r\n3;a=\"\\\"\";b\r\nabc\r\n0;c\r\n\r\n", "abc"),
    ("Transfer-Encoding: chunked\r\n\r\n3 ; a = b\r\nabc\r\n0\r\n\r\n", "abc"),
    ("Transfer-Encoding: chunked\r\n\r\n3\t\r\nabc\r\n0\r\n\r\n", "abc"),
    ("Transfer-Encoding: chunked\r\n\r\n3;\x01\x7f\r\nabc\r\n0\r\n\r\n", "abc"),
    ("Transfer-Encoding: chunked\r\n\r\n000000000000000000000000003\r\nabc\r\n0\r\n\r\n", "abc"),
    (
        "Transfer-Encoding: chunked\r\n\r\nA\r\n0123456789\r\na\r\n0123456789\r\n0\r\n\r\n",
        "01234567890123456789",
    ),
    // Trailers cannot frame what is behind them.
    ("Transfer-Encoding: chunked\r\n\r\n0\r\nContent-Length: 9\r\nHost: evil\r\n\r\n", ""),
    // The body is a request by itself.
    (
        "Content-Length: 31\r\n\r\nGET /body HTTP/1.1\r\nHost: c\r\n\r\n",
        "GET /body HTTP/1.1\r\nHost: c\r\n\r\n",
    ),
    // An upgrade that is refused is none, and neither is h2c.
    ("Connection: upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AA\r\n\r\n", ""),
];

#[tokio::test]
async fn one_request_stays_one() {
    let app = App::start().await;
    let tide = Tide::before(app.address, "[server]\nworkers = 1\n");
    let mut conn: Option<Wire> = None;
    for method in ["POST", "GET", "HEAD", "DELETE", "OPTIONS", "FOO"] {
        for (said, body) in REQUESTS {
            println!("{method}: {said:?}");
            let mut client = tide.client().await;
            let request = format!("{method} /first HTTP/1.1\r\nHost: a\r\n{said}{NEXT}");
            client.send(request).await;
            let conn = match &mut conn {
                Some(conn) => conn,
                none => none.insert(app.accept().await),
            };
            let first = conn.request().await;
            assert_eq!(first.head.line, format!("{method} /first HTTP/1.1"));
            assert_eq!(first.text(), body);
            assert_eq!(first.field("host"), Some("a"));
            assert!(first.trailers.is_empty(), "{:?}", first.trailers);
            let framed =
                first.head.all("content-length").len() + first.head.all("transfer-encoding").len();
            assert!(framed <= 1, "{}", first.head.raw);
            for gone in ["connection", "upgrade", "http2-settings"] {
                assert!(!first.head.has(gone), "{}", first.head.raw);
            }
            conn.send(OK).await;
            assert_eq!(client.response_to(method).await.status(), 200);
            let next = conn.request().await;
            assert_eq!(next.head.line, "GET /next HTTP/1.1");
            assert_eq!((next.field("host"), next.text()), (Some("b"), ""));
            conn.send(OK).await;
            assert_eq!(client.response().await.status(), 200);
            assert!(client.buffer.is_empty() && conn.buffer.is_empty());
        }
    }
    tide.at_rest().await;
}

#[tokio::test]
async fn lengths_are_forwarded_as_plain_numbers() {
    let app = App::start().await;
    let tide = Tide::before(app.address, "");
    let mut client = tide.client().await;
    client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0002\r\n\r\nhi").await;
    let mut conn = app.accept().await;
    let request = conn.request().await;
    assert_eq!((request.field("content-length"), request.text()), (Some("2"), "hi"));
    conn.send("HTTP/1.1 200 OK\r\nContent-Length: 0002\r\n\r\nok").await;
    let response = client.response().await;
    assert_eq!((response.field("content-length"), response.text()), (Some("2"), "ok"));
}

/// A broken second request is answered after the first, and takes the connection with it.
#[tokio::test]
async fn what_is_broken_behind_a_request_is_refused_after_it() {
    let app = App::start().await;
    let tide = Tide::before(app.address, "");
    for (broken, status) in [
        ("GET / HTTP/1.1\r\nHost : a\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\n\r\n", 400),
        ("\0\x01\x02\r\n\r\n", 400),
        ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", 501),
        ("CONNECT a:80 HTTP/1.1\r\nHost: a:80\r\n\r\n", 405),
    ] {
        let mut client = tide.client().await;
        client.send(format!("GET /1 HTTP/1.1\r\nHost: a\r\n\r\n{broken}{NEXT}")).await;
        let (mut conn, _) = app.serve("1").await;
        assert_eq!(client.response().await.text(), "1");
        assert_eq!(client.response().await.status(), status, "{broken:?}");
        client.shut().await;
        assert_eq!(client.end().await, End::Closed);
        assert!(client.buffer.is_empty(), "{broken:?}");
        conn.stays_silent(Duration::from_millis(5)).await;
    }
}

/// After `Connection: close`, a refusal or an answer that came too early nothing counts any more.
#[tokio::test]
async fn nothing_is_read_after_the_last_request() {
    let app = App::apart().await;
    let tide = Tide::before(app.address, "");
    for first in [
        "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nConnection: x, CLOSE\r\n\r\n",
        "GET / HTTP/1.0\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 60\r\n\r\n",
    ] {
        println!("{first:?}");
        let mut client = tide.client().await;
        client.send(first).await;
        let mut conn = app.accept().await;
        conn.head().await;
        // Before the answer it would be the body, unasked for.
        let expecting = first.contains("Expect");
        if !expecting {
            client.send(NEXT).await;
        }
        conn.send(OK).await;
        assert_eq!(client.response().await.status(), 200);
        if expecting {
            client.send(NEXT).await;
        }
        assert_eq!(client.end().await, End::Closed);
        assert!(client.buffer.is_empty(), "a second answer");
        app.stays_alone(Duration::from_millis(5)).await;
    }
}

/// RFC 9110, section 7.6.2.
#[tokio::test]
async fn hops_are_counted() {
    let app = App::apart().await;
    let tide = Tide::before(app.address, "");
    let mut client = tide.client().await;
    client.send("OPTIONS * HTTP/1.1\r\nHost: a\r\nMax-Forwards: 10\r\n\r\n").await;
    let (_conn, request) = app.serve("").await;
    assert_eq!(request.field("max-forwards"), Some("9"));
    assert_eq!(client.response().await.status(), 200);
    for (method, status) in [("OPTIONS", 204), ("TRACE", 405)] {
        let mut client = tide.client().await;
        let request = format!("{method} / HTTP/1.1\r\nHost: a\r\nMax-Forwards: 0\r\n\r\n");
        let response = client.exchange(request).await;
        assert_eq!(response.status(), status);
        assert_eq!(response.field("allow"), Some("GET, HEAD, POST, PUT, DELETE, OPTIONS"));
        assert!(!response.head.raw.contains("proxy-status"));
    }
    app.stays_alone(Duration::from_millis(5)).await;
}

#[tokio::test]
async fn fields_that_are_traps_elsewhere() {
    let app = App::start().await;
    let tide = Tide::before(app.address, "[server]\ntrusted_proxies = []\n");
    let mut client = tide.client().await;
    client
        .send(
            "GET / HTTP/1.1\r\nHost: a\r\nProxy: http://evil\r\nX-Forwarded-For: 9.9.9.9\r\n\
             X_Forwarded_Proto: https\r\nCookie: a\r\nCookie: b\r\nX: 1\r\nY: \r\nX: \u{e9}\r\n\
             Connection: host, x-forwarded-for, via, cookie, y\r\nVia: 1.0 fred\r\n\r\n",
        )
        .await;
    let (_conn, request) = app.serve("").await;
    let head = &request.head;
    assert!(!head.raw.contains("evil") && !head.raw.contains("9.9.9.9"), "{}", head.raw);
    assert!(!head.raw.contains("https") && !head.has("y"), "{}", head.raw);
    assert_eq!(head.all("cookie"), ["a", "b"]);
    assert_eq!(head.all("x"), ["1", "\u{e9}"]);
    assert_eq!(head.all("via"), ["1.1 tidegate"]);
    assert_eq!(head.field("x-forwarded-for"), Some("127.0.0.1"));
    assert_eq!(head.field("host"), Some("a"));
    assert_eq!(client.response().await.status(), 200);
}

/// Many requests at once on one connection: in order, one at a time, whatever the client reads.
#[tokio::test]
async fn deep_pipelines_are_answered_in_order() {
    const DEPTH: usize = 2_000;
    let app = Echo::start(Duration::ZERO).await;
    let tide = Tide::before(app.address, "");
    let mut client = tide.client().await;
    let requests: String =
        (0..DEPTH).map(|n| format!("GET /{n} HTTP/1.1\r\nHost: a\r\n\r\n")).collect();
    client.send(requests).await;
    for n in 0..DEPTH {
        assert_eq!(client.response().await.text(), format!("/{n}"));
    }
    assert_eq!(app.counts.most.load(std::sync::atomic::Ordering::Relaxed), 1);
    let metrics = tide.at_rest().await;
    assert_eq!(metrics.sum("tidegate_arrivals_total", &[]), DEPTH as f64);
}
