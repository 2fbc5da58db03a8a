//! `enforce = false`: everything is let through, and what would have been turned away is counted.

use crate::support::{App, Tide, Wire};

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";

async fn get(tide: &Tide, path: &str) -> Wire {
    let mut client = tide.client().await;
    client.send(format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n")).await;
    client
}

/// Sends three requests at once to a route with one slot and no queue: all get through.
async fn all_get_through(toml: &str, path: &str) {
    let app = App::start().await;
    let tide = Tide::before(app.address, toml);
    let mut open = Vec::new();
    for _ in 0..3 {
        let client = get(&tide, path).await;
        let mut conn = app.accept().await;
        conn.request().await;
        open.push((client, conn));
    }
    let metrics = tide.metrics().await;
    let shadow = |reason| metrics.sum("tidegate_shadow_rejected_total", &[("reason", reason)]);
    assert_eq!(shadow("queue_full"), 2.0, "{metrics}");
    assert_eq!(metrics.sum("tidegate_rejected_total", &[]), 0.0);
    assert_eq!(metrics.sum("tidegate_in_flight", &[]), 3.0);
    metrics.assert_conserved();
    for (mut client, mut conn) in open {
        conn.send(OK).await;
        assert_eq!(client.response().await.status(), 200);
    }
    let metrics = tide.at_rest().await;
    assert_eq!(metrics.sum("tidegate_admitted_total", &[]), 3.0);
    assert_eq!(metrics.answered(200), 3.0);
}

#[tokio::test]
async fn a_route_in_shadow_mode_lets_everything_through_and_counts() {
    let toml = "[upstream]\nmax_in_flight = 1\n[[route]]\nname = \"new\"\n\
                match = { path = \"/new\" }\nmax_queue = 0\nenforce = false\n";
    all_get_through(toml, "/new").await;
}

#[tokio::test]
async fn an_upstream_in_shadow_mode_takes_all_its_routes_along() {
    let toml = "[upstream]\nmax_in_flight = 1\nenforce = false\n[defaults]\nmax_queue = 0\n";
    all_get_through(toml, "/").await;
}

#[tokio::test]
async fn streams_too() {
    let toml = "[upstream]\nmax_in_flight = 8\n[[route]]\nname = \"events\"\n\
                match = { path = \"/events\" }\nkind = \"stream\"\nmax_in_flight = 1\n\
                max_queue = 0\nenforce = false\n";
    all_get_through(toml, "/events").await;
}

#[tokio::test]
async fn other_routes_are_held_to_their_limits_meanwhile() {
    let app = App::start().await;
    let toml = "[upstream]\nmax_in_flight = 1\n[defaults]\nmax_queue = 0\n\
                [[route]]\nname = \"new\"\nmatch = { path = \"/new\" }\nenforce = false\n";
    let tide = Tide::before(app.address, toml);
    let _held = get(&tide, "/old").await;
    let mut conn = app.accept().await;
    conn.request().await;
    let refused = get(&tide, "/old").await.response().await;
    refused.assert_own(503, "connection_limit_reached; details=\"queue_full\"");
    let mut shadow = get(&tide, "/new").await;
    let (_conn, _) = app.serve("new").await;
    assert_eq!(shadow.response().await.text(), "new");
}
