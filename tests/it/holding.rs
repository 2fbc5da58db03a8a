//! `hold`: an application that takes no connections for a while, such as during its restart.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderName, HeaderValue};
use http::{HeaderMap, Method};
use rustix::process::Signal;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinHandle, JoinSet};

use crate::support::certificates::Certificates;
use crate::support::http2::{H2App, H2Client, request, rest};
use crate::support::{App, Away, Echo, Metrics, Process, Tide, Wire, acceptor, soon};

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
const HELD: &str = "[upstream]\nmax_in_flight = 1\nhold = \"60s\"\n";

/// An application that stops as one should: it takes nobody any more, answers what it has, and
/// closes.
struct Graceful {
    accepting: JoinHandle<()>,
    stop: watch::Sender<bool>,
}

impl Graceful {
    fn at(app: App) -> Graceful {
        let stop = watch::Sender::new(false);
        let stopping = stop.clone();
        let accepting = tokio::spawn(async move {
            while let Ok((stream, _)) = app.listener.accept().await {
                tokio::spawn(serve(Wire::new(stream), stopping.subscribe()));
            }
        });
        Graceful { accepting, stop }
    }

    async fn stop(self) {
        self.accepting.abort();
        let _ = self.accepting.await;
        self.stop.send_replace(true);
        soon("its connections end", self.stop.closed()).await;
    }
}

async fn serve(mut wire: Wire, mut stop: watch::Receiver<bool>) {
    loop {
        let request = tokio::select! {
            biased;
            request = wire.try_request() => request,
            _ = stop.wait_for(|stop| *stop) => return,
        };
        if request.is_none() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
        wire.send(OK).await;
    }
}

