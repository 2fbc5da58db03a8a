//! Checks of several values together: budgets, listeners, and arithmetic that a person would not do.
//!
//! Warnings are for what runs and is probably not meant. None fires on a default.

use std::net::SocketAddr;
use std::time::Duration;

use super::context::Context;
use super::diagnostic::{Code, Diagnostic};
use super::model::{AdmissionMode, Route, RouteKind};
use super::overlap;
use super::raw::Slots;
use super::resolve::{Draft, RouteDraft};
use super::units::format_duration;
use super::values::At;

/// Exempt requests of one route at once.
const EXEMPT_BOUND: u64 = 32;
/// After which `docker stop` kills.
const DOCKER_STOP: Duration = Duration::from_secs(10);
/// After which Node.js closes a silent connection: the shortest keep-alive of the common servers.
const APPLICATION_KEEP_ALIVE: Duration = Duration::from_secs(5);
/// After which the common load balancers close a silent connection.
const BALANCER_KEEP_ALIVE: Duration = Duration::from_secs(60);

/// Looks at everything. Raises the default of `max_connections` where the routes need more.
pub(super) fn check(draft: &mut Draft, cx: &mut Context<'_>) {
    listeners(draft, cx);
    server_times(draft, cx);
    for (index, route) in draft.routes.iter().enumerate() {
        let model = &draft.config.routes[index];
        meaningless_keys(route, model, cx);
        stream_bound(route, model, cx);
        route_times(route, model, cx);
    }
    for index in 0..draft.upstreams.len() {
        upstream_use(draft, index, cx);
        reserved(draft, index, cx);
        caps(draft, index, cx);
        connections(draft, index, cx);
    }
    overlap::check(draft, cx);
}

// === listeners ===

fn listeners(draft: &Draft, cx: &mut Context<'_>) {
    let (server, admin) = (&draft.server.listen, &draft.admin.listen);
    if server.is_bad() {
        return;
    }
    let listen = &server.value().0;
    if listen.is_empty() {
        cx.report(
            Code::OutOfRange,
            server.place(),
            "`listen` is empty",
            "no address",
        )
        .help("give at least one address: listen = [\"0.0.0.0:8080\"]");
    }
    for (index, At { value, place }) in listen.iter().enumerate() {
        if let Some(first) = listen[..index]
            .iter()
            .find(|other| conflict(other.value, *value))
        {
            cx.report(
                Code::AddressConflict,
                *place,
                format!("{value} cannot be bound beside {}", first.value),
                "again here",
            )
            .at(first.place, "first here")
            .help("remove one of them");
        }
        if !admin.is_bad() && conflict(*value, *admin.value()) {
            let both = [(*place, "clients"), (admin.place(), "metrics and health")];
            let mut diagnostic = Diagnostic::new(
                Code::AddressConflict,
                format!("clients and the admin listener share port {}", value.port()),
            );
            for (place, label) in both {
                diagnostic.at(place, label);
            }
            diagnostic.help("give the admin listener a port of its own, such as 9909");
            cx.diagnostics.push(diagnostic);
        }
        loops(draft, *value, cx);
    }
}

/// Whether the system would refuse to bind both.
fn conflict(a: SocketAddr, b: SocketAddr) -> bool {
    let overlaps = a.ip() == b.ip()
        || (a.is_ipv4() == b.is_ipv4() && (a.ip().is_unspecified() || b.ip().is_unspecified()));
    a.port() != 0 && a.port() == b.port() && overlaps
}

