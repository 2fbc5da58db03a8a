//! What a scrape reads from the layers that own it, and the families made of it.
//!
//! Nothing here is kept: a [`Reading`] is filled under the owners' locks, put on the page and
//! dropped. Both sides of the balance `arrivals = admitted + rejected + abandoned + queued` come
//! from one reading.

use std::time::Duration;

use prometheus::proto::MetricFamily;

use super::{Family, Labels};
use crate::telemetry::logging;

/// One consistent look at the state behind the page.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Reading {
    /// The routes of the configuration in its order, then those of earlier ones: what was counted
    /// stays on the page.
    pub routes: Vec<RouteReading>,
    /// The upstreams of the configuration in its order, then those of earlier ones.
    pub upstreams: Vec<UpstreamReading>,
    /// Client connections open now.
    pub connections: u64,
    /// What `/ready` answers.
    pub ready: bool,
    /// A shutdown or drain is under way.
    pub draining: bool,
    /// The certificates that clients are shown: the file of each, and when it ends, since
    /// 1970-01-01 UTC. Empty without TLS.
    pub certificates: Vec<(String, Duration)>,
}

/// The gate's view of one route.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RouteReading {
    /// Its name, the label `route`.
    pub name: String,
    /// Requests that asked for a slot.
    pub arrivals: u64,
    /// Requests that got one.
    pub admitted: u64,
    /// Requests whose client left the queue.
    pub abandoned: u64,
    /// Requests refused, parallel to [`Labels::reasons`](super::Labels::reasons).
    pub rejected: Vec<u64>,
    /// Requests let through that would have been refused, in the same order.
    pub shadow_rejected: Vec<u64>,
    /// Requests waiting now.
    pub queue_depth: u64,
    /// Places in the queue (`max_queue`).
    pub queue_capacity: u64,
    /// The longest wait for a slot (`max_wait`).
    pub queue_wait_limit: Duration,
    /// Requests admitted whose body has not ended.
    pub in_flight: u64,
    /// The most that `in_flight` may reach now.
    pub in_flight_limit: u64,
    /// The integral of `queue_depth` over time, in request-seconds.
    pub queue_depth_seconds: f64,
    /// The integral of `in_flight` over time, in request-seconds.
    pub in_flight_seconds: f64,
    /// Median service time of late; `None` while too little is known.
    pub service_p50: Option<Duration>,
    /// 90th percentile of the service time of late; `None` while too little is known.
    pub service_p90: Option<Duration>,
}

/// The state of one upstream.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct UpstreamReading {
    /// Its name, the label `upstream`.
    pub name: String,
    /// Requests in flight over all routes of the budget.
    pub in_flight: u64,
    /// The budget's limit now.
    pub in_flight_limit: u64,
    /// Whether the application accepts connections, as far as is known.
    pub up: bool,
    /// Connections open to it now, idle ones included.
    pub connections: u64,
    /// Responses that stay open and hold a slot of its limit.
    pub open_responses: u64,
    /// Nothing is let in at present, since the application is away.
    pub paused: bool,
    /// For how long more requests wait for it; then they are turned away.
    pub hold_left: Duration,
    /// Requests refused by class, from class 0 upwards.
    pub rejected_class: Vec<u64>,
    /// What stands behind the limit.
    pub limit: LimitReading,
}

/// Why the limit of a budget is what it is. All zero where it is a fixed number.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LimitReading {
    /// The limit finds itself.
    pub auto: bool,
    /// The latest decision, as an index into [`Labels::decisions`](super::Labels::decisions).
    pub decision: usize,
    /// How often each was taken, in the same order.
    pub decisions: Vec<u64>,
    /// What the application completed a second when it was last measured under load.
    pub throughput: f64,
    /// Mean service time when it was last measured under load, in seconds.
    pub latency: f64,
    /// Mean service time of the same requests without congestion, in seconds.
    pub baseline: f64,
    /// The part of a rise of the limit that throughput followed.
    pub elasticity: f64,
}

/// One family with a sample for each route.
type RouteFamily = (Family, fn(&RouteReading) -> f64);
/// One family with a sample for each upstream.
type UpstreamFamily = (Family, fn(&UpstreamReading) -> f64);