async fn ask(tide: &Tide, path: &str) -> Wire {
    let mut client = tide.client().await;
    client.send(format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n")).await;
    client
}

fn paused(metrics: &Metrics) -> bool {
    metrics.sum("tidegate_upstream_paused", &[]) == 1.0
}

/// Answers so many requests, over whatever connections they come; returns their targets.
async fn answer(app: &App, count: usize) -> Vec<String> {
    let (sender, mut targets) = mpsc::unbounded_channel();
    let accept = async {
        loop {
            let (mut wire, sender) = (app.accept().await, sender.clone());
            tokio::spawn(async move {
                while let Some(request) = wire.try_request().await {
                    sender.send(request.head.line.split(' ').nth(1).unwrap().to_owned()).unwrap();
                    wire.send(OK).await;
                }
            });
        }
    };
    let count = async {
        let mut seen = Vec::new();
        while seen.len() < count {
            seen.push(targets.recv().await.unwrap());
        }
        seen
    };
    tokio::select! {
        seen = count => seen,
        () = accept => unreachable!("it accepts for ever"),
    }
}

#[tokio::test]
async fn requests_wait_for_the_application_and_go_on_in_order() {
    let away = Away::new();
    let tide = Tide::before(away.address, &format!("{HELD}[defaults]\nmax_wait = \"2s\"\n"));
    let mut clients = vec![ask(&tide, "/0").await];
    tide.until("the gate is paused", paused).await;
    for index in 1..=9 {
        clients.push(ask(&tide, &format!("/{index}")).await);
        tide.until_queued(index).await;
    }
    // Longer than `max_wait`: a time in which nobody could be served does not count.
    clients[9].stays_silent(Duration::from_millis(2_300)).await;
    let metrics = tide.until("all of them are there", |m| m.sum("tidegate_in_flight", &[]) == 1.0);
    assert_eq!(metrics.await.sum("tidegate_queue_depth", &[]), 9.0);
    let app = away.comes();
    let seen = answer(&app, 10).await;
    assert_eq!(seen, (0..=9).map(|index| format!("/{index}")).collect::<Vec<_>>());
    for client in &mut clients {
        assert_eq!(client.response().await.status(), 200);
    }
    let metrics = tide.at_rest().await;
    assert!(!paused(&metrics), "{metrics}");
    assert_eq!(metrics.sum("tidegate_upstream_up", &[]), 1.0);
    assert_eq!(metrics.sum("tidegate_rejected_total", &[]), 0.0);
    assert_eq!(metrics.sum("tidegate_upstream_errors_total", &[]), 0.0);
}

#[tokio::test]
async fn after_hold_requests_are_turned_away_until_it_is_back() {
    let away = Away::new();
    let tide = Tide::before(away.address, "[upstream]\nmax_in_flight = 1\nhold = \"400ms\"\n");
    let mut first = ask(&tide, "/").await;
    tide.until("the gate is paused", paused).await;
    let mut second = ask(&tide, "/").await;
    // Who had the slot was with the application already, as far as that goes.
    first.response().await.assert_own(502, "connection_refused");
    let turned_away = second.response().await;
    assert_eq!((turned_away.status(), turned_away.field("retry-after").is_some()), (503, true));
    let proxy_status = "tidegate; error=destination_unavailable; details=\"upstream_down\"";
    assert_eq!(turned_away.field("proxy-status"), Some(proxy_status));
    let third = ask(&tide, "/").await.response().await;
    assert_eq!(third.field("proxy-status"), Some(proxy_status), "at once");
    let metrics = tide.at_rest().await;
    assert!(paused(&metrics), "{metrics}");
    assert_eq!(metrics.rejected("upstream_down"), 2.0);
    let app = away.comes();
    tide.until("it is found", |m| !paused(m)).await;
    let mut last = ask(&tide, "/").await;
    answer(&app, 1).await;
    assert_eq!(last.response().await.status(), 200);
}

#[tokio::test]
async fn who_came_before_the_outage_is_not_kept_longer_than_hold_either() {
    let app = App::start().await;
    let toml = "[upstream]\nmax_in_flight = 1\nhold = \"400ms\"\n[defaults]\nmax_wait = \"60s\"\n";
    let tide = Tide::before(app.address, toml);
    let mut first = ask(&tide, "/").await;
    let mut conn = app.accept().await;
    conn.request().await;
    let second = ask(&tide, "/").await;
    tide.until_queued(1).await;
    let mut third = ask(&tide, "/").await;
    tide.until_queued(2).await;
    drop(app);
    conn.send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n").await;
    assert_eq!(first.response().await.status(), 200);
    tide.until("the gate is paused", paused).await;
    // Its slot comes back, and nobody else comes: the clock alone is left to end the wait.
    drop(second);
    let refused = third.response().await;
    assert!(refused.field("proxy-status").unwrap().contains("upstream_down"), "{refused:?}");
}

#[tokio::test]
async fn a_slot_does_not_make_a_wait_longer_than_max_wait_and_hold() {
    let away = Away::new();
    let address = away.address;
    let toml = "[upstream]\nmax_in_flight = 1\nhold = \"3s\"\n[defaults]\nmax_wait = \"500ms\"\n";
    let tide = Tide::before(address, toml);
    let mut first = ask(&tide, "/1").await;
    tide.until("the gate is paused", paused).await;
    let mut second = ask(&tide, "/2").await;
    let began = Instant::now();
    second.stays_silent(Duration::from_millis(2_500)).await;
    // It comes for one request, and is away again.
    let app = away.comes();
    let mut conn = app.accept().await;
    conn.request().await;
    drop(app);
    conn.send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n").await;
    assert_eq!(first.response().await.status(), 200);
    second.response().await.assert_own(502, "connection_refused");
    let waited = began.elapsed();
    assert!(waited < Duration::from_millis(4_800), "{waited:?}");
}

#[tokio::test]
async fn a_body_is_kept_back_and_arrives_whole() {
    let away = Away::new();
    let tide =
        Tide::before(away.address, &format!("{HELD}[defaults]\nresponse_timeout = \"200ms\"\n"));
    let mut client = tide.client().await;
    client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello").await;
    tide.until("the gate is paused", paused).await;
    // What is awaited is no answer yet, and takes longer than one may.
    client.stays_silent(Duration::from_millis(400)).await;
    let app = away.comes();
    let (_conn, request) = app.serve("ok").await;
    assert_eq!(request.text(), "hello");
    assert_eq!(client.response().await.text(), "ok");
}

#[tokio::test]
async fn who_never_waits_is_told_at_once() {
    let away = Away::new();
    let tide = Tide::before(
        away.address,
        &format!(
            "{HELD}[[route]]\nname = \"health\"\nmatch = {{ path = \"/health\" }}\n\
             admission = \"exempt\"\n\
             [[route]]\nname = \"now\"\nmatch = {{ path = \"/now\" }}\nmax_queue = 0\n\
             [[route]]\nname = \"shadow\"\nmatch = {{ path = \"/shadow\" }}\nenforce = false\n\
             [[route]]\nname = \"waits\"\nmatch = {{ path = \"/waits\" }}\n"
        ),
    );
    let client = ask(&tide, "/waits").await;
    tide.until("the gate is paused", paused).await;
    for path in ["/health", "/shadow"] {
        ask(&tide, path).await.response().await.assert_own(502, "connection_refused");
    }
    // The only slot is taken by who waits.
    let refused = ask(&tide, "/now").await.response().await;
    assert_eq!(refused.status(), 503);
    drop(client);
    tide.until("the client has left", |m| m.sum("tidegate_in_flight", &[]) == 0.0).await;
    ask(&tide, "/now").await.response().await.assert_own(502, "connection_refused");
    assert!(paused(&tide.at_rest().await), "the search goes on without anybody who waits");
    let app = away.comes();
    tide.until("it is found", |m| !paused(m)).await;
    let mut client = ask(&tide, "/health").await;
    answer(&app, 1).await;
    assert_eq!(client.response().await.status(), 200);
}

#[tokio::test]
async fn a_client_that_leaves_meanwhile_costs_nothing() {
    let away = Away::new();
    let tide = Tide::before(away.address, HELD);
    let first = ask(&tide, "/1").await;
    tide.until("the gate is paused", paused).await;
    let second = ask(&tide, "/2").await;
    tide.until_queued(1).await;
    let mut third = ask(&tide, "/3").await;
    tide.until_queued(2).await;
    drop((first, second));
    tide.until("they have left", |m| m.sum("tidegate_queue_depth", &[]) == 1.0).await;
    let app = away.comes();
    assert_eq!(answer(&app, 1).await, ["/3"]);
    assert_eq!(third.response().await.status(), 200);
    tide.at_rest().await.assert_conserved();
}

#[tokio::test]
async fn a_deadline_of_the_client_ends_the_wait() {
    let away = Away::new();
    let toml = format!("{HELD}[defaults]\ndeadline_header = \"X-Deadline\"\n");
    let tide = Tide::before(away.address, &toml);
    let get = |millis: u32| format!("GET / HTTP/1.1\r\nHost: a\r\nX-Deadline: {millis}\r\n\r\n");
    let mut first = tide.client().await;
    first.send(get(300)).await;
    tide.until("the gate is paused", paused).await;
    let mut second = tide.client().await;
    second.send(get(200)).await;
    first.response().await.assert_own(502, "connection_refused");
    let refused = second.response().await;
    assert!(refused.field("proxy-status").unwrap().contains("deadline"), "{refused:?}");
}

#[tokio::test]
async fn the_application_is_told_how_long_its_client_still_waits() {
    let away = Away::new();
    let toml = format!("{HELD}[defaults]\ndeadline_header = \"X-Deadline\"\n");
    let tide = Tide::before(away.address, &toml);
    let mut client = tide.client().await;
    client.send("GET / HTTP/1.1\r\nHost: a\r\nX-Deadline: 60000\r\n\r\n").await;
    tide.until("the gate is paused", paused).await;
    client.stays_silent(Duration::from_millis(500)).await;
    let app = away.comes();
    let (_conn, request) = app.serve("ok").await;
    let left: u32 = request.field("x-deadline").unwrap().parse().unwrap();
    assert!((30_000..=59_500).contains(&left), "{left}");
    assert_eq!(client.response().await.status(), 200);
}

#[tokio::test]
async fn who_gets_through_ends_the_search_that_finds_no_connection_left() {
    let away = Away::new();
    let tide = Tide::before(
        away.address,
        &format!(
            "{HELD}max_connections = 1\nidle_timeout = \"60s\"\n\
             [[route]]\nname = \"now\"\nmatch = {{ path = \"/now\" }}\nmax_queue = 0\n"
        ),
    );
    let first = ask(&tide, "/").await;
    tide.until("the gate is paused", paused).await;
    drop(first);
    tide.until("the client has left", |m| m.sum("tidegate_in_flight", &[]) == 0.0).await;
    // Long enough for the search to take its time from one look to the next.
    let mut waits = ask(&tide, "/").await;
    waits.stays_silent(Duration::from_millis(600)).await;
    let app = away.comes();
    let mut now = ask(&tide, "/now").await;
    answer(&app, 2).await;
    assert_eq!(now.response().await.status(), 200);
    assert_eq!(waits.response().await.status(), 200);
}

#[tokio::test]
async fn an_application_of_http2_is_waited_for_as_well() {
    let away = Away::new();
    let toml = "[upstream]\nmax_in_flight = 8\nhold = \"60s\"\n";
    let tide = Tide::between("127.0.0.1:0", &format!("h2c://{}", away.address), toml);
    let mut clients = Vec::new();
    for index in 0..20 {
        clients.push(ask(&tide, &format!("/{index}")).await);
    }
    tide.until("all of them are there", |m| {
        m.sum("tidegate_queue_depth", &[]) + m.sum("tidegate_in_flight", &[]) == 20.0
    })
    .await;
    // It takes fewer at once over a connection than there are slots.
    let app = H2App::on(away.comes().listener, 2);
    for _ in 0..20 {
        app.call().await.answer("ok");
    }
    for client in &mut clients {
        assert_eq!(client.response().await.status(), 200);
    }
    tide.at_rest().await.assert_conserved();
}

#[tokio::test]
async fn a_call_whose_messages_go_on_is_kept_back_whole() {
    let away = Away::new();
    let toml = "[upstream]\nmax_in_flight = 1\nhold = \"60s\"\n";
    let tide = Tide::between("127.0.0.1:0", &format!("h2c://{}", away.address), toml);
    let mut client = H2Client::connect(tide.address).await;
    let mut head = request(Method::POST, "/chat");
    head.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    let (response, mut up) = client.send(head, false).await;
    up.send_data(Bytes::from_static(b"before"), false).unwrap();
    tide.until("the gate is paused", paused).await;
    up.send_data(Bytes::from_static(b"meanwhile"), false).unwrap();
    let app = H2App::on(away.comes().listener, 100);
    let mut call = app.call().await;
    let mut heard = Vec::new();
    while heard.len() < b"beforemeanwhile".len() {
        heard.extend(soon("a message", call.request.body_mut().data()).await.unwrap().unwrap());
    }
    assert_eq!(heard, b"beforemeanwhile");
    let mut down = call.begin(false);
    let mut answers = soon("the head", response).await.unwrap().into_body();
    up.send_data(Bytes::from_static(b"after"), true).unwrap();
    assert_eq!(rest(call.request.body_mut()).await.unwrap().0, b"after");
    down.send_data(Bytes::from_static(b"pong"), false).unwrap();
    let status = HeaderMap::from_iter([(
        HeaderName::from_static("grpc-status"),
        HeaderValue::from_static("0"),
    )]);
    down.send_trailers(status).unwrap();
    let (answer, trailers) = rest(&mut answers).await.unwrap();
    assert_eq!(
        (&answer[..], trailers.unwrap()["grpc-status"].as_bytes()),
        (&b"pong"[..], &b"0"[..])
    );
    tide.at_rest().await.assert_conserved();
}

#[tokio::test]
async fn an_application_of_tls_is_waited_for_as_well() {
    let certificates = Certificates::new();
    let acceptor = acceptor(&certificates.pair("app", &["127.0.0.1"], 2099), b"http/1.1");
    let away = Away::new();
    let toml = format!("{HELD}[upstream.tls]\nca = {:?}\n", certificates.ca());
    let tide = Tide::between("127.0.0.1:0", &format!("https://{}", away.address), &toml);
    let mut first = ask(&tide, "/1").await;
    tide.until("the gate is paused", paused).await;
    let mut second = ask(&tide, "/2").await;
    tide.until_queued(1).await;
    let app = away.comes();
    let serves = async {
        loop {
            let (stream, _) = app.listener.accept().await.unwrap();
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let mut stream = acceptor.accept(stream).await.unwrap();
                let mut head = [0; 4096];
                while stream.read(&mut head).await.is_ok_and(|read| read > 0) {
                    stream.write_all(OK.as_bytes()).await.unwrap();
                }
            });
        }
    };
    let answers = async { [first.response().await.status(), second.response().await.status()] };
    tokio::select! {
        answers = answers => assert_eq!(answers, [200, 200]),
        () = serves => unreachable!("it serves for ever"),
    }
    assert_eq!(tide.at_rest().await.sum("tidegate_upstream_errors_total", &[]), 0.0);
}

