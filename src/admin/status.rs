//! `/status.json`: what `/metrics` says, for people and scripts that look once.

use std::collections::BTreeMap;
use std::time::SystemTime;

use serde::Serialize;

use super::State;
use super::events::Feed;
use super::facts::unix;
use super::sample::{RouteSample, Sample};
use super::verdict::Verdict;
use crate::config::{AdmissionMode, Order, Route, RouteKind, Upstream};
use crate::gate::{AutoDecision, RejectReason};
use crate::telemetry::metrics::{
    LimitReading, Reading, RouteEvents, RouteReading, UpstreamReading,
};

/// The whole answer. Field names are an interface; a golden test holds them.
#[derive(Serialize)]
struct Status<'a> {
    version: &'static str,
    /// When this was true, in seconds since 1970: for rates between two looks.
    at: f64,
    uptime_seconds: u64,
    ready: bool,
    draining: bool,
    workers: usize,
    connections: u64,
    max_connections: u32,
    /// `null` in the first second.
    verdict: Option<VerdictStatus>,
    reload: ReloadStatus,
    upstreams: Vec<UpstreamStatus<'a>>,
    routes: Vec<RouteStatus<'a>>,
}

/// What happens, in words.
#[derive(Serialize)]
struct VerdictStatus {
    level: &'static str,
    text: String,
    detail: String,
    /// Seconds since 1970 since when the level is the same.
    since: f64,
}

/// The last change of the configuration; all `null` if there was none.
#[derive(Serialize)]
struct ReloadStatus {
    /// Seconds since it was tried.
    seconds_ago: Option<u64>,
    succeeded: Option<bool>,
    error: Option<String>,
}

#[derive(Serialize)]
struct UpstreamStatus<'a> {
    name: &'a str,
    address: String,
    /// The last attempt to reach it succeeded.
    up: bool,
    in_flight: u64,
    max_in_flight: u64,
    connections: u64,
    /// Requests in flight whose response stays open; with `auto` they come on top of its limit.
    open_responses: u64,
    /// Nothing is let in at present, since the application is away.
    paused: bool,
    /// Seconds for which requests still wait for it; then they are turned away.
    hold_left: f64,
    limit: LimitStatus,
}

/// Why `max_in_flight` is what it is. Without `auto`, the mode and the value alone say something.
#[derive(Serialize)]
struct LimitStatus {
    mode: &'static str,
    value: u64,
    decision: &'static str,
    decisions: BTreeMap<&'static str, u64>,
    throughput: f64,
    latency: f64,
    baseline: f64,
    elasticity: f64,
}

/// One route. `arrivals = admitted + abandoned + rejected + queue_depth`.
#[derive(Serialize)]
pub(super) struct RouteStatus<'a> {
    name: &'a str,
    upstream: &'a str,
    kind: &'static str,
    /// `None`: nothing of the route waits.
    order: Option<&'static str>,
    class: Option<u8>,
    enforce: bool,
    in_flight: u64,
    max_in_flight: u64,
    queue_depth: u64,
    max_queue: u64,
    max_wait: f64,
    arrivals: u64,
    admitted: u64,
    abandoned: u64,
    rejected: BTreeMap<&'static str, u64>,
    /// What would have been rejected, were it enforced.
    shadow_rejected: BTreeMap<&'static str, u64>,
    /// Answered by the application, and not.
    answered: u64,
    failed: u64,
    service: ServiceStatus,
    queue_depth_seconds: f64,
    in_flight_seconds: f64,
    /// Sums of all waits for a slot and of all times to a response's head, and how many waits.
    wait_seconds: f64,
    waits: u64,
    service_seconds: f64,
    /// `null` in the first second.
    recent: Option<RecentStatus>,
}

/// The last few seconds.
#[derive(Serialize)]
struct RecentStatus {
    seconds: f64,
    arrivals: u64,
    answered: u64,
    failed: u64,
    abandoned: u64,
    rejected: u64,
    /// Means.
    in_flight: f64,
    queue_depth: f64,
    wait_mean: Option<f64>,
    wait_p99: Option<f64>,
    service_mean: Option<f64>,
}

/// Times from the grant to the head of the response of late; `null` while too little is known.
#[derive(Serialize)]
struct ServiceStatus {
    p50: Option<f64>,
    p90: Option<f64>,
}

/// One line of JSON. Times are in seconds.
pub(super) fn json(state: &State, reading: &Reading, feed: &Feed) -> String {
    let running = state.running.load();
    let config = &running.config;
    let (verdict, recent) = feed.latest();
    let upstreams = config.upstreams.iter().zip(&reading.upstreams);
    let routes = config.routes.iter().zip(&reading.routes).enumerate();
    let proxy = state.proxy();
    let status = Status {
        version: env!("CARGO_PKG_VERSION"),
        at: unix(SystemTime::now()),
        uptime_seconds: state.started.elapsed().as_secs(),
        ready: reading.ready,
        draining: reading.draining,
        workers: state.server.workers(),
        connections: reading.connections,
        max_connections: config.server.max_connections,
        verdict: verdict.map(VerdictStatus::from),
        reload: ReloadStatus::new(state),
        upstreams: upstreams.map(|(up, reading)| UpstreamStatus::new(up, reading)).collect(),
        routes: routes
            .map(|(index, (route, reading))| {
                let events = proxy.route_events(index, &RouteEvents::default());
                let upstream = &config.upstreams[route.upstream];
                let mut status = RouteStatus::new(route, upstream, reading, &events);
                status.recent = recent.as_ref().and_then(|recent| RecentStatus::of(recent, index));
                status
            })
            .collect(),
    };
    let text = serde_json::to_string(&status).expect("strings and numbers are always JSON");
    text + "\n"
}

