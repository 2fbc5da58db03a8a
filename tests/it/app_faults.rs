//! Applications that break off, say nonsense, close when they should not, or go away and come back.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tokio::net::TcpListener;
use tokio::task::{JoinHandle, JoinSet};

use crate::support::{App, Away, End, Tide, Wire, soon};

const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n";

/// The head promises a body and its first bytes are wrong, or none: nothing has been said to the
/// client yet, and so it is told what happened.
#[tokio::test]
async fn answers_that_break_off_at_once_become_502() {
    let app = App::start().await;
    let tide = Tide::before(app.address, "");
    let mut count = 0.0;
    for body in [
        "Transfer-Encoding: chunked\r\n\r\nzz\r\nok\r\n0\r\n\r\n",
        "Transfer-Encoding: chunked\r\n\r\n2\nok\n0\n\n",
        "Transfer-Encoding: chunked\r\n\r\n+2\r\nok\r\n0\r\n\r\n",
        "Transfer-Encoding: chunked\r\n\r\n10000000000000002\r\nok\r\n0\r\n\r\n",
    ] {
        let mut client = tide.client().await;
        client.send(GET).await;
        let mut conn = app.accept().await;
        conn.head().await;
        conn.send(format!("HTTP/1.1 200 OK\r\n{body}")).await;
        client.response().await.assert_own(502, "http_response_incomplete");
        conn.end().await;
        count += 1.0;
        // The client's connection goes on.
        client.send(GET).await;
        let (_conn, _) = app.serve("ok").await;
        assert_eq!(client.response().await.text(), "ok", "{body:?}");
    }
    assert_eq!(tide.at_rest().await.errors("http_response_incomplete"), count);
}

/// The same a little later, when the head may be on its way: the client sees a broken answer, or
/// hears of it, but never nothing at all.
#[tokio::test]
async fn answers_that_break_off_are_never_silence() {
    let app = App::start().await;
    let tide = Tide::before(app.address, "");
    for framing in ["Content-Length: 10", "Transfer-Encoding: chunked"] {
        for reset in [false, true] {
            for round in 0..20 {
                let mut client = tide.client().await;
                client.send(GET).await;
                let mut conn = app.accept().await;
                conn.head().await;
                conn.send(format!("HTTP/1.1 200 OK\r\n{framing}\r\n\r\n")).await;
                if reset {
                    conn.reset()
                } else {
                    drop(conn)
                }
                let response = client.response().await;
                match response.status() {
                    200 => assert!(!response.whole, "{framing}, {round}"),
                    // A reset may overtake the head.
                    502 => {}
                    status => panic!("{status}"),
                }
            }
        }
    }
    tide.at_rest().await;
}

/// What came before the break arrives, although it came together with it.
#[tokio::test]
async fn what_came_before_the_break_arrives() {
    let app = App::start().await;
    let tide = Tide::before(app.address, "");
    for (answer, come) in [
        ("Transfer-Encoding: chunked\r\n\r\n1\r\nok\r\n0\r\n\r\n", "o"),
        ("Transfer-Encoding: chunked\r\n\r\n2\r\nok\r\nzz\r\n", "ok"),
        ("Content-Length: 10\r\n\r\nok", "ok"),
    ] {
        for _ in 0..20 {
            let mut client = tide.client().await;
            client.send(GET).await;
            let mut conn = app.accept().await;
            conn.head().await;
            conn.send(format!("HTTP/1.1 200 OK\r\n{answer}")).await;
            drop(conn);
            let response = client.response().await;
            assert_eq!((response.status(), response.text(), response.whole), (200, come, false));
            assert_ne!(client.end().await, End::Reset);
        }
    }
    tide.at_rest().await;
}

/// An application that closes each connection after one answer, without a word.
async fn closing(listener: TcpListener, before_the_second: bool) {
    while let Ok((stream, _)) = listener.accept().await {
        tokio::spawn(async move {
            let mut wire = Wire::new(stream);
            if wire.try_request().await.is_none() {
                return;
            }
            let _ = wire.try_send(format!("{OK}ok")).await;
            if !before_the_second {
                // In the worst moment: when the next request has been written.
                let _ = wire.stream.readable().await;
            }
        });
    }
}

#[tokio::test]
async fn closed_connections_cost_idempotent_requests_nothing() {
    for before_the_second in [true, false] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let app = tokio::spawn(closing(listener, before_the_second));
        let tide = Tide::before(address, "[server]\nworkers = 1\n");
        let mut client = tide.client().await;
        for n in 0..60 {
            let response = client.get("/").await;
            assert_eq!(response.status(), 200, "request {n}, {before_the_second}");
        }
        // And at once.
        let mut clients = JoinSet::new();
        for _ in 0..12 {
            let mut client = tide.client().await;
            clients.spawn(async move {
                let mut good = 0;
                for _ in 0..5 {
                    good += usize::from(client.get("/").await.status() == 200);
                }
                good
            });
        }
        let good: usize = clients.join_all().await.into_iter().sum();
        assert_eq!(good, 60, "{before_the_second}");
        app.abort();
        assert_eq!(tide.at_rest().await.answered(200), 120.0);
    }
}

/// An application that can be killed with all its connections.
struct Mortal {
    tasks: JoinHandle<()>,
}

impl Mortal {
    fn at(address: SocketAddr) -> Mortal {
        let App { listener, .. } = Away::at(address).comes();
        let tasks = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                connections.spawn(async move {
                    let mut wire = Wire::new(stream);
                    while wire.try_request().await.is_some() {
                        if wire.try_send(format!("{OK}ok")).await.is_err() {
                            return;
                        }
                    }
                });
            }
        });
        Mortal { tasks }
    }

    async fn kill(self) {
        self.tasks.abort();
        let _ = self.tasks.await;
    }
}

/// Ten restarts under load: from a second after each return on nothing fails.
#[tokio::test]
async fn restarts_are_forgotten_within_a_second() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let tide = Tide::before(address, "[upstream]\nconnect_timeout = \"500ms\"\n");
    let stop = Arc::new(AtomicBool::new(false));
    // Since when nothing may fail: milliseconds after the beginning; none while it is away.
    let begun = Instant::now();
    let sound = Arc::new(AtomicUsize::new(usize::MAX));
    let good = Arc::new(AtomicUsize::new(0));
    let mut clients = JoinSet::new();
    for _ in 0..8 {
        let mut client = tide.client().await;
        let (stop, sound, good) = (Arc::clone(&stop), Arc::clone(&sound), Arc::clone(&good));
        clients.spawn(async move {
            while !stop.load(Ordering::Relaxed) {
                let since = sound.load(Ordering::SeqCst);
                let now = begun.elapsed().as_millis() as usize;
                let status = client.get("/").await.status();
                // It was sound when the request began, and it still is.
                if since <= now && sound.load(Ordering::SeqCst) == since {
                    assert_eq!(status, 200, "{} ms after it was sound", now - since);
                    good.fetch_add(1, Ordering::Relaxed);
                }
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        });
    }
    for round in 0..10 {
        let app = Mortal::at(address);
        let since = begun.elapsed().as_millis() as usize + 1_000;
        sound.store(since, Ordering::SeqCst);
        let before = good.load(Ordering::Relaxed);
        soon(("good answers", round), async {
            while good.load(Ordering::Relaxed) < before + 50 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await;
        sound.store(usize::MAX, Ordering::SeqCst);
        app.kill().await;
        tide.until("it is seen to be down", |m| m.sum("tidegate_upstream_up", &[]) == 0.0).await;
    }
    stop.store(true, Ordering::Relaxed);
    clients.join_all().await;
    tide.at_rest().await;
}