/// Appends every family that is filled from `reading`.
pub(super) fn append(families: &mut Vec<MetricFamily>, reading: &Reading, labels: &Labels) {
    for (mut family, value) in route_counters().into_iter().chain(route_gauges()) {
        for route in &reading.routes {
            family.push(&[("route", &route.name)], value(route));
        }
        families.push(family.build());
    }
    for (mut family, value) in upstream_gauges().into_iter().chain(limit_gauges()) {
        for upstream in &reading.upstreams {
            family.push(&[("upstream", &upstream.name)], value(upstream));
        }
        families.push(family.build());
    }
    families.push(rejected(reading, labels));
    families.push(shadow_rejected(reading, labels));
    families.push(rejected_class(reading));
    families.push(limit_decisions(reading, labels));
    families.extend(process_wide(reading));
    families.push(certificates(reading));
}

fn route_counters() -> [RouteFamily; 5] {
    [
        (
            Family::counter(
                "tidegate_arrivals_total",
                "Requests that asked for a slot. Equals admitted + rejected + abandoned + those \
                 queued now.",
            ),
            |route| route.arrivals as f64,
        ),
        (Family::counter("tidegate_admitted_total", "Requests that were given a slot."), |route| {
            route.admitted as f64
        }),
        (
            Family::counter(
                "tidegate_abandoned_total",
                "Requests whose client left while they waited for a slot.",
            ),
            |route| route.abandoned as f64,
        ),
        (
            Family::counter(
                "tidegate_queue_depth_seconds_total",
                "Integral of the queue depth over time, in request-seconds: its rate is the exact \
                 mean depth.",
            ),
            |route| route.queue_depth_seconds,
        ),
        (
            Family::counter(
                "tidegate_in_flight_seconds_total",
                "Integral of the requests in flight over time, in request-seconds: its rate is the \
                 exact mean concurrency.",
            ),
            |route| route.in_flight_seconds,
        ),
    ]
}

fn route_gauges() -> [RouteFamily; 5] {
    [
        (
            Family::gauge(
                "tidegate_queue_depth",
                "Requests waiting for a slot now; those in flight are not among them.",
            ),
            |route| route.queue_depth as f64,
        ),
        (Family::gauge("tidegate_queue_capacity", "Places in the queue (max_queue)."), |route| {
            route.queue_capacity as f64
        }),
        (
            Family::gauge(
                "tidegate_queue_wait_limit_seconds",
                "The longest that a request may wait for a slot (max_wait), in seconds.",
            ),
            |route| route.queue_wait_limit.as_secs_f64(),
        ),
        (
            Family::gauge(
                "tidegate_in_flight",
                "Requests admitted whose response has not ended yet.",
            ),
            |route| route.in_flight as f64,
        ),
        (
            Family::gauge(
                "tidegate_in_flight_limit",
                "The most requests this route may have in flight now: its own cap, else the \
                 upstream's limit.",
            ),
            |route| route.in_flight_limit as f64,
        ),
    ]
}

fn upstream_gauges() -> [UpstreamFamily; 6] {
    [
        (
            Family::gauge(
                "tidegate_upstream_in_flight",
                "Requests in flight at the application, over all routes that share its limit.",
            ),
            |upstream| upstream.in_flight as f64,
        ),
        (
            Family::gauge(
                "tidegate_upstream_in_flight_limit",
                "The most requests the application is given at once now: max_in_flight, or what \
                 \"auto\" has found.",
            ),
            |upstream| upstream.in_flight_limit as f64,
        ),
        (
            Family::gauge(
                "tidegate_upstream_up",
                "Whether the application accepts connections (1) or refused the last one (0).",
            ),
            |upstream| flag(upstream.up),
        ),
        (
            Family::gauge(
                "tidegate_upstream_paused",
                "Whether nothing is let in because the application is away (1): requests wait for \
                 it for `hold`, and are turned away then.",
            ),
            |upstream| flag(upstream.paused),
        ),
        (
            Family::gauge(
                "tidegate_upstream_connections",
                "Connections open to the application now, idle ones included.",
            ),
            |upstream| upstream.connections as f64,
        ),
        (
            Family::gauge(
                "tidegate_upstream_open_responses",
                "Requests in flight whose response stays open (WebSocket and other upgrades, \
                 text/event-stream that answers a GET) on routes that share the limit. With \"auto\" they come on top \
                 of what it has found.",
            ),
            |upstream| upstream.open_responses as f64,
        ),
    ]
}