#[tokio::test]
async fn each_of_several_applications_is_waited_for_by_itself() {
    let (held, other) = (Away::new(), Away::new());
    let there = Echo::start(Duration::ZERO).await;
    let application = |name: &str, address: SocketAddr, hold: &str, route: &str| {
        format!(
            "[upstreams.{name}]\nurl = \"http://{address}\"\nhold = {hold:?}\n\
             [[route]]\nupstream = \"{name}\"\n{route}\n"
        )
    };
    let path = |name: &str| format!("name = {name:?}\nmatch = {{ path = \"/{name}\" }}");
    let tide = Tide::before_several(&format!(
        "{}{}{}",
        application("held", held.address, "60s", "name = \"default\""),
        application("there", there.address, "0s", &path("there")),
        application("gone", other.address, "0s", &path("gone")),
    ));
    let mut waits = ask(&tide, "/").await;
    tide.until("the gate is paused", paused).await;
    for _ in 0..3 {
        assert_eq!(ask(&tide, "/there").await.response().await.status(), 200);
        // Nobody said that this one was to be waited for.
        ask(&tide, "/gone").await.response().await.assert_own(502, "connection_refused");
    }
    let metrics = tide.metrics().await;
    let of = |name| metrics.sum("tidegate_upstream_paused", &[("upstream", name)]);
    assert_eq!((of("held"), of("there"), of("gone")), (1.0, 0.0, 0.0), "{metrics}");
    let app = held.comes();
    answer(&app, 1).await;
    assert_eq!(waits.response().await.status(), 200);
    tide.at_rest().await.assert_conserved();
}

