//! What reaches the application, and what comes back: targets, fields, routes, messages without a
//! body.

use crate::support::{App, Tide, Wire};

/// Sends a request, lets the application answer with raw bytes, returns what each side got.
async fn pass(tide: &Tide, app: &App, request: &str, answer: &str) -> (String, String) {
    let mut client = tide.client().await;
    client.send(request).await;
    let mut conn = app.accept().await;
    let there = conn.head().await.raw;
    conn.send(answer).await;
    conn.shut().await;
    let back = client.head().await.raw;
    (there, back)
}

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";

#[tokio::test]
async fn a_request_goes_there_and_its_response_back() {
    let app = App::start().await;
    let tide = Tide::before(app.address, "");
    let mut client = tide.client().await;
    client.send("GET /a?b HTTP/1.1\r\nHost: example.org\r\nAccept: */*\r\n\r\n").await;
    let (_conn, request) = app.serve("hello").await;
    assert_eq!(
        request.head.raw,
        "GET /a?b HTTP/1.1\r\nhost: example.org\r\naccept: */*\r\nvia: 1.1 tidegate\r\n\
         x-forwarded-for: 127.0.0.1\r\nx-forwarded-proto: http\r\n\
         x-forwarded-host: example.org\r\n\r\n"
    );
    let response = client.response().await;
    assert_eq!((response.status(), response.text()), (200, "hello"));
    let metrics = tide.at_rest().await;
    assert_eq!(metrics.answered(200), 1.0);
}

