//! The events of `/events`, encoded.
//!
//! `facts` is what seldom changes: names, configured bounds, the version. `sample` is one second of
//! figures, as arrays whose fields `facts` names, since 900 of them are kept. `now` is what only
//! the present moment has: the verdict and the last rejections.

use std::sync::PoisonError;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::Serialize;

use super::State;
use super::sample::{RouteSample, Sample, UpstreamSample};
use super::status::RouteStatus;
use super::verdict::{Names, Verdict};
use crate::config::{Budget, Config, Upstream};
use crate::gate::{AutoDecision, RejectReason};
use crate::telemetry::access::Rejected;

/// The fields of a route in a sample. Times are in milliseconds; `null`: there was none.
pub(super) const ROUTE_FIELDS: [&str; 13] = [
    "route",
    "in_flight",
    "queue",
    "limit",
    "arrivals",
    "answered",
    "failed",
    "abandoned",
    "wait_mean",
    "wait_p99",
    "service_mean",
    "service_p90",
    "rejected",
];
/// The fields of an upstream in a sample.
pub(super) const UPSTREAM_FIELDS: [&str; 11] = [
    "in_flight",
    "limit",
    "up",
    "paused",
    "connections",
    "open",
    "decision",
    "throughput",
    "latency",
    "baseline",
    "elasticity",
];

#[derive(Serialize)]
struct Facts<'a> {
    version: &'static str,
    /// Seconds since 1970.
    started: f64,
    listen: Vec<String>,
    workers: usize,
    max_connections: u32,
    /// When the configuration in force was loaded.
    loaded: f64,
    /// `None`: the configuration has not changed since the start.
    last_reload: Option<ReloadFacts>,
    reasons: &'static [&'static str],
    decisions: &'static [&'static str],
    route_fields: &'static [&'static str],
    upstream_fields: &'static [&'static str],
    upstreams: Vec<UpstreamFacts<'a>>,
    routes: Vec<RouteFacts<'a>>,
}

/// The last attempt to change the configuration.
#[derive(Serialize)]
struct ReloadFacts {
    at: f64,
    ok: bool,
    why: Option<String>,
}

#[derive(Serialize)]
struct UpstreamFacts<'a> {
    name: &'a str,
    address: String,
    mode: &'static str,
    min: u32,
    max: u32,
}

#[derive(Serialize)]
struct RouteFacts<'a> {
    name: &'a str,
    upstream: usize,
    path: &'a str,
    kind: &'static str,
    order: Option<&'static str>,
    class: Option<u8>,
    enforce: bool,
    max_queue: u32,
    max_wait: f64,
    cap: Option<u32>,
    reserved: u32,
}

#[derive(Serialize)]
struct Now<'a> {
    level: &'static str,
    text: &'a str,
    detail: &'a str,
    since: f64,
    rejections: Vec<Line<'a>>,
}

#[derive(Serialize)]
struct Line<'a> {
    at: f64,
    route: &'a str,
    reason: &'static str,
    method: &'a str,
    path: &'a str,
    waited: f64,
}

/// The event `facts`.
pub(super) fn facts(state: &State, config: &Config, started: SystemTime) -> String {
    let upstreams = config.upstreams.iter().map(|upstream| {
        let (mode, min, max) = match upstream.max_in_flight {
            Budget::Fixed(number) => ("fixed", number, number),
            Budget::Auto { min, max, .. } => ("auto", min, max),
        };
        let (name, address) = (upstream.name.as_str(), upstream.endpoint.to_string());
        UpstreamFacts { name, address, mode, min, max }
    });
    let routes = config.routes.iter().map(|route| {
        let (order, class, enforce) = RouteStatus::rules(route, &config.upstreams[route.upstream]);
        RouteFacts {
            name: &route.name,
            upstream: route.upstream,
            path: &route.matches.path,
            kind: RouteStatus::kind(route),
            order,
            class,
            enforce,
            max_queue: if order.is_some() { route.max_queue } else { 0 },
            max_wait: route.max_wait.as_secs_f64(),
            cap: route.max_in_flight,
            reserved: route.reserved,
        }
    });
    let facts = Facts {
        version: env!("CARGO_PKG_VERSION"),
        started: unix(started),
        listen: config.server.listen.iter().map(ToString::to_string).collect(),
        workers: state.server.workers(),
        max_connections: config.server.max_connections,
        loaded: state.proxy().metrics().loaded().as_secs_f64(),
        last_reload: ReloadFacts::of(state),
        reasons: &RejectReason::LABELS,
        decisions: &AutoDecision::LABELS,
        route_fields: &ROUTE_FIELDS,
        upstream_fields: &UPSTREAM_FIELDS,
        upstreams: upstreams.collect(),
        routes: routes.collect(),
    };
    event("facts", &json(&facts))
}

// === impl ReloadFacts ===

impl ReloadFacts {
    fn of(state: &State) -> Option<ReloadFacts> {
        let reload = state.reload.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let at = unix(reload.tried?);
        Some(ReloadFacts { at, ok: reload.error.is_none(), why: reload.error })
    }
}

