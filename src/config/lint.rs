//! Checks of several values together: budgets, listeners, and arithmetic that a person would not
//! do.
//!
//! Warnings are for what runs and is probably not meant. None fires on a default.

mod budgets;
mod listeners;
mod tls;
mod waiting;

use std::time::Duration;

use super::context::Context;
use super::diagnostic::{Code, Diagnostic};
use super::model::{AdmissionMode, Route, RouteKind};
use super::overlap;
use super::resolve::{Draft, RouteDraft};
use super::units::format_duration;

/// After which `docker stop` kills.
const DOCKER_STOP: Duration = Duration::from_secs(10);
/// After which Node.js closes a silent connection: the shortest keep-alive of the common servers.
const APPLICATION_KEEP_ALIVE: Duration = Duration::from_secs(5);
/// After which the common load balancers close a silent connection.
const BALANCER_KEEP_ALIVE: Duration = Duration::from_secs(60);

/// Looks at everything. Raises the default of `max_connections` where the routes need more.
pub(super) fn check(draft: &mut Draft, cx: &mut Context<'_>) {
    listeners::check(draft, cx);
    tls::check(draft, cx);
    server_times(draft, cx);
    for (index, route) in draft.routes.iter().enumerate() {
        let model = &draft.config.routes[index];
        meaningless_keys(route, model, cx);
        stream_bound(route, model, cx);
        route_times(route, model, cx);
        waiting::check(draft, route, model, cx);
    }
    budgets::check(draft, cx);
    overlap::check(draft, cx);
}

fn server_times(draft: &Draft, cx: &mut Context<'_>) {
    let (raw, server) = (&draft.server, &draft.config.server);
    let total = server.shutdown_grace + server.drain_delay;
    if total > DOCKER_STOP && !raw.shutdown_grace.is_bad() && !raw.drain_delay.is_bad() {
        let message = format!(
            "a shutdown may take {} + {} = {}, and `docker stop` kills after 10s",
            format_duration(server.drain_delay),
            format_duration(server.shutdown_grace),
            format_duration(total)
        );
        let mut diagnostic = Diagnostic::new(Code::SlowShutdown, message);
        diagnostic
            .at(raw.shutdown_grace.place(), "shutdown_grace")
            .at(raw.drain_delay.place(), "drain_delay")
            .help(format!(
                "keep the sum below 10s, or give the container more: stop_grace_period = {}s",
                total.as_secs() + 2
            ));
        cx.diagnostics.push(diagnostic);
    }
    let idle = &raw.idle_timeout;
    if idle.is_written() && !idle.is_bad() && server.idle_timeout < BALANCER_KEEP_ALIVE {
        let message = format!(
            "client connections are closed after {} of silence: a load balancer in front may use \
             one just then",
            format_duration(server.idle_timeout)
        );
        cx.report(Code::ShortKeepAlive, idle.place(), message, "below 60s")
            .help("keep it above that of what is in front, usually 60s: idle_timeout = \"75s\"");
    }
    for (upstream, model) in draft.upstreams.iter().zip(&draft.config.upstreams) {
        let idle = &upstream.table.idle_timeout;
        if !idle.is_bad() && model.idle_timeout >= APPLICATION_KEEP_ALIVE {
            let message = format!(
                "unused connections are kept for {}: an application may close them first (Node.js \
                 after 5s), and the next request fails",
                format_duration(model.idle_timeout)
            );
            cx.report(Code::StaleConnections, idle.place(), message, "5s or more")
                .help("keep it below the application's own keep-alive: idle_timeout = \"4s\"");
        }
    }
}

// === routes ===

/// Keys that do nothing on such a route.
fn meaningless_keys(route: &RouteDraft, model: &Route, cx: &mut Context<'_>) {
    let raw = &route.raw;
    let (kind, why) = match model.admission {
        AdmissionMode::Exempt => ("exempt", "never queued, at most 32 at once"),
        AdmissionMode::Deny => ("deny", "answered with 404, never queued"),
        AdmissionMode::Queue => {
            if model.kind == RouteKind::Stream && route.own_keys.contains(&"reserved") {
                cx.report(
                    Code::MeaninglessKey,
                    raw.reserved.place(),
                    format!("`reserved` has no meaning on the stream route `{}`", model.name),
                    "streams do not use the budget",
                )
                .help("remove it: `max_in_flight` already is for this route alone");
            }
            return;
        }
    };
    let written = [
        ("max_queue", raw.max_queue.place()),
        ("max_wait", raw.max_wait.place()),
        ("order", raw.order.place()),
        ("standing_after", raw.standing_after.place()),
        ("class", raw.class.place()),
        ("class_header", raw.class_header.place()),
        ("deadline_header", raw.deadline_header.place()),
        ("fair_by", raw.fair_by.place()),
        ("enforce", raw.enforce.place()),
        ("max_in_flight", raw.max_in_flight.place()),
        ("reserved", raw.reserved.place()),
    ];
    // A value from [defaults] is not the route's own.
    for (key, place) in written.into_iter().filter(|(key, _)| route.own_keys.contains(key)) {
        cx.report(
            Code::MeaninglessKey,
            place,
            format!("`{key}` has no meaning on the {kind} route `{}`", model.name),
            why,
        )
        .help(format!("remove it, or remove admission = \"{kind}\""));
    }
    if model.admission == AdmissionMode::Exempt && model.kind == RouteKind::Stream {
        cx.report(
            Code::MeaninglessKey,
            raw.kind.place(),
            format!("the exempt route `{}` cannot be a stream", model.name),
            "at most 32 at once, for probes",
        )
        .help("remove admission = \"exempt\": a stream route is outside the budget anyway");
    }
}

fn stream_bound(route: &RouteDraft, model: &Route, cx: &mut Context<'_>) {
    let stream = model.kind == RouteKind::Stream && model.admission == AdmissionMode::Queue;
    if stream && !route.raw.max_in_flight.is_written() {
        cx.report(
            Code::UnboundedStream,
            route.raw.kind.place(),
            format!("the stream route `{}` needs a bound of its own", model.name),
            "streams do not count against the budget of the upstream",
        )
        .help("say how many may be open at once: max_in_flight = 500");
    }
}

fn route_times(route: &RouteDraft, model: &Route, cx: &mut Context<'_>) {
    if model.admission != AdmissionMode::Queue {
        return;
    }
    let raw = &route.raw;
    if raw.max_queue.is_bad() || raw.max_wait.is_bad() || raw.response_timeout.is_bad() {
        return;
    }
    let place = raw.max_wait.place();
    let Some(timeout) = model.response_timeout else {
        return;
    };
    let waits = model.max_queue > 0 && raw.max_wait.is_written();
    if waits && model.max_wait > timeout && !cx.has_said(Code::WaitAboveTimeout, place) {
        let message = format!(
            "on the route `{}` a request may wait {} for a slot, longer than the {} that the \
             application gets to answer it",
            model.name,
            format_duration(model.max_wait),
            format_duration(timeout)
        );
        cx.report(Code::WaitAboveTimeout, place, message, "").help(
            "a short wait keeps the queue fresh: lower `max_wait`, or raise `response_timeout`",
        );
    }
}
