//! A whole tidegate in one value: started from a configuration, ended by a drain.
//!
//! `run`, `demo` and the tests start the same thing here.

mod memory;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use crate::admin::{Admin, MAX_CONNECTIONS, State};
use crate::config::{Config, Upstream};
use crate::gate::{AutoDecision, RejectReason};
use crate::proxy::Proxy;
use crate::server::{EXTRA_DESCRIPTORS, Server, bind};
use crate::telemetry::access::AccessLogger;
use crate::telemetry::metrics::{Labels, Metrics};
use crate::upstream::{Connect, TcpConnector, UpstreamError};

pub use memory::fit_memory;

/// File descriptors for everything but clients and upstreams: listeners, runtimes, logs; admin
/// connections; clients that are being refused.
const OWN_DESCRIPTORS: u64 = 32 + (MAX_CONNECTIONS + EXTRA_DESCRIPTORS) as u64;
/// How long requests that are turned away at the end of the grace have to be told.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// A running tidegate.
#[derive(Debug)]
pub struct Sidecar {
    state: Arc<State>,
    admin: Admin,
    ticker: JoinHandle<()>,
}

/// Why tidegate could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// An address cannot be listened on.
    #[error("cannot listen on {address} ({key})")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// The key that names it.
        key: &'static str,
        /// Why not.
        source: io::Error,
    },
    /// A thread or a runtime cannot be started.
    #[error("cannot start a worker")]
    Worker(#[source] io::Error),
}

/// How a drain ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Drained {
    /// Everybody got an answer.
    Whole,
    /// The grace ended; so many connections, or requests without a client, were cut off.
    CutOff(usize),
}

// === impl Sidecar ===

impl Sidecar {
    /// Binds, starts workers and accepts. Call it inside a runtime; it serves the admin listener.
    ///
    /// # Errors
    ///
    /// An address is in use, or the system gives no thread.
    pub fn start(config: Config, effective: String) -> Result<Sidecar, StartError> {
        Sidecar::start_with(config, effective, &|upstream: &Upstream| {
            Box::new(TcpConnector::new(&upstream.host, upstream.port))
        })
    }

    /// As [`Sidecar::start`], with connectors of one's own.
    ///
    /// # Errors
    ///
    /// As [`Sidecar::start`].
    pub fn start_with(
        config: Config,
        effective: String,
        connect: &dyn Fn(&Upstream) -> Box<dyn Connect>,
    ) -> Result<Sidecar, StartError> {
        let listeners = config.server.listen.iter().map(|address| {
            let key = "server.listen";
            bind(*address).map_err(|source| StartError::Listen { address: *address, key, source })
        });
        let listeners = listeners.collect::<Result<Vec<_>, _>>()?;
        let admin = config.admin.listen;
        let admin = bind(admin).map_err(|source| StartError::Listen {
            address: admin,
            key: "admin.listen",
            source,
        })?;

        let labels = Labels {
            reasons: &RejectReason::LABELS,
            errors: &UpstreamError::TOKENS,
            decisions: &AutoDecision::LABELS,
        };
        let metrics = Metrics::new(&config, labels);
        let access = Arc::new(AccessLogger::new(config.log.access));
        let proxy = Proxy::new(&config, Arc::new(metrics), access, connect);
        let server = Server::start(&config.server, listeners, Arc::clone(&proxy));
        let server = Arc::new(server.map_err(StartError::Worker)?);
        let state = Arc::new(State {
            proxy,
            server,
            config,
            effective,
            started: Instant::now(),
            draining: AtomicBool::new(false),
        });
        let admin = Admin::start(admin, Arc::clone(&state)).map_err(StartError::Worker)?;
        let ticker = tokio::spawn(tick(Arc::clone(&state)));
        Ok(Sidecar { state, admin, ticker })
    }

    /// The addresses for clients, with the ports that the system chose.
    #[must_use]
    pub fn addresses(&self) -> &[SocketAddr] {
        self.state.server.addresses()
    }

