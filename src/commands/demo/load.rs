//! The demo's clients: they come at a steady pace whatever happens, time out, and try again.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use http::{Request, StatusCode};
use http_body_util::BodyExt;
use tokio::sync::{Semaphore, mpsc};
use tokio::time::timeout;

use crate::upstream::{Pool, PoolLimits, RequestBody, TcpConnector, UNHEARD};

/// Clients without end: how many at once at most, and how long each waits.
const MAX_POURED: usize = 4_000;
const IMPATIENT: Duration = Duration::from_secs(1);

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

/// Clients without end, so many a second as `rate` says at the moment; every other one asks for the
/// last path. They are impatient, and do not come again.
pub(super) fn pour(
    target: SocketAddr,
    rate: Arc<AtomicU32>,
    paths: [&'static str; 3],
) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let connector = TcpConnector::new(&target.ip().to_string(), target.port());
    let limits = PoolLimits {
        max_connections: MAX_POURED as u32,
        connect_timeout: IMPATIENT,
        idle_timeout: Duration::from_secs(10),
    };
    let pool = Pool::new(Box::new(connector), 1, limits);
    let handle = runtime.handle().clone();
    let forever = move || runtime.block_on(std::future::pending::<()>());
    thread::Builder::new().name("demo-clients".into()).spawn(forever)?;
    let room = Arc::new(Semaphore::new(MAX_POURED));
    thread::Builder::new().name("demo-pace".into()).spawn(move || {
        let mut due = Instant::now();
        for number in 0_usize.. {
            let every = match rate.load(Ordering::Relaxed) {
                0 => {
                    thread::sleep(Duration::from_millis(50));
                    due = Instant::now();
                    continue;
                }
                rate => Duration::from_secs(1) / rate,
            };
            thread::sleep(due.saturating_duration_since(Instant::now()));
            // Whoever could not come in time, since the machine was busy, does not come later.
            due = due.max(Instant::now().checked_sub(IMPATIENT).unwrap_or(due)) + every;
            let path = if number % 2 == 0 { paths[2] } else { paths[number / 2 % 2] };
            let Ok(place) = Arc::clone(&room).try_acquire_owned() else { continue };
            let pool = Arc::clone(&pool);
            handle.spawn(async move {
                let _ = timeout(IMPATIENT, ask(&pool, target, path)).await;
                drop(place);
            });
        }
    })?;
    Ok(())
}

async fn client(pool: &Arc<Pool<()>>, target: SocketAddr, load: Load, start: Instant) -> Outcome {
    let came = Instant::now();
    let mut attempt = 0;
    loop {
        let began = Instant::now();
        let end = match timeout(load.patience, ask(pool, target, "/work")).await {
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
async fn ask(pool: &Arc<Pool<()>>, target: SocketAddr, path: &str) -> End {
    let Ok(mut lease) = pool.lease(0, None, ()).await else { return End::Failed };
    let body = RequestBody::none();
    let request = Request::get(path).header("host", target.to_string()).body(body);
    let Ok(request) = request else { return End::Failed };
    let Ok(response) = lease.send(request, UNHEARD).await else { return End::Failed };
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
