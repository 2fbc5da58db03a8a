//! The admin endpoints, which answer whatever happens to requests.

use std::time::{Duration, Instant};

use crate::support::{App, End, Message, Tide, Wire};

const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";

async fn page(tide: &Tide, request: &str) -> Message {
    let mut wire = Wire::connect(tide.sidecar.admin_address()).await;
    wire.exchange(format!("{request} HTTP/1.1\r\nHost: admin\r\n\r\n")).await
}

#[tokio::test]
async fn the_pages_are_there() {
    let app = App::start().await;
    let tide =
        Tide::before(app.address, "[[route]]\nname = \"one\"\nmatch = { path = \"/one\" }\n");
    for (path, status, kind) in [
        ("/live", 200, "text/plain; charset=utf-8"),
        ("/ready", 200, "text/plain; charset=utf-8"),
        ("/metrics", 200, "text/plain; version=0.0.4; charset=utf-8"),
        ("/status.json", 200, "application/json"),
        ("/config", 200, "application/toml"),
        ("/", 200, "text/html; charset=utf-8"),
        ("/metrics/", 404, "text/plain; charset=utf-8"),
        ("/nothing", 404, "text/plain; charset=utf-8"),
    ] {
        let response = page(&tide, &format!("GET {path}")).await;
        assert_eq!(response.status(), status, "{path}");
        assert_eq!(response.field("content-type"), Some(kind), "{path}");
        assert_eq!(response.field("cache-control"), Some("no-store"), "{path}");
        let head = page(&tide, &format!("HEAD {path}")).await;
        assert_eq!(head.status(), status, "{path}");
        assert!(head.body.is_empty());
    }
    for method in ["POST", "PUT", "DELETE", "OPTIONS"] {
        let refused = page(&tide, &format!("{method} /metrics")).await;
        assert_eq!((refused.status(), refused.field("allow")), (405, Some("GET, HEAD")));
    }
    let status: serde_json::Value =
        serde_json::from_slice(&page(&tide, "GET /status.json").await.body).unwrap();
    assert_eq!(status["ready"], true);
    assert_eq!(status["routes"][0]["name"], "one");
    assert_eq!(status["routes"][1]["name"], "default");
    assert_eq!(status["upstreams"][0]["address"], app.address.to_string());
    // None of this is a request.
    assert_eq!(tide.at_rest().await.sum("tidegate_arrivals_total", &[]), 0.0);
}

/// The names of all members, with a dot for each level.
fn members(value: &serde_json::Value, prefix: &str, names: &mut Vec<String>) {
    match value {
        serde_json::Value::Object(members_of) => {
            for (name, value) in members_of {
                members(value, &format!("{prefix}.{name}"), names);
            }
        }
        serde_json::Value::Array(list) => members(&list[0], &format!("{prefix}[]"), names),
        _ => names.push(prefix.to_owned()),
    }
}

#[tokio::test]
async fn the_status_has_these_members() {
    let app = App::start().await;
    let tide = Tide::before(
        app.address,
        "[upstream]\nmax_in_flight = \"auto\"\nauto_min = 4\n\
         [[route]]\nname = \"one\"\nmatch = { path = \"/one\" }\n\
         class = 6\norder = \"lifo\"\nenforce = false\n\
         [[route]]\nname = \"health\"\nmatch = { path = \"/h\" }\nadmission = \"exempt\"\n",
    );
    // Rates and the verdict are there from the first full second on, of which open pages are told.
    let mut page = Wire::connect(tide.sidecar.admin_address()).await;
    page.send("GET /events HTTP/1.1\r\nHost: admin\r\n\r\n").await;
    page.through("event: now").await;
    let status = tide.status().await;
    let mut names = Vec::new();
    members(&status, "", &mut names);
    let listed = names.join("\n") + "\n";
    let golden = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/status.txt");
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(golden, &listed).unwrap();
    }
    assert_eq!(listed, std::fs::read_to_string(golden).unwrap(), "names are an interface");
    let one = &status["routes"][0];
    assert_eq!((one["class"].as_u64(), one["enforce"].as_bool()), (Some(6), Some(false)));
    assert_eq!(one["order"], "lifo");
    assert_eq!(one["service"]["p50"], serde_json::Value::Null, "nothing is known yet");
    let health = &status["routes"][1];
    assert_eq!(health["order"], serde_json::Value::Null, "nobody waits there");
    let limit = &status["upstreams"][0]["limit"];
    assert_eq!(limit["value"], status["upstreams"][0]["max_in_flight"]);
    assert_eq!(limit["decision"], "hold");
}