    /// The address of the admin listener.
    #[must_use]
    pub fn admin_address(&self) -> SocketAddr {
        self.admin.address()
    }

    /// What the admin endpoints show.
    #[must_use]
    pub fn state(&self) -> &Arc<State> {
        &self.state
    }

    /// `/ready` fails from now on; everything else goes on.
    pub fn announce_drain(&self) {
        self.state.draining.store(true, Ordering::Relaxed);
    }

    /// Announces the end, goes on accepting for `drain_delay`, then finishes what is queued and in
    /// flight within `shutdown_grace`. What is left after it is turned away (queued) or cut off (in
    /// flight).
    ///
    /// # Cancel safety
    ///
    /// Dropping the future leaves the drain where it is.
    pub async fn drain(&self) -> Drained {
        let settings = &self.state.config.server;
        self.announce_drain();
        sleep(settings.drain_delay).await;
        let server = &self.state.server;
        server.drain();
        if timeout(settings.shutdown_grace, self.finished()).await.is_ok() {
            return Drained::Whole;
        }
        self.state.proxy.drain();
        if timeout(LAST_WORDS, self.finished()).await.is_ok() {
            return Drained::Whole;
        }
        // A request that is finished without its client has no connection of its own any more.
        let left = server.connections().max(self.state.proxy.in_flight() as usize);
        server.cut();
        let _ = timeout(LAST_WORDS, server.drained()).await;
        Drained::CutOff(left)
    }
}

impl Sidecar {
    /// No client is left, and the applications work on nothing for one that left.
    async fn finished(&self) {
        self.state.server.drained().await;
        while self.state.proxy.in_flight() > 0 {
            sleep(Duration::from_millis(10)).await;
        }
    }
}

impl Drop for Sidecar {
    fn drop(&mut self) {
        self.ticker.abort();
        self.state.proxy.access().flush();
        self.state.server.drain();
        self.state.server.cut();
    }
}

/// Writes the summaries of what the access log held back.
async fn tick(state: Arc<State>) {
    loop {
        sleep(Duration::from_secs(1)).await;
        state.proxy.access().tick(Instant::now());
    }
}

/// Raises the limit on file descriptors as far as it goes, and says how far; `None`: there is none.
pub(crate) fn raise_descriptors() -> Option<u64> {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    match setrlimit(Resource::Nofile, raised) {
        Ok(()) => limit.maximum,
        Err(_) => limit.current,
    }
}

/// Lowers the bounds on connections to what the limit on file descriptors allows: a proxy that runs
/// out of them can serve nobody.
pub fn fit_descriptors(config: &mut Config) {
    let Some(limit) = raise_descriptors() else { return };
    let upstreams: u64 = config.upstreams.iter().map(|up| u64::from(up.max_connections)).sum();
    let wanted = OWN_DESCRIPTORS + upstreams + u64::from(config.server.max_connections);
    if wanted <= limit {
        return;
    }
    // Upstream connections first: they are what clients come for. But never all of it.
    let available = limit.saturating_sub(OWN_DESCRIPTORS.min(limit / 2)).max(2);
    let for_upstreams = upstreams.min(available / 2).max(1);
    for upstream in &mut config.upstreams {
        let share = u64::from(upstream.max_connections) * for_upstreams / upstreams.max(1);
        upstream.max_connections = u32::try_from(share.max(1)).unwrap_or(u32::MAX);
        // A request that was let in and then waited for a connection would wait in a second, hidden
        // queue.
        upstream.max_in_flight = upstream.max_in_flight.at_most(upstream.max_connections);
    }
    let clients = (available - for_upstreams).max(1);
    let clients = u32::try_from(clients).unwrap_or(u32::MAX);
    config.server.max_connections = config.server.max_connections.min(clients);
    tracing::warn!(
        descriptors = limit,
        wanted,
        max_connections = config.server.max_connections,
        "the limit on file descriptors (ulimit -n) is too low for the configuration; \
         connections are bounded further"
    );
}
