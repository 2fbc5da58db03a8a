//! The answers that tidegate makes itself, to the byte, and that clients can read them.

use std::time::Duration;

use crate::support::{App, End, Tide, Wire};

/// A sidecar whose one slot is taken, and what keeps it taken.
async fn full(app: &App, toml: &str) -> (Tide, Wire, Wire) {
    let toml = format!("[upstream]\nmax_in_flight = 1\n[defaults]\nmax_queue = 0\n{toml}");
    let tide = Tide::before(app.address, &toml);
    let mut client = tide.client().await;
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    let mut conn = app.accept().await;
    conn.head().await;
    (tide, client, conn)
}

/// All bytes of an answer but its date.
async fn bytes(client: &mut Wire, request: &str) -> String {
    client.send(request).await;
    let response = client.response_to(request.split(' ').next().unwrap_or_default()).await;
    let (start, date) = response.head.raw.split_once("date: ").expect("a date");
    let (_, end) = date.split_once("\r\n").expect("a whole line");
    format!("{start}{end}{}", response.text())
}

const GET: &str = "GET /x HTTP/1.1\r\nHost: a\r\n\r\n";

#[tokio::test]
async fn a_rejection_as_problem_json() {
    let app = App::start().await;
    let (tide, _client, _conn) = full(&app, "[reject]\nretry_after = \"7s\"\n").await;
    let mut client = tide.client().await;
    let expected = "HTTP/1.1 503 Service Unavailable\r\n\
        retry-after: 7\r\n\
        proxy-status: tidegate; error=connection_limit_reached; details=\"queue_full\"\r\n\
        cache-control: no-store\r\n\
        content-type: application/problem+json\r\n\
        content-length: 176\r\n\r\n\
        {\"type\":\"about:blank\",\"title\":\"Service Unavailable\",\"status\":503,\
        \"detail\":\"The queue is full; the request was not started. Retry in 7 s.\",\
        \"reason\":\"queue_full\",\"retry_after\":7}";
    // Twice on one connection: a request without a body does not cost it.
    assert_eq!(bytes(&mut client, GET).await, expected);
    assert_eq!(bytes(&mut client, GET).await, expected);
    // Nor does one whose body has come with its head.
    let posted = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc";
    assert_eq!(bytes(&mut client, posted).await, expected);
    let chunked = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n\
        3\r\nabc\r\n0\r\n\r\n";
    assert_eq!(bytes(&mut client, chunked).await, expected);
    let closing = expected.replace("json\r\n", "json\r\nconnection: close\r\n");
    let posted = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nabc";
    assert_eq!(bytes(&mut client, posted).await, closing);
    client.shut().await;
    assert!(client.rest().await.is_empty());
    // To HEAD: the same head, and no body.
    let mut client = tide.client().await;
    let head = bytes(&mut client, "HEAD / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    let (expected_head, _) = expected.split_once('{').unwrap();
    assert_eq!(head, expected_head);
    assert_eq!(bytes(&mut client, GET).await, expected);
}

#[tokio::test]
async fn a_rejection_as_text_and_as_nothing() {
    let app = App::start().await;
    let (tide, _client, _conn) =
        full(&app, "[reject]\nstatus = 429\nbody = \"text\"\nretry_after = \"7s\"\n").await;
    let mut client = tide.client().await;
    assert_eq!(
        bytes(&mut client, GET).await,
        "HTTP/1.1 429 Too Many Requests\r\n\
         retry-after: 7\r\n\
         proxy-status: tidegate; error=connection_limit_reached; details=\"queue_full\"\r\n\
         cache-control: no-store\r\n\
         content-type: text/plain; charset=utf-8\r\n\
         content-length: 85\r\n\r\n\
         429 Too Many Requests: The queue is full; the request was not started. Retry in 7 s.\n"
    );
    let (tide, _client, _conn) =
        full(&app, "[reject]\nbody = \"none\"\nretry_after = \"off\"\n").await;
    let mut client = tide.client().await;
    let nothing = "HTTP/1.1 503 Service Unavailable\r\n\
         proxy-status: tidegate; error=connection_limit_reached; details=\"queue_full\"\r\n\
         cache-control: no-store\r\n\
         content-length: 0\r\n\r\n";
    assert_eq!(bytes(&mut client, GET).await, nothing);
    assert_eq!(bytes(&mut client, GET).await, nothing);
}

#[tokio::test]
async fn retry_after_is_1_to_30_seconds() {
    let app = App::start().await;
    let (tide, _client, _conn) = full(&app, "").await;
    let refused = tide.client().await.get("/").await;
    let seconds: u32 = refused.field("retry-after").unwrap().parse().unwrap();
    assert!((1..=30).contains(&seconds), "{seconds}");
    assert!(refused.text().ends_with(&format!("\"retry_after\":{seconds}}}")));
}

#[tokio::test]
async fn a_failure_of_the_application_to_the_byte() {
    // Bound and not listening: connections are refused.
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let tide = Tide::before(socket.local_addr().unwrap(), "");
    let mut client = tide.client().await;
    let expected = "HTTP/1.1 502 Bad Gateway\r\n\
        proxy-status: tidegate; error=connection_refused\r\n\
        cache-control: no-store\r\n\
        content-type: application/problem+json\r\n\
        content-length: 135\r\n\r\n\
        {\"type\":\"about:blank\",\"title\":\"Bad Gateway\",\"status\":502,\
        \"detail\":\"The upstream refused the connection.\",\"reason\":\"connection_refused\"}";
    assert_eq!(bytes(&mut client, GET).await, expected);
    assert_eq!(bytes(&mut client, GET).await, expected);
    let metrics = tide.at_rest().await;
    assert_eq!(metrics.errors("connection_refused"), 2.0);
    assert_eq!(metrics.sum("tidegate_upstream_up", &[]), 0.0);
    assert_eq!(metrics.sum("tidegate_rejected_total", &[]), 0.0);
}

#[tokio::test]
async fn a_rejection_is_readable_by_who_is_still_sending() {
    let app = App::apart().await;
    let (tide, _client, _conn) = full(&app, "").await;
    let body = vec![b'x'; 1024 * 1024];
    for framing in
        ["Content-Length: 1048576\r\n\r\n", "Transfer-Encoding: chunked\r\n\r\n100000\r\n"]
    {
        // One that writes everything before it reads anything.
        let mut client = tide.client().await;
        client.send(format!("POST / HTTP/1.1\r\nHost: a\r\n{framing}")).await;
        client.send(&body).await;
        let response = client.response().await;
        response.assert_own(503, "connection_limit_reached; details=\"queue_full\"");
        assert_eq!(response.field("connection"), Some("close"));
        assert!(response.whole);
        client.shut().await;
        assert_eq!(client.end().await, End::Closed);

        // One that goes on writing after it has read the answer.
        let mut client = tide.client().await;
        client.send(format!("POST / HTTP/1.1\r\nHost: a\r\n{framing}")).await;
        client.send(&body[..1000]).await;
        client.response().await.assert_own(503, "connection_limit_reached; details=\"queue_full\"");
        client.send(&body[1000..]).await;
        client.shut().await;
        assert_eq!(client.end().await, End::Closed);
    }
    app.stays_alone(Duration::from_millis(5)).await;
}

#[tokio::test]
async fn an_early_answer_is_readable_by_who_is_still_sending() {
    let app = App::start().await;
    let tide = Tide::before(app.address, "");
    let size = 10 * 1024 * 1024;
    let answer =
        "HTTP/1.1 413 Content Too Large\r\nConnection: close\r\nContent-Length: 3\r\n\r\nbig";
    for _ in 0..3 {
        let mut client = tide.client().await;
        client.send(format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {size}\r\n\r\n")).await;
        let mut conn = app.accept().await;
        conn.head().await;
        client.send(vec![b'x'; 1000]).await;
        conn.exactly(1000).await;
        let application = async {
            conn.send(answer).await;
            conn.end().await;
        };
        let uploading = async {
            // One that writes everything before it reads anything.
            client.send(vec![b'x'; size - 1000]).await;
            let response = client.response().await;
            assert_eq!((response.status(), response.text()), (413, "big"));
            client.shut().await;
            assert_eq!(client.end().await, End::Closed);
        };
        tokio::join!(application, uploading);
    }
    let metrics = tide.at_rest().await;
    assert_eq!(metrics.answered(413), 3.0);
}

/// The worst manner: the application answers and closes although more is coming, so that its kernel
/// sends a reset after the answer.
#[tokio::test]
async fn an_early_answer_survives_the_reset_behind_it() {
    let app = App::start().await;
    let tide = Tide::before(app.address, "");
    for round in 0..20 {
        let mut client = tide.client().await;
        client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4000000\r\n\r\n").await;
        let mut conn = app.accept().await;
        let application = async {
            conn.head().await;
            conn.exactly(1_000_000).await;
            conn.send("HTTP/1.1 413 Content Too Large\r\nContent-Length: 3\r\n\r\nbig").await;
            drop(conn);
        };
        let uploading = async {
            client.send(vec![b'x'; 4_000_000]).await;
            let response = client.response().await;
            assert_eq!((response.status(), response.text()), (413, "big"), "round {round}");
        };
        tokio::join!(application, uploading);
    }
}