/// The event `sample`; routes on which nothing happened are left out.
pub(super) fn sample(id: &str, sample: &Sample) -> String {
    let routes = sample.routes.iter().enumerate().filter(|(_, route)| !route.is_idle());
    let routes: Vec<_> = routes.map(|(index, route)| route_row(index, route)).collect();
    let upstreams: Vec<_> = sample.upstreams.iter().map(upstream_row).collect();
    let text = format!(
        "{{\"at\":{:.1},\"seconds\":{:.2},\"connections\":{},\"routes\":[{}],\"upstreams\":[{}]}}",
        unix(sample.at),
        sample.seconds,
        sample.connections,
        routes.join(","),
        upstreams.join(",")
    );
    format!("id: {id}\n{}", event("sample", &text))
}

/// The event `now`.
pub(super) fn now(verdict: &Verdict, rejections: &[Rejected]) -> String {
    let lines = rejections.iter().map(|rejected| Line {
        at: unix(rejected.at),
        route: &rejected.route,
        reason: rejected.reason,
        method: &rejected.method,
        path: &rejected.path,
        waited: rejected.waited.as_secs_f64(),
    });
    let now = Now {
        level: verdict.level.label(),
        text: &verdict.text,
        detail: &verdict.detail,
        since: unix(verdict.since),
        rejections: lines.collect(),
    };
    event("now", &json(&now))
}

/// What a verdict calls things.
pub(super) fn names(config: &Config) -> Names {
    let address = |upstream: &Upstream| upstream.endpoint.to_string();
    let upstreams = config.upstreams.iter();
    Names {
        routes: config.routes.iter().map(|route| route.name.clone()).collect(),
        upstream_of: config.routes.iter().map(|route| route.upstream).collect(),
        upstreams: upstreams.map(|up| (up.name.clone(), address(up))).collect(),
    }
}

fn event(name: &str, data: &str) -> String {
    format!("event: {name}\ndata: {data}\n\n")
}

fn json(value: &impl Serialize) -> String {
    serde_json::to_string(value).expect("strings and numbers are always JSON")
}

/// Seconds since 1970.
pub(super) fn unix(time: SystemTime) -> f64 {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}

fn route_row(index: usize, route: &RouteSample) -> String {
    let rejected = route.rejected.iter().map(u64::to_string).collect::<Vec<_>>().join(",");
    format!(
        "[{index},{},{},{},{},{},{},{},{},{},{},{},[{rejected}]]",
        short(route.in_flight),
        short(route.queue),
        route.limit,
        route.arrivals,
        route.answered,
        route.failed,
        route.abandoned,
        millis(route.waits.mean()),
        millis(route.wait_p99()),
        millis(route.services.mean()),
        millis(route.service_p90),
    )
}

fn upstream_row(upstream: &UpstreamSample) -> String {
    let auto = &upstream.auto;
    format!(
        "[{},{},{},{},{},{},{},{},{},{},{}]",
        short(upstream.in_flight),
        upstream.limit,
        u8::from(upstream.up),
        u8::from(upstream.paused && !upstream.hold_left.is_zero()),
        upstream.connections,
        upstream.open,
        auto.decision,
        short(auto.throughput),
        short(auto.latency * 1e3),
        short(auto.baseline * 1e3),
        short(auto.elasticity),
    )
}

fn millis(seconds: Option<f64>) -> String {
    seconds.map_or("null".to_owned(), |seconds| short(seconds * 1e3))
}

/// A number in as few characters as a chart needs.
fn short(value: f64) -> String {
    match value.abs() {
        // JSON has no other numbers.
        _ if !value.is_finite() => "0".to_owned(),
        large if large >= 100.0 => format!("{value:.0}"),
        small if small < 0.005 => "0".to_owned(),
        _ => {
            let text = format!("{value:.2}");
            text.trim_end_matches('0').trim_end_matches('.').to_owned()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short() {
        for (value, text) in [
            (0.0, "0"),
            (3.0, "3"),
            (12.345, "12.35"),
            (1234.5, "1234"),
            (0.001, "0"),
            (0.5, "0.5"),
        ] {
            assert_eq!(short(value), text);
        }
        assert_eq!(short(f64::NAN), "0");
        assert_eq!(millis(None), "null");
        assert_eq!(millis(Some(0.0012)), "1.2");
    }

    #[test]
    fn a_row_has_the_fields_that_are_named() {
        let row: Vec<serde_json::Value> =
            serde_json::from_str(&route_row(3, &RouteSample::default())).unwrap();
        assert_eq!((row.len(), row[0].as_u64()), (ROUTE_FIELDS.len(), Some(3)));
        assert_eq!(row[12].as_array().unwrap().len(), RejectReason::ALL.len());
        let row: Vec<serde_json::Value> =
            serde_json::from_str(&upstream_row(&UpstreamSample::default())).unwrap();
        assert_eq!(row.len(), UPSTREAM_FIELDS.len());
    }
}
