//! Messages that two parsers could read in two ways, or that are no HTTP at all: from clients and
//! from the application.

use std::time::Duration;

use crate::support::{App, End, Tide};

const CHUNKED: &str = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";

/// What a client gets for these bytes, when the application must not get anything.
async fn refused(tide: &Tide, app: &App, bytes: &[u8]) -> (u16, End) {
    let shown = &bytes[..bytes.len().min(200)];
    println!("sending {:?}", String::from_utf8_lossy(shown));
    let mut client = tide.client().await;
    client.send(bytes).await;
    let (response, end) = tokio::select! {
        biased;
        response = client.response() => {
            client.shut().await;
            (response, client.end().await)
        }
        mut conn = app.accept() => panic!("reached the application: {:?}", conn.head().await.raw),
    };
    assert!(client.buffer.is_empty(), "two answers to {:?}", String::from_utf8_lossy(bytes));
    app.stays_alone(Duration::from_millis(5)).await;
    (response.status(), end)
}

#[tokio::test]
async fn heads_that_are_not_clean_never_reach_the_application() {
    let mut wrong = Vec::new();
    let app = App::apart().await;
    let tide = Tide::before(app.address, "");
    for (expected, bytes) in [
        // Lengths.
        (400, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello"),
        (400, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5, 5\r\n\r\nhello"),
        (400, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +5\r\n\r\nhello"),
        (400, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: -5\r\n\r\nhello"),
        (400, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0x5\r\n\r\nhello"),
        (400, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5 5\r\n\r\nhello"),
        (400, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length:\r\n\r\n"),
        (400, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999999999999999\r\n\r\n"),
        (400, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 18446744073709551621\r\n\r\nhello"),
        (400, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9223372036854775808\r\n\r\nhello"),
        (400, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1_0\r\n\r\nhello"),
        (400, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5,\r\n\r\nhello"),
        (400, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: \r\nContent-Length: 5\r\n\r\nhello"),
        (
            400,
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: x\r\nTransfer-Encoding: chunked\r\n\r\n",
        ),
        // Codings.
        (501, "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n"),
        (501, "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n"),
        (
            400,
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\
             Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        ),
        (501, "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: ,chunked\r\n\r\n0\r\n\r\n"),
        (400, "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, gzip\r\n\r\n0\r\n\r\n"),
        (400, "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n"),
        (400, "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: identity\r\n\r\n"),
        (400, "POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
        (400, "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding:\x0bchunked\r\n\r\n0\r\n\r\n"),
        (400, "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: \"chunked\"\r\n\r\n0\r\n\r\n"),
        (400, "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding:\r\n\r\n0\r\n\r\n"),
        // Fields.
        (400, "GET / HTTP/1.1\r\nHost: a\r\nX: 1\r\n folded\r\n\r\n"),
        (400, "GET / HTTP/1.1\r\nHost: a\r\nX : 1\r\n\r\n"),
        (400, "GET / HTTP/1.1\r\nHost: a\r\n: 1\r\n\r\n"),
        (400, "GET / HTTP/1.1\r\nHost: a\r\nX\r\n\r\n"),
        (400, "GET / HTTP/1.1\r\nHost: a\r\nX: a\0b\r\n\r\n"),
        (400, "GET / HTTP/1.1\r\nHost: a\r\nX\0: a\r\n\r\n"),
        (400, "GET / HTTP/1.1\r\nHost: a\r\nX: a\rb\r\n\r\n"),
        (400, "GET / HTTP/1.1\r\n Host: a\r\n\r\n"),
        // Hosts.
        (400, "GET / HTTP/1.1\r\n\r\n"),
        (400, "GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n"),
        (400, "GET / HTTP/1.1\r\nHost: a b\r\n\r\n"),
        (400, "GET / HTTP/1.1\r\nHost: a/b\r\n\r\n"),
        (400, "GET / HTTP/1.1\r\nHost: a@b\r\n\r\n"),
        (400, "GET / HTTP/1.1\r\nHost: a, b\r\n\r\n"),
        (400, "GET / HTTP/1.1\r\nHost: a?b\r\n\r\n"),
        (400, "GET / HTTP/1.1\r\nHost: a#b\r\n\r\n"),
        (400, "GET / HTTP/1.1\r\nHost: a\\b\r\n\r\n"),
        (400, "GET / HTTP/1.1\r\nHost: a%zz\r\n\r\n"),
        (400, "GET / HTTP/1.1\r\nHost: \u{e9}\r\n\r\n"),
        (400, "GET / HTTP/1.1\r\nHost: ::1\r\n\r\n"),
        (400, "GET / HTTP/1.1\r\nHost: [:::1]\r\n\r\n"),
        (400, "GET / HTTP/1.1\r\nHost: [::1\r\n\r\n"),
        (400, "GET / HTTP/1.0\r\nHost: a\r\nHost: b\r\n\r\n"),
        (400, "GET / HTTP/1.0\r\nHost: a b\r\n\r\n"),
        (400, "GET / HTTP/1.1\r\nHost: a:b\r\n\r\n"),
        (400, "GET http://a/ HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n"),
        (400, "GET http://a/ HTTP/1.1\r\n\r\n"),
        // Targets and versions.
        (400, "GET a HTTP/1.1\r\nHost: a\r\n\r\n"),
        (400, "GET a:80 HTTP/1.1\r\nHost: a\r\n\r\n"),
        (400, "GET * HTTP/1.1\r\nHost: a\r\n\r\n"),
        (400, "GET *x HTTP/1.1\r\nHost: a\r\n\r\n"),
        (400, "GET \\ HTTP/1.1\r\nHost: a\r\n\r\n"),
        (400, "GET ?x HTTP/1.1\r\nHost: a\r\n\r\n"),
        (400, "GET http:///x HTTP/1.1\r\nHost: a\r\n\r\n"),
        (400, "GET http://u:p@a/x HTTP/1.1\r\nHost: a\r\n\r\n"),
        (400, "GET ftp://a/x HTTP/1.1\r\nHost: a\r\n\r\n"),
        (400, "GET /a\tb HTTP/1.1\r\nHost: a\r\n\r\n"),
        (400, "GET /a b HTTP/1.1\r\nHost: a\r\n\r\n"),
        (400, "GET /\x01 HTTP/1.1\r\nHost: a\r\n\r\n"),
        (400, "GET  / HTTP/1.1\r\nHost: a\r\n\r\n"),
        (400, "GET /\r\n\r\n"),
        (400, "GET / HTTP/1.2\r\nHost: a\r\n\r\n"),
        (505, "GET / HTTP/2.0\r\nHost: a\r\n\r\n"),
        (505, "GET / HTTP/3\r\nHost: a\r\n\r\n"),
        (400, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 18446744073709551615\r\n\r\n"),
        (400, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 18446744073709551615\r\n\r\nhello"),
        (400, "TRACE / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello"),
        (400, "GET / HTTP/1.1\r\nHost: a:65536\r\n\r\n"),
        (400, "GET / http/1.1\r\nHost: a\r\n\r\n"),
        (400, "G@T / HTTP/1.1\r\nHost: a\r\n\r\n"),
        (400, "GET /a` HTTP/1.1\r\nHost: a\r\n\r\n"),
        (400, "\x16\x03\x01\x02\0\x01\0\x01\u{fc}\x03\x03\r\n\r\n"),
        (405, "CONNECT a:80 HTTP/1.1\r\nHost: a:80\r\n\r\n"),
    ] {
        let got = refused(&tide, &app, bytes.as_bytes()).await;
        if got != (expected, End::Closed) {
            wrong.push(format!("{bytes:?}: {got:?} and not {expected}"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    tide.at_rest().await;
}

#[tokio::test]
async fn lengths_beside_codings_are_dropped_and_the_connection_ends() {
    let app = App::apart().await;
    let tide = Tide::before(app.address, "");
    for order in [
        "Content-Length: 3\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked\r\nContent-Length: 3",
    ] {
        let mut client = tide.client().await;
        let smuggled = "GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n";
        client
            .send(format!("POST / HTTP/1.1\r\nHost: a\r\n{order}\r\n\r\n0\r\n\r\n{smuggled}"))
            .await;
        // RFC 9112, section 6.1: the coding counts, the length is not forwarded, the connection
        // closes.
        let (mut conn, request) = app.serve("").await;
        assert!(!request.head.has("content-length"), "{}", request.head.raw);
        assert!(request.body.is_empty());
        assert_eq!(client.response().await.status(), 200);
        assert!(client.rest().await.is_empty(), "{order}");
        conn.stays_silent(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn equal_lengths_become_one() {
    let app = App::apart().await;
    let tide = Tide::before(app.address, "");
    let mut client = tide.client().await;
    client
        .send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nhi")
        .await;
    let (_conn, request) = app.serve("").await;
    assert_eq!((request.field("content-length"), request.text()), (Some("2"), "hi"));
    assert_eq!(client.response().await.status(), 200);
}

#[tokio::test]
async fn broken_chunks_are_the_clients_fault() {
    let app = App::apart().await;
    let tide = Tide::before(app.address, "");
    for chunks in [
        "x\r\n",
        "0x3\r\nabc\r\n0\r\n\r\n",
        "-3\r\nabc\r\n0\r\n\r\n",
        " 3\r\nabc\r\n0\r\n\r\n",
        "3\r\nabcd\r\n0\r\n\r\n",
        "3\nabc\n0\n\n",
        "3\r\nabc0\r\n\r\n",
        "ffffffffffffffffff\r\nabc\r\n0\r\n\r\n",
        "3\r\nabc\r\n0\r\nbad trailer\r\n\r\n",
    ] {
        println!("sending {chunks:?}");
        let mut client = tide.client().await;
        client.send(format!("{CHUNKED}{chunks}")).await;
        let mut conn = app.accept().await;
        let response = client.response().await;
        assert_eq!(response.status(), 400, "{chunks:?}");
        assert_eq!(response.field("connection"), Some("close"));
        client.shut().await;
        assert_eq!(client.end().await, End::Closed, "{chunks:?}");
        conn.end().await;
        let there = String::from_utf8_lossy(&conn.buffer);
        assert!(!there.contains("0\r\n\r\n"), "{chunks:?} arrived as whole: {there:?}");
    }
    let metrics = tide.at_rest().await;
    assert_eq!(metrics.answered(400), 9.0);
    assert_eq!(metrics.sum("tidegate_upstream_errors_total", &[]), 0.0);
}

/// Extensions end here; what hyper lets pass besides is pinned.
#[tokio::test]
async fn chunks_are_framed_anew() {
    let app = App::apart().await;
    let tide = Tide::before(app.address, "");
    for chunks in [
        "3;a=b;c=\"d\"\r\nabc\r\n0;x\r\n\r\n",
        "003\r\nabc\r\n000\r\n\r\n",
        "3 \r\nabc\r\n0\r\n\r\n",
    ] {
        let mut client = tide.client().await;
        client.send(format!("{CHUNKED}{chunks}")).await;
        let mut conn = app.accept().await;
        conn.head().await;
        assert_eq!(conn.through("0\r\n\r\n").await, "3\r\nabc\r\n0\r\n\r\n", "{chunks:?}");
        conn.send("HTTP/1.1 204 No Content\r\n\r\n").await;
        assert_eq!(client.response().await.status(), 204);
    }
    let mut client = tide.client().await;
    client.send(format!("{CHUNKED}3;{}\r\nabc\r\n0\r\n\r\n", "x".repeat(20_000))).await;
    assert_eq!(client.response().await.status(), 400);
}

#[tokio::test]
async fn requests_in_one_packet_are_answered_in_order() {
    let app = App::apart().await;
    let tide = Tide::before(app.address, "");
    let mut client = tide.client().await;
    client
        .send(
            "\r\n\r\nGET /1 HTTP/1.1\r\nHost: a\r\n\r\n\
             POST /2 HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi\
             POST /3 HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n\
             GET /4 HTTP/1.1\r\nHo",
        )
        .await;
    let mut conn = app.accept().await;
    for (line, body) in [("GET /1", ""), ("POST /2", "hi"), ("POST /3", "x")] {
        let request = conn.request().await;
        assert_eq!(request.head.line, format!("{line} HTTP/1.1"));
        assert_eq!(request.text(), body);
        conn.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{line}", line.len())).await;
        assert_eq!(client.response().await.text(), line);
    }
    client.send("st: a\r\n\r\n").await;
    assert_eq!(conn.request().await.head.line, "GET /4 HTTP/1.1");
    conn.send("HTTP/1.1 204 No Content\r\n\r\n").await;
    assert_eq!(client.response().await.status(), 204);
    assert_eq!(tide.at_rest().await.sum("tidegate_arrivals_total", &[]), 4.0);
}

#[tokio::test]
async fn heads_are_bounded_to_the_byte() {
    let app = App::apart().await;
    let tide = Tide::before(app.address, "[server]\nmax_header_bytes = \"8KiB\"\n");
    let head = |size: usize| {
        let start = "GET / HTTP/1.1\r\nHost: a\r\nX: ";
        format!("{start}{}\r\n\r\n", "x".repeat(size - start.len() - 4))
    };
    for fits in [8191, 8192] {
        let mut client = tide.client().await;
        client.send(head(fits)).await;
        let (_conn, request) = app.serve("").await;
        assert!(request.field("x").unwrap().len() > 8000);
        assert_eq!(client.response().await.status(), 200, "{fits}");
    }
    for beyond in [8193, 9000, 100_000] {
        let (status, end) = refused(&tide, &app, head(beyond).as_bytes()).await;
        assert_eq!((status, end), (431, End::Closed), "{beyond}");
    }
    // Byte by byte, too.
    let mut client = tide.client().await;
    for piece in head(8193).as_bytes().chunks(97) {
        if client.try_send(piece).await.is_err() {
            break;
        }
    }
    assert_eq!(client.response().await.status(), 431);
}

#[tokio::test]
async fn heads_are_bounded_to_the_byte_by_default() {
    let app = App::apart().await;
    let tide = Tide::before(app.address, "");
    let head = |size: usize| {
        let start = "GET / HTTP/1.1\r\nHost: a\r\nX: ";
        format!("{start}{}\r\n\r\n", "x".repeat(size - start.len() - 4))
    };
    let mut client = tide.client().await;
    client.send(head(32 * 1024)).await;
    let (_conn, _) = app.serve("").await;
    assert_eq!(client.response().await.status(), 200);
    let beyond = refused(&tide, &app, head(32 * 1024 + 1).as_bytes()).await;
    assert_eq!(beyond, (431, End::Closed));
}

#[tokio::test]
async fn long_targets_and_many_fields_are_refused() {
    let app = App::apart().await;
    let tide = Tide::before(app.address, "[server]\nmax_header_bytes = \"256KiB\"\n");
    let long = format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "x".repeat(70_000));
    assert_eq!(refused(&tide, &app, long.as_bytes()).await, (414, End::Closed));
    // Where the first line alone is longer than a head may be, too, and in the middle of it.
    let usual = Tide::before(app.address, "");
    let longer = format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "x".repeat(40_000));
    assert_eq!(refused(&usual, &app, longer.as_bytes()).await, (414, End::Closed));
    let mut client = usual.client().await;
    client.send(format!("GET / HTTP/1.1\r\nHost: a\r\n\r\n{longer}")).await;
    drop(app.serve("").await);
    assert_eq!(client.response().await.status(), 200);
    assert_eq!(client.response().await.status(), 414);
    // So it is with HTTP/2 in the middle of HTTP/1.
    let mut client = usual.client().await;
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\nPRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await;
    let (_second, _) = app.serve("").await;
    assert_eq!(client.response().await.status(), 200);
    assert_eq!(client.response().await.status(), 505);
    let metrics = usual.metrics().await;
    assert_eq!((metrics.answered(414), metrics.answered(431)), (2.0, 0.0), "{metrics}");
    let fields: String = (0..101).map(|i| format!("X-{i}: {i}\r\n")).collect();
    let many = format!("GET / HTTP/1.1\r\nHost: a\r\n{fields}\r\n");
    assert_eq!(refused(&tide, &app, many.as_bytes()).await, (431, End::Closed));
    let mut client = tide.client().await;
    client.send(format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "x".repeat(60_000))).await;
    let (_conn, request) = app.serve("").await;
    assert_eq!(request.head.line.len(), 60_000 + "GET / HTTP/1.1".len());
    assert_eq!(client.response().await.status(), 200);
}

/// Departures that `src/proxy.rs` lists: hyper has repaired these before anybody can look.
#[tokio::test]
async fn bare_line_feeds_and_fragments_are_repaired() {
    let app = App::apart().await;
    let tide = Tide::before(app.address, "");
    for bytes in [
        "GET /x HTTP/1.1\nHost: a\nX: 1\n\n",
        "GET /x#fragment HTTP/1.1\r\nHost: a\r\nX: 1\r\n\r\n",
    ] {
        let mut client = tide.client().await;
        client.send(bytes).await;
        let (_conn, request) = app.serve("").await;
        assert_eq!(request.head.line, "GET /x HTTP/1.1");
        assert_eq!((request.field("host"), request.field("x")), (Some("a"), Some("1")));
        assert_eq!(client.response().await.status(), 200);
    }
}

#[tokio::test]
async fn answers_that_are_not_clean_become_502() {
    let app = App::apart().await;
    let tide = Tide::before(app.address, "");
    let mut expected = 0.0;
    for answer in [
        "garbage\r\n\r\n",
        "\0\0\0\r\n\r\n",
        "HTTP/1.1 20 OK\r\n\r\n",
        "HTTP/1.1 2000 OK\r\n\r\n",
        "HTTP/2.0 200 OK\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
        "HTTP/1.1 200 OK\r\nContent-Length: 5, 6\r\n\r\nhello",
        "HTTP/1.1 200 OK\r\nContent-Length: +5\r\n\r\nhello",
        "HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\nhello",
        "HTTP/1.1 200 OK\r\nContent-Length:\r\n\r\nhello",
        "HTTP/1.1 200 OK\r\nContent-Length: 9223372036854775808\r\n\r\nhello",
        "HTTP/1.1 200 OK\r\nContent-Length: 18446744073709551621\r\n\r\nhello",
        "HTTP/1.1 200 OK\r\nContent-Length : 5\r\n\r\nhello",
        "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: identity\r\nContent-Length: 5\r\n\r\nhello",
        "HTTP/1.1 200 OK\r\nX: a\rb\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nX(: a\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nX\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 200 a\x01b\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 099 OK\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 2x0 OK\r\nContent-Length: 0\r\n\r\n",
        " HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.2 200 OK\r\nContent-Length: 0\r\n\r\n",
        "ICY 200 OK\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 9\r\n\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\nhello",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nX: a\r\n folded\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nX: a\0b\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
    ] {
        println!("answering {answer:?}");
        let mut client = tide.client().await;
        client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
        let mut conn = app.accept().await;
        conn.head().await;
        conn.send(answer).await;
        let response = client.response().await;
        assert_eq!(response.status(), 502, "{answer:?}");
        response.assert_own(502, "http_protocol_error");
        conn.end().await;
        // The client's own connection goes on.
        expected += 1.0;
        client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
        let (_conn, _) = app.serve("ok").await;
        assert_eq!(client.response().await.text(), "ok", "{answer:?}");
    }
    let metrics = tide.at_rest().await;
    assert_eq!(metrics.errors("http_protocol_error"), expected);
}

#[tokio::test]
async fn equal_lengths_of_an_answer_become_one() {
    let app = App::apart().await;
    let tide = Tide::before(app.address, "");
    for lengths in [
        "Content-Length: 5\r\nContent-Length: 5",
        "Content-Length: 5, 5",
        "Content-Length: 5 ,5\r\nContent-Length: 5",
    ] {
        let mut client = tide.client().await;
        client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
        let mut conn = app.accept().await;
        conn.head().await;
        conn.send(format!("HTTP/1.1 200 OK\r\n{lengths}\r\nConnection: close\r\n\r\nhello")).await;
        let response = client.response().await;
        assert_eq!((response.field("content-length"), response.text()), (Some("5"), "hello"));
    }
}

#[tokio::test]
async fn answers_with_too_large_a_head_become_502() {
    let app = App::apart().await;
    let tide = Tide::before(app.address, "");
    let many: String = (0..200).map(|i| format!("X-{i}: {i}\r\n")).collect();
    for fields in [format!("X: {}\r\n", "x".repeat(300_000)), many] {
        let mut client = tide.client().await;
        client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
        let mut conn = app.accept().await;
        conn.head().await;
        let _ =
            conn.try_send(format!("HTTP/1.1 200 OK\r\n{fields}Content-Length: 0\r\n\r\n")).await;
        client.response().await.assert_own(502, "http_response_header_section_size");
        conn.end().await;
    }
    let mut client = tide.client().await;
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    let mut conn = app.accept().await;
    conn.head().await;
    let large = "x".repeat(60_000);
    conn.send(format!("HTTP/1.1 200 OK\r\nX: {large}\r\nContent-Length: 0\r\n\r\n")).await;
    assert_eq!(client.response().await.field("x"), Some(large.as_str()));
}

#[tokio::test]
async fn answers_that_break_off_are_seen_to_be_broken() {
    let app = App::apart().await;
    let tide = Tide::before(app.address, "");
    let mut count = 0.0;
    for answer in [
        "Content-Length: 10\r\n\r\nhello",
        "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
        "Transfer-Encoding: chunked\r\n\r\na\r\nhello",
        "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\nx\r\n",
    ] {
        for reset in [false, true] {
            let mut client = tide.client().await;
            client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
            let mut conn = app.accept().await;
            conn.head().await;
            conn.send(format!("HTTP/1.1 200 OK\r\n{answer}")).await;
            assert_eq!(client.head().await.status(), 200);
            client.through("hello").await;
            if reset {
                conn.reset()
            } else {
                drop(conn)
            }
            // Had it ended well, this would be the end of the chunks.
            client.end().await;
            let rest = String::from_utf8_lossy(&client.buffer);
            assert!(!rest.contains("0\r\n\r\n"), "{answer:?}: {rest:?}");
            count += 1.0;
        }
    }
    // The end of such a body is the end of the connection: a reset tells that it was not in order.
    let mut client = tide.client().await;
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    let mut conn = app.accept().await;
    conn.head().await;
    conn.send("HTTP/1.1 200 OK\r\n\r\nhello").await;
    client.through("hello").await;
    conn.reset();
    client.end().await;
    assert!(!String::from_utf8_lossy(&client.buffer).contains("0\r\n\r\n"));
    let metrics = tide.at_rest().await;
    assert_eq!(metrics.errors("http_response_incomplete"), count + 1.0);
}

/// To a client of HTTP/1.0 the end of the connection is the end of the body, unless it is a reset.
#[tokio::test]
async fn answers_that_break_off_are_seen_to_be_broken_by_http_1_0() {
    let app = App::apart().await;
    let tide = Tide::before(app.address, "");
    let mut client = tide.client().await;
    client.send("GET / HTTP/1.0\r\n\r\n").await;
    let mut conn = app.accept().await;
    conn.head().await;
    conn.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n").await;
    client.through("hello").await;
    drop(conn);
    assert_eq!(client.end().await, End::Reset);
}

#[tokio::test]
async fn heads_that_break_off_become_502() {
    let app = App::apart().await;
    let tide = Tide::before(app.address, "");
    for answer in ["", "HTTP/1.1 200 OK\r\nContent-Le", "HTTP/1.1 103 Early Hints\r\n\r\n"] {
        for reset in [false, true] {
            let mut client = tide.client().await;
            client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
            let mut conn = app.accept().await;
            conn.head().await;
            conn.send(answer).await;
            if reset {
                conn.reset()
            } else {
                drop(conn)
            }
            if answer.contains("103") {
                assert_eq!(client.response().await.status(), 103);
            }
            client.response().await.assert_own(502, "connection_terminated");
        }
    }
    assert_eq!(tide.at_rest().await.errors("connection_terminated"), 6.0);
}

#[tokio::test]
async fn heads_that_cannot_be_read_are_counted() {
    let app = App::apart().await;
    let tide = Tide::before(app.address, "[server]\nmax_header_bytes = \"8KiB\"\n");
    let huge = format!("GET / HTTP/1.1\r\nHost: a\r\nx: {}\r\n\r\n", "x".repeat(9_000));
    for (head, status) in [("GET / HTTP/1.1\r\nHost : a\r\n\r\n", 400), (huge.as_str(), 431)] {
        let mut client = tide.client().await;
        assert_eq!(client.exchange(head).await.status(), status);
        tide.until("it is counted", |m| m.answered(status) == 1.0).await;
    }
    tide.at_rest().await;
}