#[tokio::test]
async fn targets_are_forwarded_as_they_came() {
    let app = App::start().await;
    let tide = Tide::before(app.address, "");
    let mut client = tide.client().await;
    let mut conn: Option<Wire> = None;
    for target in [
        "/",
        "//",
        "//a//b/",
        "/a/../b/./c",
        "/%2e%2e/%2F%2f",
        "/a;b=c;d/e",
        "/a?b?c&d=%20+&&",
        "/?",
        "/a?http://b/..",
        "/%",
        "/a%zz",
        "/:80",
        "/@x",
        "/\u{e9}",
        "/a[b]{c}|d^\"",
    ] {
        println!("sending {target}");
        client.send(format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n")).await;
        let conn = match &mut conn {
            Some(conn) => conn,
            none => none.insert(app.accept().await),
        };
        let line = conn.head().await.line;
        assert_eq!(line, format!("GET {target} HTTP/1.1"));
        conn.send(OK).await;
        assert_eq!(client.response().await.status(), 200, "{target}");
    }
}

#[tokio::test]
async fn what_is_matched_is_what_is_forwarded() {
    let app = App::start().await;
    let tide = Tide::before(
        app.address,
        "[[route]]\nname = \"admin\"\nmatch = { path = \"/admin\" }\nadmission = \"deny\"\n\
         [[route]]\nname = \"one\"\nmatch = { path = \"/one\", exact = true }\n\
         [[route]]\nname = \"long\"\nmatch = { path = \"/one/two\" }\n\
         [[route]]\nname = \"post\"\nmatch = { path = \"/\", methods = [\"POST\"] }\n\
         [[route]]\nname = \"host\"\nmatch = { path = \"/\", hosts = [\"*.example.org\"] }\n",
    );
    let mut client = tide.client().await;
    for denied in ["/admin", "/admin/", "/admin?x", "/admin/../x"] {
        let response = client.get(denied).await;
        assert_eq!(response.status(), 404, "{denied}");
        assert_eq!(response.field("content-type"), Some("application/problem+json"));
    }
    let mut conn: Option<Wire> = None;
    let mut expected = std::collections::BTreeMap::new();
    for (request, route) in [
        ("GET /adminx HTTP/1.1\r\nHost: a", "default"),
        ("GET //admin HTTP/1.1\r\nHost: a", "default"),
        ("GET /%61dmin HTTP/1.1\r\nHost: a", "default"),
        ("GET /one?x HTTP/1.1\r\nHost: a", "one"),
        ("GET /one/ HTTP/1.1\r\nHost: a", "default"),
        ("GET /one/two/three HTTP/1.1\r\nHost: a", "long"),
        ("GET /one/twox HTTP/1.1\r\nHost: a", "default"),
        ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0", "post"),
        ("GET / HTTP/1.1\r\nHost: x.EXAMPLE.org:80", "host"),
        ("GET / HTTP/1.1\r\nHost: example.org", "default"),
        ("GET http://y.example.org/ HTTP/1.1\r\nHost: a", "host"),
        ("GET http://a/ HTTP/1.1\r\nHost: y.example.org", "default"),
    ] {
        client.send(format!("{request}\r\n\r\n")).await;
        let conn = match &mut conn {
            Some(conn) => conn,
            none => none.insert(app.accept().await),
        };
        conn.head().await;
        conn.send(OK).await;
        assert_eq!(client.response().await.status(), 200, "{request}");
        *expected.entry(route).or_insert(0.0) += 1.0;
        let metrics = tide.at_rest().await;
        for (route, count) in &expected {
            let arrived = metrics.sum("tidegate_arrivals_total", &[("route", route)]);
            assert_eq!(arrived, *count, "{request}: {route}");
        }
    }
    let denied = tide.metrics().await;
    assert_eq!(denied.sum("tidegate_requests_total", &[("route", "admin"), ("code", "404")]), 4.0);
    assert_eq!(denied.sum("tidegate_arrivals_total", &[("route", "admin")]), 0.0);
}

#[tokio::test]
async fn absolute_targets_name_the_host() {
    let app = App::start().await;
    let tide = Tide::before(app.address, "");
    let request = "GET http://Real.example:81/x?y HTTP/1.1\r\nHost: other\r\n\r\n";
    let (there, _) = pass(&tide, &app, request, OK).await;
    assert!(there.starts_with("GET /x?y HTTP/1.1\r\n"), "{there}");
    assert!(there.contains("\r\nhost: Real.example:81\r\n"), "{there}");
    assert!(there.contains("\r\nx-forwarded-host: Real.example:81\r\n"), "{there}");
    assert!(!there.contains("other"), "{there}");
    let (there, _) = pass(&tide, &app, "GET http://b HTTP/1.1\r\nHost: b\r\n\r\n", OK).await;
    assert!(there.starts_with("GET / HTTP/1.1\r\n"), "{there}");
    let (there, _) = pass(&tide, &app, "OPTIONS * HTTP/1.1\r\nHost: b\r\n\r\n", OK).await;
    assert!(there.starts_with("OPTIONS * HTTP/1.1\r\n"), "{there}");
}

#[tokio::test]
async fn fields_of_one_hop_end_here_in_both_directions() {
    let app = App::start().await;
    let tide = Tide::before(app.address, "");
    let (there, back) = pass(
        &tide,
        &app,
        "GET / HTTP/1.1\r\nHost: a\r\nConnection: keep-alive, X-Mine\r\nConnection: x-too\r\n\
         Keep-Alive: timeout=5\r\nProxy-Connection: keep-alive\r\nX-Mine: 1\r\nX-Too: 1\r\n\
         Upgrade: websocket\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\nTE: gzip;q=0.5, trailers\r\n\
         Proxy-Authorization: Basic eA==\r\nAuthorization: Basic eQ==\r\nX-Stays: 1\r\n\r\n",
        "HTTP/1.1 200 Quite Fine\r\nConnection: close, X-Theirs\r\nX-Theirs: 1\r\n\
         Keep-Alive: timeout=9\r\nProxy-Authenticate: Basic\r\nUpgrade: h2c\r\nServer: app\r\n\
         Set-Cookie: a=1\r\nX-Between: 1\r\nSet-Cookie: b=2\r\nContent-Length: 0\r\n\r\n",
    )
    .await;
    for gone in ["keep-alive", "x-mine", "x-too", "upgrade", "http2", "proxy-"] {
        assert!(!there.contains(gone), "{gone}: {there}");
    }
    // What tidegate says for its own hop.
    for said in ["te: trailers", "connection: te"] {
        assert!(there.contains(&format!("\r\n{said}\r\n")), "{said}: {there}");
    }
    for stays in ["authorization: Basic eQ==", "x-stays: 1", "via: 1.1 tidegate"] {
        assert!(there.contains(&format!("\r\n{stays}\r\n")), "{stays}: {there}");
    }
    assert!(!there.contains("user-agent"), "{there}");
    for gone in ["connection", "x-theirs", "keep-alive", "proxy-", "upgrade"] {
        assert!(!back.contains(gone), "{gone}: {back}");
    }
    assert!(back.starts_with("HTTP/1.1 200 Quite Fine\r\n"), "{back}");
    assert!(back.contains("\r\nserver: app\r\n"), "{back}");
    assert!(back.contains("\r\nset-cookie: a=1\r\n") && back.contains("\r\nset-cookie: b=2\r\n"));
}

#[tokio::test]
async fn forwarding_fields_are_kept_from_trusted_peers_only() {
    let app = App::start().await;
    let request = "GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 9.9.9.9\r\n\
                   X-Forwarded-For: 8.8.8.8\r\nX-Forwarded-Proto: https\r\n\
                   X-Forwarded-Host: real\r\nX-Real-IP: 9.9.9.9\r\nForwarded: for=9.9.9.9\r\n\r\n";
    let trusting = Tide::before(app.address, "[server]\ntrusted_proxies = [\"loopback\"]\n");
    let (there, _) = pass(&trusting, &app, request, OK).await;
    assert!(there.contains("\r\nx-forwarded-for: 9.9.9.9, 8.8.8.8, 127.0.0.1\r\n"), "{there}");
    assert!(there.contains("\r\nx-forwarded-proto: https\r\n"), "{there}");
    assert!(there.contains("\r\nx-forwarded-host: real\r\n"), "{there}");
    assert!(there.contains("\r\nx-real-ip: 9.9.9.9\r\n"), "{there}");

    let wary = Tide::before(app.address, "[server]\ntrusted_proxies = []\nforwarded = \"both\"\n");
    let (there, _) = pass(&wary, &app, request, OK).await;
    for lie in ["9.9.9.9", "8.8.8.8", "https", "real"] {
        assert!(!there.contains(lie), "{lie}: {there}");
    }
    assert!(there.contains("\r\nx-forwarded-for: 127.0.0.1\r\n"), "{there}");
    assert!(there.contains("\r\nx-forwarded-proto: http\r\n"), "{there}");
    assert!(there.contains("\r\nx-forwarded-host: a\r\n"), "{there}");
    assert!(there.contains("\r\nforwarded: for=127.0.0.1;host=\"a\";proto=http\r\n"), "{there}");

    let hidden = "GET / HTTP/1.1\r\nHost: a\r\nConnection: x-forwarded-for\r\n\
                  X-Forwarded-For: 9.9.9.9\r\n\r\n";
    let (there, _) = pass(&wary, &app, hidden, OK).await;
    assert!(there.contains("\r\nx-forwarded-for: 127.0.0.1\r\n"), "{there}");
}

#[tokio::test]
async fn http_1_0_clients_get_what_they_understand() {
    let app = App::start().await;
    let tide = Tide::before(app.address, "[server]\nworkers = 1\n");
    let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n";
    let mut client = tide.client().await;
    client.send("GET / HTTP/1.0\r\n\r\n").await;
    let mut conn = app.accept().await;
    let there = conn.head().await;
    assert_eq!(there.line, "GET / HTTP/1.1");
    assert_eq!(there.field("host"), Some(app.address.to_string().as_str()));
    assert_eq!(there.field("via"), Some("1.0 tidegate"));
    conn.send(chunked).await;
    let response = client.response().await;
    assert!(!response.head.has("transfer-encoding"), "{}", response.head.raw);
    assert_eq!((response.text(), response.whole), ("hello", true));

    let mut client = tide.client().await;
    client.send("GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n").await;
    conn.head().await;
    conn.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
    let response = client.response().await;
    assert_eq!(response.text(), "ok");
    assert_eq!(response.field("connection"), Some("keep-alive"), "{}", response.head.raw);
    client.send("GET /again HTTP/1.0\r\n\r\n").await;
    assert_eq!(conn.head().await.line, "GET /again HTTP/1.1");
    conn.send(OK).await;
    assert_eq!(client.response().await.status(), 200);
    assert!(client.rest().await.is_empty());
}

#[tokio::test]
async fn messages_without_a_body_have_none() {
    let app = App::start().await;
    let tide = Tide::before(app.address, "");
    let mut client = tide.client().await;
    let mut conn: Option<Wire> = None;
    for (method, answer, length) in [
        ("HEAD", "200 OK\r\nContent-Length: 1234567", Some("1234567")),
        ("HEAD", "200 OK\r\nTransfer-Encoding: chunked", None),
        ("HEAD", "404 Not Found\r\nContent-Length: 9", Some("9")),
        ("HEAD", "200 OK", None),
        ("GET", "204 No Content", None),
        ("GET", "304 Not Modified\r\nETag: \"x\"", None),
        // A departure that `src/proxy.rs` lists.
        ("GET", "304 Not Modified\r\nContent-Length: 77", None),
        ("GET", "200 OK\r\nContent-Length: 0", Some("0")),
    ] {
        client.send(format!("{method} / HTTP/1.1\r\nHost: a\r\n\r\n")).await;
        let conn = match &mut conn {
            Some(conn) => conn,
            none => none.insert(app.accept().await),
        };
        assert_eq!(conn.head().await.line, format!("{method} / HTTP/1.1"));
        conn.send(format!("HTTP/1.1 {answer}\r\n\r\n")).await;
        let head = client.head().await;
        assert_eq!(head.field("content-length"), length, "{answer}: {}", head.raw);
        assert!(client.buffer.is_empty(), "{answer}");
    }
    tide.at_rest().await;
}

#[tokio::test]
async fn bodies_pass_both_ways_in_either_framing() {
    let app = App::start().await;
    let tide = Tide::before(app.address, "");
    let mut client = tide.client().await;
    client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello").await;
    let mut conn = app.accept().await;
    let request = conn.request().await;
    assert_eq!((request.text(), request.field("content-length")), ("hello", Some("5")));
    conn.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n").await;
    let head = client.head().await;
    assert_eq!(head.field("transfer-encoding"), Some("chunked"));
    assert_eq!(client.through("ab\r\n").await, "2\r\nab\r\n", "streamed, not collected");
    conn.send("1\r\nc\r\n0\r\n\r\n").await;
    assert_eq!(client.through("0\r\n\r\n").await, "1\r\nc\r\n0\r\n\r\n");

    // A GET with a body of unknown length: it must arrive, and as a body.
    client
        .send("GET /q HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n")
        .await;
    let head = conn.head().await;
    assert_eq!(head.all("transfer-encoding"), ["chunked"]);
    assert_eq!(conn.through("abc\r\n").await, "3\r\nabc\r\n", "streamed, not collected");
    client.send("0\r\n\r\n").await;
    assert_eq!(conn.through("0\r\n\r\n").await, "0\r\n\r\n");
    conn.send("HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nuntil the end").await;
    conn.shut().await;
    let response = client.response().await;
    assert_eq!(response.field("transfer-encoding"), Some("chunked"));
    assert_eq!((response.text(), response.whole), ("until the end", true));
    tide.at_rest().await;
}

#[tokio::test]
async fn trailers_pass_both_ways_but_not_those_that_change_the_message() {
    let app = App::start().await;
    let tide = Tide::before(app.address, "");
    let mut client = tide.client().await;
    client
        .send(
            "POST / HTTP/1.1\r\nHost: a\r\nTE: trailers\r\nTransfer-Encoding: chunked\r\n\
             Trailer: X-Sum, Host, X-Hop, X-Forwarded-For, Range\r\nConnection: X-Hop\r\n\r\n\
             1\r\na\r\n0\r\nX-Sum: 1\r\nHost: evil\r\nX-Hop: 1\r\nX-Forwarded-For: 6.6.6.6\r\n\
             Range: bytes=0-1\r\nX-Unnamed: 1\r\n\r\n",
        )
        .await;
    let mut conn = app.accept().await;
    let request = conn.request().await;
    assert_eq!(request.field("te"), Some("trailers"));
    assert_eq!(request.field("host"), Some("a"));
    assert_eq!(request.trailers, [("x-sum".to_owned(), "1".to_owned())]);
    let answer = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\
                  Trailer: X-Done, Set-Cookie, X-Hop\r\nConnection: X-Hop\r\n\r\n\
                  1\r\nb\r\n0\r\nX-Done: yes\r\nSet-Cookie: evil\r\nX-Hop: 1\r\nX-Unnamed: 1\r\n\r\n";
    conn.send(answer).await;
    let response = client.response().await;
    assert_eq!(response.text(), "b");
    assert_eq!(response.trailers, [("x-done".to_owned(), "yes".to_owned())]);

    // A client that did not say that it takes trailers gets none, and its connection stays in step.
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    conn.head().await;
    conn.send(answer).await;
    let response = client.response().await;
    assert_eq!((response.text(), response.trailers.len()), ("b", 0));
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    conn.head().await;
    conn.send(OK).await;
    assert_eq!(client.response().await.status(), 200);
    let metrics = tide.at_rest().await;
    assert_eq!(metrics.sum("tidegate_client_aborts_total", &[]), 0.0);
}

#[tokio::test]
async fn interim_responses_pass() {
    let app = App::start().await;
    let tide = Tide::before(app.address, "[server]\nworkers = 1\n");
    let mut client = tide.client().await;
    let mut conn: Option<Wire> = None;
    // Twice, so that those of the first request cannot be taken for the second's.
    for round in 0..2 {
        client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
        let conn = match &mut conn {
            Some(conn) => conn,
            none => none.insert(app.accept().await),
        };
        conn.head().await;
        conn.send("HTTP/1.1 103 Early Hints\r\nLink: </a>\r\nConnection: x\r\nX: 1\r\n\r\n").await;
        let hints = client.response().await.head.raw;
        assert_eq!(hints, "HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n", "{round}");
        // What comes together with the response is said before it; 100 is nobody's business.
        conn.send(
            "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 102 Processing\r\nContent-Length: 5\r\n\r\n\
             HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
        )
        .await;
        assert_eq!(client.response().await.head.raw, "HTTP/1.1 102 Processing\r\n\r\n");
        let response = client.response().await;
        assert_eq!((response.status(), response.text()), (200, "ok"));
        assert!(!response.head.has("link"));
    }
    // RFC 9110, section 15.2.
    let mut client = tide.client().await;
    client.send("GET / HTTP/1.0\r\n\r\n").await;
    let conn = conn.as_mut().unwrap();
    conn.head().await;
    conn.send("HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await;
    assert_eq!(client.response().await.status(), 200);
    assert!(client.rest().await.is_empty());
    tide.at_rest().await;
}

/// A client that does not read: what is said before the second response waits for the first one,
/// and is never written into it.
#[tokio::test]
async fn interim_responses_wait_for_the_response_before() {
    let app = App::start().await;
    let tide = Tide::before(app.address, "[server]\nworkers = 1\n");
    let mut client = tide.client().await;
    client.small_buffers();
    client.send("GET /1 HTTP/1.1\r\nHost: a\r\n\r\nGET /2 HTTP/1.1\r\nHost: a\r\n\r\n").await;
    let mut conn = app.accept().await;
    conn.head().await;
    const SIZE: usize = 4 * 1024 * 1024;
    let first = async {
        conn.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {SIZE}\r\n\r\n")).await;
        conn.send(vec![b'x'; SIZE]).await;
        conn.head().await;
        conn.send("HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n").await;
        conn.send(OK).await;
    };
    let reading = async {
        client.pause(std::time::Duration::from_millis(200)).await;
        let response = client.response().await;
        assert!(response.body.len() == SIZE && response.body.iter().all(|byte| *byte == b'x'));
        assert_eq!(client.response().await.head.line, "HTTP/1.1 103 Early Hints");
        assert_eq!(client.response().await.status(), 200);
    };
    tokio::join!(first, reading);
}

#[tokio::test]
async fn a_connection_to_the_application_serves_many_requests() {
    let app = App::start().await;
    let tide = Tide::before(app.address, "[server]\nworkers = 1\n");
    let mut first = tide.client().await;
    first.send("GET /1 HTTP/1.1\r\nHost: a\r\n\r\n").await;
    let (mut conn, _) = app.serve("1").await;
    assert_eq!(first.response().await.text(), "1");
    let mut second = tide.client().await;
    second.send("POST /2 HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\n2").await;
    assert_eq!(conn.request().await.text(), "2");
    conn.send(OK).await;
    assert_eq!(second.response().await.status(), 200);
    // One that says that it is done is not used again.
    first.send("GET /3 HTTP/1.1\r\nHost: a\r\n\r\n").await;
    conn.head().await;
    conn.send("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n").await;
    assert_eq!(first.response().await.status(), 200);
    first.send("POST /4 HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n").await;
    let (_conn, request) = app.serve("").await;
    assert_eq!(request.head.line, "POST /4 HTTP/1.1");
    assert_eq!(first.response().await.status(), 200);
}

#[tokio::test]
async fn bytes_after_a_response_never_answer_the_next_request() {
    let app = App::start().await;
    let tide = Tide::before(app.address, "[server]\nworkers = 1\n");
    let poison = "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil";
    for (method, answer) in [
        ("GET", format!("{OK}{poison}")),
        ("GET", format!("HTTP/1.1 204 No Content\r\n\r\n{poison}")),
        ("GET", format!("HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n\r\n{poison}")),
        ("HEAD", format!("HTTP/1.1 200 OK\r\nContent-Length: 60\r\n\r\n{poison}")),
        ("GET", format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n{poison}")),
    ] {
        for round in 0..10 {
            println!("{method} answered {answer:?}");
            let mut client = tide.client().await;
            client.send(format!("{method} /first HTTP/1.1\r\nHost: a\r\n\r\n")).await;
            let mut conn = app.accept().await;
            conn.head().await;
            conn.send(&answer).await;
            assert!(matches!(client.response_to(method).await.status(), 200 | 204 | 304));
            client.send("POST /next HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n").await;
            let (_conn, _) = app.serve("good").await;
            let response = client.response().await;
            assert_eq!(response.text(), "good", "round {round}");
        }
    }
}

#[tokio::test]
async fn a_client_that_says_close_is_closed() {
    let app = App::start().await;
    let tide = Tide::before(app.address, "");
    let mut client = tide.client().await;
    client.send("GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await;
    let (mut conn, _) = app.serve("last").await;
    let response = client.response().await;
    assert_eq!((response.text(), response.field("connection")), ("last", Some("close")));
    assert!(client.rest().await.is_empty());
    // The application's connection has nothing to do with it.
    conn.stays_silent(std::time::Duration::from_millis(20)).await;
}

#[tokio::test]
async fn odd_statuses_pass() {
    let app = App::start().await;
    let tide = Tide::before(app.address, "");
    let mut client = tide.client().await;
    for status in [226, 418, 599, 600, 999] {
        client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
        let mut conn = app.accept().await;
        conn.head().await;
        conn.send(format!("HTTP/1.1 {status} Odd\r\nContent-Length: 0\r\n\r\n")).await;
        assert_eq!(client.response().await.head.line, format!("HTTP/1.1 {status} Odd"));
    }
    let metrics = tide.at_rest().await;
    assert_eq!(metrics.sum("tidegate_requests_total", &[("code", "other")]), 2.0);
}

#[tokio::test]
async fn strict_routes_take_no_paths_that_may_mean_others() {
    let app = App::start().await;
    let toml = "[[route]]\nname = \"strict\"\nmatch = { path = \"/s\" }\npaths = \"strict\"\n";
    let tide = Tide::before(app.address, toml);
    for path in ["/s/../t", "/s/%2e%2E/t", "/s//t", "/s/a%2Fb", "/s/a%5Cb", "/s/a;b", "/s/%zz"] {
        let mut client = tide.client().await;
        let refused = client.get(path).await;
        assert_eq!(refused.status(), 400, "{path}");
    }
    for path in ["/s/a%20b?x=/../", "/t/../s", "/s"] {
        let mut client = tide.client().await;
        client.send(format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n")).await;
        let (_conn, seen) = app.serve("").await;
        assert_eq!(seen.head.line, format!("GET {path} HTTP/1.1"), "passed on as it came");
        assert_eq!(client.response().await.status(), 200);
    }
}

#[tokio::test]
async fn events_pass_one_by_one_and_may_be_far_apart() {
    let app = App::start().await;
    let toml = "[defaults]\nidle_body_timeout = \"30ms\"\n";
    let tide = Tide::before(app.address, toml);
    let mut client = tide.client().await;
    client.send("GET /events HTTP/1.1\r\nHost: a\r\nAccept: text/event-stream\r\n\r\n").await;
    let mut conn = app.accept().await;
    conn.request().await;
    conn.send("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n").await;
    assert_eq!(client.head().await.status(), 200);
    for number in 0..3 {
        // Longer than any other body may be silent.
        conn.pause(std::time::Duration::from_millis(60)).await;
        conn.send(format!("data: {number}\n\n")).await;
        assert!(client.through("\n\n").await.ends_with(&format!("data: {number}\n\n")));
    }
    drop(conn);
    assert!(client.through("0\r\n\r\n").await.contains("0\r\n\r\n"));
    tide.at_rest().await;
}

#[tokio::test]
async fn a_client_is_told_what_to_go_over_to() {
    let app = App::start().await;
    let tide = Tide::before(app.address, "");
    let answer = "HTTP/1.1 426 Upgrade Required\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                  Content-Length: 0\r\n\r\n";
    let (_, back) = pass(&tide, &app, "GET / HTTP/1.1\r\nHost: a\r\n\r\n", answer).await;
    for said in ["connection: upgrade", "upgrade: websocket"] {
        assert!(back.contains(&format!("\r\n{said}\r\n")), "{said}: {back}");
    }
}

#[tokio::test]
async fn a_body_that_ends_with_the_connection_does_not_keep_it() {
    let app = App::start().await;
    let tide = Tide::before(app.address, "");
    for (answer, kept) in [
        ("HTTP/1.1 200 OK\r\n\r\nhello", false),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n", false),
        ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", true),
    ] {
        let mut client = tide.client().await;
        client.send("GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n").await;
        let mut conn = app.accept().await;
        conn.head().await;
        conn.send(answer).await;
        conn.shut().await;
        let head = client.head().await;
        let said = if kept { "keep-alive" } else { "close" };
        assert_eq!(head.field("connection"), Some(said), "{answer}: {}", head.raw);
        if !kept {
            assert_eq!(client.rest().await, b"hello");
        }
    }
}

#[tokio::test]
async fn a_failure_after_the_whole_upload_keeps_the_connection() {
    let app = App::start().await;
    let tide = Tide::before(app.address, "");
    let mut client = tide.client().await;
    for _ in 0..2 {
        client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello").await;
        let mut conn = app.accept().await;
        conn.request().await;
        drop(conn);
        let response = client.response().await;
        response.assert_own(502, "connection_terminated");
        assert_eq!(response.field("connection"), None, "{}", response.head.raw);
    }
    // Nor do requests that are answered here cost it.
    let last = "Host: a\r\nMax-Forwards: 0\r\n\r\n";
    client.send(format!("OPTIONS / HTTP/1.1\r\n{last}TRACE / HTTP/1.1\r\n{last}")).await;
    assert_eq!(client.response().await.status(), 204);
    assert_eq!(client.response().await.status(), 405);
}
