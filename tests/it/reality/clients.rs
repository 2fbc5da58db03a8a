//! The clients of the simulator's model, over sockets: each calls when it is due, whatever happens.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use tidegate::simulate::traffic::Call;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::timeout_at;

/// What became of a call.
pub struct Outcome {
    pub call: Call,
    pub end: End,
    /// From the instant at which it was due to its end.
    pub took: Duration,
    /// From the instant at which it was due to its beginning.
    pub late: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    Served,
    TurnedAway,
    TimedOut,
}

/// Connections that nobody uses at the moment.
type Idle = Arc<Mutex<Vec<TcpStream>>>;

/// Makes all calls, counted from `began`, and waits for the last of them.
pub async fn play(
    target: SocketAddr,
    calls: Vec<Call>,
    patience: Duration,
    began: Instant,
) -> Vec<Outcome> {
    let idle = Idle::default();
    let (ended, mut outcomes) = mpsc::unbounded_channel();
    let runtime = tokio::runtime::Handle::current();
    // A thread of its own keeps the pace to some 100 us.
    let pace = thread::spawn(move || {
        for call in calls {
            let due = began + call.at;
            thread::sleep(due.saturating_duration_since(Instant::now()));
            let (idle, ended) = (Arc::clone(&idle), ended.clone());
            runtime.spawn(async move {
                let late = due.elapsed();
                let end = timeout_at((due + patience).into(), ask(&idle, target, &call)).await;
                // Who waits no longer closes its connection by being dropped.
                let end = end.unwrap_or(End::TimedOut);
                ended.send(Outcome { call, end, took: due.elapsed(), late }).unwrap();
            });
        }
    });
    let mut all = Vec::new();
    while let Some(outcome) = outcomes.recv().await {
        all.push(outcome);
    }
    pace.join().unwrap();
    all
}

async fn ask(idle: &Idle, target: SocketAddr, call: &Call) -> End {
    let kept = idle.lock().unwrap().pop();
    let mut stream = match kept {
        Some(stream) => stream,
        None => TcpStream::connect(target).await.unwrap(),
    };
    stream.set_nodelay(true).unwrap();
    let (work, due, client) = (call.work.as_nanos(), call.at.as_nanos(), call.client);
    let request = format!("GET /{work}/{due} HTTP/1.1\r\nhost: app\r\nx-client: {client}\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let (status, keep) = response(&mut stream).await;
    if keep {
        idle.lock().unwrap().push(stream);
    }
    match status {
        200 => End::Served,
        503 => End::TurnedAway,
        other => panic!("status {other}"),
    }
}

/// Takes an answer: its status, and whether the connection may be used again.
async fn response(stream: &mut TcpStream) -> (u16, bool) {
    let mut bytes = Vec::with_capacity(512);
    loop {
        assert!(stream.read_buf(&mut bytes).await.unwrap() > 0, "closed without an answer");
        let Some(head) = bytes.windows(4).position(|window| window == b"\r\n\r\n") else {
            continue;
        };
        let text = std::str::from_utf8(&bytes[..head]).unwrap();
        let length = text.lines().find_map(|line| line.strip_prefix("content-length: "));
        let length: usize = length.expect("every answer has a length").parse().unwrap();
        if bytes.len() == head + 4 + length {
            return (text[9..12].parse().unwrap(), !text.contains("connection: close"));
        }
    }
}
