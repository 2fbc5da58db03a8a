//! The open connections to the application.
//!
//! Each worker has a shard of its own and prefers it, the connection used last first: it is the
//! least likely to have been closed. The bound is a token over all workers; at the bound a worker
//! borrows another's unused connection, so that no worker starves beside an idle socket.
//!
//! A connection of HTTP/1.1 is lent whole, one of HTTP/2 by the stream: another one is opened when
//! the application allows no more streams on those that are there.

use std::net::SocketAddr;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, timeout};

use super::UpstreamError;
use super::connect::{Connect, Protocol};
use super::http1::Idle;
use super::http2::Multiplexed;
use super::lease::{Carrier, Lease};
use crate::timer::LazyTimer;

/// All connections to one upstream. `H` is what a [`Lease`] holds until the application is done.
pub struct Pool<H: Send + 'static> {
    connector: Box<dyn Connect>,
    shards: Vec<Mutex<Shard<H>>>,
    limits: PoolLimits,
    count: Arc<Count>,
    /// The last connection agreed on HTTP/2.
    multiplexes: AtomicBool,
}

/// The connections of one worker.
struct Shard<H> {
    /// Of HTTP/1.1, unused; the one used last at the end.
    idle: Vec<Idle<H>>,
    /// Of HTTP/2, used or not.
    shared: Vec<Arc<Multiplexed>>,
    /// One of HTTP/2 is being opened: others wait for it instead of opening one each.
    opening: bool,
}

/// The bounds of a [`Pool`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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
pub(super) struct Count {
    open: AtomicU32,
    changed: Notify,
}

/// The right to have one connection open.
struct Token(Arc<Count>);

/// The duty to open the connection that others wait for. Dropped before that is done, it falls to
/// one of them.
struct Opening<'p, H: Send + 'static> {
    pool: &'p Pool<H>,
    shard: usize,
    ended: bool,
}

// === impl Pool ===

