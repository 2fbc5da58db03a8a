//! The open connections to the application.
//!
//! Each worker has a shard of its own and prefers it, the connection used last first: it is the
//! least likely to have been closed. The bound is a token over all workers; at the bound a worker
//! borrows another's unused connection, so that no worker starves beside an idle socket.

use std::pin::pin;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, timeout};

use super::UpstreamError;
use super::connect::{Connect, Protocol};
use super::connection::{Idle, Lease};

/// All connections to one upstream. `H` is what a [`Lease`] holds until the application is done.
pub struct Pool<H: Send + 'static> {
    connector: Box<dyn Connect>,
    shards: Vec<Mutex<Vec<Idle<H>>>>,
    limits: PoolLimits,
    count: Arc<Count>,
}

/// The bounds of a [`Pool`].
#[derive(Clone, Copy, Debug)]
pub struct PoolLimits {
    /// Connections at once over all workers.
    pub max_connections: u32,
    /// To open one.
    pub connect_timeout: Duration,
    /// How long an unused one is kept.
    pub idle_timeout: Duration,
}

/// How many connections are open, and a bell for those who wait at the bound.
#[derive(Debug, Default)]
struct Count {
    open: AtomicU32,
    changed: Notify,
}

/// The right to have one connection open.
struct Token(Arc<Count>);

// === impl Pool ===

impl<H: Send + 'static> Pool<H> {
    /// An empty pool with a shard for each worker.
    #[must_use]
    pub fn new(connector: Box<dyn Connect>, workers: usize, limits: PoolLimits) -> Arc<Pool<H>> {
        let shards = (0..workers.max(1)).map(|_| Mutex::new(Vec::new())).collect();
        Arc::new(Pool { connector, shards, limits, count: Arc::default() })
    }

    /// Connections that are open, used or not.
    #[must_use]
    pub fn open(&self) -> u32 {
        self.count.open.load(Ordering::Relaxed)
    }

    /// A connection for one exchange: an unused one of this worker, a new one, or another worker's.
    ///
    /// # Errors
    ///
    /// Why none could be had, and what was to be held.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future drops `held` and the attempt.
    pub async fn lease(
        self: &Arc<Pool<H>>,
        shard: usize,
        held: H,
    ) -> Result<Lease<H>, (UpstreamError, H)> {
        let shard = shard % self.shards.len();
        while let Some(mut idle) = self.take_from(shard) {
            if self.wait_until_ready(&mut idle).await {
                return Ok(idle.lease(Arc::clone(self), shard, held, true));
            }
        }
        self.fresh(shard, held).await
    }

    /// A connection that has not served anybody, if the bound allows one.
    ///
    /// # Errors
    ///
    /// Why none could be had, and what was to be held.
    pub async fn fresh(
        self: &Arc<Pool<H>>,
        shard: usize,
        held: H,
    ) -> Result<Lease<H>, (UpstreamError, H)> {
        let shard = shard % self.shards.len();
        match timeout(self.limits.connect_timeout, self.open_or_borrow(shard)).await {
            Ok(Ok((idle, reused))) => Ok(idle.lease(Arc::clone(self), shard, held, reused)),
            Ok(Err(error)) => Err((error, held)),
            Err(_) if self.open() >= self.limits.max_connections => {
                Err((UpstreamError::ConnectionLimitReached, held))
            }
            Err(_) => Err((UpstreamError::ConnectionTimeout, held)),
        }
    }

    /// Closes what has not been used for `idle_timeout`, again and again. One task for each worker.
    pub async fn reap(self: Arc<Pool<H>>, shard: usize) {
        let period =
            (self.limits.idle_timeout / 4).clamp(Duration::from_millis(10), Duration::from_secs(1));
        loop {
            tokio::time::sleep(period).await;
            let now = Instant::now();
            let limit = self.limits.idle_timeout;
            self.shard(shard)
                .retain(|idle| !idle.sender.is_closed() && now.duration_since(idle.since) < limit);
        }
    }

    /// Closes every unused connection.
    pub fn close_idle(&self) {
        (0..self.shards.len()).for_each(|shard| self.shard(shard).clear());
    }

    pub(super) fn put_back(&self, shard: usize, idle: Idle<H>) {
        if !idle.sender.is_closed() {
            self.shard(shard).push(idle);
            self.count.changed.notify_one();
        }
    }

    async fn open_or_borrow(&self, shard: usize) -> Result<(Idle<H>, bool), UpstreamError> {
        loop {
            // Registered before the look, so that what happens in between is not missed.
            let mut changed = pin!(self.count.changed.notified());
            changed.as_mut().enable();
            if let Some(token) = Token::take(&self.count, self.limits.max_connections) {
                let connected = self.connector.connect(Some(Protocol::Http1)).await?;
                let idle = Idle::start(connected.stream, token).await;
                return Ok((idle.map_err(|error| UpstreamError::exchanging(&error))?, false));
            }
            let others = (1..=self.shards.len()).map(|step| (shard + step) % self.shards.len());
            if let Some(mut idle) = others.into_iter().find_map(|other| self.take_from(other)) {
                idle.leave_worker();
                if self.wait_until_ready(&mut idle).await {
                    return Ok((idle, true));
                }
                continue;
            }
            changed.await;
        }
    }

    fn take_from(&self, shard: usize) -> Option<Idle<H>> {
        let mut shard = self.shard(shard);
        let now = Instant::now();
        while let Some(idle) = shard.pop() {
            let fresh = now.duration_since(idle.since) < self.limits.idle_timeout;
            if fresh && !idle.sender.is_closed() {
                return Some(idle);
            }
        }
        None
    }

    /// The last exchange has ended for us; its connection may need a moment to see that too.
    async fn wait_until_ready(&self, idle: &mut Idle<H>) -> bool {
        let limit = self.limits.connect_timeout.min(Duration::from_millis(100));
        idle.sender.is_ready() || idle.became_ready(limit).await
    }

    fn shard(&self, shard: usize) -> std::sync::MutexGuard<'_, Vec<Idle<H>>> {
        self.shards[shard].lock().expect("nothing panics while it holds the lock")
    }
}

impl<H: Send + 'static> std::fmt::Debug for Pool<H> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pool").field("limits", &self.limits).field("open", &self.open()).finish()
    }
}

// === impl Token ===

impl Token {
    fn take(count: &Arc<Count>, max: u32) -> Option<Token> {
        let next = |open: u32| (open < max).then_some(open + 1);
        let taken = count.open.fetch_update(Ordering::AcqRel, Ordering::Relaxed, next);
        taken.is_ok().then(|| Token(Arc::clone(count)))
    }
}

impl Drop for Token {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::AcqRel);
        self.0.changed.notify_one();
    }
}
