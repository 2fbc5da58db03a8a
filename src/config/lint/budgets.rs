//! Checks of the budgets: slots, caps, reservations, connections, and places that cannot be served.

use std::time::Duration;

use crate::config::context::Context;
use crate::config::diagnostic::{Code, Diagnostic};
use crate::config::kinds::Slots;
use crate::config::model::{AdmissionMode, Route, RouteKind};
use crate::config::resolve::{Draft, RouteDraft};
use crate::config::source::Place;
use crate::config::units::format_duration;

/// Exempt requests of one route at once.
const EXEMPT_BOUND: u64 = 32;

/// Checks the budget of each upstream.
pub(super) fn check(draft: &mut Draft, cx: &mut Context<'_>) {
    for index in 0..draft.upstreams.len() {
        upstream_use(draft, index, cx);
        reserved(draft, index, cx);
        caps(draft, index, cx);
        connections(draft, index, cx);
    }
}

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
        .help(format!("remove it, or send a route there: upstream = \"{}\"", upstream.name));
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
        written
            .push((route.raw.reserved.place(), format!("{} for `{}`", model.reserved, model.name)));
        if let Some(cap) = model.max_in_flight
            && model.reserved > cap
        {
            cx.report(
                Code::ReservedTooLarge,
                route.raw.reserved.place(),
                format!("the route `{}` reserves more slots than it may use", model.name),
                format!("{} reserved", model.reserved),
            )
            .at(route.raw.max_in_flight.place(), format!("at most {cap} in flight"))
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
                format!("the route `{}` can never have {cap_slots} in flight", model.name),
                "never reached",
            )
            .at(budget.place(), format!("{slots} for all routes together"))
            .help(format!("write at most {slots}, remove it, or raise the upstream's"));
        }
        if !budget.is_bad() && !cap.is_bad() {
            unservable_queue(route, model, slots.min(model.max_in_flight.unwrap_or(slots)), cx);
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
    let place = if queue.is_written() { queue.place() } else { wait.place() };
    if cx.has_said(Code::UnservableQueue, place) {
        return;
    }
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
        let key = (format!("upstream {}", model.name), "max_connections".to_owned());
        draft.places.insert(key, Place::RAISED);
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
    .help(format!("write at least {needed}, or leave `max_connections` out"));
}