impl<H: Send + 'static> Pool<H> {
    /// An empty pool with a shard for each worker.
    #[must_use]
    pub fn new(connector: Box<dyn Connect>, workers: usize, limits: PoolLimits) -> Arc<Pool<H>> {
        let empty = || Shard { idle: Vec::new(), shared: Vec::new(), opening: false };
        let shards = (0..workers.max(1)).map(|_| Mutex::new(empty())).collect();
        let multiplexes = AtomicBool::new(connector.protocol() == Some(Protocol::Http2));
        Arc::new(Pool { connector, shards, limits, count: Arc::default(), multiplexes })
    }

    /// Whether an exchange that only HTTP/1.1 can carry (an upgrade) can be carried at all.
    #[must_use]
    pub fn can_upgrade(&self) -> bool {
        self.connector.protocol() != Some(Protocol::Http2)
    }

    /// Connections that are open, used or not.
    #[must_use]
    pub fn open(&self) -> u32 {
        self.count.open.load(Ordering::Relaxed)
    }

    /// A connection for one exchange: an unused one of this worker, a new one, or another worker's.
    /// `only`: it must speak this.
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
        only: Option<Protocol>,
        held: H,
    ) -> Result<Lease<H>, (UpstreamError, H)> {
        let shard = shard % self.shards.len();
        if let Some(carrier) = self.stream_of(shard, only) {
            return Ok(Lease::new(carrier, Arc::clone(self), shard, held, true));
        }
        while let Some(mut idle) = self.take_from(shard, only) {
            if self.wait_until_ready(&mut idle).await {
                let carrier = Carrier::Whole(idle);
                return Ok(Lease::new(carrier, Arc::clone(self), shard, held, true));
            }
        }
        self.fresh(shard, only, held).await
    }

    /// A connection that has not served anybody, if the bound allows one.
    ///
    /// # Errors
    ///
    /// Why none could be had, and what was to be held.
    pub async fn fresh(
        self: &Arc<Pool<H>>,
        shard: usize,
        only: Option<Protocol>,
        held: H,
    ) -> Result<Lease<H>, (UpstreamError, H)> {
        let shard = shard % self.shards.len();
        // Boxed, so that the many who find a connection do not carry the room for this.
        let opening = Box::pin(self.open_or_borrow(shard, only));
        match timeout(self.limits.connect_timeout, opening).await {
            Ok(Ok((carrier, reused))) => {
                Ok(Lease::new(carrier, Arc::clone(self), shard, held, reused))
            }
            Ok(Err(error)) => Err((error, held)),
            Err(_) if self.open() >= self.limits.max_connections => {
                Err((UpstreamError::ConnectionLimitReached, held))
            }
            Err(_) => Err((UpstreamError::ConnectionTimeout, held)),
        }
    }

    /// Opens a connection to see whether the application takes any. `wanted`: somebody on this
    /// worker is about to use it. Where nobody is it does not stay, since an application that
    /// serves one connection at a time would wait for a request on it, and serve nobody.
    ///
    /// # Errors
    ///
    /// Why none could be had.
    pub async fn open_spare(&self, shard: usize, wanted: bool) -> Result<(), UpstreamError> {
        let shard = shard % self.shards.len();
        let token = Token::take(&self.count, self.limits.max_connections);
        let token = token.ok_or(UpstreamError::ConnectionLimitReached)?;
        let opened = timeout(self.limits.connect_timeout, self.open_one(shard, None, token)).await;
        // A stream leaves its connection behind.
        let carrier = opened.map_err(|_| UpstreamError::ConnectionTimeout)??;
        if let (Carrier::Whole(idle), true) = (carrier, wanted) {
            self.put_back(shard, idle);
        }
        Ok(())
    }

    /// How often unused connections are to be looked at, see [`Pool::reap`].
    #[must_use]
    pub fn period(&self) -> Duration {
        (self.limits.idle_timeout / 4).clamp(Duration::from_millis(10), Duration::from_secs(1))
    }

    /// Closes what a worker has not used for `idle_timeout`, and what leads where the application
    /// is no more.
    pub fn reap(&self, shard: usize) {
        let now = Instant::now();
        let limit = self.limits.idle_timeout;
        let mut shard = self.shard(shard % self.shards.len());
        shard.idle.retain(|idle| {
            let fresh = now.duration_since(idle.since) < limit;
            fresh && !idle.sender.is_closed() && self.is_current(idle.address)
        });
        // One that is in use ends with its last stream.
        shard.shared.retain(|shared| {
            let over = shared.is_over() || !self.is_current(shared.address);
            !over && !shared.is_idle_for(limit)
        });
    }

    /// Closes every unused connection.
    pub fn close_idle(&self) {
        for shard in 0..self.shards.len() {
            let mut shard = self.shard(shard);
            shard.idle.clear();
            shard.shared.retain(|shared| !shared.is_idle());
        }
    }

    pub(super) fn put_back(&self, shard: usize, mut idle: Idle<H>) {
        if !idle.sender.is_closed() {
            idle.since = Instant::now();
            self.shard(shard).idle.push(idle);
            self.count.ring();
        }
    }

    async fn open_or_borrow(
        &self,
        shard: usize,
        only: Option<Protocol>,
    ) -> Result<(Carrier<H>, bool), UpstreamError> {
        loop {
            // Registered before the look, so that what happens in between is not missed.
            let mut changed = pin!(self.count.changed.notified());
            changed.as_mut().enable();
            let mut opening = None;
            if only != Some(Protocol::Http1) && self.multiplexes.load(Ordering::Relaxed) {
                if let Some(carrier) = self.stream_of(shard, only) {
                    return Ok((carrier, true));
                }
                opening = self.begin_opening(shard);
                if opening.is_none() {
                    changed.await;
                    continue;
                }
            }
            if let Some(token) = Token::take(&self.count, self.limits.max_connections) {
                let opened = self.open_one(shard, only, token).await;
                if let Some(opening) = opening {
                    opening.done();
                }
                return Ok((opened?, false));
            }
            if let Some(opening) = opening {
                opening.put_off();
            }
            let mut others = self.others(shard);
            if let Some(carrier) = others.find_map(|other| self.stream_of(other, only)) {
                return Ok((carrier, true));
            }
            let mut others = self.others(shard);
            if let Some(mut idle) = others.find_map(|other| self.take_from(other, only)) {
                // Its timer belongs to that worker's runtime.
                idle.timer = LazyTimer::default();
                if self.wait_until_ready(&mut idle).await {
                    return Ok((Carrier::Whole(idle), true));
                }
                continue;
            }
            changed.await;
        }
    }

    async fn open_one(
        &self,
        shard: usize,
        only: Option<Protocol>,
        token: Token,
    ) -> Result<Carrier<H>, UpstreamError> {
        let connected = self.connector.connect(only).await?;
        let multiplexes = connected.protocol == Protocol::Http2;
        if only.is_none() {
            self.multiplexes.store(multiplexes, Ordering::Relaxed);
        }
        if !multiplexes {
            let idle = Idle::start(connected, &self.count, token).await;
            return Ok(Carrier::Whole(idle.map_err(|error| UpstreamError::exchanging(&error))?));
        }
        let shared = Multiplexed::start(connected, Arc::clone(&self.count), token).await?;
        let stream = shared.stream().ok_or(UpstreamError::ConnectionLimitReached)?;
        self.shard(shard).shared.push(shared);
        Ok(Carrier::Stream(stream, LazyTimer::default()))
    }

    /// `None`: somebody else is at it.
    fn begin_opening(&self, shard: usize) -> Option<Opening<'_, H>> {
        let before = std::mem::replace(&mut self.shard(shard).opening, true);
        (!before).then(|| Opening { pool: self, shard, ended: false })
    }

    /// All shards, this one last.
    fn others(&self, shard: usize) -> impl Iterator<Item = usize> + use<H> {
        let shards = self.shards.len();
        (1..=shards).map(move |step| (shard + step) % shards)
    }

    fn is_current(&self, address: Option<SocketAddr>) -> bool {
        address.is_none_or(|address| self.connector.is_current(address))
    }

    /// A stream of one of a worker's connections.
    fn stream_of(&self, shard: usize, only: Option<Protocol>) -> Option<Carrier<H>> {
        if only == Some(Protocol::Http1) {
            return None;
        }
        let stream = self.shard(shard).shared.iter().find_map(Multiplexed::stream)?;
        Some(Carrier::Stream(stream, LazyTimer::default()))
    }

    /// A worker's unused connection of HTTP/1.1.
    fn take_from(&self, shard: usize, only: Option<Protocol>) -> Option<Idle<H>> {
        if only == Some(Protocol::Http2) {
            return None;
        }
        let mut shard = self.shard(shard);
        let now = Instant::now();
        while let Some(idle) = shard.idle.pop() {
            let fresh = now.duration_since(idle.since) < self.limits.idle_timeout;
            if fresh && !idle.sender.is_closed() && self.is_current(idle.address) {
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

    fn shard(&self, shard: usize) -> std::sync::MutexGuard<'_, Shard<H>> {
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
        self.0.ring();
    }
}

// === impl Count ===

impl Count {
    /// Something came free.
    pub(super) fn ring(&self) {
        self.changed.notify_one();
    }
}

// === impl Opening ===

impl<H: Send + 'static> Opening<'_, H> {
    /// There is a connection, or there will be none.
    fn done(self) {
        self.end(|count| count.changed.notify_waiters());
    }

    /// There is no room for one now; who frees some will ring.
    fn put_off(self) {
        self.end(|_| {});
    }

    fn end(mut self, then: impl FnOnce(&Count)) {
        self.ended = true;
        self.pool.shard(self.shard).opening = false;
        then(&self.pool.count);
    }
}

impl<H: Send + 'static> Drop for Opening<'_, H> {
    fn drop(&mut self) {
        if !self.ended {
            self.pool.shard(self.shard).opening = false;
            self.pool.count.ring();
        }
    }
}
