//! A configured route, ready to use: its settings, its lane in the gate, its part of a scrape.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::arrival::Marks;
use super::backend::{Backend, LaneAt};
use super::finish::Finish;
use super::respond::Refusal;
use super::screen::{Fault, is_ambiguous};
use crate::admission::Permit;
use crate::config::{self, AdmissionMode, ClientAbort, Reject, Route, RouteKind, Upstream};
use crate::gate::{
    AutoLimits, Budget, LaneKind, LaneLimits, LaneSnapshot, Limits, Order, Outcome, Snapshot,
};
use crate::telemetry::metrics::{LimitReading, RouteMetrics, RouteReading, UpstreamReading};

/// The most exempt requests of a route at once: probes are few, and a flood of them is none.
pub const MAX_EXEMPT: u32 = 32;

/// One route, ready to use.
pub(super) struct Plan {
    pub(super) name: String,
    pub(super) backend: Arc<Backend>,
    /// The route's lane in its backend's gate; `None`: it denies everything.
    lane: Option<usize>,
    /// Lanes that it had under earlier configurations.
    pub(super) former: Vec<LaneAt>,
    pub(super) metrics: RouteMetrics,
    /// Paths that may mean others are refused.
    strict_paths: bool,
    /// What its requests say of themselves; `None`: nothing that matters (exempt).
    pub(super) marks: Option<Marks>,
    /// The route's `max_wait`, if its requests wait for an application that is away.
    held: Option<Duration>,
    /// Whether the gate learns from its requests.
    learns: bool,
    pub(super) response_timeout: Option<Duration>,
    pub(super) idle_body_timeout: Option<Duration>,
    pub(super) tunnel_idle_timeout: Option<Duration>,
    pub(super) finish: Option<Finish>,
    pub(super) reject: Reject,
}

/// The limits of the gate before an upstream, with one lane for each of these.
#[must_use]
pub fn limits(upstream: &Upstream, lanes: Vec<LaneLimits>) -> Limits {
    let budget = match upstream.max_in_flight {
        config::Budget::Fixed(slots) => Budget::Fixed(slots),
        config::Budget::Auto { min, max, max_latency } => {
            Budget::Auto(AutoLimits { min, max, max_latency })
        }
    };
    // At least so many percent is at least one of so many.
    let floor_period = match upstream.class_floor {
        0 => 0,
        percent => 100_u32.div_ceil(percent),
    };
    Limits { budget, floor_period, hold: upstream.hold, lanes }
}

/// What a route may use of its upstream; `None`: nothing.
#[must_use]
pub fn lane_limits(route: &Route, upstream: &Upstream) -> Option<LaneLimits> {
    let queue = |kind, reserved| LaneLimits {
        kind,
        max_in_flight: route.max_in_flight,
        reserved,
        max_queue: route.max_queue,
        max_wait: route.max_wait,
        order: match route.order {
            config::Order::Fifo => Order::Fifo,
            config::Order::Lifo => Order::Lifo,
            config::Order::Adaptive => Order::Adaptive,
        },
        standing_after: route.standing_after.after(route.max_wait),
        enforce: route.enforce && upstream.enforce,
    };
    match (route.admission, route.kind) {
        (AdmissionMode::Deny, _) => None,
        (AdmissionMode::Exempt, _) => Some(LaneLimits {
            kind: LaneKind::Beside,
            max_in_flight: Some(MAX_EXEMPT),
            ..LaneLimits::plain(0, Duration::ZERO)
        }),
        (AdmissionMode::Queue, RouteKind::Stream) => Some(queue(LaneKind::Beside, 0)),
        (AdmissionMode::Queue, RouteKind::Request) => Some(queue(LaneKind::Budget, route.reserved)),
    }
}

pub(super) fn upstream_reading(
    name: String,
    gate: &Snapshot,
    up: bool,
    connections: u64,
) -> UpstreamReading {
    let auto = gate.auto.unwrap_or_default();
    UpstreamReading {
        name,
        in_flight: u64::from(gate.in_flight),
        in_flight_limit: u64::from(gate.max_in_flight),
        up,
        connections,
        open_responses: u64::from(gate.open),
        paused: gate.paused,
        hold_left: gate.hold_left,
        rejected_class: gate.rejected_class.to_vec(),
        limit: LimitReading {
            auto: gate.auto.is_some(),
            decision: auto.decision as usize,
            decisions: auto.decisions.to_vec(),
            throughput: auto.throughput,
            latency: auto.latency.as_secs_f64(),
            baseline: auto.baseline.as_secs_f64(),
            elasticity: auto.elasticity,
        },
    }
}

/// What a route looks like now, and all that it has counted, also on earlier lanes.
pub(super) fn route_reading(
    name: String,
    now: &LaneSnapshot,
    former: &[LaneSnapshot],
) -> RouteReading {
    let mut reading = RouteReading {
        name,
        arrivals: now.arrivals,
        admitted: now.admitted,
        abandoned: now.abandoned,
        rejected: now.rejected.to_vec(),
        shadow_rejected: now.shadow_rejected.to_vec(),
        service_p50: now.service_p50,
        service_p90: now.service_p90,
        queue_depth: u64::from(now.queue_depth),
        queue_capacity: u64::from(now.max_queue),
        queue_wait_limit: now.max_wait,
        in_flight: u64::from(now.in_flight),
        in_flight_limit: u64::from(now.max_in_flight),
        queue_depth_seconds: now.queued_time.as_secs_f64(),
        in_flight_seconds: now.in_flight_time.as_secs_f64(),
    };
    for lane in former {
        reading.arrivals += lane.arrivals;
        reading.admitted += lane.admitted;
        reading.abandoned += lane.abandoned;
        add(&mut reading.rejected, &lane.rejected);
        add(&mut reading.shadow_rejected, &lane.shadow_rejected);
        reading.queue_depth += u64::from(lane.queue_depth);
        reading.in_flight += u64::from(lane.in_flight);
        reading.queue_depth_seconds += lane.queued_time.as_secs_f64();
        reading.in_flight_seconds += lane.in_flight_time.as_secs_f64();
    }
    reading
}

