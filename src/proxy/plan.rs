//! A configured route, ready to use: its settings, its lane in the gate, its part of a scrape.

use std::time::Duration;

use super::finish::Finish;
use crate::config::{AdmissionMode, ClientAbort, Reject, Route, RouteKind};
use crate::gate::{LaneKind, LaneLimits, LaneSnapshot};
use crate::telemetry::metrics::RouteReading;

/// The most exempt requests of a route at once: probes are few, and a flood of them is none.
pub const MAX_EXEMPT: u32 = 32;

/// One route, ready to use.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) name: String,
    pub(super) backend: usize,
    /// The route's lane in its backend's gate; `None`: it denies everything.
    pub(super) lane: Option<usize>,
    pub(super) response_timeout: Option<Duration>,
    pub(super) idle_body_timeout: Option<Duration>,
    pub(super) finish: Option<Finish>,
    pub(super) reject: Reject,
}

/// What a route may use of its upstream; `None`: nothing.
pub(super) fn lane_limits(route: &Route) -> Option<LaneLimits> {
    let beside = |max_in_flight| LaneLimits {
        kind: LaneKind::Beside,
        max_in_flight,
        ..LaneLimits::plain(route.max_queue, route.max_wait)
    };
    match (route.admission, route.kind) {
        (AdmissionMode::Deny, _) => None,
        (AdmissionMode::Exempt, _) => Some(LaneLimits { max_queue: 0, ..beside(Some(MAX_EXEMPT)) }),
        (AdmissionMode::Queue, RouteKind::Stream) => Some(beside(route.max_in_flight)),
        (AdmissionMode::Queue, RouteKind::Request) => Some(LaneLimits {
            kind: LaneKind::Budget,
            reserved: route.reserved,
            ..beside(route.max_in_flight)
        }),
    }
}

pub(super) fn route_reading(lane: &LaneSnapshot) -> RouteReading {
    RouteReading {
        arrivals: lane.arrivals,
        admitted: lane.admitted,
        abandoned: lane.abandoned,
        rejected: lane.rejected.to_vec(),
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

// === impl Plan ===

impl Plan {
    pub(super) fn new(route: &Route, lane: Option<usize>) -> Plan {
        let finish = Finish {
            response_timeout: route.response_timeout,
            idle_body_timeout: route.idle_body_timeout,
        };
        Plan {
            name: route.name.clone(),
            backend: route.upstream,
            lane,
            response_timeout: route.response_timeout,
            idle_body_timeout: route.idle_body_timeout,
            finish: (route.on_client_abort == ClientAbort::Finish).then_some(finish),
            reject: route.reject,
        }
    }
}
