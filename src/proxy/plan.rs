//! A configured route, ready to use: its settings, its lane in the gate, its part of a scrape.

use std::time::Duration;

use super::arrival::Marks;
use super::finish::Finish;
use super::respond::Refusal;
use super::screen::{Fault, is_ambiguous};
use crate::admission::Permit;
use crate::config::{self, AdmissionMode, ClientAbort, Reject, Route, RouteKind, Upstream};
use crate::gate::{
    AutoLimits, Budget, LaneKind, LaneLimits, LaneSnapshot, Limits, Order, Outcome, Snapshot,
};
use crate::telemetry::metrics::{LimitReading, RouteReading, UpstreamReading};

/// The most exempt requests of a route at once: probes are few, and a flood of them is none.
pub const MAX_EXEMPT: u32 = 32;

/// One route, ready to use.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) name: String,
    pub(super) backend: usize,
    /// The route's lane in its backend's gate; `None`: it denies everything.
    lane: Option<usize>,
    /// Paths that may mean others are refused.
    strict_paths: bool,
    /// What its requests say of themselves; `None`: nothing that matters (exempt).
    pub(super) marks: Option<Marks>,
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
    Limits { budget, floor_period, lanes }
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

pub(super) fn route_reading(lane: &LaneSnapshot) -> RouteReading {
    RouteReading {
        arrivals: lane.arrivals,
        admitted: lane.admitted,
        abandoned: lane.abandoned,
        rejected: lane.rejected.to_vec(),
        shadow_rejected: lane.shadow_rejected.to_vec(),
        service_p50: lane.service_p50,
        service_p90: lane.service_p90,
        queue_depth: u64::from(lane.queue_depth),
        queue_capacity: u64::from(lane.max_queue),
        in_flight: u64::from(lane.in_flight),
        in_flight_limit: u64::from(lane.max_in_flight),
        queue_depth_seconds: lane.queued_time.as_secs_f64(),
        in_flight_seconds: lane.in_flight_time.as_secs_f64(),
    }
}

pub(super) fn denied_reading() -> RouteReading {
    route_reading(&LaneSnapshot::default())
}

pub(super) fn upstream_reading(gate: &Snapshot, up: bool, connections: u64) -> UpstreamReading {
    let auto = gate.auto.unwrap_or_default();
    UpstreamReading {
        in_flight: u64::from(gate.in_flight),
        in_flight_limit: u64::from(gate.max_in_flight),
        up,
        connections,
        paused: gate.paused,
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

// === impl Plan ===

impl Plan {
    pub(super) fn new(route: &Route, lane: Option<usize>) -> Plan {
        let learns = route.admission == AdmissionMode::Queue && route.kind == RouteKind::Request;
        let finish = Finish {
            response_timeout: route.response_timeout,
            idle_body_timeout: route.idle_body_timeout,
            learns,
        };
        Plan {
            name: route.name.clone(),
            backend: route.upstream,
            lane,
            strict_paths: false,
            marks: (route.admission == AdmissionMode::Queue).then(|| Marks::new(route)),
            learns,
            response_timeout: route.response_timeout,
            idle_body_timeout: route.idle_body_timeout,
            tunnel_idle_timeout: Some(Duration::from_secs(3600)),
            finish: (route.on_client_abort == ClientAbort::Finish).then_some(finish),
            reject: route.reject,
        }
    }

    /// The route's lane for a request, which has a path that it takes.
    pub(super) fn lane_for(&self, path: &str) -> Result<usize, Refusal> {
        if self.strict_paths && is_ambiguous(path) {
            return Err(Refusal::Fault(Fault::Ambiguous));
        }
        self.lane.ok_or(Refusal::Denied)
    }

    /// The route's lane in its backend's gate; `None`: it denies everything.
    pub(super) fn lane(&self) -> Option<usize> {
        self.lane
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
    fn strict_routes_take_no_ambiguous_paths() {
        let text = "[upstream]\nurl = \"http://a\"\n";
        let config = config::parse("t", text, &[], &Overrides::default()).unwrap().config;
        let mut plan = Plan::new(&config.routes[0], Some(3));
        assert_eq!(plan.lane_for("/a/../b"), Ok(3));
        plan.strict_paths = true;
        assert_eq!(plan.lane_for("/a/b"), Ok(3));
        assert_eq!(plan.lane_for("/a/../b"), Err(Refusal::Fault(Fault::Ambiguous)));
        plan.lane = None;
        assert_eq!(plan.lane_for("/a/b"), Err(Refusal::Denied));
    }

    #[test]
    fn the_budget_and_the_floor() {
        let (limits, _) = lanes("");
        assert_eq!(limits.budget, Budget::Fixed(16));
        let (limits, _) = lanes("max_in_flight = \"auto\"\n");
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
