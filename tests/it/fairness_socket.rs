//! What waits is shared out between clients, and who pretends to be many is one.
//!
//! 127.0.0.1 is a trusted proxy; 127.0.0.2 and 127.0.0.3 are clients.

use crate::priorities::{ask, order};
use crate::support::{App, Tide};

const ONE: &str = "[server]\nworkers = 1\ntrusted_proxies = [\"127.0.0.1\"]\n\
                   [upstream]\nmax_in_flight = 1\n[defaults]\nmax_wait = \"10s\"\n";

const GREEDY: [&str; 6] =
    ["/greedy/1", "/greedy/2", "/greedy/3", "/greedy/4", "/greedy/5", "/greedy/6"];

/// Six requests of one address wait, and then one of another, with these fields: whether the six
/// are one flow. Then they wait for each other, in order, and the modest one for one of them at
/// most; else they come in any order.
async fn six_are_one(
    toml: &str,
    (greedy, greedy_fields): (&str, [&str; 6]),
    modest: (&str, &str),
) -> bool {
    let zipped = GREEDY.into_iter().zip(greedy_fields);
    let mut requests: Vec<_> = zipped.map(|(path, fields)| (greedy, path, fields)).collect();
    requests.push((modest.0, "/modest", modest.1));
    let mut served = order(toml, &requests).await;
    let place = served.iter().position(|path| path == "/modest").unwrap();
    served.remove(place);
    place <= 1 && served == GREEDY
}

#[tokio::test]
async fn a_client_with_many_requests_waits_for_itself() {
    assert!(six_are_one(ONE, ("127.0.0.2", [""; 6]), ("127.0.0.3", "")).await);
    let none = format!("{ONE}fair_by = \"none\"\n");
    assert!(!six_are_one(&none, ("127.0.0.2", [""; 6]), ("127.0.0.3", "")).await);
}

#[tokio::test]
async fn clients_behind_a_trusted_proxy_are_told_apart() {
    // What stands further left was written by the client itself.
    let behind = [
        "X-Forwarded-For: 192.0.2.1\r\n",
        "X-Forwarded-For: 203.0.113.1, 192.0.2.1\r\n",
        "X-Forwarded-For: 203.0.113.2, 192.0.2.1\r\n",
        "X-Forwarded-For: 203.0.113.3\r\nX-Forwarded-For: 192.0.2.1\r\n",
        "X-Forwarded-For: 203.0.113.4, 192.0.2.1:4711\r\n",
        "X-Forwarded-For: 192.0.2.1, 127.0.0.1\r\n",
    ];
    let other = ("127.0.0.1", "X-Forwarded-For: 198.51.100.1\r\n");
    assert!(six_are_one(ONE, ("127.0.0.1", behind), other).await);
    let v6 = [
        "X-Forwarded-For: 2001:db8::1\r\n",
        "X-Forwarded-For: 2001:db8::2\r\n",
        "X-Forwarded-For: 2001:db8::3:3\r\n",
        "X-Forwarded-For: 2001:db8::ffff:4\r\n",
        "X-Forwarded-For: 2001:db8::5\r\n",
        "X-Forwarded-For: [2001:db8::6]:4711\r\n",
    ];
    let other = ("127.0.0.1", "X-Forwarded-For: 2001:db8:0:1::1\r\n");
    assert!(six_are_one(ONE, ("127.0.0.1", v6), other).await, "by /64");
}

#[tokio::test]
async fn who_claims_to_be_many_is_one() {
    let by_tenant = format!("{ONE}fair_by = \"header:X-Tenant\"\n");
    let modest = ("127.0.0.3", "");
    let tenants = [
        "X-Tenant: a\r\n",
        "X-Tenant: b\r\n",
        "X-Tenant: c\r\n",
        "X-Tenant: d\r\n",
        "X-Tenant: e\r\n",
        "X-Tenant: f\r\n",
    ];
    assert!(six_are_one(&by_tenant, ("127.0.0.2", tenants), modest).await);
    let other = ("127.0.0.1", "X-Tenant: b\r\n");
    let same = ["X-Tenant: a\r\n"; 6];
    assert!(six_are_one(&by_tenant, ("127.0.0.1", same), other).await, "a proxy may say so");
    let addresses = [
        "X-Forwarded-For: 192.0.2.1\r\n",
        "X-Forwarded-For: 192.0.2.2\r\n",
        "X-Forwarded-For: 192.0.2.3\r\n",
        "X-Forwarded-For: 192.0.2.4\r\n",
        "X-Forwarded-For: 192.0.2.5\r\n",
        "X-Forwarded-For: 192.0.2.6\r\n",
    ];
    assert!(six_are_one(&by_tenant, ("127.0.0.2", addresses), modest).await);
    assert!(six_are_one(ONE, ("127.0.0.2", addresses), modest).await);
}

#[tokio::test]
async fn in_a_full_queue_the_client_with_the_most_places_gives_one_up() {
    let app = App::start().await;
    let tide = Tide::before(app.address, &format!("{ONE}max_queue = 3\n"));
    let _first = ask(&tide, "127.0.0.2", "/first", "").await;
    let mut conn = app.accept().await;
    conn.request().await;
    let mut greedy = Vec::new();
    for number in 1..=3 {
        greedy.push(ask(&tide, "127.0.0.2", "/greedy", "X-Forwarded-For: 192.0.2.9\r\n").await);
        tide.until_queued(number).await;
    }
    let mut modest = ask(&tide, "127.0.0.3", "/modest", "").await;
    let refused = greedy[2].response().await;
    refused.assert_own(503, "connection_limit_reached; details=\"evicted\"");
    drop(greedy);
    for _ in 0..2 {
        conn.send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await;
        if conn.request().await.head.line == "GET /modest HTTP/1.1" {
            break;
        }
    }
    conn.send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await;
    assert_eq!(modest.response().await.status(), 200);
}
