//! The metric families of the Prometheus page and the handles that the request path updates.
//!
//! Names, types and labels are an interface: the golden test `telemetry_metrics` holds them. Label
//! values come from the configuration and from closed sets, never from a request. Every known
//! series exists from the start, at zero, because `rate()` cannot see a series that appears with
//! its first event.
//!
//! Two kinds of families meet on the page. Events (requests, waits, errors) are counted here,
//! through handles resolved once at start: no lookup, lock or allocation on the path of a request.
//! State (depths, limits, the gate's own counters) is owned by other layers and read at the scrape
//! as a [`Reading`].

mod distribution;
mod family;
mod reading;
mod route;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use prometheus::core::Collector;
use prometheus::proto::MetricFamily;
use prometheus::{
    Counter, CounterVec, Encoder, Histogram, HistogramOpts, HistogramVec, IntCounter, Opts,
    Registry, TextEncoder,
};

use crate::config::{Config, Route};
use crate::telemetry::process;

pub use distribution::Distribution;
pub(crate) use family::Family;
pub use reading::{LimitReading, Reading, RouteReading, UpstreamReading};
use route::RouteFamilies;
pub use route::{AbortStage, RouteEvents, RouteMetrics};

/// The `Content-Type` of the page; Prometheus 3 refuses a scrape without it.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Seconds. A worker that lags by more than a few milliseconds is short of CPU.
const LAG_BUCKETS: [f64; 12] =
    [0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1.0];

/// All metrics of a process. Built once from the configuration, then shared.
pub struct Metrics {
    registry: Registry,
    families: RouteFamilies,
    workers: Vec<WorkerMetrics>,
    server: ServerMetrics,
    labels: Labels,
    reloads: Reloads,
}

/// What has become of changed configurations.
#[derive(Debug)]
struct Reloads {
    succeeded: AtomicU64,
    failed: AtomicU64,
    last_failed: AtomicBool,
    /// When the running configuration was loaded, in milliseconds since 1970.
    loaded: AtomicU64,
}

/// Closed sets of label values that other layers own.
#[derive(Clone, Copy, Debug, Default)]
pub struct Labels {
    /// Of `reason` in `tidegate_rejected_total` and its like.
    pub reasons: &'static [&'static str],
    /// Of `error` in `tidegate_upstream_errors_total` (RFC 9209, section 2.3).
    pub errors: &'static [&'static str],
    /// Of `decision` in `tidegate_upstream_limit_decisions_total`.
    pub decisions: &'static [&'static str],
}

/// The counters of the client-side listeners.
pub struct ServerMetrics {
    accepted: IntCounter,
    refused: IntCounter,
}

/// The load of one worker thread.
pub struct WorkerMetrics {
    busy: Counter,
    lag: Histogram,
}

// === impl Metrics ===

impl Metrics {
    /// Creates the families, and the series of the workers.
    pub fn new(config: &Config, labels: Labels) -> Metrics {
        let registry = Registry::new();
        Metrics {
            families: RouteFamilies::new(&registry),
            workers: WorkerMetrics::all(&registry, config.server.workers),
            server: ServerMetrics::new(&registry),
            labels,
            reloads: Reloads {
                succeeded: AtomicU64::new(0),
                failed: AtomicU64::new(0),
                last_failed: AtomicBool::new(false),
                loaded: AtomicU64::new(now()),
            },
            registry,
        }
    }

    /// The handles of a route; every series that is known beforehand is created. A route that comes
    /// again under its name goes on counting.
    pub fn route(&self, route: &Route) -> RouteMetrics {
        self.families.route(&route.name, route.reject.status, self.labels.errors)
    }

    /// A changed configuration has taken effect, or has not.
    pub fn reloaded(&self, success: bool) {
        let count = if success { &self.reloads.succeeded } else { &self.reloads.failed };
        count.fetch_add(1, Ordering::Relaxed);
        self.reloads.last_failed.store(!success, Ordering::Relaxed);
        if success {
            self.reloads.loaded.store(now(), Ordering::Relaxed);
        }
    }

    /// When the running configuration was loaded, since 1970-01-01 UTC.
    pub fn loaded(&self) -> Duration {
        Duration::from_millis(self.reloads.loaded.load(Ordering::Relaxed))
    }

    /// The handles of a worker, counted from 0.
    ///
    /// # Panics
    /// If `worker` is not below [`workers`](crate::config::Server::workers).
    pub fn worker(&self, worker: usize) -> &WorkerMetrics {
        &self.workers[worker]
    }

    /// The handles of the listeners.
    pub fn server(&self) -> &ServerMetrics {
        &self.server
    }

