//! A whole tidegate in one value: started from a configuration, ended by a drain.
//!
//! `run`, `demo` and the tests start the same thing here.

mod connectors;
mod descriptors;
mod memory;
mod steward;

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use crate::admin::{Admin, Order, Running, State};
use crate::config::{Config, Listen, Upstream};
use crate::gate::{AutoDecision, RejectReason};
use crate::proxy::Proxy;
use crate::server::{self, Listener, Server, Tls, bind};
use crate::telemetry::access::AccessLogger;
use crate::telemetry::metrics::{Labels, Metrics};
use crate::upstream::{Connect, TlsError, UpstreamError};
use connectors::Connectors;
use steward::Steward;

pub use connectors::connector;
pub use descriptors::fit_descriptors;
pub(crate) use descriptors::raise_descriptors;
pub use memory::fit_memory;
pub use steward::Source;

/// Orders that wait to be carried out.
const MAX_ORDERS: usize = 16;
/// How long requests that are turned away at the end of the grace have to be told.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// A running tidegate.
#[derive(Debug)]
pub struct Sidecar {
    state: Arc<State>,
    admin: Admin,
    /// What goes on beside the requests, for ever.
    tasks: Vec<JoinHandle<()>>,
}

/// Why tidegate could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// An address cannot be listened on.
    #[error("cannot listen on {address} ({key})")]
    Listen {
        /// The address.
        address: Listen,
        /// The key that names it.
        key: &'static str,
        /// Why not.
        source: io::Error,
    },
    /// TLS with clients cannot be spoken.
    #[error("TLS with clients cannot be set up")]
    Tls(#[from] server::TlsError),
    /// TLS with an application cannot be spoken.
    #[error("TLS with the upstream {name} cannot be set up")]
    UpstreamTls {
        /// Its name.
        name: String,
        /// Why not.
        source: TlsError,
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
    /// `source`: where a changed configuration comes from.
    ///
    /// # Errors
    ///
    /// An address is in use, the system gives no thread, or a file for TLS cannot be used.
    pub fn start(
        config: Config,
        effective: String,
        source: Option<Arc<dyn Source>>,
    ) -> Result<Sidecar, StartError> {
        let connectors = Connectors::new(&config)?;
        Sidecar::start_with(config, effective, source, &|upstream| connectors.take(upstream))
    }

    /// As [`Sidecar::start`], with connectors of one's own.
    ///
    /// # Errors
    ///
    /// As [`Sidecar::start`].
    pub fn start_with(
        config: Config,
        effective: String,
        source: Option<Arc<dyn Source>>,
        connect: &dyn Fn(&Upstream) -> Box<dyn Connect>,
    ) -> Result<Sidecar, StartError> {
        let tls = config.server.tls.as_ref().map(Tls::new).transpose()?.map(Arc::new);
        let listeners = bind_all(config.server.listen.iter())?;
        let admin = config.admin.listen;
        let admin = bind(admin).map_err(|source| StartError::Listen {
            address: Listen::Tcp(admin),
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
        let server = Server::start(&config.server, tls.clone(), listeners, proxy);
        let (orders, taken) = mpsc::channel(MAX_ORDERS);
        let state = Arc::new(State {
            server: Arc::new(server.map_err(StartError::Worker)?),
            running: ArcSwap::from_pointee(Running { config, effective, tls }),
            reload: Mutex::default(),
            orders,
            started: Instant::now(),
            draining: AtomicBool::new(false),
        });
        let admin = Admin::start(admin, Arc::clone(&state)).map_err(StartError::Worker)?;
        let steward = Steward::new(Arc::clone(&state), source);
        let tasks =
            vec![tokio::spawn(tick(Arc::clone(&state))), tokio::spawn(steward.serve(taken))];
        Ok(Sidecar { state, admin, tasks })
    }

    /// The IP addresses for clients, with the ports that the system chose.
    #[must_use]
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.state.server.addresses()
    }

    /// Loads the configuration again: what changed, or why nothing did.
    ///
    /// # Errors
    ///
    /// The diagnostics of the new configuration; the old one stays in force.
    pub async fn reload(&self) -> Result<Vec<String>, String> {
        let (told, outcome) = oneshot::channel();
        // The steward lives as long as this does.
        let _ = self.state.orders.send(Order::Reload(told)).await;
        outcome.await.unwrap_or_else(|_| Err("shutting down".to_owned()))
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
        drain(&self.state).await
    }
}

/// Drains; a second one goes on with the first.
async fn drain(state: &State) -> Drained {
    let running = state.running.load_full();
    let settings = &running.config.server;
    let server = &state.server;
    if !state.draining.swap(true, Ordering::Relaxed) {
        sleep(settings.drain_delay).await;
    }
    server.drain();
    if timeout(settings.shutdown_grace, finished(state)).await.is_ok() {
        return Drained::Whole;
    }
    state.proxy().drain();
    if timeout(LAST_WORDS, finished(state)).await.is_ok() {
        return Drained::Whole;
    }
    // A request that is finished without its client has no connection of its own any more.
    let left = server.connections().max(state.proxy().in_flight() as usize);
    server.cut();
    let _ = timeout(LAST_WORDS, server.drained()).await;
    Drained::CutOff(left)
}

/// No client is left, and the applications work on nothing for one that left.
async fn finished(state: &State) {
    state.server.drained().await;
    while state.proxy().in_flight() > 0 {
        sleep(Duration::from_millis(10)).await;
    }
}

/// Opens listeners, all or none.
fn bind_all<'l>(addresses: impl Iterator<Item = &'l Listen>) -> Result<Vec<Listener>, StartError> {
    let bound = addresses.map(|address| {
        let (address, key) = (address.clone(), "server.listen");
        Listener::bind(&address).map_err(|source| StartError::Listen { address, key, source })
    });
    bound.collect()
}

impl Drop for Sidecar {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
        self.state.proxy().access().flush();
        self.state.server.drain();
        self.state.server.cut();
    }
}

/// Writes the summaries of what the access log held back.
async fn tick(state: Arc<State>) {
    loop {
        sleep(Duration::from_secs(1)).await;
        state.proxy().access().tick(Instant::now());
    }
}
