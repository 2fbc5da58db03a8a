//! The events of one route: the families with the label `route` and the handles cut from them.
//!
//! Everything here lies on the path of a request and is resolved beforehand, except the series of a
//! status code that is rare, which is created when the application first answers with it.

use std::sync::OnceLock;
use std::time::Duration;

use prometheus::{
    Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, Opts, Registry,
};

use super::{Distribution, register};

/// Seconds. Half a millisecond is the shortest wait worth telling from none; `max_wait` is 1 s by
/// default.
const QUEUE_WAIT_BUCKETS: [f64; 14] =
    [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];
/// Seconds. `response_timeout` is 30 s by default.
const UPSTREAM_BUCKETS: [f64; 15] =
    [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0];

/// Statuses that exist from the start for every route: success, and what tidegate itself answers
/// with. A route's own rejection status joins them.
const KNOWN_CODES: [u16; 12] = [200, 400, 404, 405, 408, 431, 499, 501, 502, 503, 504, 505];
/// Codes with a series of their own.
const CODES: std::ops::Range<u16> = 100..600;

/// The counters and histograms of one route.
pub struct RouteMetrics {
    requests: Requests,
    queue_wait: Histogram,
    upstream_duration: Histogram,
    upstream_errors: Vec<IntCounter>,
    upstream_retries: IntCounter,
    client_aborts: [IntCounter; AbortStage::ALL.len()],
}

/// What the events of a route add up to, for those who do not scrape.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RouteEvents {
    /// Waits for a slot, those of none included; its count is that of the waits that ended.
    pub waits: Distribution,
    /// Times from the grant to the head of the response; its count is that of the answers.
    pub services: Distribution,
    /// Requests that the application failed to answer.
    pub failed: u64,
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

/// The families with the label `route`, from which the handles of one route are cut.
pub(super) struct RouteFamilies {
    requests: IntCounterVec,
    queue_wait: HistogramVec,
    upstream_duration: HistogramVec,
    upstream_errors: IntCounterVec,
    upstream_retries: IntCounterVec,
    client_aborts: IntCounterVec,
}

impl RouteFamilies {
    pub(super) fn new(registry: &Registry) -> RouteFamilies {
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
                "Requests that have ended, by the status answered by the application or by tidegate; \
                 499: the client left before there was an answer. Requests whose head could not be \
                 read count for the route default. \"other\": statuses above 599.",
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
                "Time from the grant of a slot to the head of the application's response, in \
                 seconds. Only forwarded requests: rejections do not flatter it.",
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
                "Requests whose client left before the end of the response, by what was going on. One \
                 that left the queue in the moment of its grant is admitted and not abandoned.",
                &["route", "stage"],
            ),
        }
    }

    pub(super) fn route(
        &self,
        name: &str,
        reject_status: u16,
        errors: &'static [&str],
    ) -> RouteMetrics {
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

// === impl RouteMetrics ===

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
    /// [`Metrics::new`](super::Metrics::new).
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

    /// What has come to pass until now; `before` is an earlier answer.
    pub fn events(&self, before: &RouteEvents) -> RouteEvents {
        RouteEvents {
            waits: Distribution::of(&self.queue_wait, &before.waits),
            services: Distribution::of(&self.upstream_duration, &before.services),
            failed: self.upstream_errors.iter().map(IntCounter::get).sum(),
        }
    }

    /// The client left.
    pub fn client_abort(&self, stage: AbortStage) {
        self.client_aborts[stage as usize].inc();
    }
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

// === impl Requests ===

/// `tidegate_requests_total` of one route.
struct Requests {
    family: IntCounterVec,
    route: String,
    /// The series that exist from the start; few enough to walk.
    known: Vec<(u16, IntCounter)>,
    /// One place for each of [`CODES`] and one for "other"; made when the first of them occurs,
    /// since most routes never see one and a thousand routes would pay for it.
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
        let places =
            self.unusual.get_or_init(|| (0..=CODES.len()).map(|_| OnceLock::new()).collect());
        let known = CODES.contains(&code);
        let place = if known { usize::from(code - CODES.start) } else { CODES.len() };
        places[place].get_or_init(|| {
            let label = if known { code.to_string() } else { "other".to_owned() };
            self.family.with_label_values(&[self.route.as_str(), &label])
        })
    }
}