#[tokio::test]
async fn an_application_that_serves_one_connection_at_a_time_is_not_kept_busy_by_the_search() {
    let away = Away::new();
    let toml = format!("{HELD}idle_timeout = \"60s\"\n[server]\nworkers = 2\n");
    let tide = Tide::before(away.address, &toml);
    let first = ask(&tide, "/1").await;
    tide.until("the gate is paused", paused).await;
    let mut second = ask(&tide, "/2").await;
    tide.until_queued(1).await;
    // The search goes on at the worker of who began it.
    drop(first);
    tide.until("the client has left", |m| m.sum("tidegate_in_flight", &[]) == 0.0).await;
    let app = away.comes();
    let serves = async {
        loop {
            let mut wire = app.accept().await;
            if wire.try_request().await.is_some() {
                wire.send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
                    .await;
            }
        }
    };
    tokio::select! {
        answer = second.response() => assert_eq!(answer.status(), 200),
        () = serves => unreachable!("it serves for ever"),
    }
}

#[tokio::test]
async fn a_restart_under_load_loses_nothing() {
    let away = Away::new();
    let address = away.address;
    let mut app = Graceful::at(away.comes());
    let tide = Tide::before(address, "[upstream]\nmax_in_flight = 4\nhold = \"60s\"\n");
    let stop = Arc::new(AtomicBool::new(false));
    let mut clients = JoinSet::new();
    for _ in 0..40 {
        let (mut client, stop) = (tide.client().await, Arc::clone(&stop));
        clients.spawn(async move {
            let mut answered = 0;
            while !stop.load(Ordering::Relaxed) {
                assert_eq!(client.get("/").await.status(), 200);
                answered += 1;
            }
            answered
        });
    }
    for round in 0..5 {
        let served = |m: &Metrics| m.answered(200) >= f64::from(200 * (round + 1));
        tide.until("some were served", served).await;
        app.stop().await;
        // Those are answered that were with it; the others wait, one of them with a slot.
        let all_there = |m: &Metrics| {
            let waiting = m.sum("tidegate_queue_depth", &[]) + m.sum("tidegate_in_flight", &[]);
            paused(m) && waiting == 40.0 && m.sum("tidegate_upstream_up", &[]) == 0.0
        };
        tide.until("it is waited for", all_there).await;
        app = Graceful::at(Away::at(address).comes());
    }
    tide.until("it is found", |m| !paused(m)).await;
    stop.store(true, Ordering::Relaxed);
    let answered: u32 = soon("the clients", clients.join_all()).await.into_iter().sum();
    assert!(answered >= 1_000, "{answered}");
    let metrics = tide.at_rest().await;
    assert_eq!(metrics.sum("tidegate_rejected_total", &[]), 0.0);
}

#[tokio::test]
async fn a_shutdown_does_not_wait_for_it_longer_than_the_grace() {
    let away = Away::new();
    let toml = format!("{HELD}[server]\nshutdown_grace = \"300ms\"\n");
    let mut process = Process::start(away.address, &toml);
    let mut first = process.client().await;
    first.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    process.line("the application takes no connections");
    let mut second = process.client().await;
    second.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    process.until("it waits", |m| m.sum("tidegate_queue_depth", &[]) == 1.0).await;
    process.signal(Signal::TERM);
    assert!(second.response().await.field("proxy-status").unwrap().contains("draining"));
    process.exit().await;
}
