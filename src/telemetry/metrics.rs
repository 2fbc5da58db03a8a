//! The metric families of the Prometheus page and the handles that the request path updates.
//!
//! Names, types and labels are an interface: the golden test `telemetry_metrics` holds them. Label
//! values come from the configuration and from closed sets, never from a request. Every known series
//! exists from the start, at zero, because `rate()` cannot see a series that appears with its first event.
//!
//! Two kinds of families meet on the page. Events (requests, waits, errors) are counted here, through
//! handles resolved once at start: no lookup, lock or allocation on the path of a request. State (depths,
//! limits, the gate's own counters) is owned by other layers and read at the scrape as a [`Reading`].

mod family;
mod reading;

use std::sync::OnceLock;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use prometheus::core::Collector;
use prometheus::proto::MetricFamily;
use prometheus::{
    Counter, CounterVec, Encoder, Histogram, HistogramOpts, HistogramVec, IntCounter,
    IntCounterVec, Opts, Registry, TextEncoder,
};

use crate::config::Config;
use crate::telemetry::process;

pub(crate) use family::Family;
pub use reading::{Reading, RouteReading, UpstreamReading};

/// The `Content-Type` of the page; Prometheus 3 refuses a scrape without it.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Seconds. Half a millisecond is the shortest wait worth telling from none; `max_wait` is 1 s by default.
const QUEUE_WAIT_BUCKETS: [f64; 14] = [
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
];
/// Seconds. `response_timeout` is 30 s by default.
const UPSTREAM_BUCKETS: [f64; 15] = [
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0,
];
/// Seconds. A worker that lags by more than a few milliseconds is short of CPU.
const LAG_BUCKETS: [f64; 12] = [
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1.0,
];

/// Statuses that exist from the start for every route: success, and what tidegate itself answers with.
/// A route's own rejection status joins them.
const KNOWN_CODES: [u16; 7] = [200, 400, 404, 408, 502, 503, 504];
/// Codes with a series of their own.
const CODES: std::ops::Range<u16> = 100..600;

/// All metrics of a process. Built once from the configuration, then shared.
pub struct Metrics {
    registry: Registry,
    routes: Vec<RouteMetrics>,
    workers: Vec<WorkerMetrics>,
    server: ServerMetrics,
    names: Names,
    started: Duration,
}

/// The label values of the families that are filled from a [`Reading`].
struct Names {
    routes: Vec<String>,
    upstreams: Vec<String>,
    reasons: &'static [&'static str],
}

/// The counters and histograms of one route.
pub struct RouteMetrics {
    requests: Requests,
    queue_wait: Histogram,
    upstream_duration: Histogram,
    upstream_errors: Vec<IntCounter>,
    upstream_retries: IntCounter,
    client_aborts: [IntCounter; AbortStage::ALL.len()],
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

/// Where in the life of its request a client left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AbortStage {
    /// Waiting for a slot.
    Queued,
    /// While its request body was forwarded.
    RequestBody,
    /// Waiting for the head of the upstream's response.
    Upstream,
    /// While the response body was forwarded.
    ResponseBody,
}

// === impl AbortStage ===

impl AbortStage {
    /// Every stage, in the order of a request.
    pub const ALL: [AbortStage; 4] = [
        AbortStage::Queued,
        AbortStage::RequestBody,
        AbortStage::Upstream,
        AbortStage::ResponseBody,
    ];

    /// The value of the label `stage`.
    pub fn label(self) -> &'static str {
        match self {
            AbortStage::Queued => "queued",
            AbortStage::RequestBody => "request_body",
            AbortStage::Upstream => "upstream",
            AbortStage::ResponseBody => "response_body",
        }
    }
}

// === impl Metrics ===

