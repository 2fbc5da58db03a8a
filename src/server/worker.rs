//! A worker: a thread with a runtime of its own, which serves its share of the connections.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::time::Instant;

use super::Context;
use super::connection::serve;
use super::registry::{Handle, Place};
use crate::net::Detached;
use crate::proxy::Client;

/// How often a worker looks at itself, on average.
const PULSE: Duration = Duration::from_millis(100);

/// The acceptors' end of a worker.
#[derive(Debug)]
pub(super) struct Worker {
    /// Unbounded, but for the bound on connections: each message is one of them.
    accepted: UnboundedSender<Accepted>,
    load: Arc<AtomicUsize>,
}

/// A connection on its way from the acceptor.
#[derive(Debug)]
struct Accepted {
    stream: Detached,
    peer: SocketAddr,
    place: Place,
}

/// Counts a connection as long as it is served, and takes it out of the registry.
struct Served {
    context: Arc<Context>,
    handle: Arc<Handle>,
    load: Arc<AtomicUsize>,
}

// === impl Worker ===

impl Worker {
    /// Starts a worker's thread. It ends when the worker is dropped.
    pub(super) fn start(index: usize, context: Arc<Context>) -> io::Result<Worker> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (accepted, incoming) = unbounded_channel();
        let load = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&load);
        std::thread::Builder::new()
            .name(format!("worker-{index}"))
            .spawn(move || runtime.block_on(run(index, context, incoming, counted)))?;
        Ok(Worker { accepted, load })
    }

    /// Connections that it has, and those on their way to it.
    pub(super) fn load(&self) -> usize {
        self.load.load(Ordering::Relaxed)
    }

    /// Gives it a connection.
    pub(super) fn give(&self, stream: Detached, peer: SocketAddr, place: Place) {
        self.load.fetch_add(1, Ordering::Relaxed);
        if self.accepted.send(Accepted { stream, peer, place }).is_err() {
            self.load.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

async fn run(
    index: usize,
    context: Arc<Context>,
    mut incoming: UnboundedReceiver<Accepted>,
    load: Arc<AtomicUsize>,
) {
    tokio::spawn(pulse(index, Arc::clone(&context)));
    tokio::spawn(keep_pools(index, Arc::clone(&context)));
    while let Some(Accepted { stream, peer, place }) = incoming.recv().await {
        let counted = Arc::clone(&load);
        let Ok(socket) = stream.attach() else {
            counted.fetch_sub(1, Ordering::Relaxed);
            continue;
        };
        let client = Client::new(socket, index);
        let handle = context.registry.insert(client, place);
        let served = Served { context: Arc::clone(&context), handle, load: counted };
        tokio::spawn(async move { serve(&served.context, &served.handle, peer).await });
    }
}

/// Keeps the worker's connections to the applications young.
async fn keep_pools(index: usize, context: Arc<Context>) {
    loop {
        let period = context.live.load().proxy.keep_pools(index);
        tokio::time::sleep(period).await;
    }
}

/// Measures how much of a core the worker uses, and how late its loop comes to what is due: a
/// worker without CPU looks like a slow application.
async fn pulse(index: usize, context: Arc<Context>) {
    let live = context.live.load_full();
    // The same under every configuration.
    let metrics = live.proxy.metrics().worker(index);
    let mut busy = cpu_time();
    let mut count = 0;
    let mut due = Instant::now() + PULSE;
    loop {
        tokio::time::sleep_until(due).await;
        // The timer's own granularity is no lag.
        let lag = due.elapsed().saturating_sub(Duration::from_millis(1));
        count += 1;
        due = Instant::now() + until_next(count);
        live.proxy.lagged(index, lag, due);
        let now = cpu_time();
        metrics.busy(now.saturating_sub(busy));
        busy = now;
    }
}

/// How long until the next pulse. A quota of CPU time is granted each 100 ms (`cpu.cfs_period_us`),
/// and pulses that kept step with it would always come in the moment of the grant, and never be
/// late. Multiples of the golden ratio keep step with nothing.
fn until_next(count: u32) -> Duration {
    const GOLDEN: f64 = 0.618_033_988_749_895;
    PULSE.mul_f64(0.5 + (f64::from(count) * GOLDEN).fract())
}

/// The CPU time of this thread.
fn cpu_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), time.tv_nsec as u32)
}

// === impl Served ===

impl Drop for Served {
    fn drop(&mut self) {
        self.context.registry.remove(&self.handle);
        self.load.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_quota_hides_from_the_pulse() {
        // What runs for the first part of each period only, and for how long it is late at worst.
        for (period, runs) in [(100.0, 40.0), (100.0, 10.0), (50.0, 25.0), (75.0, 20.0)] {
            let (mut now, mut late) = (0.0, 0.0);
            for count in 1..=100 {
                let due = now + until_next(count).as_secs_f64() * 1e3;
                let within = due % period;
                now = if within < runs { due } else { due - within + period };
                late += f64::from(u8::from(now - due > period / 4.0));
            }
            assert!(late > 15.0, "{period} {runs}: {late} of 100");
        }
        let mean = (1..=1_000).map(until_next).sum::<Duration>() / 1_000;
        assert!(mean.abs_diff(PULSE) < Duration::from_millis(1), "{mean:?}");
    }
}
