//! `/status.json`: what `/metrics` says, for people and scripts that look once.

use serde_json::{Value, json};

use super::State;
use crate::gate::RejectReason;
use crate::telemetry::metrics::{Reading, RouteReading, UpstreamReading};

/// One line of JSON. Times are in seconds.
pub(super) fn json(state: &State, reading: &Reading) -> String {
    let upstreams = state.config.upstreams.iter().zip(&reading.upstreams);
    let routes = state.config.routes.iter().zip(&reading.routes);
    let status = json!({
        "version": env!("CARGO_PKG_VERSION"),
        "uptime_seconds": state.started.elapsed().as_secs(),
        "ready": reading.ready,
        "draining": reading.draining,
        "workers": state.server.workers(),
        "connections": reading.connections,
        "max_connections": state.config.server.max_connections,
        "upstreams": upstreams.map(|(upstream, reading)| {
            upstream_status(&upstream.name, &upstream.host, upstream.port, reading)
        }).collect::<Vec<_>>(),
        "routes": routes.map(|(route, reading)| {
            let upstream = &state.config.upstreams[route.upstream].name;
            route_status(&route.name, upstream, reading)
        }).collect::<Vec<_>>(),
    });
    format!("{status}\n")
}

fn upstream_status(name: &str, host: &str, port: u16, reading: &UpstreamReading) -> Value {
    json!({
        "name": name,
        "address": if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") },
        "up": reading.up,
        "in_flight": reading.in_flight,
        "max_in_flight": reading.in_flight_limit,
        "connections": reading.connections,
    })
}

fn route_status(name: &str, upstream: &str, reading: &RouteReading) -> Value {
    let rejected: serde_json::Map<_, _> = RejectReason::LABELS
        .iter()
        .zip(&reading.rejected)
        .map(|(reason, count)| ((*reason).to_owned(), Value::from(*count)))
        .collect();
    json!({
        "name": name,
        "upstream": upstream,
        "in_flight": reading.in_flight,
        "max_in_flight": reading.in_flight_limit,
        "queue_depth": reading.queue_depth,
        "max_queue": reading.queue_capacity,
        "arrivals": reading.arrivals,
        "admitted": reading.admitted,
        "abandoned": reading.abandoned,
        "rejected": rejected,
        "queue_depth_seconds": reading.queue_depth_seconds,
        "in_flight_seconds": reading.in_flight_seconds,
    })
}
