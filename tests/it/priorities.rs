//! Who goes first, and whom tidegate believes about it.

use crate::support::{App, Tide, Wire};

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";

/// One slot; 127.0.0.1 is a trusted proxy, and 127.0.0.2 is not.
const ONE: &str = "[server]\nworkers = 1\ntrusted_proxies = [\"127.0.0.1\"]\n\
                   [upstream]\nmax_in_flight = 1\n\
                   [defaults]\nmax_wait = \"10s\"\nclass_header = \"X-Class\"\n";

/// A request with these fields, sent from an address.
pub async fn ask(tide: &Tide, source: &str, path: &str, fields: &str) -> Wire {
    let mut client = tide.client_at(source).await;
    client.send(format!("GET {path} HTTP/1.1\r\nHost: a\r\n{fields}\r\n")).await;
    client
}

/// In which order these requests are served that wait for one slot: source, path and fields.
pub async fn order(toml: &str, requests: &[(&str, &str, &str)]) -> Vec<String> {
    let app = App::start().await;
    let tide = Tide::before(app.address, toml);
    let _first = ask(&tide, "127.0.0.1", "/first", "").await;
    let mut conn = app.accept().await;
    conn.request().await;
    let mut clients = Vec::new();
    for (number, (source, path, fields)) in requests.iter().enumerate() {
        clients.push(ask(&tide, source, path, fields).await);
        tide.until_queued(number as u32 + 1).await;
    }
    let mut served = Vec::new();
    for _ in requests {
        conn.send(OK).await;
        let line = conn.request().await.head.line;
        served.push(line.split(' ').nth(1).unwrap().to_owned());
    }
    conn.send(OK).await;
    for client in &mut clients {
        assert_eq!(client.response().await.status(), 200);
    }
    tide.at_rest().await;
    served
}

#[tokio::test]
async fn a_class_from_anybody_else_is_ignored() {
    let requests = [
        ("127.0.0.2", "/a", ""),
        ("127.0.0.2", "/b", "X-Class: 7\r\n"),
        ("127.0.0.2", "/c", "X-Class: 0\r\n"),
    ];
    assert_eq!(order(ONE, &requests).await, ["/a", "/b", "/c"]);
}

#[tokio::test]
async fn a_class_that_is_none_is_that_of_the_route() {
    let requests = [
        ("127.0.0.1", "/a", "X-Class: 8\r\n"),
        ("127.0.0.1", "/b", "X-Class: high\r\n"),
        ("127.0.0.1", "/c", "X-Class: 3\r\n"),
        ("127.0.0.1", "/d", "X-Class: -1\r\n"),
    ];
    assert_eq!(order(ONE, &requests).await, ["/a", "/b", "/c", "/d"]);
}

#[tokio::test]
async fn a_class_from_a_trusted_proxy_goes_first() {
    let requests = [
        ("127.0.0.1", "/a", ""),
        ("127.0.0.1", "/b", "X-Class: 0\r\n"),
        ("127.0.0.1", "/c", "X-Class: 7\r\n"),
        ("127.0.0.1", "/d", "X-Class: 5\r\n"),
    ];
    assert_eq!(order(ONE, &requests).await, ["/c", "/d", "/a", "/b"]);
}

#[tokio::test]
async fn a_route_has_a_class() {
    let toml = format!(
        "{ONE}[[route]]\nname = \"checkout\"\nmatch = {{ path = \"/checkout\" }}\nclass = 6\n\
         [[route]]\nname = \"reports\"\nmatch = {{ path = \"/reports\" }}\nclass = 1\n\
         class_header = \"off\"\n"
    );
    let requests = [
        ("127.0.0.2", "/reports", ""),
        ("127.0.0.2", "/a", ""),
        ("127.0.0.2", "/checkout", "X-Class: 0\r\n"),
        ("127.0.0.1", "/reports", "X-Class: 7\r\n"),
    ];
    assert_eq!(order(&toml, &requests).await, ["/checkout", "/a", "/reports", "/reports"]);
}

#[tokio::test]
async fn a_higher_class_takes_the_place_of_a_lower_one_in_a_full_queue() {
    let app = App::start().await;
    let tide = Tide::before(app.address, &format!("{ONE}max_queue = 1\n"));
    let mut first = ask(&tide, "127.0.0.1", "/first", "").await;
    let mut conn = app.accept().await;
    conn.request().await;
    let mut low = ask(&tide, "127.0.0.1", "/low", "X-Class: 1\r\n").await;
    tide.until_queued(1).await;
    let mut high = ask(&tide, "127.0.0.1", "/high", "X-Class: 7\r\n").await;
    let refused = low.response().await;
    refused.assert_own(503, "connection_limit_reached; details=\"evicted\"");
    // Who is no more important than who waits finds the queue full.
    let refused = ask(&tide, "127.0.0.1", "/same", "X-Class: 7\r\n").await.response().await;
    refused.assert_own(503, "connection_limit_reached; details=\"queue_full\"");
    conn.send(OK).await;
    assert_eq!(first.response().await.status(), 200);
    assert_eq!(conn.request().await.head.line, "GET /high HTTP/1.1");
    conn.send(OK).await;
    assert_eq!(high.response().await.status(), 200);
    let metrics = tide.at_rest().await;
    assert_eq!((metrics.rejected("evicted"), metrics.rejected("queue_full")), (1.0, 1.0));
    let of = |class| metrics.sum("tidegate_rejected_class_total", &[("class", class)]);
    assert_eq!((of("1"), of("3"), of("7")), (1.0, 0.0, 1.0));
}
