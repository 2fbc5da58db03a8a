//! `/status.json`: what `/metrics` says, for people and scripts that look once.

use std::collections::BTreeMap;

use serde::Serialize;

use super::State;
use crate::gate::RejectReason;
use crate::telemetry::metrics::{Reading, RouteReading, UpstreamReading};

/// The whole answer. Field names are an interface; a golden test holds them.
#[derive(Serialize)]
struct Status<'a> {
    version: &'static str,
    uptime_seconds: u64,
    ready: bool,
    draining: bool,
    workers: usize,
    connections: u64,
    max_connections: u32,
    upstreams: Vec<UpstreamStatus<'a>>,
    routes: Vec<RouteStatus<'a>>,
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
}

/// One route. `arrivals = admitted + abandoned + rejected + queue_depth`.
#[derive(Serialize)]
struct RouteStatus<'a> {
    name: &'a str,
    upstream: &'a str,
    in_flight: u64,
    max_in_flight: u64,
    queue_depth: u64,
    max_queue: u64,
    arrivals: u64,
    admitted: u64,
    abandoned: u64,
    rejected: BTreeMap<&'static str, u64>,
    queue_depth_seconds: f64,
    in_flight_seconds: f64,
}

/// One line of JSON. Times are in seconds.
pub(super) fn json(state: &State, reading: &Reading) -> String {
    let config = &state.config;
    let upstreams = config.upstreams.iter().zip(&reading.upstreams);
    let routes = config.routes.iter().zip(&reading.routes);
    let status = Status {
        version: env!("CARGO_PKG_VERSION"),
        uptime_seconds: state.started.elapsed().as_secs(),
        ready: reading.ready,
        draining: reading.draining,
        workers: state.server.workers(),
        connections: reading.connections,
        max_connections: config.server.max_connections,
        upstreams: upstreams
            .map(|(upstream, reading)| {
                UpstreamStatus::new(&upstream.name, (&upstream.host, upstream.port), reading)
            })
            .collect(),
        routes: routes
            .map(|(route, reading)| {
                RouteStatus::new(&route.name, &config.upstreams[route.upstream].name, reading)
            })
            .collect(),
    };
    let text = serde_json::to_string(&status).expect("strings and numbers are always JSON");
    text + "\n"
}

// === impl UpstreamStatus, RouteStatus ===

impl<'a> UpstreamStatus<'a> {
    fn new(name: &'a str, (host, port): (&str, u16), reading: &UpstreamReading) -> Self {
        let v6 = host.contains(':');
        UpstreamStatus {
            name,
            address: if v6 { format!("[{host}]:{port}") } else { format!("{host}:{port}") },
            up: reading.up,
            in_flight: reading.in_flight,
            max_in_flight: reading.in_flight_limit,
            connections: reading.connections,
        }
    }
}

impl<'a> RouteStatus<'a> {
    fn new(name: &'a str, upstream: &'a str, reading: &RouteReading) -> Self {
        let rejected = RejectReason::LABELS.iter().copied().zip(reading.rejected.iter().copied());
        RouteStatus {
            name,
            upstream,
            in_flight: reading.in_flight,
            max_in_flight: reading.in_flight_limit,
            queue_depth: reading.queue_depth,
            max_queue: reading.queue_capacity,
            arrivals: reading.arrivals,
            admitted: reading.admitted,
            abandoned: reading.abandoned,
            rejected: rejected.collect(),
            queue_depth_seconds: reading.queue_depth_seconds,
            in_flight_seconds: reading.in_flight_seconds,
        }
    }
}