fn limit_gauges() -> [UpstreamFamily; 4] {
    [
        (
            Family::gauge(
                "tidegate_upstream_limit_throughput",
                "What the application completed a second when \"auto\" last measured it under load; \
                 0: never yet, or the limit is a number.",
            ),
            |upstream| upstream.limit.throughput,
        ),
        (
            Family::gauge(
                "tidegate_upstream_limit_latency_seconds",
                "Mean time to the head of a response when \"auto\" last measured it under load.",
            ),
            |upstream| upstream.limit.latency,
        ),
        (
            Family::gauge(
                "tidegate_upstream_limit_baseline_seconds",
                "Mean time to the head of a response of the same requests without congestion, as \
                 \"auto\" knows it.",
            ),
            |upstream| upstream.limit.baseline,
        ),
        (
            Family::gauge(
                "tidegate_upstream_limit_elasticity",
                "The part of a rise of the limit that throughput followed, 0 (nothing) to 1 (all), \
                 as \"auto\" last measured it.",
            ),
            |upstream| upstream.limit.elasticity,
        ),
    ]
}

fn rejected(reading: &Reading, labels: &Labels) -> MetricFamily {
    let family = Family::counter(
        "tidegate_rejected_total",
        "Requests that tidegate turned away without troubling the application, by reason.",
    );
    by_reason(family, reading, labels, |route| &route.rejected)
}

fn shadow_rejected(reading: &Reading, labels: &Labels) -> MetricFamily {
    let family = Family::counter(
        "tidegate_shadow_rejected_total",
        "Requests let through that would have been turned away, were it not for enforce = false, by \
         reason.",
    );
    by_reason(family, reading, labels, |route| &route.shadow_rejected)
}

fn by_reason(
    mut family: Family,
    reading: &Reading,
    labels: &Labels,
    counts: fn(&RouteReading) -> &Vec<u64>,
) -> MetricFamily {
    for route in &reading.routes {
        let counts = counts(route);
        debug_assert_eq!(counts.len(), labels.reasons.len(), "one count a reason");
        for (reason, count) in labels.reasons.iter().zip(counts) {
            family.push(&[("reason", reason), ("route", &route.name)], *count as f64);
        }
    }
    family.build()
}

fn rejected_class(reading: &Reading) -> MetricFamily {
    let mut family = Family::counter(
        "tidegate_rejected_class_total",
        "Requests that tidegate turned away, over all routes, by class (7 is the most important).",
    );
    let classes = reading.upstreams.iter().map(|upstream| upstream.rejected_class.len()).max();
    for class in 0..classes.unwrap_or(0) {
        let counts = reading.upstreams.iter().map(|upstream| upstream.rejected_class.get(class));
        let sum: u64 = counts.flatten().sum();
        family.push(&[("class", &class.to_string())], sum as f64);
    }
    family.build()
}

fn limit_decisions(reading: &Reading, labels: &Labels) -> MetricFamily {
    let mut family = Family::counter(
        "tidegate_upstream_limit_decisions_total",
        "Steps that \"auto\" took: hold, grow (more in flight brought more throughput), shrink (fewer \
         bring the same), back_off (the application failed or was too slow).",
    );
    for upstream in &reading.upstreams {
        for (decision, count) in labels.decisions.iter().zip(&upstream.limit.decisions) {
            family.push(&[("decision", decision), ("upstream", &upstream.name)], *count as f64);
        }
    }
    family.build()
}

fn process_wide(reading: &Reading) -> [MetricFamily; 4] {
    let one = |family: Family, value: f64| family.sample(&[], value).build();
    [
        one(
            Family::gauge("tidegate_connections", "Client connections open now."),
            reading.connections as f64,
        ),
        one(
            Family::gauge(
                "tidegate_ready",
                "What /ready answers: 1 while tidegate listens and does not drain. \
                 A full queue is not unready.",
            ),
            flag(reading.ready),
        ),
        one(
            Family::gauge("tidegate_draining", "1 while tidegate finishes its work to exit."),
            flag(reading.draining),
        ),
        one(
            Family::counter(
                "tidegate_log_lines_lost_total",
                "Log lines not written because standard error was blocked or failed.",
            ),
            logging::lost_lines() as f64,
        ),
    ]
}

/// Without TLS there is no sample, and no family on the page.
fn certificates(reading: &Reading) -> MetricFamily {
    let mut family = Family::gauge(
        "tidegate_certificate_expiry_timestamp_seconds",
        "When a certificate that clients are shown ends, in seconds since 1970-01-01 UTC. The \
         label is its file.",
    );
    for (path, end) in &reading.certificates {
        family.push(&[("certificate", path)], end.as_secs_f64());
    }
    family.build()
}

fn flag(value: bool) -> f64 {
    if value { 1.0 } else { 0.0 }
}
