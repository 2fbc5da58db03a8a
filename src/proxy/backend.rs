//! One application: its gate, and the way to it. Both outlive a change of the configuration; what
//! waits in the gate keeps its place.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use arc_swap::ArcSwap;
use http::HeaderValue;

use super::outage::Outage;
use super::plan::{limits, upstream_reading};
use crate::admission::{Admission, Permit};
use crate::config::{Endpoint, Scheme, Upstream};
use crate::gate::{LaneLimits, Limits, Snapshot};
use crate::telemetry::metrics::UpstreamReading;
use crate::upstream::{Connect, Pool, PoolLimits, UpstreamError};

/// One application.
#[derive(Debug)]
pub(super) struct Backend {
    name: String,
    pub(super) admission: Arc<Admission>,
    /// Every lane that its gate has, those of routes that are no more included.
    lanes: Mutex<Vec<LaneLimits>>,
    way: ArcSwap<Way>,
    /// How long requests wait for an application that is away, in milliseconds.
    hold: AtomicU64,
    pub(super) outage: Outage,
    /// The configuration does not name it any more.
    retired: AtomicBool,
    /// The last attempt to reach it succeeded.
    up: AtomicBool,
}

/// How requests get to the application.
#[derive(Debug)]
pub(super) struct Way {
    /// The `Host` for a client that names none (HTTP/1.0).
    pub(super) authority: HeaderValue,
    /// What its URLs begin with.
    pub(super) scheme: &'static str,
    pub(super) pool: Arc<Pool<Permit>>,
    settings: WaySettings,
}

/// What a way was made from.
#[derive(Debug, PartialEq)]
struct WaySettings {
    endpoint: Endpoint,
    scheme: Scheme,
    dns_refresh: Duration,
    limits: PoolLimits,
}

/// A lane of a backend's gate.
#[derive(Clone, Debug)]
pub(super) struct LaneAt {
    pub(super) backend: Arc<Backend>,
    pub(super) lane: usize,
}

// === impl Backend ===

impl Backend {
    /// With an empty gate.
    pub(super) fn new(
        upstream: &Upstream,
        connect: Box<dyn Connect>,
        workers: usize,
    ) -> Arc<Backend> {
        Arc::new(Backend {
            name: upstream.name.clone(),
            admission: Admission::new(&limits(upstream, Vec::new())),
            lanes: Mutex::default(),
            way: ArcSwap::from_pointee(Way::new(upstream, connect, workers)),
            hold: AtomicU64::new(0),
            outage: Outage::none(),
            retired: AtomicBool::new(false),
            up: AtomicBool::new(true),
        })
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// The way as it is now.
    pub(super) fn way(&self) -> Arc<Way> {
        self.way.load_full()
    }

    /// Goes another way if the upstream lies elsewhere now. Connections of the old one end with
    /// their exchanges.
    pub(super) fn go(&self, upstream: &Upstream, connect: Box<dyn Connect>, workers: usize) {
        self.retired.store(false, Ordering::Relaxed);
        if self.way.load().settings != WaySettings::of(upstream) {
            self.way.store(Arc::new(Way::new(upstream, connect, workers)));
            self.up.store(true, Ordering::Relaxed);
            // Who waits for the old one tries the new one.
            self.outage.end(&self.admission);
        }
    }

    /// The configuration does not name it any more: what waits in its gate goes on.
    pub(super) fn retire(&self) {
        self.retired.store(true, Ordering::Relaxed);
    }

    /// Whether the configuration does not name it any more.
    pub(super) fn is_retired(&self) -> bool {
        self.retired.load(Ordering::Relaxed)
    }

    /// The lanes that it has, as those of nobody: what waits in them goes on, and no slot is set
    /// aside for it.
    pub(super) fn hidden_lanes(&self) -> Vec<LaneLimits> {
        let lanes = self.lanes.lock().expect("nothing panics while it holds the lock");
        lanes.iter().map(|lane| LaneLimits { reserved: 0, ..*lane }).collect()
    }

    /// Changes the gate in place.
    pub(super) fn reconfigure(&self, limits: &Limits) {
        let hold = u64::try_from(limits.hold.as_millis()).unwrap_or(u64::MAX);
        let before = self.hold.swap(hold, Ordering::Relaxed);
        if hold == 0 {
            // Before the gate hears of it: who waits is not turned away, but finds out by itself.
            self.outage.end(&self.admission);
        } else if hold != before {
            self.outage.reconsider();
        }
        self.admission.reconfigure(limits);
        let mut lanes = self.lanes.lock().expect("nothing panics while it holds the lock");
        lanes.clone_from(&limits.lanes);
    }

    /// How long requests wait for the application while it is away; zero: not at all.
    pub(super) fn hold(&self) -> Duration {
        Duration::from_millis(self.hold.load(Ordering::Relaxed))
    }

    /// Remembers whether the application could be reached.
    pub(super) fn note(&self, result: Result<(), UpstreamError>) {
        let up = match result {
            Ok(()) => true,
            Err(error) if error.is_shortage() => return,
            Err(_) => false,
        };
        if self.up.load(Ordering::Relaxed) != up {
            self.up.store(up, Ordering::Relaxed);
        }
    }

    /// For a scrape.
    pub(super) fn reading(&self, snapshot: &Snapshot) -> UpstreamReading {
        let connections = u64::from(self.way.load().pool.open());
        // One that stops answers what it has, and is away nevertheless.
        let up = self.up.load(Ordering::Relaxed) && !snapshot.paused;
        upstream_reading(self.name.clone(), snapshot, up, connections)
    }
}

// === impl Way ===

impl Way {
    fn new(upstream: &Upstream, connect: Box<dyn Connect>, workers: usize) -> Way {
        let settings = WaySettings::of(upstream);
        let authority = HeaderValue::from_str(&upstream.endpoint.authority());
        Way {
            authority: authority.expect("a checked host is a valid field value"),
            scheme: match upstream.scheme {
                Scheme::Https(_) => "https",
                Scheme::Http | Scheme::H2c => "http",
            },
            pool: Pool::new(connect, workers, settings.limits),
            settings,
        }
    }
}

impl WaySettings {
    fn of(upstream: &Upstream) -> WaySettings {
        WaySettings {
            endpoint: upstream.endpoint.clone(),
            scheme: upstream.scheme.clone(),
            dns_refresh: upstream.dns_refresh,
            limits: PoolLimits {
                max_connections: upstream.max_connections,
                connect_timeout: upstream.connect_timeout,
                idle_timeout: upstream.idle_timeout,
            },
        }
    }
}