impl Metrics {
    /// Creates every series that the configuration implies.
    ///
    /// `reasons` are the values of the label `reason` of `tidegate_rejected_total`, `errors` those of the
    /// label `error` of `tidegate_upstream_errors_total` (RFC 9209, section 2.3). Both are closed sets.
    pub fn new(
        config: &Config,
        reasons: &'static [&'static str],
        errors: &'static [&'static str],
    ) -> Metrics {
        let registry = Registry::new();
        let families = RouteFamilies::new(&registry);
        let routes = config
            .routes
            .iter()
            .map(|route| families.route(&route.name, route.reject.status, errors))
            .collect();
        Metrics {
            routes,
            workers: WorkerMetrics::all(&registry, config.server.workers),
            server: ServerMetrics::new(&registry),
            names: Names {
                routes: config
                    .routes
                    .iter()
                    .map(|route| route.name.clone())
                    .collect(),
                upstreams: config.upstreams.iter().map(|up| up.name.clone()).collect(),
                reasons,
            },
            started: SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .unwrap_or_default(),
            registry,
        }
    }

    /// The handles of a route; `route` is its index in [`Config::routes`].
    ///
    /// # Panics
    /// If there is no such route.
    pub fn route(&self, route: usize) -> &RouteMetrics {
        &self.routes[route]
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
    /// `reading` is taken by the caller just before, so that its figures belong together. On Linux this
    /// reads a few small files under `/proc`.
    pub fn encode(&self, reading: &Reading) -> Vec<u8> {
        let mut families = self.registry.gather();
        reading::append(&mut families, reading, &self.names);
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
        let version = env!("CARGO_PKG_VERSION");
        families.push(
            Family::gauge(
                "tidegate_build_info",
                "Always 1; the label is tidegate's version.",
            )
            .sample(&[("version", version)], 1.0)
            .build(),
        );
        families.push(
            Family::counter(
                "tidegate_config_reloads_total",
                "Attempts to load a changed configuration. Reloading is not built yet: always 0.",
            )
            .sample(&[("result", "success")], 0.0)
            .sample(&[("result", "failure")], 0.0)
            .build(),
        );
        families.push(
            Family::gauge(
                "tidegate_config_last_reload_successful",
                "Whether the last attempt to load the configuration succeeded (1) or failed (0); \
                 the load at start counts.",
            )
            .sample(&[], 1.0)
            .build(),
        );
        families.push(
            Family::gauge(
                "tidegate_config_last_reload_success_timestamp_seconds",
                "When the running configuration was loaded, in seconds since 1970-01-01 UTC.",
            )
            .sample(&[], self.started.as_secs_f64())
            .build(),
        );
    }
}

/// A registered collector. Names are constants and differ, so registration cannot fail.
fn register<C: Collector + Clone + 'static>(
    registry: &Registry,
    created: prometheus::Result<C>,
) -> C {
    let collector = created.expect("names, labels and buckets are valid constants");
    registry
        .register(Box::new(collector.clone()))
        .expect("each family is registered once");
    collector
}

// === impl RouteMetrics ===

/// The families with the label `route`, from which the handles of one route are cut.
struct RouteFamilies {
    requests: IntCounterVec,
    queue_wait: HistogramVec,
    upstream_duration: HistogramVec,
    upstream_errors: IntCounterVec,
    upstream_retries: IntCounterVec,
    client_aborts: IntCounterVec,
}

impl RouteFamilies {
    fn new(registry: &Registry) -> RouteFamilies {
        let counter = |name: &str, help: &str, labels: &[&str]| {
            register(registry, IntCounterVec::new(Opts::new(name, help), labels))
        };
        let histogram = |name: &str, help: &str, buckets: &[f64]| {
            let opts = HistogramOpts::new(name, help).buckets(buckets.to_vec());
            register(registry, HistogramVec::new(opts, &["route"]))
        };
        RouteFamilies {
            requests: counter(
                "tidegate_requests_total",
                "Responses begun, by status code: the application's and tidegate's own. \
                 The code \"other\" stands for statuses above 599.",
                &["route", "code"],
            ),
            queue_wait: histogram(
                "tidegate_queue_wait_seconds",
                "Time from a request's arrival to its slot, or to its rejection if it had to wait, \
                 in seconds.",
                &QUEUE_WAIT_BUCKETS,
            ),
            upstream_duration: histogram(
                "tidegate_upstream_duration_seconds",
                "Time from the grant of a slot to the head of the application's response, in seconds. \
                 Only forwarded requests: rejections do not flatter it.",
                &UPSTREAM_BUCKETS,
            ),
            upstream_errors: counter(
                "tidegate_upstream_errors_total",
                "Requests that the application failed to answer, by RFC 9209 error type. \
                 Its own 5xx responses are not among them.",
                &["route", "error"],
            ),
            upstream_retries: counter(
                "tidegate_upstream_retries_total",
                "Requests sent again because the reused connection turned out to be closed.",
                &["route"],
            ),
            client_aborts: counter(
                "tidegate_client_aborts_total",
                "Requests whose client left before the end of the response, by what was going on.",
                &["route", "stage"],
            ),
        }
    }