fn by_reason(counts: &[u64]) -> BTreeMap<&'static str, u64> {
    RejectReason::LABELS.iter().copied().zip(counts.iter().copied()).collect()
}

// === impl VerdictStatus, ReloadStatus, UpstreamStatus, LimitStatus, RouteStatus, RecentStatus ===

impl From<Verdict> for VerdictStatus {
    fn from(verdict: Verdict) -> Self {
        let Verdict { level, text, detail, since } = verdict;
        VerdictStatus { level: level.label(), text, detail, since: unix(since) }
    }
}

impl ReloadStatus {
    fn new(state: &State) -> ReloadStatus {
        let reload = state.reload.lock().expect("nothing panics while it holds the lock").clone();
        let ago = reload.tried.map(|tried| tried.elapsed().unwrap_or_default().as_secs());
        ReloadStatus {
            seconds_ago: ago,
            succeeded: ago.map(|_| reload.error.is_none()),
            error: reload.error,
        }
    }
}

impl<'a> UpstreamStatus<'a> {
    fn new(upstream: &'a Upstream, reading: &UpstreamReading) -> Self {
        UpstreamStatus {
            name: &upstream.name,
            address: upstream.endpoint.to_string(),
            up: reading.up,
            in_flight: reading.in_flight,
            max_in_flight: reading.in_flight_limit,
            connections: reading.connections,
            open_responses: reading.open_responses,
            paused: reading.paused,
            hold_left: reading.hold_left.as_secs_f64(),
            limit: LimitStatus::new(&reading.limit, reading.in_flight_limit),
        }
    }
}

impl LimitStatus {
    fn new(limit: &LimitReading, value: u64) -> Self {
        let decisions = AutoDecision::LABELS.iter().copied().zip(limit.decisions.iter().copied());
        LimitStatus {
            mode: if limit.auto { "auto" } else { "fixed" },
            value,
            decision: AutoDecision::LABELS[limit.decision],
            decisions: decisions.collect(),
            throughput: limit.throughput,
            latency: limit.latency,
            baseline: limit.baseline,
            elasticity: limit.elasticity,
        }
    }
}

impl<'a> RouteStatus<'a> {
    fn new(
        route: &'a Route,
        upstream: &'a Upstream,
        reading: &RouteReading,
        events: &RouteEvents,
    ) -> Self {
        let (order, class, enforce) = RouteStatus::rules(route, upstream);
        RouteStatus {
            name: &route.name,
            upstream: &upstream.name,
            kind: RouteStatus::kind(route),
            order,
            class,
            enforce,
            in_flight: reading.in_flight,
            max_in_flight: reading.in_flight_limit,
            queue_depth: reading.queue_depth,
            max_queue: reading.queue_capacity,
            max_wait: route.max_wait.as_secs_f64(),
            arrivals: reading.arrivals,
            admitted: reading.admitted,
            abandoned: reading.abandoned,
            rejected: by_reason(&reading.rejected),
            shadow_rejected: by_reason(&reading.shadow_rejected),
            answered: events.services.count,
            failed: events.failed,
            service: ServiceStatus {
                p50: reading.service_p50.map(|time| time.as_secs_f64()),
                p90: reading.service_p90.map(|time| time.as_secs_f64()),
            },
            queue_depth_seconds: reading.queue_depth_seconds,
            in_flight_seconds: reading.in_flight_seconds,
            wait_seconds: events.waits.sum,
            waits: events.waits.count,
            service_seconds: events.services.sum,
            recent: None,
        }
    }

    /// Order, class and whether rejections are carried out; the first two only where somebody may
    /// wait.
    pub(super) fn rules(
        route: &Route,
        upstream: &Upstream,
    ) -> (Option<&'static str>, Option<u8>, bool) {
        let queued = route.admission == AdmissionMode::Queue;
        let order = match route.order {
            Order::Fifo => "fifo",
            Order::Lifo => "lifo",
            Order::Adaptive => "adaptive",
        };
        let enforce = !queued || (route.enforce && upstream.enforce);
        (queued.then_some(order), queued.then_some(route.class), enforce)
    }

    /// How the route is admitted, in a word.
    pub(super) fn kind(route: &Route) -> &'static str {
        match (route.admission, route.kind) {
            (AdmissionMode::Exempt, _) => "exempt",
            (AdmissionMode::Deny, _) => "deny",
            (AdmissionMode::Queue, RouteKind::Stream) => "stream",
            (AdmissionMode::Queue, RouteKind::Request) => "request",
        }
    }
}

impl RecentStatus {
    fn of(recent: &Sample, index: usize) -> Option<RecentStatus> {
        let route: &RouteSample = recent.routes.get(index)?;
        Some(RecentStatus {
            seconds: recent.seconds,
            arrivals: route.arrivals,
            answered: route.answered,
            failed: route.failed,
            abandoned: route.abandoned,
            rejected: route.turned_away(),
            in_flight: route.in_flight,
            queue_depth: route.queue,
            wait_mean: route.waits.mean(),
            wait_p99: route.wait_p99(),
            service_mean: route.services.mean(),
        })
    }
}
