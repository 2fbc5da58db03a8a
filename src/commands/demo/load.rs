//! The demo's clients: they come at a steady pace whatever happens, time out, and try again.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Empty};
use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::upstream::{Pool, PoolLimits, RequestBody, TcpConnector};

/// What the clients do.
#[derive(Clone, Copy, Debug)]
pub(super) struct Load {
    /// Clients in all.
    pub(super) clients: usize,
    /// From one client to the next.
    pub(super) every: Duration,
    /// How long a client waits for an answer.
    pub(super) patience: Duration,
    /// How often it tries again, at once, when it got none or was turned away.
    pub(super) retries: u32,
}

/// What became of one client.
#[derive(Clone, Copy, Debug)]
pub(super) struct Outcome {
    pub(super) end: End,
    /// From the beginning of the load to the client's coming.
    pub(super) came: Duration,
    /// From its last attempt's beginning to the end of it.
    pub(super) took: Duration,
    /// From its coming to the end.
    pub(super) took_in_all: Duration,
}

/// How it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    Served,
    TurnedAway,
    TimedOut,
    Failed,
}

/// Plays a load against an address; `progress` is told after each client how many have ended.
pub(super) fn play(
    target: SocketAddr,
    load: Load,
    mut progress: impl FnMut(usize),
) -> io::Result<Vec<Outcome>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let connector = TcpConnector::new(&target.ip().to_string(), target.port());
    let limits = PoolLimits {
        max_connections: 10_000,
        connect_timeout: load.patience,
        idle_timeout: Duration::from_secs(10),
    };
    let pool = Pool::new(Box::new(connector), 1, limits);
    let (ended, mut outcomes) = mpsc::unbounded_channel();
    let handle = runtime.handle().clone();
    let start = Instant::now();
    // A thread of its own keeps the pace to some 100 us; a runtime's timers are good for a
    // millisecond.
    let pacer = thread::Builder::new().name("demo-pace".into()).spawn(move || {
        let mut due = start;
        for _ in 0..load.clients {
            thread::sleep(due.saturating_duration_since(Instant::now()));
            due += load.every;
            let (pool, ended) = (Arc::clone(&pool), ended.clone());
            handle.spawn(async move {
                // Nobody listens any more only if the demo was interrupted.
                let _ = ended.send(client(&pool, target, load, start).await);
            });
        }
    })?;
    let outcomes = runtime.block_on(async {
        let mut all = Vec::with_capacity(load.clients);
        while let Some(outcome) = outcomes.recv().await {
            all.push(outcome);
            progress(all.len());
        }
        all
    });
    pacer.join().map_err(|_| io::Error::other("the load's pacer failed"))?;
    Ok(outcomes)
}

async fn client(pool: &Arc<Pool<()>>, target: SocketAddr, load: Load, start: Instant) -> Outcome {
    let came = Instant::now();
    let mut attempt = 0;
    loop {
        let began = Instant::now();
        let end = match timeout(load.patience, ask(pool, target)).await {
            Ok(end) => end,
            Err(_) => End::TimedOut,
        };
        if end == End::Served || attempt == load.retries {
            let (took, took_in_all) = (began.elapsed(), came.elapsed());
            return Outcome { end, came: came - start, took, took_in_all };
        }
        attempt += 1;
    }
}

/// One attempt. Dropped in the middle, it closes its connection, as a client does that gives up.
async fn ask(pool: &Arc<Pool<()>>, target: SocketAddr) -> End {
    let Ok(mut lease) = pool.lease(0, None, ()).await else { return End::Failed };
    let body: RequestBody = Empty::<Bytes>::new().map_err(|never| match never {}).boxed_unsync();
    let request = Request::get("/work").header("host", target.to_string()).body(body);
    let Ok(request) = request else { return End::Failed };
    let Ok(response) = lease.send(request).await else { return End::Failed };
    let status = response.status();
    if response.into_body().collect().await.is_err() {
        return End::Failed;
    }
    lease.finish();
    match status {
        StatusCode::OK => End::Served,
        StatusCode::SERVICE_UNAVAILABLE => End::TurnedAway,
        _ => End::Failed,
    }
}