    fn route(&self, name: &str, reject_status: u16, errors: &'static [&str]) -> RouteMetrics {
        RouteMetrics {
            requests: Requests::new(&self.requests, name, reject_status),
            queue_wait: self.queue_wait.with_label_values(&[name]),
            upstream_duration: self.upstream_duration.with_label_values(&[name]),
            upstream_errors: errors
                .iter()
                .map(|error| self.upstream_errors.with_label_values(&[name, error]))
                .collect(),
            upstream_retries: self.upstream_retries.with_label_values(&[name]),
            client_aborts: AbortStage::ALL
                .map(|stage| self.client_aborts.with_label_values(&[name, stage.label()])),
        }
    }
}

impl RouteMetrics {
    /// A response began: `code` is its final status.
    pub fn request(&self, code: u16) {
        self.requests.counter(code).inc();
    }

    /// A request waited this long, until it was admitted or until its wait ended in a rejection.
    pub fn queue_wait(&self, wait: Duration) {
        self.queue_wait.observe(wait.as_secs_f64());
    }

    /// The application took this long from the grant to the head of its response.
    pub fn upstream_duration(&self, duration: Duration) {
        self.upstream_duration.observe(duration.as_secs_f64());
    }

    /// The application failed to answer; `index` is that of the token in the `errors` given to
    /// [`Metrics::new`].
    ///
    /// # Panics
    /// If there is no such token.
    pub fn upstream_error(&self, index: usize) {
        self.upstream_errors[index].inc();
    }

    /// The request was sent again, on another connection.
    pub fn upstream_retry(&self) {
        self.upstream_retries.inc();
    }

    /// The client left.
    pub fn client_abort(&self, stage: AbortStage) {
        self.client_aborts[stage as usize].inc();
    }
}

/// `tidegate_requests_total` of one route.
struct Requests {
    family: IntCounterVec,
    route: String,
    /// The series that exist from the start; few enough to walk.
    known: Vec<(u16, IntCounter)>,
    /// One place for each of [`CODES`] and one for "other"; made when the first of them occurs, since
    /// most routes never see one and a thousand routes would pay for it.
    unusual: OnceLock<Box<[OnceLock<IntCounter>]>>,
}

impl Requests {
    fn new(family: &IntCounterVec, route: &str, reject_status: u16) -> Requests {
        let mut codes = KNOWN_CODES.to_vec();
        if !codes.contains(&reject_status) {
            codes.push(reject_status);
        }
        let series = |code: u16| (code, family.with_label_values(&[route, &code.to_string()]));
        Requests {
            known: codes.into_iter().map(series).collect(),
            unusual: OnceLock::new(),
            family: family.clone(),
            route: route.to_owned(),
        }
    }

    fn counter(&self, code: u16) -> &IntCounter {
        match self.known.iter().find(|(known, _)| *known == code) {
            Some((_, counter)) => counter,
            None => self.unusual(code),
        }
    }

    fn unusual(&self, code: u16) -> &IntCounter {
        let places = self
            .unusual
            .get_or_init(|| (0..=CODES.len()).map(|_| OnceLock::new()).collect());
        let known = CODES.contains(&code);
        let place = if known {
            usize::from(code - CODES.start)
        } else {
            CODES.len()
        };
        places[place].get_or_init(|| {
            let label = if known {
                code.to_string()
            } else {
                "other".to_owned()
            };
            self.family
                .with_label_values(&[self.route.as_str(), &label])
        })
    }
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