fn add(sums: &mut [u64], more: &[u64]) {
    sums.iter_mut().zip(more).for_each(|(sum, more)| *sum += more);
}

// === impl Plan ===

impl fmt::Debug for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let fields = (&self.lane, &self.former);
        f.debug_struct("Plan").field("name", &self.name).field("lanes", &fields).finish()
    }
}

impl Plan {
    /// `lanes`: the route's lane, and those that it had before.
    pub(super) fn new(
        (route, upstream): (&Route, &Upstream),
        backend: Arc<Backend>,
        (lane, former): (Option<usize>, Vec<LaneAt>),
        metrics: RouteMetrics,
    ) -> Plan {
        let learns = route.admission == AdmissionMode::Queue && route.kind == RouteKind::Request;
        let finish = Finish {
            response_timeout: route.response_timeout,
            idle_body_timeout: route.idle_body_timeout,
            learns,
        };
        Plan {
            name: route.name.clone(),
            backend,
            lane,
            former,
            metrics,
            strict_paths: route.paths == config::Paths::Strict,
            marks: (route.admission == AdmissionMode::Queue).then(|| Marks::new(route)),
            held: lane_limits(route, upstream)
                .filter(|lane| lane.enforce && lane.waits())
                .map(|lane| lane.max_wait),
            learns,
            response_timeout: route.response_timeout,
            idle_body_timeout: route.idle_body_timeout,
            tunnel_idle_timeout: route.tunnel_idle_timeout,
            finish: (route.on_client_abort == ClientAbort::Finish).then_some(finish),
            reject: route.reject,
        }
    }

    /// The route's lane, if it has one.
    pub(super) fn lane_at(&self) -> Option<LaneAt> {
        let backend = Arc::clone(&self.backend);
        self.lane.map(|lane| LaneAt { backend, lane })
    }

    /// The route's lane for a request, which has a path that it takes.
    pub(super) fn lane_for(&self, path: &str) -> Result<usize, Refusal> {
        if self.strict_paths && is_ambiguous(path) {
            return Err(Refusal::Fault(Fault::Ambiguous));
        }
        self.lane.ok_or(Refusal::Denied)
    }

    /// How long a request of it waits for an application that is away, if it has waited for so
    /// long in the queue, perhaps for the application too; zero: not at all.
    pub(super) fn hold(&self, waited: Duration) -> Duration {
        let Some(max_wait) = self.held else { return Duration::ZERO };
        let hold = self.backend.hold();
        if hold.is_zero() { hold } else { hold.min((max_wait + hold).saturating_sub(waited)) }
    }

    /// Says how a request of the route went, if the gate learns from it.
    pub(super) fn note(&self, permit: &mut Permit, outcome: Outcome) {
        if self.learns {
            permit.note(outcome);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Overrides;

    fn lanes(text: &str) -> (Limits, Vec<Option<LaneLimits>>) {
        let text = format!("[upstream]\nurl = \"http://a\"\n{text}");
        let config = config::parse("t", &text, &[], &Overrides::default()).unwrap().config;
        let upstream = &config.upstreams[0];
        let lanes = config.routes.iter().map(|route| lane_limits(route, upstream));
        (limits(upstream, Vec::new()), lanes.collect())
    }

    #[test]
    fn the_budget_and_the_floor() {
        let (limits, _) = lanes("");
        let auto = AutoLimits { min: 2, max: 500, max_latency: None };
        assert_eq!((limits.budget, limits.floor_period), (Budget::Auto(auto), 20));
        let (limits, _) = lanes("max_in_flight = 8\nclass_floor = \"12%\"\n");
        assert_eq!((limits.budget, limits.floor_period), (Budget::Fixed(8), 9));
        let (limits, _) = lanes("class_floor = \"0%\"\n");
        assert_eq!(limits.floor_period, 0);
    }

    #[test]
    fn lanes_of_each_kind() {
        let (_, lanes) = lanes(
            "enforce = false\n[defaults]\nmax_wait = \"2s\"\n\
             [[route]]\nname = \"e\"\nmatch = { path = \"/e\" }\nadmission = \"exempt\"\n\
             [[route]]\nname = \"d\"\nmatch = { path = \"/d\" }\nadmission = \"deny\"\n\
             [[route]]\nname = \"s\"\nmatch = { path = \"/s\" }\nkind = \"stream\"\n\
             max_in_flight = 9\norder = \"fifo\"\nstanding_after = \"off\"\n",
        );
        let [Some(exempt), None, Some(stream), Some(default)] = lanes[..] else {
            panic!("{lanes:?}")
        };
        assert_eq!((exempt.max_queue, exempt.max_in_flight), (0, Some(MAX_EXEMPT)));
        assert!(exempt.enforce, "probes are never in shadow mode");
        assert_eq!((stream.kind, stream.max_in_flight), (LaneKind::Beside, Some(9)));
        assert_eq!((stream.order, stream.standing_after), (Order::Fifo, None));
        assert_eq!(default.order, Order::Adaptive);
        assert_eq!(default.standing_after, Some(Duration::from_secs(3)));
        assert!(!default.enforce);
    }
}
