//! What the gate learns from answers, and from what it must not learn.

use std::time::Duration;

use tokio::task::JoinHandle;

use crate::support::{App, Tide, Wire, soon};

/// An application that gives these answers in turn.
struct Always {
    task: JoinHandle<()>,
    address: std::net::SocketAddr,
}

impl Always {
    async fn start(delay: Duration, answers: &'static [&'static str]) -> Always {
        let App { listener, address } = App::start().await;
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(always(Wire::new(stream), delay, answers));
            }
        });
        Always { task, address }
    }
}

impl Drop for Always {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn always(mut wire: Wire, delay: Duration, answers: &[&str]) {
    let mut answers = answers.iter().cycle();
    while let Ok(()) = wire.stream.readable().await {
        if wire.has_ended() {
            return;
        }
        wire.request().await;
        wire.pause(delay).await;
        let answer = answers.next().expect("there is one");
        if wire.try_send(answer).await.is_err() {
            return;
        }
    }
}

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
const SAD: &str = "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n";
const EVENT: &str =
    "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Length: 0\r\n\r\n";

/// The median service time of the route `default` after so many answers, in seconds; fewer, if it
/// is known before.
async fn learnt_from(answers: &'static [&'static str], count: usize, toml: &str) -> Option<f64> {
    let app = Always::start(Duration::from_millis(2), answers).await;
    let tide = Tide::before(app.address, toml);
    let mut client = tide.client().await;
    for number in 1..=count {
        client.get("/").await;
        if number % 25 == 0
            && let Some(p50) = tide.service_p50().await
        {
            return Some(p50);
        }
    }
    None
}

#[tokio::test]
async fn the_service_time_is_learnt_from_ordinary_answers_alone() {
    let plain = "[upstream]\nmax_in_flight = 4\n";
    // On a busy machine the worker is late, and most of what it measures does not count.
    let p50 = learnt_from(&[OK], 2_500, plain).await.expect("so many are enough");
    assert!((0.001..0.2).contains(&p50), "{p50}");
    assert_eq!(learnt_from(&[SAD], 100, plain).await, None, "a refusal is quick, and no service");
    assert_eq!(learnt_from(&[EVENT], 100, plain).await, None, "a stream's head says nothing");
    let stream =
        format!("{plain}[[route]]\nname = \"default\"\nkind = \"stream\"\nmax_in_flight = 4\n");
    assert_eq!(learnt_from(&[OK], 100, &stream).await, None, "a stream route teaches nothing");
}

#[tokio::test]
async fn an_answer_that_is_finished_without_its_client_counts_as_any() {
    let app = App::start().await;
    let finish = "[upstream]\nmax_in_flight = 4\n[defaults]\non_client_abort = \"finish\"\n";
    let tide = Tide::before(app.address, finish);
    let mut kept = None;
    for gone in 1..=16 {
        let mut client = tide.client().await;
        client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
        let mut conn = match kept.take() {
            Some(conn) => conn,
            None => app.accept().await,
        };
        conn.head().await;
        drop(client);
        tide.until("the client has left", |m| m.aborts("upstream") == f64::from(gone)).await;
        conn.send(OK).await;
        tide.until("the slot is back", |m| m.sum("tidegate_in_flight", &[]) == 0.0).await;
        kept = Some(conn);
    }
    assert!(tide.service_p50().await.is_some(), "sixteen answers are enough");
}

#[tokio::test]
async fn an_application_that_says_it_is_overloaded_gets_less() {
    let app = Always::start(Duration::from_millis(1), &[OK, OK, OK, OK, SAD]).await;
    let tide = Tide::before(app.address, "[upstream]\nmax_in_flight = \"auto\"\n");
    let clients: Vec<_> = (0..48)
        .map(|_| {
            let address = tide.address;
            tokio::spawn(async move {
                let mut client = Wire::connect(address).await;
                loop {
                    client.get("/").await;
                }
            })
        })
        .collect();
    let labels = [("decision", "back_off")];
    let decisions = "tidegate_upstream_limit_decisions_total";
    let metrics = tide.until("it backs off", |m| m.sum(decisions, &labels) > 0.0).await;
    assert!(metrics.sum("tidegate_upstream_in_flight_limit", &[]) < 48.0, "{metrics}");
    clients.iter().for_each(JoinHandle::abort);
    soon("at rest", tide.at_rest()).await;
}