    /// The whole page in the text exposition format, families sorted by name.
    ///
    /// `reading` is taken by the caller just before, so that its figures belong together. On Linux
    /// this reads a few small files under `/proc`.
    pub fn encode(&self, reading: &Reading) -> Vec<u8> {
        let mut families = self.registry.gather();
        reading::append(&mut families, reading, &self.labels);
        self.append_own(&mut families);
        process::append(&mut families);
        // The encoder refuses a family without samples.
        families.retain(|family| !family.get_metric().is_empty());
        families.sort_by(|a, b| a.name().cmp(b.name()));
        let mut page = Vec::with_capacity(16 << 10);
        TextEncoder::new()
            .encode(&families, &mut page)
            .expect("families are named and not empty, and writing to a Vec cannot fail");
        page
    }

    /// What tidegate says about itself: its version, its configuration, its log.
    fn append_own(&self, families: &mut Vec<MetricFamily>) {
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed) as f64;
        let version = env!("CARGO_PKG_VERSION");
        families.push(
            Family::gauge("tidegate_build_info", "Always 1; the label is tidegate's version.")
                .sample(&[("version", version)], 1.0)
                .build(),
        );
        families.push(
            Family::counter(
                "tidegate_config_reloads_total",
                "Attempts to load a changed configuration.",
            )
            .sample(&[("result", "success")], count(&self.reloads.succeeded))
            .sample(&[("result", "failure")], count(&self.reloads.failed))
            .build(),
        );
        families.push(
            Family::gauge(
                "tidegate_config_last_reload_successful",
                "Whether the last attempt to load the configuration succeeded (1) or failed (0); \
                 the load at start counts.",
            )
            .sample(&[], f64::from(!self.reloads.last_failed.load(Ordering::Relaxed)))
            .build(),
        );
        families.push(
            Family::gauge(
                "tidegate_config_last_reload_success_timestamp_seconds",
                "When the running configuration was loaded, in seconds since 1970-01-01 UTC.",
            )
            .sample(&[], count(&self.reloads.loaded) / 1_000.0)
            .build(),
        );
    }
}

/// Milliseconds since 1970-01-01 UTC.
fn now() -> u64 {
    let passed = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(passed.as_millis()).unwrap_or(u64::MAX)
}

/// A registered collector. Names are constants and differ, so registration cannot fail.
fn register<C: Collector + Clone + 'static>(
    registry: &Registry,
    created: prometheus::Result<C>,
) -> C {
    let collector = created.expect("names, labels and buckets are valid constants");
    registry.register(Box::new(collector.clone())).expect("each family is registered once");
    collector
}

// === impl ServerMetrics ===

impl ServerMetrics {
    fn new(registry: &Registry) -> ServerMetrics {
        let counter = |name, help| register(registry, IntCounter::new(name, help));
        ServerMetrics {
            accepted: counter("tidegate_connections_total", "Client connections accepted."),
            refused: counter(
                "tidegate_connections_refused_total",
                "Client connections turned away because max_connections were open.",
            ),
        }
    }

    /// A client's connection was accepted and is served.
    pub fn connection_accepted(&self) {
        self.accepted.inc();
    }

    /// A client's connection was turned away at the bound.
    pub fn connection_refused(&self) {
        self.refused.inc();
    }
}

// === impl WorkerMetrics ===

impl WorkerMetrics {
    fn all(registry: &Registry, workers: usize) -> Vec<WorkerMetrics> {
        let busy = register(
            registry,
            CounterVec::new(
                Opts::new(
                    "tidegate_worker_busy_seconds_total",
                    "Time a worker spent working rather than waiting for events, in seconds. \
                     A rate near 1 means that the worker is the bottleneck.",
                ),
                &["worker"],
            ),
        );
        let lag = register(
            registry,
            HistogramVec::new(
                HistogramOpts::new(
                    "tidegate_worker_lag_seconds",
                    "How late a worker's timer fired, in seconds. High values mean that tidegate, \
                     not the application, is short of CPU.",
                )
                .buckets(LAG_BUCKETS.to_vec()),
                &["worker"],
            ),
        );
        let worker = |index: usize| {
            let label = index.to_string();
            WorkerMetrics {
                busy: busy.with_label_values(&[&label]),
                lag: lag.with_label_values(&[&label]),
            }
        };
        (0..workers).map(worker).collect()
    }

    /// The worker was at work for this much longer.
    pub fn busy(&self, duration: Duration) {
        self.busy.inc_by(duration.as_secs_f64());
    }

    /// A timer fired this late.
    pub fn lag(&self, duration: Duration) {
        self.lag.observe(duration.as_secs_f64());
    }
}