#[tokio::test]
async fn ready_fails_while_draining() {
    let app = App::start().await;
    let tide = Tide::before(app.address, "");
    tide.sidecar.announce_drain();
    let response = page(&tide, "GET /ready").await;
    assert_eq!((response.status(), response.text()), (503, "draining\n"));
    assert_eq!(page(&tide, "GET /live").await.status(), 200);
    let metrics = tide.metrics().await;
    assert_eq!(metrics.sum("tidegate_ready", &[]), 0.0);
    assert_eq!(metrics.sum("tidegate_draining", &[]), 1.0);
}

#[tokio::test]
async fn full_overload_does_not_reach_the_admin_endpoints() {
    let app = App::start().await;
    let tide = Tide::before(
        app.address,
        "[server]\nmax_connections = 40\nworkers = 1\n[upstream]\nmax_in_flight = 1\n\
         [defaults]\nmax_queue = 20\nmax_wait = \"60s\"\n",
    );
    let mut in_flight = tide.client().await;
    in_flight.send(GET).await;
    let mut conn = app.accept().await;
    conn.head().await;
    let mut clients = Vec::new();
    for _ in 0..20 {
        let mut client = tide.client().await;
        client.send(GET).await;
        clients.push(client);
    }
    tide.until_queued(20).await;
    // The rest of the places is taken by clients that go on being rejected, as fast as they can.
    let flood = (0..19).map(|_| {
        let address = tide.address;
        tokio::spawn(async move {
            let mut client = Wire::connect(address).await;
            loop {
                assert_eq!(client.exchange(GET).await.status(), 503);
            }
        })
    });
    let flood: Vec<_> = flood.collect();
    tide.until("many are rejected", |m| m.rejected("queue_full") > 500.0).await;
    for path in ["/ready", "/live", "/metrics", "/status.json"] {
        let started = Instant::now();
        assert_eq!(page(&tide, &format!("GET {path}")).await.status(), 200);
        assert!(started.elapsed() < Duration::from_secs(1), "{path}: {:?}", started.elapsed());
    }
    flood.iter().for_each(tokio::task::JoinHandle::abort);
    drop(clients);
    tide.until_queued(0).await;
    drop(in_flight);
    let metrics = tide.at_rest().await;
    assert_eq!(metrics.sum("tidegate_abandoned_total", &[]), 20.0);
}

#[tokio::test]
async fn silent_connections_do_not_keep_a_scraper_out() {
    let app = App::start().await;
    let tide = Tide::before(app.address, "");
    let mut silent = Vec::new();
    for _ in 0..100 {
        silent.push(Wire::connect(tide.sidecar.admin_address()).await);
    }
    let answer = page(&tide, "GET /metrics").await;
    assert_eq!(answer.status(), 200);
    assert!(matches!(silent[0].end().await, End::Closed | End::Reset), "the oldest gave way");
}

#[tokio::test]
async fn healthcheck_says_whether_it_is_ready() {
    let app = App::start().await;
    let tide = Tide::before(app.address, "");
    let admin = tide.sidecar.admin_address().to_string();
    // The admin listener is served by this thread, so the check runs on another.
    let check = || {
        let admin = admin.clone();
        let run = move || {
            let binary = std::process::Command::new(env!("CARGO_BIN_EXE_tidegate"))
                .args(["healthcheck", "--admin", &admin])
                .output();
            binary.expect("the binary can be started").status.code()
        };
        tokio::task::spawn_blocking(run)
    };
    assert_eq!(check().await.unwrap(), Some(0));
    tide.sidecar.announce_drain();
    assert_eq!(check().await.unwrap(), Some(1));
}

#[tokio::test]
async fn status_tells_what_a_running_one_does() {
    let echo = crate::support::Echo::start(Duration::from_millis(1)).await;
    let tide = Tide::before(echo.address, "");
    let admin = format!("http://{}/", tide.sidecar.admin_address());
    let status = |arguments: &[&str], variable: Option<String>| {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_tidegate"));
        command.arg("status").args(arguments);
        if let Some(value) = variable {
            command.env("TIDEGATE_ADMIN_LISTEN", value);
        }
        tokio::task::spawn_blocking(move || command.output().expect("the binary can be started"))
    };
    tide.client().await.exchange(GET).await;
    let told = status(&["--admin", &admin], None).await.unwrap();
    let text = String::from_utf8(told.stdout).unwrap();
    assert_eq!(told.status.code(), Some(0), "{text}");
    assert!(text.contains(&format!("default ({})", echo.address)), "{text}");
    assert!(text.contains("0/8") && text.contains("0/1024"), "{text}");
    assert!(text.contains("auto: not full yet"), "{text}");
    // Without arguments, as in a container.
    let listen = tide.sidecar.admin_address().to_string();
    let told = status(&[], Some(listen)).await.unwrap();
    assert_eq!(told.status.code(), Some(0));
    drop(tide);
    let told = status(&["--admin", &admin], None).await.unwrap();
    assert_eq!(told.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&told.stderr).contains("no answer from 127.0.0.1:"));
}