/// An upstream that is the listener itself.
fn loops(draft: &Draft, listen: SocketAddr, cx: &mut Context<'_>) {
    for (raw, model) in draft.upstreams.iter().zip(&draft.config.upstreams) {
        let same = match model.host.parse::<std::net::IpAddr>() {
            Ok(ip) => ip == listen.ip() || (ip.is_loopback() && listen.ip().is_unspecified()),
            Err(_) => {
                let open = listen.ip().is_unspecified() || listen.ip().is_loopback();
                model.host.eq_ignore_ascii_case("localhost") && open
            }
        };
        if same && model.port == listen.port() {
            cx.report(
                Code::ForwardingLoop,
                raw.table.url.place(),
                format!(
                    "the upstream `{}` is tidegate itself, which listens on {listen}",
                    raw.name
                ),
                "would forward to itself",
            )
            .help("let the application listen on another port, and write that one");
        }
    }
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
        cx.report(Code::ShortKeepAlive, idle.place(), message, "below 60s").help(
            "keep it above the idle timeout of what is in front, usually 60s: idle_timeout = \"75s\"",
        );
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
    if model.admission == AdmissionMode::Exempt {
        // A value from [defaults] is not the route's own.
        let written = [
            ("max_queue", raw.max_queue.place()),
            ("max_wait", raw.max_wait.place()),
            ("order", raw.order.place()),
            ("enforce", raw.enforce.place()),
            ("max_in_flight", raw.max_in_flight.place()),
            ("reserved", raw.reserved.place()),
        ];
        for (key, place) in written {
            if place.is_written() && route.own_keys.contains(&key) {
                cx.report(
                    Code::MeaninglessKey,
                    place,
                    format!(
                        "`{key}` has no meaning on the exempt route `{}`",
                        model.name
                    ),
                    "never queued, at most 32 at once",
                )
                .help("remove it, or remove admission = \"exempt\"");
            }
        }
        if model.kind == RouteKind::Stream {
            cx.report(
                Code::MeaninglessKey,
                raw.kind.place(),
                format!("the exempt route `{}` cannot be a stream", model.name),
                "at most 32 at once, for probes",
            )
            .help("remove admission = \"exempt\": a stream route is outside the budget anyway");
        }
    } else if model.kind == RouteKind::Stream && route.own_keys.contains(&"reserved") {
        cx.report(
            Code::MeaninglessKey,
            raw.reserved.place(),
            format!(
                "`reserved` has no meaning on the stream route `{}`",
                model.name
            ),
            "streams do not use the budget",
        )
        .help("remove it: `max_in_flight` already is for this route alone");
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
    let own = |key: &str| route.own_keys.contains(&key);
    if raw.max_queue.is_bad() || raw.max_wait.is_bad() || raw.response_timeout.is_bad() {
        return;
    }
    if model.max_queue == 0 && own("max_wait") {
        cx.report(
            Code::WaitWithoutQueue,
            raw.max_wait.place(),
            format!("`max_wait` has no effect on the route `{}`", model.name),
            "never reached",
        )
        .at(raw.max_queue.place(), "no request ever waits")
        .help("remove it, or give the route places to wait in: max_queue = 64");
    }
    let Some(timeout) = model.response_timeout else {
        return;
    };
    if model.max_queue > 0 && model.max_wait > timeout {
        cx.report(
            Code::WaitAboveTimeout,
            if raw.max_wait.is_written() {
                raw.max_wait.place()
            } else {
                raw.response_timeout.place()
            },
            format!(
                "on the route `{}` a request may wait {} for a slot, longer than the {} that the \
                 application gets to answer it",
                model.name,
                format_duration(model.max_wait),
                format_duration(timeout)
            ),
            "",
        )
        .help("a short wait keeps the queue fresh: lower `max_wait`, or raise `response_timeout`");
    }
}

// === budgets ===

/// The routes that use the upstream, with what was written.
fn users(draft: &Draft, upstream: usize) -> impl Iterator<Item = (&RouteDraft, &Route)> {
    draft
        .routes
        .iter()
        .zip(&draft.config.routes)
        .filter(move |(route, _)| route.upstream == Some(upstream))
        .filter(|(_, model)| model.admission != AdmissionMode::Deny)
}

/// Those of them that share its budget.
fn sharers(draft: &Draft, upstream: usize) -> impl Iterator<Item = (&RouteDraft, &Route)> {
    users(draft, upstream).filter(|(_, model)| {
        model.admission == AdmissionMode::Queue && model.kind == RouteKind::Request
    })
}

fn upstream_use(draft: &Draft, index: usize, cx: &mut Context<'_>) {
    let unknown = draft.routes.iter().any(|route| route.upstream.is_none());
    if unknown || users(draft, index).next().is_some() {
        return;
    }
    let upstream = &draft.upstreams[index];
    let message = format!("no route uses the upstream `{}`", upstream.name);
    cx.report(Code::UnusedUpstream, upstream.place, message, "never used")
        .help(format!(
            "remove it, or send a route there: upstream = \"{}\"",
            upstream.name
        ));
}

fn reserved(draft: &Draft, index: usize, cx: &mut Context<'_>) {
    let slots = draft.config.upstreams[index].max_in_flight;
    let mut total: u64 = 0;
    let mut written = Vec::new();
    for (route, model) in sharers(draft, index) {
        if model.reserved == 0 || route.raw.reserved.is_bad() {
            continue;
        }
        total += u64::from(model.reserved);
        written.push((
            route.raw.reserved.place(),
            format!("{} for `{}`", model.reserved, model.name),
        ));
        if let Some(cap) = model.max_in_flight
            && model.reserved > cap
        {
            cx.report(
                Code::ReservedTooLarge,
                route.raw.reserved.place(),
                format!(
                    "the route `{}` reserves more slots than it may use",
                    model.name
                ),
                format!("{} reserved", model.reserved),
            )
            .at(
                route.raw.max_in_flight.place(),
                format!("at most {cap} in flight"),
            )
            .help(format!("reserve at most {cap}, or raise `max_in_flight`"));
        }
    }
    let raw = &draft.upstreams[index].table.max_in_flight;
    let left_out = sharers(draft, index)
        .find(|(route, model)| model.reserved == 0 && !route.raw.reserved.is_bad());
    let starved = total == u64::from(slots) && left_out.is_some();
    if raw.is_bad() || written.is_empty() || (total <= u64::from(slots) && !starved) {
        return;
    }
    let message = match left_out {
        Some((_, model)) if starved => format!(
            "all {slots} slots are reserved: the route `{}` could never be admitted",
            model.name
        ),
        _ => format!("{total} slots are reserved, and the upstream has {slots}"),
    };
    let mut diagnostic = Diagnostic::new(Code::ReservedTooLarge, message);
    for (place, label) in written.into_iter().rev() {
        diagnostic.at(place, label);
    }
    diagnostic
        .at(raw.place(), format!("{slots} in all"))
        .help("reserve fewer, so that slots remain for the other routes, or raise `max_in_flight`");
    cx.diagnostics.push(diagnostic);
}

fn caps(draft: &Draft, index: usize, cx: &mut Context<'_>) {
    let budget = &draft.upstreams[index].table.max_in_flight;
    let slots = draft.config.upstreams[index].max_in_flight;
    for (route, model) in sharers(draft, index) {
        let cap = &route.raw.max_in_flight;
        if let Some(Slots(cap_slots)) = cap.get()
            && !budget.is_bad()
            && *cap_slots > slots
        {
            cx.report(
                Code::CapWithoutEffect,
                cap.place(),
                format!(
                    "the route `{}` can never have {cap_slots} in flight",
                    model.name
                ),
                "never reached",
            )
            .at(budget.place(), format!("{slots} for all routes together"))
            .help(format!(
                "write at most {slots}, remove it, or raise the upstream's"
            ));
        }
        if !budget.is_bad() && !cap.is_bad() {
            unservable_queue(
                route,
                model,
                slots.min(model.max_in_flight.unwrap_or(slots)),
                cx,
            );
        }
    }
}

/// Places that could be served within `max_wait` only if requests took next to no time.
fn unservable_queue(route: &RouteDraft, model: &Route, slots: u32, cx: &mut Context<'_>) {
    let (queue, wait) = (&route.raw.max_queue, &route.raw.max_wait);
    let written = queue.is_written() || wait.is_written();
    if !written || queue.is_bad() || wait.is_bad() || model.max_queue == 0 {
        return;
    }
    let slot_time = model.max_wait * slots;
    let implied = slot_time / model.max_queue;
    if implied >= Duration::from_millis(1) {
        return;
    }
    let fitting = (slot_time.as_millis() / 10).max(1);
    let place = if queue.is_written() {
        queue.place()
    } else {
        wait.place()
    };
    let wait = format_duration(model.max_wait);
    cx.report(
        Code::UnservableQueue,
        place,
        format!(
            "the {} places of the route `{}` cannot all be served within `max_wait`: {slots} slots \
             x {wait} / {} places leave {} us for a request",
            model.max_queue,
            model.name,
            model.max_queue,
            implied.as_micros()
        ),
        "most of those who wait here are rejected in the end",
    )
    .help(format!(
        "if a request takes 10 ms, {slots} slots x {wait} / 10 ms = {fitting} places are of use: \
         max_queue = {fitting}"
    ));
}

/// Connections must never be what a request waits for.
fn connections(draft: &mut Draft, index: usize, cx: &mut Context<'_>) {
    let (mut streams, mut exempt) = (0_u64, 0_u64);
    let mut bad = false;
    for (route, model) in users(draft, index) {
        bad |= route.raw.max_in_flight.is_bad();
        match (model.admission, model.kind) {
            (AdmissionMode::Exempt, _) => exempt += 1,
            (_, RouteKind::Stream) => streams += u64::from(model.max_in_flight.unwrap_or(0)),
            _ => {}
        }
    }
    let model = &mut draft.config.upstreams[index];
    let raw = &draft.upstreams[index].table;
    let slots = u64::from(model.max_in_flight);
    let needed = slots + streams + exempt * EXEMPT_BOUND;
    if u64::from(model.max_connections) >= needed || bad || raw.max_in_flight.is_bad() {
        return;
    }
    if !raw.max_connections.is_written() {
        model.max_connections = u32::try_from(needed).unwrap_or(u32::MAX);
        return;
    }
    if raw.max_connections.is_bad() {
        return;
    }
    let mut sum = format!("{slots} of the budget");
    if streams > 0 {
        sum.push_str(&format!(" + {streams} streams"));
    }
    if exempt > 0 {
        sum.push_str(&format!(" + {exempt} x {EXEMPT_BOUND} exempt"));
    }
    cx.report(
        Code::HiddenQueue,
        raw.max_connections.place(),
        format!(
            "{} connections are too few for {needed} requests in flight: the others would wait in \
             a second, hidden queue",
            model.max_connections
        ),
        format!("{sum} = {needed}"),
    )
    .at(raw.max_in_flight.place(), "the budget")
    .help(format!(
        "write at least {needed}, or leave `max_connections` out"
    ));
}
