//! What the limit on file descriptors allows.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::admin::DESCRIPTORS;
use crate::config::Config;
use crate::server::EXTRA_DESCRIPTORS;

/// File descriptors for everything but clients and upstreams: listeners, runtimes, logs; admin
/// connections and pages; clients that are being refused.
const OWN_DESCRIPTORS: u64 = 32 + (DESCRIPTORS + EXTRA_DESCRIPTORS) as u64;

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
